"""figure1.npz: the first draws of one image, for a picture of what was done to it."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glsmooth.configuration.untrusted import check_unpacked, open_file
from glsmooth.errors import UserError
from glsmooth.runs.files import FIGURE, write_bytes

__all__ = ["Draws"]

_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)  # also of ways to pack, or encrypted


@dataclass(frozen=True)
class Draws:
    """The first counting draws (or visits) of one image.

    Attributes:
        index: of the image.
        image: (C, H, W) in [0, 1].
        transformed: (k, C, H, W), what the base classifier saw.
        theta: (k, d), the drawn parameters in the transformation's order.
        votes: (k,) classes, -1 for none.
    """

    index: int
    image: NDArray[np.floating[Any]]
    transformed: NDArray[np.floating[Any]]
    theta: NDArray[np.floating[Any]]
    votes: NDArray[np.integer[Any]]

    def save(self, directory: Path, class_names: Sequence[str]) -> None:
        """Write figure1.npz; ``class_names`` are for readers without the rest of the run."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            index=self.index,
            image=self.image,
            transformed=self.transformed,
            theta=self.theta,
            votes=self.votes,
            class_names=np.array(class_names),
        )
        write_bytes(directory / FIGURE, content.getvalue())

    @classmethod
    def load(cls, directory: Path, parameters: int) -> Draws | None:
        """Read figure1.npz of a run with so many parameters; None where there is none.

        Raises:
            UserError: it is not readable, or its arrays do not belong together.
        """
        file = directory / FIGURE
        if not file.is_file():
            return None
        try:
            with open_file(file) as stream, zipfile.ZipFile(stream) as archive:
                check_unpacked(file, archive)
                arrays = {name: _array(archive, name) for name in ("index", "image", "transformed", "theta", "votes")}
            index = int(arrays["index"])
        except UserError:
            raise
        except (OSError, EOFError, ValueError, TypeError, KeyError, OverflowError, *_DAMAGED) as error:
            raise UserError(f"{file}: not readable ({error}); delete it, or run certify again") from None
        copies = len(arrays["votes"]) if arrays["votes"].ndim else 0
        image = arrays["image"].shape
        wanted = {
            "image": image if len(image) == 3 else ("C", "H", "W"),
            "transformed": (copies, *image),
            "theta": (copies, parameters),
            "votes": (copies,),
        }
        for name, shape in wanted.items():
            if arrays[name].shape != shape:
                raise UserError(
                    f"{file}: {name} has shape {arrays[name].shape}, not {shape}; it is of another run, delete it"
                )
            if arrays[name].dtype.kind not in ("iu" if name == "votes" else "f"):
                raise UserError(f"{file}: {name} holds {arrays[name].dtype}; it was not written by certify, delete it")
        if image[0] not in (1, 3) or 0 in image:
            raise UserError(f"{file}: image has shape {image}, not that of a grey or colour one; delete it")
        if not np.isfinite(arrays["theta"]).all():
            raise UserError(f"{file}: theta is not finite; it was not written by certify, delete it")
        return cls(index, arrays["image"], arrays["transformed"], arrays["theta"], arrays["votes"])


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """One array of numbers; its header is compared with the size of what follows before memory is taken for it."""
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack in one piece
        raise ValueError(f"{name} is packed in another way than numpy packs")
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):  # what numpy writes for arrays without names
            raise ValueError(f"{name} is of another version of numpy's format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or size != member.file_size - stream.tell():
            raise ValueError(f"{name} is not what its header says")
        array = np.frombuffer(bytearray(stream.read()), dtype=dtype)
    return array.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="), copy=False)
