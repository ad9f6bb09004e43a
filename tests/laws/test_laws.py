import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad

import glsmooth as gs
from glsmooth.configuration.build import build_law, law_config
from glsmooth.errors import UserError
from glsmooth.laws import LAWS, Law

# law, the same law in scipy's words
CASES = [
    (gs.Normal(0.3, 0.7), scipy.stats.norm(0.3, 0.7)),
    (gs.Laplace(0.3, 0.7), scipy.stats.laplace(0.3, 0.7)),
    (gs.LogNormal(0.2, 0.6), scipy.stats.lognorm(0.6, scale=math.exp(0.2))),
    (gs.Rayleigh(0.4), scipy.stats.rayleigh(scale=0.4)),
    (gs.Exponential(3.0), scipy.stats.expon(scale=1 / 3.0)),
    (gs.HalfNormal(1.3), scipy.stats.halfnorm(scale=1.3)),
    (gs.Uniform(-0.5, 2.0), scipy.stats.uniform(-0.5, 2.5)),
]
every = pytest.mark.parametrize(("law", "reference"), CASES, ids=lambda v: repr(v) if isinstance(v, Law) else "")


def test_every_law_is_in_the_list():
    assert {type(law) for law, _ in CASES} | {gs.UniformCyclic} == set(LAWS.values())


@every
def test_agrees_with_scipy(law, reference):
    u = np.concatenate((np.geomspace(1e-12, 0.4, 40), np.linspace(0.4, 1 - 1e-9, 60)))
    x = reference.ppf(u)
    t = torch.from_numpy(x)
    np.testing.assert_allclose(law.icdf(torch.from_numpy(u)).numpy(), x, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(law.log_prob(t).numpy(), reference.logpdf(x), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(law.cdf(t).numpy(), reference.cdf(x), rtol=1e-9)
    np.testing.assert_allclose(law.survival(t).numpy(), reference.sf(x), rtol=1e-8, atol=1e-15)
    assert float(law.mean) == pytest.approx(reference.mean(), rel=1e-12)


@every
def test_outside_the_support(law, reference):
    low, high = law.interval
    for x in (low - 1, high + 1):
        if math.isfinite(x):
            t = torch.tensor(x, dtype=torch.float64)
            assert law.log_prob(t) == -math.inf
            assert float(law.cdf(t)) == (0.0 if x < low else 1.0)
            assert float(law.cdf(t) + law.survival(t)) == 1.0


@every
def test_sampler(law, reference):
    n = 20_000
    draws = law.rsample((n,), torch.Generator().manual_seed(1))
    assert draws.dtype == torch.float64
    # Kolmogorov-Smirnov at a failure rate of 1e-3 for a fixed seed.
    assert scipy.stats.kstest(draws.numpy(), reference.cdf).pvalue > 1e-3


@every
def test_peaks_and_shape_facts(law, reference):
    x = np.linspace(reference.ppf(1e-9), reference.ppf(1 - 1e-9), 200_001)[1:-1]
    density = reference.pdf(x)
    assert density.max() <= law.peak * (1 + 1e-9)
    assert law.peak == pytest.approx(density.max(), rel=1e-3)
    if law.interval[0] >= 0:
        assert law.peak_of_log == pytest.approx((x * density).max(), rel=1e-3)
    second = np.diff(reference.logpdf(x), 2)
    assert law.log_concave == bool((second <= 1e-9).all())
    if law.symmetric_about is not None:
        centre = law.symmetric_about
        np.testing.assert_allclose(reference.pdf(centre + x), reference.pdf(centre - x), atol=1e-12)


@every
def test_log_concave_in_log_is_true_where_claimed(law, reference):
    if not law.log_concave_in_log:
        return
    u = np.linspace(np.log(reference.ppf(1e-6)), np.log(reference.ppf(1 - 1e-9)), 20_001)
    second = np.diff(reference.logpdf(np.exp(u)) + u, 2)
    assert (second <= 1e-9).all()


@every
def test_configuration_round_trip(law, reference):
    config = law_config(law)
    assert build_law({**dict.fromkeys(("loc", "scale", "rate", "low", "high")), **config}) == law
    assert all(type(v) in (str, float) for v in config.values())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"law": "Norml", "scale": 1}, "did you mean 'Normal'"),
        ({"law": "Normal", "scale": -1.0}, "scale=-1 must be positive"),
        ({"law": "Normal"}, "scale is missing"),
        ({"law": "Exponential", "rate": 0.2, "scale": 2.0}, "add scale:null"),
        ({"law": "Normal", "scale": "wide"}, "not a number"),
        ({"law": "Normal", "scale": float("inf")}, "not finite"),
        ({"law": "Uniform", "low": 2, "high": 1}, "must be below"),
        ({"law": "Normal", "scale": 1, "sigma": 2}, "not a field"),
    ],
)
def test_bad_configurations_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        build_law(config, "smoothing.blur")


def test_uniform_on_a_cycle_needs_the_cycle():
    with pytest.raises(ValueError, match="image_size"):
        gs.UniformCyclic().icdf(torch.tensor(0.5))


LAWS_IN_ODD_PLACES = [
    gs.Normal(0.3, 0.5),
    gs.Laplace(0.3, 0.5),
    gs.Laplace(-2.0, 0.5),
    gs.LogNormal(0.2, 0.6),
    gs.LogNormal(-0.5, 1.5),
    gs.Rayleigh(0.7),
    gs.Exponential(2.0),
    gs.HalfNormal(0.4),
    gs.Uniform(0.5, 2.0),
    gs.Uniform(-1.0, 2.0),
]


@pytest.mark.parametrize("law", LAWS_IN_ODD_PLACES, ids=repr)
def test_shape_facts_match_the_density(law):
    """Total variations over a fine grid: below the closed form by what the grid cannot see, never above it."""
    tail = torch.logspace(-12, -3, 40_001, dtype=torch.float64)
    u = torch.cat((tail, torch.linspace(1e-3, 1 - 1e-3, 400_001, dtype=torch.float64), 1 - tail))
    x = law.icdf(torch.unique(u)).requires_grad_()
    density = torch.exp(law.log_prob(x) + 0 * x)
    (slope,) = torch.autograd.grad(density.sum(), x)
    x, density = x.detach(), density.detach()

    def variation(values):
        return float(values.diff().abs().sum())

    # Rayleigh's slope jumps from 0 at the end of its support, which the grid does not see.
    jump = 1 / law.values["scale"] ** 2 if isinstance(law, gs.Rayleigh) else 0.0
    assert law.bend == pytest.approx(variation(slope) + jump, rel=1e-3, abs=1e-12)
    if math.isfinite(law.steepest):
        assert law.steepest == pytest.approx(float(slope.abs().max()), rel=1e-4, abs=1e-12)
    edges = float(x[0] * density[0]), float(x[-1] * density[-1])
    ends = sum(abs(v) for v in edges) if isinstance(law, gs.Uniform) else 0.0
    assert law.scale_speed == pytest.approx((variation(x * density) + ends) / 2, rel=1e-4)
    if law.interval[0] >= 0:
        of_log = x * density
        if math.isfinite(law.bend_of_log):
            assert law.bend_of_log == pytest.approx(variation(of_log + x * x * slope), rel=2e-4)
            assert law.mode_of_log == pytest.approx(float(x[of_log.argmax()]), rel=1e-2)
        assert law.peak_of_log == pytest.approx(float(of_log.max()), rel=1e-4)


@pytest.mark.parametrize("law", [law for law in LAWS_IN_ODD_PLACES if law.interval[0] >= 0], ids=repr)
def test_partial_means(law):
    points = law.icdf(torch.tensor([1e-6, 0.1, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64))
    lower, upper = law.lower_mean(points), law.upper_mean(points)
    assert torch.allclose(lower + upper, law.mean.expand(5), rtol=1e-13)

    def moment(power, low, high):  # along log x, where all these laws are smooth
        def weighted(u):
            return math.exp((power + 1) * u + float(law.log_prob(torch.tensor(math.exp(u), dtype=torch.float64))))

        return quad(weighted, math.log(low), math.log(high), epsabs=0, epsrel=1e-11, limit=500)[0]

    least = max(law.interval[0], 1e-9 * float(points[0]))
    most = min(law.interval[1], float(points[-1]) * 1000)
    for x, one, other in zip(points.tolist(), lower.tolist(), upper.tolist(), strict=True):
        assert one == pytest.approx(moment(1, least, x), rel=1e-8)
        assert other == pytest.approx(moment(1, x, most), rel=1e-7)  # relative to itself in its own tail
    assert law.second_moment == pytest.approx(moment(2, least, most), rel=1e-4)


@pytest.mark.parametrize("law", LAWS_IN_ODD_PLACES, ids=repr)
def test_jumps_are_where_the_density_does_not_vanish(law):
    """A finite end where the density is positive is a jump; a rescaling moves it unless it is at 0."""
    ends = [x for x in law.interval if math.isfinite(x)]
    jumps = [x for x in ends if float(law.log_prob(torch.tensor(x, dtype=torch.float64))) > -math.inf]
    assert law.shifts_smoothly == (not jumps)
    assert law.rescales_smoothly == (not any(jumps))


SMOOTH = [law for law in LAWS_IN_ODD_PLACES if law.shifts_smoothly or law.rescales_smoothly]


@pytest.mark.parametrize("law", SMOOTH, ids=repr)
def test_slopes_and_where_scores_turn(law):
    """The slope is the log-density's derivative; every change of a score's direction on a grid is a known point."""
    x = law.icdf(torch.linspace(1e-4, 1 - 1e-4, 2_000, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    x = x.detach()
    torch.testing.assert_close(law.slope(x), slope, rtol=1e-10, atol=1e-10)
    for a, b in ((1.0, 0.0), (0.0, 1.0), (-2.0, 0.7)):
        turns = law.score_turns(a, b)
        if turns is None:
            assert a * b != 0
            continue
        rise = (-a * slope - b * (1 + x * slope)).diff()
        size = (abs(a) * slope.abs() + abs(b) * (1 + (x * slope).abs()))[1:]
        rise = torch.where(rise.abs() < 1e-13 * size, 0.0, rise)  # rounding of a constant score
        changes = torch.nonzero(rise[1:] * rise[:-1] < 0).flatten().tolist()
        assert all(any(x[i] <= turn <= x[i + 2] for turn in turns) for i in changes)
        assert all(any(x[i] <= turn <= x[i + 2] for i in changes) for turn in turns if x[2] < turn < x[-3])


@pytest.mark.parametrize("law", LAWS_IN_ODD_PLACES, ids=repr)
def test_normal_and_symmetric_laws_say_so(law):
    u = torch.linspace(1e-3, 1 - 1e-3, 999, dtype=torch.float64)
    score = scipy.stats.norm.ppf(u.numpy())

    def normal(x):
        """The standard deviation of what is linear in the normal score."""
        scale, loc = np.polyfit(score, x, 1)
        return scale if np.allclose(x, loc + scale * score, rtol=1e-9, atol=1e-9 * scale) else None

    quantiles = law.icdf(u).numpy()
    assert law.gaussian_scale == (pytest.approx(normal(quantiles), rel=1e-9) if normal(quantiles) else None)
    standard, origin, unit = law.in_own_units
    np.testing.assert_allclose(origin + unit * standard.icdf(u).numpy(), quantiles, rtol=1e-12, atol=1e-12)
    if law.interval[0] < 0:
        assert law.gaussian_scale_of_log is None
        assert not law.symmetric_in_log
        return
    logs = np.log(quantiles)
    assert law.gaussian_scale_of_log == (pytest.approx(normal(logs), rel=1e-9) if normal(logs) else None)
    assert law.symmetric_in_log == np.allclose(logs + logs[::-1], 2 * logs[499], atol=1e-9)


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 0.6), (3.0, 0.01), (-20.0, 2e-4)])
def test_a_distribution_function_errs_by_no_more_than_it_says(loc, scale):
    mpmath = pytest.importorskip("mpmath")
    law = gs.LogNormal(loc, scale)
    for x in law.icdf(torch.tensor([1e-6, 0.2, 0.5, 0.9], dtype=torch.float64)).tolist():
        with mpmath.workdps(40):
            exact = mpmath.ncdf((mpmath.log(mpmath.mpf(x)) - mpmath.mpf(law.loc)) / mpmath.mpf(law.scale))
            error = abs(float(mpmath.mpf(float(law.cdf(torch.tensor(x, dtype=torch.float64)))) - exact))
        assert error <= law.cdf_error


@pytest.mark.parametrize(
    "make",
    [
        lambda: gs.Normal(1e17, 1.0),
        lambda: gs.Normal(-1e300, 1.0),
        lambda: gs.Uniform(0.0, 1e307),
        lambda: gs.Uniform(0.0, 5e-324),
        lambda: gs.Uniform(1.0, 1.0 + 1e-15),
    ],
)
def test_what_is_too_extreme_to_compute_with_is_refused(make):
    with pytest.raises(UserError, match=r"too extreme to compute with|too close to low="):
        make()
