"""Pictures with matplotlib's own defaults, whatever settings lie about.

matplotlib reads a ``matplotlibrc`` of the working directory first. Data lie there, perhaps a stranger's, and settings
can have it start LaTeX, or write files beside the pictures.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["defaults", "import_matplotlib", "lay_out"]


def import_matplotlib() -> None:
    """Import matplotlib, unless that has happened, without a look at the working directory's ``matplotlibrc``."""
    if "matplotlib" in sys.modules:
        return
    found = importlib.util.find_spec("matplotlib")
    assert found is not None
    assert found.origin is not None
    here = os.getcwd()
    os.chdir(os.path.dirname(found.origin))
    try:
        importlib.import_module("matplotlib")
    finally:
        os.chdir(here)


@contextmanager
def defaults() -> Iterator[None]:
    """Have figures drawn and saved with matplotlib's own defaults; afterwards the settings are as before."""
    import_matplotlib()
    import matplotlib

    own = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    with matplotlib.rc_context(own):
        yield


def lay_out(figure: Figure) -> None:
    """Place the parts of a finished figure for good; for every file that is saved matplotlib would do so again."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
