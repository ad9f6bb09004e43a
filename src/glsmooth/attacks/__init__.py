"""Attacks over regions: what the base and the smoothed classifier lose, and whether certificates hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glsmooth.attacks.core import (
    Attacked,
    Attacker,
    Claim,
    Effort,
    Finding,
    Item,
    Violation,
    certified_sizes,
)
from glsmooth.attacks.outside import conditions_of
from glsmooth.errors import UserError
from glsmooth.family.regions import Region
from glsmooth.smoothing import Certificate, SmoothedClassifier
from glsmooth.voting.images import as_label, gather

__all__ = ["Attacked", "Effort", "Finding", "Violation", "attack_images"]

#: Images of a block: enough to fill batches, few enough that a command that is stopped loses little.
BLOCK = 16


def attack_images(
    smoothed: SmoothedClassifier,
    images: Any,
    labels: Sequence[int],
    region: Region,
    *,
    certificates: Sequence[Certificate] | None = None,
    alpha: float = 1e-3,
    effort: Effort | None = None,
    outside: bool = False,
    seed: int = 0,
    indices: Sequence[int] | None = None,
) -> Attacked:
    """Look for parameters of a region at which a network, or its smoothed classifier, answers wrongly.

    Corners, a grid, random parameters, gradients through the transformation (in expectation over the smoothing laws),
    differential evolution and Powell's method, each from what those before it found. A failure of the smoothed
    classifier counts only by fresh votes, at a level that all tests share (:mod:`glsmooth.attacks.decide`). No attack
    proves that there is nothing to be found.

    >>> import torch, glsmooth as gs
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    >>> family = gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, 0.3)})
    >>> smoothed = gs.SmoothedClassifier(network, family, num_classes=2)
    >>> images, region = torch.rand(4, 3, 2, 2), gs.Box(brightness=(-0.1, 0.1))
    >>> certificates = smoothed.certify_many(images, region)
    >>> found = gs.attack_images(smoothed, images, [0, 1, 0, 1], region, certificates=certificates)
    >>> found.require()  # no certified image is broken
    >>> found.cra <= found.era
    True

    Args:
        smoothed: network and family.
        images: an array or tensor (B, C, H, W), or an iterable of images (C, H, W), with values in [0, 1]. Those that
            were chosen for their votes, certified ones for example, leave less to chance than is allowed for here.
        labels: the true class of each.
        region: a Box, a Ball or Points.
        certificates: of these images for this region, from :meth:`SmoothedClassifier.certify_many`, to be tested. Each
            is taken to claim its class where ``p_lower > h_min``, even if its method is not sound, and where it is
            certified against the runner-up; one of a transformation that is only approximately resolvable claims
            nothing.
        alpha: of the certificates' votes, as they were taken with it.
        effort: what it may cost, and how sure it must be.
        outside: whether certified images are attacked under what no certificate speaks of, too: clipped, rounded to 8
            bits, saved as JPEG, shifted with mirrored or black borders.
        seed: of the searches and of fresh votes, which are independent of a certification's with any seed.
        indices: the images' numbers, by default 0, 1, …

    Returns:
        What was found; ``require()`` raises :class:`glsmooth.attacks.Violation` where certificates are broken by more
        than chance.

    Raises:
        UserError: an impossible argument; a network that no votes can be taken of.
    """
    images = gather(images)
    if len(labels) != len(images):
        raise UserError(f"labels: {len(labels)} for {len(images)} images; give each image its own")
    fix = "give the number of a class"
    classes = [as_label(label, f"labels[{i}]", smoothed.num_classes, fix) for i, label in enumerate(labels)]
    numbers = list(range(len(images))) if indices is None else [int(index) for index in indices]
    if len(numbers) != len(images) or len(set(numbers)) != len(images):
        raise UserError(f"indices={numbers}: give each of the {len(images)} images its own index")
    if certificates is not None and len(certificates) != len(images):
        raise UserError(f"certificates: {len(certificates)} for {len(images)} images; give that of each image")
    if smoothed.family.warps:
        raise UserError(
            f"{smoothed.family.name} has a parameter of a threat, and attacks search those of transformations; search "
            "with threat.warp, which is differentiable"
        )
    effort = effort or Effort()
    conditions = conditions_of(smoothed.family.transform, images[0].shape[0]) if outside else []
    attacker = Attacker(smoothed, region, len(images), effort, seed, conditions=conditions)
    claims: Sequence[Claim | None] = _claims(smoothed, region, certificates, effort, images[0]) or [None] * len(images)
    items = [
        Item(index, image, label, claim)
        for index, image, label, claim in zip(numbers, images, classes, claims, strict=True)
    ]
    findings = [one for i in range(0, len(items), BLOCK) for one in attacker.run(items[i : i + BLOCK])]
    bound = max((one.failure_probability for one in certificates or ()), default=alpha) - alpha
    return Attacked(
        smoothed.family.parameters,
        tuple(findings),
        images=len(images),
        alpha=alpha,
        bound=max(0.0, bound),
        delta=effort.delta,
        tested=certificates is not None,
        outside={condition.name: condition.title for condition in conditions},
        leads=frozenset(item.index for item in items if item.claim is not None and item.claim.leads),
    )


def _claims(
    smoothed: SmoothedClassifier,
    region: Region,
    certificates: Sequence[Certificate] | None,
    effort: Effort,
    example: Any,
) -> list[Claim] | None:
    if certificates is None:
        return None
    method = certificates[0].method
    p_lower = [0.0 if one.residual is not None else one.p_lower for one in certificates]
    sizes = certified_sizes(smoothed, region, method, p_lower, effort.reach, example)
    return [
        Claim(one.prediction, p, one.h_min, size, leads=one.certified and not p > one.h_min)
        for one, p, size in zip(certificates, p_lower, sizes, strict=True)
    ]
