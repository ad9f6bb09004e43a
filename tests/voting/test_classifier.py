"""The base classifier: evaluation mode for the time of a run, and networks that no votes can be taken of."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import glsmooth as gs
from glsmooth.errors import UserError
from glsmooth.voting.classifier import BaseClassifier

IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(3))


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *layers, nn.Flatten(), nn.Linear(8 * 36, 4))


@pytest.fixture
def family():
    return gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 0.3)})


REGION = gs.Box(brightness=(-0.1, 0.1))


def smoothed(model, family, **options):
    return gs.SmoothedClassifier(model, family, num_classes=4, batch_size=64, **options)


def test_a_network_in_training_mode_is_evaluated_as_it_is_and_left_as_it_was(family):
    model = network(nn.Dropout(0.5))
    model(torch.rand(64, 3, 8, 8))  # statistics of its own
    reference = smoothed(model.eval(), family).certify(IMAGE, REGION)
    classifier = smoothed(model, family)
    model.train()
    model[0].eval()  # a frozen layer, as in fine-tuning
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(2):
        assert classifier.certify(IMAGE, REGION) == reference
        assert classifier.predict(IMAGE) in (reference.prediction, gs.smoothing.ABSTAIN)
        assert [module.training for module in model] == [False] + [True] * (len(model) - 1)
        assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_modes_come_back_after_an_error(family):
    class Broken(nn.Module):
        def forward(self, images):
            raise RuntimeError("broken")

    model = Broken().train()
    with pytest.raises(UserError, match="broken"):
        smoothed(model, family).certify(IMAGE, REGION)
    assert model.training


@pytest.mark.parametrize(
    ("shape", "fix"), [((1, 8, 8), "its first convolution takes 3 channels"), ((3, 9, 8), "give images of the size")]
)
def test_images_that_the_network_does_not_take(family, shape, fix):
    words = r"fails for images of shape \({}, {}, {}\), in a batch of 16 \(RuntimeError: .*\); {}"
    with pytest.raises(UserError, match=words.format(*shape, fix)):
        smoothed(network(), family).certify(torch.rand(shape), REGION)


@pytest.mark.parametrize(
    ("tensor", "value", "words"),
    [
        ("0.weight", torch.nan, "0.weight holds NaN or infinity in 1 of its 216 values"),
        ("5.bias", -torch.inf, "5.bias holds NaN or infinity in 1 of its 4 values"),
        ("1.running_mean", torch.nan, "1.running_mean holds NaN in 1 of its 8 values"),
    ],
)
@pytest.mark.parametrize("stochastic", [False, True])
def test_weights_that_are_not_finite_are_refused(family, tensor, value, words, stochastic):
    """A NaN behind a ReLU or in one logit need not show in any vote."""
    model = network(nn.Identity())
    classifier = smoothed(model, family, stochastic=stochastic)
    classifier.certify(IMAGE, REGION)
    with torch.no_grad():
        weights = model.state_dict()[tensor]  # in whichever memory format was chosen
        weights[(0,) * (weights.ndim - 1) + (1,)] = value
    with pytest.raises(UserError, match=words):
        classifier.certify(IMAGE, REGION)
    with pytest.raises(UserError, match=words):
        classifier.predict(IMAGE)


def test_a_mask_of_infinities_is_no_fault(family):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()
            self.register_buffer("mask", torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]))

        def forward(self, images):
            return self.network(images) + self.mask.clamp(min=-1e9)

    assert smoothed(Masked(), family).certify(IMAGE, REGION).prediction in (0, 1)


class UpdatesStatistics(nn.Module):
    """Normalises by its own statistics in evaluation mode, too, and updates them."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def train(self, mode=True):
        return super().train(True)

    def forward(self, images):
        return self.body(images)


class Adapts(nn.Module):
    """Moves a parameter, after a number of passes."""

    def __init__(self, after, in_data=False):
        super().__init__()
        self.body, self.after, self.calls, self.in_data = network().eval(), after, 0, in_data

    def forward(self, images):
        self.calls += 1
        if self.calls > self.after:
            bias = self.body[-1].bias.data if self.in_data else self.body[-1].bias
            with torch.no_grad():
                bias[0] += 1e-3
        return self.body(images)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (UpdatesStatistics(), "body.1.running_mean"),
        (Adapts(0), "body.5.bias|body.4.bias"),
        (Adapts(10), "body.5.bias|body.4.bias"),
        (Adapts(10, in_data=True), "body.5.bias|body.4.bias"),
    ],
)
@pytest.mark.parametrize("stochastic", [False, True])
def test_a_network_that_changes_itself_is_refused(family, model, name, stochastic):
    with pytest.raises(UserError, match=rf"changes itself in evaluation mode: ({name})"):
        smoothed(model, family, stochastic=stochastic).certify(IMAGE, REGION)


class BatchStatistics(nn.Module):
    """The batch's own mean and variance, without running statistics: nothing about the network changes."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.body, self.noise = network().eval(), noise

    def forward(self, images):
        images = F.batch_norm(images, None, None, training=True)
        return self.body(images + self.noise * torch.randn_like(images))


class SubtractsTheMeanLogit(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network().eval()

    def forward(self, images):
        logits = self.body(images)
        return logits - 0.01 * logits.mean(dim=0)


class NoiseByPlace(nn.Module):
    """The same noise in every pass, another one at each place of the batch."""

    def __init__(self):
        super().__init__()
        self.body = network().eval()

    def forward(self, images):
        generator = torch.Generator().manual_seed(0)
        return self.body(images + 0.5 * torch.randn(images.shape, generator=generator))


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize(
    ("model", "what"),
    [
        (BatchStatistics(), "the other images of its batch"),
        (SubtractsTheMeanLogit(), "the other images of its batch"),
        (NoiseByPlace(), "its place in the batch"),
    ],
)
def test_a_network_that_looks_at_the_batch_is_refused(family, model, what, stochastic):
    with pytest.raises(UserError, match=f"logits for an image depend on {what}"):
        smoothed(model, family, stochastic=stochastic).certify(IMAGE, REGION)


class Noisy(nn.Module):
    """Noise in evaluation mode, drawn in one of several ways."""

    def __init__(self, draw):
        super().__init__()
        self.body, self.draw = network().eval(), draw

    def forward(self, images):
        return self.body(images + 0.5 * self.draw(images))


NOISE = {
    "torch": torch.randn_like,
    "numpy": lambda x: torch.from_numpy(np.random.standard_normal(x.shape)).float(),  # noqa: NPY002
    "random": lambda x: torch.tensor([random.gauss(0, 1) for _ in x])[:, None, None, None].expand_as(x),
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
}
SHARED = {
    "one noise a batch": lambda x: torch.randn_like(x[:1]).expand_as(x),
    "a share of it": lambda x: torch.randn_like(x) + 0.7 * torch.randn_like(x[:1]),
    "in opposite pairs": lambda x: torch.stack([n := torch.randn_like(x[::2]), -n], dim=1).flatten(0, 1)[: len(x)],
}


@pytest.mark.parametrize("draw", NOISE)
def test_a_random_network_needs_permission(family, draw):
    with pytest.raises(UserError, match=r"random in evaluation mode.*stochastic=true"):
        smoothed(Noisy(NOISE[draw]), family).certify(IMAGE, REGION)
    states = torch.get_rng_state(), random.getstate()
    allowed = smoothed(Noisy(NOISE[draw]), family, stochastic=True)
    result = allowed.certify(IMAGE, REGION)
    assert result.n == 1000
    assert not allowed.classifier.deterministic
    # The global generators move on by what was drawn, and never back: seeds are for the trial alone.
    moved = not torch.equal(torch.get_rng_state(), states[0]) if draw != "random" else random.getstate() != states[1]
    assert moved or draw == "numpy"


@pytest.mark.parametrize("draw", SHARED)
def test_randomness_that_a_batch_shares_is_refused(family, draw):
    with pytest.raises(UserError, match="randomness is not independent within a batch"):
        smoothed(Noisy(SHARED[draw]), family, stochastic=True).certify(IMAGE, REGION)


def test_randomness_does_not_excuse_looking_at_the_batch(family):
    with pytest.raises(UserError, match="depend on the other images"):
        smoothed(BatchStatistics(noise=0.1), family, stochastic=True).certify(IMAGE, REGION)


def test_randomness_that_cannot_be_repeated_is_refused(family):
    generator = torch.Generator().manual_seed(5)
    own = Noisy(lambda x: torch.randn(x.shape, generator=generator))
    with pytest.raises(UserError, match="does not follow from the seeds"):
        smoothed(own, family, stochastic=True).certify(IMAGE, REGION)


def test_good_random_networks_are_not_refused_by_chance():
    """The test of independence refuses a good network with probability 1e-8, whatever its randomness is like."""
    rare = Noisy(lambda x: 10.0 * (torch.rand(len(x)) < 0.01).float()[:, None, None, None].expand_as(x))
    for seed in range(20):
        for model in (Noisy(torch.randn_like), rare):
            torch.manual_seed(seed)
            classifier = BaseClassifier(model, 4, stochastic=True)
            with classifier.ready(IMAGE):
                pass


def test_the_trial_is_made_once_for_a_network_in_one_state():
    calls = 0

    def count(module, inputs, output):
        nonlocal calls
        calls += 1

    model = network().eval()
    model.register_forward_hook(count)
    classifier = BaseClassifier(model, 4)
    assert classifier.deterministic is None
    for _ in range(3):
        with classifier.ready(IMAGE) as ready:
            assert ready.deterministic
    assert calls == 4
    with torch.no_grad():
        model[-1].bias += 1
    with classifier.ready(IMAGE):
        pass
    assert calls == 8


def test_any_changed_bit_is_seen():
    model = nn.Module()
    for i, dtype in enumerate((torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64)):
        model.register_buffer(f"b{i}", torch.ones(3, 4).to(dtype))
    model.register_buffer("scalar", torch.tensor(7))
    model.register_buffer("none", torch.empty(0))
    classifier = BaseClassifier(model, 2)
    before = classifier.fingerprints()
    assert classifier.fingerprints() == before
    for name, buffer in model.named_buffers():
        if buffer.numel():
            old = buffer.clone()
            flat = buffer.view(-1)
            flat[-1] = 0
            changed = [key for key, value in classifier.fingerprints().items() if value != before[key]]
            assert changed == [name]
            buffer.copy_(old)
    model.b1[0], model.b1[1] = model.b1[0].clone() * 2, model.b1[1]
    swapped = model.b1.flip(0).clone()
    with_two = classifier.fingerprints()["b1"]
    model.b1.copy_(swapped)
    assert classifier.fingerprints()["b1"] != with_two


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_kernels_of_a_gpu_do_not_count_as_randomness(precision):
    from glsmooth.learning.models import build_model

    colour = {"channels": 3, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "image_size": (32, 32)}
    for name in ("cifar_resnet20", "resnet50"):
        classifier = BaseClassifier(build_model({"name": name}, 10, **colour), 10, device="cuda", precision=precision)
        with classifier.ready(torch.rand(3, 32, 32)):
            assert classifier.deterministic
    with (
        pytest.raises(UserError, match="random in evaluation mode"),
        BaseClassifier(Noisy(torch.randn_like), 4, device="cuda").ready(IMAGE),
    ):
        pass
