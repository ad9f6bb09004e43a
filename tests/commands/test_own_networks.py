"""Networks of a user's own: trained, certified, and imported only where the user says so."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from glsmooth.errors import UserError
from glsmooth.learning.checkpoint import KEY, load_checkpoint

MODULE = """
from pathlib import Path

from torch import nn

Path("imported").touch()


def make_model(num_classes, in_chans):
    return Net(num_classes)


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.last = nn.Linear(16, num_classes)

    def forward(self, images):
        return self.last(self.pool(images).flatten(1))
"""
TARGET = "networks_of_a_stranger.make_model"
TYPED = f"model._target_={TARGET}"
TRAIN = (
    *("dataset.image_size=[16,16]", "optimizer.epochs=1", "trainer.limit_train_batches=1", "optimizer.batch_size=8"),
    *("trainer.limit_val_batches=1", "trainer.accelerator=cpu", "trainer.progress=false", "hydra.run.dir=trained"),
)
SHORT = ("dataset.subset=4", "batch_size=8", "trainer.accelerator=cpu", "monte_carlo.n0=8", "monte_carlo.n=16")


@pytest.fixture
def folder(elsewhere):
    (elsewhere / "networks_of_a_stranger.py").write_text(MODULE)
    yield elsewhere
    sys.modules.pop("networks_of_a_stranger", None)


def forget():
    sys.modules.pop("networks_of_a_stranger", None)
    Path("imported").unlink(missing_ok=True)


def imported():
    return Path("imported").exists() or "networks_of_a_stranger" in sys.modules


def test_a_network_of_the_users_own_is_trained_and_certified(call, folder):
    status, captured = call("train", "model=custom", TYPED, *TRAIN, "model.mean=[0.25]", "model.std=[0.5]")
    assert status == 0, captured.err
    assert captured.err.count("normalisation: mean [0.25], std [0.5], as given") == 1
    ckpt = folder / "trained" / "best.ckpt"
    checkpoint = load_checkpoint(ckpt)
    assert (checkpoint.mean, checkpoint.std) == ([0.25], [0.5])
    assert checkpoint.model["_target_"] == TARGET
    assert json.loads((folder / "trained" / "summary.json").read_text())["mean"] == [0.25]
    # The file alone is not trusted with an import.
    forget()
    for command, more in (("certify", SHORT), ("advise", ()), ("certify", (*SHORT, "model._target_=other.Net"))):
        status, captured = call(command, f"ckpt={ckpt}", *more)
        assert status == 2
        line = captured.err.rstrip().splitlines()[-1]
        assert line.startswith(f"model._target_={TARGET} comes from ckpt=") or "model._target_='other.Net', but" in line
        assert not imported()
    status, captured = call("train", f"ckpt={ckpt}", *TRAIN[:-1], "hydra.run.dir=tuned")
    assert (status, imported()) == (2, False)
    assert f"type {TYPED}" in captured.err.splitlines()[-1]
    with pytest.raises(UserError, match=f"type {TYPED}"):
        checkpoint.build_model()
    assert not imported()
    status, captured = call("certify", f"ckpt={ckpt}", *SHORT, TYPED, "hydra.run.dir=run")
    assert (status, imported()) == (0, True), captured.err
    model = checkpoint.build_model(TARGET)
    images = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(model(images), model.network((images - 0.25) / 0.5))
    status, captured = call("train", "model=custom", TYPED, f"ckpt={ckpt}", *TRAIN[:-1], "hydra.run.dir=tuned")
    assert status == 0, captured.err
    assert load_checkpoint(folder / "tuned" / "best.ckpt").mean == [0.25]


@pytest.mark.parametrize("target", ["glsmooth.transforms.Gamma", "os.system", ["os.system"]])
def test_no_network_is_built_in_by_such_a_name(untrained, tmp_path, target):
    content = torch.load(untrained[0], weights_only=True)
    content[KEY]["model"] = {**content[KEY]["model"], "name": "custom", "_target_": target}
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"model._target_"):
        load_checkpoint(tmp_path / "best.ckpt").build_model()


def test_weights_that_do_not_fit_the_users_network(call, folder):
    assert call("train", "model=custom", TYPED, *TRAIN)[0] == 0
    forget()
    (folder / "networks_of_a_stranger.py").write_text(MODULE.replace("self.last", "self.end"))
    with pytest.raises(UserError, match="its weights do not fit custom"):
        load_checkpoint(folder / "trained" / "best.ckpt").build_model(TARGET)


def test_an_order_of_the_classes_goes_with_the_checkpoint(call, elsewhere):
    for i in range(60):
        folder = elsewhere / "pets" / ("ant", "bee", "cat")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (4 * i, 0, 0)).save(folder / f"{i}.png")
    (elsewhere / "names.txt").write_text("cat\r\nant\r\n\r\nbee\r\n")
    pets = ("dataset=image_folder", "dataset.root=pets", "dataset.num_workers=0", "model=small_cnn", *TRAIN)
    status, captured = call("train", *pets, "dataset.class_names=names.txt")
    assert status == 0, captured.err
    checkpoint = load_checkpoint("trained/best.ckpt")
    assert checkpoint.classes == checkpoint.dataset["class_names"] == ["cat", "ant", "bee"]
    assert checkpoint.identity["dataset.class_names"] == ["cat", "ant", "bee"]
    status, captured = call("train", *pets)
    assert status == 2
    assert "dataset.class_names" in captured.err.splitlines()[-1]
    (elsewhere / "names.txt").unlink()  # it is not needed again
    status, captured = call("certify", "ckpt=trained/best.ckpt", *SHORT, "hydra.run.dir=run")
    assert status == 0, captured.err
    assert json.loads((elsewhere / "run" / "summary.json").read_text())["dataset"]["class_names"][0] == "cat"
    assert call("report", "run")[0] == 0
    # A file that a checkpoint names is not read.
    content = torch.load("trained/best.ckpt", weights_only=True)
    content[KEY]["dataset"]["class_names"] = "/etc/hostname"
    torch.save(content, "other.ckpt")
    with pytest.raises(UserError, match=r"class_names"):
        load_checkpoint("other.ckpt")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("ant\nbee\ncow\n", "has no folder for 1 (cow); it does not name 1 (cat)"),
        ("ant\nbee\n", "does not name 1 (cat)"),
        ("ant\nbee\nant\n", "names ant twice"),
        ("", "holds 0 names"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_names_that_are_not_the_folders(call, elsewhere, names, words):
    for name in ("ant", "bee", "cat"):
        (elsewhere / "pets" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (16, 16)).save(elsewhere / "pets" / name / f"{i}.png")
    if names is not None:
        (elsewhere / "names.txt").write_text(names)
    pets = ("dataset=image_folder", "dataset.root=pets", "dataset.num_workers=0", "model=small_cnn", *TRAIN)
    status, captured = call("train", *pets, "dataset.class_names=names.txt")
    line = captured.err.rstrip().splitlines()[-1]
    assert status == 2
    assert line.startswith("dataset.class_names=names.txt: ")
    assert words in line
