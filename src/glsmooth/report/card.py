"""The card of a trained network: README.md of a repository as Hugging Face has them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from glsmooth.configuration.build import build_region, typed_again
from glsmooth.configuration.fields import shown
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.learning.checkpoint import Checkpoint
from glsmooth.learning.own_images import CUSTOM, own_arguments
from glsmooth.learning.training import CLEAN, UNDER_LAW
from glsmooth.report import tables, wording
from glsmooth.runs.run import Run

__all__ = ["model_card"]

#: What data sets are called there.
_HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "mnist": "ylecun/mnist",
    "imagenet": "ILSVRC/imagenet-1k",
}
#: Data sets that come with the program or its dependencies: nobody has to say where they lie.
_AT_HAND = ("digits",)
_CLASSES = 20  # that are named


def model_card(
    checkpoint: Checkpoint,
    family: SmoothedFamily,
    runs: Sequence[Run],
    licence: str | None,
    versions: Mapping[str, str],
) -> str:
    """Markdown with a front matter of YAML, which repositories are searched by.

    Nothing that the checkpoint says of itself can be a command to whoever renders it.

    Args:
        family: of :meth:`glsmooth.learning.checkpoint.Checkpoint.build_family`.
        runs: certifications of this very checkpoint, whose results the card states.
        licence: its name at Hugging Face; None: that is left to whoever publishes the network.
        versions: of the programs that the network was exported with.
    """
    transform, dataset = family.name, checkpoint.dataset["name"]
    title = f"{checkpoint.model['name']} on {dataset}, for certified robustness under {transform}"
    front = yaml.safe_dump(
        _front_matter(checkpoint, runs, licence, title), sort_keys=False, allow_unicode=True, width=math.inf
    )
    parts = [f"---\n{front}---\n", f"# {tables.escaped(title)}\n", _lead(checkpoint, family)]
    if runs:
        parts.append("## Results\n")
        parts += [part for number, run in enumerate(runs, 1) for part in _result(run, number, len(runs))]
    parts.append("## The network\n")
    parts.append(tables.markdown(("what", "value"), _network(checkpoint, family, versions), numeric_from=2))
    parts += [
        "## Use it\n",
        _use(checkpoint),
        "## What a certificate means\n",
        tables.bullets(_meaning(checkpoint)),
    ]
    return "\n".join(parts)


def _front_matter(checkpoint: Checkpoint, runs: Sequence[Run], licence: str | None, title: str) -> dict[str, Any]:
    hub = _HUB.get(checkpoint.dataset["name"])
    results = [result for run in runs if (result := _searchable(run)) is not None]
    return {
        "library_name": "glsmooth",
        **({} if licence is None else {"license": licence}),
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "certified-robustness", "randomized-smoothing", "glsmooth"],
        **({} if hub is None else {"datasets": [hub]}),
        "metrics": ["accuracy"],
        **({"model-index": [{"name": title, "results": results}]} if results else {}),
    }


def _searchable(run: Run) -> dict[str, Any] | None:
    """The result of a run as model-index has it, in shares rounded down; None where no method proves anything."""
    best = tables.primary(run.outcomes)
    if best is None:
        return None
    base = tables.count(run.columns["base_prediction"] == run.columns["label"])
    where = wording.region(run.region)
    return {
        "task": {"type": "image-classification"},
        "dataset": {"type": _HUB.get(run.name, run.name), "name": run.name, "split": run.split},
        "metrics": [
            {
                "type": "certified_robust_accuracy",
                "name": f"certified robust accuracy under every {where} ({run.images} images)",
                "value": wording.share(tables.robust_count(run, best), run.images),
            },
            {"type": "accuracy", "name": "accuracy of the base classifier", "value": wording.share(base, run.images)},
        ],
    }


def _lead(checkpoint: Checkpoint, family: SmoothedFamily) -> str:
    where = wording.region(build_region(checkpoint.region, family.transform, family.threat))
    sentences = (
        f"A classifier of images into {len(checkpoint.classes)} classes, trained under smoothing laws: noise in the "
        "parameters of a transformation. By itself it is an ordinary network. Smoothed, that is by majority vote over "
        f"random parameters, its answer on an image can be proved to stay the same under every {where}, the region "
        "that it was trained for, wherever the vote is clear enough: not only under the parameters that somebody "
        "tried. glsmooth proves it, image by image."
    )
    return tables.escaped(sentences) + "\n"


def _result(run: Run, number: int, of: int) -> list[str]:
    """One certification: the headline, the numbers of its report, what was done, and what must hold."""
    region, outcomes = run.region, run.outcomes
    kept = ("seed", "precision", "hardware", "versions")  # what is about this machine alone is nobody's business
    rows = [*tables.settings(run, region, outcomes), *(row for row in tables.provenance(run) if row[0] in kept)]
    heading = f"{run.family.name} on {run.name}" + (f" ({number} of {of})" if of > 1 else "")
    notes = tables.method_notes(run, outcomes)
    return [
        f"### {tables.escaped(heading)}\n",
        tables.escaped(tables.headline(run, region, outcomes)) + "\n",
        tables.markdown(tables.METHOD_HEADER, tables.method_rows(run, outcomes)),
        *([tables.bullets(notes)] if notes else []),
        tables.MEANING,
        tables.markdown(("without transformation", "images", "share"), tables.accuracy_rows(run)),
        tables.markdown(("setting", "value"), rows, numeric_from=2),
        "What the certificates assume:\n",
        tables.bullets(tables.assumptions(run, outcomes)),
    ]


def _network(checkpoint: Checkpoint, family: SmoothedFamily, versions: Mapping[str, str]) -> list[tuple[str, str]]:
    """(what, value), each in a line."""
    model, classes = checkpoint.model, checkpoint.classes
    height, width = checkpoint.image_size
    named = ", ".join(classes[:_CLASSES]) + (", …" if len(classes) > _CLASSES else "")
    rows = [
        ("data", checkpoint.dataset["name"]),
        ("classes", f"{len(classes)}, in the order of the outputs: {named}"),
        ("images", f"{len(checkpoint.mean)} × {height} × {width} (channels, height, width), pixels in [0, 1]"),
        (
            "transformation",
            ", ".join(filter(None, (family.name, _in_words(_said(checkpoint.transform, "_target_"))))),
        ),
        ("smoothing laws", wording.laws(checkpoint.smoothing)),
        ("region", wording.region(build_region(checkpoint.region, family.transform, family.threat))),
        ("architecture", tables.network({**model, "mean": None, "std": None}) + _library(model)),
        ("parameters and buffers", f"{sum(tensor.numel() for tensor in checkpoint.state_dict.values()):,}"),
        ("normalisation", f"{tables.normalisation(checkpoint.mean, checkpoint.std)}: the first layer of the network"),
        ("precision", checkpoint.precision),
        ("loss", _in_words(checkpoint.loss)),
        ("optimizer", _in_words(checkpoint.optimizer)),
        ("seed of the training", str(checkpoint.seed)),
    ]
    for key, what in ((CLEAN, "validation accuracy"), (UNDER_LAW, "validation accuracy under the smoothing laws")):
        if 0 <= checkpoint.metrics.get(key, -1) <= 1:
            rows.append((what, f"{wording.floor(100 * checkpoint.metrics[key], 1)} %"))
    rows.append(("made from a checkpoint with the SHA-256", checkpoint.sha256))
    rows.append(("exported with", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return rows


def _library(model: Mapping[str, Any]) -> str:
    if model.get("_target_"):
        return f", made by the function {model['_target_']}"
    return f" of {model['library']}" if model.get("library") else ""


def _use(checkpoint: Checkpoint) -> str:
    """How to certify the network, and how to get its answers."""
    groups = checkpoint.transform, checkpoint.smoothing, checkpoint.model
    typed = typed_again(*groups, checkpoint.dataset)
    images = [] if checkpoint.dataset["name"] in (*_AT_HAND, CUSTOM) else ["dataset.root=IMAGES"]
    arguments = own_arguments(checkpoint.dataset) if checkpoint.dataset.get("_target_") else {}
    images += [f"+dataset.{key}=VALUE" for key in arguments]  # values may be paths of the machine that trained
    certify = " ".join(["glsmooth certify ckpt=DIR", *map(shlex.quote, [*images, *typed])])
    predict = " ".join(["glsmooth predict ckpt=DIR images=PHOTOS", *map(shlex.quote, typed_again(*groups))])
    lines = ["```", "hf download USER/REPOSITORY --local-dir DIR", certify, predict, "```\n"]
    words = (
        "The folder is a checkpoint: whatever takes ckpt= reads it. Nothing in it is run: config.json is plain JSON, "
        "the weights are safetensors."
    )
    if typed:
        words += (
            " What _target_ names is code of its authors, which is not in this folder and is imported only because you "
            "type it: read it before you do."
        )
    return "\n".join(lines) + f"\n{tables.escaped(words)}\n"


def _meaning(checkpoint: Checkpoint) -> list[str]:
    return [
        "A certificate is about one image and the smoothed classifier: the majority vote of this network over the "
        "smoothing laws, not a single pass through it.",
        "It holds except with a small probability, over the draws of the votes, that is set before they are taken. "
        "Another seed draws other votes, and a few images change sides; to try seeds and keep the best would void the "
        "probability.",
        "Results are about the images that were certified. Other images need certificates of their own, and an answer "
        "that is certified to stay can still be a wrong one.",
        f"The network is the one that computes in {checkpoint.precision}; in another precision it is another "
        "classifier, which must be certified anew.",
        "The transformation is the mathematical one: transformed images are not clipped to [0, 1], not rounded, and "
        "shifts are cyclic.",
    ]


def _said(fields: Mapping[str, Any], but: str = "") -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None and key != but}


def _in_words(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value if isinstance(value, str) else shown(value)}" for key, value in fields.items())
