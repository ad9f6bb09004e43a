"""What differs between runs: axes, settings, seeds, and the best setting, counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from glsmooth.bounds import Outcome
from glsmooth.family.regions import Ball, region_of
from glsmooth.report.differences import Tally, compare
from glsmooth.runs.run import Run
from glsmooth.runs.summary import Numbers, Summary

TARGETS = {"brightness": "Brightness", "contrast": "ContrastBrightness", "tx": "Translation", "gamma": "Gamma"}


def result(
    robust=(1, 1, 0, 0),
    scale=0.3,
    region=None,
    training=None,
    approximate=False,
    alpha=0.001,
    indices=None,
    labels=None,
    certified=None,
    **changes,
):
    """A result without files: ``robust`` are the images that neyman_pearson certifies, all of them correct."""
    region = region or {"brightness": [-0.2, 0.2]}
    transform = {"_target_": f"glsmooth.transforms.{TARGETS[next(iter(region))]}"}
    names = {"contrast": ("contrast", "brightness"), "tx": ("tx", "ty")}.get(next(iter(region)), tuple(region))
    laws = {n: {"law": "LogNormal" if n in ("contrast", "gamma") else "Normal", "loc": 0.0} for n in names}
    n = len(robust)
    columns = {
        "index": np.arange(n) if indices is None else np.array(indices),
        "label": np.zeros(n, dtype=int) if labels is None else np.array(labels),
        "p_lower": np.where(np.array(robust) == 1, 0.9, 0.6),
        "n0": np.full(n, 10),
        "n": np.full(n, 100),
    }
    columns["prediction"] = columns["base_prediction"] = columns["label"]
    outcomes = {
        "neyman_pearson": Outcome(0.8, None, "neyman_pearson"),
        "gl": Outcome(0.95, None, "gl"),
        "gl_printed": Outcome(0.5, None, "gl_printed", sound=False),
        "mp": Outcome(None, None, "mp"),
    }
    if approximate:
        outcomes = {name: outcome.approximate(0.5, "why") for name, outcome in outcomes.items()}
    content = {
        "transform": transform,
        "smoothing": {name: law | {"scale": scale} for name, law in laws.items()},
        "region": certified or region,
        "dataset": {"name": "digits", "root": "here", "subset": None},
        "model": {"name": "small_cnn"},
        "monte_carlo": {"name": "paper", "n0": 10, "n": 100, "alpha": alpha},
        "outcomes": outcomes,
        "numbers": Numbers(n),
        "image_size": (8, 8),
        "training": {"seed": 0} if training is None else training,
        "checkpoint": {"path": "best.ckpt", "sha256": "0" * 64},
    }
    return Run(Path("run"), Summary(**(content | changes)), columns), region_of(region), outcomes


def axes_of(*results):
    return {axis.name: axis for axis in compare(results).axes}


# Axes


def test_keys_that_vary_together_are_one_axis():
    axes = axes_of(*(result(scale=scale, region={"tx": [-3, 3], "ty": [-3, 3]}) for scale in (8.0, 2.0, 4)))
    (axis,) = axes.values()
    assert [key.name for key in axis.keys] == ["smoothing.tx.scale", "smoothing.ty.scale"]
    assert axis.numbers == (2.0, 4.0, 8.0)
    assert axis.levels == (2, 0, 1)
    assert axis.words == ("2", "4", "8")


def test_keys_that_do_not_vary_together_are_two_axes():
    grid = [result(scale=s, training={"optimizer.lr": lr, "seed": 0}) for s in (0.1, 0.2) for lr in (1, 2, 3)]
    found = compare(grid)
    assert [axis.name for axis in found.axes] == ["smoothing.brightness.scale", "training.optimizer.lr"]
    assert [setting.levels for setting in found.settings] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert {key.name for key in found.same} >= {"monte_carlo.n", "model.name", "dataset.name", "images", "region"}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"monte_carlo": {"name": "paper", "n0": 10, "n": 200, "alpha": 0.001}}, "monte_carlo.n"),
        ({"monte_carlo": {"name": "paper", "n0": 10, "n": 100, "alpha": 0.01}}, "monte_carlo.alpha"),
        ({"pixel_noise": 0.25}, "pixel_noise"),
        ({"training": {"seed": 0, "loss.consistency": 5}}, "training.loss.consistency"),
        ({"training": {"seed": 0, "optimizer.lr": 0.1}}, "training.optimizer.lr"),
        ({"model": {"name": "resnet50"}}, "model.name"),
        ({"precision": "bf16-mixed"}, "precision"),
        ({"stochastic": True}, "stochastic"),
        ({"transform": {"_target_": "glsmooth.transforms.Brightness", "order": "x"}}, "transform.order"),
        ({"smoothing": {"brightness": {"law": "Laplace", "loc": 0.0, "scale": 0.3}}}, "smoothing.brightness.law"),
    ],
)
def test_any_key_can_differ(changes, name):
    assert list(axes_of(result(), result(**changes))) == [name]


def test_what_decides_nothing_is_no_axis():
    other = {"dataset": {"name": "digits", "root": "there", "subset": None, "num_workers": 3}}
    assert not axes_of(result(), result(**other, seconds_per_image=3.0, hardware={"device": "x"}, speed={"threads": 2}))


def test_the_usual_split_is_the_same_typed_or_not():
    def of(**chosen):
        return result(dataset={"name": "digits", "root": "here", "subset": None, **chosen})

    assert not axes_of(of(), of(split="test", skip=0, every=1))
    assert len(compare([of(), of(split="test")]).settings) == 1
    assert {"dataset.split", "images"} & set(axes_of(of(), of(split="val")))


def test_a_key_without_a_number_leads_and_is_no_number():
    resnet = result(scale=0.5, model={"name": "resnet50"})
    (axis,) = axes_of(result(), resnet).values()
    assert [key.name for key in axis.keys] == ["model.name", "smoothing.brightness.scale"]
    assert axis.numbers is None
    axis = axes_of(result(training={"seed": 0, "x": 1}), result())["training.x"]  # one does not say
    assert axis.numbers is None
    assert set(axis.words) == {"1", "–"}


def test_training_keys_that_certify_states_are_left_out():
    def trained(scale, own, **changes):
        training = {"seed": 0, "smoothing.brightness.scale": scale, "loss.pixel_noise": 0, "region.brightness": own}
        return result(scale=scale, training=training, certified={"brightness": [-0.2, 0.2]}, **changes)

    # Decided for other regions than certify's: the training's is not the region of the result.
    pair = [trained(0.1, [-0.2, 0.2]), trained(0.2, [-0.2, 0.2], region={"brightness": [-0.1, 0.1]})]
    assert all(not key.name.startswith("training.") for axis in compare(pair).axes for key in axis.keys)
    pair = [trained(0.1, [-0.2, 0.2]), trained(0.2, [-0.3, 0.3])]
    (axis,) = compare(pair).axes
    assert {key.name for key in axis.keys} == {"smoothing.brightness.scale", "training.region.brightness"}


# Regions


def regions(*boxes):
    return compare([result(region=box) for box in boxes]).axes[0]


def test_a_region_of_one_parameter_is_its_half_width():
    axis = regions({"brightness": [-0.4, 0.4]}, {"brightness": [-0.1, 0.1]})
    assert axis.numbers == (0.1, 0.4)
    assert "half-width" in axis.label
    assert axis.words == ("brightness in [−0.1, 0.1]", "brightness in [−0.4, 0.4]")
    axis = regions({"gamma": [0.5, 2.0]}, {"gamma": [0.8, 1.25]})
    assert axis.numbers == pytest.approx((1.25, 2.0))  # a factor
    axis = regions({"gamma": [1.0, 2.0]}, {"gamma": [1.0, 1.5]})
    assert axis.numbers == (1.5, 2.0)
    assert "up to" in axis.label


def test_scaled_regions_are_sizes_relative_to_the_largest():
    axis = regions(
        {"contrast": [0.5, 2.0], "brightness": [-0.2, 0.2]},
        {"contrast": [0.5**0.5, 2.0**0.5], "brightness": [-0.1, 0.1]},
    )
    assert axis.numbers == pytest.approx((0.5, 1.0))
    assert axis.label == "size of the region (1: the largest)"
    # Contrast stays: the half-width of brightness is the size.
    axis = regions(
        {"contrast": [0.5, 2.0], "brightness": [-0.2, 0.2]}, {"contrast": [0.5, 2.0], "brightness": [-0.1, 0.1]}
    )
    assert axis.numbers == (0.1, 0.2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"brightness": [-0.2, 0.2]}, {"brightness": [-0.1, 0.15]}),
        ({"brightness": [0.1, 0.2]}, {"brightness": [-0.2, -0.1]}),
        ({"tx": [-3, 3], "ty": [0, 0]}, {"tx": [0, 0], "ty": [-3, 3]}),
        ({"tx": [-3, 3]}, {"tx": [-3, 3], "ty": [-3, 3]}),
        ({"brightness": [-0.2, 0.2]}, {"gamma": [0.5, 2.0]}),
    ],
)
def test_other_regions_are_names(first, second):
    assert regions(first, second).numbers is None


def test_a_region_that_varies_with_a_scale_follows_it():
    pair = [result(scale=s, region={"brightness": [-s, s]}) for s in (0.1, 0.2)]
    (axis,) = compare(pair).axes
    assert [key.name for key in axis.keys] == ["smoothing.brightness.scale", "region"]
    assert axis.numbers == (0.1, 0.2)


# Seeds


def test_only_seeds_are_averaged():
    found = compare(
        [
            result((1, 1, 1, 0), training={"seed": 0}),
            result((1, 0, 0, 0), training={"seed": 1}),
            result((1, 1, 0, 0), training={"seed": 1}, seed=7),
            result((0, 0, 0, 0), training={"seed": 0}, scale=0.5),
        ]
    )
    first, second = found.settings
    assert (first.members, second.members) == ((0, 1, 2), (3,))
    assert [key.name for key in found.seeds] == ["seed", "training.seed"]
    tally = found.cra(first, "neyman_pearson")
    assert tally == Tally((3, 1, 2), 4)
    assert (tally.mean, tally.span, tally.words()) == (0.5, (0.25, 0.75), "50.0 % [25.0 %, 75.0 %]")
    assert found.smoothed(first).mean == 1.0


def test_means_are_rounded_down():
    assert Tally((1, 1, 0), 1).words() == "66.6 % [0.0 %, 100.0 %]"
    assert Tally((9999,), 10000).words() == "99.9 %"


@pytest.mark.parametrize(
    "changes",
    [
        {"indices": [0, 1, 2, 4]},
        {"labels": [0, 0, 0, 1]},
        {"robust": (1, 1, 1, 1, 1)},
        {"dataset": {"name": "digits", "subset": None, "split_seed": 1}},
        {"dataset": {"name": "digits", "subset": 4, "subset_seed": 1}},
        {"dataset": {"name": "mnist", "subset": None}},
    ],
)
def test_other_images_are_another_setting(changes):
    """Runs of other images are no seeds of each other, though they differ in a seed, too."""
    found = compare([result(), result(**({"robust": (1, 1, 1, 1)} | changes), seed=1)])
    assert len(found.settings) == 2
    assert len({setting.question for setting in found.settings}) == 2
    assert not found.best()


def test_the_order_of_the_rows_is_no_difference():
    assert len(compare([result(indices=[0, 1, 2, 3]), result(indices=[3, 1, 0, 2], seed=1)]).settings) == 1


def test_folders_of_images_count_by_their_path():
    one, other = ({"name": "image_folder", "root": root} for root in ("here", "there"))
    assert len(compare([result(dataset=one), result(dataset=other, seed=1)]).settings) == 2
    assert len(compare([result(dataset=one), result(dataset=one, seed=1)]).settings) == 1


def test_checkpoints_of_unknown_training_are_not_averaged():
    pair = [result(training={}, checkpoint={"path": "x", "sha256": digit * 64}, seed=int(digit)) for digit in "12"]
    found = compare(pair)
    assert [axis.name for axis in found.axes] == ["checkpoint"]
    assert len(found.settings) == 2


def test_a_repeated_run_is_counted_once():
    found = compare([result((1, 1, 1, 1)), result((0, 0, 0, 0)), result((1, 1, 0, 0), seed=1)])
    (setting,) = found.settings
    assert (setting.members, setting.repeats) == ((0, 2), (1,))
    assert found.cra(setting, "neyman_pearson").counts == (4, 2)


# What counts


def test_nothing_unsound_has_a_cra():
    found = compare([result((1, 1, 1, 1)), result((1, 1, 1, 1), approximate=True, seed=1)])
    (setting,) = found.settings
    assert found.methods == ["neyman_pearson", "gl"]
    assert found.cra(setting, "gl_printed") is None
    assert found.cra(setting, "mp") is None
    assert found.cra(setting, "neyman_pearson") is None  # the other seed's would not be the mean
    lone = compare([result(approximate=True), result(approximate=True, scale=0.5)])
    assert lone.method is None
    assert not lone.methods
    assert not lone.best()


def test_the_best_has_the_highest_mean():
    found = compare(
        [
            result((1, 0, 0, 0), scale=0.1),
            result((1, 1, 1, 0), scale=0.2, training={"seed": 0}),
            result((1, 1, 0, 0), scale=0.2, training={"seed": 1}),
            result((1, 1, 0, 0), scale=0.3),
        ]
    )
    (best,) = found.best()
    assert (best.winners, best.next, best.rivals) == ((1,), 2, 3)
    # On one image of four the means are 1/2 apart, on the others equal.
    assert (best.difference, best.error) == pytest.approx((1 / 8, 1 / 8))
    assert best.noise


def test_the_error_is_paired():
    """Three images are certified by one only, one by the other only: 2 / 8 against sqrt(4) / 8."""
    pair = [result((1, 1, 1, 0, 1, 1, 1, 1), scale=0.1), result((0, 0, 0, 1, 1, 1, 1, 1), scale=0.2)]
    (best,) = compare(pair).best()
    assert (best.difference, best.error) == (2 / 8, 2 / 8)
    assert best.noise
    # The same images in another order are the same pairs.
    turned = result((1, 0, 0, 0, 1, 1, 1, 1), scale=0.2, indices=[3, 0, 1, 2, 4, 5, 6, 7])
    (best,) = compare([pair[0], turned]).best()
    assert (best.difference, best.error) == (2 / 8, 2 / 8)
    clear = [result((1, 1, 1, 0, 1), scale=0.1), result((0, 0, 0, 0, 1), scale=0.2)]
    assert not compare(clear).best()[0].noise


def test_ties_are_all_marked():
    equal = [result(scale=0.1), result((0, 0, 1, 1), scale=0.2), result((1, 0, 0, 0), scale=0.3)]
    (best,) = compare(equal).best()
    assert (best.winners, best.next) == ((0, 1), 2)
    (best,) = compare(equal[:2]).best()
    assert (best.winners, best.next, best.noise) == ((0, 1), None, False)


def test_settings_of_different_questions_have_no_best():
    """A smaller region or a larger α certifies more: that is no better setting."""
    small = result((1, 1, 1, 1), region={"brightness": [-0.1, 0.1]})
    assert not compare([result(), small]).best()
    assert not compare([result(), result((1, 1, 1, 1), alpha=0.1)]).best()
    # Of two scales, each region has its own best.
    other = result((1, 0, 0, 0), scale=0.5), result((1, 1, 1, 0), scale=0.5, region={"brightness": [-0.1, 0.1]})
    found = compare([result(), small, *other])
    assert len(found.best()) == 2
    assert [found.settings[best.winners[0]].members for best in found.best()] == [(1,), (0,)]


def test_another_method_leads_where_neyman_pearson_has_none():
    def without(**changes):
        run, region, outcomes = result(**changes)
        return run, region, {name: outcome for name, outcome in outcomes.items() if name != "neyman_pearson"}

    assert compare([without(), without(scale=0.5)]).method == "gl"
    assert compare([without(), result(scale=0.5)]).method == "neyman_pearson"


def balls(*radii, centre=0.0):
    made = [Ball(radius, tx=centre, ty=0) for radius in radii]
    return [(run, ball, found) for ball in made for run, _, found in [result(region={"tx": [-3, 3], "ty": [-3, 3]})]]


def test_balls_around_one_centre_are_told_by_their_radius():
    (axis,) = axes_of(*balls(2, 8, 4)).values()
    assert axis.label == "radius of the region: horizontal shift and vertical shift (pixels, l2)"
    assert axis.numbers == (2.0, 4.0, 8.0)
    assert axis.words[1] == "horizontal shift and vertical shift within 4 pixels of no shift (l2)"


@pytest.mark.parametrize("other", [balls(2, centre=1.0), [result(region={"tx": [-2, 2], "ty": [-2, 2]})]])
def test_regions_of_several_kinds_are_told_by_their_words(other):
    (axis,) = axes_of(*balls(2, 4), *other).values()
    assert axis.numbers is None
    assert len(set(axis.words)) == 3
