"""What a method says of a region, and the one comparison that certifies."""

import numpy as np
import pytest

import glsmooth as gs
from glsmooth.bounds import METHODS, Outcome, certify_region, cover, evaluate, exceeds
from glsmooth.errors import UserError

from .families import OTHERS, ROWS, TORUS

BRIGHTNESS = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 0.5)})
GAMMA = gs.SmoothedFamily(gs.transforms.Gamma(), {"gamma": gs.Rayleigh(0.1)})
CASES = {
    **{row.name: (row.family, row.region) for row in ROWS},
    **OTHERS,
    **TORUS,
}


def test_equality_does_not_certify():
    outcome = Outcome(0.75, None, "gl")
    assert outcome.certifies(float(np.nextafter(0.75, 1)))
    assert not outcome.certifies(0.75)
    assert outcome.certifies(np.array([0.7, 0.75, 0.76, np.nan])).tolist() == [False, False, True, False]
    assert exceeds(np.array([0.6, 0.8]), np.array([[0.5], [0.7]])).tolist() == [[True, True], [False, True]]


def test_what_is_not_sound_claims_and_never_certifies():
    for outcome in (
        Outcome(0.5, None, "gl_printed", sound=False),
        Outcome(0.5, None, "gl").approximate(0.3, "it clips"),
    ):
        assert outcome.claims(0.9)
        assert not outcome.certifies(0.9)
        assert not outcome.certifies(np.array([0.9, 1.0])).any()
    assert Outcome(0.5, None, "gl").approximate(0.3, "it clips").argument == "it clips"


def test_a_method_that_does_not_apply_certifies_nothing_whatever_the_votes():
    outcome = evaluate(BRIGHTNESS, gs.Box(brightness=(-0.1, 0.1)), ["mp"])["mp"]
    assert outcome.h_min is None
    assert "MP covers a single multiplicative parameter" in outcome.argument
    assert not outcome.claims(1.0)
    assert not outcome.certifies(np.array([1.0]))
    assert outcome.approximate(0.3, "it clips") is outcome  # why it does not apply is the better reason


def test_nothing_certifies_at_one():
    assert not Outcome(1.0, None, "gl").certifies(1.0)


@pytest.mark.parametrize("name", CASES)
def test_evaluate_is_certify_region_for_each_method(name):
    family, region = CASES[name]
    outcomes = evaluate(family, region, ["neyman_pearson", "tss", "mp", "gl_printed"])
    assert list(outcomes) == ["neyman_pearson", "tss", "mp", "gl_printed"]
    for method, outcome in outcomes.items():
        assert outcome.method == method
        if outcome.h_min is None:
            with pytest.raises(gs.NotApplicable) as refusal:
                certify_region(family, region, method)
            assert outcome.argument == str(refusal.value)
            assert outcome.sound == METHODS[method].sound
        else:
            assert outcome == certify_region(family, region, method)


def test_a_mistake_is_no_reason_of_a_method():
    with pytest.raises(UserError, match="did you mean 'gl'"):
        evaluate(BRIGHTNESS, gs.Box(brightness=(-0.1, 0.1)), ["gll"])
    with pytest.raises(UserError, match="contrast"):
        evaluate(BRIGHTNESS, gs.Box(contrast=(0.9, 1.1)), ["neyman_pearson"])


@pytest.mark.parametrize(
    ("family", "method", "point"), [(BRIGHTNESS, "tss", {"brightness": 0.3}), (GAMMA, "mp", {"gamma": 1.3})]
)
def test_closed_forms_cost_no_neyman_pearson_at_points(monkeypatch, family, method, point):
    exact = gs.required_probability(family, gs.Points([point]))

    def never(*arguments):
        raise AssertionError("the bound over a region was asked for")

    monkeypatch.setattr(cover, "worst_case", never)
    h_min = gs.required_probability(family, gs.Points([point, {}]), method)
    assert exact <= h_min + 1e-13
    box = gs.Box(**{name: (1.0, 1.2) for name in point})
    with pytest.raises(AssertionError, match="over a region"):
        gs.required_probability(family, box, method)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", ["tss", "mp"])
def test_closed_forms_are_not_below_the_exact_value_at_points(name, method):
    family, region = CASES[name]
    rng = np.random.default_rng(0)
    intervals = region.intervals if isinstance(region, gs.Box) else {}
    whole = family.transform.integer_parameters
    for _ in range(20):
        point = {n: float(rng.uniform(low, high)) for n, (low, high) in intervals.items()}
        point = {n: round(v) if n in whole else v for n, v in point.items()}
        outcome = evaluate(family, gs.Points([point]), [method])[method]
        if outcome.h_min is None:
            return
        assert outcome.h_min >= gs.tradeoff(family, point).inverse(0.5) - 1e-13


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.sound])
def test_an_approximate_transformation_is_refused_for_points_too(method):
    reflected = gs.SmoothedFamily(
        gs.transforms.Translation(padding="reflect"), {"tx": gs.Normal(0, 3), "ty": gs.Normal(0, 3)}
    )
    with pytest.raises(gs.NotApplicable, match="only approximately resolvable"):
        gs.required_probability(reflected, gs.Points([{"tx": 1, "ty": 0}]), method)
