"""``python -m glsmooth.train``: train a base classifier under the smoothing laws of a transformation."""

from __future__ import annotations

import json
import logging
import secrets
import shlex
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from glsmooth.commands.entry import entry
from glsmooth.configuration.build import build_family, build_region
from glsmooth.configuration.plain import plain
from glsmooth.family.resolvability import check_family
from glsmooth.learning.checkpoint import digest, load_checkpoint, make_payload
from glsmooth.learning.data import load_dataset
from glsmooth.learning.models import build_model, resolve_model
from glsmooth.learning.training import CLEAN, UNDER_LAW, TrainingModule

#: Of the dataset, what training does not depend on.
_NOT_TRAINING = ("subset", "subset_seed", "num_workers", "download")


def run(cfg: DictConfig) -> None:
    """Train, or resume, or say that it is done. Writes best.ckpt, last.ckpt, metrics and summary.json."""
    settings = plain(cfg)
    directory = Path(settings["run_dir"])
    seed_everything(settings["seed"], workers=True, verbose=False)
    if settings["trainer"]["num_threads"]:
        torch.set_num_threads(settings["trainer"]["num_threads"])
    _quieten_lightning()

    data = load_dataset(settings["dataset"])
    if settings["dataset"]["root"] is not None:
        # The checkpoint is used from other directories.
        settings["dataset"]["root"] = str(Path(settings["dataset"]["root"]).expanduser().resolve())
    settings["model"] = resolve_model(settings["model"], data.name)
    payload = make_payload(settings, data)
    last, best = directory / "last.ckpt", directory / "best.ckpt"
    _refuse_another_run(last, payload)
    if (directory / "summary.json").is_file() and best.is_file():
        print(f"This run is finished already. To train anew, change a setting (seed=1) or remove {directory}")
        _say_what_next(best)
        return

    family = build_family(
        settings["transform"], settings["smoothing"], data.image_size, settings["loss"]["pixel_noise"]
    )
    region = build_region(settings["region"], family.transform)
    check = check_family(family, region, shape=(data.channels, *data.image_size))
    if check is not None:
        # What would not be certified is not trained unasked.
        check.require(settings["approximate"])
        if not check.passed:
            print(check, file=sys.stderr)
    model = build_model(settings["model"], data.num_classes, data.channels, data.mean, data.std, data.image_size)
    module = TrainingModule(model, family, data, settings["loss"], settings["optimizer"], settings["seed"], payload)
    OmegaConf.save(cfg, directory / "config.yaml", resolve=True)
    if last.is_file():
        print(f"Resuming from {last}", file=sys.stderr)
    start = time.monotonic()
    try:
        trainer = _trainer(settings, directory)
        trainer.fit(module, ckpt_path=last if last.is_file() else None)
    finally:
        if settings["logger"]["name"] == "wandb":
            import wandb

            wandb.finish()
    if not trainer.is_global_zero:
        return
    if settings["trainer"]["fast_dev_run"]:
        print("One batch of training and of validation passed; nothing was saved.")
        return
    summary = {
        "command": "train",
        "checkpoint": {"path": str(best), "sha256": digest(best)},
        "metrics": load_checkpoint(best).metrics,
        "seconds": round(time.monotonic() - start, 1),
        **payload,
    }
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    _say_what_next(best)


def _say_what_next(best: Path) -> None:
    metrics = load_checkpoint(best).metrics
    print(
        f"Best epoch {metrics['epoch']:.0f}: validation accuracy {metrics[CLEAN]:.2%}, "
        f"under the smoothing law {metrics[UNDER_LAW]:.2%}"
    )
    print(f"Best checkpoint: {best}")
    print(f"Certify it with: glsmooth certify ckpt={shlex.quote(str(best))}")


def _refuse_another_run(last: Path, payload: Mapping[str, Any]) -> None:
    """Stop before an existing run in the same directory is resumed with other settings."""
    if not last.is_file():
        return
    stored = load_checkpoint(last)
    for name, wanted in payload.items():
        found = getattr(stored, name)
        if name == "dataset":
            wanted = {key: value for key, value in wanted.items() if key not in _NOT_TRAINING}
            found = {key: value for key, value in found.items() if key not in _NOT_TRAINING}
        if found != wanted:
            raise ValueError(
                f"hydra.run.dir={last.parent}: holds a run with another {name} ({found}, now {wanted}); "
                "use another hydra.run.dir, or remove it"
            )


def _trainer(settings: dict[str, Any], directory: Path) -> Trainer:
    chosen = settings["trainer"]
    # Smoothing parameters are drawn in float64, which Apple's accelerator lacks: auto means CUDA or the CPU.
    automatic = "gpu" if torch.cuda.is_available() else "cpu"
    saved: dict[str, Any] = {
        "dirpath": directory,
        "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }
    return Trainer(
        accelerator=automatic if chosen["accelerator"] == "auto" else chosen["accelerator"],
        devices=chosen["devices"],
        num_nodes=chosen["num_nodes"],
        strategy=chosen["strategy"],
        precision=chosen["precision"],
        max_epochs=settings["optimizer"]["epochs"],
        fast_dev_run=chosen["fast_dev_run"],
        limit_train_batches=chosen["limit_train_batches"],
        limit_val_batches=chosen["limit_val_batches"],
        logger=_loggers(settings, directory),
        callbacks=[
            _Progress(chosen["progress"]),
            # best first: last.ckpt then remembers the best score, and a resumed run keeps it.
            ModelCheckpoint(filename="best", monitor=UNDER_LAW, mode="max", save_weights_only=True, **saved),
            ModelCheckpoint(filename="last", **saved),
        ],
        default_root_dir=directory,
        deterministic="warn",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # glsmooth.learning.data.Batches shares the images out
    )


def _loggers(settings: dict[str, Any], directory: Path) -> list[Logger]:
    # A version each time that the run is started: a resumed run keeps the metrics of its first part.
    loggers: list[Logger] = [CSVLogger(directory, name="metrics")]
    if settings["logger"]["name"] == "wandb":
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        remembered = directory / "wandb_id"
        if not remembered.is_file():
            remembered.write_text(secrets.token_hex(4))
        logger = WandbLogger(
            project=settings["logger"]["project"],
            entity=settings["logger"]["entity"],
            id=remembered.read_text(),
            resume="allow",
            save_dir=directory,
        )
        try:
            logger.log_hyperparams(settings)
        except wandb.Error as error:
            raise ValueError(
                f"logger=wandb: {error}; log in with `wandb login`, set WANDB_MODE=offline, or use logger=csv"
            ) from error
        loggers.append(logger)
    return loggers


def _quieten_lightning() -> None:
    """Drop Lightning's greetings and the advice that does not fit images in memory; other warnings stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for advice in (
        "does not have many workers",
        "exists and is not empty",
        "smaller than the logging",
        "LeafSpec",
    ):
        warnings.filterwarnings("ignore", message=f"(?s).*{advice}")


class _Progress(Callback):
    """One bar over all steps of the training, with the time left and the last validation."""

    def __init__(self, show: bool) -> None:
        self.show = show

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar = tqdm(
            total=int(trainer.estimated_stepping_batches),
            initial=trainer.global_step,
            desc="Training",
            unit="step",
            disable=not (self.show and trainer.is_global_zero),
            mininterval=0.5 if sys.stderr.isatty() else 10,  # a log file needs no animation
        )

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        self.bar.set_postfix_str(
            f"epoch {trainer.current_epoch + 1}, accuracy {metrics[CLEAN]:.1%}, under the law {metrics[UNDER_LAW]:.1%}",
            refresh=False,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.close()


main = entry("train", run)
