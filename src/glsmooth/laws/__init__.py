"""Smoothing laws: one-dimensional distributions of a transformation's parameter.

``torch.distributions`` where it has the law, plus what certificates need and it lacks: Rayleigh and the
uniform law on a cycle, tail probabilities that keep their relative precision, ``-inf`` (not an error or a
NaN) as the log-density outside the support, and the facts about shape on which proofs lean (log-concavity,
symmetry). Every law is scalar and lives in float64; arguments are positional as in torch, and *scale* and
*rate* are different words: the rate of an exponential law is one over its mean.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.distribution import Distribution

from glsmooth.laws.immutable import FrozenMapping, Immutable

__all__ = [
    "LAWS",
    "Exponential",
    "HalfNormal",
    "Law",
    "LogNormal",
    "Normal",
    "Rayleigh",
    "Uniform",
    "UniformCyclic",
]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_PHI_1 = math.exp(-0.5 - _HALF_LOG_2PI)  # the standard normal density at 1
#: ∫ |g″| of the density g(u) = exp(u - e^u) of the logarithm of an exponential variable: its slope x e^-x (1 - x),
#: x = e^u, is extreme at x = (3 ± √5) / 2.
_GUMBEL_BEND = 2 * sum(x * math.exp(-x) * abs(1 - x) for x in ((3 + math.sqrt(5)) / 2, (3 - math.sqrt(5)) / 2))


def _ndtr(z: Tensor) -> Tensor:
    """Φ(z), precise relative to itself for z < 0; one kernel, where torch.special.ndtr takes several."""
    return 0.5 * torch.special.erfc(z * -math.sqrt(0.5))


def open_uniform(u: Tensor) -> Tensor:
    """Uniforms of ``torch.rand`` (multiples of 2^-53 in [0, 1)), moved into the open interval (0, 1)."""
    return (u + 2.0**-54).clamp(max=1 - 2.0**-53)


class Law(Immutable, Distribution):
    """A scalar law on an interval, in float64. It never changes: bounds are cached by it.

    Subclasses give :meth:`_log_density` (inside the support), :meth:`cdf`, :meth:`survival`, :meth:`icdf`, and hand
    every number of theirs to ``Law.__init__``: two laws are equal when type and numbers are.
    """

    #: Names of the constructor's arguments, in order; also the fields of the configuration.
    fields: ClassVar[tuple[str, ...]] = ()
    #: Is the density log-concave on the real line? Then shifts of it have a monotone likelihood ratio.
    log_concave: ClassVar[bool] = False
    #: Positive law whose logarithm has a log-concave density? Then rescalings have a monotone ratio.
    log_concave_in_log: ClassVar[bool] = False
    #: The law lives on the cycle Z_H (or Z_W), not on the line.
    cyclic: ClassVar[bool] = False
    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    # What torch's constructor would set on the instance.
    _batch_shape = torch.Size()
    _event_shape = torch.Size()
    _validate_args = False

    #: The constructor's numbers by field; they decide equality.
    values: FrozenMapping[float]
    # The same as attributes.
    _loc: float
    _scale: float
    _rate: float
    _low: float
    _high: float

    def __init__(self, **values: float) -> None:
        numbers: dict[str, float] = {}
        for field, value in values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
                raise ValueError(f"{type(self).__name__}: {field}={value!r} is not a number; give a float")
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
            except (ValueError, RuntimeError):  # a tensor of many numbers
                raise ValueError(f"{type(self).__name__}: {field}={value!r} is not one number; give a float") from None
            if not math.isfinite(value):
                raise ValueError(f"{type(self).__name__}: {field}={value} is not finite; give a finite number")
            if field in ("scale", "rate") and value <= 0:
                raise ValueError(f"{type(self).__name__}: {field}={value:g} must be positive; give a number above 0")
            if field in ("scale", "rate") and not 1e-12 <= value <= 1e12:
                raise ValueError(
                    f"{type(self).__name__}: {field}={value:g} is too extreme to compute with; give a number "
                    "between 1e-12 and 1e12"
                )
            numbers[field] = value + 0.0  # -0.0 is 0.0
        self._fill(values=FrozenMapping(numbers), **{"_" + field: value for field, value in numbers.items()})

    @property
    def support(self) -> constraints.Constraint:
        return constraints.interval(*self.interval)

    @property
    def interval(self) -> tuple[float, float]:
        """Ends ``(low, high)`` of the support; infinite ends allowed."""
        raise NotImplementedError

    @property
    def mode_point(self) -> float:
        """A point where the (unimodal) density is largest."""
        raise NotImplementedError

    @property
    def symmetric_about(self) -> float | None:
        """Centre of symmetry, or None."""
        return None

    @property
    def peak(self) -> float:
        """Largest value of the density (inf where it is unbounded)."""
        return math.exp(float(self.log_prob(torch.tensor(self.mode_point, dtype=torch.float64))))

    @property
    def peak_of_log(self) -> float:
        """Largest value of the density of log X, for a positive law."""
        raise NotImplementedError

    @property
    def mode_of_log(self) -> float:
        """The value of X at which the density of log X is largest."""
        raise NotImplementedError

    @property
    def bend(self) -> float:
        """Total variation of the density's slope τ′ over the line; inside the support only, where the density jumps.

        ∫ |τ″| where the density is smooth; inf where it is not known. A density between two shifts of itself differs
        from their chord by at most width²/8 of this, in total.
        """
        return math.inf

    @property
    def steepest(self) -> float:
        """Largest |τ′| inside the support; inf where it is not known."""
        return math.inf

    @property
    def bend_of_log(self) -> float:
        """The same as :attr:`bend` for the density of log X, for a positive law whose logarithm has a smooth one."""
        return math.inf

    @property
    def scale_speed(self) -> float:
        """Total variation between the law and a rescaling of it by r is at most this times |log r|."""
        return self.peak_of_log if self.log_concave_in_log else math.inf

    @property
    def second_moment(self) -> float:
        """E X²."""
        raise NotImplementedError

    def lower_mean(self, value: Tensor) -> Tensor:
        """E[X; X <= value] of a positive law, precise relative to itself in the lower tail."""
        raise NotImplementedError

    def upper_mean(self, value: Tensor) -> Tensor:
        """E[X; X > value] of a positive law, precise relative to itself in the upper tail."""
        raise NotImplementedError

    def _log_density(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value`` (any shape); ``-inf`` outside the support."""
        low, high = self.interval
        inside = (value >= low) & (value <= high)
        # The density is evaluated at an inner point where value is outside, so that gradients stay finite.
        safe = torch.where(inside, value, torch.full_like(value, self.mode_point))
        return torch.where(inside, self._log_density(safe), torch.full_like(value, -math.inf))

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value), precise relative to itself in the lower tail."""
        raise NotImplementedError

    def survival(self, value: Tensor) -> Tensor:
        """P(X > value), precise relative to itself in the upper tail."""
        raise NotImplementedError

    def icdf(self, value: Tensor) -> Tensor:
        """Quantile function on (0, 1)."""
        raise NotImplementedError

    def rsample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws of shape ``sample_shape`` in float64, by inversion: exact up to rounding."""
        device = generator.device if generator is not None else None
        u = torch.rand(torch.Size(sample_shape), dtype=torch.float64, generator=generator, device=device)
        return self.icdf(open_uniform(u))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{v:g}' for v in self.values.values())})"


class Normal(Law):
    """Normal law with mean ``loc`` and standard deviation ``scale``."""

    fields = ("loc", "scale")
    log_concave = True

    def __init__(self, loc: float, scale: float) -> None:
        super().__init__(loc=loc, scale=scale)

    @property
    def interval(self) -> tuple[float, float]:
        return -math.inf, math.inf

    @property
    def mode_point(self) -> float:
        return self._loc

    @property
    def symmetric_about(self) -> float | None:
        return self._loc

    @property
    def mean(self) -> Tensor:
        return torch.tensor(self._loc, dtype=torch.float64)

    @property
    def bend(self) -> float:
        return 4 * _PHI_1 / self._scale**2  # τ″ changes its sign at ±1 deviation

    @property
    def scale_speed(self) -> float:
        # Half the total variation of x τ(x), whose critical points are at 1 = z (z + loc / scale).
        offset = self._loc / self._scale
        roots = ((-offset + sign * math.sqrt(offset**2 + 4)) / 2 for sign in (1, -1))
        return sum(abs(z + offset) * math.exp(-0.5 * z * z - _HALF_LOG_2PI) for z in roots)

    def _log_density(self, x: Tensor) -> Tensor:
        z = (x - self._loc) / self._scale
        return -0.5 * z * z - _HALF_LOG_2PI - math.log(self._scale)

    def cdf(self, value: Tensor) -> Tensor:
        return _ndtr((value - self._loc) / self._scale)

    def survival(self, value: Tensor) -> Tensor:
        return _ndtr((self._loc - value) / self._scale)

    def icdf(self, value: Tensor) -> Tensor:
        return self._loc + self._scale * torch.special.ndtri(value)


class LogNormal(Law):
    """Law of exp(N) with N normal of mean ``loc`` and standard deviation ``scale``."""

    fields = ("loc", "scale")
    log_concave_in_log = True

    def __init__(self, loc: float, scale: float) -> None:
        super().__init__(loc=loc, scale=scale)
        if self._scale > 10 or abs(self._loc) > 100:
            raise ValueError(
                f"LogNormal: loc={self._loc:g}, scale={self._scale:g} is too wide to compute with; give a scale of at "
                "most 10 and a loc between -100 and 100 (they belong to the logarithm)"
            )
        narrowest = 1e-6 * (1 + abs(self._loc))
        if self._scale < narrowest:  # the rounding of log x - loc would be magnified to what bounds do not allow for
            raise ValueError(
                f"LogNormal: scale={self._scale:g} is too narrow to compute with at loc={self._loc:g}; give a scale of "
                f"at least {narrowest:g}"
            )

    @property
    def interval(self) -> tuple[float, float]:
        return 0.0, math.inf

    @property
    def mode_of_log(self) -> float:
        return math.exp(self._loc)

    @property
    def peak_of_log(self) -> float:
        return 1 / (self._scale * math.sqrt(2 * math.pi))

    @property
    def mode_point(self) -> float:
        return math.exp(self._loc - self._scale**2)

    @property
    def mean(self) -> Tensor:
        return torch.tensor(math.exp(self._loc + self._scale**2 / 2), dtype=torch.float64)

    @property
    def bend(self) -> float:
        # τ′(y) = -φ(z) (z + s) / (s y)², y = exp(m + s z), is extreme at z = (-3 s ± √(s² + 4)) / 2.
        s, total = self._scale, 0.0
        for sign in (1, -1):
            z = (-3 * s + sign * math.sqrt(s * s + 4)) / 2
            log = -0.5 * z * z - _HALF_LOG_2PI - 2 * (math.log(s) + self._loc + s * z)
            total += 2 * abs(z + s) * math.exp(min(log, 700.0))
        return total

    @property
    def bend_of_log(self) -> float:
        return 4 * _PHI_1 / self._scale**2

    @property
    def second_moment(self) -> float:
        return math.exp(2 * self._loc + 2 * self._scale**2)

    def lower_mean(self, value: Tensor) -> Tensor:
        return self.mean * _ndtr(self._z(value) - self._scale)

    def upper_mean(self, value: Tensor) -> Tensor:
        return self.mean * _ndtr(self._scale - self._z(value))

    def _z(self, x: Tensor) -> Tensor:
        return (torch.log(x.clamp(min=0.0)) - self._loc) / self._scale

    def _log_density(self, x: Tensor) -> Tensor:
        positive = torch.where(x > 0, x, torch.ones_like(x))
        log = torch.log(positive)
        z = (log - self._loc) / self._scale
        value = -0.5 * z * z - _HALF_LOG_2PI - math.log(self._scale) - log
        return torch.where(x > 0, value, torch.full_like(x, -math.inf))

    def cdf(self, value: Tensor) -> Tensor:
        return _ndtr(self._z(value))

    def survival(self, value: Tensor) -> Tensor:
        return _ndtr(-self._z(value))

    def icdf(self, value: Tensor) -> Tensor:
        return torch.exp(self._loc + self._scale * torch.special.ndtri(value))


class Rayleigh(Law):
    """Rayleigh law: the length of a two-dimensional normal vector with standard deviation ``scale`` an axis."""

    fields = ("scale",)
    log_concave = True
    log_concave_in_log = True

    def __init__(self, scale: float) -> None:
        super().__init__(scale=scale)

    @property
    def interval(self) -> tuple[float, float]:
        return 0.0, math.inf

    @property
    def mode_of_log(self) -> float:
        return self._scale * math.sqrt(2)

    @property
    def peak_of_log(self) -> float:
        return 2 / math.e  # at x² = 2 scale²

    @property
    def mode_point(self) -> float:
        return self._scale

    @property
    def mean(self) -> Tensor:
        return torch.tensor(self._scale * math.sqrt(math.pi / 2), dtype=torch.float64)

    @property
    def bend(self) -> float:
        # τ′ jumps to 1/scale² at 0, falls to -2 e^-1.5 / scale² and rises to 0.
        return (2 + 4 * math.exp(-1.5)) / self._scale**2

    @property
    def bend_of_log(self) -> float:
        return 4 * _GUMBEL_BEND  # log X is half the logarithm of an exponential variable, and a constant

    @property
    def second_moment(self) -> float:
        return 2 * self._scale**2

    def lower_mean(self, value: Tensor) -> Tensor:
        u = 0.5 * (value.clamp(min=0.0) / self._scale) ** 2
        return self.mean * torch.special.gammainc(torch.full_like(u, 1.5), u)

    def upper_mean(self, value: Tensor) -> Tensor:
        u = 0.5 * (value.clamp(min=0.0) / self._scale) ** 2
        return self.mean * torch.special.gammaincc(torch.full_like(u, 1.5), u)

    def _log_density(self, x: Tensor) -> Tensor:
        return torch.log(x) - 2 * math.log(self._scale) - 0.5 * (x / self._scale) ** 2

    def cdf(self, value: Tensor) -> Tensor:
        return -torch.expm1(-0.5 * (value.clamp(min=0.0) / self._scale) ** 2)

    def survival(self, value: Tensor) -> Tensor:
        return torch.exp(-0.5 * (value.clamp(min=0.0) / self._scale) ** 2)

    def icdf(self, value: Tensor) -> Tensor:
        return self._scale * torch.sqrt(-2 * torch.log1p(-value))


class Exponential(Law):
    """Exponential law of the given ``rate`` (mean 1 / rate)."""

    fields = ("rate",)
    log_concave = True
    log_concave_in_log = True

    def __init__(self, rate: float) -> None:
        super().__init__(rate=rate)

    @property
    def interval(self) -> tuple[float, float]:
        return 0.0, math.inf

    @property
    def mode_of_log(self) -> float:
        return 1 / self._rate

    @property
    def peak_of_log(self) -> float:
        return 1 / math.e  # at the mean

    @property
    def mode_point(self) -> float:
        return 0.0

    @property
    def mean(self) -> Tensor:
        return torch.tensor(1 / self._rate, dtype=torch.float64)

    @property
    def bend(self) -> float:
        return self._rate**2

    @property
    def steepest(self) -> float:
        return self._rate**2

    @property
    def bend_of_log(self) -> float:
        return _GUMBEL_BEND

    @property
    def second_moment(self) -> float:
        return 2 / self._rate**2

    def lower_mean(self, value: Tensor) -> Tensor:
        u = self._rate * value.clamp(min=0.0)
        return self.mean * torch.special.gammainc(torch.full_like(u, 2.0), u)

    def upper_mean(self, value: Tensor) -> Tensor:
        u = self._rate * value.clamp(min=0.0)
        return self.mean * torch.special.gammaincc(torch.full_like(u, 2.0), u)

    def _log_density(self, x: Tensor) -> Tensor:
        return math.log(self._rate) - self._rate * x

    def cdf(self, value: Tensor) -> Tensor:
        return -torch.expm1(-self._rate * value.clamp(min=0.0))

    def survival(self, value: Tensor) -> Tensor:
        return torch.exp(-self._rate * value.clamp(min=0.0))

    def icdf(self, value: Tensor) -> Tensor:
        return -torch.log1p(-value) / self._rate


class HalfNormal(Law):
    """Law of |N| with N normal of mean 0 and standard deviation ``scale``."""

    fields = ("scale",)
    log_concave = True
    log_concave_in_log = True

    def __init__(self, scale: float) -> None:
        super().__init__(scale=scale)

    @property
    def interval(self) -> tuple[float, float]:
        return 0.0, math.inf

    @property
    def mode_of_log(self) -> float:
        return self._scale

    @property
    def peak_of_log(self) -> float:
        return math.sqrt(2 / (math.pi * math.e))  # at x = scale

    @property
    def mode_point(self) -> float:
        return 0.0

    @property
    def mean(self) -> Tensor:
        return torch.tensor(self._scale * math.sqrt(2 / math.pi), dtype=torch.float64)

    @property
    def bend(self) -> float:
        return 2 * self.steepest  # τ′ falls from 0 to its least value and rises to 0

    @property
    def steepest(self) -> float:
        return math.sqrt(2 / (math.pi * math.e)) / self._scale**2  # at x = scale

    @property
    def bend_of_log(self) -> float:
        # The slope of the density of log X is √(2/π) x e^(-x²/2) (1 - x²), extreme at x² = 2 ± √3.
        extremes = (2 + math.sqrt(3), 2 - math.sqrt(3))
        return 2 * sum(math.sqrt(2 * y / math.pi) * math.exp(-y / 2) * abs(1 - y) for y in extremes)

    @property
    def second_moment(self) -> float:
        return self._scale**2

    def lower_mean(self, value: Tensor) -> Tensor:
        return self.mean * -torch.expm1(-0.5 * (value.clamp(min=0.0) / self._scale) ** 2)

    def upper_mean(self, value: Tensor) -> Tensor:
        return self.mean * torch.exp(-0.5 * (value.clamp(min=0.0) / self._scale) ** 2)

    def _log_density(self, x: Tensor) -> Tensor:
        return math.log(2) - _HALF_LOG_2PI - math.log(self._scale) - 0.5 * (x / self._scale) ** 2

    def cdf(self, value: Tensor) -> Tensor:
        return torch.special.erf(value.clamp(min=0.0) / (self._scale * math.sqrt(2)))

    def survival(self, value: Tensor) -> Tensor:
        return torch.special.erfc(value.clamp(min=0.0) / (self._scale * math.sqrt(2)))

    def icdf(self, value: Tensor) -> Tensor:
        # Through the survival probability near 1, where 1 + value would lose it.
        return -self._scale * torch.special.ndtri((1 - value) / 2)


class Uniform(Law):
    """Uniform law on the interval from ``low`` to ``high``."""

    fields = ("low", "high")
    log_concave = True

    def __init__(self, low: float, high: float) -> None:
        super().__init__(low=low, high=high)
        if not self._low < self._high:
            raise ValueError(f"Uniform: low={low:g} must be below high={high:g}; exchange them or widen the interval")

    @property
    def interval(self) -> tuple[float, float]:
        return self._low, self._high

    @property
    def log_concave_in_log(self) -> bool:  # type: ignore[override]
        return self._low >= 0  # the density of log X is e^u on an interval

    @property
    def peak_of_log(self) -> float:
        return self._high / (self._high - self._low)

    @property
    def mode_point(self) -> float:
        return (self._low + self._high) / 2

    @property
    def symmetric_about(self) -> float | None:
        return (self._low + self._high) / 2

    @property
    def mean(self) -> Tensor:
        return torch.tensor((self._low + self._high) / 2, dtype=torch.float64)

    @property
    def bend(self) -> float:
        return 0.0

    @property
    def steepest(self) -> float:
        return 0.0

    @property
    def scale_speed(self) -> float:
        return 0.5 + (abs(self._low) + abs(self._high)) / (2 * (self._high - self._low))

    @property
    def second_moment(self) -> float:
        return (self._low**2 + self._low * self._high + self._high**2) / 3

    def lower_mean(self, value: Tensor) -> Tensor:
        x = value.clamp(self._low, self._high)
        return (x - self._low) * (x + self._low) / (2 * (self._high - self._low))

    def upper_mean(self, value: Tensor) -> Tensor:
        x = value.clamp(self._low, self._high)
        return (self._high - x) * (self._high + x) / (2 * (self._high - self._low))

    def _log_density(self, x: Tensor) -> Tensor:
        return torch.full_like(x, -math.log(self._high - self._low))

    def cdf(self, value: Tensor) -> Tensor:
        return ((value - self._low) / (self._high - self._low)).clamp(0.0, 1.0)

    def survival(self, value: Tensor) -> Tensor:
        return ((self._high - value) / (self._high - self._low)).clamp(0.0, 1.0)

    def icdf(self, value: Tensor) -> Tensor:
        return self._low + (self._high - self._low) * value


class UniformCyclic(Law):
    """Uniform law on the cycle Z_W (for ``tx``) or Z_H (for ``ty``); it needs a family with an image size.

    Every cyclic shift leaves it as it is, so every shift is certified at 1/2.
    """

    cyclic = True

    @property
    def interval(self) -> tuple[float, float]:
        return -math.inf, math.inf

    def _no_size(self) -> ValueError:
        return ValueError("UniformCyclic lives on a cycle whose length is the image's; give image_size=(H, W)")

    def log_prob(self, value: Tensor) -> Tensor:
        raise self._no_size()

    def cdf(self, value: Tensor) -> Tensor:
        raise self._no_size()

    survival = icdf = cdf


LAWS: dict[str, type[Law]] = {
    law.__name__: law for law in (Normal, LogNormal, Rayleigh, Exponential, HalfNormal, Uniform, UniformCyclic)
}
