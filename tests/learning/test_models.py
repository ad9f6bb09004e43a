import logging
import time

import pytest
import torch

from glsmooth.errors import UserError
from glsmooth.learning.data import TensorImages
from glsmooth.learning.models import Canonical, build_model, fit_first_layer, resolve_model, tensors_without_values
from glsmooth.transforms import BUILTIN, Composition, ContrastBrightness, GaussianBlur, Translation

GREY = {"channels": 1, "mean": (0.3,), "std": (0.2,), "image_size": (32, 32)}
COLOUR = {"channels": 3, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "image_size": (32, 32)}


@pytest.mark.parametrize(
    ("name", "parameters"),
    # He et al. count 0.27 and 1.7 million with parameter-free shortcuts; two 1x1 convolutions add 2,752.
    [("small_cnn", 131_690), ("cifar_resnet20", 269_722 + 2_752), ("cifar_resnet110", 1_727_962 + 2_752)],
)
def test_builtin_models(name, parameters):
    model = build_model({"name": name}, 10, **GREY).eval()
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 10)
    grey_stem = 0 if name == "small_cnn" else 2 * 9 * 16  # counted for colour images
    assert sum(p.numel() for p in model.parameters()) == parameters - grey_stem


@pytest.mark.parametrize("name", ["small_cnn", "cifar_resnet20", "cifar_fast"])
def test_builtin_models_run_in_float64_and_their_logits_never_in_less_than_float32(name):
    model, images = build_model({"name": name}, 10, **COLOUR).eval(), torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(images)
    single, double = model(images), model.double()(images.double())
    assert (rough.dtype, double.dtype) == (torch.float32, torch.float64)
    assert torch.allclose(single.double(), double, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Zagoruyko & Komodakis count 2.7 and 36.5 million.
    [("cifar_wrn16_4", 2_748_890), ("cifar_wrn28_10", 36_479_194), ("cifar_fast", 1_972_802)],
)
def test_sizes_of_larger_networks(name, parameters):
    tensors = tensors_without_values({"name": name}, 10, 3, (32, 32))
    counted = {key: value for key, value in tensors.items() if key.startswith("network.")}
    left_out = ("running_mean", "running_var", "num_batches_tracked")  # statistics
    assert sum(value.numel() for key, value in counted.items() if not key.endswith(left_out)) == parameters


def test_a_wide_network_gives_logits_and_learns_in_all_its_weights():
    model = build_model({"name": "cifar_wrn16_4"}, 10, **COLOUR)
    network = model.network
    assert network.blocks(network.stem(torch.rand(1, 3, 32, 32))).shape == (1, 256, 8, 8)
    logits = model(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in model.parameters())


def test_a_wider_cifar_fast():
    plain, wide = (
        tensors_without_values({"name": name}, 10, 3, (32, 32)) for name in ("cifar_fast", "cifar_fast_wide")
    )
    assert plain.keys() == wide.keys()
    assert (plain["network.fc.weight"].shape[1], wide["network.fc.weight"].shape[1]) == (256, 384)
    cyclic = build_model({"name": "cifar_fast_wide_cyclic"}, 10, **COLOUR)
    assert cyclic.network.cyclic
    assert {name: value.shape for name, value in cyclic.state_dict().items()} == {
        name: value.shape for name, value in wide.items()
    }


def test_a_cyclic_network_does_not_see_shifts_by_its_steps():
    """Three halvings: a shift by 8 pixels is one of whole cells everywhere. Other shifts, and an edge, are seen."""
    torch.manual_seed(0)
    images = torch.rand(3, 3, 32, 32)
    plain, cyclic = (build_model({"name": name}, 10, **COLOUR).eval() for name in ("cifar_fast", "cifar_fast_cyclic"))
    cyclic.load_state_dict(plain.state_dict())
    shifted = images.roll((8, -16), dims=(2, 3))
    with torch.inference_mode():
        assert torch.allclose(cyclic(shifted), cyclic(images), rtol=0, atol=1e-5)
        assert not torch.allclose(cyclic(images.roll(1, dims=2)), cyclic(images), rtol=0, atol=1e-3)
        assert not torch.allclose(plain(shifted), plain(images), rtol=0, atol=1e-3)
    conv = cyclic.network.groups[0]
    features = torch.rand(2, conv.in_channels, 5, 7)
    wanted = torch.nn.functional.conv2d(torch.nn.functional.pad(features, (1, 1, 1, 1), mode="circular"), conv.weight)
    assert torch.equal(conv(features), wanted)
    inside = slice(8, 24)  # away from the edges both compute the same
    layers = torch.nn.Sequential(cyclic.normalize, cyclic.network.whiten, cyclic.network.groups[0])
    others = torch.nn.Sequential(plain.normalize, plain.network.whiten, plain.network.groups[0])
    assert torch.equal(layers(images)[..., inside, inside], others(images)[..., inside, inside])


def test_cifar_fast_takes_its_first_layer_from_images():
    """Decorrelated patches: what comes out of the first filters has the identity as its second moments."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(200, 3, 34, 34, generator=generator), 3, stride=1)
    dataset = TensorImages((255 * smooth).byte(), torch.zeros(200, dtype=torch.long))
    model = build_model({"name": "cifar_fast"}, 10, **COLOUR)
    fit_first_layer(model, dataset)
    images = model.normalize(dataset[list(range(200))][0])
    assert images.std() > 0.1
    outputs = model.network.whiten(images).movedim(1, -1).flatten(0, -2)
    first, second = outputs.chunk(2, dim=1)
    torch.testing.assert_close(first, -second)
    moments = first.mT @ first / len(first)
    # Less than 1 where a direction has so little content that the constant added to it counts.
    assert (moments - torch.diag(moments.diag())).abs().max() < 1e-3
    assert 0.9 < moments.diag().max() <= 1 + 1e-4
    assert not model.network.whiten.weight.requires_grad
    model.network.whiten.weight.requires_grad_(True)
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) < 2_100_000


def test_mnist_size():
    model = build_model({"name": "small_cnn"}, 10, **GREY | {"image_size": (28, 28)})
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_three_stages_of_the_cifar_resnet():
    network = build_model({"name": "cifar_resnet20"}, 10, **COLOUR).network
    assert network.blocks(network.stem(torch.rand(1, 3, 32, 32))).shape == (1, 64, 8, 8)


def test_normalisation_is_the_first_layer():
    model = build_model({"name": "cifar_resnet20"}, 10, **COLOUR).eval()
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    by_hand = ((images.movedim(1, -1) - mean) / std).movedim(-1, 1)
    torch.testing.assert_close(model(images), model.network(by_hand))
    assert {"normalize.mean", "normalize.std"} <= model.state_dict().keys()
    assert not {"normalize.mean", "normalize.std"} & {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_timm_head_and_channels_follow_the_dataset(name):
    model = build_model({"name": name, "pretrained": False}, 7, **GREY)
    assert model.eval()(torch.rand(1, 1, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "resnet5O"}, ["name=resnet5O", "did you mean", "resnet50"]),
        ({"name": "small_cnn", "pretrained": True}, ["pretrained=true", "use pretrained=false"]),
        ({"name": "small_cnn", "weights": "nowhere.pt"}, ["weights=nowhere.pt"]),
    ],
)
def test_mistakes_are_named(spec, words):
    with pytest.raises(UserError) as error:
        build_model(spec, 10, **GREY)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_unsuitable_image_size_is_named():
    with pytest.raises(UserError, match=r"^name=small_cnn: does not take 1x2x2 images"):
        build_model({"name": "small_cnn"}, 10, **GREY | {"image_size": (2, 2)})


def test_hub_failure_is_explained(monkeypatch):
    import timm

    def offline(*args, **kwargs):
        raise OSError("no network\nsecond line")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"^pretrained=true: .*\(no network\).* pretrained=false or weights=FILE"):
        build_model({"name": "resnet18", "pretrained": True}, 10, **COLOUR)


@pytest.mark.parametrize(("classes", "new_head", "words"), [(10, False, "10"), (1000, False, ""), (1000, True, "1000")])
def test_the_head_of_a_network_from_the_hub_is_replaced_with_a_word(monkeypatch, caplog, classes, new_head, words):
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    with caplog.at_level(logging.INFO):
        model = build_model({"name": "resnet10t", "pretrained": True, "new_head": new_head}, classes, **COLOUR)
    assert model.eval()(torch.rand(1, 3, 32, 32)).shape == (1, classes)
    said = [record.getMessage() for record in caplog.records if record.name == "glsmooth.learning.models"]
    assert len(said) == bool(words)
    if words:
        assert f"of resnet10t (1000 classes) is left out; a new one for {words} classes" in said[0]


class TestWeights:
    @pytest.fixture
    def trained(self):
        torch.manual_seed(1)
        return build_model({"name": "small_cnn"}, 10, **GREY)

    @pytest.mark.parametrize("wrapper", ["", "module.", "model."])
    def test_state_dicts_of_several_programs(self, trained, tmp_path, wrapper):
        state = {wrapper + key: value for key, value in trained.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pt")
        model = build_model({"name": "small_cnn", "weights": tmp_path / "w.pt"}, 10, **GREY)
        images = torch.rand(2, 1, 32, 32)
        torch.testing.assert_close(model.eval()(images), trained.eval()(images))

    def test_plain_network(self, trained, tmp_path):
        torch.save(trained.network.state_dict(), tmp_path / "w.pt")
        model = build_model({"name": "small_cnn", "weights": tmp_path / "w.pt"}, 10, **GREY)
        assert torch.equal(model.network.fc.weight, trained.network.fc.weight)

    def test_weights_that_are_not_finite_are_refused(self, trained, tmp_path):
        with torch.no_grad():
            trained.network.fc.weight[2] = torch.inf
        torch.save(trained.state_dict(), tmp_path / "w.pt")
        with pytest.raises(UserError, match=r"w\.pt: its fc.weight holds NaN or infinity in 128 of its 1280 values; "):
            build_model({"name": "small_cnn", "weights": tmp_path / "w.pt"}, 10, **GREY)

    def test_safetensors(self, trained, tmp_path):
        from safetensors.torch import save_file

        save_file(trained.network.state_dict(), tmp_path / "w.safetensors")
        model = build_model({"name": "small_cnn", "weights": tmp_path / "w.safetensors"}, 10, **GREY)
        assert torch.equal(model.network.fc.weight, trained.network.fc.weight)

    @pytest.mark.parametrize("name", ["small_cnn", "resnet10t", "deit_tiny_distilled_patch16_224"])
    def test_another_number_of_classes_needs_a_new_head(self, tmp_path, caplog, name):
        shape = COLOUR | {"image_size": (32, 32)}
        old = build_model({"name": name}, 7, **shape)
        torch.save(old.state_dict(), tmp_path / "w.pt")
        spec = {"name": name, "weights": tmp_path / "w.pt"}
        with pytest.raises(UserError, match=r"has 7 classes, the dataset 10; .* set new_head=true") as error:
            build_model(spec, 10, **shape)
        assert f"weights={tmp_path / 'w.pt'}" in str(error.value)
        with caplog.at_level(logging.INFO):
            model = build_model({**spec, "new_head": True}, 10, **shape)
        assert "new_head=true: the last layer" in caplog.text
        assert "(7 classes)" in caplog.text
        assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)
        state, before = model.state_dict(), old.state_dict()
        changed = {key.split(".")[1] for key in state if state[key].shape != before[key].shape}
        assert changed <= {"fc", "head", "head_dist"}
        assert changed
        for key in state.keys() - {key for key in state if key.split(".")[1] in changed}:
            assert torch.equal(state[key], before[key]), key

    def test_a_new_head_is_new_for_the_same_number_of_classes_too(self, trained, tmp_path, caplog):
        torch.save(trained.state_dict(), tmp_path / "w.pt")
        with caplog.at_level(logging.INFO):
            model = build_model({"name": "small_cnn", "weights": tmp_path / "w.pt", "new_head": True}, 10, **GREY)
        assert "(10 classes) is left out" in caplog.text
        assert not torch.equal(model.network.fc.weight, trained.network.fc.weight)
        assert torch.equal(model.network.features[0][0].weight, trained.network.features[0][0].weight)

    def test_a_file_without_a_head_needs_a_new_one(self, trained, tmp_path):
        state = {key: value for key, value in trained.state_dict().items() if ".fc." not in key}
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(
            UserError, match=r"only the model has 2 \(fc.weight 10x128, fc.bias 10\); .* set new_head=true"
        ):
            build_model({"name": "small_cnn", "weights": tmp_path / "w.pt"}, 10, **GREY)
        build_model({"name": "small_cnn", "weights": tmp_path / "w.pt", "new_head": True}, 10, **GREY)

    def test_another_architecture_does_not_fit(self, trained, tmp_path):
        torch.save(trained.state_dict(), tmp_path / "w.pt")
        with pytest.raises(UserError, match=r"^weights=.*does not fit.*only the file has 24 .*only the model has 126 "):
            build_model({"name": "cifar_resnet20", "weights": tmp_path / "w.pt"}, 10, **GREY)

    def test_other_shapes_do_not_fit(self, trained, tmp_path):
        torch.save(trained.state_dict(), tmp_path / "w.pt")
        with pytest.raises(
            UserError, match=r"of other shapes in the file are 1 \(features.0.0.weight 32x1x5x5 for 32x3x5x5\)"
        ):
            build_model({"name": "small_cnn", "weights": tmp_path / "w.pt"}, 10, **COLOUR)

    def test_damaged_file(self, tmp_path):
        (tmp_path / "w.pt").write_bytes(b"not a state_dict")
        with pytest.raises(UserError, match=r"^weights=.*not a readable state_dict"):
            build_model({"name": "small_cnn", "weights": tmp_path / "w.pt"}, 10, **GREY)


@pytest.mark.parametrize(
    ("spec", "dataset", "name", "pretrained"),
    [
        ({"name": "auto"}, "digits", "small_cnn", False),
        ({"name": "auto"}, "cifar100", "cifar_resnet20", False),
        ({"name": "auto"}, "imagenet", "resnet50", True),
        ({"name": "auto", "pretrained": False}, "imagenet", "resnet50", False),
        ({"name": "resnet50", "weights": "w.pt"}, "imagenet", "resnet50", False),
        ({"name": "resnet50"}, "cifar10", "resnet50", False),
        ({"name": "resnet50", "pretrained": True}, "cifar10", "resnet50", True),
    ],
)
def test_auto(spec, dataset, name, pretrained):
    resolved = resolve_model(spec, dataset)
    assert resolved.keys() == {"name", "pretrained", "weights"}
    assert (resolved["name"], resolved["pretrained"]) == (name, pretrained)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fc.bias": torch.tensor(1.0)}, r"of other shapes in the file are 1 \(fc.bias scalar for 10\)"),
        ({"module." * 300_000 + "other": torch.zeros(10)}, r"only the file has 1 \(…[module.]+other 10\)"),
        ({"x" * 3_000_000: torch.zeros(10)}, r"only the file has 1 \(…x+ 10\)"),
    ],
    ids=["scalar", "wrapped", "long"],
)
def test_weights_of_strange_names_and_shapes_are_told_shortly(tmp_path, change, words):
    state = build_model({"name": "small_cnn"}, 10, 1, (0.5,), (0.5,), (8, 8))[1].state_dict()
    torch.save({**state, **change}, tmp_path / "weights.pt")
    spec = {"name": "small_cnn", "weights": tmp_path / "weights.pt"}
    start = time.monotonic()
    with pytest.raises(UserError, match=rf"^weights=\S*weights\.pt: .*({words})") as refused:
        build_model(spec, 10, 1, (0.5,), (0.5,), (8, 8))
    assert len(str(refused.value)) < 500
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("name", ["small_cnn", "cifar_resnet20", "resnet18", "efficientnet_lite0"])
def test_logits_are_of_float32_in_half_precision(name):
    """Of bfloat16 they have 8 bits: the two largest are often equal, and a tie is no vote."""
    torch.manual_seed(0)
    spec = {"name": name, "pretrained": False, "weights": None}
    model = build_model(spec, 10, 3, [0.5] * 3, [0.25] * 3, (32, 32)).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.rand(64, 3, 32, 32))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


CANONICAL = [name for name, cls in BUILTIN.items() if cls().canonical_parameters == cls().parameters]


class TestCanonical:
    def spec(self, canonical, **more):
        return {"name": "small_cnn", "pretrained": False, "weights": None, "canonical": canonical, **more}

    @pytest.mark.parametrize("name", CANONICAL)
    def test_the_network_sees_the_form_alone(self, name):
        torch.manual_seed(0)
        model = build_model(self.spec(name), 10, **COLOUR).eval()
        transform = BUILTIN[name]()
        images = torch.rand(8, 3, 32, 32)
        theta = transform.random_parameters(8, torch.Generator().manual_seed(0))
        torch.testing.assert_close(model(transform.apply(images, theta)), model(images), rtol=0, atol=1e-5)
        plain = build_model(self.spec("none"), 10, **COLOUR).eval()
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(plain(transform.canonical(images)), model(images), rtol=0, atol=1e-6)
        assert (plain(transform.apply(images, theta)) - plain(images)).abs().max() > 1e-3

    @pytest.mark.parametrize("absent", ["none", None])
    def test_without_it_a_network_is_what_it_was(self, absent):
        model = build_model(self.spec(absent), 10, **GREY)
        assert [name for name, _ in model.named_children()] == ["normalize", "network"]

    def test_it_holds_no_tensor(self):
        with_it, without = (build_model(self.spec(name), 10, **GREY) for name in ("contrast_brightness", "none"))
        assert with_it.state_dict().keys() == without.state_dict().keys()
        blank = tensors_without_values(self.spec("contrast"), 10, 1, (32, 32))
        assert all(tensor.is_meta for tensor in blank.values())
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in blank.items()} == {
            name: (tensor.shape, tensor.dtype) for name, tensor in with_it.state_dict().items()
        }

    @pytest.mark.parametrize("form", ["whole", "network"])
    def test_weights_of_a_plain_network_fit(self, tmp_path, form):
        plain = build_model(self.spec("none"), 10, **GREY).eval()
        state = plain.state_dict() if form == "whole" else plain.network.state_dict()
        torch.save(state, tmp_path / "w.pt")
        model = build_model(self.spec("contrast", weights=tmp_path / "w.pt"), 10, **GREY).eval()
        images = torch.rand(4, 1, 32, 32)
        torch.testing.assert_close(model(images), plain(BUILTIN["contrast"]().canonical(images)))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_for_the_network_alone(self, dtype):
        layer = build_model(self.spec("contrast_brightness_translation"), 10, **COLOUR).canonical
        images = torch.rand(4, 3, 32, 32)
        with torch.autocast("cpu", dtype):
            form = layer(images)
            assert layer(images.to(dtype)).dtype == dtype
        assert form.dtype == torch.float32
        assert torch.equal(form, layer(images))

    def test_a_users_form_is_not_computed_in_half_precision(self):
        class Product(ContrastBrightness):
            def canonical(self, images):
                return images @ images.mT

        images = torch.rand(2, 1, 8, 8)
        with torch.autocast("cpu", torch.bfloat16):
            form = Canonical(Product())(images)
        assert torch.equal(form, images @ images.mT)

    @pytest.mark.parametrize(
        ("transform", "name", "said"),
        [
            (ContrastBrightness(order="brightness_first"), "contrast_brightness", "auto: contrast_brightness"),
            (GaussianBlur(), "gaussian_blur", "auto: gaussian_blur"),
            (GaussianBlur(border="cyclic"), None, "auto: none (GaussianBlur(border='cyclic') has another form"),
            (Translation(padding="reflect"), None, "auto: none (pixels that leave"),
            (Composition(ContrastBrightness(), Translation()), None, "auto: none (Composition is not built in"),
        ],
        ids=repr,
    )
    def test_auto_follows_the_transformation(self, caplog, transform, name, said):
        with caplog.at_level(logging.INFO):
            resolved = resolve_model({"name": "auto", "canonical": "auto"}, "digits", transform)
        assert resolved.get("canonical") == name
        assert said in caplog.text

    def test_none_is_not_written_down_and_a_name_is(self):
        for absent in ({}, {"canonical": "none"}, {"canonical": None}):
            assert "canonical" not in resolve_model({"name": "auto", **absent}, "digits", ContrastBrightness())
        assert resolve_model({"canonical": "gamma"}, "digits", ContrastBrightness())["canonical"] == "gamma"

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("brightnes", r"^model.canonical='brightnes' is not a choice; did you mean 'brightness'"),
            ("auto", r"^model.canonical='auto' is not a choice"),  # in a checkpoint, say
        ],
    )
    def test_names_that_have_none(self, name, words):
        with pytest.raises(UserError, match=words):
            build_model(self.spec(name), 10, **GREY)
