"""What the site needs beside docs/: pages that lie elsewhere, links that fit both places, and what commands print."""

import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
#: Page of the repository outside docs/ -> its place in the site.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "overview.md",
    "SECURITY.md": "security_policy.md",
    "outputs/README.md": "reference/run_directories.md",
}
COMMAND = re.compile(r"^<!-- (glsmooth .*) -->$", re.MULTILINE)
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?([^<]*)</code>")


def on_files(files, config):
    for path, place in ELSEWHERE.items():
        files.append(File.generated(config, place, content=(ROOT / path).read_text()))
    return files


def printed(match):
    """What the command in a comment prints: of the source that the site is about."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", *match[1].split()]
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return f"```text\n{output}```"


def on_page_markdown(markdown, page, **_):
    """Links lead where they lead in the repository, and commands in comments are run."""
    place = page.file.src_uri
    home = next((path for path, there in ELSEWHERE.items() if there == place), f"docs/{place}")

    def moved(match):
        target, _, anchor = match[1].partition("#")
        if "://" in target or not target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
        there = ELSEWHERE.get(path, path.removeprefix("docs/"))
        return f"]({posixpath.relpath(there, posixpath.dirname(place) or '.')}{'#' if anchor else ''}{anchor})"

    return COMMAND.sub(printed, re.sub(r"\]\(([^)\s]+)\)", moved, markdown))


def on_page_content(html, **_):
    """Roles of docstrings (``:func:`name```) are code."""
    return ROLE.sub(r"<code>\1</code>", html)
