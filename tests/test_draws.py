"""Draws: each a function of (seed, image, stream, number), and of the right law."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from glsmooth.draws import Stream, pixel_normals, uniforms


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 9])
def test_a_draw_does_not_depend_on_the_block_it_is_asked_in(d):
    u, keys = uniforms(7, 3, Stream.COUNTING, 0, 100, d)
    assert u.shape == (100, d)
    for first, n in [(0, 1), (13, 20), (99, 1)]:
        part, part_keys = uniforms(7, 3, Stream.COUNTING, first, n, d)
        np.testing.assert_array_equal(part, u[first : first + n])
        np.testing.assert_array_equal(part_keys, keys[first : first + n])


def test_seeds_images_and_streams_share_no_draw():
    blocks = [
        uniforms(seed, index, stream, 0, 50, 2)
        for seed in (0, 1, 2**63)
        for index in (0, 1, 9999)
        for stream in (Stream.SELECTION, Stream.COUNTING)
    ]
    values = np.concatenate([u.ravel() for u, _ in blocks])
    assert len(np.unique(values)) == len(values)
    keys = np.concatenate([keys for _, keys in blocks])
    assert len(np.unique(keys)) == len(keys)


def test_draws_are_pinned():
    """A change of generator would silently break every stored run: it must be seen."""
    u, keys = uniforms(0, 0, Stream.COUNTING, 0, 2, 2)
    np.testing.assert_allclose(u, PINNED_UNIFORMS, rtol=0, atol=1e-15)
    assert keys.tolist() == PINNED_KEYS


def test_uniforms_are_uniform_and_inside_the_open_interval():
    u = np.concatenate([uniforms(0, i, Stream.COUNTING, 0, 1000, 3)[0] for i in range(20)])
    assert u.min() > 0
    assert u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u.T)[0, 1]) < 4 / math.sqrt(len(u))
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 4 / math.sqrt(len(u))


def test_uniforms_stay_inside_for_extreme_words(monkeypatch):
    class Extreme:
        def __init__(self, **_):
            pass

        def random_raw(self, n):
            return np.array([0, 2**64 - 1] * (n // 2), dtype=np.uint64)

    monkeypatch.setattr(np.random, "Philox", Extreme)
    u, _ = uniforms(0, 0, Stream.COUNTING, 0, 4, 2)
    assert 0 < u.min() < u.max() < 1


def test_pixel_noise_is_standard_normal_and_depends_on_the_key_alone():
    keys = torch.from_numpy(uniforms(0, 0, Stream.COUNTING, 0, 200, 1)[1])
    noise = pixel_normals(keys, (3, 5, 9))
    assert noise.shape == (200, 3, 5, 9)
    assert noise.dtype == torch.float32
    torch.testing.assert_close(pixel_normals(keys[17:18], (3, 5, 9))[0], noise[17], rtol=0, atol=0)
    values = noise.double().flatten().numpy()
    assert stats.kstest(values, "norm").pvalue > 1e-3
    flat = noise.flatten(1).double().numpy()
    limit = 4 / math.sqrt(flat.size)
    for lag in (1, 67, 68):  # within and across the halves that Box-Muller fills
        assert abs((flat[:, lag:] * flat[:, :-lag]).mean()) < 1.2 * limit
    assert abs((flat[1:] * flat[:-1]).mean()) < 1.2 * limit


def test_impossible_seed():
    with pytest.raises(ValueError, match="seed=-1"):
        uniforms(-1, 0, Stream.COUNTING, 0, 1, 1)


PINNED_UNIFORMS = [[0.21185954403345753, 0.21554582036140146], [0.7847420543536522, 0.4510906750634319]]
PINNED_KEYS = [-4502859756731779371, 5761478045574441499]
