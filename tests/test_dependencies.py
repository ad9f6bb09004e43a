"""What is installed: no release known to be bad; constraints.txt is a whole set, which pyproject.toml allows."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
#: Their versions follow from torch's, and other platforms do not have them.
FOLLOW_TORCH = re.compile(r"(nvidia|cuda)-.*|triton")
#: A release by its name and its number: no address, path, digest, marker, extra, or local label such as +cu132.
PIN = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([0-9]+(?:\.[0-9]+)*(?:(?:a|b|rc)[0-9]+)?(?:\.post[0-9]+)?)")


def direct():
    """Name -> requirement of everything that pyproject.toml asks for, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    found = [Requirement(text) for text in texts]
    assert len(found) == len({requirement.name for requirement in found})
    return {canonicalize_name(r.name): r for r in found if r.name != project["name"]}


def pins(text):
    """Name -> version of the lines of a constraints file that are no comments."""
    found = [(line, PIN.fullmatch(line)) for line in text.splitlines() if not line.startswith("#")]
    stray = [line for line, match in found if match is None]
    assert not stray, f"not name==version: {stray}"
    pinned = {match.group(1): match.group(2) for _, match in found}
    assert len(pinned) == len(found)
    return pinned


def takes(requirement, version):
    return requirement.specifier.contains(version, prereleases=True)


def unmet(pinned):
    """What pinned releases need and the pins do not give, as far as they are the releases installed here."""
    return [
        f"{name} needs {need}"
        for name in pinned
        for need in needs(name, pinned)
        if not FOLLOW_TORCH.fullmatch(needed := canonicalize_name(need.name))
        and not (needed in pinned and takes(need, pinned[needed]))
    ]


def needs(name, pinned, extra=""):
    """Requirements of a pinned release on this machine, and those of the extras that they ask for."""
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return
    if installed.version != pinned.get(name):
        return
    for need in map(Requirement, installed.requires or []):
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            yield need
            for more in need.extras:
                yield from needs(canonicalize_name(need.name), pinned, more)


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_malicious_releases_are_refused(name, version):
    """By both names: the one depends on the other, in any version."""
    assert not takes(direct()[name], version)
    assert takes(direct()[name], "2.6.1")
    assert takes(direct()[name], "2.6.4")


def test_no_other_package_of_that_family_is_brought():
    family = {name for name in pins(CONSTRAINTS.read_text()) if name.endswith("lightning")}
    assert family == {"lightning", "pytorch-lightning"}


@pytest.mark.parametrize(("name", "last", "first"), [("torch", "2.9.1", "2.10.0"), ("torchvision", "0.24.1", "0.25.0")])
def test_releases_without_a_safe_weights_only_are_refused(name, last, first):
    """torchvision goes with torch: each of those releases takes exactly one."""
    assert not takes(direct()[name], last)
    assert takes(direct()[name], first)


def test_constraints_pin_what_the_project_allows():
    pinned = pins(CONSTRAINTS.read_text())
    for name, requirement in direct().items():
        assert name in pinned
        assert takes(requirement, pinned[name]), f"{requirement}, but constraints.txt has {pinned[name]}"


def test_constraints_leave_out_what_follows_from_torch():
    assert not [name for name in pins(CONSTRAINTS.read_text()) if FOLLOW_TORCH.fullmatch(name)]


def test_constraints_are_complete():
    assert unmet(pins(CONSTRAINTS.read_text())) == []


@pytest.mark.parametrize(
    ("need", "instead"), [("pluggy", {}), ("pluggy", {"pluggy": "0.1"}), ("markupsafe", {}), ("aiohttp", {})]
)
def test_a_need_that_no_pin_meets_is_found(need, instead):
    """aiohttp is needed for an extra alone, for which lightning asks: fsspec[http]."""
    installed = {canonicalize_name(found.name): found.version for found in distributions()}
    changed = {name: version for name, version in installed.items() if name != need} | instead

    def found(pinned):
        return [text for text in unmet(pinned) if f" needs {need}" in text.lower()]

    assert not found(installed)
    assert found(changed)


@pytest.mark.parametrize(
    "line",
    [
        "torch==2.10.0+cu132",
        "torch>=2.10",
        "torch",
        "torch==2.*",
        "torch===2.10.0",
        "torch @ https://example.org/torch.whl",
        "torch==2.10.0 --hash=sha256:00",
        "torch==2.10.0 ; python_version < '3.12'",
        "torch[opt]==2.10.0",
        "./torch.whl",
        "-e .",
        "--extra-index-url https://example.org",
        "",
        "attrs==1.0\nattrs==1.0",
    ],
)
def test_a_line_that_is_no_plain_version_is_found(line):
    assert pins("# words\nattrs==1.0\nmypy-extensions==1.0.post1\nsympy==1.14.0rc1\n")
    with pytest.raises(AssertionError):
        pins(line + "\n")
