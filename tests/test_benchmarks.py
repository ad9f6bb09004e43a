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
