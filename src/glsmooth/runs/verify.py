"""A second program that checks a certification run: ``glsmooth verify RUN…``, or ``python verify.py RUN…``.

It reads ``summary.json``, ``records.csv`` and ``proof.json`` of a run, knows nothing else of glsmooth, shares no code
with its bounds, and computes in balls: python-flint's arb, whose every result encloses the true one. It checks

* that each image's ``p_lower`` follows from its counts (Clopper–Pearson's tail, or the anytime-valid test's evidence),
* that ``proof.json`` proves its required probability H for the whole region,
* that every image that is called certified has p_lower > H, and that the summary's shares are those of the records.

A proof is H and a list of (cell, β, k). For k >= 0 and every base classifier F with E_μ₀ F = p,

    E_μβ F >= k p - U(k, β),    U(k, β) = ∫ (k dμ₀ - dμβ)₊,

since k p - E_μβ F = ∫ F (k dμ₀ - dμβ) (the dual of the Neyman–Pearson problem). Within the cell U moves by at most τ,
a bound of the total variation between μβ and μβ′. So k H - U - τ >= 1/2 for cells that cover the region means that a
class with p > H keeps the majority in all of it. Which parameters have to be covered is decided here, by theorems that
are named where they are used, not by the proof. U is one integral of a product of laws: coordinates whose likelihood
ratio has no closed form are cut into cells, masses kept and moved to two likelihood ratios at the cell's edges (which
makes the laws easier to tell apart, so that U can only grow), and a coordinate that moves another one is integrated.
"""

from __future__ import annotations

import bisect
import csv
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from flint import acb, arb, arb_poly, ctx

__all__ = [
    "Checked",
    "Family",
    "Unverifiable",
    "Wrong",
    "check",
    "check_proof",
    "main",
    "needed",
    "show",
    "status",
    "upper",
]

ctx.prec = 64
#: Integrals are asked for this many bits; what is missing is in their balls.
_GOAL = arb(2) ** -30
#: Likelihood ratios are moved to multiples of this, in logarithms: beside normal laws, and beside integrals.
_STEP, _COARSE_STEP = 2.0**-8, 2.0**-6
_FARTHEST = 60.0  # log-likelihood ratios beyond: the mass counts in full
_IN_FULL = arb(-1000)
_NEGLIGIBLE = 1e-13  # mass of a cell that is not worth cutting: it counts in full, too
_ROUGH = 1e-9  # mass times squared range of a cell that is not worth cutting: what it costs is of that size
_LARGEST = 8192  # pixels of a cycle
_MOST = 2**22  # places of a product of cycles
_FEW = 2**17  # places of a product of cycles that are taken one by one
_SLACK = 1e-10  # by which curves on a cycle may miss each other


class Wrong(ValueError):
    """A number that does not follow from what it should follow from."""


class Unverifiable(ValueError):
    """A true or false statement that this program has no means to check."""


def _lower(x: arb) -> float:
    """A float at or below every number of the ball."""
    return math.nextafter(float(x.lower()), -math.inf)


def upper(x: arb) -> float:
    """A float at or above every number of the ball."""
    return math.nextafter(float(x.upper()), math.inf)


def _normal_cdf(x: Any) -> Any:
    return (-x / arb(2).sqrt()).erfc() / 2


# Laws. ``tails``, ``log_density`` and ``slope`` take balls inside the support; ``density`` and ``ratio``, the logarithm
# of c τ(cα)/τ(α), complex ones, for integrals over a coordinate that moves another. Facts of shape are textbooks'.


@dataclass(frozen=True)
class Law:
    """A law of one parameter, by its name and numbers as glsmooth writes them."""

    kind: str
    a: float = 0.0  # loc, or low
    b: float = 1.0  # scale, or rate, or high

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Law:
        kind = config.get("law")
        numbers = {k: v for k, v in config.items() if k != "law" and v is not None}
        if config.get("_target_") or kind not in _FIELDS:
            raise Unverifiable(f"the law {config.get('_target_') or kind} is not one of those known here")
        if set(numbers) != set(_FIELDS[kind]) or not all(_finite(v) for v in numbers.values()):
            raise Wrong(f"{config} is not a law: it has {', '.join(_FIELDS[kind]) or 'no numbers'}")
        values = [float(numbers[name]) for name in _FIELDS[kind]]
        law = cls(kind, *([0.0, *values] if len(values) == 1 else values))
        if law.b <= (law.a if kind == "Uniform" else 0.0):
            raise Wrong(f"{config} is not a law: its width is not positive")
        return law

    @property
    def support(self) -> tuple[float, float]:
        if self.kind == "Uniform":
            return self.a, self.b
        return (-math.inf if self.kind in ("Normal", "Laplace") else 0.0), math.inf

    @property
    def log_concave(self) -> bool:
        return self.kind not in ("LogNormal", "UniformCyclic")

    @property
    def log_concave_in_log(self) -> bool:
        """Has log X a log-concave density?"""
        return self.support[0] >= 0 and self.kind != "UniformCyclic"

    @property
    def symmetric(self) -> bool:
        return self.kind in ("Normal", "Laplace", "Uniform")

    @property
    def peak(self) -> arb:
        """The largest value of the density."""
        a, b = arb(self.a), arb(self.b)
        if self.kind == "LogNormal":  # at exp(a - b²)
            return (b * b / 2 - a).exp() / (b * _ROOT)
        return {
            "Normal": 1 / (b * _ROOT),
            "Laplace": 1 / (2 * b),
            "Exponential": b,
            "Rayleigh": (arb(-1) / 2).exp() / b,
            "HalfNormal": 2 / (b * _ROOT),
            "Uniform": 1 / (b - a),
        }[self.kind]

    @property
    def peak_of_log(self) -> arb:
        """The largest value of the density of log X: sup x τ(x)."""
        return {
            "LogNormal": lambda: 1 / (arb(self.b) * _ROOT),
            "Exponential": lambda: arb(-1).exp(),
            "Rayleigh": lambda: 2 * arb(-1).exp(),
            "HalfNormal": lambda: 2 * (arb(-1) / 2).exp() / _ROOT,
            "Uniform": lambda: arb(self.b) / (arb(self.b) - arb(self.a)),
        }[self.kind]()

    @property
    def mean(self) -> arb:
        a, b = arb(self.a), arb(self.b)
        return {
            "LogNormal": lambda: (a + b * b / 2).exp(),
            "Exponential": lambda: 1 / b,
            "Rayleigh": lambda: b * _ROOT / 2,
            "HalfNormal": lambda: 2 * b / _ROOT,
            "Uniform": lambda: (a + b) / 2,
        }[self.kind]()

    def tails(self, x: float | arb) -> tuple[arb, arb]:
        """P(X <= x) and P(X > x), each with its own relative precision."""
        a, b, x, first = arb(self.a), arb(self.b), arb(x), self.support[0]
        if x <= first:
            return arb(0), arb(1)
        x = x.max(arb(first)) if math.isfinite(first) else x  # of a ball around the end, what lies inside
        if self.kind in ("Normal", "LogNormal"):
            z = ((x if self.kind == "Normal" else x.log()) - a) / b
            return _normal_cdf(z), _normal_cdf(-z)
        if self.kind == "Laplace":
            near = (-abs(x - a) / b).exp() / 2
            if not (x < a or x > a):
                return near.union(1 - near), near.union(1 - near)
            return (near, 1 - near) if x < a else (1 - near, near)
        if self.kind == "HalfNormal":
            z = x / (b * arb(2).sqrt())
            return z.erf(), z.erfc()
        if self.kind == "Uniform":
            inside = ((x - a) / (b - a)).min(arb(1))
            return inside, 1 - inside
        u = x * b if self.kind == "Exponential" else (x / b) ** 2 / 2
        return -(-u).expm1(), (-u).exp()

    def mass(self, low: float | arb, high: float | arb) -> arb:
        """P(low < X <= high)."""
        (below, above), (below_high, above_high) = self.tails(low), self.tails(high)
        return below_high - below if below < arb(0.5) else above - above_high

    def log_density(self, x: arb) -> arb:
        """But for a constant."""
        a, b = arb(self.a), arb(self.b)
        if self.kind == "Normal":
            return -(((x - a) / b) ** 2) / 2
        if self.kind == "LogNormal":
            log = x.log()
            return -(((log - a) / b) ** 2) / 2 - log
        if self.kind == "Rayleigh":
            return x.log() - (x / b) ** 2 / 2
        if self.kind == "HalfNormal":
            return -((x / b) ** 2) / 2
        if self.kind == "Uniform":
            return arb(0)
        return -abs(x - a) / b if self.kind == "Laplace" else -x * b

    def slope(self, x: arb) -> arb:
        """The derivative of ``log_density``, an enclosure of its one-sided ones at a kink."""
        a, b = arb(self.a), arb(self.b)
        if self.kind == "Normal":
            return (a - x) / b**2
        if self.kind == "LogNormal":
            return -(1 + (x.log() - a) / b**2) / x
        if self.kind == "Rayleigh":
            return 1 / x - x / b**2
        if self.kind == "HalfNormal":
            return -x / b**2
        if self.kind == "Laplace":
            return (-1 if x > a else 1 if x < a else arb(0, 1)) / b
        return arb(0) if self.kind == "Uniform" else -b

    def reach(self) -> tuple[float, float]:
        """Floats between which nearly all of the mass lies; nothing rests on how nearly."""
        if self.kind == "Uniform":
            return self.a or 1e-12 * self.b, self.b
        if self.kind in ("Normal", "LogNormal"):
            ends = self.a - 9 * self.b, self.a + 9 * self.b
            return ends if self.kind == "Normal" else (math.exp(ends[0]), math.exp(min(ends[1], 700.0)))
        if self.kind == "Laplace":
            return self.a - 40 * self.b, self.a + 40 * self.b
        tiny = 1e-12 if self.kind != "Rayleigh" else 1e-6
        return (tiny / self.b, 40 / self.b) if self.kind == "Exponential" else (tiny * self.b, 9 * self.b)

    def density(self, x: acb) -> acb:
        b = arb(self.b)
        if self.kind == "Exponential":
            return b * (-b * x).exp()
        if self.kind == "Rayleigh":
            return x / b**2 * (-((x / b) ** 2) / 2).exp()
        if self.kind == "HalfNormal":
            return 2 / (b * _ROOT) * (-((x / b) ** 2) / 2).exp()
        return acb(1 / (b - arb(self.a)))

    def ratio(self, c: arb, x: acb) -> acb:
        """log c τ(cx) / τ(x), both inside the support."""
        b = arb(self.b)
        if self.kind == "Exponential":
            return c.log() - b * (c - 1) * x
        if self.kind == "Uniform":
            return acb(c.log())
        return (2 if self.kind == "Rayleigh" else 1) * c.log() - (c * c - 1) * (x / b) ** 2 / 2


_FIELDS = {
    "Normal": ("loc", "scale"),
    "LogNormal": ("loc", "scale"),
    "Laplace": ("loc", "scale"),
    "Exponential": ("rate",),
    "Rayleigh": ("scale",),
    "HalfNormal": ("scale",),
    "Uniform": ("low", "high"),
    "UniformCyclic": (),
}
_ROOT = (2 * arb.pi()).sqrt()


# The transformations: factors with the names of their parameters. A shift is θ = α + β, a scale θ = αβ; "affine" is
# c·x + b (θ = (α_c β_c, α_c β_b + α_b)), "affine_b" c·(x + b) (θ = (α_c β_c, β_b + α_b/β_c)), "power" c·x^g
# (θ = (α_g β_g, α_c β_c^α_g)).

_Factor = tuple[str, tuple[str, ...]]


def _factors(transform: Mapping[str, Any]) -> list[_Factor]:
    target = str(transform.get("_target_"))
    name = target.removeprefix("glsmooth.transforms.")
    if target.startswith("glsmooth.threats."):
        raise Unverifiable(f"how far {target} leads from a reference is not known here")
    if any(transform.get(field) for field in ("round8", "l2")):
        raise Unverifiable("what pixel noise pays for (round8, l2) is not known here")
    if unknown := transform.keys() - {"_target_", "order", "padding", "border", "round8", "l2", "residual"}:
        raise Unverifiable(f"what {', '.join(sorted(unknown))} does to {target} is not known here")
    order = transform.get("order") or ("brightness_first" if name.startswith("TranslationBlur") else "contrast_first")
    affine: list[_Factor] = [("affine" if order == "contrast_first" else "affine_b", ("contrast", "brightness"))]
    shifts: list[_Factor] = [("cyclic", ("tx",)), ("cyclic", ("ty",))]
    brightness: _Factor = ("shift", ("brightness",))
    blur: _Factor = ("shift", ("blur",))
    known: dict[str, list[_Factor]] = {
        "Brightness": [brightness],
        "Contrast": [("scale", ("contrast",))],
        "Gamma": [("scale", ("gamma",))],
        "Translation": shifts,
        "GaussianBlur": [blur],
        "ContrastBrightness": affine,
        "GammaContrast": [("power", ("gamma", "contrast"))],
        "BrightnessTranslation": [brightness, *shifts],
        "ContrastTranslation": [("scale", ("contrast",)), *shifts],
        "ContrastBrightnessTranslation": [*affine, *shifts],
        "TranslationBlurBrightnessContrast": [*shifts, blur, *affine],
    }
    if not target.startswith("glsmooth.transforms.") or name not in known:
        raise Unverifiable(f"the transformation {target} is not one of those known here")
    if transform.get("padding") not in (None, "cyclic"):
        raise Unverifiable(f"shifts with padding={transform['padding']} have no resolving function")
    if order not in ("contrast_first", "brightness_first"):
        raise Wrong(f"transform.order={order!r} is neither contrast_first nor brightness_first")
    if transform.get("border") not in (None, "cyclic", "reflect"):
        raise Wrong(f"transform.border={transform['border']!r} is neither cyclic nor reflect")
    return known[name]


# Masses by log-likelihood ratio: P({log Q/P = step·m}) in a polynomial, so that independent coordinates multiply.


@dataclass
class Masses:
    """``poly`` has P(log Q/P = offset + step·m) at m - ``first``; ``alone`` is the mass of P that counts in full."""

    step: float
    first: int = 0
    poly: arb_poly = field(default_factory=lambda: arb_poly([1]))
    alone: arb = field(default_factory=lambda: arb(0))
    offset: arb = field(default_factory=lambda: arb(0))

    def __mul__(self, other: Masses) -> Masses:
        alone = 1 - (1 - self.alone) * (1 - other.alone)
        first, offset = self.first + other.first, self.offset + other.offset
        return Masses(self.step, first, self.poly * other.poly, alone, offset)

    def __iter__(self) -> Iterator[tuple[arb, arb]]:
        for i, mass in enumerate(self.poly.coeffs()):
            if not mass.is_zero():
                yield self.offset + (self.first + i) * self.step, mass

    @classmethod
    def of(cls, step: float, cells: Iterator[tuple[arb, arb, arb, arb]]) -> Masses:
        """Cells (P, Q, least and largest log Q/P), each moved to two multiples of ``step`` that hold its ratios."""
        found: dict[int, arb] = {}
        alone = arb(0)
        for p, q, least, most in cells:
            if not (least > -_FARTHEST and most < _FARTHEST):
                alone += p
                continue
            low = math.floor(_lower(least) / step)
            high = max(math.ceil(upper(most) / step), low + 1)
            at = (arb(low * step)).exp(), (arb(high * step)).exp()
            moved = (q - at[0] * p) / (at[1] - at[0])
            found[low] = found.get(low, arb(0)) + p - moved
            found[high] = found.get(high, arb(0)) + moved
        if not found:
            return cls(step, 0, arb_poly([0]), alone)
        first = min(found)
        return cls(step, first, arb_poly([found.get(m, arb(0)) for m in range(first, max(found) + 1)]), alone)


@dataclass(frozen=True)
class Pair:
    """P = a law and Q = the law of scale·α + shift: a coordinate that no other one moves."""

    law: Law
    shift: arb
    scale: arb

    @property
    def normal(self) -> arb | None:
        """The size of the normal shift that it is, or None."""
        if self.law.kind == "Normal" and self.scale == 1:
            return abs(self.shift) / arb(self.law.b)
        if self.law.kind == "LogNormal" and self.shift == 0:
            return abs(self.scale.log()) / arb(self.law.b)
        return None

    @property
    def constant(self) -> bool:
        """Is its likelihood ratio one number, wherever it is neither 0 nor infinite?"""
        return self.law.kind == "Uniform" or (self.law.kind == "Exponential" and bool(self.scale == 1))

    def masses(self, step: float) -> Masses:
        """The pair by its likelihood ratio, in cells, or where that is constant by one number."""
        law, scale, shift = self.law, self.scale, self.shift
        if not self.constant:
            return Masses.of(step, self._cells(step))
        low, high = (arb(end) if math.isfinite(end) else arb(law.reach()[1]) * 4 for end in law.support)
        low, high = low.max(scale * low + shift), high.min(scale * high + shift)
        p, q = law.mass(low, high), law.mass((low - shift) / scale, (high - shift) / scale)
        if not (p > 0 and q > 0):
            return Masses(step, 0, arb_poly([0]), arb(1))
        return Masses(step, 0, arb_poly([p]), 1 - p, self.log_ratio(low + (high - low) / 2))

    def _cells(self, step: float) -> Iterator[tuple[arb, arb, arb, arb]]:
        """Cells for :meth:`Masses.of`; what lies in none of them counts in full."""
        law, scale, shift = self.law, self.scale, self.shift
        corners = [
            arb(end) for end in (*law.support, *([law.a] if law.kind == "Laplace" else [])) if math.isfinite(end)
        ]
        corners += [scale * end + shift for end in corners]  # that of the moved law need be no float
        reach = law.reach()
        marks = {*reach, *(float((scale * end + shift).mid()) for end in reach)}
        marks |= {end for corner in corners for end in (float(corner.lower()), float(corner.upper()))}
        given = arb(0)
        for low, high in itertools.pairwise(sorted(marks)):
            if self._in_supports(low, high):
                for cell in self._cut(low, high, step):
                    given += cell[0]
                    yield cell
        yield 1 - given, arb(0), _IN_FULL, arb(0)

    def _in_supports(self, low: float, high: float) -> bool:
        (first, last), back = self.law.support, [(end - self.shift) / self.scale for end in (arb(low), arb(high))]
        return bool(first <= low and high <= last and back[0] >= first and back[1] <= last)

    def _cut(self, low: float, high: float, step: float) -> Iterator[tuple[arb, arb, arb, arb]]:
        todo = [(low, high)]
        while todo:
            a, b = todo.pop()
            p, (least, most), middle = self.law.mass(a, b), self._ratios(a, b), (a + b) / 2
            far = most < -_FARTHEST or least > _FARTHEST
            if far or most - least < step or p * (most - least) ** 2 < _ROUGH:
                yield p, self.law.mass(*((arb(end) - self.shift) / self.scale for end in (a, b))), least, most
            elif p > _NEGLIGIBLE and a < middle < b:
                todo += [(middle, b), (a, middle)]
            else:
                yield p, arb(0), _IN_FULL, arb(0)

    def _ratios(self, a: float, b: float) -> tuple[arb, arb]:
        """The least and the largest log Q/P between two floats."""
        ball = arb(a).union(arb(b))
        moved = (ball - self.shift) / self.scale
        slope = self.law.slope(moved) / self.scale - self.law.slope(ball)
        if slope >= 0 or slope <= 0:
            left, right = self.log_ratio(arb(a)), self.log_ratio(arb(b))
            if left.is_finite() and right.is_finite():
                return (left, right) if slope >= 0 else (right, left)
        over = self.log_ratio(arb((a + b) / 2)) + slope * (ball - arb((a + b) / 2))  # the mean value form
        if not over.is_finite():
            over = self.log_ratio(ball)
        return over.lower(), over.upper()

    def log_ratio(self, x: arb) -> arb:
        return self.law.log_density((x - self.shift) / self.scale) - self.scale.log() - self.law.log_density(x)


@lru_cache(maxsize=16)
def _cycle(law: Law, size: int) -> list[arb]:
    """P(round(α) = n modulo ``size``), n = 0 … size - 1."""
    if law.kind == "UniformCyclic":
        return [arb(1) / size] * size
    low, high = (math.floor(end) for end in law.reach())
    if high - low > 10**6:
        raise Unverifiable(f"{law.kind} spans too many pixels to be summed")
    masses = [arb(0)] * size
    for n in range(low - 1, high + 2):
        masses[n % size] += law.mass(n - 0.5, n + 0.5)
    rest = 1 - sum(masses, arb(0))  # which may lie anywhere
    return [mass + arb(0).union(rest) for mass in masses]


def _shifted(law: Law, size: int, shift: int) -> list[tuple[arb, arb]]:
    """(P, Q) of each number of a cycle, Q the law moved by ``shift``."""
    p = _cycle(law, size)
    return [(mass, p[(n - shift) % size]) for n, mass in enumerate(p)]


def _exactly(cycles: list[tuple[Law, int, int]]) -> tuple[list[tuple[arb, arb]], arb]:
    """(log Q/P, P) of each place of a product of cycles, and what P has where Q has nothing."""
    atoms = [(arb(1), arb(1))]
    for cycle in cycles:
        atoms = [(p * a, q * b) for p, q in atoms for a, b in _shifted(*cycle) if not a.is_zero()]
    found = [((q / p).log(), p) for p, q in atoms]
    alone = sum((p for ratio, p in found if not ratio.is_finite()), arb(0))
    return [(ratio, p) for ratio, p in found if ratio.is_finite()], alone


def _cyclic(law: Law, size: int, shift: int, step: float) -> Masses:
    def cells() -> Iterator[tuple[arb, arb, arb, arb]]:
        for p, q in _shifted(law, size, shift):
            ratio = (q / p).log()
            yield p, q, *((ratio.lower(), ratio.upper()) if ratio.is_finite() else (_IN_FULL, arb(0)))

    return Masses.of(step, cells())


def _widest(law: Law, size: int, shift: int) -> float:
    """The largest |log Q/P| of a law on the cycle against itself, moved; about."""
    masses = [float(mass.mid()) for mass in _cycle(law, size)]
    ratios = [(masses[(n - shift) % size], mass) for n, mass in enumerate(masses)]
    return max((abs(math.log(q / p)) for q, p in ratios if p > 0 and q > 0), default=1.0) or 1.0


class _Curve:
    """κ -> U(κ) = ∫ (κ dP - dQ)₊ of a law on a cycle and itself moved, in floats; it is piecewise linear."""

    def __init__(self, law: Law, size: int, shift: int) -> None:
        masses = [max(0.0, float(mass.mid())) for mass in _cycle(law, size)]
        pairs = [(masses[n], masses[(n - shift) % size]) for n in range(size) if masses[n] > 0]
        pairs.sort(key=lambda pair: pair[1] / pair[0])
        self.shift = shift
        self.kinks = [q / p for p, q in pairs]
        self.sums = list(itertools.accumulate(pairs, lambda s, t: (s[0] + t[0], s[1] + t[1]), initial=(0.0, 0.0)))

    def __call__(self, kappa: float) -> float:
        p, q = self.sums[bisect.bisect(self.kinks, kappa)]
        return kappa * p - q

    def below(self, other: _Curve) -> bool:
        """Is it below the other, but for ``_SLACK``? Both are convex: the kinks of the upper one are enough."""
        return all(self(x) <= other(x) + _SLACK / 2 * (1 + x) for x in other.kinks)


@lru_cache(maxsize=64)
def _worst_shifts(law: Law, size: int, low: float, high: float) -> tuple[int, ...]:
    """Whole shifts of an interval, less those whose U is below another's for every κ, so in every product, too."""
    first, last = math.ceil(low), math.floor(high)
    shifts = sorted({n % size for n in range(first, min(last, first + size - 1) + 1)})
    if not shifts:
        raise Wrong(f"the interval [{low}, {high}] holds no whole shift")
    if law.kind == "UniformCyclic":
        return (shifts[0],)
    kept: list[_Curve] = []
    for curve in sorted((_Curve(law, size, shift) for shift in shifts), key=lambda curve: -curve(1.0)):
        if not any(curve.below(other) for other in kept):
            kept.append(curve)
    return tuple(curve.shift for curve in kept)


# Cores: what is left of U when all other coordinates are masses by likelihood ratio.


def _normal_core(size: arb, log_kappa: arb) -> arb:
    """U(κ) of a normal law moved by ``size`` standard deviations."""
    kappa = log_kappa.exp()
    if size.is_zero():
        return (kappa - 1).max(arb(0))
    at = log_kappa / size + size / 2
    return arb(kappa * _normal_cdf(at) - _normal_cdf(at - size))


@dataclass(frozen=True)
class Ordered:
    """A pair whose likelihood ratio rises (or falls) all the way, as that of a shifted log-concave law does."""

    pair: Pair

    @classmethod
    def is_one(cls, pair: Pair) -> bool:
        if pair.constant:  # one mass does
            return False
        return (pair.scale == 1 and pair.law.log_concave) or (pair.shift == 0 and pair.law.log_concave_in_log)

    def __call__(self, log_kappa: arb) -> arb:
        """U(κ) = κ P(S) - Q(S), S the half-line on which Q/P < κ, its end between two floats."""
        log_kappa += arb(2) ** -50  # U grows with κ: a little more, so that constant ratios are no ties
        law, pair = self.pair.law, self.pair
        ends = [*map(arb, law.reach())]
        ends += [pair.scale * end + pair.shift for end in ends]
        low, high = min(float(end.lower()) for end in ends), max(float(end.upper()) for end in ends)
        side = 0 if pair.shift > 0 or pair.scale > 1 else 1  # the ratio rises: S is what lies below its end
        inside, outside = (low, high) if side == 0 else (high, low)
        p, q = arb(1), arb(0)  # of a half-line that holds S, of one that S holds
        while (middle := (inside + outside) / 2) not in (inside, outside):
            below = self._below(arb(middle), log_kappa)
            if below is None:
                break
            if below:
                inside, q = middle, law.tails((arb(middle) - pair.shift) / pair.scale)[side]
            else:
                outside, p = middle, law.tails(middle)[side]
        return log_kappa.exp() * p - q

    def _below(self, x: arb, log_kappa: arb) -> bool | None:
        """Is Q/P < κ at x? None where a ball does not tell."""
        pair, (low, high) = self.pair, self.pair.law.support
        back = (x - pair.shift) / pair.scale
        if low < x < high and low < back < high:
            ratio = pair.log_ratio(x)
            return True if ratio < log_kappa else False if ratio > log_kappa else None
        if back <= low or back >= high:
            return True  # nothing of Q, or of either
        return False if x <= low or x >= high else None


@dataclass(frozen=True)
class Moving:
    """A coordinate θ = cα that moves another one by α·move, or rescales that by e^(α·move), beside a normal shift.

    ``size`` is that of the normal shift, in standard deviations; there is one only beside a normal second coordinate.
    """

    law: Law
    c: arb
    inner: Law
    move: arb
    rescales: bool
    size: arb = field(default_factory=lambda: arb(0))

    @property
    def normal(self) -> bool:
        """Is the second coordinate a normal one (or its logarithm, where that is moved)?"""
        return self.inner.kind == ("LogNormal" if self.rescales else "Normal")

    def _best(self, log: acb, d: acb, analytic: bool) -> tuple[acb, acb]:
        """P and Q of the best set S = {Q <= κ P} of the second coordinate, moved by d > 0 in the direction of ``move``.

        ``log`` is log κ. For each law S is a half-line, or what lies where Q does not, with or without the rest.
        """
        kind, b = self.inner.kind, arb(self.inner.b)
        up = bool(self.move > 0)
        zero, root = acb(0), arb(2).sqrt()

        def positive(x: acb) -> acb:
            return x.real_max(zero, analytic=analytic)

        def holds(x: acb) -> acb:  # 1 where x > 0
            return x.real_heaviside(analytic=analytic)

        if self.normal:
            d = d / b
            if not self.size.is_zero():
                d = (d * d + self.size**2).sqrt(analytic=analytic)
            at = log / d + d / 2
            return _normal_cdf(at), _normal_cdf(at - d)
        if kind == "Uniform":
            low, width = arb(self.inner.a), b - arb(self.inner.a)
            ratio = zero if not self.rescales else -d if up else d  # log Q/P where both are
            p = positive(1 - d / width)
            if self.rescales:
                p = positive((b - low * d.exp() if up else b * (-d).exp() - low) / width)
            rest = holds(log - ratio) * p
            return 1 - p + rest, rest * ratio.exp()
        if not self.rescales and kind == "Exponential":
            stays = (-b * d).exp()
            rest = holds(log - b * d) if up else holds(log + b * d)
            return (1 - stays + rest * stays, rest) if up else (rest, rest * stays)
        if not self.rescales and kind == "HalfNormal":
            if up:
                at = d + positive(b * b * log / d - d / 2)
                return (at / (b * root)).erf(), ((at - d) / (b * root)).erf()
            at = positive(-(b * b * log / d) - d / 2)
            return (at / (b * root)).erfc(), ((at + d) / (b * root)).erfc()
        if not self.rescales and kind == "Laplace":
            all_of_it, none = holds(log - d / b), 1 - holds(log + d / b)
            at = positive((b * log + d) / 2)
            at = d - positive(d - at)
            p, q = 1 - (-at / b).exp() / 2, ((at - d) / b).exp() / 2
            return (1 - none) * (all_of_it + (1 - all_of_it) * p), (1 - none) * (all_of_it + (1 - all_of_it) * q)
        if self.rescales and kind in ("Exponential", "Rayleigh", "HalfNormal"):
            # x, x²/2 and x²/2 in units of the law: of density e^-u (or e^-u/√u), rescaled by e^d or e^2d.
            twice = d if kind == "Exponential" else 2 * d
            grows = twice.exp() if up else (-twice).exp()
            drift = d if kind == "HalfNormal" else twice
            at = positive((log + drift) / (1 - 1 / grows) if up else (log - drift) / (1 - 1 / grows))
            if kind == "HalfNormal":
                root_of = zero if at.is_zero() else at.real_sqrt(analytic=analytic)
                p, q = root_of.erf(), (root_of * (-d if up else d).exp()).erf()
            else:
                p, q = 1 - (-at).exp(), 1 - (-at / grows).exp()
            return (p, q) if up else (1 - p, 1 - q)
        raise Unverifiable(f"{kind}, moved by another coordinate, has no integral here")

    def __call__(self, log_kappa: arb) -> arb:
        """U(κ) = ∫ (κ p P(S) - q Q(S)) over the first coordinate, S the best set of the second one given it."""
        kappa = log_kappa.exp()
        if self.law.kind == "LogNormal":  # by its standard normal coordinate under Q
            a, b = arb(self.law.a), arb(self.law.b)
            turn = self.c.log() / b
            low, high = arb(-8), arb(8)
            outside = _normal_cdf(low + turn) + _normal_cdf(-high - turn)
        else:
            low, high = map(arb, self.law.reach())
            low, high = low.max(low / self.c), high.min(high / self.c)
            if not low < high:
                return kappa
            outside = 1 - self.law.mass(low * self.c, high * self.c)

        def integrand(x: acb, analytic: bool) -> acb:
            if self.law.kind == "LogNormal":
                alpha, weight = (a + b * x).exp(), (-x * x / 2).exp() / _ROOT
                log = log_kappa - x * turn - turn * turn / 2
            else:
                alpha, weight = x, self.law.density(x)
                log = log_kappa + self.law.ratio(self.c, x)
            p, q = self._best(log, alpha * abs(self.move), analytic)
            return acb(weight * (log.exp() * p - q))

        inside = acb.integral(integrand, acb(low), acb(high), abs_tol=_GOAL, rel_tol=_GOAL).real
        return arb(inside + kappa * outside)


class Need(NamedTuple):
    """A parameter β that a proof has to cover, with the one of its coordinates that runs over an interval, if any."""

    beta: dict[str, float]
    over: str | None = None
    interval: tuple[float, float] = (0.0, 0.0)

    @property
    def key(self) -> tuple[tuple[str, float], ...]:
        return _key(self.beta, self.over)


@dataclass(frozen=True)
class Axis:
    """A factor's share of a region: values of its parameters that have to be tried, and an interval to be covered."""

    values: list[dict[str, float]]
    search: str | None = None
    interval: tuple[float, float] = (0.0, 0.0)


class Family:
    """A transformation with its laws, from the words of ``summary.json`` (or of ``proof.json``)."""

    def __init__(
        self, transform: Mapping[str, Any], smoothing: Mapping[str, Any], image_size: Sequence[int] | None
    ) -> None:
        self.factors = _factors(transform)
        names = [name for _, names in self.factors for name in names]
        if set(smoothing) != set(names):
            raise Wrong(f"laws of {sorted(smoothing)}, but the transformation has {names}")
        self.laws = {name: Law.of(smoothing[name]) for name in names}
        if image_size is not None and not (
            len(image_size) == 2 and all(_whole(size) and 1 <= size <= _LARGEST for size in image_size)
        ):
            raise Unverifiable(f"image_size={image_size} is not two numbers of at most {_LARGEST} pixels")
        self.sizes = dict(zip(("ty", "tx"), image_size or (), strict=False))
        self.identity = {name: float(name in ("contrast", "gamma")) for name in names}
        for kind, own in self.factors:
            for name in own if kind != "affine_b" and kind != "affine" else own[:1]:
                positive = kind in ("scale", "power") or name == "contrast" or name == "blur"
                if positive and self.laws[name].support[0] < 0:
                    raise Wrong(f"the law of {name} is not one of positive numbers")
            for name in own:
                if self.laws[name].kind == "UniformCyclic" and not (kind == "cyclic" and self.sizes):
                    raise Wrong(f"the law of {name} needs a cycle")

    def u(self, beta: Mapping[str, float], k: float) -> arb:
        """U(k, β) = ∫ (k dμ₀ - dμβ)₊, enclosed."""
        if k <= 0:
            return arb(0)
        masses, alone, core = self._parts(tuple(sorted(beta.items())))
        kappa = arb(k)
        total, log = kappa * alone, kappa.log()
        for ratio, mass in masses:
            if mass < _NEGLIGIBLE:
                total += kappa * mass
            else:
                total += mass * ratio.exp() * core(log - ratio)
        return total + _SLACK * (k + 1) * (sum(kind == "cyclic" for kind, _ in self.factors) if self.sizes else 0)

    @lru_cache(maxsize=256)  # noqa: B019 - a family lives as long as the check of its run
    def _parts(self, beta: tuple[tuple[str, float], ...]) -> tuple[list[tuple[arb, arb]], arb, Callable[[arb], arb]]:
        """Masses (log Q/P, P) of some coordinates, what counts in full of them, and U of the others."""
        at = {name: arb(value) for name, value in beta}
        pairs: list[Pair] = []
        cycles: list[tuple[Law, int, int]] = []
        moving: Moving | None = None
        for kind, names in self.factors:
            law, value = self.laws[names[0]], at[names[0]]
            if kind == "cyclic" and self.sizes:
                shift = round(float(value)) % self.sizes[names[0]]
                if shift and law.kind != "UniformCyclic":
                    cycles.append((law, self.sizes[names[0]], shift))
            elif kind in ("shift", "cyclic"):
                pairs.append(Pair(law, value, arb(1)))
            elif kind == "scale":
                pairs.append(Pair(law, arb(0), value))
            elif kind == "affine_b":  # two coordinates that do not move each other
                pairs.append(Pair(law, arb(0), value))
                pairs.append(Pair(self.laws[names[1]], at[names[1]], 1 / value))
            else:
                move = at[names[1]].log() if kind == "power" else at[names[1]]
                if move.is_zero():
                    pairs.append(Pair(law, arb(0), value))
                else:
                    moving = Moving(law, value, self.laws[names[1]], move, kind == "power")
        pairs = [pair for pair in pairs if not (pair.shift == 0 and pair.scale == 1)]
        core: Callable[[arb], arb] | None = moving
        if moving is None or moving.normal:  # normal shifts add up
            squares = sum((pair.normal**2 for pair in pairs if pair.normal is not None), arb(0))
            pairs = [pair for pair in pairs if pair.normal is None]
            size = squares.sqrt() if not squares.is_zero() else arb(0)
            ordered = None if moving or not size.is_zero() else next(filter(Ordered.is_one, pairs), None)
            if moving:
                core = replace(moving, size=size)
            elif ordered is not None:
                core = Ordered(ordered)
                pairs.remove(ordered)
            else:
                core = partial(_normal_core, size)
        assert core is not None
        exact, alone = [(arb(0), arb(1))], arb(0)
        if moving is None and all(pair.constant for pair in pairs) and math.prod(size for _, size, _ in cycles) <= _FEW:
            exact, alone = _exactly(cycles)  # what is left is finite
            cycles = []
        step = _COARSE_STEP if moving else _STEP
        if cycles:  # narrow ratios need narrow steps, but no more of them than can be multiplied
            widths = [_widest(*cycle) for cycle in cycles]
            whole = sum(widths) + 2 * _FARTHEST * sum(not pair.constant for pair in pairs)
            fine = max(min(widths) / (64 if moving else 512), whole / 2**16)
            step = min(step, 2.0 ** math.floor(math.log2(fine)))
        masses = Masses(step)
        for part in (*(pair.masses(step) for pair in pairs), *(_cyclic(*cycle, step) for cycle in cycles)):
            masses *= part
        found = [(ratio + more, p * mass) for ratio, p in exact for more, mass in masses]
        return found, 1 - (1 - alone) * (1 - masses.alone), core

    def variation(self, beta: Mapping[str, float], name: str, interval: Sequence[float]) -> arb:
        """A bound of the total variation between μβ and μβ′, β′ with ``name`` anywhere in the interval.

        μβ′ is to μβ as μδ to P with β′ = γ(δ, β). A law whose density rises to its peak and falls from it, moved by d,
        is within d times the peak of itself; rescaled, by the peak of the density of its logarithm.
        """
        low, high = (arb(end) for end in interval)
        at = arb(beta[name])
        kind, names = next(factor for factor in self.factors if name in factor[1])
        law = self.laws[name]
        if kind == "shift" or kind == "cyclic":
            return law.peak * (high - at).max(at - low)
        ratios = high / at, low / at
        total = law.peak_of_log * abs(ratios[0].log()).max(abs(ratios[1].log()))
        inner = self.laws[names[-1]]
        if kind == "affine_b":  # (c′/c, 0), which rescales both; a centred normal law by 2φ(1) = E|1 - z²|/2 at most
            return total + 2 * (arb(-1) / 2).exp() / _ROOT * abs(ratios[0].log()).max(abs(ratios[1].log()))
        # affine: (ρ, b - ρb); power: (ρ, c/c^ρ), the second one by its logarithm.
        fixed = arb(beta[names[1]])
        d = abs(fixed.log() if kind == "power" else fixed) * abs(1 - ratios[0]).max(abs(1 - ratios[1]))
        return total + law.mean * d * (inner.peak_of_log if kind == "power" else inner.peak)

    def axes(self, box: Mapping[str, tuple[float, float]]) -> list[Axis]:
        """What covers a box: for each factor the values that can be worst, and the interval that must be covered."""
        return [self._axis(kind, names, [box[name] for name in names]) for kind, names in self.factors]

    def _axis(self, kind: str, names: tuple[str, ...], box: list[tuple[float, float]]) -> Axis:
        first, law, (low, high) = names[0], self.laws[names[0]], box[0]
        if kind == "cyclic" and self.sizes:
            return Axis([{first: float(n)} for n in _worst_shifts(law, self.sizes[first], low, high)])
        if kind == "cyclic":  # on the plane values are rounded, too
            low, high = min(low, math.ceil(low - 0.5)), max(high, math.floor(high + 0.5))
        if kind in ("shift", "cyclic"):
            # A shifted log-concave law has a monotone likelihood ratio: its curve falls as the shift grows.
            if law.log_concave:
                return Axis([{first: v} for v in _ends(low, high, 0.0, law.symmetric)])
            return Axis([{}], first, (low, high))
        # So has the logarithm of a rescaled law.
        if low <= 0 or not law.log_concave_in_log:
            raise Unverifiable(f"{first} ~ {law.kind} in [{low}, {high}] is not ordered by its size")
        rescaled = [{first: v} for v in _ends(low, high, 1.0, law.kind == "LogNormal")]
        if kind == "scale":
            return Axis(rescaled)
        second, inner = names[1], self.laws[names[1]]
        unit = 1.0 if kind == "power" else 0.0
        if box[1] == (unit, unit) and kind != "affine_b":
            return Axis([{**v, second: unit} for v in rescaled])
        # Given the first coordinate the second one is shifted or rescaled, so the same order holds at each value of the
        # first parameter. In c·(x + b) it holds for a centred normal law: the best test is an interval or its
        # complement, whose power grows with |b|.
        if kind == "affine_b":
            ordered = (inner.kind == "Normal" and inner.a == 0) or (box[0] == (1.0, 1.0) and inner.log_concave)
        else:
            ordered = inner.log_concave_in_log if kind == "power" else inner.log_concave
        if not ordered:
            raise Unverifiable(f"{second} ~ {inner.kind} beside {first} is not ordered by its size")
        symmetric = inner.kind == "LogNormal" if kind == "power" else inner.symmetric
        values = [{second: v} for v in _ends(*box[1], unit, symmetric)]
        if low == high:
            return Axis([{first: low, **v} for v in values])
        return Axis(values, first, (low, high))


def _ends(low: float, high: float, identity: float, symmetric: bool) -> list[float]:
    """Values of an ordered axis that can be worst: the ends on either side of the identity."""
    ends = [v for v, outside in ((low, low < identity), (high, high > identity)) if outside]
    if len(ends) == 2 and symmetric:
        far = abs(arb(low).log()) >= abs(arb(high).log()) if identity else -low >= high
        near = abs(arb(low).log()) <= abs(arb(high).log()) if identity else -low <= high
        ends = [low] if far else [high] if near else ends
    return ends or [identity]


def needed(family: Family, region: Mapping[str, Any]) -> list[Need]:
    """What a proof of a region has to cover; the region as ``summary.json`` has it.

    Raises:
        Wrong: it is not a region of the family.
        Unverifiable: no theorem that is used here covers it.
    """
    names = list(family.identity)
    if region.keys() == {"points"}:
        points = [_named(point, names) for point in region["points"]]
        if not points:
            raise Wrong("region.points is empty")
        for point in points:
            _in_domain(point)
            for name in point.keys() & {"tx", "ty"}:
                if point[name] != round(point[name]):
                    raise Wrong(f"region: {name}={point[name]} is no whole number of pixels")
        return [Need({**family.identity, **point}) for point in points]
    if region.keys() == {"ball", "centre"}:
        radius, centre = region["ball"], _named(region["centre"], names)
        if not (_finite(radius) and radius >= 0 and centre):
            raise Wrong(f"region.ball={radius!r} around {centre} is not a ball")
        return _in_ball(family, float(radius), centre)
    for name, interval in region.items():
        if name not in names or not _interval(interval):
            raise Wrong(f"region.{name}={interval!r} is not an interval of one of {', '.join(names)}")
    box = {name: (value, value) for name, value in family.identity.items()}
    for end in (0, 1):
        _in_domain({name: interval[end] for name, interval in region.items()})
    box |= {name: (float(low), float(high)) for name, (low, high) in region.items()}
    axes = family.axes(box)
    searches = [axis for axis in axes if axis.search]
    if len(searches) > 1:
        raise Unverifiable(f"{' and '.join(str(axis.search) for axis in searches)} would have to be covered together")
    betas = [
        {name: value for part in choice for name, value in part.items()}
        for choice in itertools.product(*(axis.values for axis in axes))
    ]
    over = (searches[0].search, searches[0].interval) if searches else ()
    return [Need(beta, *over) for beta in betas]


def _in_ball(family: Family, radius: float, centre: dict[str, float]) -> list[Need]:
    """Whole shifts row by row; normal shifts by their narrowest law; any other ball by the box around it."""
    kinds = {name: kind for kind, names in family.factors for name in names}
    *others, last = centre
    if all(kinds[name] == "cyclic" for name in centre) and radius < sum(family.sizes.get(name, 0) for name in centre):
        middle = {name: Fraction(value) % family.sizes[name] for name, value in centre.items()}
        size = Fraction(radius) + Fraction(1, 10**9)  # what lies on the edge in decimal numbers may not in binary ones
        rows: list[dict[str, float]] = [{}]
        if others:
            ends = middle[others[0]] - size, middle[others[0]] + size
            rows = [{others[0]: v} for v in range(math.ceil(ends[0]), math.floor(ends[1]) + 1)]
        found = []
        for row in rows:
            left = size**2 - sum((v - middle[name]) ** 2 for name, v in row.items())
            reach = math.sqrt(left) + 1e-9  # more than rounding can lose
            low, high = middle[last] - reach, middle[last] + reach
            if math.ceil(low) <= math.floor(high):
                fixed = {name: float(v % family.sizes[name]) for name, v in row.items()}
                shifts = _worst_shifts(family.laws[last], family.sizes[last], low, high)
                found += [Need({**family.identity, **fixed, last: float(n)}) for n in shifts]
        if not found:
            raise Wrong("the ball holds no whole shift")
        return found
    plane = ("shift",) if family.sizes else ("shift", "cyclic")  # on a cycle a normal law is none
    shifts_alone = all(kinds[name] in plane and family.laws[name].kind == "Normal" for name in centre)
    if shifts_alone and not any(centre.values()):
        # The size of the joint normal shift is at most radius / scale, which it is along the narrowest law's axis.
        narrow = min(centre, key=lambda name: family.laws[name].b)
        return [Need({**family.identity, narrow: radius})]
    around = {
        name: [math.nextafter(v - radius, -math.inf), math.nextafter(v + radius, math.inf)]
        for name, v in centre.items()
    }
    return needed(family, around)


def _in_domain(point: Mapping[str, float]) -> None:
    for name, value in point.items():
        if (name == "blur" and value < 0) or (name in ("contrast", "gamma") and value <= 0):
            raise Wrong(f"region: {name}={value} is no parameter of the transformation")


def _named(point: Any, names: Sequence[str]) -> dict[str, float]:
    if not isinstance(point, Mapping) or not all(name in names and _finite(v) for name, v in point.items()):
        raise Wrong(f"{point!r} does not give numbers to some of {', '.join(names)}")
    return {name: float(value) for name, value in point.items()}


def _finite(value: Any) -> TypeGuard[float]:
    if isinstance(value, int):  # which a float has to hold
        return not isinstance(value, bool) and abs(value) <= 2**53
    return isinstance(value, float) and math.isfinite(value)


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and _finite(value) and value >= 0


def _interval(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_finite, value)) and value[0] <= value[1]


def check_proof(
    family: Family,
    region: Mapping[str, Any],
    proof: Mapping[str, Any],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> float:
    """Check that a proof covers a region, and that each of its cells proves what it says.

    Returns:
        The required probability H that it proves.

    Raises:
        Wrong: it proves something else, or nothing.
        Unverifiable: this program cannot tell.
    """
    h, cells = proof.get("required_probability"), proof.get("cells")
    if not (_finite(h) and 0.5 <= h <= 1 and isinstance(cells, list)):
        raise Wrong("the proof has no required_probability in [1/2, 1] with a list of cells")
    if h == 1:
        return 1.0  # which no probability exceeds
    wanted = {need.key: need for need in needed(family, region)}
    covered: dict[tuple[tuple[str, float], ...], list[tuple[float, float]]] = {key: [] for key in wanted}
    progress(0, len(cells))
    for done, cell in enumerate(cells):
        beta, k, over, interval = _cell(cell, list(family.identity), done)
        need = wanted.get(_key(beta, over))
        if need is None or need.over != over:
            continue  # whatever it says, it covers nothing that has to be covered
        variation = arb(0) if over is None else family.variation(beta, over, interval)
        left = arb(k) * arb(h) - family.u(beta, k) - variation
        if not left >= 0.5:
            reason = "below 1/2" if left < 0.5 else "not shown to reach 1/2"
            raise Wrong(f"cell {done} at {_words(beta)}: k H - U - tau = {left.str(12)}, {reason}")
        covered[need.key].append(interval)
        progress(done + 1, len(cells))
    for key, need in wanted.items():
        reached = need.interval[0]
        for start, end in sorted(covered[key]):
            reached = max(reached, end) if start <= reached else reached
        if not covered[key] or reached < need.interval[1]:
            at = "" if need.over is None else f" from {need.over}={reached!r} on"
            raise Wrong(f"no cell covers {_words(dict(key))}{at}")
    return float(h)


def _cell(cell: Any, names: list[str], number: int) -> tuple[dict[str, float], float, str | None, tuple[float, float]]:
    """β, k, the parameter that the cell is over, if any, and its interval."""
    if not isinstance(cell, Mapping) or not {"beta", "k"} <= cell.keys() <= {"beta", "k", "over"}:
        raise Wrong(f"cell {number} has not beta, k and what it is over")
    beta, k, over = _named(cell["beta"], names), cell["k"], cell.get("over")
    if set(beta) != set(names) or not (_finite(k) and k >= 0):
        raise Wrong(f"cell {number} has not each of {', '.join(names)}, with k >= 0")
    if over is None:
        return beta, float(k), None, (0.0, 0.0)
    if not isinstance(over, Mapping) or over.get("name") not in names or not _interval(over.get("interval")):
        raise Wrong(f"cell {number} is over {over!r}, not over an interval of a parameter")
    low, high = map(float, over["interval"])
    if not low <= beta[over["name"]] <= high:
        raise Wrong(f"cell {number} is over [{low}, {high}], which does not hold {over['name']}={beta[over['name']]}")
    return beta, float(k), over["name"], (low, high)


def _key(beta: Mapping[str, float], search: str | None) -> tuple[tuple[str, float], ...]:
    """The parameters but for the one that runs over an interval."""
    return tuple(sorted((name, value) for name, value in beta.items() if name != search))


def _words(beta: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in beta.items())


# Runs.


@dataclass
class Checked:
    """What became of a run: lines for people, what is wrong, what could not be told, and H where it was proved."""

    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    required_probability: float | None = None

    @property
    def verified(self) -> bool:
        return not self.wrong and not self.open


def _read(file: Path) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not a number")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):  # a reader might take either
            raise ValueError(f"a name occurs twice among {', '.join(key for key, _ in pairs[:9])}")
        return found

    try:
        return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse, object_pairs_hook=once)
    except OSError as error:
        raise Wrong(f"{file} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise Wrong(f"{file} is not JSON ({error})") from error


#: Columns of records.csv that are read, and whether they are whole numbers.
_COLUMNS = {"index": int, "label": int, "prediction": int, "n0": int, "n": int, "count": int, "p_lower": float}
_COLUMNS |= {"base_prediction": int}
#: Those that a run may have: the coin of a randomised bound, the counts at the look that a sequential one rests on, and
#: of an image in slices their number, how many were decided, and the votes of all.
_MORE = {"coin": float, "look_count": int, "look_n": int, "slices": int, "slices_tried": int, "votes": int}
#: What draws on a grid of exactly known probabilities cost: 3ε, where ε is how far they may be from the laws.
_GRID = 1e-7


def _records(file: Path) -> list[dict[str, Any]]:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            rows: list[dict[str, Any]] = list(reader)
            names = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Wrong(f"{file} cannot be read ({error})") from error
    if len(set(names)) < len(names):
        raise Wrong(f"{file}: a column occurs twice")
    for line, row in enumerate(rows, start=2):
        if None in row:  # values beyond the last column
            raise Wrong(f"{file}: line {line} has more values than there are columns")
        for name, value in row.items():
            number = int if str(name).startswith("certified_") else (_COLUMNS | _MORE).get(name)
            if number is None:
                continue
            try:
                row[name] = number(value)
            except (TypeError, ValueError):
                raise Wrong(f"{file}: line {line}: {name} is {value!r}") from None
        missing = _COLUMNS.keys() - row.keys()
        if missing or not all(_finite(row[name]) for name in _COLUMNS):
            raise Wrong(f"{file}: line {line} has no {', '.join(sorted(missing)) or 'finite numbers'}")
    if not rows or len({row["index"] for row in rows}) < len(rows):
        raise Wrong(f"{file}: {'an image occurs twice' if rows else 'there is no image'}")
    return rows


def binomial_tail(count: int, n: int, p: arb) -> arb:
    """P(at least ``count`` successes in ``n`` draws)."""
    if count <= 0:
        return arb(1)
    return arb(0) if count > n else p.beta_lower(count, n - count + 1, regularized=True)


#: Anytime-valid tests by name: the weight of q = 1, and b of the density b (1 - u)^(b - 1) of the other
#: alternatives q = h + (1 - h) u. Any numbers make a valid test, as long as they are fixed beforehand.
_MIXTURES = {"uniform": (0.0, 1), "sure": (0.55, 2)}


def evidence(count: int, n: int, h: arb, mixture: str) -> arb:
    """The mean over alternatives q of q^S (1-q)^F / (h^S (1-h)^F): a supermartingale where p <= h."""
    sure, b = _MIXTURES[mixture]
    failures = n - count
    tail = (1 - h).beta_lower(failures + b, count + 1)  # ∫_h^1 q^S (1-q)^(F+b-1) dq
    m = (1 - arb(sure)) * b * tail / (h**count * (1 - h) ** (failures + b))
    return m + arb(sure) / h**count if failures == 0 else m


class _Votes:
    """What the counts of an image say of its probability, by the procedure of a run."""

    def __init__(self, summary: Mapping[str, Any], family: Family | None) -> None:
        monte_carlo = summary["monte_carlo"]
        self.name, self.n0, self.n = monte_carlo["name"], monte_carlo["n0"], monte_carlo["n"]
        self.alpha, self.randomised = monte_carlo["alpha"], monte_carlo.get("randomised") or False
        if self.name not in ("paper", "paper_literal", "sequential", "exhaustive"):
            raise Unverifiable(f"monte_carlo.name={self.name} is not a procedure that is known here")
        if not (_whole(self.n0) and _whole(self.n) and isinstance(self.randomised, bool)):
            raise Wrong("monte_carlo.n0 and n are not numbers of draws, or randomised not true or false")
        exact = self.name == "exhaustive"
        if not (_finite(self.alpha) and (self.alpha == 0 if exact else 0 < self.alpha < 1)):
            raise Wrong(f"monte_carlo.alpha={self.alpha!r} is not a failure probability")
        self.mixture = monte_carlo.get("mixture") or "uniform"
        if self.name == "sequential" and self.mixture not in _MIXTURES:
            raise Unverifiable(f"monte_carlo.mixture={self.mixture!r} is not a test that is known here")
        self.masses: list[arb] = []
        if exact:
            if summary.get("pixel_noise") or summary.get("stochastic"):
                raise Wrong("monte_carlo.name=exhaustive asks once about each shift, but the answers are random")
            if family is None or not family.sizes or set(family.laws) != {"tx", "ty"}:
                raise Unverifiable("monte_carlo.name=exhaustive of a family whose law is not finite")
            if math.prod(family.sizes.values()) > _MOST:
                raise Unverifiable(f"image_size={family.sizes} has more shifts than can be counted here")
            of_x, of_y = (_cycle(family.laws[name], family.sizes[name]) for name in ("tx", "ty"))
            masses = sorted((x * y for x in of_x for y in of_y), key=lambda mass: -float(mass.mid()))
            self.masses = [arb(0), *itertools.accumulate(masses)]
        self.follows = lru_cache(maxsize=None)(self._follows)

    def check_draws(self, row: Mapping[str, Any]) -> None:
        fixed = self.name.startswith("paper")
        for name, most in (("n0", self.n0), ("n", self.n)):
            if not (row[name] == most if fixed else 0 <= row[name] <= most):
                raise Wrong(f"image {row['index']}: {name}={row[name]}, but the run was to draw {most}")
        if not 0 <= row["count"] <= row["n"]:
            raise Wrong(f"image {row['index']}: count={row['count']} of n={row['n']}")
        if not 0 <= row.get("coin", 1.0) <= 1:
            raise Wrong(f"image {row['index']}: coin={row['coin']} is not in [0, 1]")
        if self.looks(row):
            count, n = row["look_count"], row["look_n"]
            if not (0 <= count <= row["count"] and 0 <= n - count <= row["n"] - row["count"]):
                raise Wrong(f"image {row['index']}: {count} of {n} votes were no part of {row['count']} of {row['n']}")

    def looks(self, row: Mapping[str, Any]) -> bool:
        """Does the row say on which votes, the last or earlier ones, its p_lower rests?"""
        return self.name == "sequential" and {"look_count", "look_n"} <= row.keys()

    def judge(self, row: Mapping[str, Any]) -> bool | None:
        """Does a row's p_lower follow from its counts? None where earlier counts, which are not kept, may say so."""
        if self.looks(row):
            return self.follows(row["look_count"], row["look_n"], row["p_lower"], 1.0) or False
        return self.follows(row["count"], row["n"], row["p_lower"], row.get("coin", 1.0))

    def _follows(self, count: int, n: int, p: float, coin: float) -> bool | None:
        """Is ``p`` a lower bound by these counts? None where earlier counts may say so."""
        if p <= 0:
            return True
        at = arb(p)
        if self.name == "exhaustive":
            # The first n shifts were visited, most probable first; at worst the most probable of them failed, at best
            # the least probable ones.
            if self.masses[n] - self.masses[n - count] >= at:
                return True
            return False if self.masses[count] < at else None
        if self.name == "sequential":
            if p < 1 and evidence(count, n, at, self.mixture) >= 1 / arb(self.alpha):
                return True
            earlier = p < 1 and not evidence(count, count, at, self.mixture) < 1 / arb(self.alpha)
            return None if earlier else False
        alpha = arb(self.alpha) / (2 if self.name == "paper_literal" else 1)
        tail = binomial_tail(count, n, at)
        if self.randomised:
            tail = (1 - arb(coin)) * binomial_tail(count + 1, n, at) + arb(coin) * tail
        if not (tail <= alpha or tail > alpha):
            raise Unverifiable(f"{count} of {n} draws are beyond what can be computed with here")
        return bool(tail <= alpha)


@contextmanager
def _judging(result: Checked, not_that: str) -> Iterator[None]:
    """Whatever is raised becomes a line of the result."""
    try:
        yield
    except Unverifiable as error:
        result.open.append(str(error))
    except Wrong as error:
        result.wrong.append(str(error))
    except (ArithmeticError, ValueError) as error:
        result.open.append(f"a number is beyond what can be computed with here ({error})")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        result.wrong.append(f"{not_that} ({type(error).__name__}: {error})")


def _check_required(
    result: Checked, of: Mapping[str, Any], family: Family, proof: Any, progress: Callable[[int, int], None]
) -> None:
    h = check_proof(family, of["region"], proof, progress)
    cells = len(proof["cells"])
    result.required_probability = h
    result.lines.append(
        f"required probability {upper(arb(h)):.9f} proved for the whole region, {cells} cell{'s' * (cells != 1)}: "
        f"{json.dumps(of['region'])}"
    )


def _check_grid(result: Checked, summary: Mapping[str, Any], family: Family) -> None:
    """Add what it costs that draws lie on a grid, where they do. A grid stays one where each parameter moves alone."""
    draws = summary.get("draws", "continuous")
    if draws == "grid" and any(len(names) > 1 for _, names in family.factors):
        raise Wrong(f"draws={draws!r}, but a parameter that moves another leaves no grid")
    if draws == "grid" and result.required_probability is not None:
        result.required_probability += _GRID
        result.lines.append(
            f"of these the parameters on the grid of the draws, which cost {_GRID:g} more, and no others"
        )
    elif draws != "continuous":
        raise Unverifiable(f"draws={draws!r} are not known here")


def check_run(path: Path, progress: Callable[[int, int], None] = lambda done, of: None) -> Checked:
    """Check a certification run: its votes, its required probability, its certificates and its shares.

    Args:
        path: the run's directory.
        progress: is told how many of the proof's cells are checked, and of how many.
    """
    result = Checked()
    with _judging(result, f"{path}: these are not the files of a certification"):
        summary, rows = _read(path / "summary.json"), _records(path / "records.csv")
        size, of_data = summary.get("image_size"), (summary.get("dataset") or {}).get("image_size")
        if size is not None and of_data is not None and list(size) != list(of_data):
            raise Wrong(f"image_size={size}, but the images have {of_data} pixels")
        family: Family | None = None
        try:
            family = Family(summary["transform"], summary["smoothing"], summary.get("image_size"))
            if not (path / "proof.json").is_file():
                raise Unverifiable("there is no proof.json; glsmooth verify writes it, where there is a proof")
            _check_required(result, summary, family, _read(path / "proof.json"), progress)
            _check_grid(result, summary, family)
        except Unverifiable as error:
            result.open.append(f"required probability: {error}")
        _check_votes(result, rows, _Votes(summary, family))
        _check_methods(result, rows, summary)
    return result


def _check_votes(result: Checked, rows: list[dict[str, Any]], votes: _Votes) -> None:
    earlier, unknown = 0, []
    for row in rows:
        votes.check_draws(row)
        claimed = any(mark for name, mark in row.items() if name.startswith("certified_"))
        if claimed and row.get("slices_tried") != row.get("slices"):
            raise Wrong(f"image {row['index']} is certified, but not all of its slices were tried")
        follows = votes.judge(row)
        if follows is None:
            earlier += 1
            if claimed:
                unknown.append(row["index"])
        elif not follows:
            raise Wrong(
                f"image {row['index']}: p_lower={row['p_lower']!r} does not follow from {row['count']} of {row['n']}"
            )
    error = f"{votes.name}, alpha = {votes.alpha:g}"
    result.lines.append(f"{len(rows) - earlier} of {len(rows)} p_lower follow from their counts ({error})")
    if earlier > len(unknown):
        result.lines.append(
            f"{earlier - len(unknown)} may rest on earlier counts, which the records do not keep; of images that no "
            "method certifies"
        )
    if unknown:
        result.open.append(
            f"p_lower of {len(unknown)} certified images ({', '.join(map(str, unknown[:5]))}) may rest on earlier "
            "counts, which the records do not keep"
        )


def _check_methods(result: Checked, rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> None:
    h = result.required_probability
    certified: dict[str, int] = {}
    marked = {name.removeprefix("certified_") for name in rows[0] if name.startswith("certified_")}
    if marked != set(summary["methods"]):
        raise Wrong(f"records.csv has certificates by {sorted(marked)}, summary.json {sorted(summary['methods'])}")
    for name, method in summary["methods"].items():
        required, sound = method["required_probability"], method["sound"] and summary.get("approximate") is None
        said = [row[f"certified_{name}"] for row in rows]
        for row, mark in zip(rows, said, strict=True):
            meant = sound is True and required is not None and row["p_lower"] > required
            if mark != meant or (mark and row["prediction"] < 0):
                raise Wrong(
                    f"image {row['index']}: certified_{name}={mark}, but p_lower={row['p_lower']!r} and "
                    f"the required probability is {required} ({'sound' if sound else 'not sound'})"
                )
            if mark and h is not None and not row["p_lower"] > h:
                result.open.append(
                    f"image {row['index']}: certified_{name} with p_lower={row['p_lower']!r}, but the proof needs {h!r}"
                )
        certified[name] = sum(said)
        right = sum(mark and row["prediction"] == row["label"] for row, mark in zip(rows, said, strict=True))
        _check_number(f"methods.{name}.certified_robust_accuracy", method, right / len(rows))
        if required is not None and sound and h is not None and h - required > 1e-4:
            result.open.append(f"methods.{name}.required_probability={required!r} is below the {h!r} that is proved")
    most = summary["monte_carlo"]["n"]
    low = [row for row in rows if row["p_lower"] <= 0.5]
    given_up = sum(row["n"] < most and row["prediction"] >= 0 for row in low)
    shares = {
        "base_accuracy": sum(row["base_prediction"] == row["label"] for row in rows),
        "smoothed_accuracy": sum(row["prediction"] == row["label"] for row in rows),
        "given_up": given_up,
        "abstained": len(low) - given_up,
    }
    votes = sum(row.get("votes", row["n0"] + row["n"]) for row in rows)
    numbers = {name: count / len(rows) for name, count in shares.items()}
    for name, number in {**numbers, "votes_used": votes, "votes_per_image": votes / len(rows)}.items():
        _check_number(name, summary, number)
    if summary.get("images") != len(rows):
        raise Wrong(f"summary.json has images={summary.get('images')}, records.csv {len(rows)}")
    counts = ", ".join(f"{count} by {name}" for name, count in certified.items() if count)
    result.lines.append(f"certified of {len(rows)} images: {counts or 'none'}; shares follow from the records")


def _check_number(name: str, where: Mapping[str, Any], number: float) -> None:
    stated = where.get(name.rpartition(".")[2])
    if stated is not None and not (_finite(stated) and abs(stated - number) <= 1e-9 * max(1, number)):
        raise Wrong(f"summary.json has {name}={stated!r}, but the records give {number!r}")


def check_file(file: Path, progress: Callable[[int, int], None] = lambda done, of: None) -> Checked:
    """Check a proof that stands alone, as ``glsmooth bounds … proof=FILE`` writes it."""
    result = Checked()
    with _judging(result, f"{file}: this is not a proof"):
        proof = _read(file)
        family = Family(proof["transform"], proof["smoothing"], proof.get("image_size"))
        size = f" on images of {proof['image_size']}" if proof.get("image_size") else ""
        result.lines.append(f"of {json.dumps(proof['transform'])} under {json.dumps(proof['smoothing'])}{size}")
        _check_required(result, proof, family, proof, progress)
    return result


def check(path: Path, progress: Callable[[int, int], None] = lambda done, of: None) -> Checked:
    """:func:`check_run` of a directory, :func:`check_file` of a file."""
    return (check_run if os.path.isdir(path) else check_file)(path, progress)


def show(path: Path, result: Checked) -> None:
    """Print what became of a run or of a proof."""
    print(_visible(str(path)))
    for mark, lines in (("ok", result.lines), ("OPEN", result.open), ("WRONG", result.wrong)):
        for line in lines[:20]:
            print(f"  {mark:<5}  {_visible(line)}")
        if len(lines) > 20:
            print(f"  {mark:<5}  and {len(lines) - 20} more")
    print(f"  {'verified' if result.verified else 'not verified'}", flush=True)


def _visible(text: str) -> str:
    """On one line, and without what moves a cursor or cannot be printed: files may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def status(results: Sequence[Checked]) -> int:
    """Exit status: 0 where all is verified, 1 where something is wrong, 3 where something could not be told."""
    return 1 if any(result.wrong for result in results) else 3 if any(result.open for result in results) else 0


def _tell(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"  cell {done} of {of}", end="\r", file=sys.stderr, flush=True)


def main() -> None:
    """Check the runs and proofs that ``sys.argv`` names, as they are."""
    results = []
    for path in map(Path, sys.argv[1:]):
        results.append(check(path, _tell))
        show(path, results[-1])
    sys.exit(status(results) if results else __doc__)


if __name__ == "__main__":
    main()
