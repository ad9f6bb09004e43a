"""General Lipschitz: reference values, its place above Neyman-Pearson, ξ and ĝ, curved paths, refusals."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

import glsmooth as gs
from glsmooth.bounds import gl

from ..densities import log_density
from .families import LN, OTHERS, ROWS, N, R, T, family


def straight(f, beta):
    """The straight path with its velocity."""
    leg = gl.straight_leg(f, beta)
    return lambda t: (leg.at(t), leg.velocity)


def point(f, **values):
    return {**dict(zip(f.parameters, f.transform.identity.tolist(), strict=True)), **values}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_reference_values(row):
    beta = point(row.family, **row.worst)
    product, ode, printed = gl.product_at(row.family, beta), gl.ode_at(row.family, beta), gl.printed(row.family, beta)
    # From above, and by less than 0.002; the reference is given to five digits.
    assert row.gl - 1e-5 <= product <= row.gl + 2e-3
    assert row.ode - 1e-5 <= ode <= row.ode + 2e-3
    assert printed == pytest.approx(row.printed, abs=6e-4)
    assert row.np - 1e-5 <= ode <= product + 1e-4  # no method beats the limit; the factorisation costs


CASES = {**{row.name: (row.family, point(row.family, **row.worst)) for row in ROWS}}
CASES |= {name: (f, point(f, **{k: v[1] for k, v in r.intervals.items()})) for name, (f, r) in OTHERS.items()}


@pytest.mark.parametrize("case", CASES)
def test_never_below_neyman_pearson(case):
    f, beta = CASES[case]
    exact = gs.tradeoff(f, beta).inverse(0.5)
    try:
        product, ode = gl.product_at(f, beta), gl.ode_at(f, beta)
    except gs.NotApplicable:
        pytest.skip("GL refuses this family")
    assert product >= exact - 1e-8
    assert ode >= exact - 1e-8


def test_tight_for_a_normal_shift():
    f = family(T.Brightness(), brightness=N(0, 0.3))
    for ode in (gl.product_at(f, {"brightness": 0.4}), gl.ode_at(f, {"brightness": 0.4})):
        assert norm.cdf(4 / 3) <= ode <= norm.cdf(4 / 3) + 1e-4


def test_w_of_a_normal_score_is_its_closed_form():
    """w(h) = φ(Φ⁻¹(h)) · |v|/σ for a normal shift, and the sampled score agrees for the others."""
    f = family(T.Brightness(), brightness=N(0, 0.5))
    rate = gl.rate_of(gl.score_law(f, {"brightness": 0.3}, {"brightness": 2.0}))
    exact = norm.pdf(norm.ppf(gl.LEVELS)) * 2.0 / 0.5
    assert (rate.w >= exact - 1e-12).all()
    np.testing.assert_allclose(rate.w, exact, rtol=2e-4)


@pytest.mark.parametrize(
    "case",
    ["contrast_brightness", "gamma_contrast", "translation_blur_brightness_contrast", "gamma_up", "blur rayleigh"],
)
def test_w_against_sampled_scores(case):
    """The score by automatic differentiation of the density at samples of μ_β, sorted (paper, eq. 11)."""
    f, beta = CASES[case]
    start = point(f)
    v = {k: beta[k] - start[k] for k in beta}
    m = 200_000
    b = f.transform.vector(beta).requires_grad_()
    theta = f.transform.resolve(f.sample(m, torch.Generator().manual_seed(0)), b.detach())
    keep = torch.isfinite(log_density(f, theta, b.detach()))
    t = torch.zeros(m, dtype=torch.float64, requires_grad=True)
    direction = torch.tensor([v[k] for k in f.parameters], dtype=torch.float64)
    density = log_density(f, theta, b.detach() + t[:, None] * direction)
    (scores,) = torch.autograd.grad(density[keep].sum(), t)
    scores = np.sort(scores.numpy())[::-1]
    rate = gl.rate_of(gl.score_law(f, beta, v))
    for h in (0.05, 0.2, 0.5):
        top = scores[: int(h * m)]
        sampled = top.sum() / m
        spread = 4 * top.std() * math.sqrt(h) / math.sqrt(m) + 4 * abs(scores[int(h * m)]) * math.sqrt(h / m)
        assert np.interp(h, gl.LEVELS, rate.w) == pytest.approx(sampled, abs=spread)


def test_xi_and_g_hat_are_functions_to_plot():
    """For a normal shift ξ(h) = κ Φ⁻¹(h) up to a constant factor (eq. 6), and ĝ grows linearly."""
    f = family(T.Brightness(), brightness=N(0, 0.5))
    form = gl.product_form(f, straight(f, {"brightness": 0.4}))
    h = np.array([0.01, 0.1, 0.3, 0.5])
    xi = np.array([form.xi(v) for v in h])
    np.testing.assert_allclose(xi, norm.ppf(h) / norm.pdf(0) ** -1, atol=2e-3)
    g_hat = np.array([form.g_hat(t) for t in (0.0, 0.25, 0.5, 1.0)])
    np.testing.assert_allclose(g_hat, np.array([0.0, 0.25, 0.5, 1.0]) * norm.pdf(0) * 0.4 / 0.5, rtol=1e-3, atol=1e-9)
    with pytest.raises(ValueError, match="outside the tabulated"):
        form.xi(1e-12)


def test_what_cannot_be_met_needs_certainty():
    f = family(T.Brightness(), brightness=N(0, 0.05))
    assert gl.product_at(f, {"brightness": 3.0}) == 1.0
    assert gl.ode_at(f, {"brightness": 3.0}) == 1.0


def test_curved_paths_give_sound_and_other_values():
    """A path along the group (contrast first, then brightness) instead of the straight one: another sound value.

    Certificates along curves cover what the curves reach: here {β(t)} of a whole fan of curves, no ball.
    """
    f = family(T.ContrastBrightness(), contrast=LN(0, 0.6), brightness=N(0, 0.6))
    target = {"contrast": 0.5, "brightness": 0.4}

    def geometric(t):
        c = target["contrast"] ** t
        return (
            {"contrast": c, "brightness": target["brightness"] * t**2},
            {"contrast": c * math.log(target["contrast"]), "brightness": 2 * t * target["brightness"]},
        )

    exact = gs.tradeoff(f, target).inverse(0.5)
    curved = gl.ode_form(f, geometric)
    assert exact - 1e-8 <= curved < 1
    assert abs(curved - gl.ode_at(f, target)) > 1e-4
    assert gl.product_form(f, geometric).required_probability >= curved - 1e-4
    # Every point of the curve is covered, not its end alone.
    for t in (0.2, 0.6, 0.9):
        assert gs.tradeoff(f, geometric(t)[0]).inverse(0.5) <= curved


def test_the_ode_does_not_depend_on_the_speed():
    f = family(T.ContrastBrightness(), contrast=LN(0, 0.6), brightness=N(0, 0.6))
    slow = straight(f, {"contrast": 0.7, "brightness": 0.2})

    def quadratic(t):
        beta, v = slow(t * (2 - t))
        return beta, {k: x * (2 - 2 * t) for k, x in v.items()}

    assert gl.ode_form(f, quadratic) == pytest.approx(gl.ode_form(f, slow), abs=1e-4)


@pytest.mark.parametrize(
    ("f", "beta"),
    [
        (family(T.GaussianBlur(), blur=gs.Exponential(0.3)), {"blur": 1.0}),
        (family(T.GaussianBlur(), blur=gs.HalfNormal(2.0)), {"blur": 1.0}),
        (family(T.Brightness(), brightness=gs.Uniform(-1, 1)), {"brightness": 0.2}),
        (family(T.Contrast(), contrast=gs.Uniform(0, 2)), {"contrast": 1.2}),
    ],
)
def test_laws_whose_score_misses_mass_are_refused(f, beta):
    with pytest.raises(gs.NotApplicable, match="jumps"):
        gl.product_at(f, beta)
    with pytest.raises(gs.NotApplicable, match="jumps"):
        gs.required_probability(f, gs.Points([beta]), "gl_ode")


def test_a_shifted_rayleigh_law_qualifies():
    f = family(T.GaussianBlur(), blur=R(2.0))
    assert gl.product_at(f, {"blur": 2.0}) >= gs.tradeoff(f, {"blur": 2.0}).inverse(0.5)


def test_the_printed_procedure_is_labelled_unsound():
    f = family(T.Brightness(), brightness=N(0, 0.3))
    bound = gs.bounds.certify_region(f, gs.Box(brightness=(-0.4, 0.4)), "gl_printed")
    assert not bound.sound
    assert "unsound" in gs.bounds.METHODS["gl_printed"].title
    assert "unsound" in bound.argument
    assert [name for name, m in gs.bounds.METHODS.items() if not m.sound] == ["gl_printed"]


def test_on_the_torus_the_value_of_the_plane_stays_valid():
    plane = family(T.Translation(), tx=N(0, 5), ty=N(0, 5))
    torus = gs.SmoothedFamily(plane.transform, plane.laws, (32, 32))
    box = gs.Box(tx=(-3, 3), ty=(-3, 3))
    for method in ("gl", "gl_ode", "tss"):
        assert gs.required_probability(torus, box, method) == gs.required_probability(plane, box, method)
        assert gs.required_probability(torus, box, method) >= gs.required_probability(torus, box)
