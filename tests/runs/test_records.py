"""Records: whatever happens to the process or the disk, the file is whole and the run goes on."""

import csv
import json
import multiprocessing
import os
import resource
import signal
from contextlib import suppress

import pytest

from glsmooth.errors import UserError
from glsmooth.runs.records import COLUMNS as ALL
from glsmooth.runs.records import Images, Records, RecordWriter, part_path, read_records

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


GOOD = "7,1,1,8,16,16,0.65,1,0,0,0\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD.replace("16,16", "16,-1"), "line 2: count is -1, not a whole number from 0"),
        (GOOD.replace("16,16", f"16,{2**63}"), "line 2: count is 9223372036854775808, not a whole number from 0"),
        (GOOD.replace("16,16", f"16,{'9' * 5000}"), "line 2: count is '999.*99', not a number"),
        (GOOD.replace("7,1,", "7,-1,"), "label is -1"),
        (GOOD.replace("7,1,1", "7,1,-2"), "prediction is -2, not a whole number from -1"),
        (GOOD.replace("0.65", "1e999"), "p_lower is inf, not in"),
        (GOOD.replace("7,1", "x\x1b[2J" + "y" * 10**5 + ",1"), r"index is 'x\\x1b\[2Jyy.*yy', not a number"),
        (GOOD.replace("7,1", "7" * 200_000 + ",1"), "field larger than field limit"),
        (GOOD.replace("7,1", "\0,1"), r"NUL|index is '\\x00', not a number"),
        (GOOD.replace("0,0\n", "0\n"), "line 2 has 10 values instead of 11"),
    ],
)
def test_impossible_cells_are_named(tmp_path, content, words):
    (tmp_path / "records.csv").write_text(",".join(ALL) + "\n" + GOOD)
    assert {name: column.tolist() for name, column in read_records(tmp_path).items()} == {
        name: [float(cell) if name == "p_lower" else int(cell)] for name, cell in zip(ALL, GOOD.split(","), strict=True)
    }
    (tmp_path / "records.csv").write_text(",".join(ALL) + "\n" + content)
    with pytest.raises(UserError, match=words) as refusal:
        read_records(tmp_path)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("index,label", "no column 'prediction'"),
        (",".join(ALL) + ",index", "column 'index' occurs 2 times"),
        (",".join(ALL) + ",certified_nothing", "column 'certified_nothing' is not one"),
        (",".join(ALL) + "," + "x" * 10**5, "column 'xxx"),
        ("", "no column 'index'"),
    ],
)
def test_other_columns_are_refused(tmp_path, header, words):
    (tmp_path / "records.csv").write_text(f"{header}\n")
    with pytest.raises(UserError, match=words):
        read_records(tmp_path)


@pytest.mark.parametrize("name", ["records.csv", "run.lock", "records.rank0.csv"])
def test_nothing_is_written_through_a_link(tmp_path, name):
    directory = tmp_path / "run"
    directory.mkdir()
    target = tmp_path / "elsewhere"
    (directory / name).symlink_to(target)
    with suppress(UserError):
        Records(directory, IDENTITY, COLUMNS).close()  # a link to nothing may be replaced
    assert not target.exists()
    (directory / name).unlink(missing_ok=True)
    target.write_text("mine")
    (directory / name).symlink_to(target)
    with pytest.raises(UserError, match=f"{name}: is a link"):
        Records(directory, IDENTITY, COLUMNS)
    assert target.read_text() == "mine"
    (directory / name).unlink()
    (directory / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: cannot be opened"):
        Records(directory, IDENTITY, COLUMNS)


@pytest.mark.parametrize("line", [b"9" * 5000 + b",0,0.5\n", b"4,\xff,0.5\n"])
def test_lines_that_cannot_be_merged_are_refused(tmp_path, line):
    (tmp_path / "records.csv").write_bytes(HEADER + line + b"5,0,0.5\n")
    with pytest.raises(UserError, match="line 2 is damaged"):
        Records(tmp_path, IDENTITY, COLUMNS)


@pytest.mark.parametrize("content", ["", "[]", "3", "[" * 10**5, "\xff", '{"a": ' * 10**5])
def test_a_damaged_identity_is_refused(tmp_path, content):
    (tmp_path / "identity.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"identity\.json: .*; remove its directory to start afresh"):
        Records(tmp_path, IDENTITY, COLUMNS)


@pytest.mark.parametrize("value", ["x" * 10**6, "\x1b]0;title\x07", [[[]]] * 10**5, {"a": {}}, 10**1000, "\ud800"])
def test_another_identity_is_shown_short_and_printable(tmp_path, value):
    (tmp_path / "identity.json").write_text(json.dumps({**IDENTITY, "seed": value}))
    with pytest.raises(UserError, match=r"its records were taken with seed=.*, this run has seed=0;") as refusal:
        Records(tmp_path, IDENTITY, COLUMNS)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"names": [1], "digests": {}}',
        '{"names": [], "digests": {"x": "y"}}',
        '{"names": "a", "digests": 3}',
    ],
)
def test_a_damaged_list_of_images_is_refused(tmp_path, content):
    images = Images(["a.png", "b.png"], {0: "0" * 64})
    Records(tmp_path, IDENTITY, COLUMNS, images).close()
    assert Images.read(tmp_path / "images.json") == images
    (tmp_path / "images.json").write_text(content)
    with pytest.raises(UserError, match=r"images\.json"):
        Images.read(tmp_path / "images.json")
    with pytest.raises(UserError, match=r"images\.json, which would say which, is missing or damaged"):
        Records(tmp_path, IDENTITY, COLUMNS, Images(["a.png"], {0: "1" * 64}))
