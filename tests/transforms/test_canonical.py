"""Canonical forms, for each transformation in the list of test_transforms.py: a new class joins by being there."""

import pytest
import torch

import glsmooth as gs
from glsmooth.errors import UserError
from glsmooth.transforms import BUILTIN, Composition, GaussianBlur, Translation
from tests.transforms.test_transforms import CASES

HAVING = [transform for transform in CASES if transform.canonical_parameters]
having = pytest.mark.parametrize("transform", HAVING, ids=repr)


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
    whole = {name for name, cls in BUILTIN.items() if cls().canonical_parameters == cls().parameters}
    assert set(BUILTIN) - whole == {"gaussian_blur", "translation_blur_brightness_contrast"}
    assert all(BUILTIN[name]().without_canonical() is None for name in whole)
    blurred = gs.transforms.TranslationBlurBrightnessContrast()
    assert blurred.canonical_parameters == ("tx", "ty", "contrast", "brightness")
    assert "cannot be undone" in blurred.without_canonical()


@pytest.mark.parametrize(
    ("transform", "why"),
    [
        (GaussianBlur(), "blur cannot be undone"),
        (GaussianBlur(border="cyclic"), "blur cannot be undone"),
        (Translation(padding="reflect"), "mirrored borders are lost"),
        (Composition(GaussianBlur()), "blur cannot be undone"),
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
