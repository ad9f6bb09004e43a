"""SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 stop a command within five seconds, and its exit status says by which.

What is on disk is whole at any moment, so a command may stop anywhere: the signal is raised as an exception where the
program happens to be, or a moment later, at the next :func:`boundary`, where something is worth saving. Should that
lead nowhere (a long call into C, a hook that swallows it, a W&B that does not answer), the process ends by itself
:data:`GRACE` seconds after the signal; a second signal ends it at once.

Schedulers say by SIGUSR1 and SIGUSR2 that a job has to make room. A command that runs as a job is then queued again.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from typing import Any, NoReturn

__all__ = [
    "MAKE_ROOM",
    "Stopped",
    "asked",
    "boundary",
    "end_with_us",
    "handle_signals",
    "is_first_process",
    "scontrol_requeue",
    "started_by_srun",
    "stoppable",
]

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
#: Those that ask a job to make room for another, or say that its time is nearly up.
MAKE_ROOM = (signal.SIGUSR1, signal.SIGUSR2)
#: Seconds from the signal to the end of the process, at most.
GRACE = 4.0
#: The same of a job that is queued again: schedulers leave half a minute, and a step of training may take long.
JOB_GRACE = 20.0
# One stop may come as two signals: timeout(1) and some schedulers send to the process and to its group.
_SAME_STOP = 0.5


class Stopped(BaseException):
    """A signal stopped the command. No Exception, so that nothing on the way takes it for a failure.

    ``progress`` says how far the command had come: ``after 3 of 12 images``.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.progress = ""


class _Stop:
    """The signals of one process: its handlers, its watching thread, and what has come."""

    def __init__(self, advice: str, take: bool, requeue: Callable[[int], object] | None) -> None:
        self.advice, self.requeue = advice, requeue
        self.signum: int | None = None
        self.waits = False  # for a boundary
        self.launcher: Any = None  # of the processes that end with this one
        self.told = False
        self.begin = ""
        self.before = {number: signal.getsignal(number) for number in SIGNALS}
        # Whoever ignores a signal (nohup, a shell's background job) or handles it has a reason.
        defaults = (signal.SIG_DFL, signal.default_int_handler)
        self.ours = [
            n for n in SIGNALS if self.before[n] in defaults or (take and self.before[n] is not signal.SIG_IGN)
        ]
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)

    def install(self) -> None:
        self.handle_signals()
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)  # at once, also during a call into C
        threading.Thread(target=self._watch, daemon=True, name="glsmooth-signals").start()

    def handle_signals(self) -> None:
        for number in self.ours:
            signal.signal(number, self._handle)

    def restore(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in self.ours:
            signal.signal(number, self.before[number])

    def close(self) -> None:
        self.restore()
        os.close(self.writer)  # the watching thread reads the end, and ends

    def _handle(self, signum: int, _: Any) -> None:
        if self.signum is None:
            self.signum = signum
            # torch raises an error where a data loading process has died; they may have had the signal, too.
            signal.signal(signal.SIGCHLD, lambda *_: None)
            if not self.waits:
                self.stop()

    def stop(self) -> NoReturn:
        """Leave what runs inside, which a signal has asked for."""
        assert self.signum is not None
        self.waits = False
        self._end_processes()
        raise Stopped(self.signum)

    def grace(self, signum: int) -> float:
        return JOB_GRACE if self.requeue is not None and signum in MAKE_ROOM else GRACE

    def queue_again(self, signum: int) -> None:
        """Have the job queued again, once."""
        requeue, self.requeue = self.requeue, None
        if requeue is not None and signum in MAKE_ROOM:
            requeue(signum)

    def _watch(self) -> None:
        first, came = 0, 0.0
        while True:
            wait = came + self.grace(first) - time.monotonic() if first else None
            if wait is not None and not select.select([self.reader], [], [], max(0.0, wait))[0]:
                self._leave(first)
            numbers = os.read(self.reader, 64)
            if not numbers:
                os.close(self.reader)
                return
            for number in numbers:  # every signal that Python handles comes by here
                if number not in self.ours:
                    continue
                if not first:
                    first, came = number, time.monotonic()
                elif time.monotonic() - came > _SAME_STOP:
                    self._leave(first)

    def _leave(self, signum: int) -> NoReturn:
        self._end_processes()
        self.tell(signum)
        with suppress(BaseException):
            self.queue_again(signum)
        os._exit(128 + signum)

    def _end_processes(self) -> None:
        """Kill the processes that Lightning started: they would wait for each other, and for this one."""
        processes = [process for process in active_children() if not process.daemon]
        if processes:
            self.begin = "\n"  # one of them may leave a bar on the line
        for process in processes:
            process.kill()
        if self.launcher is not None:
            with suppress(OSError):
                self.launcher.kill(signal.SIGKILL)
            self.launcher.procs.clear()  # Lightning kills a process whose own have died, and so its exit status
        for process in processes:  # until then they hold the locks of what they write
            process.join(1.0)

    def tell(self, signum: int, progress: str = "") -> None:
        if not self.told and is_first_process():
            self.told = True
            name = signal.Signals(signum).name
            advice = self.advice
            if self.requeue is not None and signum in MAKE_ROOM:
                advice = "; the job is queued again, and goes on from here"
            text = f"{self.begin}Stopped by {name}{f' {progress}' if progress else ''}{advice}\n"
            with suppress(OSError):
                os.write(2, text.encode())  # from any thread, whatever the main one holds


_active: _Stop | None = None


@contextmanager
def stoppable(advice: str, take: bool = False, requeue: Callable[[int], object] | None = None) -> Iterator[None]:
    """Have the signals stop what runs inside, and then this process, with status 128 + number and one line.

    Args:
        advice: how to go on, at the end of that line.
        take: handle signals, too, that somebody else handles.
        requeue: of a job: has it queued again, called with the signal when one of :data:`MAKE_ROOM` has stopped it.
            It may end the process by SystemExit.
    """
    global _active
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread has signals
        return
    outer, stop = _active, _Stop(advice, take, requeue)
    _active = stop
    stop.install()
    try:
        yield
    except BaseException as error:
        # Whatever comes out after the signal is its consequence: processes that are gone, connections that are closed.
        if stop.signum is not None:
            sys.stdout.flush()
            stop.tell(stop.signum, error.progress if isinstance(error, Stopped) else "")
            stop.queue_again(stop.signum)
            sys.exit(128 + stop.signum)  # still watched: the end may hang, too
        raise
    finally:
        if stop.signum is None or sys.exc_info()[0] is None:
            stop.close()
            _active = outer


def boundary(waits: bool) -> None:
    """Stop here where a signal has asked for it; from here on, signals wait for the next boundary, or do not."""
    if _active is not None:
        if _active.signum is not None:
            _active.stop()
        _active.waits = waits


def asked() -> bool:
    """Has a signal come, so that the next :func:`boundary` will not be passed?"""
    return _active is not None and _active.signum is not None


def scontrol_requeue(signum: int) -> None:
    """Queue the Slurm job of this process again, where the first of its processes calls it."""
    del signum
    if not is_first_process():
        return
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    # One that cannot be (salloc's) says so on standard error.
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["scontrol", "requeue", job], timeout=10, check=False)


#: Steps of Slurm that srun did not start have numbers from here on: the script of sbatch, the shell of salloc.
_NO_STEP_OF_SRUN = 0xFFFFFFF0


def started_by_srun() -> bool:
    """Did srun start this process, maybe as one of several? Other variables of Slurm's stand in any shell of a job."""
    step = os.environ.get("SLURM_STEP_ID", "")
    return step.isdecimal() and int(step) < _NO_STEP_OF_SRUN


def end_with_us(launcher: Any) -> None:
    """Have the processes that a launcher of Lightning's will start end when a signal stops this one."""
    if _active is not None:
        _active.launcher = launcher


def handle_signals() -> None:
    """Take the signals back from whoever has replaced their handlers inside :func:`stoppable`."""
    if _active is not None:
        _active.handle_signals()


def is_first_process() -> bool:
    """Whether this is the one process that speaks, by the variables that Lightning, torchrun and Slurm set."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def _forked() -> None:
    """In a process forked from this one, as data loading processes are, signals do what they did before.

    But those that ask for room, which schedulers send to every process of a job: the step that is saved may need a
    batch from there.
    """
    global _active
    if _active is not None:
        _active.restore()
        for number in MAKE_ROOM:
            if number in _active.ours:
                signal.signal(number, signal.SIG_IGN)
        _active = None


os.register_at_fork(after_in_child=_forked)
