"""What is typed for a sweep, read before anything begins; and steps that end well without a result."""

import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from glsmooth.commands import jobs, steps, sweep
from glsmooth.commands.plan import plan_of
from glsmooth.errors import UserError
from tests.commands.conftest import run_main

pytestmark = pytest.mark.usefixtures("elsewhere")

OWN = """
import torch
import glsmooth as gs

class Lighter(gs.ResolvableTransform):
    name = "lighter"
    parameters = ("light",)
    identity = torch.zeros(1, dtype=torch.float64)

    def apply(self, images, theta):
        return images + theta.to(images.dtype).view(-1, 1, 1, 1)

    def resolve(self, alpha, beta):
        return alpha + beta
"""


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(jobs, "failures", [])
    monkeypatch.setattr(sweep, "failures", jobs.failures)
    monkeypatch.setattr(steps, "failures", jobs.failures)


class Ended:
    """What is left of a process."""

    def __init__(self, status):
        self.returncode = status

    def poll(self):
        return self.returncode


@pytest.fixture
def at_once(monkeypatch):
    """Steps are done in this process, which has imported what they need: ``test_sweep`` starts others."""

    def start(step, log, *_):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as out, redirect_stdout(out), redirect_stderr(out):
            return Ended(run_main(step.command, *step.arguments))

    monkeypatch.setattr(steps, "_start", start)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("train=1", "train=1 is a field of neither"),
        ("certify=0.5", "certify=0.5 is a field of neither"),
        ("hydra.run.dir=a,b", "must be one folder"),
        ("hydra.run.dir=", "must be one folder"),
        ("hydra.run.dir=null", "must be one folder"),
        ("hydra.run.dir=${now:%Y}", "must be one folder"),
        ("hydra.sweep.dir=a", "leave it out"),
        ("hydra/launcher=submitit_local", "set hydra/launcher=slurm"),
        ("region.brightness=[-0.1,0.1],[0.2,-0.2]", "is inverted"),
        ("region.brightness=[-0.1,0.1],[0.2]", "must be an interval"),
        ("region.brightness=[-0.1,0.1],null", "is no region"),
        ("region.contrast=[0.9,1.1]", r"region\.contrast"),
        ("region={ball:0.1},{ball:-1}", "region.ball=-1 must be a radius"),
        ("region={ball:0.1,over:[contrast]}", r"region\.over: 'contrast' is not a parameter of brightness"),
        ("region={ball:0.1,brightness:[0,1]}", "no product of them"),
        ("transform._target_=a.B,c.D", "one transformation of your own a sweep"),
        ("--config-dir=~/nowhere", "is not a directory"),
    ],
)
def test_mistakes(typed, words):
    with pytest.raises(UserError, match=words):
        plan_of(["transform=brightness", typed])


def test_a_launcher_needs_slurm(elsewhere, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", "/nowhere")
    plan = plan_of(["hydra/launcher=slurm", "transform=brightness"])
    with pytest.raises(UserError, match="this machine has no Slurm"):
        sweep.run(plan)


def test_a_folder_that_is_no_directory_is_not_looked_in():
    with pytest.raises(UserError, match="--config-dir=nowhere is not a directory"):
        plan_of(["--config-dir", "nowhere", "transform=brightness"])


def test_a_report_that_cannot_be_written_is_noticed_first(elsewhere):
    (elsewhere / "file").touch()
    plan = plan_of(["transform=brightness", "hydra.run.dir=file"])
    with pytest.raises(UserError, match="choose another"):
        sweep.run(plan)


def test_the_same_value_twice_is_one_run():
    plan = plan_of(["transform=brightness", "optimizer.lr=0.1,1e-1", "seed=0,0", "certify.seed=1,1"])
    assert [step.command for step in plan.steps] == ["train", "certify"]


def test_a_transformation_of_ones_own_is_trained_in_the_first_region(elsewhere, monkeypatch):
    """It has no default, and train asks for one."""
    (elsewhere / "my_lighter.py").write_text(OWN)
    monkeypatch.syspath_prepend(elsewhere)
    own = ("transform=custom", "transform._target_=my_lighter.Lighter", "+smoothing.light={law:Normal,scale:1}")
    regions = "+region.light=[0,1],[0,2]"
    train, certify = plan_of([*own, regions]).steps
    assert "+region.light=[0,1]" in train.overrides
    assert "+region.light=[0,1]" in certify.overrides
    train, _ = plan_of([*own, regions, "+train.region.light=[0,3]"]).steps
    assert [one for one in train.overrides if "region" in one] == ["+region.light=[0,3]"]


@pytest.mark.parametrize("jobs_at_once", [1, 2])
def test_a_trial_is_no_result(elsewhere, monkeypatch, fresh, at_once, jobs_at_once):
    """The certification that would follow is not waited for."""
    monkeypatch.setattr(sys, "argv", ["sweep"])
    tiny = ("transform=brightness", "optimizer.batch_size=8", "trainer.fast_dev_run=true", "trainer.accelerator=cpu")
    plan = plan_of([*tiny, f"jobs={jobs_at_once}", "hydra.run.dir=out"])
    with pytest.raises(UserError, match="ended without a result"):
        sweep.run(plan)
    assert [(one.state, one.reason) for one in jobs.failures] == [
        ("failed", steps._NOTHING),
        ("failed", steps._UNTRAINED),
    ]


SCONTROL = """#!/bin/sh
[ "$3" = 6 ] && {{ echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }}
[ "$3" = 5 ] || {{ echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1; }}
echo 'JobId=5 JobName=train
   JobState={state} Reason=None Dependency=(null)
   StdOut={out}'
"""


@pytest.mark.parametrize(
    ("number", "state", "out", "ours"),
    [
        ("5", "PENDING", "out/.submitit/5/5_0_log.out", True),
        ("5", "RUNNING", "out/.submitit/5_3/5_3_0_log.out", True),
        ("5", "CANCELLED", "out/.submitit/5/5_0_log.out", False),
        ("5", "RUNNING", "out/.submitit/50/50_0_log.out", False),
        ("5", "RUNNING", "other/.submitit/5/5_0_log.out", False),
        ("4", "RUNNING", "", False),
    ],
)
def test_only_a_job_of_this_sweep_is_waited_for(elsewhere, monkeypatch, number, state, out, ours):
    """A number that Slurm has forgotten, or given to another job, is none."""
    fake = elsewhere / "scontrol"
    fake.write_text(SCONTROL.format(state=state, out=elsewhere / out))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(elsewhere), prepend=":")
    assert steps._waits_or_runs(number, Path("out/.submitit")) is ours
    with pytest.raises(UserError, match="Unable to contact"):
        steps._waits_or_runs("6", Path("out/.submitit"))


def test_a_run_that_was_damaged_leaves_the_others(elsewhere, monkeypatch, fresh, at_once, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep"])
    typed = (
        *("transform=brightness", "optimizer.epochs=1", "optimizer.batch_size=8", "trainer.limit_train_batches=1"),
        *("trainer.limit_val_batches=1", "dataset.subset=2", "monte_carlo.n0=4", "monte_carlo.n=8"),
        *("certify.seed=0,1", "trainer.accelerator=cpu", "hydra.run.dir=out", "jobs=2"),
    )
    sweep.run(plan_of(typed))
    capsys.readouterr()
    plan = plan_of(typed)
    damaged, whole = (step.directory for step in plan.certifications)
    (damaged / "records.csv").write_text("")
    with pytest.raises(UserError, match=f"records.csv: no column 'index'.*; remove {damaged}"):
        sweep.run(plan)
    out = capsys.readouterr().out
    assert "certify seed=0" in out.split("Jobs without a result")[1]
    assert whole.name in out
    shutil.rmtree(damaged)
    jobs.failures.clear()
    sweep.run(plan_of(typed))
    assert (damaged / "summary.json").is_file()


def test_regions_of_each_kind_are_decided_by_the_same_votes():
    ball, box, points = "{ball:0.1}", "{brightness:[0,0.1]}", "{points:[{brightness:0.1}]}"
    plan = plan_of(["transform=brightness", f"region={ball},{box},{points}"])
    assert plan.regions == [{"ball": 0.1}, {"brightness": [0, 0.1]}, {"points": [{"brightness": 0.1}]}]
    (certify,) = plan.certifications
    assert f"region={ball}" in certify.overrides
    assert plan_of(["transform=brightness", "region.ball=0.1,0.2"]).regions == [{"ball": 0.1}, {"ball": 0.2}]
