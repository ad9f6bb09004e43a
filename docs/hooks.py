"""What the site needs beside docs/: pages of the repository that lie elsewhere, and links that fit both places."""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
#: Page of the repository outside docs/ -> its place in the site.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security_policy.md",
    "outputs/README.md": "reference/run_directories.md",
}
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?([^<]*)</code>")


def on_files(files, config):
    for path, place in ELSEWHERE.items():
        files.append(File.generated(config, place, content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown, page, **_):
    """Links lead where they lead in the repository."""
    place = page.file.src_uri
    home = next((path for path, there in ELSEWHERE.items() if there == place), f"docs/{place}")

    def moved(match):
        target, _, anchor = match[1].partition("#")
        if "://" in target or not target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(home), target))
        there = ELSEWHERE.get(path, path.removeprefix("docs/"))
        return f"]({posixpath.relpath(there, posixpath.dirname(place) or '.')}{'#' if anchor else ''}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", moved, markdown)


def on_page_content(html, **_):
    """Roles of docstrings (``:func:`name```) are code."""
    return ROLE.sub(r"<code>\1</code>", html)
