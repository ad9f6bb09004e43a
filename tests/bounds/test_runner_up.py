"""The multi-class comparison: never looser than the binary one, and sound against sampled worst-case sets."""

import numpy as np
import pytest
import torch

import glsmooth as gs
from glsmooth.bounds import certifies_runner_up

from ..densities import log_ratio
from .families import ROWS, TORUS, N, T, family

SHIFT = family(T.Brightness(), brightness=N(0, 0.3))
CASES = [
    (SHIFT, gs.Box(brightness=(-0.2, 0.2))),
    (ROWS[0].family, gs.Box(contrast=(0.8, 1.25), brightness=(-0.1, 0.1))),
    (ROWS[1].family, gs.Box(gamma=(0.9, 1.1), contrast=(0.9, 1.1))),
    TORUS["torus 32, skewed"],
]


@pytest.mark.parametrize(("f", "region"), CASES)
def test_with_all_the_rest_as_runner_up_it_is_the_binary_comparison(f, region):
    h = gs.required_probability(f, region)
    for p in (h - 0.01, h - 1e-5, h + 1e-5, (1 + h) / 2):
        assert certifies_runner_up(f, region, p, 1 - p) == (p > h)
        assert certifies_runner_up(f, region, p, 1.0) == (p > h)  # a useless upper bound never harms


def test_normal_shift_closed_form():
    """Cohen et al.: certified iff Φ⁻¹(p_A) - Φ⁻¹(p_B) > 2δ."""
    from scipy.stats import norm

    for p_a, p_b in ((0.6, 0.1), (0.45, 0.2), (0.7, 0.29)):
        delta = (norm.ppf(p_a) - norm.ppf(p_b)) / 2
        for factor, expected in ((0.99, True), (1.01, False)):
            b = 0.3 * delta * factor
            assert certifies_runner_up(SHIFT, gs.Box(brightness=(-b, b)), p_a, p_b) == expected


@pytest.mark.parametrize(("f", "region"), CASES[:3])
def test_sound_and_tight_against_sampled_sets(f, region):
    """The worst pair of classes: the lowest ratios for c, the highest for the runner-up, counted over draws of γ."""
    n = 200_000
    generator = torch.Generator().manual_seed(0)
    beta_map = gs.bounds.certify_region(f, region).worst
    beta = f.transform.vector(beta_map)
    at_clean = np.sort(log_ratio(f, f.sample(n, generator), beta).numpy())
    at_moved = log_ratio(f, f.transform.resolve(f.sample(n, generator), beta), beta).numpy()
    verdicts = set()
    for p_a, p_b in ((0.5, 0.02), (0.5, 0.1), (0.5, 0.2), (0.55, 0.3), (0.5, 0.45)):
        first = float((at_moved <= at_clean[int(p_a * n)]).mean())
        second = float((at_moved >= at_clean[int((1 - p_b) * n)]).mean())
        certified = certifies_runner_up(f, region, p_a, p_b)
        verdicts.add(certified)
        slack = 6 / np.sqrt(n)  # both counts and both thresholds, at more than four standard errors
        if first < second - slack:
            assert not certified
        if first > second + slack:
            assert certified
    assert verdicts == {True, False}


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="p_upper"):
        certifies_runner_up(SHIFT, gs.Box(brightness=(0, 0.1)), 0.5, 1.5)
