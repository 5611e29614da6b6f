"""What is known of a file of radii besides its rows: said by the user, or by FILE.json beside it, which our own files have."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from robust_cli.certificates import confidence, neyman_pearson
from robust_cli.messages import UserError
from robust_cli.reporting.reading.about import deterministic, noise_layer, of_softmax
from robust_cli.runs.folder import write_json


@dataclass(frozen=True)
class Said:
    """What is known of a published file besides its rows; None: not known.

    noise_std in pixel units, or, where noise_layer is not the input, in units of that layer's output, which moves by at most
    operator_norm times as much as the image; scores: softmax where the class is that of the largest expected softmax, else votes;
    samples: number of estimation draws (of a plan that stops by itself the most), failure_probability: of each image's
    certificate, dataset: our name of the data set whose test images idx counts. Of our own files also the kind of noise, the norm
    of the radii, the name of the sampling plan; comparable: False where radii are levels of a table, radii: that table;
    label_aware: whether images were skipped (predict -1) because their class was wrong; largest_radius: what unanimous votes
    prove; exact: True where no radius was rounded; deterministic: True where nothing was drawn, of the network itself; radius:
    the one that such a certificate was asked for; cascade: 'published' where it is a claim that proves nothing of the cascade.
    """

    noise_std: float | None = None
    samples: int | None = None
    failure_probability: float | None = None
    dataset: str | None = None
    noise: str | None = None
    norm: str | None = None
    sampling: str | None = None
    comparable: bool | None = None
    label_aware: bool | None = None
    radii: list[float] | None = None
    largest_radius: float | None = None
    exact: bool | None = None
    noise_layer: str | None = None
    operator_norm: float | None = None
    scores: str | None = None
    deterministic: bool | None = None
    radius: float | None = None
    cascade: str | None = None

    def pixel_noise(self) -> float:
        """The size of the noise in pixel units, of which the radii are; NaN if not known."""
        if self.noise_std is None or (self.noise_layer not in (None, "input") and self.operator_norm is None):
            return math.nan
        return self.noise_std / (self.operator_norm or 1.0)

    def ceiling(self) -> float:
        """What so many votes can prove at most: as said, or noise_std / operator_norm Phi^-1(failure_probability^(1 / samples))
        for an l2 radius of Gaussian noise; NaN if not known."""
        if self.largest_radius is not None:
            return self.largest_radius
        if self.noise not in (None, "gaussian") or self.norm not in (None, "l2") or self.scores not in (None, "votes"):
            return math.nan
        if math.isnan(self.pixel_noise()) or self.samples is None or self.failure_probability is None:
            return math.nan
        p1 = confidence.lower(self.samples, self.samples, self.failure_probability)
        return float(neyman_pearson.radius(p1, 1.0 - p1, self.pixel_noise()))


def write_sidecar(path: Path, about: Mapping[str, Any], certificate: str, plan: Mapping[str, Any]) -> None:
    """Write FILE.json beside the TSV of one certificate of a run: what its about.json and its plan.json (may be empty) say."""
    own = about["certificates"][certificate]
    comparable = bool(about.get("comparable", True))
    if deterministic(about, certificate):
        write_json(_sidecar(path), {
            "noise_std": None, "samples": None, "failure_probability": None, "dataset": about.get("dataset"),
            "norm": own.get("norm", "l2"), "comparable": comparable, "exact": True, "deterministic": True,
            **{key: own[key] for key in ("radius", "cascade") if own.get(key) is not None}})
        return
    write_json(_sidecar(path), {
        **{key: about.get(key) for key in ("noise_std", "samples", "failure_probability", "dataset")},
        "noise": about.get("noise", "gaussian"), "norm": own.get("norm", "l2"),
        "sampling": (about.get("sampling") or {}).get("name", "fixed"), "comparable": comparable,
        "label_aware": bool(about.get("label_aware")), "radii": None if comparable else plan.get("radii"),
        "largest_radius": own.get("largest_radius"), "exact": True, **_unusual(about, certificate)})


def _unusual(about: Mapping[str, Any], certificate: str) -> dict[str, Any]:
    """Of the smoothed classifier what is not as nearly everywhere: the place of the noise, and what is asked of the draws."""
    layer, norm = noise_layer(about), (about.get("smoothing") or {}).get("operator_norm")
    placed = {} if layer == "input" else {"noise_layer": layer, "operator_norm": norm}
    return {**placed, "scores": about["certificates"][certificate]["scores"]} if of_softmax(about, certificate) else placed


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def beside(path: Path, said: Said) -> Said:
    """``said`` completed by FILE.json."""
    file = _sidecar(path)
    if not file.exists():
        return said
    names = [field.name for field in fields(Said)]
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: expected JSON with any of {', '.join(names)} ({error})") from error
    unknown = [key for key in found if key not in names] if isinstance(found, dict) else ["no object"]
    if unknown:
        raise UserError(f"{file}: expected an object with any of {', '.join(names)}, found {unknown[0]}")
    for name, value in found.items():
        stated = getattr(said, name)
        if stated is not None and value != stated:
            raise UserError(f"{file}: says {name} {value!r}, the command line says {stated!r}; leave one of them out")
    return replace(said, **checked(found, str(file)))


def _any(_: object) -> bool:
    return True


def _increasing(values: list[Any]) -> bool:
    whole = all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    return whole and bool(values) and values[0] >= 0 and all(a < b for a, b in pairwise(values))


_EXPECTED: dict[str, tuple[tuple[type, ...], str, Callable[[Any], bool]]] = {
    "noise_std": ((int, float), "a number > 0", lambda value: 0 < value < math.inf),
    "samples": ((int,), "a whole number >= 1", lambda value: value >= 1),
    "failure_probability": ((int, float), "a number in (0, 1)", lambda value: 0 < value < 1),
    "dataset": ((str,), "a name", bool), "noise": ((str,), "a name", bool),
    "norm": ((str,), "l1, l2 or linf", ("l1", "l2", "linf").__contains__),
    "sampling": ((str,), "a name", bool), "comparable": ((bool,), "true or false", _any),
    "label_aware": ((bool,), "true or false", _any), "exact": ((bool,), "true or false", _any),
    "noise_layer": ((str,), "a name", bool), "scores": ((str,), "votes or softmax", ("votes", "softmax").__contains__),
    "operator_norm": ((int, float), "a number > 0", lambda value: 0 < value < math.inf),
    "deterministic": ((bool,), "true or false", _any),
    "radius": ((int, float), "a number > 0", lambda value: 0 < value < math.inf),
    "cascade": ((str,), "sound or published", ("sound", "published").__contains__),
    "largest_radius": ((int, float), "a number >= 0", lambda value: 0 <= value < math.inf),
    "radii": ((list,), "increasing numbers >= 0", lambda value: _increasing(value))}


def checked(settings: dict[str, Any], where: str) -> dict[str, Any]:
    """Settings of a published file, each of its type and in its range, or UserError naming ``where``."""
    for name, value in settings.items():
        types, expected, holds = _EXPECTED[name]
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if value is not None and not (fits and holds(value)):
            raise UserError(f"{where}: expected {expected} for {name}, found {value!r}")
    return settings
