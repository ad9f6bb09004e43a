"""Numbers and settings in words, rounded so that no printed statement claims more than was computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from glsmooth.bounds import METHODS as BOUNDS
from glsmooth.bounds import Outcome
from glsmooth.configuration.build import ONLY_IN_PYTHON

# parameter -> (name in a sentence, unit as an axis label shows it)
PARAMETERS: dict[str, tuple[str, str]] = {
    "brightness": ("brightness", "added to intensities in [0, 1]"),
    "contrast": ("contrast", "factor"),
    "gamma": ("gamma", "exponent"),
    "tx": ("horizontal shift", "pixels"),
    "ty": ("vertical shift", "pixels"),
    "blur": ("blur", "kernel variance, pixels²"),
}
METHODS = {
    "neyman_pearson": "NP",
    "gl": "GL",
    "gl_ode": "GL ode form",
    "gl_printed": "GL as printed",
    "tss": "TSS",
    "mp": "MP",
}
SYMBOLS = {"brightness": "b", "contrast": "c", "gamma": "γ", "tx": "tx", "ty": "ty", "blur": "r"}


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


def region(intervals: Mapping[str, Sequence[float]]) -> str:
    """``contrast in [0.7, 1.4] and brightness in [−0.2, 0.2]``."""
    parts = []
    for name, bounds in intervals.items():
        unit = " pixels" if name in ("tx", "ty") else ""
        parts.append(f"{parameter(name)} in {interval(bounds)}{unit}")
    return join(parts)


def law(settings: Mapping[str, object]) -> str:
    """``LogNormal(loc 0, scale 0.6)`` from the plain dict of a smoothing law."""
    values = [
        f"{key} {number(float(value))}"
        for key, value in settings.items()
        if key != "law" and isinstance(value, (int, float))
    ]
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
