"""Files of tensors: what torch.save and safetensors write is read, and nothing that takes more memory than the file."""

import codecs
import io
import os
import pickle
import resource
import struct
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from glsmooth.learning.tensors import read_tensors

STATE = {
    "weight": torch.arange(6.0).view(2, 3),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "count": torch.tensor(3),
    "flags": torch.tensor([True, False]),
}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_is_read(tmp_path, zipped):
    torch.save(STATE, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert same(read_tensors(tmp_path / "a.pt"), STATE)


def test_what_safetensors_write_is_read(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    assert same(read_tensors(tmp_path / "a.safetensors"), STATE)


def test_parameters_and_tied_weights_are_read(tmp_path):
    layer = torch.nn.Linear(2, 2)
    both = {"state_dict": {"a": layer.weight, "b": layer.weight, "c": layer.weight.t()[0]}, "epoch": 3}
    torch.save(both, tmp_path / "a.pt")
    read = read_tensors(tmp_path / "a.pt")["state_dict"]
    assert all(torch.equal(read[key], both["state_dict"][key]) for key in "abc")


class Call:
    """Unpickles as the result of a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def repacked(path, change):
    """The members of a file, packed by zipfile after ``change(name, content)``, which may give several."""
    content = io.BytesIO()
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(content, "w") as after, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that occur twice
        for name in before.namelist():
            for member, data, packed in change(name, before.read(name)):
                after.writestr(member, data, packed)
    path.write_bytes(content.getvalue())


def deflated(path):
    torch.save({"weight": torch.zeros(10**6)}, path)
    repacked(path, lambda name, data: [(name, data, zipfile.ZIP_DEFLATED)])
    assert path.stat().st_size < 20_000


def two_pickles(path):
    torch.save(STATE, path)
    hidden = pickle.dumps({"a": 1}, protocol=2)

    def change(name, data):
        extra = [(name.replace("data.pkl", "DATA.PKL"), hidden, zipfile.ZIP_STORED)] if name.endswith(".pkl") else []
        return [(name, data, zipfile.ZIP_STORED), *extra]

    repacked(path, change)


def a_member_twice(path):
    torch.save(STATE, path)
    repacked(path, lambda name, data: [(name, data, zipfile.ZIP_STORED)] * (2 if name.endswith("data/0") else 1))


def overlapping(path):
    """A directory in which every member is as large as the file."""
    torch.save({str(i): torch.zeros(1000) + i for i in range(50)}, path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
        for member in archive.infolist():
            size = struct.pack("<II", len(content), len(content))
            content[start + 20 : start + 28] = size  # compressed and uncompressed
            length = 46 + len(member.filename) + len(member.extra) + len(member.comment)
            start += length
    path.write_bytes(content)


def saved(content, zipped=True):
    return lambda path: torch.save(content, path, _use_new_zipfile_serialization=zipped)


def legacy(content):
    """A file as before torch 1.6 wrote them, around the pickle of its content."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    return b"".join(parts) + content + pickle.dumps([], 2)


def two_formats(path):
    """torch sees a file of old by its first bytes, other programs a zip file by its last."""
    bomb = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (4 * 10**9).to_bytes(5, "little") + b"\x85R."
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
    path.write_bytes(legacy(bomb) + content.getvalue())


def with_a_comment(path):
    """A zip file whose end is not found by all who look for it."""
    deflated(path)
    content = bytearray(path.read_bytes())
    content[-2:] = struct.pack("<H", 22)
    path.write_bytes(content + b"PK\x05\x06" + bytes(18))


def prepended(path):
    torch.save(STATE, path)
    path.write_bytes(b"PK\x03\x04" + bytes(96) + path.read_bytes())


def shared_tuples(wrap, depth=40):
    """A tuple of the same tuple twice, 40 deep: 2^40 steps for who hashes or prints it."""
    pairs = b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(depth))
    return lambda path: path.write_bytes(legacy(b"\x80\x02K\x01\x85q\0" + pairs + wrap % depth))


BOMBS = {
    "two formats": two_formats,
    "with a comment": with_a_comment,
    "prepended": prepended,
    "a key that is hashed": shared_tuples(b"}h%cK\x01s."),
    "a key among others": shared_tuples(b"}(h%cK\x01u."),
    "a set": shared_tuples(b"cbuiltins\nset\n]h%ca\x85R."),
    "pairs of a dictionary": shared_tuples(b"ccollections\nOrderedDict\n]h%ca\x85R."),
    "a size that is printed": shared_tuples(b"ctorch\nSize\nh%c\x85R."),
    "a storage that is printed": shared_tuples(b"h%c\x85Q."),
    "a function that is printed": shared_tuples(b"h%c)R."),
    "a codec": saved({"a": Call(codecs.encode, "".join(map(chr, range(0x4E00, 0x9E00))), "punycode")}),
    "by a number": saved({"a": Call(bytearray, 10**11)}),
    "by a number, before torch 1.6": saved({"a": Call(bytearray, 10**11)}, zipped=False),
    "by a shape": saved({"a": Call(torch.Tensor, 10**6, 10**5)}),
    "storage by a number": saved({"a": Call(torch.FloatStorage, 10**11)}),
    "one element, repeated": saved({"a": torch.zeros(1).expand(10**11)}),
    "in a checkpoint": saved({"state_dict": {"a": torch.zeros(1).expand(10**11)}}),
    "many names": saved({"state_dict": dict.fromkeys(map(str, range(50_000)), torch.zeros(10**5))}),
    "code": saved({"a": Call(os.system, "touch ran")}),
    "compressed": deflated,
    "two pickles": two_pickles,
    "a member twice": a_member_twice,
    "overlapping": overlapping,
    "no pickle": lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)),
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"a": [1] * 1000})),
    "bytes as large as they say": lambda path: path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 10**11) + b"."),
    "memo as large as it says": lambda path: path.write_bytes(b"\x80\x02}r" + struct.pack("<I", 2**31) + b"."),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS.keys())
def test_no_file_takes_more_memory_than_it_has_or_runs_code(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "bomb.pt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Exception) as failure:
        read_tensors(tmp_path / "bomb.pt")
    assert not isinstance(failure.value, MemoryError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.pt"]


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(OSError, match="not a regular file"):
        read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_hole_is_not_read(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ValueError, match=r"larger than limits\.gigabytes=16; raise that if you trust it"):
        read_tensors(tmp_path / name)
