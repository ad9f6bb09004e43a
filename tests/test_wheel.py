"""What ``pip install .`` installs works from any directory, without the repository; and what the sdist holds."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import packages

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel of the tree."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def installed(built):
    """A folder with the built wheel unpacked: what installing it without its dependencies does."""
    folder = built
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


STRAYS = ("notes.txt", "shared/brief.md", "outputs/train/1/best.ckpt", "data/images.npz", ".env")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The files that git has or would take, and others that lie about in a tree that is worked in."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a clone")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    folder = tmp_path_factory.mktemp("tree")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    tracked = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in STRAYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return folder, tracked


@pytest.fixture(scope="module")
def distributed(tree, tmp_path_factory):
    pytest.importorskip("hatchling")
    return packages.build(tmp_path_factory.mktemp("dist"), tree[0])


def test_the_sdist_holds_what_git_has_and_nothing_else(tree, distributed):
    with tarfile.open(distributed[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held - {"PKG-INFO"} == tree[1]


def test_the_wheel_of_the_sdist_is_that_of_the_tree(built, distributed):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == distributed[1].name
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(distributed[1]) as other:
        assert {info.filename: info.CRC for info in one.infolist()} == {i.filename: i.CRC for i in other.infolist()}
