"""What ``pip install .`` installs works from any directory, without the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the built wheel unpacked: what installing it without its dependencies does."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_every_configuration_file_ships(installed):
    shipped = {path.relative_to(installed / "glsmooth" / "conf") for path in installed.rglob("*.yaml")}
    assert shipped == {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}


def test_every_module_ships_and_says_that_it_is_typed(installed):
    def files(root):
        return {p.relative_to(root) for p in root.rglob("*") if p.suffix in (".py", ".typed")}

    assert files(installed / "glsmooth") == files(ROOT / "src" / "glsmooth")
    assert (installed / "glsmooth" / "py.typed").is_file()


def test_a_command_composes_from_another_directory(installed, tmp_path):
    program = (
        "import glsmooth.commands.entry, glsmooth.configuration.folder\n"
        "print(glsmooth.configuration.folder.conf_dir())\n"
        "glsmooth.commands.entry.entry('bounds', lambda cfg: print(cfg.region.gamma))()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "transform=gamma"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(installed / "glsmooth" / "conf"), "[1.0, 2.0]"]
    assert (tmp_path / "outputs" / "bounds").is_dir()
