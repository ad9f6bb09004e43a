"""Rotation, scaling, 8 bits: train, certify, report and what else takes a run of them, on a few digits."""

import csv
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

import glsmooth as gs
from glsmooth.commands.plan import plan_of
from glsmooth.configuration.build import build_region
from glsmooth.errors import UserError
from glsmooth.learning.checkpoint import load_checkpoint
from glsmooth.learning.data import load_dataset
from glsmooth.report.page import write_report
from glsmooth.runs.own import remember
from glsmooth.runs.run import load_run
from tests.commands.conftest import run_main
from tests.pictures import rendered

CERTIFY = ("dataset.subset=8", "batch_size=64", "threads=1", "channels_last=false")


def rows(directory):
    with (directory / "records.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(directory, found):
    with (directory / "records.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, found[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network for digits that are turned a little and shifted in brightness, under much noise."""
    folder = tmp_path_factory.mktemp("trained")
    words = ("transform=rotation_brightness", "region.angle=[-6,6]", "region.brightness=[-0.1,0.1]", "seed=1")
    fast = ("optimizer.epochs=3", "loss=cross_entropy", "loss.pixel_noise=0.4", "trainer.precision=32-true")
    assert (
        run_main("train", *words, *fast, "trainer.num_threads=1", "trainer.progress=false", f"hydra.run.dir={folder}")
        == 0
    )
    return folder / "best.ckpt"


@pytest.fixture(scope="module")
def certified(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified")
    with rendered():
        assert run_main("certify", f"ckpt={trained}", *CERTIFY, f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture
def copied(certified, tmp_path):
    return shutil.copytree(certified, tmp_path / "copied")


def test_the_checkpoint_says_what_is_done(trained):
    checkpoint = load_checkpoint(trained)
    family = checkpoint.build_family()
    assert family.threat == gs.threats.Rotation(mask="disk")
    assert (family.name, family.pixel_noise) == ("rotation, then brightness", 0.4)
    assert checkpoint.region == {"angle": [-6, 6], "brightness": [-0.1, 0.1]}
    assert "round8" not in checkpoint.transform  # what is not done is not spoken of, as in older files


def test_rows_are_the_certificates_that_python_gives(trained, certified):
    checkpoint, run = load_checkpoint(trained), load_run(certified)
    classifier = gs.SmoothedClassifier(
        checkpoint.build_model(), run.family, 10, batch_size=256, threads=1, channels_last=False, compile=False
    )
    data = load_dataset({"name": "digits"})
    found = rows(certified)
    images = {index: image for image, _, index in data.test if str(index) in {row["index"] for row in found}}
    assert len(found) == len(images) == 8
    for row in found[:4]:
        index = int(row["index"])
        one = classifier.certify(images[index], run.region, index=index)
        assert (int(row["prediction"]), int(row["certified_neyman_pearson"])) == (one.prediction, one.certified)
        assert (int(row["n"]), int(row["count"]), float(row["p_lower"])) == (one.n, one.count, one.p_lower)
        shown = one.slicing.slices, one.slicing.tried, one.slicing.votes, one.slicing.residual
        assert (*(int(row[name]) for name in ("slices", "slices_tried", "votes")), float(row["residual"])) == shown
    certified_ones = [row for row in found if row["certified_neyman_pearson"] == "1"]
    assert 2 <= len(certified_ones) < 8
    assert all(row["slices"] == row["slices_tried"] for row in certified_ones)
    summary = json.loads((certified / "summary.json").read_text())
    assert summary["votes_used"] == sum(int(row["votes"]) for row in found)
    assert summary["monte_carlo"]["name"] == "sequential"
    # Joint: the brightness and what noise pays for.
    residual = summary["transform"]["residual"]
    scale = summary["smoothing"]["brightness"]["scale"]
    assert summary["methods"]["neyman_pearson"]["required_probability"] == pytest.approx(
        0.5 * (1 + math.erf(math.hypot(0.1 / scale, residual / 0.4) / math.sqrt(2))), abs=1e-6
    )


def test_a_killed_run_goes_on(trained, certified, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(certified, folder)
    whole = (folder / "records.csv").read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / "records.csv").write_bytes(b"".join(lines[:4]))
    (folder / "summary.json").unlink()
    remember([folder / "records.csv"])
    assert run_main("certify", f"ckpt={trained}", *CERTIFY, f"hydra.run.dir={folder}") == 0
    assert (folder / "records.csv").read_bytes() == whole


def test_the_report_speaks_of_slices_and_draws_no_other_regions(certified):
    table = (certified / "table.md").read_text()
    for words in ("angle in [−6, 6] degrees", "slices of the interval", "the inscribed disk is kept", "bilinear"):
        assert words in table
    assert not (certified / "cra_region.png").exists()
    assert (certified / "report.html").stat().st_size > 10_000


def test_votes_decide_smaller_regions_and_no_larger_ones(certified):
    run = load_run(certified)
    at = {name: build_region(run.summary.region | more, run.family.transform, run.family.threat) for name, more in {
        "smaller": {"angle": [-2, 5], "brightness": [-0.01, 0.01]}, "larger": {"angle": [-6, 7]},
    }.items()}  # fmt: skip
    assert (
        run.evaluate(at["smaller"], ["neyman_pearson"])["neyman_pearson"].h_min < run.outcomes["neyman_pearson"].h_min
    )
    with pytest.raises(UserError, match=r"region.angle=\[-6,7\]: votes were taken for \[-6,6\] alone"):
        run.evaluate(at["larger"], ["neyman_pearson"])


def test_an_image_whose_slices_were_not_all_tried_counts_for_no_region(certified):
    run = load_run(certified)
    stored = np.array([float(row["p_lower"]) for row in rows(certified)])
    untried = run.columns["slices_tried"] < run.columns["slices"]
    assert untried.any()
    assert not run.p_lower[untried].any()
    assert (run.p_lower[~untried] == stored[~untried]).all()


FORGED = [
    ("slices_tried", lambda row: str(int(row["slices"]) + 1), "of different runs"),
    ("slices_tried", lambda row: str(int(row["slices"]) - 1), "certified_neyman_pearson=1"),
    ("residual", lambda row: "0.9", "is more than transform.residual"),
    ("votes", lambda row: "3", "votes_used is"),
    ("slices", lambda row: "0", "of different runs"),
]


@pytest.mark.parametrize(("column", "value", "said"), FORGED)
def test_records_that_contradict_themselves_are_refused(copied, column, value, said):
    found = rows(copied)
    row = next(row for row in found if row["certified_neyman_pearson"] == "1")
    row[column] = value(row)
    write(copied, found)
    with pytest.raises(UserError, match=said):
        load_run(copied)


def test_a_summary_that_asks_for_less_is_refused(copied):
    summary = json.loads((copied / "summary.json").read_text())
    summary["transform"]["residual"] *= 0.9
    (copied / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"residual=.* is more than transform\.residual"):
        load_run(copied)


def test_slices_that_no_image_can_have_are_refused(copied):
    """Of an image that is not certified, with a summary that was changed likewise."""
    for column, value, said in (("slices", "0", "slices_tried="), ("votes", "1", "votes=1, but one slice took")):
        found = rows(copied)
        row = next(row for row in found if row["certified_neyman_pearson"] == "0")
        summary = json.loads((copied / "summary.json").read_text())
        if column == "votes":
            summary["votes_used"] -= int(row["votes"]) - 1
            summary["votes_per_image"] = summary["votes_used"] / len(found)
        row[column] = value
        folder = shutil.copytree(copied, copied.parent / column)
        write(folder, found)
        (folder / "summary.json").write_text(json.dumps(summary))
        with pytest.raises(UserError, match=said):
            load_run(folder)


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("attack", ("run={run}", "dataset.subset=2"), "attack searches parameters of transformations"),
        ("advise", ("ckpt={ckpt}",), "advise compares smoothing laws"),
        ("certify", ("ckpt={ckpt}", "monte_carlo=exhaustive"), "use sequential"),
        ("certify", ("ckpt={ckpt}", "monte_carlo.randomised=true"), "use sequential"),
        ("certify", ("ckpt={ckpt}", "pixel_noise=0"), "pixel_noise=0"),
        ("certify", ("ckpt={ckpt}", "region.angle=[-500,0]"), "region.angle=-500 must be within a turn"),
        ("certify", ("ckpt={ckpt}", "region.angle=[5,1]"), "region.angle=.* is inverted"),
        ("certify", ("ckpt={ckpt}", "region.scale=[0.9,1.1]"), "region.scale=.* is stray: rotation has"),
        ("certify", ("ckpt={ckpt}", "transform.residual=1e-9"), "residual=1e-09 must be above"),
        ("certify", ("ckpt={ckpt}", "transform.mask=disc"), "transform.mask='disc' is unknown"),
        ("report", ("runs=[{run}]", "figures=paper"), "nothing to draw over regions"),
        ("bounds", ("transform=brightness", "transform.round8=true"), "transform.residual is missing"),
        ("bounds", ("transform=rotation", "transform.round8=perhaps"), "transform.round8='perhaps' must be"),
    ],
)
def test_mistakes_are_named(elsewhere, call, trained, certified, command, words, said):
    status, streams = call(command, *(word.format(ckpt=trained, run=certified) for word in words))
    assert status == 2
    assert "Traceback" not in streams.err
    assert re.search(said, streams.err), streams.err


def test_the_second_program_says_that_it_cannot_tell(elsewhere, call, copied):
    status, streams = call("verify", copied)
    assert status == 3
    assert "glsmooth.threats.Rotation" in streams.out + streams.err


def test_a_dry_run_counts_slices(elsewhere, call, trained):
    status, streams = call("certify", f"ckpt={trained}", *CERTIFY, "dry_run=true")
    assert status == 0
    assert "slices an image, the mean of 4" in streams.out
    assert "at each reference of an image" in streams.err


def test_eight_bits_beside_a_transformation(elsewhere, call, trained, tmp_path):
    """The same network, certified for brightness alone whose results are saved with 8 bits."""
    words = ("transform=brightness", "transform.round8=true", "region.brightness=[-0.1,0.1]", *CERTIFY)
    status, streams = call("certify", f"ckpt={trained}", *words, f"hydra.run.dir={tmp_path / 'bits'}")
    assert status == 0, streams.err
    run = load_run(tmp_path / "bits")
    assert run.family.threat == gs.threats.Nearby(round8=True)
    assert run.family.residual == pytest.approx(32 / 510)
    assert "rounded to 8 bits" in (tmp_path / "bits" / "table.md").read_text()
    region = gs.Box(brightness=(-0.1, 0.1))
    assert run.outcomes["neyman_pearson"].h_min > gs.required_probability(run.family.exact, region) + 1e-3
    # A file that says less than the size of its images asks for is refused.
    summary = json.loads((tmp_path / "bits" / "summary.json").read_text())
    summary["transform"]["residual"] = 0.01
    (tmp_path / "bits" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"transform\.residual is 0\.01, but"):
        load_run(tmp_path / "bits")


def test_python_writes_the_same_run(trained, tmp_path):
    """From a family in Python to a directory that reports read."""
    checkpoint = load_checkpoint(trained)
    family = gs.SmoothedFamily(
        gs.transforms.Identity(), {}, (32, 32), pixel_noise=0.4, threat=gs.threats.Scaling(l2=0.01)
    )
    smoothed = gs.SmoothedClassifier(checkpoint.build_model(), family, 10, threads=1)
    data = load_dataset({"name": "digits"})
    images = torch.stack([data.test[i][0] for i in range(3)])
    labels = [data.test[i][1] for i in range(3)]
    region = gs.Box(scale=(0.95, 1.05))
    run = gs.certify_dataset(smoothed, (images, labels), region, directory=tmp_path, progress=False)
    again = load_run(tmp_path)
    assert again.family.threat == family.threat
    assert again.outcomes["neyman_pearson"].h_min == run.outcomes["neyman_pearson"].h_min
    assert write_report(tmp_path).is_file()


def test_a_sweep_over_regions_is_refused_before_the_first_training():
    words = ["transform=rotation", "dataset=digits", "region.angle=[-3,3],[-6,6]"]
    with pytest.raises(UserError, match="votes for rotation are taken at references for one region, and 2"):
        plan_of(words)
    with pytest.raises(UserError, match="is inverted"):  # other mistakes are named as ever
        plan_of([*words[:2], "region.angle=[3,-3]"])
