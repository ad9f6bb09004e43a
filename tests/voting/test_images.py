"""Anybody's images: arrays, tensors, loaders; and what is refused, with the image and the fix named."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import glsmooth as gs
from glsmooth.errors import UserError

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(5)
FAMILY = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 0.3)})
REGION = gs.Box(brightness=(-0.1, 0.1))


class Pair(torch.utils.data.Dataset):
    """A data set that knows no end of its own."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return IMAGES[index % 5], int(LABELS[index % 5])


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from zip(IMAGES, LABELS.tolist(), strict=True)


@pytest.fixture(scope="module")
def smoothed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    return gs.SmoothedClassifier(model, FAMILY, 4, batch_size=64, compile=False, channels_last=False, threads=1)


def certify(smoothed, images):
    return smoothed.certify_many(images, REGION, n0=10, n=50)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.numpy(),
        IMAGES.numpy().astype(">f4"),
        IMAGES.numpy()[:, :, :, ::-1].copy()[:, :, :, ::-1],  # strides that torch has not
        IMAGES.numpy().astype(np.float64),
        IMAGES.clone().requires_grad_(),
        IMAGES.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        list(IMAGES),
        [image.numpy() for image in IMAGES],
        [IMAGES[:2], IMAGES[2:]],
        [(IMAGES[:2], LABELS[:2]), [IMAGES[2:], LABELS[2:]]],
        (image for image in IMAGES),
        DataLoader(TensorDataset(IMAGES), batch_size=2),
        DataLoader(TensorDataset(IMAGES, LABELS), batch_size=2),
        DataLoader(TensorDataset(IMAGES, LABELS), batch_size=None),
        DataLoader(Stream(), batch_size=2),
        TensorDataset(IMAGES, LABELS),
        Pair(),
        Stream(),
    ],
    ids=lambda images: type(images).__name__,
)
def test_images_of_every_kind_are_the_same_images(smoothed, images):
    assert certify(smoothed, images) == certify(smoothed, IMAGES)


def test_one_image_is_an_array_or_a_tensor(smoothed):
    expected = smoothed.certify(IMAGES[1], REGION, n0=10, n=50, index=1)
    array = IMAGES[1].numpy()
    array.setflags(write=False)
    assert smoothed.certify(array, REGION, n0=10, n=50, index=1) == expected == certify(smoothed, IMAGES)[1]
    assert smoothed.certify(IMAGES[1].double(), REGION, n0=10, n=50, index=1) == expected
    assert smoothed.predict(array, n=50, index=1) == smoothed.predict(IMAGES[1], n=50, index=1)


WIDE = torch.rand(8, 9, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (WIDE, r"x has shape \(8, 9, 3\), .*\(H, W, C\).* x\.permute\(2, 0, 1\)"),
        (WIDE.numpy(), r"x has shape \(8, 9, 3\), .* x\.transpose\(2, 0, 1\)"),
        (WIDE[:, :, :1], r"x has shape \(8, 9, 1\), .* x\.permute\(2, 0, 1\)"),
        ((255 * IMAGES[0]).to(torch.uint8), r"x has dtype torch\.uint8; .* x\.float\(\) / 255"),
        ((255 * IMAGES[0]).to(torch.uint8).numpy(), r"x has dtype uint8; .* x\.astype\('float32'\) / 255"),
        (IMAGES[0].long(), r"x has dtype torch\.int64; .* / 255"),
        (IMAGES[0] > 0.5, r"x has dtype torch\.bool; .* x\.float\(\)$"),
        (torch.complex(IMAGES[0], IMAGES[0]), r"x has dtype torch\.complex64; .*real"),
        (IMAGES[0].numpy().astype(complex), r"x has dtype complex128; .*real"),
        (np.array([[["a"]]]), r"x has dtype <U1; .*floats in \[0, 1\]"),
        (255 * IMAGES[0], r"x has values in \[[\d.e-]+, 2\d\d.*\]; .* x / 255"),
        (2 * IMAGES[0] - 1, r"x has values in \[-.*\]; .*normalisation inside the model"),
        (IMAGES[0] * torch.nan, r"x has non-finite pixels; replace"),
        (IMAGES, r"x has shape \(5, 1, 8, 8\); give one image .* certify_many"),
        (IMAGES.numpy(), r"x has shape \(5, 1, 8, 8\); give one image .* certify_many"),
        (IMAGES[0, 0], r"x has shape \(8, 8\); .* x\[None\]"),
        (IMAGES[0].to_sparse(), r"x is a sparse tensor; .*to_dense"),
        (IMAGES[0].to("meta"), r"x lies on meta"),
    ],
)
def test_what_is_no_image_is_refused_with_the_fix(smoothed, image, message):
    for ask in (lambda: smoothed.certify(image, REGION), lambda: smoothed.predict(image)):
        with pytest.raises(UserError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[:0], r"images has shape \(0, 1, 8, 8\): .* no image"),
        ([IMAGES[:2], IMAGES[:0]], r"images\[2\].*no image"),
        ([IMAGES[0], IMAGES[1, :, 1:]], r"images\[1\] has shape \(1, 7, 8\), those before it \(1, 8, 8\); resize"),
        (IMAGES[0], r"images has shape \(1, 8, 8\); .*x\[None\].*certify"),
        (torch.rand(2, 8, 9, 3), r"images\[0\] has shape \(8, 9, 3\), .*x\.permute\(0, 3, 1, 2\)"),
        (np.random.default_rng(0).random((2, 8, 9, 3)), r"images\[0\].*x\.transpose\(0, 3, 1, 2\)"),
        ([IMAGES[0], (255 * IMAGES[1]).byte()], r"images\[1\] has dtype torch\.uint8"),
        ([IMAGES[0], IMAGES[1] * 255], r"images\[1\] has values in .*/ 255"),
        ([IMAGES[0], IMAGES[1] - torch.inf], r"images\[1\] has non-finite pixels"),
        ([[IMAGES[0], IMAGES[1]]], r"images\[0\]: .*labels.* shape \(1, 8, 8\)"),
        ([{"image": IMAGES[0]}], r"images\[0\] is a dict; .*\(images, labels\)"),
        ([object()], r"images\[0\] is a object; "),
        ({"a": IMAGES[0]}, r"images is a dict; "),
        (3, r"images is a int; "),
        ("folder", r"images is a str; .*"),
    ],
)
def test_what_are_no_images_is_refused_with_the_first_that_is_not(smoothed, images, message):
    with pytest.raises(UserError, match=message) as caught:
        certify(smoothed, images)
    assert "\n" not in str(caught.value)


def test_two_channels_are_no_mistake():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 5 * 3, 4))
    smoothed = gs.SmoothedClassifier(model, FAMILY, 4, batch_size=8, compile=False, channels_last=False, threads=1)
    assert smoothed.certify(torch.rand(2, 5, 3), REGION, n0=10, n=50).n == 50
