"""Required probabilities with a residual: against numbers known beforehand, quadrature, explicit classifiers and
sampled ones; and what would make them false.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

import glsmooth as gs
from glsmooth.bounds import best_residual, certify_near, residual_alone, samples_needed
from glsmooth.bounds.tradeoffs import Atoms
from glsmooth.errors import UserError

T = gs.transforms
BOTH = {"contrast": gs.LogNormal(0, 0.4), "brightness": gs.Normal(0, 0.3)}
ALONE = {"contrast": gs.LogNormal(0, 0.4)}
FIRST = T.ContrastBrightness("brightness_first")


def near(transform, laws, beta, residual, sigma, image_size=None):
    family = gs.SmoothedFamily(transform, laws, image_size=image_size, pixel_noise=sigma)
    return certify_near(family, gs.Points([beta]), residual).h_min


# --------------------------------------------------------------------------------------------------- known numbers


@pytest.mark.parametrize(
    ("residual", "sigma", "value"), [(0.19, 0.12, 0.94), (0.19, 0.25, 0.78), (0.19, 0.5, 0.65), (0, 0.25, 0.5)]
)
def test_noise_alone(residual, sigma, value):
    h = residual_alone(residual, sigma)
    assert h == pytest.approx(value, abs=0.005)
    assert ndtr(residual / sigma) <= h <= ndtr(residual / sigma) + 1e-13


KNOWN = [
    (T.Brightness(), {"brightness": gs.Normal(0, 0.3)}, {"brightness": 0.4}, 1.0, 1.0, 0.95221, 5),
    (T.ContrastBrightness(), BOTH, {"contrast": 1.3, "brightness": 0.1}, 0.25, 0.25, 0.90459, 5),
    (T.ContrastBrightness(), BOTH, {"contrast": 0.8, "brightness": -0.1}, 0.4, 0.25, 0.96709, 5),
    (T.ContrastBrightness(), BOTH, {"contrast": 1, "brightness": 0.1}, 0.25, 0.12, 0.98733, 5),
    (FIRST, BOTH, {"contrast": 1.3, "brightness": 0.1}, 0.25, 0.25, 0.91001, 5),
    (FIRST, BOTH, {"contrast": 0.5, "brightness": 0}, 0.5, 0.25, 0.99873, 5),
    (T.Contrast(), ALONE, {"contrast": 1}, 0.25, 0.25, 0.85895, 5),
    (T.Contrast(), {"contrast": gs.LogNormal(0, 0.3)}, {"contrast": 1.3}, 1.0, 1.0, 0.9130, 4),
    (T.Contrast(), ALONE, {"contrast": 1.31}, 1.0, 1.0, 0.8977, 4),
    (T.Contrast(), ALONE, {"contrast": 1 / 1.3}, 1.0, 1.0, 0.8994, 4),
]


@pytest.mark.parametrize(("transform", "laws", "beta", "residual", "sigma", "value", "digits"), KNOWN)
def test_numbers_known_beforehand(transform, laws, beta, residual, sigma, value, digits):
    found = near(transform, laws, beta, residual, sigma)
    # Grids are rounded up, where the order is brightness_first by some 1e-6.
    assert value - 0.5 * 10**-digits <= found <= value + 0.5 * 10**-digits + 3e-6 * (transform is FIRST)


def test_numbers_without_a_residual():
    for transform, beta, value in ((T.ContrastBrightness(), {"contrast": 1.3, "brightness": 0.1}, 0.77131),):
        family = gs.SmoothedFamily(transform, BOTH, pixel_noise=0.25)
        assert round(gs.required_probability(family, gs.Points([beta])), 5) == value
        assert certify_near(family, gs.Points([beta]), 0.0).h_min == pytest.approx(value, abs=1e-5)


# ------------------------------------------------------------------------------------------------ against quadrature


def by_quadrature(laws, c, b, size, order, slope="draw"):
    """h_min by definition, for a log-normal contrast and a normal brightness: L given the contrast is normal.

    ``slope``: what the residual is multiplied by, and should be: the draw.
    """
    # The trapezoidal rule is exact to rounding where everything is smooth and vanishes at the ends.
    z = np.linspace(-8.5, 8.5, 3001)
    density = (z[1] - z[0]) * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    s, t = laws["contrast"].scale, laws["brightness"].scale if "brightness" in laws else math.inf
    k = math.log(c) / s

    def parts(shift):
        """Losses of the contrast, and sizes of the other moves, at θ_c = exp(s (z + shift))."""
        theta = np.exp(s * (z + shift))
        d = size * {"draw": theta / c, "none": np.ones_like(theta), "theta": theta}[slope]
        moved = theta / c * b / t if order == "contrast_first" else 0 * theta
        return k * (z + shift) - k * k / 2, np.hypot(moved, d)

    def below(level, under_beta):
        loss, spread = parts(k if under_beta else 0.0)
        side = -spread / 2 if under_beta else spread / 2
        if order == "contrast_first":
            return float(density @ ndtr((level - loss) / np.maximum(spread, 1e-300) + side))
        # (θ_b - b) c against θ_b, both N(0, t): a quadratic loss of its own, on every tenth node.
        y = z[None, ::10] / c + b / t if under_beta else z[None, ::10]
        own = math.log(c) - ((y - b / t) * c) ** 2 / 2 + y**2 / 2
        at = (level - loss[::10, None] - own) / spread[::10, None] + side[::10, None]
        return float(density[::10] @ ndtr(at) @ density[::10] * 100)

    median = brentq(lambda level: below(level, True) - 0.5, -30, 30, xtol=1e-10)
    return below(median, False)


@pytest.mark.parametrize(("c", "b", "size"), [(1.3, 0.1, 1.0), (0.8, -0.1, 1.6), (1.0, 0.1, 2.1), (1.31, 0, 0.3)])
def test_contrast_first_is_the_joint_experiment(c, b, size):
    found = near(T.ContrastBrightness(), BOTH, {"contrast": c, "brightness": b}, size * 0.25, 0.25)
    truth = by_quadrature(BOTH, c, b, size, "contrast_first")
    assert truth - 1e-9 <= found <= truth + 2e-6


@pytest.mark.parametrize(("c", "size"), [(1.31, 1.0), (1 / 1.3, 1.0), (1.0, 1.0), (2.0, 0.2)])
def test_contrast_alone_is_the_joint_experiment(c, size):
    found = near(T.Contrast(), ALONE, {"contrast": c}, size, 1.0)
    truth = by_quadrature(ALONE, c, 0.0, size, "contrast_first")
    assert truth - 1e-9 <= found <= truth + 2e-6


def test_brightness_first_is_the_joint_experiment():
    found = near(FIRST, BOTH, {"contrast": 1.3, "brightness": 0.1}, 0.25, 0.25)
    truth = by_quadrature(BOTH, 1.3, 0.1, 1.0, "brightness_first")
    assert round(truth, 5) == 0.91001
    assert truth - 1e-9 <= found <= truth + 1e-5


def test_a_blur_law_with_an_end_counts_what_lies_below_it():
    """Exponential blur: no θ below β has mass under μ_β, and the noise of such draws does not bring it back."""
    rate, r, size = 1.0, 0.5, 0.8
    found = near(T.GaussianBlur(), {"blur": gs.Exponential(rate)}, {"blur": r}, size, 1.0)
    # Above β the loss of the blur is constant, λ r: what is left is the noise's half-line, at level 1/2 under μ_β.
    only = 1 - math.exp(-rate * r)
    truth = only + math.exp(-rate * r) * ndtr(size)
    assert truth - 1e-9 <= found <= truth + 1e-6
    assert truth > 0.5 + 0.3
    assert math.exp(-rate * r) * ndtr(size) < 0.5  # what dropping that mass would claim


def test_a_cycle_merges_with_the_noise():
    """Four shifts, by hand: atoms of L, each smeared by the noise."""
    law, size = gs.Normal(0, 0.8), 0.7
    transform, laws = T.Translation(), {"tx": law, "ty": gs.Normal(0, 1)}
    found = near(transform, laws, {"tx": 1, "ty": 0}, size, 1.0, image_size=(1, 4))
    edges = np.arange(-41, 44) - 0.5 + 1
    mass = np.diff(ndtr(edges / 0.8))
    p = np.bincount((np.round(edges[:-1] + 0.5).astype(int)) % 4, mass, minlength=4)
    q = np.roll(p, 1)
    loss = np.log(q / p)

    def below(level, masses, side):
        return float(masses @ ndtr((level - loss) / size + side * size / 2))

    median = brentq(lambda level: below(level, q, -1) - 0.5, -30, 30)
    truth = below(median, p, 1)
    assert truth - 1e-9 <= found <= truth + 1e-6
    uniform = {"tx": gs.UniformCyclic(), "ty": gs.UniformCyclic()}
    assert near(transform, uniform, {"tx": 1, "ty": 2}, size, 1.0, image_size=(4, 4)) == pytest.approx(
        residual_alone(size, 1.0), abs=1e-9
    )


# ------------------------------------------------------------------------------------------- against real classifiers


def worst_by_sampling(draw_at, log_density_at, n=200_000, seed=0):
    """P at the reference of the best test between two mixtures whose P at the attacked point is 1/2."""
    rng = np.random.default_rng(seed)
    reference, attacked = (draw_at(point, n, rng) for point in (0, 1))
    loss_0, loss_1 = (log_density_at(1, x) - log_density_at(0, x) for x in (reference, attacked))
    return float((loss_0 < np.median(loss_1)).mean())


@pytest.mark.parametrize("far", [1.0, 30.0])
def test_no_classifier_of_small_images_breaks_it(far):
    """Images of four pixels under cyclic shifts: the best test of what is *seen* never beats the joint experiment,
    and reaches it where shifts of the image are told apart without error."""
    sigma, residual = 0.5, 0.4
    p = gs.bounds.neyman_pearson.cyclic_masses(gs.Normal(0, 0.8), 4)
    v = far * np.array([1.0, 0.3, -0.5, 0.1])
    push = np.array([0.5, -0.5, 0.5, 0.5])
    points = [v, np.roll(v, 1) + residual * push]

    def draw(point, n, rng):
        shifts = rng.choice(4, size=n, p=p)
        images = np.stack([np.roll(points[point], k) for k in range(4)])
        return images[shifts] + sigma * rng.standard_normal((n, 4))

    def log_density(point, x):
        images = np.stack([np.roll(points[point], k) for k in range(4)])
        exponent = -((x[:, None] - images) ** 2).sum(2) / (2 * sigma**2)
        top = exponent.max(1, keepdims=True)
        return top[:, 0] + np.log(np.exp(exponent - top) @ p)

    reached = worst_by_sampling(draw, log_density)
    laws = {"tx": gs.Normal(0, 0.8), "ty": gs.UniformCyclic()}
    h = near(T.Translation(), laws, {"tx": 1, "ty": 0}, residual, sigma, image_size=(1, 4))
    margin = 4.5 / math.sqrt(200_000)  # standard errors of a count and of a median, together
    assert reached <= h + margin
    if far > 1:
        assert reached >= h - margin
    else:
        assert reached < h - 0.03


def floors(seed, far):
    """A semigroup of nonlinear actions with a discrete law: no pixel of v stays below a level; γ = max.

    Returns:
        The sampled worst case, and the joint experiment's atoms, one for each draw α.
    """
    rng = np.random.default_rng(seed)
    pixels, sigma, b = int(rng.integers(1, 4)), 0.4, int(rng.integers(1, 3))
    levels = far * np.sort(rng.uniform(-1, 1, 4))
    p = rng.dirichlet(np.ones(4))
    v = rng.normal(size=pixels) - far
    attacked = np.maximum(v, levels[b]) + 0.3 * rng.normal(size=pixels)
    means = [np.maximum(v, levels[:, None]), np.maximum(attacked, levels[:, None])]
    size = np.linalg.norm(means[1] - np.maximum(v, levels[np.maximum(np.arange(4), b)][:, None]), axis=1) / sigma

    def draw(point, n, rng):
        return means[point][rng.choice(4, size=n, p=p)] + sigma * rng.standard_normal((n, pixels))

    def log_density(point, x):
        exponent = -((x[:, None] - means[point]) ** 2).sum(2) / (2 * sigma**2)
        top = exponent.max(1, keepdims=True)
        return top[:, 0] + np.log(np.exp(exponent - top) @ p)

    theta = np.maximum(np.arange(4), b)
    moved = np.bincount(theta, p, minlength=4)
    given = p / moved[theta]  # of α, given θ
    atoms = Atoms(
        np.log(moved[theta] / p[theta]), p[theta] * given, p, np.maximum(size, 1e-9), only_0=float(p[:b].sum())
    )
    return worst_by_sampling(draw, log_density), atoms


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("far", [1.0, 20.0])
def test_no_classifier_of_floored_images_breaks_it(seed, far):
    reached, atoms = floors(seed, far)
    assert reached <= atoms.inverse(0.5) + 4.5 / math.sqrt(200_000)


def test_without_the_mass_that_only_the_reference_has_it_would_be_false():
    reached, atoms = floors(1, 20.0)
    assert atoms.only_0 > 0.1
    dropped = replace(atoms, only_0=0.0)
    assert dropped.inverse(0.5) < reached - 0.05 < atoms.inverse(0.5)


def seen_contrast(c, size, n=200_000):
    """A bright pixel shows θ without error, another pixel the noise: P of the best test at the reference."""
    rng = np.random.default_rng(1)
    s = 0.4
    z, zero = rng.standard_normal((2, n)), rng.standard_normal((2, n))
    alpha = np.exp(s * z)
    theta = alpha * np.array([[1.0], [c]])
    y = zero + np.array([[0.0], [1.0]]) * alpha * size
    d = theta / c * size
    k = math.log(c) / s
    loss = k * np.log(theta) / s - k * k / 2 + d * y - d * d / 2
    return float((loss[0] < np.median(loss[1])).mean())


@pytest.mark.parametrize(("c", "size"), [(1.31, 1.0), (1 / 1.3, 1.0), (1.0, 1.0)])
def test_a_classifier_of_two_pixels_reaches_it(c, size):
    margin = 4.5 / math.sqrt(200_000)
    assert seen_contrast(c, size) == pytest.approx(near(T.Contrast(), ALONE, {"contrast": c}, size, 1.0), abs=margin)


# ------------------------------------------------------------------------------------------------------ what breaks it


def test_without_the_draw_it_would_be_false():
    laws = {"contrast": gs.LogNormal(0, 0.3)}
    wrong = by_quadrature(laws, 1.3, 0, 1.0, "contrast_first", slope="none")
    assert round(wrong, 4) == 0.9080
    assert wrong < near(T.Contrast(), laws, {"contrast": 1.3}, 1.0, 1.0) - 0.004


def test_with_the_parameter_for_the_draw_it_would_be_false():
    wrong = by_quadrature(BOTH, 0.8, -0.1, 1.6, "contrast_first", slope="theta")
    assert round(wrong, 5) == 0.93775
    assert wrong < near(T.ContrastBrightness(), BOTH, {"contrast": 0.8, "brightness": -0.1}, 0.4, 0.25) - 0.02


def test_the_effective_brightness_is_not_that_of_the_other_order():
    right = near(FIRST, BOTH, {"contrast": 1.3, "brightness": 0.1}, 0.25, 0.25)
    # Merged as in c·x + b, it would be .8942.
    family = gs.SmoothedFamily(FIRST, BOTH)
    merged = gs.required_probability(family, gs.Points([{"contrast": 1.3, "brightness": math.hypot(0.1, 0.3)}]))
    assert round(merged, 4) == 0.8942 < right


# -------------------------------------------------------------------------------------------------------------- regions


def test_the_worst_contrast_is_found_for_the_joint_value():
    family = gs.SmoothedFamily(T.Contrast(), ALONE, pixel_noise=1.0)
    alone = [gs.required_probability(family, gs.Points([{"contrast": c}])) for c in (1.31, 1 / 1.3)]
    assert [round(h, 4) for h in alone] == [0.7502, 0.7441]
    outcome = certify_near(family, gs.Box(contrast=(1 / 1.3, 1.31)), 1.0)
    assert outcome.worst == pytest.approx({"contrast": 1 / 1.3})  # the other end is worse by itself
    assert 0.89940 <= outcome.h_min < 0.89942


@pytest.mark.parametrize(
    ("transform", "laws", "region", "size"),
    [
        (T.ContrastBrightness(), BOTH, gs.Box(contrast=(0.8, 1.3), brightness=(-0.1, 0.05)), None),
        (T.BrightnessTranslation(), None, gs.Box(brightness=(-0.2, 0.1), tx=(-3, 3), ty=(-2, 0)), (8, 8)),
        (T.ContrastTranslation(), None, gs.Box(contrast=(0.7, 1.2), tx=(-2, 2)), None),
        (FIRST, BOTH, gs.Box(contrast=(1.2, 1.2), brightness=(-0.1, 0.2)), None),
        (T.Brightness(), {"brightness": gs.Normal(0, 0.3)}, gs.Ball(0.3, brightness=0.1), None),
    ],
    ids=str,
)
def test_a_region_covers_each_of_its_parameters(transform, laws, region, size):
    every = {"contrast": gs.LogNormal(0, 0.4), "brightness": gs.Normal(0, 0.3), "tx": gs.Normal(0, 3)}
    laws = laws or {name: {**every, "ty": gs.Normal(0, 3)}[name] for name in transform.parameters}
    family = gs.SmoothedFamily(transform, laws, image_size=size, pixel_noise=0.25)
    outcome = certify_near(family, region, 0.2)
    assert "with a residual of 0.2" in outcome.argument
    if isinstance(region, gs.Box):
        assert region.contains({**family.identity, **outcome.worst})
    rng = np.random.default_rng(0)
    box = region.box(family.identity).intervals
    for _ in range(15):
        beta = {name: float(rng.uniform(*ends)) for name, ends in box.items()}
        beta = {name: round(v) if name in ("tx", "ty") else v for name, v in beta.items()}
        assert certify_near(family, gs.Points([beta]), 0.2).h_min <= outcome.h_min + 1e-9
    assert outcome.h_min > gs.required_probability(family, region)


def test_mistakes_are_named():
    family = gs.SmoothedFamily(T.Brightness(), {"brightness": gs.Normal(0, 0.3)})
    with pytest.raises(UserError, match=r"sigma=0\.0 must be"):
        certify_near(family, gs.Box(brightness=(0, 0.1)), 0.1)
    with pytest.raises(UserError, match="least=-1"):
        best_residual(0.5, 0.001, -1)
    with pytest.raises(UserError, match="alpha=0 "):
        best_residual(0.5, 0)
    with pytest.raises(UserError, match=r"least=9 is more than votes can show with sigma=0\.1"):
        best_residual(0.1, 0.001, 9)
    with pytest.raises(UserError, match="residual=-1"):
        residual_alone(-1, 0.5)
    laplace = gs.SmoothedFamily(T.ContrastBrightness(), {**BOTH, "brightness": gs.Laplace(0, 1)}, pixel_noise=0.5)
    with pytest.raises(gs.NotApplicable, match="does not merge with a residual; use Normal"):
        certify_near(laplace, gs.Points([{"contrast": 1.1}]), 0.1)
    first = gs.SmoothedFamily(FIRST, BOTH, pixel_noise=0.25)
    with pytest.raises(gs.NotApplicable, match="nothing is known between the ends"):
        certify_near(first, gs.Box(contrast=(0.9, 1.1)), 0.1)


# --------------------------------------------------------------------------------------------------------------- slices


@pytest.mark.parametrize("least", [0.0, 0.05, 0.2])
def test_the_best_residual_needs_the_fewest_votes(least):
    """Of a curve of length 72, cut into slices that leave room for what each has to pay beside its own length."""

    def passes(residual):
        each = samples_needed(residual_alone(residual, 0.25), 1e-3)
        return math.inf if each is None else 72 / (2 * (residual - least)) * each

    best = best_residual(0.25, 1e-3, least)
    assert best > least
    for other in np.linspace(least + 1e-3, least + 1, 400):
        assert passes(best) <= 1.001 * passes(other)
    if least == 0:
        assert best / 0.25 == pytest.approx(0.68, abs=0.02)
        assert passes(best) == pytest.approx(17.8 * 72 / 0.25, rel=0.01)


def test_half_a_level_is_where_the_joint_experiment_balances():
    """Φ(√(δ² + e²/σ²)) is the distance from the joint experiment's two shifts, so p must exceed it, not equal it."""
    h = near(T.Brightness(), {"brightness": gs.Normal(0, 0.3)}, {"brightness": 0.3}, 0.5, 0.5)
    assert ndtri(h) == pytest.approx(math.sqrt(2), abs=1e-9)
