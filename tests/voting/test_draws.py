"""Draws: each a function of (seed, image, stream, number), and of the right law."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from glsmooth.errors import UserError
from glsmooth.voting.draws import Stream, coin, pixel_normals, uniforms


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
        for stream in (Stream.SELECTION, Stream.COUNTING, Stream.COIN)
    ]
    values = np.concatenate([u.ravel() for u, _ in blocks])
    assert len(np.unique(values)) == len(values)
    keys = np.concatenate([keys for _, keys in blocks])
    assert len(np.unique(keys)) == len(keys)


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (1, 7), (2**63 + 5, 49999)])
def test_draws_are_pinned(seed, index):
    """A change of generator would silently break every stored run: it must be seen."""
    selection, counting, keys, toss, noise = PINNED[seed, index]
    u, _ = uniforms(seed, index, Stream.SELECTION, 0, 2, 5)
    assert [*u[0], u[1, 0]] == selection
    u, found = uniforms(seed, index, Stream.COUNTING, 0, 2, 5)
    assert [*u[0], u[1, 0]] == counting
    assert found.tolist() == keys
    assert coin(seed, index) == toss
    # Logarithm and cosine may differ in the last bit of float32 from one library to the next.
    normals = pixel_normals(torch.tensor(keys[:1]), (1, 2, 3)).flatten().tolist()
    assert normals == pytest.approx(noise, abs=2e-6)


@pytest.mark.parametrize("d", range(1, 10))
def test_a_draw_takes_whole_blocks_of_four_words(d):
    """As many as hold its parameters and the key of its noise: where each draw begins decides all after it."""
    words = np.random.Philox(key=np.array([5, 2], np.uint64), counter=[0, 1, 0, 0]).random_raw(36)
    u, keys = uniforms(5, 2, Stream.COUNTING, 0, 2, d)
    for draw, start in enumerate((0, 4 * math.ceil((d + 1) / 4))):
        assert u[draw].tolist() == [(int(word >> np.uint64(12)) + 0.5) * 2.0**-52 for word in words[start : start + d]]
        assert keys[draw] == words[start + d].astype(np.int64)


def test_draws_of_two_parameters_are_pinned():
    u, keys = uniforms(0, 0, Stream.COUNTING, 0, 2, 2)
    assert u.tolist() == [
        [0.21185954403345753, 0.21554582036140146],
        [0.7847420543536522, 0.4510906750634319],
    ]
    assert keys.tolist() == [-4502859756731779371, 5761478045574441499]


def test_the_coin_is_uniform_and_never_understated(monkeypatch):
    coins = np.array([coin(3, i) for i in range(20_000)])
    assert stats.kstest(coins, "uniform").pvalue > 1e-3
    assert len(np.unique(coins)) == len(coins)
    # Upper ends of cells of 2^-52: the least is one cell, the largest exactly 1.
    for word, toss in ((0, 2.0**-52), (2**64 - 1, 1.0), (5 << 12, 6 * 2.0**-52)):
        words = SimpleNamespace(random_raw=lambda n, word=word: np.full(n, word, np.uint64))
        monkeypatch.setattr(np.random, "Philox", lambda words=words, **_: words)
        assert coin(0, 0) == toss


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
    with pytest.raises(UserError, match="seed=-1"):
        uniforms(-1, 0, Stream.COUNTING, 0, 1, 1)


# (seed, index): five first uniforms and the first of the second draw, of both streams; keys of the second; coin; pixels
PINNED = {
    (0, 0): (
        [
            0.011546754286331562, 0.24154919656271823, 0.11142585551493822,
            0.5644146216071338, 0.5023796042735055, 0.253822740392485,
        ],
        [
            0.21185954403345753, 0.21554582036140146, 0.7558994834676928,
            0.5335035885176697, 0.7847420543536522, 0.5774269311632526,
        ],
        [8321154236932002834, 1579588816079855385],
        0.436322488806816,
        [
            -0.6439241170883179, -0.2452940046787262, 0.1035880520939827,
            1.1129852533340454, -0.24636436998844147, -1.1538078784942627,
        ],
    ),
    (1, 7): (
        [
            0.9214917344895707, 0.031755249184295065, 0.017872108295097777,
            0.2792788433228609, 0.09624008649799498, 0.32485717707216144,
        ],
        [
            0.8143431098673851, 0.18075968393173547, 0.8965979994965702,
            0.2261813611539295, 0.7542619986554852, 0.218013698548008,
        ],
        [-4135816062516138515, 6618896885566294355],
        0.9619667726390706,
        [
            0.10419395565986633, 0.8104710578918457, -1.687562346458435,
            -1.294638752937317, 0.5629915595054626, 0.4619666635990143,
        ],
    ),
    (2**63 + 5, 49999): (
        [
            0.9526355410146409, 0.3704326040938174, 0.6885044023832144,
            0.25994932777125246, 0.3057626936318095, 0.39262629817048145,
        ],
        [
            0.2462441686987541, 0.5093960068181119, 0.9034356377336757,
            0.8303526402406128, 0.006855726075354895, 0.47711821227517304,
        ],
        [-5476083410026319772, -6741072432628223884],
        0.9376188743950662,
        [
            1.720643162727356, 0.48082706332206726, 0.18605805933475494,
            0.4866441786289215, 0.7169594764709473, -0.5448344945907593,
        ],
    ),
}  # fmt: skip
