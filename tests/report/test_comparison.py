"""The comparison of several runs: tables, pictures and page. The runs are made by hand."""

import csv
import io
import json
import re
import shutil
import subprocess

import pytest
from omegaconf import OmegaConf
from scipy.stats import norm

import glsmooth.commands.report as command
from glsmooth.attacks import Finding
from glsmooth.configuration.identity import certificates_digest
from glsmooth.errors import UserError
from glsmooth.family.regions import Box
from glsmooth.report import comparison_figures, tables, wording
from glsmooth.report.comparison import write_comparison
from glsmooth.runs.attacks import Era, columns, row
from glsmooth.runs.failures import Failure
from glsmooth.runs.run import load_run
from tests.report.test_page import make_run, rows_of

IMAGES = 20
WIDTH = 0.2  # of the region


def make(path, scale=0.4, robust=10, n=1000, **changes):
    """A run of 20 correct images, ``robust`` of them certified."""
    images = [(i, i % 3, i % 3, i % 3, n if i < robust else n * 55 // 100) for i in range(IMAGES)]
    h_min = float(norm.cdf(WIDTH / scale)) + 1e-9
    content = {
        "smoothing": {"brightness": {"law": "Normal", "loc": 0.0, "scale": scale}},
        "region": {"brightness": [-WIDTH, WIDTH]},
        "training": {"seed": 0, "optimizer.epochs": 20},
        "methods": {
            "neyman_pearson": {"required_probability": h_min, "sound": True},
            "gl_printed": {"required_probability": 0.6, "sound": False},
        },
    }
    return make_run(path, images=images, n=n, **(content | changes))


def result(path, **settings):
    run = load_run(make(path, **settings))
    return run, run.region, run.outcomes


@pytest.fixture
def seen(monkeypatch):
    """What is drawn: the arguments of each picture of the light theme."""
    found = []
    for name in ("lines", "heat_map", "points"):
        drawn = getattr(comparison_figures, name)

        def note(theme, *given, name=name, drawn=drawn):
            if theme.name == "light":
                found.append((name, given))
            return drawn(theme, *given)

        monkeypatch.setattr(comparison_figures, name, note)
    return found


@pytest.fixture
def seeds(tmp_path):
    """Three scales, the last with two seeds."""
    return [
        result(tmp_path / "a", scale=0.4, robust=8),
        result(tmp_path / "b", scale=0.2, robust=5),
        result(tmp_path / "c", scale=0.3, robust=13),
        result(tmp_path / "d", scale=0.3, robust=12, training={"seed": 1, "optimizer.epochs": 20}),
    ]


# Tables


def test_table_has_the_hand_counted_numbers(seeds, tmp_path):
    table = write_comparison(seeds, tmp_path / "out")
    header, _, *rows = rows_of(table)
    assert header == [
        *("run", "smoothing.brightness.scale", "CRA NP (h_min)", "smoothed", "base", "images"),
        "GL as printed: unsound, not counted",
    ]
    needed = [wording.ceil(float(norm.cdf(WIDTH / scale)) + 1e-9, 5) for scale in (0.2, 0.3, 0.4)]
    assert rows == [
        ["b", "0.2", f"25.0 % ({needed[0]})", "100.0 %", "100.0 %", "20", "unsound"],
        [
            *("c, d", "0.3", rf"**62.5 % [60.0 %, 65.0 %] ({needed[1]})**"),
            *("100.0 % [100.0 %, 100.0 %]", "100.0 % [100.0 %, 100.0 %]", "20", "unsound"),
        ],
        ["a", "0.4", f"40.0 % ({needed[2]})", "100.0 %", "100.0 %", "20", "unsound"],
    ]
    assert (
        "Best of 3 settings: smoothing.brightness.scale = 0.3. Of 20 test images, 62.5 % on average over 2 seeds "
        "(60.0 % to 65.0 %) provably keep their correct class under every brightness in [−0.2, 0.2], except with "
        "probability at most 0.001 for each image." in table
    )
    # What is the same stands once, above the table.
    above = table.partition("| run |")[0]
    assert above.count("model: small\\_cnn") + above.count("model: small_cnn") == 1
    assert "certified region: brightness in [−0.2, 0.2]" in above
    assert "22.5 percentage points ahead of the next, smoothing.brightness.scale = 0.4" in table
    assert table == (tmp_path / "out" / "table.md").read_text()


def test_csv_has_every_run_in_full_precision(seeds, tmp_path):
    write_comparison(seeds, tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "table.csv").read_text())))
    assert [row["run"] for row in rows] == ["b", "c", "d", "a"]
    assert [row["certified_neyman_pearson"] for row in rows] == ["5", "13", "12", "8"]
    assert [float(row["cra_neyman_pearson"]) for row in rows] == [5 / 20, 13 / 20, 12 / 20, 8 / 20]
    assert [float(row["h_min_neyman_pearson"]) for row in rows] == [
        run.outcomes["neyman_pearson"].h_min for run, _, _ in (seeds[i] for i in (1, 2, 3, 0))
    ]
    assert [row["training.seed"] for row in rows] == ["0", "0", "1", "0"]
    assert "model.name" not in rows[0]
    assert not any("gl_printed" in name for name in rows[0])


def test_csv_has_the_ends_of_regions(tmp_path):
    run, _, _ = result(tmp_path / "run")
    boxes = [Box(brightness=(-width, width)) for width in (0.1, 0.123456789)]
    write_comparison([(run, box, run.evaluate(box, ["neyman_pearson"])) for box in boxes], tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "table.csv").read_text())))
    assert [(row["region.brightness.low"], row["region.brightness.high"]) for row in rows] == [
        ("-0.1", "0.1"),
        ("-0.123456789", "0.123456789"),
    ]


def test_latex_is_a_table_of_booktabs(seeds, tmp_path):
    write_comparison(seeds, tmp_path / "out")
    text = (tmp_path / "out" / "table.tex").read_text()
    body = text[text.index(r"\begin{tabular}{llrrrrr}") :]
    assert [line for line in body.splitlines() if line.startswith("\\")] == [
        *(r"\begin{tabular}{llrrrrr}", r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}")
    ]
    assert r"\textbf{62.5 \% {[}60.0 \%{,} 65.0 \%{]} (" in body
    assert all(line.count(" & ") == 6 for line in body.splitlines() if line.endswith(r"\\"))
    assert r"CRA NP ($h_{\min}$)" in body
    assert text.isascii()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("_%&#${}", r"\_\%\&\#\$\{\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("[a] *b*", "{[}a{]} {*}b{*}"),  # after \\ they would belong to it
        ("a--b ``x'' <>|\"", r"a{-}{-}b {`}{`}x{'}{'} \textless{}\textgreater{}\textbar{}\char34{}"),
        ("−0.2 – 0.4", r"$-$0.2 \textendash{} 0.4"),
        ("café 猫 ß", "café {[}U+732B{]} {[}U+00DF{]}"),
        ("h_min of p_A, my_p_Ax", r"$h_{\min}$ of $p_A${,} my\_p\_Ax"),
        ("a\nb", "a{[}U+000A{]}b"),
    ],
)
def test_latex_shows_a_text_as_it_is(text, shown):
    assert tables.latex_escaped(text) == shown


def test_csv_computes_nothing():
    table = tables.comma_separated(["a"], [["=1+1"], ["@x"], [-0.5], ["-x"], ['a"b,c']])
    assert table.splitlines() == ["a", "'=1+1", "'@x", "-0.5", "'-x", '"a""b,c"']


def test_noise_and_ties_are_said(tmp_path):
    near = [result(tmp_path / "a", scale=0.4, robust=11), result(tmp_path / "b", scale=0.3, robust=10)]
    table = write_comparison(near, tmp_path / "near")
    assert "The next is within the noise." in table
    assert "5.0 percentage points ahead" in table
    assert "of about 5.0 (one standard error). The mark is within the noise" in table
    three = [
        result(tmp_path / f"s{seed}", scale=0.3, robust=robust, training={"seed": seed, "optimizer.epochs": 20})
        for seed, robust in enumerate((13, 12, 12))
    ]
    # 37 of 60 against 11 of 20: 6.66 points, rounded down. One image is gained by all, one by a third of the seeds:
    # √(1 + 1/9) of 20 is 5.27 points, rounded up.
    table = write_comparison([near[0], *three], tmp_path / "three")
    assert "61.6 % on average over 3 seeds (60.0 % to 65.0 %)" in table
    assert "6.6 percentage points ahead" in table
    assert "of about 5.3 (one standard error)." in table
    assert "within the noise" not in table
    equal = [result(tmp_path / "c", scale=0.4, robust=11), result(tmp_path / "d", scale=0.3, robust=11)]
    table = write_comparison(equal, tmp_path / "equal")
    assert "Of 2 settings all tie." in table
    assert "have the same CRA, and all are marked" in table
    assert table.count("**") == 4
    nothing = [result(tmp_path / "e", scale=0.4, robust=0), result(tmp_path / "f", scale=0.3, robust=0)]
    table = write_comparison(nothing, tmp_path / "nothing")
    assert "None of the 2 settings certifies any of the 20 test images" in table
    assert "**" not in table


def test_approximate_runs_do_not_count(tmp_path):
    run, region, outcomes = result(tmp_path / "a", robust=20)
    rough = {name: outcome.approximate(0.5, "why") for name, outcome in outcomes.items()}
    other = result(tmp_path / "b", scale=0.3, robust=5)
    table = write_comparison([(run, region, rough), other], tmp_path / "out")
    assert "Of 20 test images, 5 (25.0 %) provably" in table
    assert "100.0 % (" not in table
    assert "approximate, residual 0.5" in table


# Pictures


def test_lines_are_drawn_against_a_swept_number(seeds, tmp_path, seen):
    write_comparison(seeds, tmp_path / "out")
    ((name, (label, curves, other, beside)),) = seen
    assert (name, label, other, beside) == ("lines", "smoothing.brightness.scale", "", [])
    assert [curve.kind for curve in curves] == ["neyman_pearson", "smoothed", "base"]  # nothing unsound
    assert [(dot.x, dot.mean, dot.least, dot.most, dot.best) for dot in curves[0].dots] == [
        (0.2, 5 / 20, 5 / 20, 5 / 20, False),
        (0.3, 25 / 40, 12 / 20, 13 / 20, True),
        (0.4, 8 / 20, 8 / 20, 8 / 20, False),
    ]
    for file in ("comparison.svg", "comparison.png"):
        assert (tmp_path / "out" / file).stat().st_size > 5000


def test_a_second_key_makes_lines(tmp_path, seen):
    results = [
        result(tmp_path / f"{model}{scale}", scale=scale, robust=robust, model={"name": model})
        for robust, (model, scale) in enumerate([(m, s) for m in ("small_cnn", "resnet50") for s in (0.2, 0.3)])
    ]
    write_comparison(results, tmp_path / "out")
    ((name, (_, curves, other, beside)),) = seen
    assert (name, other) == ("lines", "model.name")
    assert [(curve.title, [dot.mean for dot in curve.dots]) for curve in curves] == [
        ("small_cnn", [0.0, 0.05]),
        ("resnet50", [0.1, 0.15]),
    ]
    assert len(beside) == 2


def test_lines_of_regions_of_two_parameters_are_told_apart(tmp_path, seen):
    names = [f"contrast in [0.85, 1.15] and brightness in [−0.15, {end}]" for end in (0.15, 0.25)]
    results = [
        result(tmp_path / f"{number}{scale}", scale=scale, model={"name": name})
        for number, name in enumerate(names)
        for scale in (0.2, 0.3)
    ]
    write_comparison(results, tmp_path / "out")
    ((_, (_, curves, *_)),) = seen
    assert [curve.title for curve in curves] == names


def test_two_numbers_make_a_heat_map(tmp_path, seen):
    results = [
        result(
            tmp_path / f"{i}{j}",
            scale=(0.2, 0.3, 0.4)[i],
            robust=4 * i + j,
            training={"seed": 0, "optimizer.lr": (0.1, 0.01)[j]},
        )
        for i in range(3)
        for j in range(2)
    ]
    write_comparison(results, tmp_path / "out")
    ((name, (x, y, cells, _)),) = seen
    assert name == "heat_map"
    assert x == ("smoothing.brightness.scale", ["0.2", "0.3", "0.4"])
    assert y == ("training.optimizer.lr", ["0.01", "0.1"])
    assert {at: cell.share for at, cell in cells.items()} == {
        (i, 1 - j): (4 * i + j) / 20 for i in range(3) for j in range(2)
    }
    assert [at for at, cell in cells.items() if cell.best] == [(2, 0)]
    assert cells[2, 0].cra == "45.0"


def test_regions_of_one_run_are_an_axis(tmp_path, seen):
    run, _, _ = result(tmp_path / "run", robust=10)
    boxes = [Box(brightness=(-width, width)) for width in (0.4, 0.1, 0.8)]
    table = write_comparison([(run, box, run.evaluate(box, ["neyman_pearson"])) for box in boxes], tmp_path / "out")
    ((name, (label, curves, *_)),) = seen
    assert (name, label) == ("lines", "half-width of the region: brightness")
    assert [dot.x for dot in curves[0].dots] == [0.1, 0.4, 0.8]
    assert "for each setting has its own region." in table
    assert table.count("decided again from the stored votes") == 1


@pytest.mark.parametrize(
    ("wide", "words"),
    [
        (0.1, "CRA by Neyman–Pearson is 50.0 % in each of them."),
        (
            1.6,
            "is from 0.0 % under every brightness in [−1.6, 1.6] to 50.0 % under every brightness in [−0.4, 0.4].",
        ),
    ],
)
def test_ends_are_told_apart_only_where_they_differ(wide, words, tmp_path):
    run, _, _ = result(tmp_path / "run", robust=10)
    boxes = [Box(brightness=(-width, width)) for width in (0.4, wide)]
    table = write_comparison([(run, box, run.evaluate(box, ["neyman_pearson"])) for box in boxes], tmp_path / "out")
    assert words in table


@pytest.mark.parametrize("same", ["model", "nothing"])
def test_words_are_points(tmp_path, seen, same):
    names = ["small_cnn", "resnet50"] if same == "model" else ["small_cnn"] * 2
    results = [result(tmp_path / f"r{i}", robust=5 + i, model={"name": name}, seed=i) for i, name in enumerate(names)]
    write_comparison(results, tmp_path / "out")
    ((name, (groups, values)),) = seen
    assert name == "points"
    first = ["small_cnn\nr0", "resnet50\nr1"]
    assert groups == (first if same == "model" else ["brightness\nsquares, r0", "brightness\nsquares, r1"])
    assert [dot.mean for dot in values["CRA NP", "neyman_pearson"]] == [5 / 20, 6 / 20]


def test_many_settings_of_many_keys_are_drawn(tmp_path, seen):
    results = [
        result(
            tmp_path / f"r{i}",
            scale=(0.2, 0.3, 0.4)[i % 3],
            model={"name": f"model{i}" * 30},
            training={"seed": 0, "$x_^{$" * 20: i // 2, "b": "\u732b$" * 50 + str(i // 3)},
        )
        for i in range(12)
    ]
    write_comparison(results, tmp_path / "out")
    assert seen[0][0] == "points"
    assert len(seen[0][1][0]) == 12


# The page


FAILURES = [
    Failure("smoothing.brightness.scale=1.6", "killed", "out of memory", "7/log.txt"),
    Failure("![x](http://evil/p.png)", "failed", "<script>alert(1)</script> | \x1b[2J\u202e" + "x" * 10**6, "a|b`c`"),
]


def test_failures_are_listed_and_escaped(seeds, tmp_path):
    table = write_comparison(seeds, tmp_path / "out", FAILURES)
    rows = rows_of(table)
    at = rows.index(["job", "state", "reason", "log"])
    assert rows[at + 2] == ["smoothing.brightness.scale=1.6", "killed", "out of memory", "7/log.txt"]
    assert rows[at + 3][0] == r"\![x\](http\://evil/p.png)"
    assert rows[at + 3][2].startswith(r"\<script>alert(1)\</script> \| \x1b[2J\u202exxx")
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (table, page):
        assert "Jobs without a result" in text
        assert not re.search(r"(?<!\\)<script|\x1b|\u202e|x{400}", text)
    assert "&lt;script&gt;" in page
    many = write_comparison(seeds, tmp_path / "many", [FAILURES[0]] * 5000)
    assert "| 4500 more |" in many
    assert "Jobs without" not in write_comparison(seeds, tmp_path / "none")


def test_page_says_what_then_how_sure_then_how(seeds, tmp_path):
    write_comparison(seeds, tmp_path / "out", FAILURES)
    page = (tmp_path / "out" / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == ["Result", "Jobs without a result", "How sure", "How it was done", "Every run"]
    headline = re.search(r'<div class="headline"><p>(.*?)</p>', page).group(1)
    assert "Best of 3 settings" in headline
    assert "62.5 %" in headline
    assert "brightness in [−0.2, 0.2]" in headline
    result_section = page[page.index("<h2>Result") : page.index("<h2>Jobs")]
    assert result_section.index("<figure>") < result_section.index("<table>")
    assert "probability at most 0.001" in page[page.index("<h2>How sure") : page.index("<h2>How it was")]
    done = page[page.index("<h2>How it was") :].replace("<wbr>", "")
    assert "training.optimizer.epochs" in done
    assert all(f"<td>{name}</td>" in done for name in "abcd")
    assert not re.search(r"<script|src=\"http|href=", page)


def test_nothing_of_a_file_reaches_the_tables_raw(tmp_path):
    evil = "x\ntouch\x1b]0;\u202e</td><script>|![a](http://b) \\input{/etc/passwd} =1+1"
    results = [
        result(tmp_path / f"r{i}", model={"name": f"{i}{evil}"}, training={"seed": 0, f"=k{evil}": f"={i}{evil}"})
        for i in range(2)
    ]
    write_comparison(results, tmp_path / "out")
    texts = {name: (tmp_path / "out" / f"table.{name}").read_text() for name in ("md", "tex", "csv")}
    texts["html"] = (tmp_path / "out" / "report.html").read_text()
    for name, text in texts.items():
        assert not any(sign in text for sign in ("\x1b", "\u202e", "\ntouch")), name
    assert "<script" not in texts["html"]
    assert not re.search(r"(?<!\\)<script|(?<!\\)\]\(|http:", texts["md"])
    assert "\\input" not in texts["tex"]
    cells = [cell for row in csv.reader(io.StringIO(texts["csv"])) for cell in row]
    assert not any(cell.startswith("=") for cell in cells)


# The command


def report(out, *runs):
    out.mkdir()
    base = {
        "votes": None,
        "figures": "page",
        "format": "markdown",
        "radii": False,
        "region": {},
        "bound": {"methods": None},
        "image_size": None,
        "dataset": {"root": None},
    }
    command.run(OmegaConf.create({**base, "runs": [str(run) for run in runs], "run_dir": str(out)}))


def make_attack(path, run, images, broken, chosen=None, region=None, shifted=0):
    """An attack of the first ``images`` images of a run, by hand, which broke ``broken`` of them."""
    path.mkdir(parents=True)
    of = load_run(run)
    summary = {
        "command": "attack",
        "region": region or of.region.to_config(),
        "attack": {"images": images, "index": chosen, "at": None},
        "outside": {"clipped": {"broken": 0, "tried": 1}},
    }
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "identity.json").write_text(json.dumps({"run": certificates_digest(run)}))
    with (path / "attacks.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns(["brightness"], ["clipped"]))
        writer.writeheader()
        for i in range(images):
            label = (i + shifted) % 3
            found = Finding(i, label, False, label, label, broken=i < broken, outside={"clipped": -1})
            cells = row(found, ["brightness"]).items()
            writer.writerow({name: int(value) if isinstance(value, bool) else value for name, value in cells})
    return path


@pytest.fixture
def attacked(tmp_path):
    """Two runs as certify lays them down, and attacks of both: 8 of 10 images and 9 of 10 withstood."""
    runs = [
        make(tmp_path / "certify" / name, scale=scale, robust=robust) for name, scale, robust in
        (("a", 0.4, 8), ("b", 0.2, 5))
    ]  # fmt: skip
    attacks = tmp_path / "attack"
    return runs, [make_attack(attacks / run.name, run, 10, broken) for run, broken in zip(runs, (2, 1), strict=True)]


def test_era_stands_beside_cra_where_runs_were_attacked(attacked, tmp_path, capsys, seen):
    runs, _ = attacked
    report(tmp_path / "out", *runs)
    header, _, *rows = rows_of(capsys.readouterr().out)
    at = header.index("ERA (images)")
    assert header[at - 1].startswith("CRA")
    assert [line[at] for line in rows] == ["90.0 % (10)", "80.0 % (10)"]  # by scale
    with (tmp_path / "out" / "table.csv").open() as file:
        found = {line["run"]: (line["attacked"], line["withstood"], line["era"]) for line in csv.DictReader(file)}
    assert found == {"a": ("10", "8", "0.8"), "b": ("10", "9", "0.9")}
    assert json.loads((tmp_path / "out" / "table.json").read_text())[0]["era"] == 0.9
    assert "ERA (images)" in (tmp_path / "out" / "table.tex").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert len(re.findall(r"90\.0(?:\s|&nbsp;)%(?:\s|&nbsp;)\(10\)", page)) == 2  # the table, and every run
    assert "It is an upper estimate" in page
    ((name, given),) = seen
    curves = given[1] if name == "lines" else given[1].values()
    assert [dot.mean for curve in curves if getattr(curve, "kind", "") == "era" for dot in curve.dots] == [0.9, 0.8]


def test_the_attack_that_tried_most_counts_and_only_of_these_votes_and_this_region(attacked, tmp_path, capsys):
    runs, _ = attacked
    folder = tmp_path / "elsewhere"
    make_attack(folder / "0", runs[0], 15, 6)
    make_attack(folder / "1", runs[0], 15, 7)
    make_attack(folder / "2", runs[0], 20, 9, chosen=3)  # an image that was named
    make_attack(folder / "3", runs[0], 20, 9, region={"brightness": [-0.1, 0.2]})
    report(tmp_path / "out", *runs, folder)
    header, _, *rows = rows_of(capsys.readouterr().out)
    assert [line[header.index("ERA (images)")] for line in rows] == ["90.0 % (10)", "53.3 % (15)"]
    # What is named must be readable, and of the same images; what only lies beside is left out.
    for damage in ("summary.json", "attacks.csv"):
        make_attack(tmp_path / "bad" / damage, runs[0], 20, 9, shifted=int(damage == "attacks.csv"))
        if damage == "summary.json":
            (tmp_path / "bad" / damage / damage).write_text("{}")
        with pytest.raises(UserError, match=damage):
            report(tmp_path / f"out of {damage}", *runs, tmp_path / "bad" / damage)
    (tmp_path / "attack" / "b" / "summary.json").write_text("{}")
    report(tmp_path / "last", *runs)
    printed = capsys.readouterr()
    assert "is left out: " in printed.err
    header, _, *rows = rows_of(printed.out)
    assert [line[header.index("ERA (images)")] for line in rows] == ["–", "80.0 % (10)"]


def test_means_of_era_are_over_seeds_that_were_all_attacked(tmp_path):
    runs = [
        make(tmp_path / name, scale=scale, training={"seed": seed, "optimizer.epochs": 20})
        for name, scale, seed in (("a", 0.3, 0), ("b", 0.3, 1), ("c", 0.4, 0), ("d", 0.4, 1))
    ]
    results = [(run, run.region, run.outcomes) for run in map(load_run, runs)]
    table = write_comparison(results, tmp_path / "out", (), [Era(8, 10), Era(6, 10), Era(9, 10), None])
    header, _, *rows = rows_of(table)
    assert [line[header.index("ERA (images)")] for line in rows] == ["70.0 % [60.0 %, 80.0 %] (10)", "–"]


def test_an_attack_is_no_run(attacked, tmp_path):
    runs, attacks = attacked
    with pytest.raises(UserError, match="name the runs of certify"):
        report(tmp_path / "out", *attacks)
    with pytest.raises(UserError, match="a report of its own"):
        report(tmp_path / "alone", runs[0], attacks[0])


def test_command_takes_a_sweep(tmp_path, capsys):
    sweep = tmp_path / "sweep"
    for name, scale, robust in (("0", 0.2, 3), ("1", 0.3, 12)):
        make(sweep / name, scale=scale, robust=robust)
    (sweep / "2").mkdir()
    (sweep / "2" / "records.csv").write_text("index\n")
    before = {file: file.read_bytes() for file in sweep.rglob("*") if file.is_file()}
    report(tmp_path / "out", sweep)
    printed = capsys.readouterr().out
    assert "Best of 2 settings: smoothing.brightness.scale = 0.3. Of 20 test images, 12 (60.0 %)" in printed
    assert ["2", "unfinished", "certify has not finished; its command again resumes it", ""] in rows_of(printed)
    assert {file: file.read_bytes() for file in sweep.rglob("*") if file.is_file()} == before
    # One that has finished is a sweep, too: its own report stays as it is.
    shutil.rmtree(sweep / "1")
    report(tmp_path / "one", sweep)
    printed = capsys.readouterr().out
    assert "Of 20 test images, 3 (15.0 %)" in printed
    assert "unfinished" in printed
    assert not (sweep / "0" / "table.md").exists()
    shutil.rmtree(sweep / "0")
    with pytest.raises(UserError, match="holds only 1 unfinished; give directories"):
        report(tmp_path / "none", sweep)


# A browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURE = """<script>
addEventListener("load", () => {
  const page = document.documentElement;
  const wraps = [...document.querySelectorAll("table")].map(table => {
    const wrap = table.parentElement, edge = wrap.getBoundingClientRect(), outer = innerWidth;
    wrap.scrollLeft = 1e6;
    const end = table.getBoundingClientRect().right - wrap.getBoundingClientRect().right;
    const hidden = wrap.closest("details:not([open])") !== null, beyond = wrap.scrollWidth - wrap.clientWidth;
    return [getComputedStyle(wrap).overflowX, edge.right <= outer, hidden || end < 1, beyond];
  });
  const found = JSON.stringify([innerWidth, page.scrollWidth, wraps]);
  top.document.body.dataset.found = found;
});
</script>"""


def measured(page, folder, width):
    """Width of the window and of the page in it, and of each table: overflow, is it inside, does it scroll to its end,
    by how much. The page is in a frame, for no window of Chromium's is as narrow as a phone."""
    (folder / "copy.html").write_text(page.read_text().replace("</head>", f"{MEASURE}</head>"))
    frame = folder / "frame.html"
    frame.write_text(f'<body><iframe src="copy.html" style="width:{width}px;height:900px;border:0"></iframe></body>')
    told = subprocess.run(
        [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
            *(f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=5000"),
            *("--dump-dom", frame.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    found = re.search(r'data-found="([^"]*)"', told)
    assert found, told[-500:]
    return json.loads(found.group(1).replace("&quot;", '"'))


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", ["comparison", "run"])
def test_pages_fit_their_window(tmp_path, width, kind):
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome on PATH: whether pages fit a phone is NOT tested")
    if kind == "run":
        path = make(tmp_path / ("a_run_with_a_long_name" * 5))
        file = path / "report.html"
        report(tmp_path / "out", path)
    else:
        runs = [
            result(
                tmp_path / ("long_name_" * 8 + str(i)),
                scale=(0.2, 0.3)[i],
                training={"seed": 0, "a.key.of.quite.some.length": "value" * 12 + str(i)},
            )
            for i in range(2)
        ]
        write_comparison(runs, tmp_path / "out", [Failure("x=" + "y" * 250, "failed", "z" * 250, "log" * 90)])
        file = tmp_path / "out" / "report.html"
    window, page, tables_there = measured(file, tmp_path, width)
    assert window == width
    assert page <= width
    assert len(tables_there) >= 4
    assert all(overflow == "auto" and inside and reached for overflow, inside, reached, _ in tables_there)
    if (kind, width) == ("comparison", 390):
        assert any(beyond > 0 for *_, beyond in tables_there)
