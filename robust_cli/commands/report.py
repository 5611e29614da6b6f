"""`robust report`: from run folders to figures, tables and one page."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from robust_cli.messages import UserError
from robust_cli.runs.console import say, table
from robust_cli.runs.folder import RunFolder, claim


def report(folders: list[Path], output: Path | None = None, said: dict[str, Any] | None = None) -> Path:
    """Write the report of some run folders and published TSV files into a new folder (default: under outputs/); its page.

    ``said``: what is known of the TSV files besides their rows (noise_std, samples, failure_probability, dataset). Raises
    UserError when a folder holds no run, when none is complete, when a TSV file is damaged, or when ``output`` exists already.
    """
    from robust_cli.reporting.page.page import write_report
    from robust_cli.reporting.reading.published_tsv import Said, checked, read_sources

    known = Said(**checked(said or {}, "report"))
    read_sources(folders, known)  # a mistake in them leaves no folder behind
    folder = _claim(output)
    try:
        folder.set_state("running", "report")
        result = write_report(folders, folder.path, said=known)
    except BaseException:
        shutil.rmtree(folder.path)  # ours, made a moment ago
        raise
    folder.set_state("complete", "report")
    for found in result.summary:
        table(found.columns, found.rows, found.title)
        for note in found.notes:
            if note.startswith("†") or "(–)" in note:  # noqa: RUF001
                say(f"  {note}")
    for sentence in [*result.verdicts, *(f"warning: {w}" for w in result.warnings)]:
        say(sentence)
    say(f"page: {result.page}")
    return result.page


def _claim(output: Path | None) -> RunFolder:
    if output is None:
        return claim(Path("outputs") / time.strftime("%Y-%m-%d"), time.strftime("%H%M%S_report"))
    if output.exists():
        raise UserError(f"--output {output}: expected a folder that does not exist yet; name another")
    return claim(output.parent, output.name)
