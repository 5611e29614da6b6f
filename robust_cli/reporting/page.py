"""A report: run folders in; tables, figures and one page that needs no network out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from numpy.typing import ArrayLike

from robust_cli.reporting import attacked_tables, certified_tables, figures, literature, measurements, pictures, records, tables
from robust_cli.reporting.closest import closest_table
from robust_cli.reporting.costs import costs_tables
from robust_cli.reporting.crosscheck import Check, check, same_classifier
from robust_cli.reporting.figures import Picture
from robust_cli.reporting.lines import AnyLine, Line, attacked_lines, certified_lines, in_common
from robust_cli.reporting.load import Certified, Runs
from robust_cli.reporting.paired import paired_tables
from robust_cli.reporting.published_tsv import Said, read_sources
from robust_cli.reporting.tables import Table
from robust_cli.reporting.transfer import transfer_tables
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


@dataclass(frozen=True)
class Content:
    """All that a report says, before it is written."""

    summary: list[Table]
    pictures: list[Picture]
    tables: list[Table]
    checks: list[tuple[str, Check]]
    warnings: list[str]
    runs: Runs
    common: str = ""
    verdicts: list[str] = field(default_factory=list)
    galleries: list[Picture] = field(default_factory=list)

    @property
    def overall(self) -> str:
        """The cross-checks in a sentence."""
        found = [check for _, check in self.checks]
        broken, weak = sum(not c.holds for c in found), sum(c.holds and not c.proves for c in found)
        parts = [f"{broken} broken"] * bool(broken) + [f"{weak} that prove nothing"] * bool(weak)
        return f"{len(found)} certificates checked against attacks: " + (", ".join(parts) if parts else "all hold") + "."


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


def gather(runs: Runs, radii: ArrayLike | None = None) -> Content:
    """Everything that the report of some runs says."""
    certificates, attacks = certified_lines(runs.certified, runs.warnings), attacked_lines(runs.attacked, runs.warnings)
    checks = _checks(runs, certificates)
    summary: list[Table] = []
    found: list[Table | None] = []
    if certificates:
        summary += certified_tables.accuracy_tables(certificates, radii)
        found += [*paired_tables(certificates, radii), certified_tables.certificates_table(certificates)]
        found += costs_tables(certificates)
    if attacks:
        white_box = [line for line in attacks if line.part not in transferred(runs)]  # the others have their matrices
        summary.append(attacked_tables.accuracy_table(white_box or attacks))
        found += [*attacked_tables.attack_tables(attacks), closest_table(attacks), *transfer_tables(runs.attacked)]
    found += measurements.tables(runs.attacked, [f"{run.about.get('regime')} ({run.folder.path.name})" for run in runs.attacked])
    found += [attacked_tables.crosscheck_table(checks) if checks else None, literature.beside_ours(certificates),
              records.training_table(runs.trained) if runs.trained else None]
    lines: list[AnyLine] = [*certificates, *attacks]
    drawn = [*pictures.of_runs(runs, certificates, attacks), *pictures.of_measures(runs)]
    return Content(summary, drawn, [t for t in found if t is not None], checks,
                   records.warnings(runs, certificates), runs, in_common(lines) if lines else "",
                   [f"{title}: {c.verdict}" for title, c in checks], pictures.galleries(runs))


def transferred(runs: Runs) -> set[str]:
    """The names of attacks whose images were made on another model."""
    return {name for run in runs.attacked for name in run.about.get("transfer") or {}}


def _checks(runs: Runs, certificates: Sequence[Line[Certified]]) -> list[tuple[str, Check]]:
    """Every certificate of every run that has an attack on the same smoothed classifier; seeds one by one."""
    found = []
    for line in certificates:
        for run in line.runs:
            attacks = [a for a in runs.attacked if same_classifier(run, a)]
            if attacks:
                several = f" ({len(line.runs)} seeds)"
                seed = f", training seed {run.about.get('train_seed')}" if len(line.runs) > 1 else ""
                title = line.title.removesuffix(several) + seed
                found.append((title, check(run, line.part, attacks)))
    return found


def _html(content: Content, folder: RunFolder) -> str:
    source = (files("robust_cli.reporting") / "report.html.jinja").read_text(encoding="utf-8")
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
