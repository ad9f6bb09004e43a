"""Votes in float32 against float64: how much of a certificate hangs on rounding?

    python benchmarks/float64.py 'checkpoints=[PATH,...]' [key=value ...]

Keys and defaults are in ``DEFAULTS`` below. The same draws of the same test images are transformed and classified in
float64, in float32, and in float32 with the autocast that the network was trained with, which is another base
classifier. A vote that differs from the one in float64 was turned over by rounding; ``near_ties`` are the votes in
float32 of which the engine says that rounding could have. Certificates are those of the checkpoint's region, by
Neyman-Pearson and the counts of all draws.
"""

from __future__ import annotations

import torch
from omegaconf import DictConfig
from torch import Tensor

from common import begin, machine
from glsmooth.bounds import required_probability
from glsmooth.bounds.confidence import clopper_pearson_lower
from glsmooth.configuration.build import build_region
from glsmooth.learning.checkpoint import load_checkpoint
from glsmooth.learning.data import certification_images, load_dataset
from glsmooth.voting.draws import Stream, pixel_normals, uniforms
from glsmooth.voting.engine import NEAR_TIE_EPSILONS, cast_votes

DEFAULTS = {
    "checkpoints": None,
    "device": None,  # null: a GPU if there is one
    "threads": None,  # torch's threads on a CPU
    "images": 100,
    "n": 500,
    "alpha": 0.001,
    "batch_size": 250,
    "seed": 0,
}


@torch.inference_mode()
def compare(cfg: DictConfig, path: str, device: torch.device) -> list[str]:
    """A row of the table."""
    checkpoint = load_checkpoint(path)
    family = checkpoint.build_family()
    h_min = required_probability(family, build_region(checkpoint.region, family.transform))
    chosen = certification_images(load_dataset(checkpoint.dataset), cfg.images, cfg.seed)
    single = checkpoint.build_model().to(device, memory_format=torch.channels_last)
    double = checkpoint.build_model().to(device, torch.float64)
    autocast = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(checkpoint.precision)

    def votes(image: Tensor, theta: Tensor, noise: Tensor, kind: str) -> Tensor:
        """2 · class + near tie, of each draw."""
        dtype = torch.float64 if kind == "float64" else torch.float32
        network = double if kind == "float64" else single
        found = []
        for some, added in zip(theta.split(cfg.batch_size), noise.split(cfg.batch_size), strict=True):
            images = family.transform.apply(image.to(dtype).expand(len(some), *image.shape), some)
            images = images + family.pixel_noise * added.to(dtype)
            with torch.autocast(device.type, autocast, enabled=kind == "autocast" and autocast is not None):
                logits = network(images)
            logits = logits.double() if kind == "float64" else logits.float()
            found.append(cast_votes(logits, "argmax", NEAR_TIE_EPSILONS * torch.finfo(dtype).eps))
        return torch.cat(found)

    draws = changed = near = unseen = cast_changed = counts = certificates = certified = 0
    for i in range(len(chosen)):
        image = chosen[i][0].to(device)
        u, keys = uniforms(cfg.seed, i, Stream.COUNTING, 0, cfg.n, len(family.parameters))
        theta = family.draw(torch.from_numpy(u)).to(device)
        shape = (image.shape[0], image.shape[1], image.shape[2])
        noise = pixel_normals(torch.from_numpy(keys).to(device), shape)
        truth, rounded, cast = (votes(image, theta, noise, kind) for kind in ("float64", "float32", "autocast"))
        flips, ties = (truth // 2) != (rounded // 2), (rounded % 2).bool()
        draws += cfg.n
        changed, near, unseen = changed + int(flips.sum()), near + int(ties.sum()), unseen + int((flips & ~ties).sum())
        cast_changed += int(((truth // 2) != (cast // 2)).sum())
        counted = [int((v // 2).bincount().max()) for v in (truth, rounded)]
        counts += counted[0] != counted[1]
        passed = [clopper_pearson_lower(count, cfg.n, cfg.alpha) > h_min for count in counted]
        certificates, certified = certificates + (passed[0] != passed[1]), certified + passed[0]
    words = f"{family.transform.name}, {checkpoint.model['name']}"
    numbers = (
        draws,
        changed,
        near,
        unseen,
        counts,
        f"{certificates} of {certified}",
        cast_changed if autocast else "–",
    )
    return [words, *(f"{n:,}" if isinstance(n, int) else n for n in numbers)]


def main() -> None:
    """Print a table: a row a network."""
    cfg, device = begin(DEFAULTS)
    print(machine(device))
    heading = ("network", "votes", "differ in float32", "near ties", "differ, not near", "counts", "certificates")
    print(f"| {' | '.join(heading)} | differ as trained |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for path in cfg.checkpoints or ():
        print(f"| {' | '.join(compare(cfg, path, device))} |", flush=True)


if __name__ == "__main__":
    main()
