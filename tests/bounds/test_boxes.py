"""Boxes of users' transformations: never below the exact value of the same group, and close to it.

Random tests use fixed seeds.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

import glsmooth as gs
from glsmooth.bounds import boxes, sampled
from glsmooth.bounds.confidence import mean_upper

from .user_transforms import AFFINE, BUILTIN_AFFINE, CURVED, Affine, Brighten, CurvedAffine

T = gs.transforms


class ShownBrighten(Brighten):
    def inverse(self, theta, beta):
        return theta - beta


class ShownAffine(Affine):
    def inverse(self, theta, beta):
        c = theta[..., 0] / beta[0]
        return torch.stack((c, theta[..., 1] - c * beta[1]), dim=-1)


class ShownCurved(CurvedAffine):
    def inverse(self, theta, beta):
        p, q = theta.unbind(-1)
        p = p - beta[0]
        return torch.stack((p, q / beta[1] ** torch.exp(p)), dim=-1)


class Hidden(gs.ResolvableTransform):
    """A built-in transformation whose factors are not declared; it inverts as they do."""

    def __init__(self, built_in):
        self._built_in = built_in
        self.name, self.parameters = f"hidden_{built_in.name}", built_in.parameters

    @property
    def identity(self):
        return self._built_in.identity

    def domain(self, name):
        return self._built_in.domain(name)

    def apply(self, images, theta):
        return self._built_in.apply(images, theta)

    def resolve(self, alpha, beta):
        return self._built_in.resolve(alpha, beta)

    def inverse(self, theta, beta):
        return self._built_in.inverse(theta, beta)


def pair(transform, laws):
    """The same family without factors and with them."""
    return gs.SmoothedFamily(Hidden(transform), laws), gs.SmoothedFamily(transform, laws)


SHOWN_AFFINE = gs.SmoothedFamily(ShownAffine(), AFFINE.laws)
SHOWN_CURVED = gs.SmoothedFamily(ShownCurved(), CURVED.laws)
L2 = gs.LogNormal(0, 0.6)
PAIRS = [
    (*pair(T.Brightness(), {"brightness": gs.Normal(0, 0.3)}), {"brightness": (-0.1, 0.4)}),
    (*pair(T.Brightness(), {"brightness": gs.Uniform(-1, 1)}), {"brightness": (-0.3, 0.2)}),
    (*pair(T.Contrast(), {"contrast": gs.Rayleigh(1.0)}), {"contrast": (0.7, 1.4)}),
    (*pair(T.Gamma(), {"gamma": gs.Exponential(1.0)}), {"gamma": (0.8, 1.6)}),
    (*pair(T.GaussianBlur(), {"blur": gs.Exponential(0.3)}), {"blur": (0.0, 1.0)}),
    (*pair(T.GaussianBlur(), {"blur": gs.HalfNormal(2.0)}), {"blur": (0.0, 1.0)}),
    (*pair(T.ContrastBrightness(), {"contrast": L2, "brightness": gs.Normal(0, 0.6)}), {"contrast": (0.5, 2)}),
    (
        *pair(T.ContrastBrightness(), {"contrast": L2, "brightness": gs.Normal(0, 0.6)}),
        {"contrast": (0.7, 1.4), "brightness": (-0.2, 0.2)},
    ),
    (
        *pair(T.ContrastBrightness(order="brightness_first"), {"contrast": L2, "brightness": gs.Normal(0, 0.6)}),
        {"contrast": (0.7, 1.2), "brightness": (0.0, 0.2)},
    ),
    (
        *pair(T.GammaContrast(), {"gamma": gs.Rayleigh(0.85), "contrast": L2}),
        {"gamma": (1.0, 1.3), "contrast": (0.8, 1.1)},
    ),
]


@pytest.mark.parametrize(
    ("hidden", "known", "box"), PAIRS, ids=lambda x: x.transform.name if hasattr(x, "laws") else None
)
def test_just_above_the_exact_value(hidden, known, box):
    exact = gs.required_probability(known, gs.Box(**box))
    outcome = sampled.certify(hidden, gs.Box(**box), n=40_000)
    # The confidence of 13 in log at 40,000 draws, what is left uncut, and how evenly the pilot lies.
    assert exact <= outcome.h_min <= exact + math.sqrt(13 / 2 / 40_000) + boxes._GAP + 0.006
    assert gs.Box(**box).contains(outcome.worst | known.identity | outcome.worst)
    assert outcome.sound
    assert outcome.failure_probability == sampled.FAILURE_PROBABILITY
    assert "interval arithmetic" in outcome.argument


@pytest.fixture
def rough(monkeypatch):
    """Fewer and larger cells: quicker, and as sound."""
    monkeypatch.setattr(boxes, "_GAP", 0.02)
    monkeypatch.setattr(boxes, "_PILOT", 1_024)


@pytest.mark.usefixtures("rough")
def test_charts_that_no_group_is_known_of():
    box = gs.Box(p=(math.log(0.7), math.log(1.4)), q=(math.exp(-0.2), math.exp(0.2)))
    exact = gs.required_probability(BUILTIN_AFFINE, gs.Box(contrast=(0.7, 1.4), brightness=(-0.2, 0.2)))
    assert exact <= sampled.certify(SHOWN_CURVED, box, n=20_000).h_min <= exact + 0.06
    ball = sampled.certify(SHOWN_AFFINE, gs.Ball(0.1, c=1.0, b=0.0), n=20_000)
    assert ball.h_min >= gs.required_probability(BUILTIN_AFFINE, gs.Ball(0.1, contrast=1.0, brightness=0.0))


@pytest.mark.usefixtures("rough")
def test_random_boxes_are_never_too_low():
    rng = np.random.default_rng(0)
    for _ in range(8):
        c, b = np.exp(rng.normal(0, 0.3, 2)), rng.normal(0, 0.3, 2)
        intervals = (c.min(), c.max()), (b.min(), b.max())
        exact = gs.required_probability(BUILTIN_AFFINE, gs.Box(contrast=intervals[0], brightness=intervals[1]))
        found = sampled.certify(SHOWN_AFFINE, gs.Box(c=intervals[0], b=intervals[1]), n=5_000)
        assert exact <= found.h_min <= exact + 0.08, intervals


def test_the_worst_classifier_beats_every_smaller_value():
    """x + b under N(0, 0.3): a half-line classifier at level h has 1/2 left at b = 0.4, so h must not be below."""
    law = gs.Normal(0, 0.3)
    family = gs.SmoothedFamily(ShownBrighten(), {"b": law})
    h = torch.tensor(sampled.certify(family, gs.Box(b=(-0.1, 0.4)), n=20_000).h_min, dtype=torch.float64)
    edge = law.icdf(1 - h)  # F = 1 above: E F = h; moved by -0.4 it would have less
    assert float(law.survival(edge + 0.4)) >= 0.5


def test_without_a_proof_nothing_is_certified():
    family = gs.SmoothedFamily(ShownBrighten(), {"b": gs.Uniform(-1, 1)})
    assert sampled.certify(family, gs.Box(b=(0.0, 2.5)), n=1_000).h_min == 1
    assert sampled.certify(family, gs.Box(b=(0.0, 1.2)), n=1_000).h_min == 1  # less than half of the mass is shared


def test_cells_cover_the_box_and_nothing_else(monkeypatch):
    monkeypatch.setattr(boxes, "_MOST", 40)
    pilot = boxes._Sample(SHOWN_AFFINE, SHOWN_AFFINE.sample(200, torch.Generator().manual_seed(0)))
    whole = (0.5, -0.4), (2.0, 0.4)
    cells = [cell for _, _, cell in boxes._cut(pilot, [whole])]
    points = torch.rand(2_000, 2, dtype=torch.float64) * torch.tensor([1.5, 0.8]) + torch.tensor([0.5, -0.4])
    inside = torch.stack([((points >= torch.tensor(a)) & (points <= torch.tensor(b))).all(-1) for a, b in cells])
    assert bool((inside.sum(0) == 1).all())
    assert len(cells) > 10


@pytest.mark.usefixtures("rough")
def test_cells_share_the_failure_probability(monkeypatch):
    asked = []
    monkeypatch.setattr(boxes, "mean_upper", lambda mean, n, alpha: asked.append((n, alpha)) or mean)
    outcome = sampled.certify(SHOWN_AFFINE, gs.Box(c=(0.8, 1.25), b=(-0.1, 0.1)), n=3_000, failure_probability=2e-3)
    assert len(asked) > 5
    assert {alpha for _, alpha in asked} == {2e-3 / len(asked)}
    assert all(boxes._LEAST <= n <= 3_000 for n, _ in asked)
    assert f"each of {len(asked)} cells" in outcome.argument


def bernoulli_failures(p, n, alpha, seeds, bound):
    rng = np.random.default_rng(0)
    return sum(bound(float(rng.binomial(n, p)) / n, n, alpha) < p for _ in range(seeds))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.97])
def test_the_mean_is_above_its_bound_as_rarely_as_stated(p):
    """Coins are the hardest draws in [0, 1]; a plain mean fails in half of the runs."""
    assert bernoulli_failures(p, 200, 0.05, 2_000, mean_upper) <= binom.ppf(1 - 1e-3, 2_000, 0.05)
    assert bernoulli_failures(p, 200, 0.05, 200, lambda mean, n, alpha: mean) > binom.ppf(1 - 1e-3, 200, 0.05)
    narrow = bernoulli_failures(p, 200, 0.05, 2_000, lambda mean, n, alpha: mean_upper(mean, 5 * n, alpha))
    assert narrow > binom.ppf(1 - 1e-3, 2_000, 0.05)


def test_upper_bounds_of_a_mean():
    assert mean_upper(0.0, 100, 1e-3) == pytest.approx(1 - 1e-3 ** (1 / 100), abs=1e-9)
    assert mean_upper(1.0, 100, 1e-3) == 1
    q = mean_upper(0.3, 500, 1e-3)
    assert 500 * (0.3 * math.log(0.3 / q) + 0.7 * math.log(0.7 / (1 - q))) == pytest.approx(math.log(1e3), rel=1e-6)
    for mean, n in ((-0.1, 5), (1.1, 5), (0.5, 0)):
        with pytest.raises(ValueError, match=r"draws in \[0, 1\]"):
            mean_upper(mean, n, 0.1)


class Comb(gs.Law):
    """Uniform on [i, i + 1/2] for i from -20 to 19: a density of many modes, which says so by naming none."""

    fields = ("unit",)

    def __init__(self, unit):
        super().__init__(unit=unit)

    @property
    def interval(self):
        return -20.0 * self.unit, 19.5 * self.unit

    def _log_density(self, x):
        inside = torch.remainder(x / self.unit, 1.0) <= 0.5
        return torch.where(inside, -math.log(20 * self.unit), -math.inf)

    def icdf(self, value):
        tooth = torch.floor(40 * value).clamp(max=39)
        return self.unit * (tooth - 20 + (40 * value - tooth) / 2)


def test_a_law_of_many_modes_has_no_least_density_at_the_ends():
    """Moved by half of a tooth's distance it shares nothing with itself, though at both ends of [0, 1] it does."""
    family = gs.SmoothedFamily(ShownBrighten(), {"b": Comb(1.0)})
    with pytest.raises(gs.NotApplicable, match="cells need a law of one mode"):
        gs.required_probability(family, gs.Box(b=(0.0, 1.0)))


class Stays(ShownBrighten):
    def inverse(self, theta, beta):
        return theta + 0 * beta


@pytest.mark.parametrize(("loc", "scale"), [(0, 1e-9), (0, 1e-8), (1e9, 1), (1e6, 1e-3), (0, 1)])
def test_a_wrong_inverse_is_seen_in_any_units(loc, scale):
    family = gs.SmoothedFamily(Stays(), {"b": gs.Normal(loc, scale)})
    with pytest.raises(gs.NotApplicable, match=r"is not that of resolve|rounding decides"):
        gs.required_probability(family, gs.Box(b=(0.0, 0.9 * scale)))


@pytest.mark.parametrize(("loc", "scale"), [(0, 1e-9), (1e6, 1e-3), (0, 1e6)])
def test_a_right_inverse_is_right_in_any_units(loc, scale):
    family = gs.SmoothedFamily(ShownBrighten(), {"b": gs.Normal(loc, scale)})
    found = sampled.certify(family, gs.Box(b=(0.0, 0.9 * scale)), n=20_000).h_min
    exact = float(gs.Normal(0, 1).cdf(torch.tensor(0.9, dtype=torch.float64)))
    assert exact <= found <= exact + 0.03


class Steps(gs.ResolvableTransform):
    """A brightness, and whole steps that go to and fro: six of them lead back. Its claim about them is false."""

    name, parameters, identity = "steps", ("k", "b"), torch.zeros(2, dtype=torch.float64)
    integer_parameters = frozenset({"k"})
    monotone_parameters = frozenset({"k"})

    def apply(self, images, theta):
        return images + theta[:, 1].to(images)[:, None, None, None]

    @staticmethod
    def moved(beta):
        return torch.stack((2 * torch.sin(beta[..., 0] * (math.pi / 6)), beta[..., 1]), dim=-1)

    def resolve(self, alpha, beta):
        return alpha + self.moved(beta)

    def inverse(self, theta, beta):
        return theta - self.moved(beta)


@pytest.mark.usefixtures("rough")
def test_no_claim_is_believed_beside_cells():
    """Both ends of [0, 6] are where nothing moves, and in the middle two scatters are needed."""
    family = gs.SmoothedFamily(Steps(), {"k": gs.Normal(0, 1), "b": gs.Normal(0, 1)})
    found = sampled.certify(family, gs.Box(k=(0, 6), b=(0.0, 0.1)), n=20_000)
    assert found.h_min >= float(gs.Normal(0, 1).cdf(torch.tensor(2.0, dtype=torch.float64)))
    assert "claim" not in found.argument
    assert "all whole k" in found.argument


class Wrong(ShownAffine):
    def inverse(self, theta, beta):
        return torch.stack((theta[..., 0] / beta[0], theta[..., 1] - theta[..., 0] * beta[1]), dim=-1)


class Branching(ShownAffine):
    def inverse(self, theta, beta):
        return super().inverse(theta, beta if beta[0] > 0 else -beta)


class Taken(ShownAffine):
    def inverse(self, theta, beta):
        return super().inverse(theta, torch.tensor(beta.tolist(), dtype=torch.float64))


class Fails(ShownAffine):
    def inverse(self, theta, beta):
        raise RuntimeError("no idea")


class Narrow(ShownAffine):
    def inverse(self, theta, beta):
        return super().inverse(theta, beta).to(torch.float32)


class Constant(ShownAffine):
    """What an enclosure may not show: the value at another parameter."""

    def inverse(self, theta, beta):
        return super().inverse(theta, beta if isinstance(beta, torch.Tensor) else torch.tensor([1.0, 0.0]).double())


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (Wrong(), r"is not that of resolve: at c = .* differs from theta by"),
        (Branching(), r"uses a comparison, of which no enclosure is known"),
        (Taken(), r"uses tolist, of which no enclosure"),
        (Fails(), r"inverse fails at c = .*RuntimeError: no idea"),
        (Narrow(), r"must give float64"),
        (Constant(), r"does not agree with automatic differentiation"),
        (Affine(), r"declares no factors.*define inverse"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Affine) else "",
)
def test_inverses_that_prove_nothing_are_refused(transform, message):
    family = gs.SmoothedFamily(transform, AFFINE.laws)
    with pytest.raises(ValueError, match=message):
        gs.required_probability(family, gs.Box(c=(0.8, 1.2), b=(0.0, 0.1)))


@pytest.mark.parametrize("part", ["determinant", "_least_log_density"])
def test_an_enclosure_that_is_too_high_is_seen(part, monkeypatch):
    true = getattr(boxes, part)
    if part == "determinant":
        monkeypatch.setattr(boxes, part, lambda rows: true(rows) * 1.01)
    else:
        monkeypatch.setattr(
            boxes, part, lambda family, low, high: true(family, low, high) * (1 - 0.01 * (low is not high))
        )
    with pytest.raises(gs.NotApplicable, match="does not agree with automatic differentiation"):
        sampled.certify(SHOWN_AFFINE, gs.Box(c=(0.8, 1.2), b=(0.0, 0.1)), n=1_000)


class Bright2(ShownBrighten):
    name = "bright2"


@pytest.mark.usefixtures("rough")
def test_compositions_invert_part_by_part():
    laws = {"b": gs.Normal(0, 0.3), "tx": gs.Normal(0, 2), "ty": gs.Normal(0, 2)}
    family = gs.SmoothedFamily(T.Composition(Bright2(), T.Translation()), laws)
    known = gs.SmoothedFamily(
        T.Composition(T.Brightness(), T.Translation()), {"brightness": laws["b"], "tx": laws["tx"], "ty": laws["ty"]}
    )
    found = sampled.certify(family, gs.Box(b=(-0.1, 0.1), tx=(-1, 1)), n=20_000)
    exact = gs.required_probability(known, gs.Box(brightness=(-0.1, 0.1), tx=(-1, 1)))
    assert exact <= found.h_min <= exact + 0.05
    assert "(tx) are monotone" in found.argument
    assert "every b, in cells" in found.argument
    without = gs.SmoothedFamily(T.Composition(Brighten(), T.Translation()), laws)
    with pytest.raises(gs.NotApplicable, match="define inverse"):
        sampled.certify(without, gs.Box(b=(-0.1, 0.1)), n=1_000)


def test_what_can_be_proved_does_not_rest_on_a_claim():
    class Vouched(ShownBrighten):
        monotone_parameters = frozenset({"b"})

    family = gs.SmoothedFamily(Vouched(), {"b": gs.Normal(0, 0.3)})
    argument = sampled.certify(family, gs.Box(b=(-0.1, 0.2)), n=1_000).argument
    assert "claim" not in argument
    assert "interval arithmetic" in argument


@pytest.mark.parametrize("name", sorted(T.BUILTIN))
def test_built_in_transformations_invert_their_resolving_functions(name):
    transform, generator = T.BUILTIN[name](), torch.Generator().manual_seed(0)
    alpha, beta = transform.random_parameters(50, generator), transform.random_parameters(1, generator)[0]
    solved = transform.inverse(transform.resolve(alpha, beta.expand_as(alpha)), beta)
    assert torch.allclose(solved, alpha, rtol=1e-10, atol=1e-10)


def test_an_image_is_certified_over_a_box():
    class Bright(torch.nn.Module):
        def forward(self, x):
            mean = x.mean(dim=(1, 2, 3))
            return torch.stack((0.0 * mean, mean), dim=1)

    smoothed = gs.SmoothedClassifier(
        Bright(), gs.SmoothedFamily(ShownBrighten(), {"b": gs.Normal(0, 0.3)}), num_classes=2
    )
    result = smoothed.certify(torch.full((1, 4, 4), 0.9), gs.Box(b=(-0.2, 0.2)), n=1000, alpha=1e-3)
    assert result.certified
    assert result.failure_probability == pytest.approx(1e-3 + sampled.FAILURE_PROBABILITY)


@pytest.mark.usefixtures("rough")
@pytest.mark.parametrize("region", [gs.Points([{"b": 0.1}]), gs.Box(b=(0.0, 0.1))], ids=repr)
def test_what_a_law_of_the_users_may_be_off_by_is_added(region, monkeypatch):
    """Densities that are off by e in total variation: h_min by e, and by 2 e at most through the slope of N⁻¹."""
    family = gs.SmoothedFamily(ShownBrighten(), {"b": gs.Normal(0, 0.3)})
    certify = sampled.cached_certify.__wrapped__
    exact = certify(family, region, 2_000, 1e-2, 0).h_min
    monkeypatch.setattr("glsmooth.bounds.base.density_error", lambda law: 1e-3)
    assert certify(family, region, 2_000, 1e-2, 0).h_min == pytest.approx(exact + 3e-3, abs=1e-12)
