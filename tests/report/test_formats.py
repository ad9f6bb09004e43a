"""The table of a report in every format that ``glsmooth report format=`` prints."""

import csv
import io
import json
import sys

import pytest
from omegaconf import OmegaConf

import glsmooth.commands.report as command
from glsmooth import bounds
from glsmooth.configuration.fields import RULES_OF
from glsmooth.errors import UserError
from glsmooth.family.regions import Box
from glsmooth.report import comparison, formats, html, page, tables, wording
from glsmooth.runs.run import load_run
from tests.report.test_comparison import make
from tests.report.test_page import ALPHA, H_MIN, PRINTED, make_run, plane_run


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Pictures take seconds, and are not what is looked at here."""

    def draw(draw, out, name, words, caption):
        return html.Picture(b"<svg/>", b"<svg/>", words, caption)

    monkeypatch.setattr(page, "save_picture", draw)
    monkeypatch.setattr(comparison, "save_picture", draw)
    monkeypatch.setattr(page, "_curves", lambda *_: [])
    monkeypatch.setattr(page, "_accuracy_plane", lambda *_: None)


@pytest.fixture
def report(tmp_path, capsys):
    """``report(runs…, settings…)`` runs the command; returns what it printed and the folder that it wrote to."""

    def report_(*runs, out=tmp_path / "out", **settings):
        base = {
            "votes": None,
            "figures": "page",
            "format": "markdown",
            "radii": False,
            "region": {"brightness": None},
            "bound": {"methods": None},
            "image_size": None,
            "dataset": {"root": None},
        }
        out.mkdir(exist_ok=True)
        command.run(OmegaConf.create({**base, "runs": [str(run) for run in runs], "run_dir": str(out), **settings}))
        return capsys.readouterr().out, out

    return report_


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_formats_are_those_that_the_field_takes():
    assert RULES_OF["report"]["format"].choices == tuple(formats.FORMATS)


def test_markdown_is_printed_as_ever(tmp_path, report):
    run = make_run(tmp_path / "run")
    printed, _ = report(run)
    assert printed == (run / "table.md").read_text()
    assert printed.startswith("# Certified robust accuracy")


def test_csv_of_a_run_has_the_hand_counted_numbers(tmp_path, report):
    run = make_run(tmp_path / "run")
    printed, _ = report(run, format="csv")
    assert printed == (run / "table.csv").read_text()
    exact, gl, unsound, absent = rows(printed)
    assert [float(exact["h_min"]), exact["method"], exact["standing"]] == [H_MIN, "neyman_pearson", "sound"]
    assert [gl["method"], gl["certified"]] == ["gl", exact["certified"]]
    # Four of ten are above H_MIN, one of them in a wrong class.
    assert [exact["certified"], exact["certified_correct"], exact["cra"]] == ["4", "3", "0.3"]
    assert [unsound["method"], unsound["standing"]] == ["gl_printed", "unsound"]
    assert float(unsound["h_min"]) == load_run(run).outcomes["gl_printed"].h_min
    assert [absent["method"], absent["h_min"]] == ["mp", ""]
    for row in (unsound, absent):
        assert [row["certified"], row["certified_correct"], row["cra"]] == ["", "", ""]
    for row in (exact, gl, unsound, absent):
        assert [row["images"], row["base_correct"], row["base_accuracy"]] == ["10", "8", "0.8"]
        assert [row["smoothed_correct"], row["smoothed_accuracy"], row["abstained"]] == ["8", "0.8", "2"]
        assert [row["region.brightness.low"], row["region.brightness.high"]] == ["-0.4", "0.4"]
        assert [float(row["votes_failure_probability"]), row["transform"]] == [ALPHA, "brightness"]


def test_json_holds_what_the_csv_holds(tmp_path, report):
    run = make_run(tmp_path / "run")
    text, _ = report(run, format="json")
    assert text == (run / "table.json").read_text()
    found = json.loads(text)
    stated = rows((run / "table.csv").read_text())
    assert [list(row) for row in found] == [list(row) for row in stated]
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in found] == stated
    assert found[0]["h_min"] == load_run(run).outcomes["neyman_pearson"].h_min
    assert found[3]["h_min"] is None


def test_units_stand_in_names(tmp_path):
    columns = tables.region_columns(Box(tx=(-1, 1), blur=(0, 2), gamma=(1, 2)))
    assert [name for name in columns if ".low" in name] == [
        *("region.tx.low_pixels", "region.blur.low_pixels2", "region.gamma.low")
    ]


def test_latex_of_a_run_is_for_booktabs(tmp_path, report):
    run = make_run(tmp_path / "run", dataset={"name": "a_b & \\input{x}", "subset": None})
    text, _ = report(run, format="latex")
    assert text == (run / "table.tex").read_text()
    assert text.startswith("% Needs \\usepackage{booktabs}.\n")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\toprule") == 2
    assert r"$h_{\min}$" in text
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert body.count(r"\\") == 4
    assert f"Neyman\\textendash{{}}Pearson & {wording.ceil(H_MIN, 5)} & 4 & 3 & 30.0 \\%" in body
    assert text.isascii()
    assert "\\input" not in text


def test_another_region_is_written_beside_and_printed(tmp_path, report):
    run = make_run(tmp_path / "run")
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    printed, out = report(run, region={"brightness": [-0.3, 0.2]}, format="csv")
    assert printed == (out / "table.csv").read_text()
    assert [(row["region.brightness.low"], row["region.brightness.high"]) for row in rows(printed)[:1]] == [
        ("-0.3", "0.2")
    ]
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


@pytest.mark.parametrize(("format", "file"), [("latex", "tex"), ("csv", "csv"), ("json", "json")])
def test_a_comparison_is_printed_as_its_file(tmp_path, report, format, file):
    runs = [make(tmp_path / "a", scale=0.4, robust=8), make(tmp_path / "b", scale=0.2, robust=5)]
    printed, out = report(*runs, format=format)
    assert printed == (out / f"table.{file}").read_text()
    if format != "latex":
        table = rows(printed) if format == "csv" else json.loads(printed)
        assert [row["run"] for row in table] == ["b", "a"]
        assert [float(row["cra_neyman_pearson"]) for row in table] == [0.25, 0.4]


def test_json_of_a_comparison_keeps_what_is_no_text(tmp_path, report):
    runs = [
        make(tmp_path / name, training={"seed": 0, "flip": flip, "sizes": [1, size]})
        for name, flip, size in (("a", True, 2), ("b", None, 3))
    ]
    found = json.loads(report(*runs, format="json")[0])
    assert [(row["training.flip"], row["training.sizes"]) for row in found] == [(True, [1, 2]), (None, [1, 3])]
    found = rows(report(*runs, format="csv")[0])
    assert [(row["training.flip"], row["training.sizes"]) for row in found] == [("true", "[1, 2]"), ("", "[1, 3]")]


def test_json_is_json_whatever_a_file_says(tmp_path, report):
    """JSON has no infinity, and Python writes one."""
    runs = [make(tmp_path / f"{i}", training={"seed": 0, "lr": lr}) for i, lr in enumerate((0.1, float("inf")))]
    text, _ = report(*runs, format="json")

    def refuse(constant):
        raise AssertionError(constant)

    assert {row["training.lr"] for row in json.loads(text, parse_constant=refuse)} == {0.1, "inf"}


def test_votes_of_others_are_markdown(tmp_path, report):
    with pytest.raises(UserError, match="format=csv: votes=FILE is printed as markdown; leave it out"):
        report(votes="votes.json", format="csv")


# Parquet


def test_parquet_is_written_and_its_path_printed(tmp_path, report):
    parquet = pytest.importorskip("pyarrow.parquet")
    run = plane_run(tmp_path / "run")
    printed, _ = report(run, format="parquet")
    assert printed == f"{run / 'table.parquet'}\n"
    assert parquet.read_table(run / "table.parquet").to_pylist() == json.loads((run / "table.json").read_text())


def test_parquet_takes_columns_of_mixed_kinds(tmp_path, report):
    parquet = pytest.importorskip("pyarrow.parquet")
    kinds = [1, "one", [1, 2], {}, None, True]
    runs = [make(tmp_path / f"{i}", training={"seed": 0, "kind": kind}) for i, kind in enumerate(kinds)]
    printed, _ = report(*runs, format="parquet")
    table = parquet.read_table(printed.strip()).to_pylist()
    assert {row["training.kind"] for row in table} == {"1", "one", "[1, 2]", "{}", None, "true"}
    assert {row["cra_neyman_pearson"] for row in table} == {0.5}


def test_without_pyarrow_the_extra_is_named_before_any_work(tmp_path, report, monkeypatch):
    run = make_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"^format=parquet needs pyarrow; type pip install 'glsmooth\[parquet\]'$"):
        report(run, format="parquet")
    assert not (run / "table.md").exists()


def test_unsound_methods_alone_give_a_table(tmp_path, report):
    run = make_run(tmp_path / "run", methods={"gl_printed": {"required_probability": PRINTED, "sound": False}})
    (row,) = rows(report(run, format="csv")[0])
    assert [row["method"], row["cra"]] == ["gl_printed", ""]
    assert not bounds.METHODS["gl_printed"].sound
