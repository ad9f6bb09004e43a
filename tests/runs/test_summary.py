"""summary.json: what is written is what is read, whoever wrote it."""

import json

import numpy as np
import pytest

from glsmooth.bounds import Outcome
from glsmooth.errors import UserError
from glsmooth.runs.summary import Numbers, Summary, robust_accuracy

RECORDS = {
    "index": np.array([1, 2, 3, 4]),
    "label": np.array([0, 1, 1, 0]),
    "prediction": np.array([0, 1, 0, -1]),
    "n0": np.array([10, 10, 10, 10]),
    "n": np.array([100, 40, 100, 100]),
    "count": np.array([99, 30, 90, 0]),
    "p_lower": np.array([0.9, 0.45, 0.8, 0.0]),
    "base_prediction": np.array([0, 0, 1, 0]),
    "abstain_votes": np.array([1, 0, 0, 110]),
    "nonfinite_votes": np.array([0, 0, 0, 110]),
    "near_ties": np.array([2, 0, 0, 0]),
}
OUTCOMES = {
    "neyman_pearson": Outcome(0.7, {"brightness": 0.4}, "neyman_pearson", argument="monotone"),
    "gl": Outcome(0.85, None, "gl", failure_probability=1e-4),
    "gl_printed": Outcome(0.6, None, "gl_printed", sound=False, argument="unsound"),
    "mp": Outcome(None, None, "mp", argument="no multiplicative law"),
}


def summary(**changes):
    return Summary(
        **{
            "transform": {"_target_": "glsmooth.transforms.Brightness"},
            "smoothing": {"brightness": {"law": "Normal", "loc": 0.0, "scale": 0.3}},
            "region": {"brightness": [-0.4, 0.4]},
            "dataset": {"name": "digits", "image_size": [8, 9]},
            "monte_carlo": {"name": "sequential", "n0": 10, "n": 100, "alpha": 0.001},
            "outcomes": OUTCOMES,
            "numbers": Numbers.of(RECORDS, most=100),
            "robust_accuracy": {name: robust_accuracy(RECORDS, outcome) for name, outcome in OUTCOMES.items()},
            "image_size": (8, 9),
            "classes": ["cat", "dog"],
            "seed": 3,
            **changes,
        }
    )


def test_numbers_are_those_counted_by_hand():
    numbers = Numbers.of(RECORDS, most=100)
    assert (numbers.images, numbers.base_accuracy, numbers.smoothed_accuracy) == (4, 0.75, 0.5)
    assert (numbers.abstained, numbers.given_up) == (0.25, 0.25)  # the last; the second, after 40 of 100 draws
    assert (numbers.votes_used, numbers.votes_per_image) == (380, 95.0)
    assert (numbers.abstained_votes, numbers.nonfinite_votes, numbers.near_ties) == (111, 110, 2)
    shares = {name: robust_accuracy(RECORDS, outcome) for name, outcome in OUTCOMES.items()}
    assert shares == {"neyman_pearson": 0.25, "gl": 0.25, "gl_printed": 0.0, "mp": None}


def test_what_is_written_is_what_is_read(tmp_path):
    training = {"optimizer.lr": 0.1, "seed": 2, "transform.order": "contrast_first", "region.b": [-1, 1], "a.b": None}
    written = summary(approximate=None, pixel_noise=0.25, stochastic=True, training=training)
    written.write(tmp_path)
    assert Summary.read(tmp_path) == written
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["command"] == "certify"
    assert content["methods"]["gl"]["certified_robust_accuracy"] == 0.25
    assert content["methods"]["mp"] == {
        "sound": True,
        "required_probability": None,
        "reason": "no multiplicative law",
        "certified_robust_accuracy": None,
    }


def test_no_file_makes_a_method_sound(tmp_path):
    summary().write(tmp_path)
    file = tmp_path / "summary.json"
    content = json.loads(file.read_text())
    content["methods"]["gl_printed"]["sound"] = True
    file.write_text(json.dumps(content))
    assert not Summary.read(tmp_path).outcomes["gl_printed"].sound
    content["approximate"] = {"residual": 0.3, "identity": "x", "alpha": None, "beta": None}
    file.write_text(json.dumps(content))
    outcomes = Summary.read(tmp_path).outcomes
    assert not any(outcome.certifies(1.0) for outcome in outcomes.values())
    assert outcomes["gl"].residual == 0.3


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("methods", {"gl": 3}, "methods.gl is 3, not an object"),
        ("methods", {"gl": {"required_probability": "high"}}, "required_probability is 'high'"),
        ("methods", {"gl": {"required_probability": 0.4}}, "required_probability is 0.4, not in"),
        ("methods", {"gl": {"required_probability": True}}, "required_probability is true"),
        ("methods", {"gl": {"sound": "no"}}, "methods.gl.sound is 'no', not true or false"),
        ("methods", {"gl": {"argument": ["x"]}}, "methods.gl.argument is"),
        ("methods", {"lg": {}}, "unknown method 'lg'; did you mean 'gl'"),
        ("methods", {"g" * 10**6: {}}, "methods: 'ggg.*gg' is not a name"),
        ("methods", {"gl": {"required_probability": 0.7, "worst_parameter": 3}}, "worst_parameter is 3, not an object"),
        ("methods", {"gl": {"worst_parameter": {"a": {}}}}, "worst_parameter.a is {}, not a finite number"),
        (
            "methods",
            {"gl": {"worst_parameter": {"a": 10**400}}},
            "worst_parameter.a is 1000.*not a finite number below",
        ),
        ("methods", {"gl": {"required_probability": 0.7, "failure_probability": "x"}}, "failure_probability is 'x'"),
        ("monte_carlo", {"name": "paper", "n0": 1, "n": 1, "alpha": 0.0}, "alpha is 0.0"),
        ("monte_carlo", {"name": "exhaustive", "n0": 1, "n": 1, "alpha": 0.1}, "alpha is 0.1, not 0"),
        (
            "monte_carlo",
            {"name": "sequential", "alpha": 0.001, "n0": 1, "n": 1, "mixture": "mine"},
            "monte_carlo.mixture is 'mine', not one of uniform, sure",
        ),
        ("monte_carlo", {"name": "sequential", "alpha": 0.001, "n": "x"}, "monte_carlo.n is 'x', not a whole number"),
        ("monte_carlo", {"name": "sequential", "alpha": 0.001, "n": 1}, "lacks monte_carlo.n0"),
        ("monte_carlo", {"name": "sequential", "alpha": 0.001, "n": 1, "n0": 10**13}, "monte_carlo.n0 is 1000.* to"),
        ("region", [1], r"region is \[1\], not an object"),
        ("region", {"brightness": 3}, "region.brightness is 3, not an interval.*run certify again"),
        ("region", {"brightness": [float("nan"), 1]}, "region.brightness.0. is nan, not a finite number"),
        ("region", {"brightness": [1, 0]}, "region.brightness is .1, 0., which is inverted"),
        ("smoothing", {"brightness": 3}, "smoothing.brightness is 3, not a law"),
        ("smoothing", {"brightness": {"law": {}}}, "smoothing.brightness.law is {}, not one of"),
        ("smoothing", {"brightness.law": "Normal"}, "smoothing: 'brightness.law' is not a name"),
        ("transform", {"_target_": 3}, "transform._target_ is 3, not the name of a class"),
        ("transform", {}, "lacks transform._target_"),
        ("dataset", {"name": ["x"]}, "dataset.name is"),
        ("dataset", {"subset_seed": {"x": "y"}}, "dataset.subset_seed.x='y' is not known here"),
        ("model", {"name": {"x": 1}}, "model.name.x=1 is not known here"),
        ("image_size", 32, "image_size is 32, not a size"),
        ("image_size", {"a": {}}, "image_size.a={} is not known here"),
        ("region", {"b" * 10**6: [0, 1]}, "region: 'bbb.*b' is not a name"),
        ("image_size", {}, "image_size is {}, not a size"),
        ("image_size", [10**9, 1], "image_size.0. is 1000000000, not a whole number from 1 to 4096"),
        ("seed", "first", "seed is 'first', not a whole number"),
        ("seed", 2**64, r"seed is 18446744073709551616, not a whole number, at least 0 below 2\^64"),
        ("images", "many", "images is 'many', not a whole number"),
        ("images", True, "images is true, not a whole number"),
        ("images", None, "images is null, not a whole number"),
        ("seconds_per_image", float("inf"), "seconds_per_image is inf"),
        ("approximate", 3, "approximate is 3, not an object"),
        ("approximate", {}, "lacks approximate.residual"),
        ("approximate", {"residual": 1, "alpha": {"x": "y"}}, "approximate.alpha.x is 'y'"),
        ("classes", 2, "classes is 2, not a list"),
        ("classes", ["a", ["x"]], "classes.1. is .'x'., not a text"),
        ("classes", ["x" * 10**6], "classes.0. is 'xx.*xx', not a text of at most 4096 characters"),
        ("hardware", "fast", "hardware is 'fast', not an object"),
        ("versions", {"torch": 2}, "versions.torch is 2, not a text"),
        ("checkpoint", {"sha256": 7}, "checkpoint.sha256 is 7, not a text"),
        ("training", ["seed"], "training is .'seed'., not an object"),
        ("training", {"seed": 2**64}, "training: it has a number beyond 64 bits"),
        ("training", {"seed": "x" * 10**5}, "training: it has a text of 100000 characters"),
        ("training", {"x": [[[0] * 400] * 400]}, "training: it holds more values"),
    ],
)
def test_impossible_values_are_named(tmp_path, key, value, words):
    summary().write(tmp_path)
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=words) as refusal:
        Summary.read(tmp_path)
    assert len(str(refusal.value).replace(str(tmp_path), "")) < 300


def test_names_of_training_show_no_control_characters(tmp_path):
    summary(training={"a\x1b.b": "x\u202e"}).write(tmp_path)
    assert Summary.read(tmp_path).training == {"a\\x1b.b": "x\\u202e"}
