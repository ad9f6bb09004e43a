"""What is imported, and when: help and the first mistakes come at once, and commands start with what they need."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import glsmooth as gs

pytestmark = pytest.mark.usefixtures("elsewhere")

COMMANDS = ("train", "advise", "certify", "attack", "predict", "export", "bounds", "report", "verify")
#: What takes long to import.
NUMBERS = {"torch", "numpy", "scipy"}
NETWORKS = {"lightning", "torchvision", "matplotlib", "wandb", "timm", "pandas", "sklearn", "PIL", "scipy.stats"}


def imported(*command, status=0):
    """Names of the modules that ``python -m`` imports for a command, and those of their packages."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    names = re.findall(r"^import time: .*\| +(\S+)$", done.stderr, flags=re.M)
    assert "glsmooth" in names
    return {name.rsplit(".", i)[0] for name in names for i in range(name.count(".") + 1)}


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("nosuch", 2)])
def test_the_commands_are_listed_without_any_package(argument, status):
    assert not imported("glsmooth", argument, status=status) & {*NUMBERS, *NETWORKS, "hydra", "omegaconf", "yaml"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_needs_no_numbers(command):
    faces = [("glsmooth", command)] + [(f"glsmooth.{command}",)] * (
        command not in ("advise", "attack", "bounds", "predict")
    )
    for face in faces:
        found = imported(*face, "--help")
        assert "hydra" in found
        assert not found & (NUMBERS | NETWORKS)


def test_help_of_bounds_as_a_module_needs_no_network():
    """Python imports the package glsmooth.bounds, and with it torch, before the command is asked."""
    assert not imported("glsmooth.bounds", "--help") & NETWORKS


@pytest.mark.parametrize("arguments", [("certify", "nosuch=1"), ("bounds", "transform=nosuch")], ids=" ".join)
def test_what_hydra_refuses_needs_no_numbers(arguments):
    assert not imported("glsmooth", *arguments, status=2) & (NUMBERS | NETWORKS)


def test_bounds_needs_no_network():
    found = imported("glsmooth", "bounds", "transform=gamma")
    assert found >= NUMBERS
    assert not found & NETWORKS


COLLECTED = """
import gc, sys
from glsmooth.commands.mains import bounds

counts = []
for _ in range(2):
    sys.argv = ["bounds", "transform=gamma"]
    bounds()
    counts.append(gc.get_freeze_count())
assert gc.isenabled()
assert 100_000 < counts[1] <= counts[0], counts  # some are freed meanwhile
"""


def test_what_is_imported_is_no_garbage_and_what_comes_later_may_be():
    done = subprocess.run([sys.executable, "-c", COLLECTED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The names of the package


def homes():
    """``{module: names}`` that the package imports for type checkers."""
    tree = ast.parse(Path(gs.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {node.module: tuple(alias.name for alias in node.names) for node in block.body}


def test_names_have_one_home():
    rooms = homes().pop("glsmooth")
    assert {f"glsmooth.{module}": names for module, names in gs._HOMES.items()} | {"glsmooth": rooms} == homes()
    assert set(rooms) <= set(gs._ROOMS)
    assert sorted(name for names in homes().values() for name in names) == sorted(gs.__all__)


def test_every_name_is_there():
    assert {*gs.__all__, *gs._ROOMS, "__version__"} <= set(dir(gs))
    for name in (*gs.__all__, *gs._ROOMS):
        assert getattr(gs, name).__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="'glsmooth' has no attribute 'Bax'"):
        gs.Bax  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Bax'"):
        from glsmooth import Bax  # noqa: F401


@pytest.mark.parametrize(
    "code",
    [
        "import glsmooth as gs; gs.bounds.required_probability",
        "import glsmooth as gs; gs.laws.Law, gs.smoothing.ABSTAIN",
        "import glsmooth.transforms as t; t.Brightness",
        "from glsmooth import SmoothedClassifier, transforms; SmoothedClassifier.certify",
        "from glsmooth import *; required_probability, bounds.METHODS, SmoothedFamily, NotApplicable",
        "import glsmooth as gs; gs.tradeoff; assert 'tradeoff' in vars(gs)",
        "import glsmooth, sys; assert 'torch' not in sys.modules",
    ],
)
def test_names_are_found_on_first_use(code):
    subprocess.run([sys.executable, "-c", code], check=True)
