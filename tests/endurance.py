"""What holds must stay held: kills, variants of how a run is started, and memory, of the real commands.

    python -m tests.endurance                  # all of it; the table is printed and written to outputs/endurance.md
    python -m tests.endurance --only kills --seed 1

``kills``: certify and train are killed (SIGKILL) again and again and end as the runs that nobody killed. Moments are
random within the work, not within the start of Python; and some are those where a file is written but has not got its
name yet, one for each file. Where ``started as`` is ``forked``, attempts are forked from this program, which has
imported everything, and call the command's ``main``; the others are the command, typed.

``variants``: one checkpoint certified in twelve ways that may not matter.

``memory``: the peak of certify (VmHWM) for 10 to 10,000 images, and for 2·10^4 to 2·10^6 votes on one. For Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glsmooth import laws
from glsmooth.bounds import Outcome
from glsmooth.commands import certify, train
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.certification import CertificationModule, Options, take_votes
from glsmooth.learning.trainer import make_trainer
from glsmooth.runs import files
from glsmooth.runs.records import Records
from glsmooth.transforms import ContrastBrightness
from glsmooth.voting.procedures import FixedSample, Sequential
from glsmooth.voting.speed import Speed

ROOT = Path(__file__).parents[1]
MAIN = {"certify": certify.main, "train": train.main}

#: Keys of summary.json that say when and on what a run was made; all others are compared.
OF_THE_START = ("seconds_per_image", "invocation", "hardware", "speed")
#: Files of a certify run that are compared to the byte.
SAME_BYTES = ("records.csv", "identity.json", "images.json", "figure1.npz")

IMAGES = 40
TRAIN = ("trainer.accelerator=cpu", "trainer.limit_train_batches=8")
CERTIFY = ("trainer.accelerator=cpu", "bound.methods=[neyman_pearson,gl,mp]")
PROCEDURES = {
    "paper": (f"dataset.subset={IMAGES}", "monte_carlo.n0=20", "monte_carlo.n=500"),
    "sequential": ("monte_carlo=sequential", "dataset.subset=100"),
    "exhaustive": ("monte_carlo=exhaustive", "dataset.subset=300"),
}
VARIANTS: tuple[tuple[str, tuple[str, ...], dict[str, str]], ...] = (
    ("as it comes", (), {}),
    ("batch_size=1", ("batch_size=1",), {}),
    ("batch_size=7", ("batch_size=7",), {}),
    ("batch_size=64", ("batch_size=64",), {}),
    ("batch_size=1000", ("batch_size=1000",), {}),
    ("devices=2", ("trainer.devices=2",), {}),
    ("devices=2, num_workers=2, batch_size=7", ("trainer.devices=2", "dataset.num_workers=2", "batch_size=7"), {}),
    ("num_workers=2", ("dataset.num_workers=2",), {}),
    ("LC_ALL=C PYTHONUTF8=0", (), {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    ("LC_ALL=C.UTF-8 PYTHONHASHSEED=1", (), {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1"}),
    ("OMP_NUM_THREADS=2, batch_size=64", ("batch_size=64",), {"OMP_NUM_THREADS": "2"}),
    ("channels_last=true PYTHONHASHSEED=2", ("channels_last=true",), {"PYTHONHASHSEED": "2"}),
)
#: What 10,000 images may add to the peak beside their pixels, and 2·10^6 votes, in MB.
IMAGES_BOUND = 30.0
VOTES_BOUND = 8.0


class Difference(AssertionError):
    """Something did not end as it must."""


def need(holds: bool, what: str) -> None:
    if not holds:
        raise Difference(what)


def say(text: str) -> None:
    print(f"{time.monotonic() - _BEGIN:6.0f} s  {text}", flush=True)


_BEGIN = time.monotonic()


@dataclass
class Row:
    """One line of the table."""

    what: str
    counts: str
    outcome: str
    bad: bool = False

    def __str__(self) -> str:
        return f"| {self.what} | {self.counts} | {self.outcome} |"


# ----------------------------------------------------------------------------------------------------------- commands


@dataclass(frozen=True)
class Job:
    """A command in its run directory."""

    command: str
    directory: Path
    arguments: tuple[str, ...]

    @property
    def argv(self) -> list[str]:
        return [f"hydra.run.dir='{self.directory}'", *self.arguments]

    @property
    def log(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}.log")

    def typed(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """The real command, in a session of its own."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"glsmooth.{self.command}", *self.argv],
                cwd=self.directory.parent,
                env={**os.environ, **(environment or {})},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def forked(self, dies_at: str | None = None) -> int:
        """The command in a process forked from this one; one that ``dies_at`` the renaming of a file of that name."""
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            os.setsid()
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(self.directory.parent)
            if dies_at is not None:
                _die_at(dies_at)
            sys.argv = [self.command, *self.argv]
            MAIN[self.command]()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def finish(self, typed: bool = True, environment: Mapping[str, str] | None = None) -> None:
        status = self.typed(environment).wait() if typed else os.waitstatus_to_exitcode(os.waitpid(self.forked(), 0)[1])
        need(status == 0, f"{self.directory}: status {status}\n{self.log.read_text(errors='replace')[-2000:]}")

    def sibling(self, name: str) -> Job:
        return Job(self.command, self.directory.with_name(name), self.arguments)


def _die_at(name: str) -> None:
    """Have this process die where a file of this name is on disk under its temporary name alone."""
    replace = os.replace

    def dying(source: Any, target: Any) -> None:
        if Path(target).name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    files.os.replace = dying  # type: ignore[attr-defined]


def trained(directory: Path, *arguments: str) -> Path:
    Job("train", directory, (*TRAIN, *arguments)).finish()
    return directory / "best.ckpt"


# -------------------------------------------------------------------------------------------------------------- kills


@dataclass
class Torment:
    """A run that is killed at each of ``moments``, and its reference.

    A moment is a stage (``measuring``, ``voting``, ``writing``, ``training``), within which the time is random, or the
    name of a file.
    """

    job: Job
    reference: Job
    moments: tuple[str, ...]
    check: Callable[[Job, Job], None]
    typed: bool = True
    alone: tuple[bool, ...] = (False,)  # in turn: is the first process killed alone, or with those that it started?
    lengths: dict[str, float] = field(default_factory=dict)  # seconds of each stage
    stages: dict[str, Callable[[int, float], bool]] = field(default_factory=dict)  # has it begun?
    known: frozenset[bytes] = frozenset()  # rows that may be on disk
    kills: int = 0
    deaths: list[int] = field(default_factory=list)  # rows on disk
    ends: int = 0

    def run(self, rng: random.Random) -> None:
        for moment in self.moments:
            for _ in range(20):
                if self._killed(moment, rng):
                    self.kills += 1
                    self._check_rows()
                    break
                self._check_end()
            else:
                raise Difference(f"{self.job.directory}: 20 attempts ended before they could be killed in {moment}")
        self.job.finish(self.typed)
        self._check_end()

    def _check_end(self) -> None:
        self.check(self.job, self.reference)
        self.ends += 1
        shutil.rmtree(self.job.directory)

    def _check_rows(self) -> None:
        rows = set()
        for path in self.job.directory.glob("records*.csv"):
            content = path.read_bytes()
            rows |= set(content[: content.rfind(b"\n") + 1].splitlines()[1:])
        need(rows <= self.known, f"{self.job.directory}: rows on disk are not those of the run that was not killed")
        self.deaths.append(len(rows))

    def _killed(self, moment: str, rng: random.Random) -> bool:
        """Start the command and kill it; False if it ended before."""
        started = time.time()
        if moment not in self.stages:
            _, status = os.waitpid(self.job.forked(dies_at=moment), 0)
            return self._died(os.waitstatus_to_exitcode(status))
        process = self.job.typed() if self.typed else None
        pid = process.pid if process else self.job.forked()

        def ended() -> int | None:
            if process:
                return process.poll()
            done, status = os.waitpid(pid, os.WNOHANG)
            return os.waitstatus_to_exitcode(status) if done else None

        while not self.stages[moment](pid, started):
            status = ended()
            if status is not None:
                return self._died(status)
            time.sleep(0.005)
        deadline = time.monotonic() + rng.uniform(0, self.lengths[moment])
        while time.monotonic() < deadline:
            status = ended()
            if status is not None:
                return self._died(status)
            time.sleep(0.002)
        with suppress(ProcessLookupError):
            (os.kill if self.alone[self.kills % len(self.alone)] else os.killpg)(pid, signal.SIGKILL)
        status = process.wait() if process else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._wait_for_the_rest(pid)
        return self._died(status)

    def _died(self, status: int) -> bool:
        need(status in (0, -signal.SIGKILL), f"{self.job.directory}: status {status}; see {self.job.log}")
        return status != 0

    def _wait_for_the_rest(self, group: int) -> None:
        """The processes that a killed one had started end by themselves."""
        for _ in range(300):
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)
        raise Difference(f"{self.job.directory}: processes of a killed run were still there after 30 s")


def _when(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _holds(pid: int, file: Path) -> bool:
    """Has a process this file open?"""
    with suppress(OSError):
        return any(os.readlink(entry) == str(file) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return False


def certify_torment(job: Job, reference: Job, moments: tuple[str, ...], typed: bool, **options: Any) -> Torment:
    directory, whole = job.directory, reference.directory
    devices = "trainer.devices=2" in job.arguments
    speed, config = directory / "speed.json", directory / "config.yaml"
    return Torment(
        job,
        reference,
        moments,
        check_certified,
        typed,
        lengths={
            "measuring": _when(whole / "speed.json") - _when(whole / "identity.json"),
            # Votes are left for the next kill.
            "voting": (_when(whole / "config.yaml") - _when(whole / "speed.json"))
            / (1 + devices)
            / max(1, moments.count("voting")),
            "writing": _when(whole / "report.html") - _when(whole / "config.yaml"),
        },
        stages={
            "measuring": lambda pid, started: _holds(pid, directory / "run.lock"),
            "voting": lambda pid, started: _when(speed) > started,  # written at each start
            "writing": lambda pid, started: _when(config) > started,
        },
        known=frozenset((whole / "records.csv").read_bytes().splitlines()[1:]),
        **options,
    )


def check_certified(job: Job, reference: Job) -> None:
    """A run ended as the reference did."""
    for name in SAME_BYTES:
        one, other = (j.directory / name for j in (job, reference))
        need(one.read_bytes() == other.read_bytes(), f"{one} is not {other}")
    one, other = (json.loads((j.directory / "summary.json").read_text()) for j in (job, reference))
    for key in one.keys() | other.keys():
        need(key in OF_THE_START or one.get(key) == other.get(key), f"{job.directory}: {key} of summary.json differs")
    here, there = (set(os.listdir(j.directory)) for j in (job, reference))
    need(here == there, f"{job.directory}: files differ from those of {reference.directory}: {sorted(here ^ there)}")


def check_trained(job: Job, reference: Job) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        one, other = (torch.load(j.directory / name, weights_only=True, map_location="cpu") for j in (job, reference))
        difference = next(differences(_here(one, job), _here(other, reference)), None)
        need(difference is None, f"{job.directory / name}: {difference} differs from {reference.directory}'s")
    one, other = (json.loads((j.directory / "summary.json").read_text()) for j in (job, reference))
    for key in ("metrics", "identity"):
        need(one[key] == other[key], f"{job.directory}: {key} of summary.json differs")
    left = [name for name in os.listdir(job.directory) if name.startswith(".")]
    need(not left, f"{job.directory}: {left} stayed")


def _here(value: Any, job: Job) -> Any:
    """A checkpoint's content, with the run directory's path taken out."""
    if isinstance(value, dict):
        return {_here(key, job): _here(item, job) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_here(item, job) for item in value]
    return value.replace(str(job.directory), "") if isinstance(value, str) else value


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Where two nested contents differ; tensors to the bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            if key not in one or key not in other:
                yield f"{where}.{key}"
            else:
                yield from differences(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{where}[{i}]")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield where
    elif type(one) is not type(other) or one != other:
        yield where


def tormented(what: str, torment: Torment, rng: random.Random) -> Row:
    say(f"kills: {what}, {len(torment.moments)}")
    bad = ""
    try:
        torment.run(rng)
    except Difference as error:
        bad = str(error)
        say(bad)
    counts = f"{torment.kills} kills"
    if torment.known:
        rows = len(torment.known)
        before, after = torment.deaths.count(0), torment.deaths.count(rows)
        counts += f": {before} with no row on disk, {torment.kills - before - after} with some, {after} with all {rows}"
    ends = f"{torment.ends} end{'s' * (torment.ends != 1)} as not killed"
    return Row(what, counts, bad.partition("\n")[0] or ends, bool(bad))


def kills(place: Path, seed: int) -> list[Row]:
    rng = random.Random(seed)
    say("kills: checkpoints and runs that nobody kills")
    ckpt = {
        "contrast": trained(
            place / "contrast", "transform=contrast", "dataset.image_size=[16,16]", "optimizer.epochs=3"
        ),
        "translation": trained(
            place / "translation", "transform=translation", "dataset.image_size=[8,8]", "optimizer.epochs=3"
        ),
    }
    reference = {}
    for name, arguments in PROCEDURES.items():
        which = ckpt["translation" if name == "exhaustive" else "contrast"]
        reference[name] = Job("certify", place / f"{name}-whole", (f"ckpt={which}", *CERTIFY, *arguments))
        reference[name].finish()
    paper, sequential, exhaustive = (reference[name] for name in PROCEDURES)
    two = paper.sibling("paper-two")
    two = Job(two.command, two.directory, (*two.arguments, "trainer.devices=2"))
    measuring, voting, writing = "measuring", "voting", "writing"
    every_file = (
        *("images.json", "identity.json", "records.csv", "speed.json", "config.yaml", "figure1.npz"),
        *("summary.json", "table.md", "threshold.svg", "report.html"),
    )
    rows, partial = [], 0
    for what, job, whole, moments, typed, options in (
        ("certify, paper, typed", paper.sibling("paper-typed"), paper, (measuring, voting, voting, writing), True, {}),
        ("certify, sequential, typed", sequential.sibling("sequential-typed"), sequential,
         (voting, voting, writing, writing), True, {}),
        ("certify, paper on 2 devices, typed", two, paper, (voting, voting, voting), True, {"alone": (False, True)}),
        ("certify, sequential, forked", sequential.sibling("sequential-forked"), sequential,
         (voting, voting, measuring), False, {}),
        ("certify, exhaustive, forked", exhaustive.sibling("exhaustive-forked"), exhaustive,
         (voting, voting, voting, writing), False, {}),
        ("certify, paper, forked, before each file gets its name", paper.sibling("paper-files"), paper, every_file,
         False, {}),
    ):  # fmt: skip
        torment = certify_torment(job, whole, moments, typed, **options)
        rows.append(tormented(what, torment, rng))
        partial += sum(0 < death < len(torment.known) for death in torment.deaths)
    if not partial:
        rows.append(
            Row("certify, kills with some rows on disk", "0", "none: nothing was tested; try another seed", True)
        )
    say("kills: a training that nobody kills")
    whole = Job(
        "train",
        place / "train-whole",
        (*TRAIN, "transform=contrast", "dataset.image_size=[16,16]", "optimizer.epochs=6"),
    )
    whole.finish()
    took = _when(whole.directory / "summary.json") - _when(whole.directory / "config.yaml")
    for i, moments in enumerate((("training",) * 4, ("training",) * 4, ("last.ckpt", "best.ckpt", "summary.json"))):
        job = whole.sibling(f"train-{i}")
        what = "train, forked, before each file gets its name" if i == 2 else f"train, typed, run {i + 1}"
        torment = Torment(
            job,
            whole,
            moments,
            check_trained,
            typed=i < 2,
            lengths={"training": 0.45 * took},
            stages={"training": lambda _, started, job=job: _when(job.directory / "config.yaml") > started},
        )
        rows.append(tormented(what, torment, rng))
    return rows


# ----------------------------------------------------------------------------------------------------------- variants


def variants(place: Path, seed: int) -> list[Row]:
    say("variants: a checkpoint")
    # In bfloat16 another batch size changes votes where logits are close, as they often are.
    ckpt = trained(
        place / "for-variants", "transform=contrast", "dataset.image_size=[16,16]", "optimizer.epochs=3",
        "trainer.precision=32-true", f"seed={seed}",
    )  # fmt: skip
    arguments = (f"ckpt={ckpt}", *CERTIFY, f"dataset.subset={IMAGES}", "monte_carlo.n0=20", "monte_carlo.n=100")

    def one(number: int) -> tuple[str, str, int]:
        what, more, environment = VARIANTS[number]
        folder = f"variant {number}" + (" é" if "LC_ALL" not in environment else "")
        job = Job("certify", place / folder, (*arguments, *more))
        job.finish(environment=environment)
        say(f"variants: {what}")
        digest = hashlib.sha256()
        for name in ("records.csv", "identity.json", "images.json"):
            digest.update((job.directory / name).read_bytes())
        ties = json.loads((job.directory / "summary.json").read_text())["near_ties"]
        return hashlib.sha256((job.directory / "records.csv").read_bytes()).hexdigest(), digest.hexdigest(), ties

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(one, range(len(VARIANTS))))
    records, all_three, ties = ([result[i] for result in results] for i in range(3))
    first = records[0]
    others = [what for (what, _, _), digest in zip(VARIANTS, records, strict=True) if digest != first]
    bad = bool(others) or len(set(all_three)) > 1 or any(ties)
    outcome = f"differs: {'; '.join(others)}" if others else f"sha256 {first[:16]}…"
    return [
        Row(
            f"certify, variants ({'; '.join(what for what, _, _ in VARIANTS)})",
            f"{len(VARIANTS)} runs: {len(set(records))} digest of records.csv, {len(set(all_three))} of it with "
            f"identity.json and images.json; near ties {sum(ties)}",
            outcome,
            bad,
        )
    ]


# ------------------------------------------------------------------------------------------------------------- memory

#: The command, which says what its peak was before the report and at the end.
PEAK = """
import json, re, sys
from pathlib import Path
from glsmooth.commands import certify

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024

out, peaks, write_report = sys.argv.pop(1), [], certify.write_report

def report(*arguments, **options):
    peaks.append(peak())
    return write_report(*arguments, **options)

certify.write_report = report
certify.main()
Path(out).write_text(json.dumps([*peaks, peak()]))
"""


def folders(place: Path, counts: Sequence[int], size: int = 32) -> list[Path]:
    """Folders of images with 80 to train with and so many to test, in two classes."""
    rng = np.random.default_rng(0)
    store = place / "png"
    store.mkdir()

    def png(path: Path) -> None:
        content = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(content, "png", compress_level=1)
        path.write_bytes(content.getvalue())

    for i in range(80 + max(counts)):
        png(store / f"{i:05}.png")
    roots = []
    for count in counts:
        root = place / f"images-{count}"
        for part in ("train", "test"):
            for label in range(2):
                (root / part / f"class{label}").mkdir(parents=True)
        for i in range(80 + count):
            part = "train" if i < 80 else "test"
            os.link(store / f"{i:05}.png", root / part / f"class{i % 2}" / f"{i:05}.png")
        roots.append(root)
    return roots


def votes(n: int, sequential: bool, directory: Path) -> None:
    """Certify one image with ``n`` votes and a linear network, and print the peak. In a process of its own."""
    outcome = {"neyman_pearson": Outcome(0.6, None, "neyman_pearson")}
    torch.manual_seed(0)
    family = SmoothedFamily(
        ContrastBrightness(), {"contrast": laws.LogNormal(0.0, 0.5), "brightness": laws.Normal(0.0, 0.5)}
    )
    image, model = torch.rand(1, 8, 8), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    procedure = Sequential({"neyman_pearson": 1 - 1e-6}, n0=100, n=n) if sequential else FixedSample(100, n)
    module = CertificationModule(
        model,
        family,
        procedure,
        3,
        torch.utils.data.TensorDataset(image[None], torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)),
        [0],
        outcome,
        Options(speed=Speed(batch_size=1000)),
        directory,
        progress=False,
    )
    settings = {"trainer": {"accelerator": "cpu", "devices": 1}}
    trainer = make_trainer(settings, strategy="auto", logger=False, enable_checkpointing=False)
    with Records(directory, {"n": n}, module.columns) as records:
        done = take_votes(trainer, module, records)
    assert sequential or done["evaluations"] > n
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def memory(place: Path, seed: int) -> list[Row]:
    counts = (10, 100, 1000, 10_000)
    say("memory: images and a checkpoint")
    roots = folders(place, counts)
    size = "dataset.image_size=[32,32]"
    ckpt = trained(
        place / "for-memory", "dataset=image_folder", f"dataset.root={roots[0]}", size, "transform=contrast",
        "model=small_cnn", "optimizer.epochs=1", "dataset.num_workers=0", f"seed={seed}",
    )  # fmt: skip

    def images(i: int) -> list[float]:
        job = Job(
            "certify",
            place / f"memory-{counts[i]}",
            (f"ckpt={ckpt}", *CERTIFY, f"dataset.root={roots[i]}", "monte_carlo.n0=2", "monte_carlo.n=6",
             "batch_size=64"),
        )  # fmt: skip
        out = place / f"peak-{counts[i]}.json"
        with job.log.open("wb") as log:
            subprocess.run([sys.executable, "-c", PEAK, out, *job.argv], check=True, stdout=log, stderr=log, cwd=place)
        say(f"memory: {counts[i]} images")
        peaks: list[float] = json.loads(out.read_text())
        return peaks

    def one(n: int, sequential: bool) -> float:
        code = (
            f"from tests.endurance import *; votes({n}, {sequential}, Path({str(place / f'votes-{n}-{sequential}')!r}))"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
        say(f"memory: {n} votes{' at most' if sequential else ''}")
        return float(done.stdout.split()[-1])

    with ThreadPoolExecutor(2) as pool:
        few, many = 2 * 10**4, 2 * 10**6
        fixed = [pool.submit(one, n, False) for n in (few, many)]
        anytime = [pool.submit(one, n, True) for n in (few, many)]
        peaks = list(pool.map(images, range(len(counts))))
    pixels = [count * 3 * 32 * 32 / 2**20 for count in counts]
    rows = []
    for i, what in enumerate(("until the votes are in", "with the report")):
        column = [peak[i] for peak in peaks]
        more = column[-1] - column[0] - (pixels[-1] - pixels[0])
        rows.append(
            Row(
                f"certify, image_folder 32x32, peak {what}",
                "; ".join(f"{count:,} images {peak:.0f} MB" for count, peak in zip(counts, column, strict=True)),
                f"{more:+.1f} MB beside {pixels[-1] - pixels[0]:.0f} MB of pixels; bound {IMAGES_BOUND:.0f} MB",
                more > IMAGES_BOUND,
            )
        )
    for what, futures in (("paper", fixed), ("sequential, n at most", anytime)):
        small, large = (future.result() for future in futures)
        rows.append(
            Row(
                f"one image 8x8, linear network, {what}, peak",
                f"n = {few:,} {small:.0f} MB; n = {many:,} {large:.0f} MB",
                f"{large - small:+.1f} MB; bound {VOTES_BOUND:.0f} MB",
                large - small > VOTES_BOUND,
            )
        )
    return rows


# --------------------------------------------------------------------------------------------------------------- main

PARTS = {"kills": kills, "variants": variants, "memory": memory}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.endurance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills and of networks")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--output", type=Path, default=Path("outputs/endurance.md"), help="where the table goes")
    chosen = parser.parse_args()
    output = chosen.output.resolve()
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="endurance") as folder:
        place = Path(folder).resolve()
        os.environ["XDG_STATE_HOME"] = str(place / "state")  # nothing is noted in the user's home
        os.environ["OMP_NUM_THREADS"] = "1"
        for name, part in PARTS.items():
            if chosen.only in (None, name):
                (place / name).mkdir()
                rows += part(place / name, chosen.seed)
    only = f" --only {chosen.only}" if chosen.only else ""
    minutes = (time.monotonic() - _BEGIN) / 60
    bad = sum(row.bad for row in rows)
    text = (
        f"`python -m tests.endurance --seed {chosen.seed}{only}`: {minutes:.1f} min\n\n"
        + "| what | counts | outcome |\n|---|---|---|\n"
        + "\n".join(map(str, rows))
        + f"\n\n{bad} of {len(rows)} rows differ from what must hold.\n"
        + f"Not compared of summary.json: {', '.join(OF_THE_START)}.\n"
    )
    print(text)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
