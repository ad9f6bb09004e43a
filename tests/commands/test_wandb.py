"""What train and certify tell W&B, read back from the logs that offline runs leave."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from glsmooth.commands import certify, train
from glsmooth.commands.entry import _grouped
from glsmooth.configuration.folder import conf_dir
from glsmooth.errors import UserError
from glsmooth.learning import wandb_log
from glsmooth.learning.checkpoint import load_checkpoint
from glsmooth.learning.wandb_log import session
from glsmooth.report import page
from glsmooth.report.page import Drawn
from glsmooth.report.wandb_log import log_results
from glsmooth.runs.run import load_run
from tests.wandb_file import told

pytest.importorskip("wandb")

LAWS = (
    *("smoothing.contrast.scale=0.2", "smoothing.brightness.scale=0.2"),
    *("region.contrast=[0.9,1.1]", "region.brightness=[-0.1,0.1]"),
)
TRAIN = (
    *LAWS,
    *("trainer.accelerator=cpu", "trainer.num_threads=1", "trainer.precision=32-true", "trainer.progress=false"),
    *("dataset.image_size=[8,8]", "optimizer.batch_size=64", "optimizer.epochs=3", "logger=wandb"),
)
CERTIFY = (
    *("trainer.accelerator=cpu", "batch_size=256", "channels_last=false", "compile=false", "threads=1"),
    *("dataset.subset=24", "monte_carlo.n0=20", "monte_carlo.n=100", "logger=wandb"),
)
#: The command without its report: pictures take seconds.
MAIN = """
from glsmooth.commands import certify, train
certify.write_report = lambda directory, **_: (directory / "table.md").write_text("")
{}.main()
"""
#: Votes that take some seconds, in small batches: something is recorded, and something is not.
SLOW = ("monte_carlo.n=3000", "batch_size=64", "dataset.subset=40")


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "0.1")  # a kill loses what came later; 15 s by default
        patch.setenv("WANDB_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        yield


def run(command, directory, *overrides):
    directory.mkdir(exist_ok=True)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(command.__name__.rpartition(".")[2], [*overrides, f"run_dir={directory}"])
    command.run(cfg)


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(certify, "write_report", lambda directory, **_: (directory / "table.md").write_text(""))


def start(command, *arguments):
    """The command in a process of its own, which signals may end."""
    words = [sys.executable, "-c", MAIN.format(command), *map(str, arguments)]
    # It starts W&B's process itself, rather than share that of this one.
    env = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env
    )


def once_recorded(process, directory, rows):
    """Wait until so many images are recorded; the process has not ended then."""
    end = time.monotonic() + 120
    while not (directory / "records.csv").is_file() or len(recorded(directory)) < rows:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "no image was recorded in time"
        time.sleep(0.02)


def recorded(directory):
    with (directory / "records.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two trainings of a sweep, in one process."""
    directory = tmp_path_factory.mktemp("sweep")
    process = start(
        "train", "--multirun", "seed=0,1", f"hydra.sweep.dir={directory}", "hydra.sweep.subdir=seed${seed}", *TRAIN
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return [directory / f"seed{seed}" for seed in (0, 1)]


@pytest.fixture(scope="module")
def certified(trained, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "certified"
    with pytest.MonkeyPatch.context() as patch:  # a busy machine would leave the plane out
        patch.setattr(page, "PLANE_SECONDS", 600.0)
        run(certify, directory, f"ckpt={trained[0] / 'best.ckpt'}", *CERTIFY, "bound=all", "logger.group=mine")
    return directory


def models(start):
    return [(record, kind) for record, kind in start.artifacts if record.type == "model"]


def test_trainings_of_a_sweep_are_one_group(trained):
    (first,), (second,) = map(told, trained)
    assert first.run.run_group == second.run.run_group
    assert first.run.run_group.startswith("sweep-")
    assert first.run.run_id != second.run.run_id
    for start, directory in zip((first, second), trained, strict=True):
        assert start.run.job_type == "train"
        assert start.run.display_name == f"train-{directory.name}"
        assert list(start.run.tags) == ["contrast_brightness", "digits"]
        assert start.config["smoothing"]["brightness"]["scale"] == 0.2
        assert start.config["optimizer"]["epochs"] == 3
        assert start.exit_code == 0


def test_the_group_is_that_of_the_command_line():
    def group(*arguments):
        return _grouped("train", list(arguments))[len(arguments) :]

    (first,) = group("--multirun", "seed=0,1")
    assert re.fullmatch(r"logger\.group=sweep-[0-9a-f]{12}", first)
    assert group("seed=0,1", "--multirun") == [first]
    assert group("seed=0,1", "-m") != []
    assert group("--multirun", "seed=0,2") != [first]
    assert _grouped("certify", ["--multirun", "seed=0,1"])[-1] != first
    assert group("seed=0") == []
    assert group("--multirun", "seed=0,1", "logger.group=mine") == []


def test_the_metrics_of_a_training(trained):
    (start,) = told(trained[0])
    for name in ("train/total", "train/cross_entropy", "val/accuracy", "val/accuracy_under_law", "lr"):
        assert len(start.column(name)) == 3, name
    rates = start.column("lr")
    assert rates[0] == start.config["optimizer"]["lr"]
    assert rates == sorted(rates, reverse=True)  # the cosine schedule
    assert rates[-1] < rates[0]
    with next(trained[0].glob("**/metrics.csv")).open() as file:
        written = [float(row["train/total"]) for row in csv.DictReader(file) if row["train/total"]]
    assert start.column("train/total") == pytest.approx(written)
    steps = start.column("trainer/global_step")
    assert steps == sorted(steps)
    assert {start.steps[name] for name in ("train/*", "val/*", "lr")} == {"trainer/global_step"}
    metrics = load_checkpoint(trained[0] / "best.ckpt").metrics
    assert start.summary["best/val/accuracy_under_law"] == pytest.approx(metrics["val/accuracy_under_law"])


def test_images_under_augmentation(trained):
    (start,) = told(trained[0])
    (picture,) = start.column("pictures/augmentation")
    assert "clipped to [0, 1] for the eye only" in picture["caption"]
    with Image.open(start.files / picture["path"]) as image:
        pixels = np.asarray(image.convert("L"), dtype=np.float64)
    count, rows = wandb_log.PICTURED, 2 + wandb_log.COPIES
    assert pixels.shape == (rows * 9 - 1, count * 9 - 1)
    data = train.load_dataset(start.config["dataset"]).train
    shown = pixels[:8, : 8 * 9].reshape(8, 8, 9)[:, :, :8] if pixels.shape[1] >= 72 else pixels[:8, :8][:, None]
    assert np.array_equal(shown[:, 0], data.raw([0])[0, 0].numpy())
    copies = [pixels[row * 9 :][:8, :8] for row in range(2, rows)]
    assert len({copy.tobytes() for copy in copies}) == wandb_log.COPIES  # each has its own draw


def test_the_checkpoint_links_certify_to_train(trained, certified):
    (made,) = models(told(trained[0])[0])
    (other,) = models(told(trained[1])[0])
    (used,) = models(told(certified)[0])
    assert [made[1], used[1]] == ["output", "input"]
    assert made[0].name == used[0].name
    assert made[0].digest == used[0].digest
    assert made[0].digest != other[0].digest
    assert other[0].name != made[0].name  # other settings: another name
    assert "best" in made[0].aliases
    assert [entry.path for entry in made[0].manifest.contents] == ["best.ckpt"]
    assert json.loads(made[0].metadata)["sha256"] == load_checkpoint(trained[0] / "best.ckpt").sha256


def test_how_a_certification_is_found(certified):
    (start,) = told(certified)
    assert start.run.job_type == "certify"
    assert start.run.run_group == "mine"
    assert start.run.display_name == "certify-certified"
    assert list(start.run.tags) == ["contrast_brightness", "digits"]
    assert start.config["smoothing"]["brightness"]["scale"] == 0.2
    assert start.config["region"]["contrast"] == [0.9, 1.1]
    assert start.exit_code == 0


def test_the_numbers_of_a_certification(certified):
    (start,) = told(certified)
    written = json.loads((certified / "summary.json").read_text())
    methods = written["methods"]
    sound = {name for name, entry in methods.items() if entry["sound"] and entry["required_probability"] is not None}
    assert {"neyman_pearson", "gl"} <= sound
    assert {name.removeprefix("cra/") for name in start.summary if name.startswith("cra/")} == sound
    assert {name.removeprefix("h_min/") for name in start.summary if name.startswith("h_min/")} == sound
    for name in sound:
        assert start.summary[f"cra/{name}"] == methods[name]["certified_robust_accuracy"]
        assert start.summary[f"h_min/{name}"] == methods[name]["required_probability"]
    assert 0 < start.summary["cra/neyman_pearson"] < 1  # else this test sees nothing
    for name in ("base_accuracy", "smoothed_accuracy", "abstained", "votes_used"):
        assert start.summary[name] == written[name]


def test_an_unsound_method_has_names_of_its_own(certified):
    (start,) = told(certified)
    finished = load_run(certified)
    claimed = finished.outcomes["gl_printed"].claims(finished.p_lower) & finished.correct
    assert start.summary["unsound/gl_printed"] == claimed.mean() > 0
    named = [
        name for name in (*start.summary, *(name for point in start.history for name in point)) if "gl_pri" in name
    ]
    assert set(named) == {"unsound/gl_printed"}
    (row,) = [row for row in start.table("tables/methods") if "printed" in row["method"]]
    assert row["standing"] == "unsound"
    assert row["CRA"] is None
    assert "gl_printed" not in start.table("tables/images")[0]


def test_the_running_cra(certified):
    (start,) = told(certified)
    assert start.steps["running_cra/*"] == "images"
    images = start.column("images")
    assert images == sorted(set(images))
    assert images[-1] == 24
    assert start.column("running_cra/neyman_pearson")[-1] == start.summary["cra/neyman_pearson"]


def test_the_tables_and_curves_of_a_certification(certified):
    (start,) = told(certified)
    methods = {row["method"]: row for row in start.table("tables/methods")}
    assert methods["Neyman–Pearson"]["CRA"] == start.summary["cra/neyman_pearson"]
    assert methods["Neyman–Pearson"]["h_min"] == start.summary["h_min/neyman_pearson"]
    assert [row["CRA"] for row in methods.values() if row["standing"] == "does not apply"] == [None, None]

    curve = [row for row in start.table("curves/cra_region_table") if row["lineKey"] == "Neyman–Pearson"]
    sizes, shares = [row["step"] for row in curve], [row["lineVal"] for row in curve]
    assert sizes == sorted(sizes)
    assert shares == sorted(shares, reverse=True)
    assert shares[sizes.index(1)] == start.summary["cra/neyman_pearson"]
    assert start.run.config  # the curve is drawn by a panel of W&B's, which the config names
    plane = start.table("tables/cra_plane")
    assert max(row["CRA"] for row in plane) >= start.summary["cra/neyman_pearson"]
    assert {row["contrast"] for row in plane} > {min(row["contrast"] for row in plane)}
    assert list(plane[0]) == ["contrast", "brightness", "CRA"]


def test_the_pictures_of_a_certification(certified):
    (start,) = told(certified)
    for name in ("cra_region", "cra_plane", "threshold", "gallery", "procedure"):
        (picture,) = start.column(f"pictures/{name}")
        assert (start.files / picture["path"]).read_bytes() == (certified / f"{name}.png").read_bytes()


def test_the_table_of_images(certified):
    (start,) = told(certified)
    rows = start.table("tables/images")
    finished = load_run(certified)
    assert [row["index"] for row in rows] == finished.columns["index"].tolist()
    assert [row["p_A"] for row in rows] == finished.p_lower.tolist()
    robust = finished.robust(finished.outcomes["neyman_pearson"])
    assert [row["neyman_pearson"] == "certified" for row in rows] == robust.tolist()
    assert {row["neyman_pearson"] for row in rows} <= {"certified", "certified in a wrong class", "no"}
    assert rows[0]["label"] == finished.class_name(int(finished.columns["label"][0]))
    (artifact,) = [record for record, _ in start.artifacts if "tablesimages" in record.name]
    kept = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    (whole,) = [json.loads(path.read_text())["data"] for name, path in kept.items() if name.endswith(".table.json")]
    data = train.load_dataset(start.config["dataset"])
    for index, picture, *_ in whole:
        with Image.open(kept[picture["path"]]) as image:
            assert np.array_equal(np.asarray(image.convert("L")), data.test.raw([index])[0, 0].numpy())
    assert len(whole) == 24


def test_not_all_images_of_a_large_run_are_sent(certified, tmp_path, monkeypatch):
    monkeypatch.setattr("glsmooth.report.wandb_log.LISTED_IMAGES", 5)
    (start,) = resent(load_run(certified), tmp_path)
    assert len(start.table("tables/images")) == 5


def test_an_approximation_never_has_a_cra(certified, tmp_path):
    finished = load_run(certified)
    outcomes = {name: outcome.approximate(0.1, "it is none") for name, outcome in finished.outcomes.items()}
    (start,) = resent(replace(finished, summary=replace(finished.summary, outcomes=outcomes)), tmp_path)
    assert not [name for name in start.summary if name.startswith(("cra/", "h_min/", "running_cra/"))]
    assert start.summary["unsound/neyman_pearson"] > 0
    assert {row["CRA"] for row in start.table("tables/methods")} == {None}


def resent(finished, directory):
    """What is told of a finished run whose report shows no pictures."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [f"run_dir={directory}", "logger=wandb"])
    with session(train.settled(cfg), directory, "certify", ["x" * 100]) as logged:
        log_results(logged, Drawn(finished), lambda index: torch.rand(1, 8, 8))
    return told(directory)


def test_the_checkpoint_stays_here_where_that_is_asked(trained, tmp_path):
    run(train, tmp_path / "t", *TRAIN, "optimizer.epochs=1", "logger.log_checkpoint=false")
    (start,) = told(tmp_path / "t")
    assert start.exit_code == 0
    assert not start.artifacts


@pytest.mark.usefixtures("no_report")
def test_a_certification_that_was_stopped_and_killed_goes_on_in_the_same_run(trained, tmp_path):
    directory = tmp_path / "run"
    arguments = (f"ckpt={trained[0] / 'best.ckpt'}", *CERTIFY, *SLOW, "logger.log_checkpoint=false")
    begun = []
    for number, signum in ((4, signal.SIGTERM), (15, signal.SIGKILL)):
        process = start("certify", f"hydra.run.dir={directory}", *arguments)
        once_recorded(process, directory, number)
        sent = time.monotonic()
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (128 + signum, -signum), err
        assert time.monotonic() - sent < 15  # see tests/commands/test_signals.py
        if signum == signal.SIGTERM:
            assert "Stopped by SIGTERM after" in err
        begun.append(len(recorded(directory)))
        assert number <= begun[-1] < 40
    run(certify, directory, *arguments)
    stopped, killed, finished = told(directory)
    assert stopped.run.run_id == killed.run.run_id == finished.run.run_id == (directory / "wandb_id").read_text()
    assert stopped.exit_code == 1
    assert killed.exit_code in (None, 1)  # W&B's own process may notice
    assert finished.exit_code == 0
    told_of = [start.column("images") for start in (stopped, killed, finished)]
    images = [count for counts in told_of for count in counts]
    assert images == sorted(set(images))  # no step goes backwards, none comes twice
    assert max(told_of[0], default=0) <= begun[0] < told_of[2][0]
    assert images[-1] == 40
    assert len(images) >= 3
    assert not any(models(start) for start in (stopped, killed, finished))


def test_votes_go_on_without_wandb(trained, tmp_path):
    """W&B's own process dies in the middle."""
    directory = tmp_path / "run"
    ckpt = f"ckpt={trained[0] / 'best.ckpt'}"
    process = start("certify", f"hydra.run.dir={directory}", ckpt, *CERTIFY, *SLOW)
    once_recorded(process, directory, 1)
    os.kill(wandbs(process.pid), signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert len(recorded(directory)) == 40
    assert "Report: " in out
    assert err.count("the run goes on without it") == 1
    (told_of,) = told(directory, ended=False)
    assert told_of.exit_code is None


def wandbs(parent):
    """The process that wandb started for its work."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            facts = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if facts.get("PPid") == str(parent) and "wandb" in facts["Name"]:
            return int(facts["Pid"])
    raise AssertionError("wandb has no process of its own")


@pytest.mark.usefixtures("no_report")
def test_two_devices(trained, tmp_path):
    directory = tmp_path / "run"
    run(certify, directory, f"ckpt={trained[0] / 'best.ckpt'}", *CERTIFY, "trainer.devices=2")
    assert len(recorded(directory)) == 24
    (start,) = told(directory)
    assert start.exit_code == 0
    assert start.column("images") == sorted(set(start.column("images")))
    assert start.column("images")[-1] == 12  # the first process tells of its share


def test_a_failure_is_told(trained, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("something went wrong")

    monkeypatch.setattr(certify, "take_votes", failing)
    with pytest.raises(RuntimeError, match="something"):
        run(certify, tmp_path / "run", f"ckpt={trained[0] / 'best.ckpt'}", *CERTIFY)
    (start,) = told(tmp_path / "run")
    assert start.exit_code == 1


def test_wandb_that_cannot_be_had_stops_before_the_first_vote(trained, tmp_path):
    with pytest.raises(UserError, match=r"logger=wandb: .*; log in with `wandb login`, set WANDB_MODE=offline, or"):
        run(certify, tmp_path / "run", f"ckpt={trained[0] / 'best.ckpt'}", *CERTIFY, "logger.project=a/b")
    assert not recorded(tmp_path / "run")


def test_the_logger_decides_nothing(trained, tmp_path):
    run(train, tmp_path / "t", *TRAIN, "logger=csv")
    assert not list((tmp_path / "t").glob("wandb*"))
    with_wandb, without = (load_checkpoint(directory / "best.ckpt") for directory in (trained[0], tmp_path / "t"))
    assert with_wandb.metrics == without.metrics
    for name, value in without.state_dict.items():
        assert torch.equal(value, with_wandb.state_dict[name]), name
