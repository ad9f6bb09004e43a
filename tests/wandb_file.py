"""What a run wrote for W&B, read back from its binary log: the file that `wandb sync` sends.

Later releases of wandb read it in their compiled part alone, so the format, that of LevelDB's logs, is read here;
what its records mean is in wandb's own protocol buffers.
"""

import json
import struct
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

_HEADER = struct.Struct("<4sHB")
_CHUNK = struct.Struct("<IHB")  # CRC, length, type
_BLOCK = 2**15
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(path):
    """The records of a `.wandb` file, in their order; a part that a kill cut off at the end is left out."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = Path(path).read_bytes()
    assert _HEADER.unpack_from(content) == (b":W&B", 0xBEE1, 0)
    at, parts = _HEADER.size, []
    while True:
        left = _BLOCK - at % _BLOCK
        if left < _CHUNK.size:
            at += left
        if at + _CHUNK.size > len(content):
            return
        crc, length, kind = _CHUNK.unpack_from(content, at)
        data = content[at + _CHUNK.size :][:length]
        if kind == 0 or len(data) < length:
            return
        assert zlib.crc32(data, zlib.crc32(bytes([kind]))) == crc, f"{path}: damaged at byte {at}"
        at += _CHUNK.size + length
        parts = [*([] if kind in (_FULL, _FIRST) else parts), data]
        if kind in (_FULL, _LAST):
            record = Record()
            record.ParseFromString(b"".join(parts))
            yield record


@dataclass
class Told:
    """One start of a command: what it told W&B.

    Attributes:
        run: id, name, job type, group and tags, as the protocol has them.
        config: nested, as given.
        history: one dictionary a point.
        summary: what stands in it at the end, by name.
        artifacts: (artifact's record, ``"output"`` or ``"input"``).
        steps: the x-axis of each metric that has one of its own, by (pattern of the) name.
        exit_code: None where the command was killed.
        files: folder of the tables and pictures.
    """

    run: object = None
    config: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    artifacts: list = field(default_factory=list)
    steps: dict = field(default_factory=dict)
    exit_code: int | None = None
    files: Path | None = None

    def column(self, name):
        """Values of one name in the history."""
        return [point[name] for point in self.history if name in point]

    def table(self, name):
        """A table that the history names, as a list of dictionaries."""
        (entry,) = self.column(name)
        content = json.loads((self.files / entry["path"]).read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def told(directory, ended=True):
    """What each start of the command that writes to a run directory told, in their order.

    W&B's own process may still be writing when the command is done: the end of the last start is waited for, unless
    it has none.
    """
    end = time.monotonic() + 10
    while True:
        starts = _told(directory)
        if not ended or (starts and starts[-1].exit_code is not None) or time.monotonic() > end:
            return starts
        time.sleep(0.05)


def _told(directory):
    starts = []
    for path in sorted(Path(directory).glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_ctime):
        start = Told(files=path.parent / "files")
        for record in records(path):
            _add(start, record)
        starts.append(start)
    return starts


def _enter(items, into):
    """Enter values that the protocol names by a key, or by a path of keys."""
    for item in items:
        *path, last = item.nested_key or (item.key,)
        place = into
        for key in path:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return into


def _add(start, record):
    kind = record.WhichOneof("record_type")
    if kind == "run" and start.run is None:
        start.run = record.run
        _enter(record.run.config.update, start.config)
    elif kind == "history":
        start.history.append(_enter(record.history.item, {}))
    elif kind == "summary":
        _enter(record.summary.update, start.summary)
    elif kind == "artifact":
        start.artifacts.append((record.artifact, "input" if record.artifact.use_after_commit else "output"))
    elif kind == "use_artifact":
        start.artifacts.append((record.use_artifact, "input"))
    elif kind == "metric" and record.metric.step_metric:
        start.steps[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    elif kind == "exit":
        start.exit_code = record.exit.exit_code
