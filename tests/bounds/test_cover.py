"""Does the value of a region cover every β in it? Random and optimiser-driven search for one that it does not."""

import numpy as np
import pytest
import torch
from scipy.optimize import differential_evolution
from scipy.stats import norm

import glsmooth as gs
from glsmooth.bounds.cover import _axes, _cyclic_candidates, _width, covers_torus
from glsmooth.transforms.factors import Domain, Shift

from .families import OTHERS, ROWS, TORUS, N, R, T, family

CASES = {**{row.name: (row.family, row.region) for row in ROWS}, **OTHERS, **TORUS}
CASES["one-sided"] = (ROWS[0].family, gs.Box(contrast=(1.0, 1.6), brightness=(0.0, 0.3)))
CASES["without the identity"] = (ROWS[0].family, gs.Box(contrast=(0.6, 0.8), brightness=(0.1, 0.3)))
CASES["degenerate"] = (ROWS[0].family, gs.Box(contrast=(0.8, 0.8), brightness=(-0.1, 0.3)))
CASES["asymmetric"] = (ROWS[1].family, gs.Box(gamma=(0.9, 1.1), contrast=(0.7, 1.1)))
CASES["blur that bends"] = (family(T.GaussianBlur(), blur=gs.LogNormal(0, 0.3)), gs.Box(blur=(0, 0.5)))
SLOW = {"uniform brightness after contrast", "translation_blur_brightness_contrast"}


def points_of(f, region):
    names = list(region.intervals)

    def point(u):
        values = {}
        for name, t in zip(names, u, strict=True):
            low, high = region.intervals[name]
            values[name] = float(low + t * (high - low))
            if name in f.torus:
                values[name] = float(np.clip(round(values[name]), np.ceil(low), np.floor(high)))
        return values

    return point, len(names)


@pytest.mark.parametrize("case", CASES)
def test_no_parameter_of_a_box_needs_more(case):
    f, region = CASES[case]
    h = gs.required_probability(f, region)
    point, d = points_of(f, region)
    rng = np.random.default_rng(0)
    for u in rng.random((6 if case in SLOW else 40, d)):
        assert gs.tradeoff(f, point(u)).inverse(0.5) <= h + 1e-9
    if case in SLOW:
        return
    found = differential_evolution(
        lambda u: -gs.tradeoff(f, point(u)).inverse(0.5),
        [(0, 1)] * d,
        maxiter=6,
        popsize=6,
        seed=1,
        polish=False,
    )
    assert -found.fun <= h + 1e-9
    # The cover is not a loose one: a searcher comes near the value.
    assert gs.tradeoff(f, gs.bounds.certify_region(f, region).worst).inverse(0.5) >= h - 2e-6


@pytest.mark.parametrize(
    ("f", "ball"),
    [
        (family(T.Translation(), tx=N(0, 5), ty=N(0, 5)), gs.Ball(5, tx=0, ty=0)),
        (family(T.Translation(), tx=N(0, 5), ty=N(0, 9)), gs.Ball(5, tx=0, ty=0)),
        (family(T.Translation(), (32, 32), tx=N(0, 5), ty=N(0, 5)), gs.Ball(5, tx=0, ty=0)),
        (family(T.Translation(), (32, 32), tx=N(0, 5), ty=R(4)), gs.Ball(4.5, tx=1, ty=-2)),
        (family(T.Translation(), tx=R(5), ty=R(5)), gs.Ball(3, tx=0, ty=0)),
    ],
)
def test_no_parameter_of_a_ball_needs_more(f, ball):
    h = gs.required_probability(f, ball)
    rng = np.random.default_rng(0)
    best = 0.5
    for direction in rng.standard_normal((200, 2)):
        step = ball.radius * direction / np.linalg.norm(direction) * rng.random() ** 0.1
        beta = {n: c + float(s) for (n, c), s in zip(ball.centre.items(), step, strict=True)}
        if f.torus:
            beta = {n: float(round(v)) for n, v in beta.items()}
        if ball.contains(beta):
            best = max(best, gs.tradeoff(f, beta).inverse(0.5))
    assert best <= h + 1e-9
    assert h < best + 0.02


def test_a_ball_of_normal_shifts_is_tss():
    f = family(T.Translation(), tx=N(0, 10), ty=N(0, 10))
    assert gs.required_probability(f, gs.Ball(20, tx=0, ty=0)) == pytest.approx(0.97725, abs=1e-5)
    assert gs.required_probability(f, gs.Ball(20, tx=0, ty=0), "tss") == pytest.approx(0.97725, abs=1e-5)


def test_points():
    f = ROWS[0].family
    points = [{"contrast": 0.5}, {"contrast": 0.5, "brightness": 0.4}]
    assert gs.required_probability(f, gs.Points(points)) == pytest.approx(0.92221, abs=6e-6)
    assert gs.bounds.certify_region(f, gs.Points(points)).worst == points[1]


def test_dominated_shifts_are_dropped_and_others_are_not():
    assert _cyclic_candidates(N(0, 3), 32, (-3, 3)) in ([-3.0], [3.0])
    kept = _cyclic_candidates(N(0, 6), 32, (-20, 20))
    assert 16.0 in {abs(v) for v in kept}
    assert 20.0 not in {abs(v) for v in kept}  # it is the shift by 12, on the other side
    assert _cyclic_candidates(gs.UniformCyclic(), 32, (2, 9)) == [2.0]


def test_a_fractional_box_means_its_integers():
    f, _ = TORUS["torus 32, narrow"]
    whole = gs.required_probability(f, gs.Box(tx=(-3, 3), ty=(-3, 3)))
    assert gs.required_probability(f, gs.Box(tx=(-3.9, 3.18), ty=(-3.5, 3.0))) == whole
    with pytest.raises(gs.NotApplicable, match="no whole number"):
        gs.required_probability(f, gs.Box(tx=(0.2, 0.8)))


def test_covering_the_whole_torus_is_said():
    f, _ = TORUS["torus 32, narrow"]
    assert covers_torus(f, gs.Box(tx=(-16, 15), ty=(-3, 3))) == ["tx"]
    assert covers_torus(f, gs.Box(tx=(-15, 15), ty=(-3, 3))) == []


def test_larger_regions_need_no_less():
    f = ROWS[0].family
    values = [
        gs.required_probability(f, gs.Box(contrast=(1 - s / 2, 1 + s), brightness=(-s / 3, s / 3)))
        for s in (0.2, 0.5, 0.9)
    ]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("f", "name", "box"),
    [
        (ROWS[0].family, "contrast", {"contrast": (0.5, 2.0), "brightness": (0.4, 0.4)}),
        (ROWS[1].family, "gamma", {"gamma": (0.8, 1.4), "contrast": (2.0, 2.0)}),
        (
            family(T.ContrastBrightness(order="brightness_first"), contrast=gs.LogNormal(0, 0.6), brightness=N(0, 0.6)),
            "contrast",
            {"contrast": (0.5, 2.0), "brightness": (0.4, 0.4)},
        ),
        (family(T.GaussianBlur(), blur=gs.LogNormal(0, 0.3)), "blur", {"blur": (0.0, 0.5)}),
    ],
)
def test_curvature_bounds_the_second_derivative_of_the_density(f, name, box):
    """½ ∫ |∂²ρ| along the searched coordinate, by importance sampling and finite differences of the density."""
    (axes,) = [_axes(factor, f, box) for factor in f.transform.factors]
    fixed = {k: v[0] for k, v in box.items() if k != name}
    generator = torch.Generator().manual_seed(0)
    log = f.transform.domain(name).low == 0 and name != "blur"
    for at in (0.3, 0.8):
        low, high = box[name]
        here = low * (high / low) ** at if log else low + at * (high - low)
        beta = f.transform.vector({**fixed, name: here})
        theta = f.transform.resolve(f.sample(100_000, generator), beta)
        e = 1e-3
        moved = [here * np.exp(k * e) if log else here + k * e for k in (-1, 0, 1)]
        densities = [f.log_density(theta, f.transform.vector({**fixed, name: float(v)})).exp() for v in moved]
        second = (densities[0] - 2 * densities[1] + densities[2]) / e**2 / densities[1]
        second = second[torch.isfinite(second)].abs()
        estimate, spread = 0.5 * float(second.mean()), 0.5 * float(second.std()) / len(second) ** 0.5
        claimed = axes.curvature(fixed)
        assert estimate - 4 * spread <= claimed
        assert claimed < 4 * estimate  # and it is not a useless one


def test_curvature_of_contrast_brightness_in_closed_form():
    """Every term of ½ E|∂²ρ/ρ|, bounded one by one, is there: z normal, α = e^(sz) the contrast, d/t the brightness."""
    s, t, d = 0.6, 0.6, 0.4
    box = {"contrast": (0.5, 2.0), "brightness": (d, d)}
    (axes,) = [_axes(factor, ROWS[0].family, box) for factor in ROWS[0].family.transform.factors]
    first, second = 2 * norm.pdf(0), 4 * norm.pdf(1)
    weighted = np.exp(s**2 / 2) * (2 * norm.pdf(s) + s * (2 * norm.cdf(s) - 1)) / s
    mean, square = np.exp(s**2 / 2), np.exp(2 * s**2)
    exact = second / s**2 + 2 * weighted * first * d / t + square * second * (d / t) ** 2 + mean * first * d / t
    assert exact / 2 <= axes.curvature({"brightness": d}) <= 1.04 * exact / 2


def test_a_shift_is_measured_in_its_own_units_whatever_its_domain() -> None:
    class Lighten(gs.ResolvableTransform):
        name = "lighten"
        factors = (Shift("b"),)

        def domain(self, name: str) -> Domain:
            return Domain(low=0.0)

        def apply(self, images: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
            return images + theta[:, 0, None, None, None]

    family = gs.SmoothedFamily(Lighten(), {"b": gs.LogNormal(0.0, 0.5)})
    assert _width("b", (1.0, 2.0), family) == 1.0
