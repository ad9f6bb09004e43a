"""What training costs beyond the network.

    python benchmarks/training.py [key=value ...]

Keys and defaults are in ``DEFAULTS`` below. Training is the product's own, with Lightning's Trainer: images fetched,
augmented and transformed, the loss, the optimizer, the schedule, logging and the bar. The bare loop is the same network
with the same optimizer, precision, memory format and loss on one ready batch of all copies: forward, loss, backward and
step, with torch's fastest algorithms. Both run in turns in this process: training is held up in the middle of its epoch
for the bare loop's steps. Starting, validation and what is saved after an epoch do not count. The quieter half of the
turns does; on a CPU there is also the ratio of CPU time, which other programs disturb less.

The part ``precision`` compares precisions alone: steps of the bare loop and forward passes, in turns.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from omegaconf import DictConfig
from torch import nn

from common import begin, default_family, machine, untrained
from glsmooth.commands.train import make_training
from glsmooth.configuration.groups import member
from glsmooth.learning.data import Data, TensorImages
from glsmooth.learning.losses import training_loss
from glsmooth.learning.trainer import quieten_lightning
from glsmooth.learning.training import TrainingModule
from glsmooth.voting.classifier import PRECISIONS, BaseClassifier
from glsmooth.voting.memory import keep_freed_memory

DEFAULTS = {
    "parts": ["training", "precision"],
    "device": None,  # null: a GPU if there is one
    "threads": None,  # torch's threads on a CPU
    # Network, channels, image size, images a batch on a CPU (null: too slow there) and on a GPU; each has m = 2 copies.
    "networks": [["small_cnn", 1, 32, 64, 64], ["cifar_resnet20", 3, 32, 128, 128], ["resnet50", 3, 224, None, 64]],
    "precisions": ["32-true", "bf16-mixed"],
    "transform": "contrast_brightness",
    "turns": 20,
    "steps": 5,  # of each in a turn
    "gpu_steps": 50,
    "seed": 0,
}


class Turns(Callback):
    """Times the Trainer's steps and the bare loop's in turns.

    Args:
        steps: of each, in a turn.
        turns: after the first, which warms up.
        bare: makes so many steps of the bare loop.
        device: waited for.
    """

    def __init__(self, steps: int, turns: int, bare: Any, device: torch.device) -> None:
        self.steps, self.turns, self.bare, self.device = steps, turns, bare, device
        self.times: list[tuple[float, ...]] = []

    def now(self) -> np.ndarray:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return np.array([time.perf_counter(), time.process_time()])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bare(self.steps)
        self.began = self.now()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step % self.steps:
            return
        ended = self.now()
        self.bare(self.steps)
        again = self.now()
        self.times.append((*(ended - self.began), *(again - ended)))
        self.began = again

    def quiet(self) -> np.ndarray:
        """Seconds a step, in wall and CPU time, of training and of the bare loop."""
        times = np.array(self.times[1:])
        order = (times[:, 0] + times[:, 2]).argsort()
        return times[order[: (len(times) + 1) // 2]].mean(axis=0) / self.steps


def settings_of(cfg: DictConfig, device: torch.device, precision: str, batch_size: int) -> dict[str, Any]:
    """Those of train that matter here."""
    return {
        "trainer": {**member("trainer", "default"), "accelerator": "gpu" if device.type == "cuda" else "cpu"}
        | {"precision": precision, "limit_val_batches": 1},
        "loss": member("loss", "default"),
        "optimizer": {**member("optimizer", "cifar10"), "epochs": 1, "batch_size": batch_size},
        "seed": cfg.seed,
    }


def bare_loop(model: nn.Module, settings: dict[str, Any], images: torch.Tensor, labels: torch.Tensor) -> Any:
    """Steps of the network alone on one batch that is ready on its device."""
    loss, chosen = settings["loss"], settings["optimizer"]
    dtype = PRECISIONS[settings["trainer"]["precision"]]
    options = {key: chosen[key] for key in ("lr", "momentum", "weight_decay", "nesterov")}
    optimizer = torch.optim.SGD(model.parameters(), **options)

    def steps(number: int) -> None:
        torch.use_deterministic_algorithms(False)
        for _ in range(number):
            optimizer.zero_grad()
            with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
                logits = model(images).unflatten(0, (loss["copies"], -1))
                terms = training_loss(logits, labels, loss["consistency"], loss["entropy"])
            terms.total.backward()
            optimizer.step()
        torch.use_deterministic_algorithms(True, warn_only=True)  # as the product's steps ask for

    return steps


def measure(
    cfg: DictConfig, device: torch.device, name: str, channels: int, size: int, batch_size: int, precision: str
) -> np.ndarray:
    """Seconds a step, in wall and CPU time, of training and of the bare loop."""
    settings = settings_of(cfg, device, precision, batch_size)
    seed_everything(cfg.seed, verbose=False)
    steps = cfg.gpu_steps if device.type == "cuda" else cfg.steps
    number = batch_size * steps * (cfg.turns + 1)
    pixels = torch.randint(256, (number, channels, size, size), dtype=torch.uint8)
    images = TensorImages(pixels, torch.randint(10, (number,)))
    few = TensorImages(pixels[:batch_size], images.labels[:batch_size])
    data = Data(
        "cifar10",
        tuple(map(str, range(10))),
        (size, size),
        (0.5,) * channels,
        (0.25,) * channels,
        {"train": lambda: images, "val": lambda: few},
        crop_padding=4,
        flip=True,
    )
    family = default_family(cfg.transform, size)
    module = TrainingModule(
        untrained(name, size, channels=channels), family, data, settings["loss"], settings["optimizer"], cfg.seed, {}
    )
    copies = settings["loss"]["copies"]
    ready = torch.rand(copies * batch_size, channels, size, size, device=device)
    bare = bare_loop(
        untrained(name, size, channels=channels).to(device, memory_format=torch.channels_last),
        settings,
        ready.contiguous(memory_format=torch.channels_last),
        torch.randint(10, (batch_size,), device=device),
    )
    turns = Turns(steps, cfg.turns, bare, device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_training(settings, Path(folder), None)
        trainer.callbacks.append(turns)
        trainer.fit(module)
    return turns.quiet()


def training(cfg: DictConfig, device: torch.device) -> None:
    """Print a table of ratios: training over the bare loop."""
    cpu = device.type == "cpu"
    more = " ratio of CPU time | training, images/CPU s |" * cpu
    print(f"\n| network | precision | bare loop, images/s | training, images/s | ratio |{more}")
    print("|---|---|---:|---:|---:|" + "---:|---:|" * cpu)
    for name, channels, size, batch_size in batches(cfg, device):
        for precision in cfg.precisions:
            wall, cpu_time, bare_wall, bare_cpu = measure(cfg, device, name, channels, size, batch_size, precision)
            print(
                f"| {name} {channels}×{size}×{size}, {batch_size} images, 2 copies | {precision} "
                f"| {batch_size / bare_wall:,.1f} | {batch_size / wall:,.1f} | {bare_wall / wall:.3f} |"
                + (f" {bare_cpu / cpu_time:.3f} | {batch_size / cpu_time:,.1f} |" if cpu else ""),
                flush=True,
            )


def precision(cfg: DictConfig, device: torch.device) -> None:
    """Print how much faster every precision is than the first, in CPU time on a CPU: medians of the turns' ratios."""
    if device.type == "cpu":
        keep_freed_memory()  # as training and certification do
    number = cfg.gpu_steps if device.type == "cuda" else 1
    print(f"\n| network | precision | training over {cfg.precisions[0]} | evaluation over {cfg.precisions[0]} |")
    print("|---|---|---:|---:|")
    for name, channels, size, batch_size in batches(cfg, device):
        works: list[tuple[Any, Any]] = []
        for chosen in cfg.precisions:
            settings = settings_of(cfg, device, chosen, batch_size)
            copies = settings["loss"]["copies"]
            images = torch.rand(copies * batch_size, channels, size, size, device=device)
            images = images.contiguous(memory_format=torch.channels_last)
            labels = torch.randint(10, (batch_size,), device=device)
            model = untrained(name, size, channels=channels).to(device, memory_format=torch.channels_last)
            classifier = BaseClassifier(
                untrained(name, size, channels=channels).eval(), 10, device=device, precision=chosen, channels_last=True
            )
            works.append((bare_loop(model, settings, images, labels), forward(classifier, images)))
        turns = []
        for _ in range(cfg.turns + 1):
            turns.append([[seconds(work, number, device) for work in pair] for pair in works])
        times = np.array(turns[1:])
        for chosen, gains in zip(cfg.precisions, np.median(times[:, :1] / times, axis=0), strict=True):
            print(f"| {name} {channels}×{size}×{size} | {chosen} | {gains[0]:.2f}× | {gains[1]:.2f}× |", flush=True)


def forward(classifier: BaseClassifier, images: torch.Tensor) -> Any:
    """Passes of the network alone on one batch."""

    @torch.inference_mode()
    def passes(number: int) -> None:
        for _ in range(number):
            classifier(images)

    return passes


def seconds(work: Any, number: int, device: torch.device) -> float:
    """Of CPU time on a CPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    work(number)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def batches(cfg: DictConfig, device: torch.device) -> list[tuple[str, int, int, int]]:
    """Network, channels, image size and images a batch on this device."""
    chosen = [(*rest, cpu if device.type == "cpu" else gpu) for *rest, cpu, gpu in cfg.networks]
    return [batch for batch in chosen if batch[-1] is not None]


def main() -> None:
    cfg, device = begin(DEFAULTS)
    print(f"{machine(device)}, seed {cfg.seed}")
    quieten_lightning()
    if "training" in cfg.parts:
        training(cfg, device)
    if "precision" in cfg.parts:
        precision(cfg, device)


if __name__ == "__main__":
    main()
