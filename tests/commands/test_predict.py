"""The predict command: the smoothed classifier's class of image files, or none."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import glsmooth as gs
from glsmooth.bounds.confidence import clopper_pearson_lower, clopper_pearson_upper
from glsmooth.commands.predict import interval
from glsmooth.learning.checkpoint import load_checkpoint
from glsmooth.learning.data import image_files, load_dataset
from glsmooth.smoothing import class_of

pytestmark = pytest.mark.usefixtures("elsewhere")

SETTLED = ("batch_size=64", "channels_last=false", "compile=false", "threads=1")
N, ALPHA = 60, 0.05


@pytest.fixture
def photos(elsewhere):
    """Five digits as files, one of them in a folder below, and a file that is no image."""
    images = load_dataset({"name": "digits"}).test
    (elsewhere / "photos" / "more").mkdir(parents=True)
    for i in range(5):
        name = f"more/{i}.png" if i == 4 else f"{i}.png"
        pixels = (images[i][0][0] * 255).byte().numpy()
        Image.fromarray(pixels).save(elsewhere / "photos" / name)
    (elsewhere / "photos" / "notes.txt").write_text("no image")
    return elsewhere / "photos"


@pytest.fixture
def predict(call, untrained):
    """``predict(arguments…)``: what was printed to standard output."""

    def predict_(*arguments):
        status, printed = call("predict", f"ckpt={untrained[0]}", f"n={N}", f"alpha={ALPHA}", *SETTLED, *arguments)
        assert status == 0, printed.err
        return printed.out

    return predict_


@pytest.fixture
def refused(call, untrained):
    """``refused(arguments…)``: the one line that says why predict does not run."""

    def refused_(*arguments):
        status, printed = call("predict", f"ckpt={untrained[0]}", "n=10", *SETTLED, *arguments)
        assert (status, printed.out) == (2, "")
        assert "Traceback" not in printed.err
        return printed.err.rstrip().splitlines()[-1]

    return refused_


def test_classes_are_those_of_the_smoothed_classifier(predict, photos, untrained, elsewhere):
    found = json.loads(predict("images=photos", "seed=3", "format=json"))
    assert [row["image"] for row in found] == ["0.png", "1.png", "2.png", "3.png", "more/4.png"]
    checkpoint = load_checkpoint(untrained[0])
    smoothed = gs.SmoothedClassifier(
        checkpoint.build_model(), checkpoint.build_family(), 10, batch_size=64, compile=False, channels_last=False
    )
    files = image_files(photos, "digits", tuple(checkpoint.image_size), 1)
    for i, row in enumerate(found):
        assert row["index"] == i
        assert row["prediction"] == smoothed.predict(files[i][0], n=N, alpha=ALPHA, seed=3, index=i)
        assert row["class"] == (None if row["prediction"] == -1 else str(row["prediction"]))
        assert row["n"] == N
        tail = ALPHA / 2 / 10
        assert row["p_lower"] == clopper_pearson_lower(row["votes"], N, tail)
        assert row["p_upper"] == clopper_pearson_upper(row["votes"], N, tail)
    (directory,) = (elsewhere / "outputs" / "predict").iterdir()
    with (directory / "predictions.csv").open() as stream:
        written = list(csv.DictReader(stream))
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in found] == written


def test_a_file_is_one_image_and_a_format_changes_no_result(predict, photos, elsewhere):
    (row,) = csv.DictReader(io.StringIO(predict(f"images={photos / '1.png'}", "format=csv")))
    assert row["image"] == "1.png"
    text = predict(f"images={photos / '1.png'}")
    assert text.startswith("| image | class | votes | probability |\n")
    assert f"{row['votes']} of {N}" in text
    assert f"each except with probability at most {ALPHA} for each image." in text
    assert len(list((elsewhere / "outputs" / "predict").iterdir())) == 1


def test_files_are_read_as_certify_reads_them(elsewhere):
    """Sizes, grey and colour, 16 bits: the same pixels as those of the data set."""
    generator = np.random.default_rng(0)
    for label in "ab":
        folder = elsewhere / "data" / "test" / label
        folder.mkdir(parents=True)
        (elsewhere / "data" / "train" / label).mkdir(parents=True)
        for i, (shape, dtype) in enumerate([((40, 20, 3), np.uint8), ((9, 30), np.uint8), ((30, 30), np.uint16)]):
            pixels = generator.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    data = load_dataset({"name": "image_folder", "root": str(elsewhere / "data"), "image_size": [16, 16]})
    loose = image_files(elsewhere / "data" / "test", "image_folder", (16, 16), 3)
    assert len(loose) == len(data.test) == 6
    for i in range(6):
        assert torch.equal(loose[i][0], data.test[i][0])
    # ImageNet's are cut out of a larger one.
    assert image_files(elsewhere / "data", "imagenet", (224, 224), 3).resize == (256, 256)


def test_it_abstains_as_predict_does():
    assert class_of(np.array([0, 1000, 0]), 0.001) == 1
    assert class_of(np.array([51, 49]), 0.001) == -1
    assert class_of(np.array([0, 0]), 0.001) == -1
    # Of 11 equal votes the binomial test has the p-value 2^-10, of 10 twice that.
    assert class_of(np.array([11, 0]), 0.001) == 0
    assert class_of(np.array([10, 0]), 0.001) == -1


def test_an_abstaining_image_has_no_class(predict, photos, monkeypatch):
    monkeypatch.setattr("glsmooth.commands.predict.class_of", lambda votes, alpha: -1)
    found = json.loads(predict("images=photos", "format=json"))
    assert {(row["prediction"], row["class"]) for row in found} == {(-1, None)}
    assert all(row["most_voted"] for row in found)
    assert f"abstains (most votes: {found[0]['most_voted']})" in predict("images=photos")


def test_the_interval_holds_for_the_class_that_leads():
    """Ten classes alike: the leader's own votes flatter it, which an interval of one class does not know."""
    n, alpha, trials = 40, 0.1, 2000
    votes = np.random.default_rng(0).multinomial(n, [0.1] * 10, trials)

    def covered(low, high):
        return low <= 0.1 <= high

    ours = np.mean([covered(*interval(row, n, alpha)) for row in votes])
    naive = np.mean(
        [
            covered(*(bound(int(row.max()), n, alpha / 2) for bound in (clopper_pearson_lower, clopper_pearson_upper)))
            for row in votes
        ]
    )
    noise = 4 * (alpha * (1 - alpha) / trials) ** 0.5
    assert ours > 1 - alpha - noise
    assert naive < 1 - alpha - noise


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["images=nowhere"], "images='nowhere' is no file and no folder"),
        (["images=empty"], "images: empty holds no images; give a file, or a folder with some"),
        (["images=broken.png"], "images: broken.png is not a readable image"),
        (["images=photos", "format=jsno"], "format='jsno' is not a choice; did you mean 'json'"),
        (["images=photos", "transform=brightness"], "the network was trained for glsmooth.transforms.Contrast"),
        (["images=photos", "limits.pixels=9"], "limits.pixels=9"),
        ([], "images"),
    ],
)
def test_a_mistake_is_named(refused, photos, elsewhere, arguments, words):
    (elsewhere / "empty").mkdir()
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert words in refused(*arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_mistake(refused, photos):
    words = refused(f"images={photos}", "trainer.accelerator=gpu")
    assert words.endswith("trainer.accelerator=gpu: there is no GPU here; set trainer.accelerator=cpu")
