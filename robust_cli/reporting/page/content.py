"""Everything that the report of some runs says, before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from numpy.typing import ArrayLike

from robust_cli.reporting.attacked import decay
from robust_cli.reporting.attacked import tables as attacked_tables
from robust_cli.reporting.attacked.closest import closest_table
from robust_cli.reporting.attacked.transfer import transfer_tables
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.certified.costs import costs_tables
from robust_cli.reporting.certified.paired import paired_tables
from robust_cli.reporting.checked.crosscheck import Check, check, same_classifier
from robust_cli.reporting.checked.table import crosscheck_table
from robust_cli.reporting.figures import Picture
from robust_cli.reporting.lines.facets import REGIME, of_run
from robust_cli.reporting.lines.line import AnyLine, Line
from robust_cli.reporting.lines.of_runs import attacked_lines, certified_lines
from robust_cli.reporting.lines.titles import in_common, titles
from robust_cli.reporting.measured import measurements
from robust_cli.reporting.page import pictures, records
from robust_cli.reporting.published import amr, sgr, stn
from robust_cli.reporting.published.sgr_transfer import transfer_beside_ours
from robust_cli.reporting.reading.load import Attacked, Certified, Runs
from robust_cli.reporting.tables import Table
from robust_cli.reporting.trained import noise_tables
from robust_cli.reporting.trained.noise_figures import noise_pictures
from robust_cli.reporting.trained.noise_training import groups, unmatched
from robust_cli.reporting.trained.table import training_table


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
        found, claims = ([check for _, check in self.checks if check.claimed is claimed] for claimed in (False, True))
        broken, weak = sum(not c.holds for c in found), sum(c.holds and not c.proves for c in found)
        parts = [f"{broken} broken"] * bool(broken) + [f"{weak} that prove nothing"] * bool(weak)
        told = bool(found or not claims)
        said = [f"{len(found)} certificates checked against attacks: {', '.join(parts) or 'all hold'}."] * told
        said += [f"Claims, which are no certificates: {sum(len(c.broken) for c in claims)} of {sum(c.compared for c in claims)} "
                 "compared were broken by an attack."] * bool(claims)
        return " ".join(said)


def gather(runs: Runs, radii: ArrayLike | None = None) -> Content:
    """Everything that the report of some runs says."""
    certificates, attacks = certified_lines(runs.certified, runs.warnings), attacked_lines(runs.attacked, runs.warnings)
    checks, trainings, decays = _checks(runs, certificates), groups(runs), decay.series(attacks)
    summary: list[Table] = []
    found: list[Table | None] = []
    if certificates:
        summary += certified_tables.accuracy_tables(certificates, radii)
        found += [*paired_tables(certificates, radii), certified_tables.certificates_table(certificates)]
        found += costs_tables(certificates)
    if attacks:
        white_box = [line for line in attacks if line.part not in transferred(runs)]  # the others have their matrices
        summary.append(attacked_tables.accuracy_table(white_box or attacks))
        found += [*attacked_tables.attack_tables(attacks), closest_table(attacks), *transfer_tables(runs.attacked),
                  decay.decay_table(decays)]
    found += measurements.tables(runs.attacked, _measured_titles(runs.attacked))
    found += [noise_tables.noise_table(trainings), noise_tables.fair_table(trainings),
              crosscheck_table(checks) if checks else None, stn.beside_ours(certificates), amr.beside_ours(trainings),
              sgr.beside_ours(runs, attacks), *transfer_beside_ours(runs.attacked),
              training_table(runs.trained) if runs.trained else None]
    lines: list[AnyLine] = [*certificates, *attacks]
    drawn = [*pictures.of_runs(runs, certificates, attacks), *decay.decay_pictures(decays), *noise_pictures(trainings),
             *pictures.of_measures(runs)]
    return Content(summary, drawn, [t for t in found if t is not None], checks,
                   [*records.warnings(runs, certificates), *unmatched(runs)], runs, in_common(lines) if lines else "",
                   [f"{title}: {c.verdict}" for title, c in checks], pictures.galleries(runs))


def _measured_titles(runs: Sequence[Attacked]) -> list[str]:
    """The training of each run's model, and the run's folder, since runs of one model may have measured it differently."""
    facets = [{key: words for key, words in of_run(run).items()
               if key in ("regime", "training_noise_std") or key.startswith(REGIME)} for run in runs]
    return [f"{title} ({run.folder.path.name})" for run, title in zip(runs, titles(facets), strict=True)]


def transferred(runs: Runs) -> set[str]:
    """The names of attacks whose images were made on another model."""
    return {name for run in runs.attacked for name in run.about.get("transfer") or {}}


def _checks(runs: Runs, certificates: Sequence[Line[Certified]]) -> list[tuple[str, Check]]:
    """Every certificate of every run that has an attack on the same classifier; seeds one by one."""
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
