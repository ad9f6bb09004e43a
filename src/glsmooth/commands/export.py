"""``glsmooth export``: a trained network as a folder that can be shared, with a card that says what it is."""

from __future__ import annotations

from glsmooth.commands import plain_matplotlib  # noqa: F401 - before Lightning

# isort: split
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path

from omegaconf import DictConfig
from torch import nn

from glsmooth.commands.mains import export as main
from glsmooth.commands.predict import typed_transform
from glsmooth.configuration.build import law_targets
from glsmooth.configuration.exported import ABOUT, CARD, WEIGHTS
from glsmooth.configuration.fields import cut
from glsmooth.configuration.plain import plain
from glsmooth.errors import UserError
from glsmooth.learning.checkpoint import Checkpoint, is_export, load_checkpoint, write_exported
from glsmooth.report.card import model_card
from glsmooth.runs.files import new_folder, write_text
from glsmooth.runs.run import Run, load_run
from glsmooth.runs.summary import Summary

__all__ = ["main", "run"]


def run(cfg: DictConfig) -> None:
    """Write the folder that ``cfg`` asks for: config.json, model.safetensors and README.md, all of them or none."""
    settings = plain(cfg)
    checkpoint = load_checkpoint(settings["ckpt"])
    target = typed_transform(settings, checkpoint)
    laws = law_targets(settings.get("smoothing", {}))
    family = checkpoint.build_family(target, laws)
    model = checkpoint.build_model(settings["model"]["_target_"])
    runs = [_certified(path, checkpoint, target, laws) for path in settings["runs"]]
    versions = {name: version(name) for name in ("glsmooth", "torch", "torchvision", "timm")}
    card = model_card(checkpoint, family, runs, settings["license"], versions)
    out = Path(settings["run_dir"]).resolve()
    if any(out.iterdir()):
        _require_same(out, checkpoint, model)
        write_text(out / CARD, card)
        print(f"{out} holds this network already; its {CARD} is written anew.")
        return
    with new_folder(out) as folder:
        write_exported(checkpoint, model, folder)
        write_text(folder / CARD, card)
    print(f"Exported to {out}: {WEIGHTS}, {ABOUT} and {CARD}, the card: read it, and say there what only you know.")
    print(f"Certify it with: {checkpoint.certify_with(out)}")


def _certified(path: str, checkpoint: Checkpoint, transform_target: str | None, laws: Collection[str]) -> Run:
    """A finished certification of this very checkpoint.

    Raises:
        UserError: it is none, or one of another network, or a part of one.
    """
    # Before what a run of another network would want typed.
    digest = (Summary.read(Path(path)).checkpoint or {}).get("sha256")
    if digest != checkpoint.sha256:
        raise UserError(
            f"runs: {path} was certified with another checkpoint (SHA-256 {cut(str(digest))}, not "
            f"{checkpoint.sha256}); leave it out, or certify this one"
        )
    found = load_run(path, transform_target=transform_target, law_targets=laws)
    if found.summary.shard:
        raise UserError(
            f"runs: {path} is shard {found.summary.shard} of a certification; put the shards together with glsmooth "
            "report, and name the folder that it writes"
        )
    return found


def _require_same(out: Path, checkpoint: Checkpoint, model: nn.Module) -> None:
    """Refuse a folder that is in use, unless it is an export of this network: then only the card may change.

    Raises:
        UserError: it holds something else.
    """
    fix = "name a folder that is empty or not there yet"
    if not all((out / name).exists() for name in (ABOUT, WEIGHTS)):
        raise UserError(f"out={out}: holds other files; {fix}")
    if not is_export(load_checkpoint(out), checkpoint, model):
        raise UserError(f"out={out}: holds another network; {fix}")
