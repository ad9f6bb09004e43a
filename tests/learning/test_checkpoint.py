import hashlib
import os
import resource

import pytest
import torch

import glsmooth as gs
from glsmooth.configuration.build import law_config
from glsmooth.configuration.identity import file_digest
from glsmooth.errors import UserError
from glsmooth.learning.checkpoint import KEY, load_checkpoint, make_payload
from glsmooth.learning.data import load_dataset
from glsmooth.learning.models import build_model

SETTINGS = {
    "transform": {"_target_": "glsmooth.transforms.ContrastBrightness", "order": "contrast_first"},
    "smoothing": {
        "contrast": {"law": "LogNormal", "loc": 0.0, "scale": 0.6, "rate": None, "low": None, "high": None},
        "brightness": {"law": "Normal", "loc": 0.0, "scale": 0.4, "rate": None, "low": None, "high": None},
    },
    "region": {"contrast": [0.7, 1.4], "brightness": [-0.2, 0.2]},
    "dataset": {"name": "digits", "root": None, "image_size": [16, 16]},
    "model": {"name": "small_cnn", "pretrained": False, "weights": "where/training/started.pt"},
    "loss": {"copies": 2, "consistency": 5.0, "entropy": 0.5, "pixel_noise": 0.1},
    "optimizer": {"lr": 0.1},
    "trainer": {"devices": 1, "precision": "bf16-mixed"},
    "seed": 3,
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model({"name": "small_cnn"}, 10, 1, (0.3053,), (0.3236,), (16, 16)).eval()


@pytest.fixture
def path(tmp_path, model):
    payload = make_payload(SETTINGS, load_dataset(SETTINGS["dataset"]))
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({KEY: {**payload, "metrics": {"epoch": 2}}, "state_dict": state}, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def test_it_knows_what_it_is(path):
    checkpoint = load_checkpoint(path)
    for name in ("transform", "smoothing", "region", "dataset", "model", "loss", "optimizer", "seed"):
        assert getattr(checkpoint, name) == SETTINGS[name]
    assert checkpoint.precision == "bf16-mixed"
    assert checkpoint.classes == list("0123456789")
    assert checkpoint.image_size == [16, 16]
    assert checkpoint.metrics == {"epoch": 2}


def test_a_canonical_form_is_the_networks_own(tmp_path):
    settings = {**SETTINGS, "model": {**SETTINGS["model"], "canonical": "contrast"}}
    torch.manual_seed(0)
    model = build_model({"name": "small_cnn", "canonical": "contrast"}, 10, 1, (0.3053,), (0.3236,), (16, 16)).eval()
    payload = make_payload(settings, load_dataset(SETTINGS["dataset"]))
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    for change in ({}, {"canonical": "auto"}, {"canonical": "contrasts"}):
        changed = {**payload, "model": {**payload["model"], **change}, "metrics": {"epoch": 2}}
        torch.save({KEY: changed, "state_dict": state}, tmp_path / "best.ckpt")
        if change:
            with pytest.raises(UserError, match=r"model\.canonical"):
                load_checkpoint(tmp_path / "best.ckpt").build_model()
            continue
        checkpoint = load_checkpoint(tmp_path / "best.ckpt")
        assert checkpoint.identity["model.canonical"] == "contrast"
        images = torch.rand(2, 1, 16, 16)
        assert torch.equal(checkpoint.build_model()(images), model(images))
        torch.testing.assert_close(checkpoint.build_model()(4 * images), model(images))


def test_precision_of_older_checkpoints(path):
    content = torch.load(path, weights_only=True)
    del content[KEY]["precision"]
    torch.save(content, path)
    assert load_checkpoint(path).precision == "bf16-mixed"  # as its identity says
    del content[KEY]["identity"]["trainer.precision"]
    torch.save(content, path)
    assert load_checkpoint(path).precision == "32-true"
    del content[KEY]["identity"]
    torch.save(content, path)
    assert load_checkpoint(path).precision == "32-true"


def test_weights_in_channels_last_are_read_as_others(path, model):
    content = torch.load(path, weights_only=True)
    for name, value in content["state_dict"].items():
        if value.ndim == 4:
            content["state_dict"][name] = value.contiguous(memory_format=torch.channels_last)
    torch.save(content, path)
    images = torch.rand(3, 1, 16, 16)
    assert torch.equal(load_checkpoint(path).build_model()(images), model(images))


def test_model_comes_back(path, model):
    restored = load_checkpoint(path).build_model()
    images = torch.rand(3, 1, 16, 16)
    assert not restored.training
    assert torch.equal(restored(images), model(images))


def test_weights_that_are_not_finite_are_refused(path):
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.network.fc.bias"][3] = torch.nan
    torch.save(content, path)
    with pytest.raises(UserError, match=r"^ckpt: its network.fc.bias holds NaN or infinity in 1 of its 10 values; "):
        load_checkpoint(path).build_model()


def test_family_comes_back(path):
    family = load_checkpoint(path).build_family()
    assert isinstance(family.transform, gs.transforms.ContrastBrightness)
    assert isinstance(family.laws["contrast"], gs.LogNormal)
    assert law_config(family.laws["brightness"]) == {"law": "Normal", "loc": 0.0, "scale": 0.4}
    assert family.image_size == (16, 16)
    assert family.pixel_noise == 0.1


def test_digest_is_sha256_of_the_bytes(path):
    assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


class TestMistakes:
    def test_replaced_while_it_is_read(self, path, monkeypatch):
        load = torch.load

        def slow(*args, **options):
            content = load(*args, **options)
            path.write_bytes(b"the next epoch")
            return content

        monkeypatch.setattr(torch, "load", slow)
        with pytest.raises(UserError, match=r"ckpt=.*best.ckpt: was replaced while it was read"):
            load_checkpoint(path)

    def test_missing(self, tmp_path):
        with pytest.raises(UserError, match=r"ckpt=.*nowhere.ckpt: no such file"):
            load_checkpoint(tmp_path / "nowhere.ckpt")

    def test_truncated(self, path):
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(UserError, match=r"ckpt=.*best.ckpt: not a readable checkpoint"):
            load_checkpoint(path)

    @pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], {KEY: {"transform": {}}}])
    def test_foreign(self, path, content):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"ckpt=.*not a checkpoint of this program.* weights="):
            load_checkpoint(path)

    def test_code_is_not_executed(self, path):
        torch.save({KEY: {}, "state_dict": {}, "callback": print}, path)
        with pytest.raises(UserError, match=r"not a readable checkpoint"):
            load_checkpoint(path)

    def test_weights_of_another_network(self, path):
        content = torch.load(path, weights_only=True)
        content["state_dict"].pop("model.network.fc.bias")
        torch.save(content, path)
        with pytest.raises(UserError, match=r"ckpt: its weights do not fit small_cnn"):
            load_checkpoint(path).build_model()


#: Where a checkpoint says something, what it may not say there, and what the message names.
WRONG = [
    (key, value, key)
    for key in (
        *("transform", "smoothing", "region", "dataset", "model", "loss", "optimizer", "identity", "metrics"),
        *("classes", "image_size", "mean", "std", "seed", "precision"),
    )
    for value in (None, "x", 1.5, [None])
    if not (key == "classes" and value == ["x"])
] + [
    ("transform", {"_target_": 3}, r"transform\._target_"),
    ("transform", {}, r"transform\._target_"),
    ("smoothing", {"contrast": 3}, r"smoothing\.contrast"),
    ("smoothing", {"contrast": {"law": ["Normal"]}}, r"smoothing\.contrast\.law"),
    ("smoothing", {"contrast": {"law": "Normal", "scale": 10**30}}, "64 bits"),
    ("smoothing", {"contrast": {"law": "Normal", "scale": float("nan")}}, r"smoothing\.contrast\.scale"),
    ("region", {"contrast": ["a", "b"]}, r"region\.contrast"),
    ("dataset", {"name": "imagnet"}, r"dataset\.name"),
    ("dataset", {"name": "digits", "image_size": [16, -16]}, r"dataset\.image_size"),
    ("model", {"name": None}, r"model\.name"),
    ("model", {"name": "small_cnn", "more": 1}, r"model\.more"),
    ("loss", {}, r"loss\.pixel_noise"),
    ("loss", {"pixel_noise": -1.0}, r"loss\.pixel_noise"),
    ("metrics", {"epoch": "two"}, r"metrics\.epoch"),
    ("classes", ["a"], "classes"),
    ("classes", ["a", 3], "classes"),
    ("classes", ["a", "a"], "classes"),
    ("classes", ["a", "b" * 20_000], "20000 characters"),
    ("classes", ["a"] * 200_000, "more values"),
    ("image_size", [16], "image_size"),
    ("image_size", [10**5, 10**5], "image_size"),
    ("image_size", [True, 16], "image_size"),
    ("mean", [], "mean"),
    ("mean", [0.0, 0.0], "mean"),
    ("std", [0.0], "std"),
    ("std", [0.1, 0.1, 0.1], "std"),
    ("seed", -1, "seed"),
    ("precision", "auto", "precision is 'auto', not one of"),
    ("seed", 2**70, "64 bits"),
    ("model", {"name": torch.zeros(2)}, "Tensor"),
    ("model", {3: "small_cnn"}, "no texts"),
    ("optimizer", {"lr": b"0.1"}, "_codecs encode"),
    ("optimizer", {"lr": {1}}, "__builtin__ set"),
    ("identity", {str(i): "x" * 9_000 for i in range(300)}, "2000000 characters"),
    ("identity", dict.fromkeys(map(str, range(300)), "x" * 9_000), "2000000 characters"),
]


def nested(depth):
    value: list = []
    for _ in range(depth):
        value = [value, value]  # the same twice: 2^depth lists, were they unfolded
    return value


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [pytest.param(*case, id=f"{case[0]}{i}") for i, case in enumerate(WRONG)]
    + [pytest.param("optimizer", {"lr": nested(40)}, "deeper", id="nested"), ("optimizer", {}, None)],
)
def test_metadata_of_another_kind_are_refused_by_name(path, key, value, words):
    content = torch.load(path, weights_only=True)
    content[KEY][key] = value
    torch.save(content, path)
    if words is None:
        load_checkpoint(path)
        return
    with pytest.raises(UserError, match=rf"^ckpt=\S*best\.ckpt: .*{words}") as refused:
        load_checkpoint(path)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    "state", [None, {}, [1], {"a": 3}, {3: torch.zeros(1)}, {"a": torch.zeros(2, 2).to_sparse()}, "x"], ids=str
)
def test_weights_of_another_kind_are_refused(path, state):
    content = torch.load(path, weights_only=True)
    torch.save({**content, "state_dict": state}, path)
    with pytest.raises(
        UserError, match=r"^ckpt=\S*best\.ckpt: not a (readable checkpoint|checkpoint that train wrote)"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "vit_giant_patch14_224"}},
        {"model": {"name": "vit_giant_patch14_224"}, "image_size": [2044, 2044]},
        {"classes": [str(i) for i in range(90_000)], "model": {"name": "resnetv2_152x4_bit"}},
        {"model": {"name": "no_such_network"}},
        {"model": {"name": "../../evil"}},
        {"model": {"name": "hf-hub:evil/evil"}},
        {"model": {"name": "resnet18.nonsense"}},
        {"model": {"name": "small_cnn\x1b[2J"}},
    ],
    ids=["other", "large images", "many classes", "unknown", "path", "hub", "tag", "terminal"],
)
def test_a_network_is_built_for_the_weights_that_are_there_alone(path, monkeypatch, change):
    content = torch.load(path, weights_only=True)
    content[KEY] |= change
    torch.save(content, path)
    checkpoint = load_checkpoint(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"its weights do not fit|neither one of|timm cannot build"):
        checkpoint.build_model()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="no such file"):
        load_checkpoint(tmp_path / "best.ckpt")


def test_a_network_of_torchvision_comes_back(path):
    spec = {"name": "squeezenet1_1", "library": "torchvision", "pretrained": False, "weights": None}
    colour = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "image_size": [32, 32]}
    model = build_model(spec, 10, 3, colour["mean"], colour["std"], (32, 32)).eval()
    content = torch.load(path, weights_only=True)
    content[KEY] |= {"model": spec, **colour}
    content["state_dict"] = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save(content, path)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load_checkpoint(path).build_model()(images), model(images))
    content[KEY]["model"] = {**spec, "name": "vit_h_14"}
    torch.save(content, path)
    with pytest.raises(UserError, match="its weights do not fit vit_h_14"):
        load_checkpoint(path).build_model()
