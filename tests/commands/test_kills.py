"""Runs that die in the middle of writing any of their files end as if they had not, and leave nothing beside them.

`python -m tests.endurance` kills at random moments, too.
"""

import os
import subprocess
import sys

import pytest

from tests.endurance import ROOT

# In a process of one thread, which may fork. Pictures take seconds.
SCRIPT = """
import os, sys
from pathlib import Path
from glsmooth.commands import certify
from tests.endurance import Job, check_certified, check_trained

def report(directory, **_):
    (directory / "table.md").write_text("")

certify.write_report = report
command, folder, *arguments = sys.argv[1:]
names, check = {
    "certify": (
        ("images.json", "identity.json", "records.csv", "config.yaml", "figure1.npz", "summary.json"), check_certified
    ),
    "train": (("config.yaml", "last.ckpt"), check_trained),
}[command]
whole = Job(command, Path(folder) / "whole", ("trainer.accelerator=cpu", *arguments))
killed = whole.sibling("killed")
whole.finish(typed=False)
for name in names:
    _, status = os.waitpid(killed.forked(dies_at=name), 0)
    assert os.waitstatus_to_exitcode(status) == -9, f"not killed before {name} got its name"
    assert [left for left in os.listdir(killed.directory) if left.startswith(f".{name}.")], "nothing was left"
killed.finish(typed=False)
check(killed, whole)
"""
CERTIFY = ("dataset.subset=4", "monte_carlo.n0=10", "monte_carlo.n=40")
TRAIN = ("optimizer.epochs=2", "trainer.limit_train_batches=2", "dataset.image_size=[8,8]")


@pytest.mark.parametrize("command", ["certify", "train"])
def test_it_ends_as_if_it_had_not_died(tmp_path, untrained, command):
    arguments = (f"ckpt={untrained[0]}", *CERTIFY) if command == "certify" else TRAIN
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, command, tmp_path, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
