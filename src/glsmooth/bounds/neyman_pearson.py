"""Neyman-Pearson: the exact required probability, the limit that no sound method can beat (THEORY of the package:
docs/certificates.md).

For one β the worst base classifier is a threshold on L = log dμ_β/dμ_β₀, so h_min(β) is the mass that μ_β₀ gives to
{L <= median of L under μ_β}. The factors of a built-in transformation are independent, so their L's add up; each
factor contributes a normal shift, a monotone ratio, finitely many atoms, or a normal shift whose size depends on an
observed coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from glsmooth.bounds.base import NotApplicable
from glsmooth.bounds.cells import Moved, Observed, cyclic_pair, scalar_pair
from glsmooth.bounds.sums import combine
from glsmooth.bounds.tradeoffs import Atoms, Gaussian, Monotone, Tradeoff
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import Law
from glsmooth.laws.checks import cdf_error, is_own
from glsmooth.transforms.factors import (
    POSITIVE,
    REAL,
    Domain,
    Factor,
    PowerThenScale,
    Scale,
    ScaleThenShift,
    Shift,
    ShiftThenScale,
)

__all__ = ["ShiftThenScaleBeside", "cyclic_error", "cyclic_masses", "tradeoff"]


@dataclass(frozen=True)
class ShiftThenScaleBeside(Factor):
    """c·(x + b) with a third coordinate, which moves by its parameter times the draw of the contrast.

    No action on images: what a residual adds to c·(x + b) (:mod:`glsmooth.bounds.residual`).
    """

    scale: str
    shift: str
    beside: str

    @property
    def parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.scale, self.shift, self.beside)

    @property
    def identity(self) -> tuple[float, ...]:  # type: ignore[override]
        return (1.0, 0.0, 0.0)

    def domain(self, name: str) -> Domain:
        return POSITIVE if name == self.scale else REAL

    def resolve(self, alpha: Tensor, beta: Tensor) -> Tensor:
        two = ShiftThenScale(self.scale, self.shift).resolve(alpha[..., :2], beta[..., :2])
        return torch.cat((two, (alpha[..., :1] * beta[..., 2:] + alpha[..., 2:])), dim=-1)

    def inverse(self, theta: Tensor, beta: Tensor) -> Tensor:
        two = ShiftThenScale(self.scale, self.shift).inverse(theta[..., :2], beta[:2])
        return torch.cat((two, theta[..., 2:] - two[..., :1] * beta[2]), dim=-1)


@lru_cache(maxsize=64)
def cyclic_masses(law: Law, size: int) -> np.ndarray:
    """Probabilities (size,) of round(α) modulo ``size`` for α ~ ``law``."""
    if law.cyclic:
        return np.full(size, 1.0 / size)
    # All integers that carry mass, in whole turns of the cycle.
    low, high = _reach(law)
    first = size * (math.floor(low / size) - 1)
    last = size * (math.ceil(high / size) + 1)
    if last - first > 50_000_000:
        raise NotApplicable(f"{law!r} spans too many turns of a cycle of {size} pixels to be summed; use UniformCyclic")
    edges = torch.arange(first, last + 1, dtype=torch.float64) - 0.5
    below, above = law.cdf(edges), law.survival(edges)
    mass = torch.where(below[1:] < 0.5, below[1:] - below[:-1], above[:-1] - above[1:])
    wrapped: np.ndarray = mass.numpy().reshape(-1, size).sum(axis=0)
    wrapped = wrapped / wrapped.sum()
    wrapped.flags.writeable = False  # kept for other callers
    return wrapped


def cyclic_error(law: Law, size: int) -> float:
    """How far the probability of any set of shifts can be from its sum of :func:`cyclic_masses`."""
    if law.cyclic:
        return 2.0**-50
    # The masses are differences of a distribution function at half-integers. Each of its values enters two masses,
    # and enters the sum that they are divided by.
    low, high = _reach(law)
    return (high - low + 4 * size) * 4 * cdf_error(law)


def _reach(law: Law) -> tuple[float, float]:
    """An interval outside of which a law has no mass that floats could show."""
    lowest, low, high = law.icdf(torch.tensor([1e-18, 2.0**-54, 1 - 1e-16], dtype=torch.float64)).tolist()
    return lowest if math.isfinite(lowest) else low, high


class _Parts:
    """Contributions of a family's factors at one β, gathered by kind."""

    def __init__(self, coarse: bool) -> None:
        self.coarse = coarse
        self.delta_squared = 0.0
        self.plain: list[Atoms] = []
        self.conditional: list[Observed | Moved] = []
        self.monotone: list[Monotone] = []

    def pair(self, law: Law, shift: float, scale: float) -> None:
        """α ~ law against shift + scale·α."""
        if shift == 0 and scale == 1:
            return
        own = is_own(law)  # of which nothing but its order is taken without an error
        if scale == 1 and law.gaussian_scale is not None and not own:
            self.delta_squared += (shift / law.gaussian_scale) ** 2
        elif shift == 0 and law.gaussian_scale_of_log is not None and not own:
            self.delta_squared += (math.log(scale) / law.gaussian_scale_of_log) ** 2
        elif (scale == 1 and law.log_concave) or (shift == 0 and law.log_concave_in_log):
            self.monotone.append(Monotone(law, shift, scale))
        elif scale == 1 and law.shifts is not None:
            self.conditional.append(Moved(law, shift))
        else:
            self.plain.append(self._cells(law, shift, scale))

    def _cells(self, law: Law, shift: float, scale: float) -> Atoms:
        return scalar_pair(law, shift, scale, 150 if self.coarse else 2000)

    def observed(self, outer: Law, scale: float, inner: Law, step: float, inner_scales: bool) -> None:
        """θ_o = scale·α_o observed; given it the inner coordinate moves by α_o·step, in log where it scales."""
        if step == 0:
            self.pair(outer, 0.0, scale)
        elif not outer.log_concave_in_log:
            raise NotApplicable(
                f"{outer!r} does not say that its logarithm has a log-concave density (log_concave_in_log), which the "
                "bound for another parameter beside it needs; use one of glsmooth's positive laws"
            )
        elif is_own(outer):
            raise NotApplicable(
                f"{outer!r} is a law of your own, whose partial means no bound knows; as the law of a parameter that "
                "moves another one use one of glsmooth's positive laws"
            )
        else:
            self.conditional.append(Observed(outer, scale, inner, step, inner_scales))

    def tradeoff(self) -> Tradeoff:
        delta = math.sqrt(self.delta_squared)
        if not self.plain and not self.conditional:
            if not self.monotone:
                return Gaussian(delta)
            if len(self.monotone) == 1 and delta == 0:
                return self.monotone[0]
        plain = self.plain + [self._cells(m.law, m.shift, m.scale) for m in self.monotone]
        return combine(delta, plain, self.conditional, self.coarse)


def _add(parts: _Parts, factor: Factor, family: SmoothedFamily, beta: Mapping[str, float]) -> None:
    laws = family.laws
    if isinstance(factor, Shift):
        b = beta[factor.name]
        size = family.torus.get(factor.name)
        if size is None:
            parts.pair(laws[factor.name], b, 1.0)
        elif round(b) % size:
            masses = cyclic_masses(laws[factor.name], size)
            if masses.max() - masses.min() > 1e-15 * masses.max():
                error = cyclic_error(laws[factor.name], size)
                parts.plain.append(replace(cyclic_pair(masses, round(b) % size), slip_0=error, slip_b=error))
    elif isinstance(factor, Scale):
        parts.pair(laws[factor.name], 0.0, beta[factor.name])
    elif isinstance(factor, ScaleThenShift):
        c, b = beta[factor.scale], beta[factor.shift]
        parts.observed(laws[factor.scale], c, laws[factor.shift], b, inner_scales=False)
    elif isinstance(factor, PowerThenScale):
        g, c = beta[factor.power], beta[factor.scale]
        parts.observed(laws[factor.power], g, laws[factor.scale], math.log(c), inner_scales=True)
    elif isinstance(factor, ShiftThenScale):
        c, b = beta[factor.scale], beta[factor.shift]
        parts.pair(laws[factor.scale], 0.0, c)
        parts.pair(laws[factor.shift], b, 1.0 / c)
    elif isinstance(factor, ShiftThenScaleBeside):
        c, b = beta[factor.scale], beta[factor.shift]
        parts.observed(laws[factor.scale], c, laws[factor.beside], beta[factor.beside], inner_scales=False)
        parts.pair(laws[factor.shift], b, 1.0 / c)
    else:
        raise NotApplicable(f"{factor!r} is not a factor with known densities")


def tradeoff(family: SmoothedFamily, beta: Mapping[str, float], coarse: bool = False) -> Tradeoff:
    """The exact trade-off curve N_β of a family whose transformation is built from known factors.

    Args:
        family: the smoothed family.
        beta: named parameters; those left out stay at the identity. A translation on the plane may be fractional
            here; the action itself moves by whole pixels.
        coarse: quicker, and rounded further up where cells or grids enter.

    Returns:
        A callable p ↦ N_β(p), the least E_{μ_β} F over all base classifiers with E_{μ_β₀} F >= p (rounded down);
        its ``inverse(1/2)`` is h_min(β) (rounded up).

    Raises:
        NotApplicable: the transformation declares no factors, or only approximates a resolvable one.
        ValueError: β outside the domain, not finite, or fractional on the torus.
    """
    if not family.transform.resolvable:
        raise NotApplicable(f"{family.transform!r} is only approximately resolvable, so it is never certified")
    if family.transform.factors is None:
        raise NotApplicable(f"{family.transform!r} declares no factors; use the sampled bound for it")
    family.transform.check(beta)
    point = dict(zip(family.parameters, family.transform.vector(beta).tolist(), strict=True))
    for name in family.torus:
        if point[name] != round(point[name]):
            raise UserError(f"{name}={point[name]:g} is fractional; on the torus translations move by whole pixels")
    parts = _Parts(coarse)
    for factor in family.transform.factors:
        _add(parts, factor, family, point)
    return parts.tradeoff()
