"""How a message comes by the name of the key."""

import pytest

from glsmooth.errors import UserError, did_you_mean, keyed

KEYS = {"b": "region.b", "blur": "region.blur", "copies": "loss.copies", "consistency": "loss.consistency"}


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("blur=[2, 1] is inverted; give [1, 2]", "region.blur=[2, 1] is inverted; give [1, 2]"),
        ("b=1 is too large", "region.b=1 is too large"),
        ("b is missing", "region.b is missing"),
        ("b: not a number", "region.b: not a number"),
        (
            "copies=1 with consistency=2: use copies=2 or consistency=0",
            "loss.copies=1 with loss.consistency=2: use loss.copies=2 or loss.consistency=0",
        ),
        ("blur=/a/b=c: no such file", "region.blur=/a/b=c: no such file"),
        # About something else, or named already.
        ("the curve at b=1 is flat", "the curve at b=1 is flat"),
        ("blurred=1 is unknown", "blurred=1 is unknown"),
        ("b and blur differ", "b and blur differ"),
        ("smoothing.b=Normal(0, 1) needs a cycle", "smoothing.b=Normal(0, 1) needs a cycle"),
    ],
)
def test_fields_are_called_by_their_keys(said, heard):
    with pytest.raises(UserError) as caught, keyed(KEYS):
        raise UserError(said)
    assert str(caught.value) == heard


def test_keys_are_given_once():
    with pytest.raises(UserError) as caught, keyed(KEYS), keyed(KEYS), keyed({}):
        raise UserError("b=1 is too large")
    assert str(caught.value) == "region.b=1 is too large"


def test_the_kind_and_the_cause_of_the_error_stay():
    class Refusal(UserError):
        pass

    cause = OSError("disk")
    with pytest.raises(Refusal) as caught, keyed(KEYS):
        raise Refusal("b=1 cannot be read") from cause
    assert caught.value.__cause__ is cause


def test_other_errors_are_left_alone():
    with pytest.raises(ValueError, match=r"^b=1$") as caught, keyed(KEYS):
        raise ValueError("b=1")
    assert type(caught.value) is ValueError


def test_did_you_mean():
    assert did_you_mean("lognormal", ["Normal", "LogNormal"]) == (
        "; did you mean 'LogNormal'? choose from LogNormal, Normal"
    )
    assert did_you_mean("zzz", ["b", "a"]) == "; choose from a, b"
