"""What a command tells W&B with ``logger=wandb``: one run, open from before the first step or vote to the end.

The results are on disk; W&B has copies. So a mistake in the settings stops the command before the work, and whatever
fails later (the network, a quota) is a warning. wandb is imported where a run begins: it takes a second, and most
commands do without.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from numpy.typing import NDArray
from torch import Tensor

from glsmooth.configuration.exported import exported_files
from glsmooth.configuration.identity import digest
from glsmooth.errors import UserError
from glsmooth.learning.checkpoint import Checkpoint
from glsmooth.learning.pixels import unit
from glsmooth.learning.stopping import Stopped
from glsmooth.learning.trainer import is_first_process
from glsmooth.runs.files import wandb_id

if TYPE_CHECKING:
    from glsmooth.learning.training import TrainingModule

__all__ = ["LearningRate", "Session", "TrainingLog", "grid", "log_pictures", "session"]

log = logging.getLogger(__name__)

#: The running CRA goes out this often: a curve needs no more points, and a run of hours would bring too many.
SECONDS_A_POINT = 1.0
#: Images in the grid of what augmentation and smoothing do to them, and transformed copies of each.
PICTURED, COPIES = 8, 3
#: Seconds that a stopped command waits for W&B; uploads may take hours, and another signal follows soon.
_LAST_WORDS = 1.5
#: The x-axis of a training's curves, under the name that Lightning's users know.
_STEP = "trainer/global_step"
_LONGEST_TAG = 64


class Session:
    """A command's run at W&B, or none: then nothing happens.

    It may be sent to a process that Lightning starts, which then adds to the same run.

    Args:
        run: of wandb.
        log_checkpoint: whether the checkpoint goes there, too.
        attach_id: names a run that another process holds.
    """

    def __init__(self, run: Any = None, log_checkpoint: bool = False, attach_id: str | None = None) -> None:
        self._run, self._log_checkpoint, self._attach_id = run, log_checkpoint, attach_id
        self._warned = False
        self._point = (0, 0.0)  # images and time of the last one

    def __reduce__(self) -> tuple[Any, ...]:
        return Session, (None, self._log_checkpoint, getattr(self._run, "_attach_id", None))

    @property
    def run(self) -> Any:
        """The run; None where there is none."""
        if self._attach_id is not None:  # in another process, of which perhaps only the first one asks
            attach_id, self._attach_id = self._attach_id, None
            with self.going_on():
                from wandb.sdk import _attach

                self._run = _attach(attach_id)
        return self._run

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Let a failure of W&B's be a warning, the first one of each run: votes and epochs go on without it."""
        try:
            yield
        except Exception as error:
            if not self._warned:
                self._warned = True
                log.warning("logger=wandb: %s; the run goes on without it, its files are whole", _reason(error))

    def log(self, values: Mapping[str, Any]) -> None:
        """Add a point to the history."""
        if self.run is not None:
            with self.going_on():
                self.run.log(dict(values))

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set numbers of the run's summary, which W&B's tables of runs and parallel coordinates show."""
        if self.run is not None:
            with self.going_on():
                self.run.summary.update(dict(values))

    def running(self, images: int, shares: Mapping[str, float], last: bool = False) -> None:
        """The CRA of the images that are finished so far, by method; not more often than is of use."""
        now = time.monotonic()
        before, then = self._point
        if images > before and (last or now - then >= SECONDS_A_POINT):
            self._point = (images, now)
            self.log({"images": images, **{f"running_cra/{method}": share for method, share in shares.items()}})

    def checkpoint(self, path: Path, checkpoint: Checkpoint, made: bool) -> None:
        """Link the run to its checkpoint: ``made`` by it, or used.

        Both commands name the artifact by what decided the training and W&B tells its versions apart by their bytes,
        so it is the same one for both, whether or not they ran on the same machine.
        """
        if self.run is None or not self._log_checkpoint:
            return
        with self.going_on():
            import wandb

            metadata = {"sha256": checkpoint.sha256, "seed": checkpoint.seed, "metrics": checkpoint.metrics}
            artifact = wandb.Artifact(_artifact_name(checkpoint), type="model", metadata=metadata)
            # Not copied beside the file: hundreds of runs of a sweep may use it.
            files = {file.name: file for file in exported_files(path)} if path.is_dir() else {"best.ckpt": path}
            for name, file in files.items():
                artifact.add_file(str(file), name=name, skip_cache=True, policy="immutable")
            if made:
                self.run.log_artifact(artifact, aliases=["best"])
            else:
                # run.use_artifact() does this and then waits for the server, and offline refuses to do it.
                self.run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    def finish(self, exit_code: int, wait: float | None = None) -> None:
        """End the run; after ``wait`` seconds without waiting for what is not sent yet."""

        def end() -> None:
            with self.going_on():
                self.run.finish(exit_code=exit_code)

        if wait is None:
            end()
        else:
            ending = threading.Thread(target=end, daemon=True)
            ending.start()
            ending.join(wait)


@contextmanager
def session(settings: Mapping[str, Any], directory: Path, command: str, tags: Sequence[str]) -> Iterator[Session]:
    """A command's run at W&B with ``logger=wandb``, closed at the end whatever happens.

    It keeps its id in the directory, so that a resumed run goes on in it; one that does not come to its end is marked
    as failed. Only the first process has one. What W&B collects by itself of the program (output, its source, changes
    that git knows) is left out.

    Args:
        settings: in plain values; the run's config, in the same nesting.
        command: train or certify, the run's job_type.
        tags: words by which to find the run.

    Raises:
        UserError: W&B cannot be had.
    """
    chosen = settings["logger"]
    if chosen["name"] != "wandb" or not is_first_process():
        yield Session()
        return
    import wandb

    try:
        run = wandb.init(
            project=chosen["project"],
            entity=chosen["entity"],
            group=chosen["group"],
            job_type=command,
            name=f"{command}-{directory.name}",
            tags=[tag[:_LONGEST_TAG] for tag in tags],
            id=wandb_id(directory),
            resume="allow",
            dir=str(directory),
            config=dict(settings),
            settings=wandb.Settings(console="off", disable_git=True, save_code=False),
        )
        run.define_metric("images")
        run.define_metric("running_cra/*", step_metric="images")
        run.define_metric(_STEP)
        for name in ("train/*", "val/*", "lr"):
            run.define_metric(name, step_metric=_STEP)
    except Exception as error:
        raise UserError(
            f"logger=wandb: {_reason(error)}; log in with `wandb login`, set WANDB_MODE=offline, or use logger=csv"
        ) from error
    logged = Session(run, chosen["log_checkpoint"])
    try:
        yield logged
    except BaseException as error:
        logged.finish(1, wait=_LAST_WORDS if isinstance(error, Stopped) else None)
        raise
    logged.finish(0)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _artifact_name(checkpoint: Checkpoint) -> str:
    """One name a training: a digest of what decided it, or of the file where an older version did not say."""
    return f"train-{digest(checkpoint.identity or {'sha256': checkpoint.sha256})}"


class TrainingLog(Logger):
    """Hands what a LightningModule logs to a session. Lightning's own logger would end a training where W&B fails."""

    def __init__(self, logged: Session) -> None:
        super().__init__()
        self.logged = logged

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.logged.log({**metrics, _STEP: step})

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The session has the whole configuration."""


class LearningRate(Callback):
    """Tells a session the learning rate at the start of every epoch.

    Lightning's own monitor would put it among the metrics of the checkpoint, which does not depend on the logger.
    """

    def __init__(self, logged: Session) -> None:
        self.logged = logged

    @rank_zero_only
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.logged.log({"lr": trainer.optimizers[0].param_groups[0]["lr"], _STEP: trainer.global_step})


def log_pictures(logged: Session, module: TrainingModule) -> None:
    """Some training images, augmented and transformed, before the first step; it takes no draws of the training's."""
    if logged.run is None:
        return
    with logged.going_on():
        import wandb

        rows = _rows(module)
        caption = (
            f"First row: training images. Second: after augmentation. {COPIES} more: each transformed by draws of the "
            "smoothing laws, as the network sees it; values are clipped to [0, 1] for the eye only."
        )
        logged.log({"pictures/augmentation": wandb.Image(grid(rows), caption=caption)})


def _rows(module: TrainingModule) -> list[Tensor]:
    """(PICTURED, C, H, W) images as they are, augmented, and :data:`COPIES` times transformed."""
    data, images = module.data, cast("Any", module.data.train)
    step = max(1, len(images) // PICTURED)  # a folder's images are in the order of their classes
    pixels = images.raw(list(range(0, len(images), step))[:PICTURED])
    module.restart_draws(2, 0, 0)  # every epoch restarts them, too
    with torch.no_grad():
        augmented = unit(data.augment(pixels, module.draws))
        copies = module.transformed(augmented, COPIES).cpu()
    height, width = augmented.shape[-2:]
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2  # some are larger, to be cropped
    return [unit(pixels[..., top : top + height, left : left + width]), augmented, *copies.chunk(COPIES)]


def grid(rows: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Rows of images (N, C, H, W) as one picture (height, width, C), a pixel of white between them."""
    framed = [torch.nn.functional.pad(row.clamp(0, 1), (0, 1, 0, 1), value=1.0) for row in rows]
    joined = torch.cat([torch.cat(list(row), dim=2) for row in framed], dim=1)[:, :-1, :-1]
    return np.asarray((joined * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
