"""The commands as a user types them: help, directories, sweeps, positional arguments, and mistakes."""

import errno
import logging
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml

import glsmooth as gs
from glsmooth.__main__ import main as glsmooth_main
from glsmooth.bounds import cover
from glsmooth.commands.entry import LogFile, entry
from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.plain import plain
from glsmooth.learning.data import load_dataset
from glsmooth.learning.models import build_model
from glsmooth.transforms import Brightness, Translation

TRANSFORMS = list(gs.transforms.BUILTIN)
SHIFTS = gs.SmoothedFamily(Translation(), dict.fromkeys(("tx", "ty"), gs.Normal(0, 3)), (32, 32))
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def call(monkeypatch):
    """``call(command, arguments…, run=…)`` runs a command here; returns what its runs were given."""

    def call_(command, *arguments, run=lambda cfg: None):
        seen = []

        def job(cfg):
            seen.append((plain(cfg), Path(cfg.run_dir)))
            run(cfg)

        monkeypatch.setattr(sys, "argv", [command, *arguments])
        entry(command, job, positional="runs" if command == "report" else None)()
        return seen

    return call_


def last_line(text):
    return text.rstrip().splitlines()[-1]


def test_a_command_runs_in_a_directory_named_by_what_decides_its_result(call, elsewhere):
    ((config, directory),) = call("train", "seed=3")
    assert config["seed"] == 3
    assert directory.parent == elsewhere / "outputs" / "train"
    assert directory.is_dir()
    ((_, again),) = call("train", "seed=3", "trainer.devices=2")
    assert again == directory
    ((_, other),) = call("train", "seed=4")
    assert other != directory
    assert "=" not in str(directory.relative_to(elsewhere))


def test_the_directory_can_be_chosen(call, elsewhere):
    ((_, directory),) = call("bounds", "hydra.run.dir=mine")
    assert directory == elsewhere / "mine"


def test_a_sweep_gives_each_job_the_directory_that_it_has_alone(call):
    jobs = call("bounds", "--multirun", "smoothing.contrast.scale=0.3,0.5")
    assert [config["smoothing"]["contrast"]["scale"] for config, _ in jobs] == [0.3, 0.5]
    ((_, alone),) = call("bounds", "smoothing.contrast.scale=0.5")
    assert jobs[1][1] == alone != jobs[0][1]


def test_arguments_without_an_equals_sign_are_runs(call, elsewhere):
    for name in ("one", 'two "quoted", and a comma'):
        (elsewhere / name).mkdir()
    ((config, _),) = call("report", "one", "bound.methods=[gl]", 'two "quoted", and a comma', "region.contrast=[1,2]")
    assert config["runs"] == ["one", 'two "quoted", and a comma']
    assert config["region"]["contrast"] == [1, 2]


def test_a_value_of_an_option_is_not_a_run(call, elsewhere):
    (elsewhere / "site").mkdir()
    (elsewhere / "one").mkdir()
    ((config, _),) = call("report", "--config-dir", "site", "one")
    assert config["runs"] == ["one"]


def test_site_files_come_from_config_dir(call, elsewhere):
    (elsewhere / "site" / "cluster").mkdir(parents=True)
    (elsewhere / "site" / "cluster" / "mysite.yaml").write_text("# @package _global_\ntrainer:\n  devices: 4\n")
    ((config, _),) = call("train", "--config-dir", "site", "cluster=mysite")
    assert config["trainer"]["devices"] == 4


def test_an_experiment_beats_the_root_and_the_command_line_beats_it(call, elsewhere):
    (elsewhere / "site" / "experiment").mkdir(parents=True)
    (elsewhere / "site" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    arguments = ["--config-dir", "site", "experiment=mine"]
    assert call("train", *arguments)[0][0]["seed"] == 7
    assert call("train", *arguments, "seed=8")[0][0]["seed"] == 8


def test_a_users_module_is_found_in_the_current_directory(call, elsewhere):
    (elsewhere / "my_tint_module.py").write_text(
        "import torch\nimport glsmooth as gs\n\n\nclass Tint(gs.ResolvableTransform):\n"
        "    name = 'tint'\n    parameters = ('tint',)\n    identity = torch.zeros(1, dtype=torch.float64)\n"
        "    def apply(self, images, theta):\n        return images + theta[:, 0, None, None, None]\n"
        "    def resolve(self, alpha, beta):\n        return alpha + beta\n"
    )
    arguments = ["transform=custom", "transform._target_=my_tint_module.Tint"]
    laws = ["+smoothing.tint={law:Normal,scale:3}", "+region.tint=[-2,2]"]
    ((config, _),) = call("bounds", *arguments, *laws)
    assert {name: value for name, value in config["region"].items() if value is not None} == {"tint": [-2, 2]}


@pytest.mark.parametrize("command", ["train", "advise", "attack", "certify", "predict", "bounds", "report"])
def test_help_is_one_page_that_explains_every_group(call, capsys, command):
    with pytest.raises(SystemExit) as ended:
        call(command, "--help")
    assert ended.value.code == 0
    page = capsys.readouterr().out
    defaults = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text())["defaults"]
    groups = [next(iter(d)) for d in defaults if isinstance(d, dict)]
    groups = [group for group in groups if "override" not in group and "@" not in group]
    names = [line.split()[0] for line in page.splitlines() if line.startswith("  ") and line[2] != " "]
    assert set(groups) <= set(names)
    own_groups = command not in ("advise", "predict", "report")  # these take the transformation of a file
    if own_groups:
        assert all(name in page for name in TRANSFORMS)
    assert "Examples" in page
    assert f"glsmooth {command}" in page
    # Of the paragraphs that the pages share.
    assert f"by default outputs/{command}/<id>" in page
    assert "\nRunning\n  --multirun" in page
    assert ("transform=custom transform._target_=" in page) == own_groups
    assert "${" not in page
    assert max(map(len, page.splitlines())) <= 120
    assert len(page.splitlines()) <= 66


@pytest.mark.parametrize("command", ["train", "advise", "attack", "certify", "bounds"])
def test_the_examples_of_the_help_page_are_valid(call, capsys, command, elsewhere):
    with pytest.raises(SystemExit):
        call(command, "--help")
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    examples = [shlex.split(line)[2:] for line in lines if line.startswith(f"glsmooth {command} ")]
    assert len(examples) >= 3
    (elsewhere / "best.ckpt").write_bytes(b"weights")
    (elsewhere / "outputs" / "certify" / "ID").mkdir(parents=True)
    (elsewhere / "outputs" / "certify" / "ID" / "records.csv").write_bytes(b"votes")
    for example in examples:
        assert call(command, *(a.replace("outputs/train/<id>/", "").replace("<id>", "ID") for a in example))


def test_pages_repeat_no_paragraph():
    """What several help pages say stands in conf/hydra/help/."""
    files = [
        conf_dir() / f"{command}.yaml"
        for command in ("train", "advise", "attack", "certify", "predict", "bounds", "report")
    ]
    lines = [{line.strip() for line in path.read_text().splitlines() if len(line) > 80} for path in files]
    assert sum(map(len, lines)) == len(set.union(*lines)) > 20


def test_cfg_job_prints_the_configuration(call, capsys):
    call("bounds", "transform=gamma", "--cfg", "job")
    region = yaml.safe_load(capsys.readouterr().out)["region"]
    assert {name: value for name, value in region.items() if value is not None} == {"gamma": [1.0, 2.0]}


def test_standard_output_is_the_commands_own(call, capsys):
    call(
        "bounds",
        "format=json",
        run=lambda cfg: (logging.getLogger("glsmooth").warning("careful"), print("{}")),
    )
    captured = capsys.readouterr()
    assert captured.out == "{}\n"
    assert "careful" in captured.err


MISTAKES = [
    ("bounds", ["transform=brightnes"], ["transform=brightnes ", "did you mean 'brightness'"]),
    ("train", ["dataset=cifar"], ["dataset=cifar ", "did you mean 'cifar10'"]),
    ("train", ["experiment=cifar10/gama"], ["experiment=cifar10/gama is not", "did you mean 'cifar10/gamma'"]),
    ("bounds", ["experiment=imagenet"], ["experiment=imagenet is not a choice"]),
    ("bounds", ["transfrom=gamma"], ["transfrom=gamma ", "did you mean 'transform'?"]),
    (
        "bounds",
        ["smoothing.contrast.sclae=1"],
        ["smoothing.contrast.sclae=1 ", "did you mean 'smoothing.contrast.scale'?"],
    ),
    (
        "bounds",
        ["transform=gamma", "region.contrast=[1,2]"],
        ["region.contrast=[1,2] ", "choose from region.ball, region.centre, region.gamma"],
    ),
    ("bounds", ["transform=nosuch", "region.contrst=[1,2]"], ["transform=nosuch "]),
    ("certify", ["ckpt=epoch=1.ckpt"], ["ckpt=epoch=1.ckpt ", "quote"]),
    ("bounds", ["region.contrast=[0.5"], ["region.contrast=[0.5 ", "quote"]),
    ("bounds", ["--config-dir", "nowhere"], ["--config-dir", "exists"]),
    ("bounds", ["alpha=2"], ["alpha=2 ", "alpha=0.001"]),
    ("bounds", ["hydra.run.dir=mine", "alpha=2"], ["alpha=2 ", "alpha=0.001"]),
    ("bounds", ["run_dir=mine"], ["run_dir=mine ", "set hydra.run.dir=mine"]),
    ("bounds", ["region.contrast=[-1,1]"], ["region.contrast", "domain"]),
    ("bounds", ["--multirun", "alpha=0.1,2"], ["alpha=2 ", "alpha=0.001"]),
    ("certify", [], ["ckpt is missing", "ckpt="]),
    ("report", ["nowhere"], ["'nowhere'", "not a directory"]),
]


@pytest.mark.parametrize(("command", "arguments", "expected"), MISTAKES)
def test_a_mistake_stops_with_status_2_and_a_last_line_that_says_what_to_type(
    call, capsys, command, arguments, expected
):
    with pytest.raises(SystemExit) as ended:
        call(command, *arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert all(fragment in last_line(error) for fragment in expected), last_line(error)


def test_a_mistake_leaves_no_directory_behind(call, elsewhere):
    with pytest.raises(SystemExit):
        call("bounds", "alpha=2")
    assert list(elsewhere.iterdir()) == []


def test_what_the_library_refuses_while_running_is_named_by_its_key(call, capsys, elsewhere):
    (elsewhere / "empty").mkdir()
    for job, expected in (
        (lambda cfg: load_dataset({"name": "cifar10"}), "dataset.root is not set: give the folder of cifar10, e.g. "),
        (lambda cfg: load_dataset({"name": "mnist", "root": "empty"}).test, "dataset.root=empty: mnist is not"),
        (lambda cfg: build_model({"name": "small_cn"}, 10, 1, [0.0], [1.0], (32, 32)), "model.name=small_cn: neither"),
        (
            lambda cfg: gs.SmoothedFamily(Brightness(), {"brightness": gs.Normal(0, 1)}, None, -1.0),
            "loss.pixel_noise=-1.0 must be",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            call("train", run=job)
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert last_line(error).startswith(expected)


def test_a_method_that_does_not_apply_is_no_bug(call, capsys):
    with pytest.raises(SystemExit) as ended:
        call("bounds", run=lambda cfg: gs.required_probability(SHIFTS, gs.Box(tx=(0.2, 0.4), ty=(0, 0))))
    assert ended.value.code == 2
    assert "holds no whole number of pixels" in last_line(capsys.readouterr().err)


#: Folders of the kernel's take no file and no folder of anyone's, root's neither.
CLOSED = Path("/sys/kernel")


@pytest.mark.skipif(not CLOSED.is_dir(), reason="needs a folder that nobody can write")
@pytest.mark.parametrize(
    ("command", "directory", "reason"),
    [
        ("train", CLOSED / "run", "Operation not permitted|Permission denied|Read-only"),
        ("certify", CLOSED, "Permission denied|Read-only"),
        ("bounds", "a_file", "File exists"),
        ("report", "a_file/run", "Not a directory"),
    ],
)
def test_a_run_directory_that_cannot_be_written_stops_before_the_run(
    call, capsys, elsewhere, command, directory, reason
):
    (elsewhere / "a_file").write_text("")
    (elsewhere / "one").mkdir()
    given = {"certify": ["ckpt=a_file"], "report": ["one"]}.get(command, [])
    with pytest.raises(SystemExit) as ended:
        call(command, *given, f"hydra.run.dir={directory}", run=lambda cfg: pytest.fail("was run"))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.search(rf"^hydra\.run\.dir\b.*{directory}.*\(.*({reason}).*\)", last_line(error)), last_line(error)


@pytest.mark.skipif(not CLOSED.is_dir(), reason="needs a folder that nobody can write")
@pytest.mark.parametrize("directory", [CLOSED / "sweep", CLOSED])
def test_nor_can_the_directory_of_a_sweep(call, capsys, directory):
    with pytest.raises(SystemExit) as ended:
        call("bounds", "--multirun", "alpha=0.1,0.2", f"hydra.sweep.dir={directory}")
    assert ended.value.code == 2
    assert last_line(capsys.readouterr().err).startswith(f"hydra.sweep.dir: {directory}")


def test_a_disk_that_fills_under_any_library_is_no_bug(call, capsys):
    def full(cfg):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a file tells it that is closed

    with pytest.raises(SystemExit) as ended:
        call("bounds", "hydra.run.dir=mine", run=full)
    assert ended.value.code == 2
    assert re.search(r"mine: cannot be written \(No space left on device\); make room", capsys.readouterr().err)


@pytest.mark.parametrize("file", ["/dev/full", "nowhere/train.log"])
def test_a_log_that_cannot_be_written_says_nothing(capsys, file):
    """In the middle of a command's own words; the results tell of a full disk."""
    if file == "/dev/full" and not Path(file).exists():
        pytest.skip("needs a disk that is full")
    handler = LogFile(file, delay=True, encoding="utf-8")
    handler.handle(logging.makeLogRecord({"msg": "wrote it"}))
    assert capsys.readouterr().err == ""
    if handler.stream is not None:
        handler.handle(logging.makeLogRecord({"msg": "wrote %d", "args": ("it",)}))
        assert "%d format" in capsys.readouterr().err  # a mistake of ours is still told


def test_a_name_with_bytes_that_are_no_text_can_be_typed(call, elsewhere):
    """In the C locale every letter beyond ASCII arrives as such bytes."""
    name = os.fsdecode(b'caf\xe9 "two"')
    ((config, directory),) = call("bounds", f"hydra.run.dir={name}")
    assert directory == elsewhere / name
    assert directory.is_dir()
    assert config["run_dir"] == str(directory)
    ((config, _),) = call("bounds", f'hydra.run.dir="{name.split()[0]}"')  # quoted already
    assert config["run_dir"] == str(elsewhere / name.split()[0])
    (elsewhere / name / "experiment").mkdir()
    (elsewhere / name / "experiment" / "mine.yaml").write_text("# @package _global_\nalpha: 0.5\n")
    assert call("bounds", f"--config-dir={name}", "experiment=mine")[0][0]["alpha"] == 0.5


IN_C = """
import logging, sys
from glsmooth.commands import bounds, entry

def run(cfg):
    logging.getLogger("glsmooth").warning("wrote \\u03b1 to %s", cfg.run_dir)
    bounds.run(cfg)

sys.argv = ["bounds", "hydra.run.dir=caf\\udcc3\\udca9"]  # as an argument arrives
entry.entry("bounds", run)()
"""


def test_the_c_locale(elsewhere):
    """Tables and messages come out, with what ASCII lacks written out, and files are UTF-8 as elsewhere."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", IN_C]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.isascii()
    assert "Neyman\\u2013Pearson" in done.stdout
    assert "wrote \u03b1 to " in (elsewhere / "caf\u00e9" / "bounds.log").read_text(encoding="utf-8")


def _ours(cfg):
    raise ValueError("an assumption of the package's is broken")


@pytest.mark.parametrize(
    ("bug", "kind"),
    [
        (lambda cfg: np.zeros(3).reshape(2), ValueError),
        (types.FunctionType(_ours.__code__, vars(cover)), ValueError),  # as if one of our modules had raised it
        (lambda cfg: Path("nowhere").read_text(), FileNotFoundError),
        (lambda cfg: {}["x"], KeyError),
        (lambda cfg: cfg.nothing, Exception),
    ],
)
def test_a_bug_keeps_its_traceback(call, bug, kind):
    with pytest.raises(kind):
        call("bounds", run=bug)


def test_the_environment_is_given_back(call):
    before = dict(os.environ)
    call("bounds")
    assert dict(os.environ) == before


def test_jobs_can_be_sent_to_another_machine():
    """Slurm jobs unpickle the task in a process without glsmooth.commands.entry, and then name their run."""
    cloudpickle = pytest.importorskip("cloudpickle")
    code = (
        "import pickle, sys; pickle.load(sys.stdin.buffer)\n"
        "from omegaconf import OmegaConf; sys.exit(not OmegaConf.has_resolver('run_id'))"
    )
    job = cloudpickle.dumps(entry("bounds", print))
    assert subprocess.run([sys.executable, "-c", code], input=job, check=False).returncode == 0


def test_help_lists_the_commands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["glsmooth", "--help"])
    glsmooth_main()
    page = capsys.readouterr().out
    assert all(
        f"\n  {command}" in page for command in ("train", "advise", "attack", "certify", "predict", "bounds", "report")
    )


def test_an_unknown_command_suggests_the_near_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["glsmooth", "trian"])
    with pytest.raises(SystemExit) as ended:
        glsmooth_main()
    assert ended.value.code == 2
    assert "did you mean 'train'" in last_line(capsys.readouterr().err)


def test_glsmooth_x_is_python_m_glsmooth_x():
    command = [sys.executable, "-m", "glsmooth", "report", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "'nowhere' is not a directory" in last_line(done.stderr)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_log_is_not_written_elsewhere(tmp_path, kind):
    victim, log = tmp_path / "victim", tmp_path / "report.log"
    victim.write_text("mine")
    {"link": lambda: log.symlink_to(victim), "pipe": lambda: os.mkfifo(log), "folder": log.mkdir}[kind]()
    handler = LogFile(log, delay=True)
    handler.emit(logging.LogRecord("a", logging.INFO, "b", 1, "words", None, None))
    handler.close()
    assert victim.read_text() == "mine"
