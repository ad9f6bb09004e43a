"""Weights of other programs: their files, names and layouts, and what is said where they do not fit."""

import logging
import re
import sys
import time

import pytest
import torch
from torch import nn

from glsmooth.errors import UserError
from glsmooth.learning.data import Data
from glsmooth.learning.models import bring, build_model, resolve_model
from glsmooth.learning.weights import _AVERAGES, _PARTS, PUBLISHED

SMALL = {"name": "small_cnn", "pretrained": False, "weights": None}
GREY = {"channels": 1, "mean": (0.3,), "std": (0.2,), "image_size": (8, 8)}


def dataset(name="image_folder", classes=10, channels=3, size=(8, 8)):
    names = tuple(f"c{i}" for i in range(classes))
    return Data(name, names, size, (0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.4)[:channels], {})


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(1)
    network = build_model(SMALL, 10, **GREY).network.eval()
    for value in network.buffers():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    return network


def load(tmp_path, content, spec=SMALL, data=None, **options):
    torch.save(content, tmp_path / "w.pth")
    return bring({**spec, "weights": str(tmp_path / "w.pth"), **options}, data or dataset(channels=1))


def refusal(tmp_path, content, **options):
    with pytest.raises(UserError) as error:
        load(tmp_path, content, **options)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def renamed(state, before, skip=()):
    return {(key if key in skip else before + key): value for key, value in state.items()}


PREFIXES = [
    *("", "module.", "_orig_mod.", "model.", "backbone.", "network.", "model.network.", "module._orig_mod.model."),
    "1.module.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_of_all_names_are_taken_off(tmp_path, trained, prefix):
    brought = load(tmp_path, renamed(trained.state_dict(), prefix))
    images = torch.rand(2, 1, 8, 8)
    normalised = (images - torch.tensor(brought.mean)) / torch.tensor(brought.std)
    torch.testing.assert_close(brought.model.eval()(images), trained(normalised))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda w, r: {"state_dict": w, "epoch": 3, "best_acc1": torch.tensor(0.9)}, ""),
        (lambda w, r: {"model_state_dict": w, "optimizer": {"state": {0: {"step": 1}}}}, ""),
        (lambda w, r: {"net": w, "acc": 93.1}, ""),
        (lambda w, r: {"model": {"state_dict": w}}, ""),
        (lambda w, r: {"ema": r, "model": w}, "holds model, ema; model is taken"),
        (lambda w, r: {"state_dict_ema": r, "state_dict": w}, "holds state_dict, state_dict_ema; state_dict is taken"),
        (lambda w, r: {"model_ema": w, "epoch": 1}, "holds averaged weights alone (model_ema); they are taken"),
    ],
)
def test_state_dicts_inside_others(tmp_path, trained, caplog, content, said):
    """Where there are several the others hold other numbers."""
    other = {key: torch.zeros_like(value) for key, value in trained.state_dict().items()}
    with caplog.at_level(logging.INFO):
        brought = load(tmp_path, content(trained.state_dict(), other))
    assert torch.equal(brought.model.network.fc.weight, trained.fc.weight)
    assert any(said in note for note in brought.notes)
    assert said in caplog.text


def test_a_part_that_is_called_as_a_wrapper_stays(tmp_path, monkeypatch):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
            self.network = nn.Linear(10, 10)

        def forward(self, x):
            return self.network(self.model(x))

    monkeypatch.setitem(bring.__globals__["BUILTIN"], "inner", lambda channels, classes: Inner())
    for names in (lambda n: n, lambda n: f"module.{n}", lambda n: n.replace("model.1", "model.module.1")):
        network = Inner()
        state = {names(key): value for key, value in network.state_dict().items()}
        brought = load(tmp_path, state, spec={**SMALL, "name": "inner"})
        assert torch.equal(brought.model.network.model[1].weight, network.model[1].weight)


@pytest.mark.parametrize(
    ("layer", "before"),
    [
        (("0.mean", "0.std"), "1."),
        (("0.means", "0.sds"), "1.module."),
        (("module.0.mean", "module.0.std"), "module.1."),
        (("normalize.mean", "normalize.std"), "model."),
        (("normalizer.new_mean", "normalizer.new_std"), "model."),
        (("mu", "sigma"), ""),
    ],
)
@pytest.mark.parametrize("shape", [(1,), (1, 1, 1, 1)])
def test_a_normalising_layer_in_front_is_used(tmp_path, trained, caplog, layer, before, shape):
    state = renamed(trained.state_dict(), before)
    state |= {layer[0]: torch.full(shape, 0.25), layer[1]: torch.full(shape, 0.125)}
    with caplog.at_level(logging.INFO):
        brought = load(tmp_path, state)
    assert (brought.mean, brought.std) == ((0.25,), (0.125,))
    assert brought.notes[-1].startswith(f"normalisation: mean [0.25], std [0.125], of {layer[0]} in ")
    assert caplog.text.count("normalisation:") == 1
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(brought.model.eval()(images), trained((images - 0.25) / 0.125))
    assert load(tmp_path, state, mean=[0.5], std=[0.75]).mean == (0.5,)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (torch.tensor([0.5] * 3), torch.tensor([0.5] * 3), "are 3 and 3, not of 1 channels"),
        (torch.tensor([0.5]), torch.tensor([0.0]), "not above 0"),
        (torch.tensor([torch.nan]), torch.tensor([0.5]), "not finite"),
        (torch.tensor([125.3]), torch.tensor([63.0]), "is 125.3, but images here are in"),
    ],
)
def test_an_impossible_normalisation_is_refused_unless_one_is_given(tmp_path, trained, mean, std, words):
    state = {"0.mean": mean, "0.std": std, **renamed(trained.state_dict(), "1.")}
    message = refusal(tmp_path, state)
    assert message.startswith(f"weights={tmp_path / 'w.pth'}: 0.mean")
    assert words in message
    assert "model.mean=[" in message
    assert load(tmp_path, state, mean=[0.5], std=[0.75]).std == (0.75,)


def test_layers_that_do_not_agree_are_refused(tmp_path, trained):
    pairs = {"0.mean": 0.5, "0.std": 0.5, "1.normalize.mean": 0.5, "1.normalize.std": 0.25}
    state = {**{key: torch.tensor([value]) for key, value in pairs.items()}, **renamed(trained.state_dict(), "1.")}
    assert "0.mean, 1.normalize.mean do not normalise alike" in refusal(tmp_path, state)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mean": [0.5]}, r"^mean=\[0.5\] and std=null: give both, or neither"),
        ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, r"^mean=\[0.5, 0.5\] has 2 values, the images 1 channels"),
    ],
)
def test_a_given_normalisation_is_whole(given, words):
    with pytest.raises(UserError, match=words):
        bring({**SMALL, **given}, dataset(channels=1))


def test_without_any_it_is_the_datasets():
    brought = bring(SMALL, dataset(channels=3))
    assert (brought.mean, brought.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert brought.notes == (
        "normalisation: mean [0.5, 0.4, 0.3], std [0.2, 0.3, 0.4], the statistics of image_folder",
    )


def test_weights_for_a_timm_model_take_its_configuration(tmp_path):
    spec = {"name": "resnet10t", "pretrained": False, "weights": None}
    state = build_model(spec, 10, 3, (0.1,) * 3, (0.1,) * 3, (32, 32)).network.state_dict()
    brought = load(tmp_path, state, spec=spec, data=dataset(size=(32, 32)))
    assert brought.mean == PUBLISHED["imagenet"][0]
    assert "timm's configuration of resnet10t" in brought.notes[-1]
    assert bring(spec, dataset(size=(32, 32))).mean == (0.5, 0.4, 0.3)  # random weights know of none


class TheirBlock(nn.Module):
    """A basic block as Cohen et al. build it, under their names."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        changes = stride > 1 or inputs != outputs
        shortcut = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample = nn.Sequential(*shortcut) if changes else None

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class TheirNetwork(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        n, inputs = (depth - 2) // 6, 16
        for stage, width in enumerate((16, 32, 64), start=1):
            blocks = [
                TheirBlock(inputs if i == 0 else width, width, 2 if stage > 1 and i == 0 else 1) for i in range(n)
            ]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            inputs = width
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.fc(nn.functional.avg_pool2d(x, 8).flatten(1))


class TheirNormalisation(nn.Module):
    """Its numbers are no buffers: the file lacks them."""

    def forward(self, images):
        mean, std = (torch.tensor(values)[:, None, None] for values in PUBLISHED["cifar10"])
        return (images - mean) / std


def their_network(depth):
    torch.manual_seed(depth)
    network = nn.Sequential(TheirNormalisation(), TheirNetwork(depth))
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "running" in name or "bn" in name:
                value.copy_(torch.rand(value.shape) + 0.5)
    return network.eval()


@pytest.mark.parametrize("depth", [20, 110])
@pytest.mark.parametrize("wrapped", [False, True])
def test_networks_of_cohen(tmp_path, depth, wrapped):
    theirs = their_network(depth)
    state = theirs.state_dict()
    if wrapped:  # and in another order, as safetensors has it
        state = {key.replace("1.", "1.module.", 1): state[key] for key in sorted(state)}
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(images)
    spec = {**SMALL, "name": f"cifar_resnet{depth}"}
    content = {"epoch": 90, "arch": f"cifar_resnet{depth}", "state_dict": state}
    brought = load(tmp_path, content, spec=spec, data=dataset("cifar10", size=(32, 32)))
    assert (brought.mean, brought.std) == PUBLISHED["cifar10"]
    assert "Cohen et al." in brought.notes[-1]
    logits = brought.model.eval()(images)
    assert expected.std() > 1e-3
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert load(tmp_path, content, spec=spec, data=dataset(size=(32, 32))).mean == (0.5, 0.4, 0.3)


def test_a_network_of_cohens_names_but_another_shortcut_is_refused(tmp_path):
    """Parameter-free shortcuts (He et al.'s option A) are another network."""
    state = {key: value for key, value in their_network(20).state_dict().items() if "downsample" not in key}
    message = refusal(tmp_path, state, spec={**SMALL, "name": "cifar_resnet20"}, data=dataset(size=(32, 32)))
    assert re.search(r"only the model has 12 \(\S*shortcut\S* 32x16x1x1, ", message)


def test_resnet50_of_cohen_is_timms(tmp_path):
    """They save torchvision's, wrapped inside a Sequential."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    theirs = resnet50(num_classes=10).eval()
    state = {f"1.module.{key}": value for key, value in theirs.state_dict().items()}
    spec = {**SMALL, "name": "resnet50"}
    brought = load(tmp_path, {"arch": "resnet50", "state_dict": state}, spec, dataset("imagenet", size=(64, 64)))
    assert (brought.mean, brought.std) == PUBLISHED["imagenet"]
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values)[:, None, None] for values in PUBLISHED["imagenet"])
    with torch.no_grad():
        torch.testing.assert_close(brought.model.eval()(images), theirs((images - mean) / std), rtol=1e-4, atol=1e-5)


class TestMisfits:
    def test_both_sides_are_listed(self, tmp_path, trained):
        state = trained.state_dict()
        for i in range(4):
            state[f"extra.{i}"] = torch.zeros(i + 1, 2)
        del state["fc.bias"]
        state["features.0.0.weight"] = torch.zeros(32, 3, 5, 5)
        assert refusal(tmp_path, state) == (
            f"weights={tmp_path / 'w.pth'}: does not fit, in tensors: only the file has 4 (extra.0 1x2, extra.1 2x2, "
            "extra.2 3x2, …); only the model has 1 (fc.bias 10); of other shapes in the file are 1 "
            "(features.0.0.weight 32x3x5x5 for 32x1x5x5); use a file of the same architecture, or the model that it "
            "is of"
        )

    def test_what_is_no_tensor_is_told(self, tmp_path, trained):
        state = {**trained.state_dict(), "fc.bias": [0.0] * 10}
        assert "only the model has 1 (fc.bias 10 (a list in the file))" in refusal(tmp_path, state)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"fc.bias": torch.zeros(10, dtype=torch.int64)}, "fc.bias is of the kind torch.int64"),
            ({"fc.bias": torch.full((10,), torch.nan)}, "fc.bias holds NaN or infinity"),
            ({"fc.bias": torch.zeros(10).to_sparse()}, "not a readable state_dict|sparse"),
        ],
    )
    def test_tensors_of_another_kind(self, tmp_path, trained, change, words):
        assert re.search(words, refusal(tmp_path, {**trained.state_dict(), **change}))

    @pytest.mark.parametrize(
        ("content", "words"),
        [([1, 2], "it holds a list"), ({"epoch": 3}, "it holds no tensors"), ({3: torch.zeros(2)}, "no texts")],
    )
    def test_files_of_something_else(self, tmp_path, content, words):
        assert f"not a readable state_dict ({words}" in refusal(tmp_path, content).replace(
            "its state_dict has names that are ", ""
        )

    def test_dictionaries_that_are_shared_many_times_over(self, tmp_path):
        """Followed one by one they would be 9^12."""
        content = {"epoch": 3}
        for _ in range(12):
            content = dict.fromkeys((*_PARTS, *_AVERAGES), content)
        start = time.monotonic()
        assert "it holds no tensors" in refusal(tmp_path, content)
        assert time.monotonic() - start < 2

    def test_memory_that_nobody_wrote_is_refused_wherever_it_lies(self, tmp_path):
        content = {"model": {"model": {"fc.weight": torch.zeros(1).expand(10**7)}}}
        assert "bytes, the file" in refusal(tmp_path, content)

    def test_half_precision_and_missing_counts_do_fit(self, tmp_path, trained):
        state = {k: v.half() for k, v in trained.state_dict().items() if not k.endswith("num_batches_tracked")}
        brought = load(tmp_path, {**state, "n_averaged": torch.tensor(5)})
        assert torch.equal(brought.model.network.fc.weight, trained.fc.weight.half().float())
        assert any("n_averaged left out" in note for note in brought.notes)


class TestClasses:
    ORDER = tuple(f"c{i}" for i in (1, 0, *range(2, 10)))

    @pytest.mark.parametrize("key", ["classes", "class_to_idx"])
    def test_the_order_of_a_files_classes_is_compared(self, tmp_path, trained, key):
        def content(names):
            return {key: list(names) if key == "classes" else {n: i for i, n in enumerate(names)}, "model": state}

        state = trained.state_dict()
        load(tmp_path, content(sorted(self.ORDER)))
        message = refusal(tmp_path, content(self.ORDER))
        assert "in another order than the dataset's classes (output 0 is c1, not c0)" in message
        assert message.endswith("set dataset.class_names=FILE")
        message = refusal(tmp_path, content([f"dog{i}" for i in range(10)]))
        assert "its 10 classes (dog0, dog1, dog2, …) are not the dataset's 10 (c0, c1, c2, …)" in message
        load(tmp_path, content(self.ORDER), new_head=True)

    def test_numbers_that_are_none(self, tmp_path, trained):
        assert "does not number" in refusal(tmp_path, {"class_to_idx": {"a": 5}, "model": trained.state_dict()})


TV = {"library": "torchvision", "pretrained": False, "weights": None}


class TestTorchvision:
    def test_a_network_of_theirs(self, tmp_path):
        from torchvision.models import get_model

        theirs = get_model("squeezenet1_1", num_classes=10).eval()  # its last layer is a convolution
        spec = {**TV, "name": "squeezenet1_1"}
        brought = load(tmp_path, theirs.state_dict(), spec=spec, data=dataset(size=(32, 32)))
        assert "torchvision's configuration of squeezenet1_1" in brought.notes[-1]
        images = torch.rand(2, 3, 32, 32)
        normalised = (images - torch.tensor(brought.mean)[:, None, None]) / torch.tensor(brought.std)[:, None, None]
        torch.testing.assert_close(brought.model.eval()(images), theirs(normalised))
        assert "has 10 classes, the dataset 7" in refusal(
            tmp_path, theirs.state_dict(), spec=spec, data=dataset(classes=7, size=(32, 32))
        )

    def test_the_head_of_pretrained_weights_is_replaced_with_a_word(self, monkeypatch):
        from torchvision import models

        get = models.get_model
        monkeypatch.setattr(models, "get_model", lambda name, weights=None, **options: get(name, **options))
        brought = bring({**TV, "name": "resnet18", "pretrained": True}, dataset(size=(32, 32)))
        assert brought.model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
        assert "the last layer of resnet18 (1000 classes) is left out" in brought.notes[0]
        assert "torchvision's configuration of resnet18" in brought.notes[-1]

    @pytest.mark.parametrize(
        ("name", "channels", "words"),
        [
            ("resnet5O", 3, r"^name=resnet5O: not a classifier of torchvision; did you mean .*resnet50"),
            ("fasterrcnn_resnet50_fpn", 3, "not a classifier of torchvision"),
            ("resnet18", 1, r"^name=resnet18: does not take 1x32x32 images"),
            ("vit_b_32", 3, r"^name=vit_b_32: does not take 3x32x32 images"),
        ],
    )
    def test_misfits(self, name, channels, words):
        with pytest.raises(UserError, match=words):
            bring({**TV, "name": name}, dataset(channels=channels, size=(32, 32)))

    def test_resolved(self):
        resolved = resolve_model({**TV, "name": "resnet18", "mean": None}, "cifar10")
        assert resolved == {**TV, "name": "resnet18"}


MODULE = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, num_classes=10, in_chans=3):
        super().__init__(nn.Flatten(), nn.Linear(in_chans * 64, num_classes))


def fixed():
    return Net(10, 1)


def needs(width, num_classes):
    return Net(num_classes)


def refuses(num_classes):
    raise ValueError("no such size")


def nothing(num_classes):
    return None


def one(num_classes):
    return Net(1, 1)


instance = Net()
"""


class TestCustom:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, "networks_of_mine", raising=False)
        (tmp_path / "networks_of_mine.py").write_text(MODULE)

    def spec(self, name, **more):
        return {"name": "custom", "_target_": f"networks_of_mine.{name}", "pretrained": False, "weights": None, **more}

    @pytest.mark.parametrize("name", ["Net", "fixed"])
    def test_a_function_or_class_of_the_users_own(self, tmp_path, name):
        brought = bring(self.spec(name, mean=[0.0], std=[1.0]), dataset(channels=1))
        images = torch.rand(2, 1, 8, 8)
        torch.testing.assert_close(brought.model(images), brought.model.network(images))
        brought = load(tmp_path, brought.model.state_dict(), spec=self.spec(name))
        assert (brought.mean, brought.std) == ((0.0,), (1.0,))
        brought = bring(self.spec(name), dataset(channels=1))
        assert brought.mean == (0.5,)
        assert brought.notes[-1].endswith("set model.mean to zeros and model.std to ones")

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("Nets", r"^model._target_='networks_of_mine.Nets': no 'Nets' in .* did you mean 'Net'"),
            ("needs", r"^model._target_=networks_of_mine.needs: needs width, and is given"),
            ("refuses", r"^model._target_=networks_of_mine.refuses: no such size"),
            ("nothing", r"returns NoneType, not a torch.nn.Module"),
            ("instance", r"is a Net; name a function"),
            ("one", r"^name=custom: gives 2x1 for 2 images, not the logits 2x10 of the dataset's 10 classes"),
        ],
    )
    def test_misfits(self, name, words):
        with pytest.raises(UserError, match=words):
            bring(self.spec(name), dataset(channels=1))

    def test_name_and_target_belong_together(self):
        for spec in (self.spec("Net") | {"name": "small_cnn"}, {"name": "custom"}):
            with pytest.raises(UserError, match=r"set model=custom model._target_=my_module.make_model"):
                bring(spec, dataset(channels=1))
        with pytest.raises(UserError, match=r"^pretrained=true: custom"):
            bring(self.spec("Net", pretrained=True), dataset(channels=1))

    def test_resolved(self):
        assert resolve_model(self.spec("Net", pretrained=None), "imagenet") == self.spec("Net")
