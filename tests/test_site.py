"""The site of docs/: the reference has every public name; pages look as they were meant, and fetch nothing."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import glsmooth as gs
from glsmooth.__main__ import COMMANDS

from . import pages

ROOT = Path(__file__).parents[1]
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
#: The package, and those of its rooms and modules that say what of them is public.
PUBLIC = [gs, *(module for name in {*gs._ROOMS, *gs.__all__} if hasattr(module := getattr(gs, name), "__all__"))]


def documented():
    """The names that pages of the reference show, in their order."""
    return [name for page in sorted((ROOT / "docs").rglob("*.md")) for name in DIRECTIVE.findall(page.read_text())]


def is_module(value):
    return type(value) is type(gs)


def missing(shown):
    """Public names whose object none of the names shown means."""
    there = {id(pages.resolve(name)) for name in shown}
    names = [(module.__name__, name) for module in PUBLIC for name in module.__all__]
    return [f"{module}.{name}" for module, name in names if not has_a_page(pages.resolve(f"{module}.{name}"), there)]


def has_a_page(value, there):
    return id(value) in there or (is_module(value) and value in PUBLIC)


def private(name):
    """Is a name not among those that its module offers?"""
    home, _, last = name.rpartition(".")
    module = gs.figures if home == "glsmooth.figures" else importlib.import_module(home)
    return last not in module.__all__


def test_the_rooms_are_looked_at():
    names = {module.__name__ for module in PUBLIC}
    assert {f"glsmooth.{room}" for room in ("bounds", "errors", "family", "laws", "smoothing", "transforms")} < names
    assert gs.figures in PUBLIC


def test_the_reference_has_every_public_name():
    assert missing(documented()) == []


@pytest.mark.parametrize("name", ["glsmooth.Box", "glsmooth.errors.keyed", "glsmooth.figures.cra_plane"])
def test_a_name_that_is_missing_is_found(name):
    found = missing([shown for shown in documented() if shown != name])
    assert {id(pages.resolve(missed)) for missed in found} == {id(pages.resolve(name))}


@pytest.mark.parametrize("name", documented())
def test_what_the_reference_shows_is_public(name):
    assert not private(name)


@pytest.mark.parametrize("name", ["glsmooth.laws.Flat", "glsmooth.bounds.gl", "glsmooth.runs.run._facts"])
def test_a_private_name_is_found(name):
    assert private(name)


def test_each_name_is_shown_once():
    objects = [id(pages.resolve(name)) for name in documented()]
    assert len(set(objects)) == len(objects)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Text of each page of the site, by its path. Strict: whatever mkdocs warns of is an error."""
    pytest.importorskip("mkdocs", reason="make docs installs what makes the site")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.html")}


def found_in(site, pattern):
    return [f"{page}: {match.group()[:120]}" for page, text in site.items() for match in re.finditer(pattern, text)]


#: What a reader's browser would fetch by itself; links may lead anywhere.
FETCHED = r'<(?:script|img|iframe|source)[^>]*\ssrc="?(?:https?:)?//[^>]*>|<link[^>]*\shref="?(?:https?:)?//[^>]*>'
#: A list or table without an empty line before it, which the repository's page shows and the site does not.
LOST = r"<p>(?:(?!</p>)[^\n])*\n(?:(?!</p>)[\s\S])*?(?:^|\n)(?:[*-] |\d+\. |\|)"
#: Sphinx's words for a name, as docstrings have them.
ROLE = r":[a-z]+:(?:`|<code>)"


@pytest.mark.parametrize("pattern", [FETCHED, LOST, ROLE], ids=["fetched", "lost list", "role"])
def test_pages_are_rendered_as_they_were_meant(site, pattern):
    assert found_in(site, pattern) == []


@pytest.mark.parametrize(
    ("pattern", "html"),
    [
        (FETCHED, '<script src="https://example.org/a.js"></script>'),
        (FETCHED, '<link rel="stylesheet" href="//example.org/a.css">'),
        (LOST, "<p>It has:\n* one\n* two</p>"),
        (LOST, "<p>It has\nall:\n| a | b |</p>"),
        (ROLE, "as :func:<code>evaluate</code>"),
    ],
)
def test_what_would_be_rendered_wrongly_is_found(pattern, html):
    assert found_in({"page": html}, pattern)
    assert not found_in(
        {"page": '<a href="https://example.org">there</a><p>2 * 3\nis * 6</p>: <code>a</code>'}, pattern
    )


def test_the_site_has_the_help_of_every_command(site):
    assert [name for name in COMMANDS if f"Usage: glsmooth {name} " not in site["reference/commands.html"]] == []
    assert "momentum: " in site["reference/commands.html"]


def test_the_site_has_what_lies_elsewhere(site):
    assert "Vulnerabilities" in site["contributing.html"]
    assert 'href="architecture.html"' in site["contributing.html"]  # docs/architecture.md, seen from the root
    assert 'href="security.html"' in site["security_policy.html"]
    assert "records.csv" in site["reference/run_directories.html"]
