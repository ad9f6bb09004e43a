"""The files of a run directory, and how they are written: whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from glsmooth.errors import UserError

__all__ = [
    "CONFIG",
    "FIGURE",
    "IDENTITY",
    "IMAGES",
    "RECORDS",
    "SUMMARY",
    "sync_directory",
    "wandb_id",
    "write_config",
    "write_text",
]

#: A row an image; the numbers of the run; what decides them; names and digests of the images; the settings, resolved;
#: one image's draws for a picture.
RECORDS, SUMMARY, IDENTITY, IMAGES, CONFIG, FIGURE = (
    "records.csv",
    "summary.json",
    "identity.json",
    "images.json",
    "config.yaml",
    "figure1.npz",
)


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there either whole or not at all.

    Raises:
        UserError: the disk is full, or fails.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free space and run the same command again"
        ) from error
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Have the directory's entries, too, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_config(directory: Path, settings: Mapping[str, Any]) -> None:
    """config.yaml: the settings as they were used, with every reference resolved."""
    write_text(directory / CONFIG, OmegaConf.to_yaml(OmegaConf.create(dict(settings))))


def wandb_id(directory: Path) -> str:
    """The run's name at W&B, which a resumed run keeps."""
    file = directory / "wandb_id"
    if not file.is_file():
        write_text(file, secrets.token_hex(4))
    return file.read_text(encoding="utf-8")
