"""Numbers and settings in words, rounded so that no printed statement claims more than was computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from glsmooth.bounds import METHODS as BOUNDS
from glsmooth.bounds import Outcome
from glsmooth.configuration.build import ONLY_IN_PYTHON
from glsmooth.configuration.fields import cut
from glsmooth.family.regions import Ball, Box, Points, Region

# parameter -> (name in a sentence, unit as an axis label shows it)
PARAMETERS: dict[str, tuple[str, str]] = {
    "brightness": ("brightness", "added to intensities in [0, 1]"),
    "contrast": ("contrast", "factor"),
    "gamma": ("gamma", "exponent"),
    "tx": ("horizontal shift", "pixels"),
    "ty": ("vertical shift", "pixels"),
    "blur": ("blur", "kernel variance, pixels²"),
    "angle": ("angle", "degrees"),
    "scale": ("scale", "factor"),
}
METHODS = {
    "neyman_pearson": "NP",
    "gl": "GL",
    "gl_ode": "GL ode form",
    "gl_printed": "GL as printed",
    "tss": "TSS",
    "mp": "MP",
}
#: Parameters in pixels.
SHIFTS = {"tx", "ty"}
_UNITS = {"tx": " pixels", "ty": " pixels", "angle": " degrees"}
#: Points of a list that are written out.
_POINTS = 4
SYMBOLS = {
    "brightness": "b",
    "contrast": "c",
    "gamma": "γ",
    "tx": "tx",
    "ty": "ty",
    "blur": "r",
    "angle": "θ",
    "scale": "s",
}


def floor(value: float, digits: int) -> str:
    """``value`` rounded down: for what a certificate claims (p_A)."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR))


def ceil(value: float, digits: int) -> str:
    """``value`` rounded up: for what a certificate needs (h_min).

    Bounds add an allowance of about 10⁻¹⁴ for rounding; less than 10⁻¹¹ does not make another digit of it.
    """
    return str((Decimal(value) - Decimal("1e-11")).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))


def caption(name: str, length: int) -> str:
    """A class name for a picture: cut to ``length`` signs, with no sign that matplotlib would interpret."""
    return literal(shortened(name, length))


def shortened(words: str, length: int) -> str:
    """``words`` cut to ``length`` signs."""
    return words if len(words) <= length else words[: length - 1].rstrip(" ,") + "…"


def literal(text: str) -> str:
    """A name for a picture with no sign that matplotlib would interpret."""
    return text.replace("$", r"\$")


def percent(count: int, total: int) -> str:
    """``count`` of ``total`` in per cent with one digit, rounded down in exact integer arithmetic."""
    tenths = 1000 * count // total
    return f"{tenths // 10}.{tenths % 10} %"


def share(count: int, total: int) -> float:
    """The number that :func:`percent` shows, as a share of 1."""
    return (1000 * count // total) / 1000


def number(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def interval(bounds: Sequence[float]) -> str:
    return f"[{number(bounds[0])}, {number(bounds[1])}]"


def parameter(name: str) -> str:
    return PARAMETERS.get(name, (name, ""))[0]


def axis_label(name: str) -> str:
    word, unit = PARAMETERS.get(name, (name, ""))
    return f"{word} ({unit})" if unit else literal(word)


def join(words: Iterable[str]) -> str:
    words = list(words)
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]


def region(where: Region) -> str:
    """``contrast in [0.7, 1.4] and brightness in [−0.2, 0.2]``; ``horizontal shift and vertical shift within 20 pixels
    of no shift (l2)``; ``the points (tx = 1, ty = 2) and (tx = 3)``."""
    if isinstance(where, Ball):
        return _ball(where)
    if isinstance(where, Points):
        first = [f"({point(one)})" for one in where.points[:_POINTS]]
        more = len(where.points) - len(first)
        return f"the points {join([*first, f'{more} more'] if more else first)}"
    assert isinstance(where, Box)
    return join(
        f"{parameter(name)} in {interval(bounds)}{_UNITS.get(name, '')}" for name, bounds in where.intervals.items()
    )


def every(where: Region) -> str:
    """A region after "under": ``every contrast in [0.7, 1.4]``, ``each of the points (tx = 1) and (tx = 3)``."""
    return f"each of {region(where)}" if isinstance(where, Points) else f"every {region(where)}"


def _ball(ball: Ball) -> str:
    names, size = join(parameter(name) for name in ball.parameters), number(ball.radius)
    shifts = set(ball.parameters) <= SHIFTS
    if shifts and not any(ball.centre.values()):
        return f"{names} within {size} pixels of no shift (l2)"
    units = {PARAMETERS.get(name, (name, ""))[1] for name in ball.parameters}
    distance = "l2" if len(units) == 1 else "l2, each in its own unit"
    return f"{names} within {size}{' pixels' if shifts else ''} of {point(ball.centre)} ({distance})"


def law(settings: Mapping[str, object]) -> str:
    """``LogNormal(loc 0, scale 0.6)`` from the plain dict of a smoothing law."""
    values = [f"{key} {number(float(value))}" for key, value in settings.items() if isinstance(value, (int, float))]
    if settings.get("_target_"):
        return f"{cut(str(settings['_target_'])).rpartition('.')[2]}({', '.join(values)})"
    name = str(settings["law"])
    # A law that only Python knows is named with its numbers.
    return name.removesuffix(ONLY_IN_PYTHON) if name.endswith(ONLY_IN_PYTHON) else f"{name}({', '.join(values)})"


def laws(smoothing: Mapping[str, Mapping[str, object] | None]) -> str:
    """``contrast ~ LogNormal(loc 0, scale 0.6); brightness ~ …`` from the plain dicts of a family's laws."""
    return "; ".join(f"{parameter(name)} ~ {law(said)}" for name, said in smoothing.items() if said is not None)


def point(values: Mapping[str, float]) -> str:
    return ", ".join(f"{SYMBOLS.get(name, name)} = {number(value)}" for name, value in values.items())


def error(votes: float, bound: float) -> str:
    """How a statement about one image can fail; ``votes``: alpha, 0 where no vote was sampled; ``bound``: alpha_b."""
    if votes + bound > 0.0:
        return f"except with probability at most {probability(votes + bound)} for each image"
    return "without any probability of error in the votes"


def probability(value: float) -> str:
    """An error probability, rounded up to three significant digits."""
    if value <= 0.0:
        return "0"
    # str is the number as it was typed: 0.001 must not become 0.00101 for its binary tail.
    exact = Decimal(str(value))
    rounded = exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), ROUND_CEILING)
    return f"{float(rounded):.3g}"


def title(outcome: Outcome) -> str:
    """The method's name in full."""
    return BOUNDS[outcome.method].title


def standing(outcome: Outcome) -> str:
    """``"sound"``, ``"unsound"`` (the method is), ``"estimate"`` (its value for this family is) or ``"approximate"``
    (the transformation is) with the residual."""
    if outcome.sound:
        return "sound"
    if outcome.residual is not None:
        return f"approximate, residual {outcome.residual:.2g}"
    return "estimate" if BOUNDS[outcome.method].sound else "unsound"
