"""The tutorial's last part, in its order: pictures are written, a network is trained, certified, and asked.

What it prints may differ by a few images where another processor trains another network: by ``SLACK``.
"""

import re
from functools import partial
from pathlib import Path

import pytest

from tests import pages

TEXT = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
SLACK = 0.08


def own_pictures():
    return re.search(r"^## Your own pictures\n(.*?)^## ", TEXT, flags=re.DOTALL | re.MULTILINE).group(1)


def test_your_own_pictures(elsewhere, call):
    pages.run_python(own_pictures())
    printed = []
    for command, _ in pages.commands(own_pictures()):
        name, arguments = pages.command_parts(command)
        here = ["dataset.num_workers=0", "trainer.num_threads=1"] if name == "train" else []
        status, streams = call(name, *arguments, *here)
        assert status == 0, streams.err
        printed.append(streams.out)
    shown = pages.outputs(own_pictures())
    assert len(shown) == 2
    for output, of_command in zip(shown, printed[1:], strict=True):
        pages.compare_output(output, of_command, partial(pages.alike, slack=SLACK))


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("| a | 131 | 90.9 % |", "| a | 128 | 88.8 % |", True),
        ("| a | 131 | 90.9 % |", "| a | 100 | 69.4 % |", False),
        ("| a | 131 | 90.9 % |", "| b | 131 | 90.9 % |", False),
        ("| a | 131 | 90.9 % |", "| a | n/a | n/a |", False),
        ("1,000 votes.", "1,010 votes.", True),
    ],
)
def test_a_line_may_differ_by_a_little(shown, printed, expected):
    assert pages.alike(shown, printed, SLACK) is expected
