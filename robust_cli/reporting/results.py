"""What a single command leaves at its end: the small table, its CSV, and the figure of one run."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from robust_cli.reporting import figures
from robust_cli.reporting.attacked import closest, distrust, gallery
from robust_cli.reporting.attacked import tables as attacked_tables
from robust_cli.reporting.attacked import transfer as transfers
from robust_cli.reporting.attacked.figures import robust_figure
from robust_cli.reporting.attacked.leaking import label_leaking
from robust_cli.reporting.certified import exact, levels
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.certified.costs import costs_tables
from robust_cli.reporting.certified.figures import certified_figure
from robust_cli.reporting.estimates import estimate
from robust_cli.reporting.lines.of_runs import attacked_lines, certified_lines
from robust_cli.reporting.measured import measurements
from robust_cli.reporting.reading.load import CLEAN, Attacked, Certified, Trained, read
from robust_cli.reporting.tables import Table, percent, write_csv
from robust_cli.reporting.trained.curves import loss_figure, training_figure
from robust_cli.runs.console import say, table
from robust_cli.runs.folder import RunFolder


def trained(folder: RunFolder) -> None:
    """The accuracy of a train run, and its loss with its terms, by epoch, as figures."""
    run = read(folder)
    assert isinstance(run, Trained)
    _figure(folder, "training", training_figure([run], [str(run.about["regime"])]))
    _figure(folder, "training_loss", loss_figure([run]))


def certified(folder: RunFolder) -> None:
    """Certified accuracy of a certify run: tables on the screen and as CSV, and a curve, one a norm; what it cost."""
    run = read(folder)
    assert isinstance(run, Certified)
    lines = certified_lines([run], [])
    for shown in certified_tables.brief(run):
        _show(folder, shown)
        say(f"  {levels.footnote(lines, [cell for row in shown.rows for cell in row])}")
    stops_early = (run.about.get("sampling") or {}).get("name", "fixed") != "fixed"
    for found in (certified_tables.certificates_table(lines), *costs_tables(lines)):
        on_screen = found.name == "costs" and stops_early
        _show(folder, found, on_screen)
        if on_screen:
            say("  saved x: samples over mean draws, selection and padding included")
    for line in lines:
        summary = certified_tables.summary(line)
        say(f"  {exact.conclusion(line, summary)}")
    for norm, of_norm in certified_tables.by_norm(lines).items():
        largest = [certified_tables.largest_radius(line) for line in of_norm]
        _figure(folder, certified_tables.named("certified_accuracy", norm), certified_figure(of_norm, largest))
    for sentence in exact.warnings(lines):
        say(f"warning: {sentence}")


def attacked(folder: RunFolder) -> None:
    """Robust accuracy of an attack run: tables on the screen, CSV, a curve a norm, a few images, and what speaks against it."""
    run = read(folder)
    assert isinstance(run, Attacked)
    lines = attacked_lines([run], [])
    if lines:
        _show(folder, attacked_tables.brief(run))
        _show(folder, attacked_tables.attack_table(lines), on_screen=False)
    else:  # measured alone
        clean = estimate(run.of(CLEAN)["robust"].to_numpy())
        say(f"accuracy on {clean.images} clean images, none attacked: {percent(clean)} %")
    distances = closest.closest_table(lines)
    if distances is not None:
        _show(folder, distances)
    made_on = {str(made["fingerprint"])[:8]: made.get("title") for made in (run.about.get("transfer") or {}).values()}
    for fingerprint, title in made_on.items():
        say(f"  @{fingerprint}: images made on {title}")
    matrices = transfers.transfer_tables([run])
    if matrices:
        write_csv(replace(matrices[0], data=pd.concat([matrix.data for matrix in matrices])), folder.table("transfer"))
    own = [line for line in lines if line.is_own]
    for norm in dict.fromkeys(line.norm for line in own):
        _figure(folder, f"robust_accuracy_{norm}", robust_figure([line for line in own if line.norm == norm], norm))
    for picture in gallery.galleries(run):
        _figure(folder, picture.name, picture.figure)
    for shown in measurements.tables([run], [""]):
        _show(folder, shown)
    for picture in measurements.pictures(run):
        _figure(folder, picture.name, picture.figure)
    for sentence in [*distrust.doubts(run), *label_leaking(run)]:
        say(f"warning: {sentence}")


def _show(folder: RunFolder, found: Table, on_screen: bool = True) -> None:
    target = folder.table(found.name)
    assert target not in (folder.votes, folder.certificates, folder.outcomes, folder.metrics), "rows are never written over"
    write_csv(found, target)
    if on_screen:
        table(found.columns, found.rows, found.title)


def _figure(folder: RunFolder, name: str, figure: figures.Figure) -> None:
    figures.save(figure, folder.figure(name, "png"), folder.figure(name, "svg"))
