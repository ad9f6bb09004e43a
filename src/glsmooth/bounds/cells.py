"""Atoms of L from smoothing laws, by cells: what a pair of laws, or an observed coordinate, contributes.

Each cell's mass is moved to the two ends of L's range in it, keeping both totals: the "connect the dots" rule of
privacy-loss accounting (Doroshenko et al. 2022). It spreads L, so the required probability can only come out higher
(:mod:`glsmooth.bounds.tradeoffs`). The error is of second order in the width of the cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from scipy.special import ndtr, ndtri

from glsmooth.bounds.base import NotApplicable
from glsmooth.bounds.tradeoffs import NOTHING, Atoms, conditioning
from glsmooth.errors import UserError
from glsmooth.laws import Law
from glsmooth.laws.arrays import on_array, on_number, one_thread
from glsmooth.laws.base import Undefined
from glsmooth.laws.checks import MOVE_ERROR, cdf_error, density_error, is_own
from glsmooth.laws.moves import Flat, Move
from glsmooth.laws.normal import STANDARD

__all__ = [
    "Moved",
    "Observed",
    "by_slopes",
    "cyclic_pair",
    "move_of",
    "scalar_pair",
    "shares",
    "spread_out",
]


def _masses(law: Law, edges: np.ndarray) -> np.ndarray:
    """Mass of each cell between ascending edges, precise relative to itself in both tails."""
    # From whichever tail is nearer; edges ascend, so a few at the middle are computed from both.
    split = int(np.searchsorted(edges, on_number(law.icdf, 0.5)))
    lower = np.diff(on_array(law.cdf, edges[: split + 1]))
    upper = -np.diff(on_array(law.survival, edges[split:]))
    masses: np.ndarray = np.maximum(np.concatenate((lower, upper)), 0.0)
    return masses


def _edges(law: Law, shift: float, scale: float, count: int) -> np.ndarray:
    """Cell edges that resolve both α ~ law and shift + scale·α, with the ends of both supports."""
    own = on_array(law.icdf, ndtr(np.linspace(-7.9, 7.9, count)))
    try:
        ends = [*law.interval, law.mode_point]
    except Undefined:  # whoever needs a mode asks for it
        ends = list(law.interval)
    ends = [v for v in ends if math.isfinite(v)]
    own = np.concatenate((own, ends))
    edges = np.unique(np.concatenate((own, shift + scale * own)))
    return np.concatenate(([-math.inf], edges, [math.inf]))


def spread_out(low: np.ndarray, high: np.ndarray, p_0: np.ndarray, p_b: np.ndarray) -> tuple[Atoms, np.ndarray]:
    """Move the mass of each cell to the ends of its range [low, high] of L, keeping both totals.

    Returns:
        The atoms, and the cell that each of them comes from.
    """
    only_0, only_b = float(p_0[p_b <= 0].sum()), float(p_b[p_0 <= 0].sum())
    cell = np.flatnonzero((p_0 > 0) & (p_b > 0))
    low, high, p_0, p_b = low[cell], high[cell], p_0[cell], p_b[cell]
    mean = np.log(p_b) - np.log(p_0)
    low = np.minimum(np.nan_to_num(low, nan=-np.inf, neginf=-np.inf, posinf=np.inf), mean)
    high = np.maximum(np.nan_to_num(high, nan=np.inf, neginf=-np.inf, posinf=np.inf), mean)
    # A range that is practically unbounded on one side: that end goes to infinity.
    low = np.where(mean - low > 30, -np.inf, low)
    high = np.where(high - mean > 30, np.inf, high)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        flat = high - low < 1e-13
        # Share of the μ_β₀-mass at the upper end; the two infinite ends are its limits.
        share = np.where(np.isinf(high), 0.0, np.expm1(mean - low) / np.expm1(high - low))
        share = np.where(np.isinf(low), np.exp(mean - high), share)
        share = np.clip(np.where(flat, 1.0, share), 0.0, 1.0)
        upper_0, lower_0 = p_0 * share, p_0 * (1 - share)
        upper_b = np.where(np.isinf(low), p_b, p_b * share * np.exp(high - mean))
        upper_b = np.where(flat, p_b, np.minimum(upper_b, p_b))
        upper_b = np.where(np.isinf(high), p_b * -np.expm1(low - mean), upper_b)
    wide = np.isinf(low) & np.isinf(high)
    upper_0, lower_0 = np.where(wide, 0.0, upper_0), np.where(wide, p_0, lower_0)
    upper_b = np.where(wide, p_b, upper_b)
    lower_b = p_b - upper_b
    only_0 += float(lower_0[np.isinf(low)].sum())
    only_b += float(upper_b[np.isinf(high)].sum())
    down, up = np.isfinite(low) & ~flat, np.isfinite(high)
    ell = np.concatenate((low[down], high[up]))
    p_0 = np.concatenate((lower_0[down], upper_0[up]))
    p_b = np.concatenate((lower_b[down], upper_b[up]))
    atoms = Atoms(ell, p_0, p_b, np.zeros_like(ell), only_0, only_b)
    return atoms, np.concatenate((cell[down], cell[up]))


@lru_cache(maxsize=256)
def scalar_pair(law: Law, shift: float, scale: float, count: int = 3000) -> Atoms:
    """L of α ~ ``law`` against ``shift`` + ``scale``·α, by cells, rounded towards more required probability.

    Where L is monotone between edges its range in a cell is that between the ends; otherwise the two unimodal
    densities bound it.
    """
    standard, origin, unit = law.in_own_units
    if standard != law:
        # Far from 0 the edges of cells would be rounded to more than bounds allow for. What the offset is off by moves
        # one of the laws.
        offset = (shift + (scale - 1) * origin) / unit
        error = 1e-15 * (abs(shift) + (1 + scale) * abs(origin)) / unit / min(1.0, scale)
        atoms = scalar_pair(standard, offset, scale, count)
        return replace(atoms, slip_b=min(1.0, atoms.slip_b + error))
    edges = _edges(law, shift, scale, count)
    turns = law.ratio_turns(shift, scale)
    if turns:
        edges = np.sort(np.append(edges, turns))
    p_0 = _masses(law, edges)
    p_b = _masses(law, (edges - shift) / scale)
    log_0 = on_array(law.log_prob, edges)
    log_b = on_array(law.log_prob, (edges - shift) / scale) - math.log(scale)
    with np.errstate(invalid="ignore"):
        if turns is not None:
            ratio = log_b - log_0
            # At infinite edges the densities are both zero; the cell's tiny mass goes to the infinite end.
            low, high = np.fmin(ratio[:-1], ratio[1:]), np.fmax(ratio[:-1], ratio[1:])
            unknown = np.isnan(ratio[:-1]) | np.isnan(ratio[1:])
            low, high = np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)
        else:
            low = _least(log_b) - _most(log_0, edges, law.mode_point, law)
            high = _most(log_b, edges, shift + scale * law.mode_point, law, scale) - _least(log_0)
            low, high = by_slopes(law, shift, scale, edges, low, high)
    if is_own(law):
        _refuse_ranges(law, shift, scale, edges, low, high)
    atoms, _ = spread_out(low, high, p_0, p_b)
    # Each edge is rounded; the masses beside it, and L in its cells, are off by what that moves.
    rounding = 1e-15 * count * (conditioning(law) - 1) + _difference(law, len(edges))
    return replace(atoms, slip_0=rounding, slip_b=rounding)


def _difference(law: Law, edges: int) -> float:
    """What a user's own law is off by in total variation: in the masses beside so many edges, and in its density."""
    return 2 * edges * cdf_error(law) + density_error(law) if is_own(law) else 0.0


def _refuse_ranges(law: Law, shift: float, scale: float, edges: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Look inside the cells of a user's own law, where L may be known from what it says of itself only.

    Raises:
        UserError: L leaves the range that it should have in a cell.
    """
    start, width = edges[1:-2], np.diff(edges[1:-1])
    low, high = low[1:-1, None], high[1:-1, None]
    x = start[:, None] + width[:, None] * np.random.default_rng(0).uniform(size=(len(start), 5))
    with np.errstate(invalid="ignore"):
        log_b = on_array(law.log_prob, (x - shift) / scale) - math.log(scale)
        log_0 = on_array(law.log_prob, x)
        ratio = log_b - log_0
        # Places are rounded, by shares of the cell's width where it is narrow.
        share = 8 * np.finfo(float).eps * (np.abs(x) + abs(shift)) / np.maximum(width[:, None], 1e-300)
        wide = np.where(np.isfinite(low) & np.isfinite(high), high - low, 0.0)
        allowed = 1e-9 + 1e-12 * (np.abs(log_0) + np.abs(log_b)) + np.minimum(share, 1.0) * (wide + 1.0)
        wrong = (ratio < low - allowed) | (ratio > high + allowed)
    if wrong.any():
        raise UserError(
            f"{law!r} is not what it says of itself: near {x[wrong][0]:.9g} its log-likelihood ratio against "
            f"{shift:g} + {scale:g}·X leaves the range that mode_point, ratio_turns or slope_range leave it; mend "
            "them, or leave ratio_turns and slope_range out"
        )


def by_slopes(
    law: Law, shift: float, scale: float, edges: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Narrower ranges of L in cells, where its slope is bounded: what counts where the two laws hardly differ."""
    with one_thread():
        slopes_0 = law.slope_range(torch.from_numpy(edges))
        slopes_b = law.slope_range(torch.from_numpy((edges - shift) / scale))
    if slopes_0 is None or slopes_b is None:
        return low, high
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        least_0, most_0 = slopes_0.numpy()
        least_b, most_b = slopes_b.numpy() / scale
        middle = (edges[:-1] + edges[1:]) / 2
        ratio = on_array(law.log_prob, (middle - shift) / scale) - math.log(scale) - on_array(law.log_prob, middle)
        reach = np.maximum(np.abs(most_b - least_0), np.abs(least_b - most_0)) * np.diff(edges) / 2
    known = np.isfinite(ratio) & np.isfinite(reach)
    return np.where(known, np.fmax(low, ratio - reach), low), np.where(known, np.fmin(high, ratio + reach), high)


def _least(log_density: np.ndarray) -> np.ndarray:
    """Least value in each cell of a unimodal log-density: at one of the ends."""
    least: np.ndarray = np.minimum(log_density[:-1], log_density[1:])
    return least


def _most(log_density: np.ndarray, edges: np.ndarray, mode: float, law: Law, scale: float = 1.0) -> np.ndarray:
    """Largest value in each cell: at an end, or at the mode where the cell holds it."""
    most = np.maximum(log_density[:-1], log_density[1:])
    top = math.log(law.peak) - math.log(scale) if math.isfinite(law.peak) else math.inf
    return np.where((edges[:-1] <= mode) & (mode <= edges[1:]), top, most)


def cyclic_pair(masses: np.ndarray, shift: int) -> Atoms:
    """L on a cycle: ``masses`` (size,) of the smoothing law against the same rolled by ``shift``. Exact."""
    rolled = np.roll(masses, shift)
    both = (masses > 0) & (rolled > 0)
    p_0, p_b = masses[both], rolled[both]
    return Atoms(
        np.log(p_b) - np.log(p_0),
        p_0,
        p_b,
        np.zeros(len(p_0)),
        float(masses[~both].sum()),
        float(rolled[~both].sum()),
    )


@dataclass(frozen=True)
class Observed:
    """θ = α against ``scale``·α observed, and an inner coordinate that moves by α·``step`` given it.

    Attributes:
        outer: law of α, positive; its logarithm has a log-concave density, so that its own ratio is monotone.
        scale: of the observed coordinate.
        inner: law of the inner coordinate.
        step: the inner coordinate's move for each unit of α; not 0.
        rescaled: it is multiplied by e^(α·step) instead of moved by α·step.
    """

    outer: Law
    scale: float
    inner: Law
    step: float
    rescaled: bool

    @property
    def move(self) -> Move:
        return move_of(self.inner, self.rescaled, self.step > 0)[0]

    def atoms(self, count: int) -> Atoms:
        """L by about twice ``count`` cells of θ, rounded towards more required probability.

        In a cell the inner coordinate's move is replaced by the moves at the cell's two ends, one of them chosen at
        random with the weights of linear interpolation and revealed; what this changes in the inner law is booked as
        a slip (:mod:`glsmooth.laws.moves`). For either choice the ratio of the outer coordinate is moved to the
        ends of its range in the cell. Both make the two laws easier to tell apart, and both cost an error of second
        order in the cell's width.
        """
        outer, scale = self.outer, self.scale
        move, unit = move_of(self.inner, self.rescaled, self.step > 0)
        speed = abs(self.step) * unit / scale  # of the size, in θ
        edges = _observed_edges(outer, scale, count, move.limit / max(speed, 5e-324))  # it may underflow
        size = edges * speed
        # The two tails beyond the outermost edges are given away.
        only_0 = on_number(outer.cdf, edges[0]) + on_number(outer.survival, edges[-1])
        only_b = on_number(outer.cdf, edges[0] / scale) + on_number(outer.survival, edges[-1] / scale)
        p_0, far_0, slip_0 = shares(outer, edges)
        p_b, far_b, slip_b = shares(outer, edges / scale)

        lost_0, lost_b = (p * slip * np.diff(size) ** 2 for p, slip in zip((p_0, p_b), move.slip, strict=True))
        if move.ordered:
            # Where the chord rule costs more than taking the larger of the two moves, that one is taken.
            told = np.subtract(*move.below(np.zeros(1), np.maximum(size, _LEAST)))  # total variation of a move
            instead = np.zeros_like(p_b)
            whole = np.maximum(p_0, p_b) * np.abs(np.diff(told)) < lost_0 + lost_b
        else:
            # Taking either of the two moves costs what moving one law onto the other does.
            instead = p_b * np.minimum(np.diff(size) * self.inner.shift_speed, 1.0)
            whole = instead < lost_b
        far_0, far_b = np.where(whole, p_0, far_0), np.where(whole, p_b, far_b)
        slip_0 += float(lost_0[~whole].sum())
        slip_b += float(np.where(whole, instead, lost_b).sum())

        # Edges are rounded, and so are the places of inner laws that are not a matter of sizes alone.
        places = conditioning(outer) + (conditioning(self.inner) if move.slow else 0.0)
        rounding = 1e-15 * count * places + _move_error(self.inner)
        slip_0, slip_b = slip_0 + rounding, slip_b + rounding

        low, high = self._ratios(edges)
        parts = []
        for mass_0, mass_b, end in ((p_0 - far_0, p_b - far_b, size[:-1]), (far_0, far_b, size[1:])):
            atoms, cell = spread_out(low, high, mass_0, mass_b)
            only_0, only_b = only_0 + atoms.only_0, only_b + atoms.only_b
            parts.append((atoms.ell, atoms.p_0, atoms.p_b, end[cell]))
        ell, p_0, p_b, spread = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        atoms = Atoms(ell, p_0, p_b, np.maximum(spread, _LEAST), only_0, only_b, slip_0, slip_b, move)
        return _flattened(atoms, move) if isinstance(move, Flat) else atoms

    def _ratios(self, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Range of the outer coordinate's own log-ratio in each cell."""
        log_0 = on_array(self.outer.log_prob, edges)
        log_b = on_array(self.outer.log_prob, edges / self.scale) - math.log(self.scale)
        with np.errstate(invalid="ignore"):
            ratio = log_b - log_0
        unknown = np.isnan(ratio[:-1]) | np.isnan(ratio[1:])
        low, high = np.fmin(ratio[:-1], ratio[1:]), np.fmax(ratio[:-1], ratio[1:])
        return np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)


@dataclass(frozen=True)
class Moved:
    """An inner coordinate alone, moved by ``shift``: for laws whose shifts have no order."""

    law: Law
    shift: float

    @property
    def move(self) -> Move:
        return move_of(self.law, False, self.shift > 0)[0]

    def atoms(self, count: int) -> Atoms:
        """L, exactly: one atom, smeared by its move."""
        move, unit = move_of(self.law, False, self.shift > 0)
        rounding = 1e-14 * conditioning(self.law) + _move_error(self.law)
        size = np.array([max(abs(self.shift) * unit, _LEAST)])
        return replace(NOTHING, spread=size, move=move, slip_0=rounding, slip_b=rounding)


def _move_error(law: Law) -> float:
    """What the moves of a user's own law may be off by, and not be seen to be."""
    return 2 * MOVE_ERROR + density_error(law) if is_own(law) else 0.0


def move_of(law: Law, rescaled: bool, forward: bool) -> tuple[Move, float]:
    """The moves of ``law`` by shifts, or by factors e^d (``rescaled``), upwards (``forward``) or downwards.

    Returns:
        The moves, and the number by which d is multiplied to give their size.

    Raises:
        NotApplicable: a law that does not say how it moves.
    """
    scale = law.gaussian_scale_of_log if rescaled else law.gaussian_scale
    if scale is not None:
        return STANDARD, 1 / scale
    move = law.rescalings if rescaled else law.shifts
    if move is None:
        how, which = ("rescaled", "positive laws") if rescaled else ("shifted", "laws")
        raise NotApplicable(
            f"no bound knows how {law!r} moves when it is {how} given another parameter; use one of glsmooth's {which}"
        )
    return (move if forward else move.reversed()), 1.0


#: Stands for a size of 0, by which no ratio could be divided.
_LEAST = 1e-150


def _observed_edges(law: Law, scale: float, count: int, kink: float) -> np.ndarray:
    """Cell edges in [0, ∞) for an observed α against ``scale``·α."""
    # The cells' errors are quadratic in their width, so the best density of edges is the cube root of the law's: that
    # of a normal score √3 times as wide.
    tail = float(ndtr(-7.9 / math.sqrt(3)))
    own = on_array(law.icdf, ndtr(math.sqrt(3) * ndtri(np.linspace(tail, 1 - tail, count))))
    own = np.concatenate((own, [v for v in law.interval if math.isfinite(v)]))
    edges = np.unique(np.concatenate((own, scale * own, [kink])))
    finite: np.ndarray = edges[np.isfinite(edges)]
    return finite


def _flattened(atoms: Atoms, move: Flat) -> Atoms:
    """Moves under which L is constant where both laws live: each atom stays one."""
    common_0, common_b = move.overlap(atoms.spread)
    only_0 = atoms.only_0 + float((atoms.p_0 * (1 - common_0)).sum())
    only_b = atoms.only_b + float((atoms.p_b * (1 - common_b)).sum())
    both = (common_0 > 0) & (common_b > 0)
    ell = atoms.ell[both] + np.log(common_b[both]) - np.log(common_0[both])
    return replace(
        atoms,
        ell=ell,
        p_0=(atoms.p_0 * common_0)[both],
        p_b=(atoms.p_b * common_b)[both],
        spread=np.zeros(len(ell)),
        only_0=only_0,
        only_b=only_b,
        move=STANDARD,
    )


def shares(law: Law, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Masses of cells, their integrals of a weight that rises from 0 to 1 in each, and the latter's rounding in all."""
    mass = _masses(law, edges)
    split = int(np.searchsorted(edges, on_number(law.icdf, 0.5)))
    lower, upper = on_array(law.lower_mean, edges[: split + 1]), on_array(law.upper_mean, edges[split:])
    moment = np.concatenate((np.diff(lower), -np.diff(upper)))
    width = np.maximum(np.diff(edges), 1e-300)  # two edges may have been rounded to one number
    share = np.clip((moment - edges[:-1] * mass) / width, 0.0, mass)
    # Some machine epsilons of the cumulative masses and moments that the cell is a difference of.
    cumulative = np.minimum(on_array(law.cdf, edges[1:]), on_array(law.survival, edges[:-1])) * edges[1:]
    cumulative += np.concatenate((lower[1:], upper[:-1]))
    rounding = np.minimum(mass, 2e-15 * cumulative / width)
    return mass, share, float(rounding.sum())
