"""GL through the resolving function: scores against closed forms, estimates against quadrature, refusals."""

import math

import pytest
import torch

import glsmooth as gs
from glsmooth.bounds import autograd_gl, gl

from ..densities import log_density
from .user_transforms import AFFINE, BRIGHTEN, BUILTIN_AFFINE, CURVED, Brighten, Rescale

T = gs.transforms
LAWS = {
    "brightness": gs.Normal(0.1, 0.4),
    "contrast": gs.LogNormal(0.1, 0.6),
    "gamma": gs.Rayleigh(0.7),
    "blur": gs.Exponential(0.3),
    "tx": gs.Normal(0, 5),
    "ty": gs.Normal(1, 3),
}


def family_of(transform):
    return gs.SmoothedFamily(transform, {name: LAWS[name] for name in transform.parameters})


@pytest.mark.parametrize(
    "transform",
    [*(make() for make in T.BUILTIN.values()), T.ContrastBrightness(order="brightness_first")],
    ids=repr,
)
def test_scores_are_gradients_of_the_closed_log_densities(transform):
    """Lemma 1 against ∂/∂β of the density at a fixed θ, to 1e-9 relative to the largest score."""
    family = family_of(transform)
    generator = torch.Generator().manual_seed(0)
    alpha = family.sample(500, generator)
    for beta in transform.random_parameters(3, generator).abs() + 0.1:  # inside every domain
        found = autograd_gl.scores(family, alpha, beta)
        at = beta.expand_as(alpha).clone().requires_grad_()
        theta = transform.resolve(alpha, beta)
        (expected,) = torch.autograd.grad(log_density(family, theta, at).sum(), at)
        assert float((found - expected).abs().max()) <= 1e-9 * (1 + float(expected.abs().max()))


def test_the_determinant_matters():
    """Without log det ∂γ/∂α the score of a rescaling would not have mean 0, and would be refused."""
    family = gs.SmoothedFamily(Rescale(), {"c": gs.LogNormal(0, 0.5)})
    beta = torch.tensor([1.5], dtype=torch.float64)
    s = autograd_gl.scores(family, family.sample(20_000, torch.Generator().manual_seed(0)), beta)
    assert float(s.mean()) == pytest.approx(0, abs=4 * float(s.std()) / math.sqrt(20_000))
    autograd_gl.refuse_biased(s[:, 0])
    with pytest.raises(gs.NotApplicable, match="mean is"):
        autograd_gl.refuse_biased(s[:, 0] + 1 / 1.5)


@pytest.mark.parametrize("method", ["gl", "gl_ode"])
@pytest.mark.parametrize(
    ("family", "point", "builtin", "same"),
    [
        (
            BRIGHTEN,
            {"b": 0.4},
            gs.SmoothedFamily(T.Brightness(), {"brightness": gs.Normal(0, 0.3)}),
            {"brightness": 0.4},
        ),
        (AFFINE, {"c": 0.5, "b": 0.4}, BUILTIN_AFFINE, {"contrast": 0.5, "brightness": 0.4}),
        (
            gs.SmoothedFamily(Rescale(), {"c": gs.Exponential(1.0)}),
            {"c": 1.3},
            gs.SmoothedFamily(T.Contrast(), {"contrast": gs.Exponential(1.0)}),
            {"contrast": 1.3},
        ),
    ],
)
def test_estimates_are_near_quadrature(family, point, builtin, same, method):
    """20,000 draws: w has a relative error of about 1 %, and h_min follows it."""
    bound = gs.bounds.certify_region(family, gs.Points([point]), method)
    expected = gs.required_probability(builtin, gs.Points([same]), method)
    assert bound.h_min == pytest.approx(expected, abs=0.01)
    assert not bound.sound
    assert "estimated" in bound.argument


def test_the_path_depends_on_the_chart():
    """The same group in a curved chart, along that chart's straight path: still at or above the exact value."""
    region = gs.Points([{"p": -0.6, "q": 1.4}])
    exact = gs.required_probability(
        BUILTIN_AFFINE, gs.Points([{"contrast": math.exp(-0.6), "brightness": math.log(1.4)}])
    )
    assert exact - 0.005 <= gs.required_probability(CURVED, region, "gl") <= exact + 0.05


def test_a_box_and_a_ball_name_the_worst_parameter_tried():
    bound = gs.bounds.certify_region(AFFINE, gs.Box(c=(0.5, 1.2), b=(-0.1, 0.4)), "gl")
    assert bound.worst == {"c": 0.5, "b": 0.4}
    bound = gs.bounds.certify_region(AFFINE, gs.Ball(0.3, c=1.0, b=0.0), "gl")
    assert math.hypot(bound.worst["c"] - 1, bound.worst["b"]) == pytest.approx(0.3)


def test_curved_paths_give_xi_and_g_hat():
    """A quarter circle from (1, 0) in (c, b): ĝ is its length, ξ and ĝ can be plotted."""

    def curve(t):
        angle = math.pi / 2 * t
        return (
            {"c": 1 + 0.3 * math.sin(angle), "b": 0.3 * (1 - math.cos(angle))},
            {"c": 0.3 * math.pi / 2 * math.cos(angle), "b": 0.3 * math.pi / 2 * math.sin(angle)},
        )

    form = autograd_gl.product_form(AFFINE, curve)
    assert form.g_hat(0.5) < form.g_hat()
    assert form.xi(0.1) < form.xi(0.5) == 0
    expected = gl.ode_form(
        BUILTIN_AFFINE,
        lambda t: tuple({"contrast": part["c"], "brightness": part["b"]} for part in curve(t)),
    )
    assert autograd_gl.ode_form(AFFINE, curve) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("transform", "law"),
    [
        (Brighten(), gs.Exponential(2.0)),
        (Brighten(), gs.HalfNormal(1.0)),
        (Brighten(), gs.Uniform(-1, 1)),
        (Rescale(), gs.Uniform(0.0, 2.0)),
    ],
)
def test_moving_jumps_are_refused(transform, law):
    family = gs.SmoothedFamily(transform, {transform.parameters[0]: law})
    point = {transform.parameters[0]: 1.2}
    with pytest.raises(gs.NotApplicable, match="density jumps at"):
        gs.required_probability(family, gs.Points([point]), "gl")


class OpenExponential(gs.laws.Law):
    """Its density is 0 at 0 itself, so the jump beside it cannot be seen at the end of its interval."""

    fields = ("rate",)
    interval = (0.0, math.inf)

    def __init__(self, rate):
        super().__init__(rate=rate)

    def _log_density(self, x):
        return torch.where(x == 0, -math.inf, math.log(self.rate) - self.rate * x)

    def icdf(self, value):
        return -torch.log1p(-value) / self.rate


def test_a_score_that_misses_mass_is_refused_before_it_is_centred(monkeypatch):
    """A shifted exponential has the score λ everywhere: centred, it would certify every shift."""
    family = gs.SmoothedFamily(Brighten(), {"b": OpenExponential(2.0)})
    alpha = family.sample(100, torch.Generator().manual_seed(0))
    s = autograd_gl.scores(family, alpha, torch.tensor([0.3], dtype=torch.float64))
    assert torch.allclose(s, torch.full_like(s, 2.0))
    point = gs.Points([{"b": 0.3}])
    with pytest.raises(gs.NotApplicable, match="its density jumps at 0"):
        gs.required_probability(family, point, "gl_ode")
    monkeypatch.setattr(autograd_gl, "jumps_of", lambda law: ())
    with pytest.raises(gs.NotApplicable, match=r"mean is 0\.6 .* not 0"):
        gs.required_probability(family, point, "gl_ode")


def test_estimates_do_not_rest_on_a_handful_of_draws():
    assert gs.required_probability(BRIGHTEN, gs.Points([{"b": 1.5}]), "gl") == 1  # exact: 1 - 3e-7


class Reflected(Brighten):
    resolvable = False


def test_approximately_resolvable_transformations_are_refused():
    with pytest.raises(gs.NotApplicable, match="only approximately"):
        gs.required_probability(gs.SmoothedFamily(Reflected(), BRIGHTEN.laws), gs.Points([{"b": 0.1}]), "gl")
