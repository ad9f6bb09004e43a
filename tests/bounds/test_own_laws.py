"""Laws of the caller's own: certified by what they say of themselves, refused where more would have to be known."""

import math

import numpy as np
import pytest
import torch

import glsmooth as gs


class Laplace(gs.laws.Law):
    fields = ("scale",)
    log_concave = True
    interval = (-math.inf, math.inf)
    mode_point = symmetric_about = 0.0

    def __init__(self, scale):
        super().__init__(scale=scale)

    def _log_density(self, x):
        return -x.abs() / self._scale - math.log(2 * self._scale)

    def cdf(self, value):
        tail = 0.5 * torch.exp(-value.abs() / self._scale)
        return torch.where(value < 0, tail, 1 - tail)

    def survival(self, value):
        return self.cdf(-value)

    def icdf(self, value):
        return -self._scale * torch.sign(value - 0.5) * torch.log1p(-2 * (value - 0.5).abs())


def test_a_log_concave_law_shifts_by_its_own_word():
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": Laplace(0.3)})
    bound = gs.bounds.certify_region(family, gs.Box(brightness=(-0.05, 0.1)))
    assert bound.h_min == pytest.approx(1 - 0.5 * np.exp(-1 / 3), abs=1e-12)
    assert bound.argument.endswith("by what Laplace says of its own shape")


def test_a_law_whose_moves_are_not_known_is_refused_beside_a_contrast():
    laws = {"contrast": gs.LogNormal(0.0, 0.3), "brightness": Laplace(0.3)}
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness(), laws)
    with pytest.raises(gs.NotApplicable, match=r"no bound knows how Laplace\(0.3\) moves"):
        gs.required_probability(family, gs.Box(contrast=(0.9, 1.1), brightness=(-0.1, 0.1)))
