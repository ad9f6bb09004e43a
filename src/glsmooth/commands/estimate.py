"""What a certification can reach and will take, said before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from glsmooth.bounds import METHODS, Outcome
from glsmooth.family.regions import Region
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.certification import Options
from glsmooth.report import wording
from glsmooth.threats import Threat
from glsmooth.voting.procedures import Exhaustive, FixedSample, Procedure, Sequential
from glsmooth.voting.tuning import choose_speed

__all__ = ["duration", "estimate", "preflight"]

#: For the estimate of disk space: a row of records.csv, and the report with its pictures, of small images and what
#: those of 224 x 224 pixels add.
_ROW_BYTES, _REPORT_MEBIBYTES, _MORE_MEBIBYTES = 100, 3, 8
#: Images of which the slices are counted.
_SLICED = 4


def preflight(outcomes: Mapping[str, Outcome], procedure: Procedure) -> str:
    """What can be certified at all with these numbers of draws, before any is taken."""
    lines = []
    for method, outcome in outcomes.items():
        title = METHODS[method].title
        if outcome.h_min is None:
            line = f"does not apply: {outcome.argument}"
        else:
            line = f"required probability {wording.ceil(outcome.h_min, 4)}{_within_reach(outcome.h_min, procedure)}"
        standing = "unsound" if outcome.residual is None else "approximate"
        lines.append(f"{title}: {line}{'' if outcome.sound else f' ({standing}: never counts as certified)'}")
    return "\n".join(lines)


def _within_reach(h_min: float, procedure: Procedure) -> str:
    needed, n = procedure.draws_needed(h_min), procedure.describe()["n"]
    if needed is None:
        return ": no number of votes can certify this region"
    if isinstance(procedure, Exhaustive):
        return f", at least {needed} of the {n} shifts"
    where = " at each reference of an image" if isinstance(procedure, Sequential) and procedure.at_references else ""
    if needed <= n:
        return f", at least {needed} votes{where}"
    fix = f"set monte_carlo.n={needed} or more"
    if isinstance(procedure, FixedSample) and procedure.randomised:
        chance = math.floor(procedure.chance(h_min) * 1e3) / 10
        return f", {needed} votes: n = {n} equal votes certify in {chance:.1f} % of images, by their coins; {fix}"
    return f", at least {needed} votes{where}: n = {n} can never certify; {fix}"


def estimate(
    model: nn.Module,
    num_classes: int,
    family: SmoothedFamily,
    procedure: Procedure,
    images: Dataset[Any],
    options: Options,
    device: torch.device,
    outcomes: Mapping[str, Outcome],
    region: Region,
) -> str:
    """Passes, time, memory and disk that a run would take, from a few batches of its own."""
    size = len(images)  # type: ignore[arg-type]
    classifier = options.classifier(model, num_classes, device)
    chosen = choose_speed(
        options.speed, classifier, family, procedure, images[0][0], size, clean=True, measure=True, show=True
    )
    rate = chosen.rate
    assert rate is not None
    # Each image is also classified as it is.
    passes = sorted({size * (draws + 1) for draws in procedure.draws_range()})
    sliced = None
    if family.warps:
        few = [images[i][0] for i in range(min(_SLICED, size))]
        sliced, passes = _of_slices(family, region, few, procedure, outcomes, size)
    memory = "none"
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} of {total / 2**30:.0f} GiB"
    height, width = images[0][0].shape[-2:]
    pictures = _MORE_MEBIBYTES * height * width / 224**2
    lines = [
        f"Images:          {size:,}",
        f"Network passes:  {' to '.join(f'{n:,}' for n in passes)}{sliced or ''}",
        f"Time:            {' to '.join(duration(n / rate) for n in passes)} on one device",
        f"Speed:           {rate:,.0f} passes a second in {chosen.speed.words(device.type)}",
        f"GPU memory:      {memory}; it does not grow with images or draws",
        f"Disk:            {size * _ROW_BYTES / 2**20 + _REPORT_MEBIBYTES + pictures:.0f} MiB",
        "Nothing was started (dry_run=true).",
    ]
    return "\n".join(lines)


def _of_slices(
    family: SmoothedFamily,
    region: Region,
    few: Sequence[Tensor],
    procedure: Procedure,
    outcomes: Mapping[str, Outcome],
    size: int,
) -> tuple[str, list[int]]:
    """What images cost that are cut into slices, in words, and the passes of all: where the first slice of each fails
    soon, and where all votes agree."""
    threat, least = family.threat, procedure.draws_range()[0]
    assert isinstance(threat, Threat)
    assert family.residual is not None
    found = [len(threat.slices(image, *family.interval(region), family.residual)) for image in few]
    h_min = min((o.h_min for o in outcomes.values() if o.sound and o.h_min is not None), default=1.0)
    each = procedure.draws_needed(h_min) if h_min < 1 else None
    slices = round(sum(found) / len(found))
    words = (
        f"; {slices} slices an image, the mean of {len(few)}, and {each or 'no number of'} votes in each, if all agree"
    )
    return words, sorted({size * (2 * least + 1), size * (least + 1 + slices * (each or 1))})


def duration(seconds: float) -> str:
    """Seconds, rounded up, in words."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
