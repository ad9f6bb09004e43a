"""The vote engine: the same votes however they are packed, honest votes, bounded memory."""

import resource
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from glsmooth import laws
from glsmooth.errors import UserError
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.transforms import Brightness, ContrastBrightness, Translation
from glsmooth.voting.draws import Stream, uniforms
from glsmooth.voting.engine import BaseClassifier, VoteEngine, cast_votes
from glsmooth.voting.memory import keep_freed_memory
from glsmooth.voting.procedures import ABSTAIN, FixedSample, Sequential

pytestmark = pytest.mark.usefixtures("one_thread")


EPSILON = 16 * torch.finfo(torch.float32).eps


def small_network(classes=4, channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes)
    )


def affine_family(**kwargs):
    return SmoothedFamily(
        ContrastBrightness(),
        {"contrast": laws.LogNormal(0.0, 0.3), "brightness": laws.Normal(0.0, 0.3)},
        **kwargs,
    )


class Threshold(nn.Module):
    """Votes for class 0 where the brightness added to the image is below the image's own threshold.

    The first channel of an image holds the threshold, the second 0: brightness moves both.
    """

    def forward(self, images):
        brightness = images[:, 1, 0, 0]
        threshold = images[:, 0, 0, 0] - brightness
        return torch.stack([threshold, brightness], dim=1)


def threshold_image(threshold):
    return torch.tensor([threshold, 0.0])[:, None, None]


def tallies(engine, images, order=None):
    order = range(len(images)) if order is None else order
    return {
        t.index: (
            t.selection.tolist(),
            t.counting.tolist(),
            t.n0,
            t.n,
            t.clean,
            t.abstained,
            engine.procedure.lower_bound(t),
        )
        for t in engine.run((i, images[i]) for i in order)
    }


def engine(model, family, procedure, classes=4, **kwargs):
    return VoteEngine(BaseClassifier(model, classes), family, procedure, clean=True, **kwargs)


@pytest.mark.parametrize("procedure", [FixedSample(20, 100), Sequential({"a": 0.6, "b": 0.8}, n=200)])
@pytest.mark.parametrize("pixel_noise", [0.0, 0.1])
def test_votes_do_not_depend_on_batch_size_or_order(procedure, pixel_noise):
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    family, model = affine_family(pixel_noise=pixel_noise), small_network()
    reference = tallies(engine(model, family, procedure, batch_size=64), images)
    assert len(reference) == 12
    assert tallies(engine(model, family, procedure, batch_size=7), images) == reference
    one = tallies(engine(model, family, procedure, batch_size=1), images, [0, 1])
    assert one == {index: reference[index] for index in (0, 1)}
    subset = [7, 2, 11, 5]
    some = tallies(engine(model, family, procedure, batch_size=64), images, subset)
    assert some == {index: reference[index] for index in subset}
    # Another seed gives other votes, or nothing was tested.
    assert tallies(engine(model, family, procedure, batch_size=64, seed=1), images) != reference


@pytest.mark.parametrize("procedure", [FixedSample(10, 40), Sequential({"a": 0.55}, n0=50, n=150)])
def test_votes_are_those_of_the_drawn_parameters(procedure):
    """Against the definition: draws 0, 1, 2, … of either stream, once each, applied and classified one by
    one."""
    family, model = affine_family(), small_network()
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2))
    run = engine(model, family, procedure, seed=5)
    (tally,) = run.run([(3, image)])
    with torch.no_grad():
        for stream, n, votes in (
            (Stream.SELECTION, tally.n0, tally.selection),
            (Stream.COUNTING, tally.n, tally.counting),
        ):
            expected = np.zeros(4, int)
            for draw in range(n):
                u, _ = uniforms(5, 3, stream, draw, 1, 2)
                theta = family.quantile(torch.from_numpy(u))
                expected[model(family.transform.apply(image[None], theta)).argmax()] += 1
            np.testing.assert_array_equal(votes, expected)
    if isinstance(procedure, Sequential):
        assert tally.n > 40  # several blocks, or nothing was tested
    else:
        assert (tally.n0, tally.n) == (10, 40)


def test_replay_shows_the_first_counting_draws():
    family, model = affine_family(), small_network()
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2))
    run = engine(model, family, FixedSample(10, 40), seed=5)
    theta, transformed, votes = run.replay(3, image, 8)
    u, _ = uniforms(5, 3, Stream.COUNTING, 0, 8, 2)
    torch.testing.assert_close(theta, family.quantile(torch.from_numpy(u)), rtol=0, atol=0)
    assert transformed.shape == (8, 3, 16, 16)
    with torch.inference_mode():
        assert (model(transformed).argmax(1) == votes).all()


def test_the_image_itself_is_classified_untouched():
    """Laws far from the identity, with pixel noise: none of it touches the image itself."""
    family = SmoothedFamily(Brightness(), {"brightness": laws.Normal(0.5, 0.01)}, pixel_noise=0.2)
    run = engine(Threshold(), family, FixedSample(5, 20), classes=2)
    found = {tally.index: tally for tally in run.run([(0, threshold_image(0.1)), (1, threshold_image(-0.1))])}
    assert (found[0].clean, found[1].clean) == (0, 1)
    assert found[0].prediction == 1


def test_vote_frequencies_follow_the_law():
    family = SmoothedFamily(Brightness(), {"brightness": laws.Normal(0.0, 0.3)})
    n = 20_000
    run = VoteEngine(BaseClassifier(Threshold(), 2), family, FixedSample(1, n), batch_size=4096)
    for tally in run.run([(0, threshold_image(0.0)), (1, threshold_image(0.2)), (2, threshold_image(-0.4))]):
        p = norm.cdf([0.0, 0.2, -0.4][tally.index] / 0.3)
        assert abs(tally.counting[0] / n - p) < 4 * np.sqrt(p * (1 - p) / n)


def test_batches_are_full_but_for_the_last():
    images = torch.rand(10, 3, 16, 16)
    run = engine(small_network(), affine_family(), FixedSample(20, 100), batch_size=64)
    shapes = []
    run.classifier.model = lambda x: (shapes.append(len(x)), torch.zeros(len(x), 4))[1]
    tallies(run, images)
    assert set(shapes) == {64}
    assert len(shapes) == -(-10 * 121 // 64)
    assert run.evaluations == 64 * len(shapes)


def test_memory_does_not_grow_with_images_or_draws():
    """At most a fixed number of images is in flight, and none is asked for before it is needed."""
    run = engine(small_network(), affine_family(), FixedSample(5, 40), batch_size=16)
    taken, most = 0, 0

    def source():
        nonlocal taken
        for i in range(60):
            taken += 1
            yield i, torch.rand(3, 16, 16)

    for done, _ in enumerate(run.run(source())):
        most = max(most, taken - done)
    assert most <= run.capacity == 4


def test_what_is_kept_does_not_grow_with_draws():
    """Of Python's and numpy's memory, draws included; `python -m tests.endurance` measures that of the process."""

    def peak(n):
        run = engine(small_network(), affine_family(), FixedSample(5, n), batch_size=500)
        tracemalloc.start()
        try:
            tallies(run, torch.rand(1, 3, 4, 4))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(5_000), peak(100_000)
    assert many - few < 100_000  # a byte a draw


def test_ties_and_nonfinite_logits_vote_for_nobody():
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor(
        [
            [1.0, 0, 0],
            [2, 2, 1],
            [nan, 1, 0],
            [inf, 1, 0],
            [-inf, 1, 0],
            [1, 1 - 1e-7, 0],
            [0, 0, 0],
            [0, 3, 3 - 1e-3],
        ]
    )
    votes = cast_votes(logits, "argmax", EPSILON)
    assert (votes // 2).tolist() == [0, 3, 4, 4, 4, 0, 3, 1]
    assert (votes % 2).tolist() == [0, 1, 0, 0, 0, 1, 1, 0]


def test_a_majority_vote_is_a_softmax_above_one_half():
    logits = torch.randn(1000, 5, generator=torch.Generator().manual_seed(0)) * 2
    votes = cast_votes(logits, "majority", EPSILON) // 2
    top, label = logits.softmax(1).max(1)
    assert (votes == torch.where(top > 0.5, label, 5 + 2 + label)).all()
    assert 0 < (votes > 5).float().mean() < 1
    # Exactly one half is no majority, and near it is near a tie.
    assert cast_votes(torch.tensor([[1.0, 1.0]]), "majority", EPSILON).tolist() == [2 * 2 + 1]
    assert cast_votes(torch.tensor([[50.0, 1.0], [1.0, 1 - 1e-7]]), "majority", EPSILON).tolist() == [0, 1]


def test_dishonest_votes_are_counted():
    class Faulty(nn.Module):
        def forward(self, images):
            brightness = images[:, 0, 0, 0]
            nan = torch.where(brightness < 0, torch.nan, brightness)
            tie = torch.where(brightness > 0.3, 0.0, nan)
            return torch.stack([tie, torch.zeros_like(tie)], dim=1)

    family = SmoothedFamily(Brightness(), {"brightness": laws.Normal(0.0, 0.3)})
    run = VoteEngine(BaseClassifier(Faulty(), 2), family, FixedSample(100, 900))
    (tally,) = run.run([(0, torch.zeros(1, 1, 1))])
    u = np.concatenate([uniforms(0, 0, stream, 0, n, 1)[0] for stream, n in ((0, 100), (1, 900))])
    b = 0.3 * norm.ppf(u)
    assert tally.nonfinite == (b < 0).sum()
    assert tally.abstained == (b < 0).sum() + (b > 0.3).sum()
    assert tally.near_ties == (b > 0.3).sum()
    assert tally.count == tally.counting.sum() == ((b > 0) & (b < 0.3))[100:].sum()
    assert tally.n == 900


def test_a_model_that_never_votes():
    run = engine(small_network(), affine_family(), FixedSample(5, 20))
    run.classifier.model = lambda x: torch.full((len(x), 4), torch.nan)
    (tally,) = run.run([(0, torch.rand(3, 16, 16))])
    assert (tally.prediction, tally.clean, tally.count, run.procedure.lower_bound(tally)) == (ABSTAIN, ABSTAIN, 0, 0.0)
    assert tally.nonfinite == 25


@pytest.mark.parametrize(
    "output", [lambda x: torch.zeros(len(x), 5), lambda x: torch.zeros(len(x)), lambda x: {"logits": x}]
)
def test_a_wrong_output_names_the_image(output):
    run = engine(small_network(), affine_family(), FixedSample(5, 20))
    run.classifier.model = output
    with pytest.raises(UserError, match=r"image 17: the model returned .* not logits of shape \(256, 4\)"):
        list(run.run([(17, torch.rand(3, 16, 16))]))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda x: x[:, :, 1:], r"torch.float32 \(256, 3, 15, 16\)"),
        (lambda x: x[:1], r"torch.float32 \(1, 3, 16, 16\)"),
        (lambda x: x.double(), r"torch.float64 \(256, 3, 16, 16\)"),
        (lambda x: x.numpy(), "ndarray"),
    ],
)
def test_a_transformation_that_returns_something_else_is_named(result, words, monkeypatch):
    """Whatever it did when it was tried: no vote is taken of another image."""
    apply = ContrastBrightness.apply
    monkeypatch.setattr(ContrastBrightness, "apply", lambda self, x, theta: result(apply(self, x, theta)))
    run = engine(small_network(), affine_family(), FixedSample(5, 20))
    with pytest.raises(
        UserError, match=rf"^ContrastBrightness\.apply returned {words} for .*float32 \(256, 3, 16, 16\)"
    ):
        list(run.run([(0, torch.rand(3, 16, 16))]))


#: Half of all memory that programs can address: nobody has it.
TOO_LARGE = 2**47


@pytest.mark.parametrize("where", ["model", "transform", "trial", "images"])
@pytest.mark.parametrize(
    "fail",
    [
        lambda *_: torch.empty(TOO_LARGE, dtype=torch.uint8),
        lambda *_: np.empty(TOO_LARGE, dtype=np.uint8),
        lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.")),
    ],
)
def test_a_batch_that_is_too_large_says_so(where, fail, monkeypatch):
    run = engine(small_network(), affine_family(), FixedSample(5, 20), batch_size=64)
    if where == "model":
        run.classifier.model = fail
    elif where == "transform":
        monkeypatch.setattr(run, "_transform", fail)
    elif where == "trial":
        run.classifier._plain = fail
    else:
        run.capacity = TOO_LARGE
    with pytest.raises(UserError, match=r"batch_size=64: too large for the free memory of cpu; set batch_size=32"):
        list(run.run([(0, torch.rand(3, 16, 16))]))


def test_no_batch_is_larger_than_all_draws():
    """A million evaluations at once for three images, which need 363."""
    run = engine(small_network(), affine_family(), FixedSample(20, 100), batch_size=10**6, images=3)
    images = torch.rand(3, 3, 16, 16)
    assert tallies(run, images) == tallies(engine(small_network(), affine_family(), FixedSample(20, 100)), images)
    assert run.evaluations == 3 * 121
    assert engine(small_network(), affine_family(), FixedSample(20, 100), batch_size=64, images=3).batch_size == 64
    sequential = engine(small_network(), affine_family(), Sequential({"a": 0.6}, 20, 200), batch_size=10**6, images=3)
    assert sequential.batch_size == 3 * 221


def test_images_that_do_not_fit():
    run = engine(small_network(), affine_family(), FixedSample(5, 20), batch_size=8)
    with pytest.raises(UserError, match=r"image 1 has shape \(3, 8, 8\)"):
        list(run.run([(0, torch.rand(3, 16, 16)), (1, torch.rand(3, 8, 8))]))
    torus = SmoothedFamily(
        Translation(), {"tx": laws.Normal(0.0, 2.0), "ty": laws.Normal(0.0, 2.0)}, image_size=(32, 32)
    )
    with pytest.raises(UserError, match=r"image 0 has size \(16, 16\), the family's torus \(32, 32\)"):
        list(engine(small_network(), torus, FixedSample(5, 20)).run([(0, torch.rand(3, 16, 16))]))
    with pytest.raises(ValueError, match="image 4 was added twice"):
        list(engine(small_network(), affine_family(), FixedSample(5, 20)).run([(4, torch.rand(3, 16, 16))] * 2))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are counted as on Linux")
def test_kept_memory_is_not_asked_for_again():
    """A batch's activations cost page faults once, not again and again."""

    def faults(batches):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(batches):
            [torch.empty(2**20) + 1 for _ in range(8)]
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    if not keep_freed_memory():
        pytest.skip("this C library has no such setting")
    faults(2)
    assert faults(10) < 10 * 8 * 2**20 * 4 / 4096 / 10  # one in ten of the pages that were used


def test_impossible_settings():
    with pytest.raises(UserError, match="batch_size=0"):
        engine(small_network(), affine_family(), FixedSample(5, 20), batch_size=0)
    with pytest.raises(UserError, match="precision='64'"):
        BaseClassifier(small_network(), 4, precision="64")
    with pytest.raises(UserError, match="num_classes=1"):
        BaseClassifier(small_network(1), 1)


@pytest.mark.parametrize("options", [{"channels_last": True}, {"precision": "bf16-mixed"}])
def test_options_change_speed_not_meaning(options):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    plain = tallies(engine(small_network(), affine_family(), FixedSample(20, 200)), images)
    run = VoteEngine(BaseClassifier(small_network(), 4, **options), affine_family(), FixedSample(20, 200), clean=True)
    for index, other in tallies(run, images).items():
        moved = np.abs(np.array(plain[index][1]) - np.array(other[1])).sum()
        assert moved <= (0 if "channels_last" in options else 20)


def test_the_model_is_in_evaluation_mode_and_needs_no_gradient():
    model = nn.Sequential(small_network(), nn.Dropout(0.5))
    model.train()
    run = engine(model, affine_family(), FixedSample(5, 20))
    images = torch.rand(2, 3, 16, 16)
    assert tallies(run, images) == tallies(engine(model, affine_family(), FixedSample(5, 20)), images)
    assert model.training  # its own mode again
