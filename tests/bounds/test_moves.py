"""Moves of an inner coordinate: closed forms against quantile grids, and the chord rule with its slips."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr

import glsmooth as gs
from glsmooth.bounds.cells import Observed, move_of
from glsmooth.laws.moves import Flat, Move
from glsmooth.laws.normal import Standard

N = 200_000
SHIFTED = [
    gs.Normal(0.3, 0.7),
    gs.Laplace(0.3, 0.7),
    gs.Rayleigh(0.7),
    gs.LogNormal(0.0, 0.3),
    gs.LogNormal(0.2, 1.5),
    gs.HalfNormal(0.5),
    gs.Exponential(2.0),
    gs.Uniform(-0.5, 1.0),
]
RESCALED = [
    gs.LogNormal(0.1, 0.4),
    gs.Rayleigh(0.7),
    gs.HalfNormal(0.5),
    gs.Exponential(2.0),
    gs.Uniform(0.0, 2.0),
    gs.Uniform(0.5, 2.0),
]
CASES = [(law, rescaled, forward) for laws, rescaled in ((SHIFTED, False), (RESCALED, True)) for law in laws
         for forward in (True, False)]  # fmt: skip


def name(case):
    law, rescaled, forward = case
    return f"{law!r} {'rescaled' if rescaled else 'shifted'} {'up' if forward else 'down'}"


def log_ratios(law, rescaled, d):
    """L at quantiles of the law as it is and of the moved one, from the law's density alone."""
    y = law.icdf((torch.arange(N, dtype=torch.float64) + 0.5) / N)

    def ratio(x):
        moved = law.log_prob(x * math.exp(-d)) - d if rescaled else law.log_prob(x - d)
        return (moved - law.log_prob(x)).numpy()

    return ratio(y), ratio(y * math.exp(d) if rescaled else y + d)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_the_ratio_has_the_stated_law(case):
    law, rescaled, forward = case
    move, unit = move_of(law, rescaled, forward)
    # A set {L <= t} is one interval or two, so a quantile grid counts it to 4 cells; rounding decides atoms.
    for d in (1e-3, 0.05, 0.4, 1.0, 3.0):
        under_0, under_b = log_ratios(law, rescaled, d if forward else -d)
        finite = under_b[np.isfinite(under_b)]
        levels = np.quantile(finite, (0.05, 0.5, 0.95)) if len(finite) else np.zeros(1)
        for t in levels + 1e-9:
            below_0, below_b = move.below(np.array([t]), np.array([d * unit]))
            assert float(below_0[0]) == pytest.approx((under_0 <= t).mean(), abs=4 / N)
            assert float(below_b[0]) == pytest.approx((under_b <= t).mean(), abs=4 / N)


def advantage(move: Move, size: float, k: float) -> float:
    """∫ (dP_0 - k dP_β)₊ = P_0(L <= -log k) - k P_β(L <= -log k)."""
    below_0, below_b = move.below(np.array([-math.log(k)]), np.array([max(size, 1e-300)]))
    return float(below_0[0] - k * below_b[0])


def excess(move: Move, start: float, width: float, share: float, k: float) -> tuple[float, float]:
    """By how much a move is easier to tell apart than the chord of two, and what the slips allow."""
    limit = move.limit
    start, end = min(start, limit), min(start + width, limit)
    middle = (1 - share) * start + share * end
    chord = (1 - share) * advantage(move, start, k) + share * advantage(move, end, k)
    slip_0, slip_b = move.slip
    return advantage(move, middle, k) - chord, (slip_0 + k * slip_b) * (end - start) ** 2


@pytest.mark.parametrize("case", CASES, ids=name)
def test_no_move_is_easier_to_tell_apart_than_its_chord(case):
    law, rescaled, forward = case
    move, unit = move_of(law, rescaled, forward)
    rng = np.random.default_rng(0)
    scale = 0.3 * unit * (1.0 if rescaled else float(torch.diff(law.icdf(torch.tensor([0.16, 0.84]).double()))))
    for _ in range(400):
        start, width = rng.exponential(2 * scale), rng.exponential(2 * scale)
        more, allowed = excess(move, start, width, rng.uniform(), math.exp(rng.normal(0, 1)))
        assert more <= allowed + 1e-13


def test_the_chord_rule_needs_its_slips():
    """Without them it fails: the test above is not an empty one. (Shifted uniform laws need none.)"""
    needed = []
    for law, rescaled, forward in CASES:
        move, unit = move_of(law, rescaled, forward)
        if max(move.slip) == 0:
            assert isinstance(law, gs.Uniform)
            continue
        scale = 0.3 * unit * (1.0 if rescaled else float(torch.diff(law.icdf(torch.tensor([0.16, 0.84]).double()))))
        starts, levels = scale * np.linspace(0, 6, 25), (0.3, 0.7, 1, 1.4, 3)
        pairs = [excess(move, start, scale / 2, 0.5, k) for start in starts for k in levels]
        needed.append(max(more / allowed for more, allowed in pairs if allowed > 0))
    assert sum(share > 0.02 for share in needed) >= len(needed) / 2


@pytest.mark.parametrize("case", CASES, ids=name)
def test_larger_moves_are_easier_to_tell_apart_where_it_is_said(case):
    law, rescaled, forward = case
    move, unit = move_of(law, rescaled, forward)
    if not move.ordered:
        assert isinstance(law, gs.LogNormal)
        return
    for k in (0.2, 0.8, 1.0, 1.3, 4.0):
        values = [advantage(move, size * unit, k) for size in np.linspace(1e-6, 2, 60)]
        assert np.diff(values).min() >= -1e-13


def test_flat_moves_share_what_their_supports_share():
    move, _ = move_of(gs.Uniform(0.5, 2.0), rescaled=True, forward=True)
    assert isinstance(move, Flat)
    assert move.limit == pytest.approx(math.log(4))
    common_0, common_b = move.overlap(np.array([math.log(2), math.log(4), 5.0]))
    assert common_0 == pytest.approx([1 / 1.5, 0, 0])  # [1, 2] of [0.5, 2]
    assert common_b == pytest.approx([1 / 3, 0, 0])  # [1, 2] of [1, 4]


INNER = [gs.Normal(0, 0.6), gs.HalfNormal(0.5), gs.Rayleigh(0.6)]


@pytest.mark.parametrize("inner", INNER, ids=repr)
def test_cells_only_ever_err_upwards_and_by_their_square(inner):
    """More cells: a lower bound on the same number, its distance from the next finer one shrinking fourfold."""
    part = Observed(gs.LogNormal(0.0, 0.6), 0.7, inner, 0.15, rescaled=False)
    values = []
    for count in (40, 80, 160, 320):
        atoms = part.atoms(count)
        t = atoms.threshold(0.5, under_beta=True)
        values.append(min(atoms.inverse(0.5), *(atoms.below(x)[0] + math.exp(-x) * (0.5 - atoms.below(x)[1])
                                               for x in t + np.linspace(-0.02, 0.02, 21))))  # fmt: skip
    steps = -np.diff(values)
    assert (steps > 0).all()
    assert steps[0] > 2 * steps[1] > 4 * steps[2]


def test_an_observed_law_that_leaves_nothing_in_common():
    part = Observed(gs.Uniform(0.5, 0.75), 1.75, gs.HalfNormal(0.2), 0.03, rescaled=False)
    assert part.atoms(100).inverse(0.5) == 1.0


def chord_error(density, u, w):
    """Total variation between a density moved by w / 2 and the middle of its chord from 0 to w."""
    return 0.5 * np.trapezoid(np.abs(density(u - w / 2) - (density(u) + density(u - w)) / 2), u)


SMOOTH = [(law, False) for law in (SHIFTED[0], *SHIFTED[2:5])] + [(law, True) for law in RESCALED[:4]]


@pytest.mark.parametrize(("law", "rescaled"), SMOOTH, ids=repr)
def test_slips_are_what_a_short_chord_misses(law, rescaled):
    """The moved law in the other one's coordinates: slip · width² is the total variation, for short steps."""

    def density(u):
        x = torch.from_numpy(np.exp(u) if rescaled else u)
        return law.log_prob(x).exp().numpy() * (x.numpy() if rescaled else 1.0)

    w = 0.01 * (1.0 if rescaled else float(torch.diff(law.icdf(torch.tensor([1e-3, 0.2], dtype=torch.float64)))))
    u = law.icdf(torch.from_numpy(ndtr(np.linspace(-6, 6, 100_001)))).numpy()
    u = np.log(u) if rescaled else u
    u = np.unique(np.concatenate((u, u + w / 2, u + w)))
    for forward in (True, False):
        move, unit = move_of(law, rescaled, forward)
        slip = move.slip if forward or isinstance(move, Standard) else move.slip[::-1]
        assert slip[0] == 0
        assert chord_error(density, u, w) == pytest.approx(slip[1] * (w * unit) ** 2, rel=2e-2)


def test_the_slip_of_a_kink_is_what_a_short_chord_misses():
    """It is approached from below, and slowly: by a share of the step."""
    law, w = gs.Laplace(0.0, 0.7), 1e-3
    u = np.unique(np.concatenate([np.linspace(-12, 12, 200_001) + k * w / 2 for k in range(3)]))
    missed = chord_error(lambda x: law.log_prob(torch.from_numpy(x)).exp().numpy(), u, w)
    for move in (law.shifts, law.shifts.reversed()):
        assert move.slip[0] == 0
        assert 0.99 * move.slip[1] * w**2 < missed <= move.slip[1] * w**2


@pytest.mark.parametrize("law", [gs.HalfNormal(0.5), gs.Exponential(2.0)], ids=repr)
def test_slips_of_laws_that_jump(law):
    """The moved law stands still; the other one loses what lies below the moved end, one more outcome."""
    w, worst = 0.01, 0.0
    y = np.linspace(0, float(law.icdf(torch.tensor(1 - 1e-12, dtype=torch.float64))), 400_001)
    for d in (0.0, 0.1, 0.3, 0.5, 0.8):
        densities = [law.log_prob(torch.from_numpy(y + d + k * w / 2)).exp().numpy() for k in range(3)]
        below = [float(law.cdf(torch.tensor(d + k * w / 2).double())) for k in range(3)]
        inside = np.trapezoid(np.abs(densities[1] - (densities[0] + densities[2]) / 2), y)
        worst = max(worst, 0.5 * (inside + abs(below[1] - (below[0] + below[2]) / 2)))
    for forward in (True, False):
        slip = move_of(law, False, forward)[0].slip
        slip = slip if forward else slip[::-1]
        assert slip[1] == 0
        assert 0.6 * slip[0] * w**2 <= worst <= slip[0] * w**2


@pytest.mark.parametrize("forward", [True, False])
def test_slips_of_shares_are_what_their_chords_miss(forward):
    w = 0.01
    cases = ((gs.Exponential(2.0), False), (gs.Uniform(0.5, 2.0), True), (gs.Uniform(0.0, 2.0), True))
    for law, rescaled in cases:
        move, _ = move_of(law, rescaled, forward)
        d = np.linspace(0, min(move.limit - w, 3.0), 500)
        for i in (0, 1):
            parts = [move.overlap(d + k * w / 2)[i] for k in range(3)]
            missed = float(np.abs(parts[1] - (parts[0] + parts[2]) / 2).max())
            assert missed == pytest.approx(move.slip[i] * w**2, rel=2e-2, abs=1e-15)
