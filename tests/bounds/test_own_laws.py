"""Laws of the caller's own: certified by what they say of themselves, refused where more would have to be known."""

import math

import numpy as np
import pytest
import torch

import glsmooth as gs
from glsmooth.bounds.cells import scalar_pair
from glsmooth.errors import UserError
from tests.bounds.test_new_law import Logistic


class Laplace(gs.laws.Law):
    fields = ("scale",)
    log_concave = True
    interval = (-math.inf, math.inf)
    mode_point = symmetric_about = 0.0

    def __init__(self, scale):
        super().__init__(scale=scale)

    def _log_density(self, x):
        return -x.abs() / self.scale - math.log(2 * self.scale)

    def cdf(self, value):
        tail = 0.5 * torch.exp(-value.abs() / self.scale)
        return torch.where(value < 0, tail, 1 - tail)

    def survival(self, value):
        return self.cdf(-value)

    def icdf(self, value):
        return -self.scale * torch.sign(value - 0.5) * torch.log1p(-2 * (value - 0.5).abs())


def test_a_log_concave_law_shifts_by_its_own_word():
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": Laplace(0.3)})
    bound = gs.bounds.certify_region(family, gs.Box(brightness=(-0.05, 0.1)))
    assert bound.h_min == pytest.approx(1 - 0.5 * np.exp(-1 / 3), abs=1e-12)
    assert bound.argument.endswith("by what Laplace says of its own shape")


def test_a_law_whose_moves_are_not_known_is_refused_beside_a_contrast():
    laws = {"contrast": gs.LogNormal(0.0, 0.3), "brightness": Laplace(0.3)}
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness(), laws)
    with pytest.raises(gs.NotApplicable, match=r"no bound knows how Laplace\(0.3\) moves"):
        gs.required_probability(family, gs.Points([{"contrast": 0.9, "brightness": 0.1}]))
    with pytest.raises(gs.NotApplicable, match=r"Laplace\(0.3\) is a law of your own"):
        gs.required_probability(family, gs.Box(contrast=(0.9, 1.1), brightness=(-0.1, 0.1)))


def test_an_own_law_that_moves_another_parameter_is_refused():
    laws = {"contrast": Ramp(), "brightness": gs.Normal(0.0, 1.0)}
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness(), laws)
    with pytest.raises(gs.NotApplicable, match="whose partial means no bound knows"):
        gs.required_probability(family, gs.Points([{"contrast": 1.5, "brightness": 0.1}]))


class TwoSteps(gs.laws.Law):
    """Flat on [0, 1] and on (1, high], falling between: unimodal, but its logarithm has two modes."""

    fields = ("share", "high")
    mode_point = 0.0

    def __init__(self, share, high):
        super().__init__(share=share, high=high)

    @property
    def interval(self):
        return 0.0, self.high

    @property
    def mean(self):
        return torch.tensor((self.share + (1 - self.share) * (1 + self.high)) / 2, dtype=torch.float64)

    def _log_density(self, x):
        share = self.share
        outer = math.log((1 - share) / (self.high - 1))
        return torch.where(x <= 1, math.log(share), outer).to(torch.float64)

    def cdf(self, value):
        share, x = self.share, value.clamp(0.0, self.high)
        return torch.where(x <= 1, share * x, share + (1 - share) * (x - 1) / (self.high - 1))

    def survival(self, value):
        return 1 - self.cdf(value)

    def icdf(self, value):
        share = self.share
        return torch.where(value <= share, value / share, 1 + (value - share) / (1 - share) * (self.high - 1))


TWO_STEPS = TwoSteps(0.6, math.exp(8.0))


def test_rescalings_of_a_law_without_an_order_are_certified_one_by_one():
    """Contrast e² takes a classifier from .9997 to 1/2, the end e⁸ of the interval only from .9333."""
    family = gs.SmoothedFamily(gs.transforms.Contrast(), {"contrast": TWO_STEPS})
    c, high = math.exp(2.0), TWO_STEPS.high
    # It votes for the class on [0, 1], on (c, high], and with probability r between.
    kept = 0.6 / c + 0.4 * (high - c) / (c * (high - 1))
    r = (0.5 - kept) / (0.6 * (1 - 1 / c))
    before = 0.6 + 0.4 * (high - c + r * (c - 1)) / (high - 1)
    assert before > 0.9997
    point = gs.required_probability(family, gs.Points([{"contrast": c}]))
    assert before - 1e-9 <= point < before + 1e-4
    with pytest.raises(gs.NotApplicable, match=r"between the ends of contrast=\[1, 2980.96\]"):
        gs.required_probability(family, gs.Box(contrast=(1.0, math.exp(8.0))))


@pytest.mark.parametrize("order", ["contrast_first", "brightness_first"])
def test_the_same_beside_a_brightness(order):
    laws = {"contrast": TWO_STEPS, "brightness": gs.Normal(0.0, 1.0)}
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness(order), laws)
    for brightness in ((0.0, 0.0), (-0.1, 0.1)):
        with pytest.raises(gs.NotApplicable, match="log_concave_in_log"):
            gs.required_probability(family, gs.Box(contrast=(1.0, 1.5), brightness=brightness))


def test_an_observed_law_without_an_order_is_refused():
    laws = {"contrast": TWO_STEPS, "brightness": gs.Normal(0.0, 1.0)}
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness(), laws)
    with pytest.raises(gs.NotApplicable, match="log_concave_in_log"):
        gs.required_probability(family, gs.Points([{"contrast": 1.5, "brightness": 0.1}]))


class Comb(gs.laws.Law):
    """Density 1 + cos(2π teeth x) / 1.01 on [0, 1]: as many modes as teeth, and no claim at all."""

    fields = ("teeth",)
    interval = (0.0, 1.0)

    def __init__(self, teeth):
        super().__init__(teeth=teeth)

    @property
    def mode_point(self):
        return round(self.teeth / 2) / self.teeth

    def _log_density(self, x):
        return torch.log1p(torch.cos(2 * math.pi * self.teeth * x) / 1.01)

    def cdf(self, value):
        w, x = 2 * math.pi * self.teeth, value.clamp(0.0, 1.0)
        return x + torch.sin(w * x) / (1.01 * w)

    def survival(self, value):
        return 1 - self.cdf(value)

    def icdf(self, value):
        low, high = torch.zeros_like(value), torch.ones_like(value)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (
                torch.where(self.cdf(middle) < value, middle, low),
                torch.where(self.cdf(middle) < value, high, middle),
            )
        return low


@pytest.mark.parametrize("teeth", [2.0, 3.0, 1000.0, 3000.0])
@pytest.mark.parametrize("transform", [gs.transforms.Brightness, gs.transforms.Contrast])
def test_a_law_with_several_modes_is_refused(teeth, transform):
    """A shift of 3000 teeth by half of one would need .968; cells that see no teeth would say .912."""
    with pytest.raises(UserError, match=r"Comb\(.* mode_point fails"):
        gs.SmoothedFamily(transform(), {transform.name: Comb(teeth)})


def test_a_box_needs_one_mode_where_a_law_says_how_it_moves():
    class Told(Comb):
        shifts = gs.Exponential(1.0).shifts

    law = Told(3.0)
    with pytest.raises(UserError, match="mode_point fails"):
        gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": law})


class Placed(Laplace):
    """The same about a centre far away."""

    fields = ("centre", "scale")

    def __init__(self, centre, scale):
        gs.laws.Law.__init__(self, centre=centre, scale=scale)

    @property
    def mode_point(self):
        return self.centre

    symmetric_about = mode_point

    def _log_density(self, x):
        return super()._log_density(x - self.centre)

    def cdf(self, value):
        return super().cdf(value - self.centre)

    def survival(self, value):
        return super().cdf(self.centre - value)

    def icdf(self, value):
        return self.centre + super().icdf(value)


@pytest.mark.parametrize(("centre", "scale"), [(1e6, 1e-3), (-1e9, 1e-3), (1e12, 1e-2)])
def test_places_far_from_0_are_rounded_where_a_law_does_not_say_how_much_that_matters(centre, scale):
    law = Placed(centre, scale)
    assert law.scale_speed == math.inf
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": law})
    for b in np.random.default_rng(0).uniform(-1, 1, 60) * scale:
        known = 1 - 0.5 * math.exp(-abs(b) / scale)
        assert gs.required_probability(family, gs.Points([{"brightness": b}])) >= known - 1e-15


class Ramp(gs.laws.Law):
    """Density 2x on [0, 1]. Its logarithm has the density 2 exp(2u), u < 0, whose peak it does not mention."""

    log_concave = log_concave_in_log = True
    interval, mode_point = (0.0, 1.0), 1.0

    def _log_density(self, x):
        return torch.log(2 * x)

    def cdf(self, value):
        return value.clamp(0.0, 1.0) ** 2

    def survival(self, value):
        return 1 - self.cdf(value)

    def icdf(self, value):
        return torch.sqrt(value)


def test_a_peak_that_is_not_known_is_not_asked_for():
    for transform, name, value, kept in (
        (gs.transforms.Contrast(), "contrast", 0.8, 0.5 * 0.8**2),  # of the mass below .8, all of the moved law's
        (gs.transforms.Brightness(), "brightness", -0.1, None),
    ):
        family = gs.SmoothedFamily(transform, {name: Ramp()})
        h = gs.required_probability(family, gs.Box(**{name: (value, 1.0 if kept else 0.0)}))
        known = 1 - kept if kept else 1 - (math.sqrt(0.5) - 0.1) ** 2
        assert known - 1e-15 <= h < known + 1e-12


def test_what_a_law_must_define_is_named():
    class Nothing(gs.laws.Law):
        log_concave = True
        interval = (-math.inf, math.inf)

    with pytest.raises(UserError, match="Nothing does not define icdf"):
        gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": Nothing()})


class Smooth(Laplace):
    """With what General Lipschitz needs: no jumps, and the density's slope, which has a kink."""

    shifts_smoothly = True

    def slope(self, x):
        return -torch.sign(x) / self.scale


@pytest.mark.parametrize("method", ["gl", "gl_ode"])
def test_general_lipschitz_takes_a_density_with_a_kink(method):
    """The score is ±1/scale, so the worst classifier at level 1/2 falls at the rate h/scale: Neyman-Pearson's value."""
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": Smooth(0.3)})
    for b in (0.02, -0.1, 0.4):
        known = 1 - 0.5 * math.exp(-abs(b) / 0.3)
        at = {"gl": gs.bounds.gl.product_at, "gl_ode": gs.bounds.gl.ode_at}[method](family, {"brightness": b})
        assert known - 1e-9 < at < known + 1e-4
        h = gs.required_probability(family, gs.Box(brightness=(min(b, 0), max(b, 0))), method)
        assert known <= h < known + 1e-4


def test_general_lipschitz_says_what_a_law_does_not_say():
    """A Laplace density has a kink, not a jump."""
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": Laplace(0.3)})
    with pytest.raises(gs.NotApplicable, match=r"does not say that its density has no jumps .*shifts_smoothly = True"):
        gs.required_probability(family, gs.Box(brightness=(0.0, 0.1)), "gl")
    family = gs.SmoothedFamily(gs.transforms.Contrast(), {"contrast": TWO_STEPS})
    with pytest.raises(gs.NotApplicable, match=r"its density jumps at 2980\.96"):
        gs.required_probability(family, gs.Points([{"contrast": 1.1}]), "gl")


class Least(gs.Law):
    """The Laplace law about 0.1 by two functions, and one fact."""

    fields = ("loc", "scale")
    log_concave = True

    def __init__(self, loc, scale):
        super().__init__(loc=loc, scale=scale)

    def log_prob(self, value):
        return -(value - self.loc).abs() / self.scale - math.log(2 * self.scale)

    def icdf(self, value):
        tail = torch.log(2 * torch.where(value < 0.5, value, 1 - value))
        return self.loc + self.scale * torch.where(value < 0.5, tail, -tail)


@pytest.mark.parametrize("b", [0.01, -0.3, 1.0])
def test_two_functions_and_one_fact_are_enough(b):
    law = Least(0.1, 0.3)
    known = 1 - 0.5 * math.exp(-abs(b) / 0.3)
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": law})
    h = gs.required_probability(family, gs.Points([{"brightness": b}]))
    assert known <= h < known + 1e-12
    # In a sum with another one, by cells, which have no relative precision in the upper tail.
    laws = {"contrast": gs.LogNormal(0.0, 0.6), "brightness": law}
    pair = gs.SmoothedFamily(gs.transforms.ContrastBrightness("brightness_first"), laws)
    with pytest.raises(gs.NotApplicable, match="Least does not define mode_point"):
        gs.required_probability(pair, gs.Points([{"contrast": 1.1, "brightness": b}]))


def test_the_torus_needs_no_more_than_two_functions():
    law = Least(0.0, 2.0)
    family = gs.SmoothedFamily(gs.transforms.Translation(), {"tx": law, "ty": gs.UniformCyclic()}, image_size=(16, 16))
    edges = np.arange(-400, 401) * 1.0 - 8.5
    below = np.where(edges < 0, 0.5 * np.exp(np.minimum(edges, 0) / 2), 1 - 0.5 * np.exp(-np.maximum(edges, 0) / 2))
    masses = np.diff(below).reshape(-1, 16).sum(axis=0)
    moved = np.roll(masses, 3)
    order = np.argsort(moved / masses)
    known = np.interp(0.5, np.cumsum(moved[order]), np.cumsum(masses[order]))
    h = gs.required_probability(family, gs.Points([{"tx": 3}]))
    assert known - 1e-12 < h < known + 1e-9


class Turning(Logistic):
    """It says that its log-likelihood ratio against a rescaling turns nowhere."""

    def ratio_turns(self, shift, scale):
        return []


def test_a_range_inside_a_cell_that_is_false_is_refused():
    with pytest.raises(UserError, match=r"Turning\(0.3\) is not what it says of itself: near .*ratio_turns"):
        scalar_pair(Turning(0.3), 0.05, 1.2)


class Faint(Least):
    """Within its rounding it is a Laplace law, and says that it is narrower than it is."""

    in_own_units = property(lambda self: (Least(0.0, 1.0), self.loc, 0.999 * self.scale))


def test_false_units_are_refused():
    with pytest.raises(UserError, match="in_own_units fails"):
        gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": Faint(0.1, 0.3)})
