"""Published votes, decided again: a small file counted by hand, and the authors' own file if present."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.stats import norm

import glsmooth.commands.report as command
from glsmooth.errors import UserError
from glsmooth.report import published

PUBLISHED_VOTES = Path(__file__).parents[3] / "shared" / "data" / "published_votes.json"

# Φ(4/3) = 0.90879 decides the brightness run, Φ(√2·4/3) = 0.97035 the translation on the plane.
RUNS = [
    {
        "run": "b/squares/2024_01",
        "dataset": "squares",
        "transform": "brightness",
        "smoothing": {"brightness": {"law": "Normal", "scale": 0.3}},
        "region": {"brightness": [-0.4, 0.4]},
        "n0": 200,
        "n": 1000,
        "alpha": 0.001,
        "published_cra": {"gl": 0.8, "tss": 0.4, "mp": None},
        "caveat": None,
        "p_lower": [0.91, 0.95, 0.90, 0.80, 0.99],
        "correct": [1, 1, 1, 1, 0],
    },
    {
        "run": "tr/cifar10/2024_02",
        "dataset": "cifar10",
        "transform": "translation",
        "smoothing": {"tx": {"law": "Normal", "scale": 3}, "ty": {"law": "Normal", "scale": 3}},
        "region": {"tx": [-4, 4], "ty": [-4, 4]},
        "n0": 200,
        "n": 1000,
        "alpha": 0.001,
        "published_cra": {"gl": 0.25, "tss": None, "mp": None},
        "caveat": "reflection padding",
        "p_lower": [0.98, 0.96, 0.60, 0.99],
        "correct": [1, 1, 1, 1],
    },
]


def write(path, runs):
    path.write_text(json.dumps(runs))
    return path


def rows_of(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_table_has_the_hand_counted_numbers(tmp_path):
    table = published.votes_table(published.load_votes(write(tmp_path / "votes.json", RUNS)))
    brightness, translation = rows_of(table)
    # 0.91 and 0.95 are correct and above 0.90879; 0.99 is not correct.
    assert brightness["NP"].startswith("0.400 (0.90879)")
    assert brightness["published GL"] == "0.800"
    assert translation["published TSS"] == "–"
    assert brightness["note"] == ""
    assert translation["NP"].startswith("0.500 (0.9703")
    assert "reflection padding: not the law that is certified" in table
    assert translation["note"]
    assert "In 1 of 2 runs the published CRA of GL is above" in table
    assert "plane" in table


def test_methods_that_do_not_apply_say_why(tmp_path):
    table = published.votes_table(published.load_votes(write(tmp_path / "votes.json", RUNS)))
    row = rows_of(table)[0]
    cell = row["MP"]
    assert cell.startswith("n/a (")
    letter = cell[len("n/a ") :]
    assert any(line.startswith(f"* {letter}") and "does not apply" in line for line in table.splitlines())


def test_torus_needs_less_than_the_plane(tmp_path):
    runs = published.load_votes(write(tmp_path / "votes.json", RUNS))
    _, translation = rows_of(published.votes_table(runs))
    share, h_min = translation["NP on the torus"].split(" ")
    assert float(h_min.strip("()")) < norm.cdf(np.sqrt(2) * 4 / 3)
    assert float(share) >= 0.5
    on_torus = published.votes_table(runs, image_size=(32, 32))
    assert rows_of(on_torus)[1]["NP"] == f"{share} {h_min}"
    assert "torus of 32 × 32 pixels" in on_torus


def test_unsound_method_is_labelled_in_header_and_cell(tmp_path):
    runs = published.load_votes(write(tmp_path / "votes.json", RUNS[:1]))
    (row,) = rows_of(published.votes_table(runs, ["gl_printed"]))
    # 0.7475 is below four correct images: the number that the procedure as printed would publish.
    assert row["GL as printed, unsound"].startswith("unsound: 0.800 (0.74")


def test_command_prints_and_writes_the_table(tmp_path, capsys):
    settings = {
        "runs": [],
        "votes": str(write(tmp_path / "votes.json", RUNS)),
        "region": {"brightness": None},
        "bound": {"methods": None},
        "image_size": None,
        "figures": "page",
        "format": "markdown",
        "radii": False,
        "dataset": {"root": None},
        "run_dir": str(tmp_path),
    }
    command.run(OmegaConf.create(settings))
    printed = capsys.readouterr().out
    assert rows_of(printed)[0]["run"] == "2024_01"
    assert (tmp_path / "votes.md").read_text() == printed
    with pytest.raises(UserError, match="region: votes=FILE brings each run's own region"):
        command.run(OmegaConf.create(settings | {"region": {"brightness": [-1.0, 1.0]}}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"p_lower": None}, r"votes=.*votes.json: run 1: lacks p_lower; correct the file"),
        ({"transform": "translatoin"}, r"run 1: transform is 'translatoin', not one of .*translation"),
        ({"transform": ["gamma"]}, r"run 1: transform is \['gamma'\], not one of"),
        ({"p_lower": [0.5]}, r"run 1: p_lower has 1 images, correct has 4"),
        ({"p_lower": [0.5, 0.5, 1.5, 0.5]}, r"run 1: p_lower\[2\] is 1\.5, not in \[0, 1\]"),
        ({"p_lower": [0.5, 0.5, float("nan"), 0.5]}, r"run 1: p_lower\[2\] is nan"),
        ({"p_lower": [0.5, 0.5, 10**400, 0.5]}, r"run 1: p_lower\[2\] is 1000"),
        ({"p_lower": [0.5, 0.5, 0.9932, 0.5]}, r"run 1: p_lower\[2\] is 0.9932, but n=1000 votes .* prove 0.993116"),
        ({"n": 1, "alpha": 0.3}, r"run 1: p_lower\[3\] is 0.99, but n=1 votes at alpha=0.3 prove 0.3 at most"),
        ({"p_lower": ["a", 0.5, 0.5, 0.5]}, r"run 1: p_lower\[0\] is 'a', not in"),
        ({"p_lower": [[0.5], 0.5, 0.5, 0.5]}, r"run 1: p_lower\[0\] is \[0.5\], not in"),
        ({"p_lower": []}, r"run 1: p_lower is \[\], not a list of numbers"),
        ({"correct": [1, 1, 2, 1]}, r"run 1: correct\[2\] is 2, not 0 or 1"),
        ({"n": "1000"}, r"run 1: n is '1000', not a whole number"),
        ({"n": True}, r"run 1: n is true, not a whole number"),
        ({"n": 10**400}, r"run 1: n is 1000.*, not a whole number"),
        ({"alpha": [0.1]}, r"run 1: alpha is \[0.1\], not a number between 0 and 1"),
        ({"alpha": 10**400}, r"run 1: alpha is 1000"),
        ({"published_cra": 0.5}, r"run 1: published_cra is 0.5, not an object"),
        ({"published_cra": {"gl": "all"}}, r"run 1: published_cra.gl is 'all', not a share"),
        ({"published_cra": {"gl": {"a": {}}}}, r"run 1: published_cra.gl.a={} is not known here"),
        ({"caveat": ["x"]}, r"run 1: caveat is \['x'\], not a text"),
        ({"run": {"x": "y"}}, r"run 1: run.x='y' is not known here"),
        ({"dataset": ["cifar10"]}, r"run 1: dataset is \['cifar10'\], not a text"),
        ({"dataset": "x" * 10**6}, r"run 1: dataset is 'xx.*xx', not a text of at most 4096 characters"),
        ({"smoothing": {"tx.law": "Normal"}}, r"run 1: smoothing: 'tx.law' is not a name"),
        ({"smoothing": {"tx": [3], "ty": 3}}, r"run 1: smoothing.tx is \[3\], not a law"),
        ({"region": {}}, r"run 1: region is empty"),
        ({"region": {"tx": [4, 1e400]}}, r"run 1: region.tx\[1\] is inf"),
        ({"region": {"tx": [-1e300, 1e300]}}, r"run 1: .*too extreme to compute with"),
        ({"smoothing": {"tx": {"law": "Normal", "scale": 3}}}, r"run 1: .*ty"),
        ({"smoothing": {"tx": {"law": "Normal", "scale": -3}}}, r"run 1: smoothing\.tx.*scale"),
        ({"region": {"tx": [4, -4]}}, r"run 1: .*inverted"),
        ({"region": {"contrast": [0.5, 2]}}, r"run 1: .*contrast"),
    ],
)
def test_mistakes_in_the_file_name_run_and_key(tmp_path, change, words):
    runs = copy.deepcopy(RUNS)
    for key, value in change.items():
        if value is None:
            del runs[1][key]
        else:
            runs[1][key] = value
    with pytest.raises(UserError, match=words) as refusal:
        published.load_votes(write(tmp_path / "votes.json", runs))
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not readable as JSON"), ("[]", "list of at least one run"), ("[1]", "run 0: holds int, not an object")],
)
def test_files_that_are_not_votes_are_refused(tmp_path, text, words):
    (tmp_path / "votes.json").write_text(text)
    with pytest.raises(UserError, match=words):
        published.load_votes(tmp_path / "votes.json")
    with pytest.raises(UserError, match="votes: no file"):
        published.load_votes(tmp_path / "none.json")


@pytest.mark.skipif(not PUBLISHED_VOTES.is_file(), reason="the published votes (shared/data) are not on this machine")
def test_published_brightness_runs_reproduce_the_published_tss():
    """For brightness TSS is a closed form, so the authors' TSS column must come out of their votes."""
    runs = published.load_votes(PUBLISHED_VOTES)
    assert len(runs) == 29
    brightness = [run for run in runs if run.transform == "brightness"]
    assert len(brightness) == 3
    for run in brightness:
        for method in ("neyman_pearson", "tss"):
            outcome = run.evaluate([method], None)[method]
            assert outcome.h_min == pytest.approx(norm.cdf(4 / 3), abs=1e-6)
            assert (outcome.certifies(run.p_lower) & run.correct).mean() == pytest.approx(
                run.published["tss"], abs=1e-9
            )


def test_more_notes_than_letters(tmp_path):
    runs = [{**copy.deepcopy(RUNS[0]), "caveat": f"caveat {i}"} for i in range(60)]
    table = published.votes_table(published.load_votes(write(tmp_path / "votes.json", runs)), ["neyman_pearson"])
    assert [row["note"] for row in rows_of(table)][25:28] == ["(z)", "(aa)", "(ab)"]
    assert "* (bh) caveat 59:" in table
    assert table.replace("\n", "").isprintable()
