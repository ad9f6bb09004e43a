"""What training and certification share of Lightning: devices, its noise, the bar, W&B, errors of its processes."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer
from torch.multiprocessing.spawn import ProcessRaisedException
from tqdm import tqdm

from glsmooth.configuration.build import with_folder
from glsmooth.errors import UserError
from glsmooth.family.resolvability import is_users
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.runs.files import wandb_id

__all__ = ["accelerator", "make_trainer", "progress_bar", "quieten_lightning", "spawned", "wandb_run"]


def accelerator(settings: Mapping[str, Any]) -> str:
    """Lightning's name of the accelerator that the settings choose.

    Smoothing parameters are drawn in float64, which Apple's accelerator lacks: auto means CUDA or the CPU.
    """
    chosen = str(settings["trainer"]["accelerator"])
    return ("gpu" if torch.cuda.is_available() else "cpu") if chosen == "auto" else chosen


def make_trainer(settings: Mapping[str, Any], **options: Any) -> Trainer:
    """A Trainer on the settings' devices, without Lightning's own bar, summary and sampler."""
    chosen = settings["trainer"]
    return Trainer(
        accelerator=accelerator(settings),
        devices=chosen["devices"],
        num_nodes=chosen.get("num_nodes", 1),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # glsmooth.learning.data.Batches shares the images out
        **options,
    )


def quieten_lightning() -> None:
    """Drop Lightning's greetings and the advice that does not fit; other warnings stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for advice in (
        "does not have many workers",
        "exists and is not empty",
        "smaller than the logging",
        "predict returned None",
        "LeafSpec.*is deprecated",
    ):
        warnings.filterwarnings("ignore", message=f"(?s).*{advice}")


def progress_bar(what: str, unit: str, total: int, done: int, show: bool) -> Any:
    """A bar with the time left, on standard error."""
    return tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        disable=not show,
        mininterval=0.5 if sys.stderr.isatty() else 10,  # a log file needs no animation
    )


@contextmanager
def spawned(family: SmoothedFamily) -> Iterator[None]:
    """Let a mistake that a process of Lightning's reports be the UserError that it was there.

    Such a process is sent ``family``, and imports a user's transformation where this process did.
    """
    try:
        with with_folder() if is_users(family.transform) else nullcontext():
            yield
    except ProcessRaisedException as error:
        # It arrives as the text of a traceback, whose last part is the message.
        name = re.escape(f"{UserError.__module__}.{UserError.__qualname__}")
        message = re.search(rf"^{name}: (.*)\Z", str(error).strip(), re.M | re.S)
        if message is None:
            raise
        raise UserError(message.group(1)) from error


@contextmanager
def wandb_run(settings: Mapping[str, Any], directory: Path) -> Iterator[Any]:
    """The run at W&B with ``logger=wandb``, closed at the end whatever happens; None otherwise.

    It keeps its id in the directory, so that a resumed run goes on in it. Only the first process has one.

    Raises:
        UserError: W&B cannot be had.
    """
    logger = settings["logger"]
    if logger["name"] != "wandb" or getattr(rank_zero_only, "rank", 0) != 0:
        yield None
        return
    import wandb  # imported here: it takes a second, and most runs do without

    try:
        yield wandb.init(
            project=logger["project"],
            entity=logger["entity"],
            id=wandb_id(directory),
            resume="allow",
            dir=directory,
            config=dict(settings),
        )
    except wandb.Error as error:
        raise UserError(
            f"logger=wandb: {error}; log in with `wandb login`, set WANDB_MODE=offline, or use logger=csv"
        ) from error
    finally:
        wandb.finish()
