"""TSS and MP: their theorems' values, never below Neyman-Pearson, and equal to it where they are tight."""

import math

import numpy as np
import pytest
from scipy.stats import norm

import glsmooth as gs
from glsmooth.bounds import mp, tss

from .families import LN, N, R, T, family

FIRST = family(T.ContrastBrightness(order="brightness_first"), contrast=LN(0, 0.6), brightness=N(0, 0.6))
BLURRED = family(
    T.TranslationBlurBrightnessContrast(),
    tx=N(0, 10),
    ty=N(0, 10),
    blur=gs.Exponential(0.5),
    contrast=LN(0, 0.8),
    brightness=N(0, 0.8),
)


@pytest.mark.parametrize(("contrast", "value"), [(0.5, 0.9984), (2.0, 0.9806)])
def test_tss_contrast_brightness(contrast, value):
    value_found = tss.required_probability_at(FIRST, {"contrast": contrast, "brightness": 0.4})
    assert value_found == pytest.approx(value, abs=6e-5)


@pytest.mark.parametrize("f", [FIRST, BLURRED])
def test_tss_is_never_below_neyman_pearson(f):
    rng = np.random.default_rng(0)
    for _ in range(25):
        beta = {"contrast": float(np.exp(rng.normal(0, 0.3))), "brightness": float(rng.normal(0, 0.3))}
        if f is BLURRED:
            beta |= {"tx": float(rng.normal(0, 4)), "ty": float(rng.normal(0, 4)), "blur": float(rng.exponential(0.5))}
        exact = gs.tradeoff(f, beta).inverse(0.5)
        assert tss.required_probability_at(f, beta) >= exact - 1e-6


@pytest.mark.parametrize(
    ("f", "beta"),
    [
        (family(T.Brightness(), brightness=N(0, 0.3)), {"brightness": -0.4}),
        (family(T.Translation(), tx=N(0, 5), ty=N(0, 8)), {"tx": 4, "ty": 4}),
        (
            family(T.BrightnessTranslation(), brightness=N(0, 0.3), tx=N(0, 5), ty=N(0, 8)),
            {"brightness": 0.1, "tx": 4, "ty": 4},
        ),
        (family(T.GaussianBlur(), blur=gs.Exponential(0.3)), {"blur": 2.0}),
        (BLURRED, {"tx": 3, "ty": 2, "blur": 1.0, "contrast": 1.0, "brightness": 0.2}),
    ],
)
def test_tss_equals_neyman_pearson_where_it_is_tight(f, beta):
    full = {**dict(zip(f.parameters, f.transform.identity.tolist(), strict=True)), **beta}
    assert tss.required_probability_at(f, full) == pytest.approx(gs.tradeoff(f, full).inverse(0.5), abs=2e-6)


def test_tss_radius_of_translation():
    f = family(T.Translation(), tx=N(0, 10), ty=N(0, 10))
    assert tss.required_probability_at(f, {"tx": 12, "ty": 16}) == pytest.approx(norm.cdf(2))


@pytest.mark.parametrize("scale", [0.1, 3.0])
@pytest.mark.parametrize("gamma", [0.5, 0.8, 1.0, 1.4, 2.0])
def test_mp_equals_neyman_pearson_whatever_the_scale(gamma, scale):
    f = family(T.Gamma(), gamma=R(scale))
    value = mp.required_probability_at(f, {"gamma": gamma})
    assert value == pytest.approx(gs.tradeoff(f, {"gamma": gamma}).inverse(0.5), abs=1e-9)
    assert value == pytest.approx(max(2 ** -(gamma**2), 1 - 2 ** -(gamma**2)))


@pytest.mark.parametrize(
    ("f", "method", "reason"),
    [
        (family(T.ContrastBrightness(), contrast=LN(0, 0.6), brightness=N(0, 0.6)), "tss", "brightness_first"),
        (family(T.GaussianBlur(), blur=R(2.0)), "tss", "exponential"),
        (family(T.Brightness(), brightness=gs.Uniform(-1, 1)), "tss", "normal"),
        (family(T.Brightness(), brightness=N(0, 1)), "mp", "multiplicative"),
        (family(T.Gamma(), gamma=LN(0, 0.3)), "mp", "Rayleigh"),
        (family(T.Translation(), (8, 8), tx=gs.UniformCyclic(), ty=N(0, 1)), "tss", "torus"),
    ],
)
def test_refusals_say_why(f, method, reason):
    name = f.parameters[0]
    inside = {"blur": (0, 1)}.get(name, (1, 1.1))
    with pytest.raises(gs.NotApplicable, match=reason):
        gs.required_probability(f, gs.Box(**{name: inside}), method)


def test_a_region_is_covered_even_where_the_formula_peaks_inside():
    """TSS's value along the contrast of a region is not monotone in general: the region's value covers a scan."""
    region = gs.Box(contrast=(0.6, 1.7), brightness=(-0.3, 0.3))
    h = gs.required_probability(FIRST, region, "tss")
    for c in np.geomspace(0.6, 1.7, 40):
        beta = {"contrast": float(c), "brightness": 0.3}
        assert gs.tradeoff(FIRST, beta).inverse(0.5) <= h
    assert not math.isnan(h)


class TwoGroups(T.ResolvableTransform):
    name = "two_groups"
    factors = (T.ShiftThenScale("c", "b"), T.ShiftThenScale("d", "e"))

    def apply(self, images, theta):
        return images


def test_tss_corrects_the_variance_of_one_group_only():
    f = family(TwoGroups(), c=LN(0, 0.6), b=N(0, 0.6), d=LN(0, 0.6), e=N(0, 0.6))
    point = gs.Points([{"c": 0.5, "b": 0.1, "d": 1.0, "e": 0.1}])
    with pytest.raises(gs.NotApplicable, match="two contrast-brightness groups"):
        gs.required_probability(f, point, "tss")


@pytest.mark.parametrize(
    ("f", "method", "name"), [(FIRST, "tss", "contrast"), (family(T.Gamma(), gamma=R(1)), "mp", "gamma")]
)
def test_closed_forms_at_points_are_rounded_up(f, method, name):
    """Beside the identity a formula's own rounding may fall below 1/2, or below what it stands for."""
    assert gs.required_probability(f, gs.Points([{name: 1.0}]), method) == 0.5
    for steps in range(-200, 200):
        if steps:
            value = 1 + steps * 2.0**-52
            assert 0.5 < gs.required_probability(f, gs.Points([{name: value}]), method) < 0.5 + 1e-12
