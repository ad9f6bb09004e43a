"""The advise command: which smoothing law for a region, from a few votes on a few validation images."""

from __future__ import annotations

from glsmooth.commands import plain_matplotlib  # noqa: F401 - before Lightning

# isort: split
import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import Tensor, nn

from glsmooth import transforms
from glsmooth.bounds import evaluate
from glsmooth.commands.certify import check_dataset, check_root, meant_precision, stored_dataset
from glsmooth.commands.estimate import duration
from glsmooth.commands.mains import advise as main
from glsmooth.configuration import groups
from glsmooth.configuration.build import build_family, build_law, build_region, law_config
from glsmooth.configuration.plain import plain
from glsmooth.configuration.settings import merge_checkpoint
from glsmooth.errors import UserError, visible
from glsmooth.family.candidates import candidates
from glsmooth.family.regions import Box, Region
from glsmooth.family.resolvability import check_family
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.certification import Options
from glsmooth.learning.checkpoint import Checkpoint, load_checkpoint
from glsmooth.learning.data import Data, load_dataset
from glsmooth.learning.models import check_takes, resolve_model
from glsmooth.learning.own_images import own_arguments
from glsmooth.learning.trainer import one_device, progress_bar, quieten_lightning
from glsmooth.report import wording
from glsmooth.report.advice import Advice, Trial, headline, notes, short_table, write_advice
from glsmooth.runs.files import write_config, write_text
from glsmooth.smoothing import check_image
from glsmooth.voting.engine import VoteEngine
from glsmooth.voting.expectation import Expectation, fewest_counts
from glsmooth.voting.procedures import FixedSample, build_procedure
from glsmooth.voting.speed import AUTO
from glsmooth.voting.tuning import choose_speed

__all__ = ["FIRST_INDEX", "main", "run", "validation_images"]

RESULT_FILE = "advise.json"

#: Draws of validation image i are those of this index and i. Certify's indices begin at 0, so that no random number on
#: which the choice of a law rests is drawn again for a certificate under that law: it would not be independent of it.
FIRST_INDEX = 2**63
#: Probability that one of all intervals does not cover.
_FAILURE = 0.05
#: Validation images on which a transformation of the user's own is tried.
_TRIED = 8


@dataclass(frozen=True)
class _Job:
    """What is to be tried, built and checked before the first vote."""

    settings: dict[str, Any]
    checkpoint: Checkpoint
    model: nn.Module
    data: Data
    family: SmoothedFamily
    region: Region
    plan: FixedSample
    options: Options
    device: torch.device


def run(cfg: DictConfig) -> None:
    """Try laws for a region; writes advise.json, table.md and report.html and prints the best ones."""
    quieten_lightning()
    job = _prepare(cfg)
    trials = _requirements(job)
    _check_reach(job, trials)
    within_reach = [trial for trial in trials if trial.needed is not None]
    images = validation_images(job.data, job.settings["trial"]["images"], job.settings["seed"])
    _check_transformation(job, [image for _, image, _ in images[:_TRIED]])
    if len(images) < job.settings["trial"]["images"]:
        print(f"{job.data.name} has {len(images)} validation images: all of them are used", file=sys.stderr)
    print(f"{len(trials)} laws, {len(within_reach)} of them within reach of the planned votes", file=sys.stderr)
    voted = iter(_vote(job, within_reach, images))
    trials = [trial if trial.needed is None else next(voted) for trial in trials]
    advice = _advice(cfg, job, trials, len(images))
    directory = Path(job.settings["run_dir"])
    write_config(directory, job.settings)
    write_text(directory / RESULT_FILE, json.dumps(advice.to_json(), indent=2) + "\n")
    page = write_advice(advice, directory)
    print(f"{headline(advice)}\n\n{short_table(advice)}")
    for sentence in notes(advice):
        print(f"* {sentence}")
    print(f"\nCertify this network under it:\n  {advice.certify}\n\nTrain under it first:\n  {advice.train}\n")
    print(f"Report: {page}")


def validation_images(data: Data, number: int, seed: int) -> list[tuple[int, Tensor, int]]:
    """At most ``number`` images of the validation split, chosen at random by ``seed``: (position, image, label)."""
    size = len(data.val)  # type: ignore[arg-type]
    chosen = np.random.default_rng(seed).choice(size, min(number, size), replace=False)
    items = ((position, data.val[position]) for position in sorted(chosen.tolist()))
    return [(position, item[0], int(item[1])) for position, item in items]


def _prepare(cfg: DictConfig) -> _Job:
    checkpoint = load_checkpoint(cfg.ckpt)
    stored = {part: getattr(checkpoint, part) for part in ("transform", "smoothing", "region", "dataset", "model")}
    stored["dataset"] = stored_dataset(checkpoint)
    settings = merge_checkpoint(cfg, stored)
    check_root(cfg, settings)
    _check_beginning(cfg, settings, checkpoint)
    _check_split(cfg, checkpoint)
    if settings["pixel_noise"] is None:
        settings["pixel_noise"] = checkpoint.loss["pixel_noise"]
    settings["precision"] = meant_precision(settings["precision"], checkpoint)
    data = load_dataset(settings["dataset"], in_memory=False)  # a few dozen of perhaps all of ImageNet
    check_dataset(data, checkpoint)
    family = build_family(settings["transform"], settings["smoothing"], data.image_size, settings["pixel_noise"])
    region = build_region(settings["region"], family.transform, family.threat)
    family.check_region(region)
    if family.warps:
        raise UserError(
            f"{family.name}: advise compares smoothing laws, and pixel noise alone covers this; nothing to advise"
        )
    plan = _plan(settings["monte_carlo"], family)
    options = Options.of(settings)
    model = checkpoint.build_model(cfg.model.get("_target_"))
    if list(data.image_size) != list(checkpoint.image_size):
        check_takes(model, settings["model"]["name"], data.channels, data.image_size)
    return _Job(settings, checkpoint, model, data, family, region, plan, options, one_device(settings, "advise"))


def _plan(monte_carlo: Mapping[str, Any], family: SmoothedFamily) -> FixedSample:
    """The votes that certify will take."""
    if monte_carlo["name"] in ("paper", "paper_literal") and not monte_carlo.get("randomised"):
        plan = build_procedure(monte_carlo, {}, family)
        assert isinstance(plan, FixedSample)
        return plan
    raise UserError(
        f"monte_carlo={monte_carlo['name']}{' with randomised=true' * bool(monte_carlo.get('randomised'))}: advise "
        "plans with a fixed number of votes and the plain bound; use monte_carlo=paper, and certify under the law with "
        "what you like"
    )


def _check_beginning(cfg: DictConfig, settings: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """The laws that are tried lie around those that the network was trained under."""
    if any(key != "_target_" for law in cfg.get("smoothing", {}).values() for key in law or ()):
        raise UserError("smoothing: advise varies the laws itself, around those of the checkpoint; leave it out")
    tried, trained = settings["transform"]["_target_"], checkpoint.transform["_target_"]
    if tried != trained:
        raise UserError(
            f"transform._target_={tried}: the network was trained for {trained}, and no law of that says where to "
            "begin; leave transform out"
        )


def _check_split(cfg: DictConfig, checkpoint: Checkpoint) -> None:
    """Refuse what would take other images for validation images: some of them might be test images."""
    for key in ("name", "val_fraction", "test_fraction", "split_seed"):
        typed, trained = cfg.dataset[key], checkpoint.dataset.get(key)
        if typed is not None and typed != trained:
            raise UserError(
                f"dataset.{key}={typed}: the network was trained with {trained}, and another split could take test "
                "images for validation images; leave it out"
            )
    for key in ("split", "skip", "every"):
        if cfg.dataset[key] is not None:
            raise UserError(
                f"dataset.{key}={cfg.dataset[key]} chooses images to certify; advise takes validation "
                "images, as many as trial.images says; leave it out"
            )
    if cfg.dataset.subset is not None:
        raise UserError(
            f"dataset.subset={cfg.dataset.subset} chooses test images, which advise never sees; set "
            f"trial.images={cfg.dataset.subset} for validation images"
        )


def _check_transformation(job: _Job, images: Sequence[Tensor]) -> None:
    """Try a user's transformation, as certify does; there is no law to advise for one that fails."""
    check = check_family(job.family, job.region, images)
    if check is None:
        return
    check.require(approximate=True)
    if not check.passed:
        raise UserError(
            f"{check.name} is not resolvable as it says: {check.worst} fails with a residual of {check.residual:.2g}; "
            "mend apply, resolve or factors (glsmooth.check_transform shows every identity): until then no law "
            "certifies anything"
        )


def _requirements(job: _Job) -> list[Trial]:
    """What the region requires under every candidate, and how many of the planned votes that is."""
    found = candidates(job.family, job.region, job.settings["trial"]["scales"])
    trials = []
    with progress_bar("Required probabilities", "law", len(found), 0, show=True) as bar:
        for candidate in found:
            # Every other sound method is at or above this one.
            outcome = evaluate(candidate.family, job.region)["neyman_pearson"]
            reachable = outcome.sound and outcome.h_min is not None and outcome.h_min < 1
            needed = fewest_counts(job.plan, outcome.h_min) if reachable and outcome.h_min is not None else None
            trials.append(Trial(candidate, outcome, needed))
            bar.update()
    return trials


def _check_reach(job: _Job, trials: Sequence[Trial]) -> None:
    """Refuse a region that no candidate reaches."""
    if any(trial.needed is not None for trial in trials):
        return
    where = f"region: {wording.region(job.region)}"
    sound = [trial for trial in trials if trial.outcome.sound and trial.outcome.h_min is not None]
    if not sound:
        raise UserError(f"{where} has no proof under any law: {trials[0].outcome.argument}; leave advise out")
    least = min(trial.h_min for trial in sound)
    if least >= 1:
        raise UserError(f"{where} is out of reach of all {len(trials)} laws that were tried; make it smaller")
    raise UserError(
        f"{where} requires {wording.ceil(least, 4)} even under the best of {len(trials)} laws, and monte_carlo.n="
        f"{job.plan.n} equal votes cannot show that; set monte_carlo.n={job.plan.draws_needed(least)} or more, or "
        "make it smaller"
    )


def _expectation(job: _Job, trial: Trial) -> Expectation:
    assert trial.needed is not None
    return Expectation(trial.needed, job.plan.n0, job.plan.n, job.settings["trial"]["votes"])


def _vote(job: _Job, trials: Sequence[Trial], images: Sequence[tuple[int, Tensor, int]]) -> list[Trial]:
    """The trials with the votes of every image under every law, and what these let expect."""
    for position, image, label in images:
        check_image(image, f"validation image {position}")
        if not 0 <= label < len(job.checkpoint.classes):
            raise UserError(
                f"validation image {position}: its label {label} is outside the model's {len(job.checkpoint.classes)} "
                "classes; give the dataset that the model was trained for"
            )
    votes = job.settings["trial"]["votes"]
    # All draws come from one law: the one that "selects" counts as the others do.
    procedure = replace(job.plan, n0=1, n=votes - 1)
    classifier = job.options.classifier(job.model, len(job.checkpoint.classes), job.device)
    speed = job.options.speed
    chosen = choose_speed(
        speed,
        classifier,
        trials[0].candidate.family,
        procedure,
        images[0][1],
        len(images),
        index=FIRST_INDEX + images[0][0],
        measure=True,
        show=True,
    )
    passes = len(trials) * len(images) * votes
    assert chosen.rate is not None
    print(
        f"{len(images)} validation images, {votes} votes of each under {len(trials)} laws: {passes:,} network passes, "
        f"about {duration(passes / chosen.rate)}",
        file=sys.stderr,
    )

    batch_size = int(chosen.speed.batch_size)

    def smaller(size: int) -> None:
        nonlocal batch_size
        print(f"Out of memory: batches of {size} from here on", file=sys.stderr)
        batch_size = size

    labels = {FIRST_INDEX + position: label for position, _, label in images}
    shown = [(FIRST_INDEX + position, image) for position, image, _ in images]
    voted = []
    bar = progress_bar("Voting", "vote", passes, 0, show=True)
    try:
        for trial in trials:
            engine = VoteEngine(
                classifier,
                trial.candidate.family,
                procedure,
                seed=job.options.seed,
                batch_size=batch_size,
                images=len(images),
                on_smaller=smaller if speed.batch_size == AUTO else None,
            )
            counts, right = {}, 0
            for tally in engine.run(shown):
                of_class = tally.selection + tally.counting
                label = labels[tally.index]
                counts[tally.index] = int(of_class[label])
                right += bool(of_class.any()) and int(of_class.argmax()) == label
                bar.update(votes)
            expectation = _expectation(job, trial)
            in_order = [counts[index] for index in labels]
            low, high = expectation.interval(np.array(in_order), _FAILURE / len(trials))
            voted.append(
                replace(
                    trial,
                    counts=in_order,
                    accuracy=right / len(images),
                    estimate=expectation.estimate(np.array(in_order)),
                    low=low,
                    high=high,
                )
            )
    finally:
        bar.close()
    return voted


def _advice(cfg: DictConfig, job: _Job, trials: Sequence[Trial], images: int) -> Advice:
    settings = job.settings
    # Of equal ones the network's own, then the one that requires least.
    best = max(trials, key=lambda trial: (round(trial.estimate, 3), trial.candidate.own, -trial.h_min))
    described = job.plan.describe()
    return Advice(
        transform=job.family.name,
        dataset=job.data.name,
        region=job.region,
        trials=trials,
        best=best,
        images=images,
        votes=settings["trial"]["votes"],
        monte_carlo=described,
        most=job.plan.bound_range(job.plan.n, job.plan.n)[0],
        gain=_gain(job, trials, best),
        failure=_FAILURE,
        certify=_line("certify", _certifying(cfg, job, best.candidate.family)),
        train=_line("train", _training(job, best.candidate.family)),
        settings=[
            ("checkpoint", f"{settings['ckpt']}, SHA-256 {job.checkpoint.sha256}"),
            ("images", f"{images} of the validation split, chosen by seed {settings['seed']}"),
            ("votes", f"{settings['trial']['votes']} of each under each law"),
            ("planned votes", f"{described['name']}: n0 = {described['n0']}, n = {described['n']}"),
            ("precision", settings["precision"]),
            ("pixel noise", wording.number(job.family.pixel_noise)),
        ],
    )


def _gain(job: _Job, trials: Sequence[Trial], best: Trial) -> float | None:
    """What the best law gains over the network's own at least, though it was chosen for that."""
    own = next(trial for trial in trials if trial.candidate.own)
    if own is best:
        return None
    if own.counts is None or best.counts is None:
        return best.low  # a CRA of 0 is certain there
    voted = sum(trial.counts is not None for trial in trials)
    counts, others = np.array(best.counts), np.array(own.counts)
    return _expectation(job, best).gain(_expectation(job, own), counts, others, _FAILURE / (voted - 1))


# The lines to type


def _certifying(cfg: DictConfig, job: _Job, family: SmoothedFamily) -> list[str]:
    """What was typed, as far as certify takes it, and the laws."""
    typed = [
        override
        for override in HydraConfig.get().overrides.task
        if not override.lstrip("+~").startswith(("trial.", "trainer."))
    ]
    known = groups.member("smoothing", "from_checkpoint")
    laws = []
    for name, law in family.laws.items():
        before = build_law(job.settings["smoothing"][name], f"smoothing.{name}")
        key = f"{'' if name in known else '+'}smoothing.{name}"
        if type(law) is type(before):
            changed = {field: value for field, value in law.values.items() if before.values[field] != value}
            laws += [_override(f"{key}.{field}", value) for field, value in changed.items()]
        else:
            laws.append(_override(key, law_config(law)))
    return [*typed, *laws]


def _training(job: _Job, family: SmoothedFamily) -> list[str]:
    """The training of the checkpoint with other laws, and the region: what differs from what train would take."""
    settings, checkpoint = job.settings, job.checkpoint
    cls = type(family.transform)
    builtin = next((name for name, known in transforms.BUILTIN.items() if known is cls), None)
    transform, dataset = builtin or "custom", settings["dataset"]["name"]
    words = [f"transform={transform}", f"dataset={dataset}"]
    if builtin is None:
        words.append(f"transform._target_={settings['transform']['_target_']}")
    if settings["dataset"].get("_target_") is not None:
        words.append(f"dataset._target_={settings['dataset']['_target_']}")
    usual = groups.command("train", words)
    stored = {
        "transform": settings["transform"],
        "dataset": {
            key: settings["dataset"].get(key)
            for key in {**usual.dataset, **own_arguments(settings["dataset"])}
            if key not in _NOT_OF_TRAINING
        },
        "model": checkpoint.model,
        "loss": {**checkpoint.loss, "pixel_noise": family.pixel_noise},
        "optimizer": checkpoint.optimizer,
    }
    for group, fields in stored.items():
        base = plain(usual[group])
        if group == "model":
            base = {**base, **resolve_model(base, dataset)}
        for key, value in fields.items():
            if value != base.get(key):
                words.append(_override(f"{'' if key in usual[group] else '+'}{group}.{key}", value))
    laws, region = plain(usual.smoothing), plain(usual.region)
    for name, law in family.laws.items():
        if name not in laws:
            words.append(_override(f"+smoothing.{name}", law_config(law)))
        elif _said(laws[name]) != law_config(law):
            blank = {field: None for field in laws[name] if field not in ("law", *law.fields)}
            words.append(_override(f"smoothing.{name}", {**law_config(law), **blank}))
    wanted = job.region.to_config()
    # A ball or points replace the usual intervals; of a box each counts.
    for name in dict.fromkeys([*region, *wanted] if isinstance(job.region, Box) else wanted):
        if wanted.get(name) != region.get(name):
            words.append(_override(f"{'' if name in region else '+'}region.{name}", wanted.get(name)))
    if checkpoint.seed != usual.seed:
        words.append(_override("seed", checkpoint.seed))
    return words


#: Fields of a data set that choose test images or serve this machine.
_NOT_OF_TRAINING = ("name", "subset", "subset_seed", "split", "skip", "every", "download", "num_workers")


def _said(law: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in law.items() if value is not None}


def _override(key: str, value: Any) -> str:
    return f"{key}={_literal(value)}"


def _literal(value: Any) -> str:
    """A plain value as Hydra reads it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_literal(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_literal, value))}]"
    if isinstance(value, str):
        if re.fullmatch(r"[A-Za-z_/.][\w/.-]*", value) and value.lower() not in ("null", "true", "false"):
            return value
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _line(command: str, words: Iterable[str]) -> str:
    # A checkpoint of unknown origin may name what is quoted here, and somebody will paste it.
    return visible(" ".join(["glsmooth", command, *map(shlex.quote, words)]))
