"""Laws that could take the place of a family's own: other spreads of the same kind, and other kinds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from glsmooth.errors import UserError
from glsmooth.family.regions import Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import LAWS, Law
from glsmooth.laws.checks import is_own

__all__ = ["Candidate", "candidates", "spread"]

# A normal law has the middle 68.27 % of its mass within one scale of its median.
_TAIL = 0.15865525393145707
# Significant digits of what is to be typed; the laws of the family itself keep all of theirs.
_DIGITS = 3


@dataclass(frozen=True)
class Candidate:
    """A family with other laws.

    Attributes:
        family: with these laws.
        varied: the parameters whose laws differ along the line that the candidate lies on.
        kind: name of their law on that line where it is the same for all; else None.
        multiplier: their spread, relative to the laws with which the line begins.
        own: are the laws those of the family that was given?
    """

    family: SmoothedFamily
    varied: tuple[str, ...]
    kind: str | None
    multiplier: float
    own: bool


def candidates(family: SmoothedFamily, region: Region, scales: int) -> list[Candidate]:
    """What could be tried for a region: the family itself, other spreads and other kinds of laws.

    Shifts along the two axes of an image vary together, as one parameter. Where that is all there is, every kind of law
    that the family admits comes with all its spreads. Otherwise there are lines of spreads for all parameters together
    and for each alone, and each other kind once, with the spread of the law that it replaces. Spreads are geometric,
    reach from half to twice the larger of law and region, and one is the law's own.

    Args:
        family: transformation and laws to start from.
        region: what is to be covered.
        scales: spreads on a line, at least 3.

    Returns:
        Candidates without repetitions, the family itself among them. A law that the family refuses is left out.
    """
    groups = _groups(family)
    lines: list[Iterator[Candidate]] = []
    if len(groups) == 1:
        multipliers = _multipliers(family, region, groups[0], scales)
        lines = [_line(family, groups[0], kind, multipliers) for kind in _kinds(family, groups[0])]
    else:
        lines.append(_line(family, family.parameters, None, _multipliers(family, region, family.parameters, scales)))
        lines += [_line(family, group, None, _multipliers(family, region, group, scales)) for group in groups]
        for group in groups:
            own = {type(family.laws[name]) for name in group}
            lines += [_line(family, group, kind, [1.0]) for kind in _kinds(family, group) if {kind} != own]
    found: dict[Mapping[str, Law], Candidate] = {}
    for line in lines:
        for candidate in line:
            found.setdefault(candidate.family.laws, candidate)
    return list(found.values())


def spread(family: SmoothedFamily, name: str) -> float:
    """Half the distance between the quantiles of a parameter's law at 16 % and 84 %: of a normal law, its scale."""
    law = family.laws[name]
    # Left of a draw from the cycle lies the cell that is rounded to it.
    return (0.5 - _TAIL) * family.torus[name] if law.cyclic else _spread(law)


def _spread(law: Law) -> float:
    low, high = law.icdf(torch.tensor([_TAIL, 1 - _TAIL], dtype=torch.float64)).tolist()
    return float(high - low) / 2


def _median(law: Law) -> float:
    return float(law.icdf(torch.tensor(0.5, dtype=torch.float64)))


def _is_at(law: Law, centre: float) -> bool:
    """Is that its median, but for the rounding of its numbers?"""
    return math.isclose(_median(law), centre, rel_tol=0.01, abs_tol=1e-9)


def _groups(family: SmoothedFamily) -> list[tuple[str, ...]]:
    """Parameters that vary together."""
    shifts = tuple(name for name in family.parameters if name in family.transform.integer_parameters)
    alone = [(name,) for name in family.parameters if name not in shifts]
    return [group for group in (shifts, *alone) if group]


def _kinds(family: SmoothedFamily, group: tuple[str, ...]) -> list[type[Law]]:
    """All laws of our own, those of the group first."""
    own = [type(family.laws[name]) for name in group]
    return list(dict.fromkeys([*own, *LAWS.values()]))


def _multipliers(family: SmoothedFamily, region: Region, group: tuple[str, ...], scales: int) -> list[float]:
    """Ascending, 1 among them."""
    box = region.box(family.identity)
    sizes = [
        max(abs(end - family.identity[name]) for end in box.intervals[name]) / spread(family, name)
        for name in group
        if name in box.intervals
    ]
    size = max(sizes, default=0.0) or 1.0
    low, high = min(0.5, size / 2), max(2.0, size * 2)
    below = round((scales - 1) * math.log(low) / math.log(low / high))
    below = min(max(below, 1), scales - 2)
    above = scales - 1 - below
    return [*(low ** (i / below) for i in range(below, 0, -1)), *(high ** (i / above) for i in range(above + 1))]


def _line(
    family: SmoothedFamily, group: tuple[str, ...], kind: type[Law] | None, multipliers: list[float]
) -> Iterator[Candidate]:
    """The family with the laws of ``group`` replaced by those of a kind (None: their own), as far as it admits them."""
    for multiplier in multipliers:
        laws = dict(family.laws)
        for name in group:
            law = _replaced(family, name, kind or type(laws[name]), multiplier)
            if law is not None:
                laws[name] = law
            elif kind is not None:
                return
        try:
            changed = replace(family, laws=laws)
        except UserError:
            continue
        kinds = {type(laws[name]).__name__ for name in group}
        only = kind is not None and all(laws[name].cyclic for name in group)  # there is no spread to choose
        if only:
            multiplier = spread(changed, group[0]) / spread(family, group[0])
        yield Candidate(changed, group, kinds.pop() if len(kinds) == 1 else None, multiplier, changed == family)
        if only:
            return


def _replaced(family: SmoothedFamily, name: str, kind: type[Law], multiplier: float) -> Law | None:
    """A law of this kind for a parameter, with ``multiplier`` times its spread; None if there is none.

    It has the same median, where its numbers leave that open and the parameter's domain permits. A law that has an end
    where the parameter has none would move all images one way: it needs the median.
    """
    law, low = family.laws[name], family.transform.domain(name).low
    if type(law) is kind and (multiplier == 1 or law.cyclic):
        return law
    centre = family.identity[name] if law.cyclic else _median(law)
    try:
        if type(law) is kind:
            return _with(kind, centre, _scale(law) * multiplier, low, law)
        base = _with(kind, centre, _matched(kind, centre, spread(family, name), low), low)
        if base is None or base.cyclic:
            return base
        if low == -math.inf and not _is_at(base, centre):
            return None
        return _with(kind, centre, _scale(base) * multiplier, low)
    except UserError:  # too extreme to compute with
        return None


def _with(kind: type[Law], centre: float, scale: float, low: float, law: Law | None = None) -> Law | None:
    """The law of a kind with this scale and, as far as it has a choice, this median; of ``law`` it takes the rest."""
    scale = _rounded(scale)
    if law is not None and is_own(law):  # whose other numbers mean what its class makes of them
        return kind(**{**law.values, **({"scale": scale} if "scale" in law.values else {"rate": 1 / scale})})
    if kind.fields == ("loc", "scale"):
        if law is not None:
            return _made(kind, law.loc, scale)
        # Whether the law's loc is its median or the logarithm of it, the law itself says.
        for loc in (centre, *([math.log(centre)] if centre > 0 else [])):
            found = _made(kind, _rounded(loc, scale), scale)
            if _is_at(found, centre):
                return found
        return None
    if kind.fields == ("scale",):
        return _made(kind, scale)
    if kind.fields == ("rate",):
        return _made(kind, _rounded(1 / scale))
    if kind.fields == ("low", "high"):
        bottom = max(centre - scale, low)
        return _made(kind, _rounded(bottom, scale), _rounded(bottom + 2 * scale, scale))
    return None if kind.fields else kind()


def _made(kind: type[Law], *numbers: float) -> Law:
    return kind(**dict(zip(kind.fields, numbers, strict=True)))


def _scale(law: Law) -> float:
    """The number by which laws of this kind are stretched, as :func:`_with` takes it."""
    values = law.values
    if "scale" in values:
        return float(values["scale"])
    if "rate" in values:
        return 1 / values["rate"]
    if is_own(law):
        raise UserError(f"{law!r} has neither scale nor rate, by which it could be stretched")
    return (values["high"] - values["low"]) / 2


def _matched(kind: type[Law], centre: float, wanted: float, low: float) -> float:
    """The scale at which a law of this kind has the spread ``wanted``, which rises with it: by bisection."""
    below, above = wanted / 1e3, wanted * 1e3
    for _ in range(40):
        middle = math.sqrt(below * above)
        law = _with(kind, centre, middle, low)
        if law is None or law.cyclic:
            return wanted
        below, above = (middle, above) if _spread(law) < wanted else (below, middle)
    return above


def _rounded(value: float, unit: float | None = None) -> float:
    """To so many digits of its own, or to those of ``unit``: a place counts by the law's scale."""
    if unit is None:
        return float(f"{value:.{_DIGITS}g}")
    return round(value, _DIGITS - 1 - math.floor(math.log10(unit)))
