"""Attacks on classifiers whose smoothed probabilities are known: false certificates are found, and sound ones hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

import glsmooth as gs
from glsmooth.attacks import Effort, Violation, attack_images, core
from glsmooth.attacks.core import Attacker, Claim, Item
from glsmooth.attacks.objective import Objective
from glsmooth.attacks.search import STAGES, Best
from glsmooth.attacks.space import Space
from glsmooth.errors import UserError
from glsmooth.voting.classifier import BaseClassifier

SIGMA = 0.3
REGION = gs.Box(brightness=(-0.4, 0.4))
QUICK = Effort(passes=800, draws=8, votes=1000)


def brightness():
    return gs.SmoothedFamily(gs.transforms.Brightness(), {"brightness": gs.Normal(0.0, SIGMA)})


class Network(nn.Module):
    """Two classes by a margin of the images."""

    def __init__(self, margin):
        super().__init__()
        self.margin = margin

    def forward(self, images):
        margin = self.margin(images)
        return torch.stack([margin, -margin], dim=1)


def smoothed(margin, family=None):
    speed = {"batch_size": 512, "compile": False, "channels_last": False, "threads": 1}
    return gs.SmoothedClassifier(Network(margin), family or brightness(), 2, **speed)


def half_line(threshold):
    """Class 0 where the image is darker than a threshold on average: what the lemma of Neyman and Pearson has."""
    return smoothed(lambda images: threshold - images.mean((1, 2, 3)))


def pictures(number, size=4):
    """Images of mean 1/2 between 1/4 and 3/4."""
    images = torch.rand(number, 1, size, size, generator=torch.Generator().manual_seed(0)) / 2
    return images - images.mean((1, 2, 3), keepdim=True) + 0.5


@pytest.fixture(scope="module")
def printed():
    """Four certificates by the procedure as printed, for a half-line with h(0) = 0.83, and so h(0.4) = 0.35."""
    classifier = half_line(0.5 + SIGMA * norm.ppf(0.83))
    images = pictures(4)
    return classifier, images, classifier.certify_many(images, REGION, n=2000, method="gl_printed")


def test_the_false_certificates_of_the_printed_procedure_are_found(printed):
    classifier, images, certificates = printed
    assert all(one.p_lower > one.h_min for one in certificates)
    found = attack_images(classifier, images, [0] * 4, REGION, certificates=certificates, effort=QUICK)
    assert [one.refuted for one in found.findings] == [True] * 4
    assert found.violated
    assert found.cra == 1.0
    assert found.era == 0.0
    worst = found.findings[0]
    assert worst.beta == (0.4,)
    assert worst.count / worst.n == pytest.approx(norm.cdf(norm.ppf(0.83) - 0.4 / SIGMA), abs=0.06)
    assert worst.again_count / worst.again_n == pytest.approx(0.83, abs=0.02)
    with pytest.raises(Violation) as told:
        found.require(lambda one: f"again {one.index}")
    words = str(told.value)
    assert f"image {worst.index} is certified for class 0, and is broken: at brightness = 0.4 only" in words
    assert f"{worst.count} of {worst.n} fresh votes" in words
    assert words.endswith(f"again {worst.index}")


def test_the_certificates_of_neyman_and_pearson_hold_for_the_same_images(printed):
    classifier, images, _ = printed
    region = gs.Box(brightness=(-0.2, 0.2))  # Φ(2/3) = 0.7475
    certificates = classifier.certify_many(images, region, n=2000)
    assert all(one.certified for one in certificates)
    found = attack_images(classifier, images, [0] * 4, region, certificates=certificates, effort=QUICK)
    assert not found.beaten
    assert found.chance == 1.0
    assert found.cra == found.era == 1.0
    found.require()
    # Beyond the region they break, where the class has half of the votes or a little farther.
    edge = SIGMA * norm.ppf(0.83) / 0.2
    for one in found.findings:
        assert one.certified_size <= edge < one.broken_size < 1.45 * edge
        assert one.gap > 0


def test_lucky_votes_are_told_from_a_wrong_bound(printed):
    """Certificates with a p_A that the class does not have: false, but no fault of the bound, and rare."""
    classifier, images, certificates = printed
    certificates = [replace(one, p_lower=0.5, h_min=0.9088) for one in certificates]

    def attacked(*lucky):
        held = [replace(one, p_lower=0.95) if i in lucky else one for i, one in enumerate(certificates)]
        return attack_images(classifier, images, [0] * 4, REGION, certificates=held, effort=QUICK)

    one = attacked(2)
    assert [finding.beaten for finding in one.findings] == [False, False, True, False]
    assert not one.refuted
    assert one.chance == pytest.approx(1 - 0.999**4)
    one.require()  # once in 250 attacks of four images
    two = attacked(0, 2)
    assert not two.refuted
    assert two.chance < 1e-5
    with pytest.raises(Violation, match="2 of 4 images have a false certificate; by chance"):
        two.require()


def test_no_vote_sampled_leaves_no_room_for_chance(printed):
    classifier, images, certificates = printed
    found = attack_images(classifier, images, [0] * 4, REGION, certificates=certificates, effort=QUICK)
    one = replace(found, findings=(replace(found.findings[0], refuted=False),))
    assert one.chance > one.delta
    assert not one.violated
    assert replace(one, alpha=0.0).violated


def test_a_certificate_of_the_wrong_class_is_attacked_for_that_class(printed):
    classifier, images, certificates = printed
    found = attack_images(classifier, images, [1] * 4, REGION, certificates=certificates, effort=QUICK)
    assert found.accuracy == found.cra == found.era == 0.0
    assert len(found.refuted) == 4
    assert not any(one.broken for one in found.findings)  # it never was right


DIP = 0.1234


def test_a_failure_between_the_points_of_every_grid_is_found():
    """The base classifier is wrong in an interval of 0.0004 alone: none of the fixed parameters lies in it."""
    classifier = smoothed(lambda images: (images.mean((1, 2, 3)) - 0.5 - DIP).abs() - 2e-4)
    found = attack_images(classifier, pictures(3), [0] * 3, REGION, effort=Effort(passes=4000, draws=8))
    for one in found.findings:
        assert one.base_broken
        assert STAGES[one.base_found_by] in ("gradient", "evolution", "coordinates")
        assert one.base_beta[0] == pytest.approx(DIP, abs=3e-4)
        assert not one.broken  # smoothed over 0.3, that does not show
    assert found.base_era == 0.0
    assert found.era == found.accuracy == 1.0
    assert not found.tested


def test_a_shift_that_has_no_derivative_is_found():
    family = gs.SmoothedFamily(
        gs.transforms.Translation(), {"tx": gs.Normal(0, 0.1), "ty": gs.Normal(0, 0.1)}, (16, 16)
    )
    image = torch.zeros(1, 1, 16, 16)
    image[..., 8, 8] = 1.0
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")

    def margin(images):  # wrong where the bright pixel is at (13, 5)
        weights = images[:, 0]
        row, column = (weights * rows).sum((1, 2)), (weights * columns).sum((1, 2))
        return (row - 13).abs() + (column - 5).abs() - 0.5

    found = attack_images(
        smoothed(margin, family), image, [0], gs.Box(tx=(-6, 6), ty=(-6, 6)), effort=Effort(passes=4000, draws=4)
    )
    (one,) = found.findings
    assert one.base_broken
    assert one.broken
    assert one.beta == one.base_beta == (-3.0, 5.0)


def test_margins_are_of_the_smoothed_classifier_at_the_attacked_image():
    threshold, beta = 0.55, 0.1
    network = Network(lambda images: threshold - images.mean((1, 2, 3)))
    objective = Objective(BaseClassifier(network, 2), brightness(), pictures(2), [3, 8], [0, 1], 0, 512)
    margins = objective.margins(torch.tensor([0, 1]), torch.full((2, 1), beta, dtype=torch.float64), 1, 4000)
    share = norm.cdf((threshold - 0.5 - beta) / SIGMA)
    assert (margins[0] > 0).double().mean().item() == pytest.approx(share, abs=0.03)
    assert (margins[1] > 0).double().mean().item() == pytest.approx(1 - share, abs=0.03)
    assert objective.passes == [4000, 4000]


@pytest.mark.parametrize("batch_size", [1, 5, 7, 64])
def test_batches_of_any_size_give_the_same_and_halve_where_memory_is_short(batch_size):
    largest = []

    def margin(images):
        largest.append(len(images))
        if len(images) > 16:
            raise MemoryError
        return 0.6 - images.mean((1, 2, 3))

    objective = Objective(BaseClassifier(Network(margin), 2), brightness(), pictures(3), [0, 1, 2], [0] * 3, 0, 64)
    which, beta = torch.tensor([2, 0, 1, 1]), torch.tensor([[0.1], [0.2], [-0.1], [0.0]], dtype=torch.float64)
    expected = objective.margins(which, beta, 1, 10)
    assert objective.batch_size == 16
    objective.batch_size = batch_size
    assert torch.equal(objective.margins(which, beta, 1, 10), expected)
    assert largest[-1] <= max(batch_size, 10)


def test_classes_with_a_little_more_than_half_are_not_called_beaten():
    """At the worst parameter of every image the class has 0.502: each test could err, and they share one error."""
    classifier = half_line(0.9 + SIGMA * norm.ppf(0.502))
    effort = Effort(passes=60, draws=4, votes=200, tries=3, delta=0.5, reach=0)
    attacker = Attacker(classifier, REGION, 60, effort)
    claim = Claim(0, 0.95, 0.9)
    found = attacker.run([Item(i, image, 0, claim) for i, image in enumerate(pictures(60))])
    assert np.mean([one.count / one.n for one in found]) == pytest.approx(0.502, abs=0.02)
    assert sum(one.beaten for one in found) <= 1


def test_gradients_are_those_of_the_score():
    family = gs.SmoothedFamily(
        gs.transforms.ContrastBrightness(), {"contrast": gs.LogNormal(0, 0.3), "brightness": gs.Normal(0, 0.3)}
    )
    region = gs.Box(contrast=(0.7, 1.4), brightness=(-0.2, 0.2))
    images, space = pictures(2), Space(family, region)
    network = Network(lambda images: torch.sin(3 * images.square().mean((1, 2, 3))))
    objective = Objective(BaseClassifier(network, 2), family, images, [4, 7], [0, 1], 0, 16)
    objective.calibrate(space.identity.expand(2, -1), 8)
    which, u = torch.tensor([0, 1, 1]), torch.tensor([[0.2, 0.4], [0.9, 0.1], [0.5, 0.5]], dtype=torch.float64)
    scores, slopes = objective.gradient(which, u, space.parameters, 1, 8)
    assert torch.allclose(scores, objective.scores(which, space.parameters(u), 1, 8))
    for i in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[i] = 1e-3
        ahead, behind = (objective.scores(which, space.parameters(u + s * step), 1, 8) for s in (1, -1))
        assert torch.allclose(slopes[:, i], (ahead - behind) / 2e-3, atol=2e-3)


def test_blur_has_a_gradient_after_votes_were_taken():
    """What the first vote makes and keeps must be fit for derivatives."""
    family = gs.SmoothedFamily(gs.transforms.GaussianBlur(), {"blur": gs.Exponential(1.0)}, (6, 6))
    network = Network(lambda images: images.amax((1, 2, 3)) - 0.7)
    images = pictures(1, size=6)
    gs.SmoothedClassifier(network, family, 2, batch_size=64).certify_many(images, gs.Box(blur=(0, 1)), n=20)
    objective = Objective(BaseClassifier(network, 2), family, images, [0], [0], 0, 64)
    space = Space(family, gs.Box(blur=(0, 4)))
    _, slopes = objective.gradient(torch.tensor([0]), torch.tensor([[0.3]]), space.parameters, 1, 4)
    assert slopes.abs().item() > 0


def test_a_network_that_keeps_tensors_of_its_first_votes_is_attacked_without_gradients():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.kept = None

        def forward(self, images):
            if self.kept is None:
                self.kept = 2 * torch.ones(1)
            margin = 0.6 - images.mean((1, 2, 3)) * self.kept / 2
            return torch.stack([margin, -margin], dim=1)

    classifier, images = gs.SmoothedClassifier(Keeps(), brightness(), 2, batch_size=64), pictures(1)
    certificates = classifier.certify_many(images, REGION)
    found = attack_images(classifier, images, [0], REGION, certificates=certificates, effort=QUICK)
    assert found.findings[0].base_broken


def test_what_no_certificate_speaks_of_is_told_apart():
    """A network that sees the range of an image: brightness never changes it, and clipping does."""
    classifier = smoothed(lambda images: images.amax((1, 2, 3)) - images.amin((1, 2, 3)) - 0.4)
    images = pictures(2)
    assert (images.amax((1, 2, 3)) - images.amin((1, 2, 3))).min() > 0.42
    certificates = classifier.certify_many(images, REGION)
    found = attack_images(classifier, images, [0, 0], REGION, certificates=certificates, effort=QUICK, outside=True)
    assert found.cra == found.era == 1.0
    for one in found.findings:
        assert one.outside["clipped"] == one.outside["rounded"] == 1
    found.require()


def test_shifts_with_black_borders_are_no_cyclic_shifts():
    """A network that sees the sum of an image: cyclic shifts never change it, and black borders do."""
    family = gs.SmoothedFamily(gs.transforms.Translation(), {"tx": gs.Normal(0, 2), "ty": gs.Normal(0, 2)}, (8, 8))
    classifier = smoothed(lambda images: images.mean((1, 2, 3)) - 0.4, family)
    region = gs.Box(tx=(-3, 3), ty=(-3, 3))
    images = pictures(2, size=8)
    found = attack_images(classifier, images, [0, 0], region, effort=QUICK, outside=True)
    assert found.era == 1.0
    assert set(found.outside) == {"clipped", "rounded", "jpeg", "reflected", "zeros"}
    for one in found.findings:
        assert one.outside["zeros"] == 1
        assert one.outside["clipped"] == 0


def test_an_image_is_attacked_alike_in_any_company():
    classifier, images = half_line(0.5 + SIGMA * norm.ppf(0.93)), pictures(3)
    together = attack_images(classifier, images, [0] * 3, REGION, effort=QUICK, indices=[5, 9, 2]).findings
    alone = Attacker(classifier, REGION, 3, QUICK).run([Item(9, images[1], 0)])
    assert repr(alone[0]) == repr(together[1])
    other = Attacker(classifier, REGION, 3, QUICK, seed=1).run([Item(9, images[1], 0)])
    assert other[0].count != alone[0].count


def test_a_given_parameter_is_the_only_one_that_is_tried():
    classifier, images = half_line(0.5 + SIGMA * norm.ppf(0.83)), pictures(1)
    attacker = Attacker(classifier, REGION, 1, QUICK, given={"brightness": 0.39})
    (one,) = attacker.run([Item(0, images[0], 0, Claim(0, 0.8, 0.7))])
    assert one.beta == (0.39,)
    assert STAGES[one.found_by] == "given"
    assert one.refuted
    # To settle scales, a second look, fresh votes there, and at the identity again.
    assert one.passes == (8 + 1) + 64 + 1000 + 10_000
    with pytest.raises(UserError, match=r"at=\{'brightness': 0.5\} is not in the region"):
        Attacker(classifier, REGION, 1, QUICK, given={"brightness": 0.5})


class Split(nn.Module):
    """Class 0 where the image is darker than a threshold on average, else 1 or 2 by a fine grid."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        label = torch.where(mean < self.threshold, 0, 1 + torch.floor(mean * 1e4).long() % 2)
        return nn.functional.one_hot(label, 3).to(images)


def test_a_certificate_against_the_runner_up_is_tested_for_its_lead():
    """A class with 0.42 leads two that have 0.29 each; after a shift of 0.4 it has 0.06, and they 0.47."""
    classifier = gs.SmoothedClassifier(
        Split(0.5 + SIGMA * norm.ppf(0.42)), brightness(), 3, batch_size=512, compile=False, threads=1
    )
    images, near = pictures(2), gs.Box(brightness=(-0.01, 0.01))
    certificates = classifier.certify_many(images, near, n=10_000, runner_up=True)
    assert all(one.certified and one.p_lower < 0.5 for one in certificates)
    found = attack_images(classifier, images, [0, 0], near, certificates=certificates, effort=QUICK)
    assert found.cra == found.era == 1.0
    assert not found.beaten  # with less than half of the votes
    # The same certificates, said to be of a region for which they are not true.
    found = attack_images(classifier, images, [0, 0], REGION, certificates=certificates, effort=QUICK)
    assert len(found.beaten) == 2
    assert not found.refuted  # the bound itself certifies no such thing
    with pytest.raises(Violation, match="promises that it leads"):
        found.require()


def test_a_bound_that_claims_a_lead_wrongly_is_refuted(monkeypatch):
    classifier = gs.SmoothedClassifier(
        Split(0.5 + SIGMA * norm.ppf(0.42)), brightness(), 3, batch_size=512, compile=False, threads=1
    )
    asked = []
    monkeypatch.setattr(core, "certifies_runner_up", lambda family, region, *p: asked.append(p) or True)
    attacker = Attacker(classifier, REGION, 1, QUICK, given={"brightness": 0.4})
    (one,) = attacker.run([Item(0, pictures(1)[0], 0, Claim(0, 0.4, 0.9, leads=True))])
    assert one.beaten
    assert one.refuted
    ((p_lower, p_upper),) = asked
    assert 0.37 < p_lower < 0.42
    assert 0.29 < p_upper < 0.34


def test_what_is_lost_inside_the_region_on_the_way_to_the_nearest_is_a_broken_certificate():
    """The search before it found nothing: its best is the identity."""
    classifier = half_line(0.5 + SIGMA * norm.ppf(0.83))
    attacker, image = Attacker(classifier, REGION, 1, QUICK), pictures(1)
    item = Item(0, image[0], 0, Claim(0, 0.8, 0.7))
    objective = Objective(classifier.classifier, classifier.family, image, [0], [0], 0, 512)
    tested = {}
    found = attacker._nearest([item], objective, [Best([(0.9, (0.0,), 0)])], [0], tested)
    assert tested[0].beaten
    assert tested[0].beta == found[0][1]
    assert abs(tested[0].beta[0]) <= 0.4
    assert found[0][0] == pytest.approx(abs(tested[0].beta[0]) / 0.4)


def test_equal_logits_are_no_failure_of_the_class_that_is_answered():
    classifier = smoothed(lambda images: 0 * images.mean((1, 2, 3)))
    found = attack_images(classifier, pictures(1), [0], REGION, effort=Effort(passes=200, draws=4, votes=100))
    assert found.base_accuracy == found.base_era == 1.0


def test_regions_beside_the_identity_have_no_sizes(printed):
    classifier, images, _ = printed
    beside = gs.Box(brightness=(0.05, 0.1))
    certificates = classifier.certify_many(images[:1], beside)
    (one,) = attack_images(classifier, images[:1], [0], beside, certificates=certificates, effort=QUICK).findings
    assert one.certified
    assert np.isnan([one.certified_size, one.broken_size, one.gap]).all()


def test_a_network_without_numbers_is_right_nowhere():
    """NaN beyond some brightness: those votes are for no class, and the attack finds the place."""

    def margin(images):
        mean = images.mean((1, 2, 3))
        return torch.where(mean > 0.52, torch.full_like(mean, torch.nan), torch.ones_like(mean))

    found = attack_images(smoothed(margin), pictures(1), [0], REGION, effort=QUICK)
    (one,) = found.findings
    assert one.base_broken
    assert one.base_beta[0] > 0.015
    assert not one.broken  # no other class ever leads


def test_many_corners_cost_no_more_than_the_search():
    names = ("contrast", "brightness", "tx", "ty", "blur")
    family = gs.SmoothedFamily(
        gs.transforms.TranslationBlurBrightnessContrast(),
        {"contrast": gs.LogNormal(0, 0.3), "brightness": gs.Normal(0, 0.3), "blur": gs.Exponential(1.0)}
        | {name: gs.Normal(0, 2) for name in ("tx", "ty")},
        (4, 4),
    )
    region = gs.Box(contrast=(0.9, 1.1), brightness=(-0.1, 0.1), tx=(-1, 1), ty=(-1, 1), blur=(0, 1))
    assert set(family.parameters) == set(names)
    effort = Effort(passes=200, draws=4, votes=20, tries=1)
    attacker = Attacker(smoothed(lambda images: images.mean((1, 2, 3)) - 9, family), region, 1, effort)
    objective = Objective(attacker.classifier, family, pictures(1), [0], [1], 0, 512)
    identity = tuple(attacker.space.identity.tolist())
    attacker._first_lost(objective, [Best([(0.9, identity, 0)])], [0], torch.linspace(1 / 3, 4, 12))
    assert objective.passes[0] <= 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0]}, "labels: 1 for 2 images"),
        ({"labels": [0, 2]}, r"labels\[1\]: its label 2 is not one of the 2 classes"),
        ({"certificates": []}, "certificates: 0 for 2 images"),
        ({"indices": [1, 1]}, "its own index"),
        ({"indices": [1, 2**60]}, "an attack numbers images"),
        ({"region": gs.Box(contrast=(0.5, 2))}, "'contrast' is not a parameter of brightness"),
        ({"region": gs.Box(brightness=(-1e12, 0))}, "too extreme"),
    ],
)
def test_impossible_arguments_are_named(change, message):
    arguments = {"images": pictures(2), "labels": [0, 0], "region": REGION, "effort": QUICK} | change
    with pytest.raises(UserError, match=message):
        attack_images(half_line(0.5), **arguments)


@pytest.mark.parametrize(
    "wrong", [{"passes": -1}, {"draws": 0}, {"votes": 1}, {"tries": 1.5}, {"delta": 0.0}, {"reach": np.inf}]
)
def test_impossible_efforts_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Effort(**wrong)
