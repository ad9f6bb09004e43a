"""The configuration tree, its checks, and the objects that it describes."""

import os
import re
import shutil
import subprocess
import sys

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import glsmooth as gs
from glsmooth.configuration.build import build_family, build_laws, build_region, build_transform
from glsmooth.configuration.fields import check_fields, keys, leaves, rule_of
from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.identity import decisive, difference, file_digest, run_id
from glsmooth.configuration.plain import plain
from glsmooth.configuration.settings import merge_checkpoint, validate
from glsmooth.errors import UserError

COMMANDS = ("train", "advise", "certify", "attack", "predict", "bounds", "report")


def compose(command, *overrides):
    """The composed configuration; the run directory, which only a running job knows, is made up."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(command, ["run_dir=somewhere", *overrides])


def groups_of(command):
    """Groups of the command's defaults list, without Hydra's own."""
    defaults = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text())["defaults"]
    return [next(iter(d)) for d in defaults if isinstance(d, dict) and not next(iter(d)).startswith("override")]


def members(group):
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


MEMBERS = [
    (command, group, member)
    for command in COMMANDS
    for group in groups_of(command)
    if group != "experiment"
    for member in members(group)
    if member != "from_checkpoint" or command in ("advise", "attack", "certify", "predict", "report")
]
EXPERIMENTS = [
    (command, name)
    for name in members("experiment")
    for command in re.findall(
        r"train|certify|bounds",
        re.search(r"For (.*)\.$", (conf_dir() / "experiment" / f"{name}.yaml").read_text(), re.M).group(1),
    )
]


@pytest.mark.parametrize(("command", "group", "member"), MEMBERS)
def test_every_group_member_composes_and_every_field_has_a_rule(command, group, member):
    fields = OmegaConf.to_container(compose(command, f"{group}={member}"), resolve=True)
    unknown = [key for key, _ in leaves(fields) if rule_of(key) is None]
    assert unknown == []


@pytest.mark.parametrize(("command", "name"), EXPERIMENTS)
def test_every_experiment_is_valid_for_the_commands_that_it_names(command, name):
    validate(compose(command, f"experiment={name}"), command)


def test_every_experiment_names_a_command():
    assert {name for _, name in EXPERIMENTS} == set(members("experiment"))


@pytest.mark.parametrize("command", COMMANDS)
def test_slurm_launcher_composes(command):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose(command, ["hydra/launcher=slurm"], return_hydra_config=True)
    assert cfg.hydra.launcher._target_.endswith("SlurmLauncher")


@pytest.mark.parametrize("name", gs.transforms.BUILTIN)
@pytest.mark.parametrize("command", ["train", "bounds"])
def test_a_transform_alone_brings_fitting_laws_and_region(command, name):
    config = validate(compose(command, f"transform={name}"), command)
    transform = build_transform(config["transform"])
    assert type(transform) is gs.transforms.BUILTIN[name]
    laws = build_laws(config["smoothing"], transform)
    assert tuple(laws) == transform.parameters
    region = build_region(config["region"], transform)
    assert set(region.parameters) == set(transform.parameters)


# The paper's Table 1, row by row: laws and boxes.
NORMAL_30, NORMAL_50 = gs.Normal(0, 30), gs.Normal(0, 50)
TABLE_1 = {
    "contrast_brightness": (
        {"contrast": gs.LogNormal(0, 0.6), "brightness": gs.Normal(0, 0.6)},
        {"contrast": (0.5, 2), "brightness": (-0.4, 0.4)},
    ),
    "gamma_contrast": (
        {"gamma": gs.Rayleigh(0.1), "contrast": gs.LogNormal(0, 0.1)},
        {"gamma": (0.8, 1.4), "contrast": (0.6, 2)},
    ),
    "brightness_translation": (
        {"brightness": gs.Normal(0, 0.4), "tx": NORMAL_30, "ty": NORMAL_30},
        {"brightness": (-0.2, 0.2), "tx": (-56, 56), "ty": (-56, 56)},
    ),
    "contrast_translation": (
        {"contrast": gs.LogNormal(0, 0.4), "tx": NORMAL_30, "ty": NORMAL_30},
        {"contrast": (0.5, 2), "tx": (-56, 56), "ty": (-56, 56)},
    ),
    "translation": ({"tx": NORMAL_50, "ty": NORMAL_50}, {"tx": (-56, 56), "ty": (-56, 56)}),
    "contrast_brightness_translation": (
        {"contrast": gs.LogNormal(0, 0.8), "brightness": gs.Normal(0, 0.8), "tx": NORMAL_50, "ty": NORMAL_50},
        {"contrast": (0.8, 1.5), "brightness": (-0.2, 0.2), "tx": (-25, 25), "ty": (-25, 25)},
    ),
    "translation_blur_brightness_contrast": (
        {
            "tx": NORMAL_30,
            "ty": NORMAL_30,
            "blur": gs.Rayleigh(2),
            "brightness": gs.Normal(0, 0.8),
            "contrast": gs.LogNormal(0, 0.8),
        },
        {"tx": (-3, 3), "ty": (-3, 3), "blur": (1, 3), "brightness": (-0.1, 0.1), "contrast": (0.95, 1.05)},
    ),
    "gamma": ({"gamma": gs.Rayleigh(0.1)}, {"gamma": (1, 2)}),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_defaults_are_table_1(name):
    config = validate(compose("bounds", f"transform={name}"), "bounds")
    transform = build_transform(config["transform"])
    laws, box = TABLE_1[name]
    assert build_laws(config["smoothing"], transform) == laws
    assert build_region(config["region"], transform).intervals == box


def test_orders_of_rows_1_6_and_7():
    order = {name: compose("bounds", f"transform={name}").transform.get("order") for name in gs.transforms.BUILTIN}
    assert {name: value for name, value in order.items() if value} == {
        "contrast_brightness": "contrast_first",
        "contrast_brightness_translation": "contrast_first",
        "translation_blur_brightness_contrast": "brightness_first",
    }


def test_tx_moves_both_axes():
    cfg = compose("bounds", "transform=translation", "smoothing.tx.scale=7", "region.tx=[-2,2]")
    assert plain(cfg.smoothing)["ty"]["scale"] == 7
    assert plain(cfg.region)["ty"] == [-2, 2]


def test_the_command_line_beats_the_experiment():
    assert compose("train", "experiment=demo").region.contrast == [0.7, 1.4]
    assert compose("train", "experiment=demo", "region.contrast=[0.9,1.1]").region.contrast == [0.9, 1.1]


MISTAKES = [
    # command, overrides, what the last line must name
    ("bounds", ["smoothing.contrast.loc=inf"], ["smoothing.contrast.loc=inf must be a finite number"]),
    ("bounds", ["region.contrast=[1,inf]"], ["region.contrast=[1, inf] must be an interval", "finite"]),
    ("bounds", ["alpha=abc"], ["alpha='abc'", "between 0 and 1", "alpha=0.001"]),
    ("bounds", ["alpha=0"], ["alpha=0 ", "between 0 and 1"]),
    ("bounds", ["alpha=1"], ["alpha=1 ", "between 0 and 1"]),
    ("bounds", ["alpha=inf"], ["alpha=inf ", "between 0 and 1"]),
    ("bounds", ["alpha=true"], ["alpha=true ", "between 0 and 1"]),
    ("bounds", ["format=xml"], ["format='xml'", "json, table"]),
    ("bounds", ["plot=2"], ["plot=2", "true or false"]),
    ("bounds", ["image_size=[32,0]"], ["image_size=[32, 0]", "[height,width]", "'image_size=[32,32]'"]),
    ("bounds", ["image_size={}"], ["image_size={}", "'image_size=[32,32]'"]),
    ("bounds", ["bound.methods=[gll]"], ["bound.methods=['gll']", "gl_ode"]),
    ("bounds", ["bound.methods=[]"], ["bound.methods=[] must be a list of methods", "'bound.methods=[neyman_pearson"]),
    ("bounds", ["bound.methods=null"], ["bound.methods=null must be a list of methods"]),
    ("certify", ["ckpt=x", "bound.methods=null"], ["bound.methods=null must be a list of methods"]),
    ("train", ["dataset.name=null"], ["dataset.name=null is not a choice", "digits"]),
    ("bounds", ["smoothing.contrast.scale=0"], ["smoothing.contrast.scale=0 ", "above 0"]),
    ("bounds", ["smoothing.contrast.scale=nan"], ["smoothing.contrast.scale=nan", "finite"]),
    ("bounds", ["smoothing.contrast.scale=1e-20"], ["smoothing.contrast.scale=1e-20 is too extreme"]),
    (
        "bounds",
        ["smoothing.contrast.scale=20"],
        ["smoothing.contrast.loc=0, smoothing.contrast.scale=20 is too wide", "at most 10"],
    ),
    (
        "bounds",
        ["smoothing.brightness={law:Uniform,low:1,high:0,loc:null,scale:null}"],
        ["smoothing.brightness.low=1 must be below smoothing.brightness.high=0"],
    ),
    (
        "bounds",
        ["smoothing.contrast.law=normal"],
        ["smoothing.contrast.law='normal'", "did you mean 'Normal'"],
    ),
    ("bounds", ["+smoothing.contrast.sigma=1"], ["smoothing.contrast.sigma=1 ", "not a field", "scale"]),
    ("bounds", ["smoothing.contrast=3"], ["smoothing.contrast=3 ", "a law with its fields"]),
    ("bounds", ["smoothing.contrast=null"], ["smoothing.contrast is missing", "+smoothing.contrast={law:"]),
    (
        "bounds",
        ["region.contrast=[2,0.5]"],
        ["region.contrast=[2, 0.5]", "inverted", "'region.contrast=[0.5,2]'"],
    ),
    ("bounds", ["region.contrast=[0.5]"], ["region.contrast=[0.5]", "interval"]),
    ("bounds", ["region.contrast=1"], ["region.contrast=1 ", "interval"]),
    ("bounds", ["region.contrast=[-1,1]"], ["region.contrast=[-1.0, 1.0] leaves the domain of contrast"]),
    ("bounds", ["region.contrast=[1,1e30]"], ["region.contrast=[1.0, 1e+30] is too extreme"]),
    ("bounds", ["region.contrast=null", "region.brightness=null"], ["region is empty", "+region.contrast="]),
    ("bounds", ["+region.gamma=[1,2]"], ["region.gamma=[1, 2]", "stray", "region.gamma=null"]),
    (
        "bounds",
        ["+smoothing.gamma={law:Rayleigh,scale:1}"],
        ["smoothing.gamma=", "stray", "smoothing.gamma=null"],
    ),
    ("bounds", ["+nonsense=1"], ["nonsense=1 ", "not a field"]),
    ("bounds", ["+allpha=0.1"], ["allpha=0.1 ", "did you mean 'alpha'?"]),
    ("bounds", ["transform.order=first"], ["transform.order='first'", "contrast_first"]),
    (
        "bounds",
        ["+transform.colour=red"],
        ["transform.colour='red'", "it takes order", "transform.colour=null"],
    ),
    ("bounds", ["transform=custom"], ["transform._target_ is missing", "transform._target_=my_module.Shear"]),
    ("bounds", ["transform._target_=nowhere.Shear"], ["'nowhere.Shear'", "no module 'nowhere'"]),
    ("bounds", ["transform._target_=Shear"], ["'Shear' names no module", "my_module.Shear"]),
    (
        "bounds",
        ["transform._target_=glsmooth.transforms.Brightnes"],
        ["'Brightnes'", "did you mean 'Brightness'"],
    ),
    ("bounds", ["transform._target_=glsmooth.Box"], ["'glsmooth.Box'", "not a subclass"]),
    (
        "bounds",
        ["smoothing.contrast.scale=${nothing}"],
        ["smoothing.contrast.scale", "nothing", "give a value"],
    ),
    (
        "bounds",
        ["transform=gaussian_blur", "smoothing.blur={law:Exponential,rate:0.2}"],
        ["smoothing.blur.scale=2.0", "left over", "scale:null"],
    ),
    ("bounds", ["transform=gaussian_blur", "smoothing.blur.law=Normal"], ["smoothing.blur=Normal", "domain"]),
    (
        "bounds",
        ["transform=translation", "smoothing.tx={law:UniformCyclic,loc:null,scale:null}"],
        ["smoothing.tx=UniformCyclic()", "image_size"],
    ),
    ("train", ["model=from_checkpoint"], ["model.name is missing", "model.name=auto"]),
    ("train", ["seed=-1"], ["seed=-1 ", "at least 0"]),
    ("train", ["seed=0.5"], ["seed=0.5 ", "whole number"]),
    ("train", ["loss.copies=0"], ["loss.copies=0 ", "at least 1"]),
    ("train", ["optimizer.lr=0"], ["optimizer.lr=0 ", "above 0"]),
    ("train", ["optimizer.momentum=1"], ["optimizer.momentum=1 ", "[0, 1)"]),
    ("train", ["optimizer.epochs=1e2"], ["optimizer.epochs=100.0 ", "optimizer.epochs=100"]),
    ("train", ["dataset.val_fraction=1"], ["dataset.val_fraction=1 ", "between 0 and 1"]),
    ("train", ["dataset.name=digit"], ["dataset.name='digit'", "did you mean 'digits'"]),
    ("train", ["trainer.devices=0"], ["trainer.devices=0 ", "number of devices"]),
    ("train", ["trainer.precision=16"], ["trainer.precision=16 ", "16-mixed"]),
    ("train", ["trainer.precision=bf16-true"], ["trainer.precision='bf16-true' ", "did you mean 'bf16-mixed'"]),
    ("train", ["trainer.precision=64-true"], ["trainer.precision='64-true' ", "32-true"]),
    ("train", ["trainer.limit_val_batches=2.5"], ["trainer.limit_val_batches=2.5", "share"]),
    ("certify", [], ["ckpt is missing", "ckpt=outputs/train/"]),
    ("certify", ["ckpt=no.ckpt"], ["ckpt='no.ckpt'", "not a file"]),
    ("certify", ["ckpt=no.ckpt", "monte_carlo.n=0"], ["monte_carlo.n=0 ", "at least 1"]),
    ("certify", ["ckpt=no.ckpt", "monte_carlo.alpha=2"], ["monte_carlo.alpha=2 ", "between 0 and 1"]),
    ("certify", ["ckpt=no.ckpt", "pixel_noise=-1"], ["pixel_noise=-1 ", "at least 0"]),
    ("report", [], ["runs=[]", "votes=FILE"]),
    ("report", ["runs=[nowhere]"], ["'nowhere'", "not a directory"]),
    ("report", ["votes=nothing.json"], ["votes='nothing.json'", "not a file"]),
    ("report", ["runs=[.]", "format=latx"], ["format='latx'", "did you mean 'latex'"]),
    ("report", ["runs=[.]", "format=table"], ["format='table' ", "markdown"]),
    ("bounds", ["format=csv"], ["format='csv' ", "json"]),
]


@pytest.mark.parametrize(("command", "overrides", "expected"), MISTAKES)
def test_a_mistake_is_named_with_its_value_and_the_fix(command, overrides, expected):
    with pytest.raises(UserError) as caught:
        validate(compose(command, *overrides), command)
    last_line = str(caught.value).splitlines()[-1]
    assert all(fragment in last_line for fragment in expected), last_line


def test_a_law_is_replaced_when_its_old_fields_are_set_to_null():
    config = validate(
        compose("bounds", "transform=gaussian_blur", "smoothing.blur={law:Exponential,rate:0.2,scale:null}"),
        "bounds",
    )
    family = build_family(config["transform"], config["smoothing"])
    assert family.laws == {"blur": gs.Exponential(0.2)}


SHEAR = """
import torch
import glsmooth as gs

class Shear(gs.ResolvableTransform):
    name = "shear"
    parameters = ("shear",)
    identity = torch.zeros(1, dtype=torch.float64)

    def __init__(self, gain=1.0):
        if gain <= 0:
            raise ValueError(f"gain={gain} must be positive")
        self.gain = gain

    def apply(self, images, theta):
        return images + self.gain * theta[:, 0, None, None, None].to(images)

    def resolve(self, alpha, beta):
        return alpha + beta
"""


@pytest.fixture
def shear_module(tmp_path, monkeypatch):
    (tmp_path / "my_shear_module.py").write_text(SHEAR)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_shear_module"
    sys.modules.pop("my_shear_module", None)


CUSTOM = ["transform=custom", "+smoothing.shear={law:Normal,scale:3}", "+region.shear=[-2,2]"]


@pytest.mark.parametrize("command", ["train", "bounds"])
def test_a_transformation_of_the_users_own(command, shear_module):
    config = validate(
        compose(command, *CUSTOM, f"transform._target_={shear_module}.Shear", "+transform.gain=2"), command
    )
    family = build_family(config["transform"], config["smoothing"], (32, 32), 0.1)
    assert family.transform.gain == 2
    assert family.laws == {"shear": gs.Normal(0, 3)}
    assert family.image_size == (32, 32)
    assert family.pixel_noise == 0.1
    assert build_region(config["region"], family.transform).intervals == {"shear": (-2, 2)}


def test_what_a_users_own_transformation_refuses_is_named(shear_module):
    with pytest.raises(UserError, match=r"^transform.gain=-1 must be positive"):
        validate(
            compose("bounds", *CUSTOM, f"transform._target_={shear_module}.Shear", "+transform.gain=-1"),
            "bounds",
        )


def test_a_bug_in_a_built_in_transformation_is_not_a_mistake_in_the_configuration(monkeypatch):
    def broken(self, order="contrast_first"):
        raise ValueError("order=… is our own bug")

    monkeypatch.setattr(gs.transforms.ContrastBrightness, "__init__", broken)
    with pytest.raises(ValueError, match="our own bug") as caught:
        build_transform({"_target_": "glsmooth.transforms.ContrastBrightness"})
    assert not isinstance(caught.value, UserError)


def test_builders_put_the_key_before_what_the_library_says():
    """The same mistake in Python and in a configuration."""
    with pytest.raises(UserError, match=r"^contrast=\[2, 0.5\] is inverted; give \[0.5, 2\]$"):
        gs.Box(contrast=(2, 0.5))
    with pytest.raises(UserError, match=r"^region.contrast=\[2, 0.5\] is inverted; give \[0.5, 2\]$"):
        build_region({"contrast": [2, 0.5]}, gs.transforms.Contrast())
    with pytest.raises(UserError, match=r"^smoothing.contrast=Normal\(0, 1\) reaches outside the domain"):
        build_family(
            {"_target_": "glsmooth.transforms.Contrast"}, {"contrast": {"law": "Normal", "loc": 0, "scale": 1}}
        )
    with pytest.raises(UserError, match=r"^pixel_noise=-1.0 must be"):
        build_family(
            {"_target_": "glsmooth.transforms.Contrast"}, {"contrast": {"law": "LogNormal", "scale": 1}}, None, -1.0
        )


def test_a_key_goes_by_its_last_part_where_that_is_its_own():
    config = validate(compose("train"), "train")
    assert keys(config)["root"] == "dataset.root"
    assert keys(config)["pixel_noise"] == "loss.pixel_noise"
    # Of four names only the model's is free text; the others were checked against their choices.
    assert keys(config)["name"] == "model.name"
    assert keys({"loss": {"copies": 1}, "dataset": {"subset": 1}, "optimizer": {"lr": 1}, "seed": 0}) == {
        "copies": "loss.copies",
        "subset": "dataset.subset",
        "lr": "optimizer.lr",
        "seed": "seed",
    }
    assert keys({"image_size": None, "dataset": {"image_size": None}}) == {}  # whose, it cannot say
    assert keys({"smoothing": {"contrast": {"scale": 1}}}) == {}


def test_a_bug_in_a_users_module_is_not_a_mistake_in_the_configuration(tmp_path, monkeypatch):
    (tmp_path / "my_broken_module.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        build_transform({"_target_": "my_broken_module.Shear"})


def test_builders_take_plain_dictionaries_and_drop_nulls():
    transform = build_transform({"_target_": "glsmooth.transforms.Brightness", "order": None})
    law = {"law": "Normal", "loc": 0, "scale": 0.4, "rate": None, "low": None, "high": None}
    assert build_laws({"brightness": law, "gamma": dict.fromkeys(law)}, transform) == {"brightness": gs.Normal(0, 0.4)}
    assert build_region({"brightness": [-1, 1], "gamma": None}, transform).intervals == {"brightness": (-1, 1)}


# What a checkpoint brings.


def stored(*overrides):
    return validate(compose("train", "transform=contrast_brightness", *overrides), "train")


@pytest.fixture
def ckpt(tmp_path):
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"weights")
    return f"ckpt={path}"


def test_a_checkpoint_brings_everything(ckpt):
    trained = stored("smoothing.contrast.scale=0.3", "region.contrast=[0.9,1.1]")
    merged = merge_checkpoint(compose("certify", ckpt), trained)
    for group in ("transform", "dataset", "model", "region"):
        assert merged[group] == trained[group]
    family = build_family(merged["transform"], merged["smoothing"])
    assert family.laws == {"contrast": gs.LogNormal(0, 0.3), "brightness": gs.Normal(0, 0.6)}


def test_what_is_typed_beats_the_checkpoint(ckpt):
    typed = [
        "smoothing.contrast.scale=0.2",
        "region.brightness=[-0.1,0.1]",
        "dataset.subset=7",
        "dataset.root=there",
    ]
    merged = merge_checkpoint(compose("certify", ckpt, *typed), stored("smoothing.contrast.loc=0.05"))
    laws = build_family(merged["transform"], merged["smoothing"]).laws
    assert laws == {"contrast": gs.LogNormal(0.05, 0.2), "brightness": gs.Normal(0, 0.6)}
    assert merged["region"] == {"contrast": [0.5, 2.0], "brightness": [-0.1, 0.1]}
    assert (merged["dataset"]["name"], merged["dataset"]["subset"], merged["dataset"]["root"]) == (
        "digits",
        7,
        "there",
    )


def test_another_law_does_not_inherit_the_fields_of_the_stored_one(ckpt):
    cfg = compose("certify", ckpt, "smoothing.brightness={law:Uniform,low:-1,high:1}")
    merged = merge_checkpoint(cfg, stored())
    assert build_family(merged["transform"], merged["smoothing"]).laws["brightness"] == gs.Uniform(-1, 1)


def test_the_same_transform_named_again_keeps_the_laws(ckpt, caplog):
    cfg = compose("certify", ckpt, "transform=contrast_brightness", "smoothing.brightness.scale=0.1")
    merged = merge_checkpoint(cfg, stored("smoothing.contrast.scale=0.3"))
    laws = build_family(merged["transform"], merged["smoothing"]).laws
    assert laws == {"contrast": gs.LogNormal(0, 0.3), "brightness": gs.Normal(0, 0.1)}
    assert not caplog.records


def test_another_transform_takes_its_own_defaults_and_warns(ckpt, caplog):
    cfg = compose("certify", ckpt, "transform=brightness", "region.brightness=[-0.05,0.05]")
    merged = merge_checkpoint(cfg, stored("smoothing.brightness.scale=0.3"))
    family = build_family(merged["transform"], merged["smoothing"])
    assert family.laws == {"brightness": gs.Normal(0, 0.6)}
    assert merged["region"] == {"brightness": [-0.05, 0.05]}
    assert "its own default laws" in caplog.text


def test_another_order_than_the_trained_one_warns(ckpt, caplog):
    merged = merge_checkpoint(compose("certify", ckpt, "transform.order=brightness_first"), stored())
    assert merged["transform"]["order"] == "brightness_first"
    assert "contrast_first" in caplog.text


def test_another_model_than_the_checkpoints_is_refused(ckpt):
    with pytest.raises(UserError, match=r"model\.name='resnet50'"):
        merge_checkpoint(compose("certify", ckpt, "model=resnet50"), stored())


def test_another_dataset_is_not_filled_from_the_checkpoints(ckpt):
    merged = merge_checkpoint(compose("certify", ckpt, "dataset=mnist", "dataset.root=there"), stored())
    assert merged["dataset"]["name"] == "mnist"
    assert merged["dataset"]["image_size"] == [28, 28]


# Names of runs.

DECISIVE = [
    ("train", "seed=1"),
    ("train", "smoothing.contrast.scale=0.3"),
    ("train", "region.contrast=[0.9,1.1]"),
    ("train", "optimizer.batch_size=32"),
    ("train", "trainer.precision=16-mixed"),
    ("train", "dataset=mnist"),
    ("certify", "seed=1"),
    ("certify", "monte_carlo.n=2000"),
    ("certify", "dataset.subset=10"),
    ("certify", "region.contrast=[0.9,1.1]"),
    ("certify", "precision=bf16-mixed"),
    ("attack", "seed=1"),
    ("attack", "attack.passes=5000"),
    ("attack", "attack.index=3"),
    ("attack", "attack.at={contrast:1.1}"),
    ("attack", "bound.methods=[gl]"),
    ("bounds", "image_size=[32,32]"),
    ("bounds", "dataset=cifar10"),  # its image size
    ("advise", "trial.votes=100"),
    ("advise", "monte_carlo.n=2000"),
    ("predict", "n=2000"),
    ("predict", "images=/"),
    ("report", "radii=true"),
]
UNDECISIVE = [
    ("train", "trainer=ddp"),
    ("train", "trainer.devices=2"),
    ("train", "logger=wandb"),
    ("train", "dataset.num_workers=3"),
    ("train", "smoothing.contrast.loc=0"),  # 0 and 0.0
    ("certify", "batch_size=7"),
    ("certify", "trainer.devices=2"),
    ("certify", "compile=true"),
    ("certify", "dry_run=true"),
    ("attack", "attack.minutes=3"),
    ("attack", "batch_size=7"),
    ("attack", "logger=wandb"),
    ("bounds", "format=json"),
    ("bounds", "+dataset.root=somewhere"),
    ("advise", "batch_size=7"),
    ("predict", "batch_size=7"),
    ("predict", "format=json"),
    ("predict", "images=./"),
    ("report", "format=parquet"),
]


def identity(command, ckpt, *overrides):
    needed = {
        "advise": [ckpt],
        "attack": [ckpt],
        "certify": [ckpt],
        "predict": [ckpt, "images=."],
        "report": ["runs=[.]"],
    }
    return run_id(compose(command, *needed.get(command, []), *overrides), command)


@pytest.mark.parametrize("case", DECISIVE)
def test_what_decides_the_result_names_the_run(case, ckpt):
    assert identity(case[0], ckpt, *case[1:]) != identity(case[0], ckpt)


@pytest.mark.parametrize("case", UNDECISIVE)
def test_what_does_not_decide_the_result_does_not(case, ckpt):
    assert identity(case[0], ckpt, *case[1:]) == identity(case[0], ckpt)


def test_a_checkpoint_counts_by_its_bytes(tmp_path, ckpt):
    path = tmp_path / "best.ckpt"
    copy = shutil.copy(path, tmp_path / "copy.ckpt")
    before = identity("certify", ckpt)
    assert identity("certify", f"ckpt={copy}") == before
    path.write_bytes(b"other weights")
    assert identity("certify", ckpt) != before


def test_weights_count_by_their_bytes(tmp_path, ckpt):
    weights = tmp_path / "start.pt"
    names = []
    for content in (b"some", b"else"):
        weights.write_bytes(content)
        names.append(identity("train", ckpt, f"model.weights={weights}"))
    assert names[0] != names[1]
    copy = shutil.copy(weights, tmp_path / "copy.pt")
    assert identity("train", ckpt, f"model.weights={copy}") == names[1]


def test_runs_without_a_canonical_form_keep_their_names(ckpt):
    """They had no such field when it came."""
    for command in ("train", "certify"):
        config = plain(compose(command, *([ckpt] if command == "certify" else [])))
        assert "canonical" in config["model"]
        assert "model.canonical" not in decisive(config, command)
    chosen = [f"model.canonical={name}" for name in ("none", "auto", "contrast", "gamma")]
    names = {identity("train", ckpt, name) for name in chosen}
    assert len(names) == 4
    assert len({identity("train", ckpt, ckpt, name) for name in [*chosen, "model.canonical=null"]} - names) == 5


def test_runs_without_networks_of_other_kinds_keep_their_names(ckpt, tmp_path):
    """They had none of these fields when they came."""
    folder = ["dataset=image_folder", "dataset.root=here"]
    new = {"model.library", "model._target_", "model.mean", "model.std", "dataset.class_names"}
    for arguments in (("train", *folder), ("certify", ckpt)):
        config = plain(compose(*arguments))
        assert {"library", "mean", "std"} <= config["model"].keys()
        assert "class_names" in config["dataset"]
        assert not new & decisive(config, arguments[0]).keys()
    for name, order in (("one", "cat\nant\n"), ("same", "cat\r\nant"), ("other", "ant\ncat\n")):
        (tmp_path / name).write_text(order)
    files = [f"dataset.class_names={tmp_path / name}" for name in ("one", "same", "other")]
    chosen = [
        *(["model=torchvision"], ["model=custom", "model._target_=a.b"], ["model=custom", "model._target_=a.c"]),
        *(["model.mean=[0.5,0.5,0.5]", "model.std=[1,1,1]"], [files[0]], [files[2]], []),
    ]
    assert len({identity("train", ckpt, *folder, *words) for words in chosen}) == len(chosen)
    assert identity("train", ckpt, *folder, files[0]) == identity("train", ckpt, *folder, files[1])


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["model=custom"], r"^model._target_ is missing; set model._target_=my_module.make_model"),
        (["model.mean=0.5"], r"^model.mean=0.5 must be a list of a number a channel; .* 'model.mean=\[0.5,0.5,0.5\]'"),
        (["model.std=[0.5,0]"], r"^model.std=\[0.5, 0\] must be a list of a number above 0"),
        (["model.library=timn"], r"^model.library='timn' is not a choice"),
    ],
)
def test_networks_of_other_kinds_that_are_not(typed, words):
    with pytest.raises(UserError, match=words):
        validate(compose("train", *typed), "train")


def test_a_canonical_form_that_there_is_not():
    with pytest.raises(UserError, match=r"^model.canonical='gama' is not a choice; did you mean 'gamma'"):
        validate(compose("train", "model.canonical=gama"), "train")


def test_a_canonical_form_belongs_to_the_network(ckpt):
    trained = stored()
    trained["model"]["canonical"] = "contrast"
    merged = merge_checkpoint(compose("certify", ckpt, "transform=gamma", "smoothing=gamma", "region=gamma"), trained)
    assert merged["model"]["canonical"] == "contrast"
    assert merge_checkpoint(compose("certify", ckpt, "model.canonical=contrast"), trained)["model"] == trained["model"]
    for typed in ("gamma", "none", "auto"):
        with pytest.raises(UserError, match=rf"^model.canonical='{typed}', but the checkpoint holds 'contrast'"):
            merge_checkpoint(compose("certify", ckpt, f"model.canonical={typed}"), trained)
    with pytest.raises(UserError, match=r"^model.canonical='gamma', but the checkpoint holds 'none'"):
        merge_checkpoint(compose("certify", ckpt, "model.canonical=gamma"), stored())


def test_a_file_with_its_time_set_back_is_another(tmp_path):
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"some")
    before, status = file_digest(path), path.stat()
    path.write_bytes(b"else")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert file_digest(path) != before


def test_a_field_that_was_not_stated_is_called_so():
    assert difference({"seed": 0}, {"seed": 0, "precision": None}) is None
    assert difference({"seed": 0}, {"seed": 0, "n": 5}) == "no n stated, this run has n=5"
    assert difference({"seed": 0, "n": 5}, {"seed": 0}) == "n=5, this run has no n stated"


def test_a_folder_is_the_same_seen_from_wherever(tmp_path, monkeypatch, ckpt):
    (tmp_path / "images").mkdir()
    whole = identity("train", ckpt, "dataset=image_folder", f"dataset.root={tmp_path / 'images'}")
    monkeypatch.chdir(tmp_path)
    assert identity("train", ckpt, "dataset=image_folder", "dataset.root=images") == whole
    monkeypatch.chdir(tmp_path / "images")
    assert identity("train", ckpt, "dataset=image_folder", "dataset.root=images") != whole


def test_a_root_counts_only_for_folders_of_the_users_own(ckpt):
    roots = ("dataset.root=here", "dataset.root=there")
    for dataset, same in (("cifar10", True), ("image_folder", False)):
        one, other = (identity("train", ckpt, f"dataset={dataset}", root) for root in roots)
        assert (one == other) is same


def test_check_fields_looks_into_plain_dictionaries():
    check_fields({"seed": 1, "region": {"anything": [0, 1]}})
    with pytest.raises(UserError, match="seed='1'"):
        check_fields({"seed": "1"})


def test_importing_glsmooth_stays_light():
    heavy = "{'hydra', 'lightning', 'matplotlib', 'timm', 'wandb'}"
    code = f"import sys, glsmooth; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
