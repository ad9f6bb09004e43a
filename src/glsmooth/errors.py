"""Mistakes of the user's, and the wording that error messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "did_you_mean"]


class UserError(ValueError):
    """A mistake that the user can mend. Its last line names the field, the value and the fix."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x'? (choose from a, b, …)"`` for an unknown name, to be appended to a message."""
    known = sorted(map(str, choices))
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    # A near miss in capitals only ("lognormal") is the commonest slip and difflib can rank it low.
    near = [name for name in known if name.lower() == word.lower()] or near
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} choose from {', '.join(known)}"
