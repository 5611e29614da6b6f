"""`robust merge`: the parts of a certify run that was split by shard=k/n, as one run."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from robust_cli.commands import proving, scoring, verifying
from robust_cli.composing.resuming import same
from robust_cli.messages import UserError
from robust_cli.runs.console import say
from robust_cli.runs.folder import RunFolder, claim, write_json

_SAME_RECORD = ("model_fingerprint", "data_sha256", "device")  # of provenance.json
_UNLIKE = {"shard": None}
_OF_THE_PART = ("images", "shard", "evaluations")  # of about.json


@dataclass(frozen=True)
class Part:
    """One shard's run folder, read."""

    folder: RunFolder
    config: dict[str, Any]
    about: dict[str, Any]
    record: dict[str, Any]
    plan: dict[str, Any]

    @property
    def shard(self) -> tuple[int, int]:
        """k and n of k/n."""
        k, n = str(self.about["shard"]).split("/")
        return int(k), int(n)

    def rows(self) -> list[tuple[int, int]]:
        """(index, label) of its images, in their order."""
        with self.folder.certificates.open(encoding="utf-8", newline="") as file:
            return list(dict.fromkeys((int(row["index"]), int(row["label"])) for row in csv.DictReader(file)))


def merge(folders: Sequence[Path], output: Path | None = None) -> RunFolder:
    """Join certify runs of shards 1/n .. n/n into a new run, whose certificates are made again from all of their votes; those
    of verifiers, which have none, are taken over row by row.

    Writes to ``output`` (a new or empty folder), or beside the first part. Raises UserError when a part is missing, twice
    there, not complete, or differs from the first in model, config, precision, data, device or plan.
    """
    parts = sorted((_part(RunFolder(folder)) for folder in folders), key=lambda part: part.shard)
    _check_parts(parts)
    target = _target(parts, output)
    rows = [part.rows() for part in parts]
    order = [rows[k % len(parts)][k // len(parts)] for k in range(sum(map(len, rows)))]
    _join(target, parts, order)
    target.set_state("complete", "certify")
    say(f"run: {target}")
    say(f"next: robust report {target}")
    return target


def _part(folder: RunFolder) -> Part:
    if folder.command != "certify":
        what = f"a run of robust {folder.command}" if folder.command else "no run" if folder.path.is_dir() else "no such folder"
        raise UserError(f"{folder}: expected the folder of a certify run made with shard=k/n, found {what}")
    if folder.state != "complete":
        raise UserError(f"{folder}: expected a complete certify run, this one's state is {folder.state!r}; finish it first: "
                        f"robust certify resume={folder}")
    about = folder.read_about()
    plan = {} if verifying.is_verified(about) else folder.read_plan()
    part = Part(folder, folder.read_config(), about, folder.read_record(), plan)
    if not isinstance(part.about.get("shard"), str):
        raise UserError(f"{folder}: expected a part made with shard=k/n, found a whole run; there is nothing to merge")
    return part


def _check_parts(parts: Sequence[Part]) -> None:
    first, (_, n) = parts[0], parts[0].shard
    found = [part.shard for part in parts]
    if found != [(k, n) for k in range(1, n + 1)]:
        missing = [f"{k}/{n}" for k in range(1, n + 1) if (k, n) not in found]
        raise UserError(f"merge: expected shards 1/{n} to {n}/{n}, each once, found {', '.join(f'{k}/{m}' for k, m in found)}"
                        + (f"; {', '.join(missing)} missing" if missing else ""))
    for part in parts[1:]:
        difference = same(first.config | _UNLIKE, part.config | _UNLIKE)
        if difference:
            raise UserError(f"{part.folder}: differs from {first.folder}: {difference}; only parts of one run can be merged")
        for what, one, other in (("about.json", _whole(first.about), _whole(part.about)), ("plan.json", first.plan, part.plan),
                                 ("provenance.json", _recorded(first.record), _recorded(part.record))):
            different = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
            if different:
                key = different[0]
                here, there = _short(other.get(key)), _short(one.get(key))
                raise UserError(f"{part.folder}: {key} differs from that of {first.folder} in {what}: {here} here, {there} "
                                "there; only parts of one run can be merged")


def _whole(about: dict[str, Any]) -> dict[str, Any]:
    """Without what belongs to a part."""
    return {key: value for key, value in about.items() if key not in _OF_THE_PART}


def _recorded(record: dict[str, Any]) -> dict[str, Any]:
    found = {key: record.get(key) for key in _SAME_RECORD}
    return found | {"device": str(found["device"]).partition(" ")[0]}  # cpu or cuda: their streams differ


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _target(parts: Sequence[Part], output: Path | None) -> RunFolder:
    if output is None:
        first = parts[0].folder.path
        return claim(first.parent, f"{first.name}_merged")
    if output.exists() and any(output.iterdir()):
        raise UserError(f"--output {output}: expected a new or empty folder")
    output.mkdir(parents=True, exist_ok=True)
    return RunFolder(output)


def _join(target: RunFolder, parts: Sequence[Part], order: Sequence[tuple[int, int]]) -> None:
    """All files of the merged run."""
    from robust_cli.reporting import results

    first = parts[0]
    target.set_state("running", "certify")
    plain = first.config | {"shard": None}
    target.config.write_text(OmegaConf.to_yaml(OmegaConf.create(plain)), encoding="utf-8")
    merged_from = [str(part.folder) for part in parts]
    write_json(target.provenance, first.record | {"merged_from": merged_from, "parts": [part.record for part in parts]})
    about = first.about | {"images": len(order), "shard": None}
    if verifying.is_verified(first.about):
        verifying.join(target, [part.folder for part in parts], about, [index for index, _ in order])
    else:
        _join_votes(target, parts, order, plain, about)
    results.certified(target)


def _join_votes(target: RunFolder, parts: Sequence[Part], order: Sequence[tuple[int, int]], plain: dict[str, Any],
                about: dict[str, Any]) -> None:
    """All votes, and what they prove together. ``plain``: the config of the merged run."""
    from robust_cli.composing.final import typed
    from robust_cli.smoothing.collection import Collection
    from robust_cli.smoothing.place import norm_said
    from robust_cli.smoothing.tally import Tally

    first = parts[0]
    write_json(target.plan, first.plan)
    config: DictConfig = typed(plain, "certify")
    made, classes = proving.procedure(config), int(first.about["classes"])
    course = made.course(first.about["shape"], classes, norm_said(first.about))
    if first.folder.first_layer.exists():
        shutil.copyfile(first.folder.first_layer, target.first_layer)
    proving.keep_plan(target, course)
    indices, labels = ([pair[k] for pair in order] for k in (0, 1))
    collection, tally = Collection(course, indices, labels, classes), Tally(target.votes, classes)
    for part in parts:
        for row in Tally(part.folder.votes, classes).rows():
            collection.take(*row)
            tally.add(*row)
    tally.put_in_order(indices)
    scoring.join(target, [part.folder for part in parts], made, classes)
    proving.write_results(target, config, made, course, collection, about, None)
