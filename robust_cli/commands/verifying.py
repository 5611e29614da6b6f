"""`robust certify` where its certificates are verifiers: proofs of the network itself, image by image, from run to rows.

A verifier proves, for every image, that all images within a radius are given the same class by the network: by the base
classifier, without noise, draws or a failure probability. So there are no votes: its rows are the results, appended to
certificates.csv group by group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from robust_cli.commands.proofs import COLUMNS, Proofs, Verifier, gate_radius, rows_of
from robust_cli.messages import UserError
from robust_cli.reporting.reading.about import DETERMINISTIC, deterministic
from robust_cli.runs.console import say
from robust_cli.runs.folder import RunFolder
from robust_cli.runs.ranks import ranks
from robust_cli.runs.rows import RowLog

if TYPE_CHECKING:
    from torch import nn

_NORMS = ("l2", "linf")
PUBLISHED = "published"  # the count of a cascade that is no certificate of it


def verify(config: DictConfig, folder: RunFolder) -> None:
    """Prove what the verifiers can of each image: writes certificates.csv and about.json."""
    from robust_cli.composing import subject as subjects
    from robust_cli.datasets.shards import positions

    verifiers = built(config)
    subject = subjects.load_subject(config, "certify")
    mine = positions(config.shard, len(subject.images))
    subjects.introduce("certify", subject, config)
    for line in announced(verifiers, subject.model):
        say(f"  {line}")
    subjects.record(folder, config, subject.device, subject.images, subject.about["model_fingerprint"])
    proofs = Proofs(subject, verifiers, mine, folder)
    proofs.estimate()
    proofs.run()
    about = {**subject.about, "images": len(mine), "shard": config.shard, "shape": list(subject.images.shape)}
    write_results(folder, {**about, **told(verifiers, subject.model)}, proofs.seconds)


def built(config: DictConfig) -> dict[str, Verifier]:
    """The verifiers that a certify config names. Raises UserError with the key that is wrong."""
    from robust_cli.composing.build import build

    found: dict[str, Verifier] = {name: build(node, f"certificate.{name}") for name, node in config.certificate.items()}
    for name, verifier in found.items():
        if verifier.norm not in _NORMS:
            raise UserError(f"certificate.{name}.norm: expected {' or '.join(_NORMS)}, got {verifier.norm!r}")
        radius = verifier.radius
        if radius is not None and not 0 < radius < math.inf:
            raise UserError(f"certificate.{name}.radius: expected a number > 0, or null for the largest that can be proven, got "
                            f"{radius!r}")
    if ranks().size > 1:
        raise UserError(f"certificate.{next(iter(found))}: expected one process, found {ranks().size}; certify without torchrun "
                        "(parts of the images: shard=1/2, shard=2/2, then robust merge)")
    return found


def announced(verifiers: Mapping[str, Verifier], model: nn.Module) -> list[str]:
    """What is proven of what, in lines."""
    lines = ["certified is the network itself, the base classifier: no noise, no draws, no failure probability"]
    for name, verifier in verifiers.items():
        own = described(verifier, model)
        to = "" if own["tolerance"] is None else f", by bisection to {own['tolerance']:g} of itself"
        radius = f"{verifier.norm} radius"
        what = f"the largest {radius}{to}" if own["radius"] is None else f"{radius} {own['radius']:g}"
        rest = [f"{own[word]} {word}" for word in ("relaxation", "cascade") if own[word] is not None]
        lines.append("; ".join([f"{name}: {what}", *rest]))
        if own["cascade"] == PUBLISHED:
            lines.append(f"warning: {name} is the published count of a cascade, no certificate: another network may answer at a "
                         "shifted image, and it does not hold under attack")
    return lines


def told(verifiers: Mapping[str, Verifier], model: nn.Module) -> dict[str, Any]:
    """What about.json says of what was proven, and that there was no noise and no chance."""
    made = {name: described(verifier, model) for name, verifier in verifiers.items()}
    return {"classifier": "base", "smoothing": None, "noise": None, "noise_std": None, "samples": 0, "selection_samples": 0,
            "failure_probability": 0, "discount": None, "sampling": None, "label_aware": False, "evaluations": 0,
            "comparable": all(own["radius"] is None for own in made.values()), "certificates": made}


def described(verifier: Verifier, model: nn.Module) -> dict[str, Any]:
    """One verifier: its settings, and what its rows state. ``cascade`` is null but for a model that is one. ``radius``: the one
    that was asked for; a cascade's published count is always of the radius of its stages."""
    cascade, relaxation = (getattr(verifier, name, None) for name in ("cascade", "relaxation"))
    gate = gate_radius(model)
    cascade = None if gate is None or cascade is None else str(cascade)
    radius = gate if cascade == PUBLISHED and verifier.radius is None else verifier.radius
    relaxation = "parallel" if cascade == PUBLISHED else relaxation  # by which the stages of a cascade answer
    return {"kind": type(verifier).__name__, "norm": verifier.norm, "bounds": DETERMINISTIC, "radius": radius,
            "relaxation": relaxation, "tolerance": getattr(verifier, "tolerance", None), "cascade": cascade,
            "statement": statement(verifier, cascade, relaxation), "largest_radius": gate}


def statement(verifier: Verifier, cascade: str | None, relaxation: str | None) -> str:
    """What a row of a verifier states."""
    how = f" ({relaxation} relaxation)" if relaxation else ""
    if cascade == PUBLISHED:
        return (f"some network of the cascade gives every image within the radius in {verifier.norm} the class predicted{how}; "
                "the cascade itself need not, since at a shifted image another may answer: a published count that does not hold "
                "under attack")
    whose = "the cascade of networks" if cascade else "the network"
    return (f"every image within the radius in {verifier.norm} is given the class predicted by {whose} itself, without noise: "
            f"proven{how}, with no failure probability")


def write_results(folder: RunFolder, about: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
    """about.json, and a TSV per verifier with its sidecar, from the rows of certificates.csv. ``seconds``: of an image."""
    import pandas as pd

    from robust_cli.reporting.reading.published_tsv import write_sidecar, write_tsv

    folder.write_about(about)
    rows = pd.DataFrame(rows_of(folder).values())
    rows = rows.astype({"index": int, "label": int, "predicted": int, "radius": float})
    for name, own in about["certificates"].items():
        part = rows[rows["certificate"] == name]
        write_tsv(part, folder.tsv(name), None if name not in seconds else pd.Series(seconds[name], index=part.index))
        write_sidecar(folder.tsv(name), {**about, "comparable": own["radius"] is None}, name, {})


def is_verified(about: Mapping[str, Any]) -> bool:
    """Whether an about.json is of a run of verifiers."""
    made = about.get("certificates") or {}
    return bool(made) and all(deterministic(about, name) for name in made)


def join(target: RunFolder, parts: Sequence[RunFolder], about: Mapping[str, Any], order: Sequence[int]) -> None:
    """The results of a run from those of its parts. ``order``: the indices of its images."""
    found = {key: row for part in parts for key, row in rows_of(part).items()}
    log = RowLog(target.certificates, COLUMNS)
    log.append([list(found[name, index].values()) for name in about["certificates"] for index in order])
    write_results(target, about, {})
