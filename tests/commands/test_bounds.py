"""``glsmooth bounds``: JSON for programs, a table for people, one table for a sweep."""

import json
import subprocess
import sys

import pytest

import glsmooth as gs
from glsmooth.bounds import evaluate
from glsmooth.commands.bounds import as_json, sweep_table, table
from glsmooth.errors import UserError
from tests.bounds.families import ROWS, TORUS
from tests.bounds.user_transforms import Brighten


def result_of(family, region, methods):
    return as_json(family, region, evaluate(family, region, methods), alpha=1e-3)


def test_the_json_is_the_promised_one():
    row = ROWS[0]
    result = result_of(row.family, row.region, ["neyman_pearson", "gl", "gl_printed", "tss"])
    assert json.loads(json.dumps(result)) == result
    assert result["transform"] == "contrast_brightness"
    assert result["smoothing"]["contrast"] == {"law": "LogNormal", "loc": 0.0, "scale": 0.6}
    assert result["region"] == {"contrast": [0.5, 2.0], "brightness": [-0.4, 0.4]}
    assert result["required_probability"]["neyman_pearson"] == pytest.approx(row.np, abs=1e-5)
    assert result["required_probability"]["tss"] is None
    assert "brightness_first" in result["reasons"]["tss"]
    assert result["reasons"]["neyman_pearson"] is None
    assert "unsound" in result["reasons"]["gl_printed"]
    assert result["samples_needed"] == {"neyman_pearson": 86, "gl": 91, "gl_printed": 31, "tss": None}
    assert result["worst_parameter"] == {"contrast": 0.5, "brightness": -0.4}


def test_the_table_rounds_up_and_labels():
    row = ROWS[7]
    text = table(result_of(row.family, row.region, ["neyman_pearson", "gl_printed", "tss"]), 1e-3)
    assert "0.93750" in text
    assert "(unsound)" in text
    assert "TSS has no theorem" in text
    wide = result_of(*TORUS["torus 32, narrow"], ["neyman_pearson"])
    shown = table(wide, 1e-3)
    h = wide["required_probability"]["neyman_pearson"]
    printed = float(next(line for line in shown.splitlines() if "Neyman" in line).split()[-2])
    assert h <= printed < h + 1.1e-5


def test_a_bound_that_was_sampled_says_so():
    import glsmooth as gs

    family = gs.SmoothedFamily(Brighten(), {"b": gs.Normal(0.0, 1.0)})
    result = result_of(family, gs.Box(b=(0.5, 0.5)), ["neyman_pearson"])
    assert result["failure_probability"] == {"neyman_pearson": 1e-4}
    assert "except with probability 0.0001" in table(result, 1e-3)


def test_a_sweep_writes_one_table(tmp_path):
    command = [
        sys.executable, "-m", "glsmooth.bounds", "--multirun", "transform=brightness",
        "smoothing.brightness.scale=0.2,0.4", f"hydra.sweep.dir={tmp_path}", "format=json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["smoothing"]["brightness"]["scale"] for line in lines] == [0.2, 0.4]
    text = (tmp_path / "table.md").read_text()
    assert text == sweep_table(tmp_path)
    assert len(text.splitlines()) == 4
    assert "Normal(0, 0.2)" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"smoothing": {"b": {"law": "Norml"}}}, "smoothing.b.law is 'Norml', not one of"),
        ({"smoothing": {"b": {"law": "Normal"}}}, "smoothing.b.scale is missing"),
        ({"smoothing": {"b": None}}, "smoothing.b is null, not an object"),
        ({"region": {"b": None}}, "region.b is null, not an interval"),
        ({"region": {"b": [1, 2, 3]}}, "region.b is .1, 2, 3., not an interval"),
        ({"required_probability": {"gl": 10**400}}, "required_probability.gl is 1000.*, not in"),
        ({"required_probability": {"g\x1b[2J": 0.9}}, "unknown method 'g"),
        ({"required_probability": None}, "required_probability is null, not an object"),
        ({"samples_needed": {"neyman_pearson": ["x"]}}, "samples_needed.neyman_pearson is .'x'., not a whole number"),
        ({"transform": ["x"]}, "transform is .'x'., not a text"),
        ({"name": "x"}, "name='x' is not known here"),
    ],
)
def test_a_strange_file_in_a_sweeps_folder_is_named(tmp_path, change, words):
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 0.5)})
    good = result_of(family, gs.Box(brightness=(-0.1, 0.1)), ["neyman_pearson", "gl"])
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "bounds.json").write_text(json.dumps(good))
    assert "Normal(0, 0.5)" in sweep_table(tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "bounds.json").write_text(json.dumps(good | change))
    with pytest.raises(UserError, match=rf"1/bounds\.json: .*{words}") as refusal:
        sweep_table(tmp_path)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("content", ["", "3", "[" * 10**5])
def test_a_file_that_is_no_result_is_named(tmp_path, content):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "bounds.json").write_text(content)
    with pytest.raises(UserError, match=r"0/bounds\.json: .*remove it, or choose another hydra\.sweep\.dir"):
        sweep_table(tmp_path)


@pytest.mark.parametrize(
    ("region", "words", "config"),
    [
        (gs.Ball(5, tx=0, ty=0), "tx, ty within 5 of tx = 0, ty = 0 (l2)", {"ball": 5, "centre": {"tx": 0, "ty": 0}}),
        (
            gs.Points([{"tx": 1, "ty": 2}, {"tx": 3}]),
            "tx = 1, ty = 2; tx = 3",
            {"points": [{"tx": 1, "ty": 2}, {"tx": 3}]},
        ),
    ],
)
def test_a_ball_and_points_are_printed_and_read_again(tmp_path, region, words, config):
    family = gs.SmoothedFamily(gs.transforms.Translation(), {"tx": gs.Normal(0, 10), "ty": gs.Normal(0, 10)}, (32, 32))
    result = result_of(family, region, ["neyman_pearson"])
    assert result["region"] == config
    assert f"  region     {words}\n" in table(result, 1e-3)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "bounds.json").write_text(json.dumps(result))
    assert words in sweep_table(tmp_path)
    (tmp_path / "0" / "bounds.json").write_text(json.dumps({**result, "region": {**config, "tx": [0, 1]}}))
    with pytest.raises(UserError, match=r"bounds\.json"):
        sweep_table(tmp_path)
