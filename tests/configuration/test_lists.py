"""Lists that more than one place must agree on: the files, the rules of fields, and what the package builds."""

import pytest

from glsmooth import bounds, threats, transforms
from glsmooth.configuration import fields
from glsmooth.configuration.fields import RULES
from glsmooth.configuration.folder import conf_dir, members
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import LAWS, Normal
from glsmooth.learning import data, models
from glsmooth.report import wording
from glsmooth.voting.classifier import PRECISIONS
from glsmooth.voting.finite import FiniteLaw
from glsmooth.voting.procedures import PROCEDURES, Exhaustive, FixedSample, Sequential


def test_a_group_offers_what_its_folder_holds():
    files = {path.stem for path in (conf_dir() / "model").glob("*.yaml")}
    assert "from_checkpoint" in files
    assert set(members("model")) == files - {"from_checkpoint"}
    assert members("nothing") == ()


@pytest.mark.parametrize(
    ("field", "choices"),
    [
        ("precision", ["auto", *PRECISIONS]),
        ("trainer.precision", ["auto", *PRECISIONS]),
        ("smoothing.*.law", LAWS),
        ("monte_carlo.name", PROCEDURES),
        ("dataset.name", data.NAMES),
        ("logger.name", members("logger")),
        ("optimizer.schedule", fields.SCHEDULES),
    ],
)
def test_fields_accept_what_the_package_knows(field, choices):
    assert sorted(RULES[field].choices) == sorted(choices)
    assert all(RULES[field].accepts(choice) for choice in choices)


def test_every_method_can_be_asked_for():
    assert RULES["bound.methods"].accepts(list(bounds.METHODS))
    assert not RULES["bound.methods"].accepts(["nothing"])


def test_data_sets():
    assert set(members("dataset")) == set(data.NAMES)
    assert set(members("optimizer")) >= set(data.NAMES)  # the default optimizer is the data set's
    assert models.DEFAULT_MODEL.keys() == set(data.NAMES)


def test_models():
    own = set(members("model")) - {"auto", "timm"}
    assert set(models.BUILTIN) <= own
    assert set(models.DEFAULT_MODEL.values()) <= own


def test_procedures():
    shifts = SmoothedFamily(transforms.Translation(), {"tx": Normal(0, 1), "ty": Normal(0, 1)}, (8, 8))
    built = [
        FixedSample(),
        FixedSample(two_sided=True),
        Sequential({"gl": 0.6}),
        Exhaustive(FiniteLaw.of(shifts), {"gl": 0.6}),
    ]
    assert tuple(procedure.describe()["name"] for procedure in built) == PROCEDURES
    assert set(members("monte_carlo")) == set(PROCEDURES)


@pytest.mark.parametrize("group", ["transform", "smoothing", "region"])
def test_transformations(group):
    warps = {f"{name}{then}" for name in threats.BUILTIN for then in ("", "_brightness")}
    assert set(members(group)) == {*transforms.BUILTIN, *warps, "custom"}
    assert all(threat.name == name for name, threat in threats.BUILTIN.items())
    assert all(transform.name == name for name, transform in transforms.BUILTIN.items())


def test_the_report_has_a_word_for_everything():
    parameters = {name for transform in transforms.BUILTIN.values() for name in transform().parameters}
    parameters |= {threat.parameter for threat in threats.BUILTIN.values()}
    assert wording.METHODS.keys() == bounds.METHODS.keys()
    assert wording.PARAMETERS.keys() == parameters
    assert wording.SYMBOLS.keys() == parameters
