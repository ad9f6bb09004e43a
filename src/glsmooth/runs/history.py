"""The numbers of a training by epoch: metrics.csv."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import yaml

from glsmooth.configuration.fields import shown
from glsmooth.configuration.untrusted import read_bytes
from glsmooth.errors import UserError
from glsmooth.runs.files import CONFIG, METRICS, write_text

__all__ = ["ACCURACIES", "LOSSES", "History", "chosen_by", "read_history", "write_history"]

#: Columns of metrics.csv that are drawn, with their names in a legend.
LOSSES = {
    "train/total": "total, which is minimised",
    "train/cross_entropy": "cross-entropy",
    "train/divergence": "divergence of the copies",
    "train/entropy": "entropy of their mean",
}
ACCURACIES = {"val/accuracy": "on validation images", "val/accuracy_under_law": "under the smoothing laws"}

#: Name -> epoch, from 1 -> value.
History = dict[str, dict[int, float]]


def read_history(directory: str | Path) -> History:
    """Losses and accuracies of a training by epoch.

    Older versions left a file each time that the training was started; where two tell of one epoch, the later holds.

    Raises:
        UserError: there is no such directory, or no metrics in it; a file is not readable, or holds something else.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"directory: no directory {str(directory)!r}; give the one that train wrote")
    history: History = {name: {} for name in (*LOSSES, *ACCURACIES)}
    if (directory / METRICS).is_file():
        _read(directory / METRICS, history, first=1)
    else:
        found = {}
        for file in directory.glob("metrics/version_*/metrics.csv"):
            number = re.fullmatch(r"version_(\d+)", file.parent.name)
            if number:
                found[int(number[1])] = file
        for _, file in sorted(found.items()):
            _read(file, history, first=0)
    if not any(history.values()):
        raise UserError(
            f"directory: {str(directory)!r} has no metrics of a training ({METRICS}); give the directory that train "
            "wrote, in which an epoch has ended"
        )
    return {name: dict(sorted(values.items())) for name, values in history.items()}


def write_history(directory: Path, history: History) -> None:
    """Write metrics.csv whole: a row an epoch, counted from 1; what was not measured is empty."""
    epochs = sorted(set().union(*history.values()))
    rows = [[epoch, *(values.get(epoch, "") for values in history.values())] for epoch in epochs]
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows([["epoch", *history], *rows])
    write_text(directory / METRICS, content.getvalue())


def chosen_by(directory: str | Path) -> str:
    """The accuracy by which a training chose best.ckpt: under the laws, or clean where it saw images as they are."""
    clean, under_law = ACCURACIES
    try:
        settings = yaml.safe_load(read_bytes(Path(directory) / CONFIG))
        return clean if settings["loss"]["transformed"] is False else under_law
    except (OSError, UserError, yaml.YAMLError, KeyError, TypeError):
        return under_law  # of a version without it, or torn


def _read(file: Path, history: History, first: int) -> None:
    """Add what a file holds, whose first epoch has the number ``first``."""
    fix = "restore it, or remove it"
    try:
        lines = read_bytes(file).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable ({error}); {fix}") from None
    reader = csv.DictReader(lines)
    try:
        for row in reader:
            where = f"{file}: line {reader.line_num}"
            epoch = row.get("epoch") or ""
            if not re.fullmatch(r"\d{1,9}", epoch, re.ASCII):
                raise UserError(f"{where}: epoch is {shown(epoch)}, not a whole number; {fix}")
            for name, values in history.items():
                cell = row.get(name)
                if not cell:
                    continue
                try:
                    value = float(cell)
                except ValueError:
                    value = math.nan
                if not math.isfinite(value):
                    raise UserError(f"{where}: {name} is {shown(cell)}, not a finite number; {fix}")
                values[int(epoch) + 1 - first] = value
    except csv.Error as error:
        raise UserError(f"{file}: not readable ({error}); {fix}") from None
