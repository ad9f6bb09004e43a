"""Parts of the loss engine against brute force: masses kept, cells and grids that only spread L, sums multiplied out.

A pair of measures is told apart by tests F; E(k) = max P_0(F) - k P_b(F) over all F, for every k >= 0, says all about
it. A part that replaces a pair by another one must keep both totals and may only raise E. Where the replacement is
exact, or its error is known, E is held to that as well: a looser one would go unnoticed otherwise.
"""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

import glsmooth as gs
from glsmooth.bounds.cells import Moved, Observed, by_slopes, cyclic_pair, move_of, scalar_pair, shares, spread_out
from glsmooth.bounds.sums import combine, exact_sum, grid_sum, on_grid, pruned, smeared_sum, tabulated
from glsmooth.bounds.tradeoffs import Atoms, Gaussian, Monotone, Sum, line_inverse, line_value

KS = np.exp(np.linspace(-4, 4, 81))
#: Rounding of sums of some thousand masses.
TINY = 1e-12


def told(atoms, k):
    """E(k) of unsmeared atoms, slips on the safe side."""
    common = np.maximum(atoms.p_0 - k * atoms.p_b, 0.0).sum()
    return atoms.only_0 + atoms.slip_0 + k * atoms.slip_b + float(common)


def totals(atoms):
    return float(atoms.p_0.sum()) + atoms.only_0, float(atoms.p_b.sum()) + atoms.only_b


def check_consistent(atoms):
    """Each atom's L is the ratio of its masses."""
    np.testing.assert_allclose(atoms.p_b, atoms.p_0 * np.exp(atoms.ell), rtol=1e-9, atol=1e-15)


def some_atoms(rng, count, width=1.0, only_0=0.0, only_b=0.0, slip_0=0.0, slip_b=0.0):
    """Random unsmeared atoms with masses 1 - only_0 and 1 - only_b: one of them takes what the others leave."""
    ell = np.sort(rng.normal(0, width, count))
    p_0 = rng.dirichlet(np.ones(count)) * (1 - only_0)
    # A factor that makes P_b's total right moves all of L.
    ell += math.log((1 - only_b) / float(p_0 @ np.exp(ell)))
    return Atoms(ell, p_0, p_0 * np.exp(ell), np.zeros(count), only_0, only_b, slip_0, slip_b)


def multiplied_out(parts):
    """E of independent unsmeared parts from all combinations of outcomes, the infinite ones among them."""
    p_0, p_b = np.ones(1), np.ones(1)
    for part in parts:
        own_0 = np.concatenate((part.p_0, [part.only_0, 0.0]))
        own_b = np.concatenate((part.p_b, [0.0, part.only_b]))
        p_0, p_b = np.outer(p_0, own_0).ravel(), np.outer(p_b, own_b).ravel()
    return lambda k: float(np.maximum(p_0 - k * p_b, 0.0).sum())


# ----------------------------------------------------------------------------------------------------- cells and grids


@pytest.mark.parametrize("seed", range(5))
def test_cells_keep_their_masses_and_only_spread(seed):
    """Cells with random contents: atoms at the ends of the cell's range, and nothing inside is easier to tell apart."""
    rng = np.random.default_rng(seed)
    cells, pieces = 60, 7
    low = rng.normal(-0.5, 1, cells)
    high = low + rng.exponential(0.7, cells)
    high[:5] = low[:5]  # L is known
    inner = low[:, None] + (high - low)[:, None] * rng.random((cells, pieces))
    p_0 = rng.dirichlet(np.ones(cells * pieces)).reshape(cells, pieces)
    p_b = p_0 * np.exp(inner)
    p_b /= 1.1 * p_b.sum()
    shift = math.log(float(p_b[0, 0] / p_0[0, 0])) - inner[0, 0]
    low, high = low + shift, high + shift
    p_0[7], p_b[8] = 0.0, 0.0  # outside one of the supports
    low[10:15], high[15:20], low[20:25] = -np.inf, np.inf, np.nan  # unbounded or unknown
    high[22:25] = np.nan
    # A range that reaches further than exp can tell counts as unbounded.
    low[25:27] -= 40
    high[27:29] += 40
    atoms, cell = spread_out(low, high, p_0.sum(axis=1), p_b.sum(axis=1))

    assert totals(atoms) == pytest.approx((p_0.sum(), p_b.sum()), abs=TINY)
    check_consistent(atoms)
    at_end = np.fmin(np.abs(atoms.ell - low[cell]), np.abs(atoms.ell - high[cell])) < 1e-9
    assert at_end.all()
    assert atoms.p_0.min() >= 0
    assert atoms.p_b.min() >= 0
    for k in KS:
        assert told(atoms, k) >= np.maximum(p_0 - k * p_b, 0).sum() - TINY
    # Both ends of an ordinary cell keep its two totals, which leaves no choice.
    for i in range(30, cells):
        mine = cell == i
        assert mine.sum() == 2
        assert atoms.p_0[mine].sum() == pytest.approx(p_0[i].sum(), abs=TINY)
        assert atoms.p_b[mine].sum() == pytest.approx(p_b[i].sum(), abs=TINY)
    # No mass is given away that need not be.
    assert atoms.only_0 <= p_0[[8, *range(10, 15), *range(20, 27)]].sum() + TINY
    assert atoms.only_b <= p_b[[7, *range(15, 20), *range(22, 25), 27, 28]].sum() + TINY


def test_a_cell_with_one_infinite_end_in_numbers():
    """P_0 = 0.5, P_b = 0.2 and L <= 0 (so 0.2 of either at 0, the rest at -inf); and mirrored."""
    atoms, _ = spread_out(np.array([-np.inf]), np.array([0.0]), np.array([0.5]), np.array([0.2]))
    assert (atoms.ell, atoms.p_0, atoms.p_b) == pytest.approx((0.0, 0.2, 0.2))
    assert (atoms.only_0, atoms.only_b) == pytest.approx((0.3, 0.0))
    atoms, _ = spread_out(np.array([0.0]), np.array([np.inf]), np.array([0.2]), np.array([0.5]))
    assert (atoms.ell, atoms.p_0, atoms.p_b) == pytest.approx((0.0, 0.2, 0.2))
    assert (atoms.only_0, atoms.only_b) == pytest.approx((0.0, 0.3))
    atoms, _ = spread_out(np.array([-np.inf]), np.array([np.inf]), np.array([0.2]), np.array([0.5]))
    assert len(atoms.ell) == 0
    assert (atoms.only_0, atoms.only_b) == (0.2, 0.5)


@pytest.mark.parametrize("ends", [(-4, 4), (-1, 1), (0, 1), (-1, 0), (0.3, 0.4)])
def test_a_grid_keeps_masses_and_only_spreads(ends):
    rng = np.random.default_rng(0)
    step = 0.05
    atoms = some_atoms(rng, 200, only_0=0.1, only_b=0.2, slip_0=1e-3, slip_b=2e-3)
    low, high = ends
    grid = on_grid(atoms, low, step, round((high - low) / step) + 1)
    assert grid.ell == pytest.approx(np.arange(low, high + step / 2, step))
    assert totals(grid) == pytest.approx((1, 1), abs=TINY)
    assert (grid.slip_0, grid.slip_b) == (1e-3, 2e-3)
    assert min(grid.p_0.min(), grid.p_b.min()) >= 0
    check_consistent(grid)
    # Mass moves from a ratio r to its neighbours on the grid, where the chord of max(1 - k r, 0) is off by
    # (e^step - 1)²/4 at most, in shares of P_0, at the one kink k r = 1.
    for k in KS:
        more = told(grid, k) - told(atoms, k)
        assert more >= -TINY
        if low < -math.log(k) < high and low <= atoms.ell.min() and atoms.ell.max() <= high:
            near = np.abs(atoms.ell + math.log(k)) < step
            assert more <= math.expm1(step) / 2 * float(atoms.p_0[near].sum()) + TINY
    below, above = atoms.ell < low, atoms.ell > high
    # What lies beyond the grid: the likelier of the two measures keeps what the other one needs at the end.
    assert grid.only_0 == pytest.approx(0.1 + (atoms.p_0 - atoms.p_b * math.exp(-low))[below].sum(), abs=TINY)
    assert grid.only_b == pytest.approx(0.2 + (atoms.p_b - atoms.p_0 * math.exp(high))[above].sum(), abs=TINY)


def test_atoms_on_the_grid_stay():
    atoms = some_atoms(np.random.default_rng(0), 5, only_0=0.1)
    for ell in atoms.ell:
        grid = on_grid(atoms, float(ell), 0.25, 3)
        nearest = int(np.flatnonzero(atoms.ell == ell)[0])
        assert grid.p_0[0] >= atoms.p_0[nearest] - TINY


@pytest.mark.parametrize("law", [gs.Rayleigh(0.7), gs.LogNormal(0.1, 0.5), gs.Uniform(0.5, 2.0), gs.Exponential(2.0)])
def test_shares_of_cells_are_linear_weights(law):
    """Mass of each cell and its integral of a weight that rises from 0 to 1 in it, in both tails."""
    edges = law.icdf(torch.tensor([1e-6, 1e-5, 0.1, 0.3, 0.49, 0.52, 0.8, 1 - 1e-4, 1 - 1e-5], dtype=torch.float64))
    edges = edges.numpy()
    mass, share, rounding = shares(law, edges)

    def density(x):
        return math.exp(float(law.log_prob(torch.tensor(x, dtype=torch.float64))))

    for i, (low, high) in enumerate(pairwise(edges)):
        assert mass[i] == pytest.approx(quad(density, low, high, epsabs=0)[0], rel=1e-9)
        rising = quad(lambda x, low=low, high=high: density(x) * (x - low) / (high - low), low, high, epsabs=0)[0]
        assert share[i] == pytest.approx(rising, rel=1e-6)
        assert abs(share[i] - rising) <= rounding
    assert rounding < 1e-12


# ------------------------------------------------------------------------------------------------ sums of unsmeared L


def three_parts(count=12):
    rng = np.random.default_rng(1)
    return [
        some_atoms(rng, count, 0.5, only_0=0.1, only_b=0.2, slip_0=1e-4, slip_b=3e-4),
        some_atoms(rng, count + 3, 0.8, only_0=0.0, only_b=0.15, slip_0=2e-4, slip_b=1e-4),
        some_atoms(rng, count - 4, 0.3, only_0=0.3, only_b=0.0, slip_0=5e-4, slip_b=2e-4),
    ]


def test_products_are_multiplied_out():
    parts = three_parts()
    total = exact_sum(exact_sum(*parts[:2]), parts[2])
    exact = multiplied_out(parts)
    assert totals(total) == pytest.approx((1, 1), abs=TINY)
    assert (total.slip_0, total.slip_b) == pytest.approx((8e-4, 6e-4))
    check_consistent(total)
    for k in KS:
        assert told(total, k) == pytest.approx(exact(k) + 8e-4 + 6e-4 * k, abs=TINY * (1 + k))


@pytest.mark.parametrize("step", [0.05, 0.013])
def test_convolutions_lie_above_the_product_by_the_square_of_the_step(step):
    parts = three_parts()
    total = grid_sum(parts, step)
    exact = multiplied_out(parts)
    assert totals(total) == pytest.approx((1, 1), abs=1e-9)  # of each part 1e-10 may be cut off
    assert 0 < total.slip_0 - 8e-4 < 1e-10  # the rounding of fast convolutions is booked
    assert 0 < total.slip_b - 6e-4 < 1e-10
    assert total.ell / step == pytest.approx(np.round(total.ell / step), abs=1e-9)
    for k in KS:
        more = told(total, k) - exact(k) - total.slip_0 - k * total.slip_b
        # L has about 1400 values here, some of them alone within a step.
        assert -TINY * (1 + k) <= more <= step**2 * 3 + 1e-9


def test_a_sum_beyond_the_range_that_matters_keeps_its_masses():
    """L near ±40 under one of the measures: the grid ends at ±30, and the rest goes to the infinite ends."""
    far = Atoms(
        np.array([-40.0, 0.0, 40.0]), np.array([0.4, 0.3, 0.3 * math.exp(-40)]),
        np.array([0.4 * math.exp(-40), 0.3, 0.3]), np.zeros(3), only_0=0.3, only_b=0.4,
    )  # fmt: skip
    near = some_atoms(np.random.default_rng(0), 5, 0.3, only_0=0.1, only_b=0.1)
    total = grid_sum([far, near], 0.02)
    exact = multiplied_out([far, near])
    assert totals(total) == pytest.approx((1, 1), abs=1e-9)
    for k in KS:
        assert -TINY * (1 + k) <= told(total, k) - exact(k) <= 1e-3


def test_pruned_masses_go_to_the_infinite_ends():
    atoms = some_atoms(np.random.default_rng(0), 50, only_0=0.1, only_b=0.2, slip_0=1e-3, slip_b=2e-3)
    least = 50 * float(np.median(np.maximum(atoms.p_0, atoms.p_b)))
    kept = pruned(atoms, least)
    assert 0 < len(kept.ell) < 50
    assert totals(kept) == pytest.approx((1, 1), abs=TINY)
    assert (kept.slip_0, kept.slip_b) == (1e-3, 2e-3)
    check_consistent(kept)
    assert all(told(kept, k) >= told(atoms, k) - TINY for k in KS)
    assert len(pruned(atoms).ell) == 50


# ------------------------------------------------------------------------------------------------- curves and slips


def smeared_atoms(rng, count, **ends):
    atoms = some_atoms(rng, count, 0.4, **ends)
    return replace(atoms, spread=rng.uniform(0.2, 0.8, count))


def brute_below(plain, smear, t):
    """P(L <= t) of the sum of two parts under both measures, by one loop over all pairs of atoms."""
    p_0, p_b = 1 - (1 - plain.only_0) * (1 - smear.only_0), 0.0
    for ell, own_0, own_b in zip(plain.ell, plain.p_0, plain.p_b, strict=True):
        z, half = (t - ell - smear.ell) / smear.spread, smear.spread / 2
        p_0 += float(own_0 * (smear.p_0 @ ndtr(z + half)))
        p_b += float(own_b * (smear.p_b @ ndtr(z - half)))
    return p_0, p_b


def two_parts():
    rng = np.random.default_rng(2)
    plain = some_atoms(rng, 9, 0.6, only_0=0.15, only_b=0.1, slip_0=1e-5, slip_b=2e-5)
    return plain, smeared_atoms(rng, 7, only_0=0.05, only_b=0.2, slip_0=3e-5, slip_b=5e-5)


def test_sums_are_those_of_all_pairs():
    plain, smear = two_parts()
    total = Sum(plain, smear, Gaussian(1.0))
    for t in (-3.0, -0.4, 0.0, 0.7, 2.0, 50.0):
        p_0, p_b = brute_below(plain, smear, t)
        assert total.mass_below(t) == pytest.approx((p_0, p_b), abs=TINY)
        assert total.below(t) == pytest.approx((p_0 + 4e-5, p_b - 7e-5), abs=TINY)
    assert total.mass_below(50.0) == pytest.approx((1, 0.9 * 0.8), abs=TINY)


@pytest.mark.parametrize("q", [0.1, 0.35, 0.5, 0.7])
def test_curves_of_sums_are_their_best_lines(q):
    """N⁻¹(q) is the least of the lines, N(p) the greatest: found by a search, never beaten, and reached."""
    plain, smear = two_parts()
    total = Sum(plain, smear, Gaussian(1.0))
    p = 0.25 + q

    def required(t):
        below_0, below_b = brute_below(plain, smear, t)
        return below_0 + 4e-5 + math.exp(-t) * (q - below_b + 7e-5)

    def kept(t):
        below_0, below_b = brute_below(plain, smear, t)
        return below_b - 7e-5 + math.exp(t) * (p - below_0 - 4e-5)

    def least(line):
        near = min(np.linspace(-4, 4, 401), key=line)
        return minimize_scalar(line, bounds=(near - 0.02, near + 0.02), method="bounded", options={"xatol": 1e-7}).fun

    exact = least(required)
    assert exact - 1e-11 <= total.inverse(q) <= exact + 1e-7
    exact = -least(lambda t: -kept(t))
    assert exact - 1e-7 <= total(p) <= exact + 1e-11


def test_sums_know_where_their_curves_end():
    plain, smear = two_parts()
    total = Sum(plain, smear, Gaussian(1.0))
    most = 0.9 * 0.8 - 7e-5  # P_b where P_0 has mass, less the slips
    assert total.inverse(most + 1e-12) == 1.0
    assert total.inverse(most - 0.05) < 1.0
    least = 1 - 0.85 * 0.95 + 4e-5
    assert total(least) == 0.0
    assert total(least - 0.01) == 0.0
    assert total(least + 0.01) > 0.0


@pytest.mark.parametrize("level", [0.02, 0.3, 0.5, 0.65])
@pytest.mark.parametrize("under_beta", [False, True])
def test_thresholds_are_near_their_levels(level, under_beta):
    """Any threshold is sound; one at its level is tight."""
    plain, smear = two_parts()
    level = 0.25 + 0.9 * level if not under_beta else level  # above the mass at -inf
    for curve in (Gaussian(0.7), smear, Sum(plain, smear, Gaussian(1.0))):
        t = curve.threshold(level, under_beta)
        reached = curve.below(t)[under_beta]
        assert reached == pytest.approx(level, abs=2e-3)
    t = plain.threshold(level, under_beta)
    assert plain.mass_below(t)[under_beta] >= level
    assert plain.mass_below(t - 1e-9)[under_beta] < level


def test_thresholds_beyond_all_mass_are_at_the_ends():
    _, smear = two_parts()
    low, high = smear.reach()
    assert smear.threshold(0.999, under_beta=True) == high
    assert smear.threshold(0.01, under_beta=False) == low
    assert smear.mass_below(low)[1] < 1e-9
    assert smear.mass_below(high)[0] > 1 - 1e-9


def test_normal_curves_agree_with_their_lines():
    """Gaussian's points (a, b) lie on its curve, and so do those of one atom that is smeared as much."""
    atom = Atoms(np.zeros(1), np.ones(1), np.ones(1), np.array([0.7]))
    for t in (-1.0, 0.0, 0.4):
        below_0, below_b = Gaussian(0.7).below(t)
        assert Gaussian(0.7).inverse(below_b) == pytest.approx(below_0, abs=TINY)
        assert atom.below(t) == pytest.approx((below_0, below_b), abs=TINY)
    assert Gaussian(0.0).below(0.0) == (1.0, 1.0)
    assert Gaussian(0.0).below(-1e-9) == (0.0, 0.0)
    assert Gaussian(0.0).inverse(0.3) == Gaussian(0.0)(0.3) == pytest.approx(0.3, abs=TINY)


def test_any_line_is_sound():
    exact, atom = Gaussian(0.7), Atoms(np.zeros(1), np.ones(1), np.ones(1), np.array([0.7]))
    for q in (0.1, 0.5, 0.9):
        best = exact.threshold(q, True), exact.threshold(q, False)
        for t in (-900.0, -3.0, -0.3, 0.0, 0.5, 2.0, 900.0, *best):
            assert line_inverse(atom, t, q) >= exact.inverse(q)
            assert line_value(atom, t, q) <= exact(q)
        assert line_inverse(atom, best[0], q) <= exact.inverse(q) + 1e-8
        assert line_value(atom, best[1], q) >= exact(q) - 1e-8


@pytest.mark.parametrize(("spread", "slip_0", "slip_b"), [(0.0, 0.01, 0.03), (0.5, 1e-5, 3e-5)])
def test_slips_move_a_curve_to_the_safe_side(spread, slip_0, slip_b):
    """N⁻¹ with slips is slip_0 + N⁻¹(q + slip_b), and N is N(p - slip_0) - slip_b.

    Smeared curves take the line at the level without slips, which costs their square.
    """
    atoms = some_atoms(np.random.default_rng(3), 30, 0.5, only_0=0.1, only_b=0.2)
    atoms = replace(atoms, spread=np.full(30, spread))
    slipped = replace(atoms, slip_0=slip_0, slip_b=slip_b)
    for level in (0.15, 0.5, 0.7):
        assert slipped.inverse(level) == pytest.approx(slip_0 + atoms.inverse(level + slip_b), abs=1e-8)
        assert slipped(level) == pytest.approx(max(0.0, atoms(level - slip_0) - slip_b), abs=1e-8)
    assert slipped.inverse(0.8 - slip_b) == 1.0  # 0.8 is all the mass that μ_β has where μ_β₀ has some
    assert slipped(0.1 + slip_0) == 0.0


def test_unsmeared_curves_are_those_of_sorted_atoms():
    atoms = some_atoms(np.random.default_rng(4), 6, 0.5, only_0=0.1, only_b=0.2)
    shuffled = replace(atoms, ell=atoms.ell[::-1].copy(), p_0=atoms.p_0[::-1].copy(), p_b=atoms.p_b[::-1].copy())
    p, n = 0.1, 0.0
    for i in range(6):
        for part in (0.25, 1.0):
            at_p, at_n = p + part * atoms.p_0[i], n + part * atoms.p_b[i]
            for curve in (atoms, shuffled):
                assert at_n - 1e-11 <= curve(at_p) <= at_n
                if at_n < 0.8 - TINY:
                    assert at_p <= curve.inverse(at_n) <= at_p + 1e-11
        p, n = p + atoms.p_0[i], n + atoms.p_b[i]
    assert atoms(0.1) == 0.0
    assert atoms(1.0) == pytest.approx(0.8, abs=1e-11)


# --------------------------------------------------------------------------------------- whole pairs by quadrature

PAIRS = [
    (gs.Normal(0.3, 0.7), 0.4, 0.7),
    (gs.Normal(0.0, 0.7), -0.2, 1.5),
    (gs.HalfNormal(1.0), 0.3, 0.8),
    (gs.HalfNormal(1.0), -0.3, 1.4),
    (gs.Rayleigh(0.8), 0.3, 0.7),
    (gs.Rayleigh(0.8), -0.2, 1.5),
    (gs.Rayleigh(0.8), 0.2, 1.3),
    (gs.Exponential(2.0), 0.1, 1.5),
    (gs.Exponential(2.0), -0.1, 0.7),
    (gs.Uniform(-1.0, 2.0), 0.3, 0.8),
    (gs.LogNormal(0.1, 0.5), 0.2, 1.0),
    (gs.LogNormal(0.1, 0.5), -0.2, 1.3),
    (gs.LogNormal(0.1, 1.5), 0.2, 0.8),
]


def densities(law, shift, scale, x):
    x = torch.from_numpy(x)
    moved = law.log_prob((x - shift) / scale) - math.log(scale)
    return law.log_prob(x).exp().numpy(), moved.exp().numpy()


@pytest.mark.parametrize(("law", "shift", "scale"), PAIRS, ids=repr)
def test_scalar_pairs_lie_just_above_their_densities(law, shift, scale):
    """∫ (τ_0 - k τ_b)₊ by midpoints between the same quantiles of either law: coarse cells stay above it, fine ones
    come near."""
    u = np.concatenate((np.geomspace(1e-13, 1e-4, 4000), np.linspace(1e-4, 1 - 1e-4, 200_001)))
    u = np.unique(np.concatenate((u, 1 - u)))
    own = law.icdf(torch.from_numpy(u)).numpy()
    x = np.unique(np.concatenate((own, shift + scale * own)))
    middle, width = (x[1:] + x[:-1]) / 2, np.diff(x)
    p_0, p_b = (density * width for density in densities(law, shift, scale, middle))
    for count, error in ((60, math.inf), (3000, 3e-6)):
        atoms = scalar_pair(law, shift, scale, count)
        check_consistent(atoms)
        assert totals(atoms) == pytest.approx((1, 1), abs=TINY)
        for k in np.exp(np.linspace(-1.5, 1.5, 25)):
            exact = float(np.maximum(p_0 - k * p_b, 0).sum())
            # The midpoint rule's own error is of second order in 4e5 cells.
            assert -2e-9 <= told(atoms, k) - exact <= error


OBSERVED = [
    # Flat moves stay atoms; the others are tabulated, which costs the squares of two steps.
    (Observed(gs.LogNormal(0.0, 0.5), 0.8, gs.Exponential(2.0), 0.2, rescaled=False), 1e-6, 1e-4),
    (Observed(gs.LogNormal(0.0, 0.5), 1.3, gs.Exponential(2.0), -0.2, rescaled=False), 1e-6, 1e-4),
    (Observed(gs.Rayleigh(0.6), 1.2, gs.Uniform(-1.0, 1.0), 0.4, rescaled=False), 1e-6, 1e-4),
    (Observed(gs.Rayleigh(0.6), 0.8, gs.Uniform(0.5, 2.0), 0.3, rescaled=True), 1e-6, 1e-4),
    # Moves so large that the two laws may share nothing.
    (Observed(gs.Rayleigh(0.6), 1.2, gs.Uniform(-0.3, 0.3), 0.7, rescaled=False), 1e-6, 1e-4),
    (Observed(gs.Rayleigh(0.6), 0.9, gs.Uniform(0.5, 1.0), -0.8, rescaled=True), 1e-6, 1e-4),
    # Supports of the observed law that end.
    (Observed(gs.Uniform(0.5, 2.0), 1.3, gs.Exponential(2.0), 0.2, rescaled=False), 1e-6, 1e-4),
    (Observed(gs.Uniform(0.5, 2.0), 0.8, gs.Uniform(-1.0, 1.0), -0.3, rescaled=False), 1e-6, 1e-4),
    (Observed(gs.Uniform(0.5, 2.0), 0.8, gs.Normal(0.0, 0.7), 0.3, rescaled=False), 5e-5, 1e-2),
    (Observed(gs.Exponential(1.5), 0.8, gs.HalfNormal(0.7), -0.2, rescaled=False), 5e-5, 1e-2),
    (Observed(gs.Exponential(1.5), 1.2, gs.Rayleigh(0.7), 0.15, rescaled=True), 5e-5, 1e-2),
    (Observed(gs.HalfNormal(1.0), 0.8, gs.Normal(0.0, 0.7), 0.4, rescaled=False), 5e-5, 1e-2),
    # These take few cells, and a slip without the help of an order.
    (Observed(gs.HalfNormal(1.0), 0.9, gs.LogNormal(0.0, 0.4), 0.2, rescaled=False), 1e-3, 1e-1),
    (Moved(gs.LogNormal(0.0, 0.4), 0.3), 5e-5, 1e-2),
]


@pytest.mark.parametrize(("part", "fine", "coarse"), OBSERVED, ids=repr)
def test_tables_of_observed_parts_lie_just_above_a_fine_sum(part, fine, coarse):
    """E by a midpoint rule over the observed coordinate, each with its move in closed form; the table stays above."""
    if isinstance(part, Moved):
        theta, weight_0, weight_b, size = np.ones(1), np.ones(1), np.ones(1), np.array([part.shift])
        move, unit = part.move, 1.0
    else:
        move, unit = move_of(part.inner, part.rescaled, part.step > 0)
        own = part.outer.icdf(torch.from_numpy(ndtr(np.linspace(-7, 7, 8001)))).numpy()
        edges = np.unique(np.concatenate((own, part.scale * own)))
        theta = (edges[1:] + edges[:-1]) / 2
        weight_0, weight_b = (d * np.diff(edges) for d in densities(part.outer, 0.0, part.scale, theta))
        size = theta / part.scale * abs(part.step) * unit
    found = (tabulated(part, False), fine), (tabulated(part, True), coarse)
    for atoms, _ in found:
        check_consistent(atoms)
        assert totals(atoms) == pytest.approx((1, 1), abs=1e-9)
    for k in (0.3, 0.7, 0.9, 1.0, 1.15, 1.5, 3.0):
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.log(weight_b) - np.log(weight_0)
            below_0, below_b = move.below(-math.log(k) - own, np.broadcast_to(size, own.shape))
        exact = float((weight_0 * below_0 - k * weight_b * below_b)[weight_0 > 0].sum())
        for atoms, error in found:
            assert -2e-8 <= told(atoms, k) - exact <= error  # the midpoint rule's own error at a kink


def test_smears_add_their_squares():
    """Two observed normal parts and a normal shift: ℓ adds, sizes by Pythagoras, masses multiply."""
    rng = np.random.default_rng(5)
    one, two = smeared_atoms(rng, 4, only_0=0.1), smeared_atoms(rng, 3, only_b=0.2)
    total = smeared_sum([one, two], 0.3)
    for i in range(4):
        for j in range(3):
            at = 3 * i + j
            assert total.ell[at] == pytest.approx(one.ell[i] + two.ell[j])
            assert total.spread[at] == pytest.approx(math.hypot(one.spread[i], two.spread[j], 0.3))
            assert total.p_0[at] == pytest.approx(one.p_0[i] * two.p_0[j])
            assert total.p_b[at] == pytest.approx(one.p_b[i] * two.p_b[j])
    assert (total.only_0, total.only_b) == pytest.approx((0.1, 0.2))


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("delta", [0.0, 0.4])
def test_combined_parts_lie_just_above_the_product(count, coarse, delta):
    """Few atoms are multiplied out, many go to a grid; beside them a normal shift."""
    parts = [replace(part, slip_0=0.0, slip_b=0.0) for part in three_parts(count)]
    curve = combine(delta, parts, [], coarse=coarse)
    total = exact_sum(exact_sum(*parts[:2]), parts[2])
    exact = total.smeared(delta) if delta else total
    for q in (0.1, 0.3, 0.5):
        assert -1e-8 <= curve.inverse(q) - exact.inverse(q) <= (2e-3 if coarse else 2e-6)
        assert -1e-8 <= exact(0.3 + q) - curve(0.3 + q) <= (2e-3 if coarse else 2e-6)


def loss_on(law, shift, scale, x):
    t = torch.from_numpy(x)
    return (law.log_prob((t - shift) / scale) - math.log(scale) - law.log_prob(t)).numpy()


@pytest.mark.parametrize(("law", "shift", "scale"), PAIRS[:7], ids=repr)
def test_ratios_turn_where_it_is_said(law, shift, scale):
    """Every change of direction of L inside both supports is among the turning points: cells end there."""
    turns = law.ratio_turns(shift, scale)
    low = max(law.interval[0], shift + scale * law.interval[0], -9.0)
    x = np.linspace(low, 9, 200_002)[1:]
    slope = np.diff(loss_on(law, shift, scale, x))
    found = x[1:-1][slope[1:] * slope[:-1] < 0]
    for turn in found:
        assert min(abs(turn - known) for known in turns) < 2 * (x[1] - x[0])
    if isinstance(law, gs.Normal):
        assert len(found) == 1


@pytest.mark.parametrize(
    ("s", "shift", "scale"), [(0.5, 0.2, 1.0), (0.5, -0.2, 1.3), (1.5, 0.2, 0.8), (1.5, 0.05, 1.02), (0.5, -50.0, 1.0)]
)
def test_slopes_enclose_the_ratio_in_every_cell(s, shift, scale):
    law = gs.LogNormal(0.1, s)
    rng = np.random.default_rng(0)
    start = max(0.0, shift)
    turn = math.exp(1.1 - s * s)  # the slope of log τ is least here
    for cells in (0, 3, 30, 300):
        edges = turn * np.array([0.7, 1.4]), start + np.exp(rng.normal(0.1, s, cells))
        edges = np.unique(np.concatenate(edges))
        edges = edges[edges > start + 1e-6]
        inf = np.full(len(edges) - 1, np.inf)
        low, high = by_slopes(law, shift, scale, edges, -inf, inf)
        inside = edges[:-1, None] + np.diff(edges)[:, None] * np.linspace(0, 1, 201)
        ratio = loss_on(law, shift, scale, inside)
        assert (low <= ratio.min(axis=1) + TINY).all()
        assert (high >= ratio.max(axis=1) - TINY).all()
        if cells == 300:  # and in narrow cells they are no wider than a few times the ratio's own range
            width, own = high - low, np.ptp(ratio, axis=1)
            assert np.median(width / own) < 2


@pytest.mark.parametrize("shift", [0.3, -0.3])
def test_a_half_line_is_rounded_to_the_safe_side_far_from_0(shift):
    """At 1e8 a place is rounded to 1e-8 of the law's width, which moves as much of its mass."""
    curve = Monotone(gs.Uniform(1e8, 1e8 + 1), shift, 1.0)
    levels = np.random.default_rng(0).uniform(0.31, 0.69, 200).tolist()
    for p in levels:
        assert curve(p) <= p - 0.3 < curve(p) + 1e-5
        assert curve.inverse(p) - 1e-5 < p + 0.3 <= curve.inverse(p)


def test_shifts_on_a_cycle_count_what_only_one_law_reaches():
    pair = cyclic_pair(np.array([0.5, 0.3, 0.2, 0.0, 0.0]), 2)
    assert (pair.only_0, pair.only_b) == pytest.approx((0.8, 0.5))
    assert pair.inverse(0.1) == pytest.approx(0.8 + 0.2 * 0.1 / 0.5)


@pytest.mark.parametrize(
    ("law", "shift", "scale"), [pair for pair in PAIRS if type(pair[0]) in (gs.Normal, gs.LogNormal)], ids=repr
)
def test_cells_see_where_a_ratio_turns(law, shift, scale):
    """Beside the extreme of L no cell may end short of it: there the two ends of a cell say too little."""
    x = law.icdf(torch.linspace(1e-4, 1 - 1e-4, 400_001, dtype=torch.float64)).numpy()
    x = np.unique(np.concatenate((x, shift + scale * x)))
    middle, width = (x[1:] + x[:-1]) / 2, np.diff(x)
    p_0, p_b = (density * width for density in densities(law, shift, scale, middle))
    seen = (p_0 > 0) & (p_b > 0)
    loss = np.log(p_b[seen]) - np.log(p_0[seen])
    turns = loss[1:-1][np.diff(loss[:-1]) * np.diff(loss[1:]) < 0]
    assert len(turns)
    for count in (21, 22, 40, 41):
        atoms = scalar_pair(law, shift, scale, count)
        for at in {float(turns.min()), float(turns.max())}:
            for k in np.exp(-at + np.linspace(-0.05, 0.05, 41)):
                # All of either law: what lies outside of the grid is given to the bound.
                exact = float(np.maximum(p_0 - k * p_b, 0).sum())
                assert told(atoms, k) >= exact - 2e-9
                # The same with the two laws exchanged.
                assert told(atoms, k) - (1 - k) >= float(np.maximum(k * p_b - p_0, 0).sum()) - 2e-9


@pytest.mark.parametrize("law", [gs.LogNormal(-50.0, 1e-4), gs.LogNormal(3.0, 1e-5)])
def test_places_of_a_narrow_law_that_moves_are_rounded(law):
    """A relative error of an epsilon in y moves 1/(scale √2π) of it in mass; inner and outer places have several."""
    mean = math.exp(law.loc)
    moved = Moved(law, law.scale * mean).atoms(1)
    assert min(moved.slip_0, moved.slip_b) > 10 * 2.0**-53 * law.peak_of_log
    part = Observed(gs.LogNormal(0.0, 0.5), 0.8, law, law.scale * mean, rescaled=False).atoms(100)
    assert min(part.slip_0, part.slip_b) > 10 * 2.0**-53 * law.peak_of_log
    pair = scalar_pair(law, law.scale * mean, 0.8, 100)
    assert min(pair.slip_0, pair.slip_b) > 10 * 2.0**-53 * law.peak_of_log


def test_the_offset_of_a_law_far_from_0_is_rounded():
    """1e8 is a multiple of 1.5e-8, and so is how far a rescaling moves it: that share of a density of at most 0.4."""
    assert scalar_pair(gs.Normal(1e8, 1.0), 0.3, 0.8, 100).slip_b > 0.4 * 1.5e-8


@pytest.mark.parametrize("step", [0.2, -0.2])
def test_tables_keep_the_slips_of_what_they_tabulate(step):
    part = Observed(gs.LogNormal(0.0, 0.5), 0.8, gs.HalfNormal(0.5), step, rescaled=False)
    # Finer cells than the table's have smaller slips.
    table, fine = tabulated(part, coarse=True), part.atoms(300)
    i = 0 if step > 0 else 1  # which of the two laws the chord rule changes
    known, kept = (fine.slip_0, fine.slip_b)[i], (table.slip_0, table.slip_b)[i]
    assert 1e-7 < known < kept
