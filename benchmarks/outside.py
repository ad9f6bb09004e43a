"""What becomes of trained networks where the theorem ends: transformed images that are clipped, or rounded to 8 bits.

    python benchmarks/outside.py 'checkpoints=[PATH,...]' [key=value ...]

Keys and defaults are in ``DEFAULTS`` below. No smoothing: the base classifier alone, on test images that are
transformed by parameters of the checkpoint's region: as they are, clipped to [0, 1], and rounded to 8 bits (and so
clipped, too). The parameters are the corners of the region and as many at random as make up ``draws``, the same for all
images and networks of one region. "On average" is over images and parameters; "at the worst" counts images that are
classified rightly under every parameter tried: an upper bound of the robust accuracy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from omegaconf import DictConfig
from torch import Tensor

from common import begin, machine
from glsmooth.configuration.build import build_region
from glsmooth.family.regions import Box
from glsmooth.learning.checkpoint import load_checkpoint
from glsmooth.learning.data import certification_images, load_dataset
from glsmooth.transforms import ResolvableTransform

DEFAULTS = {
    "checkpoints": None,
    "device": None,  # null: a GPU if there is one
    "threads": None,  # torch's threads on a CPU
    "images": 500,
    "draws": 20,
    "batch_size": 500,
    "seed": 0,
}

TREATMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda images: images,
    "clipped": lambda images: images.clamp(0, 1),
    "8 bits": lambda images: (images.clamp(0, 1) * 255).round() / 255,
}


def parameters(transform: ResolvableTransform, region: Box, draws: int, seed: int) -> Tensor:
    """Corners of the region first, then random parameters inside it: (draws, d)."""
    ends = [
        region.intervals.get(name, (v, v))
        for name, v in zip(transform.parameters, transform.identity.tolist(), strict=True)
    ]
    corners = torch.tensor(list(itertools.product(*map(dict.fromkeys, ends))), dtype=torch.float64)[:draws]
    low, high = torch.tensor(ends, dtype=torch.float64).T
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(draws - len(corners), len(ends), dtype=torch.float64, generator=generator)
    theta = torch.cat((corners, low + share * (high - low)))
    for i, name in enumerate(transform.parameters):
        if name in transform.integer_parameters:
            theta[:, i] = theta[:, i].round().clamp(low[i].ceil(), high[i].floor())
    return theta


@torch.inference_mode()
def rights(cfg: DictConfig, path: str, device: torch.device) -> tuple[str, Tensor, dict[str, Tensor]]:
    """What the network is, and whether it is right: of plain images (N,), and under each treatment (draws, N)."""
    checkpoint = load_checkpoint(path)
    transform = checkpoint.build_family().transform
    region = build_region(checkpoint.region, transform)
    chosen = certification_images(load_dataset(checkpoint.dataset), cfg.images, cfg.seed)
    images, labels = zip(*(chosen[i][:2] for i in range(len(chosen))), strict=True)
    images, truth = torch.stack(images).to(device), torch.tensor(labels, device=device)
    network = checkpoint.build_model().to(device, memory_format=torch.channels_last)

    def right(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=checkpoint.precision == "bf16-mixed"):
            logits = torch.cat([network(batch) for batch in images.split(cfg.batch_size)])
        return logits.argmax(1) == truth

    found: dict[str, list[Tensor]] = {name: [] for name in TREATMENTS}
    for theta in parameters(transform, region, cfg.draws, cfg.seed):
        changed = transform.apply(images, theta.expand(len(images), -1))
        for name, treat in TREATMENTS.items():
            found[name].append(right(treat(changed)))
    form = checkpoint.model.get("canonical")
    words = f"{transform.name}, {checkpoint.model['name']}" + (f" on canonical forms of {form}" if form else "")
    return words, right(images), {name: torch.stack(rows) for name, rows in found.items()}


def main() -> None:
    """Print a table: a row a network."""
    cfg, device = begin(DEFAULTS)
    print(machine(device))
    heads = [f"{name}, {how}" for name in TREATMENTS for how in ("on average", "at the worst")]
    print(f"\n| network | untransformed | {' | '.join(heads)} |")
    print("|---|" + "---:|" * (1 + len(heads)))
    for path in cfg.checkpoints:
        words, plain, found = rights(cfg, path, device)
        cells = [plain.float().mean()]
        for each in found.values():
            cells += [each.float().mean(), each.all(0).float().mean()]
        print(f"| {words} | " + " | ".join(f"{100 * cell.item():.1f} %" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
