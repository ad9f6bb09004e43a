"""A data set that changes while a run waits to be continued: its records are not mixed with those of other images."""

import json
import shutil

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from glsmooth.commands import certify
from glsmooth.configuration.folder import conf_dir
from glsmooth.errors import UserError
from glsmooth.learning import data
from glsmooth.learning.checkpoint import KEY, make_payload
from glsmooth.learning.models import build_model
from glsmooth.runs.own import remember

CHANGES = {
    "changed": (lambda test: picture(test / "a" / "2.png", 99), r"test/a/2\.png has changed"),
    "deleted": (lambda test: (test / "a" / "1.png").unlink(), r"test/a/1\.png is no longer among the images"),
    "added": (lambda test: picture(test / "a" / "0b.png", 99), r"test/a/0b\.png is new among the images"),
    "renamed": (
        lambda test: (test / "b" / "3.png").rename(test / "b" / "5.png"),
        r"test/b/3\.png is no longer among the images",
    ),
    "moved": (
        lambda test: (test / "a" / "4.png").rename(test / "b" / "4b.png"),
        r"test/a/4\.png is no longer among the images",
    ),
    "swapped": (lambda test: swap(test / "a" / "1.png", test / "b" / "1.png"), r"test/a/1\.png has changed"),
}


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def swap(one, other):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr(certify, "write_report", lambda directory, **_: (directory / "table.md").write_text(""))


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "test"):
        for i in range(10):
            picture(tmp_path / "data" / part / "ab"[i % 2] / f"{i // 2}.png", i)
    return tmp_path / "data"


def run(tmp_path, folder, *overrides):
    spec = {"name": "image_folder", "root": str(folder), "image_size": [16, 16], "num_workers": 0, "subset": None}
    settings = {
        "transform": {"_target_": "glsmooth.transforms.Contrast"},
        "smoothing": {"contrast": {"law": "LogNormal", "loc": 0.0, "scale": 0.3}},
        "region": {"contrast": [0.9, 1.1]},
        "dataset": {**spec, "subset_seed": 0},
        "model": {"name": "small_cnn", "pretrained": None, "weights": None},
        "loss": {"copies": 2, "consistency": 0.0, "entropy": 0.0, "pixel_noise": 0.0},
        "optimizer": {},
        "trainer": {"precision": "32-true"},
    }  # fmt: skip
    checkpoint = tmp_path / "best.ckpt"
    if not checkpoint.exists():
        torch.manual_seed(0)
        found = data.load_dataset(spec)
        model = build_model(settings["model"], 2, 3, found.mean, found.std, found.image_size)
        state = {f"model.{key}": value for key, value in model.state_dict().items()}
        payload = make_payload({**settings, "seed": 0}, found)
        torch.save({"state_dict": state, KEY: {**payload, "metrics": {}}}, checkpoint)
        remember([checkpoint])
    directory = tmp_path / "run"
    directory.mkdir(exist_ok=True)
    votes = ("monte_carlo.n0=8", "monte_carlo.n=16", "trainer.accelerator=cpu")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        certify.run(compose("certify", [f"ckpt={checkpoint}", f"run_dir={directory}", *votes, *overrides]))
    return directory / "records.csv"


def interrupt(records):
    """As if the run had stopped after three images; what it would have said."""
    whole = records.read_bytes()
    records.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    return whole


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_refused_by_file_name(tmp_path, folder, monkeypatch, change, in_memory):
    if not in_memory:
        monkeypatch.setattr(data, "_MEMORY_LIMIT", 0)
    whole = interrupt(records := run(tmp_path, folder))
    part = records.read_bytes()
    shutil.copytree(folder, tmp_path / "kept")
    alter, message = CHANGES[change]
    alter(folder / "test")
    with pytest.raises(UserError, match=rf"run: its records were taken of other images: {message}; restore the images"):
        run(tmp_path, folder)
    assert records.read_bytes() == part
    shutil.rmtree(folder)
    (tmp_path / "kept").rename(folder)  # other times of modification: only what is in the files counts
    run(tmp_path, folder)
    assert records.read_bytes() == whole


def test_an_image_that_is_not_certified_may_change_but_not_go(tmp_path, folder):
    """Without it, the numbers that were drawn mean other images."""
    chosen = "dataset.subset=4"
    whole = interrupt(records := run(tmp_path, folder, chosen))
    content = json.loads((tmp_path / "run" / "images.json").read_text())
    assert len(content["names"]) == 10
    assert len(content["digests"]) == 4
    other = next(name for i, name in enumerate(content["names"]) if str(i) not in content["digests"])
    picture(folder / other, 99)
    run(tmp_path, folder, chosen)
    assert records.read_bytes() == whole
    (folder / other).unlink()
    with pytest.raises(UserError, match=rf"other images: {other} is no longer among the images"):
        run(tmp_path, folder, chosen)


def test_records_that_do_not_say_of_which_images(tmp_path, folder):
    """Those of an earlier version, or with a file that was removed."""
    interrupt(run(tmp_path, folder))
    identity = tmp_path / "run" / "identity.json"
    fields = json.loads(identity.read_text())
    del fields["images"]
    identity.write_text(json.dumps(fields))
    (tmp_path / "run" / "images.json").unlink()
    with pytest.raises(UserError, match=r"images\.json, which would say which, is missing or damaged; restore"):
        run(tmp_path, folder)


def test_images_in_memory_count_by_pixels_and_label():
    images = torch.arange(24, dtype=torch.uint8).view(2, 1, 3, 4)
    before = data.TensorImages(images, torch.tensor([0, 1]))
    assert data.digests(before) == data.digests(data.TensorImages(images.clone(), torch.tensor([0, 1])))
    digits = data.load_dataset({"name": "digits"})
    names, digests = data.digests(data.certification_images(digits, 5))
    assert len(names) == len(digits.test)
    assert len(set(digests.values())) == 5
    for other in (
        data.TensorImages(images + 1, before.labels),
        data.TensorImages(images, torch.tensor([1, 0])),
        data.TensorImages(images.to(torch.int32), before.labels),
        data.TensorImages(images.view(2, 1, 4, 3), before.labels),
    ):
        changed = data.digests(other)[1]
        assert all(changed[i] != data.digests(before)[1][i] for i in range(2))
