"""Reports without what takes most of their time, for tests that look at something else."""

import base64
from contextlib import contextmanager

import pytest
from matplotlib.backend_bases import FigureCanvasBase

from glsmooth.report import page, sweeps
from glsmooth.report.sweeps import affordable_axes, plane_axes

#: A file of each format, as small as it can be.
BLANK = {
    "png": base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    ),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.4\n%%EOF\n",
}
_PRINT_FIGURE = FigureCanvasBase.print_figure


@contextmanager
def few_points():
    """Curves of ten points and planes of eleven by eleven, which no busy machine leaves out."""

    def axes(family, region, method, seconds):
        if affordable_axes(family, region, method, 10 * seconds) is None:
            return None
        return plane_axes(family, region, 11)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "CURVE_SECONDS", 10 * page.CURVE_SECONDS)
        patch.setattr(sweeps, "SIZES", sweeps.SIZES[:10])
        patch.setattr(sweeps, "affordable_axes", axes)
        yield


@contextmanager
def blank():
    """Pictures are composed, and blank in their files."""

    def print_figure(canvas, file, *_, format, **__):
        file.write(BLANK[format])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureCanvasBase, "print_figure", print_figure)
        yield


@contextmanager
def rendered():
    """Pictures as users have them, within :func:`blank`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FigureCanvasBase, "print_figure", _PRINT_FIGURE)
        yield
