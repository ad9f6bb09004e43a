"""Images that residual bounds are tried with, and torch's own warps of them."""

import io
import os
import tarfile
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "cifar10.tar.gz"


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def checkerboard(size):
    return ((torch.arange(size)[:, None] + torch.arange(size)) % 2).double().expand(1, 1, size, size)


def spike(size, row, column):
    image = torch.zeros(1, 1, size, size, dtype=torch.float64)
    image[..., row, column] = 1
    return image


def files():
    """CIFAR-10's images where they are on this machine, some of its classes, and elsewhere nothing.

    In the folder CIFAR10_IMAGES, of JPEG files, or in an archive of them in shared/data beside the checkout.
    """
    if "CIFAR10_IMAGES" in os.environ:
        for path in sorted(Path(os.environ["CIFAR10_IMAGES"]).rglob("*.jpg"))[3::5000]:
            yield path.read_bytes()
    elif ARCHIVE.is_file():
        with tarfile.open(ARCHIVE, "r|gz") as archive:
            for member in archive:
                if member.name.endswith("5.jpg"):
                    yield archive.extractfile(member).read()


@lru_cache(maxsize=1)
def cifar(count):
    """Images of CIFAR-10, (1, 3, 32, 32) of float32; none where there are no files."""
    return [as_image(np.asarray(Image.open(io.BytesIO(data))) / 255) for data in islice(files(), count)]


def digit(index):
    """A handwritten digit of scikit-learn's, (1, 1, 8, 8)."""
    return torch.from_numpy(load_digits().images[index] / 16).float()[None, None]


def photograph(index, size=32):
    """A photograph of scikit-learn's two, (1, 3, size, size)."""
    image = as_image(load_sample_images().images[index][:416, :416] / 255)
    return F.interpolate(image, size=(size, size), mode="area")


def as_image(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def by_torch(threat, images, beta):
    """The warp by affine_grid and grid_sample, all of it in the images' dtype."""
    if threat.name == "rotation":
        angle = torch.deg2rad(beta)
        cos, sin = angle.cos(), angle.sin()
    else:
        cos, sin = 1 / beta, torch.zeros_like(beta)
    height, width = images.shape[2:]
    rows = torch.stack((cos, -sin * height / width, 0 * cos, sin * width / height, cos, 0 * cos), dim=-1)
    grid = F.affine_grid(rows.view(-1, 2, 3).to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False) * threat.kept(height, width)


def largest(threat, image, reference, low, high, n, seed=0):
    """Largest distance at ``n`` random parameters and both ends."""
    beta = low + (high - low) * noise(n, seed=seed)
    beta[:2] = torch.tensor([low, high])
    found = [
        (by_torch(threat, image.expand(len(part), -1, -1, -1), part) - reference).double().flatten(1).norm(dim=1).max()
        for part in beta.split(500)
    ]
    return float(torch.stack(found).max())
