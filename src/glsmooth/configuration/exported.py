"""A trained network in a folder, as repositories of Hugging Face have it."""

from __future__ import annotations

import stat
from pathlib import Path

from glsmooth.errors import UserError

__all__ = ["ABOUT", "CARD", "WEIGHTS", "exported_files"]

#: What the network is, its tensors, and its description for people, which no command reads.
ABOUT, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def exported_files(folder: Path) -> tuple[Path, Path]:
    """The two files of a folder that ``glsmooth export`` wrote: what the network is, and its tensors.

    Raises:
        UserError: one is missing, or is no regular file. Links are refused, too: in a folder of somebody else's they
            could name any file of this machine.
    """
    for name in (ABOUT, WEIGHTS):
        try:
            mode = (folder / name).lstat().st_mode
        except OSError:
            inside = folder / "best.ckpt"
            fix = f"ckpt={inside}" if inside.is_file() else "a best.ckpt that train wrote"
            raise UserError(
                f"ckpt={folder}: has no {name}; give {fix}, or a folder that glsmooth export wrote"
            ) from None
        if stat.S_ISLNK(mode):
            raise UserError(
                f"ckpt={folder}: its {name} is a symbolic link, and those are not followed; copy the files "
                "(hf download --local-dir DIR does)"
            )
        if not stat.S_ISREG(mode):
            raise UserError(f"ckpt={folder}: its {name} is no regular file; give a folder that glsmooth export wrote")
    return folder / ABOUT, folder / WEIGHTS
