"""The wheel and the sdist in clean environments: ``make packages``, or ``python -m tests.packages --help``.

For each Python that is on this machine an environment is made outside of the repository, with the newest releases that
pyproject.toml allows, and one with the oldest. In it, from an empty folder, the commands train, certify, export and
report run. One environment at a time, removed afterwards. It needs uv and the network, and some gigabytes of disk for a
torch with CUDA; ``UV_TORCH_BACKEND=cpu`` takes one without.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: The oldest Python has everything: the oldest releases, and the sdist.
KINDS = {"3.11": (("wheel", "oldest"), ("sdist", "newest"))}
SHOWN = (
    "torch",
    "torchvision",
    "lightning",
    "numpy",
    "scipy",
    "scikit-learn",
    "timm",
    "matplotlib",
    "hydra-core",
    "wandb",
)
OLDEST_TORCH = re.findall(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[0]
INSTALLATION, STEP = 1500, 600  # seconds that each may take

TRAIN = (
    *("train", "experiment=demo", "optimizer.epochs=1", "trainer.limit_train_batches=4", "trainer.accelerator=cpu"),
    *("trainer.limit_val_batches=2", "trainer.progress=false", "hydra.run.dir=trained"),
)
CERTIFY = (
    *("certify", "ckpt=trained/best.ckpt", "dataset.subset=5", "monte_carlo.n0=20", "monte_carlo.n=40"),
    *("trainer.accelerator=cpu", "batch_size=32", "bound.methods=[neyman_pearson]", "hydra.run.dir=certified"),
)
BOUNDS = (
    *("bounds", "transform=contrast_brightness", "region.contrast=[0.7,1.4]", "region.brightness=[-0.2,0.2]"),
    "format=json",
)
#: Commands, and the file that each leaves.
STEPS = (
    (("--help",), None),
    (BOUNDS, None),
    (TRAIN, "trained/best.ckpt"),
    (CERTIFY, "certified/summary.json"),
    (("export", "ckpt=trained/best.ckpt", "runs=[certified]", "out=shared"), "shared/model.safetensors"),
    (("report", "certified"), "certified/table.md"),
)
H_MIN = 0.76401  # of BOUNDS, rounded up


class Failed(Exception):
    """What did not work, in a line."""


def called(command: list[str], seconds: float, **more: object) -> str:
    """What a command prints.

    Raises:
        Failed: it fails, or takes too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, **more)  # type: ignore[call-overload]
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command[:3])} took more than {seconds:.0f} s") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise Failed(f"{' '.join(map(str, command[:4]))} …: {words[-1]}")
    return str(done.stdout)


def build(folder: Path, tree: Path = ROOT) -> tuple[Path, Path]:
    """The sdist of a tree, and the wheel that is built from that sdist alone."""
    hatch = [sys.executable, "-m", "hatchling", "build", "-t"]
    called([*hatch, "sdist", "-d", str(folder)], STEP, cwd=tree)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    called([*hatch, "wheel", "-d", str(folder)], STEP, cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def interpreter(python: str) -> Path | None:
    """An interpreter of this version that is on this machine; shims that lead nowhere do not count."""
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = shutil.which(f"python{python}")
    for candidate in (*([Path(found)] if found else []), *sorted(versions.glob(f"{python}.*/bin/python"))):
        program = "import sys; print(*sys.version_info[:2], sep='.')"
        try:
            if called([str(candidate), "-c", program], STEP).strip() == python:
                return candidate
        except (Failed, OSError):
            continue
    return None


def smoke(environment: Path, folder: Path) -> None:
    """The commands, from an empty folder.

    Raises:
        Failed: one of them does not do what it should.
    """
    python = environment / "bin" / "python"
    (folder / "work").mkdir()
    more = {
        "cwd": folder / "work",
        "env": {"PATH": f"{environment / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
    }
    where = called([str(python), "-c", "import glsmooth; print(glsmooth.__file__)"], STEP, **more).strip()
    if not Path(where).resolve().is_relative_to(environment.resolve()):
        raise Failed(f"glsmooth was imported from {where}")
    for arguments, left in STEPS:
        printed = called([str(environment / "bin" / "glsmooth"), *arguments], STEP, **more)
        if left is not None and not (folder / "work" / left).is_file():
            raise Failed(f"glsmooth {arguments[0]} left no {left}")
        if arguments is BOUNDS:
            value = json.loads(printed)["required_probability"]["neyman_pearson"]
            if not H_MIN - 1e-5 < value <= H_MIN:
                raise Failed(f"glsmooth bounds says {value}, not {H_MIN}")
    images = json.loads((folder / "work" / "certified" / "summary.json").read_text())["images"]
    if images != 5:
        raise Failed(f"glsmooth certify says {images} images, not 5")


def attempt(python: Path, package: Path, releases: str, folder: Path) -> tuple[dict[str, str], str]:
    """Versions of what was installed, and how it went."""
    environment = folder / "environment"
    # What the package needs is not direct to uv unless it is said so.
    direct = ["--resolution", "lowest-direct", "--requirements", str(ROOT / "pyproject.toml")]
    oldest = direct if releases == "oldest" else []
    started, versions = time.monotonic(), {}
    try:
        called(["uv", "venv", "--quiet", "--python", str(python), str(environment)], STEP)
        interpreter = str(environment / "bin" / "python")
        called(["uv", "pip", "install", "--quiet", "--python", interpreter, *oldest, str(package)], INSTALLATION)
        installed = time.monotonic() - started
        listed = json.loads(called(["uv", "pip", "list", "--python", interpreter, "--format", "json"], STEP))
        versions = {entry["name"]: entry["version"].partition("+")[0] for entry in listed}
        if releases == "oldest" and not versions["torch"].startswith(OLDEST_TORCH):
            raise Failed(f"uv took torch {versions['torch']}, not {OLDEST_TORCH}")
        smoke(environment, folder)
    except Failed as reason:
        return versions, f"failed: {reason}"
    return versions, f"passed ({installed:.0f} s to install, {time.monotonic() - started - installed:.0f} s to run)"


def table(pythons: list[str]) -> Iterator[tuple[str, bool]]:
    """Lines of a Markdown table, one an environment, and whether each is good news."""
    yield f"| Python | package | releases | {' | '.join(SHOWN)} | outcome |", True
    yield "|" + "---|" * (len(SHOWN) + 4), True
    with tempfile.TemporaryDirectory(prefix="glsmooth-packages-") as top:
        sdist, wheel = build(Path(top))
        for python in pythons:
            found = interpreter(python)
            if found is None:
                yield f"| {python} |{' |' * (len(SHOWN) + 2)} skipped: not on this machine |", True
                continue
            for package, releases in KINDS.get(python, (("wheel", "newest"),)):
                with tempfile.TemporaryDirectory(dir=top) as folder:
                    versions, outcome = attempt(found, sdist if package == "sdist" else wheel, releases, Path(folder))
                numbers = " | ".join(versions.get(name, "") for name in SHOWN)
                yield f"| {python} | {package} | {releases} | {numbers} | {outcome} |", outcome.startswith("passed")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.packages", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pythons", nargs="*", default=list(PYTHONS), help="versions (default: %(default)s)")
    arguments = parser.parse_args()
    if shutil.which("uv") is None:
        print("uv is not installed: pip install uv", file=sys.stderr)
        return 2
    good = True
    for line, passed in table(arguments.pythons):
        print(line, flush=True)
        good &= passed
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
