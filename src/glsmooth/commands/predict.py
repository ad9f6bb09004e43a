"""``glsmooth predict``: the class that the smoothed classifier gives to image files, or none."""

from __future__ import annotations

from glsmooth.commands import plain_matplotlib  # noqa: F401 - before Lightning

# isort: split
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from glsmooth.bounds.confidence import clopper_pearson_lower, clopper_pearson_upper
from glsmooth.commands.certify import meant_precision
from glsmooth.commands.mains import predict as main
from glsmooth.configuration.build import law_targets
from glsmooth.configuration.plain import plain
from glsmooth.errors import UserError, keyed, visible
from glsmooth.learning.certification import Options
from glsmooth.learning.checkpoint import Checkpoint, load_checkpoint
from glsmooth.learning.data import FolderImages, image_files
from glsmooth.learning.trainer import one_device, progress_bar, quieten_lightning
from glsmooth.report import tables, wording
from glsmooth.runs.files import write_config, write_text
from glsmooth.smoothing import ABSTAIN, class_of
from glsmooth.voting.engine import VoteEngine
from glsmooth.voting.procedures import FixedSample
from glsmooth.voting.speed import AUTO
from glsmooth.voting.tuning import choose_speed

__all__ = ["interval", "main", "run", "typed_transform"]

RESULT_FILE = "predictions.csv"
_HEADER = ("index", "image", "prediction", "class", "most_voted", "votes", "n", "p_lower", "p_upper")


def run(cfg: DictConfig) -> None:
    """Write predictions.csv and print it in the form that ``cfg`` asks for."""
    quieten_lightning()
    settings = plain(cfg)
    checkpoint = load_checkpoint(settings["ckpt"])
    with keyed({"root": "images"}):
        images = image_files(
            Path(settings["images"]).expanduser(),
            checkpoint.dataset["name"],
            (checkpoint.image_size[0], checkpoint.image_size[1]),
            len(checkpoint.mean),
        )
        counts = _votes(checkpoint, settings, images)
    rows = _rows(images, checkpoint.classes, counts, settings["n"], settings["alpha"])
    directory = Path(settings["run_dir"])
    write_config(directory, settings)
    written = tables.comma_separated(_HEADER, rows)
    write_text(directory / RESULT_FILE, written)
    form = settings["format"]
    if form == "table":
        print(table(rows, settings["alpha"]))
    else:
        sys.stdout.write(written if form == "csv" else tables.json_rows(_HEADER, rows))


def interval(votes: NDArray[np.int64], n: int, alpha: float) -> tuple[float, float]:
    """Clopper-Pearson interval of the probability of the class with the most of ``n`` votes, at level ``alpha``.

    The same votes say which class that is. So ``alpha`` is shared by all classes: the interval of each of them holds
    at once, except with that probability, and therefore that of the one that happens to lead.
    """
    count, tail = int(votes.max()), alpha / 2 / len(votes)
    return clopper_pearson_lower(count, n, tail), clopper_pearson_upper(count, n, tail)


def _votes(checkpoint: Checkpoint, settings: dict[str, Any], images: FolderImages) -> list[NDArray[np.int64]]:
    """Votes for each class, an array an image."""
    family = checkpoint.build_family(typed_transform(settings, checkpoint), law_targets(settings.get("smoothing", {})))
    device = one_device(settings, "predict")
    options = Options.of({**settings, "precision": meant_precision(settings["precision"], checkpoint)})
    # All votes select; the one counting draw is not used.
    procedure = FixedSample(n0=settings["n"], n=1, alpha=settings["alpha"])
    classifier = options.classifier(
        checkpoint.build_model(settings["model"]["_target_"]), len(checkpoint.classes), device
    )
    first = images[0][0]
    chosen = choose_speed(options.speed, classifier, family, procedure, first, len(images), show=True)

    def smaller(size: int) -> None:
        print(f"Out of memory: batches of {size} from here on", file=sys.stderr)

    engine = VoteEngine(
        classifier,
        family,
        procedure,
        seed=options.seed,
        batch_size=int(chosen.speed.batch_size),
        images=len(images),
        on_smaller=smaller if options.speed.batch_size == AUTO else None,
    )
    counts = {}
    with progress_bar("Predicting", "image", len(images), 0, show=True) as bar:
        for tally in engine.run((i, images[i][0]) for i in range(len(images))):
            counts[tally.index] = tally.selection
            bar.update()
    return [counts[i] for i in range(len(images))]


def typed_transform(settings: Mapping[str, Any], checkpoint: Checkpoint) -> str | None:
    """The class of the user's own that the command line permits; another than the network's is a mistake."""
    for key, value in settings["transform"].items():
        trained = checkpoint.transform.get(key)
        if value not in (None, trained):
            raise UserError(f"transform.{key}={value}: the network was trained for {trained}; leave transform out")
    for key, value in settings["model"].items():
        if value is not None and key != "_target_":
            raise UserError(f"model.{key}={value}: the network is the checkpoint's; leave it out")
    typed: str | None = settings["transform"].get("_target_")
    return typed


def _rows(
    images: FolderImages, classes: Sequence[str], counts: Sequence[NDArray[np.int64]], n: int, alpha: float
) -> list[list[Any]]:
    """A row an image; prediction -1 and no class where the classifier abstains."""
    rows = []
    for index, (name, votes) in enumerate(zip(images.names(), counts, strict=True)):
        predicted, leader = class_of(votes, alpha), int(votes.argmax()) if votes.any() else ABSTAIN
        called, leading = (None if i == ABSTAIN else visible(str(classes[i])) for i in (predicted, leader))
        low, high = interval(votes, n, alpha)
        rows.append([index, visible(name), predicted, called, leading, int(votes.max()), n, low, high])
    return rows


def table(rows: Sequence[Sequence[Any]], alpha: float) -> str:
    """The result as Markdown, for people."""
    shown = []
    for _, name, _, called, leading, votes, n, low, high in rows:
        words = called or ("abstains" if leading is None else f"abstains (most votes: {leading})")
        shown.append([name, words, f"{votes} of {n}", f"{wording.floor(low, 4)} to {wording.ceil(high, 4)}"])
    return (
        tables.markdown(("image", "class", "votes", "probability"), shown, numeric_from=2)
        + "\nThe class is the smoothed classifier's, and the probability, under its smoothing laws, of the class with "
        + f"the most votes lies in the interval: each except with probability at most {wording.probability(alpha)} for "
        + "each image."
    )
