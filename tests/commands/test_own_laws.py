"""A smoothing law of the user's own, from training to the report: named by its class, which no file may import."""

import json
import shlex
import sys

import pytest
import torch
from PIL import Image

import glsmooth as gs
from glsmooth.commands import bounds
from glsmooth.configuration.build import ONLY_IN_PYTHON, build_law, family_config, law_config, law_words
from glsmooth.errors import UserError
from glsmooth.learning.checkpoint import KEY
from tests.commands.conftest import MAIN

OWN = """
import math

import torch
from PIL import Image

import glsmooth as gs

IMPORTED = True


class Logistic(gs.Law):
    fields = ("loc", "scale")
    log_concave = True

    def __init__(self, loc, scale=0.5):
        super().__init__(loc=loc, scale=scale)

    def log_prob(self, value):
        z = ((value - self.loc) / self.scale).abs()
        return -z - 2 * torch.log1p(torch.exp(-z)) - math.log(self.scale)

    def icdf(self, value):
        return self.loc + self.scale * (torch.log(value) - torch.log1p(-value))


class False_(Logistic):
    def log_prob(self, value):
        return super().log_prob(value) + 0.1


def function():
    pass
"""
LAW = {"_target_": "my_law.Logistic", "loc": 0.0, "scale": 0.3}
TYPED = "smoothing.brightness._target_=my_law.Logistic"


@pytest.fixture
def here(elsewhere):
    (elsewhere / "my_law.py").write_text(OWN)
    sys.modules.pop("my_law", None)
    yield elsewhere
    sys.modules.pop("my_law", None)


@pytest.fixture
def ckpt(untrained, here):
    """A checkpoint that names the class."""
    content = torch.load(untrained[0], weights_only=True)
    content[KEY] |= {
        "transform": {"_target_": "glsmooth.transforms.Brightness"},
        "smoothing": {"brightness": LAW},
        "region": {"brightness": [-0.05, 0.05]},
    }
    path = here / "best.ckpt"
    torch.save(content, path)
    return path


def test_a_law_goes_round_through_its_configuration(here):
    law = build_law(LAW)
    assert law_config(law) == LAW
    assert law_words(LAW) == repr(law) == "Logistic(0, 0.3)"
    assert build_law({"law": "Normal", "low": None, **LAW}) == law
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": law})
    assert family_config(family)[1] == {"brightness": LAW}
    local = type("Local", (type(law),), {})(0.0, 0.3)
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": local})
    assert family_config(family)[1]["brightness"]["law"].endswith(ONLY_IN_PYTHON)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_target_": "my_law.Logistc"}, "did you mean 'Logistic'"),
        ({"_target_": "my_lw.Logistic"}, "there is no module 'my_lw'"),
        ({"_target_": "my_law.function"}, "is not a subclass of glsmooth.Law"),
        ({"_target_": "glsmooth.Normal"}, "set x.law=Normal"),
        ({"scal": 1.0}, "x.scal=1.0 is not an argument of my_law.Logistic; did you mean 'scale'"),
        ({"loc": None}, "x.loc is missing: my_law.Logistic takes loc and scale"),
        ({"scale": -1.0}, "x.scale=-1 must be positive"),
    ],
)
def test_mistakes_are_named(here, changed, message):
    with pytest.raises(UserError) as error:
        build_law(LAW | changed, "x")
    assert message in str(error.value)


def test_bounds(here, call, monkeypatch):
    monkeypatch.setitem(MAIN, "bounds", bounds.main)
    dictionary = "smoothing.brightness={_target_:my_law.Logistic,loc:0,scale:0.3}"
    box = ["transform=brightness", "region.brightness=[-0.1,0.1]"]
    status, printed = call("bounds", *box, dictionary, "format=json", "hydra.run.dir=b")
    assert status == 0, printed.err
    found = json.loads(printed.out)
    assert found["required_probability"]["neyman_pearson"] == pytest.approx(0.5825702064623147, abs=1e-12)
    assert found["smoothing"] == {"brightness": LAW}
    status, printed = call("bounds", *box, dictionary.replace("Logistic", "False_"), "hydra.run.dir=c")
    assert status == 2
    assert "False_(0, 0.3) is not what it says of itself: log_prob integrates to 1 fails" in printed.err
    (here / "sweep").mkdir()
    (here / "sweep" / "0").mkdir()
    (here / "sweep" / "0" / "bounds.json").write_text((here / "b" / "bounds.json").read_text())
    sys.modules.pop("my_law")
    assert "Logistic(0, 0.3)" in bounds.sweep_table(here / "sweep")
    assert "my_law" not in sys.modules  # a file named it


def test_certify_report_and_predict_want_the_class_typed(here, ckpt, call):
    certify = [
        "certify",
        f"ckpt={ckpt}",
        "dataset.subset=2",
        "monte_carlo.n0=5",
        "monte_carlo.n=20",
        "hydra.run.dir=run",
    ]
    status, printed = call(*certify)
    assert status == 2
    assert f"If you trust it, type {TYPED}" in printed.err
    assert "my_law" not in sys.modules
    status, printed = call(*certify, TYPED)
    assert status == 0, printed.err
    assert json.loads((here / "run" / "summary.json").read_text())["smoothing"] == {"brightness": LAW}

    sys.modules.pop("my_law")
    status, printed = call("report", "run", "hydra.run.dir=report")
    assert status == 2
    assert f"type {TYPED}" in printed.err
    assert "my_law" not in sys.modules
    status, printed = call("report", "run", TYPED, "region.brightness=[-0.01,0.01]", "hydra.run.dir=report")
    assert status == 0, printed.err
    assert "Logistic(loc 0, scale 0.3)" in printed.out + (here / "report" / "table.md").read_text()

    Image.new("L", (8, 8), 100).save(here / "a.png")
    sys.modules.pop("my_law")
    predict = ["predict", f"ckpt={ckpt}", "images=a.png", "n=20", "hydra.run.dir=predicted"]
    status, printed = call(*predict)
    assert status == 2
    assert f"type {TYPED}" in printed.err
    assert "my_law" not in sys.modules
    status, printed = call(*predict, TYPED)
    assert status == 0, printed.err


def test_another_law_takes_its_place(here, ckpt, call):
    normal = "smoothing.brightness={law:Normal,loc:0,scale:0.2}"
    certify = [
        "certify",
        f"ckpt={ckpt}",
        "dataset.subset=2",
        "monte_carlo.n0=5",
        "monte_carlo.n=20",
        "hydra.run.dir=run",
    ]
    status, printed = call(*certify, normal)
    assert status == 0, printed.err
    stored = json.loads((here / "run" / "summary.json").read_text())["smoothing"]["brightness"]
    assert stored == {"law": "Normal", "loc": 0, "scale": 0.2}
    assert "my_law" not in sys.modules


def test_advise_varies_its_scale(here, ckpt, call):
    words = ["trial.votes=20", "trial.images=4", "trial.scales=3", "monte_carlo.n=100", "hydra.run.dir=advice"]
    status, printed = call("advise", f"ckpt={ckpt}", TYPED, "region.brightness=[-0.05,0.05]", *words)
    assert status == 0, printed.err
    found = json.loads((here / "advice" / "advise.json").read_text())
    kinds = [trial["smoothing"]["brightness"] for trial in found["trials"]]
    assert len({law["scale"] for law in kinds if law.get("_target_")}) >= 3
    assert {law.get("law") for law in kinds} >= {"Normal", "Laplace", "Uniform"}
    assert shlex.split(found["certify"])
