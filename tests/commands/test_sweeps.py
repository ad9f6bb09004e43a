"""Sweeps whose jobs are processes of their own, as on a cluster: submitit's local launcher sends them."""

import csv
import json
import subprocess
import sys

import pytest

from glsmooth.configuration.identity import file_digest

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
pytestmark = pytest.mark.usefixtures("elsewhere")

LOCAL = "hydra/launcher=submitit_local"
BROKEN = """
import torch
import glsmooth as gs

class Broken(gs.ResolvableTransform):
    name = "broken"
    parameters = ("b",)
    identity = torch.zeros(1, dtype=torch.float64)

    def apply(self, images, theta):
        return images

    def resolve(self, alpha, beta):
        return {}["lost"]
"""


def start(module, *arguments):
    command = [sys.executable, "-m", *module.split(), "--multirun", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def test_train(elsewhere):
    small = ("optimizer.epochs=1", "optimizer.batch_size=8", "trainer.limit_train_batches=2")
    ours = (LOCAL, "hydra.launcher._target_=hydra_plugins.glsmooth_launcher.LocalLauncher")
    status, out, err = finish(start("glsmooth.train", *ours, "seed=0,1", *small, "trainer.limit_val_batches=1"))
    assert status == 0, err
    where = dict(line.split(": ") for line in out.splitlines())  # the next command wants their paths
    said = {seed: json.loads((elsewhere / path / "summary.json").read_text())["seed"] for seed, path in where.items()}
    assert said == {"seed=0": 0, "seed=1": 1}
    summaries = [json.loads(path.read_text()) for path in elsewhere.glob("outputs/train/*/summary.json")]
    assert sorted(summary["seed"] for summary in summaries) == [0, 1]
    assert len(list(elsewhere.glob("outputs/train/*/best.ckpt"))) == 2


def test_certify(elsewhere, untrained):
    """Two checkpoints, under laws and by a launcher that files of the site name."""
    for name, text in {
        "smoothing/brightness": "brightness: {law: Normal, loc: 0.0, scale: 0.5}",
        "cluster/mysite": "# @package _global_\ndefaults:\n  - override /hydra/launcher: submitit_local\n"
        "trainer:\n  accelerator: cpu",
    }.items():
        path = elsewhere / "site" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text + "\n")
    site = ("--config-dir", "site", "cluster=mysite", "transform=brightness")
    votes = ("dataset.subset=4", "monte_carlo.n0=8", "monte_carlo.n=16")
    paths = ",".join(map(str, untrained))
    status, _, err = finish(start("glsmooth.certify", *site, f"ckpt={paths}", *votes))
    assert status == 0, err
    runs = list(elsewhere.glob("outputs/certify/*/summary.json"))
    summaries = [json.loads(path.read_text()) for path in runs]
    assert {summary["checkpoint"]["sha256"] for summary in summaries} == set(map(file_digest, untrained))
    for path, summary in zip(runs, summaries, strict=True):
        assert summary["smoothing"]["brightness"]["scale"] == 0.5
        with (path.parent / "records.csv").open() as file:
            assert [int(row["n"]) for row in csv.DictReader(file)] == [16] * 4
        assert (path.parent / "report.html").is_file()


def test_one_after_another(elsewhere):
    """In this process: a wrong value, and a training that fails, leave the others, and are listed."""
    small = (
        "optimizer.epochs=1",
        "optimizer.batch_size=8",
        "trainer.limit_train_batches=2",
        "dataset.image_size=[16,16]",
    )
    what = ("trainer.accelerator=cpu", "trainer.limit_val_batches=1", "transform=brightness")
    status, _, err = finish(start("glsmooth.train", *small, *what, "seed=-1,0", "optimizer.lr=1e30,0.05"))
    assert status == 2
    assert "Traceback" not in err
    assert len(list(elsewhere.glob("outputs/train/*/best.ckpt"))) == 1
    assert "3 of the jobs have no result:" in err
    assert err.splitlines()[-1].startswith("seed=-1 must be a whole number")
    (failed,) = [json.loads(path.read_text()) for path in elsewhere.glob("outputs/train/*/failed.json")]
    assert failed["state"] == "failed"
    assert failed["reason"].startswith("optimizer.lr=1e+30: the loss is")
    assert "the loss is" in failed["reason"]


def test_mistakes_and_bugs(elsewhere):
    """As in one process: a mistake has no traceback and status 2, and a bug has that of the place where it is."""
    (elsewhere / "my_broken_module.py").write_text(BROKEN)
    own = ("transform=custom", "transform._target_=my_broken_module.Broken", "+smoothing.b={law:Normal,scale:1}")
    mistake = start("glsmooth bounds", LOCAL, "alpha=0.1,2")  # noticed when the run directory is named
    bug = start("glsmooth bounds", LOCAL, *own, "+region.b=[0,1]", "bound.methods=[gl]")
    status, _, err = finish(mistake)
    assert status == 2
    assert "Traceback" not in err
    assert "alpha=2 must be a number between 0 and 1" in err.splitlines()[-1]
    status, _, err = finish(bug)
    assert status == 1
    assert 'my_broken_module.py", line' in err
    assert "KeyError: 'lost'" in err


def a_slurm(elsewhere, monkeypatch, sbatch):
    """A PATH with a Slurm on it that only has srun, and an sbatch that does this; with none, it has no Slurm at all."""
    (elsewhere / "bin").mkdir()
    for name, script in {"srun": "exit 1", "sbatch": sbatch}.items() if sbatch else ():
        (elsewhere / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (elsewhere / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(elsewhere / "bin"))


@pytest.mark.parametrize("command", [["train", "--multirun"], ["sweep"]])
@pytest.mark.parametrize(
    ("sbatch", "words"),
    [
        (
            "echo 'sbatch: error: no such partition: nope' >&2; echo 'sbatch: error: Submission failed' >&2; exit 1",
            "sbatch refuses the jobs (no such partition: nope; Submission failed); set hydra.launcher.partition",
        ),
        ("", "this machine has no Slurm (srun)"),
    ],
)
def test_what_slurm_refuses_is_one_line(elsewhere, monkeypatch, command, sbatch, words):
    a_slurm(elsewhere, monkeypatch, sbatch)
    cluster = ("cluster=slurm", "trainer.accelerator=cpu", "hydra.launcher.partition=nope")
    process = subprocess.run(
        [sys.executable, "-m", "glsmooth", *command, *cluster, "transform=brightness"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert words in process.stderr.splitlines()[-1]
