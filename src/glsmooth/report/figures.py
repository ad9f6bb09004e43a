"""The pictures of a report. Every function returns a Figure, to be drawn and rendered under
:func:`glsmooth.report.defaults.defaults`, and touches no global state of matplotlib.

Figures are 5 inches wide, so that their text keeps its size on a phone. Colours are from the Okabe-Ito
palette and never the only carrier of a meaning: line styles, marks and words repeat it.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glsmooth.bounds import exceeds
from glsmooth.errors import UserError
from glsmooth.family.regions import Box, Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.report import sweeps, wording
from glsmooth.report.defaults import defaults, lay_out
from glsmooth.report.sweeps import Axis, Plane
from glsmooth.runs.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

WIDTH = 5.0  # inches
DASHES = {"neyman_pearson": "-", "gl": "--", "gl_ode": ":", "tss": "-.", "mp": (0, (1, 4))}
P_A, H_MIN = "$p_A$", r"$h_{\mathrm{min}}$"


@dataclass(frozen=True)
class Theme:
    """Colours of a picture; ``paper`` is also the page's background behind it."""

    name: str
    paper: str
    ink: str
    muted: str
    rule: str
    yes: str
    no: str
    lines: Mapping[str, str] = field(default_factory=dict)

    def line(self, method: str) -> str:
        return self.lines.get(method, self.ink)


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1d1d1f",
    muted="#65656b",
    rule="#d9d9de",
    yes="#0072b2",
    no="#d55e00",
    lines={
        "neyman_pearson": "#0072b2",
        "gl": "#d55e00",
        "gl_ode": "#009e73",
        "tss": "#b0578d",
        "mp": "#8a6d00",
    },
)
DARK = Theme(
    name="dark",
    paper="#1c1c1e",
    ink="#f2f2f4",
    muted="#a5a5ad",
    rule="#3a3a3e",
    yes="#56b4e9",
    no="#f0904a",
    lines={
        "neyman_pearson": "#56b4e9",
        "gl": "#f0904a",
        "gl_ode": "#3ccf9f",
        "tss": "#e29bc4",
        "mp": "#e8d24a",
    },
)


def rendered(figure: Figure, kind: str) -> bytes:
    """The picture as the content of a file: ``png`` or ``svg``."""
    lay_out(figure)
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format=kind, dpi=200 if kind == "png" else 150, metadata={"Date": None} if kind == "svg" else {}
    )
    return buffer.getvalue()


def new_figure(theme: Theme, height: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=0.06)
    return Figure(figsize=(WIDTH, height), facecolor=theme.paper, layout=layout)


def _stack(figure: Figure, heights: Sequence[float]) -> list[SubFigure]:
    """Subfigures below each other with these heights, in the figure's colour."""
    subfigures = figure.subfigures(len(heights), 1, height_ratios=heights)
    parts: list[SubFigure] = np.atleast_1d(np.asarray(subfigures)).tolist()
    for part in parts:
        part.set_facecolor(figure.get_facecolor())
    return parts


def new_axes(figure: Figure, theme: Theme, *place: Any, **options: Any) -> Axes:
    axes: Axes = figure.add_subplot(*place, facecolor=theme.paper, **options)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.muted)
    axes.tick_params(colors=theme.muted, labelsize=9)
    axes.grid(color=theme.rule, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def label_axes(axes: Axes, theme: Theme, x: str, y: str) -> None:
    axes.set_xlabel(x, color=theme.ink, fontsize=9.5)
    axes.set_ylabel(y, color=theme.ink, fontsize=9.5)


def add_legend(axes: Axes, theme: Theme, **options: Any) -> None:
    options = {"framealpha": 1.0, **options}
    axes.legend(fontsize=8.5, labelcolor=theme.ink, facecolor=theme.paper, edgecolor=theme.rule, **options)


def percent_axis(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


@dataclass(frozen=True)
class Series:
    """CRA of one method at region sizes; drawn as a line, or as points where there are few."""

    method: str
    title: str
    sizes: Sequence[float]
    cra: Sequence[float]
    line: bool


def region_curve(theme: Theme, series: Sequence[Series], smoothed_accuracy: float) -> Figure:
    """CRA against region size; 1 is the region of the run."""
    figure = new_figure(theme, 3.3)
    axes = new_axes(figure, theme)
    axes.axhline(smoothed_accuracy, color=theme.muted, linewidth=1, linestyle=(0, (2, 2)))
    end = max(max(one.sizes) for one in series)
    axes.annotate(
        "smoothed accuracy",
        (end, smoothed_accuracy),
        (0, 3),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color=theme.muted,
    )
    axes.axvline(1.0, color=theme.muted, linewidth=1)
    for one, marker in zip(series, "osD^vP", strict=False):
        style: dict[str, Any] = {"linestyle": DASHES.get(one.method, "-"), "linewidth": 2}
        if not one.line:
            # Hollow, so that equal values of two methods are both seen.
            style = {"linestyle": "none", "marker": marker, "markersize": 8}
            style |= {"fillstyle": "none", "markeredgewidth": 2, "clip_on": False, "zorder": 3}
        axes.plot(one.sizes, one.cra, color=theme.line(one.method), label=one.title, **style)
    axes.set_xlim(0, end)
    axes.set_ylim(-0.02, 1.05)
    percent_axis(axes)
    label_axes(axes, theme, "region size (0: identity alone, 1: this region)", "certified robust accuracy")
    add_legend(axes, theme, loc="lower left")
    return figure


@dataclass(frozen=True)
class Tried:
    """A law that was tried: where its scale is, expected CRA with its interval, h_min, and whether votes reach that."""

    x: float
    cra: float
    low: float
    high: float
    h_min: float
    reached: bool


def advice(
    theme: Theme, lines: Mapping[str, Sequence[Tried]], label: str, most: float, trained: Tried, best: Tried
) -> Figure:
    """Expected CRA with intervals against scale, a line a title; below it h_min, and ``most``, what votes can show."""
    figure = new_figure(theme, 5.0 + 0.09 * len(lines))
    grid = figure.add_gridspec(2, 1, height_ratios=(1.7, 1))
    axes, below = new_axes(figure, theme, grid[0]), new_axes(figure, theme, grid[1])
    colours = [*theme.lines.values(), theme.ink]
    xs = [one.x for line in lines.values() for one in line]
    # Beside each other, so that intervals at one scale do not hide each other: all within a twentieth of the width.
    step = (max(xs) / min(xs)) ** (0.05 / len(lines))
    ring: dict[str, Any] = {"marker": "o", "color": theme.ink, "markersize": 14, "fillstyle": "none", "clip_on": False}
    places: dict[Tried, float] = {}
    for i, (title, line) in enumerate(lines.items()):
        colour, marker = colours[i % len(colours)], "osD^vPXpd"[i % 9]
        style: dict[str, Any] = {"color": colour, "linewidth": 1.6, "markersize": 5}
        x = [one.x * step ** (i - (len(lines) - 1) / 2) for one in line]
        axes.plot(x, [one.cra for one in line], label=title, marker=marker, **style)
        below.plot(x, [one.h_min for one in line], marker=marker, **style)
        for place, one in zip(x, line, strict=True):
            places.setdefault(one, place)
            if one.reached:
                axes.vlines(place, one.low, one.high, color=colour, linewidth=1.2, alpha=0.7)
            else:
                axes.plot([place], [0.0], "x", color=colour, markersize=9, clip_on=False)
    axes.plot([places[trained]], [trained.cra], **ring)
    below.plot([places[trained]], [trained.h_min], **ring)
    axes.plot([places[best]], [1.07], "v", color=theme.ink, markersize=7, clip_on=False)
    below.axhline(most, color=theme.muted, linewidth=1, linestyle=(0, (2, 2)))
    ticks = plain_ticks(min(xs), max(xs), log=True)
    for panel in (axes, below):
        panel.set_xscale("log")
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_xticks([], minor=True)
        panel.set_xlim(min(xs) / 1.15, max(xs) * 1.15)
    axes.tick_params(labelbottom=False)
    axes.set_ylim(-0.02, 1.1)
    axes.set_yticks(np.linspace(0, 1, 6))
    below.set_ylim(0.48, 1.02)
    percent_axis(axes)
    label_axes(axes, theme, "", "expected CRA")
    label_axes(below, theme, label, H_MIN)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize=8.5,
        labelcolor=theme.ink,
        facecolor=theme.paper,
        frameon=False,
    )
    return figure


def threshold_curve(
    theme: Theme,
    p_lower: NDArray[np.float64],
    correct: NDArray[np.bool_],
    h_min: Mapping[str, float],
    titles: Mapping[str, str],
) -> Figure:
    """Fraction of images that are correct with p_A above t, against t; each h_min is a vertical line."""
    figure = new_figure(theme, 3.1)
    axes = new_axes(figure, theme)
    ascending = np.sort(p_lower[correct])
    steps = np.concatenate([[0.5], ascending[ascending > 0.5], [1.0]])
    above = np.array([(ascending > t).sum() for t in steps]) / len(p_lower)
    axes.step(steps, above, where="post", color=theme.ink, linewidth=2)
    for method, value in h_min.items():
        axes.axvline(
            value,
            color=theme.line(method),
            linestyle=DASHES.get(method, "-"),
            linewidth=1.5,
            label=f"{titles[method]}: {H_MIN} = {wording.ceil(value, 4)}",
        )
    axes.set_xlim(0.5, 1.0)
    axes.set_ylim(-0.02, 1.05)
    percent_axis(axes)
    label_axes(axes, theme, f"required probability {H_MIN}", f"images correct with {P_A} > {H_MIN}")
    add_legend(axes, theme, loc="lower left")
    return figure


#: What is within a factor of ten at the ticks of a logarithmic axis, from wide axes to narrow ones.
_LOG_TICKS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.7, 2, 2.5, 3, 4, 5, 6, 7, 8))


def plain_ticks(low: float, high: float, log: bool) -> list[float]:
    """Round values inside [low, high]; on a logarithmic axis spread by ratio."""
    if not log or high < 1.5 * low:  # so narrow that ratios are differences
        from matplotlib.ticker import MaxNLocator

        return [float(v) for v in MaxNLocator(6).tick_values(low, high) if low - 1e-9 <= v <= high + 1e-9]
    gap = np.log(high / low) / 8
    for series in _LOG_TICKS:
        values = [m * 10.0**e for e in range(-4, 5) for m in series]
        inside = [v for v in values if low * 0.999 <= v <= high * 1.001]
        if len(inside) > 3 and min(np.diff(np.log(inside))) >= gap:
            return inside
    # A narrow axis has some of the last series, as they fit around 1.
    ticks: list[float] = [1.0] if low <= 1.0 <= high else []
    for v in inside:
        if all(abs(np.log(v / t)) >= gap for t in ticks):
            ticks.append(v)
    return sorted(ticks)


def accuracy_plane(theme: Theme, plane: Plane, title: str) -> Figure:
    """Heat map of the CRA at every point of the parameter plane, with the certified region."""
    return _plane(theme, plane, title, "correct and certified at the point", (0.0, 1.0), [0.5])


def required_probability_plane(family: SmoothedFamily, region: Region, path: Path) -> None:
    """Save a heat map of Neyman-Pearson's h_min over the plane of a two-parameter region to ``path``.

    Raises:
        UserError: the region has not two parameters that vary.
    """
    axes = sweeps.plane_axes(family, region)
    if axes is None:
        raise UserError(
            f"plot: the region has the parameters {', '.join(region.parameters)}; a plane needs two "
            "that vary, set plot=false or another region"
        )
    plane = sweeps.required_probability_plane(family, region, axes, "neyman_pearson")
    title = f"{wording.literal(family.name)}: required probability at the point"
    levels = [0.6, 0.7, 0.8, 0.9, 0.99]
    with defaults():
        figure = _plane(LIGHT, plane, title, "required probability", (0.5, 1.0), levels)
        write_bytes(path, rendered(figure, path.suffix.removeprefix(".")))


def _plane(
    theme: Theme, plane: Plane, title: str, label: str, span: tuple[float, float], levels: Sequence[float]
) -> Figure:
    """Heat map of ``plane`` with lines at ``levels``, its colours over ``span``; light is good."""
    from matplotlib.patches import Polygon
    from matplotlib.ticker import PercentFormatter

    share = span[0] == 0.0
    figure = new_figure(theme, 4.2)
    axes = new_axes(figure, theme)
    axes.grid(False)

    # Logarithmic axes are drawn in the logarithm, where the nodes are evenly spaced.
    def place(axis: Axis, values: Any) -> Any:
        return np.log(values) if axis.log else np.asarray(values, dtype=float)

    x, y = place(plane.x, plane.x.nodes), place(plane.y, plane.y.nodes)
    half_x, half_y = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    image = axes.imshow(
        plane.values,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="cividis" if share else "cividis_r",
        vmin=span[0],
        vmax=span[1],
        extent=(x[0] - half_x, x[-1] + half_x, y[0] - half_y, y[-1] + half_y),
    )
    shown = [level for level in levels if plane.values.min() < level < plane.values.max()]
    if shown:
        lines = axes.contour(x, y, plane.values, levels=shown, colors="white", linewidths=1, linestyles="dotted")
        names = {level: f"{100 * level:g} %" if share else f"{level:g}" for level in shown}
        axes.clabel(lines, fmt=names, fontsize=8)
    corners = itertools.product(plane.x.interval, plane.y.interval)
    around = np.array([*corners])[[0, 1, 3, 2]] if isinstance(plane.region, Box) else plane.circle()
    listed = plane.points()
    x_identity, y_identity = place(plane.x, plane.x.identity), place(plane.y, plane.y.identity)
    # White on a black rim is seen on every colour of the map.
    for colour, box_width, cross_size, cross_width in (("black", 3.5, 11, 3.5), ("white", 1.6, 10, 1.6)):
        if around is not None:
            rim = np.stack([place(plane.x, around[:, 0]), place(plane.y, around[:, 1])], axis=1)
            axes.add_patch(Polygon(rim, fill=False, edgecolor=colour, linewidth=box_width))
        for at_x, at_y in listed:
            at = [place(plane.x, at_x)], [place(plane.y, at_y)]
            axes.plot(*at, "s", color="none", markeredgecolor=colour, markersize=6, markeredgewidth=box_width)
        axes.plot([x_identity], [y_identity], "+", color=colour, markersize=cross_size, markeredgewidth=cross_width)
    for axis, setter in ((plane.x, axes.set_xticks), (plane.y, axes.set_yticks)):
        ticks = plain_ticks(float(axis.nodes[0]), float(axis.nodes[-1]), axis.log)
        setter(place(axis, ticks), [wording.number(tick) for tick in ticks])
    bar = figure.colorbar(
        image, ax=axes, format=PercentFormatter(1.0, decimals=0, symbol=" %") if share else None, pad=0.02
    )
    bar.ax.tick_params(colors=theme.muted, labelsize=9)
    bar.outline.set_visible(False)
    bar.set_label(label, color=theme.ink, fontsize=9.5)
    label_axes(axes, theme, wording.axis_label(plane.x.name), wording.axis_label(plane.y.name))
    axes.set_title(title, color=theme.ink, fontsize=9.5)
    return figure


def show_image(axes: Axes, image: NDArray[np.floating]) -> None:
    """Draw a (C, H, W) image; values outside [0, 1] are clipped for the eye only."""
    pixels = np.clip(np.nan_to_num(np.asarray(image, dtype=np.float64)), 0.0, 1.0)
    axes.set_xticks([])
    axes.set_yticks([])
    if pixels.shape[0] == 1:
        axes.imshow(pixels[0], cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    else:
        axes.imshow(pixels.transpose(1, 2, 0), interpolation="nearest")


def _frame(axes: Axes, colour: str, width: float) -> None:
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(colour)
        spine.set_linewidth(width)


@dataclass(frozen=True)
class Procedure:
    """What was done to one image: the content of the diagram.

    Attributes:
        image: (C, H, W) original; ``transformed``: (k, C, H, W) copies phi(x, alpha_i).
        captions: k strings, the drawn parameters.
        votes: k strings, the class that each copy was given; ``agree``: (k,) is it the selected one.
        selected, label: names of the selected class and of the true one.
        count, n: votes for the selected class, of how many.
        p_lower, h_min: the two numbers compared.
        method: the method of h_min; ``source``: what p_lower is.
        drawn: were the copies drawn from the smoothing laws, or visited in the order of their probability?
    """

    image: NDArray[np.floating]
    transformed: NDArray[np.floating]
    captions: Sequence[str]
    votes: Sequence[str]
    agree: Sequence[bool]
    selected: str
    label: str
    count: int
    n: int
    p_lower: float
    h_min: float
    method: str
    source: str
    drawn: bool = True


def procedure(theme: Theme, what: Procedure) -> Figure:
    """The paper's Figure 1: image, transformed copies with their votes, the count, p_A against h_min."""
    k = min(len(what.transformed), 8)
    columns = 4
    rows = max(1, -(-k // columns))
    heights = [2.1, 0.35 + 1.5 * rows, 1.85]
    figure = new_figure(theme, sum(heights))
    top, middle, bottom = _stack(figure, heights)

    grid = top.add_gridspec(1, 2, width_ratios=[1, 1.35])
    axes = top.add_subplot(grid[0])
    show_image(axes, what.image)
    _frame(axes, theme.muted, 1)
    axes.set_title(f"original image x, true class {what.label}", loc="left", fontsize=9, color=theme.ink)
    note = top.add_subplot(grid[1])
    note.axis("off")
    note.text(
        0.02,
        0.5,
        f"1  {'Draw αᵢ from the smoothing laws' if what.drawn else 'Take αᵢ, the most probable first'},\n"
        "    transform: φ(x, αᵢ)\n\n2  Let the base classifier vote "
        f"on\n    every copy\n\n3  Count the votes for {what.selected}\n\n4  Bound its probability from "
        f"below:\n    {P_A}. Certified if {P_A} > {H_MIN}",
        fontsize=9,
        color=theme.ink,
        va="center",
        transform=note.transAxes,
        linespacing=1.25,
    )

    middle.suptitle(f"{k} of the {what.n} copies, and the vote each gets", fontsize=9, color=theme.ink)
    cells = middle.subplots(rows, columns, squeeze=False).ravel()
    for i, cell in enumerate(cells):
        if i >= k:
            cell.axis("off")
            continue
        show_image(cell, what.transformed[i])
        colour = theme.yes if what.agree[i] else theme.no
        _frame(cell, colour, 2)
        mark = "✓" if what.agree[i] else "✗"
        cell.set_title(what.captions[i], fontsize=7.5, color=theme.muted, pad=3)
        cell.set_xlabel(f"{mark} {what.votes[i]}", fontsize=9, color=colour, labelpad=3)

    share, line = bottom.subplots(2, 1, gridspec_kw={"height_ratios": [0.4, 1]})
    share.set_facecolor(theme.paper)
    share.barh([0], [what.count], color=theme.yes, height=0.7)
    share.barh([0], [what.n - what.count], left=[what.count], color=theme.no, height=0.7)
    share.set_xlim(0, what.n)
    share.axis("off")
    share.set_title(
        f"{what.count} of n = {what.n} votes are for {what.selected}",
        fontsize=9.5,
        color=theme.ink,
        loc="left",
    )
    _number_line(line, theme, what)
    return figure


def _number_line(axes: Axes, theme: Theme, what: Procedure) -> None:
    """p_A and h_min on the line from 1/2 to 1 (from lower, where p_A is)."""
    certified = exceeds(what.p_lower, what.h_min)
    colour = theme.yes if certified else theme.no
    left = min(0.5, np.floor(what.p_lower * 10) / 10)
    axes.set_facecolor(theme.paper)
    axes.set_xlim(left, 1.0)
    axes.set_ylim(-1.25, 1.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_position(("data", 0.0))
    axes.spines["bottom"].set_color(theme.muted)
    axes.set_yticks([])
    axes.tick_params(colors=theme.muted, labelsize=8)
    axes.plot([what.h_min, 1.0], [0, 0], color=theme.yes, linewidth=5, alpha=0.35, solid_capstyle="butt")
    middle = (left + 1.0) / 2
    axes.plot([what.p_lower], [0.0], "v", color=colour, ms=9, clip_on=False, zorder=3)
    axes.plot([what.h_min], [0.0], "|", color=theme.ink, ms=20, mew=2, clip_on=False, zorder=3)
    axes.annotate(
        f"{P_A} = {wording.floor(what.p_lower, 4)}\n{what.source}",
        (what.p_lower, 0.0),
        (0, 8),
        textcoords="offset points",
        fontsize=8.5,
        color=colour,
        ha="right" if what.p_lower > middle else "left",
        va="bottom",
    )
    axes.annotate(
        f"{H_MIN} = {wording.ceil(what.h_min, 4)}, {what.method}",
        (what.h_min, 0.0),
        (0, -20),
        textcoords="offset points",
        fontsize=8.5,
        color=theme.ink,
        ha="right" if what.h_min > middle else "left",
        va="top",
    )
    verdict = f"{P_A} > {H_MIN}: certified" if certified else f"{P_A} ≤ {H_MIN}: not certified"
    axes.set_title(verdict, fontsize=10, color=colour, fontweight="bold", loc="left")


def gallery(
    theme: Theme,
    certified: Sequence[tuple[NDArray[np.floating], str]],
    others: Sequence[tuple[NDArray[np.floating], str]],
) -> Figure:
    """Two blocks of (image (C, H, W), caption), six in a row: certified and correct, and the rest."""
    columns = 6
    blocks = [
        ("certified in their true class", certified, theme.yes),
        ("not certified, or certified in a wrong class", others, theme.no),
    ]
    blocks = [block for block in blocks if block[1]]
    heights = [0.35 + 1.0 * -(-len(images) // columns) for _, images, _ in blocks]
    figure = new_figure(theme, sum(heights))
    for part, (title, images, colour) in zip(_stack(figure, heights), blocks, strict=True):
        part.suptitle(title, fontsize=9.5, color=colour, x=0.01, ha="left")
        cells = part.subplots(-(-len(images) // columns), columns, squeeze=False).ravel()
        for cell in cells[len(images) :]:
            cell.axis("off")
        for cell, (image, caption) in zip(cells, images, strict=False):
            show_image(cell, image)
            _frame(cell, colour, 1.5)
            cell.set_xlabel(caption, fontsize=7, color=theme.ink, labelpad=2)
    return figure
