"""The train command: a base classifier under the smoothing laws of a transformation."""

from __future__ import annotations

from glsmooth.commands import plain_matplotlib  # noqa: F401 - before Lightning

# isort: split
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig

from glsmooth.commands.mains import train as main
from glsmooth.configuration.build import build_family, build_region, build_transform
from glsmooth.configuration.identity import difference, file_digest
from glsmooth.configuration.parts import described
from glsmooth.configuration.settings import settled
from glsmooth.errors import UserError, out_of_memory
from glsmooth.family.resolvability import check_family
from glsmooth.learning.checkpoint import Checkpoint, load_checkpoint, make_payload, starting_from
from glsmooth.learning.data import load_dataset
from glsmooth.learning.models import bring, fit_first_layer, resolve_model
from glsmooth.learning.stopping import Stopped
from glsmooth.learning.trainer import (
    WholeCheckpoints,
    is_first_process,
    make_trainer,
    quieten_lightning,
    spawned,
    training_precision,
)
from glsmooth.learning.training import (
    CLEAN,
    UNDER_LAW,
    SavesInsideEpochs,
    TrainingModule,
    TrainingProgress,
    WritesMetrics,
    rate,
)
from glsmooth.learning.wandb_log import LearningRate, Session, TrainingLog, log_pictures, session
from glsmooth.report.paper.files import TRAINING_CURVES, write_training_curves
from glsmooth.runs.files import CONFIG, METRICS, SUMMARY, remove_leftovers, replacing, write_config, write_text
from glsmooth.runs.own import remember
from glsmooth.runs.records import holding

__all__ = ["main", "run"]

_EPOCHS = "optimizer.epochs"
#: What to do about a checkpoint of the run's own that is of no use.
_AFRESH = "restore it, or remove last.ckpt and summary.json, and the same command trains afresh"


def run(cfg: DictConfig) -> None:
    """Train, or resume, or say that it is done. Writes best.ckpt, last.ckpt, metrics, their curves and
    summary.json."""
    settings = settled(cfg)
    # Two of the same run would write over each other: an earlier epoch's best.ckpt beside a later summary.
    with holding(Path(settings["run_dir"])) if is_first_process() else nullcontext():
        _run(settings)


def _run(settings: dict[str, Any]) -> None:
    directory = Path(settings["run_dir"])
    seed_everything(settings["seed"], workers=True, verbose=False)
    if settings["trainer"]["num_threads"]:
        torch.set_num_threads(settings["trainer"]["num_threads"])
    quieten_lightning()

    if settings["ckpt"] is not None:
        settings = starting_from(settings["ckpt"], settings)
        print(f"Starting from the {settings['model']['name']} of {settings['ckpt']}", file=sys.stderr)
    data = load_dataset(settings["dataset"], first="train")
    if settings["dataset"]["root"] is not None:
        # The checkpoint is used from other directories.
        settings["dataset"]["root"] = str(Path(settings["dataset"]["root"]).expanduser().resolve())
    if settings["dataset"].get("class_names") is not None or settings["dataset"].get("_target_") is not None:
        settings["dataset"]["class_names"] = list(data.class_names)
    settings["model"] = resolve_model(settings["model"], data.name, build_transform(settings["transform"]))
    last, best = directory / "last.ckpt", directory / "best.ckpt"
    begun = _own(last) if last.is_file() else None
    asked = settings["trainer"]["precision"]
    settings["trainer"]["precision"] = training_precision(settings, begun.precision if begun else None)
    payload = make_payload(settings, data)
    finished = (directory / SUMMARY).is_file() and best.is_file()
    stated = begun.identity if begun is not None else _stated(directory) if finished else payload["identity"]
    more = _goes_on(directory, stated, payload["identity"])
    if more and begun is None:
        raise UserError(
            f"{last}: missing, and more epochs would go on from it; restore it, or use another hydra.run.dir"
        )
    if finished and not more:
        print(f"This run is finished already. To train anew, change a setting (seed=1) or remove {directory}")
        _say_what_next(best, _own(best))
        return

    family = build_family(
        settings["transform"], settings["smoothing"], data.image_size, settings["loss"]["pixel_noise"]
    )
    region = build_region(settings["region"], family.transform, family.threat)
    check = check_family(family, family.rest(region), shape=(data.channels, *data.image_size))
    if check is not None:
        # What would not be certified is not trained unasked.
        check.require(settings["approximate"])
        if not check.passed:
            print(check, file=sys.stderr)
    model, mean, std, *_ = bring(settings["model"], data)
    payload |= {"mean": list(mean), "std": list(std)}
    if begun is None and not settings["model"]["weights"]:
        fit_first_layer(model, data.train)
    module = TrainingModule(
        model, family, data, settings["loss"], settings["optimizer"], settings["seed"], payload, region
    )
    if is_first_process():  # the others would write the same, and take for leftovers what is being written
        remove_leftovers(directory)
        if more:
            assert begun is not None
            aside = _set_aside(directory, begun.identity[_EPOCHS]) if finished else None
            print(_longer(begun, settings["optimizer"], aside), file=sys.stderr)
        write_config(directory, settings)
    before = {checkpoint: file_digest(checkpoint) for checkpoint in (last, best) if checkpoint.is_file()}
    if begun is not None:
        print(f"Resuming from {last}", file=sys.stderr)
    if asked == "auto" and is_first_process():
        kept = ", as in last.ckpt" if begun is not None else ""
        print(f"trainer.precision=auto: {payload['precision']}{kept}", file=sys.stderr)
    if settings["optimizer"].get("_target_") and is_first_process():
        print(f"Optimizer: {described(settings['optimizer'])}", file=sys.stderr)
    start = time.monotonic()
    tags = [family.name, data.name]
    targets = [settings[group].get("_target_") for group in ("loss", "optimizer", "dataset")]
    with session(settings, directory, "train", tags) as logged, spawned(family, model, targets):
        if begun is None:
            log_pictures(logged, module)
        trainer = make_training(settings, directory, logged)
        try:
            trainer.fit(module, ckpt_path=last if last.is_file() else None)
        except Stopped as stop:
            epoch = _own(last).metrics["epoch"] if last.is_file() else 0
            steps = f" and {module.steps_saved} steps" if module.steps_saved else ""
            stop.progress = f"after {epoch:.0f} of {settings['optimizer']['epochs']} epochs{steps}"
            raise
        except UserError:
            raise
        except Exception as error:
            if not out_of_memory(error):
                if last.is_file() and not module.begun:
                    reason = (str(error).splitlines() or [type(error).__name__])[0]
                    raise UserError(f"{last}: training cannot resume from it ({reason}); {_AFRESH}") from error
                raise
            size = settings["optimizer"]["batch_size"]
            smaller = f"set optimizer.batch_size={size // 2}" if size > 1 else "use another device or a smaller model"
            raise UserError(
                f"optimizer.batch_size={size}: too large for the free memory of {trainer.strategy.root_device}; "
                f"{smaller}"
            ) from error
        finally:
            if trainer.is_global_zero:
                for checkpoint in (last, best):
                    if checkpoint.is_file() and file_digest(checkpoint) != before.get(checkpoint):
                        remember([checkpoint])
        if trainer.is_global_zero and not settings["trainer"]["fast_dev_run"]:
            trained = _own(best)
            logged.summarise({f"best/{name}": value for name, value in trained.metrics.items()})
            logged.checkpoint(best, trained, made=True)
    if not trainer.is_global_zero:
        return
    if settings["trainer"]["fast_dev_run"]:
        print("One batch of training and of validation passed; nothing was saved.")
        return
    summary = {
        "command": "train",
        "checkpoint": {"path": str(best), "sha256": trained.sha256},
        "metrics": trained.metrics,
        "seconds": round(time.monotonic() - start, 1),
        **payload,
    }
    write_text(directory / SUMMARY, json.dumps(summary, indent=2) + "\n")
    try:
        write_training_curves(directory)
    except UserError as reason:  # a kill may have torn the metrics: no reason to call the training failed
        print(f"No picture of the training: {reason}", file=sys.stderr)
    _say_what_next(best, trained)


def _say_what_next(best: Path, trained: Checkpoint) -> None:
    metrics = trained.metrics
    print(
        f"Best epoch {metrics['epoch']:.0f}: validation accuracy {metrics[CLEAN]:.2%}, "
        f"under the smoothing law {metrics[UNDER_LAW]:.2%}"
    )
    print(f"Best checkpoint: {best}")
    print(f"Certify it with: {trained.certify_with(best)}")


def _own(file: Path) -> Checkpoint:
    """A checkpoint of this very run."""
    try:
        return load_checkpoint(file)
    except UserError as error:
        raise UserError(f"{file}: missing, damaged, or not of this program; {_AFRESH}") from error


def _stated(directory: Path) -> dict[str, Any]:
    """What decided the run whose results are in the directory."""
    summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    return dict(summary["identity"])


def _goes_on(directory: Path, begun: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Is the run in the directory this one, but for more epochs now?

    Raises:
        UserError: it is another one, or this one with fewer epochs.
    """
    before, now = begun.get(_EPOCHS), identity[_EPOCHS]
    other = difference({**begun, _EPOCHS: now} if before is not None else begun, identity)
    if other is not None:
        raise UserError(
            f"hydra.run.dir={directory}: holds a run with {other}; use another hydra.run.dir, or remove that one"
        )
    if before > now:
        kept = _kept(directory, now)
        where = f"; its results after {now} are in {kept}" if kept.is_dir() else ""
        raise UserError(
            f"optimizer.epochs={now}: hydra.run.dir={directory} holds this run with optimizer.epochs={before}, and can "
            f"only become longer; set optimizer.epochs={before} or more, or another hydra.run.dir{where}"
        )
    return bool(before < now)


def _longer(begun: Checkpoint, optimizer: Mapping[str, Any], aside: Path | None) -> str:
    """What more epochs than a run had before mean, in words.

    Args:
        aside: where its results lie, if it had finished.
    """
    before, now, done = begun.identity[_EPOCHS], optimizer["epochs"], begun.metrics["epoch"]
    words = [f"Going on to optimizer.epochs={now}, after {done:.0f} of {before} epochs"]
    if aside is not None:
        words.append(f"its results stay in {aside}")
    then, next_ = (rate(optimizer, done / epochs) for epochs in (before, now))
    if then != next_:
        words.append(
            f"schedule={optimizer['schedule']} is that of {now} epochs from here on, so the learning rate goes on at "
            f"{next_:.3g} times optimizer.lr, where it was {then:.3g} times"
        )
    return "; ".join(words)


def _kept(directory: Path, epochs: int) -> Path:
    return directory / f"epochs_{epochs}"


def _set_aside(directory: Path, epochs: int) -> Path:
    """Keep the results of a run that had finished: more epochs replace them."""
    kept = _kept(directory, epochs)
    kept.mkdir(exist_ok=True)
    for name in ("best.ckpt", "last.ckpt", CONFIG, METRICS, *TRAINING_CURVES):
        source, file = directory / name, kept / name
        file.unlink(missing_ok=True)
        if source.is_file():
            try:
                os.link(source, file)  # what replaces the one leaves the other
            except OSError:
                with replacing(file) as copy:
                    copy.write(source.read_bytes())
    summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    summary["checkpoint"]["path"] = str(kept / "best.ckpt")
    write_text(kept / SUMMARY, json.dumps(summary, indent=2) + "\n")
    (directory / SUMMARY).unlink()  # last: until then the run has finished
    return kept


def make_training(settings: dict[str, Any], directory: Path, logged: Session) -> Trainer:
    """The Trainer of a run: its bar, its checkpoints and its logs, in the precision of ``settings``, not auto."""
    chosen = settings["trainer"]
    saved: dict[str, Any] = {
        "dirpath": directory,
        "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }
    loggers: list[TrainingLog] = []
    # Of what deterministic="warn" asks for below: to fill memory before it is written, as no step here needs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    callbacks: list[Callback] = []
    monitor = UNDER_LAW if settings["loss"]["transformed"] else CLEAN
    if settings["logger"]["name"] == "wandb":
        loggers.append(TrainingLog(logged))
        callbacks.append(LearningRate(logged))
    return make_trainer(
        settings,
        strategy=chosen["strategy"],
        precision=chosen["precision"],
        max_epochs=settings["optimizer"]["epochs"],
        fast_dev_run=chosen["fast_dev_run"],
        limit_train_batches=chosen["limit_train_batches"],
        limit_val_batches=chosen["limit_val_batches"],
        logger=loggers,
        callbacks=[
            *callbacks,
            TrainingProgress(chosen["progress"]),
            WritesMetrics(directory),
            # best first: last.ckpt then remembers the best score, and a resumed run keeps it.
            ModelCheckpoint(filename="best", monitor=monitor, mode="max", save_weights_only=True, **saved),
            ModelCheckpoint(filename="last", **saved),
            SavesInsideEpochs(directory / "last.ckpt"),
        ],
        plugins=[WholeCheckpoints()],
        default_root_dir=directory,
        deterministic="warn",
        num_sanity_val_steps=0,
    )
