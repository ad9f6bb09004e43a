"""What tests of whole commands share: an empty directory to run in, and checkpoints that cost no training."""

import logging
import sys

import pytest
import torch

from glsmooth.commands import advise, attack, bounds, certify, export, predict, report, train, verify
from glsmooth.learning.checkpoint import KEY, make_payload
from glsmooth.learning.data import load_dataset
from glsmooth.learning.models import build_model
from tests.pictures import blank, few_points, rendered

MAIN = {
    command.__name__.rpartition(".")[2]: command.main
    for command in (advise, attack, bounds, certify, export, predict, report, train, verify)
}


@pytest.fixture(scope="package", autouse=True)
def quick_reports():
    """Pictures would take most of the time. ``tests/report`` renders them, and so does what asks for ``rendering``."""
    with few_points(), blank():
        yield


@pytest.fixture
def rendering():
    """Pictures as users have them."""
    with rendered():
        yield


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty directory, and give back the loggers that Hydra configures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield tmp_path
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Two checkpoints of untrained networks for digits under contrast, with different weights."""
    data = load_dataset({"name": "digits"})
    settings = {
        "transform": {"_target_": "glsmooth.transforms.Contrast"},
        "smoothing": {"contrast": {"law": "LogNormal", "loc": 0.0, "scale": 0.3}},
        "region": {"contrast": [0.9, 1.1]},
        "dataset": {
            "name": "digits", "root": None, "image_size": None, "num_workers": 0, "subset": None, "subset_seed": 0
        },
        "model": {"name": "small_cnn", "pretrained": None, "weights": None},
        "loss": {"copies": 2, "consistency": 0.0, "entropy": 0.0, "pixel_noise": 0.0},
        "optimizer": {},
        "trainer": {"precision": "32-true"},
    }  # fmt: skip
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = build_model(settings["model"], 10, 1, data.mean, data.std, data.image_size)
        state = {f"model.{key}": value for key, value in model.state_dict().items()}
        path = tmp_path_factory.mktemp("train") / "best.ckpt"
        torch.save({"state_dict": state, KEY: {**make_payload({**settings, "seed": seed}, data), "metrics": {}}}, path)
        paths.append(path)
    return paths


def run_main(command, *arguments):
    """Run a command; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [command, *map(str, arguments)])
        try:
            MAIN[command]()
        except SystemExit as ended:
            return ended.code
    return 0


@pytest.fixture
def call(capsys):
    """``call(command, arguments…)`` runs a command; returns its exit status and its streams."""

    def call_(command, *arguments):
        status = run_main(command, *arguments)
        return status, capsys.readouterr()

    return call_
