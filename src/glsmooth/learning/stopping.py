"""SIGTERM, SIGINT and SIGUSR2 stop a command within five seconds, and its exit status says by which.

What is on disk is whole at any moment, so a command may stop anywhere: the signal is raised as an exception where the
program happens to be. Should that lead nowhere (a long call into C, a hook that swallows it, a W&B that does not
answer), the process ends by itself :data:`GRACE` seconds after the signal; a second signal ends it at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from typing import Any, NoReturn

__all__ = ["Stopped", "end_with_us", "handle_signals", "stoppable"]

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
#: Seconds from the signal to the end of the process, at most.
GRACE = 4.0
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

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.signum: int | None = None
        self.launcher: Any = None  # of the processes that end with this one
        self.told = False
        self.begin = ""
        self.before = {number: signal.getsignal(number) for number in SIGNALS}
        # Whoever ignores a signal (nohup, a shell's background job) or handles it (submitit) has a reason.
        self.ours = [n for n in SIGNALS if self.before[n] in (signal.SIG_DFL, signal.default_int_handler)]
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
            self._end_processes()
            raise Stopped(signum)

    def _watch(self) -> None:
        first, came = 0, 0.0
        while True:
            wait = came + GRACE - time.monotonic() if first else None
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
        if not self.told and _is_first_process():
            self.told = True
            name = signal.Signals(signum).name
            text = f"{self.begin}Stopped by {name}{f' {progress}' if progress else ''}{self.advice}\n"
            with suppress(OSError):
                os.write(2, text.encode())  # from any thread, whatever the main one holds


_active: _Stop | None = None


@contextmanager
def stoppable(advice: str) -> Iterator[None]:
    """Have the signals stop what runs inside, and then this process, with status 128 + number and one line.

    Args:
        advice: how to go on, at the end of that line.
    """
    global _active
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread has signals
        return
    outer, stop = _active, _Stop(advice)
    _active = stop
    stop.install()
    try:
        yield
    except BaseException as error:
        # Whatever comes out after the signal is its consequence: processes that are gone, connections that are closed.
        if stop.signum is not None:
            sys.stdout.flush()
            stop.tell(stop.signum, error.progress if isinstance(error, Stopped) else "")
            sys.exit(128 + stop.signum)  # still watched: the end may hang, too
        raise
    finally:
        if stop.signum is None or sys.exc_info()[0] is None:
            stop.close()
            _active = outer


def end_with_us(launcher: Any) -> None:
    """Have the processes that a launcher of Lightning's will start end when a signal stops this one."""
    if _active is not None:
        _active.launcher = launcher


def handle_signals() -> None:
    """Take the signals back from whoever has replaced their handlers inside :func:`stoppable`."""
    if _active is not None:
        _active.handle_signals()


def _is_first_process() -> bool:
    """Whether this is the one process that speaks, by the variables that Lightning, torchrun and Slurm set."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def _forked() -> None:
    """In a process forked from this one, as data loading processes are, signals do what they did before."""
    global _active
    if _active is not None:
        _active.restore()
        _active = None


os.register_at_fork(after_in_child=_forked)
