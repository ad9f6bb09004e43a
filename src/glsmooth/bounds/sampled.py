"""Neyman-Pearson from samples, for any transformation whose resolving function is known.

Nothing is needed but γ: under μ_β the draw θ = γ(α, β) has the log-density log τ(α) - log |det ∂γ/∂α|, under μ_β₀ it
is log τ(θ); the Jacobian comes from automatic differentiation. h_min(β) is the mass that μ_β₀ gives to {L <= t},
L = log dμ_β/dμ_β₀, t the median of L under μ_β. With n draws of either law:

1. t is the k-th smallest L under μ_β, with the least k for which P(Bin(n, 1/2) >= k) <= α_b/2. Below the true median
   it falls only if k draws or more do, so t is at least the median except with probability α_b/2.
2. L is computed for n independent draws under μ_β₀, and h_min(β) is the Clopper-Pearson upper bound, at α_b/2, of
   P(L <= t). A draw whose L is unknown counts.

*Parameters that the action rounds.* θ = γ(α, β) is left as it is: rounding it is part of the base classifier, so the
densities above serve. That needs β itself to be whole, for only then does rounding commute with γ; a region is
replaced by the whole numbers that the action makes of it.

*Ties and rounding.* L may have atoms (exponential and uniform laws), and it is known up to rounding only. So L is
cut into cells of width Δ = 1e-6, and draws in one cell are ordered by an independent uniform number U: a randomised
threshold. Write G for {cell of L, then U, up to their median under μ_β}, and e^-a for the largest dμ_β₀/dμ_β in the
median's cell. Any F with E_{μ_β} F <= 1/2 <= E_{μ_β} G has E_{μ_β₀}(F - G) <= e^-a E_{μ_β}(F - G) + e^Δ - 1 <=
e^Δ - 1: below the cell dμ_β₀ >= e^-a dμ_β where F <= G, above it dμ_β₀ <= e^-a dμ_β where F >= G, inside it the
ratio changes by e^Δ. This holds also if errors of L up to Δ/2 make cells overlap, and so Δ costs 1e-6. Under μ_β₀,
L may come out higher than the same θ would have it under μ_β, by twice the error; that much is taken off before it
is cut. The cells are placed by an independent pilot sample, so that an atom at the median lies amid its cell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from glsmooth.bounds import boxes
from glsmooth.bounds.base import NotApplicable, Outcome, own_laws_error
from glsmooth.bounds.confidence import clopper_pearson_lower, clopper_pearson_upper
from glsmooth.bounds.jacobian import check_resolving_function, jacobians
from glsmooth.errors import UserError
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.transforms.base import ResolvableTransform
from glsmooth.transforms.compose import Composition
from glsmooth.transforms.factors import Shift

__all__ = [
    "FAILURE_PROBABILITY",
    "OWN_CLAIM",
    "as_applied",
    "cached_certify",
    "certify",
    "check_solutions",
    "log_ratio",
    "lower_bound_at",
    "median_rank",
    "order_in_cells",
    "required_probability_at",
    "solve",
    "solved_log_ratio",
]

#: α_b: the probability that a sampled bound is too small. It is added to the votes' alpha.
FAILURE_PROBABILITY = 1e-4
#: Draws under each of the two laws.
DRAWS = 400_000
#: Width Δ of the cells of L.
CELL = 1e-6
#: Error of L that is allowed; a draw whose L is not settled to it counts as unknown.
ERROR = CELL / 10
#: Most draws of the pilot sample, which places the cells and whose α is solved for again.
PILOT = 10_000
#: Whole shifts of a region that are sampled one by one where nothing is known between its ends.
MOST_SHIFTS = 100
#: Parameters inside a region at which a user's claim is tried, for each of its corners.
INNER = 16
#: Probability that a true claim is refused, besides that with which the corners' bounds fail.
FALSE_ALARM = 1e-6
#: How an outcome's argument calls what it rests on beside proofs.
OWN_CLAIM = "the transformation's own claim"
#: Draws that are handled at once.
CHUNK = 100_000


def solve(transform: ResolvableTransform, theta: Tensor, beta: Tensor) -> Tensor:
    """α with γ(α, β) = θ: (n, d), (d,) -> (n, d), NaN where none was found.

    Newton's method, with the step halved until the residual falls, from ``transform.inverse`` or else from θ itself
    (the solution at β = identity).
    """
    start = transform.inverse(theta, beta)
    alpha = (theta if start is None else start).detach().clone()
    beta = beta.expand_as(alpha)

    def error(x: Tensor, rows: Tensor) -> Tensor:
        residual = (theta[rows] - transform.resolve(x, beta[rows])).abs() / (1 + theta[rows].abs())
        return residual.nan_to_num(nan=math.inf).amax(dim=-1)

    active = torch.arange(len(alpha))
    current = error(alpha, active)
    for _ in range(60):
        unfinished = (current > 1e-14) & (current < math.inf)
        active, current = active[unfinished], current[unfinished]
        if len(active) == 0:
            break
        merged, by_alpha, _ = jacobians(transform, alpha[active], beta[active])
        step = torch.linalg.solve_ex(by_alpha, theta[active] - merged).result
        waiting = torch.arange(len(active))
        improved = torch.zeros(len(active), dtype=torch.bool)
        for halvings in range(12):
            trial = alpha[active[waiting]] + step[waiting] * 0.5**halvings
            reached = error(trial, active[waiting])
            better = reached < current[waiting]
            done = waiting[better]
            alpha[active[done]], current[done], improved[done] = trial[better], reached[better], True
            waiting = waiting[~better]
            if len(waiting) == 0:
                break
        active, current = active[improved], current[improved]
    left = error(alpha, torch.arange(len(alpha)))
    return torch.where((left <= 1e-9)[:, None], alpha, math.nan)


def _log_tau(family: SmoothedFamily, alpha: Tensor) -> Tensor:
    """Log-density of the smoothing law P at α: (n, d) -> (n); -inf outside its support, NaN at NaN."""
    columns = [family.laws[name].log_prob(alpha[:, i]) for i, name in enumerate(family.parameters)]
    return torch.where(alpha.isnan().any(dim=-1), math.nan, torch.stack(columns).sum(dim=0))


def log_ratio(family: SmoothedFamily, alpha: Tensor, theta: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L = log dμ_β/dμ_β₀ at θ = γ(α, β), from both parameters: (n, d), (n, d), (d,).

    Returns:
        L (n); the sign of det ∂γ/∂α (n); and the correction (n, d) to α that one Newton step would make.
    """
    merged, by_alpha, _ = jacobians(family.transform, alpha, beta.expand_as(alpha))
    sign, log_det = torch.linalg.slogdet(by_alpha)
    correction = torch.linalg.solve_ex(by_alpha, theta - merged).result
    return _log_tau(family, alpha) - log_det - _log_tau(family, theta), sign, correction


def solved_log_ratio(family: SmoothedFamily, theta: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L at θ alone: (n, d), (d,) -> α (n, d), L (n) and the sign of det ∂γ/∂α (n).

    L is NaN where α was not found or L is not settled; the sign is 0 wherever L is not finite.
    """
    alpha = solve(family.transform, theta, beta)
    first, _, correction = log_ratio(family, alpha, theta, beta)
    alpha = alpha + correction
    ratio, sign, _ = log_ratio(family, alpha, theta, beta)
    # Newton's method converges quadratically: what the last step changed bounds the error that is left.
    settled = ((ratio - first).abs() <= ERROR) | (ratio == first)
    ratio = torch.where(settled, ratio, math.nan)
    return alpha, ratio, torch.where(ratio.isfinite(), sign, 0.0)


def _not_one_to_one(family: SmoothedFamily, beta: Tensor, seen: str) -> NotApplicable:
    at = _written(dict(zip(family.parameters, beta.tolist(), strict=True)))
    return NotApplicable(
        f"{family.transform!r}: {seen} at {at}, so resolve(·, beta) is not one-to-one and its density does not follow "
        "from one solution; choose laws on whose support it is"
    )


def check_solutions(family: SmoothedFamily, beta: Tensor, alpha: Tensor, ratio: Tensor) -> None:
    """Refuse a γ(·, β) for which solving for a draw's α gives another one, or an L that rounding decides."""
    again, again_ratio, _ = solved_log_ratio(family, family.transform.resolve(alpha, beta.expand_as(alpha)), beta)
    known = again_ratio.isfinite()
    far = known & ((again - alpha).abs() > 1e-5 * (1 + alpha.abs())).any(dim=-1)
    if bool(far.any()):
        one, other = alpha[far][0].tolist(), again[far][0].tolist()
        raise _not_one_to_one(family, beta, f"alpha = {one} and {other} lead to the same parameter")
    off = float(torch.where(known, (again_ratio - ratio).abs(), 0.0).max())
    if off > 2 * ERROR:
        raise NotApplicable(
            f"{family.transform!r}: the log-likelihood ratio changes by {off:.2g} when alpha is solved for again, too "
            "much to order draws by it; choose units in which parameters are not so much larger than their scatter"
        )


def order_in_cells(ratio: Tensor, centre: float, generator: torch.Generator) -> Tensor:
    """Cells of L, ``centre`` amid one of them, with an independent uniform order inside each."""
    u = torch.rand(len(ratio), dtype=torch.float64, generator=generator)
    return torch.floor((ratio - centre) / CELL + 0.5) + u


def median_rank(n: int, alpha: float) -> int:
    """Least k with P(Bin(n, 1/2) >= k) <= alpha; it exceeds n where n is too small."""
    from scipy.stats import binom  # late: it takes half a second

    k = int(binom.isf(alpha, n, 0.5)) + 1
    # The inverse may be off by rounding; the tail itself decides.
    while binom.sf(k - 1, n, 0.5) > alpha:
        k += 1
    while k > 0 and binom.sf(k - 2, n, 0.5) <= alpha:
        k -= 1
    return k


def _samples(family: SmoothedFamily, n: int, generator: torch.Generator) -> Iterator[Tensor]:
    for start in range(0, n, CHUNK):
        yield family.sample(min(CHUNK, n - start), generator)


def _orders(
    family: SmoothedFamily, beta: Tensor, n: int, centre: float, added: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Orders of n draws under μ_β, and of n under μ_β₀, with ``added`` to their L; and all signs of the Jacobian."""
    moved, still, signs = [], [], []
    for alpha in _samples(family, n, generator):
        theta = family.transform.resolve(alpha, beta.expand_as(alpha))
        ratio, sign, _ = log_ratio(family, alpha, theta, beta)
        moved.append(order_in_cells(ratio, centre, generator))
        signs.append(sign)
    for theta in _samples(family, n, generator):
        _, ratio, sign = solved_log_ratio(family, theta, beta)
        still.append(order_in_cells(ratio + added, centre, generator))
        signs.append(sign)
    return torch.cat(moved), torch.cat(still), torch.cat(signs)


def required_probability_at(
    family: SmoothedFamily,
    beta: Mapping[str, float],
    n: int = DRAWS,
    failure_probability: float = FAILURE_PROBABILITY,
    generator: torch.Generator | None = None,
) -> float:
    """Upper confidence bound on h_min(β): below it with probability at most ``failure_probability``.

    Args:
        family: smoothed family of any resolvable transformation; γ(·, β) must be one-to-one on the laws' support.
        beta: named parameters; those left out stay at the identity.
        n: draws under each of the two laws.
        generator: source of the draws; seed 0 when left out.

    Raises:
        NotApplicable: γ(·, β) takes a value twice, as far as the draws show.
        ValueError: β outside the domain, or fractional where the action rounds; a resolving function that does not
            fit the identity.
    """
    transform = family.transform
    point = transform.vector(beta)
    for name in transform.integer_parameters:
        value = float(point[transform.parameters.index(name)])
        if value != round(value):
            raise UserError(
                f"{name}={value:g} is fractional, but {transform.name} rounds it; give the whole number that it applies"
            )
    generator = generator or torch.Generator().manual_seed(0)
    check_resolving_function(transform, family.sample(100, generator))
    if torch.equal(point, transform.identity):
        return 0.5  # μ_β is μ_β₀
    k = median_rank(n, failure_probability / 2)
    if k > n:
        return 1.0
    pilot = family.sample(min(n, PILOT), generator)
    ratio, sign, _ = log_ratio(family, pilot, transform.resolve(pilot, point.expand_as(pilot)), point)
    check_solutions(family, point, pilot, ratio)
    median = float(ratio.nanmedian())
    centre = median if math.isfinite(median) else 0.0

    moved, still, signs = _orders(family, point, n, centre, -2 * ERROR, generator)
    seen = torch.cat([sign, signs])
    if bool((seen > 0).any()) and bool((seen < 0).any()):
        raise _not_one_to_one(family, point, "det ∂γ/∂α changes its sign")

    # An unknown L goes where it is safe: to the top under μ_β, which raises t, and into the count under μ_β₀.
    threshold = torch.where(moved.isnan(), math.inf, moved).kthvalue(k).values
    count = n - int((still > threshold).sum())
    bound = clopper_pearson_upper(count, n, failure_probability / 2) + math.expm1(CELL) + own_laws_error(family)
    return min(1.0, max(0.5, bound))


def whole_shifts(interval: tuple[float, float]) -> tuple[float, float]:
    """The least and the largest whole number to which an action may round a value of an interval.

    Halves count both ways, so that it does not matter to which side an action rounds them.
    """
    return float(math.ceil(interval[0] - 0.5)), float(math.floor(interval[1] + 0.5))


def as_applied(family: SmoothedFamily, region: Box | Ball) -> dict[str, tuple[float, float]]:
    """Intervals that hold every parameter that the action applies for a β of the region: whole ones where it rounds."""
    if isinstance(region, Ball):
        r = region.radius
        intervals = {name: (c - r, c + r) for name, c in region.centre.items()}
    else:
        intervals = dict(region.intervals)
    whole = family.transform.integer_parameters
    return {name: whole_shifts(v) if name in whole else v for name, v in intervals.items()}


def _ordered(family: SmoothedFamily, transform: ResolvableTransform) -> frozenset[str]:
    """Shifts by log-concave laws, in parts of a composition that declare factors.

    Their likelihood ratio is monotone, and so their whole trade-off curve falls as the shift moves away from 0; a
    product with the other, independent, parts falls with it (Blackwell's order).
    """
    if isinstance(transform, Composition):
        return frozenset().union(*(_ordered(family, part) for part in transform.parts))
    shifts = {f.name for f in transform.factors or () if isinstance(f, Shift)}
    return frozenset(name for name in shifts if family.laws[name].log_concave)


def _ends(family: SmoothedFamily, name: str, interval: tuple[float, float]) -> list[float]:
    """Values of an interval that can be worst if h_min never falls away from the identity."""
    low, high = interval
    identity = float(family.transform.identity[family.parameters.index(name)])
    if low >= identity or high <= identity:
        return [high if low >= identity else low]
    return [low, high]


def _parts(family: SmoothedFamily, region: Region) -> tuple[list[dict[str, tuple[float, float]]], str]:
    """What stands for a region, and why it may: single parameters, or boxes of those that nothing is known of."""
    if isinstance(region, Points):
        return [{name: (value, value) for name, value in point.items()} for point in region.points], (
            "every listed parameter"
        )
    assert isinstance(region, (Box, Ball))
    transform = family.transform
    intervals: dict[str, list[tuple[float, float]]] = {}
    proved: list[str] = []
    claimed: list[str] = []
    listed: list[str] = []
    unknown: list[str] = []
    ordered, inverts = _ordered(family, transform), boxes.has_inverse(family)
    applied = as_applied(family, region)
    # What can be proved need not be claimed, and beside cells no claim is tried.
    cells = inverts and any(
        low < high and name not in ordered and name not in transform.integer_parameters
        for name, (low, high) in applied.items()
    )
    vouched = frozenset[str]() if cells else transform.monotone_parameters
    for name, (low, high) in applied.items():
        values = [low]
        if low == high:
            pass
        elif name in ordered or name in vouched:
            (proved if name in ordered else claimed).append(name)
            values = _ends(family, name, (low, high))
        elif name in transform.integer_parameters and high - low < MOST_SHIFTS:
            listed.append(name)
            values = [low + i for i in range(int(high - low) + 1)]
        else:
            unknown.append(name)
            intervals[name] = [(low, high)]
            continue
        intervals[name] = [(value, value) for value in values]
    if unknown and not (inverts and transform.integer_parameters.isdisjoint(unknown)):
        raise NotApplicable(
            f"{transform!r} declares no factors, and samples at single parameters do not say what happens between "
            f"them: define inverse (docs/extending.md) to have an interval of {', '.join(unknown)} covered, or certify "
            "Points([...]) instead, or, if you can prove that the trade-off curve never rises away from the identity, "
            "name them in monotone_parameters"
        )
    parts = [dict(zip(intervals, choice, strict=True)) for choice in itertools.product(*intervals.values())]
    if len(parts) > MOST_SHIFTS and listed:
        raise NotApplicable(
            f"the region holds {len(parts)} parameters with whole {', '.join(listed)}, too many to sample each; give "
            "a smaller one, or a law that is log-concave"
        )
    reasons = [
        f"all whole {', '.join(listed)}" if listed else "",
        f"worst corners, since shifts by log-concave laws ({', '.join(proved)}) are monotone" if proved else "",
        f"worst corners of the region, by {OWN_CLAIM} that {', '.join(claimed)} are monotone" if claimed else "",
        f"every {', '.join(unknown)}, in cells whose densities are enclosed by interval arithmetic" if unknown else "",
    ]
    return parts, "; ".join(filter(None, reasons)) or "the only parameter of the region"


def lower_bound_at(
    family: SmoothedFamily,
    beta: Mapping[str, float],
    n: int,
    failure_probability: float,
    generator: torch.Generator,
) -> float:
    """Lower confidence bound on h_min(β): above it with probability at most ``failure_probability``.

    h_min(β) is the largest E_{μ_β₀} F of all tests F with E_{μ_β} F <= 1/2 (Neyman-Pearson), so each such F bounds it
    from below, the best one or not. Here F = {order of a draw <= s}, the order by L as above, and s the k-th smallest
    order of n draws under μ_β. More than half of μ_β lies up to s only if fewer than k of its draws lie up to its
    median: with the largest k for which P(Bin(n, 1/2) < k) <= α/2, which by symmetry is n + 1 minus the least k of the
    other direction, E_{μ_β} F <= 1/2 except with probability α/2. Given s, the number of n independent draws under μ_β₀
    in F is binomial, and E_{μ_β₀} F is at least its Clopper-Pearson lower bound except with probability α/2.

    Under μ_β₀ L counts as higher by twice its error, and an unknown one as outside F, under μ_β as inside: errors make
    F smaller than the set whose mass was bounded, never larger.

    Args:
        beta: named parameters; those left out stay at the identity. Whole where the action rounds.
        n: draws under each of the two laws.
    """
    k = n + 1 - median_rank(n, failure_probability / 2)
    if k < 1:
        return 0.5
    count = _below(family, beta, n, k, generator)
    return max(0.5, clopper_pearson_lower(count, n, failure_probability / 2))


def _below(family: SmoothedFamily, beta: Mapping[str, float], n: int, k: int, generator: torch.Generator) -> int:
    """Of n draws under μ_β₀ how many have an order up to the k-th smallest of n draws under μ_β."""
    point = family.transform.vector(beta)
    pilot = family.sample(min(n, 200), generator)
    ratio, _, _ = log_ratio(family, pilot, family.transform.resolve(pilot, point.expand_as(pilot)), point)
    median = float(ratio.nanmedian())
    moved, still, _ = _orders(family, point, n, median if math.isfinite(median) else 0.0, 2 * ERROR, generator)
    return int((still <= torch.where(moved.isnan(), -math.inf, moved).kthvalue(k).values).sum())


def _check_claims(
    family: SmoothedFamily,
    region: Box | Ball,
    corners: list[dict[str, float]],
    values: list[float],
    n: int,
    generator: torch.Generator,
) -> str:
    """Try to refute what a user claims of ``monotone_parameters``: h_min inside may not exceed that of the corner.

    A claim is about the whole trade-off curve; only its level 1/2, h_min, is tried. From each corner :data:`INNER`
    parameters are drawn towards the identity, or towards the end of the interval that is nearest to it. A few draws at
    each find the one where h_min seems to exceed that of its corner most; there, with fresh draws, its lower bound is
    compared with the corner's upper bound. That is one comparison, so a claim that is true is refused with probability
    at most :data:`FALSE_ALARM`, besides that of the corners' own bounds. All this takes a fifth of the draws of those.

    Args:
        corners, values: the parameters that were bounded, and their upper bounds.
        n: draws under each law at each corner.

    Returns:
        What to add to the argument; "" where nothing rests on a claim.

    Raises:
        NotApplicable: the claim is refuted.
    """
    transform, applied = family.transform, as_applied(family, region)
    claimed = [
        name
        for name, (low, high) in applied.items()
        if low < high and name in transform.monotone_parameters - _ordered(family, transform)
    ]
    if not claimed:
        return ""

    def inside(corner: Mapping[str, float], name: str, way: float) -> float:
        low, high = applied[name]
        end = min(max(family.identity[name], low), high)
        value = corner[name] + way * (end - corner[name])
        return float(round(value)) if name in transform.integer_parameters else value

    few = max(1, n // (10 * INNER))
    found: list[tuple[float, dict[str, float], int]] = []
    for number, corner in enumerate(corners):
        # Each parameter has one value in each of INNER parts of its way, in an order of its own.
        parts = torch.stack([torch.randperm(INNER, generator=generator) for _ in claimed], dim=-1)
        ways = (parts + torch.rand(INNER, len(claimed), dtype=torch.float64, generator=generator)) / INNER
        for way in ways.tolist():
            moved = {name: inside(corner, name, u) for name, u in zip(claimed, way, strict=True)}
            share = _below(family, {**corner, **moved}, few, (few + 1) // 2, generator) / few
            found.append((share - values[number], {**corner, **moved}, number))
    _, beta, number = max(found, key=lambda one: one[0])
    least = lower_bound_at(family, beta, n * len(corners) // 10, FALSE_ALARM, generator)
    if least > values[number]:
        raise NotApplicable(
            f"{transform!r} claims that {', '.join(claimed)} are monotone (monotone_parameters), but h_min is at "
            f"least {least:.5f} at {_written(beta)} and at most {values[number]:.5f} at {_written(corners[number])}; "
            "take the claim back"
        )
    return f", which {len(found)} parameters inside do not refute"


def _written(beta: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in beta.items())


def certify(
    family: SmoothedFamily,
    region: Region,
    n: int = DRAWS,
    failure_probability: float = FAILURE_PROBABILITY,
    seed: int = 0,
) -> Outcome:
    """Sampled Neyman-Pearson bound for every parameter of a region at once.

    Points share the failure probability (a union bound). An interval of a box or ball is certified where the
    transformation defines ``inverse`` (cells of it, :mod:`glsmooth.bounds.boxes`), where it declares it among its
    ``monotone_parameters`` (its ends are sampled, the argument says whose claim that is, and some more draws try to
    refute it), where it is a shift by a log-concave law in a composition (its ends, by proof), and where the action
    rounds it to few whole numbers (all of them). What is certified is what the action applies: values are rounded
    first, outwards.

    Raises:
        NotApplicable: a transformation that is only approximately resolvable, a region between whose points nothing
            is known, γ(·, β) that takes a value twice, or a claim that the draws refute.
        ValueError: the region does not fit the transformation.
    """
    return replace(cached_certify(family, region, n, failure_probability, seed))  # a copy of what is cached


@lru_cache(maxsize=64)
def cached_certify(family: SmoothedFamily, region: Region, n: int, failure_probability: float, seed: int) -> Outcome:
    if not family.transform.resolvable:
        raise NotApplicable(f"{family.transform!r} is only approximately resolvable, so it is never certified")
    family.check_region(region)
    parts, reason = _parts(family, region)
    generator = torch.Generator().manual_seed(seed)
    if any(low < high for part in parts for low, high in part.values()):
        cover = boxes.worst_case(family, parts, n, failure_probability, generator)
        value, worst, number = cover.value, cover.worst, f"{cover.cells} cells"
        draws = f"up to {n} draws"
    else:
        points = [{name: low for name, (low, _) in part.items()} for part in parts]
        share = failure_probability / len(points)
        values = [required_probability_at(family, point, n, share, generator) for point in points]
        if isinstance(region, Box | Ball):
            reason += _check_claims(family, region, points, values, n, generator)
        at = max(range(len(points)), key=values.__getitem__)
        value, worst, number, draws = values[at], points[at], f"{len(points)}", f"{n} draws of each law"
    return Outcome(
        value,
        worst,
        "neyman_pearson",
        failure_probability=failure_probability,
        argument=f"{reason}; {draws} for each of {number}, all at confidence 1 - {failure_probability:g}",
    )
