"""What decides a command's result, and the name that follows from it."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from glsmooth.configuration.fields import is_number, leaves
from glsmooth.configuration.settings import validate

__all__ = ["UNDECISIVE", "run_id"]

#: Fields that do not decide a command's result: where and how fast it runs, and where it reports to.
UNDECISIVE: dict[str, tuple[str, ...]] = {
    "train": (
        "trainer.accelerator",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.strategy",
        "trainer.num_threads",
        "trainer.progress",
        "dataset.subset",  # of the test images; training does not see them
        "dataset.subset_seed",
        "approximate",
    ),
    # approximate and stochastic permit a run, and do not change what it gives.
    "certify": ("ckpt", "batch_size", "compile", "channels_last", "dry_run", "approximate", "stochastic", "trainer.*"),
    "bounds": ("format", "plot"),
    "report": (),
}
_NEVER_DECISIVE = ("run_dir", "logger.*", "dataset.download", "dataset.num_workers")


def run_id(cfg: Any, command: str) -> str:
    """Name of a run: a digest of everything that decides its result, 12 hexadecimal digits.

    A checkpoint counts by its bytes, wherever it lies. A data set that has a name counts by that name, a
    folder of the user's own by its path.

    Raises:
        UserError: the configuration is not valid; so a mistake leaves no directory behind.
    """
    config = validate(cfg, command)
    ignored = [*_NEVER_DECISIVE, *UNDECISIVE[command]]
    if config.get("dataset", {}).get("name") not in (None, "image_folder"):
        ignored.append("dataset.root")
    fields = {
        # 1 and 1.0 are the same setting
        key: float(value) if is_number(value) else value
        for key, value in leaves(config)
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in ignored)
    }
    if "ckpt" in config:
        with open(config["ckpt"], "rb") as file:
            fields["ckpt"] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def _resolve_run_id(command: str, *, _root_: DictConfig) -> str:
    # The run directory is what is being named here, and Hydra's own node is no part of the configuration.
    keys = [str(key) for key in _root_ if key not in ("hydra", "run_dir")]
    return run_id(OmegaConf.masked_copy(_root_, keys), command)


# ${run_id:COMMAND} in hydra.run.dir; registered on import, so that jobs on other machines know it too.
OmegaConf.register_new_resolver("run_id", _resolve_run_id, replace=True)
