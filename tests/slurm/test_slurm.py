"""Sweeps as jobs of a real Slurm end as they do here, to the byte, whatever happens to the jobs on the way."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from glsmooth.configuration.folder import conf_dir
from glsmooth.learning.checkpoint import load_checkpoint

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

TINY = (
    *("transform=brightness", "optimizer.epochs=1", "optimizer.batch_size=16", "trainer.limit_train_batches=8"),
    *("trainer.limit_val_batches=2", "dataset.image_size=[16,16]"),
)
#: Long enough to be interrupted four times: half a minute of one core.
LONG = (
    *("transform=brightness", "optimizer.epochs=2", "optimizer.batch_size=8", "trainer.limit_val_batches=4"),
    *("dataset.image_size=[96,96]", "logger=wandb"),
)
VOTES = ("dataset.subset=8", "monte_carlo.n0=16", "monte_carlo.n=100")
MANY_VOTES = ("dataset.subset=36", "monte_carlo.n0=200", "monte_carlo.n=3000", "batch_size=64", "logger=wandb")


@pytest.fixture(scope="module")
def home(slurm, tmp_path_factory):
    """Where everything runs, with the site's own settings in it."""
    folder = tmp_path_factory.mktemp("home")
    template = (conf_dir() / "cluster" / "slurm.yaml").read_text()
    for default, ours in {
        "partition: null": "partition: debug",
        "accelerator: gpu": "accelerator: cpu",
        "gres: gpu:${trainer.devices}": "gres: null",
        "cpus_per_task: 8": "cpus_per_task: 1",
        "mem_gb: 32": "mem_gb: 2",
        "timeout_min: 240": "timeout_min: 60",
    }.items():
        assert default in template
        template = template.replace(default, ours)
    (folder / "site" / "cluster").mkdir(parents=True)
    (folder / "site" / "cluster" / "mine.yaml").write_text(template)
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder
    os.chdir(before)


def start(*command):
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process, status=0):
    out, err = process.communicate(timeout=400)
    assert process.returncode == status, f"{out}\n{err}"
    return out, err


def on_cluster(command, *arguments):
    return start(f"glsmooth.{command}", "--multirun", "--config-dir", "site", "cluster=mine", *arguments)


def here(command, *arguments):
    return start(f"glsmooth.{command}", "--multirun", *arguments, "trainer.accelerator=cpu")


@pytest.fixture(scope="module", autouse=True)
def out_of_time(home):
    """Beside all else, a training that takes longer than the minute that it has: it is told half a minute before."""
    return on_cluster(
        "train",
        *("transform=brightness", "optimizer.epochs=6", "optimizer.batch_size=8", "trainer.limit_val_batches=4"),
        *("dataset.image_size=[80,80]", "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=40"),
        "hydra.sweep.dir=timed",
    )


def weights(file):
    return torch.cat([value.double().flatten() for value in load_checkpoint(file).state_dict.values()])


def assert_same_networks(one, other):
    names = [{path.parent.name for path in Path(folder).glob("*/best.ckpt")} for folder in (one, other)]
    assert names[0] == names[1] != set()
    for name in names[0]:
        for file in ("best.ckpt", "last.ckpt"):
            assert torch.equal(weights(Path(one, name, file)), weights(Path(other, name, file)))


def assert_same_records(one, other):
    contents = [
        {path.parent.name: path.read_bytes() for path in Path(folder).glob("*/records.csv")} for folder in (one, other)
    ]
    assert contents[0] == contents[1] != {}


def slurm_says(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def job_of(process, sweep, ready=lambda: True, task=""):
    """The number of the running job of a sweep, once it is ready; None where the sweep has ended before."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            return None
        folders = [path.name for path in Path(sweep, ".submitit").glob("*")]
        running = slurm_says("squeue", "-h", "-t", "R", "-o", "%i").split()
        found = [name for name in folders if name in running and name.endswith(task)]
        if found and ready():
            return found[0]
        time.sleep(0.1)
    raise AssertionError("the job did not come so far")


def interrupt(number, how):
    """Interrupt a job by a signal, by a more urgent one, or as the administrator does; wait until it is not running."""
    if how == "urgent":
        slurm_says("sbatch", "-p", "urgent", "-n", str(os.cpu_count()), "-o", "/dev/null", "--wrap", "sleep 0.1")
    elif how == "requeue":
        slurm_says("scontrol", "requeue", number)
    else:
        slurm_says("scancel", f"--signal={how}", number)
    while number in slurm_says("squeue", "-h", "-t", "R", "-o", "%i").split():
        time.sleep(0.1)


def states(number):
    """States and exit codes of a job and its tasks, by number; accounting comes late."""
    for _ in range(50):
        lines = slurm_says("sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode", "-j", number).splitlines()
        found = {line.split("|")[0]: tuple(line.split("|")[1:]) for line in lines}
        if found and not any(state in ("RUNNING", "PENDING", "COMPLETING") for state, _ in found.values()):
            return found
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def trained(home):
    """Two networks, and the sweep of jobs that trained them."""
    local = here("train", *TINY, "seed=0,1", "hydra.sweep.dir=train_here")
    finish(on_cluster("train", *TINY, "seed=0,1", "hydra.sweep.dir=train"))
    finish(local)
    return sorted((home / "train").glob("*/best.ckpt"))


def test_training(trained):
    assert len(trained) == 2
    assert_same_networks("train", "train_here")


def test_three_certifications(trained):
    local = here("certify", f"ckpt={trained[0]}", *VOTES, "seed=0,1,2", "hydra.sweep.dir=certify_here")
    finish(on_cluster("certify", f"ckpt={trained[0]}", *VOTES, "seed=0,1,2", "hydra.sweep.dir=certify"))
    finish(local)
    assert_same_records("certify", "certify_here")
    assert len(list(Path("certify").glob("*/report.html"))) == 3
    out, _ = finish(start("glsmooth.report", "certify", "hydra.run.dir=compared"))
    assert "seed" in out
    assert Path("compared", "table.tex").is_file()


def test_two_devices_are_two_tasks(home):
    two = (*TINY, "trainer.devices=2")
    local = here("train", *two, "hydra.sweep.dir=two_here")
    finish(on_cluster("train", *two, "hydra.sweep.dir=two"))
    finish(local)
    assert_same_networks("two", "two_here")
    # Of the two tasks each says that it is one of two.
    said = "".join(path.read_text() for path in Path("two", ".submitit").rglob("*_log.out"))
    assert "global_rank=0(2)" in said
    assert "global_rank=1(2)" in said
    (script,) = Path("two", ".submitit").rglob("*_submission.sh")
    assert script.read_text().index("export SRUN_CPUS_PER_TASK=") < script.read_text().index("\nsrun ")


def test_two_shards_are_the_whole(trained):
    whole = ("trainer.accelerator=cpu", "hydra.run.dir=whole")
    local = start("glsmooth.certify", f"ckpt={trained[0]}", *VOTES, *whole)
    finish(on_cluster("certify", f"ckpt={trained[0]}", *VOTES, "shard=0/2,1/2", "hydra.sweep.dir=shards"))
    finish(start("glsmooth.report", "shards", "hydra.run.dir=together"))
    (together,) = Path("together", "shards").iterdir()
    finish(local)
    for name in ("records.csv", "identity.json", "images.json"):
        assert (together / name).read_bytes() == Path("whole", name).read_bytes()


def test_a_failing_job_leaves_the_others(trained):
    """It has failed in Slurm, too; what it says is the last line, and the table of the sweep has its log."""
    Path("broken.ckpt").write_bytes(b"no checkpoint")
    process = on_cluster("certify", f"ckpt={trained[0]},broken.ckpt", *VOTES, "hydra.sweep.dir=failing")
    _, err = finish(process, status=2)
    assert "Traceback" not in err
    assert "ckpt=broken.ckpt: not a readable checkpoint" in err.splitlines()[-1]
    assert "failed: " in err
    (array,) = {path.name.partition("_")[0] for path in Path("failing", ".submitit").glob("[0-9]*")}
    assert sorted(state for state, _ in states(array).values()) == ["COMPLETED", "FAILED"]
    out, _ = finish(start("glsmooth.report", "failing", "hydra.run.dir=failing_report"))
    (line,) = [line for line in out.splitlines() if "broken.ckpt" in line]
    assert "not a readable checkpoint" in line
    (log,) = [path for path in Path("failing", ".submitit").rglob("*_log.err") if str(path)[len("failing/") :] in line]
    assert "UserError" in log.read_text() or log.is_file()


def test_a_wrong_value_in_one_job(home):
    _, err = finish(on_cluster("train", *TINY, "seed=0,-1", "hydra.sweep.dir=wrong"), status=2)
    assert "seed=-1 must be" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert len(list(Path("wrong").glob("*/best.ckpt"))) == 1


def trains(sweep, restarts):
    """Does the only training of a sweep make steps, after so many restarts? Its bar says when it begins."""
    said = "".join(path.read_text() for path in Path(sweep, ".submitit").rglob("*_log.err"))
    starts = said.split("Resuming from")
    return len(starts) > restarts and "Training:" in starts[-1]


@pytest.fixture(scope="module")
def uninterrupted(home):
    return here("train", *LONG, "seed=0", "hydra.sweep.dir=long_here")


def test_training_that_is_interrupted(uninterrupted):
    """By each signal, by a job that is more urgent, and by the administrator: it goes on where it was."""
    process = on_cluster("train", *LONG, "seed=0", "hydra.sweep.dir=long")
    steps = []
    for how in ("USR2", "USR1", "urgent", "requeue"):
        number = job_of(process, "long", lambda: trains("long", len(steps)))
        if number is None:
            break  # a fast machine
        time.sleep(1.0)
        interrupt(number, how)
        content = torch.load(next(Path("long").glob("*/last.ckpt")), weights_only=True)
        steps.append(content["global_step"])
    finish(process)
    finish(uninterrupted)
    assert len(steps) >= 2
    # Who asks for room lets the job save; a requeue by hand kills it, and then it goes on from the last save.
    assert steps[:3] == sorted(set(steps[:3]))
    assert steps[0] > 0
    assert steps == sorted(steps)
    assert_same_networks("long", "long_here")
    names = {path.name.rpartition("-")[2] for path in Path("long").glob("*/wandb/offline-run-*")}
    assert names == {path.read_text() for path in Path("long").glob("*/wandb_id")}


def test_certification_that_is_interrupted(trained):
    local = here("certify", f"ckpt={trained[0]}", *MANY_VOTES, "hydra.sweep.dir=many_here")
    process = on_cluster("certify", f"ckpt={trained[0]}", *MANY_VOTES, "hydra.sweep.dir=many")

    def rows():
        return sum(path.read_bytes().count(b"\n") - 1 for path in Path("many").glob("*/records*.csv"))

    seen = [0]
    for how in ("USR2", "requeue", "USR1"):
        number = job_of(process, "many", lambda: rows() > seen[-1])
        if number is None:
            break  # a fast machine
        interrupt(number, how)
        seen.append(rows())
    finish(process)
    finish(local)
    assert len(seen) >= 3
    assert seen == sorted(set(seen))
    assert seen[1] < 36
    assert_same_records("many", "many_here")
    names = {path.name.rpartition("-")[2] for path in Path("many").glob("*/wandb/offline-run-*")}
    assert names == {path.read_text() for path in Path("many").glob("*/wandb_id")}


def test_a_killed_job_is_told_from_a_failed_one(home):
    process = on_cluster("train", *LONG, "seed=5,-1", "hydra.sweep.dir=killed")
    slurm_says("scancel", job_of(process, "killed", task="_0"))
    _, err = finish(process, status=2)
    assert "  killed: " in err
    assert "Slurm says CANCELLED" in err
    assert "  failed: " in err
    assert "Traceback" not in err


def test_a_sweep_of_dependent_jobs(home):
    """Trainings, certifications after them, one report; a training that fails; and again."""
    what = (*TINY, "seed=0", "region.brightness=[-0.05,0.05],[-0.1,0.1]", *VOTES)
    rates = "optimizer.lr=0.05,1e30"
    arguments = ("sweep", "--config-dir", "site", "cluster=mine", *what, rates, "hydra.run.dir=sweep")
    process = start("glsmooth", *arguments)
    depends = ""
    while "afterok" not in depends and process.poll() is None:
        depends = slurm_says("squeue", "-h", "-o", "%E")
        time.sleep(0.2)
    out, err = finish(process, status=2)
    assert "afterok" in depends
    assert "optimizer.lr=1e+30: the loss is" in err.splitlines()[-1]
    table = out.split("Jobs without a result")[1]
    assert "train optimizer.lr=1e+30" in table
    assert ".submitit/" in table
    assert "its training has no result" in table
    assert out.count("| brightness in [−0.05, 0.05]") + out.count("| brightness in [−0.1, 0.1]") >= 2
    local, _ = finish(start("glsmooth", "sweep", *what, "optimizer.lr=0.05", "dry_run=true"))
    assert local.count("done: ") == 2  # what jobs did is done here, too
    before = {path: path.read_bytes() for path in Path("outputs").rglob("records.csv")}
    assert len(before) == 1
    _, err = finish(start("glsmooth", *arguments), status=2)
    assert "Trainings: 2, done before: 1" in err
    assert before == {path: path.read_bytes() for path in Path("outputs").rglob("records.csv")}
    out, _ = finish(start("glsmooth.report", "sweep", "hydra.run.dir=again"))
    assert "its training has no result" in out
    shutil.rmtree("again")
    summary = json.loads(next(Path("outputs/certify").glob("*/summary.json")).read_text())
    assert summary["training"]["optimizer.lr"] == 0.05


def test_time_that_runs_out(out_of_time):
    """The job was queued again, and went on where it was."""
    finish(out_of_time)
    said = "".join(path.read_text() for path in Path("timed", ".submitit").rglob("*_log.err"))
    if "Resuming from" not in said:
        pytest.skip("this machine trains in less than the minute that the job has")
    assert "this job is timed-out" in said
    assert "Resuming from" in said
    assert len(list(Path("timed").glob("*/best.ckpt"))) == 1
