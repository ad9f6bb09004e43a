"""The ``main`` of each command. The command itself is imported when it runs."""

from __future__ import annotations

from multiprocessing import current_process

from glsmooth.commands.entry import entry

__all__ = ["advise", "attack", "bounds", "certify", "export", "predict", "report", "train"]

advise = entry("advise")
attack = entry("attack")
bounds = entry("bounds")
certify = entry("certify")
export = entry("export")
predict = entry("predict")
report = entry("report", positional="runs")
train = entry("train")

if current_process().name != "MainProcess":
    # One that Lightning started: what it is sent next imports Lightning, and that matplotlib.
    from glsmooth.commands import plain_matplotlib  # noqa: F401
