"""The jobs of a sweep, whoever starts them: what a job leaves behind, and what is said at the end of those that failed.

A job of ``--multirun`` runs in this process, one after another, or as a process of its own that submitit starts on a
cluster. There it takes the scheduler's signals, leaves with a status that says whether it failed, so that other jobs
can depend on it, and brings its mistakes back to the process that waits for it.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig
from tqdm import tqdm

from glsmooth.errors import UserError, visible
from glsmooth.learning import stopping

if TYPE_CHECKING:  # it imports numpy
    from glsmooth.runs.failures import Failure

__all__ = [
    "Killed",
    "OneAfterAnother",
    "bar_of",
    "behind",
    "failures",
    "job_of",
    "table_of_failures",
    "told_by_job",
    "wait_for",
]

#: Jobs of this command that have no result.
failures: list[Failure] = []

#: What to do about jobs that Slurm ended, by the state that it gives them.
_ADVICE = {
    "OUT_OF_MEMORY": "raise hydra.launcher.mem_gb",
    "TIMEOUT": "raise hydra.launcher.timeout_min or max_num_timeout; the same command goes on from here",
    "CANCELLED": "the same command goes on from here",
    "NODE_FAIL": "the same command goes on from here",
    "PREEMPTED": "the same command goes on from here",
}


#: Seconds between questions to Slurm about what has not ended.
_SECONDS_A_LOOK = 10.0


class Killed(UserError):
    """A job that was ended from outside, so that it could not say why."""


def job_of(task: Callable[[DictConfig], None], advice: str) -> Callable[[DictConfig], None]:
    """The task as Hydra runs it, also as a job of a cluster; its failure stays in the run directory.

    Args:
        task: of the command.
        advice: how to go on after a signal.
    """

    def job(cfg: DictConfig) -> None:
        if not _is_one_of_many():
            task(cfg)
            return
        from glsmooth.runs.failures import forget_failure, leave_failure

        directory = Path(HydraConfig.get().runtime.output_dir)
        forget_failure(directory)
        try:
            with _on_cluster(advice):
                task(cfg)
        except Exception as error:
            failure = _failed(error)
            if stopping.is_first_process():
                leave_failure(directory, failure)
            if _by_submitit():
                _leave_with(2 if isinstance(error, UserError) else 1)
                if not isinstance(error, UserError):
                    error.add_note(f"In the job:\n{traceback.format_exc()}")
            else:
                failures.append(failure)
            raise

    return job


def _is_one_of_many() -> bool:
    return str(HydraConfig.get().mode).endswith("MULTIRUN")


def _by_submitit() -> bool:
    """Is this process a job that submitit started?"""
    return "SUBMITIT_EXECUTOR" in os.environ and not HydraConfig.get().launcher._target_.endswith(".BasicLauncher")


@contextmanager
def _on_cluster(advice: str) -> Iterator[None]:
    """Signals of the scheduler's stop the task where it can go on, and submitit, which handles them, comes after that.

    SIGUSR1 and SIGUSR2 have the job queued again, as submitit does for the one that it is told of. SIGTERM does not:
    the scheduler sends it to a job that it queues again itself, or that its user has cancelled.
    """
    if not _by_submitit():
        yield
        return
    theirs = [signal.getsignal(number) for number in stopping.MAKE_ROOM]
    handler = next((one for one in theirs if callable(one) and one is not signal.default_int_handler), None)

    def requeue(signum: int) -> None:
        if callable(handler):
            handler(signum, None)  # ends the process

    with stopping.stoppable(advice, take=True, requeue=requeue):
        yield


def _failed(error: Exception) -> Failure:
    from glsmooth.runs.failures import Failure

    config = HydraConfig.get()
    sweep = config.sweep.dir
    log = Path(config.runtime.output_dir) / f"{config.job.name}.log"
    if _by_submitit():
        import submitit

        paths = submitit.JobEnvironment().paths
        log = paths.stdout if config.launcher.get("stderr_to_stdout") else paths.stderr
    return Failure(_name(config.overrides.task), "failed", _reason(error), os.path.relpath(log, sweep))


class OneAfterAnother(BasicLauncher):
    """Hydra's own launcher, but for a job whose directory cannot be named: the others begin all the same."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from glsmooth.runs.failures import Failure

        results: list[JobReturn] = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            try:
                results += super().launch([overrides], number)
            except Exception as error:
                mistake = behind(error)
                if mistake is None:
                    raise
                failures.append(Failure(_name(overrides), "failed", _reason(mistake)))
                result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
                result.return_value = mistake
                results.append(result)
        return results


def behind(error: BaseException | None) -> UserError | None:
    """The user's mistake that OmegaConf wrapped into an error of its own."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _name(overrides: Sequence[str]) -> str:
    """A job in its table: what was typed for it, without what all jobs share and no result depends on."""
    return " ".join(one for one in overrides if not one.startswith(("hydra", "logger.group="))) or "defaults"


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, UserError):
        return text.splitlines()[-1] if text else ""
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


_status = 0


def _leave_with(status: int) -> None:
    global _status
    _status = status


def _leave() -> None:
    # The function of a failed job returns: its error is what it brings back. That would count as success.
    if _status:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(_status)


atexit.register(_leave)  # when this module is imported, before much else: it comes last


def bar_of(jobs: int) -> Any:
    """A bar of so many jobs with the time left, on standard error; a log file needs no animation."""
    return tqdm(total=jobs, desc="Jobs", unit="job", mininterval=0.5 if sys.stderr.isatty() else 10)


def wait_for(jobs: Sequence[Any], names: Sequence[Sequence[str]], sweep: Path) -> list[JobReturn]:
    """Wait for jobs of submitit, all of them, whatever becomes of single ones.

    Args:
        jobs: as an executor returns them.
        names: the overrides of each.
        sweep: directory of the sweep, from which logs are named.

    Returns:
        What each brought back; one that was killed, or did not start, as a failed one with the reason.
    """
    results: dict[int, JobReturn] = {}
    shared = set.intersection(*map(set, names)) if len(names) > 1 else set()
    ask, without = time.monotonic(), ""
    bar = bar_of(len(jobs))
    try:
        while len(results) < len(jobs):
            for number, job in enumerate(jobs):
                if number not in results and job.done():
                    own = [one for one in names[number] if one not in shared]
                    results[number], failure = _result(job, own, sweep)
                    if failure is not None:
                        failures.append(failure)
                        without = f", {len(failures)} without a result"
                    bar.update()
            if time.monotonic() > ask and len(results) < len(jobs):
                ask = time.monotonic() + _SECONDS_A_LOOK
                waiting = [job.job_id for number, job in enumerate(jobs) if number not in results]
                bar.set_postfix_str(_what_slurm_does(waiting) + without)
            time.sleep(0.5)
    except stopping.Stopped as stop:
        stop.progress = f"after {len(results)} of {len(jobs)} jobs, while the others go on (squeue --me)"
        raise
    finally:
        bar.close()
    return [results[number] for number in range(len(jobs))]


def _what_slurm_does(numbers: Sequence[str]) -> str:
    """How many jobs run and why others do not, in a few words; nothing where there is no squeue."""
    try:
        asked = subprocess.run(
            ["squeue", "-h", "-r", "-j", ",".join(numbers), "-o", "%T %r"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    states = Counter(line.strip() for line in asked.stdout.splitlines())
    words = (
        f"{count} {state.lower()} ({why})" if why != "None" else f"{count} {state.lower()}"
        for (state, _, why), count in ((one.partition(" "), count) for one, count in states.most_common(3))
    )
    return ", ".join(words)


def _result(job: Any, overrides: Sequence[str], sweep: Path) -> tuple[JobReturn, Failure | None]:
    from glsmooth.runs.failures import Failure

    try:
        done: JobReturn = job.results()[0]
        error = None if done.status == JobStatus.COMPLETED else done._return_value
        state = "failed"
    except Exception as raised:
        message = told_by_job(raised)
        state = "failed"
        if message is not None:
            error = UserError(message)
        elif type(raised).__name__ == "UncompletedJobError":
            error, state = Killed(_why_killed(job)), "killed"
        else:
            error = raised
        done = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
        done.return_value = error
    if error is None:
        return done, None
    log = job.paths.stderr if job.paths.stderr.exists() else job.paths.stdout
    return done, Failure(_name(overrides), state, _reason(error), os.path.relpath(log, sweep))


def _why_killed(job: Any) -> str:
    state = str(job.state).partition(" ")[0].rstrip("+")
    with suppress(OSError):
        said = job.paths.stderr.read_text(encoding="utf-8", errors="replace")
        if state == "FAILED" and (stopped := re.findall(r"^Stopped by \w+.*", said, re.M)):
            return str(stopped[-1])
    advice = _ADVICE.get(state, "its log may say why; the same command goes on from here")
    return f"killed (Slurm says {state}): {advice}"


def told_by_job(error: Exception) -> str | None:
    """The user's mistake for which a job of a cluster ended before its task: Hydra asks for the run directory first.

    Submitit brings the traceback of such a job as text.
    """
    if type(error).__name__ != "FailedJobError":
        return None
    told = re.search(
        r"^\S*: UserError raised while resolving interpolation: (.*?)\n    full_key: ", str(error), re.M | re.S
    )
    return told.group(1) if told else None


def table_of_failures() -> str:
    """Jobs without a result, a line each; or nothing."""
    if not failures:
        return ""
    lines = [f"{len(failures)} of the jobs have no result:"]
    for failure in failures:
        lines.append(f"  {failure.state}: {failure.job}\n    {failure.reason}")
        lines += [f"    log: {failure.log}"] if failure.log else []
    return visible("\n".join(lines), keep="\n") + "\n"
