"""TSS (Li et al., "TSS: Transformation-specific smoothing for robustness certification", CCS 2021), in closed form.

Covers normal shifts (brightness, translation and both), exponential blur, contrast-brightness in the form c·(x + b)
with its variance correction, and compositions of these with exponential blur.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from scipy.special import ndtr, ndtri

from glsmooth.bounds.base import NotApplicable
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import Exponential, Law, LogNormal, Normal
from glsmooth.transforms.factors import Shift, ShiftThenScale

__all__ = ["required_probability_at"]


def _normal_scale(name: str, law: Law) -> float:
    if not isinstance(law, Normal):
        raise NotApplicable(f"TSS needs a normal law for {name}, here it is {law!r}")
    return law.scale


def required_probability_at(family: SmoothedFamily, beta: Mapping[str, float]) -> float:
    """h_min(β) by TSS's theorems on normal shifts, exponential blur and contrast-brightness.

    Args:
        family: on the plane or the torus (the plane's value stays valid there: wrapping is post-processing).
        beta: all parameters, named.

    Raises:
        NotApplicable: a factor or a law that no theorem of TSS covers.
    """
    delta_squared, k, blur = 0.0, 0.0, 0.0
    factors = family.transform.factors or ()
    if sum(isinstance(factor, ShiftThenScale) for factor in factors) > 1:  # the correction below is that of one
        raise NotApplicable(
            f"TSS has no theorem for two contrast-brightness groups at once, as in {family.transform!r}"
        )
    for factor in factors:
        if isinstance(factor, Shift) and factor.non_negative:
            law = family.laws[factor.name]
            if not isinstance(law, Exponential):
                raise NotApplicable(f"TSS needs an exponential law for {factor.name}, here it is {law!r}")
            blur += law.rate * beta[factor.name]
        elif isinstance(factor, Shift):
            delta_squared += (beta[factor.name] / _normal_scale(factor.name, family.laws[factor.name])) ** 2
        elif isinstance(factor, ShiftThenScale):
            law = family.laws[factor.scale]
            if not isinstance(law, LogNormal) or law.loc != 0:
                raise NotApplicable(f"TSS needs LogNormal(0, s) for {factor.scale}, here it is {law!r}")
            t = _normal_scale(factor.shift, family.laws[factor.shift])
            if family.laws[factor.shift].loc != 0:
                raise NotApplicable(f"TSS needs a centred law for {factor.shift}")
            k = math.log(beta[factor.scale])
            delta_squared += (k / law.scale) ** 2 + (beta[factor.shift] * math.exp(k) / t) ** 2
        else:
            names = " and ".join(factor.parameters)
            raise NotApplicable(
                f"TSS has no theorem for {names} in this form; its contrast-brightness is c·(x + b) "
                "(order=brightness_first), normal shifts and exponential blur"
            )
    if not factors:
        raise NotApplicable(f"TSS has no theorem for {family.transform.name}")
    p = float(ndtr(math.sqrt(delta_squared)))
    # Variance correction (TSS, contrast-brightness): the law of b is rescaled by 1/β_c, which costs this map.
    if k < 0:
        p = float(2 * ndtr(math.exp(-k) * ndtri((1 + p) / 2)) - 1)
    elif k > 0:
        p = float(2 * (1 - ndtr(math.exp(-k) * ndtri(1 - p / 2))))
    # Exponential blur: a mass 1 - exp(-λβ) of the law is lost, on the rest the ratio is constant.
    return 1 - math.exp(-blur) * (1 - p)
