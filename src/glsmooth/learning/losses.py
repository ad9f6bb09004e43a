"""The training loss: cross-entropy over transformed copies plus consistency regularisation.

Source of the consistency term: Jeong & Shin, "Consistency Regularization for Certified Robustness of Smoothed
Classifiers", NeurIPS 2020, eq. 8.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class LossTerms(NamedTuple):
    """The parts of the training loss, scalars; ``total`` is what is minimised."""

    total: Tensor
    cross_entropy: Tensor
    divergence: Tensor
    entropy: Tensor


def consistency_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Disagreement between transformed copies and uncertainty of their mean prediction.

    With p_i the prediction on copy i and p = mean_i p_i, returns the pair of scalars (batch means, in nats)
    mean_i KL(p || p_i) and the entropy of p.

    Args:
        logits: `m x N x K`: m copies of N images, K classes.
    """
    log_copies = F.log_softmax(logits.float(), dim=-1)
    log_mean = log_copies.logsumexp(dim=0) - math.log(len(logits))
    mean = log_mean.exp()
    divergence = (mean * (log_mean - log_copies)).sum(-1).mean()
    entropy = -(mean * log_mean).sum(-1).mean()
    return divergence, entropy


def training_loss(
    logits: Tensor, labels: Tensor, consistency: float, entropy: float, label_smoothing: float = 0.0
) -> LossTerms:
    """Cross-entropy averaged over copies + ``consistency`` · KL term + ``entropy`` · entropy term.

    Args:
        logits: `m x N x K`; computed in float32 whatever their type, so that mixed precision cannot overflow.
        labels: `N` class numbers, the same for every copy.
        consistency: the weight λ of the mean over copies of KL(mean prediction || copy).
        entropy: the weight η of the entropy of the mean prediction.
        label_smoothing: the share of the target that is spread evenly over the classes.
    """
    copies = len(logits)
    cross_entropy = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.repeat(copies), label_smoothing=label_smoothing
    )
    divergence, mean_entropy = consistency_terms(logits)
    total = cross_entropy + consistency * divergence + entropy * mean_entropy
    return LossTerms(total, cross_entropy, divergence, mean_entropy)
