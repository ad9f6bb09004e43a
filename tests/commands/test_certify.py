"""The certify command, from a checkpoint to summary.json, on a few digits."""

import csv
import json
import logging
import math
import os
import re
import sys

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

import glsmooth as gs
from glsmooth.bounds.confidence import clopper_pearson_lower, randomised_lower
from glsmooth.commands import certify
from glsmooth.commands.estimate import preflight
from glsmooth.commands.report import decide
from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.identity import file_digest
from glsmooth.errors import UserError
from glsmooth.learning import certification
from glsmooth.learning.checkpoint import KEY, Checkpoint, load_checkpoint, make_payload
from glsmooth.learning.data import load_dataset
from glsmooth.learning.models import build_model
from glsmooth.learning.trainer import device_name
from glsmooth.report import tables, wording
from glsmooth.report.comparison import write_comparison
from glsmooth.report.page import recertified_note
from glsmooth.runs.own import remember
from glsmooth.runs.records import Records
from glsmooth.runs.run import load_run
from glsmooth.runs.summary import Numbers
from glsmooth.transforms import Translation
from glsmooth.voting import tuning
from glsmooth.voting.classifier import BaseClassifier
from glsmooth.voting.draws import coin
from glsmooth.voting.finite import FiniteLaw
from glsmooth.voting.procedures import FixedSample, Sequential
from glsmooth.voting.speed import Speed
from tests.runs.test_records import in_another_process

METHODS = ("neyman_pearson", "gl", "tss", "mp")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network that was not trained, but for its last layer by least squares: right often enough."""
    torch.manual_seed(0)
    data = load_dataset({"name": "digits"})
    settings = {
        "transform": {"_target_": "glsmooth.transforms.Brightness"},
        "smoothing": {"brightness": {"law": "Normal", "loc": 0.0, "scale": 0.2}},
        "region": {"brightness": [-0.1, 0.1]},
        "dataset": {"name": "digits", "root": None, "image_size": None, "num_workers": 0, "subset": None},
        "model": {"name": "small_cnn", "pretrained": None, "weights": None},
        "loss": {"copies": 2, "consistency": 0.0, "entropy": 0.0, "pixel_noise": 0.0},
        "optimizer": {},
        "trainer": {"precision": "32-true"},
        "seed": 0,
    }
    settings["dataset"]["subset_seed"] = 0
    model = build_model(settings["model"], 10, 1, data.mean, data.std, data.image_size).eval()
    images, labels, _ = data.train[list(range(len(data.train)))]
    (head,) = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    features = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        brightness = 0.2 * torch.randn(len(images), 1, 1, 1)
        model(images + brightness)
        hook.remove()
        inputs = torch.cat([features[0], torch.ones(len(images), 1)], dim=1)
        targets = torch.nn.functional.one_hot(labels, 10).float()
        solution = torch.linalg.lstsq(inputs, targets, driver="gelsd").solution
        head.weight.copy_(solution[:-1].T)
        head.bias.copy_(solution[-1])
    path = tmp_path_factory.mktemp("train") / "best.ckpt"
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, KEY: {**make_payload(settings, data), "metrics": {}}}, path)
    return path


@pytest.fixture
def no_report(monkeypatch):
    """Pictures take seconds and have tests of their own."""
    monkeypatch.setattr(certify, "write_report", lambda directory, **_: (directory / "table.md").write_text(""))


#: What is otherwise measured first.
SETTLED = ("batch_size=256", "channels_last=false", "compile=false", "threads=1")
AUTO = tuple(f"{setting.partition('=')[0]}=auto" for setting in SETTLED)


def run(checkpoint, directory, *overrides):
    directory.mkdir(exist_ok=True)
    draws = [] if "monte_carlo=exhaustive" in overrides else ["monte_carlo.n0=20", "monte_carlo.n=100"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(
            "certify",
            [
                f"ckpt={checkpoint}",
                f"run_dir={directory}",
                "trainer.accelerator=cpu",
                "dataset.subset=12",
                *SETTLED,
                *draws,
                *overrides,
            ],
        )
    certify.run(cfg)


def read(directory):
    with (directory / "records.csv").open() as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((directory / "summary.json").read_text())


def check_stored(directory):
    """A run's own records pass every check of a stranger's, and are decided by the numbers that they hold."""
    stored, (rows, summary) = load_run(directory), read(directory)
    assert stored.p_lower.tolist() == [float(row["p_lower"]) for row in rows]
    for name, entry in summary["methods"].items():
        assert stored.outcomes[name].h_min == entry["required_probability"]


def test_a_run_from_start_to_report(checkpoint, tmp_path, capsys, rendering):
    run(checkpoint, tmp_path)
    rows, summary = read(tmp_path)
    check_stored(tmp_path)
    out, err = capsys.readouterr()
    assert str(tmp_path / "report.html") in out
    assert "required probability 0.69" in err
    for name in ("table.md", "report.html", "config.yaml", "figure1.npz"):
        assert (tmp_path / name).stat().st_size > 0
    assert len(rows) == summary["images"] == 12
    assert [int(row["index"]) for row in rows] == sorted(int(row["index"]) for row in rows)
    h_min = summary["methods"]["neyman_pearson"]["required_probability"]
    assert h_min == pytest.approx(0.691462, abs=1e-4)  # Φ(0.1 / 0.2)
    for row in rows:
        assert float(row["p_lower"]) == clopper_pearson_lower(int(row["count"]), 100, 1e-3)
        assert (row["certified_neyman_pearson"] == "1") == (float(row["p_lower"]) > h_min)
    correct = [row["prediction"] == row["label"] for row in rows]
    certified = [row["certified_neyman_pearson"] == "1" for row in rows]
    cra = sum(a and b for a, b in zip(correct, certified, strict=True)) / 12
    assert 0.2 < cra < 1
    assert summary["methods"]["neyman_pearson"]["certified_robust_accuracy"] == pytest.approx(cra)
    assert summary["smoothed_accuracy"] == pytest.approx(sum(correct) / 12)
    base = sum(row["base_prediction"] == row["label"] for row in rows) / 12
    assert summary["base_accuracy"] == pytest.approx(base)
    assert summary["votes_used"] == 12 * 120
    assert summary["invocation"]["evaluations"] == -(-12 * 121 // 256) * 256
    assert summary["methods"]["mp"]["certified_robust_accuracy"] is None
    assert "MP" in summary["methods"]["mp"]["reason"]
    assert summary["checkpoint"]["sha256"] == file_digest(checkpoint)
    assert summary["training"] == load_checkpoint(checkpoint).identity
    assert summary["training"]["smoothing.brightness.scale"] == 0.2
    assert summary["monte_carlo"] == {
        "name": "paper", "n0": 20, "n": 100, "alpha": 1e-3, "vote": "argmax", "interval": "one-sided"
    }  # fmt: skip


@pytest.mark.usefixtures("no_report")
def test_what_is_certified_is_the_network_in_the_precision_of_its_training(
    checkpoint, tmp_path, capsys, no_report, monkeypatch
):
    content = torch.load(checkpoint, weights_only=True)
    content[KEY]["precision"] = "bf16-mixed"
    torch.save(content, tmp_path / "best.ckpt")
    used = set()

    class Watched(BaseClassifier):
        def __init__(self, *args, precision, **options):
            used.add(precision)
            super().__init__(*args, precision=precision, **options)

    monkeypatch.setattr(certification, "BaseClassifier", Watched)
    run(tmp_path / "best.ckpt", tmp_path / "auto")
    assert used == {"bf16-mixed"}
    assert "another base classifier" not in capsys.readouterr().err
    run(tmp_path / "best.ckpt", tmp_path / "typed", "precision=32-true")
    assert (
        "precision=32-true: certifies another base classifier than the one that was trained and validated, in "
        "bf16-mixed\n" in capsys.readouterr().err
    )
    run(tmp_path / "best.ckpt", tmp_path / "auto", "precision=bf16-mixed")  # the same run, which is finished
    assert used == {"bf16-mixed", "32-true"}
    for name, precision in (("auto", "bf16-mixed"), ("typed", "32-true")):
        assert read(tmp_path / name)[1]["precision"] == precision
        assert f"precision: {precision}\n" in (tmp_path / name / "config.yaml").read_text()


def test_the_same_command_again_and_a_torn_file(checkpoint, tmp_path):
    run(checkpoint, tmp_path)
    content = (tmp_path / "records.csv").read_bytes()
    (tmp_path / "records.csv").write_bytes(content[:-30])
    run(checkpoint, tmp_path, "batch_size=64")
    assert (tmp_path / "records.csv").read_bytes() == content
    assert read(tmp_path)[1]["invocation"]["images"] == 1
    with pytest.raises(UserError, match=r"monte_carlo\.n=100, this run has monte_carlo\.n=200"):
        run(checkpoint, tmp_path, "monte_carlo.n=200")
    with pytest.raises(UserError, match=r"region\.brightness=\[-0\.1, 0\.1\], this run has"):
        run(checkpoint, tmp_path, "region.brightness=[-0.2,0.2]")
    # A folder of images whose content changed has other indices under the same settings.
    with (tmp_path / "records.csv").open("a") as file:
        file.write(content.decode().splitlines()[-1].replace(f"{read(tmp_path)[0][-1]['index']},", "5000,", 1) + "\n")
    with pytest.raises(UserError, match="its records hold image 5000, which is not one of this run's"):
        run(checkpoint, tmp_path)


def test_the_directory_is_held_until_the_report_is_written(checkpoint, tmp_path, monkeypatch):
    """Whoever starts the same command meanwhile would remove as leftovers what is being written."""
    told = []

    def report(directory, **_):
        told.append(in_another_process(lambda: Records(directory, {}, []).path.name))
        (directory / "table.md").write_text("")

    monkeypatch.setattr(certify, "write_report", report)
    run(checkpoint, tmp_path)
    assert "another process is writing here" in told[0]
    assert "its records were taken with" in in_another_process(lambda: Records(tmp_path, {}, []))


def test_images_of_a_size_that_the_network_does_not_take(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"name=small_cnn: does not take 1x2x2 images \(.*\); use another model, or"):
        run(checkpoint, tmp_path, "dataset.image_size=[2,2]")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_report")
def test_an_allocation_of_slurm_without_srun_is_one_machine(checkpoint, tmp_path, monkeypatch):
    for name, value in {"JOB_ID": "17", "JOB_NAME": "work", "NODELIST": "n1", "NTASKS": "2", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    run(checkpoint, tmp_path, "dataset.subset=2")
    assert len(read(tmp_path)[0]) == 2


@pytest.mark.usefixtures("no_report")
def test_a_batch_is_no_larger_than_its_images_fill(checkpoint, tmp_path, capsys):
    run(checkpoint, tmp_path / "dry", "dataset.subset=2", "batch_size=1000000", "dry_run=true")
    assert f"in batches of {2 * 121}, contiguous, not compiled, 1 thread\n" in capsys.readouterr().out
    run(checkpoint, tmp_path / "run", "dataset.subset=2", "batch_size=1000000")
    assert read(tmp_path / "run")[1]["invocation"]["evaluations"] == 2 * 121


@pytest.mark.usefixtures("no_report")
def test_the_speed_is_measured_printed_recorded_and_kept(checkpoint, tmp_path, capsys, monkeypatch):
    run(checkpoint, tmp_path / "settled")
    assert "Speed: batches of 256, contiguous, not compiled, 1 thread (as set)\n" in capsys.readouterr().err
    run(checkpoint, tmp_path / "auto", *AUTO)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Speed: ")]
    kept = json.loads((tmp_path / "auto" / "speed.json").read_text())
    device = kept.pop("device")
    assert device == device_name(torch.device("cpu"))
    assert line.startswith(f"Speed: {Speed(**kept).words('cpu')} (measured in ")
    assert read(tmp_path / "auto")[1]["speed"] == kept
    check_stored(tmp_path / "auto")
    typed = " ".join(f"{key}={json.dumps(value)}" for key, value in kept.items())  # as it is typed to run it again
    assert ("speed", typed) in tables.provenance(load_run(tmp_path / "auto"))
    # No draw depends on it; nor does a vote, here.
    records = (tmp_path / "auto" / "records.csv").read_bytes()
    assert records == (tmp_path / "settled" / "records.csv").read_bytes()

    # Killed after five images, the run goes on as it began.
    (tmp_path / "auto" / "records.csv").write_bytes(b"".join(records.splitlines(keepends=True)[:6]))
    (tmp_path / "auto" / "speed.json").write_text(json.dumps({"device": device, **kept, "batch_size": 48}))
    searches = []
    monkeypatch.setattr(tuning._Search, "run", lambda self: searches.append(self.device))
    run(checkpoint, tmp_path / "auto", *AUTO)
    assert "Speed: batches of 48, " in (err := capsys.readouterr().err)
    assert "(as when the run began)" in err
    assert searches == []
    assert read(tmp_path / "auto")[1]["speed"] == {**kept, "batch_size": 48}
    assert (tmp_path / "auto" / "records.csv").read_bytes() == records
    # What is typed counts.
    (tmp_path / "auto" / "records.csv").write_bytes(b"".join(records.splitlines(keepends=True)[:6]))
    run(checkpoint, tmp_path / "auto", *AUTO, "batch_size=32")
    assert read(tmp_path / "auto")[1]["speed"] == {**kept, "batch_size": 32}


@pytest.mark.usefixtures("no_report")
def test_a_speed_chosen_for_another_device_is_not_kept(checkpoint, tmp_path):
    run(checkpoint, tmp_path)
    records = (tmp_path / "records.csv").read_bytes()
    (tmp_path / "records.csv").write_bytes(b"".join(records.splitlines(keepends=True)[:6]))
    settings = {"batch_size": 48, "channels_last": True, "compile": False, "threads": 1}
    (tmp_path / "speed.json").write_text(json.dumps({"device": "NVIDIA H100", **settings}))
    run(checkpoint, tmp_path, "batch_size=auto")
    assert json.loads((tmp_path / "speed.json").read_text())["device"] == device_name(torch.device("cpu"))
    assert not read(tmp_path)[1]["speed"]["channels_last"]
    assert (tmp_path / "records.csv").read_bytes() == records


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not readable as JSON"),
        ("[]", "holds list, not an object"),
        ({"batch_size": 0}, "batch_size is 0, not a whole number, at least 1"),
        ({"batch_size": "auto"}, "batch_size is 'auto', not a whole number"),
        ({"threads": 1e9}, "threads is 1000000000.0, not a whole number"),
        ({"device": 3}, "device is 3, not a text"),
        ({"more": 3}, "more=3 is not known here"),
        ({"compile": None}, "compile is null, not true or false"),
    ],
)
def test_a_speed_that_means_nothing(checkpoint, tmp_path, content, words):
    settings = {"device": "CPU", "batch_size": 8, "channels_last": True, "compile": False, "threads": 1}
    text = content if isinstance(content, str) else json.dumps({**settings, **content})
    (tmp_path / "speed.json").write_text(text)
    with pytest.raises(UserError, match=rf"speed\.json: .*{words}.*; remove it, and the speed is measured anew"):
        run(checkpoint, tmp_path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.accelerator=abacus", "trainer.accelerator=abacus, trainer.devices=1: .*abacus"),
        ("+trainer.strategy=guess", "trainer.strategy=guess: .*guess"),
    ],
)
def test_what_lightning_does_not_know_is_a_mistake(checkpoint, tmp_path, override, words):
    with pytest.raises(UserError, match=f"{words}.*; set trainer.accelerator=cpu"):
        run(checkpoint, tmp_path, override)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_a_gpu_that_is_not_there_is_a_mistake(checkpoint, tmp_path, dry_run):
    with pytest.raises(UserError, match=r"^trainer.accelerator=gpu.*; set trainer.accelerator=cpu"):
        run(checkpoint, tmp_path, "trainer.accelerator=gpu", f"dry_run={dry_run}")


@pytest.mark.usefixtures("no_report")
def test_the_picture_shows_the_first_counting_draws(checkpoint, tmp_path):
    run(checkpoint, tmp_path)
    rows, _ = read(tmp_path)
    figure = np.load(tmp_path / "figure1.npz")
    row = next(row for row in rows if int(row["index"]) == figure["index"])
    assert row["certified_neyman_pearson"] == "1"
    data = load_dataset({"name": "digits"})
    image, label, _ = data.test[int(figure["index"])]
    np.testing.assert_array_equal(figure["image"], image.numpy())
    assert str(label) == row["label"]
    moved = figure["image"] + figure["theta"][:, :, None, None]
    np.testing.assert_allclose(figure["transformed"], moved, atol=1e-6)
    model = load_checkpoint(checkpoint).build_model()
    with torch.no_grad():
        np.testing.assert_array_equal(figure["votes"], model(torch.from_numpy(figure["transformed"])).argmax(1))


@pytest.mark.usefixtures("no_report")
def test_sequential(checkpoint, tmp_path):
    run(checkpoint, tmp_path / "fixed")
    run(
        checkpoint,
        tmp_path / "sequential",
        "monte_carlo=sequential",
        "monte_carlo.n0=200",
        "monte_carlo.n=2000",
    )
    fixed, (rows, summary) = read(tmp_path / "fixed")[1], read(tmp_path / "sequential")
    assert summary["votes_per_image"] < 120
    assert set(summary["monte_carlo"]["stopped_for"]) == {"neyman_pearson", "gl", "tss"}
    cra = [s["methods"]["neyman_pearson"]["certified_robust_accuracy"] for s in (fixed, summary)]
    assert cra[1] >= cra[0] - 1 / 12  # a hundred votes leave some undecided, two thousand do not
    assert all(int(row["n"]) <= 2000 for row in rows)
    check_stored(tmp_path / "sequential")
    # Records that an older version began have no look, and go on without.
    records = tmp_path / "sequential" / "records.csv"
    lines = [line.split(",") for line in records.read_text().splitlines()]
    first = lines[0].index("look_count")
    older = [",".join(line[:first] + line[first + 2 :]) + "\n" for line in lines]
    records.write_text("".join(older[:5]))
    run(checkpoint, tmp_path / "sequential", "monte_carlo=sequential", "monte_carlo.n0=200", "monte_carlo.n=2000")
    assert records.read_text() == "".join(older)
    # One test for all rows: what an older version left, whose runs named none, is not continued.
    assert summary["monte_carlo"]["mixture"] == "sure"
    identity = tmp_path / "sequential" / "identity.json"
    stated = json.loads(identity.read_text())
    assert stated.pop("monte_carlo.mixture") == "sure"
    assert "monte_carlo.mixture" not in json.loads((tmp_path / "fixed" / "identity.json").read_text())
    identity.write_text(json.dumps(stated))
    with pytest.raises(UserError, match=r"no monte_carlo\.mixture stated, this run has monte_carlo\.mixture=sure"):
        run(checkpoint, tmp_path / "sequential", "monte_carlo=sequential")


SHIFTS = ("transform=translation", "smoothing.tx.scale=2", "region.tx=[-1,1]", "bound.methods=[neyman_pearson]")


def test_classes_and_images_may_be_called_anything(tmp_path, capsys, rendering):
    """From the folder to the report: bytes that are no text, control characters, and signs of markup."""
    names = [b"caf\xe9", b"two\nlines", b"$x^$ a|b\\c"]
    for name in names:
        folder = tmp_path / "images" / os.fsdecode(name)
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            with (folder / os.fsdecode(b"im\xe9%d.png" % i)).open("wb") as file:
                Image.fromarray(pixels).save(file, format="png")
    dataset = {
        "name": "image_folder",
        "root": str(tmp_path / "images"),
        "image_size": [8, 8],
        "num_workers": 0,
        "subset": None,
        "subset_seed": 0,
    }
    settings = {
        "transform": {"_target_": "glsmooth.transforms.Brightness"},
        "smoothing": {"brightness": {"law": "Normal", "loc": 0.0, "scale": 0.2}},
        "region": {"brightness": [-0.01, 0.01]},
        "dataset": dataset,
        "model": {"name": "small_cnn", "pretrained": None, "weights": None},
        "loss": {"copies": 2, "consistency": 0.0, "entropy": 0.0, "pixel_noise": 0.0},
        "optimizer": {},
        "trainer": {"precision": "32-true"},
        "seed": 0,
    }
    data = load_dataset(dataset)
    shown = [r"$x^$ a|b\c", r"caf\udce9", r"two\nlines"]
    assert list(data.class_names) == shown
    state = build_model(settings["model"], 3, 3, data.mean, data.std, data.image_size).state_dict()
    path = tmp_path / "best.ckpt"
    payload = {**make_payload(settings, data), "metrics": {}}
    torch.save({"state_dict": {f"model.{key}": value for key, value in state.items()}, KEY: payload}, path)
    remember([path])
    run(path, tmp_path / "run", "dataset.subset=6", "bound.methods=[neyman_pearson]")
    assert capsys.readouterr().out.replace("\n", "").isprintable()
    _, summary = read(tmp_path / "run")
    assert summary["classes"] == shown
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert any(name in page for name in shown)
    assert "\udce9" not in page
    assert (tmp_path / "run" / "gallery.svg").is_file()


def test_exhaustive(checkpoint, tmp_path, capsys):
    """From the command to the report, and again for other regions: no probability of error is named anywhere."""
    run(checkpoint, tmp_path / "shifts", *SHIFTS, "monte_carlo=exhaustive")
    rows, summary = read(tmp_path / "shifts")
    check_stored(tmp_path / "shifts")
    shown = capsys.readouterr()
    law = FiniteLaw.of(load_run(tmp_path / "shifts").family)
    h_min = summary["methods"]["neyman_pearson"]["required_probability"]
    needed = np.searchsorted(law.cumulative, law.needed(h_min))
    assert f"at least {needed} of the {len(law.weights)} shifts" in shown.err
    assert summary["monte_carlo"]["alpha"] == 0.0
    assert "without any probability of error in the votes" in shown.out
    for words in ("α", "except with probability", "fails with"):
        assert words not in shown.out
        assert words not in (tmp_path / "shifts" / "report.html").read_text()
    certified = [row for row in rows if row["certified_neyman_pearson"] == "1"]
    assert 2 < len(certified) < 12
    for row in rows:
        assert row["n0"] == "0"
        assert int(row["count"]) <= int(row["n"]) <= len(law.weights)
        assert float(row["p_lower"]) <= law.lower(law.cumulative[int(row["count"])])  # at most the likeliest shifts
    assert min(int(row["n"]) for row in certified) == needed
    assert summary["votes_used"] == sum(int(row["n"]) for row in rows)
    figure = np.load(tmp_path / "shifts" / "figure1.npz")
    np.testing.assert_array_equal(figure["theta"], law.points[:8])
    # A smaller region, from the same visits.
    note = recertified_note(*decide(load_run(tmp_path / "shifts"), {"tx": [0, 1]}, None))
    assert "every shift that was not visited counts against the class" in note
    # More than the likeliest shifts weigh is no sum of theirs.
    genuine = (tmp_path / "shifts" / "records.csv").read_bytes()
    row = max(rows, key=lambda row: float(row["p_lower"]))
    forged = genuine.replace(
        row["p_lower"].encode(), repr(law.lower(law.cumulative[int(row["count"])]) + 1e-6).encode()
    )
    (tmp_path / "shifts" / "records.csv").write_bytes(forged)
    with pytest.raises(UserError, match=rf"index \d+: p_lower=.*, but count={row['count']} of n={row['n']} at alpha=0"):
        load_run(tmp_path / "shifts")
    (tmp_path / "shifts" / "records.csv").write_bytes(genuine)
    # The bytes do not depend on the batch.
    content = (tmp_path / "shifts" / "records.csv").read_bytes()
    (tmp_path / "shifts" / "records.csv").write_bytes(content[: content[:-1].rfind(b"\n") + 1])
    run(checkpoint, tmp_path / "shifts", *SHIFTS, "monte_carlo=exhaustive", "batch_size=37")
    assert (tmp_path / "shifts" / "records.csv").read_bytes() == content


def test_exhaustive_dry_run(checkpoint, tmp_path, capsys):
    run(checkpoint, tmp_path, *SHIFTS, "monte_carlo=exhaustive", "dry_run=true")
    fewest, most = (
        int(number.replace(",", ""))
        for number in re.search(r"Network passes:  ([\d,]+) to ([\d,]+)", capsys.readouterr().out).groups()
    )
    law = FiniteLaw.of(gs.SmoothedFamily(Translation(), dict.fromkeys(("tx", "ty"), gs.Normal(0.0, 2.0)), (32, 32)))
    assert most == 12 * (len(law.weights) + 1)
    assert 24 < fewest < most


def test_exhaustive_refuses_what_is_not_finite(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"monte_carlo=exhaustive: brightness .*use monte_carlo=paper"):
        run(checkpoint, tmp_path, "monte_carlo=exhaustive")
    with pytest.raises(ValueError, match="stochastic=true: monte_carlo=exhaustive"):
        run(checkpoint, tmp_path, *SHIFTS, "monte_carlo=exhaustive", "stochastic=true")
    with pytest.raises(UserError, match=r"pixel_noise=0\.1 .*set pixel_noise=0"):
        run(checkpoint, tmp_path, *SHIFTS, "monte_carlo=exhaustive", "pixel_noise=0.1")


@pytest.mark.usefixtures("no_report")
def test_randomised(checkpoint, tmp_path):
    """The same votes, a coin each, which the records keep; other regions are decided with it."""
    run(checkpoint, tmp_path / "plain")
    run(checkpoint, tmp_path / "coins", "monte_carlo.randomised=true")
    (plain, _), (rows, summary) = read(tmp_path / "plain"), read(tmp_path / "coins")
    assert summary["monte_carlo"]["randomised"] is True
    assert "coin" not in plain[0]
    for before, row in zip(plain, rows, strict=True):
        assert {name: row[name] for name in ("index", "prediction", "n", "count")} == {
            name: before[name] for name in ("index", "prediction", "n", "count")
        }
        assert float(row["coin"]) == coin(0, int(row["index"]))
        expected = randomised_lower(int(row["count"]), 100, 1e-3, float(row["coin"]))
        assert float(before["p_lower"]) <= float(row["p_lower"]) == expected
    check_stored(tmp_path / "coins")
    stored = load_run(tmp_path / "coins")
    assert stored.columns["coin"].tolist() == [float(row["coin"]) for row in rows]
    words = dict(tables.settings(stored, stored.region, stored.outcomes))["Monte Carlo"]
    assert "randomised Clopper–Pearson lower bound" in words
    assert "drawing it again would void it" in tables.assumptions(stored, stored.outcomes)[0]
    outcome = stored.evaluate(stored.region, ["neyman_pearson"])["neyman_pearson"]
    assert outcome.certifies(stored.p_lower).tolist() == [row["certified_neyman_pearson"] == "1" for row in rows]
    # A coin that was tossed again, or lost, is noticed.
    text = (tmp_path / "coins" / "records.csv").read_text()
    (tmp_path / "coins" / "records.csv").write_text(text.replace(rows[3]["coin"], "0.001"))
    with pytest.raises(UserError, match=rf"index {rows[3]['index']}: coin=0\.001 is not the one of seed=0"):
        load_run(tmp_path / "coins")
    with (tmp_path / "coins" / "records.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != "coin"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(UserError, match="no column 'coin'"):
        load_run(tmp_path / "coins")


@pytest.mark.usefixtures("no_report")
def test_paper_literal(checkpoint, tmp_path):
    run(checkpoint, tmp_path, "monte_carlo=paper_literal")
    rows, summary = read(tmp_path)
    check_stored(tmp_path)
    assert summary["monte_carlo"]["vote"] == "majority"
    for row in rows:
        assert float(row["p_lower"]) == clopper_pearson_lower(int(row["count"]), 100, 5e-4)
    # Least-squares logits in [0, 1] give softmax values below 1/2: nothing is a majority.
    assert int(rows[0]["abstain_votes"]) == 120
    assert summary["base_accuracy"] > 0.5  # the base classifier predicts without a majority


@pytest.mark.usefixtures("no_report")
def test_another_transformation_takes_its_own_defaults(checkpoint, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run(checkpoint, tmp_path, "transform=contrast", "bound.methods=[neyman_pearson]")
    assert "default laws" in caplog.text
    _, summary = read(tmp_path)
    assert list(summary["smoothing"]) == ["contrast"]


def test_a_dry_run_writes_nothing(checkpoint, tmp_path, capsys):
    run(checkpoint, tmp_path, "dry_run=true")
    out = capsys.readouterr().out
    assert "Images:          12" in out
    assert f"Network passes:  {12 * 121:,}" in out
    assert list(tmp_path.iterdir()) == []


def test_other_classes_are_refused(checkpoint, tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            from PIL import Image

            Image.new("L", (32, 32)).save(tmp_path / "data" / part / name / "0.png")
    with pytest.raises(UserError, match=r"its 2 classes \(a, b …\) are not the checkpoint's 10"):
        run(
            checkpoint,
            tmp_path / "run",
            "dataset=image_folder",
            f"dataset.root={tmp_path / 'data'}",
            "dataset.image_size=[32,32]",
            "dataset.subset=2",
        )


def entry(h_min, sound=True, reason=""):
    return gs.bounds.Outcome(h_min, None, "gl", sound=sound, argument=reason)


def test_preflight_says_which_n_can_never_do():
    methods = {
        "neyman_pearson": entry(0.99639),
        "gl": entry(0.7),
        "tss": entry(1.0),
        "mp": entry(None, reason="MP covers gamma alone"),
        "gl_printed": entry(0.6, sound=False),
    }
    lines = preflight(methods, FixedSample(200, 1000)).splitlines()
    assert "0.9964, at least 1911 votes: n = 1000 can never certify; set monte_carlo.n=1911 or more" in lines[0]
    assert "can never" not in lines[1]
    assert "no number of votes" in lines[2]
    assert "does not apply: MP covers gamma alone" in lines[3]
    assert "unsound: never counts" in lines[4]
    lines = preflight(methods, Sequential({}, n=2000)).splitlines()
    assert "set monte_carlo.n=2068 or more" in lines[0]
    lines = preflight(methods, FixedSample(200, 1000, randomised=True)).splitlines()
    chance = 1e-3 / 0.99639**1000
    assert f"certify in {math.floor(1000 * chance) / 10} % of images, by their coins" in lines[0]


def row(prediction, n, p_lower):
    values = {"index": 0, "label": 0, "prediction": prediction, "n0": 16, "n": n, "count": 0, "p_lower": p_lower}
    return values | {"base_prediction": 0, "abstain_votes": 0, "nonfinite_votes": 0, "near_ties": 0}


def as_columns(rows):
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def test_what_was_given_up_does_not_abstain():
    rows = [
        row(0, 2000, 0.5),  # all draws taken, and not proved: abstains
        row(0, 2000, 0.51),
        row(0, 40, 0.5),  # given up
        row(0, 40, 0.6),
        row(-1, 0, 0.0),  # no draw voted for any class: abstains
    ]
    numbers = Numbers.of(as_columns(rows), most=2000)
    assert (numbers.abstained, numbers.given_up) == (0.4, 0.2)
    # With a fixed number of draws nothing is given up.
    assert Numbers.of(as_columns(rows[:1]), most=2000).given_up == 0


CLAMPING_TARGET = "my_clamping_module.Clamping"
CLAMPING = """
import torch
import glsmooth as gs

class Clamping(gs.ResolvableTransform):
    name = "clamping"
    factors = (gs.transforms.Shift("b"),)

    def __init__(self, low=0.0, high=1.0):
        self.low, self.high = low, high

    def apply(self, images, theta):
        return (images + theta[:, 0].to(images)[:, None, None, None]).clamp(self.low, self.high)
"""


@pytest.fixture
def clamping(tmp_path, monkeypatch):
    """Overrides that take a user's brightness that clamps, by default to [0, 1]."""
    (tmp_path / "my_clamping_module.py").write_text(CLAMPING)
    monkeypatch.syspath_prepend(tmp_path)
    yield [
        "transform=custom",
        f"transform._target_={CLAMPING_TARGET}",
        "+smoothing.b={law:Normal,scale:0.2}",
        "+region.b=[-0.1,0.1]",
        "bound.methods=[neyman_pearson,gl]",
    ]
    sys.modules.pop("my_clamping_module", None)


PLAIN = """
import torch
import glsmooth as gs

class Plain(gs.ResolvableTransform):
    name = "plain"
    parameters = ("b",)
    identity = torch.zeros(1, dtype=torch.float64)

    def apply(self, images, theta):
        return images + theta[:, 0].to(images)[:, None, None, None]

    def resolve(self, alpha, beta):
        return alpha + beta

class Shown(Plain):
    def inverse(self, theta, beta):
        return theta - beta
"""


@pytest.mark.parametrize("monte_carlo", ["paper", "sequential"])
@pytest.mark.parametrize("name", ["Plain", "Shown"])
def test_a_users_transformation_without_factors(checkpoint, tmp_path, monkeypatch, name, monte_carlo):
    """With inverse a box is proved; without it GL's estimate is all there is, and it stops no votes."""
    (tmp_path / "my_plain_module.py").write_text(PLAIN)
    monkeypatch.syspath_prepend(tmp_path)
    target = f"transform._target_=my_plain_module.{name}"
    region = ["+smoothing.b={law:Normal,scale:0.3}", "+region.b=[-0.1,0.1]", "bound.methods=[neyman_pearson,gl]"]
    votes = [f"monte_carlo={monte_carlo}", "monte_carlo.n=100"]
    run(checkpoint, tmp_path / "run", "transform=custom", target, *region, *votes)
    sys.modules.pop("my_plain_module", None)
    _, summary = read(tmp_path / "run")
    said = summary["methods"]
    assert not said["gl"]["sound"]
    assert said["gl"]["certified_robust_accuracy"] == 0
    if name == "Shown":
        exact = gs.required_probability(
            gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0, 0.3)}),
            gs.Box(brightness=(-0.1, 0.1)),
        )
        assert exact <= said["neyman_pearson"]["required_probability"] <= exact + 0.02
        assert said["neyman_pearson"]["sound"]
    else:
        assert said["neyman_pearson"]["required_probability"] is None
    if monte_carlo == "sequential":
        assert set(summary["monte_carlo"]["stopped_for"]) == ({"neyman_pearson"} if name == "Shown" else set())


def test_a_users_transformation_that_is_not_resolvable_is_refused_before_the_first_vote(checkpoint, tmp_path, clamping):
    with pytest.raises(ValueError, match=r"Clamping is not resolvable as it says: .* at α = \(b .*approximate=true"):
        run(checkpoint, tmp_path / "run", *clamping)
    assert not (tmp_path / "run" / "records.csv").exists()
    with pytest.raises(ValueError, match="Clamping is not resolvable"):
        run(checkpoint, tmp_path / "run", *clamping, "dry_run=true")


@pytest.mark.parametrize("monte_carlo", ["paper", "sequential"])
def test_an_approximation_says_so_everywhere_and_never_counts(checkpoint, tmp_path, clamping, capsys, monte_carlo):
    run(checkpoint, tmp_path / "run", *clamping, f"monte_carlo={monte_carlo}", "monte_carlo.n=100", "approximate=true")
    out, err = capsys.readouterr()
    assert "(approximate: never counts as certified)" in err
    rows, summary = read(tmp_path / "run")
    residual = summary["approximate"]["residual"]
    assert 0.01 < residual < 2
    assert {row[f"certified_{method}"] for row in rows for method in ("neyman_pearson", "gl")} == {"0"}
    p_lower = [float(row["p_lower"]) for row in rows]
    assert max(p_lower) > summary["methods"]["neyman_pearson"]["required_probability"]  # it would have counted
    for entry in summary["methods"].values():
        assert not entry["sound"]
        assert entry["certified_robust_accuracy"] == 0
        assert entry["residual"] == residual
    words = f"approximate, residual {residual:.2g}"
    for text in (out, (tmp_path / "run" / "table.md").read_text(), (tmp_path / "run" / "report.html").read_text()):
        assert words in text
        assert "provably" not in text
    assert "Approximate: the transformation is not resolvable" in out

    # Decided again for another region, and compared with a sound run.
    stored = load_run(tmp_path / "run", transform_target=CLAMPING_TARGET)
    other = stored.evaluate(gs.Box(b=(-0.01, 0.01)), ["neyman_pearson"])["neyman_pearson"]
    found = (other.sound, other.certifies(stored.p_lower).any(), wording.standing(other))
    assert found == (False, False, words)
    table = write_comparison([(stored, stored.region, stored.outcomes)] * 2, tmp_path / "both")
    assert words in table

    # A summary that keeps quiet about it: the class is tried again.
    if monte_carlo == "paper":
        forged = {**summary, "approximate": None}
        forged["methods"] = {
            name: {**entry, "sound": True, "certified_robust_accuracy": None}
            for name, entry in summary["methods"].items()
        }
        genuine = (tmp_path / "run" / "records.csv").read_text()
        h_min = forged["methods"]["neyman_pearson"]["required_probability"]
        table = [
            list(rows[0]),
            *([*list(row.values())[:-2], *2 * [str(int(float(row["p_lower"]) > h_min))]] for row in rows),
        ]
        (tmp_path / "run" / "records.csv").write_text("".join(",".join(cells) + "\n" for cells in table))
        (tmp_path / "run" / "summary.json").write_text(json.dumps(forged))
        stored = load_run(tmp_path / "run", transform_target=CLAMPING_TARGET)
        assert not any(outcome.certifies(1.0) for outcome in stored.outcomes.values())
        assert wording.standing(stored.outcomes["neyman_pearson"]).startswith("approximate, residual")
        (tmp_path / "run" / "records.csv").write_text(genuine)

    # The records are those of an approximation: mended code does not take them over.
    with pytest.raises(UserError, match=r"approximate=true, this run has no approximate stated"):
        run(checkpoint, tmp_path / "run", *clamping, "+transform.low=-9", "+transform.high=9", "approximate=true")


def test_a_users_transformation_is_tried_again_on_another_region(checkpoint, tmp_path, clamping):
    """Clamped at 2.5, which no draw of the run's region reaches and a larger region does."""
    run(checkpoint, tmp_path / "run", *clamping, "+transform.low=-2.5", "+transform.high=2.5")
    rows, summary = read(tmp_path / "run")
    assert summary["approximate"] is None
    assert "1" in {row["certified_neyman_pearson"] for row in rows}
    stored = load_run(tmp_path / "run", transform_target=CLAMPING_TARGET)
    assert len(stored.example) == 1
    small, large = (stored.evaluate(gs.Box(b=(-b, b)), ["neyman_pearson"])["neyman_pearson"] for b in (0.05, 1.6))
    assert small.sound
    assert small.certifies(stored.p_lower).any()
    assert not large.sound
    assert wording.standing(large).startswith("approximate, residual")


@pytest.mark.usefixtures("no_report")
def test_a_random_network_needs_stochastic(checkpoint, tmp_path, monkeypatch):
    class Noisy(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images + 0.05 * torch.randn_like(images))

    build = Checkpoint.build_model
    monkeypatch.setattr(Checkpoint, "build_model", lambda self, _: Noisy(build(self)).eval())
    with pytest.raises(ValueError, match=r"random in evaluation mode.*stochastic=true"):
        run(checkpoint, tmp_path, "dataset.subset=4")
    with pytest.raises(ValueError, match=r"random in evaluation mode.*stochastic=true"):
        run(checkpoint, tmp_path / "dry", "dataset.subset=4", "dry_run=true")
    run(checkpoint, tmp_path, "dataset.subset=4", "stochastic=true")
    rows, summary = read(tmp_path)
    assert len(rows) == 4
    assert summary["stochastic"] is True
    assert any("randomness afresh" in sentence for sentence in tables.assumptions(load_run(tmp_path), {}))


@pytest.mark.usefixtures("no_report")
def test_a_network_that_starts_to_change_itself_leaves_no_row_from_then_on(checkpoint, tmp_path, monkeypatch):
    class Drifts(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.passes = network, 0

        def forward(self, images):
            self.passes += 1
            if self.passes > 10:  # five passes are the accuracy's, four the trial, the next two are the votes
                next(iter(self.network.parameters())).data.add_(1e-3)
            return self.network(images)

    build = Checkpoint.build_model
    monkeypatch.setattr(Checkpoint, "build_model", lambda self, _: Drifts(build(self)).eval())
    monkeypatch.setattr(certification, "SECONDS_A_WRITE", 0.0)
    with pytest.raises(ValueError, match="changes itself in evaluation mode"):
        run(checkpoint, tmp_path, "dataset.subset=4")
    # A header, and the two images whose votes fill the first batch.
    assert (tmp_path / "records.csv").read_text().count("\n") == 1 + 2
