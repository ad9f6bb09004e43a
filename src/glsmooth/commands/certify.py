"""``python -m glsmooth.certify``: certify test images with a trained base classifier."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.utils.data import Dataset, Subset

from glsmooth import bounds
from glsmooth.commands.entry import entry
from glsmooth.configuration.build import build_family, build_region
from glsmooth.configuration.settings import merge_checkpoint
from glsmooth.errors import UserError
from glsmooth.family.regions import Box
from glsmooth.family.resolvability import check_family, why_approximate
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.certification import CertificationModule, Settings, quieten_lightning
from glsmooth.learning.checkpoint import Checkpoint, digest, load_checkpoint
from glsmooth.learning.data import Data, certification_images, load_dataset
from glsmooth.report import write_report
from glsmooth.runs.records import Records, read_rows
from glsmooth.voting.classifier import BaseClassifier
from glsmooth.voting.engine import VoteEngine, check_random
from glsmooth.voting.finite import FiniteLaw
from glsmooth.voting.procedures import Exhaustive, FixedSample, Procedure, Sequential, given_up

#: Transformed copies in the picture of what was done to one image.
_FIGURE_COPIES = 8
#: For the estimate of disk space: a row of records.csv, and the report with its pictures.
_ROW_BYTES, _REPORT_MEBIBYTES = 100, 3


def run(cfg: DictConfig) -> None:
    """Certify, or go on where an earlier run stopped. Writes records.csv, summary.json and the report."""
    quieten_lightning()
    checkpoint = load_checkpoint(cfg.ckpt)
    stored = {part: getattr(checkpoint, part) for part in ("transform", "smoothing", "region", "dataset", "model")}
    settings = merge_checkpoint(cfg, stored)
    directory = Path(settings["run_dir"])

    data = load_dataset(settings["dataset"])
    _check_dataset(data, checkpoint)
    images = certification_images(data, settings["dataset"]["subset"], settings["dataset"]["subset_seed"])
    indices = list(images.indices) if isinstance(images, Subset) else list(range(len(images)))  # type: ignore[arg-type]
    noise = checkpoint.loss["pixel_noise"] if settings["pixel_noise"] is None else settings["pixel_noise"]
    family = build_family(settings["transform"], settings["smoothing"], data.image_size, noise)
    region = build_region(settings["region"], family.transform)

    family.check_region(region)
    residual = _check_transformation(family, region, images, settings["approximate"])
    methods = required_probabilities(family, region, settings["bound"]["methods"], residual)
    procedure = build_procedure(settings["monte_carlo"], methods, family)
    check_random(procedure, settings["stochastic"])
    speed = Settings(
        seed=settings["seed"],
        batch_size=settings["batch_size"],
        precision=settings["precision"],
        compile=settings["compile"],
        channels_last=settings["channels_last"],
        num_workers=data.num_workers,
        stochastic=settings["stochastic"],
    )
    print(preflight(methods, procedure), file=sys.stderr)
    if settings["compile"] and _accelerator(settings) == "cpu" and not _has_compiler():
        raise UserError("compile=true: needs a C++ compiler on a CPU; install g++, or set compile=false")
    if settings["dry_run"]:
        print(estimate(checkpoint, family, procedure, images, speed, _accelerator(settings)))
        return

    trainer = _trainer(settings["trainer"], _accelerator(settings))
    thresholds = {
        method: entry["required_probability"] if entry["sound"] else None for method, entry in methods.items()
    }
    module = CertificationModule(
        checkpoint.build_model(),
        family,
        procedure,
        len(checkpoint.classes),
        images,
        indices,
        thresholds,
        speed,
        directory,
    )
    identity = {
        "checkpoint": digest(cfg.ckpt),
        **{part: settings[part] for part in ("transform", "smoothing", "region", "seed", "precision")},
        "methods": list(methods),
        "pixel_noise": noise,
        # What sequential votes stop for follows from the rest.
        "monte_carlo": {key: value for key, value in procedure.describe().items() if key != "stopped_for"},
        "dataset": _test_images(settings["dataset"]),
    }
    if residual is not None:
        identity["approximate"] = True
    invocation = take_votes(trainer, module, identity)
    if not trainer.is_global_zero:
        return
    OmegaConf.save(OmegaConf.create(settings), directory / "config.yaml")
    summary = summarise(read_rows(directory), methods, invocation, procedure.describe()["n"]) | {
        "transform": settings["transform"],
        "smoothing": settings["smoothing"],
        "region": settings["region"],
        "image_size": list(data.image_size),
        "pixel_noise": noise,
        "approximate": residual,
        "stochastic": settings["stochastic"],
        "dataset": settings["dataset"],
        "model": settings["model"],
        "classes": list(checkpoint.classes),
        "checkpoint": {"path": str(cfg.ckpt), "sha256": identity["checkpoint"]},
        "monte_carlo": procedure.describe(),
        "seed": settings["seed"],
        "precision": settings["precision"],
        "hardware": _hardware(trainer),
        "versions": {name: version(name) for name in ("glsmooth", "torch", "lightning", "numpy", "scipy")}
        | {"python": platform.python_version()},
    }
    _save_figure(directory, checkpoint, family, procedure, images, indices, speed)
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    report = write_report(directory)
    _log(settings, summary, directory)
    print((directory / "table.md").read_text())
    print(f"Report: {report}")


def take_votes(trainer: Trainer, module: CertificationModule, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Bring records.csv of the module's directory to the end: an interrupted run goes on.

    Args:
        trainer: says on which devices.
        module: says what to do.
        identity: plain values that decide the result; a directory with others is refused.

    Returns:
        What this invocation did: ``images``, ``seconds``, and network ``evaluations``, padding included.
    """
    if not trainer.is_global_zero:  # started by Slurm or torchrun; the first process keeps the records
        trainer.predict(module, return_predictions=False)
        return {}
    records = Records(module.directory, identity, module.columns)
    try:
        remaining = set(module.indices) - records.finished
        start = time.monotonic()
        if remaining:
            if records.finished:
                print(f"Resuming: {len(records.finished)} images are recorded already", file=sys.stderr)
            trainer.predict(module, return_predictions=False)
            records.merge(module.indices)
        return {
            "images": len(remaining),
            "seconds": time.monotonic() - start,
            "evaluations": _evaluations(module.directory),
        }
    except ProcessRaisedException as error:
        # A spawned process reports its exception as a traceback; its last line is the message.
        message = re.search(r"^(?:glsmooth\.config\.User|Value)Error: (.*)\Z", str(error).strip(), re.M | re.S)
        if message is None:
            raise
        raise UserError(message.group(1)) from error
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        print("Stopped; the same command goes on from here", file=sys.stderr)
        raise
    finally:
        records.close()


def build_procedure(
    spec: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]], family: SmoothedFamily
) -> Procedure:
    """The Monte Carlo procedure of a configuration's ``monte_carlo``.

    Raises:
        UserError: ``exhaustive`` for a family whose law is not finite.
    """
    # An approximation certifies nothing; its votes stop where they would.
    required = {m: e["required_probability"] for m, e in methods.items() if e["sound"] or "residual" in e}
    targets = {m: h for m, h in required.items() if h is not None and h < 1}
    name = spec["name"]
    if name == "exhaustive":
        try:
            return Exhaustive(FiniteLaw.of(family), targets)
        except ValueError as error:
            raise UserError(str(error)) from error
    n0, n, alpha = spec["n0"], spec["n"], spec["alpha"]
    if name == "sequential":
        return Sequential(targets, n0, n, alpha)
    if name == "paper":
        return FixedSample(n0, n, alpha, randomised=spec["randomised"])
    if name == "paper_literal":
        return FixedSample(n0, n, alpha, rule="majority", two_sided=True, randomised=spec["randomised"])
    raise UserError(f"monte_carlo.name={name!r} is not a procedure; use paper, paper_literal, sequential or exhaustive")


def _check_transformation(
    family: SmoothedFamily, region: Box, images: Dataset, permitted: bool
) -> dict[str, Any] | None:
    """Try a user's transformation on some of the images: what is refused stops here, before any vote.

    Returns:
        Where ``permitted`` (by ``approximate=true``), for one that fails: the residual and where it was found, as
        plain values. Else None.
    """
    count = min(8, len(images))  # type: ignore[arg-type]
    check = check_family(family, region, [images[i][0] for i in range(count)])
    if check is None:
        return None
    check.require(permitted)
    if check.passed:
        return None
    print(check, file=sys.stderr)
    found = check.residuals[check.worst or ""]
    return {"residual": found.value, "identity": check.worst, "alpha": found.alpha, "beta": found.beta}


def required_probabilities(
    family: SmoothedFamily, region: Box, methods: Sequence[str], residual: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """What each method requires of the region, or why it says nothing, as plain values for summary.json.

    Args:
        residual: of a transformation that is only approximately resolvable: then no method is sound.
    """
    family.check_region(region)
    results: dict[str, dict[str, Any]] = {}
    for method in methods:
        found: dict[str, Any] = {
            "sound": bounds.METHODS[method].sound,
            "required_probability": None,
            "reason": None,
        }
        try:
            bound = bounds.certify_region(family, region, method)
        except bounds.NotApplicable as reason:
            found["reason"] = str(reason)
        else:
            found |= {
                "required_probability": bound.h_min,
                "worst_parameter": bound.worst,
                "sound": bound.sound,
                "failure_probability": bound.failure_probability,
                "argument": bound.argument,
            }
            if residual is not None:
                found |= {"sound": False, "residual": residual["residual"], "argument": why_approximate(residual)}
        results[method] = found
    return results


def preflight(methods: Mapping[str, Mapping[str, Any]], procedure: Procedure) -> str:
    """What can be certified at all with these numbers of draws, before any is taken."""
    lines = []
    for method, found in methods.items():
        h_min, title = found["required_probability"], bounds.METHODS[method].title
        if h_min is None:
            line = f"does not apply: {found['reason']}"
        else:
            line = f"required probability {_up(h_min)}{_within_reach(h_min, procedure)}"
        standing = "approximate" if "residual" in found else "unsound"
        lines.append(f"{title}: {line}{'' if found['sound'] else f' ({standing}: never counts as certified)'}")
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


def _up(p: float) -> str:
    return f"{math.ceil(p * 1e4) / 1e4:.4f}"


def estimate(
    checkpoint: Checkpoint,
    family: SmoothedFamily,
    procedure: Procedure,
    images: Dataset,
    speed: Settings,
    accelerator: str,
) -> str:
    """Passes, time, memory and disk that a run would take, from a few batches of its own."""
    device = torch.device("cuda" if accelerator in ("gpu", "cuda") else "cpu")
    engine = _engine(checkpoint, family, FixedSample(n0=1, n=5 * speed.batch_size), speed, device)
    with engine.classifier.ready(images[0][0]):
        engine.add(0, images[0][0])
        engine.step()  # the first batch compiles, allocates and warms up
        start, before = time.perf_counter(), engine.evaluations
        while engine.busy:
            engine.step()
    rate = (engine.evaluations - before) / (time.perf_counter() - start)
    size = len(images)  # type: ignore[arg-type]
    # Each image is also classified as it is.
    passes = sorted({size * (draws + 1) for draws in procedure.draws_range()})
    memory = "none"
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        memory = f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} of {total / 2**30:.0f} GiB"
    lines = [
        f"Images:          {size:,}",
        f"Network passes:  {' to '.join(f'{n:,}' for n in passes)}",
        f"Time:            {' to '.join(_duration(n / rate) for n in passes)} on one device",
        f"Speed:           {rate:,.0f} passes a second in batches of {speed.batch_size}",
        f"GPU memory:      {memory}; it does not grow with images or draws",
        f"Disk:            {size * _ROW_BYTES / 2**20 + _REPORT_MEBIBYTES:.0f} MiB",
        "Nothing was started (dry_run=true).",
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def summarise(
    rows: Sequence[Mapping[str, str]],
    methods: Mapping[str, Mapping[str, Any]],
    invocation: Mapping[str, Any],
    most: int,
) -> dict[str, Any]:
    """The numbers of summary.json.

    ``smoothed_accuracy`` counts images whose selected class is the true one; ``abstained`` is the fraction
    whose p_lower is not above 1/2 after all ``most`` counting draws (or that got no vote at all), so that the
    selected class is not proved to be the smoothed classifier's. ``given_up`` is the fraction that stopped
    before that, the region being out of reach: whether their class would have been proved is not known.
    """

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])

    label, votes = column("label"), column("n0") + column("n")
    correct = column("prediction") == label
    unproved = column("p_lower") <= 0.5
    early = given_up(column("p_lower"), column("n"), column("prediction"), most)
    seconds = invocation["seconds"] / invocation["images"] if invocation["images"] else None
    return {
        "command": "certify",
        "images": len(rows),
        "base_accuracy": float((column("base_prediction") == label).mean()),
        "smoothed_accuracy": float(correct.mean()),
        "abstained": float((unproved & ~early).mean()),
        "given_up": float(early.mean()),
        "votes_used": int(votes.sum()),
        "votes_per_image": float(votes.mean()),
        "abstained_votes": int(column("abstain_votes").sum()),
        "nonfinite_votes": int(column("nonfinite_votes").sum()),
        "near_ties": int(column("near_ties").sum()),
        "seconds_per_image": seconds,
        "invocation": dict(invocation),
        "methods": {
            method: dict(entry)
            | {
                "certified_robust_accuracy": None
                if entry["required_probability"] is None
                else float((correct & (column(f"certified_{method}") == 1)).mean())
            }
            for method, entry in methods.items()
        },
    }


def _test_images(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What decides which images are certified; a data set that has a name is the same wherever it lies."""
    keys = ["name", "image_size", "test_fraction", "split_seed", "subset", "subset_seed"]
    if dataset["name"] == "image_folder":
        keys.append("root")
    return {key: dataset.get(key) for key in keys}


def _check_dataset(data: Data, checkpoint: Checkpoint) -> None:
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


def _engine(
    checkpoint: Checkpoint,
    family: SmoothedFamily,
    procedure: Procedure,
    speed: Settings,
    device: torch.device,
) -> VoteEngine:
    classifier = BaseClassifier(
        checkpoint.build_model(),
        len(checkpoint.classes),
        device=device,
        precision=speed.precision,
        compile=speed.compile,
        channels_last=speed.channels_last,
        stochastic=speed.stochastic,
    )
    return VoteEngine(classifier, family, procedure, seed=speed.seed, batch_size=speed.batch_size, clean=True)


def _save_figure(
    directory: Path,
    checkpoint: Checkpoint,
    family: SmoothedFamily,
    procedure: Procedure,
    images: Dataset,
    indices: Sequence[int],
    speed: Settings,
) -> None:
    """figure1.npz: the first counting draws of one image, the first that is certified and correct if there is
    one."""
    rows = read_rows(directory)
    certified = [name for name in rows[0] if name.startswith("certified_")]

    def shows(row: Mapping[str, str]) -> bool:
        return row["prediction"] == row["label"] and any(row[name] == "1" for name in certified)

    index = int(next((row for row in rows if shows(row)), rows[0])["index"])
    image = images[indices.index(index)][0]
    plain_speed = Settings(seed=speed.seed, precision=speed.precision, stochastic=speed.stochastic)
    engine = _engine(checkpoint, family, procedure, plain_speed, torch.device("cpu"))
    with engine.classifier.ready(image):
        theta, transformed, votes = engine.replay(index, image, _FIGURE_COPIES)
    np.savez_compressed(
        directory / "figure1.npz",
        index=index,
        image=image.numpy(),
        transformed=transformed.numpy(),
        theta=theta.numpy(),
        votes=votes.numpy(),
        class_names=np.array(checkpoint.classes),
    )


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def _accelerator(settings: Mapping[str, Any]) -> str:
    # Smoothing parameters are drawn in float64, which Apple's accelerator lacks: auto means CUDA or the CPU.
    chosen = settings["trainer"]["accelerator"]
    return ("gpu" if torch.cuda.is_available() else "cpu") if chosen == "auto" else chosen


def _trainer(chosen: Mapping[str, Any], accelerator: str) -> Trainer:
    strategy: Any = chosen.get("strategy", "auto")
    if strategy == "auto" and _number_of_devices(chosen["devices"], accelerator) > 1:
        external = SLURMEnvironment.detect() or TorchElasticEnvironment.detect()
        # A device that has finished its share waits for the others, as long as it takes.
        strategy = DDPStrategy(start_method="popen" if external else "spawn", timeout=timedelta(days=30))
    return Trainer(
        accelerator=accelerator,
        devices=chosen["devices"],
        num_nodes=chosen.get("num_nodes", 1),
        strategy=strategy,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # glsmooth.learning.data.Batches shares the images out
    )


def _number_of_devices(devices: Any, accelerator: str) -> int:
    if isinstance(devices, list):
        return len(devices)
    if devices in ("auto", -1):
        return 1 if accelerator == "cpu" else torch.cuda.device_count()
    return int(devices)


def _evaluations(directory: Path) -> int:
    """Network evaluations of this invocation, padding included, from the files that the processes left."""
    total = 0
    for path in directory.glob("evaluations.rank*"):
        total += int(path.read_text())
        path.unlink()
    return total


def _hardware(trainer: Trainer) -> dict[str, Any]:
    cuda = trainer.strategy.root_device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {"device": name, "devices": trainer.world_size}


def _log(settings: Mapping[str, Any], summary: Mapping[str, Any], directory: Path) -> None:
    """Send the summary's numbers to W&B with ``logger=wandb``."""
    if settings["logger"]["name"] != "wandb":
        return
    import wandb

    remembered = directory / "wandb_id"
    if not remembered.is_file():
        remembered.write_text(secrets.token_hex(4))
    chosen = settings["logger"]
    try:
        wandb.init(
            project=chosen["project"],
            entity=chosen["entity"],
            id=remembered.read_text(),
            resume="allow",
            dir=directory,
            config=dict(settings),
        )
        wandb.log({name: value for name, value in summary.items() if isinstance(value, (int, float))})
        wandb.log({f"cra/{m}": entry["certified_robust_accuracy"] for m, entry in summary["methods"].items()})
    except wandb.Error as error:
        raise UserError(
            f"logger=wandb: {error}; log in with `wandb login`, set WANDB_MODE=offline, or use logger=csv"
        ) from error
    finally:
        wandb.finish()


main = entry("certify", run)
