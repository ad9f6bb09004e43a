"""Do the default settings find the speed that the machine has?

    python benchmarks/defaults.py [key=value ...]

For each network: the settings that ``batch_size=auto`` and the others choose, against an exhaustive search over batch
size, memory format and number of threads by the same batches of votes. At the end the choice, the best three of the
search, and a plain setting (batches of 256, contiguous, all threads) are measured in turns; the fastest turn of each
counts. ``compile`` is left out: it costs about a minute, and is tried in runs where that can pay back.

Keys and defaults are in ``DEFAULTS`` below.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch
from omegaconf import DictConfig

from common import begin, default_family, machine, untrained
from glsmooth.errors import OutOfMemory
from glsmooth.voting.classifier import BaseClassifier
from glsmooth.voting.engine import VoteEngine
from glsmooth.voting.procedures import FixedSample
from glsmooth.voting.speed import Speed
from glsmooth.voting.tuning import choose_speed

DEFAULTS = {
    "device": None,  # null: a GPU if there is one
    "threads": None,  # torch's threads on a CPU, at most
    # Network, image size, number of images of the run (it decides how long the search may take).
    "networks": [["cifar_resnet20", 32, 500], ["efficientnet_lite0", 224, 500], ["resnet50", 224, 500]],
    "transform": "contrast_brightness",
    "batches": [1, 2, 4, 8, 16, 32, 64, 128, 256],
    "gpu_batches": [32, 64, 128, 256, 512, 1024, 2048, 4096],
    "most": 4.0,  # seconds of one batch, above which larger ones are not tried
    "seconds": 0.3,  # of a measurement, at least
    "turns": 3,
}


class Network:
    """A network, an image, and how fast settings are."""

    def __init__(self, name: str, size: int, cfg: DictConfig, device: torch.device) -> None:
        torch.manual_seed(0)
        self.classifier = BaseClassifier(untrained(name, size), 10, device=device)
        self.family = default_family(cfg.transform, size)
        self.image = torch.rand(3, size, size)
        self.cfg = cfg

    def chosen(self, images: int) -> Any:
        return choose_speed(Speed(compile=False), self.classifier, self.family, FixedSample(), self.image, images)

    def rate(self, speed: Speed) -> float:
        """Evaluations a second, from draws to votes; 0 where they do not fit into memory."""
        size, device = int(speed.batch_size), self.classifier.device
        self.classifier.arrange(compile=False, channels_last=bool(speed.channels_last), threads=int(speed.threads))
        engine = VoteEngine(self.classifier, self.family, FixedSample(n0=1, n=2**40), batch_size=size)
        fastest, took = 0.0, 0.0
        before = torch.get_num_threads()
        if device.type == "cpu":
            torch.set_num_threads(int(speed.threads))
        try:
            engine.add(0, self.image)
            for number in itertools.count():
                start = time.perf_counter()
                engine.step()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - start
                if number:  # the first allocates
                    fastest, took = max(fastest, size / seconds), took + seconds
                if number >= 2 and took > self.cfg.seconds:
                    return fastest
        except OutOfMemory:
            return 0.0
        finally:
            torch.set_num_threads(before)
        return fastest


def compare(name: str, size: int, images: int, cfg: DictConfig, device: torch.device) -> str:
    """A row of the table."""
    all_threads = torch.get_num_threads()
    network = Network(name, size, cfg, device)
    chosen = network.chosen(images)
    with network.classifier.ready(network.image):
        rates: dict[Speed, float] = {}
        numbers = sorted({1, all_threads}) if device.type == "cpu" else [all_threads]
        for channels_last, threads in itertools.product((True, False), numbers):
            for batch in cfg.gpu_batches if device.type == "cuda" else cfg.batches:
                speed = Speed(batch, channels_last=channels_last, compile=False, threads=threads)
                rates[speed] = network.rate(speed)
                if not rates[speed] or batch / rates[speed] > cfg.most:
                    break
        plain = Speed(256, channels_last=False, compile=False, threads=all_threads)
        # By the search's own rates, so that the three that are measured again are those that it would take.
        finalists = sorted(rates, key=rates.__getitem__)[-3:]
        best = dict.fromkeys([chosen.speed, plain, *finalists], 0.0)
        for _ in range(cfg.turns):
            for speed in best:
                best[speed] = max(best[speed], network.rate(speed))
    top = max(finalists, key=best.__getitem__)
    return (
        f"| {name} {size} | {best[plain]:,.1f} | {chosen.speed.words(device.type)} | {chosen.seconds:.1f} "
        f"| {best[chosen.speed]:,.1f} | {top.words(device.type)} | {best[top]:,.1f} "
        f"| {best[chosen.speed] / best[top]:.2f} | {best[chosen.speed] / best[plain]:.1f} |"
    )


def main() -> None:
    cfg, device = begin(DEFAULTS)
    print(f"{machine(device)}\n")
    print(
        "| network | plain: 256, contiguous, all threads, passes/s | chosen | seconds of search | passes/s "
        "| best of all | passes/s | chosen over best | chosen over plain |"
    )
    print("|---|---:|---|---:|---:|---|---:|---:|---:|")
    for network in cfg.networks:
        print(compare(*network, cfg, device), flush=True)


if __name__ == "__main__":
    main()
