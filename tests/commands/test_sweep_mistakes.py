"""What is typed for a sweep, read before anything begins; and steps that end well without a result."""

import sys

import pytest

from glsmooth.commands import jobs, sweep
from glsmooth.errors import UserError

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
        ("--config-dir=~/nowhere", "is not a directory"),
    ],
)
def test_mistakes(typed, words):
    with pytest.raises(UserError, match=words):
        sweep.plan_of(["transform=brightness", typed])


def test_a_folder_that_is_no_directory_is_not_looked_in():
    with pytest.raises(UserError, match="--config-dir=nowhere is not a directory"):
        sweep.plan_of(["--config-dir", "nowhere", "transform=brightness"])


def test_a_report_that_cannot_be_written_is_noticed_first(elsewhere):
    (elsewhere / "file").touch()
    plan = sweep.plan_of(["transform=brightness", "hydra.run.dir=file"])
    with pytest.raises(UserError, match="choose another"):
        sweep.run(plan)


def test_the_same_value_twice_is_one_run():
    plan = sweep.plan_of(["transform=brightness", "optimizer.lr=0.1,1e-1", "seed=0,0", "certify.seed=1,1"])
    assert [step.command for step in plan.steps] == ["train", "certify"]


def test_a_transformation_of_ones_own_is_trained_in_the_first_region(elsewhere, monkeypatch):
    """It has no default, and train asks for one."""
    (elsewhere / "my_lighter.py").write_text(OWN)
    monkeypatch.syspath_prepend(elsewhere)
    own = ("transform=custom", "transform._target_=my_lighter.Lighter", "+smoothing.light={law:Normal,scale:1}")
    regions = "+region.light=[0,1],[0,2]"
    train, certify = sweep.plan_of([*own, regions]).steps
    assert "+region.light=[0,1]" in train.overrides
    assert "+region.light=[0,1]" in certify.overrides
    train, _ = sweep.plan_of([*own, regions, "+train.region.light=[0,3]"]).steps
    assert [one for one in train.overrides if "region" in one] == ["+region.light=[0,3]"]


@pytest.mark.parametrize("jobs_at_once", [1, 2])
def test_a_trial_is_no_result(elsewhere, monkeypatch, fresh, jobs_at_once):
    """The certification that would follow is not waited for."""
    monkeypatch.setattr(sys, "argv", ["sweep"])
    tiny = ("transform=brightness", "optimizer.batch_size=8", "trainer.fast_dev_run=true", "trainer.accelerator=cpu")
    plan = sweep.plan_of([*tiny, f"jobs={jobs_at_once}", "hydra.run.dir=out"])
    with pytest.raises(UserError, match="ended without a result"):
        sweep.run(plan)
    assert [(one.state, one.reason) for one in jobs.failures] == [
        ("failed", sweep._NOTHING),
        ("failed", sweep._UNTRAINED),
    ]
