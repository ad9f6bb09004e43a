"""figure1.npz: what is written is what is read, and nothing else is."""

import io
import resource
import zipfile

import numpy as np
import pytest

from glsmooth.errors import UserError
from glsmooth.runs.figure import Draws

GENERATOR = np.random.default_rng(0)
DRAWS = Draws(
    index=3,
    image=GENERATOR.random((1, 4, 5), dtype=np.float32),
    transformed=GENERATOR.random((2, 1, 4, 5), dtype=np.float32),
    theta=GENERATOR.random((2, 1)),
    votes=np.array([0, -1]),
)


def archive(**changes):
    content = io.BytesIO()
    np.savez(content, **{**vars(DRAWS), **changes})
    return content.getvalue()


def test_what_is_written_is_what_is_read(tmp_path):
    assert Draws.load(tmp_path, parameters=1) is None
    DRAWS.save(tmp_path, ["cat", "dog"])
    read = Draws.load(tmp_path, parameters=1)
    assert all(np.array_equal(value, getattr(read, name)) for name, value in vars(DRAWS).items())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not readable"),
        (archive(index=np.inf), "not readable"),
        (archive(image=np.zeros((4, 5)), transformed=np.zeros((2, 4, 5))), r"image has shape \(4, 5\), not"),
        (archive(theta=np.zeros((2, 3))), r"theta has shape \(2, 3\), not \(2, 1\)"),
        (archive(votes=np.array([[0], [1]])), r"votes has shape \(2, 1\), not \(2,\)"),
        (archive(votes=np.array(["cat", "dog"])), "votes holds <U3"),
        (archive(votes=np.array([1, 2], dtype="m8[s]")), "votes holds timedelta64"),
        (archive(theta=np.array([[0.0], [np.nan]])), "theta is not finite"),
        (
            archive(image=np.zeros((2, 4, 5)), transformed=np.zeros((2, 2, 4, 5))),
            r"image has shape \(2, 4, 5\), not that",
        ),
        (
            archive(image=np.zeros((1, 0, 5)), transformed=np.zeros((2, 1, 0, 5))),
            r"image has shape \(1, 0, 5\), not that",
        ),
        (archive(theta=np.array([["a"], ["b"]])), "theta holds <U1"),
    ],
)
def test_another_file_is_refused(tmp_path, content, words):
    (tmp_path / "figure1.npz").write_bytes(content)
    with pytest.raises(UserError, match=rf"figure1\.npz: .*{words}"):
        Draws.load(tmp_path, parameters=1)


def test_other_byte_orders_are_read(tmp_path):
    (tmp_path / "figure1.npz").write_bytes(archive(image=DRAWS.image.astype(">f4"), theta=DRAWS.theta.astype(">f8")))
    read = Draws.load(tmp_path, parameters=1)
    assert np.array_equal(read.image, DRAWS.image)
    assert read.image.dtype.isnative
    assert read.theta.dtype.isnative


def packed(method=zipfile.ZIP_DEFLATED, **members):
    """An archive of such members, compressed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return content.getvalue()


def npy(shape, data=b"", dtype="<f4", version=(1, 0)):
    """An array file whose header says this shape, whatever follows it."""
    content = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    (np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0)(
        content, header
    )
    return content.getvalue() + data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (packed(index=npy((), bytes(300 * 10**6))), r"unpacks to 301 megabytes, limits\.megabytes=128"),
        (packed(index=npy((10**6, 10**6))), "index is not what its header says"),
        (packed(index=npy((2**62, 2**62))), "index is not what its header says"),
        (packed(index=npy((), bytes(4), version=(2, 0))), "another version"),
        (packed(index=npy((), bytes(8), dtype="|O")), "index is not what its header says"),
        (packed(index=b"no array"), "not readable"),
        (packed(zipfile.ZIP_BZIP2, index=npy((), bytes(10**8))), "index is packed in another way than numpy packs"),
        (packed(zipfile.ZIP_LZMA, index=npy((), bytes(10**8))), "index is packed in another way than numpy packs"),
        (packed(), "not readable"),
        (packed(index=npy((), bytes(8), dtype="[('a', '<f8')]")), "not readable"),
    ],
    ids=["large", "says large", "says huge", "version", "objects", "text", "bzip2", "lzma", "nothing", "structure"],
)
def test_what_it_unpacks_to_is_known_first(tmp_path, content, words):
    (tmp_path / "figure1.npz").write_bytes(content)
    assert len(content) < 400_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"figure1\.npz: .*{words}"):
        Draws.load(tmp_path, parameters=1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
