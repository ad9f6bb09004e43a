"""Records: whatever happens to the process or the disk, the file is whole and the run goes on."""

import csv
import multiprocessing
import os
import resource
import signal

import pytest

from glsmooth.errors import UserError
from glsmooth.runs.records import Records, RecordWriter, part_path

COLUMNS = ("index", "label", "p_lower")
HEADER = b"index,label,p_lower\n"
IDENTITY = {"seed": 0, "monte_carlo.n": 1000, "monte_carlo.alpha": 1e-3}


def row(index):
    return {"index": index, "label": index % 3, "p_lower": 1 / (index + 3)}


def rows(directory):
    with (directory / "records.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def in_another_process(function):
    """What ``function`` returns, or the message of its UserError, in a forked process."""

    def body(connection):
        try:
            connection.send(function())
        except UserError as error:
            connection.send(str(error))

    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=body, args=(theirs,))
    process.start()
    result = ours.recv()
    process.join()
    return result


def test_rows_are_written_exactly(tmp_path):
    records = Records(tmp_path, IDENTITY, COLUMNS)
    writer = RecordWriter(records.path, COLUMNS)
    writer.append([row(0), row(1)])
    writer.append([])
    writer.append([row(4)])
    # On disk before close.
    assert records.path.read_bytes() == HEADER + b"0,0,0.3333333333333333\n1,1,0.25\n4,1,0.14285714285714285\n"
    writer.close()
    records.merge()
    assert records.finished == {0, 1, 4}
    assert [float(r["p_lower"]) for r in rows(tmp_path)] == [1 / 3, 1 / 4, 1 / 7]
    records.close()


def test_a_torn_last_line_is_cut_off_wherever_it_tore(tmp_path):
    path = tmp_path / "records.csv"
    whole = HEADER + b"0,0,0.5\n12,0,0.25\n"
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        writer = RecordWriter(path, COLUMNS)
        kept = path.read_bytes()
        writer.append([row(7)])
        writer.close()
        lines = max(1, whole[:length].count(b"\n"))
        assert kept == b"".join(whole.splitlines(keepends=True)[:lines])
        assert path.read_bytes() == kept + b"7,1,0.1\n"


def test_other_damage_is_refused(tmp_path):
    path = tmp_path / "records.csv"
    path.write_bytes(HEADER + b"0,0,0.5\n1,\n2,0,0.5\n")
    with pytest.raises(UserError, match="line 3 is damaged"):
        RecordWriter(path, COLUMNS)
    path.write_bytes(b"index,label\n0,0\n")
    with pytest.raises(UserError, match="other columns"):
        RecordWriter(path, COLUMNS)


def test_a_second_process_is_refused_and_a_dead_one_is_not(tmp_path):
    records = Records(tmp_path, IDENTITY, COLUMNS)
    message = in_another_process(lambda: Records(tmp_path, IDENTITY, COLUMNS).path.name)
    assert "another process is writing here" in message
    assert str(tmp_path) in message
    records.close()
    assert in_another_process(lambda: Records(tmp_path, IDENTITY, COLUMNS).path.name) == "records.csv"
    Records(tmp_path, IDENTITY, COLUMNS).close()  # that process ended without closing


def test_a_part_in_use_by_an_orphan_is_refused(tmp_path):
    Records(tmp_path, IDENTITY, COLUMNS).close()
    writer = RecordWriter(part_path(tmp_path, 1, 2), COLUMNS)
    assert "another process is writing here" in in_another_process(lambda: Records(tmp_path, IDENTITY, COLUMNS))
    writer.close()


def test_another_configuration_does_not_mix(tmp_path):
    Records(tmp_path, IDENTITY, COLUMNS).close()
    Records(tmp_path, IDENTITY, COLUMNS).close()
    with pytest.raises(UserError, match=r"monte_carlo\.n=1000, this run has monte_carlo\.n=500; .*run\.dir"):
        Records(tmp_path, {**IDENTITY, "monte_carlo.n": 500}, COLUMNS)
    with pytest.raises(UserError, match=r"no precision stated, this run has precision=32"):
        Records(tmp_path, {**IDENTITY, "precision": "32"}, COLUMNS)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_parts_merge_into_one_file_in_order(tmp_path, ranks):
    order = [3, 5, 8, 13, 21, 34, 55]
    records = Records(tmp_path, IDENTITY, COLUMNS)
    for rank in reversed(range(ranks)):
        writer = RecordWriter(part_path(tmp_path, rank, ranks), COLUMNS)
        writer.append([row(index) for index in order[rank::ranks]])
        writer.close()
    records.merge(order)
    records.close()
    expected = "".join(f"{i},{i % 3},{1 / (i + 3)!r}\n" for i in order)
    assert (tmp_path / "records.csv").read_bytes() == HEADER + expected.encode()
    assert not list(tmp_path.glob("records.rank*"))


def test_a_merge_that_was_cut_short_doubles_nothing(tmp_path):
    """Killed after records.csv was replaced and before the parts were removed."""
    Records(tmp_path, IDENTITY, COLUMNS).close()
    for path in (tmp_path / "records.csv", part_path(tmp_path, 0, 2)):
        writer = RecordWriter(path, COLUMNS)
        writer.append([row(0), row(2)])
        writer.close()
    records = Records(tmp_path, IDENTITY, COLUMNS)
    records.close()
    assert records.finished == {0, 2}
    assert [r["index"] for r in rows(tmp_path)] == ["0", "2"]


def test_a_missing_image_is_noticed(tmp_path):
    records = Records(tmp_path, IDENTITY, COLUMNS)
    writer = RecordWriter(records.path, COLUMNS)
    writer.append([row(0)])
    writer.close()
    with pytest.raises(RuntimeError, match=r"images \[1\]"):
        records.merge([0, 1])
    records.close()


def test_a_full_disk_leaves_a_valid_file(tmp_path):
    """A limit on the file's size stands for the disk: writes stop in the middle of a row."""

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        writer = RecordWriter(tmp_path / "records.csv", COLUMNS)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        for index in range(50):
            writer.append([row(index)])

    message = in_another_process(fill)
    assert "records.csv: cannot be written" in message
    assert "run the same command again" in message
    content = (tmp_path / "records.csv").read_bytes()
    rows = content.count(b"\n") - 1
    assert rows >= 2
    assert content == HEADER + b"".join(f"{i},{i % 3},{1 / (i + 3)!r}\n".encode() for i in range(rows))
    assert len(content) <= 100
    writer = RecordWriter(tmp_path / "records.csv", COLUMNS)
    writer.append([row(rows)])
    writer.close()


def test_what_is_appended_is_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    writer = RecordWriter(tmp_path / "records.csv", COLUMNS)
    writer.append([row(0)])
    assert synced[-1] == (tmp_path / "records.csv").stat().st_size
    writer.close()
