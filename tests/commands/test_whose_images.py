"""Which images may be read: those of a folder that the user typed, or that a file of the user's own names."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from glsmooth.commands import certify as certify_command
from glsmooth.learning.checkpoint import KEY, make_payload
from glsmooth.learning.data import FolderImages, load_dataset
from glsmooth.learning.models import build_model
from glsmooth.runs.own import is_own, remember, run_files

SHORT = ("batch_size=8", "trainer.accelerator=cpu", "monte_carlo.n0=8", "monte_carlo.n=16", "hydra.run.dir=run")


@pytest.fixture
def private(elsewhere):
    """A folder of images that a stranger guesses the path of."""
    rng = np.random.default_rng(0)
    for i in range(10):
        file = elsewhere / "private images" / "test" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
    return elsewhere / "private images"


@pytest.fixture
def checkpoint(private):
    spec = {"name": "image_folder", "root": str(private), "image_size": [16, 16], "num_workers": 0, "subset": None}
    data = load_dataset(spec)
    settings = {
        "transform": {"_target_": "glsmooth.transforms.Contrast"},
        "smoothing": {"contrast": {"law": "LogNormal", "loc": 0.0, "scale": 0.3}},
        "region": {"contrast": [0.9, 1.1]},
        "dataset": {**spec, "subset_seed": 0, "download": True},
        "model": {"name": "small_cnn", "pretrained": None, "weights": None},
        "loss": {"copies": 2, "consistency": 0.0, "entropy": 0.0, "pixel_noise": 0.0},
        "optimizer": {},
        "trainer": {"precision": "32-true"},
        "seed": 0,
    }
    model = build_model(settings["model"], 2, 3, data.mean, data.std, data.image_size)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    path = private.parent / "best.ckpt"
    torch.save({"state_dict": state, KEY: {**make_payload(settings, data), "metrics": {}}}, path)
    return path


@pytest.fixture
def another_machine(tmp_path, monkeypatch):
    def move():
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state of another"))

    return move


@pytest.mark.parametrize("more", [[], ["dry_run=true"]], ids=["votes", "dry run"])
def test_a_strangers_checkpoint_chooses_no_folder(call, checkpoint, private, more):
    status, captured = call("certify", f"ckpt={checkpoint}", *SHORT, *more)
    line = captured.err.rstrip().splitlines()[-1]
    assert status == 2
    assert line.startswith(f"dataset.root={private} comes from {checkpoint}, which train did not write on this machine")
    assert f"dataset.root='{private}'" in line
    assert not (private.parent / "run" / "records.csv").exists()


def test_a_folder_that_is_typed_is_read_and_pictures_are_drawn(call, checkpoint, private, another_machine, monkeypatch):
    assert call("certify", f"ckpt={checkpoint}", f"dataset.root={private}", *SHORT)[0] == 0
    # Of all images of a test split a report shows some: it does not decode them all.
    monkeypatch.delattr(FolderImages, "in_memory")
    run = private.parent / "run"
    gallery = run / "gallery.png"
    assert gallery.exists()
    assert is_own(run_files(run))

    def drawn(*arguments):
        gallery.unlink(missing_ok=True)
        status, captured = call("report", str(run), *arguments)
        assert status == 0, captured.err
        return gallery.exists(), "type dataset.root=DIR" in captured.err

    assert drawn() == (True, False)
    # To the last byte: what was changed is not ours any more.
    summary = (run / "summary.json").read_bytes()
    (run / "summary.json").write_bytes(summary + b"\n")
    assert drawn() == (False, True)
    (run / "summary.json").write_bytes(summary)
    # Wherever it lies.
    moved = shutil.move(run, private.parent / "moved")
    run, gallery = moved, moved / "gallery.png"
    assert drawn() == (True, False)
    another_machine()
    assert drawn() == (False, True)
    assert drawn(f"dataset.root='{private}'") == (True, False)


def test_a_checkpoint_of_our_own_names_its_folder(call, checkpoint, private, another_machine):
    remember([checkpoint])
    assert call("certify", f"ckpt={checkpoint}", *SHORT)[0] == 0
    assert (private.parent / "run" / "gallery.png").exists()
    another_machine()
    assert call("certify", f"ckpt={checkpoint}", *SHORT)[0] == 2


@pytest.mark.parametrize("typed", [False, True])
def test_nothing_is_downloaded_unless_that_is_typed(call, checkpoint, private, monkeypatch, typed):
    asked = []

    def load(spec):
        asked.append(bool(spec.get("download")))
        return load_dataset({**spec, "download": False})

    monkeypatch.setattr(certify_command, "load_dataset", load)
    more = ["dataset.download=true"] if typed else []
    assert call("certify", f"ckpt={checkpoint}", f"dataset.root={private}", *SHORT, "dry_run=true", *more)[0] == 0
    assert asked == [typed]


def test_training_notes_that_its_checkpoints_are_its_own(call, elsewhere, another_machine):
    small = ("trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "optimizer.batch_size=8")
    assert call("train", "optimizer.epochs=1", *small, "trainer.accelerator=cpu", "hydra.run.dir=trained")[0] == 0
    files = [elsewhere / "trained" / name for name in ("best.ckpt", "last.ckpt")]
    assert [is_own([file]) for file in files] == [True, True]
    assert not is_own(files)
    another_machine()
    assert not is_own(files[:1])


def test_a_home_that_cannot_be_written_is_told(elsewhere, monkeypatch, caplog):
    (elsewhere / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(elsewhere / "file"))
    remember([elsewhere / "file"])
    assert "must type dataset.root=DIR" in caplog.text
    assert not is_own([elsewhere / "file"])
    assert not is_own([elsewhere / "nothing"])
