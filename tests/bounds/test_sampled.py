"""Sampled Neyman-Pearson against exact values: never below except with the stated probability, and close.

Random tests use fixed seeds; their limits have a failure rate of 1e-3 for other seeds.
"""

import math

import pytest
import torch
from scipy.stats import binom

import glsmooth as gs
from glsmooth.bounds import sampled

from .user_transforms import AFFINE, BRIGHTEN, BUILTIN_AFFINE, CURVED, Affine, Brighten, CurvedAffine

T = gs.transforms


def exact(family, **beta):
    return gs.required_probability(family, gs.Points([beta]))


def brighten(law):
    return gs.SmoothedFamily(Brighten(), {"b": law})


def exact_brightness(law, b):
    return exact(gs.SmoothedFamily(T.Brightness(), {"brightness": law}), brightness=b)


def exact_curved(p, q):
    return exact(BUILTIN_AFFINE, contrast=math.exp(p), brightness=math.log(q))


SMOOTH = [
    (BRIGHTEN, {"b": 0.4}, exact_brightness(gs.Normal(0, 0.3), 0.4)),
    (BRIGHTEN, {"b": -0.05}, exact_brightness(gs.Normal(0, 0.3), 0.05)),
    (brighten(gs.Rayleigh(0.5)), {"b": -0.2}, exact_brightness(gs.Rayleigh(0.5), -0.2)),
    (AFFINE, {"c": 0.5, "b": 0.4}, exact(BUILTIN_AFFINE, contrast=0.5, brightness=0.4)),
    (AFFINE, {"c": 2.0, "b": -0.2}, exact(BUILTIN_AFFINE, contrast=2.0, brightness=-0.2)),
    (CURVED, {"p": -0.6, "q": 1.5}, exact_curved(-0.6, 1.5)),
    (CURVED, {"p": 0.4, "q": 0.8}, exact_curved(0.4, 0.8)),
]
# Their L has atoms, and an infinite part where the moved support leaves the other one.
ATOMS = [
    (brighten(law), {"b": b}, exact_brightness(law, b))
    for law, b in (
        (gs.Exponential(0.3), 0.1),
        (gs.Exponential(0.3), 2.0),
        (gs.Exponential(1.7), -0.2),
        (gs.Uniform(-1, 1), 0.4),
        (gs.HalfNormal(1.0), 0.3),
    )
]


@pytest.mark.parametrize(("family", "beta", "value"), SMOOTH + ATOMS)
def test_just_above_the_exact_value(family, beta, value):
    h_min = sampled.required_probability_at(family, beta, n=200_000)
    assert value <= h_min <= value + 0.01  # two bounds of 4 / (2 √n) = .0045 each


def test_log_ratios_are_those_of_the_closed_densities():
    """Constant factors of a density do not move h_min, so L itself is compared; the chart is c = e^p, b = log q."""
    alpha = CURVED.sample(1_000, torch.Generator().manual_seed(0))
    beta = torch.tensor([-0.6, 1.5], dtype=torch.float64)
    theta = CURVED.transform.resolve(alpha, beta)

    def chart(x):
        return torch.stack((torch.exp(x[..., 0]), torch.log(x[..., 1])), dim=-1)

    expected = BUILTIN_AFFINE.log_ratio(chart(theta), chart(beta))
    found, _, correction = sampled.log_ratio(CURVED, alpha, theta, beta)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert float(correction.abs().max()) < 1e-12
    again, solved, _ = sampled.solved_log_ratio(CURVED, theta, beta)
    assert torch.allclose(again, alpha, rtol=1e-8, atol=1e-8)
    assert torch.allclose(solved, expected, rtol=1e-7, atol=1e-7)


def test_disjoint_laws_certify_nothing():
    assert sampled.required_probability_at(brighten(gs.Uniform(-1, 1)), {"b": 2.5}, n=2_000) == 1


def failures(family, beta, value, seeds, n=300, alpha=0.02):
    """Runs whose bound lies below the exact value."""
    return sum(
        sampled.required_probability_at(family, beta, n, alpha, torch.Generator().manual_seed(seed)) < value
        for seed in range(seeds)
    )


@pytest.mark.parametrize(("case", "seeds"), [(SMOOTH[1], 500), (SMOOTH[3], 150), (SMOOTH[5], 120), (ATOMS[0], 300)])
def test_the_bound_fails_as_rarely_as_stated(case, seeds):
    assert failures(*case, seeds) <= binom.ppf(1 - 1e-3, seeds, 0.02)


def test_a_plain_median_fails_more_often(monkeypatch):
    """The same test sees a median without its margin (it fails in 5 % of runs), the more so with a plain frequency."""
    monkeypatch.setattr(sampled, "median_rank", lambda n, alpha: n // 2)
    assert failures(*SMOOTH[1], 800) > binom.ppf(1 - 1e-3, 800, 0.02)
    monkeypatch.setattr(sampled, "clopper_pearson_upper", lambda count, n, alpha: count / n)
    assert failures(*SMOOTH[1], 60) > binom.ppf(1 - 1e-3, 60, 0.02)


def test_an_atom_that_rounding_cuts_in_two_is_counted(monkeypatch):
    """Its L may fall to different sides of a cell's edge under the two laws; only the room for errors catches that."""
    family, beta, value = ATOMS[0]
    order, calls = sampled._order, []

    def cut(ratio, centre, generator):
        """The atom on the edge of its cell, and an error of 1e-9, downwards, in the first call: under μ_β."""
        calls.append(None)
        return order(ratio - (1e-9 if len(calls) == 1 else 0.0), centre + sampled.CELL / 2, generator)

    monkeypatch.setattr(sampled, "_order", cut)
    assert sampled.required_probability_at(family, beta, n=20_000) >= value
    calls.clear()
    monkeypatch.setattr(sampled, "ERROR", 0.0)
    monkeypatch.setattr(sampled, "_check_solutions", lambda *args: None)
    assert sampled.required_probability_at(family, beta, n=20_000) < value


@pytest.mark.parametrize("n", [1, 5, 20, 301, 5_000])
@pytest.mark.parametrize("alpha", [0.4, 0.025, 5e-5])
def test_median_rank_is_the_least_that_will_do(n, alpha):
    k = sampled.median_rank(n, alpha)
    assert binom.sf(k - 1, n, 0.5) <= alpha
    assert k == 0 or binom.sf(k - 2, n, 0.5) > alpha


def test_too_few_draws_certify_nothing():
    assert sampled.required_probability_at(BRIGHTEN, {"b": 0.01}, n=10) == 1


def test_the_identity_costs_nothing():
    assert sampled.required_probability_at(AFFINE, {}) == 0.5


class WithInverse(CurvedAffine):
    def inverse(self, theta, beta):
        p, q = theta.unbind(-1)
        p = p - beta[0]
        return torch.stack((p, q / beta[1] ** torch.exp(p)), dim=-1)


class WrongInverse(Brighten):
    def inverse(self, theta, beta):
        return theta - 2 * beta


class PartialInverse(Brighten):
    def inverse(self, theta, beta):
        return torch.where(theta > 0.5, torch.nan, theta - beta)


def test_inverse_of_the_user():
    beta = {"p": -0.6, "q": 1.5}
    family = gs.SmoothedFamily(WithInverse(), CURVED.laws)
    at = family.transform.vector(beta)
    theta = family.sample(1000, torch.Generator().manual_seed(0))
    alpha = sampled.solve(family.transform, theta, at)
    assert torch.allclose(family.transform.resolve(alpha, at), theta, rtol=1e-12, atol=1e-12)
    assert torch.allclose(alpha, sampled.solve(CURVED.transform, theta, at), rtol=1e-9, atol=1e-9)
    assert sampled.required_probability_at(family, beta, n=50_000) == pytest.approx(
        sampled.required_probability_at(CURVED, beta, n=50_000), abs=1e-4
    )


def test_a_wrong_inverse_is_only_a_start():
    family = gs.SmoothedFamily(WrongInverse(), BRIGHTEN.laws)
    expected = sampled.required_probability_at(BRIGHTEN, {"b": 0.4}, n=20_000)
    assert sampled.required_probability_at(family, {"b": 0.4}, n=20_000) == pytest.approx(expected, abs=1e-9)


def test_unsolved_draws_count():
    """θ > 0.5 cannot be inverted: its mass under μ_β₀ above the threshold t = 0.4 of θ is added."""
    family = gs.SmoothedFamily(PartialInverse(), BRIGHTEN.laws)
    tail = float(BRIGHTEN.laws["b"].survival(torch.tensor(0.5, dtype=torch.float64)))
    value = SMOOTH[0][2] + tail
    assert value <= sampled.required_probability_at(family, {"b": 0.4}, n=200_000) <= value + 0.01


class Fold(Brighten):
    """α + 3 β sin α: goes back and forth."""

    def resolve(self, alpha, beta):
        return alpha + 3 * beta * torch.sin(alpha)


class Square(Affine):
    """z + β z² in the plane of complex numbers: two solutions everywhere, det = |1 + 2 β z|² >= 0."""

    identity = torch.zeros(2, dtype=torch.float64)

    def resolve(self, alpha, beta):
        (x, y), (u, v) = alpha.unbind(-1), beta.unbind(-1)
        re, im = x * x - y * y, 2 * x * y
        return torch.stack((x + u * re - v * im, y + u * im + v * re), dim=-1)


def test_a_resolving_function_that_takes_a_value_twice_is_refused(monkeypatch):
    fold = gs.SmoothedFamily(Fold(), {"b": gs.Normal(0, 2)})
    with pytest.raises(gs.NotApplicable, match=r"lead to the same parameter at b = 0\.5"):
        sampled.required_probability_at(fold, {"b": 0.5}, n=1_000)
    with monkeypatch.context() as patch:
        patch.setattr(sampled, "_check_solutions", lambda *args: None)
        with pytest.raises(gs.NotApplicable, match=r"det .* changes its sign at b = 0\.5"):
            sampled.required_probability_at(fold, {"b": 0.5}, n=1_000)
    family = gs.SmoothedFamily(Square(), {"c": gs.Normal(0, 1), "b": gs.Normal(0, 1)})
    with pytest.raises(gs.NotApplicable, match="lead to the same parameter"):
        sampled.required_probability_at(family, {"c": 1.0}, n=1_000)


class Detached(Brighten):
    def resolve(self, alpha, beta):
        return (alpha + beta).detach()


class WrongShape(Brighten):
    def resolve(self, alpha, beta):
        return (alpha + beta)[..., 0]


class WrongIdentity(Brighten):
    identity = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("transform", "message"),
    [(Detached(), "loses the gradient"), (WrongShape(), "keep shape"), (WrongIdentity(), "must leave every")],
)
def test_wrong_resolving_functions_are_named(transform, message):
    family = gs.SmoothedFamily(transform, BRIGHTEN.laws)
    with pytest.raises(ValueError, match=message):
        gs.required_probability(family, gs.Points([{"b": 0.1}]))


class Reflected(Brighten):
    resolvable = False


def test_approximately_resolvable_transformations_are_refused():
    family = gs.SmoothedFamily(Reflected(), BRIGHTEN.laws)
    with pytest.raises(gs.NotApplicable, match="only approximately"):
        gs.required_probability(family, gs.Points([{"b": 0.1}]))


def test_points_share_the_failure_probability(monkeypatch):
    shares = []

    def record(family, point, n, share, generator):
        shares.append(share)
        return 0.5 + point["b"]

    monkeypatch.setattr(sampled, "required_probability_at", record)
    bound = sampled.certify(BRIGHTEN, gs.Points([{"b": 0.1}, {"b": 0.3}, {"b": 0.2}]), failure_probability=3e-3)
    assert shares == pytest.approx([1e-3] * 3)
    assert (bound.h_min, bound.worst, bound.failure_probability) == (0.8, {"b": 0.3}, 3e-3)
    assert bound.sound


class Vouched(Brighten):
    monotone_parameters = frozenset({"b"})


def test_intervals_need_a_claim():
    box = gs.Box(b=(-0.1, 0.4))
    with pytest.raises(gs.NotApplicable, match=r"Points\(\[\.\.\.\]\) instead of an interval of b"):
        gs.required_probability(BRIGHTEN, box)
    with pytest.raises(gs.NotApplicable, match="monotone_parameters"):
        gs.required_probability(BRIGHTEN, gs.Ball(0.1, b=0.0))
    family = gs.SmoothedFamily(Vouched(), BRIGHTEN.laws)
    bound = sampled.certify(family, box, n=20_000)
    assert bound.worst == {"b": 0.4}
    assert SMOOTH[0][2] <= bound.h_min <= SMOOTH[0][2] + 0.03
    assert "by the transformation's own claim that b are monotone" in bound.argument
    assert sampled.certify(family, gs.Box(b=(0.1, 0.4)), n=1_000).argument.endswith(
        "each of 1, all at confidence 1 - 0.0001"
    )
    assert sampled.certify(family, gs.Ball(0.4, b=0.0), n=20_000).h_min >= SMOOTH[0][2]


def test_a_box_of_one_parameter_needs_no_claim():
    bound = sampled.certify(AFFINE, gs.Box(c=(0.5, 0.5), b=(0.4, 0.4)), n=20_000)
    assert bound.worst == {"c": 0.5, "b": 0.4}
    assert bound.h_min >= SMOOTH[3][2]


def test_the_failure_probability_is_added_to_that_of_the_votes():
    """An image whose votes depend on its brightness, certified end to end under a user's transformation."""

    class Bright(torch.nn.Module):
        def forward(self, x):
            mean = x.mean(dim=(1, 2, 3))
            return torch.stack((0.0 * mean, mean), dim=1)

    smoothed = gs.SmoothedClassifier(Bright(), BRIGHTEN, num_classes=2)
    image = torch.full((1, 4, 4), 0.9)
    region = gs.Points([{"b": -0.2}, {"b": 0.2}])
    result = smoothed.certify(image, region, n=1000, alpha=1e-3)
    assert result.certified
    assert result.failure_probability == pytest.approx(1e-3 + sampled.FAILURE_PROBABILITY)
    assert result.h_min >= exact_brightness(gs.Normal(0, 0.3), 0.2)
    # A required probability that is only estimated never certifies.
    estimated = smoothed.certify(image, region, n=1000, alpha=1e-3, method="gl")
    assert estimated.p_lower > estimated.h_min
    assert not estimated.certified


@pytest.mark.parametrize("method", ["gl_printed", "tss", "mp"])
def test_closed_forms_do_not_apply(method):
    with pytest.raises(gs.NotApplicable, match="declares no factors"):
        gs.required_probability(BRIGHTEN, gs.Points([{"b": 0.1}]), method)
