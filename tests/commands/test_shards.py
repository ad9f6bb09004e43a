"""A certification that is split over jobs is, put together, the one that was not."""

import json
import shutil
import sys

import pytest

from glsmooth.commands import certify
from glsmooth.report import page
from glsmooth.report.tables import run_table
from glsmooth.runs.files import IDENTITY, IMAGES, RECORDS, SUMMARY, write_text

SMALL = ("monte_carlo.n0=8", "monte_carlo.n=32", "dataset.subset=10", "trainer.accelerator=cpu")


@pytest.fixture(scope="module")
def certified(untrained, tmp_path_factory):
    """A whole certification, and the same in three shards, without pictures."""
    folder = tmp_path_factory.mktemp("shards")

    def table_alone(run, out, region, outcomes, note="", drawn=None):
        write_text(out / "table.md", run_table(run, region, outcomes, note))
        return out / "report.html"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_run_report", table_alone)
        # In another order, and with other batches.
        for name, own in (
            ("whole", ()),
            *((str(i), (f"shard={i}/3", f"batch_size={8 * i + 8}")) for i in (2, 0, 1)),
        ):
            where = f"hydra.run.dir={folder / name}"
            patch.setattr(sys, "argv", ["certify", f"ckpt={untrained[0]}", *SMALL, where, *own])
            certify.main()
    return folder


@pytest.fixture
def copies(certified, tmp_path):
    for name in ("0", "1", "2"):
        shutil.copytree(certified / name, tmp_path / "sweep" / name)
    return tmp_path / "sweep"


def merged(out):
    (directory,) = (out / "shards").iterdir()
    return directory


def test_put_together_they_are_the_whole(certified, copies, elsewhere, call):
    status, said = call("report", copies, "hydra.run.dir=out")
    assert status == 0, said.err
    directory = merged(elsewhere / "out")
    for name in (RECORDS, IMAGES, IDENTITY):
        assert (directory / name).read_bytes() == (certified / "whole" / name).read_bytes(), name
    numbers, whole = (json.loads((path / SUMMARY).read_text()) for path in (directory, certified / "whole"))
    for changing in ("seconds_per_image", "invocation", "speed", "hardware"):
        del numbers[changing], whole[changing]
    assert numbers == whole
    assert numbers["shard"] is None
    assert said.out == (directory / "table.md").read_text()
    assert "shard" not in said.out
    assert (directory / "report.html").is_file()


def test_what_was_put_together_is_a_run(certified, untrained, copies, elsewhere, call):
    """report takes it, and certify finds it finished."""
    call("report", copies, "hydra.run.dir=out")
    directory = merged(elsewhere / "out")
    before = (directory / RECORDS).read_bytes()
    status, _ = call("certify", f"ckpt={untrained[0]}", *SMALL, f"hydra.run.dir={directory}")
    assert status == 0
    assert json.loads((directory / SUMMARY).read_text())["invocation"]["images"] == 0
    assert (directory / RECORDS).read_bytes() == before


def test_a_shard_says_that_it_is_one(copies):
    table = (copies / "1" / "table.md").read_text()
    assert "3 test images of shard 1/3" in table or "None of the 3 test images of shard 1/3" in table


@pytest.mark.parametrize("directories", [("sweep",), ("sweep/0", "sweep/1")])
def test_a_missing_shard_is_named(copies, elsewhere, call, directories):
    shutil.rmtree(copies / "2")
    status, said = call("report", *directories)
    assert status == 2
    assert "no result of shard 2/3" in said.err.splitlines()[-1]


def test_beside_another_run_the_missing_shard_is_in_the_table(certified, copies, elsewhere, call):
    shutil.rmtree(copies / "2")
    shutil.copytree(certified / "whole", copies / "whole")
    status, said = call("report", copies)
    assert status == 0, said.err
    assert "2/3" in said.out
    assert "unfinished" in said.out


def test_shards_of_other_draws_are_not_mixed(certified, untrained, copies, elsewhere, call):
    """Another seed, or another number of shards, is another certification."""
    shutil.rmtree(copies / "2")
    for name, changed in (("seed", ("shard=2/3", "seed=1")), ("four", ("shard=2/4",))):
        status, said = call("certify", f"ckpt={untrained[0]}", *SMALL, *changed, f"hydra.run.dir=sweep/{name}")
        assert status == 0, said.err
    status, said = call("report", copies)
    assert status == 2
    assert "no result of shard" in said.err.splitlines()[-1]


def test_a_copied_shard_is_refused(copies, elsewhere, call):
    """The images of shard 0 do not count twice, whatever its files say."""
    shutil.rmtree(copies / "2")
    shutil.copytree(copies / "0", copies / "2")
    for name in (SUMMARY, IDENTITY):
        file = copies / "2" / name
        file.write_text(file.read_text().replace("0/3", "2/3"))
    status, said = call("report", copies)
    assert status == 2
    assert "not the share that shard=2/3 has" in said.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("shard", "words"),
    [
        ("3/3", "shard='3/3' must be i/n"),
        ("-1/3", "must be i/n"),
        ("1", "must be i/n"),
        ("0/0", "must be i/n"),
        ("'a/b'", "must be i/n"),
        ("0/11", "there are 10 images"),
    ],
)
def test_mistakes(untrained, elsewhere, call, shard, words):
    status, said = call("certify", f"ckpt={untrained[0]}", *SMALL, f"shard={shard}")
    assert status == 2
    assert words in said.err.splitlines()[-1]
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("seed", ("seed=1",), "was certified with seed=0, this run has seed=1"),
        ("ckpt", (), "was certified with ckpt="),
        ("region", ("region.contrast=[0.95,1.05]",), "was certified with region.contrast="),
        ("alpha", ("monte_carlo.alpha=0.01",), "was certified with monte_carlo.alpha=0.001, this run has"),
    ],
)
def test_an_identity_that_was_put_beside_other_votes(copies, untrained, elsewhere, call, name, changed, words):
    """The summary of one shard would speak for votes of another kind."""
    network = untrained[1 if name == "ckpt" else 0]
    status, said = call("certify", f"ckpt={network}", *SMALL, *changed, "shard=2/3", "hydra.run.dir=other")
    assert status == 0, said.err
    identity = json.loads((copies / "2" / IDENTITY).read_text())
    shutil.rmtree(copies / "2")
    shutil.copytree("other", copies / "2")
    (copies / "2" / IDENTITY).write_text(json.dumps(identity))
    status, said = call("report", copies)
    assert status == 2
    assert words in said.err.splitlines()[-1]


def test_the_images_are_those_of_the_identity(copies, elsewhere, call):
    """An image of a share cannot vanish from both tables by hand."""
    content = json.loads((copies / "2" / IMAGES).read_text())
    (copies / "2" / IMAGES).write_text(json.dumps(content, indent=4))
    status, said = call("report", copies)
    assert status == 2
    assert "is not that of identity.json" in said.err.splitlines()[-1]
