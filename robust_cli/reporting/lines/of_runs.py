"""The lines of the figures and tables: runs that differ in nothing but their seeds joined, each named by what sets it apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from robust_cli.reporting.attacked import accuracy as robust
from robust_cli.reporting.lines.facets import EXACT, of_attack, of_certificate, words
from robust_cli.reporting.lines.line import WORST, Line, R
from robust_cli.reporting.lines.titles import named
from robust_cli.reporting.reading.about import claimed, deterministic, noise_layer, of_softmax
from robust_cli.reporting.reading.load import Attacked, Certified

_ONE_TARGET = ("model_fingerprint", "classifier", "noise_std", "decision_votes", "precision", "subset", "seed")


def certified_lines(runs: Sequence[Certified], warnings: list[str]) -> list[Line[Certified]]:
    """A line per certificate; repeats of a run are left out with a warning."""
    single = [Line("", name, (run,), (run.of(name),), of_certificate(run, name), _hidden(run), run.norm(name))
              for run in runs if not run.about.get("published") for name in run.names]
    ours = named(_joined(_without_repeats(single, warnings)))
    return [*ours, *_published([run for run in runs if run.about.get("published")], ours)]


def _published(runs: Sequence[Certified], ours: Sequence[Line[Certified]]) -> list[Line[Certified]]:
    """A line per file made by others, named by as much of its path as tells it from the rest."""
    families, kinds = (1 + max((number(line) for line in ours), default=-1)
                       for number in (lambda line: line.family, lambda line: line.kind))
    found = []
    for k, run in enumerate(runs):
        facets = words((key, run.about.get(key), form) for key, form in (
            ("dataset", "{}"), ("noise_std", "noise {}"), ("samples", "n = {}"),
            ("failure_probability", "failure probability {}")))
        layer = noise_layer(run.about)
        facets |= words((("noise", run.about.get("noise"), "{} noise"),
                         ("sampling", (run.about.get("sampling") or {}).get("name"), "{} sampling"),
                         ("noise_layer", None if layer == "input" else layer, "noise in the {} layer"),
                         ("label_aware", "label-aware" if run.about.get("label_aware") else None, "{}"),
                         ("scores", "expected softmax" if of_softmax(run.about, run.names[0]) else None, "{}")))
        title = _shortest(run.folder.path, [other.folder.path for other in runs if other is not run])
        title += ", claimed" * claimed(run.about, run.names[0])
        facets |= words([("samples", EXACT if deterministic(run.about, run.names[0]) else None, "{}")])
        found.append(Line(title, run.names[0], (run,), (run.of(run.names[0]),), facets, str(run.folder.path),
                          run.norm(run.names[0]), families + k, kinds + k))
    return found


def _shortest(path: Path, others: Sequence[Path]) -> str:
    """The end of a path that no other has."""
    for length in range(1, len(path.parts)):
        if all(path.parts[-length:] != other.parts[-length:] for other in others):
            return "/".join(path.parts[-length:])
    return str(path)


def attacked_lines(runs: Sequence[Attacked], warnings: list[str]) -> list[Line[Attacked]]:
    """A line per attack, and one for the worst case over the attacks of a norm on one target. Images made on another model, and
    those rounded to 8 bits, have lines of their own and no say in the worst case."""
    single = [Line("", name, (run,), (robust.frame(run, name),), of_attack(run, name), _hidden(run), _norm(run, name))
              for run in runs for name in run.names]
    single = _without_repeats(single, warnings)
    return named(_joined([*single, *_worst_cases(single)]))


def _norm(run: Attacked, attack: str) -> str:
    return str(run.of(attack)["norm"].iloc[0])


def _worst_cases(single: Sequence[Line[Attacked]]) -> list[Line[Attacked]]:
    """Over attacks on the same model as the same kind of classifier, decided alike, with the same seed; also across folders."""
    groups: dict[tuple[str, ...], list[Line[Attacked]]] = {}
    for line in filter(lambda line: line.is_own, single):
        of = (str(line.about.get(key)) for key in _ONE_TARGET)
        groups.setdefault((line.norm, str(line.facets.get("noise")), noise_layer(line.about), *of), []).append(line)
    worst = []
    for group in groups.values():
        if len(group) > 1:
            frame = robust.worst_case([line.tables[0] for line in group], group[0].norm)
            names = sorted({line.part for line in group})
            facets = {k: v for k, v in group[0].facets.items() if all(line.facets.get(k) == v for line in group)}
            shown = ", ".join(names) if len(names) <= 3 else f"{len(names)} attacks"
            worst.append(replace(group[0], part=WORST, tables=(frame,), facets={**facets, "attack": f"worst of {shown}"}))
    return worst


def _hidden(run: Certified | Attacked) -> str:
    """All that must agree before runs count as seeds of one another; the model itself where its training is not known."""
    return json.dumps(run.training, sort_keys=True, default=str) if run.training else str(run.about.get("model_fingerprint"))


def _without_repeats(single: Sequence[Line[R]], warnings: list[str]) -> list[Line[R]]:
    seen: dict[tuple[str, ...], Line[R]] = {}
    for line in single:
        key = (line.part, line.norm, line.hidden, json.dumps(line.facets, sort_keys=True),
               str(line.about.get("model_fingerprint")), _draws(line))
        first = seen.setdefault(key, line)
        text = (f"{line.runs[0].folder.path.name} repeats {first.runs[0].folder.path.name} (same model, settings and seed): "
                "only the first is used.")
        if first is not line and text not in warnings:
            warnings.append(text)
    return list(seen.values())


def _draws(line: Line[R]) -> str:
    """What repeats of a run share besides their settings: the seed, or the images where nothing is drawn."""
    return str(line.tables[0]["index"].tolist()) if line.is_deterministic else str(line.about.get("seed"))


def _joined(single: Sequence[Line[R]]) -> list[Line[R]]:
    groups: dict[tuple[str, ...], list[Line[R]]] = {}
    for line in single:
        groups.setdefault((line.part, line.norm, line.hidden, json.dumps(line.facets, sort_keys=True)), []).append(line)
    return [replace(group[0], runs=tuple(line.runs[0] for line in group), tables=tuple(line.tables[0] for line in group))
            for group in groups.values()]
