"""Data sets of a user's own: trained on, certified, reported, and imported only where the user says so."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glsmooth.errors import UserError
from glsmooth.learning import data as data_module
from glsmooth.learning.checkpoint import load_checkpoint
from glsmooth.learning.data import TensorImages, digests, load_dataset
from glsmooth.learning.own_images import OwnImages

MODULE = """
from pathlib import Path

import torch

Path("imported").touch()


class Stripes(torch.utils.data.Dataset):
    classes = ("dark", "grey", "bright")

    def __init__(self, split, size=8, changed=""):
        if split == "val":
            raise ValueError("none here")
        n = {"train": 60, "test": 12}[split]
        noise = torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(n))
        self.targets = torch.arange(n) % 3
        self.images = 0.2 + 0.25 * self.targets[:, None, None, None] + 0.1 * noise

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        if Path("changed").exists() and index == 7:
            image = image * 0.99
        return image, self.targets[index]
"""
TYPED = "dataset._target_=data_of_a_stranger.Stripes"
TRAIN = (
    *("dataset=custom", TYPED, "+dataset.size=16", "model=small_cnn", "transform=brightness", "optimizer.epochs=1"),
    *("trainer.limit_train_batches=2", "optimizer.batch_size=8", "trainer.accelerator=cpu", "trainer.progress=false"),
)
SHORT = ("batch_size=8", "trainer.accelerator=cpu", "monte_carlo.n0=8", "monte_carlo.n=16", "hydra.run.dir=run")


@pytest.fixture
def folder(elsewhere):
    (elsewhere / "data_of_a_stranger.py").write_text(MODULE)
    yield elsewhere
    forget()


def forget():
    sys.modules.pop("data_of_a_stranger", None)
    Path("imported").unlink(missing_ok=True)


def last_line(captured):
    return captured.err.rstrip().splitlines()[-1]


def test_it_is_trained_on_certified_and_reported(call, folder, monkeypatch):
    status, captured = call("train", *TRAIN, "hydra.run.dir=trained")
    assert status == 0, captured.err
    assert "Stripes has no split 'val' (none here)" in captured.err
    checkpoint = load_checkpoint("trained/best.ckpt")
    assert checkpoint.classes == ["dark", "grey", "bright"]
    assert checkpoint.image_size == [16, 16]
    assert (checkpoint.mean, checkpoint.std) == ([0.5], [0.25])
    assert checkpoint.identity["dataset._target_"] == "data_of_a_stranger.Stripes"
    assert checkpoint.identity["dataset.size"] == 16
    forget()
    for command, more in (("certify", SHORT), ("advise", ())):
        status, captured = call(command, "ckpt=trained/best.ckpt", *more)
        assert status == 2
        assert last_line(captured).startswith("dataset._target_=data_of_a_stranger.Stripes comes from ckpt=trained/")
        assert not Path("imported").exists()
    certify = ("ckpt=trained/best.ckpt", TYPED, *SHORT)
    status, captured = call("certify", *certify)
    assert status == 0, captured.err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["images"] == 12
    assert summary["dataset"]["size"] == 16
    assert Path("run/gallery.png").is_file()
    # Another image than the one that was certified is refused by its place.
    Path("changed").touch()
    status, captured = call("certify", *certify)
    assert status == 2
    assert "image 7" in last_line(captured)
    Path("changed").unlink()
    forget()
    Path("run/gallery.png").unlink()
    status, captured = call("report", "run")
    assert (status, Path("imported").exists(), Path("run/gallery.png").exists()) == (0, False, False)
    assert f"no gallery: type {TYPED}" in captured.err
    assert call("report", "run", TYPED)[0] == 0
    assert Path("run/gallery.png").is_file()
    Image.new("L", (16, 16), 60).save("one.png")
    forget()
    status, captured = call("predict", "ckpt=trained/best.ckpt", "images=one.png", "n=16", "trainer.accelerator=cpu")
    assert (status, Path("imported").exists()) == (0, False), captured.err
    # Of a file from elsewhere what the function is given is typed, too: it may name files.
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "elsewhere"))
    status, captured = call("certify", *certify)
    assert status == 2
    assert last_line(captured).startswith("dataset.size=16 comes from trained/best.ckpt, which train did not write on")
    assert call("certify", *certify, "+dataset.size=16")[0] == 0


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("dataset=custom",), "dataset._target_ is missing; set dataset._target_=my_module.make_dataset"),
        (("dataset=custom", TYPED, "+dataset.sise=8"), "dataset.sise=8 is not an argument of data_of_a_stranger.Str"),
        (("dataset=custom", TYPED, "dataset.size=8"), "or +dataset.size=8 for an argument of dataset._target_"),
        (("dataset=custom", TYPED, "dataset.image_size=[9,9]"), "are [8, 8]; leave it out"),
        (("dataset=custom", "dataset._target_=os.getcwd"), "dataset._target_=os.getcwd takes no split"),
        (("dataset=custom", f"{TYPED}s"), "did you mean 'Stripes'?"),
        (("dataset=digits", f"+{TYPED}"), "dataset.name=digits and dataset._target_='data_of_a_stranger.Stripes'"),
        (("dataset=digits", "+dataset.flop=true"), "dataset.flop=true is not a field; did you mean 'dataset.flip'?"),
    ],
)
def test_mistakes_of_what_is_typed(call, folder, typed, words):
    status, captured = call("train", *typed, "model=small_cnn", "transform=brightness", "hydra.run.dir=trained")
    assert status == 2
    assert words in last_line(captured)


# Its images


class Items(list):
    """Items as a data set, with whatever else a data set has."""


GREY = torch.full((1, 4, 4), 0.5)


def make(module, **splits):
    """Have ``own_items.make`` return these splits; spec of the data set."""
    module.make = lambda split: splits.get(split)
    return {"name": "custom", "_target_": "own_items.make", "num_classes": 3, "val_fraction": 0.25}


@pytest.fixture
def module(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_items", type(sys)("own_items"))
    return sys.modules["own_items"]


@pytest.mark.parametrize(
    ("image", "dtype", "shape"),
    [
        (Image.new("RGB", (5, 4), (51, 0, 0)), torch.uint8, (3, 4, 5)),
        (Image.new("L", (5, 4), 51), torch.uint8, (1, 4, 5)),
        (np.full((4, 5, 3), 51, np.uint8), torch.uint8, (3, 4, 5)),
        (np.full((4, 5), 51, np.uint8), torch.uint8, (1, 4, 5)),
        (torch.full((3, 4, 5), 51, dtype=torch.uint8), torch.uint8, (3, 4, 5)),
        (torch.full((3, 4, 5), 0.2, dtype=torch.float64), torch.float32, (3, 4, 5)),
        (np.full((1, 4, 5), 0.2, np.float32), torch.float32, (1, 4, 5)),
    ],
)
def test_kinds_of_images(module, image, dtype, shape):
    data = load_dataset(make(module, test=Items([(image, 1), (image, np.int64(2))])))
    assert (data.channels, *data.image_size) == shape
    assert data.test.images.dtype == dtype
    found, label, index = data.test[1]
    assert (found.dtype, found.shape, label, index) == (torch.float32, shape, 2, 1)
    assert found[0, 0, 0].item() == pytest.approx(0.2)


def test_in_memory_or_not_it_is_the_same(module, monkeypatch):
    items = Items((torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(i)), i % 3) for i in range(12))
    spec = make(module, train=items, test=items)
    held = load_dataset(spec)
    memory = [held.train, held.val, held.test]
    monkeypatch.setattr(data_module, "_MEMORY_LIMIT", 100)
    read = load_dataset(spec)
    for one, other in zip(memory, [read.train, read.val, read.test], strict=True):
        assert isinstance(one, TensorImages)
        assert isinstance(other, OwnImages)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.raw([0, 2]), other.raw([0, 2]))
        assert digests(one) == digests(other)
    assert (len(held.train), len(held.val)) == (9, 3)
    assert sorted(held.val.labels.tolist()) == [0, 1, 2]
    assert load_dataset({**spec, "class_names": ["a", "b", "c"]}).class_names == ("a", "b", "c")
    assert len(load_dataset(make(module, train=items, val=items[:5], test=items)).val) == 5


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ((GREY * 4, 1), r"^dataset._target_=own_items.make: test\[1\] has values in \[2, 2\]; give pixels in \[0, 1\]"),
        ((GREY * torch.nan, 1), r"test\[1\] has non-finite pixels"),
        (
            (GREY[:, :3], 1),
            r"test\[1\] is \(1, 3, 4\) torch.float32, the first one \(1, 4, 4\) torch.float32;",
        ),
        (((GREY * 255).byte(), 1), r"test\[1\] is \(1, 4, 4\) torch.uint8, the first one"),
        ((GREY, 3), r"test\[1\]: its label 3 is not one of the 3 classes; give labels from 0 to 2, or .*num_classes"),
        ((GREY, "cat"), r"test\[1\]: its label 'cat' is no class"),
        ((torch.zeros(2, 4, 4), 1), r"test\[1\] has shape \(2, 4, 4\); give \(C, H, W\) with 1 or 3 channels"),
        ((Image.new("RGBA", (4, 4)), 1), r"test\[1\] is a PIL image of mode RGBA; give image.convert\('RGB'\)"),
        (GREY, r"test\[1\] is a Tensor; give \(image, label\) items"),
    ],
)
def test_an_image_that_is_none_is_named_by_its_place(module, second, words):
    with pytest.raises(UserError, match=words):
        load_dataset(make(module, test=Items([(GREY, 0), second]))).test  # noqa: B018


class Restless(Items):
    def __getitem__(self, index):
        return torch.rand(1, 4, 4), 0


@pytest.mark.parametrize(
    ("splits", "changes", "words"),
    [
        (
            {"test": Restless([1])},
            {},
            r"test\[0\] is another image each time that it is read; leave random changes",
        ),
        ({"test": Items()}, {}, r"its split 'test' holds no image"),
        ({"test": 3}, {}, r"makes a int of split='test'; return a data set with a length"),
        ({}, {}, r"has no split 'train', which this command needs"),
        ({"test": Items([(GREY, 0)])}, {"num_classes": None}, r"^dataset.num_classes is missing: .*\.classes; set"),
        ({"test": Items([(GREY, 0)])}, {"class_names": ["a", "b"]}, r"^dataset.num_classes=3: .* has 2 classes"),
    ],
)
def test_a_split_that_is_none(module, splits, changes, words):
    with pytest.raises(UserError, match=words):
        load_dataset({**make(module, **splits), **changes})
