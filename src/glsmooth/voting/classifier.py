"""The base classifier as votes need it: in evaluation mode, unchanging, and a function of one image at a time."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from glsmooth.errors import UserError, out_of_memory
from glsmooth.voting.memory import keep_freed_memory

__all__ = ["PRECISIONS", "BaseClassifier", "alike", "can_compile", "nonfinite", "undisturbed"]

#: Lightning's names of precisions and the type that autocast uses; None is plain float32.
PRECISIONS: dict[str, torch.dtype | None] = {
    "32-true": None,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}

# Images of a trial batch, fewer where those do not fit into memory; passes that test the independence of a random
# network's draws, and the probability with which a good one may be refused.
_TRIALS, _PASSES, _REFUSAL = (16, 4, 2), 64, 1e-8
_TRIAL = _TRIALS[0]


class BaseClassifier:
    """A model made ready for inference: (N, C, H, W) images in [0, 1] -> logits (N, num_classes).

    The model is moved to ``device`` (and, if asked, to the channels-last format). It is put in evaluation mode for
    the time of a run only, by :meth:`ready`.

    Images are transformed in float32, whatever the network computes in, and then handed to it in its dtype, that of its
    first floating parameter (or buffer, where it has no parameter): float32 draws have the same images in float64.
    Logits are compared in float64 where that is the network's dtype, and in float32 otherwise. ``near_ties`` count by
    the rounding of the network's dtype.

    Logits are a tensor (N, num_classes), or (N, num_classes, 1, 1), or the ``logits`` of an object or dictionary, as
    the networks of Hugging Face give them.

    Args:
        model: the base classifier; normalisation belongs inside it.
        num_classes: number of logits, at least 2.
        device: where to run; by default where the model's parameters are.
        precision: a name in :data:`PRECISIONS`; anything but 32-true runs under autocast. It decides what is certified:
            the base classifier is the network in that precision.
        compile, channels_last, threads: as :meth:`arrange` takes them.
        stochastic: accept a network that is random in evaluation mode. Each vote is then an independent draw of the
            network's randomness too, and every statement is about the classifier that is smoothed over both.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        num_classes: int,
        *,
        device: torch.device | str | None = None,
        precision: str = "32-true",
        compile: bool = False,
        channels_last: bool = False,
        threads: int | None = None,
        stochastic: bool = False,
    ) -> None:
        if num_classes < 2:
            raise UserError(f"num_classes={num_classes}: a classifier has at least 2 classes")
        if precision not in PRECISIONS:
            raise UserError(f"precision={precision!r} is not known; use one of {', '.join(PRECISIONS)}")
        if isinstance(model, nn.Module):
            for name, tensor in _tensors(model):
                if tensor.is_meta:
                    raise UserError(f"the network's {name} lies on meta, without values; load its weights first")
            device = device or next((tensor.device for _, tensor in _tensors(model)), None)
        self.device = torch.device(device or "cpu")
        self.num_classes = num_classes
        self.autocast = PRECISIONS[precision]
        self.stochastic = stochastic
        #: Do two passes on the same images give the same logits? None until the first :meth:`ready`.
        self.deterministic: bool | None = None
        self._module = model if isinstance(model, nn.Module) else None
        #: What images are handed to the network in.
        self.dtype = torch.float32 if self._module is None else _dtype(self._module)
        if isinstance(model, nn.Module):
            model = model.to(device=self.device)
        # Trials run the network as it is: their batches have another shape, which would be compiled again.
        self._plain: Callable[[Tensor], Tensor] = model
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self.arrange(compile=compile, channels_last=channels_last, threads=threads)
        self._state: dict[str, int] | None = None  # of the parameters and buffers, while ready
        self._weights: Tensor | None = None  # for their fingerprints
        self._tried: dict[tuple[object, ...], bool] = {}  # deterministic, by state and shape of the images

    def arrange(self, *, compile: bool, channels_last: bool, threads: int | None) -> None:
        """Choose how the network runs.

        Args:
            compile: pass it through ``torch.compile``.
            channels_last: run convolutions in the channels-last memory format.
            threads: torch's threads on a CPU while the classifier is ready; None: as they are.

        Raises:
            UserError: it is to be compiled for a CPU, and there is no compiler.
        """
        if compile and not can_compile(self.device.type):
            raise UserError("compile=true: needs a C++ compiler on a CPU; install g++, or set compile=false")
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if self._module is not None:
            for parameter in self._module.parameters():
                if parameter.ndim == 4 and not is_lazy(parameter):
                    parameter.data = parameter.data.contiguous(memory_format=self.memory_format)
        if compile and self._compiled is None:
            self._compiled = torch.compile(self._plain)
        self.model: Callable[[Tensor], Tensor] = (
            self._compiled if compile and self._compiled is not None else self._plain
        )
        self.threads = threads

    def __call__(self, images: Tensor) -> Tensor:
        return self._forward(self.model, images)

    def _forward(self, model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            logits: Tensor = _logits(model(images.to(self.dtype)))
        return logits

    @property
    def computes_in(self) -> torch.dtype:
        """The coarsest dtype that logits pass through."""
        return self.autocast or self.dtype

    @contextmanager
    def ready(self, image: Tensor) -> Iterator[BaseClassifier]:
        """Evaluation mode for the time of a run, and each submodule's own mode again afterwards.

        Args:
            image: one of the run's images (C, H, W), for the trial passes that come first (a few, and only once for
                a network in one state).

        Raises:
            UserError: a network whose weights are not finite; that fails for such images; that changes its own
                parameters or buffers, at the start or during the run; whose logits depend on the rest of the batch;
                or that is random without ``stochastic``.
        """
        modules = [] if self._module is None else list(self._module.modules())
        training = [module.training for module in modules]
        threads = torch.get_num_threads()
        if self.device.type == "cpu":
            keep_freed_memory()
            if self.threads is not None:
                torch.set_num_threads(self.threads)
        try:
            if self._module is not None:
                self._module.eval()
            self._state = self.fingerprints()
            key = (*self._state.values(), tuple(image.shape))
            if key not in self._tried:
                broken = None if self._module is None else nonfinite(self._module)
                if broken is not None:
                    raise UserError(f"the network's {broken}; its votes mean nothing, give the weights of a whole one")
                self._tried[key] = self._try_what_fits(image)
            self.deterministic = self._tried[key]
            if not (self.deterministic or self.stochastic):
                raise UserError(
                    "the network is random in evaluation mode: two passes on the same images differ. Make it "
                    "deterministic (is dropout or noise always on?), or set stochastic=true (stochastic=True in "
                    "Python): each vote is then an independent draw of its randomness too, and the certificate is "
                    "about the classifier smoothed over both"
                )
            yield self
            self.check_unchanged()
        finally:
            self._state = None
            torch.set_num_threads(threads)
            for module, mode in zip(modules, training, strict=True):
                module.training = mode

    @property
    def network(self) -> nn.Module | Callable[[Tensor], Tensor]:
        """The model that this was made of."""
        return self._plain

    def digest(self) -> str:
        """SHA-256 of what decides the network's logits, as far as it can be seen.

        That is its layers as they print, and all parameters and buffers by name, dtype, shape and bytes. Constants
        inside a ``forward`` are not seen.

        Raises:
            UserError: the model is no module.
        """
        if self._module is None:
            raise UserError("model is a function, which has no weights to be known by; wrap it in an nn.Module")
        # Layers that do not say how they print have an address.
        found = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", repr(self._module)).encode())
        for name, tensor in _tensors(self._module):
            found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            found.update(_words(tensor).cpu().numpy().tobytes())
        return found.hexdigest()

    def check_unchanged(self) -> None:
        """Raise a UserError if the network has changed since it was made ready: its votes are of several networks."""
        if self._state is None:
            raise RuntimeError("check_unchanged needs a classifier that is ready")
        now = self.fingerprints()
        changed = [name for name, fingerprint in self._state.items() if now.get(name) != fingerprint]
        if changed:
            raise UserError(
                f"the network changes itself in evaluation mode: {changed[0]} is another one after a pass "
                f"({len(changed)} tensors changed). Votes must all be of one network; freeze it (normalisation that "
                "updates its statistics? adaptation at test time?)"
            )

    def fingerprints(self) -> dict[str, int]:
        """A number for each parameter and buffer that changes with any of its bits."""
        if self._module is None:
            return {}
        tensors = {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}
        tensors = {name: tensor for name, tensor in tensors.items() if not is_lazy(tensor)}
        if not tensors:
            return {}
        # One wait for the device, not one a tensor.
        words = [_words(tensor) for tensor in tensors.values()]
        longest = max(map(len, words))
        if self._weights is None or len(self._weights) < longest:
            generator = torch.Generator().manual_seed(0)
            odd = 2 * torch.randint(-(2**62), 2**62, (longest,), generator=generator) + 1
            self._weights = odd.to(self.device)
        # Modulo 2^64, as int64 wraps around. An odd weight gives every change of one word another product.
        numbers = torch.stack([(w.to(self.device) * self._weights[: len(w)]).sum() for w in words])
        return dict(zip(tensors, numbers.tolist(), strict=True))

    def _pass(self, images: Tensor) -> Tensor | None:
        """Logits of a trial batch; None where they are of no use, which the first batch of votes reports."""
        logits = self._forward(self._plain, images)
        if self.complaint(logits, len(images)) is not None:
            return None
        return logits if self.dtype == torch.float64 else logits.float()

    def complaint(self, logits: Any, number: int) -> str | None:
        """What is wrong with a network's output for a batch of ``number`` images, with the fix; None for logits."""
        expected = (number, self.num_classes)
        first = "in a module of your own: return self.network(images)"
        if isinstance(logits, tuple | list):
            return f"a {type(logits).__name__} of {len(logits)}; take the logits {first}[0]"
        if isinstance(logits, Mapping):
            some = next(iter(logits), "logits")
            return f"a {type(logits).__name__}; take the logits {first}[{some!r}]"
        if not isinstance(logits, Tensor):
            return f"a {type(logits).__name__}; return logits, a tensor of shape {expected}"
        shape = tuple(logits.shape)
        what = f"shape {shape} for a batch of {number}, not logits of shape {expected}"
        if shape == expected:
            return (
                None if logits.is_floating_point() else f"{logits.dtype}; return the logits, before argmax or one_hot"
            )
        if shape == expected[:1]:
            return f"{what}; return a logit for each class: of one number z an image, torch.stack([-z, z], dim=1)"
        if shape == (number, 1):
            return f"{what}; return a logit for each class: of one number z an image, torch.cat([-z, z], dim=1)"
        if logits.ndim == 2 and shape[0] == number and shape[1] > 1:
            return f"{what}; set num_classes={shape[1]} if that many classes are meant, or mend the model's head"
        if logits.ndim == 4 and shape[:2] == expected:
            return f"{what}; pool over pixels: logits.mean(dim=(2, 3))"
        return f"{what}; check num_classes and the model's head"

    def _first_pass(self, images: Tensor) -> Tensor | None:
        """:meth:`_pass`, after which the network is known to take such images."""
        try:
            return self._pass(images)
        except Exception as error:
            if isinstance(error, UserError) or out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise UserError(
                f"the network fails for images of shape {tuple(images.shape[1:])}, in a batch of {len(images)} "
                f"({reason}); {self._remedy(images.shape[1])}"
            ) from error

    def _remedy(self, channels: int) -> str:
        """What to do about a network that fails for images of so many channels."""
        modules = () if self._module is None else self._module.modules()
        takes = next((module.in_channels for module in modules if isinstance(module, nn.Conv2d)), channels)
        if takes == channels:
            return "give images of the size and channels that it takes, or mend it"
        convert = {(3, 1): ": x.expand(3, -1, -1)", (3, 4): ": x[:3], without transparency"}
        return (
            f"its first convolution takes {takes} channels, these images have {channels}; convert them"
            f"{convert.get((takes, channels), '')}"
        )

    def _try_what_fits(self, image: Tensor) -> bool:
        """:meth:`_try` with as many images as there is memory for."""
        for size in _TRIALS:
            try:
                return self._try(image, size)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or size == _TRIALS[-1]:
                    raise
            # After the except clause, whose error holds on to what the passes had allocated.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        raise AssertionError

    @torch.inference_mode()
    def _try(self, image: Tensor, size: int) -> bool:
        """Trial passes: is the network deterministic? Refuses what no votes can be taken of."""
        image = image.to(self.device, torch.float32)
        generator = torch.Generator().manual_seed(0)
        others = torch.rand(2, size - 1, *image.shape, generator=generator).to(self.device)
        batch, company = (torch.cat([image[None], other]) for other in others)
        # Other company that is far from the first, for statistics of a batch.
        company[1:] = 0.1 * company[1:]
        first, again = self._first_pass(batch), self._pass(batch)
        self.check_unchanged()
        if first is None or again is None:
            return True
        deterministic = self._equal(first, again, exact=self.device.type == "cpu")
        if deterministic:
            beside, moved = self._pass(company), self._pass(batch.roll(1, dims=0))
        else:
            if not self.stochastic:
                return False
            # The same randomness again: what differs now comes from the company.
            first, again, beside = (self._seeded(images) for images in (batch, batch, company))
            assert first is not None
            assert again is not None
            if not self._equal(first, again):
                raise UserError(
                    "stochastic=true: the network's randomness does not follow from the seeds of torch, NumPy and "
                    "random, so it cannot be checked that an image's logits depend on nothing else in its batch; draw "
                    "it from these generators"
                )
            moved = None
        if beside is None or not self._equal(first[:1], beside[:1]):
            raise UserError(_BATCH.format("the other images of its batch"))
        if moved is not None and not self._equal(first, moved.roll(-1, dims=0)):
            raise UserError(_BATCH.format("its place in the batch"))
        if not deterministic:
            self._check_independent(image)
        self.check_unchanged()
        return deterministic

    def _equal(self, one: Tensor, other: Tensor, exact: bool = False) -> bool:
        """The same logits, but for what kernels may round differently."""
        if exact:
            return torch.equal(one.nan_to_num(), other.nan_to_num())
        share = 2e-2 if torch.finfo(self.computes_in).bits < 32 else 1e-4 if self.device.type == "cuda" else 1e-5
        return alike(one, other, share)

    def _seeded(self, images: Tensor) -> Tensor | None:
        """A pass from fixed seeds, which leaves the global generators as they were."""
        with undisturbed(self.device):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            return self._pass(images)

    def _check_independent(self, image: Tensor) -> None:
        """Votes count as independent draws: a random network may not share its randomness within a batch.

        One image fills many batches. Were the draws independent, the logits' ranks at two places of a batch, or of two
        passes at one place, would not be correlated, at any distance. Bernstein's inequality says how large the sum of
        their products may become by chance, however uneven the logits are.
        """
        from scipy.stats import rankdata  # late: it takes half a second

        batch = image.expand(2 * _TRIAL, *image.shape)
        passes = [self._pass(batch) for _ in range(_PASSES)]
        logits = torch.stack([logits for logits in passes if logits is not None]).double().cpu().numpy()
        lags = [(1, lag) for lag in range(1, _TRIAL + 1)] + [(0, lag) for lag in range(1, _PASSES // 2 + 1)]
        exponent = np.log(2 * len(lags) * self.num_classes / _REFUSAL)
        for values in np.moveaxis(logits, 2, 0):
            if np.ptp(values) == 0 or not np.isfinite(values).all():
                continue
            ranks = rankdata(values).reshape(values.shape)
            ranks = (ranks - ranks.mean()) / ranks.std()
            largest = float(np.abs(ranks).max()) ** 2 * exponent / 3
            limit = largest + np.sqrt(largest**2 + 2 * exponent * ranks.size)
            for axis, lag in lags:
                if abs((ranks * np.roll(ranks, lag, axis)).sum()) > limit:
                    raise UserError(
                        "stochastic=true: the network's randomness is not independent "
                        f"{'within a batch' if axis else 'between batches'}, so its votes are not independent either; "
                        "draw it afresh for every image"
                    )


_BATCH = (
    "the network's logits for an image depend on {}, so its votes are not independent draws; normalise by fixed "
    "statistics (is a BatchNorm in training mode?), or run it image by image inside the model"
)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then buffers, by name."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _dtype(module: nn.Module) -> torch.dtype:
    """Of the first floating tensor: quantised ones are of whole numbers, or of eight bits that nothing computes in."""
    known = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return next((tensor.dtype for _, tensor in _tensors(module) if tensor.dtype in known), torch.float32)


def _logits(output: Any) -> Any:
    """The logits of a network's output, as far as their place is known."""
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        output = output["logits"]
    elif not isinstance(output, Tensor) and isinstance(getattr(output, "logits", None), Tensor):
        output = output.logits
    if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:] == (1, 1):
        output = output.flatten(1)
    return output


def alike(one: Tensor, other: Tensor, share: float) -> bool:
    """Are these logits the same but for this share of the largest of ``one``?"""
    finite = one.isfinite()
    scale = float(one[finite].abs().max()) if bool(finite.any()) else 0.0
    return torch.allclose(one, other, rtol=0, atol=share * scale, equal_nan=True)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """The global generators of torch, NumPy and random, which a network may draw from, are afterwards as before."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global generator is what networks use
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def can_compile(device: str) -> bool:
    """Does ``torch.compile`` have what it needs for this type of device?"""
    return device != "cpu" or any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def nonfinite(module: nn.Module) -> str | None:
    """The first tensor that no sound network has, and what is wrong with it; None where there is none.

    NaN is wrong everywhere. Infinities are in parameters; buffers may hold them on purpose, as masks of attention do.
    """
    for tensors, wrong, what in (
        (module.named_parameters(), lambda values: ~torch.isfinite(values), "NaN or infinity"),
        (module.named_buffers(), torch.isnan, "NaN"),
    ):
        for name, tensor in tensors:
            if is_lazy(tensor) or tensor.is_quantized or not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            values = tensor.detach()
            count = int(wrong(values if values.layout == torch.strided else values.to_dense()).sum())
            if count:
                return f"{name} holds {what} in {count} of its {tensor.numel()} values"
    return None


def _words(tensor: Tensor) -> Tensor:
    """The tensor's bits as int32 (n,), or of its smaller elements as int8 or int16."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    small = {1: torch.int8, 2: torch.int16}.get(tensor.element_size(), torch.int32)
    return tensor.reshape(-1).view(small)
