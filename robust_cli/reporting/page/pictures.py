"""The pictures of a report, each with its caption: which lines are drawn together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from robust_cli.reporting.attacked import gallery
from robust_cli.reporting.attacked.figures import robust_figure
from robust_cli.reporting.certified import accuracy as certified
from robust_cli.reporting.certified import exact, levels
from robust_cli.reporting.certified import tables as certified_tables
from robust_cli.reporting.certified.figures import certified_figure
from robust_cli.reporting.checked.combined import combined_figure
from robust_cli.reporting.checked.crosscheck import same_classifier
from robust_cli.reporting.figures import Picture
from robust_cli.reporting.lines.line import AnyLine, Line
from robust_cli.reporting.lines.titles import in_common
from robust_cli.reporting.measured import measurements
from robust_cli.reporting.reading.about import of_network, of_softmax
from robust_cli.reporting.reading.load import Attacked, Certified, Runs
from robust_cli.reporting.trained.curves import loss_figure, training_figure
from robust_cli.reporting.trained.table import training_titles

_ASTRAY = "published"


def of_runs(runs: Runs, certificates: Sequence[Line[Certified]], attacks: Sequence[Line[Attacked]]) -> list[Picture]:
    """Curves by data set: certified, attacked (own attacks alone), both in one picture; and the training runs."""
    found = []
    attacks = [line for line in attacks if line.is_own]
    every: list[AnyLine] = [*certificates, *attacks]
    named = list(dict.fromkeys(str(line.about["dataset"]) for line in every if line.about.get("dataset") is not None))
    astray = [line for line in certificates if line.about.get("dataset") is None]  # published, and not said of what
    for dataset in [*named, *[_ASTRAY] * (bool(astray) and len(named) != 1)]:
        lines = [line for line in certificates if line.about.get("dataset") == dataset]
        lines += astray if dataset == _ASTRAY or len(named) == 1 else []
        for norm, of_norm in certified_tables.by_norm(lines).items():
            limits = [certified_tables.largest_radius(line) for line in of_norm]
            found.append(Picture(certified_tables.named(f"certified_{dataset}", norm),
                                 certified_figure(of_norm, limits), _certified_caption(of_norm)))
        on_this = [line for line in attacks if line.about.get("dataset") == dataset]
        for norm in dict.fromkeys(line.norm for line in on_this):
            against = [line for line in on_this if line.norm == norm]
            found.append(Picture(f"robust_{dataset}_{norm}", robust_figure(against, norm),
                                 f"Robust accuracy against {norm} budget ({in_common(against)}), with standard errors."))
        for norm, of_norm in certified_tables.by_norm(lines).items():
            found += _combined(certified_tables.named(f"combined_{dataset}", norm), of_norm,
                               [line for line in on_this if line.norm == norm])
    if runs.trained:
        found.append(Picture("training", training_figure(runs.trained, training_titles(runs.trained)),
                             "Accuracy on the training (and, dashed, the validation) images by epoch."))
        found.append(Picture("training_loss", loss_figure(runs.trained),
                             "Loss and the terms that the regime makes it of, means over each epoch's steps; a panel for each "
                             "regime, its runs in the same colours."))
    return found


def _certified_caption(lines: Sequence[Line[Certified]]) -> str:
    shared, natural = in_common(lines), any(math.isfinite(certified.natural(line.tables).value) for line in lines)
    return " ".join([
        f"Certified accuracy against {lines[0].norm} radius{f' ({shared})' if shared else ''}, with one standard error on either "
        "side (standard deviation over the seeds where several are joined)" + "; diamonds: natural accuracy" * natural
        + "; dotted: largest provable radius.", *exact.notes(lines), *levels.notes(lines),
        *certified_tables.published_notes(lines)])


def _combined(name: str, certificates: Sequence[Line[Certified]], attacks: Sequence[Line[Attacked]]) -> list[Picture]:
    """For each classifier that was certified and attacked, smoothed or the network itself, both in one picture; attacks on a
    smoothed one are decided by votes, so no certificate of the expected softmax, which is another classifier's."""
    found, certificates = [], [line for line in certificates if not of_softmax(line.about, line.part)]
    for k, family in enumerate(dict.fromkeys(line.family for line in certificates)):
        mine = [line for line in certificates if line.family == family]
        against = [a for a in attacks if any(same_classifier(r, s) for line in mine for r in line.runs for s in a.runs)]
        if against:
            notes = [_between([*mine, *against]), *exact.notes(mine), *levels.notes(mine)]
            found.append(Picture(f"{name}_{k + 1}", combined_figure(mine, against),
                                 f"{_one(mine)} ({in_common([*mine, *against])}): what is proven from below, what attacks leave "
                                 f"from above. {' '.join(notes)}"))
    return found


def _one(lines: Sequence[Line[Certified]]) -> str:
    return "The network itself" if of_network(lines[0].about) else "One smoothed classifier"


def _between(lines: Sequence[Line[Any]]) -> str:
    """What a picture of certified and attacked lines says about the truth."""
    images = {frozenset(table["index"]) for line in lines for table in line.tables}
    if len(images) == 1:
        proven = ", but for what is claimed" * any(line.is_claim for line in lines)
        return f"The true robust accuracy lies between the two{proven}."
    return ("Not all lines are of the same images (see the tables): on images that two of them share, the true robust "
            "accuracy lies between the two.")


def galleries(runs: Runs) -> list[Picture]:
    """A few adversarial images of every attack run."""
    return [picture for k, run in enumerate(runs.attacked, 1) for picture in _of_run(k, run, gallery.galleries(run))]


def of_measures(runs: Runs) -> list[Picture]:
    """What attack runs measured besides outcomes."""
    return [picture for k, run in enumerate(runs.attacked, 1) for picture in _of_run(k, run, measurements.pictures(run))]


def _of_run(k: int, run: Attacked, pictures: Sequence[Picture]) -> list[Picture]:
    """Pictures of the k-th run under names that no other run's has, with its own name in the captions."""
    return [replace(picture, name=f"run_{k}_{picture.name}", caption=f"{run.folder.path.name}: {picture.caption}")
            for picture in pictures]
