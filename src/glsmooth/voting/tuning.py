"""The choice of batch size, memory format, threads and compilation, by measuring a run's own network and image.

The best settings differ by machine, network and image size, and the worst are several times slower. A few seconds of
real batches, from draws to votes, say more than any rule. What is chosen changes no draw.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from glsmooth.errors import OutOfMemory, UserError, out_of_memory
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.voting.classifier import BaseClassifier, alike, can_compile, undisturbed
from glsmooth.voting.engine import VoteEngine, largest_batch
from glsmooth.voting.procedures import FixedSample, Procedure
from glsmooth.voting.speed import AUTO, Speed

__all__ = ["Chosen", "arrange", "choose_speed"]

# Where the search starts: a batch of one fills a CPU with a large network, a GPU takes many times that.
_FIRST = {"cpu": 1, "cuda": 32}
# A larger batch must be faster by this factor; after so many doublings that are not, there is no larger one.
_GAIN, _PATIENCE = 1.02, 2
# Batches of a measurement, at least and at most, and the seconds that are enough for it, and in the finals. The fastest
# counts: whatever else the machine does only makes a batch slower.
_LEAST, _MOST, _ENOUGH, _FINALS = 2, 20, 0.02, 0.1
# Seconds that the whole search may take in any case, and shares of the run with the seconds up to which they may be
# taken: a few seconds for short runs, a minute for days. No measurement is begun that would take longer.
_SECONDS, _SHARES = 0.4, ((0.1, 8.0), (0.001, 60.0))
# The best so many are measured once more, in turns.
_FINALISTS, _TURNS = 3, 2
# Of equally fast batches a GPU gets the largest, with which the host has least to do, and a CPU the smallest, which
# needs the least memory.
_EQUAL = 0.99
# How far logits may be, relative to the largest, from those of the network as it is: rounding, and no other function.
# Images on which they are compared.
_ROUNDING, _ROUNDING_OF_HALF, _COMPARED = 1e-2, 1e-1, 2
# Seconds that a run must at least take for torch.compile to be tried: compiling takes about a minute, and gains a few
# hundredths on a CPU and a fifth or more on a GPU.
_WORTH_COMPILING = {"cpu": 3600.0, "cuda": 300.0}
# A batch of a short run is no larger than the draws that its images ask for at once, or this.
_SMALL = 32


@dataclass(frozen=True)
class Chosen:
    """What :func:`choose_speed` found.

    Attributes:
        speed: settled.
        rate: network evaluations a second, from draws to votes; None where nothing was measured.
        seconds: that the measurements took.
        complete: nothing more was to be tried; a longer run may find faster settings where it is False.
        note: what went wrong with settings that are not chosen; may be empty.
    """

    speed: Speed
    rate: float | None = None
    seconds: float = 0.0
    complete: bool = True
    note: str = ""


def choose_speed(
    speed: Speed,
    classifier: BaseClassifier,
    family: SmoothedFamily,
    procedure: Procedure,
    image: Tensor,
    images: int,
    *,
    clean: bool = False,
    index: int = 0,
    measure: bool = False,
    show: bool = False,
) -> Chosen:
    """Settle what ``speed`` leaves open, and arrange the classifier so.

    Args:
        speed: settings, of which those that are AUTO are chosen. A batch is no larger than all draws.
        classifier: the base classifier; made ready for the measurements (:meth:`BaseClassifier.ready`).
        family, procedure: of the run.
        image: one of its images, (C, H, W).
        images: how many there are.
        clean: each image is also classified as it is.
        index: what to call the image in an error.
        measure: measure the speed of settings that leave nothing open, too.
        show: a bar, where the search takes more than two seconds.

    Raises:
        UserError: the network is one that no votes can be taken of, or not even a single image fits into memory.
    """
    device = classifier.device.type
    if device != "cpu" and speed.threads == AUTO:
        speed = replace(speed, threads=torch.get_num_threads())
    if speed.batch_size != AUTO:
        speed = replace(speed, batch_size=min(int(speed.batch_size), largest_batch(procedure, images, clean)))
    if speed.settled and not measure:
        arrange(classifier, speed)
        return Chosen(speed)
    threads = torch.get_num_threads()
    try:
        with classifier.ready(image), undisturbed(classifier.device):
            search = _Search(speed, classifier, family, procedure, (index, image), images, clean, threads, show)
            try:
                best = search.run()
            finally:
                search.bar.close()
    except (RuntimeError, MemoryError) as error:  # the trial passes; the search takes smaller batches
        if not out_of_memory(error):
            raise
        raise OutOfMemory(
            f"two images of shape {tuple(image.shape)} are too large for the free memory of {classifier.device}; use "
            "another device"
        ) from error
    finally:
        torch.set_num_threads(threads)
    arrange(classifier, best)
    return Chosen(best, search.rates[best], search.seconds_taken, not search.cut, search.note)


def arrange(classifier: BaseClassifier, speed: Speed) -> None:
    """Have the classifier run as a settled speed says."""
    assert speed.settled
    classifier.arrange(
        compile=bool(speed.compile),
        channels_last=bool(speed.channels_last),
        threads=int(speed.threads) if classifier.device.type == "cpu" else None,
    )


class _Search:
    """Measurements, and what is tried next."""

    def __init__(
        self,
        speed: Speed,
        classifier: BaseClassifier,
        family: SmoothedFamily,
        procedure: Procedure,
        image: tuple[int, Tensor],
        images: int,
        clean: bool,
        threads: int,
        show: bool,
    ) -> None:
        self.classifier, self.family, self.image = classifier, family, image
        self.asked = speed
        self.device = classifier.device.type
        self.all_threads = threads
        # A GPU works while the host draws the next batch; to wait for each would be to measure something else.
        self.batches = 1 if self.device == "cpu" else 4
        self.rates: dict[Speed, float] = {}  # evaluations a second; 0 where they are not possible
        self.same: dict[tuple[object, ...], bool] = {}  # by memory format and compilation
        self.note, self.cut = "", False
        least, most = (draws + clean for draws in procedure.draws_range())
        # Where votes stop early, a typical image takes about the geometric mean of what it can take.
        self.evaluations = images * math.sqrt(least * most)
        self.most = min(largest_batch(procedure, images, clean), max(_SMALL, images * least))
        self.start = time.perf_counter()
        self.bar = tqdm(
            desc="Measuring speed",
            total=_SECONDS,
            bar_format="{desc}: |{bar}| {n:.0f} of about {total:.0f} s",
            delay=2,
            leave=False,
            disable=not show,
        )

    @property
    def seconds_taken(self) -> float:
        return time.perf_counter() - self.start

    @property
    def seconds(self) -> float:
        """How long the search may take, by how long the run will."""
        run = self.evaluations / (max(self.rates.values(), default=0.0) or math.inf)
        return max(_SECONDS, *(min(share * run, most) for share, most in _SHARES))

    def late(self, speed: Speed) -> bool:
        """Would a measurement of these settings end too late, at the best rate so far?"""
        batches = (1 + _LEAST) * int(speed.batch_size) * self.batches
        late = self.seconds_taken + batches / max(self.rates.values()) > self.seconds
        self.cut |= late
        return late

    def run(self) -> Speed:
        """The settings to take."""
        size = min(_FIRST.get(self.device, _FIRST["cuda"]), self.most)
        start = replace(self.asked, compile=False).filled(
            Speed(size, channels_last=True, compile=False, threads=self.all_threads)
        )
        if not self.rate(start) and self.asked.channels_last == AUTO:
            start = replace(start, channels_last=False)
        while not self.rate(start) and start.batch_size != 1 and self.asked.batch_size == AUTO:
            start = replace(start, batch_size=int(start.batch_size) // 2)
        if not self.rate(start):
            raise OutOfMemory(
                f"batch_size={start.batch_size}: too large for the free memory of {self.classifier.device}; use "
                "another device"
            )
        self.threads()
        self.other_format()
        self.larger(self.best())
        self.other_format()
        before = self.best()
        self.threads()
        if self.best().threads != before.threads:
            self.neighbours(self.best())
        self.finals()
        best = self.best()
        if self.asked.compile is True:  # once, for the batch that it will be used with
            best = replace(best, compile=True)
            self.rates[best] = self._measure(best)
        elif self.asked.compile == AUTO:
            self.compiled(best)
            best = self.best()
        return best

    def best(self) -> Speed:
        fastest = max(self.rates.values())
        equal = [speed for speed, rate in self.rates.items() if rate >= _EQUAL * fastest]
        if self.device == "cpu":
            return max(equal, key=lambda speed: (-int(speed.batch_size), self.rates[speed]))
        return max(equal, key=lambda speed: (int(speed.batch_size), self.rates[speed]))

    def larger(self, start: Speed) -> None:
        """Doubles the batch as long as that helps."""
        if self.asked.batch_size != AUTO:
            return
        best, failures, speed = self.rate(start), 0, start
        while failures < _PATIENCE:
            speed = replace(speed, batch_size=2 * int(speed.batch_size))
            if int(speed.batch_size) > self.most:
                self.cut = True
                return
            if self.late(speed):
                return
            rate = self.rate(speed)
            if not rate:  # out of memory
                return
            failures = 0 if rate > _GAIN * best else failures + 1
            best = max(best, rate)

    def other_format(self) -> None:
        if self.asked.channels_last != AUTO:
            return
        best = self.best()
        other = replace(best, channels_last=not best.channels_last)
        if not self.late(other) and self.rate(other) > self.rate(best) and int(best.batch_size) > 1:
            self.neighbours(other)

    def neighbours(self, speed: Speed) -> None:
        """Batches of half and of twice the size; and on, as long as that helps."""
        if self.asked.batch_size != AUTO:
            return
        half = replace(speed, batch_size=max(1, int(speed.batch_size) // 2))
        if not self.late(half):
            self.rate(half)
        self.larger(speed)

    def threads(self) -> None:
        """Fewer threads, or more again: they wait for each other, and for whoever else uses their cores."""
        if self.asked.threads != AUTO or self.device != "cpu":
            return
        start = self.best()
        numbers = [2**power for power in range(self.all_threads.bit_length()) if 2**power < self.all_threads]
        numbers.append(self.all_threads)
        here = numbers.index(int(start.threads))
        for further in (reversed(numbers[:here]), numbers[here + 1 :]):
            best = start
            for number in further:
                other = replace(best, threads=number)
                if self.late(other) or self.rate(other) <= self.rate(best):
                    break
                best = other

    def finals(self) -> None:
        """Measures the best once more, in turns: something else may have run during one of the measurements."""
        possible = [speed for speed, rate in self.rates.items() if rate]
        finalists = sorted(possible, key=self.rates.__getitem__)[-_FINALISTS:]
        if len(finalists) == 1:
            return
        for _ in range(_TURNS):
            for speed in finalists:
                if not self.late(speed):
                    self.rates[speed] = max(self.rates[speed], self._attempt(speed, _FINALS))

    def compiled(self, best: Speed) -> None:
        """Compiles, where the run is long enough for that to pay back."""
        run = self.evaluations / self.rate(best)
        if can_compile(self.device) and run >= _WORTH_COMPILING.get(self.device, math.inf):
            compiled = replace(best, compile=True)
            if self.rate(compiled) < _GAIN * self.rate(best):
                self.rates[compiled] = 0.0

    def rate(self, speed: Speed) -> float:
        """Evaluations a second, measured when first asked for; 0 where that is not possible."""
        if speed not in self.rates:
            self.rates[speed] = self._attempt(speed)
            self.bar.total = self.seconds
            self.bar.update(min(self.seconds_taken, self.seconds) - self.bar.n)
        return self.rates[speed]

    def _attempt(self, speed: Speed, enough: float = _ENOUGH) -> float:
        """:meth:`_measure`; 0 where it does not fit into memory, or the network cannot be run so."""
        reason = ""
        try:
            return self._measure(speed, enough)
        except Exception as error:
            plain = not (speed.compile or (speed.channels_last and self.asked.channels_last == AUTO))
            if not isinstance(error, OutOfMemory) and not out_of_memory(error):
                if plain or isinstance(error, UserError):
                    raise
                # What a network does in another memory format, or a compiler with it, fails in many ways.
                reason = (str(error).splitlines() or [type(error).__name__])[0]
        if reason:
            what = "torch.compile" if speed.compile else "the channels-last memory format"
            self.note = f"Without {what}: it fails for this network ({reason})"
        if self.device == "cuda":
            torch.cuda.empty_cache()
        return 0.0

    @torch.inference_mode()
    def _same(self, speed: Speed) -> bool:
        """Is the network the same function when it is run so? A kernel, or a compiler, may be mistaken."""
        if self.classifier.deterministic is False:
            return True
        image = self.image[1].to(self.classifier.device, torch.float32)
        size = int(speed.batch_size) if speed.compile else _COMPARED  # compiled, another size would be compiled anew
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(size, *image.shape, generator=generator).to(image.device)
        images[0] = image
        arrange(self.classifier, replace(speed, channels_last=False, compile=False))
        expected = self.classifier(images).float()
        arrange(self.classifier, speed)
        found = self.classifier(images).float()
        share = _ROUNDING_OF_HALF if torch.finfo(self.classifier.computes_in).bits < 32 else _ROUNDING
        return alike(expected, found, share)

    def _measure(self, speed: Speed, enough: float = _ENOUGH) -> float:
        arrange(self.classifier, speed)
        if self.device == "cpu":
            torch.set_num_threads(int(speed.threads))
        manner = (speed.channels_last, speed.compile)
        if manner not in self.same:
            self.same[manner] = not any(manner) or self._same(speed)
        if not self.same[manner]:
            raise RuntimeError("its logits are others")
        size = int(speed.batch_size)
        # More draws than will be taken of one image.
        engine = VoteEngine(self.classifier, self.family, FixedSample(n0=1, n=2**40), batch_size=size)
        engine.add(*self.image)
        with warnings.catch_warnings():
            if speed.compile:
                warnings.simplefilter("ignore")  # of the compiler's, about itself
            engine.step()  # allocates, and compiles
        self._wait()
        start, fastest = time.perf_counter(), 0.0
        for number in range(_MOST):
            before = time.perf_counter()
            for _ in range(self.batches):
                engine.step()
            self._wait()
            now = time.perf_counter()
            fastest = max(fastest, self.batches * size / (now - before))
            if number + 1 >= _LEAST and now - start > enough:
                break
        return fastest

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize(self.classifier.device)
