"""Networks that were trained elsewhere: certify without a checkpoint of ours."""

import json
import re
from collections import OrderedDict

import pytest
import timm
import torch
import torch.nn.functional as F

from glsmooth.commands.accuracy import accuracy_beforehand
from glsmooth.commands.certify import main
from glsmooth.learning.certification import Options
from glsmooth.learning.data import load_dataset
from glsmooth.learning.models import Normalize
from glsmooth.learning.networks import BUILTIN
from glsmooth.runs.records import read_records


@pytest.fixture(scope="module")
def digits():
    return load_dataset({"name": "digits"})


@pytest.fixture(scope="module")
def network(digits):
    """A network that tells digits apart, behind the normalisation of the data set."""
    torch.manual_seed(0)
    network = BUILTIN["small_cnn"](1, 10)
    model = torch.nn.Sequential(Normalize(digits.mean, digits.std), network)
    steps = torch.optim.Adam(model.parameters(), 2e-3)
    images, labels = digits.train[list(range(len(digits.train)))][:2]
    for batch in torch.randperm(len(images)).repeat(3).split(64):
        steps.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        steps.step()
    return network.eval()


@pytest.fixture
def weights(network, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    return path


def certify(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["certify", *map(str, arguments), "trainer.accelerator=cpu", "threads=1"])
    main()


def bringing(weights, tmp_path, *more):
    settings = ["dataset=digits", "transform=brightness", "smoothing.brightness.scale=0.3", "monte_carlo.n=100"]
    return [f"model.weights={weights}", "model=small_cnn", *settings, f"hydra.run.dir={tmp_path / 'run'}", *more]


def test_a_file_of_weights_is_certified(weights, network, digits, tmp_path, monkeypatch, capsys):
    certify(monkeypatch, *bringing(weights, tmp_path, "dataset.subset=40", "region.brightness=[-0.1,0.1]"))
    said = capsys.readouterr()
    records = read_records(tmp_path / "run")
    images = torch.stack([digits.test[int(i)][0] for i in records["index"]])
    with torch.inference_mode():
        model = torch.nn.Sequential(Normalize(digits.mean, digits.std), network)
        assert model(images).argmax(1).tolist() == records["base_prediction"].tolist()
    right = int((records["base_prediction"] == records["label"]).sum())
    assert right > 30
    assert f"Base classifier: right on {right} of 40 images" in said.err
    assert "WARNING" not in said.err
    assert records["certified_neyman_pearson"].sum() > 10
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["checkpoint"]["path"] == str(weights)
    assert summary["region"] == {"brightness": [-0.1, 0.1]}
    # The votes are one file's: another file does not go on with them.
    other = {key: value + 0.01 for key, value in torch.load(weights).items() if value.is_floating_point()}
    torch.save({**torch.load(weights), **other}, weights)
    with pytest.raises(SystemExit):
        certify(monkeypatch, *bringing(weights, tmp_path, "dataset.subset=40", "region.brightness=[-0.1,0.1]"))
    assert "another" in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["model.new_head=true", "model.pretrained=true"])
def test_a_random_last_layer_is_not_certified(weights, tmp_path, monkeypatch, capsys, typed):
    """Asked for, or because the hub's network has other classes."""
    settings = bringing(weights, tmp_path, typed)
    if "pretrained" in typed:
        settings[:2] = ["model=timm", "model.name=resnet10t"]
        create = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **more: create(name, **more))
    with pytest.raises(SystemExit):
        certify(monkeypatch, *settings)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "starts at random, which nobody has trained for the dataset's classes" in last


def test_where_it_comes_from_and_its_normalisation_are_recorded(weights, tmp_path, monkeypatch):
    certify(monkeypatch, *bringing(weights, tmp_path, "dataset.subset=4", "model.mean=[0.25]", "model.std=[0.5]"))
    assert "small_cnn; pixels minus [0.25], divided by [0.5] |" in (tmp_path / "run" / "table.md").read_text()


MISSING = [
    ([], r"ckpt is missing; set ckpt=.*model\.weights=FILE"),
    (["model.weights={weights}"], r"ckpt is missing|model\.name is missing: .*model=resnet50"),
    (["model=small_cnn", "model.weights={weights}"], r"dataset\.name is missing: .*dataset=image_folder"),
    (["model=small_cnn", "dataset=digits", "transform=brightness"], r"model\.weights is missing: a small_cnn with ran"),
    (["model=small_cnn", "dataset=digits", "model.weights={weights}"], r"transform\._target_ is missing: .*transform="),
    (["model.weights={weights}", "ckpt={weights}"], r"ckpt and model\.weights are two networks"),
]


@pytest.mark.parametrize(("arguments", "words"), MISSING)
def test_what_is_missing_is_said(weights, tmp_path, monkeypatch, capsys, arguments, words):
    typed = [argument.format(weights=weights) for argument in arguments]
    with pytest.raises(SystemExit):
        certify(monkeypatch, *typed, f"hydra.run.dir={tmp_path / 'run'}")
    assert re.search(words, capsys.readouterr().err.splitlines()[-1])


def beforehand(digits, network, mean=None, std=None, brought=True, images=None):
    layers = {"normalize": Normalize(mean or digits.mean, std or digits.std), "network": network}
    model = torch.nn.Sequential(OrderedDict(layers))
    images = images or digits.test
    return accuracy_beforehand(
        model, list(digits.class_names), images, Options(), torch.device("cpu"), brought
    ).splitlines()


def test_a_good_network_is_counted_and_no_more(digits, network):
    (line,) = beforehand(digits, network)
    assert re.fullmatch(r"Base classifier: right on (9\d|100) of 100 images, as they are", line)


def test_another_normalisation_that_would_be_better_is_named(digits, network):
    """The network, as if it had been trained on images as they are: with ours before it, it sees others."""
    own = torch.nn.Sequential(Normalize(digits.mean, digits.std), network)
    (line,) = beforehand(digits, own, mean=[0.0], std=[1.0])
    assert line.startswith("Base classifier")
    _, warning = beforehand(digits, own, mean=[3.0], std=[0.1])
    assert warning.startswith("WARNING: with the normalisation 'none' it would be right on ")
    assert warning.endswith("Set 'model.mean=[0]' 'model.std=[1]'")
    assert len(beforehand(digits, own, mean=[3.0], std=[0.1], brought=False)) == 2  # guessing; ours is not doubted


def test_outputs_in_another_order_are_named(digits, network):
    class Turned(torch.nn.Module):
        def forward(self, images):
            return network(images).roll(3, dims=1)

    _, warning = beforehand(digits, Turned())
    assert "no better than guessing among 10 classes" in warning
    assert re.search(r"In another order of its classes it would be right on (9\d|100)", warning)
    assert "what is called 0 seems to be its output 3" in warning
    _, ours = beforehand(digits, Turned(), brought=False)
    assert "another order" not in ours


def test_a_network_that_guesses(digits):
    torch.manual_seed(1)
    _, warning = beforehand(digits, BUILTIN["small_cnn"](1, 10).eval())
    assert "no better than guessing" in warning
    assert "dataset.class_names=FILE" in warning
    few = torch.utils.data.Subset(digits.test, range(9))  # of which nothing can be said
    assert len(beforehand(digits, BUILTIN["small_cnn"](1, 10).eval(), images=few)) == 1
