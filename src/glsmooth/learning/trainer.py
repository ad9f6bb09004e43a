"""What training and certification share of Lightning: devices, its noise, the bar, errors of its processes."""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException
from tqdm import tqdm

from glsmooth.configuration.build import with_folder
from glsmooth.errors import UserError
from glsmooth.family.resolvability import is_users
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning import stopping
from glsmooth.runs.files import replacing

__all__ = [
    "WholeCheckpoints",
    "accelerator",
    "device_name",
    "is_first_process",
    "make_trainer",
    "progress_bar",
    "quieten_lightning",
    "spawned",
    "started_with_others",
    "training_precision",
]


def accelerator(settings: Mapping[str, Any]) -> str:
    """Lightning's name of the accelerator that the settings choose.

    Smoothing parameters are drawn in float64, which Apple's accelerator lacks: auto means CUDA or the CPU.
    """
    chosen = str(settings["trainer"]["accelerator"])
    return ("gpu" if torch.cuda.is_available() else "cpu") if chosen == "auto" else chosen


def one_device(settings: Mapping[str, Any], command: str) -> torch.device:
    """The device on which ``command`` votes without Lightning.

    Raises:
        UserError: the settings choose another kind than a GPU or the CPU, or one that is not here.
    """
    chosen = accelerator(settings)
    if chosen not in ("cpu", "gpu", "cuda"):
        raise UserError(f"trainer.accelerator={chosen}: {command} votes on cpu or gpu; set trainer.accelerator=auto")
    if chosen != "cpu" and not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={chosen}: there is no GPU here; set trainer.accelerator=cpu")
    return torch.device("cpu" if chosen == "cpu" else "cuda")


def device_name(device: torch.device) -> str:
    """What a device is, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type.upper()}, {torch.get_num_threads()} threads"


def training_precision(settings: Mapping[str, Any], begun: str | None) -> str:
    """The precision that a training runs in: as typed, or for auto the fastest of those that need no care.

    That is bf16-mixed where the accelerator computes in bfloat16 itself, and 32-true elsewhere.

    Args:
        settings: of train.
        begun: the precision of the checkpoint that the training goes on from, which auto keeps.

    Raises:
        UserError: float16 on a CPU, for which Lightning would take bfloat16 without saying so.
    """
    chosen, device = str(settings["trainer"]["precision"]), accelerator(settings)
    if chosen == "auto":
        chosen = begun or ("bf16-mixed" if _computes_in_bfloat16(device) else "32-true")
    if chosen == "16-mixed" and device == "cpu":
        raise UserError(
            "trainer.precision=16-mixed: needs a GPU to train; set trainer.precision=bf16-mixed, or 32-true"
        )
    return chosen


def _computes_in_bfloat16(accelerator: str) -> bool:
    """Has the accelerator instructions for bfloat16? Where it has none, torch converts, which is slow."""
    if accelerator in ("gpu", "cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # AVX512-bf16 and AMX. torch has no public question for them.
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return accelerator == "cpu" and any(getattr(torch.cpu, name, bool)() for name in questions)


def started_with_others() -> bool:
    """Did srun or torchrun start this process, so that its rank and those of the others come from there?"""
    return TorchElasticEnvironment.detect() or (stopping.started_by_srun() and SLURMEnvironment.detect())


def make_trainer(settings: Mapping[str, Any], callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
    """A Trainer on the settings' devices, without Lightning's own bar, summary and sampler.

    A signal that stops the command stops its processes, too.

    Raises:
        UserError: this machine has no such devices, or Lightning no such accelerator or strategy.
    """
    chosen = settings["trainer"]
    plugins = [*options.pop("plugins", ())]
    if "SLURM_NTASKS" in os.environ and not started_with_others():
        plugins.append(LightningEnvironment())  # Lightning would wait for tasks that nobody started
    try:
        trainer = Trainer(
            accelerator=accelerator(settings),
            devices=chosen["devices"],
            num_nodes=chosen.get("num_nodes", 1),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,  # glsmooth.learning.data.Batches shares the images out
            callbacks=[*callbacks, _OurSignals()],
            plugins=plugins,
            **options,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        # Which devices and strategies there are Lightning alone knows; nothing else that it checks can be set.
        given = ", ".join(
            f"trainer.{key}={chosen[key]}" for key in ("accelerator", "devices", "strategy") if key in chosen
        )
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{given}: {reason}; set trainer.accelerator=cpu trainer.devices=1, or others") from error
    stopping.end_with_us(trainer.strategy.launcher)
    return trainer


def is_first_process() -> bool:
    """Is this the only process of the run, or the first, as far as is known before there is a Trainer?"""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


class _OurSignals(Callback):
    """Takes SIGTERM back from Lightning, which would answer it by ending the epoch, or wait for other processes."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stopping.handle_signals()

    on_predict_start = on_train_start


class WholeCheckpoints(TorchCheckpointIO):
    """Has a checkpoint under its name either whole or not at all.

    Lightning's own way passes through the folder for temporary files: where that is another disk, a copy takes time.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside ``path``, wait for the disk, and rename.

        Raises:
            UserError: the disk is full, or fails.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            torch.save(checkpoint, file)


def quieten_lightning() -> None:
    """Drop Lightning's greetings and the advice that does not fit; other warnings stay."""
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    logging.getLogger("lightning").handlers.clear()  # Hydra's say what they say, and in the log
    for advice in (
        "does not have many workers",
        "`srun` command is available",
        "exists and is not empty",
        "dataloader is not resumable",  # its order of the images is (glsmooth.learning.data.Batches)
        "smaller than the logging",
        "predict returned None",
        "LeafSpec.*is deprecated",
    ):
        warnings.filterwarnings("ignore", message=f"(?s).*{advice}")


def progress_bar(what: str, unit: str, total: int, done: int, show: bool) -> Any:
    """A bar with the time left, on standard error."""
    tqdm.set_lock(threading.RLock())  # its own is shared between processes, and a killed one leaves it behind
    return tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        disable=not show,
        mininterval=0.5 if sys.stderr.isatty() else 10,  # a log file needs no animation
    )


#: Where layers come from that are no user's own.
_KNOWN = {"glsmooth", "torch", "torchvision", "timm"}


@contextmanager
def spawned(family: SmoothedFamily, model: nn.Module, targets: Iterable[str | None] = ()) -> Iterator[None]:
    """Let a mistake that a process of Lightning's reports be the UserError that it was there.

    Such a process is sent ``family``, ``model`` and what ``targets`` name, and imports what is a user's own where this
    process did.
    """
    homes = {type(part).__module__.partition(".")[0] for part in model.modules()}
    homes |= {target.partition(".")[0] for target in targets if target}
    try:
        with with_folder() if is_users(family.transform) or homes - _KNOWN else nullcontext():
            yield
    except ProcessRaisedException as error:
        # It arrives as the text of a traceback, whose last part is the message.
        name = re.escape(f"{UserError.__module__}.{UserError.__qualname__}")
        message = re.search(rf"^{name}: (.*)\Z", str(error).strip(), re.M | re.S)
        if message is None:
            raise
        raise UserError(message.group(1)) from error
