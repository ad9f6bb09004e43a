"""``glsmooth verify`` as a user types it, and what the report says of it afterwards."""

import json
import shutil

import pytest

from .conftest import run_main


@pytest.fixture
def glsmooth(call):
    """A command: its status, output and messages."""

    def glsmooth_(*arguments):
        status, (output, messages) = call(*arguments)
        return status, output, messages

    return glsmooth_


@pytest.fixture(scope="module")
def certified(untrained, tmp_path_factory):
    """A certified run of an untrained network, whose class is nearly always the same."""
    out = tmp_path_factory.mktemp("certified") / "run"
    run_main(
        "certify", f"ckpt={untrained[0]}", "dataset.subset=4", "monte_carlo.n0=10", "monte_carlo.n=100",
        "region.contrast=[0.98,1.02]", f"hydra.run.dir={out}",
    )  # fmt: skip
    return out


@pytest.fixture
def run(certified, tmp_path):
    return shutil.copytree(certified, tmp_path / "run")


def test_a_run_is_proved_checked_and_said_so(run, tmp_path, glsmooth):
    report = ["report", run, f"hydra.run.dir={tmp_path / 'report'}"]
    assert "independent checker" not in glsmooth(*report)[1]
    status, output, messages = glsmooth("verify", run)
    assert status == 0, output
    assert output.splitlines()[-1].strip() == "verified"
    assert "proof.json written" in messages
    assert "Verified by an independent checker" in glsmooth(*report)[1]
    assert "Verified by an independent checker" in (run / "report.html").read_text()
    # Another region is another claim, and other bytes are other files.
    assert "independent checker" not in glsmooth(*report, "region.contrast=[0.95,1.1]")[1]
    before = (run / "proof.json").read_text()
    (run / "proof.json").write_text(before + " ")
    assert "independent checker" not in glsmooth(*report)[1]
    (run / "proof.json").write_text(before)
    assert "independent checker" in glsmooth(*report)[1]
    # The proof that is there is taken.
    assert "written" not in glsmooth("verify", run)[2]
    # One of another region is not.
    proof = json.loads(before)
    (run / "proof.json").write_text(json.dumps(proof | {"region": {"contrast": [1, 1]}}))
    status, _, messages = glsmooth("verify", run)
    assert (status, "written" in messages) == (0, True)


def test_a_certificate_that_was_changed_fails(run, glsmooth):
    lines = (run / "records.csv").read_text().splitlines()
    header = lines[0].split(",")
    cells = lines[1].split(",")
    cells[header.index("count")] = "40"
    (run / "records.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    status, output, _ = glsmooth("verify", run)
    assert status == 1
    assert "does not follow from 40 of 100" in output


def test_draws_on_a_grid_are_certified_and_checked(untrained, tmp_path, glsmooth):
    """Sequential votes as well: their records say on which look each bound rests."""
    out = tmp_path / "grid"
    run_main(
        "certify", f"ckpt={untrained[0]}", "dataset.subset=4", "monte_carlo=sequential", "draws=grid",
        "region.contrast=[0.98,1.02]", f"hydra.run.dir={out}",
    )  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    assert summary["draws"] == "grid"
    assert "on the grid" in summary["methods"]["neyman_pearson"]["argument"]
    assert "look_count,look_n" in (out / "records.csv").read_text().splitlines()[0]
    assert " on the grid of the draws" in (out / "table.md").read_text()
    assert "powers of 2^(1/" in (out / "table.md").read_text() + (out / "report.html").read_text()
    status, output, _ = glsmooth("verify", out)
    assert status == 0, output
    assert "the grid of the draws, which cost 1e-07 more" in output
    assert "4 of 4 p_lower follow" in output
    # The report counts again, by the same look.
    lines = (out / "records.csv").read_text().splitlines()
    cells = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    cells["look_count"] = cells["look_n"] = "5"
    (out / "records.csv").write_text("\n".join([lines[0], ",".join(cells.values()), *lines[2:]]) + "\n")
    status, _, messages = glsmooth("report", out, f"hydra.run.dir={tmp_path / 'report'}")
    assert status != 0
    assert "but count=5 of n=5" in messages


def test_a_law_without_a_grid_is_refused_before_the_first_vote(untrained, tmp_path, glsmooth):
    status, _, messages = glsmooth(
        "certify", f"ckpt={untrained[0]}", "transform=contrast_brightness", "draws=grid", f"hydra.run.dir={tmp_path}/x"
    )
    assert status != 0
    assert "draws=grid: contrast of contrast_brightness" in messages
    assert not (tmp_path / "x" / "records.csv").exists()


def test_several_runs_and_a_folder_of_them(run, glsmooth):
    shutil.copytree(run, run.parent / "other")
    status, output, _ = glsmooth("verify", run.parent)
    assert (status, output.count("  verified")) == (0, 2)


def test_a_proof_that_stands_alone(tmp_path, glsmooth):
    file = tmp_path / "a proof.json"
    status, _, messages = glsmooth(
        "bounds", "transform=gamma", f"proof={file}", f"hydra.run.dir={tmp_path / 'out'}", "format=json"
    )
    assert status == 0
    assert "check it with glsmooth verify" in messages
    assert glsmooth("verify", file)[0] == 0
    proof = json.loads(file.read_text())
    file.write_text(json.dumps(proof | {"required_probability": proof["required_probability"] - 1e-6}))
    status, output, _ = glsmooth("verify", file)
    assert (status, "WRONG" in output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "'nowhere' does not exist"),
        (["second=3", "."], "second: verify has no such setting; did you mean 'seconds'"),
        (["seconds=soon", "."], "seconds=soon is not a number of seconds"),
        (["seconds=5"], "name a directory that certify wrote"),
        (["."], "is no run and holds no finished run"),
    ],
)
def test_mistakes(arguments, words, tmp_path, monkeypatch, glsmooth):
    monkeypatch.chdir(tmp_path)
    status, _, messages = glsmooth("verify", *arguments)
    assert status == 2
    assert words in messages


def test_help(glsmooth):
    for arguments in ((), ("--help",), ("-h",)):
        status, output, _ = glsmooth("verify", *arguments)
        assert (status, output.startswith("Check certification runs")) == (0, True)


def test_a_transformation_without_a_proof_says_so(tmp_path, glsmooth):
    status, _, messages = glsmooth(
        "bounds", "transform=contrast_brightness", "smoothing.brightness={law:Rayleigh,scale:0.4,loc:null}",
        f"proof={tmp_path / 'p.json'}", f"hydra.run.dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert status == 2
    assert "no proof can be written" in messages
