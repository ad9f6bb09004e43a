"""The table of docs/results.md: every row of CIFAR-10, by augmentation and by canonical form.

    python benchmarks/table.py root=DIR [key=value ...]

Keys and defaults are in ``DEFAULTS`` below. Runs ``glsmooth train`` and ``glsmooth certify`` for what is missing in
``out``, one after the other, and then prints the table of all that is there; what is not says "not run". It may be
stopped at any time, and goes on with what was stopped. ``print=true`` prints alone. Two of it may share ``out`` if
their rows differ, once the base network is trained.

Networks start from the base network (``experiment=cifar10_base``). Those of the column *augmented* are fine-tuned under
a row's laws with the consistency loss; those of *canonical* on images as they are, behind the canonical form of a row's
transformation. A network serves the rows of fewer parameters, too: ``SERVES`` says which. The column *one* has a single
network, invariant to all but gamma. Rows of one network and one set of votes differ in the region alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from glsmooth.configuration.build import build_region
from glsmooth.configuration.folder import conf_dir
from glsmooth.report import wording
from glsmooth.runs.run import Run, load_run

DEFAULTS: dict[str, Any] = {
    "root": None,  # of CIFAR-10: folders train/ and test/ of classes, or torchvision's files
    "out": "outputs/table",
    "rows": None,  # names of experiment=cifar10/NAME; null: all
    "columns": ["augmented", "canonical", "one"],
    "seeds": [0],  # of training and of votes
    "images": 500,
    "threads": None,  # of torch; null: torch's choice
    "train": [],  # more settings of every training: [optimizer.epochs=1]
    "print": False,
}
#: Rows whose votes are those of another row.
SAME = {
    "gamma_below_one": "gamma",
    "translation_all": "translation",
}
#: The row whose network another row has, where that is not its own.
SERVES = {
    "augmented": {
        "contrast": "contrast_brightness",
        "contrast_brightness_wide": "contrast_brightness",
    },
    "canonical": {
        "brightness": "contrast_brightness",
        "contrast": "contrast_brightness",
        "contrast_brightness_wide": "contrast_brightness",
        "gamma": "gamma_contrast",
        "translation": "contrast_brightness_translation",
        "brightness_translation": "contrast_brightness_translation",
        "contrast_translation": "contrast_brightness_translation",
        "gaussian_blur_4": "gaussian_blur_16",
    },
}
ONE = "translation_blur_brightness_contrast"
#: What that form does not undo.
NOT_ONE = "gamma", "gamma_contrast"
#: Settings of training, chosen on validation images: what a form moves far needs larger steps, and more of them.
STEPS = {
    ("brightness", "augmented"): ["optimizer.epochs=2"],
    ("contrast_brightness", "canonical"): ["optimizer.lr=0.05"],
    ("gamma_contrast", "canonical"): ["optimizer.lr=0.03", "optimizer.epochs=2"],
    ("gaussian_blur_16", "canonical"): ["optimizer.epochs=5"],
}
#: Votes: a network that nothing moves agrees with itself; of the others, images near the required probability get many.
SEQUENTIAL = ["monte_carlo=sequential", "monte_carlo.n0=100", "monte_carlo.n=4000"]
FEW = ["monte_carlo.n0=20", "monte_carlo.n=200"]
VOTES = {"augmented": SEQUENTIAL, "canonical": FEW, "one": FEW}
#: A row whose required probability needs more of any network.
MORE_VOTES = {"gaussian_blur_16": SEQUENTIAL}
METHODS = ("neyman_pearson", "gl", "tss", "mp", "gl_printed")


def glsmooth(command: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "glsmooth", command, *arguments])
    if done.returncode:
        sys.exit(done.returncode)


def network_of(row: str, column: str) -> tuple[str, str]:
    """The row and the column whose network a row has in a column."""
    row = SAME.get(row, row)
    return (ONE, "canonical") if column == "one" else (SERVES[column].get(row, row), column)


def columns_of(row: str, columns: Sequence[str]) -> list[str]:
    """Those of the columns that have the row."""
    return [column for column in columns if column != "one" or SAME.get(row, row) not in NOT_ONE]


def place(out: Path, command: str, row: str, column: str, seed: int) -> Path:
    column = "canonical" if row == ONE and column == "one" else column  # they are one there
    return out / command / f"{SAME.get(row, row)}-{column}-{seed}"


def training(row: str, column: str) -> list[str]:
    """What tells a network's training from that of the base network."""
    model = ["model=cifar_fast_cyclic"] if "translation" in row else []
    plain = ["loss=plain", "loss.label_smoothing=0.2", "model.canonical=auto"] if column == "canonical" else []
    return ["optimizer=fine_tune", *model, *plain, *STEPS.get((row, column), [])]


def run(cfg: Any, row: str, column: str, seed: int) -> None:
    """Train and certify, unless that is done."""
    out = Path(cfg.out)
    network = network_of(row, column)
    trained, certified = place(out, "train", *network, seed), place(out, "certify", row, column, seed)
    threads = [] if cfg.threads is None else [cfg.threads]
    train = [f"trainer.num_threads={n}" for n in threads]
    base = out / "base" / "best.ckpt"
    if not (out / "base" / "summary.json").is_file():
        glsmooth("train", "experiment=cifar10_base", f"dataset.root={cfg.root}", f"hydra.run.dir={out}/base", *train)
    images = [f"dataset.root={cfg.root}", f"dataset.subset={cfg.images}"]
    start = [f"ckpt={base}", *training(*network), *cfg.train, f"seed={seed}", *train]
    glsmooth("train", f"experiment=cifar10/{network[0]}", *images, *start, f"hydra.run.dir={trained}")
    votes = [*MORE_VOTES.get(row, VOTES[column]), "bound=all", *(f"threads={n}" for n in threads)]
    other = [] if network[0] == row else [f"experiment=cifar10/{row}"]
    glsmooth("certify", f"ckpt={trained}/best.ckpt", *other, *votes, f"seed={seed}", f"hydra.run.dir={certified}")


def cells(run: Run, row: str) -> list[str]:
    """What a run says of a row: accuracies, then CRA by each method."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        chosen = OmegaConf.to_container(compose("train", [f"experiment=cifar10/{row}"]).region, resolve=True)
    assert isinstance(chosen, dict)
    outcomes = run.evaluate(build_region(chosen, run.family.transform), METHODS)
    summary = run.summary
    shares: list[float | None] = [summary.numbers.base_accuracy, summary.numbers.smoothed_accuracy]
    for method in METHODS:
        h = outcomes[method].h_min  # not Outcome.certifies: the printed value certifies nothing
        shares.append(None if h is None else float(np.mean(run.correct & (run.p_lower > h))))
    words = ["n/a" if share is None else f"{share:.3f}" for share in shares]
    words[-1] = f"({words[-1]})"
    return [*words, f"{summary.numbers.votes_per_image:,.0f}"]


def main() -> None:
    """Run what is missing, then print the table."""
    cfg: Any = OmegaConf.merge(OmegaConf.create(DEFAULTS), OmegaConf.from_cli())
    rows = list(cfg.rows or sorted(path.stem for path in (conf_dir() / "experiment" / "cifar10").glob("*.yaml")))
    if not cfg["print"]:
        for seed in cfg.seeds:
            for row in dict.fromkeys(SAME.get(row, row) for row in rows):
                for column in columns_of(row, cfg.columns):
                    run(cfg, row, column, seed)
    heads = ["base", "smoothed", *(wording.METHODS[name] for name in METHODS[:-1]), "(printed, unsound)", "votes"]
    print(f"\n| row | network | seed | {' | '.join(heads)} |")
    print("|---|---|---:|" + "---:|" * len(heads))
    for row in rows:
        for column in columns_of(row, cfg.columns):
            for seed in cfg.seeds:
                directory = place(Path(cfg.out), "certify", row, column, seed)
                done = (directory / "summary.json").is_file()
                shown = cells(load_run(directory), row) if done else ["not run"] * len(heads)
                print(f"| `{row}` | {column} | {seed} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
