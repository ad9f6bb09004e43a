"""Distributions of torch become laws of ours, where they are exactly the same."""

import pytest
import torch
from torch import distributions as D

import glsmooth as gs
from glsmooth.errors import UserError

BRIGHTNESS = gs.transforms.Brightness()


@pytest.mark.parametrize(
    ("distribution", "law"),
    [
        (D.Normal(0.0, 0.25), gs.Normal(0.0, 0.25)),
        (D.Laplace(torch.tensor(0.5), torch.tensor(0.3, dtype=torch.float64)), gs.Laplace(0.5, 0.3)),
        (D.LogNormal(0.0, 0.5), gs.LogNormal(0.0, 0.5)),
        (D.Exponential(2.0), gs.Exponential(2.0)),
        (D.HalfNormal(0.5), gs.HalfNormal(0.5)),
        (D.Uniform(-1.0, 2.0), gs.Uniform(-1.0, 2.0)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_the_same_law(distribution, law):
    family = gs.SmoothedFamily(BRIGHTNESS, {"brightness": distribution})
    assert family.laws["brightness"] == law
    x = law.icdf(torch.linspace(0.01, 0.99, 99, dtype=torch.float64))
    torch.testing.assert_close(law.log_prob(x), distribution.log_prob(x), rtol=1e-5, atol=1e-5, check_dtype=False)
    assert family == gs.SmoothedFamily(BRIGHTNESS, {"brightness": law})


def test_numbers_are_those_that_the_distribution_holds():
    """0.3 in float32 is another number."""
    (law,) = gs.SmoothedFamily(BRIGHTNESS, {"brightness": D.Normal(0.0, 0.3)}).laws.values()
    assert law.scale == float(torch.tensor(0.3)) != 0.3


class Shifted(D.Normal):
    def icdf(self, value):
        return super().icdf(value) + 1


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (D.Cauchy(0.0, 1.0), "brightness=Cauchy: of torch.distributions Normal, Laplace, .* subclass of glsmooth.Law"),
        (Shifted(0.0, 1.0), "brightness=Shifted: "),
        (D.Poisson(1.0), "brightness=Poisson: "),
        (D.Normal(torch.zeros(3), 1.0), r"brightness=Normal: holds \(3,\) laws"),
        (D.Normal(torch.zeros(1), 1.0), r"brightness=Normal: holds \(1,\) laws"),
        (D.Independent(D.Normal(torch.zeros(3), 1.0), 1), "brightness=Independent: "),
        (D.Normal(0.0, torch.tensor(1e-30)), "too extreme"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_others_are_refused_by_name(distribution, message):
    with pytest.raises(UserError, match=message):
        gs.SmoothedFamily(BRIGHTNESS, {"brightness": distribution})
