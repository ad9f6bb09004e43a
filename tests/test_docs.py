"""Documentation says what the program says: each page runs as one program, and values and outputs are compared.

* **Python.** A comment that begins with a literal (``# 0.7640``, ``# [1.0, 2.0]``, ``# True``; words may follow after
  ``:``, ``;`` or ``,``) states the value of its line: of what is assigned, of an expression, or what ``print`` wrote.
  A number with d digits after the point is compared with the value rounded to the nearest d digits. Any other number
  in a comment must be a number of the code in its block, so that nothing computed stands there unseen.
* **Commands.** ``glsmooth`` commands compose and are valid, in examples, in the text and in the Makefile. ``bounds``
  needs no data: where a page shows what it prints, it is run and compared line by line, as the program rounds it
  (upwards). Outputs that take minutes are named in ``OUTPUTS``, with the function that checks what can be checked.
* **Tables** of required probabilities are computed again from their laws and regions.
* Names of modules, paths and links lead somewhere, and the examples in docstrings run.
"""

import contextlib
import doctest
import importlib
import importlib.util
import math
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from scipy.stats import binom

import glsmooth as gs
from glsmooth.bounds import METHODS
from glsmooth.commands import predict, verify
from glsmooth.commands.entry import own_law
from glsmooth.commands.plan import plan_of
from glsmooth.configuration.build import build_family, build_region, law_config
from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.settings import validate
from glsmooth.errors import UserError
from glsmooth.voting.expectation import fewest_counts
from glsmooth.voting.procedures import FixedSample

from . import pages
from .pages import Stale

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), ROOT / "outputs" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = ("train", "advise", "certify", "attack", "predict", "export", "bounds", "report")


def each(find, *, files=DOCUMENTS):
    """Parameters (page, what was found in it), for every finding once."""
    found = [(page, item) for page in files for item in dict.fromkeys(find(page.read_text()))]
    return pytest.mark.parametrize(("page", "item"), found, ids=[f"{page.name}: {item}"[:90] for page, item in found])


def test_one_version():
    """pyproject.toml, the package, the citation and the top of the changelog speak of the same."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert gs.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    first = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert first is not None
    assert first.group(1) == version


# Python


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_python_runs_and_has_the_values_that_comments_state(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # runs are written to where one is
    pages.run_python(page.read_text(), page.name)


def test_there_is_python_to_run():
    assert {"README.md", "certificates.md"} <= {p.name for p in DOCUMENTS if pages.blocks(p.read_text(), "python")}


TRUE = """
Text.
```python
a = 2 / 3  # 0.667
b = [a, 1, {"x": True}]  # [0.67, 1, {"x": True}]: both
print(a > 0.5)  # True; more than 0.5
print(a)  # 0.6667
f = lambda x: x + a  # adds a
f(
    1
)  # 1.67
```
"""


def test_a_page_that_is_true_passes():
    pages.run_python(TRUE)


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ("# 0.667", "# 0.668"),
        ("# 0.667", "# 0.666"),  # cut off, not rounded
        ("# 0.667", "# about 0.667"),
        ("2 / 3", "2 / 3.01"),
        ("# [0.67, 1", "# [0.67, 2"),
        ("True}]: both", "False}]: both"),
        ("# True", "# False"),
        ("than 0.5", "than 0.6"),
        ("# 0.6667", "# 0.6668"),
        ("# adds a", "# adds 0.7"),
        ("# 1.67", "# 1.66"),
        ("    1\n", "    1  # 1.67\n"),
        ("Text.", "```python\nassert 1 + 1 == 2  # 2\n```"),
        ("Text.", "```python\nif True:\n    c = 5  # 5\n```"),
        ("Text.", "```python\n# 0.4 is next\nc = 0.3\n```"),
    ],
)
def test_a_page_that_is_false_fails(said, instead):
    assert TRUE.count(said) == 1
    with pytest.raises(Stale):
        pages.run_python(TRUE.replace(said, instead))


def modules():
    found = (module.name for module in pkgutil.walk_packages(gs.__path__, "glsmooth."))
    return ["glsmooth", *(name for name in found if not name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples_in_docstrings():
    assert doctest.testmod(gs).attempted > 0


# Commands


def compose(name, arguments):
    """Compose and validate a command; files and folders that it names are made in the current directory.

    A site's own cluster is the one that sites copy.
    """
    if "--config-dir" in arguments:
        at = arguments.index("--config-dir")
        arguments = [*arguments[:at], *arguments[at + 2 :]]
    arguments = ["cluster=slurm" if a == "cluster=mysite" else a for a in arguments]
    if "cluster=slurm" in arguments:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    if name == "sweep":
        return plan_of(arguments)
    if name == "verify":
        return verify._read(arguments)
    runs = [a for a in arguments if "=" not in a and not a.startswith("-")]
    options = {a for a in arguments if a.startswith("-")}
    assert name in COMMANDS, f"glsmooth {name} is not a command"
    assert options <= {"--multirun"}, f"{options} are not looked at here"
    assert name == "report" or not runs, f"{name} takes no argument without '=': {runs}"
    overrides = [own_law(a) for a in arguments if "=" in a]
    if any("my_module.Logistic" in override for override in overrides):  # the law that is written on its page
        written = (ROOT / "docs" / "howto" / "own_law.md").read_text().split("```python\n")[1].split("```")[0]
        Path("my_module.py").write_text(written)
        sys.modules.pop("my_module", None)
    if "--multirun" in options:
        parsed = OverridesParser.create().parse_overrides(overrides)
        overrides = [
            f"{o.get_key_element()}={next(o.sweep_string_iterator())}" if o.is_sweep_override() else o.input_line
            for o in parsed
        ]
    for run in runs:
        Path(run).mkdir(parents=True, exist_ok=True)
    for key, _, value in (o.partition("=") for o in overrides):
        if key == "run":
            Path(value).mkdir(parents=True, exist_ok=True)
        if key in ("ckpt", "votes", "images", "model.weights"):
            Path(value).parent.mkdir(parents=True, exist_ok=True)
            Path(value).touch()
        if key == "runs":
            for run in value.strip("[]").split(","):
                Path(run).mkdir(parents=True, exist_ok=True)
    if runs:
        overrides.append(f"runs=[{','.join(runs)}]")
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        # The run directory is known to a running job alone.
        cfg = hydra.compose(name, ["run_dir=somewhere", *overrides])
    return validate(cfg, name)


def benchmark(path):
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)  # they import from each other
        patch.setitem(sys.modules, spec.name, module)  # where dataclasses look
        spec.loader.exec_module(module)
    return module


def check_command(command):
    """Whatever program a page tells its reader to start: it takes these arguments."""
    words = pages.words_of(command)
    parts = pages.command_parts(command)
    if parts is not None:
        compose(*parts)
    elif words[0] == "python":
        keys = {word.partition("=")[0] for word in words[2:]}
        defaults = getattr(benchmark(ROOT / words[1]), "DEFAULTS", {}) if keys else {}
        assert (ROOT / words[1]).is_file()
        assert keys <= set(defaults)
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    else:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert words[:2] == ["pip", "install"]
        assert set(re.findall(r"\[(\w+)\]", command)) <= set(extras)


def examples(text):
    """Commands in the help texts and the Makefile."""
    told = re.findall(
        r"^ {6,}(glsmooth (?:train|advise|attack|certify|predict|export|bounds|report) .*)", text, flags=re.MULTILINE
    )
    made = re.findall(r"^\t\$\(PYTHON\) (-m glsmooth\..*)", text.replace("$(DEMO)", "outputs/demo"), flags=re.MULTILINE)
    return [*told, *(f"python {command}" for command in made)]


@each(lambda text: [command for command, _ in pages.commands(text)])
def test_a_command_takes_the_arguments_that_it_is_shown_with(page, item, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for module in set(re.findall(r"_target_[=:](my_glare)\.", item)):  # the class that the page has built
        (tmp_path / f"{module}.py").write_text(pages.blocks(page.read_text(), "python")[0][1])
        monkeypatch.delitem(sys.modules, module, raising=False)
    for _, block in pages.blocks(page.read_text(), "python"):
        file = re.match(r"# (\w+\.py)\n", block)
        if file is not None:  # a module of the user's, which commands below import
            (tmp_path / file[1]).write_text(block)
    check_command(item)


@each(examples, files=[ROOT / "Makefile", *sorted((ROOT / "conf").rglob("*.yaml"))])
def test_an_example_takes_the_arguments_that_it_is_shown_with(page, item, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_command(item)


def settings_in(text):
    """Inline code that sets something, ``monte_carlo=sequential``, or is a whole command."""
    setting = r"'?[a-z][\w./]*=[^\s=]+'?"
    program = r"glsmooth \w+|python benchmarks/\S+|python -m glsmooth\S*|" + "|".join(COMMANDS)
    one = re.compile(rf"(?:(?:{program}) )?{setting}(?: {setting})*|make \w+")
    return [span for span in pages.inline_code(text) if one.fullmatch(span)]


@each(settings_in)
def test_a_setting_in_the_text_exists(page, item, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_setting(item)


def check_setting(item):
    """One of the commands takes these fields."""
    if item.startswith("hydra/launcher=slurm"):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = pages.words_of(item)
    if words[0] in ("glsmooth", "python", "make"):
        return check_command(item)
    names = [words.pop(0)] if words[0] in COMMANDS else COMMANDS
    reasons = {}
    for name in names:
        ckpt = ["ckpt=best.ckpt"]
        needed = {
            "advise": ckpt,
            "attack": ckpt,
            "certify": ckpt,
            "predict": [*ckpt, "images=a.png"],
            "report": ["run"],
        }.get(name, [])
        try:
            return compose(name, [*needed, *words])
        except (hydra.errors.HydraException, UserError) as reason:
            reasons[name] = str(reason)
    with contextlib.suppress(UserError):
        return compose("sweep", words)
    keys = {word.partition("=")[0] for word in words}
    if not keys <= set(benchmark(ROOT / "benchmarks" / "votes.py").DEFAULTS):
        raise Stale(f"no command takes {item}: {reasons}")
    return None


@pytest.mark.parametrize(
    "command",
    [
        "glsmooth certify ckpt=best.ckpt dataset.subst=500",
        "glsmooth train dataset=cifar11",
        "glsmooth train transform=contrast_brightness smoothing.gamma.scale=0.4",
        "glsmooth report run 'region.contrast=[1.2,0.8]'",
        "glsmooth certify ckpt=best.ckpt fast",
        "glsmooth certifi ckpt=best.ckpt",
        "python benchmarks/votes.py part=[replay]",
        "make dmo",
        "pip install 'glsmooth[slrm]'",
    ],
)
def test_a_stale_command_fails(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, hydra.errors.HydraException, UserError)):
        check_command(command)


# Outputs


def printed_by(name, arguments, folder):
    done = subprocess.run(
        [sys.executable, "-m", "glsmooth", name, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@each(lambda text: [pair for pair in pages.commands(text) if pair[1] is not None])
def test_a_command_prints_what_is_shown(page, item, tmp_path):
    command, shown = item
    name, arguments = pages.command_parts(command)
    assert name == "bounds", "only bounds is quick enough; show what other commands print in a block of its own"
    pages.compare_output(shown, printed_by(name, arguments, tmp_path))


def table_rows(text):
    """Cells of the rows of Markdown tables."""
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line[:1] == "|"]


def up(value):
    """A required probability as the program prints it: five digits, rounded up."""
    return f"{math.ceil(value * 1e5 - 1e-6) / 1e5:.5f}"


def check_certified(shown, capsys=None):
    """A table of certify: required probabilities, shares and sums under the default laws; counts need the training."""
    del capsys
    kind = re.match(r"# Certified robust accuracy: (\w+) on ", shown).group(1)
    config = compose("train", [f"transform={kind}"])
    family = build_family(config["transform"], config["smoothing"], None)
    sentence = re.search(r"Of (\d+) test images, (\d+) .*", shown)
    total, correct = map(int, sentence.groups())
    intervals = re.findall(r"(\w+) in \[(\S+), (\S+?)\]", ascii_minus(sentence.group()))
    region = build_region({name: list(map(float, ends)) for name, *ends in intervals}, family.transform)
    shares = {count: f"{math.floor(1000 * count / total) / 10:.1f} %" for count in range(total + 1)}
    by_title = {method.title: name for name, method in METHODS.items()}
    methods = {}
    for row in table_rows(shown):
        if row[0] in by_title:
            methods[by_title[row[0]]] = row[1:]
        elif len(row) == 3 and row[1].isdigit():
            assert row[2] == shares[int(row[1])], row
    assert list(methods) == config_methods("certify")
    for method, (h_min, certified, right, share) in methods.items():
        try:
            expected = up(gs.required_probability(family, region, method))
        except gs.NotApplicable:
            assert {h_min, certified, right, share} == {"n/a"}
            continue
        assert h_min == expected, (method, h_min, expected)
        assert share == shares[int(right)]
        assert int(right) <= int(certified) <= total
    assert max(int(row[2]) for row in methods.values() if row[2].isdigit()) == correct
    assert f"({shares[correct]})" in shown


def check_predictions(shown, capsys):
    """A table of predict for four classes: the interval is that of the votes, if all others are for one class."""
    del capsys
    rows = [re.fullmatch(r"(\d+) of (\d+)\|(\S+) to (\S+)", "|".join(row[2:])) for row in table_rows(shown)[2:]]
    assert rows
    for count, n, low, high in (row.groups() for row in rows):
        votes = np.array([int(count), int(n) - int(count), 0, 0])
        ends = predict.interval(votes, int(n), 1e-3)
        assert [low, high] == [f"{math.floor(ends[0] * 1e4) / 1e4:.4f}", f"{math.ceil(ends[1] * 1e4) / 1e4:.4f}"]


def config_methods(command):
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return list(OmegaConf.to_container(hydra.compose(command).bound.methods))


def ascii_minus(text):
    return text.replace("−", "-")


def check_benchmark(shown, capsys):
    """The table of ``benchmarks/bounds.py``, but for the machine and the seconds."""
    GlobalHydra.instance().clear()
    benchmark(ROOT / "benchmarks" / "bounds.py").main()
    printed = capsys.readouterr().out

    def values(table):
        return [line[:-18] for line in table.splitlines()[2:-1]]

    assert shown.splitlines()[1] == printed.splitlines()[1]
    assert values(shown) == values(printed)


def check_advice(shown, capsys):
    """What ``glsmooth advise`` prints for the demo: required probabilities, votes, and both lines; CRA needs votes."""
    del capsys
    settings = compose("train", ["experiment=demo"])
    region = gs.Box(
        **{
            name: (float(low), float(high))
            for name, low, high in re.findall(r"(\w+) in \[(\S+), (\S+?)\]", ascii_minus(shown).splitlines()[0])
        }
    )
    trained = build_family(settings["transform"], settings["smoothing"])
    procedure = FixedSample(200, 1000, 1e-3)
    rows = [row for row in table_rows(ascii_minus(shown)) if "~" in row[0]]
    assert len(rows) > 2
    found = {}
    for law, h_min, votes, *_ in rows:
        laws = {
            name: getattr(gs, kind)(*map(float, numbers.split(", ")))
            for name, kind, numbers in re.findall(r"(\w+) ~ (\w+)\((.*?)\)", law)
        }
        family = gs.SmoothedFamily(trained.transform, {**trained.laws, **laws})
        value = gs.required_probability(family, region)
        assert h_min == f"{math.ceil(value * 1e4 - 1e-7) / 1e4:.4f}"
        needed = fewest_counts(procedure, value)
        assert votes == ("out of reach" if needed is None else f"{needed} of 1000")
        for mark in re.findall(r"best|trained", law):
            found[mark] = family
    assert found["trained"].laws == trained.laws
    assert dict(re.findall(r"(\w+) ~ (\w+\(.*?\))", ascii_minus(shown).splitlines()[0])) == {
        name: repr(law) for name, law in found["best"].laws.items()
    }
    for command in re.findall(r"^  (glsmooth .*)$", shown, flags=re.M):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            config = compose(*pages.command_parts(command))
        laws = {
            name: {**law_config(law), **{k: v for k, v in config["smoothing"][name].items() if v is not None}}
            for name, law in trained.laws.items()
        }
        assert build_family(settings["transform"], laws).laws == found["best"].laws
        assert build_region(config["region"], trained.transform) == region


#: Beginning of an output without its command -> what checks it.
OUTPUTS = {
    "Of 22 laws that were tried": check_advice,
    "# Certified robust accuracy: ": check_certified,
    "| image | class | votes | probability |": check_predictions,
    "x86_64, 2 cores": check_benchmark,
}


@each(pages.outputs)
def test_an_output_that_takes_long_is_checked_in_part(page, item, capsys):
    known = [check for begin, check in OUTPUTS.items() if item.startswith(begin)]
    assert known, f"nothing compares the numbers of\n{item}"
    known[0](item, capsys)


@pytest.mark.parametrize(("said", "instead"), [("0.76401", "0.76404"), ("97.2 %", "97.3 %"), ("0.7, 1.4", "0.7, 1.5")])
def test_a_stale_output_fails(said, instead):
    shown = next(output for output in pages.outputs((ROOT / "README.md").read_text()) if said in output)
    with pytest.raises((AssertionError, Stale)):
        check_certified(shown.replace(said, instead, 1))


@pytest.mark.parametrize(("said", "instead"), [("0.9910", "0.9911"), ("1000 of 1000", "999 of 1000")])
def test_a_stale_prediction_fails(said, instead, capsys):
    (shown,) = [output for output in pages.outputs((ROOT / "docs" / "tutorial.md").read_text()) if said in output]
    with pytest.raises(AssertionError):
        check_predictions(shown.replace(said, instead), capsys)


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ("0.9887", "0.9888"),
        ("998 of", "997 of"),
        ("[0.3, 3.3]", "[0.3, 3.2]"),
        ("Normal(0, 0.796) is expected", "Normal(0, 0.8) is expected"),
        (
            "certify ckpt=outputs/demo/train/best.ckpt 'region",
            "certify ckpt=x.ckpt seed=0 smoothing.contrast.scale=1 'region",
        ),
        ("loc:0,scale:0.796", "loc:0,scale:0.8"),
    ],
)
def test_a_stale_advice_fails(said, instead, capsys):
    (shown,) = [output for output in pages.outputs((ROOT / "README.md").read_text()) if said in output]
    check_advice(shown, capsys)
    with pytest.raises((AssertionError, Stale)):
        check_advice(shown.replace(said, instead, 1), capsys)


SHOWN = "a\n  b  0.1\n…\nc 2\n"
PRINTED = "a\n  b  0.1  \nx\ny\nc 2\n"


def test_lines_are_compared_around_what_is_left_out():
    pages.compare_output(SHOWN, PRINTED)
    pages.compare_output("a\n…", PRINTED)
    pages.compare_output("…\nx\n…", PRINTED)
    pages.compare_output(PRINTED, PRINTED)


@pytest.mark.parametrize(
    "shown",
    ["a\n  b  0.2\n…\nc 2\n", "a\n  b  0.1\nc 2", "a\n b  0.1\n…", "a\n…\nc 3", "…\nx", "a\n  b  0.1", "…\nc 2\n…\na"],
)
def test_a_line_that_differs_is_found(shown):
    with pytest.raises(Stale):
        pages.compare_output(shown, PRINTED)


# Tables

PARAMETERS = {"b": "brightness", "c": "contrast", "γ": "gamma", "tx": "tx", "ty": "ty"}


def published_rows():
    """Rows of the table of published votes: its cells by their heading."""
    rows = table_rows(ascii_minus((ROOT / "docs" / "results.md").read_text()))
    heading = next(row for row in rows if row[0] == "run")
    return [dict(zip(heading, row, strict=True)) for row in rows if len(row) == len(heading) and row[0][:2] == "20"]


def as_published(row, torus):
    """Family and region of a row, from its text."""
    kind, _, box = row["transformation and region"].partition(": ")
    transform = gs.transforms.BUILTIN[kind.replace(" ", "_")]()
    laws = {
        PARAMETERS[name]: getattr(gs, law)(*map(float, numbers.split(",")))
        for name, law, numbers in re.findall(r"(\w+) (\w+)\(([^)]*)\)", row["smoothing"])
    }
    region = {PARAMETERS[n]: (float(a), float(b)) for n, a, b in re.findall(r"(\w+) \[(\S+), (\S+?)\]", box)}
    size = {"imagenet": (224, 224)}.get(row["dataset"], (32, 32)) if torus else None
    return gs.SmoothedFamily(transform, laws, size), gs.Box(**region)


#: Column -> method and where translations live.
COLUMNS = {
    "NP": ("neyman_pearson", False),
    "GL": ("gl", False),
    "TSS": ("tss", False),
    "MP": ("mp", False),
    "NP on the torus": ("neyman_pearson", True),
}
#: Rows that say the same of the same setting, once.
SETTINGS = {
    (
        row["dataset"] == "imagenet",  # image size
        *(re.sub(r"\S+ \((?=0)", "(", row[key]) for key in ("transformation and region", "smoothing", *COLUMNS)),
    ): row
    for row in published_rows()
}


@pytest.mark.parametrize("row", SETTINGS.values(), ids=lambda row: row["transformation and region"])
def test_required_probabilities_of_published_runs(row):
    for column, (method, torus) in COLUMNS.items():
        family, region = as_published(row, torus)
        if torus and not family.torus:
            assert row[column] == "–"
            continue
        try:
            assert f"({up(gs.required_probability(family, region, method))})" in row[column], column
        except gs.NotApplicable:
            assert row[column].startswith("n/a"), column


def replayed_rows():
    """Rows of the table of replayed votes: of the same runs, in the same order."""
    rows = table_rows((ROOT / "docs" / "performance.md").read_text())
    return [row for row in rows if len(row) == 9 and row[0] in ("cifar10", "cifar100", "imagenet")]


def test_replayed_votes_met_the_required_probabilities_of_published_runs():
    assert len(replayed_rows()) == len(published_rows()) == 29
    for replayed, published in zip(replayed_rows(), published_rows(), strict=True):
        kind = published["transformation and region"].partition(":")[0].replace(" ", "_")
        assert replayed[:2] == [published["dataset"], kind]
        h_min = float(re.search(r"\((.*)\)", published["NP"]).group(1))
        assert abs(float(replayed[3]) - h_min) <= 0.5e-4 + 1e-5  # four digits of what is shown with five


def randomised_rows():
    rows = table_rows((ROOT / "docs" / "certificates.md").read_text())
    return [row for row in rows if len(row) == 5 and row[3].endswith("%") and row[0].isdigit()]


@pytest.mark.parametrize("row", randomised_rows(), ids=lambda row: " ".join(row[:3]))
def test_what_the_exact_level_gains(row):
    """Of images with class probability p: p_A > h_min where P_h(X > x) + U P_h(X = x) < α; U = 1 is the plain bound.

    Shares are rounded down, as in reports.
    """
    n, h, p, alpha = int(row[0]), float(row[1]), float(row[2]), 1e-3
    x = np.arange(n + 1)
    above, at = binom.sf(x, n, h), np.maximum(binom.pmf(x, n, h), 1e-300)
    coin = np.clip((alpha - above) / at, 0, 1)  # the share of coins that certify x votes
    of_votes = binom.pmf(x, n, p)
    shares = (of_votes[coin == 1].sum(), (of_votes * coin).sum())
    assert row[3:] == [f"{math.floor(1000 * share) / 10:.1f} %" for share in shares]


def known_required_probabilities():
    """Of the settings that the text speaks of outside of its programs, commands and tables."""
    affine = gs.SmoothedFamily(
        gs.transforms.ContrastBrightness(), {"contrast": gs.LogNormal(0.0, 0.6), "brightness": gs.Normal(0.0, 0.6)}
    )
    demo = gs.Box(contrast=(0.7, 1.4), brightness=(-0.2, 0.2))
    table_1 = gs.Box(contrast=(0.5, 2.0), brightness=(-0.4, 0.4))
    yield from (
        gs.required_probability(affine, box, method) for box in (demo, table_1) for method in ("neyman_pearson", "gl")
    )
    yield gs.required_probability(affine, table_1, "gl_printed")
    for scale, most, size in ((1.5, 1, 8), (2.0, 2, 8), (3.0, 3, 32)):
        laws = {"tx": gs.Normal(0.0, scale), "ty": gs.Normal(0.0, scale)}
        shifts = gs.SmoothedFamily(gs.transforms.Translation(), laws, image_size=(size, size))
        yield gs.required_probability(shifts, gs.Box(tx=(-most, most), ty=(-most, most)))
    blurs = gs.SmoothedFamily(gs.transforms.GaussianBlur(), {"blur": gs.Exponential(0.15)})
    yield gs.required_probability(blurs, gs.Box(blur=(0, 16)))
    # Invariant networks.
    wide = gs.Box(contrast=(0.1, 10), brightness=(-2, 2))
    for scale in (2.0, 20.0):
        laws = {"contrast": gs.LogNormal(0.0, 1.5), "brightness": gs.Normal(0.0, scale)}
        yield gs.required_probability(gs.SmoothedFamily(gs.transforms.ContrastBrightness(), laws), wide)
    for gamma, contrast in ((gs.Rayleigh(0.1), 0.1), (gs.LogNormal(0.0, 1.0), 2.0)):
        powers = gs.SmoothedFamily(
            gs.transforms.GammaContrast(), {"gamma": gamma, "contrast": gs.LogNormal(0.0, contrast)}
        )
        yield gs.required_probability(powers, gs.Box(gamma=(0.8, 1.4), contrast=(0.6, 2.0)))


def test_required_probabilities_in_the_text():
    """Whatever stands outside of what the tests above compare, and has four or five digits, is one of these."""
    compared = [*replayed_rows(), *randomised_rows()]
    # Rows that tests/commands/test_experiments.py compares.
    experiments = [f"| `{path.stem}` |" for path in (conf_dir() / "experiment" / "rows").iterdir()]
    known = {text for h in known_required_probabilities() for text in (f"{h:.4f}", up(h))}
    found = set()
    for page in DOCUMENTS:
        for line in pages.FENCE.sub("", page.read_text()).splitlines():
            if line.startswith(("| 2024_", *experiments)) or (line[:1] == "|" and table_rows(line)[0] in compared):
                continue
            numbers = set(re.findall(r"(?<![\d.])0\.[5-9]\d{3,4}(?!\d)", line))
            assert numbers <= known, f"{page.name}: {numbers - known} in {line}"
            found |= numbers
    assert len(found) >= 7


def imagenet_section():
    text = (ROOT / "docs" / "cluster.md").read_text()
    return re.search(r"^## How much is ImageNet\?\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE).group(1)


def check_imagenet(section, printed):
    """Tables and counts of the section are those that its command prints."""

    def lines(text):
        return [line for line in text.splitlines() if line[:1] == "|"]

    words = " ".join(section.split())
    assert lines(section) == lines(printed)
    assert re.search(r"^Training of one row: .*", printed, flags=re.MULTILINE).group() in words
    assert f"({re.search(r'at most (.* bytes)', printed).group(1)} at most)" in words


@pytest.fixture(scope="module")
def imagenet_printed():
    if not (ROOT / benchmark(ROOT / "benchmarks" / "cluster.py").DEFAULTS["votes"]).is_file():
        pytest.skip("the published votes are not here")
    command = [command for command, _ in pages.commands(imagenet_section()) if "certify_rate" in command]
    return subprocess.run(
        [sys.executable, *pages.words_of(command[0])[1:]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_how_much_imagenet_is(imagenet_printed):
    check_imagenet(imagenet_section(), imagenet_printed)


@pytest.mark.parametrize(
    ("said", "instead"),
    [("60.050", "60.051"), ("| 14.5 h, 8 |", "| 14.5 h, 9 |"), ("128,120", "128,121"), ("(75 bytes", "(74 bytes")],
)
def test_a_stale_count_of_imagenet_fails(said, instead, imagenet_printed):
    section = imagenet_section()
    assert said in section
    with pytest.raises(AssertionError):
        check_imagenet(section.replace(said, instead), imagenet_printed)


# Names, paths, links


@each(pages.names)
def test_a_name_of_the_package_is_there(page, item):
    pages.resolve(item)


@each(pages.paths)
def test_a_path_of_the_repository_is_there(page, item):
    assert (ROOT / item).exists()


@each(pages.links)
def test_a_link_leads_somewhere(page, item):
    path, _, anchor = item.partition("#")
    target = page.parent / path if path else page
    assert target.is_file()
    assert not anchor or anchor in pages.anchors(target.read_text())


@pytest.mark.parametrize("name", ["glsmooth.votes", "glsmooth.voting.engin", "glsmooth.bounds.gl.product"])
def test_a_name_that_moved_fails(name):
    with pytest.raises(Stale):
        pages.resolve(name)
