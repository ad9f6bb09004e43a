"""The pictures for print of one run, or of one training, as files: PNG and PDF."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glsmooth.bounds import certify_region
from glsmooth.errors import UserError
from glsmooth.family.regions import Ball, Box, Region
from glsmooth.report.defaults import lay_out
from glsmooth.report.paper import figures
from glsmooth.report.paper.figures import Votes
from glsmooth.report.paper.style import style
from glsmooth.runs.files import write_bytes
from glsmooth.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TRAINING_CURVES", "write_figures", "write_training_curves"]

log = logging.getLogger(__name__)

#: What :func:`write_training_curves` writes.
TRAINING_CURVES = ("training.png", "training.pdf")


def write_figures(run: Run, region: Region, folder: Path) -> list[Path]:
    """Write every picture that a run and a region have into ``folder``; those that do not apply are left out.

    Planes and certified sets are drawn for each pair of the region's parameters, certified sets of the image that
    certify left with the run.

    Returns:
        The files.
    """
    if run.family.warps:
        raise UserError(
            f"figures=paper: of {run.family.name} votes tell of the run's own interval alone, so there is nothing to "
            "draw over regions; leave figures out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in _figures(run, region):
        log.info("report: %s", folder / name)
        try:
            files += _write(draw(), folder, name)
        except UserError as reason:
            log.warning("report: no %s: %s", name, reason)
    return files


def write_training_curves(directory: Path) -> list[Path]:
    """training.png and training.pdf in the directory of a training.

    Raises:
        UserError: it has no metrics that are readable.
    """
    return _write(figures.training_curves(directory), directory, "training")


def _write(figure: Figure, folder: Path, name: str) -> list[Path]:
    # It tells of every table of the fonts that go into a PDF.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    with style():
        lay_out(figure)
    files = []
    for kind in ("png", "pdf"):
        content = io.BytesIO()
        figure.savefig(content, format=kind)
        files.append(folder / f"{name}.{kind}")
        write_bytes(files[-1], content.getvalue())
    return files


def _figures(run: Run, region: Region) -> Iterator[tuple[str, Callable[[], Figure]]]:
    family, votes = run.family, Votes(run.family, region, run.p_lower, run.correct, run)
    if isinstance(region, (Box, Ball)):  # a list has no size
        yield "cra_region", partial(figures.cra_against_region_size, votes)
    box = region.box(family.identity)
    varying = [name for name, (low, high) in box.intervals.items() if low < high]
    planes: list[tuple[str, ...]] = list(combinations(varying, 2))
    for pair in planes:
        after = "" if len(planes) == 1 else "_" + "_".join(pair)
        yield f"cra_plane{after}", partial(figures.cra_plane, votes, parameters=pair)
        yield f"h_min_plane{after}", partial(figures.h_min_plane, family, region, parameters=pair)
    draws = run.draws
    if draws is not None:
        p_lower = float(run.p_lower[np.flatnonzero(run.columns["index"] == draws.index)[0]])
        for names in planes or [tuple(varying)]:
            after = "" if len(planes) < 2 else "_" + "_".join(names)
            drawn = region if isinstance(region, (Box, Ball)) else None
            of_image = partial(figures.certified_set, family, p_lower, draws.image, region=drawn)
            yield f"certified_set{after}", partial(of_image, parameters=names)
    yield "tradeoff", lambda: figures.tradeoff_curves(family, _betas(run, region))
    yield "gl_functions", lambda: figures.gl_functions(family, _betas(run, region))


def _betas(run: Run, region: Region) -> list[dict[str, float]]:
    """The end of each interval that is farther from the identity, by itself, and the worst parameter of the region."""
    identity, whole = run.family.identity, run.family.transform.integer_parameters
    betas = []
    for name, interval in region.box(identity).intervals.items():
        end = max(interval, key=lambda end: abs(end - identity[name]))
        end = float(math.trunc(end)) if name in whole else end
        if end != identity[name]:
            betas.append({name: end})
    worst = certify_region(run.family, region).worst or {}
    moved = {name: value for name, value in worst.items() if value != identity[name]}
    return betas if not moved or moved in betas else [*betas, moved]
