"""What verify_certificates.py reads of a run, checked for being whole and for saying the same everywhere."""

from __future__ import annotations

import csv
import json

import numpy as np
from verify_bounds import Bad, crossing, drawn_std, residual
from verify_layer import layer_faults, stretched_by


def read_json(path, needed=True):
    if not needed and not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Bad(f"{path.name}: not readable ({error})") from error
    return found


def read_table(path):
    """The rows of a CSV file one by one, its header first."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            width = None
            for number, row in enumerate(csv.reader(file), 1):
                width = width or len(row)
                if len(row) != width:
                    raise Bad(f"{path.name}, line {number}: cut off")
                yield row
            if width is None:
                raise Bad(f"{path.name}: empty")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Bad(f"{path.name}: not readable ({error})") from error


def read_votes(path, classes):
    """By image: the selection votes [K], and the estimation votes cumulated at the end of each block [blocks, K]."""
    rows, blocks = read_table(path), {}
    if next(rows) != ["index", "purpose", "block", "draws", *(f"votes_{k}" for k in range(classes))]:
        raise Bad(f"votes.csv: not the columns of {classes} classes")
    for number, (index, purpose, block, draws, *counts) in enumerate(rows, 2):
        votes = [int(count) for count in counts]
        if sum(votes) != int(draws) or min(votes) < 0 or purpose not in ("selection", "estimation"):
            raise Bad(f"votes.csv, line {number}: the votes do not add up to the draws")
        if blocks.setdefault((int(index), purpose), {}).setdefault(int(block), votes) is not votes:
            raise Bad(f"votes.csv, line {number}: image {index}, {purpose} block {block} a second time")
    none, walks = np.zeros((0, classes), dtype=np.int64), {}
    for (index, purpose), found in blocks.items():
        if set(found) != set(range(len(found))):
            raise Bad(f"votes.csv: image {index} lacks {purpose} block {min(set(range(len(found))) - set(found))}")
        walk = np.cumsum([found.pop(b) for b in range(len(found))], axis=0)
        walks.setdefault(index, [none, none])[purpose == "estimation"] = walk
    return walks


def without_votes(path):
    """Why a run has no votes to derive its radii from; '' for one that should have them."""
    try:
        made = read_json(path / "about.json")["certificates"]
        proofs = [name for name, own in made.items() if own.get("bounds") == "deterministic"]
    except (Bad, AttributeError, KeyError, TypeError):
        return ""  # damaged: said where it is read
    if not proofs or len(proofs) < len(made):
        return ""
    return (f"{', '.join(proofs)}: proven of the network itself, so that there are no votes to derive these radii from; attacks "
            "of the base classifier and robust report test them")


def below(path):
    """The complete certify runs of a folder (itself, or those anywhere below it), and other runs with why they are none."""
    if not (path / "status.json").exists() and (path / "about.json").exists():
        why = without_votes(path)
        return ([], [(path, why)]) if why else ([path], [])  # a copy without its state
    states = [path / "status.json"] if (path / "status.json").exists() else sorted(path.rglob("status.json"))
    found, left_out = [], []
    for file in states:
        try:
            status = read_json(file)
            command, state = str(status.get("command")), str(status.get("state"))
        except (Bad, AttributeError) as error:
            left_out.append((file.parent, f"status.json is damaged ({error})"))
            continue
        if command != "certify":
            if file.parent == path:
                left_out.append((path, f"not a certify run, but one of {command}: it has no radii"))
        elif state != "complete":
            left_out.append((file.parent, f"not complete ({' '.join(state.split())[:80]}): go on with it by "
                                          f"robust certify resume={file.parent}"))
        elif why := without_votes(file.parent):
            left_out.append((file.parent, why))
        else:
            found.append(file.parent)
    return found, left_out


def names(paths):
    """The end of each path that no other has."""
    parts = [path.resolve().parts for path in paths]
    return ["/".join(next((own[-k:] for k in range(1, len(own)) if sum(other[-k:] == own[-k:] for other in parts) == 1), own))
            for own in parts]


class Run:
    """One run's files and what they say, checked against one another."""

    def __init__(self, path):
        self.about, self.plan = read_json(path / "about.json"), read_json(path / "plan.json", needed=False)
        self.provenance = read_json(path / "provenance.json")
        about, plan = self.about, self.plan
        self.name = plan.get("plan", (about.get("sampling") or {}).get("name", "fixed"))
        self.samples, self.selection = int(about["samples"]), int(about["selection_samples"])
        self.noise, self.classes = about.get("noise", "gaussian"), int(about["classes"])
        self.std = drawn_std(self.noise, float(about["noise_std"])) / stretched_by(about)
        self.alpha = float(plan.get("failure_probability", about["failure_probability"]))
        self.votes = read_votes(path / "votes.csv", self.classes)
        rows = read_table(path / "certificates.csv")
        header = next(rows)
        self.rows = [dict(zip(header, row, strict=True)) for row in rows]
        self.level: dict[int, int] = {}
        self.problems = list(layer_faults(path, about)) + list(self.disagreements()) + list(self.unwhole())
        if self.name == "sequential" and not self.problems:
            self.problems = list(self.boundaries_that_err()) + list(self.walked())

    def disagreements(self):
        about, plan, other = self.about, self.plan, self.provenance
        if other.get("seed") != about.get("seed"):
            yield f"provenance.json says seed {other.get('seed')}, about.json {about.get('seed')}"
        for key in ("samples", "selection_samples"):
            if key in plan and plan[key] != about[key]:
                yield f"plan.json says {key} {plan[key]}, about.json {about[key]}"
        if plan and (about.get("sampling") or {}).get("name") != self.name:
            yield f"plan.json is of {self.name}, about.json of {about.get('sampling')}"
        if "noise_std" in plan and plan["noise_std"] > self.std * (1 + 1e-12):
            yield f"plan.json rests on noise {plan['noise_std']}, but {self.std} was drawn"
        charged = residual(self.noise, float(about["noise_std"]), about.get("shape"), self.samples + self.selection)
        if not self.alpha <= (about["failure_probability"] - charged) * (1 + 1e-12):
            yield f"failure probability {about['failure_probability']} less {charged:.3g} of the noise: plan spends {self.alpha}"
        if self.noise != "integer_grid" and self.alpha != about["failure_probability"]:
            yield f"plan.json spends {self.alpha}, about.json says {about['failure_probability']}"
        stations = plan.get("boundaries")
        if plan and (not stations or stations != sorted(set(stations)) or stations[-1] != self.samples):
            yield "plan.json: boundaries do not increase to samples"

    def boundaries_that_err(self):
        """Levels that would be claimed too often where they are not true, by the recursion over all looks."""
        levels, looks = self.plan["levels"], self.plan["boundaries"]
        if [level["probability"] for level in levels] != sorted({level["probability"] for level in levels}):
            yield "plan.json: the levels' probabilities do not increase"
        for level in levels:
            most = [-1 if hits is None else look - hits for look, hits in zip(looks, level["claim_hits"], strict=True)]
            error = crossing(level["probability"], looks, most)
            if error > self.alpha:
                yield f"plan.json: p > {level['probability']} would be claimed with probability {error:.6g} where it is not so"

    def walked(self):
        """Each image's way through its blocks: the levels that it proves, and whether it went on and stopped as the plan says."""
        claims, going = ([[float("inf") if h is None else h for h in level[key]] for level in self.plan["levels"]]
                         for key in ("claim_hits", "go_on_hits"))
        said = {int(row["index"]): row["stopped"] for row in self.rows}
        for index, (selection, walk) in self.votes.items():
            crossed, hits, reason, level = [False] * len(claims), walk[:, selection[-1].argmax()], "skipped", 0
            for look, hit in enumerate(hits.tolist()):
                if reason not in ("skipped", ""):
                    yield f"image {index}: went on after it was {reason}"
                crossed = [c or hit >= claim[look] for c, claim in zip(crossed, claims, strict=True)]
                level = [*crossed, False].index(False)
                last = look + 1 == len(self.plan["boundaries"])
                reason = "complete" if all(crossed) else "cap" if last else "futile" if hit < going[level][look] else ""
            if said.get(index) != reason:
                yield f"image {index}: stopped {said.get(index)}, the votes say {reason or 'that it goes on'}"
            self.level[index] = level

    def unwhole(self):
        """Images whose votes do not end where the plan looks, and tables that do not hold each image once."""
        stations = self.plan.get("boundaries")
        for index, (selection, walk) in self.votes.items():
            drawn = walk.sum(axis=1).tolist()
            if (selection[-1].sum() if len(selection) else 0) != self.selection:
                yield f"image {index}: not {self.selection} selection votes"
            if stations and drawn != stations[:len(drawn)]:
                yield f"image {index}: blocks end at {drawn[:3]}..., the plan looks at {stations[:3]}..."
            if (self.name == "fixed" or not stations) and drawn[-1:] != [self.samples]:
                yield f"image {index}: {drawn[-1] if drawn else 0} estimation votes, {self.samples} were fixed"
        for name in self.about["certificates"]:
            indices = [int(row["index"]) for row in self.rows if row["certificate"] == name]
            if len(set(indices)) != len(indices) or set(indices) != set(self.votes):
                yield f"certificates.csv: {name} does not have each image of votes.csv once"
        labels = {}
        for row in self.rows:
            if row["certificate"] not in self.about["certificates"]:
                yield f"certificates.csv: {row['certificate']} is not in about.json"
            if labels.setdefault(row["index"], row["label"]) != row["label"]:
                yield f"certificates.csv: image {row['index']} has two labels"
