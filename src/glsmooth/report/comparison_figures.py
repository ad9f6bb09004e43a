"""The pictures of a comparison: lines against a swept number, a heat map of two, and points where neither fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from glsmooth.report import wording
from glsmooth.report.figures import DASHES, WIDTH, Theme, new_axes, new_figure, percent_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Cell", "Curve", "Dot", "heat_map", "lines", "points"]

_MARKERS = "osD^vP"
#: What is no CRA, by kind, and how its line is broken.
_MUTED = {"era": (0, (6, 2, 1, 2)), "smoothed": (0, (4, 2)), "base": (0, (1, 2))}
#: The mark of the best setting.
_RING: dict[str, Any] = {
    **{"marker": "o", "linestyle": "none", "fillstyle": "none", "markersize": 13},
    **{"markeredgewidth": 1.5, "clip_on": False, "zorder": 4},
}
#: Share of the page's width between the levels of an axis below which their ticks would run into each other.
_GAP = 0.09


@dataclass(frozen=True)
class Dot:
    """A mean share with its range over seeds at one value of the axis; ``best`` marks the best setting."""

    x: float
    mean: float
    least: float
    most: float
    best: bool = False


@dataclass(frozen=True)
class Curve:
    """A line: CRA (``kind`` is a method, or "" for one of several values of a key), or "era", "smoothed" or "base"."""

    title: str
    kind: str
    dots: Sequence[Dot]


def lines(
    theme: Theme,
    label: str,
    curves: Sequence[Curve],
    other: str = "",
    beside: Sequence[tuple[Curve, Curve]] = (),
) -> Figure:
    """CRA against a swept number, a line a method, or a line a value of the key ``other``.

    Args:
        label: of the axis.
        curves: CRA; without ``other`` also the smoothed and the base accuracy.
        beside: with ``other``, the smoothed and the base accuracy of each line, in a panel below.
    """
    figure = new_figure(theme, 3.9 + 1.4 * bool(beside) + 0.17 * (len(curves) // 3))
    if beside:
        grid = figure.add_gridspec(2, 1, height_ratios=[1.7, 1])
        upper = new_axes(figure, theme, grid[0])
        bottom = new_axes(figure, theme, grid[1], sharex=upper)
        upper.tick_params(axis="x", labelbottom=False)
        named = [(upper, "certified robust accuracy"), (bottom, "accuracy, dotted: base")]
    else:
        upper = bottom = new_axes(figure, theme)
        named = [(upper, "share of the images")]
    # Neyman-Pearson is on top, and thinner than what it covers.
    for number, curve in reversed(list(enumerate(curves))):
        _draw_curve(upper, theme, curve, number)
    for number, (smoothed, base) in enumerate(beside):
        _draw_curve(bottom, theme, smoothed, number)
        colour = _colour(theme, number)
        bottom.plot(*_means(base), color=colour, linestyle=(0, (1, 2)), linewidth=1.4)
    for axes, what in named:
        axes.set_ylim(-0.03, 1.05)
        percent_axis(axes)
        axes.set_ylabel(what, color=theme.ink, fontsize=9.5)
    _number_axis(bottom, [dot.x for curve in curves for dot in curve.dots])
    bottom.set_xlabel(label, color=theme.ink, fontsize=9.5, parse_math=False)
    _legend_below(figure, upper, theme, other, reverse=True)
    return figure


def _legend_below(figure: Figure, axes: Axes, theme: Theme, title: str = "", reverse: bool = False) -> None:
    """A legend under the axes, in as many columns as its longest title leaves room for."""
    handles, titles = axes.get_legend_handles_labels()
    if reverse:
        handles, titles = handles[::-1], titles[::-1]
    legend = figure.legend(
        handles,
        titles,
        loc="outside lower center",
        ncols=max(1, min(len(titles), 76 // (max(map(len, titles)) + 8))),
        fontsize=8.5,
        labelcolor=theme.ink,
        facecolor=theme.paper,
        frameon=False,
        title=title or None,
        title_fontsize=8.5,
    )
    legend.get_title().set_color(theme.muted)
    for words in (legend.get_title(), *legend.get_texts()):
        words.set_parse_math(False)


def _colour(theme: Theme, number: int) -> str:
    return list(theme.lines.values())[number % len(theme.lines)]


def _means(curve: Curve) -> tuple[list[float], list[float]]:
    return [dot.x for dot in curve.dots], [dot.mean for dot in curve.dots]


def _draw_curve(axes: Axes, theme: Theme, curve: Curve, number: int) -> None:
    x, mean = _means(curve)
    style: dict[str, Any]
    if curve.kind in _MUTED:
        style = {"color": theme.muted, "linestyle": _MUTED[curve.kind], "linewidth": 1.3, "marker": "."}
    elif curve.kind:
        style = {"color": theme.line(curve.kind), "linestyle": DASHES.get(curve.kind, "-")}
        style |= {"linewidth": 1.8 + number, "marker": _MARKERS[number % 6], "markersize": 5 + 2 * number}
    else:
        style = {"color": _colour(theme, number), "linestyle": list(DASHES.values())[number % len(DASHES)]}
        style |= {"linewidth": 2}
        style |= {"marker": _MARKERS[number % 6], "markersize": 5}
    axes.plot(x, mean, label=curve.title, clip_on=False, zorder=3, **style)
    if any(dot.most > dot.least for dot in curve.dots):
        below = [dot.mean - dot.least for dot in curve.dots]
        above = [dot.most - dot.mean for dot in curve.dots]
        spread = np.maximum([below, above], 0.0)  # rounding
        axes.errorbar(x, mean, spread, fmt="none", ecolor=style["color"], elinewidth=1.2, capsize=3, clip_on=False)
    for dot in curve.dots:
        if dot.best:
            axes.plot([dot.x], [dot.mean], **_RING, color=theme.ink)


def _number_axis(axes: Axes, values: Sequence[float]) -> None:
    """Ticks at the swept values, logarithmic where they spread by ratio."""
    from matplotlib.ticker import NullFormatter, NullLocator

    levels = sorted(set(values))
    log = levels[0] > 0 and levels[-1] / levels[0] >= 8
    if log:
        axes.set_xscale("log")

    def place(value: float) -> float:
        return float(np.log(value)) if log else value

    reach = place(levels[-1]) - place(levels[0])
    if reach > 0:
        ticks: list[float] = []
        for value in levels:
            wide = _GAP * max(1.0, len(wording.number(value)) / 5)
            if not ticks or place(value) - place(ticks[-1]) >= wide * reach:
                ticks.append(value)
        margin = 0.04 * reach
        low, high = place(levels[0]) - margin, place(levels[-1]) + margin
        axes.set_xlim(*(np.exp([low, high]) if log else (low, high)))
    else:
        ticks = levels
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(ticks, [wording.number(tick) for tick in ticks])


@dataclass(frozen=True)
class Cell:
    """What a heat map shows at one pair of values: CRA as a share, both numbers in words, and the mark."""

    share: float
    cra: str
    smoothed: str
    best: bool = False


def heat_map(
    theme: Theme,
    x: tuple[str, Sequence[str]],
    y: tuple[str, Sequence[str]],
    cells: Mapping[tuple[int, int], Cell],
    title: str,
) -> Figure:
    """CRA over two swept keys; ``x`` and ``y`` are a label and the levels, ``cells`` are by their positions."""
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import PercentFormatter

    columns, rows = len(x[1]), len(y[1])
    height = min(max(0.5 * rows, 1.5), 6.5)
    figure = new_figure(theme, 1.5 + height)
    axes = new_axes(figure, theme)
    axes.grid(False)
    values = np.full((rows, columns), np.nan)
    for (column, row), cell in cells.items():
        values[row, column] = cell.share
    shown_values = np.ma.masked_invalid(values)
    image = axes.imshow(
        shown_values, origin="lower", aspect="auto", interpolation="nearest", cmap="cividis", vmin=0, vmax=1
    )
    room = (WIDTH - 1.6) / columns  # inches of a cell
    large = 10.5 if room >= 0.6 else 8.5
    for (column, row), cell in cells.items():
        ink = "white" if cell.share < 0.45 else "black"
        if room >= 0.42 and height / rows >= 0.36:
            axes.text(column, row, cell.cra, ha="center", va="bottom", fontsize=large, color=ink)
            axes.text(column, row, cell.smoothed, ha="center", va="top", fontsize=0.78 * large, color=ink)
        if cell.best:
            for colour, width in (("black", 3.5), ("white", 1.8)):
                box = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=colour, linewidth=width)
                axes.add_patch(box)
    widest = max(map(len, x[1]))
    tilt = 0 if widest * 0.075 < room else 60
    every = max(1, int(np.ceil((0.17 if tilt else widest * 0.075) / room)))
    shown = range(0, columns, every)
    axes.set_xticks(list(shown), [x[1][i] for i in shown], rotation=tilt, parse_math=False)
    step = max(1, rows // 30)
    axes.set_yticks(range(0, rows, step), list(y[1])[::step], parse_math=False)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1.0, decimals=0, symbol=" %"), pad=0.02)
    bar.ax.tick_params(colors=theme.muted, labelsize=9)
    bar.outline.set_visible(False)
    bar.set_label("certified robust accuracy", color=theme.ink, fontsize=9.5)
    axes.set_xlabel(x[0], color=theme.ink, fontsize=9.5, parse_math=False)
    axes.set_ylabel(y[0], color=theme.ink, fontsize=9.5, parse_math=False)
    axes.set_title(title, color=theme.ink, fontsize=9.5)
    return figure


def points(theme: Theme, names: Sequence[str], values: Mapping[tuple[str, str], Sequence[Dot | None]]) -> Figure:
    """Accuracies of several settings as points, a group a setting.

    Args:
        values: from title and kind, as :class:`Curve` has them, to one dot a setting.
    """
    from matplotlib.ticker import PercentFormatter

    step = 0.8 / len(values)
    figure = new_figure(theme, 1.0 + 0.2 * len(values) * (len(names) + 1))
    axes = new_axes(figure, theme)
    axes.grid(False, axis="y")
    rows = np.arange(len(names))[::-1]
    for i, ((title, kind), series) in enumerate(values.items()):
        shown = [(dot, row) for dot, row in zip(series, rows, strict=True) if dot is not None]
        # One below the other, so that equal values do not hide each other.
        heights = [float(row + 0.4 - step * (i + 0.5)) for _, row in shown]
        colour = theme.muted if kind in _MUTED else theme.line(kind)
        axes.plot(
            [dot.mean for dot, _ in shown],
            heights,
            _MARKERS[i % 6],
            color=colour,
            markersize=6,
            fillstyle="none" if kind == "base" else "full",
            label=title,
            clip_on=False,
        )
        for (dot, _), height in zip(shown, heights, strict=True):
            if dot.most > dot.least:
                axes.plot([dot.least, dot.most], [height, height], "|-", color=colour, linewidth=1.2, clip_on=False)
            if dot.best:
                axes.plot([dot.mean], [height], **_RING, color=theme.ink)
    for row in rows[1:]:
        axes.axhline(row + 0.5, color=theme.rule, linewidth=0.8)
    axes.set_yticks(rows, names, parse_math=False)  # directories may be called anything
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.5, len(names) - 0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_xlabel("share of the images", color=theme.ink, fontsize=9.5)
    _legend_below(figure, axes, theme)
    return figure
