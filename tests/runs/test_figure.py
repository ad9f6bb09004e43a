"""figure1.npz: what is written is what is read, and nothing else is."""

import io

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
        (archive(theta=np.array([["a"], ["b"]])), "theta holds <U1"),
    ],
)
def test_another_file_is_refused(tmp_path, content, words):
    (tmp_path / "figure1.npz").write_bytes(content)
    with pytest.raises(UserError, match=rf"figure1\.npz: {words}"):
        Draws.load(tmp_path, parameters=1)
