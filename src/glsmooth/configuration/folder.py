"""The folder of the configuration files, and what its groups hold."""

from __future__ import annotations

from pathlib import Path

__all__ = ["conf_dir", "members"]


def conf_dir() -> Path:
    """The folder of the configuration files: in the package when installed, in the repository otherwise."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


def members(group: str) -> tuple[str, ...]:
    """What a group of the packaged files offers, sorted; without ``from_checkpoint``, which has no name of its own."""
    names = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
    return tuple(name for name in names if name != "from_checkpoint")
