"""speed.json: how fast a run takes its votes, as it was chosen when it began. A run that goes on keeps it.

Votes where two logits nearly tie may depend on these settings (:mod:`glsmooth.voting.speed`); kept, an interrupted run
ends with the bytes of an uninterrupted one.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from glsmooth.configuration.fields import FLAG, check_file, text, whole
from glsmooth.runs.files import SPEED, read_json, write_text
from glsmooth.voting.speed import Speed

__all__ = ["read_speed", "write_speed"]

_RULES = {
    "device": text(),
    "batch_size": whole(1, 256),
    "channels_last": FLAG,
    "compile": FLAG,
    "threads": whole(1, 2),
}


def read_speed(directory: Path, device: str | None = None) -> Speed | None:
    """What was chosen for this device; None where nothing was, or for another one.

    Args:
        device: its name; None: whatever it was.

    Raises:
        UserError: the file holds something else.
    """
    file = directory / SPEED
    if not file.is_file():
        return None
    fix = "remove it, and the speed is measured anew"
    content = read_json(file, fix)
    check_file(content, _RULES, file, fix)
    if content.pop("device") != device and device is not None:
        return None
    return Speed(**content)


def write_speed(directory: Path, device: str, speed: Speed) -> None:
    """Keep settled settings."""
    write_text(directory / SPEED, json.dumps({"device": device} | asdict(speed)) + "\n")
