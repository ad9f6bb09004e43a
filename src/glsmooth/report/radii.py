"""How far each image is certified along one parameter alone: radii, as users of Cohen et al. (2019) expect them.

h_min grows with the region, so an image's radius is where it meets the image's p_A. Sizes are those of a fixed grid,
each 1 % above the one before, and a radius is a size at which ``certify_region`` itself was asked and found h_min below
p_A, strictly: it is never interpolated, and never above the exact one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from glsmooth.bounds import METHODS, Outcome
from glsmooth.family.regions import Box
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.report import wording
from glsmooth.report.tables import bullets, comma_separated, markdown, primary
from glsmooth.runs.run import Run
from glsmooth.transforms.factors import NON_NEGATIVE, POSITIVE, REAL

__all__ = ["STEP", "Axis", "Radii", "Radius", "axis_of", "radii", "radii_csv", "radius_notes", "radius_rows", "section"]

#: Each size of the grid is larger than the one before by this share; of a factor k, k - 1 is.
STEP = 0.01
#: The first size and the last, in the parameter's own units. Four digits stand for the whole number: what is printed
#: is what was certified.
_FIRST, _LAST = 1e-4, 1e3
_SIZES = [float(f"{_FIRST * (1 + STEP) ** i:.4g}") for i in range(math.ceil(math.log(_LAST / _FIRST, 1 + STEP)) + 1)]


@dataclass(frozen=True)
class Axis:
    """The regions along one parameter, the others at the identity.

    Attributes:
        parameter: its name.
        form: the interval of a size, in words.
        none: the size of the identity alone, 0 or 1.
        sizes: the grid, ascending.
        interval: from a size to the interval that it stands for.
        whole: the last size covers the whole torus.
    """

    parameter: str
    form: str
    none: float
    sizes: Sequence[float]
    interval: Callable[[float], tuple[float, float]]
    whole: bool = False

    def region(self, size: float) -> Box:
        return Box(**{self.parameter: self.interval(size)})


@dataclass(frozen=True)
class Radius:
    """The radii along one axis.

    Attributes:
        values: (images,) the largest certified size, ``axis.none`` where none is.
        at_least: (images,) whether that is the grid's last, so that larger ones were not tried.
    """

    axis: Axis
    values: NDArray[np.float64]
    at_least: NDArray[np.bool_]


@dataclass(frozen=True)
class Radii:
    """What a run's votes certify along each parameter.

    Attributes:
        method: the bound, or None where no sound one applies.
        found: the parameters that have a radius.
        without: why the others have none, by name.
    """

    method: str | None
    found: tuple[Radius, ...]
    without: Mapping[str, str]


_SLICED = "votes were taken at references for the whole interval, and tell of no other"


def axis_of(family: SmoothedFamily, name: str) -> Axis | str:
    """The regions along a parameter: [-r, r] where it adds, [1/k, k] where it multiplies, [0, r] where it only grows.

    Returns:
        The axis, or why there is none.
    """
    factor = next((f for f in family.transform.factors or () if name in f.parameters), None)
    if factor is None:
        return f"no symmetric interval: {type(family.transform).__name__} declares no factors"
    identity, domain = factor.identity[factor.parameters.index(name)], factor.domain(name)
    if name in family.transform.integer_parameters:
        cycle = family.torus.get(name)
        last = int(_LAST) if cycle is None else cycle // 2
        whole = [float(size) for size in range(1, last + 1)]
        return Axis(name, "[−r, r]", 0.0, whole, lambda r: (-r, r), whole=cycle is not None)
    if (identity, domain) == (0.0, REAL):
        return Axis(name, "[−r, r]", 0.0, _SIZES, lambda r: (-r, r))
    if (identity, domain) == (0.0, NON_NEGATIVE):
        return Axis(name, "[0, r]", 0.0, _SIZES, lambda r: (0.0, r))
    if (identity, domain) == (1.0, POSITIVE):
        # All digits of k - 1, and no more: what is printed is what was certified.
        return Axis(name, "[1/k, k]", 1.0, [round(1.0 + size, 8) for size in _SIZES], lambda k: (1.0 / k, k))
    return f"no symmetric interval: its identity is {identity:g} and its domain {domain}"


def radii(run: Run, outcomes: Mapping[str, Outcome] | None = None) -> Radii:
    """The radius of every image of a run along each parameter of its transformation, the others at the identity.

    A radius holds whenever the image's p_A does: all of an image's radii fail together, with the probability of its
    votes. Those of several parameters do not make a box.

    Args:
        run: from :func:`glsmooth.runs.run.load_run`.
        outcomes: methods from which to take the best sound one; by default the run's.
    """
    best = primary(run.outcomes if outcomes is None else outcomes)
    if run.family.warps:
        return Radii(None, (), dict.fromkeys(run.region.parameters, _SLICED))
    if best is None:
        return Radii(None, (), dict.fromkeys(run.family.parameters, "no sound method applies"))
    levels, position = np.unique(run.p_lower, return_inverse=True)
    found, without = [], {}
    with tqdm(total=len(run.family.parameters) * len(levels), desc="Radii", leave=False, disable=None) as bar:
        for name in run.family.parameters:
            axis = axis_of(run.family, name)
            reason = axis if isinstance(axis, str) else _refusal(run, axis, best.method)
            if isinstance(axis, str) or reason is not None:
                without[name] = str(reason)
                bar.update(len(levels))
                continue
            at = _largest(axis, levels, run, best.method, bar.update)
            values = np.array([axis.none, *axis.sizes])[at]
            last = (at == len(axis.sizes)) & (levels > 0.5)
            found.append(Radius(axis, values[position], last[position]))
    return Radii(best.method, tuple(found), without)


def _refusal(run: Run, axis: Axis, method: str) -> str | None:
    """Why nothing can be certified along an axis, whatever the votes; None where something can."""
    if not axis.sizes:
        return None
    outcome = run.evaluate(axis.region(axis.sizes[0]), [method])[method]
    return outcome.argument if outcome.h_min is None or not outcome.sound else None


def _largest(
    axis: Axis, levels: NDArray[np.float64], run: Run, method: str, tick: Callable[[], object]
) -> NDArray[np.intp]:
    """For each level of p_A the number of the largest certified size, from 1; 0 where none is certified."""

    @cache
    def outcome(i: int) -> Outcome:
        return run.evaluate(axis.region(axis.sizes[i - 1]), [method])[method]

    at = np.zeros(len(levels), dtype=np.intp)
    for which, p in enumerate(levels.tolist()):
        # Size ``yes`` was found certified (or is the identity), ``no`` not (or is beyond the grid): even if rounding
        # let a larger region need less, each radius has been certified itself.
        yes, no = 0, len(axis.sizes) + 1
        while p > 0.5 and no - yes > 1:
            middle = (yes + no) // 2
            if outcome(middle).certifies(p):
                yes = middle
            else:
                no = middle
        at[which] = yes
        tick()
    return at


def radii_csv(run: Run, found: Radii) -> str:
    """radii.csv: a row an image. ``at_least_…`` is 1 where the radius is the grid's last size."""
    header = ["index", "label", "prediction", "correct", "p_lower"]
    header += [f"{kind}_{one.axis.parameter}" for one in found.found for kind in ("radius", "at_least")]
    columns: list[list[object]] = [run.columns[name].tolist() for name in header[:3]]
    columns += [run.correct.astype(int).tolist(), run.p_lower.tolist()]
    for one in found.found:
        pixels = one.axis.parameter in run.family.transform.integer_parameters
        columns += [one.values.astype(int if pixels else float).tolist(), one.at_least.astype(int).tolist()]
    return comma_separated(header, list(zip(*columns, strict=True)))


RADIUS_HEADER = ("parameter", "certified", "lower quartile", "median", "upper quartile", "largest")


def radius_rows(run: Run, found: Radii) -> list[tuple[str, ...]]:
    """(parameter, form of the interval, quartiles and largest of the images whose selected class is the true one)."""
    rows = []
    for one in found.found:
        values, at_least = one.values[run.correct], one.at_least[run.correct]
        order = np.lexsort((at_least, values))
        cells = ["–"] * 4
        if len(order):
            # Of a share q of the images the radius may be smaller: the lower of two neighbours, rounding nothing up.
            picked = [order[math.floor(q * (len(order) - 1))] for q in (0.25, 0.5, 0.75, 1.0)]
            cells = [("≥ " if at_least[i] else "") + _exactly(values[i]) for i in picked]
        rows.append((wording.axis_label(one.axis.parameter), one.axis.form, *cells))
    return rows


def _exactly(size: float) -> str:
    """A size with all of its digits: a rounded one was not certified."""
    return str(int(size)) if float(size).is_integer() else repr(float(size))


def radius_notes(run: Run, found: Radii) -> list[str]:
    """What a reader of radii must know, a sentence each."""
    notes = [
        f"Of the {np.count_nonzero(run.correct)} images whose selected class is the true one; abstaining ones count as "
        "0 (k = 1).",
        "Each radius is of one parameter alone, the others at the identity; together they are no box.",
        f"Sizes are of a grid with steps of {100 * STEP:g} % (whole pixels for shifts), and each radius was "
        "certified as it stands; radii.csv has every image.",
    ]
    if any(one.at_least.any() for one in found.found):
        notes.append("≥: the grid ends there.")
    if any(one.at_least.any() and one.axis.whole for one in found.found):
        notes.append("Of shifts, it then covers the whole torus: every shift is certified.")
    if run.stops_early:
        notes.append(
            "Votes stopped once the region of this run was decided, so a fixed number of them could give larger radii."
        )
    return [*notes, *(f"{wording.parameter(name)}: {reason}." for name, reason in found.without.items())]


def section(run: Run, found: Radii) -> str:
    """The part of table.md that speaks of radii."""
    title = f"Radius of each image, by {METHODS[found.method].title}:" if found.method else "Radius of each image:"
    table = markdown(RADIUS_HEADER, rows, 2) if (rows := radius_rows(run, found)) else ""
    return "\n".join(part for part in (f"{title}\n", table, bullets(radius_notes(run, found))) if part)
