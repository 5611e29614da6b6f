"""The lines of the figures and tables: runs that differ in nothing but their seeds joined, each named by what sets it apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import pandas as pd

from robust_cli.reporting import attacked as robust
from robust_cli.reporting.load import DERIVED, Attacked, Certified

# Facets shown whenever they differ, in this order; every other facet is shown only where it is needed to tell lines apart.
_ALWAYS = ("dataset", "model", "regime", "classifier", "noise", "noise_std", "sampling", "label_aware", "attack", "certificate",
           "bounds")
_OF_THE_PART = ("attack", "certificate", "norm", "bounds", "interval", "multiplicity")
_USUAL = (None, "gaussian noise", "fixed sampling")
_SAID_ELSEWHERE = ("name", "samples", "selection_samples", "label_aware", "_target_")
_LISTED = 6  # numbers of a list that a title shows in full
_WORST = "worst case"
_ONE_TARGET = ("model_fingerprint", "classifier", "noise_std", "decision_votes", "precision", "subset", "seed")
R = TypeVar("R", Certified, Attacked)


@dataclass(frozen=True)
class Line(Generic[R]):
    """One line: a certificate or an attack of one run, or of several runs that differ only in their seeds.

    tables holds the rows of each run; facets what is known of it, in words; family and kind number the model side and the
    certificate or attack, so that a figure can give them colour and stroke.
    """

    title: str
    part: str
    runs: tuple[R, ...]
    tables: tuple[pd.DataFrame, ...]
    facets: dict[str, str]
    hidden: str
    norm: str = "l2"
    family: int = 0
    kind: int = 0

    @property
    def about(self) -> dict[str, Any]:
        return self.runs[0].about

    @property
    def is_worst_case(self) -> bool:
        return self.part == _WORST

    @property
    def is_own(self) -> bool:
        """False for images made on another model or rounded to 8 bits, which are no attack on this classifier."""
        return DERIVED not in self.part


AnyLine = Line[Any]


def certified_lines(runs: Sequence[Certified], warnings: list[str]) -> list[Line[Certified]]:
    """A line per certificate; repeats of a run are left out with a warning."""
    single = [Line("", name, (run,), (run.of(name),), _certified_facets(run, name), _hidden(run), run.norm(name))
              for run in runs if not run.about.get("published") for name in run.names]
    ours = _named(_joined(_without_repeats(single, warnings)))
    return [*ours, *_published([run for run in runs if run.about.get("published")], ours)]


def _published(runs: Sequence[Certified], ours: Sequence[Line[Certified]]) -> list[Line[Certified]]:
    """A line per file made by others, named by as much of its path as tells it from the rest."""
    families, kinds = (1 + max((number(line) for line in ours), default=-1)
                       for number in (lambda line: line.family, lambda line: line.kind))
    found = []
    for k, run in enumerate(runs):
        facets = _words((key, run.about.get(key), words) for key, words in (
            ("dataset", "{}"), ("noise_std", "noise {}"), ("samples", "n = {}"),
            ("failure_probability", "failure probability {}")))
        facets |= _words((("noise", run.about.get("noise"), "{} noise"),
                          ("sampling", (run.about.get("sampling") or {}).get("name"), "{} sampling"),
                          ("label_aware", "label-aware" if run.about.get("label_aware") else None, "{}")))
        title = _shortest(run.folder.path, [other.folder.path for other in runs if other is not run])
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
    single = [Line("", name, (run,), (robust.frame(run, name),), _attacked_facets(run, name), _hidden(run), _norm(run, name))
              for run in runs for name in run.names]
    single = _without_repeats(single, warnings)
    return _named(_joined([*single, *_worst_cases(single)]))


def _norm(run: Attacked, attack: str) -> str:
    return str(run.of(attack)["norm"].iloc[0])


def _worst_cases(single: Sequence[Line[Attacked]]) -> list[Line[Attacked]]:
    """Over attacks on the same model as the same kind of classifier, decided alike, with the same seed; also across folders."""
    groups: dict[tuple[str, ...], list[Line[Attacked]]] = {}
    for line in filter(lambda line: line.is_own, single):
        groups.setdefault((line.norm, *(str(line.about.get(key)) for key in _ONE_TARGET)), []).append(line)
    worst = []
    for group in groups.values():
        if len(group) > 1:
            frame = robust.worst_case([line.tables[0] for line in group], group[0].norm)
            names = sorted({line.part for line in group})
            facets = {k: v for k, v in group[0].facets.items() if all(line.facets.get(k) == v for line in group)}
            shown = ", ".join(names) if len(names) <= 3 else f"{len(names)} attacks"
            worst.append(replace(group[0], part=_WORST, tables=(frame,), facets={**facets, "attack": f"worst of {shown}"}))
    return worst


def _hidden(run: Certified | Attacked) -> str:
    """All that must agree before runs count as seeds of one another; the model itself where its training is not known."""
    return json.dumps(run.training, sort_keys=True, default=str) if run.training else str(run.about.get("model_fingerprint"))


def _words(pairs: Iterable[tuple[str, object, str]]) -> dict[str, str]:
    return {key: words.format(value) for key, value, words in pairs if value is not None and value != ""}


def _model_facets(run: Certified | Attacked) -> dict[str, str]:
    about = run.about
    facets = _words((key, about.get(key), words) for key, words in (
        ("dataset", "{}"), ("model", "{}"), ("regime", "{}"), ("noise_std", "noise {}"), ("subset", "images {}"),
        ("precision", "{}"), ("training_noise_std", "trained with noise {}"), ("model_file", "file {}"),
        ("model_entry", "entry {}")))
    settings = {k: v for k, v in (run.training or {}).items() if not k.endswith("_target_") and k != "regime.noise_std"}
    return {**facets, **{f"training: {k}": f"{k.split('.')[-1]} {v}" for k, v in settings.items()}}


def _certified_facets(run: Certified, name: str) -> dict[str, str]:
    about = run.about
    own = about.get("certificates", {}).get(name, {})
    bounds = own.get("bounds") or run.of(name)["bounds"].iloc[0]
    plan = about.get("sampling") or {}
    settings = {f"plan: {k}": _setting(k, v) for k, v in plan.items() if k not in _SAID_ELSEWHERE}
    return {**_model_facets(run), **settings, **_words((
        ("noise", about.get("noise", "gaussian"), "{} noise"), ("sampling", plan.get("name", "fixed"), "{} sampling"),
        ("label_aware", "label-aware" if about.get("label_aware") else None, "{}"),
        ("shard", about.get("shard"), "shard {}"), ("norm", run.norm(name), "{}"),
        ("certificate", name, "{}"), ("bounds", str(bounds).replace("_", "-"), "{}"),
        ("interval", own.get("interval"), "{} interval"), ("multiplicity", own.get("multiplicity"), "multiplicity: {}"),
        ("samples", about.get("samples"), "n = {}" if plan.get("name", "fixed") == "fixed" else "n at most {}"),
        ("selection_samples", about.get("selection_samples"), "{} selection votes"),
        ("failure_probability", about.get("failure_probability"), "failure probability {}"),
        ("discount", about.get("discount"), "discount {}")))}


def _setting(name: str, value: object) -> str:
    """A plan's setting in words; null radii are the plan's usual ones."""
    if value is None:
        return "usual radii" if name == "radii" else f"no {name}"
    return f"{name} {value}"


def _attacked_facets(run: Attacked, name: str) -> dict[str, str]:
    about = run.about
    own = about.get("attacks", {}).get(name.removesuffix(f"{DERIVED}8bit"), {}).get("settings") or {}
    source = (about.get("transfer") or {}).get(name, {}).get("source")
    settings = {f"attack: {k}": f"{k} {v}" for k, v in own.items() if k not in ("budget", "_target_", "norm")}
    return {**_model_facets(run), **settings, **_words((
        ("attack", name, "{}"), ("attack: source", source and Path(source).name, "images of {}"),
        ("classifier", about.get("classifier"), "{} classifier"),
        ("noise", None if about.get("noise") == "gaussian" else about.get("noise"), "{} noise"),
        ("decision_votes", about.get("decision_votes"), "{} votes"),
        ("gradient_draws", about.get("gradient_draws"), "{} gradient draws"),
        ("objective", about.get("objective"), "{}"), ("query_votes", about.get("query_votes"), "{} query votes"),
        ("gradient_noise", _noise(about.get("gradient_noise")), "gradients through noise {}"),
        ("early_stop", "all" if about.get("early_stop") is False else None, "{} steps"),
        ("also_wrong", about.get("labels") if about.get("also_wrong") else None, "wrong images too ({} labels)")))}


def _noise(of_gradients: dict[str, Any] | None) -> str | None:
    return f"{of_gradients['std']:g} x {of_gradients['draws']}" if of_gradients else None


def _without_repeats(single: Sequence[Line[R]], warnings: list[str]) -> list[Line[R]]:
    seen: dict[tuple[str, ...], Line[R]] = {}
    for line in single:
        key = (line.part, line.norm, line.hidden, json.dumps(line.facets, sort_keys=True),
               str(line.about.get("model_fingerprint")), str(line.about.get("seed")))
        first = seen.setdefault(key, line)
        text = (f"{line.runs[0].folder.path.name} repeats {first.runs[0].folder.path.name} (same model, settings and seed): "
                "only the first is used.")
        if first is not line and text not in warnings:
            warnings.append(text)
    return list(seen.values())


def _joined(single: Sequence[Line[R]]) -> list[Line[R]]:
    groups: dict[tuple[str, ...], list[Line[R]]] = {}
    for line in single:
        groups.setdefault((line.part, line.norm, line.hidden, json.dumps(line.facets, sort_keys=True)), []).append(line)
    return [replace(group[0], runs=tuple(line.runs[0] for line in group), tables=tuple(line.tables[0] for line in group))
            for group in groups.values()]


def _named(lines: list[Line[R]]) -> list[Line[R]]:
    """Give each line its title, made of what differs between the lines, and its family and kind."""
    shown: list[str] = [key for key in _ALWAYS if len({line.facets.get(key) for line in lines}) > 1]
    rest = dict.fromkeys(key for line in lines for key in line.facets if key not in _ALWAYS)
    for key in rest:
        if _groups(lines, [*shown, key]) > _groups(lines, shown):
            shown.append(key)
    part: list[str] = [key for key in shown if key in _OF_THE_PART or key.startswith("attack: ")]
    model: list[str] = [key for key in shown if key not in part]
    families = _numbers(lines, lambda line: (_text(line, model), line.hidden))
    kinds = _numbers(lines, lambda line: _text(line, part))
    titles = [_text(line, [*model, *part]) or _text(line, [_maker(line), "certificate", "attack"]) for line in lines]
    named = [replace(line, title=_unlike(titles, k, line) + _seeds(line), family=families[k], kind=kinds[k])
             for k, line in enumerate(lines)]
    return sorted(named, key=lambda line: line.family)


def _maker(line: AnyLine) -> str:
    """What names a model best: the regime of ours, the name of one that was brought along."""
    return "model" if line.about.get("regime") == "own" and "model" in line.facets else "regime"


def _text(line: AnyLine, keys: Iterable[str]) -> str:
    return ", ".join(_brief(line.facets[key]) for key in keys if key in line.facets)


def _brief(words: str) -> str:
    """A long list of numbers by how many there are and the last of them; facets themselves stay whole, to tell runs apart."""
    name, _, numbers = words.partition(" [")
    listed = numbers.rstrip("]").split(", ")
    return f"{len(listed)} {name} up to {listed[-1]}" if numbers.endswith("]") and len(listed) > _LISTED else words


def _groups(lines: Sequence[AnyLine], keys: Iterable[str]) -> int:
    keys = list(keys)
    return len({tuple(line.facets.get(key) for key in keys) for line in lines})


def _numbers(lines: Sequence[AnyLine], key: Callable[[AnyLine], object]) -> list[int]:
    found = {value: k for k, value in enumerate(dict.fromkeys(key(line) for line in lines))}
    return [found[key(line)] for line in lines]


def _seeds(line: AnyLine) -> str:
    return f" ({len(line.runs)} seeds)" if len(line.runs) > 1 else ""


def _unlike(titles: Sequence[str], k: int, line: AnyLine) -> str:
    """The title, with the training's seed or a number where another line has the same words."""
    if titles.count(titles[k]) == 1:
        return titles[k]
    seed = line.about.get("train_seed")
    return f"{titles[k]}, run {titles[:k].count(titles[k]) + 1}" + ("" if seed is None else f" (training seed {seed})")


def in_common(lines: Sequence[AnyLine]) -> str:
    """What all lines share, in words, for a caption; Gaussian noise and a fixed number of draws go without saying."""
    keys = [*_ALWAYS, "samples", "failure_probability", "decision_votes", "gradient_draws"]
    return ", ".join(lines[0].facets[key] for key in keys
                     if len({line.facets.get(key) for line in lines}) == 1 and lines[0].facets.get(key) not in _USUAL)
