"""Sums of independent losses L: exactly while there are few atoms, beyond that on a grid that only spreads them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from glsmooth.bounds.cells import Moved, Observed, spread_out
from glsmooth.bounds.tradeoffs import NOTHING, Atoms, Gaussian, Sum, Supported, Tradeoff, either
from glsmooth.laws.moves import Flat
from glsmooth.laws.normal import STANDARD

__all__ = ["combine", "convolve", "exact_sum", "grid_sum", "on_grid", "pruned", "smeared_sum", "tabulated"]


def on_grid(atoms: Atoms, start: float, step: float, count: int) -> Atoms:
    """Move unsmeared atoms to the points start + step·j, keeping both totals of each."""
    ell = atoms.ell
    only_0, only_b = atoms.only_0, atoms.only_b
    end = start + step * (count - 1)
    low, high = ell < start, ell > end
    keep = ~(low | high)
    mass_0, mass_b = np.zeros(count), np.zeros(count)
    # Below the grid: what μ_β has there moves up to the first point, the rest of μ_β₀ to -inf. Above: mirrored.
    below = float(atoms.p_b[low].sum())
    mass_b[0] += below
    mass_0[0] += below * math.exp(-start) if below else 0.0
    only_0 += max(0.0, float(atoms.p_0[low].sum()) - (below * math.exp(-start) if below else 0.0))
    above = float(atoms.p_0[high].sum())
    mass_0[-1] += above
    mass_b[-1] += above * math.exp(end) if above else 0.0
    only_b += max(0.0, float(atoms.p_b[high].sum()) - (above * math.exp(end) if above else 0.0))
    position = np.minimum(((ell[keep] - start) / step).astype(np.int64), count - 2)
    offset = ell[keep] - (start + step * position)
    share = np.clip(np.expm1(offset) / math.expm1(step), 0.0, 1.0)
    up_b = np.clip(share * np.exp(step - offset), 0.0, 1.0)
    for target, mass, part in ((mass_0, atoms.p_0[keep], share), (mass_b, atoms.p_b[keep], up_b)):
        target += np.bincount(position, mass * (1 - part), minlength=count)
        target += np.bincount(position + 1, mass * part, minlength=count)
    grid = start + step * np.arange(count)
    return Atoms(grid, mass_0, mass_b, np.zeros(count), only_0, only_b, atoms.slip_0, atoms.slip_b)


def _range(atoms: Atoms) -> tuple[float, float]:
    """Where L decides: below it lies 1e-10 of μ_β, above it 1e-10 of μ_β₀, and never past ±30.

    What is cut off stays on its side of any threshold inside, so the cut costs no more than those masses.
    """
    if not len(atoms.ell):
        return 0.0, 0.0  # the two measures have disjoint supports
    order = np.argsort(atoms.ell)
    ell = atoms.ell[order]
    first = int(np.searchsorted(np.cumsum(atoms.p_b[order]), 1e-10))
    last = len(ell) - 1 - int(np.searchsorted(np.cumsum(atoms.p_0[order][::-1]), 1e-10))
    # Laws that hardly overlap may have all of one's mass beyond.
    low, high = (float(np.clip(ell[i], -30.0, 30.0)) for i in (min(first, len(ell) - 1), max(last, 0)))
    return (low, high) if low < high else (high, low)


def convolve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Convolution of two non-negative arrays; rounding below zero is cut off."""
    size = next_fast_len(len(a) + len(b) - 1, real=True)
    result: np.ndarray = np.maximum(irfft(rfft(a, size) * rfft(b, size), size)[: len(a) + len(b) - 1], 0.0)
    return result


def grid_sum(parts: list[Atoms], step: float) -> Atoms:
    """Sum of independent unsmeared losses on one grid of the given step."""
    total: Atoms | None = None
    for part in parts:
        low, high = _range(part)
        start = step * math.floor(low / step)
        grid = on_grid(part, start, step, max(2, math.ceil((high - start) / step) + 1))
        if total is None:
            total = grid
            continue
        p_0 = convolve(total.p_0, grid.p_0)
        p_b = convolve(total.p_b, grid.p_b)
        ell = total.ell[0] + grid.ell[0] + step * np.arange(len(p_0))
        # A fast convolution's error is some machine epsilons of the product of the two norms, in the Euclidean norm.
        rounding = max(
            1e-14 * math.sqrt(len(p_0)) * float(np.linalg.norm(a) * np.linalg.norm(b))
            for a, b in ((total.p_0, grid.p_0), (total.p_b, grid.p_b))
        )
        total = Atoms(
            ell,
            p_0,
            p_b,
            np.zeros(len(ell)),
            either(total.only_0, grid.only_0),
            either(total.only_b, grid.only_b),
            total.slip_0 + grid.slip_0 + rounding,
            total.slip_b + grid.slip_b + rounding,
        )
    assert total is not None
    return total


def exact_sum(a: Atoms, b: Atoms) -> Atoms:
    """Sum of two independent unsmeared losses, atom by atom: exact."""
    return Atoms(
        np.add.outer(a.ell, b.ell).ravel(),
        np.multiply.outer(a.p_0, b.p_0).ravel(),
        np.multiply.outer(a.p_b, b.p_b).ravel(),
        np.zeros(len(a.ell) * len(b.ell)),
        either(a.only_0, b.only_0),
        either(a.only_b, b.only_b),
        a.slip_0 + b.slip_0,
        a.slip_b + b.slip_b,
    )


def pruned(atoms: Atoms, least: float = 1e-13) -> Atoms:
    """Without atoms that are negligible under both measures; their masses go to the infinite ends."""
    keep = np.maximum(atoms.p_0, atoms.p_b) > least / max(1, len(atoms.ell))
    return replace(
        atoms,
        ell=atoms.ell[keep],
        p_0=atoms.p_0[keep],
        p_b=atoms.p_b[keep],
        spread=atoms.spread[keep],
        only_0=atoms.only_0 + float(atoms.p_0[~keep].sum()),
        only_b=atoms.only_b + float(atoms.p_b[~keep].sum()),
    )


#: Cells for each law of an observed coordinate: for a bound, for a coarse one, to find a threshold.
CELLS, COARSE_CELLS, GUIDE_CELLS = 1500, 150, 60

#: Most moves that a bound evaluates for one line.
_BUDGET, _COARSE_BUDGET = 4_000_000, 600_000


def combine(delta: float, plain: list[Atoms], conditional: list[Observed | Moved], coarse: bool = False) -> Tradeoff:
    """Trade-off of independent parts: a normal shift of size ``delta``, unsmeared atoms, observed coordinates.

    Sums of atoms are exact while there are few; beyond that they move to a grid, rounded towards more required
    probability. Under a normal smear of size s a grid of step h costs about h²/(100 s²), hence its step. A coarse
    curve is quicker and higher.
    """
    if not plain and not conditional:
        return Gaussian(delta)
    cells = COARSE_CELLS if coarse else CELLS
    smears = [part for part in conditional if part.move is STANDARD]
    alone = not plain and delta == 0 and len(conditional) == 1
    for part in conditional:
        if part.move is STANDARD:
            continue
        if alone and not isinstance(part.move, Flat):
            return Sum(NOTHING, part.atoms(cells), part.atoms(GUIDE_CELLS))
        plain = [*plain, tabulated(part, coarse)]
    guides = [part.atoms(GUIDE_CELLS) for part in smears]
    smear = math.hypot(delta, *(_typical(guide) for guide in guides))
    total = _total(plain, smear, coarse) if plain else NOTHING
    if not smears:
        return total.smeared(delta) if delta > 0 else total
    rough = smeared_sum(guides, delta)
    guide: Supported = rough
    if len(total.ell) > 100:
        low, high = _range(total)
        guide = Sum(grid_sum([total], max((high - low) / 100, 1e-9)), rough, rough)
    elif plain:
        guide = Sum(total, rough, rough)
    room = (_COARSE_BUDGET if coarse else _BUDGET) / max(1, len(total.ell))
    cells = min(cells, max(GUIDE_CELLS, int(room ** (1 / len(smears)) / 8)))
    return Sum(total, smeared_sum([part.atoms(cells) for part in smears], delta), guide)


def _total(plain: list[Atoms], smear: float, coarse: bool) -> Atoms:
    """The sum of unsmeared losses, beside a normal smear of size ``smear``."""
    many = math.prod(len(part.ell) for part in plain)
    span = sum(high - low for low, high in map(_range, plain))
    if smear > 0:
        step = min(1.0, max((4e-2 if coarse else 4e-3) * smear, span / (400 if coarse else 4_000)))
        exact = many <= span / step
    else:
        step = max(span, 1e-9) / (5_000 if coarse else 60_000)
        exact = many <= 60_000
    if not exact:
        return pruned(grid_sum(plain, step))
    total = plain[0]
    for part in plain[1:]:
        total = exact_sum(total, part)
    return pruned(total)


def smeared_sum(parts: list[Atoms], delta: float) -> Atoms:
    """The sum of independent normally smeared losses."""
    total = parts[0]
    for part in parts[1:]:
        total = replace(exact_sum(total, part), spread=np.hypot.outer(total.spread, part.spread).ravel())
    return total.smeared(delta) if delta > 0 else total


@lru_cache(maxsize=256)
def tabulated(part: Observed | Moved, coarse: bool) -> Atoms:
    """A part as unsmeared atoms: its masses between many thresholds, moved to these."""
    if isinstance(part.move, Flat):
        return part.atoms(COARSE_CELLS if coarse else CELLS)
    cells, count = (COARSE_CELLS // 2, 200) if coarse else (COARSE_CELLS * 2, 2_000)
    if part.move.slow and isinstance(part, Observed):
        cells, count = cells // 3, count // 4
    curve = part.atoms(cells)
    if len(curve.ell) == 0:
        return replace(curve, spread=np.zeros(0), move=STANDARD)
    # Where the bulk of either law lies.
    rough = np.linspace(*curve.reach(), 200)
    below = curve.masses_below(rough)
    first = int(np.searchsorted(below[:, 1], 1e-11))
    last = int(np.searchsorted(below[:, 0], below[-1, 0] - 1e-11))
    t = np.linspace(rough[max(0, first - 1)], rough[min(len(rough) - 1, last + 1)], count)
    everything = curve.only_0 + float(curve.p_0.sum()), float(curve.p_b.sum())
    masses = np.diff(np.vstack(((0.0, 0.0), curve.masses_below(t), everything)), axis=0)
    ends = np.concatenate(([-np.inf], t, [np.inf]))
    atoms, _ = spread_out(ends[:-1], ends[1:], *np.maximum(masses, 0.0).T)
    rounding = 1e-15 * count
    return replace(
        atoms,
        only_b=atoms.only_b + curve.only_b,
        slip_0=curve.slip_0 + rounding,
        slip_b=curve.slip_b + rounding,
    )


def _typical(part: Atoms) -> float:
    """Lower quartile of the smear, by mass: what the step of a grid beside it is measured by."""
    if not len(part.ell):
        return 0.0
    order = np.argsort(part.spread)
    mass = np.cumsum(part.p_b[order])
    return float(part.spread[order][np.searchsorted(mass, mass[-1] / 4)])
