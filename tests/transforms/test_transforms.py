"""Every transformation joins this list by being a subclass; a class that is missing from it fails the guard."""

import pytest
import torch

import glsmooth as gs
import glsmooth.transforms.compose as compose
from glsmooth.errors import UserError
from glsmooth.transforms import BUILTIN, Composition, GaussianBlur, Identity, ResolvableTransform, Translation

CASES = [
    *(transform() for transform in BUILTIN.values()),
    gs.transforms.ContrastBrightness(order="brightness_first"),
    gs.transforms.ContrastBrightnessTranslation(order="brightness_first"),
    gs.transforms.TranslationBlurBrightnessContrast(order="contrast_first"),
    GaussianBlur(border="cyclic"),
    Composition(gs.transforms.Gamma(), Translation(), name="gamma_translation"),
]
every = pytest.mark.parametrize("transform", CASES, ids=repr)


def draws(transform, n=16, seed=0, size=(9, 12)):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, *size, dtype=torch.float64, generator=generator)
    return images, transform.random_parameters(n, generator), transform.random_parameters(n, generator)


def test_every_class_is_in_the_list():
    def subclasses(cls):
        for sub in cls.__subclasses__():
            yield sub
            yield from subclasses(sub)

    ours = {c for c in subclasses(ResolvableTransform) if c.__module__.startswith("glsmooth.")}
    public = {c for c in ours if not c.__name__.startswith("_")}  # others stand for one in bounds alone
    assert public == {type(transform) for transform in CASES} | {Identity}  # which has no parameters
    assert set(BUILTIN) == {
        "brightness", "contrast", "gamma", "translation", "gaussian_blur", "contrast_brightness", "gamma_contrast",
        "brightness_translation", "contrast_translation", "contrast_brightness_translation",
        "translation_blur_brightness_contrast",
    }  # fmt: skip
    for name, transform in BUILTIN.items():
        camel = "".join(word.capitalize() for word in name.split("_"))
        assert getattr(gs.transforms, camel) is transform


@every
def test_identity(transform):
    images, *_ = draws(transform)
    identity = transform.identity.expand(len(images), -1)
    torch.testing.assert_close(transform.apply(images, identity), images, rtol=0, atol=1e-13)


@every
def test_resolvable(transform):
    images, alpha, beta = draws(transform)
    twice = transform.apply(transform.apply(images, beta), alpha)
    once = transform.apply(images, transform.resolve(alpha, beta))
    assert (twice - once).abs().max() < 1e-10
    groups = {type(factor).__name__ for factor in transform.factors}
    if groups & {"ScaleThenShift", "PowerThenScale", "ShiftThenScale"}:
        # These groups do not commute: with the arguments exchanged the test does fail.
        swapped = transform.apply(images, transform.resolve(beta, alpha))
        assert (twice - swapped).abs().max() > 1e-3


@every
def test_fractional_alpha_is_resolvable_for_integer_beta(transform):
    images, alpha, beta = draws(transform)
    for i, name in enumerate(transform.parameters):
        if name in transform.integer_parameters:
            alpha[:, i] += torch.linspace(-0.5, 0.5, len(alpha), dtype=torch.float64)  # halves included
    twice = transform.apply(transform.apply(images, beta), alpha)
    once = transform.apply(images, transform.resolve(alpha, beta))
    assert (twice - once).abs().max() < 1e-10


@every
def test_batched_equals_one_by_one(transform):
    images, alpha, _ = draws(transform, n=5)
    batched = transform.apply(images, alpha)
    single = torch.cat([transform.apply(images[i : i + 1], alpha[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(batched, single, rtol=1e-14, atol=1e-14)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_keeps_dtype_and_shape(transform, dtype):
    images, alpha, _ = draws(transform, n=2)
    out = transform.apply(images.to(dtype), alpha)
    assert out.dtype == dtype
    assert out.shape == images.shape


@every
def test_seeded_replay(transform):
    laws = {"tx": gs.Normal(0.0, 2.0), "ty": gs.Normal(0.0, 2.0), "brightness": gs.Normal(0.0, 0.2)}
    family = gs.SmoothedFamily(transform, {p: laws.get(p, gs.Rayleigh(1.0)) for p in transform.parameters})
    images, *_ = draws(transform)
    first = family.sample(16, torch.Generator().manual_seed(5))
    again = family.sample(16, torch.Generator().manual_seed(5))
    assert torch.equal(transform.apply(images, first), transform.apply(images, again))
    assert not torch.equal(first, family.sample(16, torch.Generator().manual_seed(6)))


@every
def test_gradients(transform):
    images, alpha, _ = draws(transform, n=2, size=(4, 5))
    images = images.clamp(0.1, 1.0).requires_grad_()
    smooth = [i for i, p in enumerate(transform.parameters) if p not in transform.integer_parameters]
    assert torch.autograd.gradcheck(lambda x: transform.apply(x, alpha), (images,))
    if smooth:
        alpha.requires_grad_()
        assert torch.autograd.gradcheck(lambda a: transform.apply(images.detach(), a), (alpha,))


@every
def test_never_clips(transform):
    images, *_ = draws(transform, n=2)
    strong = transform.identity.repeat(2, 1)
    for name, value in (("brightness", 5.0), ("contrast", 7.0)):
        if name in transform.parameters:
            strong[:, transform.parameters.index(name)] = value
            assert transform.apply(images, strong).max() > 1.5


def test_translation_moves_right_and_down():
    image = torch.zeros(1, 1, 4, 5)
    image[0, 0, 1, 2] = 1
    moved = Translation().apply(image, torch.tensor([[2.0, 1.0]]))
    assert moved[0, 0, 2, 4] == 1
    assert moved.sum() == 1
    wrapped = Translation().apply(image, torch.tensor([[3.0, -2.0]]))
    assert wrapped[0, 0, 3, 0] == 1


def test_reflected_translation_is_not_resolvable_and_says_so():
    transform = Translation(padding="reflect")
    images = torch.arange(1.0, 5.0, dtype=torch.float64).reshape(1, 1, 1, 4)
    there = transform.apply(images, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    back = transform.apply(there, torch.tensor([[-1.0, 0.0]], dtype=torch.float64))
    assert (back - images).abs().max() >= 1  # the border pixel is lost
    assert not transform.resolvable
    family = gs.SmoothedFamily(transform, {"tx": gs.Normal(0, 3), "ty": gs.Normal(0, 3)})
    with pytest.raises(gs.NotApplicable, match="approximately"):
        gs.required_probability(family, gs.Box(tx=(-1, 1)))


def test_blur_is_a_gaussian_blur():
    """Far from the border the heat kernel of variance r has weights exp(-x²/2r)/√(2πr) for wide kernels."""
    image = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    image[0, 0, 20, 20] = 1
    x = torch.arange(-20, 21, dtype=torch.float64)
    kernel = torch.exp(-x * x / (2 * 4.0)) / (2 * torch.pi * 4.0) ** 0.5
    for border in ("reflect", "cyclic"):
        out = GaussianBlur(border=border).apply(image, torch.tensor([[4.0]], dtype=torch.float64))
        torch.testing.assert_close(out[0, 0], torch.outer(kernel, kernel), rtol=0, atol=1e-6)
        assert out.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((GaussianBlur(border="reflect"), Translation()), "border='cyclic'"),
        ((gs.transforms.Contrast(), gs.transforms.Brightness()), "ContrastBrightness"),
        ((gs.transforms.Gamma(), gs.transforms.Contrast()), "GammaContrast"),
        ((gs.transforms.Gamma(), GaussianBlur()), "do not commute"),
        ((gs.transforms.Brightness(), gs.transforms.Brightness()), "two parts"),
    ],
)
def test_compositions_that_are_not_resolvable_are_refused(parts, message):
    with pytest.raises(UserError, match=message):
        Composition(*parts)


def test_a_users_own_part_is_tried_for_commutation():
    class Rotate90(ResolvableTransform):
        name = "turns"
        parameters = ("turns",)
        identity = torch.zeros(1, dtype=torch.float64)

        def apply(self, images, theta):
            return images * torch.linspace(0, 1, images.shape[-1], dtype=images.dtype) ** theta[0, 0].abs()

        def resolve(self, alpha, beta):
            return alpha + beta

    assert compose.Composition(Rotate90(), gs.transforms.Contrast()).parameters == ("turns", "contrast")
    with pytest.raises(UserError, match="do not commute"):
        compose.Composition(Rotate90(), Translation())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"contrast": 0.0}, "contrast=0 is outside"),
        ({"contrast": float("nan")}, "not finite"),
        ({"contrst": 1.0}, "did you mean 'contrast'"),
    ],
)
def test_parameters_are_checked(values, message):
    with pytest.raises(UserError, match=message):
        gs.transforms.ContrastBrightness().vector(values)


def test_unknown_options_are_named():
    for make in (
        lambda: gs.transforms.ContrastBrightness(order="first"),
        lambda: Translation(padding="zero"),
        lambda: GaussianBlur(border="zero"),
    ):
        with pytest.raises(UserError, match="choose from"):
            make()


def test_resolve_broadcasts():
    transform = gs.transforms.ContrastBrightness()
    alpha = torch.rand(7, 2, dtype=torch.float64) + 0.5
    beta = torch.tensor([0.5, 0.1], dtype=torch.float64)
    assert transform.resolve(alpha, beta).shape == (7, 2)
