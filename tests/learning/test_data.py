import gzip
import os
import resource
import struct
import tarfile
import zlib
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glsmooth.configuration.untrusted import Limits, using_limits
from glsmooth.errors import UserError
from glsmooth.learning import data as data_module
from glsmooth.learning.data import (
    Batches,
    Data,
    FolderImages,
    ResidentBatches,
    TensorImages,
    certification_images,
    images_asked,
    load_dataset,
    loader,
    pixel_batches,
    positions,
)
from glsmooth.learning.pixels import unit

CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10.tar.gz"


def fill(folder: Path, classes: dict[str, int], size=(10, 8), colour=True) -> Path:
    """Write random PNG images, ``classes[name]`` of them into folder/name."""
    rng = np.random.default_rng(len(str(folder)))
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            shape = (*size, 3) if colour else size
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_dataset({"name": "digits", "crop_padding": 2})


class TestDigits:
    def test_splits(self, digits):
        sizes = [len(split) for split in (digits.train, digits.val, digits.test)]
        assert sum(sizes) == 1797
        assert sizes[2] == pytest.approx(0.2 * 1797, abs=10)
        assert sizes[1] == pytest.approx(0.1 * 0.8 * 1797, abs=10)
        assert (digits.num_classes, digits.channels, digits.image_size) == (10, 1, (32, 32))

    def test_no_image_in_two_splits(self, digits):
        # The 1,797 digits are all different at 8x8, hence also enlarged.
        together = torch.cat([split.images for split in (digits.train, digits.val, digits.test)]).flatten(1)
        assert len(together.unique(dim=0)) == 1797

    def test_stratified(self, digits):
        counts = torch.bincount(digits.test.labels)
        assert counts.min() >= 34
        assert counts.max() <= 37

    def test_item(self, digits):
        image, label, index = digits.test[17]
        assert image.shape == (1, 32, 32)
        assert image.dtype == torch.float32
        assert isinstance(label, int)
        assert index == 17
        assert 0 <= image.min() < 0.1
        assert 0.9 < image.max() <= 1

    def test_same_seed_same_split(self, digits):
        assert torch.equal(load_dataset({"name": "digits"}).test.images, digits.test.images)
        other = load_dataset({"name": "digits", "split_seed": 1})
        assert not torch.equal(other.test.images, digits.test.images)

    def test_image_size(self):
        small = load_dataset({"name": "digits", "image_size": [16, 20]})
        assert small.val[0][0].shape == (1, 16, 20)
        assert small.image_size == (16, 20)

    def test_statistics(self, digits):
        images = torch.cat([split.images for split in (digits.train, digits.val, digits.test)]) / 255
        assert images.mean().item() == pytest.approx(digits.mean[0], abs=1e-3)
        assert images.std().item() == pytest.approx(digits.std[0], abs=1e-3)


class TestCertificationImages:
    def test_sorted_and_fixed_by_the_seed(self, digits):
        first = [index for _, _, index in certification_images(digits, 20, seed=0)]
        again = [index for _, _, index in certification_images(digits, 20, seed=0)]
        other = [index for _, _, index in certification_images(digits, 20, seed=1)]
        assert first == again == sorted(set(first))
        assert first != other

    def test_index_is_the_position_in_the_test_split(self, digits):
        image, label, index = certification_images(digits, 5, seed=3)[4]
        assert torch.equal(image, digits.test[index][0])
        assert label == digits.test[index][1]

    def test_null_is_all(self, digits):
        assert len(certification_images(digits)) == len(digits.test)

    def test_a_split_what_is_left_out_and_every_so_manieth(self, digits):
        def chosen(**fields):
            return positions(images_asked(digits, {"split": "val", **fields}))

        assert chosen(skip=3, every=10) == list(range(3, len(digits.val), 10))
        few = chosen(skip=3, every=10, subset=4)
        assert len(few) == 4
        assert set(few) < set(range(3, len(digits.val), 10))
        assert few == sorted(few)
        image, label, index = images_asked(digits, {"split": "train", "every": 7})[2]
        assert index == 14
        assert label == digits.train[14][1]
        assert torch.equal(image, digits.train[14][0])
        with pytest.raises(UserError, match=r"^skip=999: digits has \d+ validation images; give 0 to \d+$"):
            chosen(skip=999)
        with pytest.raises(UserError, match=r"validation images, of which skip=0 and every=40 leave 4; give 1 to 4"):
            chosen(every=40, subset=5)

    @pytest.mark.parametrize("subset", [0, 100_000])
    def test_impossible(self, digits, subset):
        with pytest.raises(UserError, match=rf"^subset={subset}: digits has \d+ test images"):
            certification_images(digits, subset)


class TestBatches:
    def test_in_order(self):
        assert list(Batches(5, 2)) == [[0, 1], [2, 3], [4]]
        assert len(Batches(5, 2)) == 3

    def test_shuffled_by_seed_and_epoch(self):
        batches = Batches(50, 8, shuffle_seed=0)
        first = list(chain(*batches))
        batches.set_epoch(1)
        second = list(chain(*batches))
        batches.set_epoch(0)
        assert list(chain(*batches)) == first
        assert sorted(first) == sorted(second) == list(range(50))
        assert first != second
        assert list(chain(*Batches(50, 8, shuffle_seed=1))) != first

    def test_processes_share_the_images(self):
        parts = [Batches(50, 8, shuffle_seed=0, rank=rank, world_size=3) for rank in range(3)]
        assert {len(part) for part in parts} == {2}
        assert len({i for part in parts for batch in part for i in batch}) == 48
        ordered = [Batches(50, 8, rank=rank, world_size=3) for rank in range(3)]
        assert sorted(i for part in ordered for batch in part for i in batch) == list(range(50))

    def test_loader_gives_ready_batches(self, digits):
        images, labels, indices = next(iter(loader(digits.test, Batches(len(digits.test), 7, shuffle_seed=0))))
        assert images.shape == (7, 1, 32, 32)
        for image, label, index in zip(images, labels, indices.tolist(), strict=True):
            assert torch.equal(image, digits.test[index][0])
            assert label == digits.test[index][1]


class TestPixelBatches:
    CPU = torch.device("cpu")

    def test_images_in_memory_come_as_they_are(self, digits):
        sampler = Batches(len(digits.test), 7, shuffle_seed=0)
        batches = pixel_batches(digits.test, sampler, 3, self.CPU)
        assert isinstance(batches, ResidentBatches)
        assert batches.images.data_ptr() == digits.test.images.data_ptr()  # no copy
        assert len(batches) == len(sampler) == len(list(batches))
        for (pixels, labels), index in zip(batches, sampler, strict=True):
            assert pixels.dtype == torch.uint8
            assert torch.equal(unit(pixels), digits.test[index][0])
            assert torch.equal(labels, digits.test.labels[index])

    def test_the_order_follows_the_epoch(self, digits):
        batches = pixel_batches(digits.test, Batches(len(digits.test), 50, shuffle_seed=0), 0, self.CPU)
        first, again = next(iter(batches))[1], next(iter(batches))[1]
        batches.sampler.set_epoch(1)
        assert torch.equal(first, again)
        assert not torch.equal(first, next(iter(batches))[1])

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_files_are_decoded_in_processes(self, tmp_path, num_workers):
        fill(tmp_path, {"a": 3, "b": 2})
        files = sorted(tmp_path.rglob("*.png"))
        lazy = FolderImages(files, torch.tensor([0, 0, 0, 1, 1]), (10, 8), (10, 8))
        (pixels, labels), (rest, _) = pixel_batches(lazy, Batches(5, 3), num_workers, self.CPU)
        assert pixels.dtype == rest.dtype == torch.uint8
        assert torch.equal(unit(pixels), lazy[[0, 1, 2]][0])
        assert labels.tolist() == [0, 0, 0]

    def test_one_image_of_sixteen_bits_widens_its_batch(self, tmp_path):
        for name, values in {"8": GREY8, "16": GREY16}.items():
            Image.fromarray(values).save(tmp_path / f"{name}.png")
        files = [tmp_path / "8.png", tmp_path / "16.png"]
        lazy = FolderImages(files, torch.tensor([0, 1]), (10, 8), (10, 8))
        ((pixels, _),) = pixel_batches(lazy, Batches(2, 2), 0, self.CPU)
        assert pixels.dtype == torch.int32
        for i in (0, 1):
            assert torch.equal(unit(pixels)[i], unit(lazy.decode(i)))

    @pytest.mark.parametrize(("dtype", "largest"), [(torch.uint8, 255), (torch.int32, 65535)])
    def test_every_value_is_the_nearest_to_its_fraction(self, dtype, largest):
        values = torch.arange(largest + 1, dtype=dtype)
        assert torch.equal(unit(values), (values.double() / largest).float())

    def test_images_that_a_gpu_has_no_room_for_stay_here(self, digits, monkeypatch):
        size = digits.test.images.nbytes
        for free, fits in ((4 * size, True), (4 * size - 4, False)):
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10 * free))
            assert data_module._fits(digits.test.images, torch.device("cuda")) is fits


class TestAugment:
    def test_crops_of_the_padded_image(self):
        rows, columns = torch.meshgrid(torch.arange(1.0, 7), torch.arange(1.0, 7), indexing="ij")
        image = torch.stack([rows, columns])  # every pixel knows where it was; 0 is padding
        augmenting = Data("x", ("a",), (6, 6), (0, 0), (1, 1), {}, crop_padding=2, flip=True)
        n = 2000
        batch = augmenting.augment(image.expand(n, -1, -1, -1), torch.Generator().manual_seed(0))
        assert batch.shape == (n, 2, 6, 6)
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        counts = {}
        for top in range(5):
            for left in range(5):
                crop = padded[:, top : top + 6, left : left + 6]
                counts[top, left, False] = (batch == crop).flatten(1).all(1).sum().item()
                counts[top, left, True] = (batch == crop.flip(-1)).flatten(1).all(1).sum().item()
        # 50 equally likely outcomes: every one within five standard deviations of n / 50, and nothing else.
        assert sum(counts.values()) == n
        assert max(abs(count - n / 50) for count in counts.values()) < 5 * (n / 50) ** 0.5

    def test_before_and_after_scaling_are_the_same(self, digits):
        pixels = digits.test.images[:50]
        before = unit(digits.augment(pixels, torch.Generator().manual_seed(0)))
        assert torch.equal(before, digits.augment(unit(pixels), torch.Generator().manual_seed(0)))

    def test_nothing_asked_nothing_done(self):
        images = torch.rand(3, 1, 6, 6)
        assert torch.equal(Data("x", ("a",), (6, 6), (0,), (1,), {}).augment(images), images)

    def test_seeded(self, digits):
        images = digits.test[[0, 1, 2]][0]
        first, second = (digits.augment(images, torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(first, second)
        assert first.shape == images.shape


class TestFolders:
    def test_one_folder_is_split(self, tmp_path):
        fill(tmp_path, {"cat": 20, "dog": 10})
        found = load_dataset({"name": "image_folder", "root": tmp_path, "image_size": [10, 8]})
        assert found.class_names == ("cat", "dog")
        assert [len(found.train), len(found.val), len(found.test)] == [21, 3, 6]
        assert found.test.labels.tolist() == [0] * 4 + [1] * 2
        together = torch.cat([split.images for split in (found.train, found.val, found.test)]).flatten(1)
        assert len(together.unique(dim=0)) == 30

    def test_train_and_test_folders(self, tmp_path):
        fill(tmp_path / "train", {"a": 10, "b": 10})
        fill(tmp_path / "test", {"a": 3, "b": 2})
        found = load_dataset({"name": "image_folder", "root": tmp_path, "image_size": [10, 8], "val_fraction": 0.2})
        assert [len(found.train), len(found.val), len(found.test)] == [16, 4, 5]
        pixels = np.array(Image.open(tmp_path / "test" / "b" / "001.png"))
        image, label, _ = found.test[4]
        assert label == 1
        assert np.array_equal((image.movedim(0, -1) * 255).round().numpy(), pixels)

    def test_validation_folder_of_its_own(self, tmp_path):
        for name, count in (("train", 4), ("val", 2), ("test", 3)):
            fill(tmp_path / name, {"a": count, "b": count})
        found = load_dataset({"name": "image_folder", "root": tmp_path, "image_size": [10, 8]})
        assert [len(found.train), len(found.val), len(found.test)] == [8, 4, 6]

    def test_imagenet_layout(self, tmp_path):
        fill(tmp_path / "train", {"n01": 4, "n02": 4}, size=(260, 300))
        fill(tmp_path / "val", {"n01": 1, "n02": 1}, size=(300, 260))
        found = load_dataset(
            {"name": "imagenet", "root": tmp_path, "val_fraction": 0.25, "flip": True, "crop_padding": 0}
        )
        assert [len(found.train), len(found.val), len(found.test)] == [6, 2, 2]
        assert found.test[0][0].shape == found.val[0][0].shape == (3, 224, 224)
        images, _, _ = found.train[[0, 1]]
        assert images.shape == (2, 3, 256, 256)
        assert found.augment(images).shape == (2, 3, 224, 224)
        assert torch.equal(found.to_certify("train")[1][0], found.train[1][0][:, 16:240, 16:240])
        whole = Image.open(tmp_path / "val" / "n01" / "000.png").resize((256, 295), Image.Resampling.BILINEAR)
        centre = np.array(whole.crop((16, 35, 240, 259)))
        assert np.array_equal((found.test[0][0].movedim(0, -1) * 255).round().numpy(), centre)

    def test_certifying_needs_no_training_images(self, tmp_path):
        fill(tmp_path / "test", {name: 1 for name in "abc"}, size=(32, 32))
        found = load_dataset({"name": "cifar10", "root": tmp_path})
        assert len(found.test) == 3
        with pytest.raises(UserError, match=r"^root=.*has no folder train/"):
            found.train  # noqa: B018

    def test_grey_folders(self, tmp_path):
        fill(tmp_path / "train", {str(i): 2 for i in range(10)}, size=(28, 28))
        fill(tmp_path / "test", {str(i): 1 for i in range(10)}, size=(28, 28), colour=False)
        found = load_dataset({"name": "mnist", "root": tmp_path, "val_fraction": 0.5})
        assert found.test[0][0].shape == found.train[0][0].shape == (1, 28, 28)

    def test_large_folders_are_decoded_when_read(self, tmp_path, monkeypatch):
        fill(tmp_path, {"a": 10, "b": 10})
        spec = {"name": "image_folder", "root": tmp_path, "image_size": [10, 8]}
        in_memory = load_dataset(spec).test
        monkeypatch.setattr(data_module, "_MEMORY_LIMIT", 100)
        lazy = load_dataset(spec).test
        assert isinstance(in_memory, TensorImages)
        assert isinstance(lazy, FolderImages)
        for ours, theirs in zip(lazy[[0, 3]], in_memory[[0, 3]], strict=True):
            assert torch.equal(ours, theirs)
        workers = loader(lazy, Batches(len(lazy), 3), num_workers=1)
        assert torch.equal(next(iter(workers))[0], in_memory[[0, 1, 2]][0])


GREY16 = np.linspace(0, 65535, 80).round().astype(np.uint16).reshape(10, 8)
GREY8 = np.linspace(0, 255, 80).round().astype(np.uint8).reshape(10, 8)


def one_file(folder: Path, image: Image.Image, name: str, **options) -> Path:
    """A folder of classes whose first test image is ``image``, beside ordinary ones."""
    fill(folder / "test", {"a": 0, "b": 2})
    image.save(folder / "test" / "a" / name, **options)
    return folder


class TestPixels:
    """What files of every kind become; the first image is the one under test."""

    def load(self, root: Path, **spec):
        return load_dataset({"name": "image_folder", "root": root, "image_size": [10, 8], **spec}).test

    @pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
    @pytest.mark.parametrize("in_memory", [True, False])
    def test_sixteen_bits(self, tmp_path, name, in_memory, monkeypatch):
        one_file(tmp_path, Image.fromarray(GREY16), name)
        if not in_memory:
            monkeypatch.setattr(data_module, "_MEMORY_LIMIT", 1000)  # holds them at 8 bits, not at 16
        test = self.load(tmp_path)
        assert isinstance(test, TensorImages) == in_memory
        image, label, _ = test[0]
        assert label == 0
        assert image.shape == (3, 10, 8)
        for channel in image:
            np.testing.assert_array_equal(channel.numpy(), (GREY16 / 65535).astype(np.float32))
        # Its neighbours keep their 8 bits, to the last one.
        for i in (1, 2):
            whole = np.array(Image.open(tmp_path / "test" / "b" / f"{i - 1:03}.png"))
            np.testing.assert_array_equal(test[i][0].movedim(0, -1).numpy(), whole.astype(np.float32) / 255)
        batch, _, _ = test[[0, 1]]
        assert torch.equal(batch[0], image)

    def test_sixteen_bits_in_grey(self, tmp_path):
        for part in ("a", "b", *map(str, range(8))):
            (tmp_path / "test" / part).mkdir(parents=True)
            big = Image.fromarray(np.kron(GREY16, np.ones((3, 4), dtype=np.uint16)))
            big.save(tmp_path / "test" / part / "x.png")
        found = load_dataset({"name": "mnist", "root": tmp_path}).test
        assert found[0][0].shape == (1, 28, 28)
        assert found[0][0].unique().numel() > 100
        assert found[0][0].max() > 0.9

    def test_resizing_keeps_sixteen_bits(self, tmp_path):
        one_file(tmp_path, Image.fromarray(np.kron(GREY16, np.ones((4, 4), dtype=np.uint16))), "x.png")
        image = self.load(tmp_path)[0][0][0].numpy()
        assert np.abs(image - GREY16 / 65535)[1:-1, 1:-1].max() < 0.01
        assert len(np.unique((image * 65535).round() % 257)) > 20  # more than 8 bits

    @pytest.mark.parametrize(
        ("mode", "name"),
        [
            ("1", "x.png"), ("L", "x.png"), ("P", "x.png"), ("RGB", "x.png"), ("RGBA", "x.png"), ("LA", "x.png"),
            ("CMYK", "x.tif"), ("YCbCr", "x.tif"), ("PA", "x.tif"), ("P", "x.gif"), ("L", "x.bmp"),
        ],
    )  # fmt: skip
    def test_other_kinds_of_pixels(self, tmp_path, mode, name):
        colours = np.stack([GREY8, 255 - GREY8, GREY8 // 2], axis=-1)
        picture = Image.fromarray(colours if mode not in ("1", "L", "LA") else GREY8)
        picture = picture.convert("P").convert("PA") if mode == "PA" else picture.convert(mode)
        wanted = np.array(picture.convert("RGB")) / 255
        image = self.load(one_file(tmp_path, picture, name))[0][0].movedim(0, -1).numpy()
        np.testing.assert_allclose(image, wanted, atol=1e-6)
        if mode not in ("1", "P", "PA"):
            expected = np.repeat(GREY8[..., None], 3, -1) if mode in ("L", "LA") else colours
            np.testing.assert_allclose(image, expected / 255, atol=3 / 255)

    @pytest.mark.parametrize(
        ("picture", "name", "options", "message"),
        [
            (Image.fromarray(GREY8.astype(np.float32)), "x.tif", {}, "mode F have no certain range"),
            (Image.fromarray(GREY8.astype(np.int32)), "x.tif", {}, "32-bit pixels have no certain range"),
            (Image.new("LAB", (8, 10)), "x.tif", {}, "mode LAB have no certain range"),
            (Image.new("RGBA", (8, 10), (9, 9, 9, 254)), "x.png", {}, "transparent in places"),
            (Image.new("LA", (8, 10), (9, 0)), "x.png", {}, "transparent in places"),
            (Image.fromarray(GREY8).convert("P"), "x.png", {"transparency": 255}, "transparent in places"),
            (Image.new("RGB", (8, 10)), "x.png", {"transparency": (0, 0, 0)}, "transparent in places"),
            (Image.fromarray(GREY16), "x.png", {"transparency": 0}, "16 bits and a transparent value"),
        ],
        ids=["F", "I", "LAB", "RGBA", "LA", "P", "RGB", "I;16"],
    )
    def test_pixels_without_a_certain_meaning_are_refused(self, tmp_path, picture, name, options, message):
        root = one_file(tmp_path, picture, name, **options)
        with pytest.raises(UserError, match=rf"^root: .*a/{name} is not a readable image .*{message}"):
            self.load(root)

    def test_a_transparent_value_that_no_pixel_has_is_nothing(self, tmp_path):
        root = one_file(tmp_path, Image.new("RGB", (8, 10), (9, 9, 9)), "x.png", transparency=(0, 0, 0))
        assert torch.equal(self.load(root)[0][0], torch.full((3, 10, 8), 9 / 255))


class TestMistakes:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ({"name": "mnits"}, r"^name='mnits' is not a dataset; did you mean 'mnist'"),
            ({"name": "cifar10"}, r"^root is not set: .*, e.g. root=data"),
            ({"name": "imagenet", "root": "nowhere"}, r"^root=nowhere: no such folder"),
            ({"name": "digits", "download": True}, r"^download=true: digits cannot be downloaded"),
            ({"name": "digits", "val_fraction": 1.0}, r"^val_fraction=1.0: must lie strictly between"),
            (
                {"name": "digits", "test_fraction": 1e-4},
                r"^test_fraction=0.0001: leaves a part without",
            ),
            (
                {"name": "mnist", "image_size": [32, 32]},
                r"^image_size=\[32, 32\]: images of mnist are",
            ),
            ({"name": "digits", "image_size": [32]}, r"^image_size=\[32\]: use \[height, width\]"),
        ],
    )
    def test_named(self, spec, message):
        with pytest.raises(UserError, match=message):
            load_dataset(spec)

    @pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
    def test_empty_root(self, tmp_path, name):
        with pytest.raises(UserError, match=rf"^root=.*: {name} is not there.* with download=true"):
            load_dataset({"name": name, "root": tmp_path}).test  # noqa: B018

    def test_folder_without_classes(self, tmp_path):
        fill(tmp_path, {"only": 2})
        with pytest.raises(UserError, match=r"^root: .* holds 1 class folders"):
            load_dataset({"name": "image_folder", "root": tmp_path})

    def test_class_without_images(self, tmp_path):
        fill(tmp_path, {"a": 2, "b": 0})
        with pytest.raises(UserError, match=r"^root: .*b holds no images"):
            load_dataset({"name": "image_folder", "root": tmp_path})

    def test_train_and_test_classes_differ(self, tmp_path):
        fill(tmp_path / "train", {"a": 1, "b": 1})
        fill(tmp_path / "test", {"a": 1, "c": 1})
        with pytest.raises(UserError, match=r"^root: the class folders of .*test differ"):
            load_dataset({"name": "image_folder", "root": tmp_path, "image_size": [10, 8]}).test  # noqa: B018

    def test_damaged_image(self, tmp_path):
        fill(tmp_path / "test", {"a": 1, "b": 1})
        (tmp_path / "test" / "b" / "000.png").write_bytes(b"not an image")
        with pytest.raises(UserError, match=r"^root: .*000.png is not a readable image"):
            load_dataset({"name": "image_folder", "root": tmp_path, "image_size": [10, 8]}).test  # noqa: B018


def test_mnist_in_torchvisions_files(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        images = struct.pack(">IIII", 0x803, count, 28, 28) + pixels.tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())
        for kind in ("images-idx3", "labels-idx1"):  # torchvision looks for either form
            (raw / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress((raw / f"{part}-{kind}-ubyte").read_bytes()))
    found = load_dataset({"name": "mnist", "root": tmp_path, "val_fraction": 0.25})
    assert [len(found.train), len(found.val), len(found.test)] == [30, 10, 20]
    image, label, _ = found.test[3]
    assert label == 3
    assert np.array_equal((image[0] * 255).round().numpy(), pixels[3])
    assert found.class_names == tuple("0123456789")


def test_cifar_in_torchvisions_files(tmp_path, monkeypatch):
    class Files:
        classes = ("plane", "ship")

        def __init__(self, root, train, download):
            count = 20 if train else 4
            self.data = np.random.default_rng(train).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            self.targets = [0, 1] * (count // 2)

    monkeypatch.setattr("torchvision.datasets.CIFAR100", Files)
    found = load_dataset({"name": "cifar100", "root": tmp_path})
    assert [len(found.train), len(found.val), len(found.test)] == [18, 2, 4]
    assert found.class_names == ("plane", "ship")
    image, label, _ = found.test[1]
    assert label == 1
    assert np.array_equal((image.movedim(0, -1) * 255).round().numpy(), Files(None, False, False).data[1])


@pytest.mark.skipif(not CIFAR10.is_file(), reason="needs the CIFAR-10 images")
def test_real_cifar10_as_folders(tmp_path):
    with tarfile.open(CIFAR10) as archive:
        wanted = [m for m in archive if m.isfile() and "/test/" in m.name and m.name.endswith("00.jpg")]
        archive.extractall(tmp_path, members=wanted, filter="data")
    found = load_dataset({"name": "cifar10", "root": tmp_path / "cifar10"})
    assert found.class_names[0] == "airplane"
    assert found.class_names[9] == "truck"
    assert len(found.test) == len(wanted) >= 100
    images = found.test.images / 255
    # A sample of the test images: their channel means scatter by about 0.13 each.
    assert images.mean((0, 2, 3)).tolist() == pytest.approx(found.mean, abs=4 * 0.13 * len(wanted) ** -0.5)


# Strangers' files


def png(width, height, content=b""):
    """A PNG of one grey channel that says so many pixels, and holds ``content`` for them."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content, 9)) + chunk(b"IEND", b"")
    )


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(touched) (w) file closefile\nshowpage\n"
HOSTILE = {
    "a long one": (
        png(10**6, 1, bytes(10**6 + 1)),
        r"resized would have 224000000x224 pixels, more than limits\.pixels",
    ),
    "144 megapixels": (png(12_000, 12_000), r"has 12000x12000 pixels, more than limits\.pixels=64000000"),
    "more than PIL takes": (png(2**31 - 1, 2**31 - 1), "has 2147483647x2147483647 pixels"),
    "a PNG that is a program": (EPS, "none of JPEG, PNG"),
    "cut short": (png(300, 300, bytes(100)), "not a readable image"),
    "empty": (b"", "none of JPEG, PNG"),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_an_image_unpacks_to_is_known_first(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "z.png").write_bytes(content)
    assert len(content) < 2000
    images = FolderImages([tmp_path / "z.png"], torch.zeros(1), (224, 224), (224, 224))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"^root: \S*z\.png .*{words}"):
        images.decode(0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    assert [path.name for path in tmp_path.iterdir()] == ["z.png"]
    assert Image.MAX_IMAGE_PIXELS is not None  # other programs keep PIL's limit


def test_the_limit_can_be_raised_beyond_pils(tmp_path, monkeypatch):
    (tmp_path / "z.png").write_bytes(png(400, 200, bytes(200 * 401)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with using_limits(Limits(pixels=79_999)):
        images = FolderImages([tmp_path / "z.png"], torch.zeros(1), (8, 8), (8, 8))
    with pytest.raises(UserError, match=r"400x200 pixels, more than limits\.pixels=79999; raise that"):
        images.decode(0)  # by the limit of its making, as in processes that load images
    with using_limits(Limits(pixels=80_000)):
        images = FolderImages([tmp_path / "z.png"], torch.zeros(1), (8, 8), (8, 8))
    assert images.decode(0).shape == (3, 8, 8)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_named(tmp_path, kind):
    file = tmp_path / "z.png"
    {"pipe": lambda: os.mkfifo(file), "folder": file.mkdir, "device": lambda: file.symlink_to("/dev/zero")}[kind]()
    images = FolderImages([file], torch.zeros(1), (8, 8), (8, 8))
    for read in (images.decode, images.digest):
        with pytest.raises(UserError, match=r"^root: \S*z\.png .*(not a regular file|Is a directory)"):
            read(0)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "digits", "image_size": [513, 512]}, "262144 pixels at most"),
        ({"name": "digits", "image_size": [10**9, 10**9]}, "262144 pixels at most"),
        ({"name": "image_folder", "root": ".", "image_size": [10**5, 10**5]}, "4194304 pixels at most"),
    ],
)
def test_sizes_that_no_network_takes_are_refused(spec, words):
    with pytest.raises(UserError, match=rf"^image_size=.*{words}"):
        load_dataset(spec)


IMAGES, LABELS = struct.pack(">IIII", 0x803, 2, 28, 28) + bytes(2 * 784), struct.pack(">II", 0x801, 2) + bytes(2)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (b"", LABELS),
        (b"\xff" * 100, LABELS),
        (IMAGES[:-1], LABELS),
        (struct.pack(">IIII", 0x803, 2**31, 28, 28) + bytes(784), LABELS),
        (struct.pack(">IIII", 0x803, 2, 14, 56) + bytes(2 * 784), LABELS),
        (struct.pack(">IIII", 0xD03, 2, 28, 28) + bytes(8 * 784), LABELS),
        (IMAGES, LABELS[:-1]),
        (IMAGES, struct.pack(">II", 0x801, 1) + bytes(1)),
        (IMAGES, LABELS[:-1] + b"\x0a"),
        (IMAGES, IMAGES),
        (struct.pack(">IIII", 0x803, 0, 28, 28), struct.pack(">II", 0x801, 0)),
    ],
)
def test_damaged_files_of_mnist_are_refused(tmp_path, images, labels):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(UserError, match=r"^root=\S*: .*damaged.*fetch"):
        load_dataset({"name": "mnist", "root": tmp_path}).test  # noqa: B018


def test_the_old_files_of_mnist_are_not_unpickled(tmp_path):
    (tmp_path / "MNIST" / "processed").mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(2, 28, 28, dtype=torch.uint8), torch.zeros(2)), tmp_path / "MNIST/processed" / name)
    with pytest.raises(UserError, match="mnist is not there or"):
        load_dataset({"name": "mnist", "root": tmp_path}).test  # noqa: B018


def test_a_hole_is_not_read(tmp_path):
    with (tmp_path / "z.webp").open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
        file.truncate(10**12)
    images = FolderImages([tmp_path / "z.webp"], torch.zeros(1), (8, 8), (8, 8))
    with pytest.raises(UserError, match=r"z\.webp is not a readable image \(it is larger than an image of"):
        images.decode(0)


def tiled(width, height):
    """A grey TIFF of 10 x 10 pixels in one compressed tile of this size."""
    data = zlib.compress(bytes(16 * 16))
    start = 8 + 2 + 10 * 12 + 4
    tags = [(256, 10), (257, 10), (258, 8), (259, 8), (262, 1), (277, 1), (322, width), (323, height)]
    tags += [(324, start), (325, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def test_a_tile_may_not_be_larger_than_an_image(tmp_path):
    images = FolderImages([tmp_path / "a.tif"], torch.zeros(1), (8, 8), (8, 8))
    (tmp_path / "a.tif").write_bytes(tiled(16, 16))
    assert images.decode(0).shape == (3, 8, 8)
    (tmp_path / "a.tif").write_bytes(tiled(16_384, 32_768))
    with pytest.raises(UserError, match=r"a\.tif .*its tiles have 16384x32768 pixels"):
        images.decode(0)


@pytest.mark.parametrize(("tag", "value"), [(258, 12), (262, 0)], ids=["12 bits", "white is zero"])
def test_sixteen_bits_of_another_meaning_are_refused(tmp_path, tag, value):
    Image.fromarray(np.full((8, 8), 4095, dtype=np.uint16)).save(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    before = struct.pack("<HHI", tag, 3, 1) + struct.pack("<H", {258: 16, 262: 1}[tag])
    assert content.count(before) == 1
    (tmp_path / "a.tif").write_bytes(content.replace(before, before[:-2] + struct.pack("<H", value)))
    images = FolderImages([tmp_path / "a.tif"], torch.zeros(1), (8, 8), (8, 8))
    with pytest.raises(UserError, match=r"a\.tif is not a readable image"):
        images.decode(0)


def test_a_hole_is_no_file_of_mnist(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(LABELS)
        with (raw / f"{part}-images-idx3-ubyte").open("wb") as file:
            file.truncate(10**12)
    with pytest.raises(UserError, match="larger than MNIST is"):
        load_dataset({"name": "mnist", "root": tmp_path}).test  # noqa: B018
