"""A report: run folders in; tables, figures and one page that needs no network out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from numpy.typing import ArrayLike

from robust_cli.reporting import figures, tables
from robust_cli.reporting.figures import Picture
from robust_cli.reporting.page import records
from robust_cli.reporting.page.content import Content, gather
from robust_cli.reporting.reading.published_tsv import Said, read_sources
from robust_cli.reporting.tables import Table
from robust_cli.runs.folder import RunFolder


@dataclass(frozen=True)
class ReportResult:
    """page and markdown are files; tables and figures map names to files (figures to the PNG, the SVG stands beside it)."""

    page: Path
    markdown: Path
    tables: dict[str, Path]
    figures: dict[str, Path]
    summary: list[Table]
    verdicts: list[str]
    warnings: list[str]
    broken: bool


def write_report(folders: Sequence[Path | str], output: Path | str, radii: ArrayLike | None = None,
                 said: Said = Said()) -> ReportResult:
    """Read run folders (or folders of runs) and write report.html, report.md, CSV tables, and figures as PNG and SVG.

    Among them may be published TSV files, of which ``said`` is known. output: an existing folder; radii: those of the tables
    (pixel units; default: round ones up to the largest provable, or the levels of a table). Raises UserError (one line) for a
    folder without a run, a damaged file, or when no run is complete.
    """
    content, folder = gather(read_sources(folders, said), radii), RunFolder(output)
    written: dict[str, Path] = {}
    for table in [*content.summary, *content.tables]:
        written[table.name] = folder.table(table.name)
        tables.write_csv(table, written[table.name])
    drawn: dict[str, Path] = {}
    for picture in [*content.pictures, *content.galleries]:
        drawn[picture.name] = folder.figure(picture.name, "png")
        figures.save(picture.figure, drawn[picture.name], folder.figure(picture.name, "svg"))
    page, text = folder.path / "report.html", folder.path / "report.md"
    page.write_text(_html(content, folder), encoding="utf-8")
    text.write_text(_markdown(content), encoding="utf-8")
    return ReportResult(page, text, written, drawn, content.summary, content.verdicts, content.warnings,
                        any(not c.holds for _, c in content.checks))


def _html(content: Content, folder: RunFolder) -> str:
    source = (files("robust_cli.reporting.page") / "report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)

    def drawing(p: Picture) -> Markup:
        return Markup(figures.inline_svg(folder.figure(p.name, "svg").read_text(encoding="utf-8"), p.name, p.caption))

    return environment.from_string(source).render(**_shared(content), drawing=drawing)


def _shared(content: Content) -> dict[str, Any]:
    return {"content": content, "made": time.strftime("%Y-%m-%d %H:%M"),
            "provenance": [records.provenance(run) for run in content.runs.all()]}


def _markdown(content: Content) -> str:
    parts = ["# Robustness report", ""]
    parts += [f"All lines: {content.common}.", ""] if content.common else []
    parts += [tables.markdown(t) for t in content.summary]
    parts += ["### Cross-check", "", *(f"- {v}" for v in content.verdicts), ""] if content.verdicts else []
    parts += ["### Warnings", "", *(f"- {w}" for w in content.warnings), ""] if content.warnings else []
    parts += [f"![{p.caption}]({p.name}.png)\n" for p in [*content.pictures, *content.galleries]]
    parts += [tables.markdown(t) for t in content.tables]
    return "\n".join(parts)
