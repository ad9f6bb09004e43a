"""Laws in the place of a family's own: what comes, that it is admitted, and that it is what it says."""

import math
from itertools import pairwise

import pytest
import torch

import glsmooth as gs
from glsmooth.family.candidates import _multipliers, candidates, spread
from glsmooth.laws import LAWS

T = gs.transforms


def family(name, laws, size=None):
    return gs.SmoothedFamily(T.BUILTIN[name](), laws, size)


NORMAL, LOG_NORMAL = gs.Normal(0.0, 0.6), gs.LogNormal(0.0, 0.6)
#: Families with a region, and the kinds of laws to expect on each line of parameters.
FAMILIES = {
    "brightness": (family("brightness", {"brightness": NORMAL}), {"brightness": (-0.2, 0.2)}),
    "brightness, off its centre": (
        family("brightness", {"brightness": gs.Normal(0.4, 0.1)}),
        {"brightness": (0.0, 1.0)},
    ),
    "contrast": (family("contrast", {"contrast": LOG_NORMAL}), {"contrast": (0.7, 1.4)}),
    "gamma": (family("gamma", {"gamma": gs.Rayleigh(0.1)}), {"gamma": (1.0, 2.0)}),
    "blur": (family("gaussian_blur", {"blur": gs.Uniform(0.0, 4.0)}), {"blur": (0.0, 1.0)}),
    "torus": (
        family("translation", {"tx": gs.Normal(0.0, 1.5), "ty": gs.Normal(0.0, 2.0)}, (8, 8)),
        {"tx": (-1.0, 1.0), "ty": (-1.0, 1.0)},
    ),
    "cyclic": (
        family("translation", {"tx": gs.UniformCyclic(), "ty": gs.UniformCyclic()}, (8, 8)),
        {"tx": (-1.0, 1.0), "ty": (-1.0, 1.0)},
    ),
    "two": (
        family("contrast_brightness", {"contrast": LOG_NORMAL, "brightness": NORMAL}),
        {"contrast": (0.7, 1.4), "brightness": (-0.2, 0.2)},
    ),
    "shifts and brightness": (
        family("brightness_translation", {"tx": gs.Normal(0, 2), "ty": gs.Normal(0, 2), "brightness": NORMAL}, (8, 8)),
        {"tx": (-1.0, 1.0), "brightness": (-0.2, 0.2)},
    ),
}
cases = pytest.mark.parametrize(("start", "region"), FAMILIES.values(), ids=FAMILIES)


def found(start, region, scales=6):
    return candidates(start, gs.Box(**region), scales)


@cases
def test_each_is_another_family_and_the_own_one_is_there_once(start, region):
    tried = found(start, region)
    assert [one.family for one in tried if one.own] == [start]
    assert len({one.family.laws for one in tried}) == len(tried)
    assert 10 <= len(tried) <= 32
    for one in tried:
        assert (one.family.transform, one.family.image_size) == (start.transform, start.image_size)
        differs = {name for name in start.parameters if one.family.laws[name] != start.laws[name]}
        assert differs <= set(one.varied)
        one.family.check_region(gs.Box(**region))


KINDS = {
    "brightness": {"Normal", "Laplace", "Uniform"},
    # Of laws with one end those remain whose median can be that of the law.
    "brightness, off its centre": {"Normal", "Laplace", "Uniform", "LogNormal"},
    "contrast": {"LogNormal", "Rayleigh", "Exponential", "HalfNormal", "Uniform"},
    "gamma": {"LogNormal", "Rayleigh", "Exponential", "HalfNormal", "Uniform"},
    "blur": {"LogNormal", "Rayleigh", "Exponential", "HalfNormal", "Uniform"},
    "torus": {"Normal", "Laplace", "Uniform", "UniformCyclic"},
    "cyclic": {"Normal", "Laplace", "Uniform", "UniformCyclic"},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_that_the_family_admits_is_tried(name):
    assert {one.kind for one in found(*FAMILIES[name])} == KINDS[name]


def test_what_is_no_law_any_more_is_not_tried(monkeypatch):
    monkeypatch.delitem(LAWS, "Exponential")
    assert {one.kind for one in found(*FAMILIES["contrast"])} == KINDS["contrast"] - {"Exponential"}


def test_the_cyclic_law_needs_a_torus():
    plane = family("translation", {"tx": gs.Normal(0.0, 1.5), "ty": gs.Normal(0.0, 2.0)})
    assert {one.kind for one in found(plane, {"tx": (-1.0, 1.0)})} == {"Normal", "Laplace", "Uniform"}


@cases
def test_other_kinds_have_the_spread_and_where_they_can_the_median(start, region):
    for one in found(start, region):
        for name in one.varied:
            law, own = one.family.laws[name], start.laws[name]
            if law.cyclic or own.cyclic or type(law) is type(own):
                continue
            if one.multiplier == 1:
                assert spread(one.family, name) == pytest.approx(spread(start, name), rel=0.02)
            if "loc" in law.fields:
                half = torch.tensor(0.5, dtype=torch.float64)
                assert float(law.icdf(half)) == pytest.approx(float(own.icdf(half)), rel=0.02, abs=1e-9)


@cases
@pytest.mark.parametrize("scales", [3, 6, 9])
def test_scales_are_geometric_around_the_own_one_and_the_region(start, region, scales):
    lines = {}
    for one in found(start, region, scales):
        lines.setdefault((one.varied, one.kind), []).append(one.multiplier)
    longest = max(lines.values(), key=len)
    assert scales - 1 <= len(longest) <= scales
    assert longest == sorted(longest)
    together = longest if len(longest) == scales else sorted([*longest, 1.0])
    assert 1.0 in together
    assert together[0] <= 0.5
    assert together[-1] >= 2
    for part in ([m for m in together if m <= 1], [m for m in together if m >= 1]):
        steps = [math.log(b / a) for a, b in pairwise(part)]
        assert max(steps) == pytest.approx(min(steps), rel=1e-6)


def test_the_spread_of_a_normal_law_is_its_scale():
    start, _ = FAMILIES["brightness"]
    assert spread(start, "brightness") == pytest.approx(0.6, rel=1e-9)
    cyclic, _ = FAMILIES["cyclic"]
    assert spread(cyclic, "tx") == pytest.approx(8 * 0.3413, rel=1e-3)


def test_a_law_far_from_its_origin_stays_there():
    start = family("brightness", {"brightness": gs.Normal(1234.5678, 0.1)})
    for one in found(start, {"brightness": (-0.1, 0.1)}):
        middle = float(one.family.laws["brightness"].icdf(torch.tensor(0.5, dtype=torch.float64)))
        assert middle == pytest.approx(1234.5678, abs=0.01 * spread(one.family, "brightness"))


def test_several_parameters_vary_together_and_alone():
    start, region = FAMILIES["shifts and brightness"]
    tried = found(start, region)
    assert {frozenset(one.varied) for one in tried} == {
        frozenset(names) for names in (start.parameters, ("brightness",), ("tx", "ty"))
    }
    for one in tried:
        if len(one.varied) == 3:
            ratios = [one.family.laws[name].scale / start.laws[name].scale for name in one.varied]
            assert max(ratios) == pytest.approx(min(ratios), rel=0.01)


def test_a_law_with_one_number_does_not_move_a_parameter_that_has_two_sides():
    """It would brighten every image."""
    assert not {"Rayleigh", "Exponential", "HalfNormal", "LogNormal"} & {
        type(law).__name__ for one in found(*FAMILIES["brightness"]) for law in one.family.laws.values()
    }


@pytest.mark.parametrize("ends", [(0.0, 0.0), (-1e-7, 1e-7), (-1e6, 1e6)])
def test_extreme_regions_have_candidates(ends):
    start, _ = FAMILIES["brightness"]
    tried = found(start, {"brightness": ends})
    assert sum(one.own for one in tried) == 1
    assert len(tried) >= 6


def test_scales_are_as_dense_below_the_law_as_above():
    of = FAMILIES["brightness"][0]
    unit = spread(of, "brightness")
    found = _multipliers(of, gs.Box(brightness=(-unit, unit)), ("brightness",), 5)
    assert found == pytest.approx([2.0**i for i in (-1, -0.5, 0, 0.5, 1)])
    # From half of what the law is, to twice the region: a small part of the way is below it.
    found = _multipliers(of, gs.Box(brightness=(-16 * unit, 16 * unit)), ("brightness",), 7)
    assert found == pytest.approx([2.0**i for i in (-1, 0, 1, 2, 3, 4, 5)])
