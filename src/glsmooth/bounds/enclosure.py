"""Interval arithmetic with derivatives, for functions that are written with torch.

An :class:`Enclosure` stands for every tensor between two: what torch would compute of any of them lies in what is
computed of it, and so does the derivative. It passes through a user's own function (``inverse``) where a tensor would,
by torch's protocol for such objects; operations that it does not know it refuses by name.

Each result is widened by 2^-48 of its size: torch's own rounding is a few times 2^-53. An end that cannot be known (a
division by an interval around 0, a logarithm of a negative number) is NaN, and so is what follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Enclosure", "Unenclosed", "determinant"]

_ROUNDING = 2.0**-48
#: The same at 0. Far above the smallest floats, with which processors are slow.
_TINY = 1e-250
#: Room for the rounding of ends and of π where a turning point of the sine might lie just outside an interval.
_NEAR = 1e-9


class Unenclosed(TypeError):
    """An operation of which no enclosure is known; the message names it."""


class Enclosure:
    """All tensors between ``low`` and ``high``, which have one shape.

    Attributes:
        low, high: float64 tensors.
        slopes: enclosures (without slopes of their own) of the derivative by each variable, of the same shape; none of
            them for what does not depend on any.
    """

    def __init__(self, low: Tensor, high: Tensor, slopes: Sequence[Enclosure] = ()) -> None:
        self.low, self.high = torch.broadcast_tensors(low, high)
        shape = self.low.shape
        self.slopes = tuple(
            slope if slope.low.shape == shape else Enclosure(slope.low.expand(shape), slope.high.expand(shape))
            for slope in slopes
        )

    @staticmethod
    def variables(points: Tensor) -> Enclosure:
        """Points (n, d) whose d coordinates are the variables."""
        unit = torch.eye(points.shape[-1], dtype=points.dtype)
        slopes = [Enclosure(row.expand_as(points), row.expand_as(points)) for row in unit]
        return Enclosure(points, points, slopes)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _call(function.__name__, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "ndim", "dtype", "device"):
            return getattr(self.low, name)
        if name.startswith("__"):  # Python asks for these by itself
            raise AttributeError(name)
        if name not in _FUNCTIONS and name not in _SAME_AS and name not in _MOVES:
            raise Unenclosed(name)
        return lambda *args, **kwargs: _call(name, (self, *args), kwargs)

    def __len__(self) -> int:
        return len(self.low)

    def __bool__(self) -> bool:
        raise Unenclosed("a comparison")

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = lambda self, other: _refuse("a comparison")
    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = lambda self, other: _refuse("an operation in place")
    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, index: Any) -> Enclosure:
        part: Enclosure = _reshaped("__getitem__", (self, index), {})
        return part

    def __neg__(self) -> Enclosure:
        return Enclosure(-self.high, -self.low, [-slope for slope in self.slopes])

    def __add__(self, other: Any) -> Enclosure:
        other = _enclosed(other)
        slopes = [a + b for a, b in _paired(self, other)]
        return _outward(self.low + other.low, self.high + other.high, slopes)

    def __sub__(self, other: Any) -> Enclosure:
        return self + -_enclosed(other)

    def __mul__(self, other: Any) -> Enclosure:
        other = _enclosed(other)
        slopes = [a * other.plain + self.plain * b for a, b in _paired(self, other)]
        a, b = self.low * other.low, self.low * other.high
        c, d = self.high * other.low, self.high * other.high
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        return _outward(torch.minimum(low, torch.minimum(c, d)), torch.maximum(high, torch.maximum(c, d)), slopes)

    def __truediv__(self, other: Any) -> Enclosure:
        return self * _reciprocal(_enclosed(other))

    def __pow__(self, exponent: Any) -> Enclosure:
        if isinstance(exponent, int | float) and exponent == int(exponent):
            return _whole_power(self, int(exponent))
        return _exp(_enclosed(exponent) * _log(self))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Any) -> Enclosure:
        return _enclosed(other) - self

    def __rtruediv__(self, other: Any) -> Enclosure:
        return _enclosed(other) / self

    def __rpow__(self, base: Any) -> Enclosure:
        return _enclosed(base) ** self

    @property
    def plain(self) -> Enclosure:
        """The same without its slopes."""
        return Enclosure(self.low, self.high)

    def __repr__(self) -> str:
        return f"Enclosure({self.low}, {self.high})"


def determinant(rows: Sequence[Sequence[Enclosure]]) -> Enclosure:
    """Of a square matrix of enclosures without slopes, by its minors: small ones only."""
    if len(rows) == 1:
        return rows[0][0]
    total: Enclosure | None = None
    for j, entry in enumerate(rows[0]):
        term = entry * determinant([[*row[:j], *row[j + 1 :]] for row in rows[1:]])
        signed = -term if j % 2 else term
        total = signed if total is None else total + signed
    assert total is not None
    return total


def _refuse(what: str) -> Any:
    raise Unenclosed(what)


def _enclosed(value: Any) -> Enclosure:
    if isinstance(value, Enclosure):
        return value
    exact = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    if exact.is_complex():
        raise Unenclosed("a complex number")
    exact = exact.double()
    return Enclosure(exact, exact)


def _outward(low: Tensor, high: Tensor, slopes: Sequence[Enclosure] = ()) -> Enclosure:
    """Widened by what rounding may have changed."""
    return Enclosure(low - low.abs() * _ROUNDING - _TINY, high + high.abs() * _ROUNDING + _TINY, slopes)


def _paired(one: Enclosure, other: Enclosure) -> list[tuple[Enclosure, Enclosure]]:
    """Slopes by the same variables; zero where there are none."""
    zero = _enclosed(0.0)
    number = max(len(one.slopes), len(other.slopes))
    first, second = (list(x.slopes) or [zero] * number for x in (one, other))
    return list(zip(first, second, strict=True))


def _chained(x: Enclosure, value: Enclosure, derivative: Callable[[], Enclosure]) -> Enclosure:
    """f(x) without slopes, with those that follow from f′(x)."""
    if not x.slopes:
        return value
    by_x = derivative()
    return Enclosure(value.low, value.high, [by_x * slope for slope in x.slopes])


def _reciprocal(x: Enclosure) -> Enclosure:
    around_zero = (x.low <= 0) & (x.high >= 0)
    low, high = (torch.where(around_zero, math.nan, 1 / end) for end in (x.high, x.low))
    value = _outward(low, high)
    return _chained(x, value, lambda: -(value * value))


def _whole_power(x: Enclosure, n: int) -> Enclosure:
    if n < 0:
        return _reciprocal(_whole_power(x, -n))
    low, high = x.low**n, x.high**n
    if n % 2 == 0 and n:
        around_zero = (x.low <= 0) & (x.high >= 0)
        low, high = torch.where(around_zero, 0.0, torch.minimum(low, high)), torch.maximum(low, high)
    return _chained(x, _outward(low, high), lambda: _whole_power(x.plain, max(0, n - 1)) * n)


def _rising(function: Callable[[Tensor], Tensor], derivative: Callable[[Enclosure], Enclosure]) -> Any:
    """The rule of a function that rises wherever it is defined."""

    def rule(x: Enclosure) -> Enclosure:
        return _chained(x, _outward(function(x.low), function(x.high)), lambda: derivative(x.plain))

    return rule


def _wave(function: Callable[[Tensor], Tensor], top: float, derivative: Callable[[Enclosure], Enclosure]) -> Any:
    """The rule of a sine, whose maxima lie at ``top`` modulo 2π."""
    turn = 2 * math.pi

    def rule(x: Enclosure) -> Enclosure:
        room = _NEAR * (1 + torch.maximum(x.low.abs(), x.high.abs()))

        def passes(point: float) -> Tensor:
            return torch.floor((x.high + room - point) / turn) >= torch.ceil((x.low - room - point) / turn)

        ends = function(x.low), function(x.high)
        low = torch.where(passes(top + math.pi), -1.0, torch.minimum(*ends))
        high = torch.where(passes(top), 1.0, torch.maximum(*ends))
        known = (x.low.abs() < 1e9) & (x.high.abs() < 1e9)
        value = _outward(torch.where(known, low, math.nan), torch.where(known, high, math.nan))
        return _chained(x, value, lambda: derivative(x.plain))

    return rule


_exp: Callable[[Enclosure], Enclosure] = _rising(torch.exp, lambda x: _exp(x))
_log: Callable[[Enclosure], Enclosure] = _rising(torch.log, lambda x: _reciprocal(x))
_tanh: Callable[[Enclosure], Enclosure] = _rising(torch.tanh, lambda x: 1 - _whole_power(_tanh(x), 2))
_sqrt: Callable[[Enclosure], Enclosure] = _rising(torch.sqrt, lambda x: _reciprocal(_sqrt(x) * 2))
_sine: Callable[[Enclosure], Enclosure] = _wave(torch.sin, math.pi / 2, lambda x: _cosine(x))
_cosine: Callable[[Enclosure], Enclosure] = _wave(torch.cos, 0.0, lambda x: -_sine(x))

#: What is known, by torch's names.
_FUNCTIONS: dict[str, Callable[..., Enclosure]] = {
    "exp": _exp,
    "exp2": lambda x: _exp(x * math.log(2)),
    "log2": lambda x: _log(x) / math.log(2),
    "expm1": _rising(torch.expm1, _exp),
    "log": _log,
    "log1p": _rising(torch.log1p, lambda x: _reciprocal(x + 1)),
    "sqrt": _sqrt,
    "tanh": _tanh,
    "sin": _sine,
    "cos": _cosine,
    "square": lambda x: _whole_power(x, 2),
    "reciprocal": _reciprocal,
    "neg": lambda x: -x,
    "add": lambda x, y: _enclosed(x) + y,
    "sub": lambda x, y: _enclosed(x) - y,
    "rsub": lambda x, y: _enclosed(y) - x,
    "mul": lambda x, y: _enclosed(x) * y,
    "div": lambda x, y: _enclosed(x) / y,
    "rdiv": lambda x, y: _enclosed(y) / x,
    "pow": lambda x, y: _enclosed(x) ** y,
    "rpow": lambda x, y: _enclosed(y) ** x,
}
_SAME_AS = {"multiply": "mul", "subtract": "sub", "divide": "div", "true_divide": "div", "truediv": "div"}
_SAME_AS |= {"rtruediv": "rdiv", "negative": "neg", "radd": "add", "rmul": "mul"}
#: Functions that only move numbers about.
_MOVES = frozenset(
    ("stack", "cat", "unbind", "split", "chunk", "getitem", "unsqueeze", "squeeze", "select", "narrow", "reshape")
) | {"expand", "expand_as", "broadcast_to", "broadcast_tensors", "clone", "contiguous", "flatten", "transpose"}


def _call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if name.endswith("_") and not name.endswith("__"):  # it would change its argument
        raise Unenclosed(name)
    name = name.strip("_")
    name = _SAME_AS.get(name, name)
    if name in _FUNCTIONS and not kwargs:
        return _FUNCTIONS[name](*args)
    if name in _MOVES:
        return _reshaped("__getitem__" if name == "getitem" else name, args, kwargs)
    if name in ("zeros_like", "ones_like"):
        return getattr(torch, name)(args[0].low)
    if name == "get":  # of a property of a tensor, which has one name for all
        name = "a property"
    raise Unenclosed(name + (f" with {', '.join(kwargs)}" if kwargs else ""))


def _reshaped(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function that only moves numbers about, of every part."""
    first, *rest = args
    many = isinstance(first, list | tuple)
    moved = [_enclosed(x) for x in first] if many else [_enclosed(first)]
    if name == "broadcast_tensors":
        moved, many = [_enclosed(x) for x in args], True
        rest = []
    rest = [x.low if isinstance(x, Enclosure) else x for x in rest]  # expand_as
    number = max(len(x.slopes) for x in moved)
    slopes = [list(x.slopes) or [_enclosed(torch.zeros_like(x.low))] * number for x in moved]

    def part(tensors: list[Tensor]) -> Any:
        if name == "broadcast_tensors":
            return torch.broadcast_tensors(*tensors)
        if many:
            return getattr(torch, name)(tensors, *rest, **kwargs)
        return getattr(tensors[0], name)(*rest, **kwargs)

    low, high = part([x.low for x in moved]), part([x.high for x in moved])
    by = [(part([s[i].low for s in slopes]), part([s[i].high for s in slopes])) for i in range(number)]
    if isinstance(low, Tensor):
        return Enclosure(low, high, [Enclosure(*ends) for ends in by])
    return tuple(
        Enclosure(low[i], high[i], [Enclosure(ends[0][i], ends[1][i]) for ends in by]) for i in range(len(low))
    )
