"""Bounds at the edge of what they can compute: a value that is right or a message, never a crash."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, ndtri

import glsmooth as gs
from glsmooth.bounds.cover.balls import slabs

from .families import N, T, family


def test_a_law_that_never_leaves_its_pixel_certifies_no_shift() -> None:
    laws = {"tx": gs.Normal(0.0, 0.01), "ty": gs.Normal(0.0, 5.0)}
    family = gs.SmoothedFamily(gs.transforms.Translation(), laws, image_size=(32, 48))
    assert gs.required_probability(family, gs.Box(tx=(-3, 3), ty=(-1, 1))) == 1.0


def test_uniform_brightness_before_contrast_has_a_bound() -> None:
    laws = {"contrast": gs.LogNormal(0.0, 0.6), "brightness": gs.Uniform(-1.0, 1.0)}
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness("brightness_first"), laws)
    h_min = gs.required_probability(family, gs.Box(contrast=(0.9, 1.1), brightness=(-0.1, 0.1)))
    corner = gs.required_probability(family, gs.Points([{"contrast": 0.9, "brightness": 0.1}]))
    assert corner - 2e-6 <= h_min < corner + 0.02


@pytest.mark.parametrize("box", [{"contrast": (1e-300, 1e300)}, {"brightness": (-1e200, 1e200)}])
@pytest.mark.parametrize("method", ["neyman_pearson", "gl", "tss"])
def test_values_that_would_overflow_are_refused(box: dict[str, tuple[float, float]], method: str) -> None:
    laws = {"contrast": gs.LogNormal(0.0, 0.6), "brightness": gs.Normal(0.0, 0.6)}
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness("brightness_first"), laws)
    with pytest.raises(ValueError, match="too extreme"):
        gs.required_probability(family, gs.Box(**box), method)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_scales_that_would_overflow_are_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale=.* too extreme"):
        gs.Normal(0.0, scale)


def test_a_log_normal_law_too_wide_for_floats_is_refused() -> None:
    with pytest.raises(ValueError, match="scale=50 is too wide"):
        gs.LogNormal(0.0, 50.0)


def test_a_wide_power_beside_a_large_contrast_has_a_bound() -> None:
    laws = {"gamma": gs.LogNormal(0.0, 3.0), "contrast": gs.Exponential(1.0)}
    family = gs.SmoothedFamily(gs.transforms.GammaContrast(), laws)
    assert 0.5 < gs.required_probability(family, gs.Points([{"gamma": 1.2, "contrast": 3.0}])) <= 1.0


def test_a_law_too_wide_for_its_cycle_is_refused() -> None:
    laws = {"tx": gs.Normal(0.0, 1e9), "ty": gs.Normal(0.0, 5.0)}
    family = gs.SmoothedFamily(gs.transforms.Translation(), laws, image_size=(32, 32))
    with pytest.raises(gs.NotApplicable, match="UniformCyclic"):
        gs.required_probability(family, gs.Box(tx=(-3, 3)))


def test_a_ball_between_pixels_is_refused() -> None:
    laws = {"tx": gs.Normal(0.0, 3.0), "ty": gs.Normal(0.0, 5.0)}
    family = gs.SmoothedFamily(gs.transforms.Translation(), laws, image_size=(32, 32))
    with pytest.raises(gs.NotApplicable, match="no whole number"):
        gs.required_probability(family, gs.Ball(0.3, tx=0.5, ty=0.5))


@pytest.mark.parametrize(
    ("s", "t", "c", "b"),
    [(1.0, 0.8, 0.4544808, 0.0026494), (0.6, 0.6, 0.390060, 0.0039605), (0.8, 0.6, 0.545947, 0.00245)],
)
def test_a_small_shift_beside_a_rescaling_is_not_underestimated(s: float, t: float, c: float, b: float) -> None:
    # log α_c and the normal loss of α_b given it, integrated by the midpoint rule on 4e5 points.
    z = ndtri((np.arange(400_000) + 0.5) / 400_000)
    k = np.log(c) / s  # under μ_β the coordinate is z + k, and α_c is exp(s z)
    size = np.exp(s * (z - k)) * b / t, np.exp(s * z) * b / t
    ell = k * z - k * k / 2, k * z + k * k / 2

    def line(x: float) -> float:  # P_0(L <= x) + exp(-x) (1/2 - P_β(L <= x)); the least is h_min
        below = ndtr((x - ell[0]) / size[0] + size[0] / 2).mean()
        return float(below + np.exp(-x) * (0.5 - ndtr((x - ell[1]) / size[1] - size[1] / 2).mean()))

    exact = minimize_scalar(line, bracket=(k * k / 2 - 0.01, k * k / 2 + 0.01), tol=1e-6).fun
    laws = {"contrast": gs.LogNormal(0.0, s), "brightness": gs.Normal(0.0, t)}
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness(), laws)
    h_min = gs.required_probability(family, gs.Points([{"contrast": c, "brightness": b}]))
    assert exact - 1e-7 < h_min < exact + 1e-6


def test_fractional_shifts_on_the_plane_are_covered_as_they_are_applied():
    """φ(x, 0.6) shifts by a whole pixel: an interval to 0.6 needs what a shift by 1 needs."""
    plane = family(T.Translation(), tx=N(0, 1), ty=N(0, 1))
    whole = gs.required_probability(plane, gs.Box(tx=(-1, 1)))
    for method in ("neyman_pearson", "tss", "gl"):
        assert gs.required_probability(plane, gs.Box(tx=(-0.6, 0.6)), method) >= whole
    assert gs.required_probability(plane, gs.Box(tx=(-0.4, 0.4))) < whole
    for low, high, wide in ((-0.6, 0.2, -1), (-1.7, -1.2, -2), (-0.2, 0.6, 1), (1.2, 1.7, 2), (0.6, 0.8, 1)):
        one_sided = gs.required_probability(plane, gs.Box(tx=(low, high)))
        assert one_sided == gs.required_probability(plane, gs.Points([{"tx": wide}]))
    with pytest.raises(ValueError, match="fractional point"):
        gs.required_probability(plane, gs.Points([{"tx": 0.6}]))


@pytest.mark.parametrize(
    ("contrast", "brightness", "beta", "exact"),
    [
        (gs.Rayleigh(0.42333), gs.Uniform(-0.289522, 0.289522), (0.5408490712851259, -0.1337232481681481), 0.8691719),
        (gs.Rayleigh(2.68095), gs.Uniform(-0.243078, 0.243078), (1.5139674, 0.00661315), 0.8190793),
        (gs.HalfNormal(1.20558), gs.Exponential(2.35613), (0.5616389, -0.015266), 0.7226790),
        (gs.Uniform(0.501567, 0.760517), gs.HalfNormal(0.231889), (1.743, 0.0279), 1.0),
    ],
)
def test_laws_that_jump_beside_a_contrast(contrast, brightness, beta, exact):
    """Explicit classifiers {L <= t} reach these values (to all digits given): windows start and stop to overlap."""
    f = gs.SmoothedFamily(T.ContrastBrightness(), {"contrast": contrast, "brightness": brightness})
    h = gs.tradeoff(f, dict(zip(("contrast", "brightness"), beta, strict=True))).inverse(0.5)
    assert exact - 5e-8 <= h <= min(1.0, exact + 1e-6)


def test_a_ball_over_a_torus_and_another_axis():
    torus = family(T.BrightnessTranslation(), (8, 8), brightness=N(0, 1), tx=N(0, 2), ty=N(0, 2))
    h = gs.required_probability(torus, gs.Ball(1.5, tx=0.5, brightness=0))
    assert gs.tradeoff(torus, {"tx": 1, "brightness": 1.4}).inverse(0.5) <= h < 1


@pytest.mark.parametrize(
    "law", [gs.Normal(0.0, 1.0), gs.Uniform(0.0, 1.0), gs.Exponential(1.0), gs.LogNormal(0.0, 1.0)]
)
def test_a_brightness_so_small_that_its_move_underflows_has_a_bound(law: gs.laws.Law) -> None:
    laws = {"contrast": gs.LogNormal(0.0, 0.5), "brightness": law}
    family = gs.SmoothedFamily(T.ContrastBrightness(), laws)
    alone = gs.required_probability(family, gs.Points([{"contrast": 2.0}]))
    small = gs.required_probability(family, gs.Points([{"contrast": 2.0, "brightness": 5e-324}]))
    assert alone - 1e-9 <= small < alone + 1e-3


@pytest.mark.parametrize("centre", [{"tx": 0.5}, {"tx": 0.5, "ty": 0.5}])
def test_a_ball_between_pixels_beside_a_brightness_is_refused(centre: dict[str, float]) -> None:
    laws = {"brightness": gs.Normal(0.0, 0.4), "tx": gs.Normal(0.0, 3.0), "ty": gs.Normal(0.0, 3.0)}
    family = gs.SmoothedFamily(T.BrightnessTranslation(), laws, image_size=(16, 16))
    with pytest.raises(gs.NotApplicable, match="no whole number"):
        gs.required_probability(family, gs.Ball(0.3 * len(centre), **centre, brightness=0.0))


def test_a_shift_on_the_boundary_of_a_ball_is_in_a_slab() -> None:
    ball = gs.Ball(1.9, tx=-0.9, ty=0.0)  # -0.9 + 1.9 < 1 in floating point
    assert ball.contains({"tx": 1, "ty": 0})
    assert any(slab.contains({"tx": 1, "ty": 0}) for slab in slabs(ball, ["tx", "ty"]))


def test_slabs_lose_no_shift_of_a_ball_to_rounding() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        centre, shift = rng.normal(0, 3, 2), rng.integers(-6, 7, 2)
        # The shift lies on the boundary.
        ball = gs.Ball(math.hypot(*(shift - centre)), tx=centre[0], ty=centre[1])
        point = {"tx": float(shift[0]), "ty": float(shift[1])}
        assert any(slab.contains(point) for slab in slabs(ball, ["tx", "ty"]))


@pytest.mark.parametrize(("low", "shift"), [(1e6, 0.1), (1e9, 0.1), (1e15, 0.05)])
def test_a_uniform_law_far_from_0_is_not_underestimated(low: float, shift: float) -> None:
    family = gs.SmoothedFamily(T.Brightness(), {"brightness": gs.Uniform(low, low + 1)})
    assert gs.required_probability(family, gs.Box(brightness=(-shift, shift))) >= 0.5 + shift


@pytest.mark.parametrize(
    ("loc", "scale", "c", "b", "truth"),
    # An interval of brightness, or its complement, that has probability 1/2 under μ_β; in 40 digits.
    [
        (1e6, 1.0, 1.0479171467469963, 45726.730444214416, 0.7412296612530621),
        (1e9, 1.0, 1.0365584339147014, 35269053.077530295, 0.6883030559587417),
        (1e6, 1e-3, 1.0499876130654355, 47607.81124424294, 0.8231565132359828),
    ],
)
def test_a_normal_law_far_from_0_is_not_underestimated(
    loc: float, scale: float, c: float, b: float, truth: float
) -> None:
    laws = {"contrast": gs.LogNormal(0.0, 10.0), "brightness": gs.Normal(loc, scale)}
    family = gs.SmoothedFamily(T.ContrastBrightness("brightness_first"), laws)
    h_min = gs.required_probability(family, gs.Points([{"contrast": c, "brightness": b}]))
    assert truth - 1e-12 <= h_min < truth + 1e-3


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1e-7), (3.0, 1e-12), (-100.0, 1e-5)])
def test_a_log_normal_law_too_narrow_for_floats_is_refused(loc: float, scale: float) -> None:
    with pytest.raises(ValueError, match="too narrow to compute with"):
        gs.LogNormal(loc, scale)


@pytest.mark.parametrize("loc", [0.0, 10.0, -100.0])
def test_the_narrowest_log_normal_laws_are_not_underestimated(loc: float) -> None:
    scale = 1.01e-6 * (1 + abs(loc))
    family = gs.SmoothedFamily(T.Brightness(), {"brightness": gs.LogNormal(loc, scale)})
    for z in (0.3, 0.9, 1.7):
        b = math.exp(loc) * scale * z
        # Darker than the median of μ_β: log(e^m + b) - m = log1p(b e^-m).
        before = float(ndtr(math.log1p(b * math.exp(-loc)) / scale))
        assert gs.required_probability(family, gs.Points([{"brightness": b}])) >= before - 1e-12


def test_laws_that_hardly_overlap_have_a_bound_beside_a_torus() -> None:
    """A ball moves a narrow brightness far out: its loss lies below every threshold, and no float overflows."""
    laws = {"brightness": gs.Rayleigh(0.03), "tx": gs.Rayleigh(29.6), "ty": gs.LogNormal(4.075, 0.6314)}
    torus = gs.SmoothedFamily(gs.transforms.BrightnessTranslation(), laws, image_size=(32, 32))
    assert gs.required_probability(torus, gs.Ball(2.0, brightness=0.0, tx=0.0, ty=-1.0)) == 1.0
