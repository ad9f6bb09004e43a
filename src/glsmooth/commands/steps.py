"""How the steps of a sweep are done: as processes of this machine, or as jobs of a cluster."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode

from glsmooth.commands.entry import literal, task_of
from glsmooth.commands.jobs import bar_of, failures, wait_for
from glsmooth.commands.plan import Plan, Step, compose, composer
from glsmooth.errors import UserError
from glsmooth.runs.files import read_json, write_text

__all__ = ["fail", "run_here", "run_on_cluster"]

#: Why a certification did not begin.
_UNTRAINED = "its training has no result"
#: Why a job that has ended well counts as failed.
_NOTHING = "it ended without a result; leave out what makes it a trial (fast_dev_run, dry_run)"


def run_here(plan: Plan, missing: Sequence[Step]) -> None:
    """Processes of this machine, ``jobs`` at once; each writes what it says to a file of its own."""
    slots = list(range(plan.settings["jobs"]))
    running: dict[subprocess.Popen[bytes], tuple[Step, Path, int]] = {}
    waiting = list(missing)
    site = _site()
    bar = bar_of(len(missing))
    try:
        while waiting or running:
            for step in list(waiting):
                if step.after is not None and step.after.state in ("failed", "killed"):
                    waiting.remove(step)
                    fail(plan, step, "failed", _UNTRAINED, None)
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
                    fail(plan, step, *_why(process.returncode, log), log)
                elif not step.locate():
                    fail(plan, step, "failed", _NOTHING, log)
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


def fail(plan: Plan, step: Step, state: str, reason: str, log: Path | None) -> None:
    from glsmooth.runs.failures import Failure

    step.state = state
    where = "" if log is None else os.path.relpath(log, plan.folder)
    failures.append(Failure(step.title, state, reason, where))


def run_on_cluster(plan: Plan, missing: Sequence[Step]) -> None:
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
    wait_for(waited, [[step.title] for step in missing], plan.folder)
    without = {failure.job: failure for failure in failures}
    for step in missing:
        failure = without.get(step.title)
        step.state = "finished" if failure is None and step.locate() else "failed"
        if failure is None and step.state == "failed":
            fail(plan, step, "failed", _NOTHING, None)
        if step.after is not None and step.after.state == "failed":  # Slurm has removed it
            failures[:] = [one for one in failures if one.job != step.title]
            fail(plan, step, "failed", _UNTRAINED, None)


def _submitted_before(plan: Plan, step: Step, known: Mapping[str, str]) -> Any:
    """The job of a step that an earlier start submitted, unless it has ended."""
    number = str(known.get(_key(step)))
    if re.fullmatch(r"\d+(_\d+)?", number) is None or not _waits_or_runs(number, plan.folder / ".submitit"):
        return None
    import submitit

    tasks = compose(step.command, step.overrides, lambda cfg: int(cfg.hydra.launcher.tasks_per_node))
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
    logs = f"hydra.launcher.submitit_folder={literal(str(plan.folder / '.submitit' / '%j'))}"
    with composer():
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
    """The option that names the site's folder, for processes that are started."""
    folder = get_args_parser().parse_known_args()[0].config_dir
    return [] if folder is None else ["--config-dir", folder]
