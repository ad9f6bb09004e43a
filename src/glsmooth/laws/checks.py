"""Is a law what it says of itself?

A certificate rests on a law's quantiles, from which votes are drawn, on its density and its distribution function, and
on what it declares of its shape. For the laws of this package that is proved and tested. For a user's it is a claim,
and it is tried here, in float64, when a family with it is made: on quantiles that lie as dense as its mass, its tails
included, and with cells halved where something does not fit. A trial can refute a claim, not prove it. What has less
mass than lies between two quantiles (some 2·10⁻⁵) may hide; it moves a required probability by no more than three times
that. What two of a law's functions are seen to differ by enters the bounds (:func:`cdf_error`, :func:`density_error`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glsmooth.errors import UserError
from glsmooth.laws import LAWS
from glsmooth.laws.arrays import on_array, one_thread
from glsmooth.laws.base import Law
from glsmooth.laws.moves import Move

__all__ = [
    "MOVE_ERROR",
    "Fact",
    "LawCheck",
    "cdf_error",
    "check_law",
    "density_error",
    "is_own",
    "jump_of",
    "jumps_of",
    "largest_place",
    "own_check",
]

#: Probabilities of a law's own functions may differ by this much; what they differ by enters the bounds.
DIFFERENCE = 1e-5
#: Quantiles between the tails and in each tail, the least of them, and how many are looked at where each takes longer.
_MIDDLE, _TAIL, _LEAST, _FEW = 50_000, 2_000, 1e-12, 4_000
#: Cells that are halved at a time, and how often.
_WORST, _HALVINGS = 256, 40
#: Draws of a sampler, and the largest √n times distance of their distribution that chance explains (2e^(-2z²) = 10⁻⁹).
_DRAWS, _CHANCE = 100_000, 3.28
#: What P(L <= t) of a declared move may be off by and not be seen: counted over so many quantiles.
_COUNTED = 100_000
MOVE_ERROR = 8 / _COUNTED
#: A density, times the width of the law, that may be taken for none.
_NOTHING = 1e-12
_EPS = float(np.finfo(np.float64).eps)

# Facts, as messages and reports name them, beside those that bear the name of an attribute.
INTEGRATES = "log_prob integrates to 1"
DENSITY = "log_prob is the density of icdf's quantiles"
BELOW = "cdf(icdf(u)) = u"
ABOVE = "survival(icdf(u)) = 1 - u"
SUPPORT = "interval holds all quantiles, and no density outside"
SAMPLER = "sample draws from the law"


def is_own(law: Law) -> bool:
    """Is the law a user's own, not one of this package?"""
    return type(law) not in LAWS.values()


@dataclass(frozen=True)
class Fact:
    """How one fact fared: the two numbers that it compares, where they fit worst.

    Attributes:
        said: what the law says, or what follows from what it says.
        seen: what was seen instead.
        at: the point x (for a fact about quantiles, u) where that was; None where there is no one point.
        holds: is the difference explained by rounding, or small enough to enter the bounds as an error?
    """

    said: float
    seen: float
    at: float | None = None
    holds: bool = True

    def __str__(self) -> str:
        where = "" if self.at is None else f" at {self.at:.12g}"
        return f"said {self.said:.9g}, seen {self.seen:.9g}{where}"


@dataclass(frozen=True)
class LawCheck:
    """What :func:`check_law` found.

    Attributes:
        name: the law, with its numbers.
        facts: how each fact fared that the law states, by its name. What a law does not state is not there.
        fault: why the law cannot be used at all, or None: an exception, a result of another shape or type, NaN, a
            function that changes its argument, is random or depends on its batch.
        cdf_error: the largest difference seen between probabilities of ``cdf``, ``survival`` and ``icdf``.
        density_error: the largest total variation seen between ``log_prob`` and ``icdf``.
    """

    name: str
    facts: Mapping[str, Fact]
    fault: str | None = None
    cdf_error: float = 0.0
    density_error: float = 0.0

    @property
    def passed(self) -> bool:
        """No fault, and every fact holds."""
        return self.fault is None and all(fact.holds for fact in self.facts.values())

    def __str__(self) -> str:
        lines = [f"{self.name}: {'passed' if self.passed else 'failed'}"]
        if self.fault is not None:
            lines.append(f"  {self.fault}")
        lines += [f"  {'ok    ' if fact.holds else 'FAILED'}  {name}   {fact}" for name, fact in self.facts.items()]
        return "\n".join(lines)

    def require(self) -> None:
        """Raise a UserError that says what is wrong unless the check passed."""
        if self.fault is not None:
            raise UserError(self.fault)
        for name, fact in self.facts.items():
            if not fact.holds:
                raise UserError(
                    f"{self.name} is not what it says of itself: {name} fails, {fact}. Mend it, or leave out what the "
                    "law need not say (glsmooth.check_law shows every fact)"
                )


def check_law(law: Law) -> LawCheck:
    """Try what a smoothing law says of itself: its functions against each other, and every fact of its shape.

    Tried are: quantiles that rise; a density that is theirs and integrates to 1; ``cdf`` and ``survival`` at them; the
    support; a sampler of the law's own, if it has one; and what it states of ``mode_point``, ``log_concave``,
    ``log_concave_in_log``, ``symmetric_about``, ``symmetric_in_log``, ``shifts_smoothly``, ``rescales_smoothly``,
    ``slope``, ``score_turns``, ``peak``, ``peak_of_log``, ``steepest``, ``bend``, ``bend_of_log``, ``scale_speed``,
    ``gaussian_scale``, ``gaussian_scale_of_log``, ``in_own_units``, ``shifts``, ``rescalings`` and ``mean``.

    Args:
        law: any law, a user's or one of ours.

    Returns:
        How each fact fared. It does not raise for what the class does.

    Raises:
        UserError: not a law.
    """
    if not isinstance(law, Law):
        raise UserError(f"law={law!r} is not a smoothing law; give an instance of a subclass of glsmooth.Law")
    return _checked(law)


def own_check(law: Law) -> LawCheck | None:
    """The check of a user's law, remembered; None for ours."""
    return _checked(law) if is_own(law) else None


def cdf_error(law: Law) -> float:
    """What a value of ``cdf`` or ``survival`` may be off by: what the law says, and what a user's was seen to be."""
    check = own_check(law)
    return max(law.cdf_error, 2.0**-50) + check.cdf_error if check else law.cdf_error


def density_error(law: Law) -> float:
    """How far, in total variation, a user's density was seen to be from the law that votes are drawn from."""
    check = own_check(law)
    return check.density_error if check else 0.0


@lru_cache(maxsize=256)
def _checked(law: Law) -> LawCheck:
    trial = _Trial(law)
    try:
        with torch.no_grad(), one_thread(), np.errstate(all="ignore"):
            trial.run()
    except _Fault as fault:
        return LawCheck(trial.name, trial.facts, str(fault))
    return LawCheck(trial.name, trial.facts, None, trial.cdf_error, trial.density_error)


@lru_cache(maxsize=256)
def largest_place(law: Law) -> float:
    """Largest |x| τ(x) at a law's quantiles: what rounding of places costs is measured by it."""
    with one_thread():
        x = law.icdf(torch.from_numpy(_quantile_levels()))
        place: Tensor = (x.abs() * law.log_prob(x).exp()).nan_to_num(posinf=0.0).max()
    return float(place)


@lru_cache(maxsize=256)
def jumps_of(law: Law) -> tuple[float, ...]:
    """Points where the density is seen to jump, inside the support or at its ends."""
    trial = _Trial(law)
    with torch.no_grad(), one_thread(), np.errstate(all="ignore"):
        trial.look()
        return tuple(trial.jumps())


def jump_of(law: Law, rescaled: bool) -> float | None:
    """The first of them that a shift, or a rescaling, moves; None if none is seen."""
    return next((x for x in jumps_of(law) if x != 0 or not rescaled), None)


class _Fault(Exception):
    """What makes a law unusable; the message is for the user."""


def _quantile_levels() -> np.ndarray:
    """Ascending levels u: geometric in both tails, and one at random in each of many equal cells between."""
    tail = np.geomspace(_LEAST, 1e-3, _TAIL)
    jitter = np.random.default_rng(20).uniform(0.02, 0.98, _MIDDLE)
    middle = 1e-3 + (1 - 2e-3) * (np.arange(_MIDDLE) + jitter) / _MIDDLE
    return np.unique(np.concatenate((tail, middle, [0.5], 1 - tail)))


@dataclass
class _Trial:
    """One check under way. Arrays by quantile: levels u, points x, log-densities there and their rounding."""

    law: Law
    facts: dict[str, Fact] = field(default_factory=dict)
    cdf_error: float = 0.0
    density_error: float = 0.0

    def __post_init__(self) -> None:
        try:
            self.name = repr(self.law)
        except Exception:  # a user's class may raise anything
            self.name = type(self.law).__name__

    # The user's code, guarded.

    def value(self, name: str) -> Any:
        """What the law states under this name; None where it states nothing."""
        try:
            return getattr(self.law, name)
        except NotImplementedError:
            return None
        except Exception as error:
            raise _Fault(f"{self.name}: {name} raised {_words(error)}") from error

    def number(self, name: str) -> float | None:
        value = self.value(name)
        if value is None:
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
        if math.isnan(number):
            raise _Fault(f"{self.name}: {name}={value!r} is not a number; give a float")
        return number

    def call(self, name: str, x: np.ndarray) -> np.ndarray:
        """A function of the law at points (n,), as float64 (n,)."""
        given = torch.from_numpy(np.array(x, dtype=np.float64))
        before = given.clone()
        try:
            result = getattr(self.law, name)(given)
        except NotImplementedError as error:
            raise _Fault(str(error)) from error
        except Exception as error:
            raise _Fault(f"{self.name}: {name} raised {_words(error)}") from error
        if not isinstance(result, Tensor) or result.shape != given.shape or result.dtype != torch.float64:
            got = (
                f"a tensor {tuple(result.shape)} of {result.dtype}"
                if isinstance(result, Tensor)
                else f"a {type(result).__name__}"
            )
            raise _Fault(
                f"{self.name}: {name} of a float64 tensor {tuple(given.shape)} gave {got}; give float64 of the same "
                "shape, on the same device"
            )
        if not torch.equal(given, before):
            raise _Fault(f"{self.name}: {name} changes its argument in place; work on new tensors")
        values: np.ndarray = result.detach().numpy()
        wrong = np.isnan(values)
        if wrong.any():
            raise _Fault(f"{self.name}: {name} is NaN at {x[wrong][0]:.9g}; define it there")
        return values

    def fact(self, name: str, said: float, seen: float, at: float | None = None, *, holds: bool) -> None:
        """Notes a fact; of several trials of one, the first that fails stays."""
        known = self.facts.get(name)
        if known is None or (known.holds and not holds):
            self.facts[name] = Fact(float(said), float(seen), None if at is None else float(at), bool(holds))

    # The trials.

    def run(self) -> None:
        if self.law.cyclic:
            if type(self.law) in LAWS.values():
                return
            raise _Fault(f"{self.name} says that it is cyclic; on a cycle use glsmooth.UniformCyclic")
        self.look()
        self.same_twice()
        self.support()
        self.density()
        self.distribution()
        self.sampler()
        self.modes()
        self.concave()
        self.symmetric()
        self.smooth()
        self.sizes()
        self.slopes()
        self.normal()
        self.units()
        self.moves("shifts", rescaled=False)
        self.moves("rescalings", rescaled=True)
        self.moments()

    def look(self) -> None:
        """Quantiles and the density at them."""
        self.u = _quantile_levels()
        self.x = self.call("icdf", self.u)
        ends = self.call("icdf", np.array([2.0**-54, 1 - 2.0**-53]))  # the outermost draws
        if not (np.isfinite(self.x).all() and np.isfinite(ends).all()):
            levels, points = np.append(self.u, [2.0**-54, 1 - 2.0**-53]), np.append(self.x, ends)
            worst = levels[~np.isfinite(points)][0]
            raise _Fault(f"{self.name}: icdf is not finite at {worst:.9g}; every level in (0, 1) is drawn")
        x = np.concatenate((ends[:1], self.x, ends[1:]))
        u = np.concatenate(([2.0**-54], self.u, [1 - 2.0**-53]))
        self.low, self.high = float(x[0]), float(x[-1])
        self.spread = float(np.interp(0.84, self.u, self.x) - np.interp(0.16, self.u, self.x))
        falls = -np.diff(x)
        worst = int(falls.argmax())
        rounding = 16 * _EPS * (np.abs(x).max(initial=0.0, where=np.abs(x) < abs(x[worst]) * 2 + 1e-300))
        if falls[worst] > rounding + 1e-12 * abs(self.spread):
            raise _Fault(
                f"{self.name}: icdf falls near {u[worst]:.9g}, from {x[worst]:.9g} to {x[worst + 1]:.9g}; mend it"
            )
        if not self.spread > 0:
            raise _Fault(
                f"{self.name}: icdf does not rise between 16 % and 84 %, from {np.interp(0.16, self.u, self.x):.9g}; "
                "give a law with a density"
            )
        self.log, self.noise = self.log_density(self.x)
        self.tau = np.exp(self.log)

    def log_density(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The log-density at points, and what rounding of the points and of itself may change it by."""
        log = self.call("log_prob", x)
        step = 4 * _EPS * np.abs(x)
        near = [np.abs(self.call("log_prob", x + sign * step) - log) for sign in (-1, 1)]
        near = [np.where(np.isfinite(gap), gap, 0.0) for gap in near]
        # At a jump one of the two neighbours is on its other side.
        return log, 1e-13 * (1 + np.where(np.isfinite(log), np.abs(log), 0.0)) + 2 * np.minimum(*near)

    def same_twice(self) -> None:
        """Functions of a number: again, in another order and alone they have the same value."""
        pick = np.random.default_rng(1).permutation(len(self.u))[:_FEW]
        for name, points, values in (("icdf", self.u, self.x), ("log_prob", self.x, self.log)):
            wanted = values[pick]
            for got, which in (
                (self.call(name, points[pick]), slice(None)),
                (np.concatenate([self.call(name, points[[i]]) for i in pick[:8]]), slice(8)),
            ):
                gap = np.abs(got - wanted[which])
                if not (np.nan_to_num(gap, posinf=0.0) <= 1e-12 * (1 + np.abs(wanted[which]))).all():
                    raise _Fault(
                        f"{self.name}: {name} is random, keeps a state or depends on what else is in its tensor: it "
                        f"differs by {gap.max():.3g} when asked again; make it a function of one number"
                    )

    def support(self) -> None:
        interval = self.value("interval")
        if interval is None:
            raise _Fault(f"{self.name}: icdf has no value at 0 or at 1, so interval must be defined: (low, high)")
        try:
            low, high = (float(end) for end in interval)
        except (TypeError, ValueError):
            low = high = math.nan
        if not low < high:
            raise _Fault(f"{self.name}: interval={interval!r} is none; give (low, high) with low below high")
        for end, seen in ((low, self.low), (high, self.high)):
            outside = (low - seen) if end == low else (seen - high)
            self.fact(SUPPORT, end, seen, seen, holds=not outside > 16 * _EPS * abs(seen))
        for end, sign in ((low, -1), (high, 1)):
            if math.isfinite(end):
                beyond = end + sign * (self.spread * np.geomspace(1e-6, 1e3, 40) + 16 * _EPS * abs(end))
                density = np.exp(self.call("log_prob", beyond))
                worst = int(density.argmax())
                self.fact(SUPPORT, 0.0, density[worst], beyond[worst], holds=density[worst] * self.spread < _NOTHING)
        self.interval = low, high

    def density(self) -> None:
        """Masses of cells between quantiles: by integration of the density, against the levels."""
        left, right = self.u[:-1], self.u[1:]
        missed = total = blurred = largest = 0.0
        where = None
        x_1, x_2 = self.x[:-1], self.x[1:]
        for halving in range(_HALVINGS + 1):
            mass, rounding = self._integral(x_1, x_2)
            gap = np.maximum(np.abs(mass - (right - left)) - rounding - 4 * _EPS * right, 0.0)
            middle = (left + right) / 2
            # A cell that closes when it is halved was one that the rule could not integrate.
            worst = np.argsort(gap)[::-1][: _WORST if halving < _HALVINGS else 0]
            worst = worst[(gap[worst] > 1e-13) & (middle[worst] > left[worst]) & (middle[worst] < right[worst])]
            settled = np.ones(len(gap), dtype=bool)
            settled[worst] = False
            missed += float(gap[settled].sum())
            total += float(mass[settled].sum())
            blurred += float(rounding[settled].sum())
            if settled.any() and gap[settled].max() > largest:
                largest = float(gap[settled].max())
                where = float(x_1[settled][int(gap[settled].argmax())])
            if not len(worst):
                break
            x_middle = self.call("icdf", middle[worst])
            x_1, x_2 = np.append(x_1[worst], x_middle), np.append(x_middle, x_2[worst])
            left, right = np.append(left[worst], middle[worst]), np.append(middle[worst], right[worst])
        total += float(self.u[0]) + 1 - float(self.u[-1])
        self.fact(INTEGRATES, 1.0, total, holds=abs(total - 1) <= DIFFERENCE + blurred)
        self.fact(DENSITY, 0.0, missed, where, holds=missed <= DIFFERENCE)
        self.density_error = missed

    def _integral(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """∫ of the density over cells (n,), and what rounding of their ends may change it by."""
        nodes, weights = np.polynomial.legendre.leggauss(4)
        half = (b - a) / 2
        at = (a + b)[:, None] / 2 + half[:, None] * nodes
        density = np.exp(self.call("log_prob", at.ravel())).reshape(at.shape)
        mass = half * (density @ weights)
        rounding = 8 * _EPS * np.maximum(np.abs(a), np.abs(b)) * density.max(axis=1)
        # Where the density is infinite, at an end to which a point was rounded, nothing is known of the mass.
        return np.where(np.isfinite(mass), mass, 0.0), np.where(np.isfinite(rounding), rounding, 0.0)

    def distribution(self) -> None:
        """cdf and survival at the quantiles; relative to themselves as far as the levels are."""
        # What follows from icdf takes long, and needs no more than a look.
        stride = 16 if type(self.law).cdf is Law.cdf else 1
        u, x, tau = self.u[::stride], self.x[::stride], self.tau[::stride]
        known = np.isfinite(tau)  # else the point was rounded to an end where the density is infinite
        places = 16 * _EPS * np.abs(x) * np.where(known, tau, 0.0)
        for name, method, wanted in ((BELOW, "cdf", u), (ABOVE, "survival", 1 - u)):
            seen = self.call(method, x)
            gap = np.maximum(np.abs(seen - wanted) - places - 4 * _EPS, 0.0)
            share = np.maximum(gap / DIFFERENCE, np.where(known, gap / wanted / 1e-2, 0.0))
            worst = int(share.argmax())
            self.fact(name, wanted[worst], seen[worst], u[worst], holds=share[worst] <= 1)
            self.cdf_error = max(self.cdf_error, float(gap.max()))
        # Bounds ask beyond all quantiles, too, where a formula may go on as if there were mass.
        away = self.spread * np.geomspace(1e-6, 1e6, 200)
        for x, lower in ((self.low - away, True), (self.high + away, False)):
            x = x - 16 * _EPS * np.abs(x) if lower else x + 16 * _EPS * np.abs(x)
            for name, method, right in ((BELOW, "cdf", 1.0 - lower), (ABOVE, "survival", 0.0 + lower)):
                seen = self.call(method, x)
                gap = np.where((seen < 0) | (seen > 1), np.inf, np.abs(seen - right))
                worst = int(gap.argmax())
                self.fact(name, right, seen[worst], float(x[worst]), holds=gap[worst] <= DIFFERENCE)
                self.cdf_error = max(self.cdf_error, float(gap.max()))

    def sampler(self) -> None:
        """A sampler of the law's own, if it has one. Votes are drawn by icdf; training in Python may call it."""
        own = type(self.law)
        if own.sample is torch.distributions.Distribution.sample and own.rsample is Law.rsample:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                draws = self.law.sample((_DRAWS,))
            except Exception as error:
                raise _Fault(f"{self.name}: sample raised {_words(error)}") from error
        if not isinstance(draws, Tensor) or tuple(draws.shape) != (_DRAWS,) or not bool(draws.isfinite().all()):
            raise _Fault(f"{self.name}: sample(({_DRAWS},)) must give a tensor of that shape, of finite numbers")
        x = np.sort(draws.to("cpu", torch.float64).numpy())
        below = np.interp(x, self.x, self.u)
        gap = np.abs(below - (np.arange(_DRAWS) + 0.5) / _DRAWS)
        worst = int(gap.argmax())
        holds = gap[worst] * math.sqrt(_DRAWS) <= _CHANCE
        self.fact(SAMPLER, below[worst], (worst + 0.5) / _DRAWS, x[worst], holds=holds)

    def modes(self) -> None:
        """Up to its mode the density rises, from there it falls: between neighbouring quantiles as well."""
        mode = self.number("mode_point")
        if mode is None:
            return
        low, high = self.interval
        self.fact("mode_point", mode, min(max(mode, low), high), holds=low <= mode <= high)
        middles = (self.x[1:] + self.x[:-1]) / 2
        near = mode + self.spread * np.concatenate((-(2.0 ** -np.arange(60)), [0.0], 2.0 ** -np.arange(60)))
        near = near[(near >= self.low) & (near <= self.high)]
        x = np.unique(np.concatenate((self.x, middles, near)))
        log, noise = self.log_density(x)
        for side, order in ((x <= mode, slice(None)), (x >= mode, slice(None, None, -1))):
            at, values, rounding = x[side][order], log[side][order], noise[side][order]
            if len(at) < 2:
                continue
            most = np.maximum.accumulate(values - rounding)
            short = most - values - rounding
            short = np.where(np.isnan(short), 0.0, short)
            worst = int(short.argmax())
            self.fact("mode_point", math.exp(most[worst]), math.exp(values[worst]), at[worst], holds=short[worst] <= 0)

    def concave(self) -> None:
        if self.value("log_concave"):
            self._concave("log_concave", self.x, self.log, self.noise)
            middles = (self.x[1:] + self.x[:-1]) / 2
            empty = (self.call("log_prob", middles) == -math.inf) & (np.diff(self.x) > 64 * _EPS * np.abs(middles))
            if empty.any():
                i = int(empty.argmax())
                self.fact("log_concave", self.tau[i], 0.0, middles[i], holds=False)
        if self.value("log_concave_in_log") and self.positive("log_concave_in_log"):
            x, log = np.log(self.x), self.log + np.log(self.x)
            self._concave("log_concave_in_log", x, log, self.noise + 4 * _EPS * (1 + np.abs(x)))

    def positive(self, name: str) -> bool:
        """Is the law on the positive numbers? Else a fact about its logarithm fails."""
        if self.low <= 0 and self.interval[0] < 0:
            self.fact(name, 0.0, self.low, self.low, holds=False)
            return False
        return bool((self.x > 0).all())

    def _concave(self, name: str, x: np.ndarray, log: np.ndarray, noise: np.ndarray) -> None:
        """No value lies below the chord of its neighbours, near ones and far ones."""
        x, first = np.unique(x, return_index=True)
        log, noise = log[first], noise[first]
        stride = 1
        while 2 * stride < len(x):
            a, m, b = slice(None, -2 * stride), slice(stride, -stride), slice(2 * stride, None)
            share = (x[m] - x[a]) / (x[b] - x[a])
            chord = log[a] + share * (log[b] - log[a])
            # Places that are rounded move the chord as well; the noise of the three holds that.
            short = chord - log[m] - noise[a] - noise[m] - noise[b] - 8 * _EPS * np.abs(chord)
            short = np.where(np.isnan(short), 0.0, short)
            worst = int(short.argmax())
            at = x[m][worst] if name == "log_concave" else math.exp(x[m][worst])
            self.fact(name, chord[worst], log[m][worst], at, holds=short[worst] <= 0)
            stride = stride * 3 if stride < 1000 else stride * 2

    def symmetric(self) -> None:
        centre = self.number("symmetric_about")
        levels = 1 - self.u[self.u < 0.5][::4]
        tail = 1 - levels  # so that the two are exactly as far from 1/2
        if centre is not None:
            x, mirrored = self.call("icdf", levels), 2 * centre - self.call("icdf", tail)
            self._mirrored("symmetric_about", x, mirrored, levels, centre)
        if self.value("symmetric_in_log") and self.positive("symmetric_in_log"):
            middle = float(self.call("icdf", np.array([0.5]))[0])
            x = self.call("icdf", levels)
            mirrored = middle * (middle / np.maximum(self.call("icdf", tail), 1e-300))
            self._mirrored("symmetric_in_log", x, mirrored, levels, middle)

    def _mirrored(self, name: str, x: np.ndarray, mirrored: np.ndarray, levels: np.ndarray, centre: float) -> None:
        """Mirrored quantiles are quantiles, but for an error that enters the bounds."""
        known = np.isfinite(mirrored)
        x, mirrored, levels = x[known], mirrored[known], levels[known]
        density = np.minimum(np.exp(self.call("log_prob", x)), 1e300)
        gap = np.abs(self.call("cdf", mirrored) - self.call("cdf", x))
        gap = np.maximum(gap - 16 * _EPS * (1 + density * (np.abs(x) + abs(centre))), 0.0)
        worst = int(gap.argmax())
        self.fact(name, mirrored[worst], x[worst], levels[worst], holds=gap[worst] <= DIFFERENCE)
        self.cdf_error += float(gap[worst])

    def jumps(self) -> list[float]:
        """Points where the density is seen to jump: ends of the support where it does not vanish, and inside."""
        found = []
        low, high = (float(end) for end in self.law.interval)
        for end, sign in ((low, 1), (high, -1)):
            if not math.isfinite(end):
                continue
            steps = np.maximum(
                self.spread * 2.0 ** -np.array([20.0, 45.0]), 16 * _EPS * abs(end) * np.array([1e3, 1.0])
            )
            far, near = np.exp(self.call("log_prob", end + sign * steps))
            at_end = math.exp(min(700.0, float(self.call("log_prob", np.array([end]))[0])))
            # One that vanishes as a power of the distance is smaller at the nearer point, however small the power.
            if near * self.spread > _NOTHING and near * 1.05 > far and (at_end > 0 or near * 1.05 > far):
                found.append(end)
        return found + self._inner_jumps()

    def _inner_jumps(self) -> list[float]:
        """Where the density's change between neighbours does not shrink when these come together."""
        change = np.abs(np.diff(self.tau))
        change = np.where(np.isfinite(change), change, 0.0)
        pick = np.argsort(change)[::-1][:_WORST]
        a, b, first = self.x[pick], self.x[pick + 1], change[pick]
        tau_a, tau_b = self.tau[pick], self.tau[pick + 1]
        halvings = np.zeros(len(a))
        for _ in range(_HALVINGS):
            middle = (a + b) / 2
            inside = (middle > a) & (middle < b) & (b - a > 16 * _EPS * np.abs(middle))
            tau = np.exp(self.call("log_prob", middle))
            left = np.abs(tau - tau_a) >= np.abs(tau_b - tau)
            move_b, move_a = inside & left, inside & ~left
            b, tau_b = np.where(move_b, middle, b), np.where(move_b, tau, tau_b)
            a, tau_a = np.where(move_a, middle, a), np.where(move_a, tau, tau_a)
            halvings += inside
        last = np.abs(tau_b - tau_a)
        seen = (halvings >= 8) & (last > 0.05 * first) & (last > 1e-6 * np.maximum(tau_a, tau_b))
        return sorted(float(x) for x in b[seen])

    def smooth(self) -> None:
        claims = [name for name in ("shifts_smoothly", "rescales_smoothly") if self.value(name)]
        if not claims:
            return
        jumps = self.jumps()
        for name in claims:
            moved = [x for x in jumps if x != 0 or name == "shifts_smoothly"]
            if moved:
                step = self.spread * 1e-9 + 32 * _EPS * abs(moved[0])
                before, after = np.exp(self.call("log_prob", np.array([moved[0] - step, moved[0] + step])))
                self.fact(name, before, after, moved[0], holds=False)
            else:
                self.fact(name, 0.0, 0.0, holds=True)

    def sizes(self) -> None:
        """Peaks, slopes and total variations: what is said must not be less than what is seen."""
        x, first = np.unique(self.x, return_index=True)
        tau, noise = self.tau[first], self.tau[first] * np.minimum(self.noise[first], 1.0)
        self._most("peak", x, tau, noise)
        if bool((x > 0).all()):
            self._most("peak_of_log", x, x * tau, x * noise)
        for name, total in (("steepest", False), ("bend", True)):
            self._slopes_of(name, x, tau, noise, total)
        if bool((x > 0).all()):
            self._slopes_of("bend_of_log", np.log(x), x * tau, x * noise, True)
        said = self.number("shift_speed")
        if said is not None and math.isfinite(said):
            seen = (float(np.abs(np.diff(tau)).sum()) + abs(tau[0]) + abs(tau[-1])) / 2
            self.fact("shift_speed", said, seen, holds=seen <= said * (1 + 1e-6) + float(noise.sum()))
        said = self.number("scale_speed")
        if said is not None and math.isfinite(said):
            weighted = x * tau
            seen = (float(np.abs(np.diff(weighted)).sum()) + abs(weighted[0]) + abs(weighted[-1])) / 2
            self.fact("scale_speed", said, seen, holds=seen <= said * (1 + 1e-6) + float(noise @ np.abs(x)))

    def _most(self, name: str, x: np.ndarray, values: np.ndarray, noise: np.ndarray) -> None:
        said = self.number(name)
        if said is None or said == math.inf:
            return
        worst = int((values - noise).argmax())
        holds = values[worst] - 2 * noise[worst] <= said * (1 + 1e-9)
        self.fact(name, said, values[worst], x[worst], holds=holds)

    def _slopes_of(self, name: str, x: np.ndarray, tau: np.ndarray, noise: np.ndarray, total: bool) -> None:
        """Slopes of chords: none is steeper than the steepest, and they vary no more than the slope does."""
        said = self.number(name)
        if said is None or said == math.inf:
            return
        for stride in (1, 16):
            at, values, rounding = x[::stride], tau[::stride], noise[::stride]
            chord = np.diff(values) / np.diff(at)
            wrong = (rounding[1:] + rounding[:-1] + 4 * _EPS * (values[1:] + values[:-1])) / np.diff(at)
            wrong += np.abs(chord) * 4 * _EPS * (np.abs(at[1:]) + np.abs(at[:-1])) / np.diff(at)
            if total:
                bends = np.abs(np.diff(chord)) - wrong[1:] - wrong[:-1]
                worst, seen = int(bends.argmax()), float(np.maximum(bends, 0.0).sum())
            else:
                steep = np.abs(chord) - wrong
                worst = int(steep.argmax())
                seen = float(steep[worst])
            point = math.exp(at[worst]) if name == "bend_of_log" else at[worst]
            self.fact(name, said, seen, point, holds=seen <= said * (1 + 1e-6))

    def slopes(self) -> None:
        """slope against differences of log_prob, and score_turns against where the score turns."""
        if not (self.value("shifts_smoothly") or self.value("rescales_smoothly")):
            return
        try:
            slope = self.call("slope", self.x)
        except _Fault as fault:
            if isinstance(fault.__cause__, NotImplementedError):
                return  # it says nothing
            raise
        nodes, weights = np.polynomial.legendre.leggauss(4)
        levels = self.u[:: len(self.u) // _FEW]
        left, right = levels[:-1], levels[1:]
        for _ in range(_HALVINGS):
            a, b = (self.call("icdf", ends) for ends in (left, right))
            half = (b - a) / 2
            at = (a + b)[:, None] / 2 + half[:, None] * nodes
            said = half * (self.call("slope", at.ravel()).reshape(at.shape) @ weights)
            (log_a, noise_a), (log_b, noise_b) = self.log_density(a), self.log_density(b)
            seen = log_b - log_a
            gap = np.abs(said - seen) - 2 * (noise_a + noise_b) - 8 * _EPS * np.abs(said)
            open_ = np.flatnonzero(gap > 1e-6 * (1 + np.abs(seen)) / (1 + _HALVINGS))
            if not len(open_):
                break
            worst = open_[int(gap[open_].argmax())]
            here = said[worst] / (2 * half[worst]), seen[worst] / (2 * half[worst]), a[worst] + half[worst]
            middle = (left[open_] + right[open_]) / 2
            if len(open_) > _WORST:
                self.fact("slope", *here, holds=False)
                return
            left, right = np.concatenate((left[open_], middle)), np.concatenate((middle, right[open_]))
            if not ((left < right).all()):
                self.fact("slope", *here, holds=False)
                return
        else:
            self.fact("slope", *here, holds=False)
            return
        self.fact("slope", 0.0, 0.0, holds=True)
        self._score_turns(slope)

    def _score_turns(self, slope: np.ndarray) -> None:
        for a, b in ((1.0, 0.0), (0.0, 1.0)):
            try:
                turns = self.law.score_turns(a, b)
            except Exception as error:
                raise _Fault(f"{self.name}: score_turns raised {_words(error)}") from error
            if turns is None:
                continue
            x, first = np.unique(self.x, return_index=True)
            x, values = x[:: max(1, len(x) // _FEW)], slope[first][:: max(1, len(x) // _FEW)]
            rise = np.diff(-a * values - b * (1 + x * values))
            size = (abs(a) * np.abs(values) + abs(b) * (1 + np.abs(x * values)))[1:]
            rise = np.where(np.abs(rise) < 1e-9 * size, 0.0, rise)
            which = np.flatnonzero(rise)
            for i, j in itertools.pairwise(which):
                if rise[i] * rise[j] < 0 and not any(x[i] <= turn <= x[j + 1] for turn in turns):
                    self.fact("score_turns", x[i], x[j + 1], x[j], holds=False)
                    return
            self.fact("score_turns", 0.0, 0.0, holds=True)

    def normal(self) -> None:
        from glsmooth.laws.normal import ndtr

        for name, values in (("gaussian_scale", self.x), ("gaussian_scale_of_log", np.log(self.x))):
            scale = self.number(name)
            if scale is None:
                continue
            if not np.isfinite(values).all():
                self.fact(name, scale, math.nan, holds=False)
                continue
            middle = float(np.interp(0.5, self.u, values))
            gap = np.abs(on_array(ndtr, (values - middle) / scale) - self.u)
            gap = np.maximum(gap - 16 * _EPS * np.abs(middle) / scale, 0.0)
            worst = int(gap.argmax())
            self.fact(name, self.u[worst], self.u[worst] + gap[worst], self.x[worst], holds=gap[worst] <= 1e-9)

    def units(self) -> None:
        """The law in its own units is another one, whose check is this one's as well."""
        standard, origin, unit = self.value("in_own_units")
        if standard == self.law:
            return
        other = check_law(standard)
        if not other.passed:
            raise _Fault(f"{self.name}: in_own_units is {standard!r}, which fails its own check (glsmooth.check_law)")
        x = origin + unit * on_array(standard.icdf, self.u)
        gap = np.abs(self.call("cdf", x) - self.call("cdf", self.x))
        gap = np.maximum(gap - 32 * _EPS * (1 + np.minimum(self.tau, 1e300) * (np.abs(self.x) + abs(origin))), 0.0)
        worst = int(gap.argmax())
        self.fact("in_own_units", x[worst], self.x[worst], self.u[worst], holds=gap[worst] <= 1e-9)
        self.cdf_error = max(self.cdf_error, other.cdf_error + float(gap[worst]))
        self.density_error = max(self.density_error, other.density_error)

    def moves(self, name: str, rescaled: bool) -> None:
        """P(L <= t) of a declared move, counted over quantiles; its order, and its slips."""
        move = self.value(name)
        if move is None:
            return
        if not isinstance(move, Move):
            raise _Fault(f"{self.name}: {name} is a {type(move).__name__}, not a glsmooth.laws.moves.Move")
        y = self.call("icdf", (np.arange(_COUNTED) + 0.5) / _COUNTED)
        unit = 1.0 if rescaled else self.spread
        for forward in (True, False):
            way: Move = self._guarded(name, (lambda: move) if forward else move.reversed)
            for size in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
                d = size * unit * (1 if forward else -1)
                counted = self._ratio(y, d, rescaled), self._ratio(y * math.exp(d) if rescaled else y + d, d, rescaled)
                known = counted[1][np.isfinite(counted[1])]
                # Beside an atom of L, not at it, where rounding decides.
                t = np.quantile(known, np.linspace(0.01, 0.99, 40)) + 1e-9 if len(known) else np.zeros(1)
                for said, ratios in zip(self._below(name, way, t, np.full_like(t, abs(d))), counted, strict=True):
                    seen = np.searchsorted(np.sort(ratios), t, side="right") / _COUNTED
                    worst = int(np.abs(said - seen).argmax())
                    holds = abs(said[worst] - seen[worst]) <= MOVE_ERROR
                    self.fact(name, said[worst], seen[worst], d, holds=holds)
            self._chords(name, way, unit)

    def _ratio(self, x: np.ndarray, d: float, rescaled: bool) -> np.ndarray:
        """L of the moved law against the law as it is."""
        moved = self.call("log_prob", x * math.exp(-d)) - d if rescaled else self.call("log_prob", x - d)
        ratio: np.ndarray = moved - self.call("log_prob", x)
        return ratio

    def _guarded(self, name: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:
            raise _Fault(f"{self.name}: {name} raised {_words(error)}") from error

    def _below(self, name: str, move: Move, t: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        below: tuple[np.ndarray, np.ndarray] = self._guarded(name, lambda: move.below(t, size))
        return below

    def _chords(self, name: str, move: Move, unit: float) -> None:
        """A move between two is no easier to tell apart than their chord, but for the slips; a larger one is no
        harder, where that is said."""
        rng = np.random.default_rng(0)
        start, width = rng.exponential(unit, 400), rng.exponential(unit, 400) * rng.choice([0.01, 0.1, 1.0], 400)
        start, end = np.minimum(start, move.limit), np.minimum(start + width, move.limit)
        share, k = rng.uniform(size=400), np.exp(rng.normal(size=400))

        def advantage(size: np.ndarray) -> np.ndarray:
            below_0, below_b = self._below(name, move, -np.log(k), np.maximum(size, 1e-300))
            gained: np.ndarray = below_0 - k * below_b
            return gained

        near, far = advantage(start), advantage(end)
        chord = (1 - share) * near + share * far
        more = advantage((1 - share) * start + share * end) - chord
        allowed = (move.slip[0] + k * move.slip[1]) * (end - start) ** 2
        worst = int((more - allowed).argmax())
        self.fact(f"slip of {name}", allowed[worst], more[worst], start[worst], holds=(more <= allowed + 1e-9).all())
        if move.ordered:
            worst = int((near - far).argmax())
            holds = bool((near <= far + 1e-9).all())
            self.fact(f"ordered of {name}", near[worst], far[worst], end[worst], holds=holds)

    def moments(self) -> None:
        mean = self.number("mean")
        if mean is None:
            return
        # Between the outermost quantiles; where the tails beyond matter nothing is compared.
        seen = float(np.trapezoid(self.x, self.u))
        tails = abs(float(np.trapezoid(self.x[: _TAIL // 3], self.u[: _TAIL // 3])))
        tails += abs(float(np.trapezoid(self.x[-_TAIL // 3 :], self.u[-_TAIL // 3 :])))
        if tails < 1e-5 * self.spread or math.isinf(mean):
            close = abs(mean - seen) <= 1e-4 * self.spread + 64 * _EPS * abs(seen)
            self.fact("mean", mean, seen, holds=close or math.isinf(mean))


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
