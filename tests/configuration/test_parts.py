"""Optimizers that a user names by their class."""

import sys

import hydra
import pytest
import torch

from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.identity import decisive
from glsmooth.configuration.parts import build_optimizer, check_optimizer, described
from glsmooth.configuration.settings import validate
from glsmooth.errors import UserError

RECIPE = {"lr": 0.1, "bias_lr": 1.0, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": True}
TRAINING = {"schedule": "cosine", "epochs": 2, "batch_size": 8}
MODULE = """
import torch

class Needy(torch.optim.SGD):
    def __init__(self, params, lr, *, warmth):
        super().__init__(params, lr)

def make(params, **anything):
    return torch.optim.SGD(params, lr=anything["lr"])

def nothing(params):
    return [1]

class Bare:
    def __init__(self, params): pass
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "optimizers_of_ones_own.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("optimizers_of_ones_own", None)


def built(target=None, **arguments):
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    return build_optimizer({"_target_": target, **TRAINING, **RECIPE, **arguments}, [parameter])


def test_without_a_name_it_is_sgd_with_every_field_of_the_recipe():
    optimizer = built()
    assert type(optimizer) is torch.optim.SGD
    assert {key: optimizer.defaults[key] for key in ("lr", "momentum", "weight_decay", "nesterov")} == {
        key: value for key, value in RECIPE.items() if key != "bias_lr"
    }
    assert built(dampening=0.5, nesterov=None).defaults["dampening"] == 0.5


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "Adagrad", "Adafactor", "RMSprop", "Muon", "ASGD"])
def test_another_is_given_what_it_takes_and_its_own_arguments(name):
    optimizer = built(f"torch.optim.{name}", foreach=False) if name != "Muon" else built("torch.optim.Muon")
    assert type(optimizer).__name__ == name
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.1, 1e-3)
    assert "bias_lr" not in optimizer.defaults
    assert optimizer.defaults.get("momentum", 0.9) == 0.9


def test_what_is_null_is_left_to_the_class():
    nothing = dict.fromkeys(RECIPE)
    assert built("torch.optim.AdamW", **nothing).defaults["lr"] == torch.optim.AdamW([torch.zeros(1)]).defaults["lr"]
    assert described({"_target_": "torch.optim.AdamW", **nothing}) == "torch.optim.AdamW()"


def test_what_it_is_not_given_is_said():
    told = described({"_target_": "torch.optim.RMSprop", **TRAINING, **RECIPE, "alpha": 0.9})
    assert told == (
        "torch.optim.RMSprop(lr=0.1, momentum=0.9, weight_decay=0.001, alpha=0.9); without nesterov, which it does "
        "not take"
    )


@pytest.mark.parametrize(
    ("target", "arguments", "words"),
    [
        ("AdamW", {}, r"^optimizer._target_='AdamW' names no module; did you mean 'torch.optim.AdamW'\?"),
        ("torch.optim.AdmW", {}, r"no 'AdmW' in torch.optim .*did you mean 'AdamW'\?"),
        ("nowhere_at_all.Lion", {}, r"^optimizer._target_='nowhere_at_all.Lion': there is no module"),
        ("torch.optim.AdamW", {"betaz": 1}, r"^optimizer.betaz=1 is not an argument of torch.optim.AdamW, it takes lr"),
        ("torch.optim.AdamW", {"betas": [0.9, 2]}, r"^optimizer._target_=torch.optim.AdamW refuses .*betas=\[0.9, 2\]"),
        ("torch.optim.AdamW", {"betas": 0.9}, r"refuses its arguments \(.*betas=0.9\)"),
        ("torch.optim.Rprop", {}, r"^optimizer.weight_decay=0.001 is not an .*\(optimizer.weight_decay=null\)"),
        (None, {"betas": [0.9, 0.9]}, r"^optimizer.betas=\[0.9, 0.9\] is not an argument of torch.optim.SGD"),
        ("torch.optim.LBFGS", {}, r"^optimizer._target_=torch.optim.LBFGS: it tries each batch several times"),
        ("torch.optim.SparseAdam", {}, r"sparse gradients alone; choose another"),
        ("torch.nn.Linear", {}, r"^optimizer._target_='torch.nn.Linear' is no subclass of torch.optim.Optimizer"),
        ("math.pi", {}, r"^optimizer._target_='math.pi' is no subclass"),
        ("optimizers_of_ones_own.Bare", {}, r"is no subclass"),
        ("optimizers_of_ones_own.Needy", {"weight_decay": None}, r"^optimizer.warmth is missing: .*set \+optimizer.wa"),
        ("optimizers_of_ones_own.nothing", dict.fromkeys(RECIPE), r"makes a list; it must make a torch.optim"),
    ],
)
def test_mistakes_are_named(target, arguments, words):
    with pytest.raises(UserError, match=words):
        check_optimizer({"_target_": target, **TRAINING, **RECIPE, **arguments})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"milestones": [1]}, r"^optimizer.milestones=\[1\]: schedule=cosine has none; set optimizer.schedule=step"),
        ({"schedule": "step", "milestones": [1, 2]}, r"the training has optimizer.epochs=2; give epochs below"),
        ({"schedule": "step", "milestones": [1, 1]}, r"give epochs that grow"),
    ],
)
def test_milestones_that_are_none(fields, words):
    with pytest.raises(UserError, match=words):
        check_optimizer({**TRAINING, **RECIPE, **fields})


def identity(*overrides):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return decisive(validate(hydra.compose("train", [*overrides, "run_dir=x"]), "train"), "train")


def test_older_runs_keep_their_identity():
    """New fields in their old meaning are not spoken of, and schedules have the name that they had."""
    said = identity()
    fields = {name.partition(".")[2] for name in said if name.startswith("optimizer.")}
    assert fields == {"lr", "bias_lr", "momentum", "weight_decay", "nesterov", "schedule", "epochs", "batch_size"}
    assert identity("optimizer._target_=torch.optim.SGD") == said
    assert identity("optimizer.schedule=none")["optimizer.schedule"] == "constant"
    for old, new in (("constant", "none"), ("one_cycle", "onecycle")):
        assert identity(f"optimizer.schedule={old}") == identity(f"optimizer.schedule={new}")


def test_what_is_named_decides_the_run():
    named = identity("optimizer._target_=torch.optim.AdamW", "+optimizer.betas=[0.9,0.98]")
    assert named["optimizer._target_"] == "torch.optim.AdamW"
    assert named["optimizer.betas"] == [0.9, 0.98]
    step = identity("optimizer.schedule=step", "optimizer.milestones=[5]", "optimizer.gamma=0.5")
    assert (step["optimizer.milestones"], step["optimizer.gamma"]) == ([5], 0.5)


def test_a_function_may_make_it():
    check_optimizer({"_target_": "optimizers_of_ones_own.make", **TRAINING, **RECIPE})
