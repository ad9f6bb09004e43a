"""Neyman-Pearson from samples, for any transformation whose resolving function is known.

Nothing is needed but γ: under μ_β the draw θ = γ(α, β) has the log-density log τ(α) - log |det ∂γ/∂α|, under μ_β₀ it
is log τ(θ); the Jacobian comes from automatic differentiation. h_min(β) is the mass that μ_β₀ gives to {L <= t},
L = log dμ_β/dμ_β₀, t the median of L under μ_β. With n draws of either law:

1. t is the k-th smallest L under μ_β, with the least k for which P(Bin(n, 1/2) >= k) <= α_b/2. Below the true median
   it falls only if k draws or more do, so t is at least the median except with probability α_b/2.
2. L is computed for n independent draws under μ_β₀, and h_min(β) is the Clopper-Pearson upper bound, at α_b/2, of
   P(L <= t). A draw whose L is unknown counts.

*Ties and rounding.* L may have atoms (exponential and uniform laws), and it is known up to rounding only. So it is
rounded down to a multiple of Δ = 1e-6, and draws in one cell are ordered by an independent uniform number U: a
randomised threshold. Write G for {cell of L, then U, up to the median} and e^-a for the largest dμ_β₀/dμ_β in the
median's cell. Any F with E_{μ_β} F <= 1/2 <= E_{μ_β} G has E_{μ_β₀}(F - G) <= e^-a E_{μ_β}(F - G) + (e^Δ - 1) <=
e^Δ - 1: below the cell dμ_β₀ >= e^-a dμ_β where F <= G, above it dμ_β₀ <= e^-a dμ_β where F >= G, and inside it the
ratio changes by e^Δ. This holds also when cells overlap by errors of L up to Δ/2. Hence Δ costs 1e-6, and atoms
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from scipy.stats import binom
from torch import Tensor

from glsmooth.bounds.base import NotApplicable
from glsmooth.bounds.jacobian import check_resolving_function, jacobians
from glsmooth.confidence import clopper_pearson_upper
from glsmooth.family import SmoothedFamily
from glsmooth.transforms.base import ResolvableTransform

__all__ = ["FAILURE_PROBABILITY", "certify", "log_ratio", "required_probability_at", "solve"]

#: α_b: the probability that a sampled bound is too small. It is added to the votes' alpha.
FAILURE_PROBABILITY = 1e-4
#: Draws under each of the two laws.
DRAWS = 400_000
#: Width Δ of the cells of L.
CELL = 1e-6
#: Draws whose α is solved for again, to see whether the solution is the only one.
PROBES = 10_000
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


def log_ratio(
    family: SmoothedFamily, alpha: Tensor, theta: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """L = log dμ_β/dμ_β₀ at θ = γ(α, β), from both parameters: (n, d), (n, d), (d,).

    Returns:
        L (n); the sign of det ∂γ/∂α (n); and the correction (n, d) to α that one Newton step would make.
    """
    merged, by_alpha, _ = jacobians(family.transform, alpha, beta.expand_as(alpha))
    sign, log_det = torch.linalg.slogdet(by_alpha)
    correction = torch.linalg.solve_ex(by_alpha, theta - merged).result
    return _log_tau(family, alpha) - log_det - _log_tau(family, theta), sign, correction


def _solved_ratio(
    family: SmoothedFamily, theta: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """α, L and sign of the determinant for given θ, NaN where α is not found or L not settled to a tenth of Δ."""
    alpha = solve(family.transform, theta, beta)
    first, _, correction = log_ratio(family, alpha, theta, beta)
    alpha = alpha + correction
    ratio, sign, _ = log_ratio(family, alpha, theta, beta)
    # Newton's method converges quadratically: what the last step changed bounds the error that is left.
    settled = ((ratio - first).abs() <= CELL / 10) | (ratio == first)
    return alpha, torch.where(settled, ratio, math.nan), torch.where(settled, sign, 0.0)


def _check_one_to_one(
    family: SmoothedFamily, beta: Tensor, alpha: Tensor, ratio: Tensor, signs: Tensor
) -> None:
    """Refuse a γ(·, β) that takes a value twice: its density would be a sum over all solutions.

    Seen where det ∂γ/∂α changes its sign, or where a draw's α is not what solving for it gives back.
    """
    name, at = repr(family.transform), dict(zip(family.parameters, beta.tolist(), strict=True))
    if bool((signs > 0).any()) and bool((signs < 0).any()):
        raise NotApplicable(
            f"{name}: det ∂γ/∂α changes its sign at {at}, so resolve(·, beta) is not one-to-one and its density does "
            "not follow from one solution; choose laws on whose support it is"
        )
    theta = family.transform.resolve(alpha, beta.expand_as(alpha))
    again, again_ratio, _ = _solved_ratio(family, theta, beta)
    known = again_ratio.isfinite()
    far = known & ((again - alpha).abs() > 1e-5 * (1 + alpha.abs())).any(dim=-1)
    if bool(far.any()):
        one, other = alpha[far][0].tolist(), again[far][0].tolist()
        raise NotApplicable(
            f"{name}: alpha = {one} and {other} lead to the same parameter at {at}, so resolve(·, beta) is not "
            "one-to-one and its density does not follow from one solution; choose laws on whose support it is"
        )
    off = known & ((again_ratio - ratio).abs() > CELL / 2)
    if bool(off.any()):
        raise NotApplicable(
            f"{name}: the log-likelihood ratio at {at} changes by {float((again_ratio - ratio).abs()[off].max()):.2g} "
            "when alpha is solved for again, too much to decide by; rescale the parameters towards 1"
        )


def _order(ratio: Tensor, generator: torch.Generator) -> Tensor:
    """L rounded down to cells, with an independent uniform order inside each."""
    u = torch.rand(len(ratio), dtype=torch.float64, generator=generator)
    return torch.floor(ratio / CELL) + u


def median_rank(n: int, alpha: float) -> int:
    """Least k with P(Bin(n, 1/2) >= k) <= alpha; it exceeds n where n is too small."""
    k = int(binom.isf(alpha, n, 0.5)) + 1
    while binom.sf(k - 1, n, 0.5) > alpha:  # isf may be off by one
        k += 1
    return k


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
        NotApplicable: γ(·, β) takes a value twice.
        ValueError: β outside the domain; a resolving function that does not fit its identity.
    """
    transform = family.transform
    transform.check(beta)
    point = transform.vector(beta)
    generator = generator or torch.Generator().manual_seed(0)
    k = median_rank(n, failure_probability / 2)
    if torch.equal(point, transform.identity):
        check_resolving_function(transform, family.sample(min(n, PROBES), generator))
        return 0.5  # μ_β is μ_β₀
    if k > n:
        return 1.0
    moved, signs, still = [], [], []
    for size in _chunks(n):
        alpha = family.sample(size, generator)
        if not moved:
            check_resolving_function(transform, alpha[:PROBES])
        theta = transform.resolve(alpha, point.expand_as(alpha)).detach()
        ratio, sign, _ = log_ratio(family, alpha, theta, point)
        if not moved:
            _check_one_to_one(family, point, alpha[:PROBES], ratio[:PROBES], sign)
        moved.append(ratio)
        signs.append(sign)
    for size in _chunks(n):
        _, ratio, sign = _solved_ratio(family, family.sample(size, generator), point)
        still.append(ratio)
        signs.append(torch.where(ratio.isfinite(), sign, 0.0))
    _check_sign(...)
    threshold = _order(torch.cat(moved).nan_to_num(...), generator).kthvalue(k).values
    count = n - int((_order(torch.cat(still), generator) > threshold).sum())  # NaN and -inf count
    bound = clopper_pearson_upper(count, n, failure_probability / 2) + math.expm1(CELL)
    return min(1.0, max(0.5, bound))
