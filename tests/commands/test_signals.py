"""Signals stop a command soon, with its status and one line, and the same command ends as if none had come."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from glsmooth.learning import stopping
from glsmooth.learning.checkpoint import KEY, load_checkpoint
from glsmooth.learning.training import BEGUN
from tests.commands.conftest import run_main

pytestmark = pytest.mark.usefixtures("elsewhere", "heard")

#: Seconds from a signal to the end of the process. Five are promised; a machine that runs other tests may take the
#: processor away for longer, and before this was mended the commands ran on until their work was done.
SOON = 15.0
VOTES = ("dataset.subset=16", "monte_carlo.n0=50", "monte_carlo.n=1000")
STEPS = ("optimizer.epochs=9", "trainer.limit_train_batches=4", "dataset.image_size=[16,16]")


@pytest.fixture
def heard():
    """Signals do what they do by default, here and in what is started: a shell's background job ignores SIGINT."""
    defaults = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGUSR1: signal.SIG_DFL,
        signal.SIGUSR2: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def start(command, directory, *arguments):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            f"glsmooth.{command}",
            f"hydra.run.dir={directory}",
            *arguments,
            "trainer.accelerator=cpu",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(command, directory, *arguments):
    """The whole command, or what is left of it; no signal comes, so it needs no process of its own."""
    assert run_main(command, f"hydra.run.dir={directory}", *arguments, "trainer.accelerator=cpu") == 0


def stop(process, number, has_come_further, group=False):
    """Signal a process, or its group, once it has come further; the last line that it says. Nothing of it is left."""
    while not has_come_further():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    begin = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=300)
    assert time.monotonic() - begin < SOON
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert "Error" not in err
    assert "leaked" not in err
    while time.monotonic() - begin < SOON:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return err.splitlines()[-1]
        time.sleep(0.05)
    raise AssertionError("a process of its group is still there")


def rows(directory):
    return sum(path.read_bytes().count(b"\n") - 1 for path in directory.glob("records*.csv"))


def test_certify(elsewhere, untrained):
    """Stopped by each signal in turn, alone and with its processes, it ends with the same bytes."""
    arguments = (f"ckpt={untrained[0]}", *VOTES)
    whole, stopped = elsewhere / "whole", elsewhere / "stopped"
    finish("certify", whole, *arguments)
    for number, group, option in (
        (signal.SIGTERM, True, "dataset.num_workers=2"),  # as schedulers send it
        (signal.SIGINT, True, "trainer.devices=2"),  # as a terminal does
        (signal.SIGUSR2, False, "batch_size=128"),
    ):
        before = rows(stopped)
        process = start("certify", stopped, *arguments, option)
        line = stop(process, number, lambda before=before: rows(stopped) > before, group)
        done = rows(stopped)
        name = signal.Signals(number).name
        assert line == f"Stopped by {name} after {done} of 16 images; the same command goes on from here"
        assert before < done < 16
    finish("certify", stopped, *arguments)
    assert (stopped / "records.csv").read_bytes() == (whole / "records.csv").read_bytes()


def epoch(directory):
    path = directory / "last.ckpt"
    # While training goes on, load_checkpoint would refuse a file that is replaced as it is read.
    return int(torch.load(path, weights_only=True)[KEY]["metrics"]["epoch"]) if path.exists() else 0


def weights(path):
    return torch.cat([value.double().flatten() for value in load_checkpoint(path).state_dict.values()])


def saved(directory):
    """What a stop says of the training that last.ckpt holds."""
    content = torch.load(directory / "last.ckpt", weights_only=True)[KEY]
    steps = content[BEGUN]["steps"] if BEGUN in content else 0
    return f"after {content['metrics']['epoch']:.0f} of 9 epochs{f' and {steps} steps' if steps else ''}"


def test_train(elsewhere, capsys):
    """Stopped by each signal in turn, it ends with the same networks; no unfinished one passes for finished."""
    whole, stopped = elsewhere / "whole", elsewhere / "stopped"
    finish("train", whole, *STEPS)
    for number in stopping.SIGNALS:
        before = epoch(stopped)
        line = stop(start("train", stopped, *STEPS), number, lambda before=before: epoch(stopped) > before)
        name = signal.Signals(number).name
        assert line == f"Stopped by {name} {saved(stopped)}; the same command goes on from here"
        assert before < epoch(stopped) < 9
        assert not (stopped / "summary.json").exists()
    finish("train", stopped, *STEPS)
    assert "Best checkpoint" in capsys.readouterr().out.splitlines()[-2]
    for name in ("last.ckpt", "best.ckpt"):
        assert torch.equal(weights(stopped / name), weights(whole / name))


def test_train_inside_an_epoch(elsewhere):
    """What was done of an epoch is not done again, and the epoch's numbers are those of all its steps."""
    whole, stopped = elsewhere / "whole", elsewhere / "stopped"
    long = ("optimizer.epochs=1", "optimizer.batch_size=8", "trainer.limit_val_batches=2", "dataset.image_size=[48,48]")
    finish("train", whole, *long)
    done = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        process = start("train", stopped, *long)
        said = b""
        while b"Training:" not in said:  # the bar
            said += os.read(process.stderr.fileno(), 4096)
            assert process.poll() is None, said
        time.sleep(1.0)
        stop(process, number, lambda: True)
        done.append(torch.load(stopped / "last.ckpt", weights_only=True)[KEY][BEGUN]["steps"])
        assert not (stopped / "best.ckpt").exists()
    assert 0 < done[0] < done[1]
    finish("train", stopped, *long)
    for name in ("last.ckpt", "best.ckpt"):
        assert torch.equal(weights(stopped / name), weights(whole / name))
        assert load_checkpoint(stopped / name).metrics == load_checkpoint(whole / name).metrics


def test_train_on_two_devices(elsewhere):
    process = start("train", elsewhere / "run", *STEPS, "trainer.devices=2")
    line = stop(process, signal.SIGTERM, lambda: epoch(elsewhere / "run") > 0)
    assert line == f"Stopped by SIGTERM {saved(elsewhere / 'run')}; the same command goes on from here"


def script(body):
    """A process that runs ``body`` and has said that it is ready."""
    lines = (
        "import hashlib, os, signal, sys, time",
        "from glsmooth.learning.stopping import stoppable",
        "def ready(): print('ready', flush=True)",
        *body.strip().splitlines(),
    )
    process = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


SWALLOWS = """
with stoppable('!'):
    try:
        ready()
        time.sleep(60)
    except BaseException:
        time.sleep(60)
"""
IN_C = """
with stoppable('!'):
    ready()
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
"""
FAILS_THEN = """
with stoppable('!'):
    try:
        ready()
        time.sleep(60)
    finally:
        raise RuntimeError('connection closed')
"""


@pytest.mark.parametrize("body", [SWALLOWS, IN_C, FAILS_THEN], ids=["swallows", "in C", "fails then"])
def test_whatever_the_program_does(body):
    """A hook that swallows the exception, a call that takes minutes, and what fails because of the stop."""
    process = script(body)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == "Stopped by SIGTERM!\n"
    assert process.returncode == 143
    assert time.monotonic() - begin < SOON


def test_a_second_signal_stops_at_once():
    process = script(SWALLOWS)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "Stopped by SIGINT!\n"
    assert process.returncode == 130
    assert time.monotonic() - begin < stopping.GRACE


def test_handlers_of_others_stay():
    """submitit's SIGUSR2, which queues the job again, and a SIGINT that is ignored in the background."""
    process = script(
        "signal.signal(signal.SIGUSR2, lambda *_: print('theirs', flush=True))\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "with stoppable('!'):\n    ready()\n    time.sleep(60)"
    )
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGUSR2)
    assert process.stdout.readline() == "theirs\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == "Stopped by SIGTERM!\n"


def test_a_forked_process_is_on_its_own():
    """As data loading processes are: what ends them is no signal to the command, and making room is not up to them."""
    process = script(
        "with stoppable('!'):\n    child = os.fork()\n    if child == 0:\n        ready()\n        time.sleep(60)\n"
        "    time.sleep(1)\n    os.kill(child, signal.SIGUSR1)\n    os.kill(child, signal.SIGUSR2)\n"
        "    time.sleep(0.2)\n    os.kill(child, signal.SIGTERM)\n    print(os.waitpid(child, 0)[1])\n"
        f"    time.sleep({stopping.GRACE + 1})"
    )
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == (f"{int(signal.SIGTERM)}\n", "", 0)


def test_afterwards_signals_do_what_they_did():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stopping.stoppable("!"):
        assert all(signal.getsignal(number) not in before for number in stopping.SIGNALS)
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
