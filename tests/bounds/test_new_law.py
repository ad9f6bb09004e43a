"""A law that the package does not have, written as one class: what it says of itself is all that bounds need."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import expit

import glsmooth as gs
from glsmooth.laws import LAWS
from glsmooth.laws.moves import Move, slip_of
from tests.bounds import test_moves
from tests.densities import log_ratio
from tests.laws import test_laws


class Logistic(gs.laws.Law):
    """Logistic law about 0: P(X <= x) = 1 / (1 + e^(-x/scale))."""

    fields = ("scale",)
    log_concave = True
    shifts_smoothly = True
    rescales_smoothly = True
    interval = (-math.inf, math.inf)
    mode_point = symmetric_about = 0.0

    def __init__(self, scale):
        super().__init__(scale=scale)

    @property
    def mean(self):
        return torch.tensor(0.0, dtype=torch.float64)

    @property
    def bend(self):
        return 2 / (3 * math.sqrt(3)) / self.scale**2  # τ′ is extreme where the distribution function is (3 ± √3)/6

    @property
    def scale_speed(self):
        z = 1.5434046384182085  # z tanh(z/2) = 1
        return 2 * z * math.exp(-z) / (1 + math.exp(-z)) ** 2

    @property
    def shifts(self):
        return Shifted(self.scale, slip=slip_of(self.bend))

    def slope(self, x):
        return -torch.tanh(x / (2 * self.scale)) / self.scale

    def score_turns(self, a, b):
        return [] if b == 0 else None

    def _log_density(self, x):
        z = x.abs() / self.scale
        return -z - 2 * torch.log1p(torch.exp(-z)) - math.log(self.scale)

    def cdf(self, value):
        return torch.special.expit(value / self.scale)

    def survival(self, value):
        return torch.special.expit(-value / self.scale)

    def icdf(self, value):
        return self.scale * (torch.log(value) - torch.log1p(-value))


@dataclass(frozen=True)
class Shifted(Move):
    """L = d + 2 log((1 + e^-z) / (1 + e^(d-z))) rises with z from -d to d; sizes d in units of the scale."""

    scale: float

    def below(self, t, size):
        d = size / self.scale
        with np.errstate(divide="ignore"):
            z = np.log(np.expm1(np.maximum(t + d, 0.0) / 2)) - np.log(-np.expm1(np.minimum(t - d, 0.0) / 2))
        return expit(z), expit(z - d)


LAW = Logistic(0.4)
SHIFTED = {"brightness": LAW}


def test_it_is_what_it_says():
    reference = scipy.stats.logistic(scale=0.4)
    test_laws.test_agrees_with_scipy(LAW, reference)
    test_laws.test_peaks_and_shape_facts(LAW, reference)
    test_laws.test_shape_facts_match_the_density(LAW)


@pytest.mark.parametrize("forward", [True, False])
def test_its_moves_are_what_they_say(forward):
    case = (LAW, False, forward)
    test_moves.test_the_ratio_has_the_stated_law(case)
    test_moves.test_no_move_is_easier_to_tell_apart_than_its_chord(case)
    test_moves.test_larger_moves_are_easier_to_tell_apart_where_it_is_said(case)
    test_moves.test_slips_are_what_a_short_chord_misses(LAW, False)


@pytest.mark.parametrize("method", ["neyman_pearson", "gl", "gl_ode"])
def test_its_shifts_are_certified(method):
    """Darker than b, the median of α + b, had the probability 1 / (1 + e^(-b/scale)): the end farther out counts."""
    family = gs.SmoothedFamily(gs.transforms.Brightness(), SHIFTED)
    bound = gs.bounds.certify_region(family, gs.Box(brightness=(-0.3, 0.1)), method)
    assert bound.sound
    # GL's tables of levels and of the score's cells cost a little.
    assert expit(0.75) - 1e-12 <= bound.h_min < expit(0.75) + (1e-12 if method == "neyman_pearson" else 1e-4)


def simulated(family, beta, n=1_000_000):
    """h_min from draws, and five of its standard deviations."""
    generator = torch.Generator().manual_seed(0)
    vector = family.transform.vector(beta)
    alpha = family.sample(n, generator)
    under_0 = log_ratio(family, alpha, vector)
    moved = family.transform.resolve(family.sample(n, generator), vector.expand_as(alpha))
    t = log_ratio(family, moved, vector).median()
    # The threshold's own error, a share √(1/4n) of μ_β, is one of e^-t times as much under μ_β₀.
    h = float((under_0 <= t).double().mean())
    return h, 5 * math.sqrt((h * (1 - h) + 0.25 * math.exp(-2 * float(t))) / n)


@pytest.mark.parametrize("order", ["contrast_first", "brightness_first"])
def test_it_stands_beside_a_contrast(order):
    laws = {"contrast": gs.LogNormal(0.0, 0.5), **SHIFTED}
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness(order), laws)
    for beta in ({"contrast": 0.8, "brightness": 0.2}, {"contrast": 1.1, "brightness": -0.3}):
        h = gs.required_probability(family, gs.Points([beta]))
        expected, error = simulated(family, beta)
        assert expected - error < h < expected + error + 1e-3  # cells round upwards
        assert error < 5e-3


def test_a_law_of_glsmooths_own_is_covered_between_the_ends(monkeypatch):
    """What is entered in the list of laws is taken by its word for pairs of parameters as well."""
    laws = {"contrast": gs.LogNormal(0.0, 0.5), **SHIFTED}
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness(), laws)
    box = gs.Box(contrast=(0.8, 1.2), brightness=(-0.2, 0.1))
    with pytest.raises(gs.NotApplicable, match="is a law of your own"):
        gs.required_probability(family, box)
    monkeypatch.setitem(LAWS, "Logistic", Logistic)
    h = gs.required_probability(family, box)
    rng = np.random.default_rng(0)
    inside = [{"contrast": rng.uniform(0.8, 1.2), "brightness": rng.uniform(-0.2, 0.1)} for _ in range(10)]
    corners = [{"contrast": c, "brightness": -0.2} for c in (0.8, 1.2)]
    found = [gs.tradeoff(family, beta).inverse(0.5) for beta in (*inside, *corners)]
    assert max(found) <= h < max(found) + 1e-5


def test_it_shifts_a_torus():
    laws = {"tx": Logistic(2.0), "ty": Logistic(2.0)}
    family = gs.SmoothedFamily(gs.transforms.Translation(), laws, image_size=(16, 16))
    edges = np.arange(-400, 401) * 1.0 - 8.5
    masses = np.diff(expit(edges / 2.0)).reshape(-1, 16).sum(axis=0)
    moved = np.roll(masses, 3)
    order = np.argsort(moved / masses)
    # Pixels in the order of their ratio, until half of the moved law is reached; the last one counts in part.
    known = np.interp(0.5, np.cumsum(moved[order]), np.cumsum(masses[order]))
    assert gs.required_probability(family, gs.Points([{"tx": 3}])) == pytest.approx(known, abs=1e-9)


@pytest.mark.parametrize(
    ("law", "message"),
    [(gs.Uniform(-1, 1), "its density jumps"), (LAW, "no closed form for a shift and a rescaling of Logistic")],
)
def test_what_it_does_not_know_is_refused_by_name(law, message):
    laws = {"contrast": gs.LogNormal(0.0, 0.5), "brightness": law}
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness("brightness_first"), laws)
    with pytest.raises(gs.NotApplicable, match=message):
        gs.bounds.gl.product_at(family, {"contrast": 0.8, "brightness": 0.2})


def test_a_field_cannot_have_the_name_of_a_fact():
    class Wrong(gs.laws.Law):
        def __init__(self, mean):
            super().__init__(mean=mean)

    with pytest.raises(ValueError, match="Wrong: mean means something else for every law"):
        Wrong(1.0)
