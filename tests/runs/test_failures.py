"""A sweep's folder: which runs it holds, whoever made it."""

import os

import pytest

from glsmooth.errors import UserError
from glsmooth.runs import failures
from glsmooth.runs.failures import find_runs


def make(folder, *files):
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("")
    return str(folder)


def test_a_folder_stands_for_the_runs_in_it(tmp_path):
    sweep = tmp_path / "sweep"
    runs = [make(sweep / name, "summary.json", "records.csv", "config.yaml") for name in ("b", "a", "10")]
    make(sweep / "killed", "records.csv")
    make(sweep / "begun", "config.yaml")
    make(sweep / ".submitit", "log.txt")
    make(sweep / "deep" / "er", "summary.json", "records.csv")
    (sweep / "multirun.yaml").write_text("")
    alone = make(tmp_path / "alone", "summary.json", "records.csv")
    found, unfinished = find_runs([alone, str(sweep)])
    assert found == [alone, *sorted(runs)]
    assert [(failure.job, failure.state) for failure in unfinished] == [
        ("begun", "unfinished"),
        ("killed", "unfinished"),
    ]


def test_what_is_a_run_or_nothing_is_left_to_its_reader(tmp_path):
    unfinished = make(tmp_path / "unfinished", "records.csv")
    paths = [unfinished, str(tmp_path / "nowhere")]
    assert find_runs(paths) == (paths, [])


@pytest.mark.parametrize("begun", [0, 2])
def test_a_folder_without_a_finished_run_is_refused(tmp_path, begun):
    for number in range(begun):
        make(tmp_path / "sweep" / str(number), "records.csv")
    (tmp_path / "sweep").mkdir(exist_ok=True)
    words = "only 2 unfinished" if begun else "no finished run"
    with pytest.raises(UserError, match=rf"runs: .*sweep' is no run and holds {words}; give directories"):
        find_runs([str(tmp_path / "sweep")])


def test_a_folder_of_trainings_is_told_from_one_of_certifications(tmp_path):
    make(tmp_path / "train" / "run", "summary.json", "config.yaml", "best.ckpt")
    with pytest.raises(UserError, match=r"runs: .*train' holds networks that train wrote; give .* outputs/certify"):
        find_runs([str(tmp_path / "train")])


def test_links_lead_nowhere(tmp_path):
    outside = tmp_path / "outside"
    make(outside, "summary.json", "records.csv")
    sweep = tmp_path / "sweep"
    run = make(sweep / "run", "summary.json", "records.csv")
    (sweep / "linked").symlink_to(outside)
    (sweep / "round").symlink_to(sweep)
    for name in ("summary.json", "records.csv", "figure1.npz"):
        folder = sweep / f"with {name}"
        make(folder, *({"summary.json", "records.csv"} - {name}))
        (folder / name).symlink_to(outside / name)
    found, unfinished = find_runs([str(sweep)])
    assert found == [run]
    assert len(unfinished) == 3
    assert all("is a symbolic link" in failure.reason for failure in unfinished)


def test_pipes_are_no_files(tmp_path):
    folder = tmp_path / "sweep" / "run"
    folder.mkdir(parents=True)
    for name in ("summary.json", "records.csv", "config.yaml"):
        os.mkfifo(folder / name)
    with pytest.raises(UserError, match="holds no finished run"):
        find_runs([str(tmp_path / "sweep")])


def test_endless_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "_MOST_ENTRIES", 3)
    for number in range(4):
        make(tmp_path / "sweep" / str(number), "summary.json", "records.csv")
    with pytest.raises(UserError, match="has more than 3 entries"):
        find_runs([str(tmp_path / "sweep")])


def test_unreadable_folders_are_named(tmp_path, monkeypatch):
    (tmp_path / "sweep").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"sweep' cannot be read \(Permission denied\)"):
        find_runs([str(tmp_path / "sweep")])
