"""The vote engine: draws parameters, transforms images, runs the base classifier and counts its votes.

Certification costs forward passes of the base classifier; everything here serves to add nothing to them.
Draws of many images share batches of one fixed shape, always full but for the last; parameters are drawn on
the host while the device works; an image crosses to the device once; votes come back without making the
device wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from glsmooth.errors import OutOfMemory, UserError, out_of_memory
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.voting.classifier import BaseClassifier
from glsmooth.voting.draws import Stream, coin, pixel_normals, uniforms
from glsmooth.voting.finite import FiniteLaw
from glsmooth.voting.procedures import ABSTAIN, Exhaustive, Procedure, Tally, VoteRule, is_reference

__all__ = ["NEAR_TIE_EPSILONS", "BaseClassifier", "VoteEngine", "cast_votes", "check_random", "largest_batch"]

#: Two logits closer than this many machine epsilons of the largest one: another batch size or another kernel
#: could have ordered them the other way.
NEAR_TIE_EPSILONS = 16.0


def cast_votes(logits: Tensor, rule: VoteRule, epsilon: float) -> Tensor:
    """Votes of a batch, on its device, without waiting for it.

    Args:
        logits: (N, K) float32 or float64.
        rule: ``argmax``, or ``majority`` for a class whose softmax probability exceeds 1/2.
        epsilon: rounding error of the logits relative to the largest one.

    Returns:
        int64 (N,): ``2 * code + near``. code is the class voted for; K for an exact tie, K + 1 for a
        non-finite logit, K + 2 + c where class c leads without a majority: none of these is a vote. near is 1
        where rounding of the logits could have changed the vote.
    """
    classes = logits.shape[1]
    finite = logits.isfinite().all(dim=1)
    logits = torch.where(finite[:, None], logits, torch.zeros_like(logits))
    top, order = logits.topk(2, dim=1)
    leader = order[:, 0]
    margin = top[:, 0] - top[:, 1]
    code = torch.where(margin > 0, leader, classes)
    if rule == "majority":
        # softmax_c > 1/2 exactly when logit_c exceeds the log-sum-exp of all the others.
        rest = logits.scatter(1, order[:, :1], -torch.inf).logsumexp(dim=1)
        code = torch.where((margin > 0) & (top[:, 0] <= rest), classes + 2 + leader, code)
        margin = top[:, 0] - rest
    near = finite & (margin.abs() <= epsilon * logits.abs().amax(dim=1))
    return 2 * torch.where(finite, code, classes + 1) + near


def check_random(procedure: Procedure, stochastic: bool) -> None:
    """Raise a UserError where every shift is to be visited with a network that may be random."""
    if stochastic and isinstance(procedure, Exhaustive):
        raise UserError(
            "stochastic=true: monte_carlo=exhaustive asks each shift once, and the vote of a random network is only a "
            "sample; set stochastic=false, or use monte_carlo=paper or monte_carlo=sequential (exhaustive=False)"
        )


def largest_batch(procedure: Procedure, images: int, clean: bool) -> int:
    """All evaluations that so many images can ask for: a larger batch could never be full."""
    return max(1, images * (procedure.draws_range()[1] + clean))


@dataclass
class _Job:
    """An image in flight."""

    tally: Tally
    slot: int
    todo: list[tuple[Stream, int, int]] = field(default_factory=list)  # (stream, first draw, number of draws)
    outstanding: int = 0  # draws asked for and not counted yet


@dataclass
class _Batch:
    """A batch under way on the device."""

    votes: Tensor  # host memory, filled when `done`
    done: torch.cuda.Event | None
    parts: list[_Part]


@dataclass
class _Part:
    """Rows [start, stop) of a batch: draws ``first``, … of one stream of an image."""

    job: _Job
    stream: Stream
    first: int
    start: int
    stop: int


class VoteEngine:
    """Counts votes for a stream of images, each as long as ``procedure`` asks.

    The votes of an image depend on ``seed`` and its index alone, never on its neighbours in a batch. Memory
    is that of a batch and a fixed number of images, whatever the number of draws or images.

    Whoever calls :meth:`add` and :meth:`step` rather than :meth:`run` makes the classifier ready first.

    Args:
        classifier: the base classifier.
        family: the transformation with its smoothing laws, and pixel noise.
        procedure: what to draw next, image by image.
        seed: of the draws, a non-negative integer.
        batch_size: evaluations in a batch; the last batch is padded, so that all have one shape.
        clean: also classify the image itself (one more evaluation; not at references).
        images: how many will come, where that is known; batches are no larger than these can fill.
        on_smaller: called with the new batch size when a batch did not fit into memory and was halved. Without it
            such a batch is an error.
    """

    def __init__(
        self,
        classifier: BaseClassifier,
        family: SmoothedFamily,
        procedure: Procedure,
        *,
        seed: int = 0,
        batch_size: int = 256,
        clean: bool = False,
        images: int | None = None,
        on_smaller: Callable[[int], None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} must be at least 1")
        if images is not None:
            batch_size = min(batch_size, largest_batch(procedure, images, clean))
        self.classifier = classifier
        self.family = family
        self.procedure = procedure
        check_random(procedure, classifier.stochastic)
        self.law: FiniteLaw | None = procedure.law if isinstance(procedure, Exhaustive) else None
        self.seed = seed
        self.batch_size = batch_size
        self.clean = clean
        self._on_smaller = on_smaller
        #: Network evaluations so far, padding included.
        self.evaluations = 0
        self._epsilon = NEAR_TIE_EPSILONS * torch.finfo(classifier.computes_in).eps
        # Batches that may be under way before the host waits for the oldest. A CPU runs each at once.
        self._lag = 3 if classifier.device.type == "cuda" else 1
        #: Images on the device at once, at most: enough to fill the batches under way even when each asks for a few
        #: draws at a time.
        self.capacity = max(4, self._lag * batch_size // 4)
        self._identity = family.transform.identity.numpy()
        self._jobs: dict[int, _Job] = {}  # by index, oldest first
        self._batches: deque[_Batch] = deque()
        self._pending = 0  # draws asked for and not yet in a batch
        self._slots: Tensor | None = None  # images on the device
        self._free: list[int] = []

    @property
    def busy(self) -> bool:
        """Is any image unfinished?"""
        return bool(self._jobs)

    @property
    def wants_image(self) -> bool:
        """Would the next batch not be full, and is there room for another image?"""
        return self._pending < self.batch_size and (self._slots is None or bool(self._free))

    def run(self, images: Iterable[tuple[int, Tensor]]) -> Iterator[Tally]:
        """Tallies of (index, image) pairs, each as soon as it is finished (not always in order).

        The classifier is made ready for the time of the run (:meth:`BaseClassifier.ready`). None of the tallies counts
        if the end of the run raises.
        """
        pairs = iter(images)
        first = next(pairs, None)
        if first is None:
            return
        with self._enough_memory(), self.classifier.ready(first[1]):
            for index, image in chain([first], pairs):
                while not self.wants_image:
                    yield from self.step()
                self.add(index, image)
            while self.busy:
                yield from self.step()

    @contextmanager
    def _enough_memory(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            smaller = f"set batch_size={self.batch_size // 2}" if self.batch_size > 1 else "use another device"
            raise OutOfMemory(
                f"batch_size={self.batch_size}: too large for the free memory of {self.classifier.device}; {smaller}"
            ) from error

    @torch.inference_mode()
    def add(self, index: int, image: Tensor) -> None:
        """Take an image (C, H, W) in; :attr:`wants_image` must hold."""
        if self._slots is None:
            self._slots = torch.empty((self.capacity, *image.shape), dtype=torch.float32, device=self.classifier.device)
            self._free = list(range(self.capacity))
        if image.shape != self._slots.shape[1:]:
            raise UserError(
                f"image {index} has shape {tuple(image.shape)}, those before it "
                f"{tuple(self._slots.shape[1:])}; resize all images to one size"
            )
        if self.family.image_size is not None and tuple(image.shape[1:]) != self.family.image_size:
            raise UserError(
                f"image {index} has size {tuple(image.shape[1:])}, the family's torus "
                f"{self.family.image_size}; build the family with the image_size of the images"
            )
        if index in self._jobs:
            raise ValueError(f"image {index} was added twice; give each image its own index")
        at_reference = self.family.warps and is_reference(index)
        tally = Tally(index, self.classifier.num_classes, coin(self.seed, index), at_reference)
        job = _Job(tally, self._free.pop())
        if self.classifier.device.type == "cuda" and image.device.type == "cpu":
            image = image.pin_memory()
        self._slots[job.slot].copy_(image, non_blocking=True)
        self._jobs[index] = job
        if self.clean and not at_reference:
            self._request(job, Stream.CLEAN, 0, 1)
        for stream, n in self.procedure.advance(job.tally).items():
            self._request(job, stream, 0, n)

    def _request(self, job: _Job, stream: Stream, first: int, n: int) -> None:
        job.todo.append((stream, first, n))
        job.outstanding += n
        self._pending += n

    def step(self) -> list[Tally]:
        """Launch a batch or count an earlier one; return the images that this finished."""
        # Waiting for votes comes before a batch that is not full: they may ask for the draws that fill it.
        if self._pending >= self.batch_size or not self._batches:
            self._launch()
            return self._count(self._batches.popleft()) if len(self._batches) >= self._lag else []
        return self._count(self._batches.popleft())

    def _launch(self) -> None:
        while True:
            parts = self._take()
            try:
                with self._enough_memory():
                    batch = self._evaluate(parts)
                break
            except OutOfMemory:
                if self._on_smaller is None or self.batch_size == 1:
                    raise
                self._give_back(parts)
            # After the except clause, whose error holds on to what the batch had allocated.
            self.batch_size //= 2
            if self.classifier.device.type == "cuda":
                torch.cuda.empty_cache()
            self._on_smaller(self.batch_size)
        self._batches.append(batch)
        self._pending -= parts[-1].stop
        self.evaluations += self.batch_size

    def _take(self) -> list[_Part]:
        """The draws of the next batch, taken from what the images ask for."""
        parts: list[_Part] = []
        filled = 0
        for job in self._jobs.values():
            while job.todo and filled < self.batch_size:
                stream, first, n = job.todo.pop()
                take = min(n, self.batch_size - filled)
                parts.append(_Part(job, stream, first, filled, filled + take))
                if take < n:
                    job.todo.append((stream, first + take, n - take))
                filled += take
            if filled == self.batch_size:
                break
        return parts

    def _give_back(self, parts: list[_Part]) -> None:
        """Undo :meth:`_take`."""
        for part in reversed(parts):
            part.job.todo.append((part.stream, part.first, part.stop - part.start))

    @torch.inference_mode()
    def _evaluate(self, parts: list[_Part]) -> _Batch:
        d = len(self._identity)
        # One row of `integers` and `reals` a draw; padding rows repeat the first image untouched.
        integers = np.zeros((2, self.batch_size), dtype=np.int64)  # slot, key of the pixel noise
        integers[0] = parts[0].job.slot
        u = np.full((self.batch_size, d), 0.5)
        noisy = np.zeros(self.batch_size, dtype=bool)
        for part in parts:
            rows = slice(part.start, part.stop)
            integers[0, rows] = part.job.slot
            if part.stream in (Stream.SELECTION, Stream.COUNTING):
                u[rows], integers[1, rows] = uniforms(
                    self.seed, part.job.tally.index, part.stream, part.first, part.stop - part.start, d
                )
                noisy[rows] = True
        theta = self.family.draw(torch.from_numpy(u)).numpy()
        theta[~noisy] = self._identity
        for part in parts:
            if part.stream == Stream.VISITING:
                assert self.law is not None
                theta[part.start : part.stop] = self.law.points[part.first :][: part.stop - part.start]
        reals = np.concatenate([theta, noisy[:, None] * self.family.pixel_noise], axis=1)
        slot, keys = self._to_device(integers)
        assert self._slots is not None
        images = self._transform(self._slots.index_select(0, slot), keys, self._to_device(reals))
        return self._fetch(self._vote(images, parts[0].job.tally.index), parts)

    def _transform(self, images: Tensor, keys: Tensor, block: Tensor) -> Tensor:
        """φ(x, θ) plus pixel noise; ``block`` (N, d + 1) holds θ and the noise's standard deviation."""
        transform, shape, dtype = self.family.transform, images.shape, images.dtype
        images = transform.apply(images, block[:, :-1])
        if not isinstance(images, Tensor) or (images.shape, images.dtype) != (shape, dtype):
            got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise UserError(
                f"{type(transform).__name__}.apply returned {got} for images {dtype} {tuple(shape)}; return a tensor "
                "like its images"
            )
        if self.family.pixel_noise > 0:
            scale = block[:, -1].to(images.dtype)[:, None, None, None]
            images = images + scale * pixel_normals(keys, (images.shape[1], images.shape[2], images.shape[3]))
        return images

    def _vote(self, images: Tensor, index: int) -> Tensor:
        """Votes of a batch as :func:`cast_votes` codes them; ``index`` is the image to name in an error."""
        logits = self.classifier(images)
        complaint = self.classifier.complaint(logits, len(images))
        if complaint is not None:
            raise UserError(f"image {index}: the model returned {complaint}")
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return cast_votes(logits, self.procedure.rule, self._epsilon)

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.classifier.device.type == "cuda":  # pinned memory is what makes the copy asynchronous
            tensor = tensor.pin_memory()
        elif self.classifier.device.type == "mps" and tensor.dtype == torch.float64:  # which it lacks
            tensor = tensor.float()
        return tensor.to(self.classifier.device, non_blocking=True)

    def _fetch(self, votes: Tensor, parts: list[_Part]) -> _Batch:
        if votes.device.type != "cuda":
            return _Batch(votes.cpu(), None, parts)
        host = torch.empty(votes.shape, dtype=votes.dtype, pin_memory=True)
        host.copy_(votes, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return _Batch(host, done, parts)

    def _count(self, batch: _Batch) -> list[Tally]:
        if batch.done is not None:
            batch.done.synchronize()  # of a batch some launches ago: the device has work in the meantime
        votes = batch.votes.numpy()
        classes = self.classifier.num_classes
        finished = []
        for part in batch.parts:
            job, stream, n = part.job, part.stream, part.stop - part.start
            tally = job.tally
            code, near = np.divmod(votes[part.start : part.stop], 2)
            job.outstanding -= n
            if stream == Stream.CLEAN:
                # The prediction needs no majority.
                tally.clean = int({classes: ABSTAIN, classes + 1: ABSTAIN}.get(code[0], code[0] % (classes + 2)))
            else:
                counts = np.bincount(code, minlength=classes + 2)
                tally.abstained += int(counts[classes:].sum())
                tally.nonfinite += int(counts[classes + 1])
                tally.near_ties += int(near.sum())
                if stream == Stream.SELECTION:
                    tally.selection += counts[:classes]
                    tally.n0 += n
                else:
                    tally.counting += counts[:classes]
                    tally.n += n
                if stream == Stream.VISITING:
                    assert self.law is not None
                    voted = code < classes
                    np.add.at(tally.mass, code[voted], self.law.weights[part.first :][:n][voted])
            if job.outstanding == 0:
                drawn = {Stream.SELECTION: tally.n0, Stream.COUNTING: tally.n, Stream.VISITING: tally.n}
                for more, number in self.procedure.advance(tally).items():
                    self._request(job, more, drawn[more], number)
                if job.outstanding == 0:
                    del self._jobs[tally.index]
                    self._free.append(job.slot)
                    finished.append(tally)
        return finished

    @torch.inference_mode()
    def replay(self, index: int, image: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first ``n`` counting draws (or visits, if there are as many) of an image again, for pictures.

        Returns:
            parameters (n, d) float64, transformed images (n, C, H, W), votes (n,) int64 with ABSTAIN for
            none.
        """
        u, keys = uniforms(self.seed, index, Stream.COUNTING, 0, n, len(self._identity))
        theta = self.family.draw(torch.from_numpy(u))
        if self.law is not None:
            theta = torch.from_numpy(self.law.points[:n])
            n, keys = len(theta), keys[: len(theta)]
        block = np.concatenate([theta.numpy(), np.full((n, 1), self.family.pixel_noise)], axis=1)
        images = image.to(self.classifier.device).expand(n, *image.shape)
        images = self._transform(images, self._to_device(keys), self._to_device(block))
        code = self._vote(images, index) // 2
        votes = torch.where(code < self.classifier.num_classes, code, ABSTAIN)
        return theta, images.cpu(), votes.cpu()
