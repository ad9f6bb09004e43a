"""The loss against formulas written out by hand, value and gradient."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glsmooth.learning.losses import consistency_terms, training_loss


@pytest.fixture
def logits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(3, 5, 4, generator=generator)).requires_grad_()


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_two_copies_by_hand():
    # p = (.8, .2) and (.4, .6), mean (.6, .4); the other direction of KL would give .0863 instead of .0914.
    logits = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]]).log()
    divergence, entropy = consistency_terms(logits)
    by_hand = (0.6 * math.log(0.6 / 0.8) + 0.4 * math.log(0.4 / 0.2)) / 2
    by_hand += (0.6 * math.log(0.6 / 0.4) + 0.4 * math.log(0.4 / 0.6)) / 2
    assert divergence.item() == pytest.approx(by_hand, abs=1e-6)
    assert entropy.item() == pytest.approx(-0.6 * math.log(0.6) - 0.4 * math.log(0.4), abs=1e-6)


def test_consistency_gradient(logits):
    p = softmax(logits.detach().double().numpy())
    mean, (m, n, _) = p.mean(0), p.shape

    def through_softmax(v):  # gradient in p_i to gradient in logits_i
        return p * (v - (p * v).sum(-1, keepdims=True)) / n

    by_divergence = (np.log(mean) + 1 - np.log(p).mean(0)) / m - mean / p / m
    by_entropy = np.broadcast_to(-(np.log(mean) + 1) / m, p.shape)
    divergence, entropy = consistency_terms(logits)
    assert divergence.item() == pytest.approx((mean * (np.log(mean) - np.log(p))).sum(-1).mean(), rel=1e-5)
    for term, gradient in ((divergence, by_divergence), (entropy, by_entropy)):
        (found,) = torch.autograd.grad(term, logits, retain_graph=True)
        np.testing.assert_allclose(found.numpy(), through_softmax(gradient), atol=1e-6)


def test_equal_copies_agree(logits):
    divergence, entropy = consistency_terms(logits[:1].expand(4, -1, -1))
    assert divergence.item() == pytest.approx(0, abs=1e-6)
    assert entropy.item() > 0.1


def test_total_and_cross_entropy_over_copies(logits):
    labels = torch.tensor([0, 1, 2, 3, 0])
    terms = training_loss(logits, labels, consistency=3.0, entropy=0.25)
    expected = torch.stack([F.cross_entropy(copy, labels) for copy in logits]).mean()
    assert terms.cross_entropy.item() == pytest.approx(expected.item(), rel=1e-6)
    total = terms.cross_entropy + 3 * terms.divergence + 0.25 * terms.entropy
    assert terms.total.item() == pytest.approx(total.item(), rel=1e-6)


def test_half_precision_stays_finite():
    logits = torch.tensor([[[6e4, -6e4, 0.0]], [[-6e4, 6e4, 0.0]]], dtype=torch.float16, requires_grad=True)
    terms = training_loss(logits, torch.tensor([2]), consistency=1.0, entropy=1.0)
    terms.total.backward()
    assert terms.total.isfinite()
    assert terms.total.dtype == torch.float32
    assert logits.grad.isfinite().all()
