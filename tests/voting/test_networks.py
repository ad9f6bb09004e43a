"""Anybody's network: every dtype, preprocessing of its own, outputs as other libraries give them."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import glsmooth as gs
from glsmooth.errors import UserError
from glsmooth.voting.classifier import BaseClassifier
from glsmooth.voting.engine import VoteEngine
from glsmooth.voting.procedures import FixedSample

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))
FAMILY = gs.SmoothedFamily(
    gs.transforms.ContrastBrightness(), {"contrast": gs.LogNormal(0.0, 0.4), "brightness": gs.Normal(0.0, 0.3)}
)
REGION = gs.Box(brightness=(-0.1, 0.1))
SETTINGS = {"batch_size": 64, "compile": False, "channels_last": False, "threads": 1}


class Normalize(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6])[:, None, None])
        self.register_buffer("std", torch.tensor([0.2, 0.25, 0.3])[:, None, None])

    def forward(self, images):
        return (images - self.mean) / self.std


class Resize(nn.Module):
    def forward(self, images):
        return F.interpolate(images, size=(12, 12), mode="bilinear")


class Head(nn.Module):
    """The network with an output of another form."""

    def __init__(self, form):
        super().__init__()
        self.network, self.form = network(), form

    def forward(self, images):
        return self.form(self.network(images))


def network(*first, size=8):
    torch.manual_seed(0)
    return nn.Sequential(
        *first,
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * (size - 2) ** 2, 4),
    ).eval()


def votes(model, dtype=None):
    """Counting votes (images, classes) and near ties (images,)."""
    model = model if dtype is None else model.to(dtype)
    engine = VoteEngine(BaseClassifier(model, 4), FAMILY, FixedSample(20, 400, 1e-3), seed=5, batch_size=64)
    tallies = sorted(engine.run(enumerate(IMAGES)), key=lambda tally: tally.index)
    return torch.tensor([t.counting.tolist() for t in tallies]), torch.tensor([t.near_ties for t in tallies])


def certify(model, **options):
    return gs.SmoothedClassifier(model, FAMILY, 4, **SETTINGS, **options).certify_many(IMAGES, REGION, n0=20, n=400)


@pytest.mark.parametrize(
    "make", [network, lambda: network(Normalize()), lambda: network(Normalize(), Resize(), size=12)]
)
def test_float32_and_float64_agree_but_for_near_ties(make):
    (single, near), (double, fewer) = votes(make()), votes(make(), torch.float64)
    moved = (single - double).abs().sum(dim=1) / 2
    assert (moved <= near).all()
    assert (fewer <= near).all()  # of what float32 could have decided otherwise, float64 decides most
    assert (single > 0).sum() > len(IMAGES)  # draws do not all agree


def test_float64_logits_keep_a_margin_that_float32_has_not():
    class Close(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([1.0, 1.0 + 1e-12, 0.0, 0.0], dtype=torch.float64))

        def forward(self, images):
            return self.logits.expand(len(images), 4)

    assert {result.prediction for result in certify(Close())} == {1}
    assert votes(Close())[1].tolist() == [0] * 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "make", [network, lambda: network(Normalize()), lambda: network(Normalize(), Resize(), size=12)]
)
def test_half_networks_vote_as_the_network_itself_does(make, dtype):
    model = make().to(dtype)
    seen = []
    model.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    halves, near = votes(model)
    assert set(seen) == {(dtype, dtype)}
    singles, _ = votes(make())
    moved = (singles - halves).abs().sum(dim=1) / 2
    assert (moved <= near).all()  # near ties are those of the network's own rounding
    assert near.sum() > 0


def test_images_are_transformed_in_float32_whatever_the_network_computes_in():
    kept = []

    class Seen(gs.transforms.Brightness):
        def apply(self, images, theta):
            kept.append(images.dtype)
            return super().apply(images, theta)

    family = gs.SmoothedFamily(Seen(), {"brightness": gs.Normal(0.0, 0.3)})
    for dtype in (torch.float64, torch.bfloat16):
        kept.clear()
        engine = VoteEngine(BaseClassifier(network().to(dtype), 4), family, FixedSample(4, 8, 0.1), batch_size=8)
        list(engine.run([(0, IMAGES[0].double())]))
        assert set(kept) == {torch.float32}


def test_a_default_dtype_of_the_callers_changes_nothing():
    expected = certify(network())
    model = network()
    torch.set_default_dtype(torch.float64)
    try:
        assert certify(model) == expected
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "form",
    [
        lambda logits: SimpleNamespace(loss=None, logits=logits),
        lambda logits: {"loss": logits.sum(), "logits": logits},
        lambda logits: logits[:, :, None, None],
    ],
    ids=["an object with logits", "a dictionary with logits", "one pixel"],
)
def test_logits_of_other_libraries_are_found(form):
    assert certify(Head(form)) == certify(network())


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda logits: (logits, logits), r"returned a tuple .*return self\.network\(images\)\[0\]"),
        (lambda logits: [logits], r"returned a list .*\[0\]"),
        (lambda logits: logits[:, 0], r"returned shape \(64,\) .*torch\.stack\(\[-z, z\], dim=1\)"),
        (lambda logits: logits[:, :1], r"returned shape \(64, 1\) .*torch\.cat\(\[-z, z\], dim=1\)"),
        (lambda logits: logits[:, :3], r"returned shape \(64, 3\) .*num_classes=3"),
        (lambda logits: logits[:, :, None, None].expand(-1, -1, 2, 2), r"shape \(64, 4, 2, 2\) .*mean\(dim=\(2, 3\)\)"),
        (lambda logits: {"out": logits}, r"returned a dict; .*\['out'\]"),
        (lambda logits: logits.argmax(dim=1), r"returned shape \(64,\)"),
        (lambda logits: F.one_hot(logits.argmax(dim=1), 4), r"returned torch\.int64; .*before argmax"),
    ],
)
def test_other_outputs_are_refused_with_what_to_do(form, message):
    with pytest.raises(UserError, match=message) as caught:
        certify(Head(form))
    assert "\n" not in str(caught.value)


def test_parameters_on_meta_are_refused():
    with torch.device("meta"):
        model = network()
    with pytest.raises(UserError, match=r"0\.weight lies on meta, without values; load"):
        certify(model)
    with pytest.raises(UserError, match="on meta"):
        certify(model, device="cpu")


def test_a_network_without_parameters_runs():
    class Colours(nn.Module):
        def forward(self, images):
            return torch.cat([images.mean(dim=(2, 3)), 0.5 * images[:, :1, 0, 0] + 0.3], dim=1)

    results = certify(Colours())
    assert results == certify(Colours(), device="cpu")
    assert len({result.count for result in results}) > 1


def test_buffers_say_the_dtype_where_there_are_no_parameters():
    model = network().bfloat16()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    assert [r.count for r in certify(model)] == [r.count for r in certify(network().bfloat16())]


@pytest.mark.parametrize(
    ("channels", "fix"), [(1, r"x\.expand\(3, -1, -1\)"), (4, r"x\[:3\]"), (2, "3 channels, these images have 2")]
)
def test_wrong_channels_are_named(channels, fix):
    with pytest.raises(UserError, match=rf"images of shape \({channels}, 8, 8\).*{fix}"):
        gs.SmoothedClassifier(network(), FAMILY, 4, **SETTINGS).certify(torch.rand(channels, 8, 8), REGION)


def test_what_is_half_of_one_dtype_is_the_networks_own_matter():
    model = network()
    model[-1].double()
    with pytest.raises(UserError, match=r"the network fails for images of shape \(3, 8, 8\).*dtype"):
        certify(model)
