"""Neyman-Pearson over a box, for a transformation that says how its resolving function is inverted.

With a(θ, β) the α that γ(·, β) takes to θ, μ_β has at least the density τ(a) |det ∂a/∂θ| at θ. For a cell of
parameters β interval arithmetic (:mod:`glsmooth.bounds.enclosure`) gives a number e^ℓ(θ) that dμ_β/dμ_β₀ reaches at θ
for *every* β of the cell, and by duality, for any k > 0 and any base classifier F with E_{μ_β₀} F >= p,

    E_{μ_β} F >= k p - ∫ (k dμ_β₀ - dμ_β)₊ >= k p - k U,    U = E_{θ~P} (1 - e^ℓ(θ) / k)₊,

so that h_min of the whole cell is at most 1/(2k) + U. Where ℓ is not known it is -∞, and the draw counts in full. What
is averaged lies in [0, 1] and its draws are independent, so that Chernoff's bound holds of U.

Cells and their k are chosen on a pilot sample: the box is cut where its value is largest, until what cutting could
still win is little. The values come from draws of their own, and all cells share the failure probability (a union
bound). A cell that is far from the worst takes fewer of these draws.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from glsmooth.bounds.base import NotApplicable, own_laws_error
from glsmooth.bounds.confidence import mean_upper
from glsmooth.bounds.enclosure import Enclosure, Unenclosed, determinant
from glsmooth.bounds.jacobian import check_resolving_function, jacobians
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import open_uniform

__all__ = ["Cover", "has_inverse", "worst_case"]

#: Points of the pilot sample, which lie more evenly than draws would: nothing but the choice of cells rests on it.
_PILOT = 4_096
#: Cutting stops once the worst cell is within this of the worst single parameter that was looked at,
_GAP = 2e-3
#: or at this number of cells.
_MOST = 1_000
#: Draws of all cells together at most, but for the least that each takes: some ten seconds of one core.
_WORK = 16_000_000
#: Draws that a cell takes at least.
_LEAST = 2_000
#: Draws that are handled at once: what is computed of so many stays near the processor.
_CHUNK = 20_000
#: Room for rounding in a log-density, in units of its size.
_ROUNDING = 1e-12
#: What the parameter of an inverse may be off by, in units of its scatter.
_TOLERANCE = 1e-9

Cell = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Cover:
    """A proof for a region.

    Attributes:
        value: h_min, an upper confidence bound.
        worst: a parameter of the worst cell.
        cells: how many there are.
    """

    value: float
    worst: dict[str, float]
    cells: int


def has_inverse(family: SmoothedFamily) -> bool:
    """Does the transformation say how its resolving function is inverted?"""
    theta = family.transform.identity[None]
    try:
        return family.transform.inverse(theta, theta[0]) is not None
    except Exception:  # a user's own; told at first use
        return True


def worst_case(
    family: SmoothedFamily,
    boxes: Sequence[Mapping[str, tuple[float, float]]],
    n: int,
    failure_probability: float,
    generator: torch.Generator,
) -> Cover:
    """Upper confidence bound on h_min(β) for all β of some boxes at once.

    Args:
        family: its transformation defines ``inverse``, by operations that an enclosure passes through.
        boxes: intervals by parameter; parameters left out stay at the identity.
        n: most draws for a cell.
        failure_probability: that the value is too small.

    Raises:
        NotApplicable: an ``inverse`` that is not that of ``resolve``, or that no enclosure passes through.
    """
    check_resolving_function(family.transform, family.sample(100, generator))
    for name, law in family.laws.items():
        try:
            law.mode_point  # noqa: B018 - the least density of an interval is that of an end where there is one mode
        except NotImplementedError as error:
            raise NotApplicable(f"{name}={law!r}: cells need a law of one mode; {error}") from error
    points = torch.quasirandom.SobolEngine(len(family.parameters), scramble=True, seed=0).draw(
        _PILOT, dtype=torch.float64
    )
    pilot = _Sample(family, family.quantile(open_uniform(points)))
    at_identity = family.identity
    cells: list[Cell] = []
    for box in boxes:
        ends = [box.get(name, (at_identity[name],) * 2) for name in family.parameters]
        cells.append((tuple(low for low, _ in ends), tuple(high for _, high in ends)))
    for cell in cells:
        _check_inverse(pilot, cell, generator)
    heap = _cut(pilot, cells)
    worst = heap[0][0]
    share = failure_probability / len(heap)
    n = min(n, max(_LEAST, _WORK // len(heap)))
    fresh = _Sample(family, family.sample(n, generator))
    values = []
    for h, k, cell in tqdm(heap, desc="Drawing for each cell", unit="cell", delay=2, leave=False, disable=None):
        # A cell whose value is lower anyway needs no precise one.
        draws = n if h == worst else min(n, max(_LEAST, math.ceil(2 * math.log(1 / share) / (worst - h) ** 2)))
        values.append(1.0 if math.isinf(k) else 1 / (2 * k) + fresh.lost(cell, k, draws, share))
    value = max(values)
    beta = _worst_parameter(pilot, heap[values.index(value)][2])
    return Cover(
        min(1.0, max(0.5, math.nextafter(value + own_laws_error(family), 2.0))),
        dict(zip(family.parameters, beta, strict=True)),
        len(heap),
    )


class _Sample:
    """Draws θ ~ P, and what a cell's densities are there at least."""

    def __init__(self, family: SmoothedFamily, theta: Tensor) -> None:
        self.family, self.theta = family, theta
        self.log_tau = _least_log_density(family, theta, theta)

    def least_log_ratio(self, cell: Cell, rows: slice = slice(None)) -> Tensor:
        """ℓ(θ) (n,): log dμ_β/dμ_β₀ is at least this for every β of the cell; -inf where nothing is known.

        Raises:
            NotApplicable: ``inverse`` does what no enclosure passes through.
        """
        transform = self.family.transform
        low, high = (torch.tensor(ends, dtype=torch.float64) for ends in cell)
        beta = Enclosure(low, high)
        try:
            alpha = transform.inverse(Enclosure.variables(self.theta[rows]), beta)  # type: ignore[arg-type]
            if not isinstance(alpha, Enclosure) or alpha.low.shape != self.theta[rows].shape:
                raise Unenclosed("a result that is not (n, d), or does not follow from theta")
            d = alpha.low.shape[-1]
            none = torch.zeros_like(alpha.low)
            slopes = alpha.slopes or [Enclosure(none, none)] * d
            det = determinant([[slopes[j][:, i] for j in range(d)] for i in range(d)])
        except Exception as error:  # a user's own code, with an object that it may not expect
            uses = f"uses {error}, of which" if isinstance(error, Unenclosed) else f"fails ({error}) where"
            raise NotApplicable(
                f"{transform!r}.inverse {uses} no enclosure is known: write it with torch's arithmetic, exp, log, "
                "sqrt, sin, cos, tanh, stack and the like, without branches, or certify Points([...])"
            ) from error
        volume = torch.maximum(det.low, -det.high).clamp(min=0.0)
        parts = [_least_log_density(self.family, alpha.low, alpha.high), volume.log(), -self.log_tau[rows]]
        least = torch.stack(parts).sum(0) - _ROUNDING * (1 + torch.stack(parts).abs().sum(0))
        return least.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)

    def value(self, cell: Cell) -> tuple[float, float]:
        """(h_min, k) of a cell as far as these draws say; (1, inf) where its densities keep less than half."""
        ratio = self.least_log_ratio(cell).exp().sort().values
        mass = ratio.cumsum(0) / len(ratio)
        at = int(torch.searchsorted(mass, 0.5))
        if at >= len(ratio):
            return 1.0, math.inf
        k = float(ratio[at])
        return 1 / (2 * k) + float((1 - ratio[:at] / k).sum()) / len(ratio), k

    def lost(self, cell: Cell, k: float, draws: int, failure_probability: float) -> float:
        """Upper confidence bound of U."""
        total = 0.0
        for start in range(0, draws, _CHUNK):
            least = self.least_log_ratio(cell, slice(start, min(draws, start + _CHUNK)))
            total += float((1 - least.exp() / k).clamp(min=0.0).sum())
        return mean_upper(total / draws, draws, failure_probability)


def _least_log_density(family: SmoothedFamily, low: Tensor, high: Tensor) -> Tensor:
    """Least log τ between two parameters (n, d): densities rise, and then fall, so it is that of an end."""
    total = torch.zeros(len(low), dtype=torch.float64)
    for i, name in enumerate(family.parameters):
        log_prob = family.laws[name].log_prob
        total = total + torch.minimum(log_prob(low[:, i]), log_prob(high[:, i]))
    return total


def _cut(pilot: _Sample, cells: Sequence[Cell]) -> list[tuple[float, float, Cell]]:
    """Cells that cover the given ones, with h_min and k of each by the pilot sample; a worst one first."""
    found = [(*pilot.value(cell), cell) for cell in cells]
    reached = max(pilot.value((point, point))[0] for cell in cells for point in _corners(cell))
    heap = [(-h, k, cell) for h, k, cell in found]
    heapq.heapify(heap)
    with tqdm(desc="Covering the region", unit="cell", delay=2, leave=False, disable=None) as bar:
        while -heap[0][0] > reached + _GAP and len(heap) < _MOST and _open_axes(heap[0][2]):
            _, _, cell = heapq.heappop(heap)
            middle = tuple((a + b) / 2 for a, b in zip(*cell, strict=True))
            reached = max(reached, pilot.value((middle, middle))[0])
            halves = [[(*pilot.value(half), half) for half in _halves(cell, axis)] for axis in _open_axes(cell)]
            for h, k, half in min(halves, key=lambda pair: sum(h for h, _, _ in pair)):
                heapq.heappush(heap, (-h, k, half))
            bar.update()
    return [(-h, k, cell) for h, k, cell in sorted(heap)]


def _open_axes(cell: Cell) -> list[int]:
    return [axis for axis, (low, high) in enumerate(zip(*cell, strict=True)) if low < high]


def _halves(cell: Cell, axis: int) -> tuple[Cell, Cell]:
    low, high = (list(ends) for ends in cell)
    low[axis] = high[axis] = (low[axis] + high[axis]) / 2
    return (cell[0], tuple(high)), (tuple(low), cell[1])


def _corners(cell: Cell) -> list[tuple[float, ...]]:
    return list(dict.fromkeys(itertools.product(*zip(*cell, strict=True))))


def _worst_parameter(pilot: _Sample, cell: Cell) -> tuple[float, ...]:
    return max(_corners(cell), key=lambda point: pilot.value((point, point))[0])


def _check_inverse(pilot: _Sample, cell: Cell, generator: torch.Generator) -> None:
    """Compare ``inverse`` with ``resolve``, and what enclosures say of it with automatic differentiation.

    At the corners and some parameters inside. Like the check of the action this is a trial of what its author says.

    Raises:
        NotApplicable: they differ.
    """
    family, transform = pilot.family, pilot.family.transform
    low, high = (torch.tensor(ends, dtype=torch.float64) for ends in cell)
    inside = low + (high - low) * torch.rand(20, len(low), dtype=torch.float64, generator=generator)
    rows = slice(0, 500)
    theta = pilot.theta[rows]
    spread = theta.quantile(0.75, 0) - theta.quantile(0.25, 0)
    for point in [*_corners(cell)[:64], *map(tuple, inside.tolist())]:
        beta = torch.tensor(point, dtype=torch.float64)
        at = ", ".join(f"{name} = {value:g}" for name, value in zip(family.parameters, point, strict=True))
        try:
            alpha = transform.inverse(theta, beta)
        except Exception as error:
            raise UserError(
                f"{transform!r}.inverse fails at {at} ({type(error).__name__}: {error}); mend it"
            ) from error
        if not isinstance(alpha, Tensor) or alpha.shape != theta.shape or alpha.dtype != theta.dtype:
            raise UserError(
                f"{transform!r}.inverse must give float64 of the shape of theta, {tuple(theta.shape)}; mend it"
            )
        reached, by_alpha, _ = jacobians(transform, alpha, beta.expand_as(alpha))
        rounding = 2.0**-49 * (theta.abs() + alpha.abs())
        if bool((rounding.nanmedian(0).values > 1e-3 * spread).any()):
            raise NotApplicable(
                f"{transform!r}: at {at} parameters are so much larger than their scatter that rounding decides; "
                "choose units in which they are not"
            )
        off = ((reached - theta).abs() / (spread + rounding / _TOLERANCE)).nan_to_num(nan=0.0)  # NaN: there is none
        if float(off.max()) > _TOLERANCE:
            raise NotApplicable(
                f"{transform!r}.inverse is not that of resolve: at {at} resolve(inverse(theta, beta), beta) differs "
                f"from theta by {float(off.max()):.2g} of its scatter; mend one of the two"
            )
        ratio = _least_log_density(family, alpha, alpha) - torch.linalg.slogdet(by_alpha)[1] - pilot.log_tau[rows]
        gap = pilot.least_log_ratio((point, point), rows) - ratio
        # Too high would be a false proof; too low only costs.
        if float(gap.nan_to_num(nan=0.0, posinf=math.inf).max()) > 1e-6:
            raise NotApplicable(
                f"{transform!r}.inverse: at {at} its enclosure does not agree with automatic differentiation; "
                "certify Points([...])"
            )
