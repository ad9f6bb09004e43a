"""The sweep command: trains what is missing, certifies each checkpoint, and reports all of them together.

It starts train and certify as a user would, here or as jobs of a cluster, and waits. What each of them does about
interruptions and finished runs is theirs: the same sweep again starts only what has no result.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from glsmooth.commands.entry import (
    ending,
    environment,
    quoted,
    show_any_character,
    site_first,
    task_of,
    what_to_type,
)
from glsmooth.commands.jobs import behind, failures, table_of_failures, wait_for
from glsmooth.configuration.folder import conf_dir
from glsmooth.errors import UserError, near_field
from glsmooth.learning.stopping import stoppable
from glsmooth.runs.files import check_writable, read_json, write_text

__all__ = ["main"]

HELP = """\
Train, certify and report in one line: every combination of the values that are typed, and one report of all.

Usage: glsmooth sweep [group=choice,...] [key=value,...] ['region.NAME=[low,high],[low,high]']

Fields
  Those of train and of certify; commas make lists. What train has (transform, smoothing, dataset, model, loss,
  optimizer, trainer, experiment, seed) is trained for each combination, what certify has (monte_carlo, bound,
  dataset.subset, precision, ...) is certified for each. trainer.accelerator, trainer.devices, logger, limits, cluster
  and hydra.launcher go to both; train.KEY=VALUE and certify.KEY=VALUE to one of them: certify.seed=1.
  region        each checkpoint is certified in all regions by one set of votes; by default in that of its training

Settings
  jobs          processes at once on this machine (1)
  shards        jobs that share the images of each certification (1)
  dry_run       true: print what would be done, and stop
  hydra.run.dir where the report goes; by default outputs/sweep/<id>. Trained networks and certifications lie in
                outputs/train and outputs/certify, where train and certify write them, too: the same sweep again, or a
                larger one, does only what is missing
  cluster       settings of your site, from --config-dir; or hydra/launcher=slurm: trainings become jobs, and each
                certification a job that begins when its training has ended well (afterok)

Examples
  glsmooth sweep experiment=demo smoothing.brightness.scale=0.3,0.6 seed=0,1,2
  glsmooth sweep transform=brightness smoothing.brightness.scale=0.1,0.2,0.4 'region.brightness=[-0.1,0.1],[-0.2,0.2]'
  glsmooth sweep --config-dir ~/site cluster=mysite experiment=imagenet seed=0,1,2 shards=8 dataset.subset=500
"""

#: First parts of the keys that train alone has, certify alone, and both.
_TRAIN = ("transform", "smoothing", "dataset", "model", "loss", "optimizer", "trainer", "experiment", "seed")
_CERTIFY = (
    *("region", "monte_carlo", "bound", "precision", "batch_size", "channels_last", "compile", "threads"),
    *("pixel_noise", "stochastic", "dataset.subset", "dataset.subset_seed"),
)
_BOTH = ("logger", "limits", "cluster", "approximate", "trainer.accelerator", "trainer.devices", "hydra")
#: Settings of the sweep itself, with their defaults.
_OWN: dict[str, Any] = {"jobs": 1, "shards": 1, "dry_run": False}
#: Keys that decide neither what is trained nor what is certified, and so not the name of the sweep's folder.
_NO_MATTER = ("jobs", "dry_run", "logger", "cluster", "hydra", "limits", "trainer.accelerator", "trainer.devices")

#: Why a certification did not begin.
_UNTRAINED = "its training has no result"
#: Why a job that has ended well counts as failed.
_NOTHING = "it ended without a result; leave out what makes it a trial (fast_dev_run, dry_run)"


@dataclass
class Step:
    """One run of train or of certify.

    Attributes:
        command: ``train`` or ``certify``.
        overrides: what is typed for it.
        name: what tells it from the others.
        after: the training whose checkpoint it certifies.
        directory: of the run, once it is known.
        state: ``waiting``, ``finished``, ``failed`` or ``killed``.
        group: of its run at W&B; "" where one is typed.
    """

    command: str
    overrides: list[str]
    name: str
    after: Step | None = None
    directory: Path | None = None
    state: str = "waiting"
    group: str = ""

    @property
    def arguments(self) -> list[str]:
        """What its command is started with."""
        return [*self.overrides, f"logger.group={self.group}"] if self.group else self.overrides

    def locate(self) -> bool:
        """Find the run's directory, where its name can be known: that of certify follows from the checkpoint.

        Returns:
            Whether a result is there.
        """
        if self.after is not None:
            assert self.after.directory is not None
            checkpoint = self.after.directory / "best.ckpt"
            if not (checkpoint.is_file() and (self.after.directory / "summary.json").is_file()):
                return False
        self.directory = Path(_compose(self.command, self.overrides, lambda cfg: str(cfg.hydra.run.dir)))
        results = ("summary.json", "best.ckpt" if self.command == "train" else "records.csv")
        if all((self.directory / name).is_file() for name in results):
            self.state = "finished"
        return self.state == "finished"


@dataclass
class Plan:
    """What a sweep does: its steps, the regions that votes decide, and its settings."""

    steps: list[Step]
    regions: list[dict[str, Any]]
    folder: Path
    settings: dict[str, Any]
    transform_target: str | None
    launcher: str

    @property
    def certifications(self) -> list[Step]:
        return [step for step in self.steps if step.command == "certify"]


def main() -> None:
    """Run the sweep that ``sys.argv`` describes."""
    show_any_character()
    arguments = sys.argv[1:]
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(HELP, end="")
        return
    with ending("sweep"), environment(), site_first(), stoppable("; the same command goes on from here"):
        run(plan_of(arguments))


def plan_of(arguments: Sequence[str]) -> Plan:
    """Read the command line.

    Raises:
        UserError: a field that neither command has, a value that is none; nothing has begun then.
    """
    typed = _overrides(arguments)
    settings = dict(_OWN)
    stages: dict[str, list[Override]] = {"train": [], "certify": []}
    folder: Path | None = None
    for override in typed:
        key = override.get_key_element().lstrip("+~")
        if key == "hydra.run.dir":
            folder = _folder(override)
        elif key.startswith("hydra.sweep."):
            raise UserError(
                f"{override.input_line}: runs lie where train and certify write them; leave it out (hydra.run.dir is "
                "where the report goes)"
            )
        elif key in _OWN:
            settings[key] = _setting(key, override)
        elif key.startswith(("train.", "certify.")):
            command, _, rest = str(override.input_line).lstrip("+~").partition(".")
            prefix = str(override.input_line)[: -len(f"{command}.{rest}")]
            stages[command] += _parse([prefix + rest])
        else:
            for command in _commands(key, str(override.input_line)):
                stages[command].append(override)
    _own_transform(typed, stages)
    regions = [one for one in stages["certify"] if one.get_key_element().lstrip("+").startswith("region.")]
    others = [one for one in stages["certify"] if one not in regions]
    boxes = [_region(overrides) for overrides in _product(regions)] if regions else []
    first = _product(regions)[0] if regions else []
    own = any(one.get_key_element() == "transform._target_" for one in stages["train"])
    if own and not any(one.get_key_element().lstrip("+").startswith("region.") for one in stages["train"]):
        stages["train"] += _parse(first)  # train asks for one, and of a transformation of the user's own has none
    shards = range(settings["shards"]) if settings["shards"] > 1 else (None,)
    steps: list[Step] = []
    trainings, certifications = _product(stages["train"]), _without_repeats(_product(others))
    directories: set[Path] = set()
    for overrides in trainings:
        train = Step("train", overrides, _different(overrides, trainings))
        train.locate()
        assert train.directory is not None
        if train.directory in directories:
            continue  # the same in other words: 0.1 and 1e-1
        directories.add(train.directory)
        steps.append(train)
        for more in certifications:
            for shard in shards:
                part = [] if shard is None else [f"shard={shard}/{settings['shards']}"]
                checkpoint = [f"ckpt={_quote(str(train.directory / 'best.ckpt'))}"]
                name = " ".join(filter(None, (train.name, _different(more, certifications), *part)))
                steps.append(Step("certify", [*checkpoint, *more, *first, *part], name, after=train))
    _check(steps, boxes)
    _check_regions(steps, _product(regions) if regions else [])
    for step in steps:
        if step.command == "certify":
            step.locate()
    words = sorted(str(one.input_line) for one in typed if not one.get_key_element().startswith(_NO_MATTER))
    name = hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
    folder = Path("outputs/sweep", name) if folder is None else folder
    if not any(one.get_key_element() == "logger.group" for one in typed):
        for step in steps:
            step.group = f"sweep-{name}"
    target = next((one.value() for one in typed if one.get_key_element() == "transform._target_"), None)
    launcher = str(_compose("train", steps[0].overrides, lambda cfg: cfg.hydra.launcher._target_))
    if not launcher.endswith((".BasicLauncher", ".glsmooth_launcher.SlurmLauncher")):
        raise UserError(
            f"hydra/launcher: sweep starts no jobs by {launcher}; set hydra/launcher=slurm, or leave it out and set "
            "for example jobs=2"
        )
    return Plan(steps, boxes, folder, settings, None if target is None else str(target), launcher)


def run(plan: Plan) -> None:
    """Do what is missing, then report.

    Raises:
        UserError: a job failed; the others were done and reported before.
    """
    missing = [step for step in plan.steps if step.state != "finished"]
    _announce(plan)
    if plan.settings["dry_run"]:
        for step in plan.steps:
            print(f"{'done' if step.state == 'finished' else 'to do'}: {step.command} {shlex.join(step.overrides)}")
        return
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"hydra.run.dir={plan.folder}: cannot be made ({error.strerror}); choose another hydra.run.dir"
        ) from error
    check_writable(plan.folder)
    if missing:
        if plan.launcher.endswith(".BasicLauncher"):
            _run_here(plan, missing)
        else:
            _run_on_cluster(plan, missing)
    _report(plan)
    sys.stderr.write(table_of_failures())
    if failures:
        raise UserError(failures[0].reason)


def _announce(plan: Plan) -> None:
    for command, what in (("train", "trainings"), ("certify", "certifications")):
        every = [step for step in plan.steps if step.command == command]
        done = sum(step.state == "finished" for step in every)
        print(f"{len(every)} {what}, {done} of them done before", file=sys.stderr)
    if len(plan.regions) > 1:
        print(f"{len(plan.regions)} regions, decided by the same votes", file=sys.stderr)


# ---- Reading what is typed


def _overrides(arguments: Sequence[str]) -> list[Override]:
    words, skip = [], False
    for argument in arguments:
        if skip:
            _check_site(argument)
            skip = False
        elif argument in ("--config-dir", "-cd"):
            skip = True  # site_first reads it
        elif argument.startswith("--config-dir="):
            _check_site(argument.removeprefix("--config-dir="))
        elif argument.startswith("-"):
            raise UserError(f"{argument}: sweep takes no such option (glsmooth sweep --help)")
        else:
            words.append(quoted(argument))
    return _parse(words)


def _check_site(folder: str) -> None:
    if not Path(folder).is_dir():
        raise UserError(f"--config-dir={folder} is not a directory; name one that exists")


def _parse(words: Sequence[str]) -> list[Override]:
    parsed: list[Override] = []
    for word in words:
        try:
            parsed += OverridesParser.create().parse_overrides([word])
        except HydraException as error:
            raise UserError(what_to_type(error, "train")) from None
    return parsed


def _commands(key: str, typed: str) -> list[str]:
    """The commands that a field is for."""

    def within(keys: Sequence[str]) -> bool:
        return any(key == one or key.startswith((f"{one}.", f"{one}/")) for one in keys)

    if within(_BOTH):
        return ["train", "certify"]
    if within(_CERTIFY):
        return ["certify"]
    if within(_TRAIN):
        return ["train"]
    known = [one.partition(".")[0] for one in (*_TRAIN, *_CERTIFY, *_BOTH, *_OWN)]
    hint = near_field(key.partition(".")[0], known)
    raise UserError(f"{typed} is a field of neither train nor certify{hint} (glsmooth sweep --help)")


def _own_transform(typed: Sequence[Override], stages: dict[str, list[Override]]) -> None:
    """A transformation of the user's own is named to certify, too: a file alone is not trusted with an import."""
    for override in typed:
        key = override.get_key_element().lstrip("+~")
        if key == "transform._target_" or (key == "transform" and override.value() == "custom"):
            stages["certify"].append(override)


def _setting(key: str, override: Override) -> Any:
    value: Any = override.value()
    default = _OWN[key]
    if override.is_sweep_override() or type(value) is not type(default) or (not isinstance(value, bool) and value < 1):
        wanted = "true or false" if isinstance(default, bool) else "a whole number, at least 1"
        raise UserError(f"{override.input_line} must be {wanted}; set for example {key}={str(default).lower()}")
    return value


def _folder(override: Override) -> Path:
    value = override.value()
    if override.is_sweep_override() or value in (None, "") or "${" in str(value):
        raise UserError(f"{override.input_line} must be one folder; set for example hydra.run.dir=outputs/sweep/first")
    return Path(str(value))


def _product(overrides: Sequence[Override]) -> list[list[str]]:
    """The combinations of all values, as overrides."""
    combinations: list[list[str]] = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)[0]
    return combinations


def _without_repeats(combinations: Sequence[list[str]]) -> list[list[str]]:
    return [one for number, one in enumerate(combinations) if one not in combinations[:number]]


def _region(overrides: Sequence[str]) -> dict[str, Any]:
    return {
        one.get_key_element().lstrip("+").removeprefix("region."): one.value()
        for one in OverridesParser.create().parse_overrides(list(overrides))
    }


def _different(overrides: Sequence[str], every: Sequence[Sequence[str]]) -> str:
    """What tells one combination from the others."""
    return " ".join(one for one in overrides if any(one not in other for other in every))


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _check(steps: Sequence[Step], regions: Sequence[Mapping[str, Any]]) -> None:
    """Refuse mistakes in any step before the first begins."""
    from glsmooth.configuration.fields import check_fields
    from glsmooth.configuration.plain import plain
    from glsmooth.runs.shards import parse

    seen: set[tuple[str, ...]] = set()
    for step in steps:
        key = tuple(one for one in step.overrides if not one.startswith("ckpt="))
        if step.command == "train" or key in seen:
            continue  # the directory of a training was named, and for that it was validated
        seen.add(key)

        def check(cfg: DictConfig) -> None:
            names = [str(name) for name in cfg if name not in ("hydra", "run_dir")]
            settings = plain(OmegaConf.masked_copy(cfg, names))
            check_fields(settings)
            parse(settings["shard"])
            procedure = settings["monte_carlo"]["name"]
            if len(regions) > 1 and procedure in ("sequential", "exhaustive"):
                raise UserError(
                    f"monte_carlo={procedure}: stops when one region is decided, and {len(regions)} are asked for; "
                    "give one region, or monte_carlo=paper, whose votes decide all"
                )

        _compose("certify", step.overrides, check)


def _check_regions(steps: Sequence[Step], regions: Sequence[Sequence[str]]) -> None:
    """Refuse a region that no votes could decide: all but the first come up when every job has ended.

    Raises:
        UserError: an interval that is none, or a parameter that the transformation of a training lacks.
    """
    for region in regions:
        for name, interval in _region(region).items():
            if interval is None:
                raise UserError(f"region.{name}=null is no region; give [low,high], or leave region out")
        certify = next(step for step in steps if step.command == "certify")
        others = [one for one in certify.overrides if not one.lstrip("+").startswith("region.")]
        _check([Step("certify", [*others, *region], "")], [])
        if all(one.startswith("region.") for one in region):  # with + it is of a transformation of the user's own
            for step in steps if region is regions[0] else ():
                if step.command == "train":
                    _compose("train", [*step.overrides, *region], lambda cfg: str(cfg.hydra.run.dir))


def _compose(command: str, overrides: Sequence[str], read: Callable[[DictConfig], Any]) -> Any:
    """What ``read`` finds in a composed configuration, Hydra's own part included.

    Raises:
        UserError: it does not compose, or is not valid.
    """
    with _composer():
        try:
            return read(hydra.compose(command, list(overrides), return_hydra_config=True))
        except HydraException as error:
            raise UserError(f"{error}\n{what_to_type(error, command)}") from None
        except OmegaConfBaseException as error:
            mistake = behind(error)
            if mistake is None:
                raise
            raise mistake from None


@contextmanager
def _composer() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


# ---- Doing it


def _run_here(plan: Plan, missing: Sequence[Step]) -> None:
    """Processes of this machine, ``jobs`` at once; each writes what it says to a file of its own."""
    slots = list(range(plan.settings["jobs"]))
    running: dict[subprocess.Popen[bytes], tuple[Step, Path, int]] = {}
    waiting = list(missing)
    site = _site()
    bar = tqdm(total=len(missing), desc="Jobs", unit="job", mininterval=0.5 if sys.stderr.isatty() else 10)
    try:
        while waiting or running:
            for step in list(waiting):
                if step.after is not None and step.after.state in ("failed", "killed"):
                    waiting.remove(step)
                    _fail(plan, step, "failed", _UNTRAINED, None)
                    bar.update()
                elif slots and (step.after is None or step.after.state == "finished"):
                    waiting.remove(step)
                    log = plan.folder / "logs" / f"{plan.steps.index(step):03d}-{step.command}.log"
                    slot = slots.pop(0)
                    running[_start(step, log, slot, plan.settings["jobs"], site)] = step, log, slot
                    bar.set_postfix_str(f"{step.command} {step.name}"[:60])
            for process in [one for one in running if one.poll() is not None]:
                step, log, slot = running.pop(process)
                slots.append(slot)
                slots.sort()
                if process.returncode != 0:
                    _fail(plan, step, *_why(process.returncode, log), log)
                elif not step.locate():
                    _fail(plan, step, "failed", _NOTHING, log)
                bar.update()
            time.sleep(0.1)
    finally:
        bar.close()
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(3.5)
            except subprocess.TimeoutExpired:
                process.kill()


def _start(step: Step, log: Path, slot: int, jobs: int, site: Sequence[str]) -> subprocess.Popen[bytes]:
    variables = dict(os.environ)
    if jobs > 1:
        # Together they have this machine's processors, and each a GPU of its own as far as there are some.
        variables.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
        gpus = _gpus()
        if len(gpus) > 1:
            variables["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)  # a process of a sweep that was killed may still write to it
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", f"glsmooth.{step.command}", *site, *step.arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=variables,
        )


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [one for one in visible.split(",") if one]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _why(status: int, log: Path) -> tuple[str, str]:
    """State and reason of a process that ended with a status other than 0."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if status < 0 or status > 128:
        return (
            "killed",
            f"ended by signal {status - 128 if status > 0 else -status}; the same command goes on from here",
        )
    return "failed", lines[-1] if lines else f"status {status}"


def _fail(plan: Plan, step: Step, state: str, reason: str, log: Path | None) -> None:
    from glsmooth.runs.failures import Failure

    step.state = state
    where = "" if log is None else os.path.relpath(log, plan.folder)
    failures.append(Failure(_name(step), state, reason, where))


def _name(step: Step) -> str:
    return f"{step.command} {step.name}".strip()


def _run_on_cluster(plan: Plan, missing: Sequence[Step]) -> None:
    """Jobs of the launcher that is chosen: trainings, and certifications that begin after theirs has ended well.

    Those that an earlier start of the same sweep submitted, and that have not ended, are waited for.
    """
    file = plan.folder / "jobs.json"
    known = dict(read_json(file, "remove it")) if file.is_file() else {}
    jobs: dict[int, Any] = {}
    for number, step in enumerate(missing):
        if (job := _submitted_before(plan, step, known)) is not None:
            jobs[number] = job

    def submit(numbers: Sequence[int], **parameters: str) -> None:
        steps = [missing[number] for number in numbers]
        launcher = _launcher(plan, steps[0])
        for number, job in zip(
            numbers, launcher.submit([s.arguments for s in steps], numbers[0], **parameters), strict=True
        ):
            jobs[number] = job
            known[_key(missing[number])] = str(job.job_id)
        write_text(file, json.dumps(known, indent=2) + "\n")

    new = [number for number in range(len(missing)) if number not in jobs]
    trainings = [number for number in new if missing[number].command == "train"]
    ready = [n for n in new if (before := missing[n].after) is not None and before.state == "finished"]
    for numbers in (trainings, ready):
        if numbers:
            submit(numbers)
    for number in new:
        before = missing[number].after
        if before is not None and number not in ready:
            training = jobs[next(n for n, step in enumerate(missing) if step is before)]
            submit([number], **{"dependency": f"afterok:{training.job_id}", "kill-on-invalid-dep": "yes"})
    waited = [jobs[number] for number in range(len(missing))]
    arrays = sorted({str(job.job_id).partition("_")[0] for job in waited}, key=int)
    print(f"Slurm jobs: {', '.join(arrays)}", file=sys.stderr)
    wait_for(waited, [[_name(step)] for step in missing], plan.folder)
    without = {failure.job: failure for failure in failures}
    for step in missing:
        failure = without.get(_name(step))
        step.state = "finished" if failure is None and step.locate() else "failed"
        if failure is None and step.state == "failed":
            _fail(plan, step, "failed", _NOTHING, None)
        if step.after is not None and step.after.state == "failed":  # Slurm has removed it
            failures[:] = [one for one in failures if one.job != _name(step)]
            _fail(plan, step, "failed", _UNTRAINED, None)


def _submitted_before(plan: Plan, step: Step, known: Mapping[str, str]) -> Any:
    """The job of a step that an earlier start submitted, unless it has ended."""
    number = str(known.get(_key(step)))
    if re.fullmatch(r"\d+(_\d+)?", number) is None or not _waits_or_runs(number, plan.folder / ".submitit"):
        return None
    import submitit

    tasks = _compose(step.command, step.overrides, lambda cfg: int(cfg.hydra.launcher.tasks_per_node))
    return submitit.SlurmJob(plan.folder / ".submitit" / "%j", number, tasks=list(range(tasks)))


#: States of a job of Slurm that has not ended.
_ALIVE = (
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"),
    *("REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"),
)


def _waits_or_runs(number: str, logs: Path) -> bool:
    """Does Slurm still have this job, and is it the one that logs here? Numbers are given again.

    Accounting is not asked: what it has forgotten would look like a job that it does not know yet.
    """
    asked = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        if "Invalid job id" in asked.stderr:
            return False
        raise UserError(
            f"scontrol does not say whether job {number} runs ({asked.stderr.strip()}); run the same sweep again when "
            "Slurm answers"
        )
    fields = dict(line.strip().partition("=")[::2] for line in asked.stdout.splitlines())
    state = str(fields.get("JobState")).partition(" ")[0]
    ours = str(logs.absolute() / number.partition("_")[0])
    return state in _ALIVE and fields.get("StdOut", "").startswith((f"{ours}_", f"{ours}/"))


def _key(step: Step) -> str:
    return shlex.join([step.command, *step.overrides])


def _launcher(plan: Plan, step: Step) -> Any:
    """The launcher of a step, whose jobs log into the sweep's folder."""
    logs = f"hydra.launcher.submitit_folder={_quote(str(plan.folder / '.submitit' / '%j'))}"
    with _composer():
        loader = GlobalHydra.instance().hydra
        assert loader is not None
        config = loader.compose_config(
            config_name=step.command,
            overrides=[*step.overrides, logs, "hydra.mode=MULTIRUN"],
            run_mode=RunMode.MULTIRUN,
            from_shell=False,
        )
        HydraConfig.instance().set_config(config)
        return Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=loader.config_loader, callbacks=Callbacks()),
            task_function=task_of(step.command),
            config=config,
        )


def _site() -> list[str]:
    for before, argument in zip(sys.argv, sys.argv[1:], strict=False):
        if before in ("--config-dir", "-cd"):
            return ["--config-dir", argument]
    return [argument for argument in sys.argv if argument.startswith("--config-dir=")][:1]


def _report(plan: Plan) -> None:
    """sweep.json, and the report of what has a result."""
    from glsmooth.commands.report import report_sweep
    from glsmooth.runs.sweep import Sweep

    finished = [step for step in plan.certifications if step.state == "finished"]
    found = list(dict.fromkeys(step.directory for step in finished if step.directory is not None))
    sweep = Sweep(found, plan.regions, list(failures))
    sweep.write(plan.folder)
    if found:
        print(report_sweep(sweep, plan.folder, plan.transform_target), end="")
        print(f"\nReport: {plan.folder / 'report.html'}")
