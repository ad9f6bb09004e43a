"""What a certification can reach and will take, said before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from glsmooth.bounds import METHODS, Outcome
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.certification import Options
from glsmooth.report import wording
from glsmooth.voting.procedures import Exhaustive, FixedSample, Procedure
from glsmooth.voting.tuning import choose_speed

__all__ = ["duration", "estimate", "preflight"]

#: For the estimate of disk space: a row of records.csv, and the report with its pictures, of small images and what
#: those of 224 x 224 pixels add.
_ROW_BYTES, _REPORT_MEBIBYTES, _MORE_MEBIBYTES = 100, 3, 8


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
    if needed <= n:
        return f", at least {needed} votes"
    fix = f"set monte_carlo.n={needed} or more"
    if isinstance(procedure, FixedSample) and procedure.randomised:
        chance = math.floor(procedure.chance(h_min) * 1e3) / 10
        return f", {needed} votes: n = {n} equal votes certify in {chance:.1f} % of images, by their coins; {fix}"
    return f", at least {needed} votes: n = {n} can never certify; {fix}"


def estimate(
    model: nn.Module,
    num_classes: int,
    family: SmoothedFamily,
    procedure: Procedure,
    images: Dataset[Any],
    options: Options,
    device: torch.device,
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
    memory = "none"
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} of {total / 2**30:.0f} GiB"
    height, width = images[0][0].shape[-2:]
    pictures = _MORE_MEBIBYTES * height * width / 224**2
    lines = [
        f"Images:          {size:,}",
        f"Network passes:  {' to '.join(f'{n:,}' for n in passes)}",
        f"Time:            {' to '.join(duration(n / rate) for n in passes)} on one device",
        f"Speed:           {rate:,.0f} passes a second in {chosen.speed.words(device.type)}",
        f"GPU memory:      {memory}; it does not grow with images or draws",
        f"Disk:            {size * _ROW_BYTES / 2**20 + _REPORT_MEBIBYTES + pictures:.0f} MiB",
        "Nothing was started (dry_run=true).",
    ]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds, rounded up, in words."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
