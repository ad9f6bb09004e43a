"""General Lipschitz through the resolving function: scores by automatic differentiation, w(h) from samples.

For a transformation without factors the score of μ_β follows from γ alone (Lemma 1 of Korzh et al.). With
z(α, β) = log τ(α) - ½ log det(JᵀJ), J = ∂γ/∂α, the log-density at θ = γ(α, β),

    ∇_β log ρ(θ|β) = ∂z/∂β - ∂z/∂α (∂γ/∂α)^† ∂γ/∂β.

Scores are unbounded, their tails are unknown, and w(h) is a mean over a tail: no finite number of samples bounds it
from above without further knowledge. So what comes out here is an *estimate*. It never counts as certified; the
sampled Neyman-Pearson bound does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from glsmooth.bounds import gl
from glsmooth.bounds.base import NotApplicable, Outcome
from glsmooth.bounds.jacobian import check_resolving_function, jacobians
from glsmooth.bounds.sampled import as_applied
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws.checks import jumps_of

__all__ = ["FORMS", "estimate", "ode_form", "product_form", "refuse_biased", "scores"]

#: Draws of the score at each node of the path, and intervals of the path.
DRAWS, STEPS = 20_000, 16
#: The same for ranking parameters against each other.
ROUGH_DRAWS, ROUGH_STEPS = 2_000, 4
#: Draws above a level that an estimate must rest on.
LEAST_TAIL = 20


def scores(family: SmoothedFamily, alpha: Tensor, beta: Tensor) -> Tensor:
    """∇_β log ρ(θ|β) at θ = γ(α, β): α (n, d), β (d,) -> (n, d), float64 (Lemma 1)."""
    alpha = alpha.detach().requires_grad_()
    at = beta.detach().expand_as(alpha).clone().requires_grad_()
    _, by_alpha, by_beta = jacobians(family.transform, alpha, at, create_graph=True)
    log_tau = torch.stack([family.laws[name].log_prob(alpha[:, i]) for i, name in enumerate(family.parameters)])
    # J is square, where ½ log det(JᵀJ) is log |det J|.
    z = log_tau.sum(dim=0) - torch.linalg.slogdet(by_alpha).logabsdet
    z_alpha, z_beta = torch.autograd.grad(z.sum(), (alpha, at), materialize_grads=True)
    drift = torch.linalg.pinv(by_alpha.detach()) @ by_beta.detach()
    score: Tensor = z_beta - (z_alpha[:, None, :] @ drift)[:, 0, :]
    return score


def _refuse_moving_jumps(
    family: SmoothedFamily, alpha: Tensor, beta: Tensor, v: Tensor, at: Mapping[str, float]
) -> None:
    """Refuse laws whose density jumps at a point that moves with β: no score sees that mass.

    In the coordinate α the jump moves at the speed -[(∂γ/∂α)^† (∂γ/∂β) v]; it must be 0.
    """
    for i, name in enumerate(family.parameters):
        law = family.laws[name]
        for end in jumps_of(law):
            edge = alpha[:200].clone()
            edge[:, i] = end
            _, by_alpha, by_beta = jacobians(family.transform, edge, beta.expand_as(edge))
            speed = torch.linalg.pinv(by_alpha) @ (by_beta @ v)[..., None]
            if not bool((speed[:, i].abs() <= 1e-9).all()):
                raise NotApplicable(
                    f"GL cannot use {law!r} for {name}: its density jumps at {end:g}, and at "
                    f"{dict(at)} that point moves, so the score misses the mass that it sweeps; use neyman_pearson, or "
                    "a law whose density does not jump (Normal, Rayleigh, LogNormal)"
                )


def refuse_biased(s: Tensor) -> None:
    """Refuse scores whose mean is not 0, before they are centred: their law misses mass."""
    mean, error = float(s.mean()), float(s.std()) / math.sqrt(len(s))
    if not abs(mean) <= 6 * error + 1e-9:
        raise NotApplicable(
            f"GL cannot be used: the score's mean is {mean:.3g} ± {error:.1g}, not 0, so the density of γ(α, β) loses "
            "or gains mass that no score sees; use neyman_pearson"
        )


def _rates(family: SmoothedFamily, legs: Sequence[gl.Leg], draws: int, steps: int) -> list[list[gl.Rate]]:
    """w(h) at the nodes of each leg; one set of draws serves all nodes, so that w is smooth along it."""
    alpha = family.sample(draws, torch.Generator().manual_seed(0))
    check_resolving_function(family.transform, alpha[:100])
    mass = np.full(draws, 1 / draws)

    def rate(point: dict[str, float], velocity: dict[str, float]) -> gl.Rate:
        beta = family.transform.vector(point)
        v = torch.tensor([velocity[name] for name in family.parameters], dtype=torch.float64)
        _refuse_moving_jumps(family, alpha, beta, v, point)
        s = scores(family, alpha, beta) @ v
        refuse_biased(s)
        return gl.rate_of(gl.Scores((s - s.mean()).numpy(), mass, np.zeros(draws)))

    return gl.rates_of(legs, steps, rate)


def product_form(family: SmoothedFamily, curve: gl.Curve, draws: int = DRAWS) -> gl.ProductForm:
    """Estimate of ξ and ĝ along a curve t ↦ β(t) on [0, 1] from the identity (Theorem 1), followed by a polygon.

    Raises:
        NotApplicable: a law whose score misses mass.
        ValueError: as :func:`glsmooth.bounds.gl.polygon`; a resolving function that does not fit the identity.
    """
    legs = gl.polygon(family, curve)
    return gl.product_of_rates(_rates(family, legs, draws, gl.LEG_STEPS), legs, gl.least_value(family, legs))


def ode_form(family: SmoothedFamily, curve: gl.Curve, draws: int = DRAWS) -> float:
    """Estimate of h_min at the end of a curve, without factorisation; arguments as :func:`product_form`."""
    legs = gl.polygon(family, curve)
    rates = _rates(family, legs, draws, gl.LEG_STEPS)
    return max(gl.least_value(family, legs), _supported(gl.ode_of_rates(rates, legs), draws))


def _supported(h_min: float, draws: int) -> float:
    """1.0 where the estimate would rest on a handful of draws."""
    return h_min if (1 - h_min) * draws >= LEAST_TAIL else 1.0


#: The forms, from w at the nodes of one leg, by the names of their methods.
FORMS: dict[str, Callable[[list[list[gl.Rate]]], float]] = {
    "gl": lambda rates: gl.product_of_rates(rates).required_probability,
    "gl_ode": gl.ode_of_rates,
}


def _probes(family: SmoothedFamily, region: Region) -> Iterator[dict[str, float]]:
    """Parameters of a region, as applied, that are likely to be worst.

    Listed points; corners; a ball's axes and diagonals.
    """
    if isinstance(region, Points):
        yield from (dict(point) for point in region.points)
        return
    assert isinstance(region, (Box, Ball))
    box = as_applied(family, region)
    if isinstance(region, Box) or set(region.centre) & family.transform.integer_parameters:
        corners = itertools.product(*(sorted(set(interval)) for interval in box.values()))
        yield from (dict(zip(box, corner, strict=True)) for corner in corners)
        return
    for signs in itertools.product((-1, 0, 1), repeat=len(region.centre)):
        length = math.hypot(*signs) or 1.0
        steps = zip(region.centre.items(), signs, strict=True)
        yield {name: c + region.radius * sign / length for (name, c), sign in steps}


def estimate(family: SmoothedFamily, region: Region, method: str) -> Outcome:
    """Estimate of h_min over a region by ``gl`` (product form) or ``gl_ode``; ``sound`` is False.

    Raises:
        NotApplicable: a law whose score misses mass, or a transformation that is only approximately resolvable.
        ValueError: the region does not fit the transformation.
    """
    if not family.transform.resolvable:
        raise NotApplicable(f"{family.transform!r} is only approximately resolvable, so it is never certified")
    family.check_region(region)

    def at(point: dict[str, float], draws: int, steps: int) -> float:
        beta = dict(zip(family.parameters, family.transform.vector(point).tolist(), strict=True))
        return _supported(FORMS[method](_rates(family, [gl.straight_leg(family, beta)], draws, steps)), draws)

    points = list(_probes(family, region))
    worst = max(points, key=lambda point: at(point, ROUGH_DRAWS, ROUGH_STEPS)) if len(points) > 1 else points[0]
    return Outcome(
        at(worst, DRAWS, STEPS),
        worst,
        method,
        sound=False,
        argument=f"estimated: w(h) from {DRAWS} sampled scores without a confidence band, at the worst of "
        f"{len(points)} parameters tried; never counts as certified",
    )
