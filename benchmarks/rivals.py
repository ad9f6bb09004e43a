"""Certification beside the loops that others certify with: one network, the same images, n0, n and α, in one process.

    python benchmarks/rivals.py [key=value ...]

Keys and defaults are in ``DEFAULTS`` below. Two tables:

* *Pixel noise*: CERTIFY of Cohen et al. (2019), whose noise is made for a whole batch on the device, and the randomized
  smoothing of IBM's Adversarial Robustness Toolbox (``pip install 'glsmooth[bench]'``). Ours needs a transformation:
  brightness by a law so narrow that it does nothing.
* *Contrast and brightness*: the same CERTIFY, but for the parameters, which come from numpy, and the images, which are
  transformed one at a time on the CPU and then stacked: the common way to certify transformations.

Each loop has a copy of the network, in evaluation mode and without gradients; glsmooth chooses its batch size by
measuring, the others run with each of ``batch_sizes``. All have the same threads and glsmooth's settings of the memory
allocator. They run in turns, and the quietest turn of each counts. All must find the same classes, by votes that differ
no more than by chance: otherwise this ends with an error.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from scipy import stats
from torch import Tensor, nn

import glsmooth as gs
from common import begin, machine, untrained
from glsmooth.bounds.confidence import clopper_pearson_lower
from glsmooth.voting.memory import keep_freed_memory
from growth import timed

DEFAULTS = {
    "device": None,  # null: a GPU if there is one
    "threads": None,  # torch's threads on a CPU, for all
    "network": "cifar_resnet20",
    "size": 32,
    "images": 3,
    "n0": 100,
    "n": None,  # null: 400 on a CPU, 10,000 on a GPU
    "alpha": 1e-3,
    "noise": 0.25,  # standard deviation of the pixel noise
    "scale": 0.2,  # of the laws of contrast (log-normal) and brightness (normal)
    "batch_sizes": [32, 400],  # of the others: the defaults of ART and of the code of Cohen et al.
    "turns": 3,
    "steps": 40,  # of training
    "seed": 0,
}
CLASSES = 10
#: Images are compared where p_A is at least this: there, n0 = 100 votes select another class about once in a thousand
#: times even if all other votes are for one class.
SURE = 0.65
#: Two counts that are less probable than this, if both are votes of one classifier, are not chance.
CHANCE = 1e-6


class Found(NamedTuple):
    """Of an image: the selected class, and how many of n votes it had; None where a loop abstains and says neither."""

    prediction: int | None
    count: int | None


@dataclass
class Loop:
    """One way to certify ``images`` images; ``work`` returns what it found for each."""

    name: str
    batch: str
    work: Callable[[], list[Found]]
    found: list[Found] = field(default_factory=list)
    costs: list[tuple[float, float]] = field(default_factory=list)  # seconds: wall, CPU

    def turn(self, device: torch.device) -> None:
        def work() -> None:
            self.found = self.work()

        self.costs.append(timed(work, device))


class Problem:
    """Images of ten smooth patterns under noise, and a network that has learnt them a little."""

    def __init__(self, cfg: DictConfig, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        generator = torch.Generator().manual_seed(cfg.seed)
        coarse = torch.rand(CLASSES, 3, 4, 4, generator=generator)
        size = (cfg.size, cfg.size)
        patterns = F.interpolate(coarse, size=size, mode="bilinear")

        def drawn(n: int) -> tuple[Tensor, Tensor]:
            labels = torch.randint(CLASSES, (n,), generator=generator)
            return 0.5 * patterns[labels] + 0.5 * torch.rand(n, 3, *size, generator=generator), labels

        torch.manual_seed(cfg.seed)
        self.network = untrained(cfg.network, cfg.size, CLASSES).to(device)
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9)
        self.network.train()
        for _ in range(cfg.steps):
            images, labels = drawn(64)
            # Half of what the votes will see, so that not all of them agree.
            noise, contrast, brightness = (
                torch.randn(shape, generator=generator) / 2 for shape in (images.shape, (64, 1, 1, 1), (64, 1, 1, 1))
            )
            images = (cfg.scale * contrast).exp() * images + cfg.scale * brightness + cfg.noise * noise
            optimizer.zero_grad()
            F.cross_entropy(self.network(images.to(device)), labels.to(device)).backward()
            optimizer.step()
        self.network.eval()
        self.images = drawn(cfg.images)[0]

    def copy(self) -> nn.Module:
        """The network, which a loop may rearrange."""
        return copy.deepcopy(self.network)


def ours(problem: Problem, family: gs.SmoothedFamily) -> list[Loop]:
    """glsmooth with everything "auto" but the threads: measuring its settings within the call, and knowing them."""
    cfg = problem.cfg
    network = problem.copy()
    region = gs.Box(**{name: (value, value) for name, value in family.identity.items()})
    chosen: list[gs.SmoothedClassifier] = []

    def certified(smoothed: gs.SmoothedClassifier) -> list[Found]:
        certificates = smoothed.certify_many(problem.images, region, cfg.n0, cfg.n, cfg.alpha, cfg.seed)
        return [Found(certificate.prediction, certificate.count) for certificate in certificates]

    def measuring() -> list[Found]:
        chosen[:] = [gs.SmoothedClassifier(network, family, CLASSES, threads=torch.get_num_threads())]
        found = certified(chosen[0])
        first.batch = str(chosen[0].speed.batch_size)
        second.batch = first.batch
        return found

    first = Loop("glsmooth, with the measuring of its settings", "", measuring)
    second = Loop("glsmooth, settings known", "", lambda: certified(chosen[0]))
    return [first, second]


def certify(problem: Problem, name: str, draw: Callable[[Tensor, int], Tensor]) -> list[Loop]:
    """CERTIFY (Cohen et al. 2019); ``draw`` makes so many smoothed copies of an image, on the device."""
    cfg, network = problem.cfg, problem.copy()

    def votes(image: Tensor, n: int, batch_size: int) -> np.ndarray:
        counts = np.zeros(CLASSES, dtype=np.int64)
        while n > 0:
            size = min(n, batch_size)
            n -= size
            counts += np.bincount(network(draw(image, size)).argmax(dim=1).cpu().numpy(), minlength=CLASSES)
        return counts

    @torch.inference_mode()
    def work(batch_size: int) -> list[Found]:
        found = []
        for image in problem.images:
            prediction = int(votes(image, cfg.n0, batch_size).argmax())
            count = int(votes(image, cfg.n, batch_size)[prediction])
            # p_A, which the loop has to pay for; below it is the counts that are compared.
            stats.beta.ppf(cfg.alpha, count, cfg.n - count + 1)
            found.append(Found(prediction, count))
        return found

    return [Loop(name, str(size), partial(work, size)) for size in cfg.batch_sizes]


def noise_on_device(problem: Problem) -> Callable[[Tensor, int], Tensor]:
    """Copies of an image with pixel noise, for a batch at once."""

    def draw(image: Tensor, size: int) -> Tensor:
        batch = image.to(problem.device).repeat(size, 1, 1, 1)
        return batch + problem.cfg.noise * torch.randn_like(batch)

    return draw


def transformed_one_by_one(problem: Problem) -> Callable[[Tensor, int], Tensor]:
    """Copies of an image with other contrast and brightness, one after the other on the CPU."""
    scale, generator = problem.cfg.scale, np.random.default_rng(problem.cfg.seed)

    def draw(image: Tensor, size: int) -> Tensor:
        contrast, brightness = generator.lognormal(0.0, scale, size), generator.normal(0.0, scale, size)
        copies = [float(c) * image + float(b) for c, b in zip(contrast, brightness, strict=True)]
        return torch.stack(copies).to(problem.device)

    return draw


def toolbox(problem: Problem) -> list[Loop]:
    """ART's randomized smoothing: all images in one call, by each batch size; and a call for each image."""
    if importlib.util.find_spec("art") is None or importlib.util.find_spec("statsmodels") is None:
        print(
            "\n!!! IBM ART is not installed: its rows are missing below. pip install 'glsmooth[bench]', "
            "or pip install adversarial-robustness-toolbox statsmodels",
            flush=True,
        )
        return []
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    cfg = problem.cfg
    images = problem.images.numpy()
    smoothed: Any = PyTorchRandomizedSmoothing(
        problem.copy(),
        loss=nn.CrossEntropyLoss(),
        input_shape=images.shape[1:],
        nb_classes=CLASSES,
        device_type="gpu" if problem.device.type == "cuda" else "cpu",
        sample_size=cfg.n0,
        scale=cfg.noise,
        alpha=cfg.alpha,
    )
    np.random.seed(cfg.seed)  # noqa: NPY002 - the generator that it draws from
    bounds = np.array([clopper_pearson_lower(count, cfg.n, cfg.alpha) for count in range(cfg.n + 1)])

    def found(prediction: int, radius: float) -> Found:
        # It returns σ Φ⁻¹(p_A), and -1 below 1/2.
        if prediction == -1:
            return Found(None, None)
        return Found(int(prediction), int(np.abs(bounds - stats.norm.cdf(radius / cfg.noise)).argmin()))

    def certified(batch_size: int, calls: int) -> list[Found]:
        results = [smoothed.certify(part, n=cfg.n, batch_size=batch_size) for part in np.array_split(images, calls)]
        return [found(*pair) for predictions, radii in results for pair in zip(predictions, radii, strict=True)]

    ways = [("all images in a call", 1), ("an image a call", len(images))]
    return [
        Loop(f"IBM ART, {name}", str(size), partial(certified, size, calls))
        for size in cfg.batch_sizes
        for name, calls in ways
    ]


def compare(problem: Problem, title: str, loops: list[Loop]) -> None:
    """Run the loops in turns, print what each takes, and stop if they did not do the same work."""
    cfg = problem.cfg
    for _ in range(cfg.turns):
        for loop in loops:
            loop.turn(problem.device)
    passes = cfg.images * (cfg.n0 + cfg.n)
    print(f"\n{title}\n")
    print("| loop | batch | wall s | CPU s | images/s | passes/s | wall / glsmooth | CPU / glsmooth |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    least = [np.min(loop.costs, axis=0) for loop in loops]
    for loop, (wall, cpu) in zip(loops, least, strict=True):
        print(
            f"| {loop.name} | {loop.batch} | {wall:.2f} | {cpu:.2f} | {cfg.images / wall:.2f} | {passes / wall:,.0f} "
            f"| {wall / least[1][0]:.2f}× | {cpu / least[1][1]:.2f}× |"
        )
    mine = loops[1].found
    p_lower = [clopper_pearson_lower(found.count or 0, cfg.n, cfg.alpha) for found in mine]
    sure = [image for image in range(cfg.images) if p_lower[image] >= SURE]
    for loop in loops:
        for image in sure:
            check_same(f"{loop.name}, image {image}", mine[image], loop.found[image], cfg)
    if not sure:
        raise SystemExit(
            f"no image has p_A >= {SURE}: nothing says that the loops did the same work; try another seed="
        )
    shown = ", ".join(f"{mine[image].count} of {cfg.n} for class {mine[image].prediction}" for image in sure)
    print(
        f"\nVotes of glsmooth: {shown}. The others find the same classes, by votes that differ no more than by chance"
        + (f" ({cfg.images - len(sure)} image(s) with p_A < {SURE} not compared)." if len(sure) < cfg.images else "."),
        flush=True,
    )


def check_same(what: str, mine: Found, other: Found, cfg: DictConfig) -> None:
    """Raise SystemExit unless both may be of one classifier, which is sure of its class."""
    count = other.count
    if count is None:  # p_A < 1/2: at most so many
        count = max(k for k in range(cfg.n + 1) if clopper_pearson_lower(k, cfg.n, cfg.alpha) < 0.5)
    elif other.prediction != mine.prediction:
        raise SystemExit(f"{what}: class {other.prediction}, but {mine.prediction} for glsmooth")
    if stats.fisher_exact([[mine.count, cfg.n - mine.count], [count, cfg.n - count]]).pvalue < CHANCE:
        raise SystemExit(f"{what}: {count} of {cfg.n} votes, but {mine.count} for glsmooth: not the same classifier")


def main() -> None:
    cfg, device = begin(DEFAULTS)
    cfg.n = cfg.n or (10_000 if device.type == "cuda" else 400)
    keep_freed_memory()  # as glsmooth does in any case: the others have it from their first turn, too
    print(machine(device))
    problem = Problem(cfg, device)
    print(
        f"{cfg.network}, {cfg.images} images of {cfg.size}×{cfg.size}, n0 = {cfg.n0}, n = {cfg.n}, α = {cfg.alpha}; "
        f"least of {cfg.turns} turns"
    )
    still = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 1e-6)}, pixel_noise=cfg.noise)
    compare(
        problem,
        f"Pixel noise, σ = {cfg.noise}",
        [
            *ours(problem, still),
            *certify(problem, "CERTIFY, noise for a batch on the device", noise_on_device(problem)),
            *toolbox(problem),
        ],
    )
    laws = {"contrast": gs.LogNormal(0.0, cfg.scale), "brightness": gs.Normal(0.0, cfg.scale)}
    affine = gs.SmoothedFamily(gs.transforms.ContrastBrightness(), laws)
    one_by_one = certify(problem, "CERTIFY, one image at a time on the CPU", transformed_one_by_one(problem))
    compare(problem, f"Contrast and brightness, scale {cfg.scale}", [*ours(problem, affine), *one_by_one])


if __name__ == "__main__":
    main()
