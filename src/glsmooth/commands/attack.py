"""The attack command: what a classifier loses over a region, and whether the certificates of a run hold."""

from __future__ import annotations

from glsmooth.commands import plain_matplotlib  # noqa: F401 - before Lightning

# isort: split
import json
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import Dataset, Subset

from glsmooth.attacks import BLOCK, Attacked, Effort, Finding
from glsmooth.attacks.core import PHASES, Attacker, Claim, Item, certified_sizes
from glsmooth.attacks.outside import Condition, conditions_of
from glsmooth.bounds import Outcome
from glsmooth.commands.certify import Job, prepare
from glsmooth.commands.mains import attack as main
from glsmooth.configuration import groups
from glsmooth.configuration.build import law_targets
from glsmooth.configuration.identity import certificates_digest, decisive, difference, run_id
from glsmooth.configuration.plain import plain
from glsmooth.errors import UserError, visible
from glsmooth.learning.data import digests
from glsmooth.learning.stopping import Stopped
from glsmooth.learning.trainer import device_name, one_device, progress_bar, quieten_lightning
from glsmooth.learning.wandb_log import session
from glsmooth.report.attack import Attack, log_attack, short_table, write_attack
from glsmooth.runs.attacks import columns, read_findings, row
from glsmooth.runs.files import ATTACKS, IDENTITY, IMAGES, SUMMARY, read_json, write_config, write_text
from glsmooth.runs.records import Images, Records, RecordWriter
from glsmooth.runs.run import Run, load_run
from glsmooth.smoothing import SmoothedClassifier, check_image
from glsmooth.voting.procedures import VoteRule

__all__ = ["main", "run"]

#: What must be the same for a run's certificates to be about what is attacked.
_SAME = ("ckpt", "transform.", "smoothing.", "pixel_noise", "draws", "precision", "dataset.", "model.")
_CHOOSING = ("dataset.subset", "dataset.subset_seed", "dataset.skip", "dataset.every")
#: Fields of this command that certify does not have.
_OWN = ("attack.", "run=", "bound.")


@dataclass(frozen=True)
class _Job:
    """Everything that an attack needs, built and checked before the first pass."""

    of: Job
    run: Run | None
    why_not: str
    outcome: Outcome | None
    indices: list[int]
    images: Dataset[Any]
    effort: Effort
    conditions: list[Condition]
    smoothed: SmoothedClassifier
    device: torch.device

    @property
    def settings(self) -> dict[str, Any]:
        return self.of.settings


def run(cfg: DictConfig) -> None:
    """Attack, or go on where an earlier attack stopped. Writes attacks.csv, summary.json and the report."""
    quieten_lightning()
    job = _prepare(cfg)
    settings, directory = job.settings, Path(job.settings["run_dir"])
    print(_preflight(job), file=sys.stderr)
    identity = decisive(settings, "attack") | {"ckpt": job.of.checkpoint.sha256}
    if job.run is not None:
        identity["run"] = certificates_digest(job.run.path)
    names = [condition.name for condition in job.conditions]
    table = columns(job.of.family.parameters, names)
    tags = [job.of.family.name, settings["dataset"]["name"]]
    with (
        Records(directory, identity, table, Images(*digests(job.images)), ATTACKS) as held,
        session(settings, directory, "attack", tags) as logged,
    ):
        before = read_findings(directory, job.of.family.parameters, names)
        # Where certificates are broken, more of the same would say nothing more.
        violated = _attacked(job, before).violated
        invocation = {"images": 0, "seconds": 0.0} if violated else _attack(job, held, table)
        findings = read_findings(directory, job.of.family.parameters, names)
        attacked = _attacked(job, findings)
        write_config(directory, settings)
        attack = _described(job, attacked)
        write_text(directory / SUMMARY, json.dumps(_summary(job, attack, invocation), indent=2) + "\n")
        report = write_attack(attack, directory)
        print(short_table(attack))
        print(f"Report: {report}", flush=True)
        log_attack(logged, attack, directory)
        attacked.require(lambda one: _again(cfg, job, one))
        if len(findings) < len(job.indices):
            print(
                f"{len(findings)} of {len(job.indices)} images were attacked in {settings['attack']['minutes']:g} "
                "minutes; the same command goes on from here",
                file=sys.stderr,
            )


# What is attacked


def _prepare(cfg: DictConfig) -> _Job:
    """Build and check everything that the configuration, its run and its checkpoint name."""
    found, why_not = _run(cfg)
    told: dict[str, Any] = {}
    cfg = cfg.copy()
    if cfg.run is not None:
        assert found is not None
        told = _told(cfg, found)
        if cfg.ckpt is None and not (cfg.model.weights or cfg.model.pretrained):
            cfg.ckpt = _checkpoint(found)
    job = prepare(cfg, told)
    _check_attackable(job)
    if found is not None:
        _check_same(found, job)
    outcome = _outcome(job, found)
    indices = _chosen(job, found)
    whole = job.images.dataset if isinstance(job.images, Subset) else job.images
    images = Subset(whole, indices)
    if found is not None:
        _check_images(found, images)
    chosen = job.settings["attack"]
    if cfg.run is not None and found is not None and not _certifies(found, outcome, indices):
        (method,) = job.settings["bound"]["methods"]
        raise UserError(
            f"run={cfg.run}: none of the {len(indices)} images is certified by {method} for this region"
            f"{'' if outcome is None or outcome.h_min is not None else f' ({outcome.argument})'}; give another region, "
            "or ckpt without run to attack the classifier alone"
        )
    effort = Effort(*(chosen[name] for name in ("passes", "draws", "votes", "tries", "delta", "reach")))
    channels = len(job.checkpoint.mean)
    conditions = conditions_of(job.family.transform, channels) if chosen["outside"] and chosen["at"] is None else []
    device = one_device(job.settings, "attack")
    smoothed = SmoothedClassifier(
        job.model,
        job.family,
        len(job.classes),
        device=device,
        precision=job.options.precision,
        stochastic=job.options.stochastic,
        **{key: job.settings[key] for key in ("batch_size", "compile", "channels_last", "threads")},
    )
    # What is not to be had is refused before the work.
    _attacker(job, smoothed, found, len(indices), effort, conditions)
    return _Job(job, found, why_not, outcome, indices, images, effort, conditions, smoothed, device)


def _run(cfg: DictConfig) -> tuple[Run | None, str]:
    """The certification whose certificates are tested, or why there is none."""
    if cfg.run is not None:
        directory = Path(cfg.run).expanduser()
    else:
        words = [
            word
            for word in HydraConfig.get().overrides.task
            if not word.lstrip("+~").startswith(_OWN) or word.startswith("~")
        ]
        certify = groups.command("certify", words)
        keys = [str(key) for key in certify if key not in ("hydra", "run_dir")]
        directory = Path("outputs") / "certify" / run_id(OmegaConf.masked_copy(certify, keys), "certify")
        if not (directory / SUMMARY).is_file():
            return None, f"{directory} is not there, or has not finished: certify with the same words, or name run=DIR"
    found = load_run(
        directory,
        "run",
        transform_target=cfg.transform.get("_target_"),
        dataset_root=cfg.dataset.root,
        law_targets=law_targets(plain(cfg).get("smoothing", {})),
        dataset_target=cfg.dataset.get("_target_"),
    )
    return found, ""


def _check_attackable(job: Job) -> None:
    """Refuse what no search here is for."""
    if job.family.warps:
        raise UserError(
            f"{job.family.name}: attack searches parameters of transformations, and this has one of a threat; in "
            "Python, search with glsmooth.threats.Rotation().warp, which is differentiable"
        )


def _told(cfg: DictConfig, found: Run) -> dict[str, Any]:
    """What the run was told, for all that is not typed."""
    summary = found.summary
    dataset = found.readable_dataset
    if dataset is None:
        raise UserError(
            f"run={cfg.run}: certify did not write it on this machine, so the folder of its images must be typed; set "
            "dataset.root=DIR"
        )
    if cfg.pixel_noise is None:
        cfg.pixel_noise = summary.pixel_noise
    cfg.draws = cfg.draws or summary.draws
    if cfg.precision == "auto" and summary.precision is not None:
        cfg.precision = summary.precision
    cfg.stochastic = cfg.stochastic or summary.stochastic
    cfg.approximate = cfg.approximate or summary.approximate is not None
    told = {"transform": summary.transform, "smoothing": summary.smoothing, "region": summary.region}
    return {**told, "dataset": {key: value for key, value in dataset.items() if key != "download"}}


def _checkpoint(found: Run) -> str:
    path = (found.summary.checkpoint or {}).get("path")
    if path is None or not Path(path).expanduser().exists():
        raise UserError(
            f"ckpt: run={found.path} is of {visible(str(path))}, which is not here; type ckpt=PATH, the same "
            "checkpoint wherever it is (of a network from elsewhere, what certify was told of it; what Python "
            "certified is attacked there, by glsmooth.attack_images)"
        )
    return str(path)


def _check_same(found: Run, job: Job) -> None:
    """Refuse certificates that are about another network, law or data set."""
    known = read_json(found.path / IDENTITY, "run certify again", as_it_is=True)
    now = decisive(job.settings, "certify") | {"ckpt": job.checkpoint.sha256}

    def about(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in fields.items() if key.startswith(_SAME) and key not in _CHOOSING}

    other = difference(about(json.loads(json.dumps(now))), about(known))
    if other is not None:
        raise UserError(
            f"run={found.path}: its certificates are of something else: the attack has "
            f"{other.replace('this run has', 'that run has')}; leave out what differs, or name another run"
        )


def _outcome(job: Job, found: Run | None) -> Outcome | None:
    """What the method whose certificates are tested says of the region."""
    (method,) = job.settings["bound"]["methods"]
    if found is None:
        return None
    region = job.region
    return found.evaluate(region, [method])[method]


def _claims(outcome: Outcome | None, p_lower: float) -> bool:
    """Is the region claimed for a class? By a method that is not sound, too; not where nothing is resolvable."""
    return outcome is not None and outcome.residual is None and bool(outcome.claims(p_lower))


def _certifies(found: Run, outcome: Outcome | None, indices: Sequence[int]) -> bool:
    chosen = np.isin(found.columns["index"], indices)
    return any(_claims(outcome, p) for p in found.p_lower[chosen].tolist())


def _chosen(job: Job, found: Run | None) -> list[int]:
    """The images that are attacked: so many of the run's, or of the data set's, evenly spread, whatever their votes."""
    chosen = job.settings["attack"]
    there = job.indices
    if found is not None:
        known = set(found.columns["index"].tolist())
        there = [index for index in there if index in known]
        if not there:
            raise UserError(f"run={found.path}: none of its images is among those that dataset chooses; leave it out")
    if chosen["index"] is not None:
        if chosen["index"] not in there:
            raise UserError(
                f"attack.index={chosen['index']} is not one of the {len(there)} images; give one from {there[0]} to "
                f"{there[-1]}"
            )
        return [chosen["index"]]
    number = len(there) if chosen["images"] is None else min(chosen["images"], len(there))
    return [there[i] for i in np.unique(np.linspace(0, len(there) - 1, number).round().astype(int)).tolist()]


def _check_images(found: Run, images: Dataset[Any]) -> None:
    """Refuse images that are not those that were certified."""
    if not (found.path / IMAGES).is_file():
        return
    before, now = Images.read(found.path / IMAGES), Images(*digests(images))
    changed = [index for index, digest in now.digests.items() if before.digests.get(index) != digest]
    if changed:
        raise UserError(
            f"run={found.path}: image {changed[0]} has changed since it was certified; restore the images, or certify "
            "again"
        )


def _rule(found: Run | None) -> VoteRule:
    return "majority" if found is not None and found.summary.monte_carlo.get("vote") == "majority" else "argmax"


def _attacker(
    job: Job,
    smoothed: SmoothedClassifier,
    found: Run | None,
    images: int,
    effort: Effort,
    conditions: Sequence[Condition],
    **more: Any,
) -> Attacker:
    return Attacker(
        smoothed,
        job.region,
        images,
        effort,
        job.settings["seed"],
        _rule(found),
        conditions,
        job.settings["attack"]["at"],
        **more,
    )


def _preflight(job: _Job) -> str:
    images, chosen = len(job.indices), job.settings["attack"]
    words = [f"{images} images, about {chosen['passes']:,} passes of search and {chosen['votes']:,} fresh votes each"]
    if job.run is None:
        words.append(f"No certificates are tested: {job.why_not}")
    else:
        known = dict(zip(job.run.columns["index"].tolist(), job.run.p_lower.tolist(), strict=True))
        certified = sum(_claims(job.outcome, known[index]) for index in job.indices)
        words.append(f"{certified} of them are certified in {job.run.path}")
    return "\n".join(words)


# The attack


def _items(job: _Job, indices: Sequence[int], sizes: Mapping[int, float]) -> list[Item]:
    items = []
    rows = {} if job.run is None else {int(index): i for i, index in enumerate(job.run.columns["index"])}
    for index in indices:
        image, label, _ = job.images[job.indices.index(index)]
        check_image(image, f"image {index}")
        claim = None
        if job.run is not None and job.outcome is not None:
            at = rows[index]
            p_lower = float(job.run.p_lower[at])
            h_min = job.outcome.h_min if _claims(job.outcome, p_lower) and job.outcome.h_min is not None else 1.0
            claim = Claim(int(job.run.columns["prediction"][at]), p_lower, h_min, sizes[index])
        items.append(Item(index, image, int(label), claim))
    return items


def _attack(job: _Job, held: Records, table: Sequence[str]) -> dict[str, Any]:
    """Attack the images that are not recorded yet; returns what this start of the command did."""
    left = [index for index in job.indices if index not in held.finished]
    start, done = time.monotonic(), 0
    minutes = job.settings["attack"]["minutes"]
    if held.finished and left:
        print(f"Resuming: {len(held.finished)} images are recorded already", file=sys.stderr)
    if not left:
        return {"images": 0, "seconds": 0.0}
    total, before = PHASES * len(job.indices), PHASES * len(held.finished)
    bar = progress_bar("Attacking", "step", total, before, show=True)
    writer = RecordWriter(held.path, table)
    names = job.of.family.parameters
    try:
        attacker = _attacker(
            job.of, job.smoothed, job.run, len(job.indices), job.effort, job.conditions, tick=bar.update
        )
        sizes = _sizes(job, left)
        for i in range(0, len(left), BLOCK):
            # One block at least, or what comes before the first could take all of the time, each time.
            if done and minutes is not None and time.monotonic() - start > 60 * minutes:
                break
            block = left[i : i + BLOCK]
            findings = attacker.run(_items(job, block, sizes))
            writer.append([row(finding, names) for finding in findings])
            done += len(block)
            bar.update(before + PHASES * done - bar.n)
            if _attacked(job, findings).refuted:
                break
    except Stopped as stop:
        stop.progress = f"after {len(held.finished) + done} of {len(job.indices)} images"
        raise
    finally:
        writer.close()
        bar.close()
    return {"images": done, "seconds": time.monotonic() - start}


def _sizes(job: _Job, indices: Sequence[int]) -> dict[int, float]:
    """The largest size of the region up to which each image is certified."""
    found, outcome = job.run, job.outcome
    if found is None or outcome is None or outcome.h_min is None or job.effort.reach == 0:
        return dict.fromkeys(indices, float("nan"))
    known = dict(zip(found.columns["index"].tolist(), found.p_lower.tolist(), strict=True))
    p_lower = [known[index] for index in indices]
    (method,) = job.settings["bound"]["methods"]
    example = job.images[0][0]
    sizes = certified_sizes(job.smoothed, job.of.region, method, p_lower, job.effort.reach, example)
    return dict(zip(indices, sizes, strict=True))


def _attacked(job: _Job, findings: Sequence[Finding]) -> Attacked:
    # One image that is named may have been chosen for what its votes were: all of the run's could have been.
    named = job.run is not None and job.settings["attack"]["index"] is not None
    return Attacked(
        job.of.family.parameters,
        tuple(findings),
        images=job.run.images if named and job.run is not None else len(job.indices),
        alpha=0.0 if job.run is None else job.run.alpha,
        bound=0.0 if job.outcome is None else job.outcome.failure_probability,
        delta=job.effort.delta,
        tested=job.run is not None,
        outside={condition.name: condition.title for condition in job.conditions},
    )


def _again(cfg: DictConfig, job: _Job, finding: Finding) -> str:
    """The line that repeats one finding."""
    typed = [
        word
        for word in HydraConfig.get().overrides.task
        if not word.lstrip("+~").startswith(("attack.index", "attack.at", "attack.images", "logger", "run="))
    ]
    if job.run is not None:
        typed = [f"run={job.run.path}", *typed]
    beta = ",".join(f"{name}:{value!r}" for name, value in zip(job.of.family.parameters, finding.beta, strict=True))
    words = [*typed, f"attack.index={finding.index}", f"attack.at={{{beta}}}"]
    return visible(" ".join(["glsmooth", "attack", *map(shlex.quote, words)]))


# What is told


def _described(job: _Job, attacked: Attacked) -> Attack:
    settings = job.settings
    (method,) = settings["bound"]["methods"]
    return Attack(
        attacked=attacked,
        transform=job.of.family.name,
        dataset=str(settings["dataset"]["name"]),
        region=job.of.region,
        method=method if job.run is not None else None,
        outcome=job.outcome,
        classes=job.of.classes,
        asked=len(job.indices),
        settings=[
            ("network", f"{job.of.source}, SHA-256 {job.of.checkpoint.sha256}"),
            ("certificates", str(job.run.path) if job.run is not None else f"none: {job.why_not}"),
            ("laws", ", ".join(f"{name} ~ {law!r}" for name, law in job.of.family.laws.items())),
            ("search", f"about {job.effort.passes} passes for each image, {job.effort.draws} draws at a parameter"),
            ("fresh votes", f"{job.effort.votes} at each of at most {job.effort.tries} candidates"),
            ("seed", str(settings["seed"])),
            ("precision", str(settings["precision"])),
            ("device", device_name(job.device)),
            ("torch", version("torch")),
        ],
        stops_early=job.run is not None and job.run.stops_early,
    )


def _summary(job: _Job, attack: Attack, invocation: Mapping[str, Any]) -> dict[str, Any]:
    settings = job.settings
    return {
        "command": "attack",
        **attack.numbers(),
        "region": job.of.region.to_config(),
        **{group: settings[group] for group in ("transform", "smoothing", "dataset", "model", "attack", "seed")},
        "method": attack.method,
        "run": None if job.run is None else str(job.run.path),
        "checkpoint": {"path": job.of.source, "sha256": job.of.checkpoint.sha256},
        "invocation": dict(invocation),
        "hardware": {"device": device_name(job.device)},
        "versions": {name: version(name) for name in ("glsmooth", "torch", "numpy", "scipy")}
        | {"python": platform.python_version()},
    }
