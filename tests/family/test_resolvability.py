"""The check of users' transformations: what must be refused, and what must not be."""

import math
import time

import pytest
import torch
from torch import nn

import glsmooth as gs
from glsmooth.configuration.build import build_laws, build_region, build_transform
from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.plain import plain
from glsmooth.errors import UserError
from glsmooth.family.resolvability import TOLERANCE, check_family, check_transform, is_users
from glsmooth.transforms import BUILTIN, Composition, Shift
from tests.bounds.user_transforms import AFFINE, BRIGHTEN, CURVED, Affine, Brighten, Rescale

LAWS = {"b": gs.Normal(0.0, 0.3)}
REGION = gs.Box(b=(-0.3, 0.3))


class HalfBeta(Brighten):
    def resolve(self, alpha, beta):
        return alpha + 0.5 * beta


class RightAtTheIdentityOnly(Brighten):
    def resolve(self, alpha, beta):
        return torch.where((alpha == 0) | (beta == 0), alpha + beta, alpha + 0.5 * beta)


class Clamping(Brighten):
    def apply(self, images, theta):
        return super().apply(images, theta).clamp(0, 1)


class ClampingFactors(gs.ResolvableTransform):
    name = "clamping"
    factors = (Shift("b"),)

    def apply(self, images, theta):
        return (images + theta[:, 0].to(images)[:, None, None, None]).clamp(0, 1)


class ClampsAtTheCorner(Brighten):
    """Wrong only where one application alone goes beyond 0.299 of the region's 0.3."""

    def apply(self, images, theta):
        b = theta[:, 0].to(images)
        return images + torch.where(b.abs() > 0.2999, b * 0.999, b)[:, None, None, None]


class WrongWhereBright(Brighten):
    """Saturates above 1.25: only images with white pixels get there."""

    def apply(self, images, theta):
        return super().apply(images, theta).clamp(max=1.25)


class WrongInTheTail(Brighten):
    """Wrong for parameters that the law N(0, 0.3) exceeds with probability 3e-9."""

    def apply(self, images, theta):
        b = theta[:, 0].to(images)
        return images + torch.where(b > 1.75, 1.75 + 0 * b, b)[:, None, None, None]


class LeavesDarkImages(Brighten):
    """Does nothing to images darker than 0.02 on average: only light ones that were darkened show it."""

    def apply(self, images, theta):
        return torch.where(images.mean(dim=(1, 2, 3), keepdim=True) < 0.02, images, super().apply(images, theta))


class NarrowBand(Brighten):
    """Wrong for parameters in an interval of a hundredth of the region."""

    def apply(self, images, theta):
        b = theta[:, 0].to(images)
        return images + torch.where((b - 0.1).abs() < 0.003, b + 0.01, b)[:, None, None, None]


class Quantised(Brighten):
    def apply(self, images, theta):
        return (super().apply(images, theta) * 2**20).round() / 2**20


class WrongOnOnePixel(Brighten):
    def apply(self, images, theta):
        moved = super().apply(images, theta)
        moved[:, :, 0, 0] = moved[:, :, 0, 0].clamp(max=1)
        return moved


class Swapped(Affine):
    """c·x + b with the order of γ exchanged."""

    def resolve(self, alpha, beta):
        return torch.stack((alpha[..., 0] * beta[..., 0], beta[..., 0] * alpha[..., 1] + beta[..., 1]), -1)


class OverriddenResolve(gs.ResolvableTransform):
    """Right factors beside a wrong resolve, or the other way round."""

    name = "overridden"
    factors = (Shift("b"),)

    def __init__(self, wrong_factors):
        self.wrong_factors = wrong_factors

    def apply(self, images, theta):
        b = theta[:, 0].to(images)[:, None, None, None]
        return images * torch.exp(b) if self.wrong_factors == "scale" else images + (b**3 if self.wrong_factors else b)

    def resolve(self, alpha, beta):
        if self.wrong_factors:  # right for the cube, where the factor's sum is wrong
            cube = alpha**3 + beta**3
            return cube.sign() * cube.abs() ** (1 / 3)
        return alpha + 2 * beta


class IdentityIsNone(Brighten):
    identity = torch.full((1,), 0.1, dtype=torch.float64)


@pytest.mark.parametrize(
    "transform",
    [
        HalfBeta(),
        RightAtTheIdentityOnly(),
        Clamping(),
        ClampingFactors(),
        ClampsAtTheCorner(),
        WrongWhereBright(),
        WrongInTheTail(),
        LeavesDarkImages(),
        NarrowBand(),
        Quantised(),
        WrongOnOnePixel(),
        OverriddenResolve(wrong_factors=False),
        OverriddenResolve(wrong_factors=True),
        IdentityIsNone(),
        Composition(Clamping(), gs.transforms.Translation()),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_a_wrong_claim_is_refused(transform, shape):
    laws = LAWS | ({"tx": gs.Normal(0, 2), "ty": gs.Normal(0, 2)} if "tx" in transform.parameters else {})
    family = gs.SmoothedFamily(transform, laws, shape[1:])
    dull = 0.3 + 0.2 * torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    check = check_family(family, REGION, dull)
    assert check.fault is None
    assert not check.passed
    assert check.residual > TOLERANCE
    with pytest.raises(UserError, match=rf"{type(transform).__name__}.* is not resolvable as it says: .*residual"):
        check.require()
    check.require(approximate=True)


def test_the_report_names_identity_and_parameters():
    check = gs.check_transform(HalfBeta(), laws=LAWS, region=REGION)
    assert set(check.residuals) == {
        "φ(φ(x, β), α) = φ(x, γ(α, β))", "γ(α, β₀) = α", "γ(β₀, β) = β", "φ(x, β₀) = x"
    }  # fmt: skip
    found = check.residuals["φ(φ(x, β), α) = φ(x, γ(α, β))"]
    # Half of a β at the region's end is lost, on an image without other light.
    assert abs(found.beta["b"]) == pytest.approx(0.3)
    assert check.residuals["φ(x, β₀) = x"].value == 0
    lines = str(check).splitlines()
    assert lines[0] == "HalfBeta: failed"
    assert any(line.startswith("  ok") and "φ(x, β₀)" in line for line in lines)
    assert any(line.startswith("  FAILED") and "β = (b " in line for line in lines)


def test_swapped_order_is_caught():
    laws = {"c": gs.LogNormal(0, 0.6), "b": gs.Normal(0, 0.6)}
    assert not gs.check_transform(Swapped(), laws=laws, region=gs.Box(c=(0.7, 1.4), b=(-0.2, 0.2))).passed
    assert not gs.check_transform(Swapped()).passed


# Actions that are no functions of their image and parameters.


class Random(Brighten):
    def apply(self, images, theta):
        return super().apply(images, theta) + 1e-3 * torch.randn_like(images)


class State(Brighten):
    def __init__(self):
        self._calls = 0

    def apply(self, images, theta):
        self._calls += 1
        return super().apply(images, theta) + (0.01 if self._calls > 8 else 0)


class Scheduled(Brighten):
    calls = 0

    def apply(self, images, theta):
        type(self).calls += 1
        return super().apply(images, theta) + (0.01 if self.calls > 90 else 0)


class Hysteresis(Brighten):
    _last = 0.0

    def apply(self, images, theta):
        moved = super().apply(images, theta) + 1e-3 * self._last
        self._last = float(theta.mean())
        return moved


class InPlace(Brighten):
    def apply(self, images, theta):
        images += theta[:, 0].to(images)[:, None, None, None]
        return images


class ThetaInPlace(Brighten):
    def apply(self, images, theta):
        result = super().apply(images, theta)
        theta.zero_()
        return result


class BatchMean(Brighten):
    """Takes the batch's mean light away and puts it back only for batches of one brightness."""

    def apply(self, images, theta):
        return images + theta[:, 0].mean().to(images)


class SqueezesOne(Brighten):
    def apply(self, images, theta):
        return images.squeeze() + theta[:, 0].to(images)[:, None, None, None]


class Integers(Brighten):
    def apply(self, images, theta):
        return (255 * super().apply(images, theta)).round().to(torch.int32)


class Single(Brighten):
    def apply(self, images, theta):
        return images.float() + theta[:, 0].float()[:, None, None, None]


class Cropping(Brighten):
    def apply(self, images, theta):
        return super().apply(images, theta)[..., 1:]


class Numpy(Brighten):
    def apply(self, images, theta):
        return super().apply(images, theta).numpy()


class LogOfZero(Brighten):
    def apply(self, images, theta):
        return images.log() + theta[:, 0].to(images)[:, None, None, None]


class RaisesForLarge(Brighten):
    def apply(self, images, theta):
        if (theta > 0.9).any():
            raise RuntimeError("too bright\nsecond line")
        return super().apply(images, theta)


class ResolveInPlace(Brighten):
    def resolve(self, alpha, beta):
        alpha += beta
        return alpha


class ResolveNeedsTwoAxes(Brighten):
    def resolve(self, alpha, beta):
        return torch.stack([alpha[:, 0] + beta[:, 0]], dim=-1)


class ResolveFloat(Brighten):
    def resolve(self, alpha, beta):
        return (alpha + beta).float()


class ResolveDivides(Brighten):
    def resolve(self, alpha, beta):
        return alpha + beta / (beta != 0.3)


class NoResolve(gs.ResolvableTransform):
    name = "no_resolve"
    parameters = ("b",)
    identity = torch.zeros(1, dtype=torch.float64)
    apply = Brighten.apply


class WideIdentity(Brighten):
    identity = torch.zeros(2, dtype=torch.float64)


class TupleIdentity(Brighten):
    identity = (0.0,)


class DiffersInSingle(Brighten):
    def apply(self, images, theta):
        result = super().apply(images, theta)
        return result.clamp(0, 1) if images.dtype == torch.float32 else result


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Random, "Random.apply is random, or keeps a state"),
        (State, "State.apply is random, or keeps a state|State.apply is dependent"),
        (Scheduled, "Scheduled.apply is random, or keeps a state"),
        (Hysteresis, "Hysteresis.apply is random, or keeps a state"),
        (InPlace, "InPlace.apply changes its images in place"),
        (ThetaInPlace, r"ThetaInPlace.apply changes its parameters \(theta\) in place"),
        (BatchMean, "BatchMean.apply is dependent on the other images of its batch"),
        (SqueezesOne, "SqueezesOne.apply returned shape"),
        (Integers, "Integers.apply returned dtype torch.int32 for images of dtype torch.float64.*b = "),
        (Single, "Single.apply returned dtype torch.float32"),
        (Cropping, r"Cropping.apply returned shape .*8, 7\) for images of shape .*8, 8\)"),
        (Numpy, "Numpy.apply returned a ndarray"),
        (LogOfZero, "LogOfZero.apply gives pixels that are not finite at b = "),
        (RaisesForLarge, r"RaisesForLarge.apply raised RuntimeError: too bright at b = (0\.9|1|2)"),
        (ResolveInPlace, "ResolveInPlace.resolve changes its arguments in place"),
        (ResolveNeedsTwoAxes, "ResolveNeedsTwoAxes.resolve raised IndexError"),
        (ResolveFloat, "ResolveFloat.resolve returned dtype torch.float32"),
        (ResolveDivides, r"ResolveDivides.resolve gives a parameter that is not finite .*β = \(b = 0.3\)"),
        (NoResolve, r"NoResolve.resolve raised NotImplementedError: NoResolve must define resolve"),
        (WideIdentity, r"WideIdentity.identity is \(2,\); give a float64 tensor of shape \(1,\)"),
        (TupleIdentity, "TupleIdentity.identity is tuple"),
        (DiffersInSingle, "DiffersInSingle.apply in float32, as votes run, differs"),
    ],
)
def test_what_is_no_action_is_refused_even_as_an_approximation(cls, message):
    family = gs.SmoothedFamily(cls(), LAWS)
    check = check_family(family, REGION, torch.rand(2, 1, 8, 8))
    assert not check.passed
    for approximate in (False, True):
        with pytest.raises(UserError, match=message) as raised:
            check.require(approximate)
        assert "\n" not in str(raised.value)
    assert check.fault in str(check)


class TwoNames(gs.ResolvableTransform):
    """Parameters in another order than the factors': bounds would give each the other's law."""

    name = "two_names"
    parameters = ("c", "b")
    factors = (Shift("b"), Shift("c"))

    def apply(self, images, theta):
        b, c = theta.to(images)[:, :, None, None, None].unbind(1)
        return images + b + 2 * c


def test_factors_in_another_order_are_refused():
    check = gs.check_transform(TwoNames())
    assert "bring them into one order" in check.fault


class SubPixel(gs.ResolvableTransform):
    """A cyclic shift by fractions of a pixel: resolvable, but not the shift by whole pixels that bounds take it for."""

    name = "sub_pixel"
    factors = (Shift("tx", axis="width"),)

    def apply(self, images, theta):
        frequency = torch.fft.fftfreq(images.shape[3], dtype=torch.float64)
        phase = torch.exp(-2j * math.pi * frequency * theta[:, :1])[:, None, None, :]
        return torch.fft.ifft(torch.fft.fft(images, dim=3) * phase, dim=3).real.to(images)


def test_shifts_by_fractions_of_a_pixel_are_not_whole_ones():
    check = gs.check_transform(SubPixel(), torch.rand(2, 1, 9, 9), {"tx": gs.Normal(0, 2)}, gs.Box(tx=(-3, 3)))
    assert check.worst == "φ(x, θ) = φ(x, θ in whole numbers; shifts modulo the image's size)"
    assert check.residuals["φ(φ(x, β), α) = φ(x, γ(α, β))"].value < 1e-12
    assert not check.passed


class RoundedInWords(Brighten):
    """Is said to round its parameter, so that only whole β would be tried, and does not."""

    integer_parameters = frozenset({"b"})

    def resolve(self, alpha, beta):
        return alpha + torch.round(beta)


class Unsaid(gs.ResolvableTransform):
    """Rounds its shift without saying so: fractional β are not resolvable."""

    name = "unsaid"
    factors = (Shift("b"),)

    def apply(self, images, theta):
        return images + torch.floor(theta[:, 0] + 0.5).to(images)[:, None, None, None]


@pytest.mark.parametrize("transform", [RoundedInWords(), Unsaid()], ids=lambda t: t.name)
def test_parameters_are_rounded_where_it_is_said_and_nowhere_else(transform):
    check = gs.check_transform(transform, torch.rand(2, 1, 9, 9), {"b": gs.Normal(0, 2)}, gs.Box(b=(-3, 3)))
    assert not check.passed
    assert check.fault is None


# What must pass.


@pytest.mark.parametrize("family", [BRIGHTEN, AFFINE, CURVED], ids=lambda family: family.transform.name)
def test_right_users_classes_pass(family):
    point = {name: 1.1 for name in family.parameters}
    for region in (gs.Points([point]), gs.Box(**{name: (0.9, 1.2) for name in point}), gs.Ball(0.2, **point)):
        check = check_family(family, region, torch.rand(2, 3, 8, 8))
        assert check.passed, str(check)
        assert check.residual < 1e-12


class Power(gs.ResolvableTransform):
    """x^g by way of the logarithm: black pixels go through minus infinity and come back as 0."""

    name = "power"
    parameters = ("g",)
    identity = torch.ones(1, dtype=torch.float64)

    def apply(self, images, theta):
        return torch.exp(theta[:, 0].to(images)[:, None, None, None] * torch.log(images))

    def resolve(self, alpha, beta):
        return alpha * beta


class CyclicShift(gs.ResolvableTransform):
    name = "cyclic_shift"
    factors = (Shift("tx", axis="width"),)

    def apply(self, images, theta):
        shifts = torch.floor(theta[:, 0] + 0.5).long().tolist()
        return torch.stack([image.roll(shift, -1) for image, shift in zip(images, shifts, strict=True)])


@pytest.mark.parametrize(
    ("transform", "laws", "region", "noise"),
    [
        (Power(), {"g": gs.Rayleigh(0.85)}, gs.Box(g=(0.5, 2.0)), 0.0),
        (Power(), {"g": gs.LogNormal(0, 0.5)}, gs.Box(g=(0.9, 1.1)), 0.1),
        (Rescale(), {"c": gs.LogNormal(0, 3)}, gs.Box(c=(1e-3, 1e3)), 0.0),
        (Brighten(), {"b": gs.Normal(0, 1e3)}, gs.Box(b=(-1e6, 1e6)), 0.0),
        (Brighten(), {"b": gs.Normal(0, 1e-6)}, gs.Box(b=(-1e-6, 1e-6)), 0.0),
        (CyclicShift(), {"tx": gs.Normal(0, 3)}, gs.Box(tx=(-2.5, 2.5)), 0.0),
        (CyclicShift(), {"tx": gs.UniformCyclic()}, gs.Box(tx=(-50, 50)), 0.0),
        (CyclicShift(), {"tx": gs.Normal(0, 3)}, gs.Points([{"tx": 3}]), 0.0),
        (
            Composition(Brighten(), gs.transforms.Translation()),
            {"b": gs.Normal(0, 0.3), "tx": gs.Normal(0, 3), "ty": gs.Normal(0, 3)},
            gs.Box(b=(-0.1, 0.1), tx=(-2, 2)),
            0.0,
        ),
    ],
)
def test_extreme_but_right_passes(transform, laws, region, noise):
    """Images with black pixels, damping and amplifying actions, large and tiny parameters, pixel noise."""
    family = gs.SmoothedFamily(transform, laws, (8, 9), noise)
    images = torch.rand(3, 1, 8, 9).clamp(min=0.5) - 0.5  # half of the pixels are exactly 0
    check = check_family(family, region, images)
    assert check.passed, str(check)


@pytest.mark.parametrize("name", list(BUILTIN))
def test_ours_pass_under_their_default_laws_and_regions(name):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = plain(compose("bounds", [f"transform={name}", "run_dir=."]))
    transform = build_transform(config["transform"])
    laws, region = build_laws(config["smoothing"], transform), build_region(config["region"], transform)
    check = check_transform(transform, torch.rand(2, 3, 12, 10), laws, region)
    assert check.passed, str(check)
    assert check_family(gs.SmoothedFamily(transform, laws), region) is None  # known to be right


def test_only_users_classes_are_checked():
    assert not is_users(gs.transforms.ContrastBrightness())
    assert is_users(Brighten())
    assert is_users(Composition(Brighten(), gs.transforms.Translation()))
    changed = gs.transforms.Brightness()
    changed.apply = lambda images, theta: images.clamp(0, 0.5)
    assert is_users(changed)

    class Sub(gs.transforms.Brightness):
        pass

    assert is_users(Sub())


def test_a_region_that_does_not_fit_is_an_error_of_the_caller():
    with pytest.raises(UserError, match="'c' is not a parameter of bright"):
        gs.check_transform(Brighten(), region=gs.Box(c=(0, 1)))
    with pytest.raises(UserError, match=r"^no law for 'b': brighten needs one for each of b$"):
        gs.check_transform(Brighten(), laws={})


def test_images_that_are_none_are_an_error_of_the_caller():
    for images in (torch.rand(8, 8), [[0.5]], torch.zeros(1, 1, 4, 4, dtype=torch.uint8)):
        with pytest.raises(UserError, match=r"images: give floating tensors \(C, H, W\)"):
            gs.check_transform(Brighten(), images)
    # Images of several sizes are the engine's to refuse; the check takes those like the first.
    assert gs.check_transform(Brighten(), [torch.rand(1, 4, 4), torch.rand(1, 5, 5)]).passed


# Where it is asked for.


class Ones(nn.Module):
    def forward(self, images):
        return torch.stack([images.mean(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)) - 5], dim=1)


POINT = gs.Points([{"b": 0.3}])


def certify(transform, region=POINT, **options):
    smoothed = gs.SmoothedClassifier(Ones(), gs.SmoothedFamily(transform, LAWS), num_classes=2)
    return smoothed.certify(torch.full((1, 4, 4), 0.5), region, n0=10, n=200, **options)


def test_certify_refuses_before_the_first_vote():
    class Untouched(Ones):
        def forward(self, images):
            raise AssertionError("a vote was taken")

    family = gs.SmoothedFamily(HalfBeta(), LAWS)
    smoothed = gs.SmoothedClassifier(Untouched(), family, num_classes=2)
    for ask in (smoothed.certify, lambda x, region: smoothed.certify_many(x[None], region)):
        with pytest.raises(UserError, match="HalfBeta is not resolvable as it says"):
            ask(torch.full((1, 4, 4), 0.5), gs.Points([{"b": 0.3}]))


@pytest.mark.parametrize("options", [{}, {"sequential": True}, {"method": "gl"}])
def test_an_approximation_runs_and_certifies_nothing(options):
    right = certify(Brighten(), **options)
    assert right.residual is None
    assert right.certified or "method" in options  # General Lipschitz only estimates such a class
    assert right.p_lower > right.h_min
    wrong = certify(HalfBeta(), approximate=True, **options)
    assert wrong.p_lower > wrong.h_min
    assert not wrong.certified
    assert wrong.residual > 0.1
    factors = certify(ClampingFactors(), region=gs.Box(b=(-0.1, 0.1)), approximate=True)
    assert (factors.certified, factors.residual is None) == (False, False)
    lead = certify(ClampingFactors(), region=gs.Box(b=(-0.1, 0.1)), approximate=True, runner_up=True)
    assert not lead.certified
    assert certify(Brighten(), approximate=True).certified  # nothing is approximate about it


def test_the_check_is_remembered_for_a_family_and_a_region():
    class Counting(Brighten):
        calls = 0

        def apply(self, images, theta):
            type(self).calls += 1
            return super().apply(images, theta)

    family = gs.SmoothedFamily(Counting(), LAWS)
    image = torch.rand(1, 4, 4)
    start = time.perf_counter()
    first = check_family(family, REGION, [image])
    took = time.perf_counter() - start
    calls = Counting.calls
    assert check_family(family, gs.Box(b=(-0.3, 0.3)), [image]) is first
    assert Counting.calls == calls
    assert check_family(family, gs.Box(b=(-0.2, 0.3)), [image]) is not first
    assert check_family(gs.SmoothedFamily(Counting(), LAWS), REGION, [image]) is not first
    assert took < 5


def test_what_is_declared_approximate_needs_no_check():
    class Declared(Clamping):
        resolvable = False

    assert check_family(gs.SmoothedFamily(Declared(), LAWS), REGION) is None
    with pytest.raises(gs.NotApplicable, match="only approximately resolvable"):
        certify(Declared())


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda x: x[..., 1:], r"Free\.apply returned shape \(.*\) for images of shape"),
        (lambda x: x.half(), r"Free\.apply returned dtype torch.float16"),
        (lambda x: x.float() if x.dtype == torch.float32 else x.float().double(), None),
        (lambda x: x / 0, r"Free\.apply gives pixels that are not finite"),
        (lambda x: x.mul_(2), r"Free\.apply changes its images in place"),
        (lambda x: [x], r"Free\.apply returned a list"),
    ],
)
def test_what_claims_nothing_must_still_give_images(result, words):
    """It is never certified, and its votes are taken all the same."""

    class Free(gs.ResolvableTransform):
        name = "free"
        parameters = ("b",)
        identity = torch.zeros(1, dtype=torch.float64)
        resolvable = False

        def apply(self, images, theta):
            return result(images)

    family = gs.SmoothedFamily(Free(), LAWS)
    if words is None:
        assert check_family(family, REGION, [torch.rand(3, 8, 8)]) is None
        return
    for images in ([torch.rand(3, 8, 8)], []):
        with pytest.raises(UserError, match=words):
            check_family(family, REGION, images)
