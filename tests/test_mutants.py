"""Mutation testing changes what it says it changes, and tells what is caught from what survives."""

import subprocess
import sys
import textwrap

from . import mutants

SOURCE = textwrap.dedent(
    '''
    """Words: 1 < 2."""

    __all__ = ["f"]
    _LIMIT = 3


    @cache(maxsize=5)
    def f(x: int | None, n: int = 2) -> float:
        """Less < than 7."""
        if not (x > n and x != 4):
            raise ValueError(f"{x - 1} < {n}" + "a")
        # 5 - 6
        return max(-x, 1.5) / n
    '''
).encode()


def test_what_is_changed():
    found = mutants.mutants("file.py", SOURCE)
    assert {(one.function, one.before, one.after) for one in found if one.before.startswith(("_L", "def"))} == {
        ("", "_LIMIT = 3", "_LIMIT = 4"),
        ("", "_LIMIT = 3", "_LIMIT = 2"),
        ("f", "def f(x: int | None, n: int = 2) -> float:", "def f(x: int | None, n: int = 3) -> float:"),
        ("f", "def f(x: int | None, n: int = 2) -> float:", "def f(x: int | None, n: int = 1) -> float:"),
    }
    assert {one.after for one in found if one.before.startswith("if")} == {
        "if (x > n and x != 4):",
        "if not (not (x > n and x != 4)):",
        "if not (x > n or x != 4):",
        "if not (x >= n and x != 4):",
        "if not (x <= n and x != 4):",
        "if not (x > n and x == 4):",
        "if not (x > n and x != 5):",
        "if not (x > n and x != 3):",
    }
    assert {one.after for one in found if one.before.startswith("return")} == {
        "return None",
        "return min(-x, 1.5) / n",
        "return max(x, 1.5) / n",
        "return max(-x, 3.0) / n",
        "return max(-x, 1.5) * n",
    }
    # Nothing in words, types, decorators and errors.
    assert len(found) == len({one.name for one in found}) == 17


def test_a_change_of_a_comment_is_no_mutant(tmp_path, monkeypatch):
    source = b"x = (a  # not < b\n     < b)\ny = a < b\n"
    (tmp_path / "file.py").write_bytes(source)
    monkeypatch.setattr(mutants, "PACKAGE", tmp_path)
    assert [(one.line, one.other) for one in mutants.mutants("file.py", source)] == [
        (1, False), (1, False), (3, True), (3, True),
    ]  # fmt: skip


def test_every_reason_is_of_a_line_that_is_there():
    assert not mutants.stale()


SCRIPT = """
import json
import sys
from pathlib import Path

import hypothesis, pytest

from tests import mutants

mutants.AREAS = {{"one": mutants.Area(("errors.py",), ("test_mutated.py",))}}
mutants.ROOT, mutants.PACKAGE = Path({root!r}), Path({root!r}) / "src" / "glsmooth"
wanted = [("one", one) for one in mutants.every("one")]
found, broken = mutants.run(wanted, minutes=10, processes=2, show=False)
one = found["one"]
print(json.dumps([one.made, one.caught, one.late, sorted(m.after for m in one.survived), broken]))
print(mutants.table(found, {{one.survived[0].key: "speed"}}))
"""


def test_what_is_caught_and_what_survives(tmp_path):
    """A package of one file, with a test that sees one of its two numbers and waits for ever for a third."""
    for name in ("src/glsmooth", "tests", "conf"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "src" / "glsmooth" / "__init__.py").write_text("")
    (tmp_path / "src" / "glsmooth" / "errors.py").write_text("SEEN = -5\nUNSEEN = -7\n")
    (tmp_path / "tests" / "test_mutated.py").write_text(
        "from glsmooth.errors import SEEN\n\n\ndef test_it():\n    assert SEEN == -5\n"
    )
    script = SCRIPT.format(root=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=mutants.ROOT, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    counts, *rows = done.stdout.splitlines()
    assert counts == '[6, 3, 0, ["UNSEEN = -6", "UNSEEN = -8", "UNSEEN = 7"], []]'
    assert rows[-1].startswith("| all | 6 | 6 | 3 | 0 | 1 | 2 |")
    # The working tree is as it was.
    assert (tmp_path / "src" / "glsmooth" / "errors.py").read_text() == "SEEN = -5\nUNSEEN = -7\n"
