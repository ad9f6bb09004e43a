"""What a smoothing law is: a distribution, and the facts about its shape that proofs lean on.

A new law is one class in one file: a subclass of :class:`Law`. It must define its distribution,

* ``fields`` and a constructor that hands every number to ``Law.__init__``; they are attributes from then on,
* ``icdf`` and ``log_prob`` (or ``_log_density``, which is asked for points of the support only).

Draws are quantiles of uniform numbers, and what is not defined follows from ``icdf``: ``interval`` from its values at 0
and 1, ``cdf`` and ``survival`` from bisection. A law of this package defines ``interval``, ``mode_point``, ``mean``,
``cdf`` and ``survival`` as well, the last two precise relative to themselves.

It says what else it knows of itself. Every fact has a default that means "not known": bounds that need it then refuse
the law by name. What a law of a user's own says is tried by :mod:`glsmooth.laws.checks`. What each fact is for:

* a law that is not log-concave: ``mode_point``, up to which the density rises, and from which it falls;

* boxes of shifts: ``log_concave``;
* boxes of rescalings: ``log_concave_in_log``, ``peak_of_log``;
* one end of a box instead of two: ``symmetric_about``, ``symmetric_in_log``;
* to be moved by another parameter, as b by c in c·x + b: ``shifts``, ``rescalings`` (:mod:`glsmooth.laws.moves`);
* to move another parameter: ``lower_mean``, ``upper_mean``, ``second_moment``, ``mode_of_log``;
* boxes where there is no order, by cells of second order: ``bend``, ``steepest``, ``bend_of_log``, ``scale_speed``;
* General Lipschitz: ``shifts_smoothly``, ``rescales_smoothly``, ``slope``, ``score_turns``;
* a shift and a rescaling at once, in tighter cells: ``in_own_units``, ``ratio_turns``, ``slope_range``;
* closed forms for normal laws: ``gaussian_scale``, ``gaussian_scale_of_log``;
* the torus: ``cdf_error``.

A law that is entered in ``glsmooth.laws.LAWS`` is one of glsmooth's own: the configuration knows its name, and
bounds for pairs of parameters, which need all of this at once, take it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.distribution import Distribution

from glsmooth.errors import UserError
from glsmooth.laws.immutable import FrozenMapping, Immutable
from glsmooth.laws.moves import Move

__all__ = ["Law", "Undefined", "open_uniform"]


class Undefined(UserError, NotImplementedError):
    """A law does not define what a bound needs of it."""


def open_uniform(u: Tensor) -> Tensor:
    """Uniforms of ``torch.rand`` (multiples of 2^-53 in [0, 1)), moved into the open interval (0, 1)."""
    return (u + 2.0**-54).clamp(max=1 - 2.0**-53)


class Law(Immutable, Distribution):
    """A scalar law on an interval, in float64. It never changes: bounds are cached by it.

    Two laws are equal when type and numbers are.
    """

    #: Names of the constructor's arguments, in order; also the fields of the configuration.
    fields: ClassVar[tuple[str, ...]] = ()
    #: Is the density log-concave on the real line? Then shifts of it have a monotone likelihood ratio.
    log_concave: ClassVar[bool] = False
    #: Positive law whose logarithm has a log-concave density? Then rescalings have a monotone ratio.
    log_concave_in_log: ClassVar[bool] = False
    #: Positive law whose logarithm has a symmetric density? Then a rescaling by r costs what one by 1/r costs.
    symmetric_in_log: ClassVar[bool] = False
    #: Is the density free of jumps that a shift would move? Then :meth:`slope` sees all mass that a shift moves.
    shifts_smoothly: ClassVar[bool] = False
    #: The same for rescalings: a jump at 0 stays where it is.
    rescales_smoothly: ClassVar[bool] = False
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
    # The same as attributes, which nobody can set.
    loc: float
    scale: float
    rate: float
    low: float
    high: float

    def __init__(self, **values: float) -> None:
        numbers: dict[str, float] = {}
        for field, value in values.items():
            if field == "values" or hasattr(type(self), field):
                raise UserError(f"{type(self).__name__}: {field} means something else for every law; rename the field")
            if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
                raise UserError(f"{field}={value!r} is not a number; give a float")
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
            except (ValueError, RuntimeError):  # a tensor of many numbers
                raise UserError(f"{field}={value!r} is not one number; give a float") from None
            if not math.isfinite(value):
                raise UserError(f"{field}={value} is not finite; give a finite number")
            if field in ("scale", "rate") and value <= 0:
                raise UserError(f"{field}={value:g} must be positive; give a number above 0")
            if field in ("scale", "rate") and not 1e-12 <= value <= 1e12:
                raise UserError(
                    f"{field}={value:g} is too extreme to compute with; give a number between 1e-12 and 1e12"
                )
            # Up to there the borders between pixels, half numbers, are exact.
            if field in ("loc", "low", "high") and abs(value) > 2e15:
                raise UserError(f"{field}={value:g} is too extreme to compute with; give one between -2e15 and 2e15")
            numbers[field] = value + 0.0  # -0.0 is 0.0
        self._fill(values=FrozenMapping(numbers), **numbers)

    def _undefined(self, name: str) -> Undefined:
        return Undefined(f"{type(self).__name__} does not define {name}; define it in the class of the law")

    @property
    def support(self) -> constraints.Constraint:
        interval: Any = constraints.interval  # torch gives it no types
        support: constraints.Constraint = interval(*self.interval)
        return support

    @property
    def interval(self) -> tuple[float, float]:
        """Ends ``(low, high)`` of the support; infinite ends allowed. By default the quantiles at 0 and 1."""
        low, high = self.icdf(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        if not low < high:  # NaN as well
            raise self._undefined("interval")
        return low, high

    @property
    def mode_point(self) -> float:
        """A point up to which the density rises, and from which it falls.

        By default the centre of a symmetric law that is log-concave.
        """
        if not self.log_concave or self.symmetric_about is None:
            raise self._undefined("mode_point")
        return self.symmetric_about

    @property
    def mean(self) -> Tensor:
        raise self._undefined("mean")

    @property
    def symmetric_about(self) -> float | None:
        """Centre of symmetry, or None."""
        return None

    @property
    def gaussian_scale(self) -> float | None:
        """The standard deviation of a normal law, None for any other one."""
        return None

    @property
    def gaussian_scale_of_log(self) -> float | None:
        """The same for the law of log X."""
        return None

    @property
    def in_own_units(self) -> tuple[Law, float, float]:
        """(standard, origin, unit): the law is that of origin + unit·X with X ~ standard."""
        return self, 0.0, 1.0

    @property
    def peak(self) -> float:
        """Largest value of the density (inf where it is unbounded)."""
        return math.exp(float(self.log_prob(torch.tensor(self.mode_point, dtype=torch.float64))))

    @property
    def shift_speed(self) -> float:
        """Total variation between the law and a shift of it by d is at most this times |d|: the peak of one mode."""
        return self.peak if math.isfinite(self.mode_point) else math.inf

    @property
    def peak_of_log(self) -> float:
        """Largest value of the density of log X, for a positive law; inf where it is not known."""
        return math.inf

    @property
    def mode_of_log(self) -> float:
        """The value of X at which the density of log X is largest."""
        raise self._undefined("mode_of_log")

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
    def cdf_error(self) -> float:
        """What :meth:`cdf` and :meth:`survival` may be off by at an exact point.

        Their argument is rounded a few times; no |x| density(x) of most laws is large, so that is all there is to it.
        """
        return 2.0**-50

    @property
    def shifts(self) -> Move | None:
        """The law against itself shifted by d > 0; None where that is not known."""
        return None

    @property
    def rescalings(self) -> Move | None:
        """The law against itself rescaled by e^d, d > 0; None where that is not known."""
        return None

    def slope(self, x: Tensor) -> Tensor:
        """(log τ)′ inside the support, for a density τ that shifts or rescales smoothly."""
        raise self._undefined("slope")

    def score_turns(self, a: float, b: float) -> list[float] | None:
        """Where the score a·(-(log τ)′) + b·(-1 - x (log τ)′) of a shift at speed a and a rescaling at speed b turns.

        All such points inside the support, and perhaps others; None where they are not known. Where the slope jumps
        between values of different order, a point on either side of the jump.
        """
        if (b == 0 and self.log_concave) or (a == 0 and self.log_concave_in_log):
            return []  # it rises, or falls, throughout
        return None

    def ratio_turns(self, shift: float, scale: float) -> list[float] | None:
        """Where the log-ratio of ``shift`` + ``scale``·X to X turns inside both supports; None where not known."""
        if (scale == 1 and self.log_concave) or (shift == 0 and self.log_concave_in_log):
            return []
        return None

    def slope_range(self, edges: Tensor) -> Tensor | None:
        """Least and largest (log τ)′ in each cell between ascending edges (n,): (2, n - 1), or None where not known.

        NaN beside edges outside the support.
        """
        return None

    @property
    def second_moment(self) -> float:
        """E X²."""
        raise self._undefined("second_moment")

    def lower_mean(self, value: Tensor) -> Tensor:
        """E[X; X <= value] of a positive law, precise relative to itself in the lower tail."""
        raise self._undefined("lower_mean")

    def upper_mean(self, value: Tensor) -> Tensor:
        """E[X; X > value] of a positive law, precise relative to itself in the upper tail."""
        raise self._undefined("upper_mean")

    def _log_density(self, x: Tensor) -> Tensor:
        raise self._undefined("_log_density")

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density at ``value`` (any shape); ``-inf`` outside the support."""
        low, high = self.interval
        inside = (value >= low) & (value <= high)
        # The density is evaluated at an inner point where value is outside, so that gradients stay finite.
        safe = torch.where(inside, value, torch.full_like(value, self._inner_point))
        return torch.where(inside, self._log_density(safe), torch.full_like(value, -math.inf))

    @property
    def _inner_point(self) -> float:
        try:
            return self.mode_point
        except Undefined:
            return float(self.icdf(torch.tensor(0.5, dtype=torch.float64)))

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value), precise relative to itself in the lower tail.

        By default the largest level whose quantile is not above ``value``, by bisection among floats.
        """
        # Floats above 0 are in the order of their bit patterns.
        bits = torch.tensor([0.0, 1.0], dtype=torch.float64).view(torch.int64)
        low, high = (torch.full_like(value, end, dtype=torch.int64) for end in bits.tolist())
        for _ in range(62):
            middle = low + (high - low + 1) // 2
            level = middle.view(torch.float64).clamp(max=1 - 2.0**-53)
            under = self.icdf(level) <= value
            low, high = torch.where(under, middle, low), torch.where(under, high, middle - 1)
        return low.view(torch.float64)

    def survival(self, value: Tensor) -> Tensor:
        """P(X > value), precise relative to itself in the upper tail; by default, absolutely."""
        return 1 - self.cdf(value)

    def icdf(self, value: Tensor) -> Tensor:
        """Quantile function on (0, 1)."""
        raise self._undefined("icdf")

    def rsample(self, sample_shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Draws of shape ``sample_shape`` in float64, by inversion: exact up to rounding."""
        device = generator.device if generator is not None else None
        u = torch.rand(torch.Size(sample_shape), dtype=torch.float64, generator=generator, device=device)
        return self.icdf(open_uniform(u))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{v:g}' for v in self.values.values())})"
