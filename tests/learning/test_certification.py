"""Certification runs: progress on disk, real deaths, several processes."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from glsmooth import laws
from glsmooth.bounds import Outcome
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.certification import CertificationModule, Options, take_votes
from glsmooth.runs import records
from glsmooth.smoothing import Verdict
from glsmooth.transforms import Brightness
from glsmooth.voting.procedures import FixedSample, Tally
from tests.learning.interrupted_certification import IMAGES, Images, Slow, certify

SCRIPT = Path(__file__).with_name("interrupted_certification.py")


def rows_of(directory):
    with (directory / "records.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def run_script(*arguments):
    result = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("procedure", ["paper", "sequential", "exhaustive"])
def test_killed_runs_end_with_the_same_bytes(tmp_path, procedure):
    deaths = [int(rows) for rows in run_script("kill", tmp_path, procedure, 8).split()]
    # Deaths before, during and after the votes; else the test did not test.
    assert any(0 < rows < IMAGES for rows in deaths)


def test_two_processes_lose_and_double_nothing(tmp_path):
    run_script("ranks", tmp_path, "sequential")


def test_a_mistake_in_another_process_arrives_as_the_user_error_that_it_was(tmp_path):
    (line,) = run_script("mistake", tmp_path, "paper").splitlines()
    assert re.fullmatch(r"UserError: image \d+: its label \d is outside the model's 3 classes; certify .*", line)


def test_a_finished_run_takes_no_more_votes(tmp_path):
    first = certify(tmp_path, 1, "paper")
    assert first["images"] == IMAGES
    # Batches of 8, all full but for the last: 10 + 40 votes and the image itself.
    assert first["evaluations"] == -(-IMAGES * 51 // 8) * 8
    content = (tmp_path / "records.csv").read_bytes()
    again = certify(tmp_path, 1, "paper")
    assert (again["images"], again["evaluations"]) == (0, 0)
    assert (tmp_path / "records.csv").read_bytes() == content
    rows = rows_of(tmp_path)
    assert [int(row["index"]) for row in rows] == [10 * i for i in range(IMAGES)]
    for row in rows:
        assert row["certified_neyman_pearson"] == str(int(float(row["p_lower"]) > 0.6))
        assert row["certified_mp"] == "0"
        assert (row["n0"], row["n"]) == ("10", "40")


def test_what_a_killed_invocation_left_is_not_counted(tmp_path):
    leftovers = ["evaluations.rank0", "evaluations.rank7", ".evaluations.rank0.x.part", ".summary.json.x.part"]
    for name in leftovers:
        (tmp_path / name).write_text("99" if name == "evaluations.rank7" else "")
    assert certify(tmp_path, 1, "paper")["evaluations"] == -(-IMAGES * 51 // 8) * 8
    assert not {path.name for path in tmp_path.iterdir()} & set(leftovers)


def test_base_predictions_are_those_of_the_images(tmp_path):
    certify(tmp_path, 1, "paper")
    images, _, _ = Images()[list(range(IMAGES))]
    with torch.no_grad():
        expected = Slow()(images).argmax(1).tolist()
    assert [int(row["base_prediction"]) for row in rows_of(tmp_path)] == expected


def module(images, directory, classes=3):
    family = SmoothedFamily(Brightness(), {"brightness": laws.Normal(0.0, 0.5)})
    return CertificationModule(
        Slow(),
        family,
        FixedSample(5, 20),
        classes,
        images,
        [0, 10],
        {"neyman_pearson": Outcome(0.6, None, "neyman_pearson")},
        Options(),
        directory,
        progress=False,
    )


def trainer():
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def votes(module):
    with records.Records(module.directory, {}, module.columns) as held:
        return take_votes(trainer(), module, held)


@pytest.mark.parametrize(
    ("label", "pixel", "message"),
    [(3, 0.5, "image 10: its label 3 is outside the model's 3 classes"), (-1, 0.5, "image 10: its label -1"),
     (0, 1.5, r"image 10 has values in \[1.5, 1.5\]"), (0, float("nan"), "image 10 has non-finite pixels")],
)  # fmt: skip
def test_bad_items_are_named_by_image(tmp_path, label, pixel, message):
    class Bad(Images):
        def __getitem__(self, position):
            images, labels, indices = super().__getitem__(position)
            return (
                torch.where(indices[:, None, None, None] == 10, torch.tensor(pixel), images),
                torch.where(indices == 10, label, labels),
                indices,
            )

    with pytest.raises(ValueError, match=message):
        votes(module(Bad(), tmp_path))


def test_a_model_with_other_classes_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"image 0: the model returned shape \(1, 3\) .* \(1, 5\)"):
        votes(module(Images(), tmp_path, classes=5))


def test_a_row_certifies_strictly_above_the_required_probability():
    tally = Tally(7, 3)
    tally.selection[1] = 5
    outcomes = {name: Outcome(h, None, "gl") for name, h in {"a": 0.75, "b": 0.7499, "c": None, "d": 1.0}.items()}
    outcomes["e"] = Outcome(0.6, None, "gl", sound=False)
    verdict = Verdict(tally, 1, 0.75, {name: outcome.certifies(0.75) for name, outcome in outcomes.items()})
    written = records.row(verdict, 1)
    assert list(written) == records.columns(["a", "b", "c", "d", "e"], coin=True, look=True)
    assert records.columns(["a"]) == [name for name in records.columns(["a"], coin=True) if name != "coin"]
    assert [written[f"certified_{m}"] for m in "abcde"] == [False, True, False, False, False]
    assert (written["index"], written["label"], written["prediction"], written["base_prediction"]) == (7, 1, 1, -1)
