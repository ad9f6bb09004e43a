"""Benchmarks run, on little: what they print has its rows, and work that is not the same is not compared."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def rivals(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("rivals")


@pytest.fixture
def growth(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("growth")


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        return importlib.import_module("cluster")


@pytest.fixture(scope="module")
def table_1(cluster):
    """The rows of the paper's table, without published votes."""
    return cluster.rows([])


def printed(name, *keys):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, *keys],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(text):
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in cells if not set(row[0]) <= set("-:")]


def test_growth():
    shown = printed("growth.py", "parts=[images]", "images=[1,3]", "turns=1", "batch_size=16", "device=cpu")
    heading, *found = rows(shown)
    assert [(row[0], row[3]) for row in found] == [("1", "100"), ("3", "300")]  # n0 = 20, n = 80
    columns = heading.index("wall s"), heading.index("CPU s"), heading.index("network alone")
    assert all(float(row[column]) > 0 for row in found for column in columns)
    if sys.platform == "linux":
        # Of a batch of 16: a megabyte at least, and far from what importing took.
        assert all(1 < float(row[-1]) < 150 for row in found)
    assert "images × 3: CPU time × " in shown


def test_a_line_is_found_and_what_leaves_it(growth):
    x = [10, 20, 40, 80]
    fixed, each, error = growth.line(x, [0.5 + 0.25 * a for a in x])
    np.testing.assert_allclose([fixed, each], [0.5, 0.25], rtol=1e-9)
    assert error < 1e-9
    assert growth.line(x, [1e-3 * a**2 for a in x])[2] > 0.3


LITTLE = ["network=small_cnn", "size=16", "images=2", "n0=50", "n=100", "batch_sizes=[40]", "turns=1", "device=cpu"]


@pytest.fixture(scope="module")
def compared():
    """What benchmarks/rivals.py prints."""
    return printed("rivals.py", *LITTLE)


def test_rivals(compared):
    names = [row[0] for row in rows(compared) if row[0] != "loop" and "ART" not in row[0]]
    ours = ["glsmooth, with the measuring of its settings", "glsmooth, settings known"]
    noise, one_by_one = "CERTIFY, noise for a batch on the device", "CERTIFY, one image at a time on the CPU"
    assert names == [*ours, noise, *ours, one_by_one]
    assert compared.count("The others find the same classes") == 2
    # Passes a second are those of n0 + n draws for each image.
    for row in rows(compared):
        if row[0] != "loop":
            assert float(row[5].replace(",", "")) == pytest.approx(2 * 150 / float(row[2]), rel=0.6, abs=1)


def test_art_among_the_rivals(compared):
    if any(importlib.util.find_spec(name) is None for name in ("art", "statsmodels")):
        assert "pip install 'glsmooth[bench]'" in compared
        pytest.skip("IBM ART is not installed: pip install 'glsmooth[bench]'")
    assert [row[0] for row in rows(compared) if "ART" in row[0]] == [
        "IBM ART, all images in a call",
        "IBM ART, an image a call",
    ]


@pytest.mark.parametrize(
    ("mine", "other"), [((3, 90), (3, 90)), ((3, 90), (3, 80)), ((3, 68), (None, None)), ((3, 100), (3, 100))]
)
def test_votes_that_differ_by_chance_are_the_same_work(rivals, mine, other):
    rivals.check_same("a loop", rivals.Found(*mine), rivals.Found(*other), OmegaConf.create({"n": 100, "alpha": 1e-3}))


@pytest.mark.parametrize(
    ("mine", "other"), [((3, 90), (4, 90)), ((3, 90), (3, 50)), ((3, 70), (3, 100)), ((3, 98), (None, None))]
)
def test_other_work_is_not_compared(rivals, mine, other):
    cfg = OmegaConf.create({"n": 100, "alpha": 1e-3})
    with pytest.raises(SystemExit, match="a loop, image"):
        rivals.check_same("a loop, image 0", rivals.Found(*mine), rivals.Found(*other), cfg)


def test_shards_hold_whole_images_and_end_in_time(cluster):
    # Ten images of an hour each.
    for job_hours, jobs in ((10, 1), (9.9, 2), (5, 2), (4.9, 3), (3.4, 4), (1, 10)):
        assert cluster.certification(10, 36_000, 1, job_hours) == cluster.Work(10, jobs)
    with pytest.raises(SystemExit, match=r"job_hours=0\.9: not one image"):
        cluster.certification(10, 36_000, 1, 0.9)


def test_a_training_is_started_until_it_is_done(cluster):
    for job_hours, starts in ((5, 1), (4.9, 2), (2.5, 2), (2, 3)):
        assert cluster.training(36_000, 2, job_hours) == cluster.Work(5, starts)


def test_hours_are_rounded_up(cluster):
    assert [cluster.up(hours) for hours in (0.01, 0.1, 1.2, 1.21, 1234.5)] == ["0.1", "0.1", "1.2", "1.3", "1,234.5"]


def test_hours_on_several_gpus(cluster):
    works = [cluster.Work(6, 3), cluster.Work(3, 1), cluster.Work(1, 1)]
    assert [cluster.elapsed(works, gpus) for gpus in (1, 2, 3, 9)] == [10, 5, 4, 3]
    # Starts of one training follow each other.
    assert [cluster.elapsed(works, gpus, chain=True) for gpus in (1, 2, 9)] == [10, 6, 6]


@pytest.mark.parametrize(("images", "batch_size"), [(3, 64), (2, 1201), (1, 7)])
def test_passes_are_those_that_the_engine_counts(cluster, images, batch_size):
    counted = cluster.replayed(np.full(images, 0.9), cluster.FixedSample(), batch_size=batch_size)[1]
    assert cluster.fixed_passes(images, batch_size) == counted
    assert counted % batch_size == 0
    assert 0 <= counted - 1201 * images < batch_size


def test_rows_of_the_paper(table_1):
    assert [row.number for row in table_1] == list(range(1, 10))
    assert [row.like for row in table_1] == [None] * 8 + [8]  # gamma above and below 1: one law
    # By closed forms: a ratio of Rayleigh tails, for exponents of at most 2 and at least 1/2.
    assert [row.h_min for row in table_1[7:]] == pytest.approx([1 - 2**-4, 0.5**0.25], abs=1e-6)


def test_images_beyond_the_replay_count_as_those_in_it(cluster, table_1):
    row = table_1[0]._replace(rates=np.array([0.2, 0.99]))
    most = cluster.REPLAYED
    assert cluster.sequential_passes(row, 5 * most, 64, 0) == 5 * cluster.sequential_passes(row, most, 64, 0)


def test_no_image_takes_more_than_the_one_that_takes_most(cluster, table_1):
    h_min = table_1[1].h_min
    most = cluster.most_passes(h_min, 0)
    assert most < cluster.sequential(h_min).draws_range()[1]
    for rate in (0.5, h_min, 1.0):
        # Padding of the last batches is not in it.
        assert cluster.replayed(np.full(300, rate), cluster.sequential(h_min), batch_size=16)[1] / 300 < 1.1 * most


def test_totals_count_shared_votes_and_networks_once(cluster, table_1, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "sequential_passes", lambda row, images, batch_size, seed: images * row.number * 1000)
    cfg = OmegaConf.create({**cluster.DEFAULTS, "images": [256], "certify_rate": 100, "train_rate": 10, "gpus": 2})
    passes = cluster.passes_table(table_1, cfg)
    _, *found, total = rows(capsys.readouterr().out)
    assert [row[4] for row in found] == ["0.307"] * 8 + ["as row 8"]
    assert total[4:] == [f"{8 * 256 * 1201 / 1e6:.3f}", "≤ 11.520"]
    cluster.hours_table(table_1, passes, 180_000, cfg)  # five hours, twice what a job may last
    _, *found, total, over = rows(capsys.readouterr().out)
    assert [row[1] for row in found] == ["5.0 h, 2"] * 8 + ["as row 8"]
    assert total[1:] == ["40.0 h, 16", f"{cluster.up(8 * 256 * 1201 / 100 / 3600)} h, 8", "32.0 h, 13"]
    assert over[:2] == ["hours on 2 at once", "20.0"]


def test_a_row_of_records_has_at_most_the_bytes_that_are_said(cluster):
    row = "49999,999,999,200,1000,923,0.8935382616674469,999,1000,1000,1000,1,1,1,1\n"
    assert len(row) <= cluster.row_bytes() <= len(row) + 5  # digits of p_lower and of the count


def test_checkpoints_hold_weights_and_momentum(cluster):
    best, last = cluster.checkpoint_bytes()
    parameters = 4 * 25_557_032  # of a ResNet-50, in float32
    assert parameters < best < 1.01 * parameters
    assert 2 * parameters < last < 2.01 * parameters


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["certify_rat=3000"], "certify_rat: there is no such key"),
        (["certify_rate=3000"], "give both, or neither"),
        (["certify_rate=0", "train_rate=1"], "certify_rate=0: give a number above 0"),
        (["gpus=1.5"], r"gpus=1\.5: give a whole number"),
        (["images=500"], r"images=500: give a list"),
        (["images=[60000]"], "images=60000: there are 50,000"),
        (["seed=-1"], "seed=-1: give a whole number"),
    ],
)
def test_mistakes_in_settings_are_told(cluster, typed, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cluster.py", *typed])
    with pytest.raises(SystemExit, match=said):
        cluster.settings()


def test_outside_the_theorem(tmp_path):
    """Bright images lose what was clipped, and none of it where nothing is."""
    train = ["transform=brightness", "optimizer.epochs=1", "region.brightness=[0,0.9]", "dataset.image_size=[16,16]"]
    command = [sys.executable, "-m", "glsmooth", "train", *train, f"hydra.run.dir={tmp_path}", "trainer.progress=false"]
    subprocess.run([*command, "model.canonical=auto"], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    shown = printed("outside.py", f"checkpoints=[{tmp_path}/best.ckpt]", "images=100", "draws=3", "device=cpu")
    heading, row = rows(shown)
    assert row[0] == "brightness, small_cnn on canonical forms of brightness"
    shares = dict(zip(heading[1:], (float(cell.removesuffix(" %")) for cell in row[1:]), strict=True))
    # Invariant, so that every parameter finds the images right that were right before: in whole images.
    assert shares["as they are, at the worst"] == shares["as they are, on average"] == shares["untransformed"]
    assert shares["clipped, at the worst"] < shares["untransformed"] - 5
    assert shares["8 bits, at the worst"] <= shares["8 bits, on average"]


def test_votes_in_float32_are_those_in_float64_but_for_near_ties(tmp_path):
    train = ["transform=brightness", "optimizer.epochs=1", "dataset.image_size=[16,16]"]
    command = [sys.executable, "-m", "glsmooth", "train", *train, f"hydra.run.dir={tmp_path}", "trainer.progress=false"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    shown = printed("float64.py", f"checkpoints=[{tmp_path}/best.ckpt]", "images=5", "n=100", "device=cpu")
    _, (name, votes, differ, near, unseen, *_) = rows(shown)
    assert (name, votes, unseen) == ("brightness, small_cnn", "500", "0")
    assert int(differ) <= int(near) < 10


def test_a_table_of_nothing_says_so(tmp_path):
    heading, *found = rows(printed("table.py", "print=true", f"out={tmp_path}"))
    experiments = [path.stem for path in (BENCHMARKS.parent / "conf" / "experiment" / "cifar10").glob("*.yaml")]
    without_gamma = [name for name in experiments if "gamma" not in name]  # which one network for all does not undo
    assert sorted(row[0].strip("`") for row in found) == sorted(2 * experiments + without_gamma)
    assert {cell for row in found for cell in row[3:]} == {"not run"}
    assert len(heading) == len(found[0])
