"""Files of strangers, changed at random: the second part of ``make stress``, or ``python -m tests.fuzz --help``.

Every reader of the package gets valid files, changed in structure (a value replaced by a nasty one, a name dropped,
renamed or nested) or in bytes (flipped, cut, inserted, repeated), or replaced by a link, a pipe or a folder. Whatever
they hold, a reader ends within :data:`LIMIT` seconds, with a result or with a UserError that can be printed; it imports
nothing that they name, changes nothing outside its own directory, and its memory stays bounded.

Each case runs in a process of its own kind, which is replaced when it hangs, dies or grows.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import itertools
import json
import math
import multiprocessing
import os
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from PIL import Image

from glsmooth.bounds import evaluate
from glsmooth.commands.bounds import as_json, sweep_table
from glsmooth.configuration.build import build_family
from glsmooth.errors import UserError, visible
from glsmooth.family.regions import Box
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.laws import Normal
from glsmooth.learning.checkpoint import KEY, load_checkpoint, make_payload, write_exported
from glsmooth.learning.data import load_dataset
from glsmooth.learning.models import build_model
from glsmooth.report import page, published, tables
from glsmooth.report.card import model_card
from glsmooth.runs.records import COLUMNS, Images, Records
from glsmooth.runs.run import load_run
from glsmooth.runs.summary import Numbers, Summary
from glsmooth.transforms import Brightness
from glsmooth.voting.procedures import build_procedure
from tests.report.test_page import make_run
from tests.report.test_published import RUNS

LIMIT = 30.0  # seconds of one case
GROWTH = 2**30  # bytes that the process may grow by
SPACE = 4 * 2**30  # bytes of address space beyond those of the start: what asks for more is refused by the system
MESSAGE = 2000  # characters

EVIL = "from pathlib import Path\nPath({trace!r}).touch()\n\n\nclass X:\n    pass\n"


# -------------------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True)
class Raw:
    """Text of a JSON file that no value is written as."""

    text: str


#: Values by a short name, so that a finding can be read.
NASTY: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "empty text": "",
    "x": "x",
    "0": 0,
    "1": 1,
    "-1": -1,
    "0.5": 0.5,
    "-0.5": -0.5,
    "2": 2,
    "2^31": 2**31,
    "2^53": 2**53,
    "2^63": 2**63,
    "2^64": 2**64,
    "10^400": 10**400,
    "1e308": 1e308,
    "5e-324": 5e-324,
    "1e9": 1e9,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "[]": [],
    "{}": {},
    "[[]]": [[]],
    "[1, 2]": [1, 2],
    "[2, 1]": [2, 1],
    "[1, 1]": [1, 1],
    "[4096, 4096]": [4096, 4096],
    "[-1e9, 1e9]": [-1e9, 1e9],
    "exhaustive": "exhaustive",
    "sequential": "sequential",
    "UniformCyclic": "UniformCyclic",
    "built in": "glsmooth.transforms.ContrastBrightness",
    "[nan, nan]": [math.nan, math.nan],
    "[1e308, 1e308]": [-1e308, 1e308],
    "['x']": ["x"],
    "[null]": [None],
    "{'x': 1}": {"x": 1},
    "{'_target_': evil}": {"_target_": "evil.X"},
    "{'a.b': 1}": {"a.b": 1},
    "evil.X": "evil.X",
    "evil": "evil",
    "../../outside/secret": "../../outside/secret",
    "/dev/zero": "/dev/zero",
    "long text": "y" * 100_000,
    "many": [0] * 100_000,
    "surrogate": "\ud800",
    "nul": "\0",
    "terminal": "\x1b]0;title\x07\x1b[2J",
    "turned": "\u202etxet",
    "lines": "a\nb\r| c |",
    "mathtext": "$\\frac{$",
    "html": "<script>alert(1)</script>",
    "1e400": Raw("1e400"),
    "5000 digits": Raw("9" * 5000),
    "deep list": Raw("[" * 100_000 + "]" * 100_000),
    "deep object": Raw('{"a":' * 100_000 + "1" + "}" * 100_000),
    "half deep": Raw("[" * 600 + "]" * 600),
    "twice": Raw('{"a": 1, "a": {}}'),
}


# --------------------------------------------------------------------------------------------------------------- edits


@dataclass(frozen=True)
class Edit:
    """A change of one file.

    ``what`` is set, drop, rename or nest (of the place ``path``, whose numbers count as many names as there are in
    every level), or flip, cut, insert, repeat (of the bytes at the shares ``path`` of the length), or the kind of thing
    that the file is replaced by.
    """

    file: int
    what: str
    path: tuple[int, ...] = ()
    value: str = "x"
    data: bytes = b""


STRUCTURE = ("set", "set", "set", "set", "drop", "rename", "nest")
BYTES = ("flip", "cut", "insert", "repeat")
KINDS = ("link", "zero", "pipe", "folder", "nothing", "dangling")

_paths = st.lists(st.integers(0, 40), min_size=1, max_size=4).map(tuple)
_structural = st.builds(
    Edit, st.integers(0, 5), st.sampled_from(STRUCTURE), _paths, st.sampled_from(sorted(NASTY))
)  # fmt: skip
_bytewise = st.builds(
    Edit,
    st.integers(0, 5),
    st.sampled_from(BYTES),
    st.tuples(st.integers(0, 9999), st.integers(0, 9999)),
    data=st.one_of(
        st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff\xff\xff\x7f", b"\0", b"9" * 400, b"\x1b"])
    ),
)


def edits(kinds: Sequence[str] = KINDS) -> st.SearchStrategy[list[Edit]]:
    """One to three changes; ``kinds``: what a file may be replaced by."""
    special = st.builds(Edit, st.integers(0, 5), st.sampled_from(kinds))
    return st.one_of(
        st.lists(_structural, min_size=1, max_size=3),
        st.lists(_structural, min_size=1, max_size=1),
        st.lists(_bytewise, min_size=1, max_size=3),
        st.lists(special, min_size=1, max_size=1),
    )


def _place(document: Any, path: tuple[int, ...]) -> tuple[Any, Any]:
    """The container and the key of a place; None where the document holds nothing."""
    container, key = None, None
    for number in path:
        if not isinstance(document, (dict, list)) or not document:
            break
        container = document
        key = list(document)[number % len(document)] if isinstance(document, dict) else number % len(document)
        document = document[key]
    return container, key


def _apply(document: Any, edit: Edit) -> Any:
    container, key = _place(document, edit.path)
    if container is None:
        return NASTY[edit.value]
    if edit.what == "set":
        container[key] = copy.deepcopy(NASTY[edit.value])
    elif edit.what == "nest":
        container[key] = [container[key]] if edit.path[0] % 2 else {"x": container[key]}
    elif edit.what == "drop" or isinstance(container, list):
        del container[key]
    else:
        new = NASTY[edit.value]
        container[new if isinstance(new, str) else edit.value] = container.pop(key)
    return document


def _corrupt(content: bytes, edit: Edit) -> bytes:
    start, end = sorted(share * len(content) // 10_000 for share in edit.path)
    if edit.what == "flip":
        return content[:start] + edit.data[: len(content) - start] + content[start + len(edit.data) :]
    if edit.what == "cut":
        return content[:start] + (content[end:] if edit.data[0] % 2 else b"")
    if edit.what == "insert":
        return content[:start] + edit.data + content[start:]
    return content[:end] + content[start:end] + content[end:]


def _replace(file: Path, kind: str, sandbox: Path) -> None:
    file.unlink()
    if kind == "link":
        file.symlink_to(sandbox / "outside" / "secret")
    elif kind == "zero":
        file.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "dangling":
        file.symlink_to(sandbox / "outside" / "new")


# ------------------------------------------------------------------------------------------------------------- formats


@dataclass(frozen=True)
class Format:
    """How a file becomes a document of dictionaries and lists, and back."""

    load: Callable[[bytes], Any]
    dump: Callable[[Any], bytes]


def _dump_json(document: Any) -> bytes:
    raw: list[str] = []

    def mark(value: Any) -> Any:
        if isinstance(value, Raw):
            raw.append(value.text)
            return f"@raw{len(raw) - 1}@"
        if isinstance(value, dict):
            return {mark(key): mark(item) for key, item in value.items()}
        return [mark(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(mark(document))
    for i, part in enumerate(raw):
        text = text.replace(f'"@raw{i}@"', part)
    return text.encode()


def _load_csv(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


def _dump_csv(document: Any) -> bytes:
    def cell(value: Any) -> str:
        return value.text[:200_000] if isinstance(value, Raw) else str(value)

    rows = document if isinstance(document, list) else [[document]]
    text = "\n".join(",".join(map(cell, row)) if isinstance(row, list) else cell(row) for row in rows)
    return f"{text}\n".encode(errors="surrogatepass")


def _storable(value: Any) -> Any:
    """What torch.save can write of a value."""
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value.text[:100] if isinstance(value, Raw) else value


def _dump_torch(document: Any) -> bytes:
    file = io.BytesIO()
    torch.save(_storable(document), file)
    return file.getvalue()


def _load_safetensors(content: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", content[:8])
    return {"header": json.loads(content[8 : 8 + length]), "body": content[8 + length :]}


def _dump_safetensors(document: Any) -> bytes:
    document = document if isinstance(document, dict) else {"header": document}
    body = document.get("body")
    header = _dump_json(document.get("header"))
    return struct.pack("<Q", len(header)) + header + (body if isinstance(body, bytes) else b"")


def _load_npz(content: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(content)) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _dump_npz(document: Any) -> bytes:
    file = io.BytesIO()
    document = document if isinstance(document, dict) else {"index": document}
    arrays = {}
    for name, value in document.items():
        value = value.text if isinstance(value, Raw) else value
        try:
            arrays[name.replace("\0", "0")[:100] or "empty"] = np.asarray(value)
        except (ValueError, OverflowError):
            arrays[name] = np.array([value, None], dtype=object)
    np.savez(file, **arrays)
    return file.getvalue()


def _bytes_only(content: bytes) -> bytes:
    return content


FORMATS = {
    ".json": Format(json.loads, _dump_json),
    ".csv": Format(_load_csv, _dump_csv),
    ".ckpt": Format(lambda content: torch.load(io.BytesIO(content), weights_only=True), _dump_torch),
    ".pt": Format(lambda content: torch.load(io.BytesIO(content), weights_only=True), _dump_torch),
    ".safetensors": Format(_load_safetensors, _dump_safetensors),
    ".npz": Format(_load_npz, _dump_npz),
}


# ------------------------------------------------------------------------------------------------------------- readers


@dataclass(frozen=True)
class Reader:
    """What makes valid files in a folder, which of them are changed, and what reads them: it returns what it says."""

    build: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path], str]


def _digits_checkpoint() -> dict[str, Any]:
    data = load_dataset({"name": "digits"})
    settings = {
        "transform": {"_target_": "glsmooth.transforms.Contrast"},
        "smoothing": {"contrast": {"law": "LogNormal", "loc": 0.0, "scale": 0.3}},
        "region": {"contrast": [0.9, 1.1]},
        "dataset": {"name": "digits", "root": None, "image_size": None, "num_workers": 0, "subset": None},
        "model": {"name": "small_cnn", "pretrained": None, "weights": None},
        "loss": {"copies": 2, "consistency": 0.0, "entropy": 0.0, "pixel_noise": 0.0},
        "optimizer": {},
        "trainer": {"precision": "32-true"},
        "seed": 0,
    }
    torch.manual_seed(0)
    model = build_model(settings["model"], 10, 1, data.mean, data.std, data.image_size)
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    return {KEY: {**make_payload(settings, data), "metrics": {"cra": 0.5}}, "state_dict": state, "epoch": 3}


def _build_checkpoint(folder: Path) -> None:
    torch.save(_digits_checkpoint(), folder / "best.ckpt")


def _read_checkpoint(folder: Path) -> str:
    checkpoint = load_checkpoint(folder / "best.ckpt")
    checkpoint.build_family()
    checkpoint.build_model()
    return ""


def _build_exported(folder: Path) -> None:
    torch.save(_digits_checkpoint(), folder / "best.ckpt")
    checkpoint = load_checkpoint(folder / "best.ckpt")
    (folder / "best.ckpt").unlink()
    write_exported(checkpoint, checkpoint.build_model(), folder)


def _read_exported(folder: Path) -> str:
    checkpoint = load_checkpoint(folder)
    family = checkpoint.build_family()
    checkpoint.build_model()
    return model_card(checkpoint, family, [], None, {})


def _build_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    model = build_model({"name": "small_cnn"}, 10, 1, [0.5], [0.5], (8, 8))
    state = dict(model.state_dict())
    torch.save({"state_dict": state}, folder / "weights.pt")
    save_file(state, folder / "weights.safetensors")


def _read_weights(folder: Path) -> str:
    refused = None
    for name in ("weights.pt", "weights.safetensors"):
        try:
            build_model({"name": "small_cnn", "weights": folder / name}, 10, 1, [0.5], [0.5], (8, 8))
        except UserError as error:
            refused = error
    if refused is not None:
        raise refused
    return ""


def _build_run(folder: Path) -> None:
    make_run(folder, dataset={"name": "image_folder", "root": "images", "image_size": [8, 8], "subset": None})
    for name in ("table.md", "report.html", "threshold.svg", "cra_region.png"):
        (folder / name).symlink_to(folder.parents[1] / "outside" / name)


def _build_torus(folder: Path) -> None:
    """A run whose shifts were visited one after the other."""
    laws = {name: {"law": "Normal", "loc": 0.0, "scale": 2.0} for name in ("tx", "ty")}
    transform, ends = {"_target_": "glsmooth.transforms.Translation"}, {"tx": [-1, 1], "ty": [-1, 1]}
    family = build_family(transform, laws, (8, 8))
    outcomes = evaluate(family, Box(**ends), ["neyman_pearson", "gl"])
    procedure = build_procedure({"name": "exhaustive"}, outcomes, family)
    rows = [(index, 1, 1, 0, n, n, procedure.bound_range(n, n)[0], 1, 0, 0, 0) for index, n in enumerate((1, 30, 64))]
    certified = [[int(outcome.certifies(row[6])) for outcome in outcomes.values()] for row in rows]
    header = [*COLUMNS, *(f"certified_{name}" for name in outcomes)]
    lines = [header, *([*row, *flags] for row, flags in zip(rows, certified, strict=True))]
    (folder / "records.csv").write_text("\n".join(",".join(map(str, line)) for line in lines) + "\n")
    monte_carlo, dataset = procedure.describe(), {"name": "digits", "root": "data", "image_size": [8, 8]}
    Summary(transform, laws, ends, dataset, monte_carlo, outcomes, Numbers(3), image_size=(8, 8)).write(folder)


def _read_run(folder: Path) -> str:
    run = load_run(folder)
    return tables.run_table(run, run.region, run.outcomes)


def _read_report(folder: Path) -> str:
    page.write_report(folder)
    return (folder / "table.md").read_text()


def _build_votes(folder: Path) -> None:
    (folder / "votes.json").write_text(json.dumps(RUNS))


def _read_votes(folder: Path) -> str:
    return published.votes_table(published.load_votes(folder / "votes.json"), ["neyman_pearson", "gl", "tss", "mp"])


IDENTITY = {"seed": 0, "monte_carlo.n": 1000, "transform._target_": "glsmooth.transforms.Brightness"}
IMAGES = Images(["a/0.png", "b/0.png"], {0: "0" * 64, 1: "1" * 64})


def _build_records(folder: Path) -> None:
    Records(folder, IDENTITY, ("index", "label", "p_lower"), IMAGES).close()
    (folder / "records.csv").write_text("index,label,p_lower\n0,1,0.5\n1,0,0.75\n")


def _read_records(folder: Path) -> str:
    refused = []
    for images in (IMAGES, Images(["a/0.png"], {0: "2" * 64})):
        try:
            Records(folder, IDENTITY, ("index", "label", "p_lower"), images).close()
        except UserError as error:
            refused.append(error)
    if len(refused) == 2:
        raise max(refused, key=lambda error: len(str(error)))
    assert refused, "other images were taken for those of the records"
    return visible(str(refused[0]))


def _build_sweep(folder: Path) -> None:
    family = SmoothedFamily(Brightness(), {"brightness": Normal(0.0, 0.5)})
    region = Box(brightness=(-0.1, 0.1))
    content = as_json(family, region, evaluate(family, region, ["neyman_pearson", "gl", "mp"]), 1e-3)
    for name in ("0", "1"):
        (folder / name).mkdir()
        (folder / name / "bounds.json").write_text(json.dumps(content))


_SUFFIXES = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "TIFF": "tif", "BMP": "bmp", "WEBP": "webp", "PPM": "ppm"}


def _build_images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for kind, suffix in _SUFFIXES.items():
                if part == "test" or kind == "PNG":
                    Image.fromarray(pixels).save(folder / part / name / f"0.{suffix}", kind)


def _read_images(folder: Path) -> str:
    test = load_dataset({"name": "image_folder", "root": folder, "image_size": [8, 8]}).test
    for i in range(len(test)):  # type: ignore[arg-type]
        test[i]
    return ""


def _build_mnist(folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        pixels = struct.pack(">IIII", 0x803, count, 28, 28) + bytes(count * 28 * 28)
        labels = struct.pack(">II", 0x801, count) + bytes(i % 10 for i in range(count))
        for name, content in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", labels)):
            (raw / name).write_bytes(content)
            (raw / f"{name}.gz").write_bytes(b"")


def _read_mnist(folder: Path) -> str:
    data = load_dataset({"name": "mnist", "root": folder, "val_fraction": 0.25})
    for part in (data.train, data.test):
        part[0], part[len(part) - 1]  # type: ignore[arg-type]
    return ""


_MNIST = tuple(
    f"MNIST/raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)

READERS = {
    "run": Reader(_build_run, ("summary.json", "records.csv"), _read_run),
    "torus": Reader(_build_torus, ("summary.json", "records.csv"), _read_run),
    "report": Reader(_build_run, ("summary.json", "records.csv"), _read_report),
    "votes": Reader(_build_votes, ("votes.json",), _read_votes),
    "records": Reader(_build_records, ("identity.json", "images.json", "records.csv"), _read_records),
    "sweep": Reader(_build_sweep, ("1/bounds.json",), sweep_table),
    "figure": Reader(_build_run, ("figure1.npz",), _read_report),
    "checkpoint": Reader(_build_checkpoint, ("best.ckpt",), _read_checkpoint),
    "exported": Reader(_build_exported, ("config.json", "model.safetensors"), _read_exported),
    "weights": Reader(_build_weights, ("weights.pt", "weights.safetensors"), _read_weights),
    "images": Reader(_build_images, tuple(f"test/a/0.{suffix}" for suffix in _SUFFIXES.values()), _read_images),
    "mnist": Reader(_build_mnist, _MNIST, _read_mnist),
}


# ------------------------------------------------------------------------------------------------------------- judging


@dataclass
class Finding:
    """What a reader did that it must not do."""

    reader: str
    what: str
    edits: list[Edit]
    detail: str = ""
    where: str = ""

    @property
    def kind(self) -> tuple[str, str]:
        """By which findings count as one: the exception and its place, or the words without their numbers."""
        what = self.what.partition(":")[0] if self.where else "".join(c for c in self.what if not c.isdigit())
        return self.reader, f"{what} {self.where}"

    def __str__(self) -> str:
        changes = "\n  ".join(map(repr, self.edits))
        return f"{self.reader}: {self.what}\n  {changes}\n{self.detail}"


@dataclass
class Fuzzer:
    """A sandbox with valid files of each reader, a trap, and what must not change; and the process that reads."""

    sandbox: Path
    cases: int = 0
    accepted: int = 0
    _worker: Any = None
    _pipe: Any = None

    def __post_init__(self) -> None:
        for name in ("outside", "work", "base", "case"):
            (self.sandbox / name).mkdir(parents=True)
        (self.sandbox / "outside" / "secret").write_text("secret")
        (self.sandbox / "outside" / "table.md").write_text("mine")
        (self.sandbox / "work" / "evil.py").write_text(EVIL.format(trace=str(self.sandbox / "outside" / "sprung")))

    def prepare(self, name: str, changes: list[Edit]) -> Path:
        """A folder with a reader's files, changed."""
        reader = READERS[name]
        base, case = self.sandbox / "base" / name, self.sandbox / "case" / name
        if not base.exists():
            base.mkdir()
            reader.build(base)
        shutil.rmtree(case, ignore_errors=True)
        shutil.copytree(base, case, symlinks=True)
        for change in changes:
            self._change(case / reader.files[change.file % len(reader.files)], change)
        return case

    def judge(self, name: str, changes: list[Edit]) -> Finding | None:
        """Change the files of a reader and have them read."""
        case = self.prepare(name, changes)
        before = self._state()
        started = time.monotonic()
        said = self._ask(name, case)
        seconds = time.monotonic() - started
        self.cases += 1
        self.accepted += "text" in said
        what = detail = ""
        if self._state() != before:
            what = f"changed {sorted(set(self._state().items()) ^ set(before.items()))}"
            (self.sandbox / "outside" / "sprung").unlink(missing_ok=True)
        elif "died" in said or seconds > LIMIT:
            what = said.get("died", f"took {seconds:.0f} s")
        elif "crash" in said:
            what, detail = said["crash"].strip().splitlines()[-1][:300], said["crash"][-3000:]
        elif said["imported"]:
            what = f"imported {said['imported']}"
        elif said["grown"] > GROWTH:
            what = f"grew by {said['grown'] / 2**20:.0f} MiB"
            self.stop()
        elif "message" in said and not _fit(said["message"]):
            what, detail = "the message is long or cannot be printed", repr(said["message"][:300])
        elif not _printable(said.get("text", "")):
            what, detail = "the text cannot be printed", repr(said["text"][:3000])
        return Finding(name, what, changes, detail, said.get("where", "")) if what else None

    def _change(self, file: Path, change: Edit) -> None:
        if not file.is_file() or file.is_symlink():
            return  # replaced by an edit before
        if change.what in KINDS:
            _replace(file, change.what, self.sandbox)
            return
        content = file.read_bytes()
        how = FORMATS.get(file.suffix)
        if change.what in BYTES or how is None:
            file.write_bytes(_corrupt(content, _as_bytes(change)))
            return
        try:
            document = how.load(content)
        except Exception:
            return  # an edit before has broken it
        file.write_bytes(how.dump(_apply(document, change)))

    def _state(self) -> dict[str, tuple[Any, ...]]:
        """What lies outside of the reader's own directory."""
        found = {}
        for top in ("outside", "work", "base"):
            for path in (self.sandbox / top).rglob("*"):
                if "__pycache__" not in path.parts:
                    status = path.lstat()
                    found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
        return {path: state for path, state in found.items() if not Path(path).is_dir() or "base" not in path}

    def _ask(self, name: str, case: Path) -> dict[str, Any]:
        if self._worker is None:
            context = multiprocessing.get_context("fork")
            self._pipe, theirs = context.Pipe()
            self._worker = context.Process(target=_serve, args=(theirs, self.sandbox), daemon=True)
            self._worker.start()
            theirs.close()
        self._pipe.send((name, case))
        try:
            if self._pipe.poll(LIMIT):
                answer: dict[str, Any] = self._pipe.recv()
                return answer
            said = f"did not end within {LIMIT:.0f} s"
        except EOFError:
            self._worker.join()
            said = f"the process died with {self._worker.exitcode}"
        self.stop()
        return {"died": said}

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.join()
            self._worker = None


def _as_bytes(change: Edit) -> Edit:
    """A change of structure, for a file that has none."""
    if change.what in BYTES:
        return change
    value = NASTY[change.value]
    data = value.text.encode()[:1000] if isinstance(value, Raw) else str(value).encode(errors="replace")[:1000]
    shares = tuple(number * 137 % 10_000 for number in change.path[:2])
    return Edit(change.file, "flip" if len(change.path) % 2 else "cut", (shares * 2)[:2], data=data or b"\0")


def _printable(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def _fit(message: str) -> bool:
    shown = visible(message, keep="\n")
    return len(shown) <= MESSAGE and _printable(shown)


def _serve(pipe: Any, sandbox: Path) -> None:
    """Read case after case, and say what happened."""
    os.chdir(sandbox / "work")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    warnings.simplefilter("ignore")
    page.CURVE_SECONDS = page.PLANE_SECONDS = 0.0
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + SPACE, size + SPACE))
    while True:
        name, case = pipe.recv()
        modules, peak = set(sys.modules), _peak()
        said: dict[str, Any] = {}
        try:
            said["text"] = READERS[name].read(case)
        except UserError as error:
            said["message"] = str(error)
        except BaseException as error:
            said["crash"] = traceback.format_exc()
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "glsmooth" in frame.filename]
            said["where"] = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"
        strange = [
            module
            for module in set(sys.modules) - modules
            if module.partition(".")[0] == "evil"
            or str(getattr(sys.modules[module], "__file__", "")).startswith(str(sandbox))
        ]
        pipe.send({**said, "imported": strange, "grown": _peak() - peak})


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ------------------------------------------------------------------------------------------------------------- running


def search(fuzzer: Fuzzer, name: str, number: int, seed: int) -> Iterator[Finding]:
    """Findings of so many cases of one reader, drawn from a seed; one a kind."""
    found: dict[tuple[str, str], Finding] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(edits())
    def body(changes: list[Edit]) -> None:
        finding = fuzzer.judge(name, changes)
        if finding is not None and (finding.kind not in found or len(changes) < len(found[finding.kind].edits)):
            found[finding.kind] = finding

    body()
    yield from found.values()


#: Cases of a round where they take seconds each; of the others it has 60.
SLOW = {"report": 2, "figure": 2}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="stop after this long (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=READERS, help="one reader")
    parser.add_argument("--round", type=int, help="repeat one round of --only, for its findings")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(READERS)
    end = time.monotonic() + 60 * arguments.minutes
    kinds: set[tuple[str, str]] = set()
    counts = {name: [0, 0] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder) / "sandbox")
        for number in itertools.count() if arguments.round is None else [arguments.round]:
            for name in names:
                if time.monotonic() > end:
                    break
                before = fuzzer.cases, fuzzer.accepted
                for finding in search(fuzzer, name, SLOW.get(name, 60), 1000 * arguments.seed + number):
                    if finding.kind not in kinds:
                        kinds.add(finding.kind)
                        again = f"python -m tests.fuzz --seed {arguments.seed} --only {name} --round {number}"
                        print(f"{finding}\n  again: {again}\n", flush=True)
                counts[name][0] += fuzzer.cases - before[0]
                counts[name][1] += fuzzer.accepted - before[1]
            if time.monotonic() > end:
                break
        fuzzer.stop()
    print("reader      cases  read without complaint")
    for name in names:
        print(f"{name:10} {counts[name][0]:6} {counts[name][1]:6}")
    print(f"{len(kinds)} kinds of findings with seed {arguments.seed}")
    return int(bool(kinds))


if __name__ == "__main__":
    sys.exit(main())
