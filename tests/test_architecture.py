"""The house: rooms on floors, imports that point down, and a page that names every room."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "glsmooth"
#: From the ground up: a room imports from itself and from those before it.
ROOMS = (
    *("errors", "laws", "transforms", "threats", "family", "bounds", "voting"),
    *("smoothing", "attacks", "configuration", "runs", "learning", "report", "commands"),
)
#: What ``python -m`` finds. They may look up, at the commands that they are faces of.
COMMANDS = ("advise", "attack", "certify", "export", "predict", "sweep", "train", "verify")
FACES = {"__init__.py", "__main__.py", "bounds/__main__.py", "report/__main__.py", *(f"{name}.py" for name in COMMANDS)}
FILES = sorted(path for path in SOURCE.rglob("*.py") if str(path.relative_to(SOURCE)) not in FACES)


def imported(path):
    """Rooms that a file imports from, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            # from glsmooth import bounds: the name is the room.
            whole = node.module == "glsmooth"
            names = [f"glsmooth.{alias.name}" for alias in node.names] if whole else [node.module]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("glsmooth."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    below = ROOMS[: ROOMS.index(room) + 1]
    assert set(imported(path)) <= set(below)


def test_the_top_of_the_package_holds_the_rooms_and_nothing_else():
    present = {path.name.removesuffix(".py") for path in SOURCE.iterdir()} - {"__pycache__", "conf"}
    assert present == {*ROOMS, "__init__", "__main__", "py.typed", *COMMANDS}
    assert len(ROOMS) <= 14


def test_faces_are_two_lines():
    for face in FACES - {"__init__.py", "__main__.py"}:
        tree = ast.parse((SOURCE / face).read_text())
        docstring, start, guard = tree.body
        assert isinstance(docstring, ast.Expr)
        assert isinstance(start, ast.ImportFrom)
        assert start.module.startswith("glsmooth.commands.")
        assert ast.unparse(guard) == "if __name__ == '__main__':\n    main()"


def test_the_page_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([a-z]+)(?:\.py|/)` \|", page, flags=re.M)
    assert rows == list(ROOMS)
    picture = page.split("```")[1]
    assert all(room in picture for room in ROOMS)
