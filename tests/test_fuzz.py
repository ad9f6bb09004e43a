"""Files of strangers: a slice of what tests/fuzz.py tries, the same every time."""

import importlib
import os
import re
import time

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import KINDS, READERS, Edit, Fuzzer, Reader, edits

#: Cases of each reader.
NUMBER = {"run": 60, "torus": 30, "votes": 60, "records": 40, "sweep": 40, "report": 6, "figure": 6} | dict.fromkeys(
    ("checkpoint", "exported", "weights", "images", "mnist"), 30
)


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    fuzzer = Fuzzer(tmp_path_factory.mktemp("fuzz") / "sandbox")
    yield fuzzer
    fuzzer.stop()


@pytest.mark.parametrize("name", READERS)
def test_whatever_a_file_holds(fuzzer, name):
    @settings(
        max_examples=NUMBER[name],
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(edits(KINDS))
    def body(changes):
        finding = fuzzer.judge(name, changes)
        assert finding is None, str(finding)

    accepted = fuzzer.accepted
    assert fuzzer.judge(name, []) is None
    assert fuzzer.accepted > accepted, "the file as it was written is refused"
    accepted = fuzzer.accepted
    body()
    assert fuzzer.accepted > accepted, "nothing that was changed was read: the changes are too coarse"


# The fuzzer itself: what it would not see, it would not find.


def _hang(folder):
    time.sleep(60)


def _leave_a_trace(folder):
    (folder.parents[1] / "outside" / "secret").write_text("changed")
    return ""


def _import_evil(folder):
    importlib.import_module("evil")
    return ""


def _grow(folder):
    return str(len(bytearray(1_200_000_000)))


FAULTS = {
    "crash": (lambda folder: str(1 // 0), "ZeroDivisionError"),
    "hang": (_hang, "did not end within"),
    "death": (lambda folder: os._exit(3), "the process died with 3"),
    "growth": (_grow, "grew by 1... MiB"),
    "space": (lambda folder: str(len(bytearray(20 * 2**30))), "MemoryError"),
    "trace": (_leave_a_trace, "changed "),
    "import": (_import_evil, "changed .*sprung|imported .'evil'"),
    "text": (lambda folder: "\x1b[2J", "the text cannot be printed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(tmp_path, monkeypatch, fault):
    read, words = FAULTS[fault]
    monkeypatch.setitem(READERS, "faulty", Reader(lambda folder: None, ("nothing",), read))
    monkeypatch.setattr("tests.fuzz.LIMIT", 2.0 if fault == "hang" else 30.0)
    fuzzer = Fuzzer(tmp_path / "sandbox")
    monkeypatch.syspath_prepend(str(tmp_path / "sandbox" / "work"))
    finding = fuzzer.judge("faulty", [])
    fuzzer.stop()
    assert finding is not None
    assert re.search(words, finding.what), finding


@pytest.mark.parametrize("name", READERS)
def test_an_edit_changes_the_files(fuzzer, name):
    """What leaves a file as it was would try the same valid files again and again."""
    for number, file in enumerate(READERS[name].files):
        for change in (
            Edit(number, "set", (0,), "terminal"),
            Edit(number, "drop", (0,)),
            Edit(number, "flip", (5000, 5000), data=b"\xa5\x5a"),
            Edit(number, "cut", (5000, 5000), data=b"\0"),
            Edit(number, "link"),
        ):
            case = fuzzer.prepare(name, [])
            before = (case / file).read_bytes()
            fuzzer.prepare(name, [change])
            assert (case / file).read_bytes() != before, change
