"""Commands run as a user runs them, in this process: faster than a new interpreter each, and errors stay visible."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

from robust_cli.cli import main
from robust_cli.runs.folder import RunFolder


@dataclass(frozen=True)
class Answer:
    """What a command left: exit code, both streams, and the folder it made (None for none)."""

    code: int
    out: str
    err: str
    folders: list[RunFolder]

    @property
    def folder(self) -> RunFolder:
        assert self.code == 0, self.err + self.out
        assert len(self.folders) == 1, self.folders
        return self.folders[0]


def robust(*words: str) -> Answer:
    """`robust WORDS` in the current folder."""
    from hydra.core.global_hydra import GlobalHydra

    before = set(Path().glob("outputs/*/*"))
    out, err, kept = io.StringIO(), io.StringIO(), os.environ.get("HYDRA_FULL_ERROR")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(words))
    finally:
        GlobalHydra.instance().clear()
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if kept is not None:
            os.environ["HYDRA_FULL_ERROR"] = kept
    made = sorted(set(Path().glob("outputs/*/*")) - before)
    return Answer(code, out.getvalue(), err.getvalue(), [RunFolder(path.resolve()) for path in made])
