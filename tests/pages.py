"""What a page of documentation states that a program can look at: values, outputs, commands, names, paths, links."""

import ast
import importlib
import io
import operator
import re
import shlex
import tokenize
from collections.abc import Mapping
from contextlib import redirect_stdout

#: A number that stands alone: not part of a name, a version or a power.
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*\w)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:\$ )?((?:glsmooth|python|make|pip) \S.*)")
#: Stands in a page's output for lines that are left out.
ELLIPSIS = "…"


class Stale(AssertionError):
    """A page says something else than the program."""


def blocks(text, language):
    """Pairs (number of the line before the first, content) of the fenced blocks in a language."""
    return [(text[: m.start(2)].count("\n"), m.group(2)) for m in FENCE.finditer(text) if m.group(1) == language]


# Python


def run_python(text, name="page"):
    """Run a page's Python blocks as one program, and compare the values that its comments state.

    Raises:
        Stale: a comment states another value than the program has, or one that cannot be compared.
    """
    found = blocks(text, "python")
    lines = [""] * (text.count("\n") + 1)
    for start, content in found:
        lines[start : start + content.count("\n")] = content.splitlines()
    code = "\n".join(lines)  # line numbers are those of the page
    comments = {t.start[0]: t.string.lstrip("# ") for t in _tokens(code) if t.type == tokenize.COMMENT}
    unseen = dict(comments)
    namespace = {"__name__": "page"}
    for statement in ast.parse(code, name).body:
        output = io.StringIO()
        with redirect_stdout(output):
            value = _run(statement, namespace, name)
        literal, words = split(comments.get(statement.end_lineno, ""))
        if literal is None:
            continue
        place = f"{name}:{statement.end_lineno}"
        if value is _NOTHING:
            raise Stale(f"{place}: nothing has the value {literal}; state it where it is assigned or printed")
        compare(literal, _printed(output.getvalue()) if _is_print(statement) else value, place)
        unseen[statement.end_lineno] = words
    # What is left are words. Their numbers are those of the code that they explain, so they change with it.
    for start, content in found:
        used = {float(ast.literal_eval(t.string)) for t in _tokens(content) if t.type == tokenize.NUMBER}
        for number in range(start + 1, start + content.count("\n") + 1):
            words = unseen.get(number, "")
            if split(words)[0] is not None:
                raise Stale(f"{name}:{number}: {words!r} states a value inside a statement; state it after its end")
            stray = [n for n in NUMBER.findall(words) if float(n) not in used]
            if stray:
                raise Stale(
                    f"{name}:{number}: nothing compares {', '.join(stray)} in {words!r}; begin the comment with the "
                    "value of its line, or use a number of the code"
                )


_NOTHING = object()


def _tokens(code):
    return tokenize.generate_tokens(io.StringIO(code).readline)


def _run(statement, namespace, name):
    """Execute one statement; the value of what it assigns or says, if it is of that kind."""
    if isinstance(statement, ast.Expr):
        return eval(compile(ast.Expression(statement.value), name, "eval"), namespace)
    exec(compile(ast.Module([statement], []), name, "exec"), namespace)
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return namespace[statement.targets[0].id]
    return _NOTHING


def _is_print(statement):
    call = getattr(statement, "value", None)
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"


def _printed(output):
    try:
        return ast.literal_eval(output.strip())
    except (SyntaxError, ValueError):
        return output.strip()


def split(comment):
    """The literal that a comment begins with (None if there is none), and the words after it."""
    for end in [len(comment), *(m.start() for m in reversed(list(re.finditer("[:;,] ", comment))))]:
        try:
            ast.literal_eval(comment[:end])
        except (SyntaxError, ValueError):
            continue
        return comment[:end], comment[end:]
    return None, comment


def compare(literal, value, place="page"):
    """Is ``literal`` what ``value`` is, to the digits that it shows? Numbers are rounded to the nearest.

    Raises:
        Stale: it is not.
    """
    if not _same(ast.parse(literal, mode="eval").body, value, literal):
        raise Stale(f"{place}: the page says {literal}, the program {value!r}")


def _same(node, value, source):
    if isinstance(node, ast.Dict):
        return (
            isinstance(value, Mapping)
            and {ast.literal_eval(key) for key in node.keys} == set(value)
            and all(_same(v, value[ast.literal_eval(k)], source) for k, v in zip(node.keys, node.values, strict=True))
        )
    if isinstance(node, (ast.List, ast.Tuple)):
        return len(node.elts) == len(value) and all(map(_same, node.elts, value, [source] * len(node.elts)))
    stated, text = ast.literal_eval(node), ast.get_source_segment(source, node)
    if isinstance(stated, float) and "e" not in text.lower():
        return stated == round(float(value), len(text.partition(".")[2]))
    return isinstance(stated, bool) == isinstance(value, bool) and stated == value


# Commands


def commands(text):
    """Pairs (command, its output) of the blocks without a language; the output is None where none is shown.

    A block that does not begin with a command is not among them: see :func:`outputs`.
    """
    found = []
    for _, content in blocks(text, "") + blocks(text, "console"):
        lines = content.splitlines()
        if not COMMAND.fullmatch(lines[0]):
            continue
        for line in lines:
            command = COMMAND.fullmatch(line)
            if command:
                found.append((command.group(1), []))
            else:
                found[-1][1].append(line)
    return [(command, "\n".join(output) or None) for command, output in found]


def outputs(text):
    """The blocks without a language that show no command but hold numbers."""
    found = (content for _, content in blocks(text, "") if not COMMAND.fullmatch(content.splitlines()[0]))
    return [content for content in found if NUMBER.search(content)]


def words_of(command):
    """Words of a command line: comments, placeholders and the brackets of optional arguments taken away."""
    command = re.sub(r"<[^>]*>", "id", command)
    return [re.sub(r"^\[([^]=]+=.*)\]$", r"\1", word) for word in shlex.split(command, comments=True)]


def command_parts(command):
    """(name, arguments) of ``glsmooth NAME …`` and ``python -m glsmooth.NAME …``; None for other programs."""
    words = words_of(command)
    if words[0] == "glsmooth":
        return words[1], words[2:]
    if words[:2] == ["python", "-m"] and words[2].startswith("glsmooth"):
        name = words[2].partition(".")[2]
        return (name, words[3:]) if name else (words[3], words[4:])
    return None


def alike(shown, printed, slack):
    """Have two lines the same words, and numbers that differ by no more than this share of the larger?"""
    pattern = re.compile(r"\d[\d.,]*\d|\d")
    pairs = zip(pattern.findall(shown), pattern.findall(printed), strict=False)
    numbers = [tuple(float(number.replace(",", "")) for number in pair) for pair in pairs]
    return pattern.sub("0", shown) == pattern.sub("0", printed) and all(
        abs(a - b) <= slack * max(a, b) for a, b in numbers
    )


def compare_output(shown, printed, same=operator.eq):
    """Does ``printed`` have the lines that a page shows? A line ``…`` stands for any lines.

    Args:
        same: of a line of each, whether they are.

    Raises:
        Stale: it does not.
    """
    lines = [line.rstrip() for line in printed.rstrip().splitlines()]
    parts = [part.strip("\n").splitlines() for part in re.split(rf"^{ELLIPSIS}$", shown, flags=re.MULTILINE)]
    at = 0
    for i, part in enumerate(parts):
        if not part:
            continue
        part = [line.rstrip() for line in part]
        last = len(lines) - len(part)
        places = [at] if i == 0 else [last] if i == len(parts) - 1 else range(at, last + 1)
        at = next((k + len(part) for k in places if at <= k <= last and all(map(same, part, lines[k:]))), None)
        if at is None:
            raise Stale("the page shows\n" + "\n".join(part) + "\nbut the program prints\n" + "\n".join(lines))
    if ELLIPSIS not in shown.splitlines() and at != len(lines):
        raise Stale("the page ends where the program prints\n" + "\n".join(lines[at:]))


def inline_code(text):
    """The spans between single back-ticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


# Names, paths, links


def names(text):
    """Dotted names of the package, wherever they stand."""
    return sorted(set(re.findall(r"(?<![\w./-])glsmooth(?:\.(?!NAME\b)[A-Za-z_]\w*)+", text)))


def resolve(name):
    """The object that a dotted name means.

    Raises:
        Stale: there is none.
    """
    module, _, rest = name.partition(".")
    here = importlib.import_module(module)
    for part in rest.split("."):
        if not hasattr(here, part):
            try:
                importlib.import_module(f"{module}.{part}")
            except ModuleNotFoundError:
                raise Stale(f"there is no {name}: {module} has no {part}") from None
        here, module = getattr(here, part), f"{module}.{part}"
    return here


def paths(text):
    """Files and folders of the repository that a page speaks of."""
    return sorted(set(re.findall(r"(?<![\w./-])(?:src|tests|benchmarks|docs|conf)/[\w./-]*\w", text)))


def links(text):
    """Targets of Markdown links that are not addresses elsewhere."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def anchors(text):
    """Names that a link may have after ``#``: of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
