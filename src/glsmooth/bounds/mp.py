"""MP (Muravev & Petiushko, "Certified robustness via randomized smoothing over multiplicative parameters of input
transformations", 2021): a multiplicative parameter with a Rayleigh law, in closed form."""

from __future__ import annotations

from collections.abc import Mapping

from glsmooth.bounds.base import NotApplicable
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import Rayleigh
from glsmooth.transforms.factors import Scale

__all__ = ["required_probability_at"]


def required_probability_at(family: SmoothedFamily, beta: Mapping[str, float]) -> float:
    """h_min(β) = 1 - 2^(-β²) for β > 1 and 2^(-β²) for β < 1, whatever the scale of the Rayleigh law.

    Raises:
        NotApplicable: anything but one multiplicative parameter with a Rayleigh law.
    """
    factors = family.transform.factors or ()
    if len(factors) != 1 or not isinstance(factors[0], Scale):
        raise NotApplicable("MP covers a single multiplicative parameter (gamma or contrast alone)")
    name = factors[0].name
    if not isinstance(family.laws[name], Rayleigh):
        raise NotApplicable(f"MP needs a Rayleigh law for {name}, here it is {family.laws[name]!r}")
    half: float = 2.0 ** -(beta[name] ** 2)
    return max(half, 1 - half)
