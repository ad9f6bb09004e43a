"""What a law says of itself is tried: true facts pass, false ones are refused by name, with both numbers."""

import math

import numpy as np
import pytest
import torch

import glsmooth as gs
from glsmooth.errors import UserError
from glsmooth.laws.checks import cdf_error, jump_of, jumps_of
from tests.bounds.test_new_law import Logistic
from tests.laws.test_laws import LAWS_IN_ODD_PLACES


@pytest.mark.parametrize("law", LAWS_IN_ODD_PLACES, ids=repr)
def test_our_own_laws_are_what_they_say(law):
    check = gs.check_law(law)
    assert check.passed, check
    assert check.cdf_error < 1e-13
    assert check.density_error < 1e-11
    assert {"mode_point", "log_prob integrates to 1", "mean", "bend"} <= check.facts.keys()


class Plain(gs.Law):
    """The logistic law, as little of it as can be: density and quantiles."""

    fields = ("loc", "scale")

    def __init__(self, loc, scale):
        super().__init__(loc=loc, scale=scale)

    def log_prob(self, value):
        z = ((value - self.loc) / self.scale).abs()
        return -z - 2 * torch.log1p(torch.exp(-z)) - math.log(self.scale)

    def icdf(self, value):
        return self.loc + self.scale * (torch.log(value) - torch.log1p(-value))


def test_two_functions_are_a_law():
    law, full = Plain(0.0, 0.4), Logistic(0.4)
    check = gs.check_law(law)
    assert check.passed, check
    assert law.interval == (-math.inf, math.inf)
    x = torch.cat((full.icdf(torch.logspace(-250, -1, 60, dtype=torch.float64)), torch.linspace(-2, 20, 50).double()))
    torch.testing.assert_close(law.cdf(x), full.cdf(x), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(law.survival(x), full.survival(x), rtol=0.0, atol=law.cdf_error)
    ends = torch.tensor([-math.inf, -1e300, 1e300, math.inf], dtype=torch.float64)
    assert law.cdf(ends).tolist() == [0, 0, 1, 1]
    assert float(law.cdf(torch.tensor(0.0, dtype=torch.float64))) == pytest.approx(0.5, abs=1e-15)


def test_what_follows_from_what_a_law_says():
    class Symmetric(Plain):
        log_concave = True

        @property
        def symmetric_about(self):
            return self.loc

    law = Symmetric(0.3, 0.4)
    assert law.mode_point == 0.3
    assert law.score_turns(1.0, 0.0) == []
    assert law.peak == pytest.approx(1 / 1.6)
    with pytest.raises(UserError, match="Plain does not define mode_point"):
        _ = Plain(0.0, 1.0).mode_point


def by_bisection(cdf, low, high):
    def icdf(value):
        a, b = torch.full_like(value, low), torch.full_like(value, high)
        for _ in range(80):
            middle = (a + b) / 2
            less = cdf(middle) < value
            a, b = torch.where(less, middle, a), torch.where(less, b, middle)
        return b

    return icdf


class Mixture(gs.Law):
    """A standard normal law, and ``weight`` of one at ``at`` that is ``width`` wide."""

    fields = ("weight", "at", "width")

    def __init__(self, weight, at, width):
        super().__init__(weight=weight, at=at, width=width)

    mode_point = 0.0

    def _parts(self, value):
        return (1 - self.weight, value), (self.weight / self.width, (value - self.at) / self.width)

    def log_prob(self, value):
        density = sum(share * torch.exp(-z * z / 2) for share, z in self._parts(value))
        return torch.log(density) - 0.5 * math.log(2 * math.pi)

    def cdf(self, value):
        (a, z), (b, v) = self._parts(value)
        return a * torch.special.ndtr(z) + b * self.width * torch.special.ndtr(v)

    def survival(self, value):
        (a, z), (b, v) = self._parts(value)
        return a * torch.special.ndtr(-z) + b * self.width * torch.special.ndtr(-v)

    def icdf(self, value):
        low, high = by_bisection(self.cdf, -40.0, 40.0)(value), -by_bisection(self.survival, 40.0, -40.0)(1 - value)
        return torch.where(value < 0.5, low, -high)


def test_a_law_with_two_modes_is_what_it_is():
    """A spike of a tenth of the mass, a millionth wide: nothing is hidden by it where nothing false is said."""

    class Honest(Mixture):
        mode_point = property(lambda self: gs.Law.mode_point.fget(self))

    check = gs.check_law(Honest(0.1, 1.0, 1e-6))
    assert check.passed, check


def mutated(base=Plain, *numbers, **members):
    """A law with some members replaced."""
    return type("Mutated", (base,), members)(*(numbers or (0.0, 0.4)))


def true_of_logistic(law):
    return {"log_concave": True, "symmetric_about": law.loc, "shifts_smoothly": True, "rescales_smoothly": True}


TWO_BUMPS = Mixture, 0.5, 3.0, 1.0
FALSE = {
    "not normalised": (mutated(log_prob=lambda s, x: Plain.log_prob(s, x) + 1e-3), "integrates to 1"),
    "a density that wobbles": (
        mutated(log_prob=lambda s, x: Plain.log_prob(s, x) + 1e-3 * torch.sin(300 * x)),
        "is the density of",
    ),
    "density of another scale": (mutated(icdf=lambda s, u: 1.01 * Plain.icdf(s, u)), "is the density of"),
    "quantiles that fall": (mutated(icdf=lambda s, u: -Plain.icdf(s, u)), "icdf"),
    "quantiles that fall somewhere": (
        mutated(icdf=lambda s, u: Plain.icdf(s, u) - torch.where(u > 0.7, 0.01, 0.0)),
        "icdf falls near 0.69998",
    ),
    "an atom": (mutated(icdf=lambda s, u: Plain.icdf(s, u).clamp(min=-1.0)), "no density outside"),
    "a wrong cdf": (mutated(cdf=lambda s, x: torch.special.expit(x / s.scale * 1.001)), r"cdf\(icdf"),
    "a cdf that is wrong in the tail": (
        mutated(cdf=lambda s, x: torch.special.expit(x / s.scale) * torch.where(x < -6, 1.1, 1.0)),
        r"cdf\(icdf",
    ),
    "a wrong survival": (mutated(survival=lambda s, x: 1 - 0.999 * torch.special.expit(x / s.scale)), "survival"),
    "two bumps": (mutated(*TWO_BUMPS, log_concave=True), "mode_point fails"),
    "two bumps, one mode": (mutated(*TWO_BUMPS), "mode_point fails"),
    "a faint second bump": (mutated(Mixture, 1e-4, 4.0, 0.02, log_concave=True), "log_concave|mode_point"),
    "a spike": (mutated(Mixture, 0.05, 0.5, 1e-7, log_concave=True), "log_concave|mode_point"),
    "a spike at the mode": (mutated(Mixture, 0.01, 0.0, 1e-6, peak=0.5), "peak fails"),
    "a slightly higher peak": (mutated(Mixture, 0.01, 0.0, 0.1, peak=0.4343), "peak fails"),
    "heavy tails": (
        mutated(
            Plain,
            log_prob=lambda s, x: -torch.log(math.pi * s.scale * (1 + (x / s.scale) ** 2)),
            icdf=lambda s, u: torch.where(u < 0.5, -1.0, 1.0).double()
            * s.scale / torch.tan(math.pi * torch.where(u < 0.5, u, 1 - u)),
            log_concave=True,
        ),
        "log_concave",
    ),
    "off centre": (mutated(symmetric_about=1e-3), "symmetric_about"),
    "a mode elsewhere": (mutated(mode_point=1e-2), "mode_point"),
    "a small bend": (mutated(mode_point=0.0, bend=2.40), "bend"),
    "a small slope": (mutated(mode_point=0.0, steepest=0.5), "steepest"),
    "a small speed": (mutated(mode_point=0.0, scale_speed=0.447), "scale_speed"),
    "a wrong slope": (
        mutated(shifts_smoothly=True, slope=lambda s, x: -torch.tanh(x / (2 * s.scale)) / s.scale * 0.999),
        "slope fails",
    ),
    "a wrong mean": (mutated(mean=0.01), "mean"),
    "not normal": (mutated(gaussian_scale=0.7), "gaussian_scale"),
    "not positive": (mutated(log_concave_in_log=True), "log_concave_in_log"),
    "an interval that is too short": (mutated(interval=(-5.0, 5.0)), "interval"),
    "an interval that is none": (mutated(interval=(math.nan, 1.0)), "interval=.* is none"),
    "a cycle": (mutated(cyclic=True), "UniformCyclic"),
    "a sampler of another scale": (
        mutated(sample=lambda s, shape=(): 1.05 * gs.Law.rsample(s, shape)), "sample draws from"),
    "NaN": (mutated(log_prob=lambda s, x: torch.where(x > 1, math.nan, Plain.log_prob(s, x))), "log_prob is NaN"),
    "float32": (mutated(icdf=lambda s, u: Plain.icdf(s, u).float()), "float32"),
    "an exception": (mutated(icdf=lambda s, u: 1 / 0), "icdf raised ZeroDivisionError"),
    "in place": (mutated(icdf=lambda s, u: u.mul_(2)), "in place"),
    "a state": (mutated(icdf=lambda s, u: Plain.icdf(s, u) + 1e-6 * torch.rand_like(u)), "random|icdf falls"),
    "of its batch": (mutated(log_prob=lambda s, x: Plain.log_prob(s, x) * (1 + 1e-9 * (len(x) < 10))), "depends on"),
    "an infinite draw": (
        mutated(icdf=lambda s, u: torch.where(u < 1e-15, -math.inf, Plain.icdf(s, u))), "icdf is not finite at 5.5"),
}  # fmt: skip


@pytest.mark.parametrize("name", FALSE)
def test_what_is_false_is_refused_by_name(name):
    law, message = FALSE[name]
    check = gs.check_law(law)
    assert not check.passed
    with pytest.raises(UserError, match=message):
        check.require()
    with pytest.raises(UserError, match=message):
        gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": law})
    assert "failed" in str(check).splitlines()[0]


class Step(gs.Law):
    """Uniform laws on [0, 1] and on [1, 2], of which the second has a little less mass."""

    fields = ("less",)
    interval, mode_point = (0.0, 2.0), 0.5

    def __init__(self, less):
        super().__init__(less=less)

    def _log_density(self, x):
        return torch.log(0.5 + torch.where(x < 1, self.less, -self.less).double())

    def icdf(self, value):
        first = 0.5 + self.less
        return torch.where(value < first, value / first, 1 + (value - first) / (1 - first))


@pytest.mark.parametrize("less", [1e-3, 0.2])
def test_a_jump_inside_is_seen(less):
    law = Step(less)
    assert gs.check_law(law).passed
    assert jump_of(law, rescaled=False) == 0
    assert jumps_of(law) == pytest.approx((0.0, 2.0, 1.0))
    smooth = mutated(Step, less, rescales_smoothly=True)
    with pytest.raises(UserError, match=r"rescales_smoothly fails, .* at 2"):
        gs.check_law(smooth).require()


def test_kinks_are_no_jumps():
    assert jump_of(Peaked(0.3), rescaled=False) is None
    for law in LAWS_IN_ODD_PLACES:
        assert (jump_of(law, rescaled=False) is None) == law.shifts_smoothly
        assert (jump_of(law, rescaled=True) is None) == law.rescales_smoothly


class Peaked(gs.Law):
    """A Laplace law, by its density and quantiles."""

    fields = ("scale",)

    def __init__(self, scale):
        super().__init__(scale=scale)

    def log_prob(self, value):
        return -value.abs() / self.scale - math.log(2 * self.scale)

    def icdf(self, value):
        return -self.scale * torch.sign(value - 0.5) * torch.log1p(-2 * (value - 0.5).abs())


def test_differences_enter_the_bounds():
    """A distribution function that is off by less than is refused makes a certificate smaller by it, not larger."""
    law = mutated(
        Peaked,
        0.3,
        log_concave=True,
        cdf=lambda s, x: gs.Law.cdf(s, x) * (1 - 3e-6),
        survival=lambda s, x: gs.Law.cdf(s, -x),
    )
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": law})
    truth = 1 - 0.5 * math.exp(-1 / 3)
    h = gs.required_probability(family, gs.Points([{"brightness": 0.1}]))
    assert truth <= h <= truth + 2e-6
    assert float(law.cdf(torch.tensor(0.1, dtype=torch.float64))) < truth - 1e-6
    rough = mutated(Peaked, 0.3, log_prob=lambda s, x: Peaked.log_prob(s, x).float().double())
    assert 1e-9 < gs.check_law(rough).density_error < 1e-5


def test_a_check_is_remembered_and_quick(monkeypatch):
    law = Plain(0.1, 0.7)
    first = gs.check_law(law)
    assert gs.check_law(Plain(0.1, 0.7)) is first
    with pytest.raises(UserError, match="not a smoothing law"):
        gs.check_law(torch.distributions.Normal(0.0, 1.0))


def test_draws_do_not_move_the_global_generator():
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    gs.check_law(mutated(sample=lambda s, shape=(): s.icdf(torch.rand(shape, dtype=torch.float64))))
    assert torch.equal(torch.rand(3), wanted)


def test_levels_reach_into_the_tails():
    seen = []
    law = mutated(icdf=lambda s, u: (seen.append(u), Plain.icdf(s, u))[1])
    gs.check_law(law)
    levels = np.unique(torch.cat([u.flatten() for u in seen]).numpy())
    assert levels[levels > 2.0**-54][0] <= 1e-12
    assert np.diff(levels).max() < 5e-5


def test_an_error_cannot_be_made_small_by_saying_so():
    assert cdf_error(mutated(Peaked, 0.3, cdf_error=-1.0)) > 0


class Arcsine(gs.Law):
    """Its density is infinite at both ends, to which quantiles are rounded."""

    fields = ()

    def log_prob(self, value):
        inside = (value >= 0) & (value <= 1)
        density = -torch.log(math.pi * torch.sqrt(torch.where(inside, value * (1 - value), 0.25)))
        return torch.where(inside, density, -math.inf)

    def icdf(self, value):
        return torch.sin(math.pi / 2 * value) ** 2


def test_an_infinite_density_is_no_mistake():
    check = gs.check_law(Arcsine())
    assert check.passed, check
    assert check.density_error < 1e-6


class Falling(gs.Law):
    """Density 2/w (1 - x/w) on [0, w], with a distribution function that goes on beyond it as a parabola."""

    fields = ("w",)
    log_concave = True

    def __init__(self, w):
        super().__init__(w=w)

    @property
    def interval(self):
        return 0.0, self.w

    @property
    def mode_point(self):
        return 0.0

    def _log_density(self, x):
        return math.log(2 / self.w) + torch.log1p(-x / self.w)

    def cdf(self, value):
        z = value / self.w
        return z * (2 - z)

    def survival(self, value):
        return (1 - value / self.w) ** 2

    def icdf(self, value):
        return self.w * (1 - torch.sqrt(1 - value))


class Clamped(Falling):
    def cdf(self, value):
        return super().cdf(value.clamp(0.0, self.w))

    def survival(self, value):
        return super().survival(value.clamp(0.0, self.w))


def test_a_distribution_function_is_tried_beyond_the_law():
    with pytest.raises(UserError, match=r"cdf|survival"):
        gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": Falling(1.0)})
    assert gs.check_law(Clamped(1.0)).passed
    family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": Clamped(1.0)})
    assert gs.required_probability(family, gs.Points([{"brightness": 1.0}])) == 1


class Slow(Clamped):
    @property
    def shift_speed(self):
        return 1e-6


def test_a_speed_that_is_too_small_is_refused():
    with pytest.raises(UserError, match="shift_speed"):
        gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": Slow(1.0)})
