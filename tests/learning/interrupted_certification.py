"""Runs a small certification, once or killed again and again. A script, so that processes can be real.

    python interrupted_certification.py ranks DIRECTORY PROCEDURE
    python interrupted_certification.py kill DIRECTORY PROCEDURE KILLS
    python interrupted_certification.py mistake DIRECTORY PROCEDURE

``ranks`` certifies 13 images on two CPU processes, then again where one image is left for the two. ``kill``
certifies them in processes that are killed at random moments, and prints how many rows were on disk at each
death. ``mistake`` certifies images with an impossible label on two processes, and prints the error that arrives.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import Dataset

from glsmooth import laws
from glsmooth.bounds import Outcome
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning import certification
from glsmooth.learning.certification import CertificationModule, Options, take_votes
from glsmooth.learning.trainer import quieten_lightning
from glsmooth.runs.records import Records
from glsmooth.transforms import ContrastBrightness, Translation
from glsmooth.voting.finite import FiniteLaw
from glsmooth.voting.procedures import Exhaustive, FixedSample, Sequential
from glsmooth.voting.speed import Speed

certification.SECONDS_A_WRITE = 0.0  # so that some deaths find a part of the rows
IMAGES = 13
COLOURS = SmoothedFamily(
    ContrastBrightness(), {"contrast": laws.LogNormal(0.0, 0.5), "brightness": laws.Normal(0.0, 0.5)}
)
SHIFTS = SmoothedFamily(Translation(), {"tx": laws.Normal(0.0, 1.5), "ty": laws.Normal(0.0, 1.5)}, image_size=(6, 6))
REQUIRED = {"neyman_pearson": 0.6, "gl": 0.8, "mp": None}
TARGETS = {"neyman_pearson": 0.6, "gl": 0.8}
PROCEDURES = {
    "paper": FixedSample(10, 40, 0.01),
    "sequential": Sequential(TARGETS, n0=50, n=200, alpha=0.01),
    "exhaustive": Exhaustive(FiniteLaw.of(SHIFTS), TARGETS),
}


class Images(Dataset):
    def __len__(self):
        return IMAGES

    def __getitem__(self, position):
        positions = position if isinstance(position, list) else [position]
        images = torch.stack([torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(i)) for i in positions])
        labels = torch.tensor([i % 3 for i in positions])
        return images, labels, torch.tensor([10 * i for i in positions])


class Mislabelled(Images):
    def __getitem__(self, position):
        images, labels, indices = super().__getitem__(position)
        return images, labels + 5, indices


class Slow(nn.Module):
    """A linear network that takes a millisecond, so that there is time to be killed in."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(36, 3, generator=generator))

    def forward(self, images):
        time.sleep(1e-3)
        return (images.flatten(1) - 0.5) @ self.weight


def certify(directory, devices, procedure, start_method="spawn", images=None):
    torch.set_num_threads(1)
    module = CertificationModule(
        Slow(),
        SHIFTS if procedure == "exhaustive" else COLOURS,
        PROCEDURES[procedure],
        3,
        images or Images(),
        [10 * i for i in range(IMAGES)],
        {name: Outcome(h_min, None, "neyman_pearson") for name, h_min in REQUIRED.items()},
        Options(seed=4, speed=Speed(8, channels_last=False, compile=False, threads=1)),
        directory,
        progress=False,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=DDPStrategy(start_method=start_method, process_group_backend="gloo") if devices > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with Records(directory, {"procedure": procedure}, module.columns) as records:
        return take_votes(trainer, module, records)


def ranks(directory, procedure):
    certify(directory / "one", 1, procedure)
    reference = (directory / "one" / "records.csv").read_bytes()
    path = directory / "two" / "records.csv"
    assert certify(path.parent, 2, procedure)["images"] == IMAGES
    assert path.read_bytes() == reference
    path.write_bytes(reference[: reference[:-1].rfind(b"\n") + 1])
    # One of the processes has nothing to do. Forking saves the time that starting Python takes.
    assert certify(path.parent, 2, procedure, start_method="fork")["images"] == 1
    assert path.read_bytes() == reference
    assert not list(path.parent.glob("*rank*"))


def mistake(directory, procedure):
    try:
        certify(directory, 2, procedure, images=Mislabelled())
    except Exception as error:
        print(f"{type(error).__name__}: {error}")


#: Asks for a process that has ended, and leaves it to be asked again.
RUNNING = os.WEXITED | os.WNOHANG | os.WNOWAIT


def rows(path):
    """Lines of a file, the header among them."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill(directory, procedure, kills):
    rng = random.Random(0)
    start = time.monotonic()
    certify(directory / "whole", 1, procedure)
    longest = 1.5 * (time.monotonic() - start)
    reference = (directory / "whole" / "records.csv").read_bytes()
    path, before, deaths = directory / "killed" / "records.csv", b"", []
    while len(deaths) < kills:
        child = os.fork()
        if child == 0:
            certify(directory / "killed", 1, procedure)
            os._exit(0)
        if len(deaths) % 2:  # in the middle of the votes, however fast the machine is
            while rows(path) <= max(1, before.count(b"\n")) and os.waitid(os.P_PID, child, RUNNING) is None:
                time.sleep(1e-3)
        else:
            time.sleep(rng.uniform(0, longest / 2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        assert whole.startswith(before), "a finished image was written again"
        assert reference.startswith(whole), "rows differ from those of the run that was not killed"
        deaths.append(max(0, whole.count(b"\n") - 1))
        before = whole
        if deaths[-1] == IMAGES:  # finished in spite of it: once more from the start
            assert whole == reference
            for file in path.parent.iterdir():
                file.unlink()
            before = b""
    certify(directory / "killed", 1, procedure)
    assert path.read_bytes() == reference
    print(*deaths)


if __name__ == "__main__":
    quieten_lightning()
    mode, folder, name, *number = sys.argv[1:]
    if mode == "ranks":
        ranks(Path(folder), name)
    elif mode == "mistake":
        mistake(Path(folder), name)
    else:
        kill(Path(folder), name, int(number[0]))
