"""The fast form of ``python -m tests.calibration``; and that it notices a procedure that is not of its level."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import glsmooth as gs
from glsmooth.bounds.neyman_pearson import cyclic_masses

from . import calibration

IMAGES = 1000


@pytest.mark.parametrize("name", calibration.CASES)
def test_false_certificates_are_as_rare_as_promised(name):
    assert calibration.share(calibration.CASES[name], IMAGES) <= calibration.allowed(IMAGES)


def test_votes_that_are_used_twice_are_noticed(monkeypatch):
    """Clopper and Pearson's bound at three times the level stands for whatever spends too much."""
    monkeypatch.setattr(calibration, "ALPHA", 0.15)
    found = calibration.share(replace(calibration.CASES["fixed n"]), IMAGES)
    monkeypatch.setattr(calibration, "ALPHA", 0.05)
    assert found > calibration.allowed(IMAGES)


class Among(nn.Module):
    """Class 0 where the brightest column is among some, else 1."""

    def __init__(self, columns):
        super().__init__()
        self.register_buffer("columns", columns)

    def forward(self, images):
        among = self.columns[images[:, 0, 0].argmax(dim=1)]
        return torch.stack((among, 1 - among), dim=1).float()


def test_exhaustive_certificates_are_never_false():
    """A set of columns is a classifier, of which the truth is a sum of eight numbers."""
    width, region, law = 8, gs.Box(tx=(-1, 1)), gs.Normal(0.0, 1.6)
    family = gs.SmoothedFamily(gs.transforms.Translation(), {"tx": law, "ty": law}, (1, width))
    masses = cyclic_masses(law, width)
    image = torch.zeros(1, 1, 1, width)
    image[..., 0] = 1
    certified = 0
    for bits in range(1, 2**width - 1, 9):
        columns = torch.tensor([bits >> i & 1 for i in range(width)])
        (result,) = gs.SmoothedClassifier(Among(columns), family, 2).certify_many(image, region, exhaustive=True)
        kept = columns if result.prediction == 0 else 1 - columns
        truth = min(float(masses @ np.roll(kept.numpy(), -shift)) for shift in (-1, 0, 1))
        assert truth > 0.5 or not result.certified, bits
        certified += result.certified
    assert certified > 3
