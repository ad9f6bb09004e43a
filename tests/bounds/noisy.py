"""What a classifier can do that sees images under noise: exactly, in two or three dimensions, whatever is proved of it.

Under a finite law of draws the sum of image and noise is a mixture of normal laws. Cells of a grid have masses under it
that are products of differences of Φ, and a classifier that is constant on cells is a classifier: what the best of them
reaches refutes a required probability below it. It falls short of the best of all by the square of the cells' size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import ndtr

Array = NDArray[np.float64]


def normal_nodes(scale: float = 1.0, count: int = 160, reach: float = 8.0) -> tuple[Array, Array]:
    """Places and weights that stand for N(0, scale²): the trapezoidal rule, exact to rounding for smooth functions."""
    z = np.linspace(-reach, reach, count)
    weight = np.exp(-z * z / 2)
    return scale * z, weight / weight.sum()


def exponential_nodes(rate: float, count: int = 100, reach: float = 32.0) -> tuple[Array, Array]:
    """The same for an exponential law: Gauss and Legendre's."""
    x, weight = np.polynomial.legendre.leggauss(count)
    y = reach / 2 * (x + 1)
    weight = weight * np.exp(-y)
    return y / rate, weight / weight.sum()


def product(*axes: tuple[Array, Array]) -> tuple[Array, Array]:
    """Places (K, n) and weights (K,) of independent coordinates."""
    places = np.meshgrid(*(x for x, _ in axes), indexing="ij")
    return np.stack([x.ravel() for x in places], axis=1), reduce(np.multiply.outer, [w for _, w in axes]).ravel()


def grid(means: Array, scale: Array | float, step: float) -> list[Array]:
    """Edges of cells, of ``step`` standard deviations at the least, that hold nearly all of the mass."""
    scale = np.broadcast_to(scale, means.shape)
    edges = []
    for m, s in zip(means.T, scale.T, strict=True):
        low, high = (m - 6 * s).min(), (m + 6 * s).max()
        inner = np.linspace(low, high, 2 + math.ceil((high - low) / (step * s.min())))
        edges.append(np.concatenate(([-np.inf], inner, [np.inf])))
    return edges


def masses(means: Array, weights: Array, scale: Array | float, edges: Sequence[Array]) -> Array:
    """Masses of all cells under Σ_k weights_k · N(means_k, diag(scale_k²)), flat."""
    scale = np.broadcast_to(scale, means.shape)
    axes = [np.diff(ndtr((e - means[:, [i]]) / scale[:, [i]]), axis=1) for i, e in enumerate(edges)]
    first, last = weights[:, None] * axes[0], axes[-1]
    if len(axes) == 1:
        return first.sum(0)
    if len(axes) == 3:
        first = (first[:, :, None] * axes[1][:, None]).reshape(len(weights), -1)
    return (first.T @ last).ravel()


def best(p: Array, q: Array, level: float = 0.5) -> float:
    """Most that P(f) can be while Q(f) <= level, for f with values in [0, 1]: by Neyman and Pearson's lemma."""
    with np.errstate(all="ignore"):
        order = np.argsort(np.where(p > 0, q / p, np.inf), kind="stable")
    used = np.cumsum(q[order])
    i = int(np.searchsorted(used, level, side="right"))
    if i == len(used):
        return float(p.sum())
    left = level - (used[i - 1] if i else 0.0)
    return float(p[order[:i]].sum() + p[order[i]] * left / q[order[i]])


def best_by_linprog(p: Array, q: Array, level: float = 0.5) -> float:
    """The same as a linear programme, which knows of no lemma."""
    found = linprog(-p, A_ub=q[None], b_ub=[level], bounds=(0, 1), method="highs")
    assert found.success
    return -float(found.fun)


@dataclass(frozen=True)
class Seen:
    """What is seen of a reference and of an attacked image: masses of the same cells."""

    reference: Array
    attacked: Array

    @classmethod
    def of(
        cls,
        means: tuple[Array, Array],
        weights: Array,
        scale: Array | float,
        step: float = 0.5,
        edges: Sequence[Array] | None = None,
    ) -> Seen:
        """From means (K, m) of the draws with ``weights`` (K,), and the ``scale`` of the noise, (K, m) if need be."""
        if edges is None:
            both = np.concatenate([np.broadcast_to(scale, m.shape) for m in means])
            edges = grid(np.concatenate(means), both, step)
        reference, attacked = (masses(m, weights, scale, edges) for m in means)
        return cls(reference, attacked)

    def best(self, level: float = 0.5) -> float:
        """Most that a class can have at the reference and no more than ``level`` at the attacked image."""
        return best(self.reference, self.attacked, level)


def whitened(images: Array, sigma: float, brightness: float = 0.0) -> Array:
    """Images (…, m) where the noise and a normal law of brightness together are N(0, I)."""
    mean = images.mean(-1, keepdims=True)
    return (images - mean) / sigma + mean / math.sqrt(sigma**2 + brightness**2 * images.shape[-1])


def contrasted(v: Array, attacked: Array, law: tuple[float, float], sigma: float, step: float = 0.4) -> Seen:
    """What is seen of two images (m,) under a contrast, LogNormal(0, s), and after it a normal brightness and noise.

    In the plane that the two span, whitened: outside of it there is nothing but noise.

    Args:
        law: scales of contrast and brightness.
    """
    s, brightness = law
    both = np.stack([whitened(x, sigma, brightness) for x in (v, attacked)])
    frame = np.linalg.qr(both.T)[0]
    # So many draws that two of them are nearer to each other than the noise.
    far = float(np.linalg.norm(both, axis=1).max()) * s * math.exp(4 * s)
    z, weights = normal_nodes(s, 100 + math.ceil(16 * far), 5.5)
    means = [np.exp(z)[:, None] * point for point in both @ frame]
    return Seen.of((means[0], means[1]), weights, 1.0, step)
