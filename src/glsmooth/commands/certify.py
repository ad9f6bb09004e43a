"""The certify command: test images with a trained base classifier, from votes to the report."""

from __future__ import annotations

from glsmooth.commands import plain_matplotlib  # noqa: F401 - before Lightning

# isort: split
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import Dataset

from glsmooth.bounds import Outcome, evaluate
from glsmooth.bounds.confidence import MIXTURE
from glsmooth.commands.accuracy import accuracy_beforehand
from glsmooth.commands.estimate import estimate, preflight
from glsmooth.commands.mains import certify as main
from glsmooth.configuration.build import build_family, build_region, build_transform
from glsmooth.configuration.fields import shown
from glsmooth.configuration.identity import decisive
from glsmooth.configuration.settings import merge_checkpoint, settle_residual, without_checkpoint
from glsmooth.errors import UserError
from glsmooth.family.regions import Region
from glsmooth.family.resolvability import why_approximate
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.certification import (
    CertificationModule,
    Options,
    save_draws,
    summarise,
    take_votes,
    try_transformation,
)
from glsmooth.learning.checkpoint import Checkpoint, load_checkpoint, of_network
from glsmooth.learning.data import Data, digests, images_asked, load_dataset, positions, share
from glsmooth.learning.models import check_takes, resolve_model
from glsmooth.learning.own_images import own_arguments
from glsmooth.learning.trainer import (
    accelerator,
    is_first_process,
    make_trainer,
    one_device,
    quieten_lightning,
    started_with_others,
)
from glsmooth.learning.wandb_log import session
from glsmooth.report.page import Drawn, write_report
from glsmooth.report.wandb_log import log_results
from glsmooth.runs.files import RECORDS, write_config
from glsmooth.runs.own import foreign_root, is_own, remember, run_files
from glsmooth.runs.records import Images, Records
from glsmooth.runs.shards import parse
from glsmooth.runs.summary import Summary
from glsmooth.voting.engine import check_random
from glsmooth.voting.procedures import Procedure, build_procedure

__all__ = ["Job", "check_dataset", "check_root", "main", "meant_precision", "prepare", "run", "stored_dataset"]


@dataclass(frozen=True)
class Job:
    """Everything that a certification needs, built and checked before the first vote."""

    settings: dict[str, Any]
    checkpoint: Checkpoint
    model: nn.Module
    images: Dataset[Any]
    indices: list[int]
    family: SmoothedFamily
    region: Region
    outcomes: dict[str, Outcome]
    approximate: dict[str, Any] | None
    procedure: Procedure
    options: Options

    @property
    def directory(self) -> Path:
        return Path(self.settings["run_dir"])

    @property
    def source(self) -> str:
        """Where the network comes from."""
        model = self.settings["model"]
        brought = model["weights"] or model.get("_target_") or f"{model['name']}, pretrained"
        return str(self.settings["ckpt"] or brought)

    @property
    def classes(self) -> list[str]:
        return self.checkpoint.classes


def run(cfg: DictConfig) -> None:
    """Certify, or go on where an earlier run stopped. Writes records.csv, summary.json and the report."""
    quieten_lightning()
    job = prepare(cfg)
    settings, directory = job.settings, job.directory
    print(preflight(job.outcomes, job.procedure), file=sys.stderr)
    if settings["dry_run"]:
        device = one_device(settings, "dry_run")
        print(_accuracy(job, device), file=sys.stderr)
        told = job.model, len(job.classes), job.family, job.procedure, job.images, job.options, device
        print(estimate(*told, job.outcomes, job.region))
        return
    trainer = _trainer(settings)
    if is_first_process() and not (directory / RECORDS).is_file():
        print(_accuracy(job, trainer.strategy.root_device), file=sys.stderr)
    module = CertificationModule(
        job.model,
        job.family,
        job.procedure,
        len(job.classes),
        job.images,
        job.indices,
        job.outcomes,
        job.options,
        directory,
        region=job.region,
    )
    identity = decisive(settings, "certify") | {"ckpt": job.checkpoint.sha256}  # the one that was read
    if job.approximate is not None:
        identity["approximate"] = True  # rows that never count: mended code shall not take them over
    mixture = job.procedure.describe().get("mixture")
    if mixture is not None:
        identity["monte_carlo.mixture"] = mixture  # the summary names one test for all rows
    if not trainer.is_global_zero:  # started by Slurm or torchrun; the first process keeps the records
        trainer.predict(module, return_predictions=False)
        return
    # Held to the end, so that nobody who starts the same command takes files for leftovers that are being written.
    tags = [job.family.name, settings["dataset"]["name"]]
    with (
        Records(directory, identity, module.columns, Images(*digests(job.images))) as held,
        session(settings, directory, "certify", tags) as logged,
    ):
        module.logged = logged
        if settings["ckpt"] is not None:
            logged.checkpoint(Path(settings["ckpt"]).expanduser(), job.checkpoint, made=False)
        invocation = take_votes(trainer, module, held)
        summary = _summary(job, module, invocation, trainer)
        write_config(directory, settings)
        save_draws(module, job.classes, torch.device("cpu"))
        summary.write(directory)
        remember(run_files(directory))
        drawn = Drawn()
        root = settings["dataset"].get("root")
        target = settings["dataset"].get("_target_")
        report = write_report(directory, family=job.family, dataset_root=root, dataset_target=target, drawn=drawn)
        print((directory / "table.md").read_text(encoding="utf-8"))
        print(f"Report: {report}", flush=True)  # W&B may take its time
        log_results(logged, drawn, lambda index: job.images[job.indices.index(index)][0])


def _accuracy(job: Job, device: torch.device) -> str:
    brought = job.settings["ckpt"] is None
    return accuracy_beforehand(job.model, job.classes, job.images, job.options, device, brought)


def prepare(cfg: DictConfig, told: Mapping[str, Any] | None = None) -> Job:
    """Build and check everything that the configuration and its checkpoint name.

    Args:
        cfg: of certify, or of another command that has its fields.
        told: groups that hold in place of the checkpoint's, where nothing is typed.

    Raises:
        UserError: whatever stands in the way of the first vote.
    """
    checkpoint, settings, data = _trained(cfg, dict(told or {})) if cfg.ckpt is not None else _brought(cfg)
    if settings["pixel_noise"] is None:
        settings["pixel_noise"] = checkpoint.loss["pixel_noise"]
    if cfg.ckpt is not None or settings["precision"] == "auto":
        settings["precision"] = meant_precision(settings["precision"], checkpoint)
    settle_residual(settings, (data.channels, *data.image_size))
    images = images_asked(data, settings["dataset"])
    shard = parse(settings.get("shard"))
    if shard is not None:
        images = share(images, *shard)
    family = build_family(
        *(settings["transform"], settings["smoothing"], data.image_size, settings["pixel_noise"]),
        draws=settings["draws"] or "continuous",
    )
    region = build_region(settings["region"], family.transform, family.threat)
    family.check_region(region)
    approximate = try_transformation(family, region, images, settings["approximate"])
    outcomes = evaluate(family, region, settings["bound"]["methods"])
    if family.warps and settings["monte_carlo"]["name"] == "paper" and not settings["monte_carlo"].get("randomised"):
        print(f"monte_carlo=sequential: {family.name} takes votes at many references of each image", file=sys.stderr)
        settings["monte_carlo"] = {**settings["monte_carlo"], "name": "sequential"}
    procedure = build_procedure({**settings["monte_carlo"], "mixture": MIXTURE}, outcomes, family)
    if approximate is not None:
        # Nothing is certified; votes stop where they would for a certificate.
        residual, why = approximate["residual"], why_approximate(approximate)
        outcomes = {method: outcome.approximate(residual, why) for method, outcome in outcomes.items()}
    check_random(procedure, settings["stochastic"])
    options = Options.of(settings, data.num_workers)
    model = checkpoint.build_model(cfg.model.get("_target_"))
    if list(data.image_size) != list(checkpoint.image_size):
        check_takes(model, settings["model"]["name"], data.channels, data.image_size)
    return Job(
        settings,
        checkpoint,
        model,
        images,
        positions(images),
        family,
        region,
        outcomes,
        approximate,
        procedure,
        options,
    )


def _trained(cfg: DictConfig, told: dict[str, Any]) -> tuple[Checkpoint, dict[str, Any], Data]:
    """The network of a checkpoint, the settings as it completes them, and the data set."""
    checkpoint = load_checkpoint(cfg.ckpt)
    stored = {part: getattr(checkpoint, part) for part in ("transform", "smoothing", "region", "dataset", "model")}
    stored["dataset"] = stored_dataset(checkpoint)
    settings = merge_checkpoint(cfg, stored | told)
    check_root(cfg, settings)
    data = load_dataset(settings["dataset"])
    check_dataset(data, checkpoint)
    return checkpoint, settings, data


def _brought(cfg: DictConfig) -> tuple[Checkpoint, dict[str, Any], Data]:
    """A network that was trained elsewhere, as a checkpoint would hold it, the whole settings, and the data set."""
    settings = without_checkpoint(cfg)
    data = load_dataset(settings["dataset"])
    transform = build_transform(settings["transform"])
    settings["model"] = resolve_model(settings["model"], data.name, transform)
    checkpoint = of_network(settings, data)
    settings["model"] |= {"mean": checkpoint.mean, "std": checkpoint.std}  # wherever they came from
    return checkpoint, settings, data


def meant_precision(asked: str, checkpoint: Checkpoint) -> str:
    """The precision that is meant, which is part of the base classifier: auto is the one that it was trained in."""
    if asked not in ("auto", checkpoint.precision):
        print(
            f"precision={asked}: certifies another base classifier than the one that was trained and validated, in "
            f"{checkpoint.precision}",
            file=sys.stderr,
        )
    return checkpoint.precision if asked == "auto" else asked


def stored_dataset(checkpoint: Checkpoint) -> dict[str, Any]:
    """The data set as the checkpoint describes it, without what only the user may ask of this machine."""
    stored = {key: value for key, value in checkpoint.dataset.items() if key != "download"}
    if stored.get("num_workers"):
        stored["num_workers"] = min(stored["num_workers"], os.cpu_count() or 1)
    return stored


def check_root(cfg: DictConfig, settings: Mapping[str, Any]) -> None:
    """Refuse a folder of images that is named by a checkpoint alone, unless train wrote that here."""
    if is_own([Path(settings["ckpt"]).expanduser()]):
        return
    root, dataset = settings["dataset"].get("root"), settings["dataset"]
    arguments = own_arguments(dataset) if dataset.get("_target_") else {}
    for key, value in arguments.items():  # of a function that the user typed: they may name files
        if key != "root" and cfg.dataset.get(key) is None:
            raise UserError(
                f"dataset.{key}={shown(value)} comes from {settings['ckpt']}, which train did not write on this "
                f"machine; type +dataset.{key}=VALUE, the same one if you trust it"
            )
    if root is None or cfg.dataset.root is not None:
        return
    raise foreign_root(root, settings["ckpt"])


def _summary(job: Job, module: CertificationModule, invocation: dict[str, Any], trainer: Trainer) -> Summary:
    settings = job.settings
    return summarise(
        module,
        invocation,
        trainer.strategy.root_device,
        trainer.world_size,
        **{group: settings[group] for group in ("transform", "smoothing", "region", "dataset", "model", "shard")},
        approximate=job.approximate,
        classes=list(job.classes),
        checkpoint={"path": job.source, "sha256": job.checkpoint.sha256},
        training=job.checkpoint.identity,
    )


def check_dataset(data: Data, checkpoint: Checkpoint) -> None:
    fix = "give the dataset that the checkpoint was trained for"
    found, trained = list(data.class_names), list(checkpoint.classes)
    if found != trained:
        raise UserError(
            f"dataset.name={data.name}: its {len(found)} classes ({', '.join(found[:3])} …) are not the "
            f"checkpoint's {len(trained)} ({', '.join(trained[:3])} …); {fix}"
        )
    if data.channels != len(checkpoint.mean):
        raise UserError(
            f"dataset.name={data.name}: its images have {data.channels} channels, not the checkpoint's "
            f"{len(checkpoint.mean)}; {fix}"
        )


def _trainer(settings: Mapping[str, Any]) -> Trainer:
    chosen = settings["trainer"]
    strategy: Any = chosen.get("strategy", "auto")
    if strategy == "auto" and _number_of_devices(chosen["devices"], accelerator(settings)) > 1:
        # A device that has finished its share waits for the others, as long as it takes.
        strategy = DDPStrategy(start_method="popen" if started_with_others() else "spawn", timeout=timedelta(days=30))
    return make_trainer(settings, strategy=strategy, logger=False, enable_checkpointing=False)


def _number_of_devices(devices: Any, accelerator: str) -> int:
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", -1):
        return 1 if accelerator == "cpu" else torch.cuda.device_count()
    return int(devices)
