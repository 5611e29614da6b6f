"""What lines are called: by what sets them apart, and by no more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from robust_cli.reporting.lines.facets import REGIME, SMOOTHED, Facets
from robust_cli.reporting.lines.line import AnyLine, Line, R

# Facets shown whenever they differ, in this order, and then a regime's settings that differ between lines of that regime; every
# other facet is shown only where it is needed to tell lines apart.
_ALWAYS = ("dataset", "model", "regime", "classifier", "noise", "noise_std", "noise_layer", "sampling", "label_aware", "scores",
           "cascade", "attack", "certificate", "bounds")
_OF_THE_PART = ("attack", "certificate", "norm", "bounds", "interval", "multiplicity", "relaxation", "radius")
_USUAL = (None, SMOOTHED, "gaussian noise", "fixed sampling")
_UNSAID = ("noise", "sampling")  # where nothing but the usual, or none at all, is among the lines
_LISTED = 6  # numbers of a list that a title shows in full
_TRAINED_WITH = "training_noise_std"


def named(lines: list[Line[R]]) -> list[Line[R]]:
    """Give each line its title, made of what differs between the lines, and its family and kind."""
    shown = telling([line.facets for line in lines])
    part: list[list[str]] = [[key for key in keys if key in _OF_THE_PART or key.startswith("attack: ")] for keys in shown]
    model: list[list[str]] = [[key for key in keys if key not in own] for keys, own in zip(shown, part, strict=True)]
    families = _numbers([(text(line.facets, keys), line.hidden) for line, keys in zip(lines, model, strict=True)])
    kinds = _numbers([text(line.facets, keys) for line, keys in zip(lines, part, strict=True)])
    called: list[str] = list(map(_title, lines, map(list.__add__, model, part)))
    found = [replace(line, title=_unlike(called, k, line) + _seeds(line), family=families[k], kind=kinds[k])
             for k, line in enumerate(lines)]
    return sorted(found, key=lambda line: line.family)


def _title(line: AnyLine, keys: Iterable[str]) -> str:
    """What sets a line apart; what it is, where it is alone."""
    return text(line.facets, keys) or text(line.facets, [_maker(line), "certificate", "attack"])


def telling(every: Sequence[Facets]) -> list[list[str]]:
    """For each line the names of the facets that its title shows.

    A regime's setting that differs between lines of that regime stands on all of them, and on none of another regime; so does the
    training's noise, where lines of that regime with the same noise of their own differ in it.
    """
    shown = [key for key in _ALWAYS if len({facets.get(key) for facets in every}) > 1
             and not (key in _UNSAID and {facets.get(key) for facets in every} <= {*_USUAL})]
    names = list(dict.fromkeys(key for facets in every for key in facets))
    own = {key: _regimes_apart(every, key) for key in names if key == _TRAINED_WITH or key.startswith(REGIME)}
    shown += [key for key, regimes in own.items() if regimes]
    for key in names:
        if key not in _ALWAYS and key not in shown and _groups(every, [*shown, key]) > _groups(every, shown):
            shown.append(key)
    return [[key for key in shown if key in facets and (not own.get(key) or facets.get("regime") in own[key])]
            for facets in every]


def _regimes_apart(every: Sequence[Facets], key: str) -> set[str | None]:
    """The regimes of which lines differ in a setting."""
    found: dict[tuple[str | None, ...], set[str]] = {}
    for facets in every:
        if key in facets:
            beside = facets.get("noise_std") if key == _TRAINED_WITH else None
            found.setdefault((facets.get("regime"), beside), set()).add(facets[key])
    return {regime for (regime, _), values in found.items() if len(values) > 1}


def text(facets: Facets, keys: Iterable[str]) -> str:
    """These facets in words."""
    return ", ".join(_brief(facets[key]) for key in keys if key in facets)


def titles(every: Sequence[Facets], always: Sequence[str] = ("regime",)) -> list[str]:
    """A title each, with some facets whether they differ or not; alike where nothing known tells apart."""
    return [text(facets, dict.fromkeys([*always, *keys])) for facets, keys in zip(every, telling(every), strict=True)]


def _brief(words: str) -> str:
    """A long list of numbers by how many there are and the last of them; facets themselves stay whole, to tell runs apart."""
    name, _, numbers = words.partition(" [")
    listed = numbers.rstrip("]").split(", ")
    return f"{len(listed)} {name} up to {listed[-1]}" if numbers.endswith("]") and len(listed) > _LISTED else words


def _groups(every: Sequence[Facets], keys: Iterable[str]) -> int:
    keys = list(keys)
    return len({tuple(facets.get(key) for key in keys) for facets in every})


def _numbers(keys: Sequence[object]) -> list[int]:
    found = {value: k for k, value in enumerate(dict.fromkeys(keys))}
    return [found[value] for value in keys]


def _maker(line: AnyLine) -> str:
    """What names a model best: the regime of ours, the name of one that was brought along."""
    return "model" if line.about.get("regime") == "own" and "model" in line.facets else "regime"


def _seeds(line: AnyLine) -> str:
    return f" ({len(line.runs)} seeds)" if len(line.runs) > 1 else ""


def _unlike(given: Sequence[str], k: int, line: AnyLine) -> str:
    """The title, with the training's seed or a number where another line has the same words."""
    if given.count(given[k]) == 1:
        return given[k]
    seed = line.about.get("train_seed")
    return f"{given[k]}, run {given[:k].count(given[k]) + 1}" + ("" if seed is None else f" (training seed {seed})")


def in_common(lines: Sequence[AnyLine]) -> str:
    """What all lines share, in words, for a caption; Gaussian noise and a fixed number of draws go without saying."""
    keys = [*_ALWAYS, "samples", "failure_probability", "decision_votes", "gradient_draws"]
    return ", ".join(lines[0].facets[key] for key in keys
                     if len({line.facets.get(key) for line in lines}) == 1 and lines[0].facets.get(key) not in _USUAL)
