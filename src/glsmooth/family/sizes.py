"""Regions of all sizes: one region scaled around the identity."""

from __future__ import annotations

from glsmooth.family.regions import Ball, Box
from glsmooth.transforms.base import ResolvableTransform

__all__ = ["multiplicative", "scaled"]


def multiplicative(transform: ResolvableTransform, name: str) -> bool:
    """Whether the parameter's domain is (0, inf): it composes by products and is scaled in the logarithm."""
    domain = transform.domain(name)
    return domain.low == 0.0 and not domain.low_included


def scaled(transform: ResolvableTransform, region: Box | Ball, scale: float) -> Box | Ball:
    """``region`` scaled around the identity: 0 is the identity alone, 1 is ``region``.

    In a box, additive parameters move as identity + scale * (beta - identity), multiplicative ones as beta ** scale,
    so that [0.5, 2] becomes [0.25, 4] at scale 2; ends stay inside the parameter's domain. In a ball, which has to stay
    one, all are additive, and it may come to leave a domain.
    """
    if isinstance(region, Ball):
        identity_of = dict(zip(transform.parameters, transform.identity.tolist(), strict=True))
        centre = {name: identity_of[name] + scale * (at - identity_of[name]) for name, at in region.centre.items()}
        return Ball(scale * region.radius, **centre)
    intervals = {}
    for i, name in enumerate(transform.parameters):
        if name not in region.intervals:
            continue
        identity = float(transform.identity[i])
        lowest = transform.domain(name).low
        ends = []
        for end in region.intervals[name]:
            if multiplicative(transform, name):
                ends.append(identity * (end / identity) ** scale)
            else:
                ends.append(max(identity + scale * (end - identity), lowest))
        intervals[name] = (ends[0], ends[1])
    return Box(**intervals)
