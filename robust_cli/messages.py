"""A user's mistake: its exceptions, and the words of its one line. A leaf: every room may import it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend. Its text is one line: what was expected, what was found, where, what to do."""


class Wrong(ValueError):
    """A setting out of its range, raised by the constructor that owns it.

    ``name`` is the constructor's argument; whoever builds the object from a config adds the path to it
    ("regime.noise_std"), so that the user reads where it was set.
    """

    def __init__(self, name: str, expected: str, found: object) -> None:
        super().__init__(f"{name}: expected {expected}, got {found!r}")
        self.name, self.expected, self.found = name, expected, found

    def __reduce__(self) -> tuple[type[Wrong], tuple[str, str, object]]:
        # joblib and submitit pickle exceptions; the default would call Wrong(message).
        return Wrong, (self.name, self.expected, self.found)


def check(condition: bool, name: str, expected: str, found: object) -> None:
    """Raise `Wrong` unless ``condition`` holds."""
    if not condition:
        raise Wrong(name, expected, found)


def suggestion(found: str, valid: Iterable[str]) -> str:
    """'did you mean a or b?', or 'there are: ...' when nothing is near; '' when nothing is valid."""
    names = sorted({str(v) for v in valid})
    near = difflib.get_close_matches(found, names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return "there are: " + ", ".join(names) if names else ""
