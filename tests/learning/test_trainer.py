"""Which processes a command counts as its own: those that srun or torchrun started alone; what Lightning says; and in
which precision a training runs."""

import subprocess
import sys

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies import DDPStrategy

from glsmooth.errors import UserError
from glsmooth.learning.trainer import make_trainer, started_with_others, training_precision

ALLOCATION = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "work", "SLURM_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}
#: Where one process runs, whatever NTASKS says: a shell in an allocation (salloc), the script of sbatch, and the step
#: that salloc may start its shell in, whose number is none of srun's.
ALONE = {
    "salloc": ALLOCATION,
    "salloc --ntasks-per-node": ALLOCATION | {"SLURM_NTASKS_PER_NODE": "2"},
    "sbatch": ALLOCATION | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    "salloc, interactive step": ALLOCATION | {"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
}
SRUN = ALLOCATION | {
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "GROUP_RANK": "0"}


@pytest.fixture
def environment(monkeypatch):
    for name in [*SRUN, *TORCHRUN]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)  # Lightning notes it, and later tests are alone

    def set_(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_


def trainer(devices=1, **options):
    settings = {"trainer": {"accelerator": "cpu", "devices": devices}}
    return make_trainer(settings, logger=False, enable_checkpointing=False, **options)


@pytest.mark.parametrize("where", ALONE)
def test_a_process_in_an_allocation_of_slurm_is_alone_without_srun(environment, where):
    environment(ALONE[where])
    assert not started_with_others()
    one = trainer()
    assert (one.world_size, one.global_rank) == (1, 0)
    two = trainer(2, strategy=DDPStrategy(start_method="spawn"))
    assert isinstance(two.strategy.cluster_environment, LightningEnvironment)
    assert two.global_rank == 0


def test_ranks_under_srun_are_those_of_slurm(environment):
    environment(SRUN)
    assert started_with_others()
    two = trainer(2, strategy=DDPStrategy(start_method="popen"))
    assert isinstance(two.strategy.cluster_environment, SLURMEnvironment)
    assert (two.world_size, two.global_rank, two.local_rank) == (2, 1, 1)


def test_ranks_under_torchrun_are_its_own_in_an_allocation_too(environment):
    environment(ALLOCATION | TORCHRUN)
    assert started_with_others()
    two = trainer(2, strategy=DDPStrategy(start_method="popen"))
    assert isinstance(two.strategy.cluster_environment, TorchElasticEnvironment)
    assert two.global_rank == 1


def test_tasks_that_lightning_does_not_take_are_a_mistake(environment):
    environment({name: value for name, value in SRUN.items() if name != "SLURM_NTASKS_PER_NODE"})
    with pytest.raises(UserError, match="--ntasks-per-node=2"):
        trainer(2, strategy=DDPStrategy(start_method="popen"))


SPEAKING = """
import logging
logging.basicConfig()  # as Hydra does before a command imports Lightning
from glsmooth.learning.trainer import quieten_lightning
quieten_lightning()
for part in ("pytorch", "fabric"):
    logging.getLogger(f"lightning.{part}.part").info("a greeting")
    logging.getLogger(f"lightning.{part}.part").warning("a warning of %s", part)
"""


def test_lightning_warns_once_and_does_not_greet():
    done = subprocess.run([sys.executable, "-c", SPEAKING], capture_output=True, text=True, check=True)
    said = [line for line in done.stderr.splitlines() if "a warning" in line or "a greeting" in line]
    assert said == [f"WARNING:lightning.{part}.part:a warning of {part}" for part in ("pytorch", "fabric")]


def precision(typed="auto", accelerator="cpu", begun=None):
    return training_precision({"trainer": {"accelerator": accelerator, "precision": typed}}, begun)


def test_auto_is_bfloat16_where_the_cpu_computes_in_it(monkeypatch):
    for avx512, amx, found in (
        (False, False, "32-true"),
        (True, False, "bf16-mixed"),
        (False, True, "bf16-mixed"),
    ):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda found=avx512: found, raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda found=amx: found, raising=False)
        assert precision() == found
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert precision() == "32-true"  # a torch that has no such question


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_the_gpu_does_not_emulate_it(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert precision(accelerator="gpu") == ("bf16-mixed" if native else "32-true")


def test_auto_keeps_the_precision_of_what_it_goes_on_from(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert precision(begun="32-true") == "32-true"
    assert precision("bf16-mixed", begun="32-true") == "bf16-mixed"  # for others to refuse


def test_float16_is_not_silently_bfloat16():
    with pytest.raises(UserError, match=r"^trainer.precision=16-mixed: .*set trainer.precision=bf16-mixed, or 32-true"):
        precision("16-mixed")
    assert precision("16-mixed", "gpu") == "16-mixed"
