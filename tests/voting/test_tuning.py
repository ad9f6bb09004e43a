"""The choice of speed: near the best of all settings, within its time, never a crash, and no draw changes."""

import itertools
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import glsmooth as gs
from glsmooth.errors import OutOfMemory, UserError
from glsmooth.voting import tuning
from glsmooth.voting.engine import BaseClassifier, VoteEngine
from glsmooth.voting.procedures import FixedSample, Sequential
from glsmooth.voting.speed import AUTO, Speed
from glsmooth.voting.tuning import choose_speed
from tests.voting.test_engine import affine_family, small_network, tallies

IMAGE = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
OPEN = Speed()
SIZES, THREADS = [2**power for power in range(12)], [1, 2, 4, 8]


def stub(device):
    """A classifier of which nothing is asked but where it runs."""
    return SimpleNamespace(
        device=torch.device(device), ready=lambda image: nullcontext(), arrange=lambda **_: None, threads=None
    )


@pytest.fixture
def simulated(monkeypatch):
    """``simulated(rate, device, …)``: the choice where settings have these rates (None: out of memory)."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: THREADS[-1])
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(tuning, "can_compile", lambda _: True)
    monkeypatch.setattr(tuning, "undisturbed", lambda _: nullcontext())
    clock = [0.0]
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: clock[0])
    measured = []

    def choose(rate, device="cpu", speed=OPEN, images=1000, procedure=None, noise=None):
        def measure(self, speed, enough=tuning._ENOUGH):
            found = rate(speed)
            if found is None:
                raise OutOfMemory("too large")
            if isinstance(found, Exception):
                raise found
            measured.append(speed)
            clock[0] += max(enough, 3 * speed.batch_size / found)
            return found * (1.0 if noise is None else noise())

        monkeypatch.setattr(tuning._Search, "_measure", measure)
        return choose_speed(speed, stub(device), None, procedure or FixedSample(), IMAGE, images)

    choose.measured, choose.clock = measured, clock
    return choose


def curve(peak, top, contiguous=0.7, threads=8, below=0.5, above=0.3):
    """Rates with a peak: at a batch size, in a memory format, with a number of threads."""

    def rate(speed):
        found = top
        distance = SIZES.index(speed.batch_size) - SIZES.index(peak)
        found *= (1 - below / 8 * -distance) if distance < 0 else (1 - above / 3) ** distance
        found *= (
            (1 if speed.channels_last else contiguous)
            if contiguous <= 1
            else (1 / contiguous, 1)[not speed.channels_last]
        )
        found *= 0.75 ** abs(THREADS.index(speed.threads) - THREADS.index(threads))
        return found * (1.2 if speed.compile else 1.0)

    return rate


@pytest.mark.parametrize("peak", [1, 4, 32, 256])
@pytest.mark.parametrize("contiguous", [0.6, 0.97, 1.4])
@pytest.mark.parametrize("threads", [1, 4, 8])
@pytest.mark.parametrize("top", [10.0, 200.0, 5000.0])
def test_the_choice_is_within_a_tenth_of_the_best(simulated, peak, contiguous, threads, top):
    peak = min(peak, int(top))  # no network that takes seconds for an image is best in batches of hundreds
    rate = curve(2 ** (peak.bit_length() - 1), top, contiguous, threads)
    chosen = simulated(rate)
    settings = (Speed(*setting) for setting in itertools.product(SIZES, (True, False), (False,), THREADS))
    assert rate(replace(chosen.speed, compile=False)) >= 0.9 * max(map(rate, settings))
    assert len(simulated.measured) < len(SIZES) * 2 * len(THREADS) / 2


def test_a_burst_of_other_work_does_not_decide(simulated):
    """One measurement of the best setting is five times too slow."""
    rate, calls = curve(32, 1000.0), []

    def noise():
        calls.append(1)
        return (
            0.2
            if simulated.measured[-1].batch_size == 32 and simulated.measured.count(simulated.measured[-1]) == 1
            else 1.0
        )

    assert rate(simulated(rate, noise=noise).speed) >= 0.9 * 1000.0


def test_the_search_takes_a_tenth_of_the_run_and_seconds_at_most(simulated):
    for top, images in ((5.0, 100), (5.0, 10_000), (5000.0, 1), (5000.0, 10_000), (100.0, 2)):
        simulated.clock[0] = 0.0
        chosen = simulated(curve(16, top), images=images)
        run = 1200 * images / (top / 4)
        # The last measurement may be of slower settings than it was taken for.
        slowest = max(3 * speed.batch_size / curve(16, top)(speed) for speed in simulated.measured)
        assert chosen.seconds <= max(0.4, min(8.0, 0.1 * run), min(60.0, 1e-3 * run)) + max(slowest, tuning._FINALS)
        simulated.measured.clear()


def test_what_is_set_is_not_touched(simulated):
    rate = curve(32, 1000.0, threads=2)
    for fixed in (
        Speed(batch_size=4),
        Speed(channels_last=False),
        Speed(threads=4),
        Speed(compile=True),
        Speed(batch_size=8, channels_last=False, threads=8),
    ):
        speed = simulated(rate, speed=fixed).speed
        assert speed.settled
        assert fixed.filled(speed) == speed
        # The network is compiled once, for the batch that it will be used with.
        *tried, last = simulated.measured
        assert all(replace(fixed, compile=AUTO).filled(other) == other for other in tried)
        assert not any(other.compile for other in tried)
        assert last.compile == (fixed.compile is True)
        assert not last.compile or last == speed
        simulated.measured.clear()
    settled = Speed(8, channels_last=False, compile=False, threads=2)
    chosen = simulated(rate, speed=settled)
    assert (chosen.speed, chosen.rate, simulated.measured) == (settled, None, [])


@pytest.mark.parametrize("fits", [1, 8, 31, 64, 1000, 4096])
def test_a_gpu_gets_the_largest_batch_that_fits_where_that_is_as_fast(simulated, fits):
    rate = lambda speed: None if speed.batch_size > fits else 1e5 * speed.batch_size / (speed.batch_size + 32)  # noqa: E731
    size = simulated(rate, "cuda", images=10**5).speed.batch_size
    assert size <= fits
    assert size == 2 ** (fits.bit_length() - 1)


def test_not_even_one_image_fits(simulated):
    with pytest.raises(OutOfMemory, match=r"batch_size=1: too large for the free memory of cuda; use another device"):
        simulated(lambda _: None, "cuda")
    with pytest.raises(OutOfMemory, match=r"batch_size=64: too large"):
        simulated(lambda _: None, "cuda", speed=Speed(batch_size=64))


def test_compilation_is_tried_where_it_can_pay_back(simulated):
    rate = curve(8, 100.0)
    assert not simulated(rate, images=10).speed.compile  # two minutes
    assert not any(speed.compile for speed in simulated.measured)
    assert simulated(rate, images=10_000).speed.compile  # a day
    assert not simulated(rate, images=1000, procedure=Sequential({"a": 0.9})).speed.compile  # a quarter of an hour
    slower = lambda speed: rate(speed) * (0.8 if speed.compile else 1.0)  # noqa: E731
    assert not simulated(slower, images=10_000).speed.compile
    broken = lambda speed: RuntimeError("no such operator\nmore") if speed.compile else rate(speed)  # noqa: E731
    chosen = simulated(broken, images=10_000)
    assert not chosen.speed.compile
    assert chosen.note == "Without torch.compile: it fails for this network (no such operator)"


def test_few_images_have_no_large_batches(simulated):
    rate = curve(256, 5000.0)
    one = simulated(rate, images=1, procedure=Sequential({"a": 0.9}))
    assert one.speed.batch_size <= 32
    assert not one.complete
    assert simulated(rate, images=1, procedure=FixedSample(4, 6)).speed.batch_size <= 10
    assert simulated(rate, images=1000).complete


class Hungry(nn.Module):
    """Out of memory for batches above a size."""

    def __init__(self, most):
        super().__init__()
        self.network, self.most, self.sizes = small_network(), most, []

    def forward(self, images):
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.network(images)


def test_the_search_stops_where_memory_ends():
    classifier = BaseClassifier(Hungry(16), 4)
    chosen = choose_speed(Speed(), classifier, affine_family(), FixedSample(), IMAGE, 100)
    assert chosen.speed.batch_size <= 16
    assert chosen.rate > 0


@pytest.mark.parametrize("procedure", [FixedSample(20, 100), Sequential({"a": 0.6, "b": 0.8}, n=200)])
def test_batches_that_do_not_fit_are_halved_and_no_draw_is_lost(procedure):
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    family, smaller = affine_family(pixel_noise=0.1), []

    def engine(most, size, **options):
        return VoteEngine(BaseClassifier(Hungry(most), 4), family, procedure, clean=True, batch_size=size, **options)

    reference = tallies(engine(1000, 16), images)
    run = engine(20, 128, on_smaller=smaller.append)
    assert tallies(run, images) == reference
    assert smaller == [64, 32, 16]
    with pytest.raises(OutOfMemory, match="batch_size=128: too large"):
        tallies(engine(20, 128), images)
    one = engine(0, 4, on_smaller=smaller.append)
    one.classifier._plain = one.classifier._module.network  # the trial passes
    with pytest.raises(OutOfMemory, match="batch_size=1: too large"):
        tallies(one, images)


def test_memory_that_runs_out_later():
    """Another program takes memory in the middle of the run."""
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    model, smaller = Hungry(1000), []
    run = VoteEngine(
        BaseClassifier(model, 4), affine_family(), FixedSample(20, 100), batch_size=64, on_smaller=smaller.append
    )
    found = {}
    for tally in run.run(enumerate(images)):
        found[tally.index] = tally.counting.tolist()
        model.most = 24
    plain = VoteEngine(BaseClassifier(small_network(), 4), affine_family(), FixedSample(20, 100), batch_size=64)
    assert found == {tally.index: tally.counting.tolist() for tally in plain.run(enumerate(images))}
    assert smaller == [32, 16]


def test_threads_are_for_the_time_of_a_run():
    class Threads(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.seen = small_network(), set()

        def forward(self, images):
            self.seen.add(torch.get_num_threads())
            return self.network(images)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        model = Threads()
        classifier = BaseClassifier(model, 4, threads=2)
        list(VoteEngine(classifier, affine_family(), FixedSample(5, 20), batch_size=8).run([(0, IMAGE)]))
        assert model.seen == {2}
        assert torch.get_num_threads() == 3
        choose_speed(Speed(), classifier, affine_family(), FixedSample(), IMAGE, 5)
        assert torch.get_num_threads() == 3
        assert {2, 3} <= model.seen <= {1, 2, 3}
        assert classifier.threads in model.seen
    finally:
        torch.set_num_threads(before)


def test_weights_keep_their_values_in_every_format():
    model = small_network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    classifier = BaseClassifier(model, 4)
    prints = classifier.fingerprints()
    for channels_last in (True, False, True):
        classifier.arrange(compile=False, channels_last=channels_last, threads=None)
        assert model[0].weight.is_contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )
        assert classifier.fingerprints() == prints
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    conv3d = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 1), nn.Flatten(), nn.LazyLinear(4))
    BaseClassifier(conv3d, 4, channels_last=True)  # a kernel of five dimensions has no such format


def test_a_smoothed_classifier_chooses_once_and_again_for_longer_calls(monkeypatch):
    searches = []
    run = tuning._Search.run

    def counted(self):
        searches.append(self.evaluations)
        return run(self)

    monkeypatch.setattr(tuning._Search, "run", counted)
    monkeypatch.setattr(tuning, "_SECONDS", 0.01)
    monkeypatch.setattr(tuning, "_SHARES", ((0.0, 0.0),) * 2)  # always in haste
    classifier, region = gs.SmoothedClassifier(small_network(), affine_family(), 4), gs.Box(brightness=(-0.1, 0.1))
    assert classifier.speed == Speed()
    first = classifier.certify(IMAGE, region, n0=10, n=90)
    assert classifier.speed.settled
    assert searches == [100]
    chosen = classifier.speed
    for index in range(3):
        classifier.certify(IMAGE, region, n0=10, n=90, index=index)
    assert (searches, classifier.speed) == ([100], chosen)
    classifier.certify_many([IMAGE] * 5, region, n0=10, n=90)
    assert searches == [100, 500]
    fixed = gs.SmoothedClassifier(
        small_network(), affine_family(), 4, batch_size=100, channels_last=False, compile=False, threads=1
    )
    assert fixed.certify(IMAGE, region, n0=10, n=90) == first
    assert fixed.speed.batch_size == 100
    assert len(searches) == 2
    # A short call does not make the batches of a longer one small.
    fixed.certify(IMAGE, region, n0=1, n=2)
    assert fixed.speed.batch_size == 100


def test_a_smoothed_classifier_halves_what_does_not_fit():
    model = Hungry(1000)
    classifier = gs.SmoothedClassifier(model, affine_family(), 4, channels_last=False, compile=False, threads=1)
    region = gs.Box(brightness=(-0.1, 0.1))
    first = classifier.certify(IMAGE, region)
    model.most = 16  # as many as the trial passes take
    assert classifier.certify(IMAGE, region) == first
    assert classifier.speed.batch_size <= 16
    typed = gs.SmoothedClassifier(model, affine_family(), 4, batch_size=64)
    with pytest.raises(UserError, match="batch_size=64: too large for the free memory of cpu"):
        typed.certify(IMAGE, region)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"batch_size": 0}, "batch_size=0 must be a whole number, at least 1, or 'auto'"),
        ({"batch_size": 2.0}, "batch_size=2.0 must"),
        ({"batch_size": True}, "batch_size=True must"),
        ({"threads": "all"}, "threads='all' must"),
        ({"compile": "yes"}, "compile='yes' must be True, False or 'auto'"),
        ({"channels_last": None}, "channels_last=None must"),
    ],
)
def test_impossible_settings(setting, words):
    with pytest.raises(UserError, match=words):
        gs.SmoothedClassifier(small_network(), affine_family(), 4, **setting)


def test_compiling_without_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"compile=true: needs a C\+\+ compiler on a CPU; install g\+\+"):
        BaseClassifier(small_network(), 4, compile=True)
    assert not choose_speed(
        Speed(), BaseClassifier(small_network(), 4), affine_family(), FixedSample(), IMAGE, 10**9
    ).speed.compile


@pytest.mark.parametrize("given", [None, "0", "1"])
def test_huge_pages_are_asked_for_before_torch_takes_memory(given):
    script = "import os, sys, glsmooth.voting.memory; print(os.environ['THP_MEM_ALLOC_ENABLE'])"
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {} if given is None else {"THP_MEM_ALLOC_ENABLE": given}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (given or "1")


def test_auto_is_what_nobody_set():
    assert Speed() == Speed(AUTO, AUTO, AUTO, AUTO)
    assert Speed(8, channels_last=True, compile=False, threads=2).words("cpu") == (
        "batches of 8, channels last, not compiled, 2 threads"
    )
    assert Speed(8, channels_last=False, compile=True, threads=1).words("cuda") == "batches of 8, contiguous, compiled"


def test_a_search_leaves_the_global_generators_as_they_were():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = small_network()

        def forward(self, images):
            return self.network(images) + 0.1 * torch.randn(len(images), 4)

    torch.manual_seed(5)
    classifier = BaseClassifier(Noisy(), 4, stochastic=True)
    with classifier.ready(IMAGE):  # its trial passes draw; they are the same each time, and made once
        pass
    torch.manual_seed(5)
    before = torch.get_rng_state()
    choose_speed(Speed(), classifier, affine_family(), FixedSample(), IMAGE, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_trial_passes_take_no_more_images_than_fit():
    model = Hungry(4)
    chosen = choose_speed(Speed(), BaseClassifier(model, 4), affine_family(), FixedSample(), IMAGE, 100)
    assert chosen.speed.batch_size <= 4
    with pytest.raises(
        OutOfMemory, match=r"^two images of shape \(3, 16, 16\) are too large for the free memory of cpu"
    ):
        choose_speed(Speed(), BaseClassifier(Hungry(1), 4), affine_family(), FixedSample(), IMAGE, 100)


class Views(nn.Module):
    """Takes for granted that memory is contiguous, as many networks do; an error elsewhere."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 16 * 16, 4)

    def forward(self, images):
        return self.fc(self.conv(images).relu().view(len(images), -1))


class Misreads(Views):
    """Reads memory as if it were contiguous, as a kernel of one's own may; other numbers elsewhere."""

    def forward(self, images):
        features = self.conv(images).relu()
        return self.fc(features.as_strided((len(images), 4 * 16 * 16), (4 * 16 * 16, 1)))


@pytest.mark.parametrize(("network", "reason"), [(Views, "view size is not compatible"), (Misreads, "its logits are")])
def test_a_network_that_is_not_itself_in_another_format_is_run_as_it_is(network, reason):
    torch.manual_seed(0)
    model = network()
    chosen = choose_speed(Speed(), BaseClassifier(model, 4), affine_family(), FixedSample(), IMAGE, 100)
    assert not chosen.speed.channels_last
    assert chosen.speed.batch_size > 1
    assert chosen.note.startswith(f"Without the channels-last memory format: it fails for this network ({reason}")
    region, many = gs.Box(brightness=(-0.1, 0.1)), dict(n0=10, n=90)
    plain = Speed(100, channels_last=False, compile=False, threads=1)
    found = [
        gs.SmoothedClassifier(model, affine_family(), 4, **settings).certify(IMAGE, region, **many)
        for settings in ({}, vars(plain))
    ]
    assert found[0] == found[1]


def test_a_compiler_that_is_mistaken_is_not_used(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: lambda images: -model(images))
    monkeypatch.setattr(tuning, "_WORTH_COMPILING", {"cpu": 0.0})
    monkeypatch.setattr(tuning, "can_compile", lambda _: True)
    chosen = choose_speed(Speed(), BaseClassifier(small_network(), 4), affine_family(), FixedSample(), IMAGE, 100)
    assert not chosen.speed.compile
    assert chosen.note == "Without torch.compile: it fails for this network (its logits are others)"


@pytest.mark.parametrize("settings", [{}, {"channels_last": True}])
def test_the_networks_own_error_is_not_hidden(settings):
    class Broken(nn.Module):
        def forward(self, images):
            if len(images) != 16:  # the trial passes
                raise RuntimeError("no such size")
            return images.mean((2, 3))

    with pytest.raises(RuntimeError, match="no such size"):
        choose_speed(Speed(**settings), BaseClassifier(Broken(), 3), affine_family(), FixedSample(), IMAGE, 100)
