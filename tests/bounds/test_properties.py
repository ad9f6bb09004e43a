"""Properties that every required probability and trade-off curve has, on families drawn by hypothesis.

The package states its numbers as safe bounds, tight to 1e-6. So an exact relation between truths holds for the numbers
up to that: TIGHT below, once for each bound that enters.
"""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import glsmooth as gs
from tests.strategies import AFFINE, GROUPS, SIMPLE, T, families, nested_boxes, parameters, point_of, value

TIGHT = 1e-6
#: Derandomized: the same examples on every machine, so that a failure is a change of the code.
few = settings(max_examples=16, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None)
some = settings(few, max_examples=120)


def needs(family, beta):
    return gs.required_probability(family, gs.Points([beta]))


def curve(family, beta):
    return gs.tradeoff(family, beta)


def merged(family, alpha, beta):
    """γ(α, β) by name: β acts first."""
    transform = family.transform
    both = transform.resolve(transform.vector(alpha), transform.vector(beta))
    return dict(zip(family.parameters, both.tolist(), strict=True))


def inverse(family, beta):
    """The parameter that undoes β, from the table of groups: γ(inverse, β) is the identity."""
    order, undone = getattr(family.transform, "order", None), {}
    for name, amount in beta.items():
        undone[name] = 1 / amount if name in ("contrast", "gamma") else -amount
    if order == "contrast_first":
        undone["brightness"] = -beta["brightness"] / beta["contrast"]
    elif order == "brightness_first":
        undone["brightness"] = -beta["brightness"] * beta["contrast"]
    elif {"gamma", "contrast"} <= set(beta):
        undone["contrast"] = beta["contrast"] ** (-1 / beta["gamma"])
    return undone


def check_larger_region(family, data):
    inner, outer = data.draw(nested_boxes(family))
    small, large = gs.required_probability(family, inner), gs.required_probability(family, outer)
    assert 0.5 <= small <= large + 2 * TIGHT
    assert large <= 1
    point = data.draw(point_of(inner, family))
    assert curve(family, point).inverse(0.5) <= small + 2 * TIGHT


@some
@given(families(), st.data())
def test_a_larger_region_never_needs_less(family, data):
    check_larger_region(family, data)


@few
@given(families(AFFINE, symmetric=True), st.data())
def test_a_larger_region_never_needs_less_in_the_affine_groups(family, data):
    check_larger_region(family, data)


@some
@given(families(GROUPS + AFFINE, symmetric=True), st.data())
def test_symmetric_laws(family, data):
    """Reflecting the coordinate of a symmetric law leaves β₀'s law and turns β's into that of the mirrored β."""
    beta = data.draw(parameters(family))
    mirror = dict(beta)
    if set(beta) == {"contrast", "brightness"}:
        mirror["brightness"] = -beta["brightness"]
        if family.transform.order == "brightness_first":
            # The mirror image of b + α_b / c about the law's centre is -b + α_b / c only for a centre at 0.
            centre = family.laws["brightness"].symmetric_about
            assume(abs(centre) < 1e-12 or beta["contrast"] == 1)
    elif set(beta) == {"gamma", "contrast"}:
        mirror["contrast"] = 1 / beta["contrast"]
    elif set(beta) <= {"contrast", "gamma"}:
        mirror = {name: 1 / amount for name, amount in beta.items()}
    else:
        if family.torus:
            # round(α) is symmetric only about a whole or half number; elsewhere ties of rounding spoil it too.
            assume(all((2 * law.symmetric_about) % 1 in (0, 0.5) for law in family.laws.values()))
        mirror = {name: -amount for name, amount in beta.items()}
    assert needs(family, beta) == pytest.approx(needs(family, mirror), abs=2 * TIGHT)


@some
@given(families(GROUPS + AFFINE), st.data())
def test_the_way_back(family, data):
    """F is good evidence against β exactly if 1 - F is against its inverse: h(β) = 1 - N_{β⁻¹}(1/2) on a group."""
    beta = data.draw(parameters(family))
    back = inverse(family, beta)
    identity = dict(zip(family.parameters, family.transform.identity.tolist(), strict=True))
    assert merged(family, back, beta) == pytest.approx(identity, abs=1e-12)
    forward, backward = curve(family, beta), curve(family, back)
    level = data.draw(st.sampled_from([0.5, 0.2, 0.9]))
    required = forward.inverse(level)
    # At the ends both are generalised inverses: the mass that β₀ has alone is not seen from the other side.
    assume(required < 1 - 1e-9)
    slope = 1 / max(1e-9, (forward.inverse(level + 1e-3) - required) / 1e-3)
    assert required == pytest.approx(1 - backward(1 - level), abs=3 * TIGHT * max(1.0, slope))


@some
@given(st.sampled_from(["Normal", "Rayleigh", "HalfNormal", "Exponential"]), value("brightness"), st.floats(0.01, 100))
def test_units_do_not_matter(law, beta, unit):
    def family(factor):
        made = {
            "Normal": lambda: gs.Normal(0.3 * factor, 0.5 * factor),
            "Exponential": lambda: gs.Exponential(2 / factor),
            "Rayleigh": lambda: gs.Rayleigh(0.5 * factor),
            "HalfNormal": lambda: gs.HalfNormal(0.5 * factor),
        }[law]()
        return gs.SmoothedFamily(T.Brightness(), {"brightness": made})

    one, other = needs(family(1.0), {"brightness": beta}), needs(family(unit), {"brightness": beta * unit})
    assert one == pytest.approx(other, abs=2 * TIGHT)


def check_two_steps(family, data):
    """First β₁, then β₂: h(γ(β₂, β₁)) <= N_{β₁}⁻¹(h(β₂)), since h(β₁) >= N_{β₁}(h(0))."""
    first, second = data.draw(parameters(family)), data.draw(parameters(family))
    direct = needs(family, merged(family, second, first))
    assert direct <= curve(family, first).inverse(min(1.0, needs(family, second))) + 2 * TIGHT


@some
@given(families(), st.data())
def test_two_steps_need_at_least_one(family, data):
    check_two_steps(family, data)


@few
@given(families(AFFINE), st.data())
def test_two_steps_in_the_affine_groups(family, data):
    check_two_steps(family, data)


@some
@given(families(SIMPLE + AFFINE), st.data())
def test_curves_are_tradeoff_functions(family, data):
    """Convex, nondecreasing, at most p, and N(N⁻¹(q)) is q: a flat piece at 0 is where N⁻¹ may jump."""
    n = curve(family, data.draw(parameters(family)))
    levels = [*(i / 10 for i in range(10)), 0.99, 0.999]
    values = [n(p) for p in levels]
    assert all(math.isfinite(v) for v in values)
    for p, v in zip(levels, values, strict=True):
        assert -1e-12 <= v <= p + 1e-12
    for left, right in pairwise(values):
        assert left <= right + TIGHT
    for left, middle, right in zip(values[:8], values[1:], values[2:], strict=False):  # the evenly spaced ones
        assert 2 * middle <= left + right + 4 * TIGHT
    for q in (0.05, 0.5, 0.8):
        p = n.inverse(q)
        assert 0 <= p <= 1
        # Certified at p means at least q: a bound that rounds up certifies, one that rounds down would not.
        if p < 1:
            steepest = max(1.0, (n(min(1.0, p + 1e-3)) - n(p)) / 1e-3)
            assert n(p) >= q - 2 * TIGHT * steepest


@some
@given(families(SIMPLE + AFFINE[2:]), st.data())
def test_any_region_gives_a_value_or_a_clear_error(family, data):
    """Whatever numbers are typed: a value in [1/2, 1], or a ValueError that names the parameter."""
    wild = st.one_of(
        st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, -1.0, 1e-300, 1e300, 1e9, -1e9, 0.5])
    )
    ends = {name: data.draw(st.tuples(wild, wild)) for name in family.parameters}
    if data.draw(st.booleans()):
        ends = {name: tuple(sorted(pair)) for name, pair in ends.items()}
    refusal = None
    try:
        result = gs.required_probability(family, gs.Box(**ends))
    except ValueError as error:
        refusal = str(error)
    if refusal is None:
        assert 0.5 <= result <= 1
    else:
        assert any(name in refusal for name in family.parameters), refusal


def test_identity_needs_one_half():
    for make in (*SIMPLE, *AFFINE):
        transform = make()
        laws = {name: gs.Rayleigh(1.0) for name in transform.parameters}
        family = gs.SmoothedFamily(transform, laws)
        assert torch.equal(transform.vector({}), transform.identity)
        assert needs(family, {}) == pytest.approx(0.5, abs=TIGHT)
