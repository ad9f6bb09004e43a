"""Would a wrong line be noticed? The last part of ``make stress``, or ``python -m tests.mutants --help``.

Each mutant is the package with one small change at random: a comparison, an operator, a constant, a condition, a
returned value. The tests of its area run against it, the fast ones first, until one fails: it is *caught*, as it is
where they run out of time. One that no test catches *survives*. Those of which it is known why that cannot matter are
listed with the reason in ``mutants.toml``, by their text and not by a number of a line; any other survivor fails the
run, and so does an entry of that file whose line is no more.

The working tree is never touched: the tests run in copies of it, one for each process, in children of this process,
which has imported torch, but nothing of the package. (mutmut 3 leaves out decorated functions and what stands outside
functions, and has neither a time limit nor a sample by a seed; cosmic-ray changes files in place, for one command.)
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import py_compile
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "glsmooth"
KNOWN = Path(__file__).with_suffix(".toml")
#: Address space of a child: what asks for more is caught, and does not take the machine with it.
SPACE = 32 * 2**30
#: A mutant has so many times the seconds that the tests take without it, and so many more.
PATIENCE, GRACE = 3.0, 20.0
#: Its seconds where that is not known.
UNKNOWN = 900.0


@dataclass(frozen=True)
class Area:
    """Files of the package (patterns), and the files of tests that try them, fast and telling ones first."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


AREAS = {
    "confidence": Area(
        ("bounds/confidence.py",),
        ("bounds/test_confidence.py", "voting/test_procedures.py", "test_calibration.py", "bounds/test_runner_up.py"),
    ),
    "curves": Area(
        ("bounds/tradeoffs.py", "bounds/cells.py", "bounds/sums.py", "bounds/neyman_pearson.py", "bounds/laplace.py"),
        ("bounds/test_tradeoffs.py", "bounds/test_neyman_pearson.py", "bounds/test_laplace.py",
         "bounds/test_extremes.py", "bounds/test_soundness.py", "family/test_values.py", "bounds/test_oracle.py"),
    ),
    "regions": Area(
        ("bounds/cover/*.py", "bounds/boxes.py", "bounds/enclosure.py"),
        ("bounds/test_enclosure.py", "bounds/test_boxes.py", "bounds/test_cover.py", "family/test_values.py",
         "bounds/test_moves.py", "bounds/test_soundness.py", "bounds/test_oracle.py"),
    ),
    "methods": Area(
        ("bounds/gl.py", "bounds/autograd_gl.py", "bounds/jacobian.py", "bounds/mp.py", "bounds/tss.py",
         "bounds/base.py", "bounds/__init__.py"),
        ("bounds/test_gl.py", "bounds/test_baselines.py", "bounds/test_outcome.py", "bounds/test_typed.py",
         "bounds/test_autograd_gl.py", "bounds/test_curves.py", "bounds/test_properties.py",
         "bounds/test_soundness.py"),
    ),
    "samples": Area(("bounds/sampled.py",), ("bounds/test_sampled.py", "bounds/test_own_laws.py")),
    "votes": Area(
        ("voting/procedures.py", "voting/draws.py"),
        ("voting/test_draws.py", "voting/test_procedures.py", "voting/test_engine.py", "voting/test_exhaustive.py",
         "test_calibration.py"),
    ),
    "laws": Area(
        ("laws/[!c]*.py",),
        ("laws/test_laws.py", "laws/test_arrays.py", "laws/test_from_torch.py", "bounds/test_moves.py",
         "bounds/test_tradeoffs.py", "bounds/test_extremes.py", "bounds/test_new_law.py", "bounds/test_own_laws.py"),
    ),
    "trials": Area(
        ("laws/checks.py", "family/resolvability.py"),
        ("laws/test_checks.py", "family/test_resolvability.py", "bounds/test_new_law.py", "bounds/test_own_laws.py"),
    ),
    "family": Area(
        ("family/[!r]*.py", "family/regions.py"),
        ("family/test_family.py", "family/test_regions.py", "family/test_candidates.py", "family/test_values.py",
         "transforms/test_transforms.py"),
    ),
    "factors": Area(
        ("transforms/factors.py",),
        ("transforms/test_transforms.py", "bounds/test_gl.py", "bounds/test_neyman_pearson.py",
         "bounds/test_tradeoffs.py", "family/test_values.py", "bounds/test_soundness.py"),
    ),
    "threats": Area(
        ("threats/*.py", "bounds/residual.py"),
        ("threats/test_threats.py", "threats/test_real_images.py", "bounds/test_residual.py",
         "bounds/test_residual_theorem.py"),
    ),
    "slices": Area(("smoothing.py",), ("test_slices.py", "test_smoothing.py", "commands/test_threats.py")),
    "verify": Area(("runs/verify.py", "runs/proof.py"), ("runs/test_verify.py", "commands/test_verify.py")),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- changes

#: An operator's other texts, by its class.
_COMPARISONS: dict[type[ast.AST], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
}
_ARITHMETIC: dict[type[ast.AST], tuple[str, tuple[str, ...]]] = {
    ast.Add: ("+", ("-",)),
    ast.Sub: ("-", ("+",)),
    ast.Mult: ("*", ("/",)),
    ast.Div: ("/", ("*",)),
    ast.FloorDiv: ("//", ("*",)),
    ast.Mod: ("%", ("*",)),
    ast.Pow: ("**", ("*",)),
    ast.BitOr: ("|", ("&",)),
    ast.BitAnd: ("&", ("|",)),
    ast.LShift: ("<<", (">>",)),
    ast.RShift: (">>", ("<<",)),
}
#: Functions whose opposites have the same arguments.
_OPPOSITES = (
    ("min", "max"), ("floor", "ceil"), ("any", "all"), ("minimum", "maximum"), ("cdf", "survival"),
    ("argmin", "argmax"), ("amin", "amax"), ("lower", "upper"),
)  # fmt: skip
_OTHER = dict(_OPPOSITES) | {b: a for a, b in _OPPOSITES}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        path: of the file, below the package.
        function: the qualified name of what the change is in; empty at the top.
        line: its number, for the reader alone.
        start, end, new: the bytes that are replaced, and by what.
        before, after: the lines that change.
        number: among changes of the same text in this function, from 0.
    """

    path: str
    function: str
    line: int
    start: int
    end: int
    new: bytes
    before: str
    after: str
    number: int = 0

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.path, self.function, self.before, self.after

    @property
    def name(self) -> str:
        """What :option:`--mutant` takes."""
        return hashlib.sha256(repr((*self.key, self.number)).encode()).hexdigest()[:10]

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.new + source[self.end :]

    @property
    def other(self) -> bool:
        """Can Python read it, and is it another program?"""
        source = (PACKAGE / self.path).read_bytes()
        try:
            return ast.dump(ast.parse(self.applied(source))) != ast.dump(ast.parse(source))
        except SyntaxError:
            return False


def mutants(path: str, source: bytes) -> list[Mutant]:
    """Every change of a file that may be a mutant; :meth:`Mutant.other` says whether it is."""
    tree = ast.parse(source)
    offsets = [0]
    for text in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(text))
    found: list[Mutant] = []
    times: dict[tuple[str, str, str, str], int] = {}
    for function, start, end, new in _changes(tree, source, offsets, ""):
        first = source.rfind(b"\n", 0, start) + 1
        last = source.find(b"\n", end)
        before = " ".join(source[first:last].decode().split())
        after = " ".join((source[first:start] + new + source[end:last]).decode().split())
        line = source.count(b"\n", 0, start) + 1
        key = (path, function, before, after)
        found.append(Mutant(path, function, line, start, end, new, before, after, times.get(key, 0)))
        times[key] = times.get(key, 0) + 1
    return found


def _changes(
    node: ast.AST, source: bytes, offsets: Sequence[int], function: str
) -> Iterator[tuple[str, int, int, bytes]]:
    """(function, start, end, new) of every change below a node: not in words, annotations and decorators."""

    def ends(of: ast.expr) -> tuple[int, int]:
        assert of.end_lineno is not None
        assert of.end_col_offset is not None
        return offsets[of.lineno - 1] + of.col_offset, offsets[of.end_lineno - 1] + of.end_col_offset

    def between(left: int, right: int, table: tuple[str, tuple[str, ...]]) -> Iterator[tuple[str, int, int, bytes]]:
        old, others = table
        pattern = rf"(?<![\w<>=!*/-]){re.escape(old)}(?![\w<>=*/])".replace(r"\ ", r"\s+")
        hit = re.search(pattern.encode(), source[left:right])
        if hit:
            for other in others:
                yield function, left + hit.start(), left + hit.end(), other.encode()

    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
        children: list[ast.AST] = [*node.body]
        if isinstance(node, ast.FunctionDef):
            children += [*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)]
    elif isinstance(node, ast.AnnAssign):
        children = [node.value] if node.value is not None else []
    elif isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return  # words of errors, and what only types ask for
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
        return
    else:
        children = list(ast.iter_child_nodes(node))
    match node:
        case ast.Compare():
            operands = [node.left, *node.comparators]
            for i, operator in enumerate(node.ops):
                yield from between(ends(operands[i])[1], ends(operands[i + 1])[0], _COMPARISONS[type(operator)])
        case ast.BinOp() if type(node.op) in _ARITHMETIC and not _text(node.left) and not _text(node.right):
            yield from between(ends(node.left)[1], ends(node.right)[0], _ARITHMETIC[type(node.op)])
        case ast.AugAssign() if type(node.op) in _ARITHMETIC and not _text(node.value):
            old, (other,) = _ARITHMETIC[type(node.op)]
            left, right = ends(node.target)[1], ends(node.value)[0]
            at = source.find(f"{old}=".encode(), left, right)
            if at >= 0:
                yield function, at, at + len(old) + 1, f"{other}=".encode()
        case ast.BoolOp():
            old, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for one, after in zip(node.values, node.values[1:], strict=False):
                yield from between(ends(one)[1], ends(after)[0], (old, (other,)))
        case ast.UnaryOp(op=ast.USub()):
            start, _ = ends(node)
            yield function, start, start + 1, b""
        case ast.UnaryOp(op=ast.Not()):
            start, _ = ends(node)
            yield function, start, start + len("not"), b""
        case ast.Constant(value=bool()):
            yield function, *ends(node), str(not node.value).encode()
        case ast.Constant(value=int()):
            yield function, *ends(node), str(node.value + 1).encode()
            if node.value > 0:
                yield function, *ends(node), str(node.value - 1).encode()
        case ast.Constant(value=float()):
            yield function, *ends(node), repr(2 * node.value if node.value else 1.0).encode()
        case ast.If() | ast.While() | ast.IfExp() if not isinstance(node.test, ast.Compare):
            start, end = ends(node.test)
            yield function, start, end, b"not (" + source[start:end] + b")"
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield function, *ends(value), b"None"
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in _OTHER:
            end = ends(node)[1]
            yield function, end - len(name), end, _OTHER[name].encode()
        case ast.Continue() | ast.Break():
            start = offsets[node.lineno - 1] + node.col_offset
            word = "continue" if isinstance(node, ast.Continue) else "break"
            yield function, start, start + len(word), b"break" if word == "continue" else b"continue"
    for child in children:
        yield from _changes(child, source, offsets, function)


def _text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def every(area: str) -> list[Mutant]:
    """The mutants of an area, in the order of its files."""
    files = sorted({file for pattern in AREAS[area].files for file in PACKAGE.glob(pattern)})
    return [one for file in files for one in mutants(file.relative_to(PACKAGE).as_posix(), file.read_bytes())]


# ------------------------------------------------------------------------------------------------------ known survivors


def known() -> dict[tuple[str, str, str, str], str]:
    """Survivors with their reasons, by the keys of their mutants."""
    found = {}
    for entry in tomllib.loads(KNOWN.read_text(encoding="utf-8")).get("survivor", []):
        for after in entry["after"]:
            found[entry["file"], entry["function"], entry["before"], after] = entry["reason"]
    return found


def stale() -> list[tuple[str, str, str, str]]:
    """Entries of which there is no such mutant any more."""
    there = {one.key for area in AREAS for one in every(area)}
    return [key for key in known() if key not in there]


# ------------------------------------------------------------------------------------------------------------- running


@dataclass
class Slot:
    """A copy of the working tree, in which one mutant at a time is tried."""

    place: Path
    original: bytes = b""
    file: Path | None = None
    pid: int = 0
    started: float = 0.0
    limit: float = 0.0
    mutant: Mutant | None = None
    area: str = ""

    def start(self, area: str, mutant: Mutant | None, limit: float) -> None:
        self.area, self.mutant, self.limit, self.started = area, mutant, limit, time.monotonic()
        if mutant is not None:
            self.file = self.place / "src" / "glsmooth" / mutant.path
            self.original = self.file.read_bytes()
            self.file.write_bytes(mutant.applied(self.original))
        self.pid = os.fork()
        if self.pid == 0:
            self._child(AREAS[area].tests)

    def _child(self, tests: Sequence[str]) -> None:
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
            output = os.open(self.place / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(self.place)
            os.environ["PYTHONPATH"] = str(self.place / "src")
            os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(self.place / "hypothesis")
            sys.path[:0] = [str(self.place / "src"), str(self.place)]
            # The tests of the copy, not those that this process is one of.
            for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
                del sys.modules[name]
            import pytest

            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0", "--tb=line"]
            code = pytest.main([*options, f"--basetemp={self.place / 'tmp'}", *(f"tests/{one}" for one in tests)])
            os._exit(int(code))
        except BaseException:
            os._exit(99)

    def finished(self) -> int | None:
        """The child's exit status, 0 for a survivor; -1 where its time is over; None while it works."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            if time.monotonic() - self.started < self.limit:
                return None
            self.stop()
            return -1
        self._restore()
        # What it started goes with it.
        self._kill()
        return os.waitstatus_to_exitcode(status) or 0

    def stop(self) -> None:
        if self.pid:
            self._kill()
            os.waitpid(self.pid, 0)
            self._restore()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _restore(self) -> None:
        if self.file is not None:
            self.file.write_bytes(self.original)
        self.file = None


@dataclass
class Found:
    """What came of the mutants of an area."""

    made: int
    caught: int = 0
    late: int = 0
    survived: list[Mutant] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tried(self) -> int:
        return self.caught + self.late + len(self.survived)


def copy(place: Path) -> Slot:
    """The working tree, as far as the tests need it; compiled, by the content of files."""
    for name in ("src", "tests", "conf"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    for file in (place / "src").rglob("*.py"):
        py_compile.compile(str(file), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return Slot(place)


def run(
    wanted: Sequence[tuple[str, Mutant]], minutes: float, processes: int, show: bool = True, first: bool = True
) -> tuple[dict[str, Found], list[str]]:
    """Try mutants in their order until the time is over.

    Args:
        first: run the tests of each area without a change before: they have to pass, and what they take is the limit
            of a mutant's time. Otherwise that is :data:`UNKNOWN`.

    Returns:
        What was found by area, and areas whose tests fail without any change: nothing can be said of these.
    """
    deadline = time.monotonic() + 60 * minutes
    areas = list(dict.fromkeys(area for area, _ in wanted))
    found = {area: Found(len(every(area))) for area in areas}
    limits: dict[str, float] = {} if first else dict.fromkeys(areas, UNKNOWN)
    broken: list[str] = []
    queue: list[tuple[str, Mutant | None]] = [(area, None) for area in areas if first]
    queue += wanted
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        slots = [copy(Path(folder) / str(i)) for i in range(processes)]
        try:
            while time.monotonic() < deadline and (queue or any(slot.pid for slot in slots)):
                for slot in slots:
                    if slot.pid:
                        code = slot.finished()
                        if code is None:
                            continue
                        slot.pid = 0
                        seconds = time.monotonic() - slot.started
                        if slot.mutant is None:
                            limits[slot.area] = PATIENCE * seconds + GRACE
                            if code != 0:
                                broken.append(slot.area)
                                if show:
                                    print((slot.place / "output.txt").read_text(errors="replace")[-3000:])
                        else:
                            one = found[slot.area]
                            one.seconds += seconds
                            if code == 0:
                                one.survived.append(slot.mutant)
                            elif code == -1:
                                one.late += 1
                            else:
                                one.caught += 1
                        if show:
                            print(_line(slot, code, seconds), file=sys.stderr, flush=True)
                    # What can be said only once the area's tests have passed waits until then.
                    at = next((i for i, (area, one) in enumerate(queue) if one is None or area in limits), None)
                    if at is not None:
                        area, mutant = queue.pop(at)
                        if area not in broken:
                            slot.start(area, mutant, limits.get(area, 60 * minutes))
                time.sleep(0.02)
        finally:
            for slot in slots:
                slot.stop()
    return found, broken


def _line(slot: Slot, code: int, seconds: float) -> str:
    one = slot.mutant
    if one is None:
        return f"{seconds:6.1f} s  {slot.area}: the tests {'pass' if code == 0 else 'FAIL'} without a change"
    what = "SURVIVES" if code == 0 else "late" if code == -1 else "caught"
    return f"{seconds:6.1f} s  {what:8}  {one.name}  {one.path}:{one.line}  {one.before}  ->  {one.after}"


# -------------------------------------------------------------------------------------------------------------- report


def table(found: dict[str, Found], reasons: dict[tuple[str, str, str, str], str]) -> str:
    """One row an area, in Markdown."""
    head = ("area", "mutants", "tried", "caught", "of these by time", "survived, with a reason", "survived", "seconds")
    rows = [head, ("---",) + ("---:",) * (len(head) - 1)]
    whole = Found(0)
    for area, one in (*found.items(), ("all", whole)):
        explained = sum(mutant.key in reasons for mutant in one.survived)
        rows.append(
            (
                area, str(one.made), str(one.tried), str(one.caught + one.late), str(one.late), str(explained),
                str(len(one.survived) - explained), f"{one.seconds:.0f}",
            )
        )  # fmt: skip
        whole.made, whole.caught, whole.late = whole.made + one.made, whole.caught + one.caught, whole.late + one.late
        whole.survived, whole.seconds = whole.survived + one.survived, whole.seconds + one.seconds
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def survivors(found: dict[str, Found], reasons: dict[tuple[str, str, str, str], str]) -> str:
    """Each survivor as lines of a difference, with its reason or with what repeats it."""
    parts = []
    for mutant in (one for area in found.values() for one in area.survived):
        why = reasons.get(mutant.key) or f"UNEXPLAINED: python -m tests.mutants --mutant {mutant.name}"
        where = f"{mutant.path}:{mutant.line} {mutant.function}"
        parts.append(f"{where}\n\n```diff\n- {mutant.before}\n+ {mutant.after}\n```\n\n{why}\n")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="which mutants, and in which order")
    parser.add_argument("--minutes", type=float, default=30, help="stop after this long (default %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one a core")
    parser.add_argument("--mutants", type=int, default=400, help="at most so many (default %(default)s)")
    parser.add_argument("--only", choices=AREAS, action="append", help="one area, or several")
    parser.add_argument("--mutant", action="append", help="repeat one, by the name that was printed")
    parser.add_argument("--at-once", action="store_true", help="do not see first that the tests pass without a change")
    parser.add_argument("--output", type=Path, default=Path("outputs/mutants.md"), help="where the table goes")
    arguments = parser.parse_args()
    if gone := stale():
        for path, function, before, after in gone:
            print(f"{KNOWN.name}: there is no such change any more: {path} {function}: {before} -> {after}")
        return 1
    pool = [(area, one) for area in arguments.only or AREAS for one in every(area)]
    if arguments.mutant:
        wanted = [(area, one) for area, one in pool if one.name in arguments.mutant]
    else:
        random.Random(arguments.seed).shuffle(pool)
        wanted = [(area, one) for area, one in pool[: arguments.mutants] if one.other]
    _prepare()
    started = time.monotonic()
    found, broken = run(wanted, arguments.minutes, arguments.processes, first=not arguments.at_once)
    reasons = known()
    only = "".join(f" --only {area}" for area in arguments.only or ())
    text = (
        f"`python -m tests.mutants --seed {arguments.seed} --mutants {arguments.mutants}{only}`: "
        f"{(time.monotonic() - started) / 60:.1f} min with {arguments.processes} processes\n\n"
        f"{table(found, reasons)}\n\n{survivors(found, reasons)}"
    )
    for area in broken:
        text += f"\nThe tests of {area} fail without a change.\n"
    print(text)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text, encoding="utf-8")
    return int(bool(broken) or any(one.key not in reasons for area in found.values() for one in area.survived))


def _prepare() -> None:
    """Import what takes long and is not under test, once for all children."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import hypothesis  # noqa: F401
    import lightning  # noqa: F401
    import mpmath  # noqa: F401
    import pytest  # noqa: F401
    import scipy.optimize
    import scipy.stats  # noqa: F401
    import torch

    torch.set_num_threads(1)
    assert not any(name.split(".")[0] == "glsmooth" for name in sys.modules), "a child must import its own copy"


if __name__ == "__main__":
    sys.exit(main())
