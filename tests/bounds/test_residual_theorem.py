"""h(v′) >= T(h(v)): no classifier in two or three dimensions is an exception, and where T is said to be attained it is.

Truth is computed exactly (:mod:`tests.bounds.noisy`), by code that knows nothing of joint experiments, residuals or
likelihood ratios of parameters: of the package it takes what the actions do to images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.special import ndtr

import glsmooth as gs
from glsmooth.bounds import certify_near, residual_alone
from glsmooth.bounds.tradeoffs import Atoms

from . import noisy

T = gs.transforms
LEVELS = (0.05, 0.3, 0.5, 0.8, 0.97)
#: Rounding of sums of masses.
ROUNDING = 1e-9


# ----------------------------------------------------------------------------------------- actions of finite semigroups


@dataclass(frozen=True)
class Action:
    """A finite semigroup of maps of R^m, element 0 the identity where there is one.

    Args:
        merged: (n, n), γ(α, b) in row α and column b: first b, then α.
        act: (v (m,), α) -> Ψ(v, α).
        isometric: distances are kept.
    """

    merged: np.ndarray
    act: Callable[[np.ndarray, int], np.ndarray]
    isometric: bool = False

    def orbit(self, v):
        return np.stack([self.act(v, k) for k in range(len(self.merged))])


def by_matrices(matrices, bend=None):
    """A group of matrices; ``bend`` and its inverse around them make it nonlinear."""
    there, back = bend or (lambda v: v, lambda v: v)
    merged = [[next(k for k, m in enumerate(matrices) if np.allclose(m, a @ b)) for b in matrices] for a in matrices]
    return Action(np.array(merged), lambda v, k: back(matrices[k] @ there(v)), isometric=bend is None)


def turns(n):
    angle = 2 * math.pi * np.arange(n) / n
    return [np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) for a in angle]


MIRROR = np.diag([1.0, -1.0])
#: All orders of three pixels: first one, then another is not the same the other way round.
ORDERS = [np.eye(3)[list(p)] for p in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (1, 0, 2), (0, 2, 1), (2, 1, 0))]
BENT = (np.sinh, np.arcsinh)
LARGER = np.maximum.outer(np.arange(4), np.arange(4))
ACTIONS = {
    "turns of the plane": by_matrices(turns(5)),
    "turns and mirror images": by_matrices([*turns(3), *(t @ MIRROR for t in turns(3))]),
    "orders of three pixels": by_matrices(ORDERS),
    "bent turns": by_matrices(turns(4), BENT),
    "bent orders": by_matrices(ORDERS, BENT),
    "floors": Action(LARGER, lambda v, k: np.maximum(v, (-1.0, -0.2, 0.5, 1.1)[k])),
    "ceilings": Action(LARGER, lambda v, k: np.minimum(v, (2.0, 0.7, 0.1, -0.8)[k])),
    "coarser and coarser": Action(LARGER, lambda v, k: np.floor(v / 0.3 / 2**k) * 0.3 * 2**k),
}
DIMENSIONS = {"orders of three pixels": 3, "bent orders": 3}


@dataclass(frozen=True)
class Instance:
    """A reference and an attacked image that is near Ψ(v, b), and what the theorem is about.

    ``size`` (n,) is D(α), the true difference.
    """

    seen: noisy.Seen
    p: np.ndarray
    theta: np.ndarray
    size: np.ndarray

    @property
    def given(self):
        """Probability of α given θ, under the attack."""
        return self.p / np.bincount(self.theta, self.p)[self.theta]

    @property
    def atoms(self):
        """The joint experiment, as our trade-off curve."""
        moved = np.bincount(self.theta, self.p, minlength=len(self.p))
        loss = np.log(moved[self.theta] / self.p[self.theta])
        only = float(self.p[moved == 0].sum())
        return Atoms(loss, self.p[self.theta] * self.given, self.p, np.maximum(self.size, 1e-9), only_0=only)

    def by_linprog(self, level, cells=60):
        """The joint experiment as a linear programme over (θ, α, cell of g)."""
        g = np.linspace(-5, 5 + self.size.max(), cells)
        edges = np.concatenate(([-np.inf], g, [np.inf]))
        under_0 = (self.p[self.theta] * self.given)[:, None] * np.diff(ndtr(edges))
        under_1 = self.p[:, None] * np.diff(ndtr(edges - self.size[:, None]), axis=1)
        out_of_reach = 1 - under_0.sum()
        return noisy.best_by_linprog(np.append(under_0.ravel(), out_of_reach), np.append(under_1.ravel(), 0.0), level)


def instance(name, seed, v=None, residual=None, uniform=False, step=None):
    """A random one. ``residual``: in standard deviations of the noise."""
    action, m = ACTIONS[name], DIMENSIONS.get(name, 2)
    rng = np.random.default_rng(seed)
    n, sigma = len(action.merged), float(rng.uniform(0.2, 0.6))
    p = np.full(n, 1 / n) if uniform else rng.dirichlet(np.ones(n))
    b = int(rng.integers(n))
    v = rng.normal(size=m) if v is None else v
    push = rng.normal(size=m)
    push *= (rng.uniform(0, 3) if residual is None else residual) * sigma / np.linalg.norm(push)
    attacked = action.act(v, b) + push
    theta = action.merged[:, b]
    means = action.orbit(v), action.orbit(attacked)
    size = np.linalg.norm(means[1] - means[0][theta], axis=1) / sigma
    return Instance(noisy.Seen.of(means, p, sigma, step or (0.5 if m == 2 else 0.8)), p, theta, size)


@pytest.mark.parametrize("name", ACTIONS)
def test_actions_merge_as_they_say(name):
    """Else there would be nothing to prove."""
    action, v = ACTIONS[name], np.random.default_rng(0).normal(size=DIMENSIONS.get(name, 2))
    for a in range(len(action.merged)):
        for b in range(len(action.merged)):
            np.testing.assert_allclose(action.act(action.act(v, b), a), action.act(v, action.merged[a, b]), atol=1e-12)


@pytest.mark.parametrize("name", ACTIONS)
def test_no_classifier_breaks_the_joint_experiment(name):
    for seed in range(60 if name not in DIMENSIONS else 12):
        one = instance(name, seed)
        for level in LEVELS:
            assert one.seen.best(level) <= one.atoms.inverse(level) + ROUNDING, (seed, level)


@pytest.mark.parametrize("name", ACTIONS)
def test_the_joint_experiment_is_what_a_linear_programme_finds(name):
    for seed in range(3):
        one = instance(name, seed, step=2.0)
        for level in (0.3, 0.5):
            truth = one.by_linprog(level)
            assert truth - ROUNDING <= one.atoms.inverse(level) <= truth + 0.005


def test_the_best_classifier_is_that_of_a_linear_programme_too():
    for seed in range(4):
        seen = instance("floors", seed, step=1.0).seen
        assert seen.best() == pytest.approx(noisy.best_by_linprog(seen.reference, seen.attacked), abs=1e-7)


#: Images whose orbits have no two points that noise could confuse.
FAR = {
    "turns of the plane": (8.0, 1.0),
    "turns and mirror images": (9.0, 4.0),
    "orders of three pixels": (-5.0, 0.0, 5.0),
}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("uniform", [False, True])
def test_isometries_of_images_that_are_told_apart_attain_it(name, uniform):
    for seed in range(4 if name not in DIMENSIONS else 2):
        one = instance(name, seed, np.array(FAR[name]), 0.9, uniform, 0.25 if name not in DIMENSIONS else 0.5)
        reached = one.seen.best()
        assert one.atoms.inverse(0.5) - 0.005 <= reached <= one.atoms.inverse(0.5) + ROUNDING
        if uniform:  # whatever the parameter, and with a group that does not commute
            assert residual_alone(0.9, 1.0) - 0.005 <= reached <= residual_alone(0.9, 1.0) + ROUNDING


@pytest.mark.parametrize("name", [name for name in ACTIONS if "turns" in name or "orders" in name])
def test_under_the_uniform_law_of_a_group_the_noise_alone_pays(name):
    """Also where the group bends space, with the largest true difference as the residual."""
    for seed in range(20 if name not in DIMENSIONS else 6):
        one = instance(name, seed, uniform=True)
        assert one.seen.best() <= residual_alone(float(one.size.max()), 1.0) + ROUNDING


@pytest.mark.parametrize("m", [2, 3])
def test_noise_alone(m):
    """No action at all: a half-space across the difference attains Φ(e/σ), and nothing surpasses it."""
    rng = np.random.default_rng(m)
    for _ in range(5):
        v, push, sigma = rng.normal(size=m), rng.normal(size=m), float(rng.uniform(0.3, 1))
        seen = noisy.Seen.of((v[None], v[None] + push), np.ones(1), sigma, 0.2 if m == 2 else 0.5)
        h = residual_alone(float(np.linalg.norm(push)), sigma)
        assert h - (0.002 if m == 2 else 0.01) <= seen.best() <= h + ROUNDING


# -------------------------------------------------------------------------------------- what certify_near says of ours


def draws(family, size):
    """Places and weights of a family's laws: whole turns of a cycle are one."""
    axes = []
    for name, law in family.laws.items():
        kind, v = type(law).__name__, law.values
        if name in ("tx", "ty"):
            n = size[1] if name == "tx" else size[0]
            shifts = np.arange(-30 * n, 30 * n + 1)
            mass = np.diff(ndtr((np.append(shifts, shifts[-1] + 1) - 0.5 - v["loc"]) / v["scale"])) if v else None
            weight = np.full(n, 1 / n) if mass is None else np.bincount(shifts % n, mass, minlength=n)
            axes.append((np.arange(n, dtype=float), weight))
        elif kind == "Exponential":
            axes.append(noisy.exponential_nodes(v["rate"]))
        else:
            z, weight = noisy.normal_nodes(v["scale"], 50 if len(family.laws) > 1 else 160)
            axes.append((np.exp(v["loc"] + z) if kind == "LogNormal" else v["loc"] + z, weight))
    return noisy.product(*axes) if axes else (np.zeros((1, 0)), np.ones(1))


def seen(family, image, attacked, step=0.5):
    """What is seen of two images (1, W), which the package transforms."""
    theta, weights = draws(family, image.shape)
    means = [
        family.transform.apply(torch.from_numpy(x).expand(len(theta), 1, *x.shape), torch.from_numpy(theta))
        .flatten(1)
        .numpy()
        for x in (image, attacked)
    ]
    return noisy.Seen.of(tuple(means), weights, family.pixel_noise, step)


def moved(family, image, beta, push):
    """An image (1, W) that is ``push`` away from φ(image, β)."""
    at = family.transform.vector(beta)[None]
    return family.transform.apply(torch.from_numpy(image)[None, None], at)[0, 0].numpy() + push


NORMAL, CONTRAST, SHIFT = gs.Normal(0.0, 0.5), gs.LogNormal(0.0, 0.4), gs.Normal(0.1, 0.8)
CYCLE = gs.UniformCyclic()
#: Transformation, laws, pixels in a row, ranges of β.
OURS = {
    "noise alone": (T.Identity(), {}, 2, {}),
    "brightness": (T.Brightness(), {"brightness": NORMAL}, 2, {"brightness": (-0.6, 0.6)}),
    "contrast": (T.Contrast(), {"contrast": CONTRAST}, 2, {"contrast": (0.6, 1.7)}),
    "contrast and brightness": (
        T.ContrastBrightness(),
        {"contrast": CONTRAST, "brightness": NORMAL},
        2,
        {"contrast": (0.7, 1.5), "brightness": (-0.3, 0.3)},
    ),
    "brightness first": (
        T.ContrastBrightness("brightness_first"),
        {"contrast": CONTRAST, "brightness": NORMAL},
        2,
        {"contrast": (0.7, 1.5), "brightness": (-0.3, 0.3)},
    ),
    "translation": (T.Translation(), {"tx": SHIFT, "ty": CYCLE}, 3, {"tx": (0, 2)}),
    "any translation": (T.Translation(), {"tx": CYCLE, "ty": CYCLE}, 3, {"tx": (0, 2)}),
    "brightness and translation": (
        T.BrightnessTranslation(),
        {"brightness": NORMAL, "tx": SHIFT, "ty": CYCLE},
        2,
        {"brightness": (-0.4, 0.4), "tx": (0, 1)},
    ),
    "contrast and translation": (
        T.ContrastTranslation(),
        {"contrast": CONTRAST, "tx": SHIFT, "ty": CYCLE},
        3,
        {"contrast": (0.7, 1.5), "tx": (0, 2)},
    ),
    "blur": (T.GaussianBlur(), {"blur": gs.Exponential(1.5)}, 3, {"blur": (0, 0.6)}),
}


def ours(name, sigma):
    transform, laws, width, ranges = OURS[name]
    size = (1, width) if "tx" in laws else None
    return gs.SmoothedFamily(transform, laws, image_size=size, pixel_noise=sigma), width, ranges


@pytest.mark.parametrize("name", OURS)
def test_no_classifier_breaks_certify_near(name):
    for seed in range(
        {"brightness first": 1, "contrast and translation": 3, "contrast and brightness": 4}.get(name, 8)
    ):
        rng = np.random.default_rng(seed)
        family, width, ranges = ours(name, float(rng.uniform(0.2, 0.8)))
        beta = {k: float(rng.integers(a, b + 1) if k == "tx" else rng.uniform(a, b)) for k, (a, b) in ranges.items()}
        image = rng.uniform(-2, 2, size=(1, width))
        push = rng.normal(size=(1, width))
        push *= rng.uniform(0, 1.5) * family.pixel_noise / np.linalg.norm(push)
        outcome = certify_near(family, gs.Points([beta]), float(np.linalg.norm(push)))
        assert outcome.sound
        reached = seen(family, image, moved(family, image, beta, push), 0.5 if width == 2 else 1.0).best()
        assert reached <= outcome.h_min + ROUNDING, (seed, beta)


@pytest.mark.parametrize("m", [2, 3, 40, 10**6])
def test_brightness_in_any_dimension(m):
    """The image and all noise together are normal, so that the truth is a closed form; large images attain it."""
    sigma, scale = 0.3, 0.4
    family = gs.SmoothedFamily(T.Brightness(), {"brightness": gs.Normal(0.0, scale)}, pixel_noise=sigma)
    region = gs.Box(brightness=(-0.25, 0.4))
    rng = np.random.default_rng(m)
    for _ in range(5):
        b, push = float(rng.uniform(-0.25, 0.4)), rng.normal(size=m)
        push *= 0.3 / np.linalg.norm(push)
        truth = ndtr(np.linalg.norm(noisy.whitened(b + push, sigma, scale)))
        assert truth <= certify_near(family, gs.Points([{"brightness": b}]), 0.3).h_min + ROUNDING
    push -= push.mean()
    truth = ndtr(np.linalg.norm(noisy.whitened(0.4 + push * 0.3 / np.linalg.norm(push), sigma, scale)))
    h = certify_near(family, region, 0.3).h_min
    assert truth <= h + ROUNDING
    assert (truth > h - 1e-5) == (m == 10**6)


def attacked_by_contrast(c, b, size, sigma, m=10_000, seen=40.0):
    """An image whose contrast is seen through the noise, and c·x + b of it with a push of ``size`` across all that."""
    v, push = np.zeros((2, m))
    v[:2], push[2:4] = (math.sqrt(0.5), -math.sqrt(0.5)), (math.sqrt(0.5), -math.sqrt(0.5))
    v *= seen * sigma
    return v, c * v + b + size * sigma * push


#: Scales of the laws (brightness 0: none), β, and the residual over sigma.
STEEP = [
    (0.4, 0.0, 1.31, 0.0, 1.0),
    (0.4, 0.0, 1 / 1.3, 0.0, 1.0),
    (0.3, 0.0, 1.3, 0.0, 1.0),
    (0.4, 0.3, 1.3, 0.1, 1.0),
    (0.4, 0.3, 0.8, -0.1, 1.6),
]


@pytest.mark.parametrize(("s", "t", "c", "b", "size"), STEEP)
def test_contrast_attains_it(s, t, c, b, size):
    sigma = 0.25
    laws = {"contrast": gs.LogNormal(0.0, s), **({"brightness": gs.Normal(0.0, t)} if t else {})}
    transform = T.ContrastBrightness() if t else T.Contrast()
    family = gs.SmoothedFamily(transform, laws, pixel_noise=sigma)
    beta = {"contrast": c, **({"brightness": b} if t else {})}
    h = certify_near(family, gs.Points([beta]), size * sigma).h_min
    reached = noisy.contrasted(*attacked_by_contrast(c, b, size, sigma), (s, t), sigma).best()
    assert h - 0.003 <= reached <= h + ROUNDING


def test_the_worst_contrast_of_a_region_is_attained():
    family = gs.SmoothedFamily(T.Contrast(), {"contrast": gs.LogNormal(0.0, 0.4)}, pixel_noise=1.0)
    h = certify_near(family, gs.Box(contrast=(1 / 1.3, 1.31)), 1.0).h_min
    reached = [
        noisy.contrasted(*attacked_by_contrast(c, 0.0, 1.0, 1.0), (0.4, 0.0), 1.0).best()
        for c in (1 / 1.3, 0.9, 1.0, 1.1, 1.31)
    ]
    assert max(reached) == reached[0] > reached[-1]  # which is the worse of the two without a residual
    assert h - 0.003 <= max(reached) <= h + ROUNDING


def test_brightness_before_the_contrast_attains_it():
    """The draw of the contrast spreads that of the brightness, so that three coordinates are seen."""
    s, c, b, seen = 0.4, 1.3, 0.1, 60.0
    laws = {"contrast": gs.LogNormal(0.0, s), "brightness": gs.Normal(0.0, 0.3)}
    family = gs.SmoothedFamily(T.ContrastBrightness("brightness_first"), laws, pixel_noise=0.25)
    h = certify_near(family, gs.Points([{"contrast": c, "brightness": b}]), 0.25).h_min
    z, weights = noisy.normal_nodes(s, 300, 4.5)
    # In units of their noise: the contrast, the push, and the brightness of images of so many pixels that theirs is 0.
    draw = np.exp(z)[:, None]
    means = draw * np.array([seen, 0.0, 0.0]), draw * np.array([c * seen, 1.0, c * b / 0.3])
    scale = np.concatenate((np.ones_like(draw), np.ones_like(draw), draw), axis=1)
    wide = np.sinh(np.linspace(-3.5, 3.5, 70))
    edges = [
        np.concatenate(([-np.inf], np.concatenate((seen * np.exp(np.linspace(-1.7, 2, 80)), [np.inf])))),
        *([np.concatenate(([-np.inf], wide, [np.inf]))] * 2),
    ]
    reached = noisy.Seen.of(means, weights, scale, edges=edges).best()
    assert h - 0.004 <= reached <= h + 1e-4  # contrasts beyond 4.5 deviations are left out
    # Merged as in c·x + b, it would be less than that.
    merged = gs.required_probability(
        gs.SmoothedFamily(T.ContrastBrightness("brightness_first"), laws),
        gs.Points([{"contrast": c, "brightness": math.hypot(b, 0.3)}]),
    )
    assert reached > merged + 0.008


def test_a_blur_with_an_end_attains_it():
    """What the law of the blur never reaches is seen at once in an image of two pixels, far apart."""
    rate, r, sigma, size = 1.0, 0.5, 0.1, 0.8
    family = gs.SmoothedFamily(T.GaussianBlur(), {"blur": gs.Exponential(rate)}, pixel_noise=sigma)
    h = certify_near(family, gs.Points([{"blur": r}]), size * sigma).h_min
    image = np.array([[40.0, -40.0]]) * sigma
    # The push, along the mean, is not blurred.
    attacked = moved(family, image, {"blur": r}, size * sigma * np.full((1, 2), math.sqrt(0.5)))
    theta, weights = noisy.exponential_nodes(rate, 800, 20.0)
    means = [
        family.transform.apply(torch.from_numpy(x).expand(len(theta), 1, 1, 2), torch.from_numpy(theta)[:, None])
        .flatten(1)
        .numpy()
        @ np.array([[1.0, 1.0], [-1.0, 1.0]])
        / math.sqrt(2)
        for x in (image, attacked)
    ]
    reached = noisy.Seen.of((means[0], means[1]), weights, sigma, 0.3).best()
    assert h - 0.01 <= reached <= h + ROUNDING
    dropped = max(0.5, math.exp(-rate * r) * ndtr(size))  # without the mass that is out of reach
    assert reached > dropped + 0.3


def test_cyclic_shifts_of_an_image_that_shows_them_attain_it():
    sigma, size = 0.3, 0.8
    family = gs.SmoothedFamily(T.Translation(), {"tx": SHIFT, "ty": CYCLE}, image_size=(1, 3), pixel_noise=sigma)
    h = certify_near(family, gs.Points([{"tx": 1}]), size * sigma).h_min
    image, push = np.array([[-4.0, 0.0, 4.0]]), size * sigma * np.array([[0.6, 0.0, -0.8]])
    reached = seen(family, image, moved(family, image, {"tx": 1}, push), 0.5).best()
    assert h - 0.005 <= reached <= h + ROUNDING
