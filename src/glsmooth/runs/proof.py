"""Proofs of required probabilities, which :mod:`glsmooth.runs.verify` checks without the code that found them.

The bounds say where a region is worst and which likelihood ratio k decides there. Here these become a list of (cell of
the region, k), cut until what the checker makes of them is near the bound. The value of a proof is the checker's own,
so it is often larger in the sixth or seventh digit, and never needs a number of ours to be believed.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flint import arb

from glsmooth.bounds import evaluate
from glsmooth.bounds.base import NotApplicable, Outcome
from glsmooth.bounds.cells import scalar_pair
from glsmooth.bounds.neyman_pearson import tradeoff
from glsmooth.bounds.tradeoffs import Monotone
from glsmooth.configuration.build import family_config
from glsmooth.errors import UserError
from glsmooth.family.regions import Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.runs import verify
from glsmooth.runs.files import read_json, write_text
from glsmooth.runs.own import is_own, remember, run_files
from glsmooth.runs.run import Run

__all__ = ["PROOF", "note_verified", "prove", "prove_run", "verified", "write_proof"]

#: What the file is called in a run directory.
PROOF = "proof.json"
#: Cells are cut until the proof's value is within this of the bound.
TOLERANCE = 2e-6
#: ... or for so many seconds; the value is then that of the worst cell left.
SECONDS = 120.0


def prove(
    family: SmoothedFamily,
    region: Region,
    outcome: Outcome,
    tolerance: float = TOLERANCE,
    seconds: float = SECONDS,
    progress: Callable[[float], None] = lambda distance: None,
) -> dict[str, Any]:
    """A proof of the required probability of a region.

    Args:
        outcome: what ``neyman_pearson`` says of the region.
        tolerance: how far above it the value may be.
        seconds: after which cells are cut no more, whatever the value is then.
        progress: is told how far the value is above the outcome's, after each cell.

    Returns:
        What proof.json holds.

    Raises:
        NotApplicable: the checker does not know the transformation, a law, or how to cover the region.
    """
    if outcome.h_min is None:
        raise NotApplicable(outcome.argument)
    proof = _head(family, region)
    try:
        checker = verify.Family(proof["transform"], proof["smoothing"], family.image_size)
        value, cells = 1.0, list[dict[str, Any]]()
        if outcome.h_min < 1:
            value, cells = _cells(family, checker, proof["region"], outcome.h_min, tolerance, seconds, progress)
    except verify.Unverifiable as error:
        raise NotApplicable(f"no proof can be written: {error}") from None
    return {**proof, "required_probability": value, "cells": cells}


def _head(family: SmoothedFamily, region: Region) -> dict[str, Any]:
    """What a proof is of."""
    transform, smoothing = family_config(family)
    return {
        "transform": {key: value for key, value in transform.items() if value is not None},
        "smoothing": {n: {key: v for key, v in law.items() if v is not None} for n, law in smoothing.items()},
        "image_size": list(family.image_size) if family.image_size else None,
        "region": region.to_config(),
    }


def _cells(
    family: SmoothedFamily,
    checker: verify.Family,
    region: dict[str, Any],
    h_min: float,
    tolerance: float,
    seconds: float,
    progress: Callable[[float], None],
) -> tuple[float, list[dict[str, Any]]]:
    queue: list[tuple[float, int, float, dict[str, Any]]] = []
    count = itertools.count()
    end = time.monotonic() + seconds

    def add(beta: dict[str, float], name: str | None, interval: tuple[float, float]) -> None:
        cell: dict[str, Any] = {"beta": beta}
        variation = arb(0)
        if name is not None:
            low, high = interval
            middle = math.sqrt(low * high) if low > 0 else (low + high) / 2
            cell["beta"] = beta | {name: min(max(middle, low), high)}
            cell["over"] = {"name": name, "interval": [low, high]}
            variation = checker.variation(cell["beta"], name, interval)
        cell["k"] = _ratio(family, cell["beta"], h_min)
        value = verify.upper((checker.u(cell["beta"], cell["k"]) + variation + 0.5) / arb(cell["k"]))
        value = value if value < 1 else 1.0  # nor a ball of anything
        # A little more, so that the checker's comparison does not hang on its last bit.
        by_width = verify.upper(variation) / cell["k"]
        heapq.heappush(queue, (-value * (1 + 1e-14), next(count), by_width, cell))

    for need in verify.needed(checker, region):
        add(*need)
    while True:
        worst, _, by_width, cell = queue[0]
        progress(-worst - h_min)
        if -worst <= h_min + tolerance or by_width < tolerance / 2 or time.monotonic() > end:
            break
        heapq.heappop(queue)
        name, (low, high) = cell["over"]["name"], cell["over"]["interval"]
        middle = cell["beta"][name]
        for part in ((low, middle), (middle, high)):
            add(cell["beta"], name, part)
    return min(1.0, max(0.5, -queue[0][0])), [cell for *_, cell in queue]


def _ratio(family: SmoothedFamily, beta: dict[str, float], level: float) -> float:
    """The likelihood ratio below which μ_β₀ has mass ``level``: the k that is best there. Nothing rests on it."""
    curve: Any = tradeoff(family, beta, coarse=True)
    if isinstance(curve, Monotone):
        curve = scalar_pair(curve.law, curve.shift, curve.scale)
    return math.exp(min(60.0, max(-60.0, curve.threshold(level, under_beta=False))))


def prove_run(run: Run, seconds: float, progress: Callable[[float], None]) -> bool:
    """Write proof.json into a run that has none of its own region.

    Returns:
        Whether it was written.

    Raises:
        NotApplicable: see :func:`prove`.
    """
    file = run.path / PROOF
    try:
        before = read_json(file, "") if file.is_file() else {}
    except UserError:
        before = {}
    head = _head(run.family, run.region)
    if isinstance(before, dict) and {key: before.get(key) for key in head} == json.loads(json.dumps(head)):
        return False
    exact = evaluate(run.family, run.region, ["neyman_pearson"])["neyman_pearson"]
    write_proof(file, prove(run.family, run.region, exact, seconds=seconds, progress=progress))
    return True


def _files(directory: Path) -> list[Path]:
    return [*run_files(directory), directory / PROOF, Path(verify.__file__)]


def note_verified(directory: Path) -> None:
    """Note that the checker, as it is, found nothing to object to in these files, as they are."""
    remember(_files(directory))


def verified(directory: Path) -> bool:
    """Whether :func:`note_verified` was told of exactly these bytes on this machine."""
    return (directory / PROOF).is_file() and is_own(_files(directory))


def write_proof(path: Path, proof: dict[str, Any]) -> None:
    """Write it as JSON, a cell a line."""
    head = json.dumps({key: value for key, value in proof.items() if key != "cells"})
    cells = ",\n".join(json.dumps(cell) for cell in proof["cells"])
    text = f'{head[:-1]}, "cells": [\n{cells}\n]}}\n'
    assert json.loads(text) == proof
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"proof={path}: cannot be written ({error.strerror}); choose another file") from None
