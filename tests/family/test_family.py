import math

import pytest
import scipy.stats
import torch

import glsmooth as gs
from glsmooth.errors import UserError

from ..densities import log_ratio

LAWS = {"contrast": gs.LogNormal(0.0, 0.6), "brightness": gs.Normal(0.0, 0.6)}


@pytest.mark.parametrize(
    ("transform", "laws", "beta"),
    [
        (gs.transforms.ContrastBrightness(), LAWS, (0.5, 0.4)),
        (gs.transforms.ContrastBrightness(order="brightness_first"), LAWS, (0.5, 0.4)),
        (
            gs.transforms.GammaContrast(),
            {"gamma": gs.Rayleigh(0.5), "contrast": gs.LogNormal(0, 0.3)},
            (1.4, 2.0),
        ),
        (gs.transforms.GaussianBlur(), {"blur": gs.Rayleigh(2.0)}, (1.5,)),
    ],
)
def test_densities_are_those_of_the_sampled_family(transform, laws, beta):
    """E_{μ_β₀}[exp L; A] = P(γ(α, β) ∈ A): the densities against samples of the resolving function."""
    family = gs.SmoothedFamily(transform, laws)
    n = 200_000
    generator = torch.Generator().manual_seed(0)
    beta = torch.tensor(beta, dtype=torch.float64)
    alpha = family.sample(n, generator)
    moved = transform.resolve(family.sample(n, generator), beta)
    weight = torch.exp(log_ratio(family, alpha, beta))
    for centre in (0.3, 0.5, 0.8):
        threshold = torch.quantile(alpha[:20_000], centre, dim=0)
        inside = (alpha < threshold).all(dim=-1).double()
        estimate, spread = float((weight * inside).mean()), float((weight * inside).std()) / math.sqrt(n)
        direct = float((moved < threshold).all(dim=-1).double().mean())
        # Four standard errors of both estimates together.
        assert abs(estimate - direct) < 4 * (spread + math.sqrt(direct * (1 - direct) / n))


def test_quantiles_follow_the_laws():
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness(), LAWS)
    draws = family.sample(20_000, torch.Generator().manual_seed(3))
    assert scipy.stats.kstest(draws[:, 0].log().numpy() / 0.6, "norm").pvalue > 1e-3
    assert scipy.stats.kstest(draws[:, 1].numpy() / 0.6, "norm").pvalue > 1e-3
    assert abs(float(torch.corrcoef(draws.log().nan_to_num().T)[0, 1])) < 0.1


def test_uniform_law_on_the_torus():
    laws = {"tx": gs.UniformCyclic(), "ty": gs.UniformCyclic()}
    family = gs.SmoothedFamily(gs.transforms.Translation(), laws, image_size=(4, 6))
    draws = family.sample(6_000, torch.Generator().manual_seed(3))
    assert sorted(draws[:, 0].unique().tolist()) == [0, 1, 2, 3, 4, 5]  # tx moves along the width
    assert sorted(draws[:, 1].unique().tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: gs.SmoothedFamily(gs.transforms.ContrastBrightness(), {"contrast": LAWS["contrast"]}),
            "no law for 'brightness'",
        ),
        (
            lambda: gs.SmoothedFamily(gs.transforms.Brightness(), {"brightnes": gs.Normal(0, 1)}),
            "did you mean 'brightness'",
        ),
        (
            lambda: gs.SmoothedFamily(gs.transforms.Contrast(), {"contrast": gs.Normal(0, 1)}),
            "outside the domain",
        ),
        (
            lambda: gs.SmoothedFamily(gs.transforms.Translation(), {"tx": gs.UniformCyclic(), "ty": gs.Normal(0, 1)}),
            "image_size",
        ),
        (
            lambda: gs.SmoothedFamily(
                gs.transforms.Translation(), {"tx": gs.Normal(0, 1), "ty": gs.Normal(0, 1)}, image_size=(0, 3)
            ),
            "positive",
        ),
        (
            lambda: gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0, 1)}, pixel_noise=-1),
            "pixel_noise",
        ),
    ],
)
def test_bad_families_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (gs.Box(contrast=(0.0, 2.0)), "domain of contrast"),
        (gs.Box(contrst=(0.5, 2.0)), "did you mean 'contrast'"),
        (gs.Ball(2, contrast=1.0), "domain"),
        (gs.Points([{"contrast": -1}]), "domain"),
    ],
)
def test_bad_regions_are_named(region, message):
    with pytest.raises(UserError, match=message):
        gs.SmoothedFamily(gs.transforms.ContrastBrightness(), LAWS).check_region(region)


def test_fractional_points_on_the_torus_are_refused_and_boxes_are_not():
    laws = {"tx": gs.Normal(0, 3), "ty": gs.Normal(0, 3)}
    family = gs.SmoothedFamily(gs.transforms.Translation(), laws, image_size=(32, 32))
    family.check_region(gs.Box(tx=(-14.18, 14.18)))
    with pytest.raises(UserError, match="fractional"):
        family.check_region(gs.Points([{"tx": 0.5}]))


def test_laws_and_factors_that_inherit_from_ours_are_refused():
    """Bounds look at the class: what a subclass overrides would be drawn from, but not bounded."""

    class Narrow(gs.Normal):
        def icdf(self, value):
            return 0.1 * super().icdf(value)

    with pytest.raises(UserError, match=r"^brightness=Narrow\(0, 0.3\): Narrow inherits"):
        gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": Narrow(0.0, 0.3)})

    class HalfShift(gs.transforms.Shift):
        def resolve(self, alpha, beta):
            return alpha + 0.5 * beta

    class Dim(gs.ResolvableTransform):
        name = "dim"
        factors = (HalfShift("b"),)

        def apply(self, images, theta):
            return images + theta[:, 0].to(images)[:, None, None, None]

    with pytest.raises(UserError, match="HalfShift inherits from one of glsmooth's factors"):
        gs.SmoothedFamily(Dim(), {"b": gs.Normal(0.0, 0.3)})


def test_a_family_cannot_be_inherited_from():
    with pytest.raises(TypeError, match="Narrowed inherits from SmoothedFamily, whose bounds would not see"):

        class Narrowed(gs.SmoothedFamily):
            def quantile(self, u):
                return 0.1 * super().quantile(u)


def test_a_ball_that_leaves_the_domain_is_named_by_its_radius():
    family = gs.SmoothedFamily(gs.transforms.ContrastBrightness(), LAWS)
    family.check_region(gs.Ball(0.9, contrast=1))
    with pytest.raises(UserError, match=r"^radius=1\.5 around contrast=1 leaves the domain of contrast"):
        family.check_region(gs.Ball(1.5, contrast=1, brightness=0))
