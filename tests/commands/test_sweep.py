"""``glsmooth sweep`` on this machine: what it plans, does, does not do again, and says of what fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glsmooth.commands import steps, sweep
from glsmooth.commands.plan import Step, plan_of
from glsmooth.errors import UserError

WHAT = (
    *("transform=brightness", "optimizer.epochs=1", "optimizer.batch_size=16", "trainer.limit_train_batches=4"),
    *("trainer.limit_val_batches=1", "dataset.image_size=[16,16]", "trainer.accelerator=cpu"),
)
VOTES = ("dataset.subset=6", "monte_carlo.n0=8", "monte_carlo.n=50")
REGIONS = "region.brightness=[-0.02,0.02],[-0.05,0.05]"


def command(*arguments):
    return [sys.executable, "-m", "glsmooth", "sweep", *arguments]


def run(folder, *arguments):
    return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two networks in two regions, one of which cannot be trained, and what it said."""
    folder = tmp_path_factory.mktemp("sweep")
    arguments = (*WHAT, *VOTES, REGIONS, "optimizer.lr=0.05,1e30", "jobs=2", "hydra.run.dir=sweep")
    return folder, arguments, run(folder, *arguments)


def test_every_checkpoint_in_every_region_from_one_set_of_votes(swept):
    folder, _, done = swept
    assert len(list(folder.glob("outputs/train/*/best.ckpt"))) == 1
    (certified,) = folder.glob("outputs/certify/*/records.csv")
    assert certified.read_text().count("\n") == 7
    table = (folder / "sweep" / "table.csv").read_text().splitlines()
    assert len(table) == 3
    assert table[0].count("region") >= 1
    for name in ("report.html", "table.md", "table.tex", "sweep.json"):
        assert (folder / "sweep" / name).is_file()
    assert "Report: sweep/report.html" in done.stdout


def test_a_failure_leaves_the_others_and_is_named(swept):
    folder, _, done = swept
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("optimizer.lr=1e+30: the loss is")
    assert "Traceback" not in done.stderr
    failed = done.stdout.split("Jobs without a result")[1]
    (line,) = [line for line in failed.splitlines() if "| train optimizer.lr=1e" in line]
    assert "| failed |" in line
    log = line.split("|")[-2].strip().replace("\\", "")
    assert "the loss is" in (folder / "sweep" / log).read_text()
    assert "| certify optimizer.lr=1e+30 | failed | its training has no result |" in failed


def test_the_same_again_does_what_is_missing(swept):
    folder, arguments, _ = swept
    files = [*folder.glob("outputs/train/*/best.ckpt"), *folder.glob("outputs/certify/*/records.csv")]
    before = {path: path.stat().st_mtime_ns for path in files}
    # More of one, less of the other: nothing that is there is made again.
    larger = [a if not a.startswith("optimizer.lr") else "optimizer.lr=0.05" for a in arguments]
    done = run(folder, *(a for a in larger if a != "hydra.run.dir=sweep"), "hydra.run.dir=other")
    assert done.returncode == 0, done.stderr
    assert "Trainings: 1, done before: 1\nCertifications: 1, done before: 1" in done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in files}
    assert (folder / "other" / "table.csv").read_text() == (folder / "sweep" / "table.csv").read_text()


def test_report_takes_its_folder(swept, monkeypatch, call):
    folder, _, _ = swept
    monkeypatch.chdir(folder)
    # The sweep ran with this user's notes about own files, and so does the report.
    status, said = call("report", "sweep", "hydra.run.dir=again")
    assert status == 0, said.err
    assert "its training has no result" in said.out
    assert (folder / "again" / "table.csv").read_text() == (folder / "sweep" / "table.csv").read_text()


def test_a_sweep_from_elsewhere_names_no_directories(swept, tmp_path, monkeypatch, call):
    folder, _, _ = swept
    (tmp_path / "sweep").mkdir()
    content = json.loads((folder / "sweep" / "sweep.json").read_text())
    content["runs"] = ["../../etc"]
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    status, said = call("report", "sweep")
    assert status == 2
    assert "was not written by sweep on this machine" in said.err.splitlines()[-1]


def _alive(group):
    """Is any process of a group left?"""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_signal_ends_the_processes_too(tmp_path):
    process = subprocess.Popen(
        command(*WHAT[:1], *WHAT[5:], "optimizer.epochs=50", "hydra.run.dir=sweep"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/train/*/last.ckpt")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 128 + signal.SIGTERM
    end = time.monotonic() + 10  # the last of them may take a moment to go, on a machine that is busy
    while _alive(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(process.pid)
    assert process.stderr.read().splitlines()[-1].endswith("the same command goes on from here")


@pytest.mark.usefixtures("elsewhere")
class TestPlan:
    """What is typed, and what is done for it."""

    def steps(self, *arguments):
        plan = plan_of(arguments)
        return plan, [step for step in plan.steps if step.command == "train"], plan.certifications

    def test_fields_go_to_the_command_that_has_them(self):
        plan, (train,), (certify,) = self.steps(
            *("transform=brightness", "seed=3", "certify.seed=4", "monte_carlo.n=50", "trainer.devices=2"),
            *("trainer.precision=32-true", "dataset.subset=5", "region.brightness=[-0.1,0.1]", "precision=32-true"),
        )
        assert train.overrides == [
            *("transform=brightness", "seed=3", "trainer.devices=2", "trainer.precision=32-true")
        ]
        assert certify.overrides[0].startswith('ckpt="outputs/train/')
        assert set(certify.overrides[1:]) == {
            *("seed=4", "monte_carlo.n=50", "trainer.devices=2", "dataset.subset=5"),
            *("region.brightness=[-0.1,0.1]", "precision=32-true"),
        }
        assert plan.regions == [{"brightness": [-0.1, 0.1]}]

    def test_one_group_at_wandb(self):
        words = ("transform=brightness", "seed=0,1")
        groups = {step.group for more in ([], ["logger=wandb"]) for step in plan_of([*words, *more]).steps}
        (group,) = groups
        assert group.startswith("sweep-")
        step = plan_of(words).steps[0]
        assert step.arguments == [*step.overrides, f"logger.group={group}"]
        typed = plan_of([*words, "logger.group=mine"]).steps[0]
        assert typed.arguments == ["transform=brightness", "seed=0", "logger.group=mine"]

    def test_every_combination(self):
        plan, trainings, certifications = self.steps(
            *("transform=brightness,contrast", "seed=range(0,2)", "monte_carlo.n=50,100", "shards=2")
        )
        assert len(trainings) == 4
        assert len(certifications) == 16
        assert len({tuple(step.overrides) for step in certifications}) == 16
        assert sum("shard=1/2" in step.overrides for step in certifications) == 8
        assert plan.regions == []

    def test_regions_are_all_combinations_and_one_is_certified(self):
        plan, _, (certify,) = self.steps(
            *("transform=contrast_brightness", "region.contrast=[0.9,1.1],[0.8,1.2]"),
            "region.brightness=[-0.1,0.1],[-0.2,0.2]",
        )
        assert len(plan.regions) == 4
        assert "region.contrast=[0.9,1.1]" in certify.overrides

    def test_the_folder_follows_from_what_decides(self):
        one, two, three = (
            plan_of([*more, "transform=brightness", "seed=0,1"]).folder
            for more in ([], ["jobs=3", "trainer.accelerator=cpu", "logger=wandb"], ["monte_carlo.n=50"])
        )
        assert one == two != three

    @pytest.mark.parametrize(
        ("typed", "words"),
        [
            ("regoin.brightness=[-0.1,0.1]", "did you mean 'region"),
            ("monte_carlo.m=5", "monte_carlo.m is not a field of certify"),
            ("optimizer.lrr=5", "optimizer.lrr is not a field of train"),
            ("seed=0,-1", "seed=-1 must be a whole number"),
            ("region.brightness=0.1", "region.brightness=0.1 must be an interval"),
            ("jobs=0", "jobs=0 must be a whole number, at least 1"),
            ("jobs=1,2", "jobs=1,2 must be a whole number"),
            ("shards=a", "shards=a must be a whole number"),
            ("dry_run=1", "dry_run=1 must be true or false"),
            ("transform=brightnes", "did you mean 'brightness'"),
            ("train.monte_carlo.n=5", "is not a field of train"),
            ("--multirun", "sweep takes no such option"),
            ("nonsense", "cannot be read as key=value"),
            ("hydra.launcher.timeout_min=4", "jobs have it, with cluster=slurm"),
        ],
    )
    def test_mistakes_are_found_before_anything_begins(self, typed, words, elsewhere):
        with pytest.raises(UserError) as mistake:
            plan_of(["transform=brightness", typed])
        assert words in str(mistake.value).splitlines()[-1]
        assert not list(elsewhere.iterdir())

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ([], "choose from slurm; a file of your own needs --config-dir DIR"),
            (["--config-dir", "nowhere"], "--config-dir=nowhere is not a directory"),
        ],
    )
    def test_a_site_that_is_not_found(self, options, words, monkeypatch, elsewhere):
        arguments = [*options, "transform=brightness", "cluster=mysite"]
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with sweep.site_first(), pytest.raises(UserError) as mistake:
            plan_of(arguments)
        assert words in str(mistake.value).splitlines()[-1]

    @pytest.mark.parametrize("procedure", ["sequential", "exhaustive"])
    def test_votes_that_stop_early_decide_one_region(self, procedure):
        with pytest.raises(UserError, match="stops when one region is decided"):
            plan_of(["transform=brightness", REGIONS, f"monte_carlo={procedure}"])


def test_help(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sweep", "--help"])
    sweep.main()
    assert "Usage: glsmooth sweep" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "log", "said"),
    [
        (2, "words\nseed=x must be a number\n", ("failed", "seed=x must be a number")),
        (1, "Traceback\nValueError: no\n\n", ("failed", "ValueError: no")),
        (-9, "half", ("killed", "ended by signal 9")),
        (143, "Stopped", ("killed", "ended by signal 15")),
        (1, "", ("failed", "status 1")),
    ],
)
def test_killed_is_told_from_failed(tmp_path, status, log, said):
    (tmp_path / "log").write_text(log)
    state, reason = steps._why(status, Path(tmp_path / "log"))
    assert (state, reason[: len(said[1])]) == said


def test_processes_at_once_share_the_processors_and_the_gpus(monkeypatch, tmp_path):
    started = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(steps.subprocess, "Popen", lambda command, **options: started.append(options["env"]))
    step = Step("train", [], "")
    for slot in range(3):
        steps._start(step, tmp_path / "log", slot, 3, [])
    steps._start(step, tmp_path / "log", 0, 1, [])
    assert [env.get("OMP_NUM_THREADS") for env in started] == ["2", "2", "2", None]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == ["4", "7", "4", "4,7"]
