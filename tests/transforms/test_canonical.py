"""Canonical forms, for each transformation in the list of test_transforms.py: a new class joins by being there."""

import pytest
import torch

import glsmooth as gs
from glsmooth.errors import UserError
from glsmooth.transforms import BUILTIN, Composition, GaussianBlur, Translation, canonical
from tests.transforms.test_transforms import CASES

HAVING = [transform for transform in CASES if transform.canonical_parameters]
having = pytest.mark.parametrize("transform", HAVING, ids=repr)


class NoForm(gs.ResolvableTransform):
    """Of a user who does not know that there are canonical forms."""

    name = "no_form"
    factors = (gs.transforms.Shift("light"),)

    def apply(self, images, theta):
        return images + theta[:, 0, None, None, None].to(images)


def pictures(size=(9, 12), channels=3, dtype=torch.float64):
    """Random images, one with a black border, one smooth and coloured, one of 8 bits, one bright pixel."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(12, channels, *size, dtype=torch.float64, generator=generator)
    images[1, :, :3], images[1, :, :, :2] = 0, 0
    ramp = torch.linspace(0.2, 0.9, size[1], dtype=torch.float64)
    images[2] = (0.6 + 0.4 * torch.sin(6 * ramp)) * torch.linspace(0.3, 1, size[0], dtype=torch.float64)[:, None]
    images[3] = (images[3] * 255).round() / 255
    images[4] = 0
    images[4, :, 1, 2] = 0.7
    return images.to(dtype)


def drawn(transform, n, seed=1):
    """Parameters that the canonical form takes out; the others stay at their identity."""
    theta = transform.random_parameters(n, torch.Generator().manual_seed(seed))
    for i, name in enumerate(transform.parameters):
        if name not in transform.canonical_parameters:
            theta[:, i] = transform.identity[i]
    return theta


def residual(transform, images, theta, canonical=None):
    canonical = canonical or transform.canonical
    return (canonical(transform.apply(images, theta)) - canonical(images)).abs()


def test_who_has_one():
    for cls in BUILTIN.values():
        assert cls().canonical_parameters == cls().parameters
        assert cls().without_canonical() is None
    # A part without one is left in the image, and named.
    partly = Composition(NoForm(), gs.transforms.Brightness())
    assert partly.canonical_parameters == ("brightness",)
    assert "NoForm defines none" in partly.without_canonical()


@pytest.mark.parametrize(
    ("transform", "why"),
    [
        (Translation(padding="reflect"), "mirrored borders are lost"),
        (NoForm(), "NoForm defines none"),
        (Composition(NoForm()), "NoForm defines none"),
    ],
    ids=repr,
)
def test_where_there_is_none_the_reason_is_said(transform, why):
    assert transform.canonical_parameters == ()
    assert why in transform.without_canonical()
    with pytest.raises(UserError, match=f"has no canonical form: .*{why}"):
        transform.canonical(torch.rand(1, 3, 4, 4))


@having
@pytest.mark.parametrize("size", [(9, 12), (16, 16), (1, 7), (5, 1)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_that_the_group_does_is_seen(transform, size, channels):
    images = pictures(size, channels) if min(size) > 3 else torch.rand(12, channels, *size, dtype=torch.float64)
    for seed in range(5):
        assert residual(transform, images, drawn(transform, len(images), seed)).max() < 1e-10


@having
def test_the_form_is_one_of_the_forms_images(transform):
    images = pictures()
    once = transform.canonical(images)
    assert once.shape == images.shape
    torch.testing.assert_close(transform.canonical(once), once, rtol=0, atol=1e-12)
    assert (once - images).abs().max() > 0.01
    assert once[:4].min() > -0.5  # an ordinary image
    assert once[:4].max() < 1.5
    assert 0.2 < once[:4].mean() < 0.7


@having
def test_each_image_by_itself(transform):
    images = pictures()
    alone = torch.cat([transform.canonical(image[None]) for image in images])
    torch.testing.assert_close(alone, transform.canonical(images), rtol=0, atol=1e-14)


def magnified(transform, images, theta):
    """By how much a relative rounding of φ(x, β)'s pixels is magnified in the canonical form, an image.

    Rounding of c·x + b is of the size of its largest terms, and the form divides by the spread that c left; logarithms
    have absolute roundings, which the form multiplies by what gives log x its depth.
    """
    names = dict(zip(transform.parameters, theta.T, strict=True))
    pixels = images.double().flatten(1)
    if "gamma" in names:
        log = torch.where(pixels > 0, pixels, 1).log()
        log = log - log.amax(1, keepdim=True) if "contrast" in names else log
        return 1 + 1 / (names["gamma"] * log.abs().mean(1))
    c, b = names.get("contrast", torch.ones(len(images))), names.get("brightness", torch.zeros(len(images)))
    largest = c * (pixels.amax(1) + b.abs()) + b.abs()  # of both orders
    spread = pixels.std(1) if "brightness" in names else pixels.square().mean(1).sqrt()
    if "contrast" in names:
        return 1 + largest / (c * spread)
    return 1 + largest


@pytest.mark.parametrize("transform", [t for t in HAVING if t.parameters != ("blur",)], ids=repr)
def test_what_float32_leaves(transform):
    """A few roundings of what β magnifies, and not much less either: the measure measures."""
    worst = 0.0
    for seed in range(8):
        images = pictures((16, 20), dtype=torch.float32)[:4]
        theta = drawn(transform, len(images), seed)
        left = residual(transform, images, theta).amax((1, 2, 3)).double()
        allowed = torch.finfo(torch.float32).eps * magnified(transform, images, theta)
        worst = max(worst, (left / allowed).max().item())
    assert worst < 8
    assert worst > 0.05 or transform.canonical_parameters == ("tx", "ty")


CONSTANTS = torch.tensor([0.0, 1e-3, 0.3, 1.0, 7.3])


@having
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_constant_images(transform, dtype):
    """Of odd sizes, where a mean is rounded: no picture may come out of the rounding."""
    images = CONSTANTS.to(dtype)[:, None, None, None].expand(-1, 3, 31, 33)
    for seed in range(3):
        flat = transform.apply(images, drawn(transform, len(images), seed))
        if "blur" in transform.parameters and dtype != torch.float64:
            flat = images  # blur leaves its own rounding, which is no smaller where brightness takes the light away
        form = transform.canonical(flat).double()
        assert form.isfinite().all()
        assert torch.equal(form.amax((1, 2, 3)), form.amin((1, 2, 3)))
        if transform.parameters not in (("tx", "ty"), ("blur",)):
            assert form.abs().max() < 2.5  # a power law leaves pixels above 1 there
    whole = dict.fromkeys(transform.canonical_parameters).keys() >= {"contrast", "brightness"}
    assert not whole or (form - 0.45).abs().max() < 1e-3


@pytest.mark.parametrize("transform", [gs.transforms.ContrastBrightness(), gs.transforms.GammaContrast()], ids=repr)
def test_rounding_noise_is_not_amplified(transform):
    images = 0.3 * (1 + torch.finfo(torch.float32).eps * torch.randint(-2, 3, (4, 3, 9, 9)))
    form = transform.canonical(images)
    assert torch.equal(form, form[:1, :1, :1, :1].expand_as(form))
    shaded = 0.3 * (1 + 1e-4 * torch.randn(4, 3, 9, 9))  # and what is more than noise is kept
    assert (transform.canonical(shaded).amax((1, 2, 3)) > transform.canonical(shaded).amin((1, 2, 3)) + 0.3).all()


@pytest.mark.parametrize("transform", [gs.transforms.Gamma(), gs.transforms.GammaContrast()], ids=repr)
def test_pixels_that_are_not_above_zero_stay_out_of_power_laws(transform):
    images = pictures()
    dark = images <= 0.2
    form = transform.canonical(torch.where(dark, 0.0, images))
    assert torch.equal(form == 0, dark)
    assert torch.equal(form, transform.canonical(torch.where(dark, -images, images)))
    images[2, 1, 3, 4] = torch.nan  # a broken image must be seen to be broken
    assert transform.canonical(images)[2].isnan().any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@having
def test_broken_pixels_stay_broken(transform, bad):
    images = pictures()
    images[3, 0, 2, 2] = bad
    finite = transform.canonical(images).isfinite().flatten(1).all(1)
    assert torch.equal(finite, torch.arange(len(images)) != 3)


def test_what_is_fixed():
    images, log = pictures((33, 20))[:4], lambda x: torch.where(x > 0, x, 1).log()
    form = gs.transforms.Brightness().canonical(images)
    torch.testing.assert_close(form.mean((1, 2, 3)), torch.full((4,), 0.45, dtype=torch.float64))
    torch.testing.assert_close(form.std((1, 2, 3)), images.std((1, 2, 3)))
    form = gs.transforms.ContrastBrightness().canonical(images)
    torch.testing.assert_close(form.mean((1, 2, 3)), torch.full((4,), 0.45, dtype=torch.float64))
    torch.testing.assert_close(form.std((1, 2, 3), correction=0), torch.full((4,), 0.25, dtype=torch.float64))
    form = gs.transforms.Contrast().canonical(images)
    torch.testing.assert_close(form.square().mean((1, 2, 3)), torch.full((4,), 0.45**2 + 0.25**2, dtype=torch.float64))
    for transform in (gs.transforms.Gamma(), gs.transforms.GammaContrast()):
        form = transform.canonical(images)
        depth = -log(form).sum((1, 2, 3)) / (form > 0).sum((1, 2, 3))
        torch.testing.assert_close(depth, torch.full((4,), 0.9, dtype=torch.float64))
    torch.testing.assert_close(form.amax((1, 2, 3)), torch.ones(4, dtype=torch.float64))


def test_forms_of_real_images_look_like_usual_ones():
    from sklearn.datasets import load_digits

    digits = torch.tensor(load_digits().images[:100, None] / 16)
    large = torch.nn.functional.interpolate(digits, (32, 32), mode="bilinear")
    for transform in HAVING:
        images = large if "blur" in transform.parameters else digits  # 8 pixels have one coarse frequency
        form = transform.canonical(images)
        theta = drawn(transform, len(images))
        assert residual(transform, images, theta).max() < 1e-10
        assert form.min() > -0.6
        assert form.max() < 2
        assert 0.1 < form.std() < 0.6


@having
def test_gradients_of_the_form(transform):
    generator = torch.Generator().manual_seed(3)
    images = (0.1 + 0.9 * torch.rand(2, 2, 4, 5, dtype=torch.float64, generator=generator)).requires_grad_()
    assert torch.autograd.gradcheck(transform.canonical, (images,))


@having
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_are_finite_everywhere(transform, dtype):
    images = torch.cat([pictures()[:6].to(dtype), CONSTANTS[:, None, None, None].expand(-1, 3, 9, 12).to(dtype)])
    images.requires_grad_()
    form = transform.canonical(images)
    (form * torch.linspace(-1, 1, form[0].numel(), dtype=dtype).view_as(form[0])).sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad[0].abs().max() > 0.01


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e30])
@pytest.mark.parametrize("transform", [gs.transforms.Contrast(), gs.transforms.ContrastBrightness()], ids=repr)
def test_squares_of_float32_neither_vanish_nor_overflow(transform, scale):
    images = pictures(dtype=torch.float32)
    torch.testing.assert_close(transform.canonical(scale * images), transform.canonical(images), rtol=1e-4, atol=1e-5)


def test_white_images_with_pixels_above_one():
    images = torch.ones(3, 1, 16, 16)
    images[0, 0, 3, 3], images[1, 0, 3, 3], images[2, 0, 3, 3] = 1.00001, 1.5, 0.9
    form = gs.transforms.Gamma().canonical(images)
    assert form[:2, 0, 3, 3].tolist() == pytest.approx([torch.e, torch.e])
    assert form[2, 0, 3, 3] < 1e-10
    form[:, 0, 3, 3] = 1
    assert torch.equal(form, torch.ones_like(form))


@having
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_images_are_computed_in_float32(transform, dtype):
    """A half's rounding at the end, and none on the way (a sum of 3,000 pixels in half is off by percents)."""
    images = pictures((32, 32)).to(dtype)
    form = transform.canonical(images)
    assert form.dtype == dtype
    exact = transform.canonical(images.double())
    assert ((form.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 1e-6).all()


def mirrored(images):
    return torch.maximum(images, images.flip(-1))


def squares(size=(12, 12)):
    """Images of which many rolls look alike, or nearly: mirrors, turns, stripes and tiles."""
    rows, columns = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    generator = torch.Generator().manual_seed(2)
    noise = torch.rand(3, *size, dtype=torch.float64, generator=generator)
    dots = torch.zeros(3, *size, dtype=torch.float64)
    dots[:, 2, 3] = dots[:, 8, 4] = 1
    tile = noise[:, :4, :3].repeat(1, size[0] // 4, size[1] // 3)
    colours = torch.stack([columns % 4 == k for k in range(3)]).double()  # equally bright everywhere
    symmetric = torch.maximum(noise, noise.flip(-1))
    return {
        "constant": torch.full_like(noise, 0.3),
        "chessboard": ((rows + columns) % 2).double().expand(3, -1, -1),
        "diagonal": (rows == columns).double().expand(3, -1, -1),
        "stripes": (columns % 3 == 0).double().expand(3, -1, -1),
        "tiles": tile,
        "colours": colours,
        "one": torch.nn.functional.one_hot(torch.tensor(17), size[0] * size[1]).view(size).double().expand(3, -1, -1),
        "two dots": dots,
        "mirrored": symmetric,
        "mirrored twice": torch.maximum(symmetric, symmetric.flip(-2)),
        "transposed": torch.maximum(noise, noise.mT),
        "turned": torch.maximum(noise, noise.flip(-1).flip(-2)),
        "8 bits": (noise * 255).round() / 255,
        "3 shades": (noise * 2).round() / 2,
    }


def all_rolls(image):
    return torch.stack(
        [image.roll(s, (-2, -1)) for s in torch.cartesian_prod(*map(torch.arange, image.shape[-2:])).tolist()]
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", squares())
def test_rolls_leave_not_one_bit(name, dtype):
    image = squares()[name].to(dtype)
    rolls = all_rolls(image)
    form = Translation().canonical(rolls)
    assert torch.equal(form, form[:1].expand_as(form))
    assert torch.equal(form[0].flatten().sort()[0], image.flatten().sort()[0])
    assert any(torch.equal(form[0], roll) for roll in rolls)
    # In a batch of another size, the same.
    assert torch.equal(Translation().canonical(rolls[5:6])[0], form[0])


@pytest.mark.parametrize("size", [24, 26, 44, 54, 56])
def test_stripes_that_a_window_does_not_see(size):
    """Windows of these sizes, rounded to whole numbers, are as bright on even places as on odd ones."""
    even = torch.arange(size) % 2 == 0
    for image in (even.expand(size, -1), even[:, None].expand(-1, size), even[:, None] ^ even):
        rolls = torch.stack([image.roll(shift, (0, 1)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))])[:, None].float()
        form = Translation().canonical(rolls)
        assert torch.equal(form, form[:1].expand_as(form))


def test_what_is_periodic_but_for_a_trace():
    """Too little for the shades of which windows are summed, and seen nevertheless."""
    trace = 1e-7 * torch.rand(3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    rolls = all_rolls(squares()["tiles"] + trace)
    form = Translation().canonical(rolls)
    assert torch.equal(form, form[:1].expand_as(form))


@pytest.mark.parametrize("size", [(1, 7), (7, 1), (1, 1), (2, 3), (5, 64)], ids=str)
def test_rolls_of_narrow_images(size):
    rolls = all_rolls(torch.rand(1, *size))
    form = Translation().canonical(rolls)
    assert torch.equal(form, form[:1].expand_as(form))


def test_a_bright_spot_comes_to_the_middle():
    images = torch.zeros(2, 1, 9, 12)
    images[0, 0, 1, 11] = images[1, 0, 8, 2] = 1
    form = Translation().canonical(images)
    place = form.flatten(1).argmax(1)
    assert ((place // 12 - 4).abs() <= 1).all()
    assert ((place % 12 - 6).abs() <= 1).all()


def test_windows_are_wide_and_without_a_mirror():
    for skew in (0.5, -0.3):
        bump = canonical._window(32, skew, torch.device("cpu"))[0]
        assert bump.min() > 0.01 * bump.max()
        assert torch.equal(bump, bump.round())
        assert all(not torch.equal(bump.roll(k), bump.flip(0)) for k in range(32))
    for size in (1, 224, 20_000):  # sums stay below 2^53, where float64 has every whole number
        assert canonical._window(min(size, 1000), 0.5, torch.device("cpu"))[0].sum() < 2**18
    assert 2**18 * 2**18 * canonical._SHADES < 2**53


# Forms that are none: each must be seen to be.


def by_batch(images):
    return (images - images.mean()) / images.std()


def by_rows(images):
    return images - images.mean(-1, keepdim=True)


def clipped(images):
    return canonical.standardised(images.clamp(0, 1))


def with_a_floor(images):
    return (images + 1e-2).log() / (images + 1e-2).log().abs().mean((1, 2, 3), keepdim=True)


def of_half(images):
    return canonical.standardised(images.bfloat16().to(images.dtype))


def without_wrap(images):
    shift = torch.tensor([images.shape[3] // 2, images.shape[2] // 2]) - canonical.landmark(images)
    moved = [torch.zeros_like(image) for image in images]
    for image, out, (x, y) in zip(images, moved, shift.long().tolist(), strict=True):
        h, w = image.shape[1:]
        out[:, max(y, 0) : h + min(y, 0), max(x, 0) : w + min(x, 0)] = image[
            :, max(-y, 0) : h - max(y, 0), max(-x, 0) : w - max(x, 0)
        ]
    return torch.stack(moved)


def roll_first(images):
    return canonical.log_scaled(Translation().canonical(images))


@pytest.mark.parametrize(
    ("transform", "wrong"),
    [
        (gs.transforms.ContrastBrightness(), by_batch),
        (gs.transforms.Brightness(), canonical.scaled),
        (gs.transforms.Contrast(), canonical.centred),
        (gs.transforms.Contrast(), by_rows),
        (gs.transforms.ContrastBrightness(), clipped),
        (gs.transforms.ContrastBrightness(), of_half),
        (gs.transforms.Gamma(), with_a_floor),
        (gs.transforms.Gamma(), canonical.standardised),
        (gs.transforms.GammaContrast(), canonical.log_scaled),
        (Translation(), without_wrap),
        (Composition(gs.transforms.Gamma(), Translation()), roll_first),
    ],
)
def test_wrong_forms_are_caught(transform, wrong):
    images = pictures()
    assert (
        max(residual(transform, images, drawn(transform, len(images), seed), wrong).max() for seed in range(5)) > 1e-4
    )


def test_a_part_without_a_form_is_what_is_left():
    """The whole has no exact form: light remains, the shift does not."""
    transform, images = Composition(NoForm(), Translation()), pictures()
    theta = transform.random_parameters(len(images), torch.Generator().manual_seed(0))
    assert residual(transform, images, theta).max() > 0.01
    light = theta.clone()
    light[:, 1:] = 0
    assert torch.equal(
        transform.canonical(transform.apply(images, theta)), transform.canonical(transform.apply(images, light))
    )


def natural(n, size=32):
    """Random images whose content falls with the frequency, as that of photographs does."""
    generator = torch.Generator().manual_seed(5)
    frequency = torch.arange(1, size + 1, dtype=torch.float64)
    content = torch.randn(n, 3, size, size, dtype=torch.float64, generator=generator)
    smooth = GaussianBlur().apply(content, torch.full((n, 1), 0.3))
    spectrum = 1 / (frequency[:, None] ** 2 + frequency**2)
    from glsmooth.transforms.blur import _basis

    basis, _ = _basis(size, "reflect", content.device, content.dtype)
    images = basis.T @ (basis @ smooth @ basis.T * spectrum) @ basis
    return 0.5 + 0.2 * images / images.std((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("border", ["reflect", "cyclic"])
def test_how_much_blur_float32_lets_undo(border):
    """25 pixels² leave the finest of the band 2·10⁵ times smaller, and a rounding as much larger; 8 bits end it."""
    blur, images = GaussianBlur(border), natural(16)
    form = blur.canonical(images.float())
    assert form.std((1, 2, 3)).min() > 0.05
    last = 0.0
    for amount, most in ((1.0, 1e-5), (16.0, 1e-3), (25.0, 0.1)):
        blurred = blur.apply(images.float(), torch.full((len(images), 1), amount))
        left = (blur.canonical(blurred) - form).abs().max().item()
        assert last < left < most
        last = left
    rounded = (blurred * 255).round() / 255
    assert (blur.canonical(rounded) - form).abs().amax((1, 2, 3)).min() > 0.1


def test_the_band_of_blur():
    """What is finer than a radian a pixel is gone; what is coarser is as much as its sharpening says."""
    size = 32
    x = torch.arange(size, dtype=torch.float64) + 0.5
    waves = {k: torch.cos(torch.pi * k * x / size).expand(1, 1, size, size) for k in (2, 6, 9, 12)}
    images = 0.5 + sum(0.1 * wave for wave in waves.values())
    form = GaussianBlur().canonical(images)
    amplitude = {
        k: ((form - form.mean()) * wave).sum().item() / wave.square().sum().item() for k, wave in waves.items()
    }
    assert abs(amplitude[12]) < 1e-12
    # exp(r w²/2) of each: the same r from any two.
    squared = {k: (torch.pi * k / size) ** 2 for k in waves}
    r = [
        2 * torch.tensor(amplitude[b] / amplitude[a]).log().item() / (squared[b] - squared[a])
        for a, b in ((2, 6), (6, 9))
    ]
    assert r[0] == pytest.approx(r[1], rel=1e-6)
    weights = {k: amplitude[k] ** 2 for k in (2, 6, 9)}
    mean = sum(weights[k] * squared[k] for k in weights) / sum(weights.values())
    rows = (torch.pi * torch.arange(size, dtype=torch.float64) / size) ** 2
    grid = rows[:, None] + rows
    inside = grid[(grid > 0) & (grid <= 1)]
    assert mean == pytest.approx((inside.min() + 0.15 * (inside.max() - inside.min())).item(), rel=1e-9)


def test_one_frequency_alone_has_no_sharpness():
    wave = torch.cos(torch.pi * 3 * (torch.arange(32) + 0.5) / 32).expand(1, 1, 32, 32)
    assert GaussianBlur().canonical(0.5 + 0.2 * wave).isfinite().all()


def test_what_is_all_coarse_is_left_as_sharp_as_it_is():
    ramp = (
        torch.arange(8.0).expand(1, 1, 8, 8) / 8
    )  # in the band: two frequencies, and of the finer one next to nothing
    form = GaussianBlur().canonical(ramp)
    assert form.min() > -0.1
    assert form.max() < 1


def test_rounding_of_what_is_finer_than_the_band_is_not_sharpened():
    """Stripes leave the band with a rounding of theirs, large beside what brightness leaves of the mean."""
    stripes = (torch.arange(32) % 2).expand(1, 3, 32, 32).float()
    form = GaussianBlur("cyclic").canonical(stripes - 0.5 + 1e-6)
    assert form.abs().max() < 1e-4


class Negate(gs.ResolvableTransform):
    """A user's own: the image, or its negative."""

    name = "negate"
    parameters = ("negate",)
    identity = torch.zeros(1, dtype=torch.float64)

    def apply(self, images, theta):
        return torch.where(theta[:, 0, None, None, None].to(images).round() % 2 == 1, 1 - images, images)

    def resolve(self, alpha, beta):
        return alpha + beta

    def canonical(self, images):
        return torch.where(images.mean((1, 2, 3), keepdim=True) > 0.5, 1 - images, images)


def test_a_class_of_the_users_own():
    assert Negate().canonical_parameters == ("negate",)
    assert Negate().without_canonical() is None
    images, theta = pictures(), torch.arange(12, dtype=torch.float64)[:, None]
    assert residual(Negate(), images, theta).max() < 1e-12

    class Silent(Negate):
        canonical = gs.ResolvableTransform.canonical

    assert Silent().canonical_parameters == ()
    with pytest.raises(UserError, match="Silent defines none"):
        Silent().canonical(images)
    both = Composition(Negate(), Translation())
    assert both.canonical_parameters == ("negate", "tx", "ty")
    assert residual(both, images, both.random_parameters(12, torch.Generator().manual_seed(0)).round()).max() < 1e-12
    part = Composition(Silent(), Translation())
    assert part.canonical_parameters == ("tx", "ty")
    assert part.without_canonical() == "Silent defines none"
    assert torch.equal(part.canonical(images), Translation().canonical(images))
