"""Pictures for papers and meetings, as functions that return a matplotlib Figure: ``glsmooth.figures``.

Each is one column wide (``width="column"``, 3.35 inches) or a page (``width="full"``, 6.9 inches), with letters of at
least 7 points at that size, and is readable in grey. ``savefig`` of what they return writes PNG at 300 dots an inch and
PDF with TrueType fonts, whatever matplotlib is set to; nothing is drawn on a screen, and matplotlib stays as it was.

Every number in them is one of the bounds or of the records. What is not proved is never drawn as certified: the paper's
printed procedure appears in :func:`cra_against_region_size` alone, grey, and is called unsound there.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glsmooth import bounds
from glsmooth.bounds import METHODS, Outcome, gl
from glsmooth.errors import UserError, did_you_mean
from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.resolvability import check_family, why_approximate
from glsmooth.family.sizes import scaled
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.report import wording
from glsmooth.report.figures import P_A, percent_axis, show_image
from glsmooth.report.paper import certified
from glsmooth.report.paper.certified import Bound, Line
from glsmooth.report.paper.references import Attacked
from glsmooth.report.paper.style import (
    BOX,
    COLOUR_MAP,
    GREY,
    INK,
    LABEL,
    LINES,
    PRINTED,
    SMALL,
    axis_label,
    halo,
    inches,
    legend_below,
    new_axes,
    new_figure,
    plain,
    set_scale,
    style,
    symbol,
)
from glsmooth.report.sweeps import Axis, Plane, circle, fits, plane_axes, robust_accuracy
from glsmooth.runs import history
from glsmooth.runs.run import Run, load_run
from glsmooth.smoothing import Certificate, SmoothedClassifier, check_image
from glsmooth.threats import Slices, Threat

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Votes",
    "certified_set",
    "cra_against_region_size",
    "cra_plane",
    "gl_functions",
    "h_min_plane",
    "reference_balls",
    "residuals",
    "tradeoff_curves",
    "training_curves",
]

#: Sizes of a region from the identity to twice itself; 1 is the region.
_SIZES = tuple(i / 8 for i in range(17))
_LEVELS_OF_H = (0.6, 0.7, 0.8, 0.9, 0.99)
_LEVELS_OF_CRA = (0.25, 0.5, 0.75, 0.9)
_STYLES = list(LINES.values())
#: Thumbnails along an axis.
_IMAGES = 5
#: Methods in a legend, units after a number.
_METHODS = {
    "neyman_pearson": "Neyman–Pearson",
    "gl": "GL, product form",
    "gl_ode": "GL, ode form",
    "tss": "TSS",
    "mp": "MP",
}
_AFTER = {"brightness": " of the range", "tx": " px", "ty": " px", "blur": " px²", "angle": "°"}
_INSIDE, _RIM = "#a9cfe6", "#00406b"


@dataclass(frozen=True)
class Votes:
    """What the votes of some images proved, for pictures of certificates that no run directory holds.

    Attributes:
        family: the smoothed family they were taken under.
        region: what was certified, size 1 of :func:`cra_against_region_size`.
        p_lower: (images,) lower bounds p_A of the selected classes.
        correct: (images,) whether the selected class is the true one.
        run: the run directory they are of, if they are of one.
    """

    family: SmoothedFamily
    region: Region
    p_lower: NDArray[np.float64]
    correct: NDArray[np.bool_]
    run: Run | None = None

    @classmethod
    def of(
        cls, certificates: Iterable[Certificate], labels: Iterable[int], family: SmoothedFamily, region: Region
    ) -> Votes:
        """The votes behind certificates of images with these true classes.

        Raises:
            UserError: no certificate, another number of labels, or one whose transformation failed its check.
        """
        certificates, truth = list(certificates), [int(label) for label in labels]
        if len(certificates) != len(truth) or not truth:
            raise UserError(f"labels: {len(truth)} for {len(certificates)} certificates; give each its own")
        if any(one.residual is not None for one in certificates):
            raise UserError("certificates: their transformation is only approximate, so nothing is certified")
        _check_regional(family)
        family.check_region(region)
        p_lower = np.array([one.p_lower for one in certificates])
        correct = np.array([one.prediction == label for one, label in zip(certificates, truth, strict=True)])
        return cls(family, region, p_lower, correct)

    def outcomes(self, region: Region, methods: Sequence[str]) -> dict[str, Outcome]:
        """What methods say of a region; those of the run itself are the ones that its tables show."""
        if self.run is not None:
            known = self.run.outcomes if region.to_config() == self.run.region.to_config() else {}
            fresh = [method for method in methods if method not in known]
            return {**{m: known[m] for m in methods if m in known}, **self.run.evaluate(region, fresh)}
        outcomes = bounds.evaluate(self.family, region, methods)
        check = check_family(self.family, region)
        if check is None or check.passed:
            return outcomes
        why = why_approximate(check.found)
        return {name: outcome.approximate(check.residual, why) for name, outcome in outcomes.items()}


def _votes(source: Votes | Run | str | Path) -> Votes:
    if isinstance(source, Votes):
        _check_regional(source.family)
        return source
    if not isinstance(source, Run):
        if not isinstance(source, (str, Path)):
            raise UserError(f"votes={source!r}: give the directory of a run, or Votes.of(certificates, labels, …)")
        source = load_run(source, "votes")
    _check_regional(source.family)
    return Votes(source.family, source.region, source.p_lower, source.correct, source)


def _check_regional(family: SmoothedFamily) -> None:
    """Refuse votes at references, which tell of their own interval alone."""
    if family.warps:
        raise UserError(f"votes: of {family.name} they tell of their own interval alone; there are no other regions")


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise UserError(f"method={method!r} is unknown{did_you_mean(str(method), METHODS)}")
    if not METHODS[method].sound:
        raise UserError(f"method={method} is unsound and certifies nothing; use method='neyman_pearson'")


# CRA against the size of the region


def cra_against_region_size(
    votes: Votes | Run | str | Path,
    *,
    methods: Sequence[str] | None = None,
    sizes: Sequence[float] = _SIZES,
    width: str = "column",
) -> Figure:
    """Certified robust accuracy against the size of the region, by every sound method that applies.

    The region is scaled around the identity: 0 is the untransformed image, 1 the region itself. Additive parameters
    are multiplied by the size, factors raised to its power. The paper's printed procedure is a grey line "printed
    (unsound)": what it would claim, of which nothing is certified.

    Args:
        votes: directory of a run, a Run, or :meth:`Votes.of` certificates.
        methods: names in ``glsmooth.bounds.METHODS``; all by default. ``gl_printed`` is drawn only if named, or by
            default.
        sizes: of the region, at least 0.
        width: ``"column"`` or ``"full"``.

    Raises:
        UserError: no such run or method; no sound method that applies.
    """
    inches(width)
    votes = _votes(votes)
    methods = list(METHODS) if methods is None else list(methods)
    for method in methods:
        if method not in METHODS:
            raise UserError(f"methods: {method!r} is unknown{did_you_mean(str(method), METHODS)}")
    sizes = sorted({float(size) for size in sizes})
    if not sizes or sizes[0] < 0:
        raise UserError(f"sizes={sizes}: give numbers of at least 0; 1 is the region itself")
    region = votes.region
    if not isinstance(region, (Box, Ball)):
        raise UserError(f"votes: their region is {wording.region(region)}, which has no size; give a box or a ball")
    here = votes.outcomes(region, methods)
    claimed = [name for name, one in here.items() if one.h_min is not None and not METHODS[name].sound]
    sound = [name for name, one in here.items() if one.h_min is not None and one.sound]
    if not sound:
        reasons = "; ".join(f"{name}: {one.argument}" for name, one in here.items() if METHODS[name].sound)
        raise UserError(f"methods: none certifies this region ({reasons}); name one that does")
    shares: dict[str, list[float]] = {name: [] for name in (*sound, *claimed)}
    regions = {size: region if size == 1.0 else scaled(votes.family.transform, region, size) for size in sizes}
    sizes = [size for size in sizes if fits(votes.family, regions[size])]
    for size in sizes:
        outcomes = here if size == 1.0 else votes.outcomes(regions[size], [*sound, *claimed])
        for name, line in shares.items():
            outcome = outcomes[name]
            counted = outcome.certifies(votes.p_lower) if name in sound else outcome.claims(votes.p_lower)
            line.append(float(np.mean(counted & votes.correct)))
    with style():
        return _draw_sizes(width, votes, sizes, shares, sound)


def _draw_sizes(
    width: str, votes: Votes, sizes: Sequence[float], shares: Mapping[str, Sequence[float]], sound: Sequence[str]
) -> Figure:
    figure = new_figure(width, 2.75 if width == "column" else 3.1)
    axes = new_axes(figure)
    accuracy = float(np.mean(votes.correct))
    end = max(sizes[-1], 0.1)
    axes.axhline(accuracy, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=2)
    axes.annotate(
        "smoothed accuracy",
        (end, accuracy),
        (0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=SMALL,
        color=GREY,
    )
    axes.axvline(1.0, color=GREY, linewidth=0.6, zorder=2)
    step = max(len(shares), len(sizes) // 5)
    for number, (name, line) in enumerate(shares.items()):
        # Marks of different lines at different sizes: equal values of two methods are both seen.
        look = {**(LINES[name] if name in sound else PRINTED), "markersize": 4, "fillstyle": "none", "clip_on": False}
        label = _METHODS[name] if name in sound else "printed (unsound)"
        axes.plot(sizes, line, label=label, markevery=(number, step), **look)
    set_scale(axes, "x", 0.0, end, log=False)
    axes.set_ylim(0, 1.08)
    percent_axis(axes)
    region = _region_words(votes.region, 50 if width == "column" else 110)
    axes.set_xlabel(f"size of the region (0: identity alone, 1: the region)\n{region}")
    axes.set_ylabel("certified robust accuracy")
    legend_below(figure, axes, 2 if width == "column" else len(shares))
    return figure


def _region_words(region: Region, most: int) -> str:
    """The region with its units, on lines of at most so many signs."""
    if not isinstance(region, Box):
        return "\n".join(textwrap.wrap(wording.literal(wording.region(region)), most))
    rows = [""]
    for name, interval in region.intervals.items():
        words = f"{wording.literal(wording.parameter(name))} ∈ {wording.interval(interval)}{_AFTER.get(name, '')}"
        if rows[-1] and len(rows[-1]) + len(words) > most:
            rows.append("")
        rows[-1] += f", {words}" if rows[-1] else words
    return ",\n".join(rows)


# Heat maps


def h_min_plane(
    family: SmoothedFamily,
    region: Region,
    *,
    parameters: Sequence[str] | None = None,
    method: str = "neyman_pearson",
    nodes: int = 41,
    width: str = "column",
) -> Figure:
    """Heat map of the required probability h_min at every point of a plane of two parameters.

    Args:
        family: the smoothed family.
        region: what is drawn; the plane reaches twice as far from the identity.
        parameters: the two of the plane where the region has more; the others stay at the identity.
        method: of ``glsmooth.bounds.METHODS``, a sound one.
        nodes: values along an axis; of shifts whole pixels.
        width: ``"column"`` or ``"full"``.

    Raises:
        UserError: a region without two parameters that vary, or with more and none chosen; an unsound method.
        NotApplicable: the method says nothing about this family.
    """
    inches(width)
    plane = _required(family, _plane_box(family, region, parameters), method, nodes)
    with style():
        figure, axes = _heat_map(
            width, replace(plane, region=region), (0.5, 1.0), _LEVELS_OF_H, f"required probability {_H}", share=False
        )
        axes.set_title(METHODS[method].title, fontsize=LABEL)
        return figure


def cra_plane(
    votes: Votes | Run | str | Path,
    *,
    parameters: Sequence[str] | None = None,
    method: str = "neyman_pearson",
    nodes: int = 41,
    width: str = "column",
) -> Figure:
    """Heat map of the share of images that are correct and certified at every single point of a plane.

    Args:
        votes: directory of a run, a Run, or :meth:`Votes.of` certificates.
        parameters, method, nodes, width: as :func:`h_min_plane` has them.

    Raises:
        UserError, NotApplicable: as :func:`h_min_plane`; no such run; a transformation that is only approximate.
    """
    inches(width)
    votes = _votes(votes)
    box = _plane_box(votes.family, votes.region, parameters)
    plane = _required(votes.family, box, method, nodes)
    ends = Box(**{axis.name: (float(axis.nodes[0]), float(axis.nodes[-1])) for axis in (plane.x, plane.y)})
    outcome = votes.outcomes(ends, [method])[method]
    if not outcome.sound:
        raise UserError(f"method={method} certifies nothing here: {outcome.argument}")
    shares = robust_accuracy(votes.p_lower, votes.correct, plane.values)
    with style():
        label = "correct and certified at the point"
        shown = replace(plane, values=shares, region=votes.region)
        figure, axes = _heat_map(width, shown, (0.0, 1.0), _LEVELS_OF_CRA, label, share=True)
        axes.set_title(METHODS[method].title, fontsize=LABEL)
        return figure


_H = r"$h_{\mathrm{min}}$"


def _plane_box(family: SmoothedFamily, region: Region, parameters: Sequence[str] | None) -> Box:
    """How far a region reaches in a plane."""
    family.check_region(region)
    intervals = region.box(family.identity).intervals
    names = tuple(intervals) if parameters is None else tuple(parameters)
    if parameters is None and len(names) > 2:
        pair = names[-2:]
        raise UserError(
            f"parameters: the region has {len(names)}, {', '.join(names)}; choose the two of the plane, "
            f"parameters=({pair[0]!r}, {pair[1]!r})"
        )
    for name in names:
        if name not in intervals:
            raise UserError(f"parameters: {name!r} is not one of the region's{did_you_mean(str(name), intervals)}")
    if len(names) != 2 or names[0] == names[1]:
        raise UserError(f"parameters: a plane needs two, not {', '.join(map(repr, names))}; give a region of two")
    return Box(**{name: intervals[name] for name in names})


@lru_cache(maxsize=8)
def _required(family: SmoothedFamily, box: Box, method: str, nodes: int) -> Plane:
    """h_min over the plane of a box; kept, for CRA needs the same numbers."""
    _check_method(method)
    if nodes < 3:
        raise UserError(f"nodes={nodes}: give at least 3")
    axes = plane_axes(family, box, nodes)
    if axes is None:
        raise UserError(
            f"region: {wording.region(box)} is no plane around the identity; give intervals of both "
            "parameters that are wider than that"
        )
    x, y = axes

    def at(i: int, j: int) -> float:
        point = Points([{x.name: float(x.nodes[i]), y.name: float(y.nodes[j])}])
        outcome = bounds.certify_region(family, point, method)
        if not outcome.sound or outcome.h_min is None:
            raise UserError(f"method={method} certifies nothing here: {outcome.argument}")
        return outcome.h_min

    values = np.array([[at(i, j) for i in range(x.nodes.size)] for j in range(y.nodes.size)])
    values.flags.writeable = False
    return Plane(x, y, values, box)


def _heat_map(
    width: str, plane: Plane, span: tuple[float, float], levels: Sequence[float], label: str, share: bool
) -> tuple[Figure, Axes]:
    """``plane`` in colours over ``span``, light is good, with lines at ``levels`` and the region."""
    from matplotlib.patches import Polygon, Rectangle
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(width, 2.75 if width == "column" else 4.4)
    axes = new_axes(figure)
    axes.grid(False)
    x, y = _cells(plane.x), _cells(plane.y)
    mesh = axes.pcolormesh(
        x,
        y,
        plane.values,
        cmap=COLOUR_MAP if share else f"{COLOUR_MAP}_r",
        vmin=span[0],
        vmax=span[1],
        rasterized=True,
    )
    shown = [level for level in levels if plane.values.min() < level < plane.values.max()]
    if shown and min(plane.values.shape) > 1:
        lines = axes.contour(plane.x.nodes, plane.y.nodes, plane.values, levels=shown, colors=INK, linewidths=0.7)
        lines.set_path_effects(halo(1.6))
        names = {level: f"{100 * level:g} %" if share else f"{level:g}" for level in shown}
        for words in axes.clabel(lines, fmt=names, fontsize=SMALL):
            words.set_path_effects(halo())
    if isinstance(plane.region, Box):
        (left, right), (bottom, top) = plane.x.interval, plane.y.interval
        axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, path_effects=halo(2.6), **BOX))
    if (around := plane.circle()) is not None:
        axes.add_patch(Polygon(around, path_effects=halo(2.6), **BOX))
    for point in plane.points():
        axes.plot(*point, "s", markerfacecolor="none", color=INK, markersize=4, path_effects=halo(2.6))
    axes.plot([plane.x.identity], [plane.y.identity], "+", color=INK, markersize=6, path_effects=halo(2.6))
    for which, axis, cells in (("x", plane.x, x), ("y", plane.y, y)):
        whole = bool((axis.nodes == axis.nodes.round()).all())  # shifts
        set_scale(axes, which, float(cells[0]), float(cells[-1]), axis.log, whole)
    axes.set_xlabel(axis_label(plane.x.name))
    axes.set_ylabel(axis_label(plane.y.name))
    percent = PercentFormatter(1.0, decimals=0, symbol=" %") if share else None
    bar = figure.colorbar(mesh, ax=axes, format=percent, pad=0.02)
    bar.ax.tick_params(labelsize=SMALL, width=0.6, length=2.5)
    bar.outline.set_linewidth(0.6)
    bar.set_label(label, fontsize=LABEL)
    return figure, axes


def _cells(axis: Axis) -> NDArray[np.float64]:
    """Borders of the cells around an axis's values, midway between them."""
    at = np.log(axis.nodes) if axis.log else axis.nodes
    middle = (at[1:] + at[:-1]) / 2
    borders = np.concatenate(([2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]))
    return np.exp(borders) if axis.log else borders


# The certified set of one image


def certified_set(
    family: SmoothedFamily | SmoothedClassifier,
    p_lower: float | Certificate,
    image: Tensor | NDArray[Any],
    *,
    region: Box | Ball | None = None,
    parameters: Sequence[str] | None = None,
    method: str = "neyman_pearson",
    window: Box | None = None,
    nodes: int = 25,
    width: str = "column",
) -> Figure:
    """All parameters at which one image is certified, {β : h_min(β) < p_A}, with the transformed images along the axes.

    The set has the shape that the bound gives it, not a box's: points of its boundary were certified by the bound
    themselves. It holds at once with the one error probability of p_A. Two parameters give an area, whole pixels give
    cells, one parameter an interval under the curve of h_min. Images in solid frames are in the set; parameters that
    the picture does not show stay at the identity.

    Args:
        family: the smoothed family, or the SmoothedClassifier that has it.
        p_lower: lower bound p_A of the image's class probability, or its certificate.
        image: (C, H, W), values in [0, 1]; values outside are clipped for the eye only.
        region: a box or a ball to draw as well.
        parameters: one or two of the family's where it has more.
        method: of ``glsmooth.bounds.METHODS``, a sound one.
        window: what to show; by default the whole set with some room.
        nodes: values along an axis between which the boundary is looked for; parts that are smaller may be missed.
        width: ``"column"`` or ``"full"``.

    Raises:
        UserError: p_A of 1/2 or less; an image of another kind; more than two parameters and none chosen; an unsound
            method, or one that only estimates; a transformation that is not what it says.
        NotApplicable: the method says nothing about this family.
    """
    inches(width)
    family = family.family if isinstance(family, SmoothedClassifier) else family
    _check_regional(family)
    if isinstance(p_lower, Certificate):
        if p_lower.residual is not None:
            raise UserError("p_lower: the certificate's transformation is only approximate, so nothing is certified")
        p_lower = p_lower.p_lower
    image = torch.as_tensor(image)
    check_image(image, "image")
    if family.torus and tuple(image.shape[1:]) != family.image_size:
        raise UserError(
            f"image has {list(image.shape[1:])} pixels, the family {list(family.image_size or ())}; give one"
        )
    names = _set_parameters(family, parameters)
    if nodes < 5:
        raise UserError(f"nodes={nodes}: give at least 5")
    if region is not None:
        family.check_region(region)
    if isinstance(region, Points):
        raise UserError("region: points are not drawn; give a box or a ball, or leave it out")
    bound = Bound(family, method, float(p_lower), names)
    lines = tuple(Line.of(family, name) for name in names)
    extent = {} if region is None else region.box(family.identity).intervals
    shown = {name: extent[name] for name in names if name in extent}
    ends = certified.window_of(bound, lines, shown) if window is None else certified.window_box(window, lines)
    if len(lines) == 1:
        found = [certified.nodes_of(lines[0], ends[0], max(nodes, 49))]
        h_min = np.array([bound.at(lines[0].value(u)) for u in found[0]])
    else:
        found, h_min = certified.grid_of(bound, (lines[0], lines[1]), ends, nodes, fixed=window is not None)
    span = {
        line.name: (line.value(float(at[0])), line.value(float(at[-1]))) for line, at in zip(lines, found, strict=True)
    }
    check = check_family(family, Box(**span), [image])
    if check is not None:
        check.require()
    with style():
        if len(lines) == 1:
            return _draw_interval(width, bound, lines[0], found[0], h_min, image, shown)
        ball = region if isinstance(region, Ball) else None
        return _draw_area(width, bound, (lines[0], lines[1]), found, h_min, image, shown, ball)


def _set_parameters(family: SmoothedFamily, parameters: Sequence[str] | None) -> tuple[str, ...]:
    names = family.parameters if parameters is None else tuple(parameters)
    for name in names:
        if name not in family.parameters:
            hint = did_you_mean(str(name), family.parameters)
            raise UserError(f"parameters: {name!r} is not one of {family.transform.name}{hint}")
    if parameters is None and len(names) > 2:
        raise UserError(
            f"parameters: the family has {len(names)}, {', '.join(names)}; choose those of the axes, "
            f"parameters=({names[-2]!r}, {names[-1]!r})"
        )
    if len(names) not in (1, 2) or len(set(names)) < len(names):
        raise UserError(f"parameters={list(names)}: give one, or two different ones")
    return names


#: Inches around the axes of a certified set: left, right of the images, below, above, and between images and axes.
_LEFT, _RIGHT, _BELOW, _ABOVE, _GAP = 0.57, 0.04, 0.62, 0.2, 0.07
#: Inches between two pairs of axes, and of each row of a legend after the first.
_BETWEEN, _ROW = 0.12, 0.14
#: Frames of images.
_IN_SET: dict[str, Any] = {"color": _RIM, "linewidth": 1.3, "linestyle": "-"}
_OUT_OF_SET: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (2, 2))}


class _Frame:
    """A figure with one pair of axes, images above them, and to the right of them where there is a second parameter.

    Args:
        height, lower: inches of the axes, and of a second pair below them, if there is one.
        both: whether there is room for images on the right.
        rows: of the legend.
    """

    def __init__(self, width: str, height: float, both: bool, lower: float = 0.0, rows: int = 1) -> None:
        wide = inches(width)
        self.side = 0.4 if width == "column" else 0.72
        inner = wide - _LEFT - _RIGHT - (self.side + _GAP if both else 0.08)
        foot = _BELOW + (rows - 1) * _ROW
        base = foot + (lower + _BETWEEN if lower else 0.0)
        total = base + height + _GAP + self.side + _ABOVE
        self.figure = new_figure(width, total, layout=False)
        self.size = (wide, total)
        self.box = (_LEFT, base, inner, height)
        self.axes = self.figure.add_axes(self._share(*self.box))
        plain(self.axes)
        for side in ("top", "right"):
            self.axes.spines[side].set_visible(both and not lower)
        if lower:
            self.lower = self.figure.add_axes(self._share(_LEFT, foot, inner, lower))
            plain(self.lower)

    def _share(self, x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x / self.size[0], y / self.size[1], w / self.size[0], h / self.size[1]

    def picture(self, image: NDArray[Any], along: str, at: float, rim: Mapping[str, Any]) -> None:
        """An image outside the axes at ``at`` in [0, 1] along the x or the y axis."""
        _, _, w, h = self.box
        self._image(image, along, at, rim)
        ends = ((at, at), (1.0, 1.0 + 0.7 * _GAP / h)) if along == "x" else ((1.0, 1.0 + 0.7 * _GAP / w), (at, at))
        self.axes.plot(*ends, color=GREY, linewidth=0.6, transform=self.axes.transAxes, clip_on=False)

    def beside(self, image: NDArray[Any], at: float, rim: Mapping[str, Any], words: str) -> None:
        """An image on the right, with words above, which is of no value of the y axis."""
        self._image(image, "y", at, rim).set_title(words, fontsize=SMALL, pad=2)

    def _image(self, image: NDArray[Any], along: str, at: float, rim: Mapping[str, Any]) -> Axes:
        x, y, w, h = self.box
        side = self.side
        place = (x + at * w - side / 2, y + h + _GAP) if along == "x" else (x + w + _GAP, y + at * h - side / 2)
        axes = self.figure.add_axes(self._share(*place, side, side))
        show_image(axes, image)
        for spine in axes.spines.values():
            spine.set(visible=True, **rim)
        return axes

    def title(self, words: str) -> None:
        self.figure.text(0.5, 1 - 0.03 / self.size[1], words, ha="center", va="top", fontsize=LABEL, color=INK)

    def legend(self, handles: Sequence[Any], columns: int | None = None) -> None:
        self.figure.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=columns or len(handles),
            fontsize=SMALL,
            frameon=False,
            handlelength=2.6 if columns else 1.6,
            columnspacing=1.0,
            handletextpad=0.5,
            borderpad=0.1,
            labelspacing=0.35,
        )


def _bound_words(bound: Bound) -> str:
    return f"{METHODS[bound.method].title}, {P_A} = {_rounded(bound.p_lower, ROUND_FLOOR)}"


def _rim(certifies: bool) -> Mapping[str, Any]:
    return _IN_SET if certifies else _OUT_OF_SET


def _positions(line: Line, low: float, high: float, count: int) -> list[tuple[float, float]]:
    """(share of the axis, u) of at most ``count`` images along it, evenly spread; whole pixels where those are."""
    if line.whole:
        cells = round(high - low)
        step = math.ceil(cells / count)
        number = cells // step
        first = math.ceil(low) + (cells - 1 - step * (number - 1)) // 2
        found = [float(first + step * i) for i in range(number)]
    else:
        found = [low + (high - low) * (i + 0.5) / count for i in range(count)]
    return [((u - low) / (high - low), u) for u in found]


def _transformed(family: SmoothedFamily, image: Tensor, beta: Mapping[str, float]) -> NDArray[Any]:
    theta = family.transform.vector(beta)[None]
    return np.asarray(family.transform.apply(image[None].double(), theta)[0].detach())


def _handles(region: bool, marker: bool = True) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(facecolor=_INSIDE, edgecolor=_RIM, linewidth=0.9, label="certified")]
    if region:
        handles.append(Patch(label="region", **BOX))
    if marker:
        handles.append(Line2D([], [], color=INK, marker="+", linestyle="none", markersize=6, label="untransformed"))
    return handles


def _draw_area(
    width: str,
    bound: Bound,
    lines: tuple[Line, Line],
    nodes: Sequence[NDArray[np.float64]],
    h_min: NDArray[np.float64],
    image: Tensor,
    region: Mapping[str, tuple[float, float]],
    ball: Ball | None = None,
) -> Figure:
    from matplotlib.patches import Polygon, Rectangle

    frame = _Frame(width, 2.2 if width == "column" else 4.0, both=True)
    axes, (x, y) = frame.axes, lines
    inside = bound.above(h_min)
    spans = []
    for line, at in zip(lines, nodes, strict=True):
        pad = 0.5 if line.whole else 0.0  # whole pixels are cells
        spans.append((float(at[0]) - pad, float(at[-1]) + pad))
    (left, right), (bottom, top) = spans
    set_scale(axes, "x", x.value(left), x.value(right), x.log, x.whole)
    set_scale(axes, "y", y.value(bottom), y.value(top), y.log, y.whole)
    if x.whole and y.whole:
        _draw_cells(axes, nodes, inside)
    elif x.whole or y.whole:
        _draw_bars(axes, bound, lines, nodes, inside)
    else:
        _draw_outline(axes, certified.outline(bound, lines, nodes, h_min))
    around = None if ball is None else circle(ball, (x.name, y.name), bound.family.identity)
    if around is not None:
        axes.add_patch(Polygon(around, zorder=4, **BOX))
    elif len(region) == 2 and ball is None:
        (a, b), (c, d) = (_shown(line, region[line.name]) for line in lines)
        axes.add_patch(Rectangle((a, c), b - a, d - c, zorder=4, **BOX))
    axes.plot([x.identity], [y.identity], "+", color=INK, markersize=6, zorder=5, clip_on=False)
    axes.set_xlabel(axis_label(x.name))
    axes.set_ylabel(axis_label(y.name), labelpad=2)
    for share, u in _positions(x, left, right, _IMAGES):
        beta = {x.name: x.value(u)}
        frame.picture(
            _transformed(bound.family, image, beta), "x", share, _rim(bound.certifies(x.value(u), y.identity))
        )
    for share, u in _positions(y, bottom, top, _IMAGES):
        beta = {y.name: y.value(u)}
        frame.picture(
            _transformed(bound.family, image, beta), "y", share, _rim(bound.certifies(x.identity, y.value(u)))
        )
    frame.title(_bound_words(bound))
    frame.legend(_handles(around is not None or (len(region) == 2 and ball is None)))
    return frame.figure


def _shown(line: Line, interval: tuple[float, float]) -> tuple[float, float]:
    """An interval of a region on its axis, where a whole pixel is a cell."""
    if not line.whole:
        return interval
    return math.ceil(interval[0]) - 0.5, math.floor(interval[1]) + 0.5


def _rounded(value: float, way: str) -> Decimal:
    """Four digits of a number as it was typed: 0.95 is not 0.9499."""
    return Decimal(str(value)).quantize(Decimal("0.0001"), way)


def _draw_outline(axes: Axes, path: Any) -> None:
    from matplotlib.patches import PathPatch

    if path is not None:
        axes.add_patch(PathPatch(path, facecolor=_INSIDE, edgecolor=_RIM, linewidth=1.0, zorder=2))


def _draw_cells(axes: Axes, nodes: Sequence[NDArray[np.float64]], inside: NDArray[np.bool_]) -> None:
    """A square for each whole pixel of the set, by itself."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    squares = [
        Rectangle((float(nodes[0][i]) - 0.5, float(nodes[1][j]) - 0.5), 1.0, 1.0) for j, i in np.argwhere(inside)
    ]
    fine = max(nodes[0].size, nodes[1].size) > 60
    axes.add_collection(
        PatchCollection(
            squares, facecolor=_INSIDE, edgecolor=_INSIDE if fine else "white", linewidth=0.2 if fine else 0.5, zorder=2
        )
    )
    # The rim: sides of squares whose neighbour is outside.
    padded = np.pad(inside, 1)
    for j, i in np.argwhere(inside):
        x, y = float(nodes[0][i]), float(nodes[1][j])
        for dj, di in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            if not padded[j + 1 + dj, i + 1 + di]:
                across = ([x + di / 2] * 2, [y - 0.5, y + 0.5]) if di else ([x - 0.5, x + 0.5], [y + dj / 2] * 2)
                axes.plot(*across, color=_RIM, linewidth=1.0, solid_capstyle="projecting", zorder=3)


def _draw_bars(
    axes: Axes,
    bound: Bound,
    lines: tuple[Line, Line],
    nodes: Sequence[NDArray[np.float64]],
    inside: NDArray[np.bool_],
) -> None:
    """Intervals of the other parameter, one for each whole pixel."""
    from matplotlib.patches import Rectangle

    whole = 0 if lines[0].whole else 1
    pixels, other = nodes[whole], lines[1 - whole]
    for number, pixel in enumerate(pixels.tolist()):

        def certifies(u: float, pixel: float = pixel) -> bool:
            value = other.value(u)
            return bound.certifies(*((pixel, value) if whole == 0 else (value, pixel)))

        column = inside[:, number] if whole == 0 else inside[number]
        for low, high in certified.certified_runs(nodes[1 - whole], column, certifies):
            a, b = other.value(low), other.value(high)
            place = (pixel - 0.5, a, 1.0, b - a) if whole == 0 else (a, pixel - 0.5, b - a, 1.0)
            axes.add_patch(Rectangle(place[:2], *place[2:], facecolor=_INSIDE, edgecolor=_RIM, linewidth=0.6, zorder=2))


def _draw_interval(
    width: str,
    bound: Bound,
    line: Line,
    nodes: NDArray[np.float64],
    h_min: NDArray[np.float64],
    image: Tensor,
    region: Mapping[str, tuple[float, float]],
) -> Figure:
    """h_min along one parameter, p_A, and where the curve is below it."""
    frame = _Frame(width, 1.5 if width == "column" else 2.2, both=False)
    axes = frame.axes
    pad = 0.5 if line.whole else 0.0
    left, right = float(nodes[0]) - pad, float(nodes[-1]) + pad
    values = np.array([line.value(u) for u in nodes.tolist()])
    set_scale(axes, "x", line.value(left), line.value(right), line.log, line.whole)
    axes.set_ylim(0.45, 1.03)
    inside = bound.above(h_min)
    if line.whole:
        runs = [(u, u) for u in nodes[inside].tolist()]
    else:
        runs = list(certified.certified_runs(nodes, inside, lambda u: bound.certifies(line.value(u))))
    for low, high in runs:
        axes.axvspan(line.value(low) - pad, line.value(high) + pad, facecolor=_INSIDE, edgecolor="none", zorder=1)
    if line.whole:
        axes.plot(values, h_min, "o", color=INK, markersize=2.5, zorder=4)
    else:
        axes.plot(values, h_min, color=INK, linewidth=1.2, zorder=4)
        ends = [line.value(end) for run in runs for end in run if end not in (nodes[0], nodes[-1])]
        axes.vlines(ends, 0, 1.03, color=_RIM, linewidth=1.0, zorder=2)
    axes.axhline(bound.p_lower, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), zorder=3)
    axes.annotate(
        P_A,
        (line.identity, bound.p_lower),  # where the curve is lowest
        (3, 2 if bound.p_lower < 0.93 else -3),
        textcoords="offset points",
        va="bottom" if bound.p_lower < 0.93 else "top",
        fontsize=SMALL,
    )
    if region:
        (interval,) = region.values()
        interval = _shown(line, interval)
        axes.plot(interval, [0.47, 0.47], color=INK, linewidth=2.2, solid_capstyle="butt", zorder=5)
        axes.annotate("region", (interval[0], 0.47), (2, 3), textcoords="offset points", fontsize=SMALL, zorder=5)
    axes.set_xlabel(axis_label(line.name))
    axes.set_ylabel(f"required probability {_H}", labelpad=2)
    for share, u in _positions(line, left, right, _IMAGES + 1):
        beta = {line.name: line.value(u)}
        frame.picture(_transformed(bound.family, image, beta), "x", share, _rim(bound.certifies(line.value(u))))
    frame.title(_bound_words(bound))
    handles = _handles(False, marker=False)
    # The set may go on beyond the window, unless no parameter does.
    cut = {end for end, last in ((float(nodes[0]), line.low), (float(nodes[-1]), line.high)) if end != last}
    if len(runs) == 1 and not cut & {*runs[0]}:
        handles[0].set_label(f"certified: {symbol(line.name)} {_interval_words(line, *runs[0])}")
    frame.legend(handles)
    return frame.figure


def _interval_words(line: Line, low: float, high: float) -> str:
    """A certified interval of u in words, its ends rounded inwards."""
    inwards = ((low, ROUND_CEILING), (high, ROUND_FLOOR))
    a, b = (_rounded(line.value(u), way).normalize() + 0 for u, way in inwards)  # -0 + 0 is 0
    return f"from {a:f} to {b:f}".replace("-", "−")


# How rotation and scaling are certified

#: The three references of an image: itself, the centre of the whole interval's ball, and the centres of slices.
_ITSELF: dict[str, Any] = {"color": "#c24e00", "linestyle": (0, (5, 1.5)), "linewidth": 1.2}
_CENTRE: dict[str, Any] = {"color": "#6b5600", "linestyle": (0, (5, 1, 1, 1)), "linewidth": 1.4}
_SLICES: dict[str, Any] = {"color": _RIM, "linestyle": "-", "linewidth": 0.9}
_PROVED: dict[str, Any] = {"color": INK, "linestyle": "-", "linewidth": 1.6}
_PLAIN: dict[str, Any] = {"color": GREY, "linewidth": 0.6, "linestyle": "-"}
_RANGE = "units of image range"


def residuals(
    image: Tensor | NDArray[Any],
    threat: Threat,
    low: float,
    high: float,
    residual: float,
    *,
    width: str = "column",
) -> Figure:
    """How far an attacked image is from its reference, over all parameters, for three choices of references.

    (a) the image itself; (b) the centre of the smallest ball around all attacked images; (c) the centre of each slice,
    which is the saw-tooth, larger in the lower part, with the slices' borders and the proved residual of each. Thin
    lines and the legend have the proved residual e of the whole interval. Above, the attacked image; on the right, the
    three references, (c) that of the slice in the middle. Curves are of the warped image, rounded if the threat says
    so; a perturbation ``l2`` is in what is proved alone.

    Args:
        image: (C, H, W), values in [0, 1]; float32 or float64.
        threat: such as ``gs.threats.Rotation(mask="disk")``.
        low, high: ends of the interval of its parameter, degrees or a factor.
        residual: largest residual of a slice, in the units of a pixel.
        width: ``"column"`` or ``"full"``.

    Raises:
        UserError: what is no image, no threat or no interval; an image that the threat does not change; a residual that
            rounding alone exceeds, or that takes more than 100 slices.
    """
    inches(width)
    attacked = Attacked.of(image, threat, low, high, residual)
    with style():
        return _draw_residuals(width, attacked)


def _draw_residuals(width: str, attacked: Attacked) -> Figure:
    from matplotlib.lines import Line2D

    column = width == "column"
    frame = _Frame(width, 1.5 if column else 2.2, both=True, lower=0.95 if column else 1.3, rows=4 if column else 2)
    above, below, slices = frame.axes, frame.lower, attacked.slices
    edges, proved = slices.edges.numpy(), slices.residual.numpy()
    beta, *distances = attacked.distances()
    middle = len(slices) // 2
    parameter, start = attacked.threat.parameter, wording.number(attacked.threat.identity)
    curves = (
        (_ITSELF, f"the image at {parameter} {start}", attacked.identity.residual, attacked.identity.image),
        (_CENTRE, "the centre of all", attacked.centre.residual, attacked.centre.image),
        (_SLICES, _of_slices(slices), float(proved.max()), slices.references[middle]),
    )
    handles = []
    tops = (1 - frame.side / 2 / frame.box[3], 0.5 - 0.25 * frame.side / frame.box[3], -0.3)
    for letter, distance, at, (look, words, e, reference) in zip("abc", distances, tops, curves, strict=True):
        above.plot(beta.ravel(), distance.ravel(), zorder=3, **look)
        above.axhline(e, zorder=2, **{**look, "linewidth": 0.5})
        handles.append(Line2D([], [], label=f"({letter}) v: {words}, e ≤ {wording.ceil(e, 2)}", **look))
        frame.beside(np.asarray(reference), at, look, f"({letter})")
    below.vlines(edges, 0, 1, transform=below.get_xaxis_transform(), zorder=1, **_PLAIN)
    below.plot(beta.ravel(), distances[2].ravel(), zorder=3, **_SLICES)
    below.stairs(proved, edges, baseline=None, zorder=4, **_PROVED)
    handles.append(Line2D([], [], label="proved residual of a slice", **_PROVED))
    for axes, top in ((above, max(e for *_, e, _ in curves)), (below, float(proved.max()))):
        set_scale(axes, "x", attacked.low, attacked.high, log=False)
        set_scale(axes, "y", 0.0, 1.15 * top, log=False)
    above.tick_params(labelbottom=False)
    below.set_xlabel(axis_label(parameter))
    x, y = 0.04 / frame.size[0], (frame.box[1] + frame.box[3] / 4) / frame.size[1]
    words = rf"distance $\|\varphi(x, \beta) - v\|_2$ ({_RANGE})"
    frame.figure.text(x, y, words, rotation=90, ha="left", va="center", fontsize=LABEL)
    shares = [(i + 0.5) / _IMAGES for i in range(_IMAGES)]
    pictures = attacked.at(attacked.low + (attacked.high - attacked.low) * np.array(shares))
    for share, picture in zip(shares, pictures, strict=True):
        frame.picture(np.asarray(picture), "x", share, _PLAIN)
    frame.title(wording.literal(repr(attacked.threat)))
    frame.legend(handles, columns=1 if column else 2)
    return frame.figure


def _of_slices(slices: Slices) -> str:
    return "the centre of the one slice" if len(slices) == 1 else f"the centre of each of {len(slices)} slices"


def reference_balls(
    image: Tensor | NDArray[Any],
    threat: Threat,
    low: float,
    high: float,
    residual: float,
    *,
    width: str = "column",
) -> Figure:
    """The attacked images as a curve in the space of images, with its references and the balls around them.

    The plane is that of the curve's two leading principal directions, with the centre of the smallest ball around the
    whole curve at its origin. The dashed circle is that ball, of the proved residual; each slice has its own. Distances
    are shortened in a plane, never lengthened: whatever is in a ball is in its circle, and what a circle holds may be
    outside of the ball. Beside it the image attacked, and the references of all and of the slice in the middle.

    Args:
        image, threat, low, high, residual, width: as :func:`residuals`.

    Raises:
        UserError: as :func:`residuals`.
    """
    inches(width)
    attacked = Attacked.of(image, threat, low, high, residual)
    with style():
        return _draw_balls(width, attacked)


def _draw_balls(width: str, attacked: Attacked) -> Figure:
    from matplotlib.patches import Circle

    column = width == "column"
    threat, slices, ball = attacked.threat, attacked.slices, attacked.centre
    shown = attacked.projection()
    ends = (attacked.low, attacked.high)
    inside = attacked.low < threat.identity < attacked.high
    at = [attacked.low, *([threat.identity] if inside else []), attacked.high]
    words = [*(_point({threat.parameter: beta}) for beta in at), "v of all", "v of a slice"]
    pictures = [*attacked.at(np.array(at)), ball.image, slices.references[len(slices) // 2]]

    figure = new_figure(width, 4.8)
    if column:  # pictures are above, on a page on the left
        grid = figure.add_gridspec(2, len(pictures), height_ratios=(1, 5.6))
        cells, place = [grid[0, i] for i in range(len(pictures))], grid[1, :]
    else:
        grid = figure.add_gridspec(len(pictures), 2, width_ratios=(1, 6))
        cells, place = [grid[i, 0] for i in range(len(pictures))], grid[:, 1]
    for cell, picture, name in zip(cells, pictures, words, strict=True):
        small = figure.add_subplot(cell)
        show_image(small, np.asarray(picture))
        small.set_xlabel(name, fontsize=SMALL, labelpad=2)
        for spine in small.spines.values():
            spine.set(visible=True, **_PLAIN)

    axes = new_axes(figure, place)
    e = float(slices.residual.max())
    mark: dict[str, Any] = {"linestyle": "none", "color": INK, "markersize": 5, "fillstyle": "none", "zorder": 6}
    axes.plot(*shown.curve.T, color=INK, linewidth=1.0, label="attacked images", zorder=4)
    for end, beta, form in zip(shown.curve[[0, -1]], ends, "^v", strict=True):
        axes.plot(*end[:, None], form, label=_point({threat.parameter: beta}), **mark)
    if inside:
        axes.plot(*shown.identity[:, None], "+", label=_point({threat.parameter: threat.identity}), **mark)
    label = f"v: the centre of all, e ≤ {wording.ceil(ball.residual, 2)}"
    axes.plot([0], [0], "x", label=label, **{**mark, **_CENTRE})
    axes.add_patch(Circle((0, 0), ball.residual, fill=False, zorder=2, **_CENTRE))
    label = f"v: {_of_slices(slices)}, e ≤ {wording.ceil(e, 2)}"
    axes.plot(*shown.references.T, ".", label=label, **{**mark, "color": _RIM, "markersize": 3, "fillstyle": "full"})
    for centre, radius in zip(shown.references, slices.residual.tolist(), strict=True):
        axes.add_patch(Circle(centre, radius, facecolor=f"{_INSIDE}80", edgecolor=_RIM, linewidth=0.5, zorder=3))
    reach = 1.03 * (ball.residual + e)
    axes.set_aspect("equal")
    for which in "xy":
        set_scale(axes, which, -reach, reach, log=False)
    axes.set_xlabel(f"first principal direction ({_RANGE})")
    axes.set_ylabel(f"second principal direction ({_RANGE})")
    per_cent = f"{math.floor(1000 * shown.share) / 10:g} %"
    axes.set_title(
        f"{wording.literal(repr(threat))}\n{per_cent} of the curve's variance is in this plane", fontsize=LABEL
    )
    legend_below(figure, axes, 1 if column else 2)
    return figure


# Curves of a family


def tradeoff_curves(family: SmoothedFamily, betas: Sequence[Mapping[str, float]], *, width: str = "column") -> Figure:
    """Exact trade-off curves: the least class probability at β of a classifier with probability p at the identity.

    A curve meets 1/2 at h_min(β), where it has its mark: from there on to the right β is certified. On the diagonal
    nothing changes.

    Args:
        family: the smoothed family.
        betas: up to six parameters, ``[{"brightness": 0.2}, {"brightness": 0.4}]``.
        width: ``"column"`` or ``"full"``.

    Raises:
        UserError: none, or more than six β, or one outside the domain.
        NotApplicable: a transformation without factors, or one that is only approximate.
    """
    inches(width)
    betas = _betas(betas)
    curves = [bounds.tradeoff(family, beta) for beta in betas]
    p = np.unique(np.concatenate((np.linspace(0, 1, 201), 1 - np.geomspace(1e-4, 0.05, 40))))
    with style():
        figure = new_figure(width, 3.2 if width == "column" else 3.6)
        axes = new_axes(figure)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), label="identity")
        axes.axhline(0.5, color=GREY, linewidth=0.6)
        for beta, curve, look in zip(betas, curves, _looks(), strict=False):
            label = _point(beta)
            at_half = curve.inverse(0.5)
            if at_half < 1:
                label += f": {_H} = {wording.ceil(at_half, 4)}"
            line = {key: value for key, value in look.items() if key != "marker"}
            axes.plot(p, [curve(float(one)) for one in p], **line)
            if at_half < 1:
                mark = {**look, "linestyle": "none"}
                axes.plot([at_half], [0.5], markersize=5, fillstyle="none", **mark)
            axes.plot([], [], label=label, markersize=5, fillstyle="none", **look)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel(r"class probability at the identity, $p = h(\beta_0)$")
        axes.set_ylabel(r"least class probability at $\beta$, $N_\beta(p)$")
        legend_below(figure, axes, 1 if width == "column" else 2)
        return figure


def gl_functions(family: SmoothedFamily, betas: Sequence[Mapping[str, float]], *, width: str = "full") -> Figure:
    """ĝ and ξ of General Lipschitz (paper, eq. 8) along straight paths from the identity, read as Theorem 1 has them.

    Left ĝ(β(t)), right ξ(1/2) - ξ(1 - h). A path's end is certified where the right curve is above ĝ(β): the thin line
    leads from one to the other, and ends at the h_min of the product form. On a torus the functions are the plane's.

    Args:
        family: the smoothed family.
        betas: up to six ends of paths.
        width: ``"column"`` (below each other) or ``"full"`` (beside each other).

    Raises:
        UserError: none, or more than six β, or one that is the identity or outside the domain.
        NotApplicable: General Lipschitz has no statement about this family.
    """
    inches(width)
    betas = _betas(betas)
    plane = bounds.on_plane("gl", family)
    forms = []
    for beta in betas:
        plane.transform.check(beta)
        if all(family.identity[name] == value for name, value in beta.items()):
            raise UserError(f"betas: {dict(beta)} is the identity, where no path leads; give another")
        forms.append(gl.straight_form(plane, beta))
    one = {name for beta in betas for name in beta}
    with style():
        figure = new_figure(width, 4.3 if width == "column" else 2.75)
        shape = (2, 1) if width == "column" else (1, 2)
        left = new_axes(figure, *shape, 1)
        right = new_axes(figure, *shape, 2, sharey=left)
        for beta, form, look in zip(betas, forms, _looks(), strict=False):
            _draw_gl(left, right, family, beta, form, look, next(iter(one)) if len(one) == 1 else None)
        highest = max(form.g_hat() for form in forms)
        left.set_ylim(0, 1.25 * highest)
        left.set_ylabel(r"$\hat g(\beta(t))$  (eq. 8)")
        if len(one) == 1:
            left.set_xlabel(axis_label(next(iter(one))))
        else:
            left.set_xlabel(r"$t$, on the path $\beta(t) = \beta_0 + t\,(\beta - \beta_0)$")
            left.set_xlim(0, 1)
        right.set_ylabel(r"$\xi(1/2) - \xi(1 - h)$  (eq. 8)")
        right.set_xlabel(r"class probability $h = h_c(x)$")
        right.set_xlim(0.5, 1.0)
        legend_below(figure, right, 1 if width == "column" else 2)
        return figure


def _draw_gl(
    left: Axes,
    right: Axes,
    family: SmoothedFamily,
    beta: Mapping[str, float],
    form: gl.ProductForm,
    look: Mapping[str, Any],
    name: str | None,
) -> None:
    t = np.linspace(0, 1, 65)
    start = 0.0 if name is None else family.identity[name]
    end = 1.0 if name is None else beta[name]
    line = {key: value for key, value in look.items() if key != "marker"}
    left.plot(start + t * (end - start), [form.g_hat(float(one)) for one in t], **line)
    levels = form.levels[::-8]  # 1/2 among them
    right.plot(1 - levels, [-form.xi(float(level)) for level in levels], **line)
    g_hat, h_min = form.g_hat(), form.required_after(form.g_hat())
    label = f"{_point(beta)}: {_H} = {wording.ceil(h_min, 4)}"
    thin = {"color": look["color"], "linewidth": 0.6, "linestyle": (0, (2, 2))}
    mark = {**look, "linestyle": "none", "markersize": 5, "fillstyle": "none", "clip_on": False}
    left.plot([end], [g_hat], **mark)
    if h_min < 1:
        right.plot([0.5, h_min], [g_hat, g_hat], **thin)
        right.plot([h_min, h_min], [0, g_hat], **thin)
        right.plot([h_min], [g_hat], **mark)
    right.plot([], [], label=label, markersize=5, fillstyle="none", **look)


def _betas(betas: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    if isinstance(betas, Mapping):
        betas = [betas]
    betas = list(betas)
    if not 0 < len(betas) <= 6 or not all(isinstance(beta, Mapping) and beta for beta in betas):
        raise UserError(f"betas={betas!r}: give one to six parameters, such as [{{'brightness': 0.2}}]")
    return betas


def _looks() -> list[dict[str, Any]]:
    """Six lines that differ in style, mark and grey."""
    more = {"color": "#5c5c60", "linestyle": (0, (3, 1, 1, 1)), "marker": "P", "linewidth": 1.3}
    return [{**look, "linewidth": 1.3, "zorder": 4} for look in (*_STYLES, more)]


def _point(beta: Mapping[str, float]) -> str:
    units = {name: unit for name, unit in _AFTER.items() if name != "brightness"}
    return ", ".join(f"{symbol(name)} = {wording.number(value)}{units.get(name, '')}" for name, value in beta.items())


# Training


def training_curves(directory: str | Path, *, width: str = "column") -> Figure:
    """Losses and accuracies of a training by epoch, from its metrics; a resumed training is one line.

    The ring is the epoch of best.ckpt: the first with the best accuracy under the smoothing laws, or on images as they
    are where the training saw such.

    Args:
        directory: what train wrote, finished or not.
        width: ``"column"`` or ``"full"``.

    Raises:
        UserError: no such directory, no metrics in it, or a file that is not readable.
    """
    inches(width)
    numbers = history.read_history(directory)
    with style():
        figure = new_figure(width, 3.9 if width == "column" else 4.2)
        above, below = figure.subplots(2, 1, sharex=True)
        for axes in (above, below):
            plain(axes)
            axes.grid(color="#dcdce0", linewidth=0.5)
        _draw_history(above, numbers, history.LOSSES)
        _draw_history(below, numbers, history.ACCURACIES)
        if above.lines and all(min(line.get_ydata()) > 0 for line in above.lines):
            above.set_yscale("log")
        above.set_ylabel("loss (nats)")
        below.set_ylabel("validation accuracy")
        below.set_xlabel("epoch")
        below.xaxis.get_major_locator().set_params(integer=True)
        percent_axis(below)
        scores = numbers[history.chosen_by(directory)]
        if scores:
            best = max(scores, key=lambda epoch: (scores[epoch], -epoch))
            ring = {"color": INK, "marker": "o", "markersize": 9, "fillstyle": "none", "clip_on": False}
            below.plot([best], [scores[best]], linestyle="none", label="best.ckpt", **ring)
        for axes in (above, below):
            if axes.lines:
                axes.legend(fontsize=SMALL, frameon=False, handlelength=3.0, loc="best", labelspacing=0.3)
        return figure


def _draw_history(axes: Axes, numbers: history.History, titles: Mapping[str, str]) -> None:
    for (name, title), look in zip(titles.items(), _looks(), strict=False):
        values = numbers[name]
        if any(values.values()):
            every = max(1, len(values) // 8)
            axes.plot(list(values), list(values.values()), label=title, markersize=3.5, markevery=every, **look)
