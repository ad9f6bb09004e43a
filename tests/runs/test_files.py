"""Files are there whole or not at all, and nothing of a stranger's is written through or printed raw."""

import json
import os
import resource
import signal
import stat

import pytest

from glsmooth.configuration.untrusted import Limits, using_limits
from glsmooth.errors import UserError, visible
from glsmooth.runs.files import read_json, remove_leftovers, replacing, write_bytes, write_text
from tests.runs.test_records import in_another_process


def test_a_link_is_replaced_and_what_it_points_to_is_not_touched(tmp_path):
    target = tmp_path / "profile"
    target.write_text("mine")
    link = tmp_path / "run" / "table.md"
    link.parent.mkdir()
    link.symlink_to(target)
    write_text(link, "theirs")
    assert target.read_text() == "mine"
    assert not link.is_symlink()
    assert link.read_text() == "theirs"
    assert list(link.parent.iterdir()) == [link]  # no temporary file stays


def test_what_a_kill_left_is_removed(tmp_path):
    """A kill between the first byte and the renaming."""

    def killed():
        with replacing(tmp_path / "last.ckpt") as file:
            file.write(b"half")
            file.flush()
            os._exit(1)

    pid = os.fork()
    if pid == 0:
        killed()
    os.waitpid(pid, 0)
    assert len(list(tmp_path.iterdir())) == 1
    assert not (tmp_path / "last.ckpt").exists()
    names = {"last.ckpt", ".hidden", "mine.part"}
    for name in names:
        write_bytes(tmp_path / name, b"another file")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    write_bytes(tmp_path / "ours", b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert len(modes) == 1


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    """A limit on the size of files stands for the disk."""
    file = tmp_path / "summary.json"
    file.write_text("before")

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        write_bytes(file, bytes(10_000))

    assert "cannot be written (File too large)" in in_another_process(fill)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_what_torch_says_of_a_full_disk_is_put_in_words(tmp_path):
    with (
        pytest.raises(UserError, match=r"last\.ckpt: cannot be written \(the disk is full, or fails\); make room"),
        replacing(tmp_path / "last.ckpt"),
    ):
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 64 vs 0")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere/table\.md: cannot be written \(No such file"):
        write_text(tmp_path / "nowhere" / "table.md", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – text, ∞", "plain – text, ∞"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("exe.\u202egnp", r"exe.\u202egnp"),
        ("\udcff", r"\udcff"),
    ],
)
def test_control_characters_are_written_out(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"images": ' + "9" * 5000 + "}", "not readable as JSON"),
        ("{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
    ],
)
def test_what_is_no_json_is_named(tmp_path, content, words):
    file = tmp_path / "summary.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=rf"summary\.json: .*{words}.*; certify again"):
        read_json(file, "certify again")


def test_texts_of_a_file_are_visible_wherever_they_stand(tmp_path):
    file = tmp_path / "votes.json"
    file.write_text(json.dumps([{"na\nme": ["\x1b[2J", 3, None]}]))
    assert read_json(file, "") == [{r"na\nme": [r"\x1b[2J", 3, None]}]
    assert os.listdir(tmp_path) == ["votes.json"]


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    file = tmp_path / "summary.json"
    with file.open("wb") as stream:
        stream.truncate(2 * 10**6 + 1)  # of no blocks on disk
    with (
        using_limits(Limits(megabytes=2)),
        pytest.raises(UserError, match=r"summary\.json: larger than limits\.megabytes=2"),
    ):
        read_json(file, "certify again")
    with file.open("wb") as stream:
        stream.truncate(10**12)
    with pytest.raises(UserError, match=r"summary\.json: larger than limits\.megabytes=128; raise that if you trust"):
        read_json(file, "certify again")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "summary.json")
    with pytest.raises(UserError, match="not a regular file"):
        read_json(tmp_path / "summary.json", "certify again")
