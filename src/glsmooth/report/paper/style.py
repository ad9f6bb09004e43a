"""How pictures for print look: the width of a column or a page, letters of 7 points and more, readable in grey.

Colours are of the Okabe-Ito palette, darkened; line styles and marks say the same again, for grey printers and eyes
that do not see the difference. Nothing here changes matplotlib's settings for others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from glsmooth.errors import UserError, did_you_mean
from glsmooth.report import wording
from glsmooth.report.defaults import defaults, import_matplotlib
from glsmooth.report.figures import plain_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BOX",
    "COLOUR_MAP",
    "GREY",
    "INK",
    "LABEL",
    "LINES",
    "PRINTED",
    "SMALL",
    "axis_label",
    "halo",
    "inches",
    "legend_below",
    "new_axes",
    "new_figure",
    "set_scale",
    "style",
    "symbol",
]

#: Inches of a column and of a page, as most styles of two columns have them.
WIDTHS = {"column": 3.35, "full": 6.9}
#: Points of labels, and of everything else: nothing is smaller.
LABEL, SMALL = 7.5, 7.0
INK, GREY = "#1d1d1f", "#77777c"
#: Perceptually uniform, monotone in grey, and the same to the colour-blind.
COLOUR_MAP = "cividis"

#: Colour, line, mark and width by method. Neyman-Pearson is the lowest bound: thin and on top of what it hides.
LINES: dict[str, dict[str, Any]] = {
    "neyman_pearson": {"color": "#00406b", "linestyle": "-", "marker": "o", "linewidth": 1.2, "zorder": 5},
    "gl": {"color": "#c24e00", "linestyle": "--", "marker": "s", "linewidth": 1.6, "zorder": 4},
    "gl_ode": {"color": "#00805d", "linestyle": ":", "marker": "D", "linewidth": 1.9, "zorder": 3.8},
    "tss": {"color": "#9a4079", "linestyle": "-.", "marker": "^", "linewidth": 1.6, "zorder": 3.6},
    "mp": {"color": "#6b5600", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v", "linewidth": 1.6, "zorder": 3.4},
}
#: The paper's printed procedure, which certifies nothing.
PRINTED: dict[str, Any] = {"color": "#9b9b9f", "linestyle": (0, (7, 3)), "marker": "x", "linewidth": 1.1, "zorder": 3}
#: The box of a region.
BOX: dict[str, Any] = {"fill": False, "edgecolor": INK, "linewidth": 1.0, "linestyle": (0, (4, 2))}

_SETTINGS: Any = {
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3, and the text stays text
    "ps.fonttype": 42,
    "savefig.dpi": 300,
    "figure.dpi": 150,
    "font.size": SMALL,
    "axes.labelsize": LABEL,
    "axes.titlesize": LABEL,
    "axes.linewidth": 0.6,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "mathtext.fontset": "dejavusans",
}
_SYMBOLS = {
    "brightness": "$b$",
    "contrast": "$c$",
    "gamma": r"$\gamma$",
    "tx": "$t_x$",
    "ty": "$t_y$",
    "blur": "$r$",
    "angle": r"$\beta$",
    "scale": r"$\beta$",
}
_UNITS = {
    "brightness": "units of image range",
    "contrast": "factor",
    "gamma": "exponent, factor",
    "tx": "pixels",
    "ty": "pixels",
    "blur": "variance, pixels²",
    "angle": "degrees",
    "scale": "factor",
}


@contextmanager
def style() -> Iterator[None]:
    """Have pictures drawn and saved for print, whatever settings lie about; afterwards those are as before."""
    with defaults():
        import matplotlib

        with matplotlib.rc_context(_SETTINGS):
            yield


@cache
def _figure_class() -> type[Figure]:
    from matplotlib.figure import Figure

    class PrintFigure(Figure):
        """A Figure that is saved as it was drawn: 300 dots an inch, fonts as TrueType, no date."""

        def savefig(self, fname: Any, **options: Any) -> None:
            name = str(options.get("format") or getattr(fname, "name", fname)).lower()
            if name.endswith(("pdf", "svg")):
                # The same picture shall give the same file.
                date = "CreationDate" if name.endswith("pdf") else "Date"
                options["metadata"] = {date: None, **options.get("metadata", {})}
            with style():
                super().savefig(fname, **options)

    return PrintFigure


def inches(width: str) -> float:
    """Inches of ``column`` or ``full``.

    Raises:
        UserError: another word.
    """
    if width not in WIDTHS:
        raise UserError(f"width={width!r} is not a choice{did_you_mean(str(width), WIDTHS)}; use 'column' or 'full'")
    return WIDTHS[width]


def new_figure(width: str, height: float, layout: bool = True) -> Figure:
    """An empty figure of this width, ``height`` in inches; ``layout``: places its parts by itself."""
    size = (inches(width), height)
    import_matplotlib()
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03) if layout else None
    return _figure_class()(figsize=size, facecolor="white", layout=engine)


def new_axes(figure: Any, *place: Any, **options: Any) -> Axes:
    axes: Axes = figure.add_subplot(*place, **options)
    plain(axes)
    axes.grid(color="#dcdce0", linewidth=0.5)
    axes.set_axisbelow(True)
    return axes


def plain(axes: Axes) -> None:
    """Two spines, and ticks whose size no later setting changes."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=SMALL, colors=INK, width=0.6, length=2.5, pad=2)


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=columns,
        fontsize=SMALL,
        frameon=False,
        handlelength=3.2,
        columnspacing=1.2,
        borderpad=0.1,
        labelspacing=0.35,
    )


def halo(width: float = 2.0) -> list[Any]:
    """A white rim around letters and lines that lie on colours."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]


def symbol(name: str) -> str:
    """A parameter as a formula has it."""
    return _SYMBOLS.get(name, wording.literal(name))


def axis_label(name: str) -> str:
    """A parameter with its symbol and its unit."""
    if name not in _UNITS:
        return wording.literal(name)
    return f"{wording.parameter(name)} {symbol(name)} ({_UNITS[name]})"


def set_scale(axes: Axes, which: str, low: float, high: float, log: bool, whole: bool = False) -> None:
    """Limits, scale and round ticks of the axis ``which``, ``"x"`` or ``"y"``; ``whole``: at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log" if log else "linear", f"{which}lim": (low, high)})
    if log:
        ticks = plain_ticks(low, high, log)
    else:
        steps = [1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10]
        rounded = MaxNLocator(8, steps=steps, integer=whole).tick_values(low, high)
        ticks = [float(tick) for tick in rounded if low - 1e-9 <= tick <= high + 1e-9]
    axis.set_ticks(ticks, [wording.number(tick) for tick in ticks])
    if log:
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
