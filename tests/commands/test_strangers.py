"""Files from strangers: a checkpoint, a run or a folder runs no code that the user did not name."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glsmooth.configuration.build import build_transform, check_target
from glsmooth.errors import UserError
from glsmooth.learning.checkpoint import KEY, load_checkpoint
from glsmooth.report.page import write_report
from glsmooth.runs.run import load_run
from tests.report.test_page import make_run

TARGET = "a_strangers_module.Tint"
TINT = """
from pathlib import Path

import glsmooth as gs

Path("imported").touch()


class Tint(gs.ResolvableTransform):
    name = "tint"
    factors = (gs.transforms.Shift("tint"),)

    def apply(self, images, theta):
        return images + theta[:, 0].to(images)[:, None, None, None]
"""
LAWS = {"tint": {"law": "Normal", "loc": 0.0, "scale": 0.25}}
REGION = {"tint": [-0.1, 0.1]}


@pytest.fixture(autouse=True)
def folder(elsewhere):
    """An empty working directory but for a stranger's module, which leaves a trace when it is imported."""
    (elsewhere / "a_strangers_module.py").write_text(TINT)
    yield elsewhere
    sys.modules.pop("a_strangers_module", None)


def imported():
    return Path("imported").exists() or "a_strangers_module" in sys.modules


@pytest.fixture
def checkpoint(folder, untrained):
    """A checkpoint that loads safely and names the stranger's class."""
    content = torch.load(untrained[0], weights_only=True)
    content[KEY] |= {"transform": {"_target_": TARGET}, "smoothing": LAWS, "region": REGION}
    torch.save(content, folder / "best.ckpt")
    return folder / "best.ckpt"


SHORT = ("dataset.subset=4", "batch_size=8", "trainer.accelerator=cpu", "monte_carlo.n0=8", "monte_carlo.n=16")
TYPED = f"transform._target_={TARGET}"


def refused(said, source):
    """Is this the refusal that names the class, the file and what to type?"""
    status, captured = said
    line = captured.err.rstrip().splitlines()[-1]
    assert status == 2
    assert "Traceback" not in captured.err
    assert re.fullmatch(
        rf"transform\._target_={re.escape(TARGET)} comes from \S*{re.escape(source)}; files may name built-in "
        rf"transformations only\. If you trust it, type {re.escape(TYPED)}",
        line,
    ), line
    assert not imported()
    return True


def test_a_checkpoint_imports_nothing(call, checkpoint):
    assert refused(call("certify", f"ckpt={checkpoint}", *SHORT), "best.ckpt")
    assert refused(call("certify", f"ckpt={checkpoint}", *SHORT, "dry_run=true"), "best.ckpt")
    with pytest.raises(UserError, match=r"comes from the checkpoint; files may name built-in"):
        load_checkpoint(checkpoint).build_family()
    # Another transformation that is typed has nothing to do with it.
    assert call("certify", f"ckpt={checkpoint}", *SHORT, "dry_run=true", "transform=contrast")[0] == 0
    assert not imported()


def test_a_class_that_is_typed_again_is_certified_and_reported(call, checkpoint, folder):
    status, captured = call("certify", f"ckpt={checkpoint}", *SHORT, "dry_run=true", TYPED)
    assert (status, imported()) == (0, True), captured.err
    assert load_checkpoint(checkpoint).build_family(transform_target=TARGET).parameters == ("tint",)
    status, captured = call("certify", f"ckpt={checkpoint}", *SHORT, TYPED, "hydra.run.dir=run")
    assert status == 0, captured.err
    assert (folder / "run" / "report.html").is_file()

    def forget():
        sys.modules.pop("a_strangers_module")
        (folder / "imported").unlink()

    # The run is a file again, for whoever gets it.
    forget()
    for more in ([], ["+region.tint=[-0.05,0.05]"], ["bound.methods=[gl]"], ["run"]):
        assert refused(call("report", "run", *more), "run/summary.json")
    with pytest.raises(UserError, match="files may name built-in"):
        write_report("run")
    with pytest.raises(UserError, match="files may name built-in"):
        load_run("run", transform_target="another_module.Tint")
    assert not imported()
    assert call("report", "run", TYPED)[0] == 0
    assert imported()
    forget()
    assert call("report", "run", "+region.tint=[-0.05,0.05]", TYPED, "hydra.run.dir=again")[0] == 0
    assert "tint in [−0.05, 0.05]" in (folder / "again" / "table.md").read_text()
    assert load_run("run", transform_target=TARGET).family.parameters == ("tint",)


def test_what_is_typed_for_a_report_permits_and_changes_nothing(call, checkpoint, folder):
    assert call("certify", f"ckpt={checkpoint}", *SHORT, TYPED, "hydra.run.dir=run")[0] == 0
    status, captured = call("report", "run", TYPED, "transform.order=contrast_first")
    assert status == 2
    assert "transform.order=contrast_first: run was certified with None" in captured.err.splitlines()[-1]
    status, captured = call("report", "run", "transform._target_=glsmooth.transforms.Brightness")
    assert status == 2
    assert f"_target_={TARGET} comes from" in captured.err.splitlines()[-1]
    (folder / "votes.json").write_text("[]")
    status, captured = call("report", "votes=votes.json", TYPED)
    assert status == 2
    assert "leave transform out" in captured.err.splitlines()[-1]


def test_training_goes_on_without_an_import(call, folder):
    """The class of last.ckpt is not that of the settings; nothing is built from the file."""
    small = ("trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "optimizer.batch_size=8")
    arguments = ("optimizer.epochs=1", *small, "trainer.accelerator=cpu", "hydra.run.dir=trained")
    assert call("train", *arguments)[0] == 0
    content = torch.load(folder / "trained" / "last.ckpt", weights_only=True)
    content[KEY] |= {"transform": {"_target_": TARGET}, "smoothing": LAWS, "region": REGION}
    torch.save(content, folder / "trained" / "last.ckpt")
    (folder / "trained" / "summary.json").unlink()
    status, captured = call("train", *arguments)
    assert (status, imported()) == (0, False), captured.err
    assert "Resuming from" in captured.err
    content[KEY]["identity"]["transform._target_"] = TARGET
    torch.save(content, folder / "trained" / "last.ckpt")
    (folder / "trained" / "summary.json").unlink()
    status, captured = call("train", *arguments)
    assert (status, imported()) == (2, False), captured.err
    assert f"holds a run with transform._target_={TARGET}" in captured.err.splitlines()[-1]


@pytest.mark.parametrize(
    "target", ["glsmooth.transforms.Gamma", "glsmooth.transforms.intensity.Gamma", "glsmooth.transforms.Translation"]
)
def test_files_may_name_what_is_built_in(target):
    check_target({"_target_": target}, "file")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "glsmooth.commands.train.main",
        "glsmooth.transforms.Composition",
        "glsmooth.transforms.nothing.Gamma",
        "glsmooth.transforms.Gamma.apply",
        "Gamma",
        "evil.X\nrm -rf /",
        "evil.X\x1b]0;title\x07",
        ["evil.X"],
        {"a": 1},
        7,
    ],
)
def test_files_may_name_nothing_else(target):
    for typed in (None, "evil.Y"):
        with pytest.raises(UserError) as refusal:
            check_target({"_target_": target}, "file", typed)
        assert str(refusal.value).isprintable()
    check_target({"_target_": target}, "file", target)


def test_a_summary_that_was_changed_imports_nothing(call, untrained, folder):
    assert call("certify", f"ckpt={untrained[0]}", *SHORT, "hydra.run.dir=run")[0] == 0
    summary = json.loads((folder / "run" / "summary.json").read_text())
    summary["transform"]["_target_"] = TARGET
    (folder / "run" / "summary.json").write_text(json.dumps(summary))
    assert refused(call("report", "run"), "run/summary.json")


# Folders

TRAP = """
from pathlib import Path

with Path({place!r}).open("a") as file:
    file.write(__name__ + "\\n")
"""
#: Names under which our own and other packages' modules are imported: at once, lazily, or where they are installed.
TRAPS = (
    *("numpy", "torch", "scipy", "omegaconf", "hydra", "lightning", "matplotlib", "tqdm", "PIL", "torchvision"),
    *("wandb", "colorlog", "submitit", "rich", "pandas", "IPython", "yaml", "antlr4", "cloudpickle", "conf"),
)


@pytest.fixture
def trapped(folder):
    """The folder full of modules that leave a trace when they run."""
    plugins = ("hydra_plugins/evil.py", "hydra_plugins/worse/__init__.py", "hydra_plugins/worse/plugin.py")
    for path in (*(f"{name}.py" for name in TRAPS), *plugins):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(TRAP.format(place=str(folder / "sprung")))
    return folder


def sprung(folder):
    file = folder / "sprung"
    return file.read_text().split() if file.exists() else []


PYTHON = [sys.executable, "-m"]
SCRIPT = Path(sys.executable).with_name("glsmooth")
#: Settings that matplotlib stops at, after lines that it would quote.
SETTINGS = b"backend: module://wandb\nno key: \x1b]0;title\x07\n\xff: not UTF-8\n"
FACES = {
    "python -m glsmooth.bounds": [*PYTHON, "glsmooth.bounds"],
    "python -mglsmooth.bounds": [sys.executable, "-mglsmooth.bounds"],
    "python -m glsmooth bounds": [*PYTHON, "glsmooth", "bounds"],
    "python -P -m glsmooth.bounds": [sys.executable, "-P", "-m", "glsmooth.bounds"],
    "glsmooth bounds": [str(SCRIPT), "bounds"],
}


def start(command, *arguments):
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("face", FACES)
def test_a_folder_runs_none_of_its_modules(trapped, face):
    if face == "glsmooth bounds" and not SCRIPT.is_file():
        pytest.skip("the console script is not installed")
    (trapped / "matplotlibrc").write_bytes(SETTINGS)
    # A plane of few points: whole pixels.
    few = ("transform=translation", "region.tx=[-1,1]", "region.ty=[-1,1]")
    status, err = start(FACES[face], *few, "plot=true", "hydra.run.dir=out")
    assert (status, sprung(trapped)) == (0, []), err
    assert "matplotlibrc" not in err
    assert (trapped / "out" / "plane.svg").is_file()


@pytest.mark.parametrize(
    ("command", "mistake"), [("train", "dataset=cifar10"), ("certify", "ckpt=weights")], ids=["train", "certify"]
)
def test_lightning_reads_no_settings_of_the_folder(trapped, command, mistake):
    """It imports matplotlib, which looks for them first thing. The mistakes are found once both are imported."""
    (trapped / "matplotlibrc").write_bytes(SETTINGS)
    (trapped / "weights").write_bytes(b"none")
    status, err = start([sys.executable, "-X", "importtime", "-m", f"glsmooth.{command}"], mistake)
    assert (status, sprung(trapped), "matplotlibrc" in err) == (2, [], False), err
    assert {"matplotlib.cbook", "lightning.pytorch"} <= set(re.findall(r"\| +(\S+)$", err, flags=re.M))


def test_the_traps_are_sound(trapped):
    """In a program that is not ours, Python itself walks into them."""
    code = "import matplotlib, hydra_plugins.evil, hydra_plugins.worse.plugin"
    assert start([sys.executable, "-c", code])[0] == 0
    assert sprung(trapped) == ["matplotlib", "hydra_plugins.evil", "hydra_plugins.worse", "hydra_plugins.worse.plugin"]


def test_a_class_of_the_folder_brings_its_own_module_alone(trapped):
    arguments = ("transform=custom", TYPED, "+smoothing.tint={law:Normal,scale:0.25}", "+region.tint=[-0.1,0.1]")
    for face in ("python -m glsmooth.bounds", "python -m glsmooth bounds"):
        status, err = start(FACES[face], *arguments)
        assert (status, sprung(trapped)) == (0, []), err
        assert (trapped / "imported").exists()
        (trapped / "imported").unlink()


def test_the_folder_is_on_the_path_for_the_import_alone(folder):
    (folder / "a_strangers_module.py").write_text(f"import sys\nPATH = list(sys.path)\n{TINT}")
    before = list(sys.path)
    build_transform({"_target_": TARGET})
    assert sys.path == before
    assert [*before, str(folder)] == sys.modules["a_strangers_module"].PATH
    (folder / "a_strangers_module.py").write_text("raise RuntimeError")
    sys.modules.pop("a_strangers_module")
    with pytest.raises(RuntimeError):
        build_transform({"_target_": TARGET})
    assert sys.path == before


def test_other_programs_keep_their_path(folder):
    """Python users, who import the package, find their own modules as ever."""
    (folder / "mine").mkdir()
    (folder / "mine" / "__init__.py").write_text("import glsmooth, a_module_beside\n")
    (folder / "mine" / "__main__.py").write_text("")
    (folder / "a_module_beside.py").write_text("")
    for command in ([*PYTHON, "mine"], [sys.executable, "-c", "import glsmooth, a_module_beside"]):
        status, err = start(command)
        assert status == 0, err


def test_processes_of_a_certification_find_a_users_class(trapped, checkpoint):
    """Two of Lightning's processes, which are sent the family, and import its class from the folder."""
    (trapped / "matplotlibrc").write_bytes(SETTINGS)
    arguments = (f"ckpt={checkpoint}", *SHORT, TYPED, "trainer.devices=2", "hydra.run.dir=run")
    status, err = start([*PYTHON, "glsmooth.certify"], *arguments)
    assert (status, sprung(trapped), "matplotlibrc" in err) == (0, [], False), err
    assert len((trapped / "run" / "records.csv").read_text().splitlines()) == 1 + 4


def test_jobs_of_a_sweep_find_a_users_class(trapped):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    arguments = ("transform=custom", TYPED, "+smoothing.tint={law:Normal,scale:0.25}", "+region.tint=[-0.1,0.1]")
    sweep = ("--multirun", "hydra/launcher=submitit_local", "alpha=0.01,0.02")
    status, err = start(FACES["python -m glsmooth.bounds"], *sweep, *arguments)
    assert (status, sprung(trapped)) == (0, []), err
    assert len(list(trapped.glob("outputs/bounds/*/bounds.json"))) == 2


def test_nothing_raw_is_logged(call, folder):
    """Names of directories and of images that cannot be read, on the terminal and in the log."""
    evil = "\x1b]0;pwned\x07\x1b[2J\u202e\n[ERROR] a line of its own "
    for name in ("cat", "dog", "<emu>"):
        (folder / "images" / "test" / name).mkdir(parents=True)
        (folder / "images" / "train" / name).mkdir(parents=True)
        for split in ("train", "test"):
            for i in range(12):
                (folder / "images" / split / name / f"{evil}{i:02}.png").write_bytes(b"not an image")
    dataset = {"name": "image_folder", "subset": None, "image_size": [8, 8]}
    run = make_run(folder / f"{evil}run", dataset=dataset)
    status, captured = call("report", run, "dataset.root=images", "hydra.run.dir=out")
    assert status == 0, captured.err
    log = (folder / "out" / "report.log").read_text()
    for text in (captured.err, captured.out, log):
        assert not set(text) & {"\x1b", "\x07", "\u202e"}
        assert "\n[ERROR]" not in text
    assert "no gallery" in log
    assert r"\x1b]0;pwned\x07\x1b[2J\u202e\n[ERROR] a line of its own 06.png is not a readable image" in log
    assert r"\x1b]0;pwned\x07" in captured.err
