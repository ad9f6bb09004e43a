"""Can a certificate be false? The worst base classifiers are built, and their smoothed probability is *sampled*.

For a parameter β the worst classifier is a threshold on the likelihood ratio. It is scaled to a level just above the
required probability, and its probability at β is counted over draws of γ(α, β); no density enters that count. A
sound certificate leaves it above 1/2. Levels and counts carry confidence bounds, so that a sound method fails with a
probability below 1e-6 a case, and a method that is off by a hundredth does fail.
"""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_law

import glsmooth as gs
from glsmooth.bounds import METHODS
from glsmooth.bounds.neyman_pearson import cyclic_masses

from .families import OTHERS, ROWS, TORUS

CASES = {**{row.name: (row.family, row.region) for row in ROWS}, **OTHERS, **TORUS}
DRAWS = 200_000
RISK = 1e-7


def score(family, theta, beta):
    """Any function of θ may serve; the likelihood ratio at β makes the worst classifier."""
    if not family.torus:
        return family.log_ratio(theta, beta)
    total = torch.zeros(len(theta), dtype=torch.float64)
    for i, name in enumerate(family.parameters):
        size = family.torus[name]
        masses = cyclic_masses(family.laws[name], size)
        table = torch.from_numpy(np.log(np.roll(masses, int(beta[i]))) - np.log(masses))
        total += table[torch.floor(theta[:, i] + 0.5).long() % size]
    return total


def random_parameters(family, region, generator, count=3):
    """Corners and random points of a box."""
    identity = dict(zip(family.parameters, family.transform.identity.tolist(), strict=True))
    points = []
    for k in range(2 + count):
        point = dict(identity)
        for name, (low, high) in region.intervals.items():
            u = float(k) if k < 2 else float(torch.rand((), generator=generator))
            point[name] = low + u * (high - low)
            if name in family.torus:
                point[name] = float(round(point[name]))
        points.append(point)
    return points


@lru_cache(maxsize=200)
def sampled_scores(family, point):
    """Sorted scores of draws of α (twice, independent) and of γ(α, β): thresholds and their counts."""
    generator = torch.Generator().manual_seed(0)
    beta = family.transform.vector(dict(point))
    results = []
    for move in (False, False, True):
        theta = family.sample(DRAWS, generator)
        if move:
            theta = family.transform.resolve(theta, beta)
        # Ties are broken at random: a randomised threshold is a classifier too.
        noise = 1e-9 * torch.rand(DRAWS, generator=generator, dtype=torch.float64)
        results.append(np.sort((score(family, theta, beta) + noise).numpy()))
    return results


def violations(family, h_min, betas):
    """β at which some classifier has h(β₀) > h_min and h(β) < 1/2, both beyond doubt."""
    found = []
    for point in betas:
        chosen, fresh, moved = sampled_scores(family, tuple(sorted(point.items())))
        for level in (h_min + 0.012, (h_min + 1) / 2, 0.999):
            if not h_min < level < 1:
                continue
            threshold = chosen[min(DRAWS - 1, math.ceil(level * DRAWS))]
            # The threshold was chosen on some draws; its level is counted on others.
            inside = int(np.searchsorted(fresh, threshold, side="right"))
            kept = int(np.searchsorted(moved, threshold, side="right"))
            lower = beta_law.ppf(RISK, inside, DRAWS - inside + 1)
            upper = beta_law.ppf(1 - RISK, kept + 1, DRAWS - kept)
            if lower > h_min and upper < 0.5:
                found.append((point, level, kept / DRAWS))
    return found


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.sound])
@pytest.mark.parametrize("case", CASES)
def test_no_certificate_is_false(case, method):
    family, region = CASES[case]
    try:
        bound = gs.bounds.certify_region(family, region, method)
    except gs.NotApplicable:
        pytest.skip(f"{method} does not apply to {case}")
    h_min, worst = bound.h_min, bound.worst
    assert 0.5 <= h_min <= 1
    if h_min == 1:
        return
    betas = random_parameters(family, region, torch.Generator().manual_seed(1), count=1)
    assert not violations(family, h_min, [*betas, worst])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_printed_procedure_fails_this_test(row):
    bound = gs.bounds.certify_region(row.family, row.region, "gl_printed")
    assert not bound.sound
    assert violations(row.family, bound.h_min, [row.worst])


@pytest.mark.parametrize("case", CASES)
def test_neyman_pearson_cannot_be_lowered(case):
    """At three hundredths below the required probability some classifier does change: the bound is tight."""
    family, region = CASES[case]
    bound = gs.bounds.certify_region(family, region)
    if not 0.54 < bound.h_min < 1:
        pytest.skip("no room below the bound")
    assert violations(family, bound.h_min - 0.03, [bound.worst])


def test_the_half_line_of_the_erratum():
    """Brightness N(0, 0.3²), |b| <= 0.4: h_min = Φ(4/3), the printed procedure asks for Φ(2/3)."""
    family, region = CASES["brightness"]
    assert gs.required_probability(family, region) == pytest.approx(0.9087888, abs=1e-6)
    printed = gs.required_probability(family, region, "gl_printed")
    assert printed == pytest.approx(0.7475, abs=1e-3)
    # The half-line with h(0) = 0.75 has h(0.4) = Φ(Φ⁻¹(0.75) - 4/3) = 0.255.
    draws = family.sample(100_000, torch.Generator().manual_seed(0))[:, 0]
    edge = torch.quantile(draws, 0.75)
    assert float((draws <= edge).double().mean()) > printed
    assert float((draws + 0.4 <= edge).double().mean()) == pytest.approx(0.255, abs=4 * 0.5 / math.sqrt(100_000))
