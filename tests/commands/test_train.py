"""The train command on the digits, a few steps at a time."""

import csv
import errno
import io
import itertools
import json
import math
import os
import shutil
import sys
from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from PIL import Image

from glsmooth.commands import certify, train
from glsmooth.configuration.folder import conf_dir
from glsmooth.configuration.identity import file_digest
from glsmooth.errors import UserError
from glsmooth.learning import trainer, training
from glsmooth.learning.checkpoint import load_checkpoint
from glsmooth.learning.trainer import WholeCheckpoints
from glsmooth.learning.training import UNDER_LAW, TrainingModule
from glsmooth.runs.records import holding
from tests.pictures import rendered
from tests.runs.test_records import in_another_process

SHORT = [
    "trainer.accelerator=cpu",
    "trainer.limit_train_batches=2",
    "trainer.precision=32-true",
    "trainer.progress=false",
    "optimizer.epochs=4",
    "dataset.image_size=[16,16]",
]


def run(directory: Path, *overrides: str) -> None:
    directory.mkdir(exist_ok=True)
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        train.run(hydra.compose("train", [*SHORT, *overrides, f"run_dir={directory}"]))


def weights(directory: Path, name: str = "last.ckpt") -> torch.Tensor:
    state = load_checkpoint(directory / name).state_dict
    return torch.cat([value.double().flatten() for value in state.values()])


def weights_alone(directory: Path, name: str = "last.ckpt") -> torch.Tensor:
    """Without the statistics of batch normalisation, which every step moves."""
    state = load_checkpoint(directory / name).state_dict
    return torch.cat(
        [
            value.flatten()
            for key, value in state.items()
            if not key.startswith("normalize") and "running" not in key and "tracked" not in key
        ]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("finished")
    with rendered():
        run(directory)
    return directory


def test_checkpoints(finished):
    for name in ("best.ckpt", "last.ckpt"):
        content = torch.load(finished / name, weights_only=True)
        assert content["glsmooth"]["transform"]["_target_"] == "glsmooth.transforms.ContrastBrightness"
        assert all(value.is_contiguous() for value in content["state_dict"].values())
    last, best = load_checkpoint(finished / "last.ckpt"), load_checkpoint(finished / "best.ckpt")
    assert last.metrics["epoch"] == 4
    assert best.metrics[UNDER_LAW] >= last.metrics[UNDER_LAW]
    assert best.model["name"] == "small_cnn"
    assert best.build_model()(torch.rand(2, 1, 16, 16)).shape == (2, 10)
    assert best.build_family().parameters == ("contrast", "brightness")


def test_best_is_the_best_epoch_under_the_law(finished):
    with (finished / "metrics.csv").open() as file:
        scores = {int(row["epoch"]): float(row[UNDER_LAW]) for row in csv.DictReader(file)}
    assert list(scores) == [1, 2, 3, 4]
    best = load_checkpoint(finished / "best.ckpt").metrics
    assert scores[int(best["epoch"])] == pytest.approx(max(scores.values()))
    assert best[UNDER_LAW] == pytest.approx(max(scores.values()))


def test_summary_and_configuration(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["checkpoint"]["sha256"] == file_digest(finished / "best.ckpt")
    assert summary["metrics"] == load_checkpoint(finished / "best.ckpt").metrics
    assert "optimizer" in (finished / "config.yaml").read_text()


def test_curves_lie_beside_the_checkpoint_and_are_not_needed_for_it(finished, tmp_path, monkeypatch, capsys):
    assert (finished / "training.png").read_bytes().startswith(b"\x89PNG")
    assert (finished / "training.pdf").read_bytes().startswith(b"%PDF-")

    def torn(directory, history):
        (directory / "metrics.csv").write_text("epoch,train/total\n1,2.0\nn")

    monkeypatch.setattr(training, "write_history", torn)
    run(tmp_path / "run", "optimizer.epochs=1", "trainer.limit_train_batches=1")
    assert "No picture of the training: " in capsys.readouterr().err
    assert (tmp_path / "run" / "summary.json").is_file()
    assert not (tmp_path / "run" / "training.png").exists()


def test_same_seed_same_network(finished, tmp_path):
    run(tmp_path / "again")
    run(tmp_path / "other", "seed=1")
    assert torch.equal(weights(tmp_path / "again"), weights(finished))
    assert not torch.equal(weights(tmp_path / "other"), weights(finished))


def test_seed_decides_the_initial_weights(tmp_path):
    still = ["optimizer.lr=1e-12", "optimizer.epochs=1", "trainer.limit_train_batches=1"]
    heads = []
    for seed in (0, 1):
        run(tmp_path / f"{seed}", *still, f"seed={seed}")
        heads.append(load_checkpoint(tmp_path / f"{seed}" / "last.ckpt").state_dict["network.fc.weight"])
    assert (heads[0] - heads[1]).abs().max() > 0.01


def test_finished_run_is_not_repeated(finished, capsys):
    before = (finished / "best.ckpt").stat().st_mtime_ns
    run(finished)
    assert (finished / "best.ckpt").stat().st_mtime_ns == before
    said = capsys.readouterr().out
    assert "finished already" in said
    assert f"glsmooth certify ckpt={finished / 'best.ckpt'}" in said


def test_resumed_run_ends_where_an_uninterrupted_one_does(finished, tmp_path, monkeypatch, capsys):
    started, epochs = TrainingModule.on_train_epoch_start, []

    def interrupted(module):
        epochs.append(module.current_epoch)
        if epochs == [0, 1, 2]:
            raise KeyboardInterrupt
        started(module)

    monkeypatch.setattr(TrainingModule, "on_train_epoch_start", interrupted)
    with pytest.raises(SystemExit):
        run(tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "last.ckpt").metrics["epoch"] == 2
    assert not (tmp_path / "run" / "summary.json").exists()
    run(tmp_path / "run")
    assert epochs == [0, 1, 2, 2, 3]
    assert "Resuming from" in capsys.readouterr().err
    assert torch.equal(weights(tmp_path / "run"), weights(finished))
    assert torch.equal(weights(tmp_path / "run", "best.ckpt"), weights(finished, "best.ckpt"))
    assert (tmp_path / "run" / "metrics.csv").read_text() == (finished / "metrics.csv").read_text()


def run_until(epoch: int, directory: Path, *overrides: str) -> None:
    """A training that ends before an epoch, as by a kill."""
    started = TrainingModule.on_train_epoch_start

    def interrupted(module):
        if module.current_epoch == epoch:
            raise KeyboardInterrupt
        started(module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_epoch_start", interrupted)
        with pytest.raises(SystemExit):
            run(directory, *overrides)


@pytest.mark.parametrize("optimizer", ["torch.optim.AdamW", "torch.optim.Adafactor"])
def test_a_run_resumes_with_any_optimizer(tmp_path, capsys, optimizer):
    """Adafactor keeps rows and columns of a parameter, and both keep the number of steps."""
    adam = [f"optimizer._target_={optimizer}", "optimizer.lr=1e-3", "optimizer.epochs=2", "optimizer.momentum=0.5"]
    run(tmp_path / "whole", *adam)
    assert f"Optimizer: {optimizer}(lr=0.001, weight_decay=0.0005); without" in capsys.readouterr().err
    checkpoint = load_checkpoint(tmp_path / "whole" / "last.ckpt")
    assert checkpoint.optimizer["_target_"] == checkpoint.identity["optimizer._target_"] == optimizer
    run_until(1, tmp_path / "run", *adam)
    last = tmp_path / "run" / "last.ckpt"
    content = last.read_bytes()
    changed = torch.load(last, weights_only=True)
    name, value = max(changed["optimizer_states"][0]["state"][0].items(), key=lambda item: item[1].ndim)
    for other, words in ((value.flatten(), r"has shape \("), (None, "is missing")):
        changed["optimizer_states"][0]["state"][0][name] = other
        torch.save(changed, last)
        with pytest.raises(UserError, match=f"cannot resume from it .the optimizer's {name} 0 {words}"):
            run(tmp_path / "run", *adam)
    last.write_bytes(content)
    run(tmp_path / "run", *adam)
    assert torch.equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    with pytest.raises(UserError, match=rf"a run with optimizer._target_={optimizer}, this run has no optimizer._tar"):
        run(tmp_path / "run", *adam[1:])


def test_one_file_has_the_metrics_of_every_epoch_once(finished, tmp_path, capsys):
    """After a kill between metrics.csv and last.ckpt, too, in a run that an older version began, and without any."""
    directory = tmp_path / "run"
    run_until(2, directory)
    metrics, whole = directory / "metrics.csv", (finished / "metrics.csv").read_text()
    two = metrics.read_text()
    assert whole.startswith(two)
    shutil.copytree(directory, tmp_path / "old")
    shutil.copytree(directory, tmp_path / "without")
    metrics.write_text(f"{two}3,9,9,9,9,0.5,0.5\n4,9,9,9,9,0.5,0.5\n")
    run(directory)
    assert metrics.read_text() == whole
    old = tmp_path / "old" / "metrics" / "version_0" / "metrics.csv"
    old.parent.mkdir(parents=True)
    (tmp_path / "old" / "metrics.csv").unlink()
    header, *rows = two.splitlines()
    old.write_text("\n".join([header, *(f"{i}{row[1:]}" for i, row in enumerate(rows))]) + "\n")
    run(tmp_path / "old")
    assert (tmp_path / "old" / "metrics.csv").read_text() == whole
    (tmp_path / "without" / "metrics.csv").unlink()
    capsys.readouterr()
    run(tmp_path / "without")
    assert "metrics.csv begins with epoch 3: " in capsys.readouterr().err
    assert (tmp_path / "without" / "metrics.csv").read_text() == header + whole.removeprefix(two[:-1])


def test_more_epochs_go_on_where_fewer_ended(tmp_path, capsys):
    """With a constant learning rate they end where one long training does; what was there before stays."""
    constant = "optimizer.schedule=constant"
    run(tmp_path / "whole", constant)
    directory = tmp_path / "run"
    run(directory, constant, "optimizer.epochs=2")
    files = ("best.ckpt", "last.ckpt", "metrics.csv", "config.yaml", "training.png")
    before = {name: (directory / name).read_bytes() for name in files}
    run_until(3, directory, constant)
    kept = directory / "epochs_2"
    assert {name: (kept / name).read_bytes() for name in files} == before
    summary = json.loads((kept / "summary.json").read_text())
    assert summary["checkpoint"] == {"path": str(kept / "best.ckpt"), "sha256": file_digest(kept / "best.ckpt")}
    assert summary["optimizer"]["epochs"] == 2
    assert not (directory / "summary.json").exists()  # it is not finished
    assert load_checkpoint(directory / "last.ckpt").metrics["epoch"] == 3
    said = capsys.readouterr().err
    assert f"Going on to optimizer.epochs=4, after 2 of 2 epochs; its results stay in {kept}\n" in said
    with pytest.raises(UserError, match=r"epochs=2: .* with optimizer.epochs=4, and can only .* after 2 are in .*_2$"):
        run(directory, constant, "optimizer.epochs=2")
    with pytest.raises(UserError, match=r"a run with optimizer.lr=0.1, this run has optimizer.lr=0.2;"):
        run(directory, constant, "optimizer.lr=0.2", "optimizer.epochs=5")
    run(directory, constant)
    for name in ("best.ckpt", "last.ckpt"):
        assert torch.equal(weights(directory, name), weights(tmp_path / "whole", name))
    assert (directory / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    assert (kept / "best.ckpt").read_bytes() == before["best.ckpt"]
    (directory / "last.ckpt").unlink()
    with pytest.raises(UserError, match=r"last.ckpt: missing, and more epochs would go on from it"):
        run(directory, constant, "optimizer.epochs=5")


def test_the_schedule_of_more_epochs_holds_from_the_first_step_on(tmp_path, monkeypatch, capsys):
    rates, step = [], TrainingModule.training_step

    def watched(module, *arguments):
        rates.append(module.trainer.optimizers[0].param_groups[0]["lr"])
        return step(module, *arguments)

    monkeypatch.setattr(TrainingModule, "training_step", watched)
    run(tmp_path / "run", "optimizer.epochs=2")
    assert rates == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])
    rates.clear()
    run(tmp_path / "run", "optimizer.epochs=4")
    assert rates == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(4, 8)])
    said = "schedule=cosine is that of 4 epochs from here on, so the learning rate goes on at 0.5 times optimizer.lr"
    assert f"{said}, where it was 0 times\n" in capsys.readouterr().err


def cut(content):
    return content[: len(content) // 2]


def saved(**changes):
    """last.ckpt with some of its entries replaced; None removes one."""

    def change(content):
        stored = {**torch.load(io.BytesIO(content), weights_only=True), **changes}
        file = io.BytesIO()
        torch.save({key: value for key, value in stored.items() if value is not None}, file)
        return file.getvalue()

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "missing, damaged, or not of this program"),
        (lambda _: b"hello", "missing, damaged"),
        (saved(glsmooth={}), "missing, damaged"),
        (saved(loops=None, optimizer_states=None), "cannot resume"),  # as weights alone, such as best.ckpt, are
        (saved(state_dict={"a": torch.zeros(1)}), "cannot resume"),
        (
            saved(optimizer_states=[{"state": {0: {"momentum_buffer": torch.zeros(3)}}}]),
            r"momentum_buffer 0 has shape \(3,\)",
        ),
    ],
)
def test_a_last_checkpoint_that_is_of_no_use_says_so(finished, tmp_path, damage, words):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    last = tmp_path / "run" / "last.ckpt"
    last.write_bytes(damage(last.read_bytes()))
    with pytest.raises(
        UserError, match=rf"^{last}: .*{words}.*; restore it, or remove last.ckpt and summary.json, and"
    ):
        run(tmp_path / "run")
    last.unlink()
    run(tmp_path / "run", "optimizer.epochs=1")
    assert load_checkpoint(last).metrics["epoch"] == load_checkpoint(tmp_path / "run" / "best.ckpt").metrics["epoch"]


def test_a_finished_run_whose_best_checkpoint_is_damaged(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    best = tmp_path / "run" / "best.ckpt"
    best.write_bytes(cut(best.read_bytes()))
    with pytest.raises(UserError, match=rf"^{best}: missing, damaged"):
        run(tmp_path / "run")


def test_directory_of_another_run_is_refused(finished):
    with pytest.raises(ValueError, match=r"holds a run with optimizer.lr=0.1, this run has optimizer.lr=0.01;"):
        run(finished, "optimizer.lr=0.01")
    with pytest.raises(ValueError, match=r"trainer.precision=32-true, this run has trainer.precision=bf16-mixed;"):
        run(finished, "trainer.precision=bf16-mixed")
    run(finished, "dataset.subset=5")  # of the images to certify: nothing to training


def test_fast_dev_run_saves_nothing(tmp_path, capsys):
    run(tmp_path / "run", "trainer.fast_dev_run=true")
    assert not list(tmp_path.rglob("*.ckpt"))
    assert "nothing was saved" in capsys.readouterr().out


def test_a_batch_that_memory_cannot_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingModule, "forward", lambda self, images: torch.empty(2**47, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"optimizer.batch_size=64: too large .* set optimizer.batch_size=32"):
        run(tmp_path / "run")


def test_an_allocation_of_slurm_without_srun_is_one_machine(tmp_path, monkeypatch):
    for name, value in {"JOB_ID": "17", "JOB_NAME": "work", "NODELIST": "n1", "NTASKS": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    run(tmp_path / "run", "optimizer.epochs=1")
    assert (tmp_path / "run" / "summary.json").is_file()


def test_mixed_precision(tmp_path):
    run(tmp_path / "run", "trainer.precision=bf16-mixed", "optimizer.epochs=1")
    state = load_checkpoint(tmp_path / "run" / "best.ckpt").state_dict
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_the_precision_that_is_chosen_is_said_and_stored(tmp_path, monkeypatch, capsys, native, precision):
    monkeypatch.setattr(trainer, "_computes_in_bfloat16", lambda accelerator: native)
    run(tmp_path / "run", "trainer.precision=auto", "optimizer.epochs=1")
    for name in ("best.ckpt", "last.ckpt"):
        assert load_checkpoint(tmp_path / "run" / name).precision == precision
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["precision"] == precision
    assert f"precision: {precision}\n" in (tmp_path / "run" / "config.yaml").read_text()
    assert capsys.readouterr().err.splitlines().count(f"trainer.precision=auto: {precision}") == 1


def test_a_resumed_run_keeps_its_precision_on_another_machine(tmp_path, monkeypatch, capsys):
    auto = "trainer.precision=auto"
    monkeypatch.setattr(trainer, "_computes_in_bfloat16", lambda accelerator: True)
    run(tmp_path / "whole", auto)
    run_until(2, tmp_path / "run", auto)
    monkeypatch.setattr(trainer, "_computes_in_bfloat16", lambda accelerator: False)
    capsys.readouterr()
    run(tmp_path / "run", auto)
    assert "trainer.precision=auto: bf16-mixed, as in last.ckpt" in capsys.readouterr().err
    assert torch.equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    run(tmp_path / "run", "trainer.precision=bf16-mixed")  # finished
    with pytest.raises(ValueError, match=r"trainer.precision=bf16-mixed, this run has trainer.precision=32-true;"):
        run(tmp_path / "run", "trainer.precision=32-true")


def test_relative_root_is_stored_as_absolute(tmp_path, monkeypatch):
    from PIL import Image

    for i in range(40):
        folder = tmp_path / "pets" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (i, 0, 0)).save(folder / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    run(
        tmp_path / "run",
        "dataset=image_folder",
        "dataset.root=pets",
        "dataset.num_workers=0",
        "model=cifar_resnet20",
        "optimizer.epochs=1",
    )
    checkpoint = load_checkpoint(tmp_path / "run" / "best.ckpt")
    assert checkpoint.dataset["root"] == str(tmp_path / "pets")
    assert checkpoint.classes == ["cat", "dog"]


def test_wandb_offline_is_closed(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def failing(module):
        raise RuntimeError("something else went wrong")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_epoch_start", failing)
        with pytest.raises(RuntimeError, match="something else"):
            run(tmp_path / "run", "logger=wandb")
    assert wandb.run is None  # finished although training failed
    remembered = (tmp_path / "run" / "wandb_id").read_text()
    run(tmp_path / "run", "logger=wandb", "optimizer.epochs=1")
    assert wandb.run is None
    assert (tmp_path / "run" / "wandb_id").read_text() == remembered
    assert len(list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{remembered}"))) >= 1
    assert (tmp_path / "run" / "metrics.csv").is_file()


def test_command(tmp_path, monkeypatch, capsys):
    overrides = [*SHORT, "optimizer.epochs=1", f"hydra.run.dir={tmp_path / 'run'}"]
    monkeypatch.setattr(sys, "argv", ["train", *overrides])
    train.main()
    assert f"Certify it with: glsmooth certify ckpt={tmp_path / 'run' / 'best.ckpt'}" in capsys.readouterr().out
    assert (tmp_path / "run" / "summary.json").is_file()


def test_command_explains_mistakes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "loss.copies=1", f"hydra.run.dir={tmp_path / 'run'}"])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    assert stopped.value.code == 2
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "loss.copies" in last_line
    assert "Traceback" not in last_line


CLAMPING = """
import torch
import glsmooth as gs

class Clamping(gs.ResolvableTransform):
    name = "clamping"
    factors = (gs.transforms.Shift("b"),)

    def apply(self, images, theta):
        return (images + theta[:, 0].to(images)[:, None, None, None]).clamp(0, 1)
"""


def test_a_users_transformation_that_is_not_resolvable_is_not_trained_unasked(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_clamping_module.py").write_text(CLAMPING)
    monkeypatch.syspath_prepend(tmp_path)
    own = [
        "transform=custom",
        "transform._target_=my_clamping_module.Clamping",
        "+smoothing.b={law:Normal,scale:0.2}",
        "+region.b=[-0.1,0.1]",
    ]
    monkeypatch.setattr(sys, "argv", ["train", *SHORT, *own, f"hydra.run.dir={tmp_path / 'run'}"])
    with pytest.raises(SystemExit) as stopped:
        train.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "Clamping is not resolvable as it says" in error
    assert "approximate=true" in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.ckpt"))
    run(tmp_path / "run", *own, "approximate=true", "optimizer.epochs=1")
    assert "FAILED" in capsys.readouterr().err
    assert (tmp_path / "run" / "best.ckpt").is_file()
    sys.modules.pop("my_clamping_module", None)


def test_weights_for_other_classes_need_a_new_head(tmp_path):
    from glsmooth.learning.models import build_model

    for i in range(60):
        folder = tmp_path / "pets" / f"{i % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (4 * i, 0, 0)).save(folder / f"{i}.png")
    old = build_model({"name": "cifar_resnet20"}, 7, 3, (0.5,) * 3, (0.2,) * 3, (16, 16))
    torch.save(old.state_dict(), tmp_path / "seven.pt")
    folder = [
        "dataset=image_folder",
        f"dataset.root={tmp_path / 'pets'}",
        "dataset.num_workers=0",
        "dataset.val_fraction=0.3",
        "model=cifar_resnet20",
        f"model.weights={tmp_path / 'seven.pt'}",
        "optimizer.epochs=1",
    ]
    with pytest.raises(ValueError, match=r"has 7 classes, the dataset 10; .* new_head=true"):
        run(tmp_path / "run", *folder)
    run(tmp_path / "run", *folder, "model.new_head=true")
    checkpoint = load_checkpoint(tmp_path / "run" / "best.ckpt")
    assert checkpoint.model["new_head"] is True
    assert checkpoint.build_model()(torch.rand(1, 3, 16, 16)).shape == (1, 10)


def test_training_starts_from_the_network_of_a_checkpoint(finished, tmp_path, capsys):
    """Other laws, one small step: the network is nearly that of before, and none that was drawn anew."""
    ckpt = finished / "best.ckpt"
    gentle = ["transform=gamma", "optimizer.epochs=1", "optimizer.lr=1e-9", f"ckpt={ckpt}"]
    run(tmp_path / "run", *gentle)
    assert "Starting from the small_cnn of" in capsys.readouterr().err
    torch.testing.assert_close(weights_alone(tmp_path / "run"), weights_alone(finished, "best.ckpt"), rtol=0, atol=1e-6)
    tuned = load_checkpoint(tmp_path / "run" / "best.ckpt")
    assert tuned.build_family().parameters == ("gamma",)
    assert tuned.identity["ckpt"] == file_digest(ckpt)
    with pytest.raises(UserError, match=r"has a run with.*ckpt|holds a run with.*ckpt"):
        run(tmp_path / "run", *gentle[:-1])
    for mistake, words in (
        (["model=cifar_resnet20"], r"does not fit"),
        ([f"model.weights={ckpt}"], r"leave out model.weights"),
        (["ckpt=nowhere.ckpt"], r"no such file|is not a file"),
    ):
        with pytest.raises(UserError, match=words):
            run(tmp_path / "other", *gentle, *mistake)


def test_a_checkpoint_says_where_its_images_lie(tmp_path, monkeypatch):
    from glsmooth.learning.checkpoint import starting_from

    folder = ["dataset=cifar10", f"dataset.root={tmp_path}", "model=small_cnn", "optimizer.epochs=1"]
    for split, name, i in itertools.product(("train", "test"), "ab", range(4)):
        (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (60 * i, 0, 0)).save(tmp_path / split / name / f"{i}.png")
    run(tmp_path / "run", *folder, "dataset.val_fraction=0.3", "dataset.image_size=[32,32]")
    settings = load_checkpoint(tmp_path / "run" / "best.ckpt")
    dataset = {**settings.dataset, "root": None}
    model = {"name": "auto", "weights": None, "pretrained": None}
    for name, root in (("cifar10", str(tmp_path)), ("cifar100", None)):
        started = starting_from(tmp_path / "run" / "best.ckpt", {"model": model, "dataset": {**dataset, "name": name}})
        assert started["dataset"]["root"] == root
        assert started["model"]["name"] == "small_cnn"
    # Somebody else's file may name any folder.
    (tmp_path / "stranger.ckpt").write_bytes((tmp_path / "run" / "best.ckpt").read_bytes() + b"\0")
    monkeypatch.setattr("glsmooth.learning.checkpoint.load_checkpoint", lambda ckpt: settings)
    with pytest.raises(UserError, match=r"dataset.root=.* comes from .*stranger.ckpt.*type the folder"):
        starting_from(tmp_path / "stranger.ckpt", {"model": model, "dataset": dataset})


def test_an_invariant_network_from_weights_to_votes(tmp_path, finished, monkeypatch):
    """It starts from the weights of a plain one, and then every vote of an image is for one class."""
    plain = load_checkpoint(finished / "best.ckpt")
    assert "canonical" not in plain.model
    start = ["model.canonical=auto", f"model.weights={finished / 'best.ckpt'}", "optimizer.epochs=1"]
    run(tmp_path / "run", *start, "optimizer.lr=1e-9")
    checkpoint = load_checkpoint(tmp_path / "run" / "best.ckpt")
    assert checkpoint.model["canonical"] == "contrast_brightness"
    for name, value in plain.state_dict.items():
        if name.endswith("weight"):
            torch.testing.assert_close(checkpoint.state_dict[name], value, rtol=1e-3, atol=1e-4)
    trained = checkpoint.metrics
    assert trained[UNDER_LAW] == pytest.approx(trained[training.CLEAN], abs=1e-6)

    options = ["dataset.subset=8", "batch_size=256", "channels_last=false", "compile=false", "threads=1"]
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # of a command that ran in this process before
    # Another transformation than that of the training, and part of the group: the network's form is its own.
    for transform in ("contrast_brightness", "brightness", "contrast"):
        directory = tmp_path / transform
        directory.mkdir()
        words = [f"ckpt={tmp_path / 'run' / 'best.ckpt'}", f"transform={transform}", f"run_dir={directory}", *options]
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            certify.run(hydra.compose("certify", [*words, "monte_carlo.n0=20", "monte_carlo.n=200"]))
        with (directory / "records.csv").open() as file:
            assert [row["count"] for row in csv.DictReader(file)] == ["200"] * 8


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    """A disk that fills in the middle leaves the last epoch's; renaming stays within the folder."""
    replaced = []
    monkeypatch.setattr(os, "replace", lambda *paths, replace=os.replace: (replaced.append(paths), replace(*paths)))
    run(tmp_path / "run", "optimizer.epochs=1")
    last = tmp_path / "run" / "last.ckpt"
    assert any(Path(new).parent == last.parent for new, old in replaced if old == last)
    before = last.read_bytes()

    def full(_, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"last\.ckpt: cannot be written \(.*No space left"):
        WholeCheckpoints().save_checkpoint({}, last)
    assert last.read_bytes() == before
    assert not list(last.parent.glob(".last.ckpt.*"))


def test_nobody_else_trains_in_the_same_directory(finished, tmp_path):
    """Two at once would end with the weights of one and the summary of the other."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with holding(tmp_path / "run"):
        told = in_another_process(lambda: run(tmp_path / "run"))
    assert "another process is writing here" in told


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """A run that was killed after the first of the two steps of its first epoch."""
    directory, step = tmp_path_factory.mktemp("inside"), TrainingModule.training_step

    def killed(module, batch, batch_idx):
        if batch_idx == 1:
            raise RuntimeError("killed")
        return step(module, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "SECONDS_A_SAVE", -1.0)
        patch.setattr(TrainingModule, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(directory)
    return directory


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, None),
        ({"steps": -1}, "1 steps were made, and it says -1"),
        ({"steps": 2}, "1 steps were made, and it says 2"),
        ({"images": 0}, "it was changed"),
        ({"size": 17}, "inside an epoch of 17 images"),
    ],
)
def test_an_epoch_goes_on_with_its_own_batches_alone(finished, inside, tmp_path, changed, words):
    """Others, of images that came or went meanwhile, would end in other weights without a word."""
    shutil.copytree(inside, tmp_path / "run")
    content = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    content["glsmooth"]["begun"].update(changed)
    torch.save(content, tmp_path / "run" / "last.ckpt")
    if words is None:
        run(tmp_path / "run")
        assert torch.equal(weights(tmp_path / "run"), weights(finished))
        assert (tmp_path / "run" / "metrics.csv").read_text() == (finished / "metrics.csv").read_text()
        return
    with pytest.raises(UserError, match=f"cannot resume from it .*{words}.*train"):
        run(tmp_path / "run")
