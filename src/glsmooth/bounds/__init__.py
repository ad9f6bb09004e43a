"""From a family and a region to the required probability: no image and no model enters.

A certificate of an image is the comparison ``p_lower > required_probability(family, region)``, strictly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from scipy.special import ndtri

from glsmooth.bounds import autograd_gl, cover, gl, mp, neyman_pearson, sampled, tss
from glsmooth.bounds.base import NotApplicable, Outcome, exceeds
from glsmooth.bounds.confidence import samples_needed
from glsmooth.bounds.residual import best_residual, joint, residual_alone, residual_of
from glsmooth.bounds.tradeoffs import CLOSED, Tradeoff
from glsmooth.errors import UserError, did_you_mean
from glsmooth.family.regions import Points, Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws.base import Undefined
from glsmooth.laws.checks import is_own

__all__ = [
    "METHODS",
    "Method",
    "NotApplicable",
    "Outcome",
    "best_residual",
    "certifies_runner_up",
    "certify_near",
    "certify_region",
    "cohen_radius",
    "evaluate",
    "exceeds",
    "on_plane",
    "required_probability",
    "residual_alone",
    "samples_needed",
    "tradeoff",
]


def _by_neyman_pearson(family: SmoothedFamily, region: Region) -> Outcome:
    if family.transform.factors is None:
        return sampled.certify(family, region)
    worst = cover.worst_case(family, region)
    return Outcome(worst.value, worst.beta, "neyman_pearson", argument=worst.argument)


def _by_points(
    name: str,
    at: Callable[[SmoothedFamily, Mapping[str, float]], float],
    rank: Callable[[SmoothedFamily, Mapping[str, float]], float] | None = None,
    sound: bool = True,
    closed: bool = False,
) -> Callable[[SmoothedFamily, Region], Outcome]:
    """A method that is a formula for one β, made to cover a region.

    ``rank`` finds the worst β more quickly; ``closed`` says that the formula is a theorem's closed form, which proves
    single β by itself.
    """

    def certify(family: SmoothedFamily, region: Region) -> Outcome:
        if family.transform.factors is None:
            if name in autograd_gl.FORMS:
                return autograd_gl.estimate(family, region, name)
            raise NotApplicable(f"{name} has no form for {family.transform!r}, which declares no factors")
        plane = on_plane(name, family)
        plane.check_region(region)
        beta = cover.likely_worst(plane, region, lambda point: (rank or at)(plane, point))
        best = at(plane, beta)
        if not sound:
            return Outcome(min(1.0, best), beta, name, sound=False, argument="the worst parameter tried; unsound")
        if closed and isinstance(region, Points):
            # Where nothing moves the formula is exact; anywhere else it is rounded, below 1/2 as well.
            h = best if beta == plane.identity else min(1.0, max(0.5, best) + CLOSED)
            return Outcome(h, beta, name, argument="closed form at the worst of the listed points")
        # The formula is at or above the exact value everywhere, and the exact value is bounded over the whole
        # region: whatever lies at or above that bound certifies, even if the formula's own maximum was missed.
        exact = cover.worst_case(plane, region)
        return Outcome(
            min(1.0, max(best, exact.value)),
            beta,
            name,
            argument=f"at or above Neyman-Pearson's: {exact.argument}",
        )

    return certify


def on_plane(method: str, family: SmoothedFamily) -> SmoothedFamily:
    """The family whose values stay valid on the torus, since wrapping is post-processing.

    Raises:
        NotApplicable: a law that has no form on the plane; a threat, which parameters alone do not describe.
    """
    if family.threat is not None:
        raise NotApplicable(f"{family.name} is more than its parameters; family.exact has these")
    for name, law in family.laws.items():
        if law.cyclic:
            raise NotApplicable(f"{method} has no form on the torus, and {law!r} (for {name}) none on the plane")
    return SmoothedFamily(family.transform, family.laws) if family.torus else family


@dataclass(frozen=True)
class Method:
    """A way to bound the required probability. ``sound`` is False for the paper's printed procedure only."""

    name: str
    title: str
    certify: Callable[[SmoothedFamily, Region], Outcome]
    sound: bool = True

    def proves(self, family: SmoothedFamily) -> bool:
        """Is what it says of the family sound, as far as the bound is concerned? GL without factors is an estimate."""
        return self.sound and not (family.transform.factors is None and self.name in autograd_gl.FORMS)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("neyman_pearson", "Neyman–Pearson", _by_neyman_pearson),
        Method(
            "gl",
            "General Lipschitz, product form",
            _by_points("gl", gl.product_at, partial(gl.product_at, steps=gl.ROUGH_STEPS)),
        ),
        Method(
            "gl_ode",
            "General Lipschitz, ode form",
            _by_points("gl_ode", gl.ode_at, partial(gl.product_at, steps=gl.ROUGH_STEPS)),
        ),
        Method(
            "gl_printed",
            "General Lipschitz as printed (unsound)",
            _by_points("gl_printed", gl.printed, partial(gl.product_at, steps=gl.ROUGH_STEPS), sound=False),
            sound=False,
        ),
        Method("tss", "TSS (Li et al. 2021)", _by_points("tss", tss.required_probability_at, closed=True)),
        Method("mp", "MP (Muravev & Petiushko 2021)", _by_points("mp", mp.required_probability_at, closed=True)),
    )
}


def evaluate(
    family: SmoothedFamily, region: Region, methods: Iterable[str] = ("neyman_pearson",)
) -> dict[str, Outcome]:
    """What each of ``methods`` says of a region; those that do not apply say why.

    Args:
        family: transformation, smoothing laws and, for translations, the image size.
        region: the parameters to be covered, every one of them.
        methods: names in ``METHODS``.

    Raises:
        ValueError: unknown method; a region that does not fit the transformation.
    """
    family.check_region(region)
    outcomes = {}
    for method in methods:
        try:
            outcomes[method] = certify_region(family, region, method)
        except NotApplicable as reason:
            outcomes[method] = Outcome(None, None, method, METHODS[method].sound, argument=str(reason))
    return outcomes


def certify_region(family: SmoothedFamily, region: Region, method: str = "neyman_pearson") -> Outcome:
    """Required probability of a region with everything there is to say about it.

    Args: as :func:`evaluate`, with one ``method``.

    Raises:
        NotApplicable: the method has no statement about this family; the message says why.
        ValueError: unknown method; a region that does not fit the transformation.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise UserError(f"method={method!r} is unknown{did_you_mean(str(method), METHODS)}")
    family.check_region(region)
    if METHODS[method].sound and not family.transform.resolvable:
        raise NotApplicable(f"{family.transform!r} is only approximately resolvable, so it is never certified")
    if family.threat is not None:
        return certify_near(family.exact, family.rest(region), residual_of(family), method)
    try:
        bound = METHODS[method].certify(family.continuous, region)
    except Undefined as missing:
        raise NotApplicable(f"{method} needs more of a law than that says of itself: {missing}") from missing
    own = own_laws(family)
    if own:
        bound = replace(bound, argument=f"{bound.argument}; by what {', '.join(own)} says of its own shape")
    return _by_draws(family, bound)


def _by_draws(family: SmoothedFamily, bound: Outcome) -> Outcome:
    """What a bound for continuous draws becomes by those of the family (:mod:`glsmooth.family.grid`)."""
    if bound.h_min is None or not family.draws_error:
        return bound
    argument = f"{bound.argument}; for β on the grid of the draws, which costs {family.draws_error:.0e}"
    return replace(bound, h_min=min(1.0, bound.h_min + family.draws_error), argument=argument)


def certify_near(family: SmoothedFamily, region: Region, residual: float, method: str = "neyman_pearson") -> Outcome:
    """Required probability for attacks that end within a residual of φ(v, β), for every β of a region.

    Votes are counted at one reference v, and pixel noise covers the residual (:mod:`glsmooth.bounds.residual`). That of
    a family with a threat is :func:`certify_region`'s, for the residual that the family states.

    Args:
        family: with ``pixel_noise`` above 0. Its transformation is exactly resolvable, and one of those whose effect on
            distances is known.
        region: as :func:`certify_region`; a ball is covered by its smallest box.
        residual: an upper bound of ||v′ - φ(v, β)||_2 for attacked images v′, in the units of a pixel.
        method: a name in ``METHODS``.

    Raises:
        NotApplicable: nothing is known of the transformation, its laws or its region beside a residual.
        UserError: no pixel noise; a region that does not fit the transformation.
    """
    family.check_region(region)
    problem = joint(family, region, residual)
    outcome = certify_region(problem.family, problem.region, method)
    worst = None if outcome.worst is None else problem.original(outcome.worst)
    outcome = replace(outcome, worst=worst, argument=f"with a residual of {residual:g}: {outcome.argument}")
    return _by_draws(family, outcome)


def own_laws(family: SmoothedFamily) -> list[str]:
    """Classes of the family's laws that are a user's own: bounds rest on what these say of their shape."""
    return sorted({type(law).__name__ for law in family.laws.values() if is_own(law)})


def required_probability(family: SmoothedFamily, region: Region, method: str = "neyman_pearson") -> float:
    """h_min of a region: a lower bound of the class probability strictly above it certifies the region.

    Args: as :func:`certify_region`.

    Returns:
        A number in [1/2, 1], rounded up; 1.0 when nothing can be certified.
    """
    h_min = certify_region(family, region, method).h_min
    assert h_min is not None
    return h_min


def tradeoff(family: SmoothedFamily, beta: Mapping[str, float]) -> Tradeoff:
    """Exact trade-off curve of one parameter: a callable p ↦ the smallest possible h(β) given h(β₀) >= p.

    It is the trade-off function of f-differential privacy of the pair (μ_β₀, μ_β): convex, continuous, at most p.
    Of draws on a grid it is that of the continuous laws, which :func:`required_probability` makes amends for.

    Raises:
        NotApplicable: a family with a threat, which β alone does not describe.
    """
    if family.threat is not None:
        raise NotApplicable(f"{family.name} is more than its parameters; family.exact has these")
    return neyman_pearson.tradeoff(family, beta)


def certifies_runner_up(family: SmoothedFamily, region: Region, p_lower: float, p_upper: float) -> bool:
    """Does a class keep the lead on the whole region? The multi-class form of the comparison ``p_lower > h_min``.

    N_β(p_A) > 1 - N_β(1 - p_B) for every β of the region (Neyman-Pearson for both classes at once). With
    p_B = 1 - p_A it is the binary comparison, and p_B is never taken to be larger than that.

    Args:
        p_lower: lower confidence bound p_A of the class's probability.
        p_upper: upper confidence bound p_B, jointly valid with p_A, of every other class's probability.

    Raises:
        NotApplicable, ValueError: as :func:`certify_region`; a bound outside [0, 1].
    """
    for name, p in (("p_lower", p_lower), ("p_upper", p_upper)):
        if not 0 <= p <= 1:
            raise UserError(f"{name}={p} is not a probability; give a number in [0, 1]")
    # Draws on a grid may be off by a third of what they cost: before the move, and after it for each class.
    off, family = family.draws_error / 3, family.continuous
    if family.threat is not None:
        problem = joint(family.exact, family.rest(region), residual_of(family))
        family, region = problem.family, problem.region
    if exceeds(p_lower, cover.worst_case(family, region).value + 3 * off):
        return True
    p_lower, p_upper = p_lower - off, min(p_upper, 1.0 - p_lower) + off
    return p_upper < p_lower and cover.worst_deficit(family, region, p_lower, p_upper).value < -2 * off


def cohen_radius(p: float, sigma: float) -> float:
    """l2 radius σ Φ⁻¹(p) certified by pixel noise N(0, σ²) (Cohen et al. 2019, Theorem 1); 0 when p <= 1/2.

    Args:
        p: lower bound of the class probability, in [0, 1].
        sigma: standard deviation of the noise, in the units of a pixel.
    """
    if not 0 <= p <= 1:
        raise UserError(f"p={p} is not a probability; give a number in [0, 1]")
    if not (math.isfinite(sigma) and sigma > 0):
        raise UserError(f"sigma={sigma} must be a finite number above 0")
    return float(sigma * ndtri(p)) if p > 0.5 else 0.0
