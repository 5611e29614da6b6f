"""What may be changed in a finished certify run, each by a function of its folder; by each the words that must be said then."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def change_rows(path: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    header = list(rows[0])
    change(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def certified_row(rows: list[dict[str, str]]) -> dict[str, str]:
    return next(row for row in rows if row["predicted"] != "-1" and float(row["radius"]) > 0)


def radius_times_1_01(run):
    change_rows(run / "certificates.csv", lambda rows: certified_row(rows).update(
        radius=repr(1.01 * float(certified_row(rows)["radius"]))))


def class_swapped(run):
    change_rows(run / "certificates.csv", lambda rows: certified_row(rows).update(
        predicted=str((int(certified_row(rows)["predicted"]) + 1) % 10)))


def bounds_raised(run):
    change_rows(run / "certificates.csv", lambda rows: certified_row(rows).update(p1_lower="0.9999999"))


def abstention_with_a_radius(run):
    change_rows(run / "certificates.csv", lambda rows: certified_row(rows).update(predicted="-1"))


def majority_changed(run):
    change_rows(run / "certificates.csv", lambda rows: rows[0].update(majority=str((int(rows[0]["majority"]) + 1) % 10)))


def prediction_changed(run):
    change_rows(run / "certificates.csv", lambda rows: rows[0].update(prediction=str((int(rows[0]["prediction"]) + 1) % 10)))


def draws_hidden(run):
    change_rows(run / "certificates.csv", lambda rows: rows[0].update(draws="10"))


def called_skipped(run):
    change_rows(run / "certificates.csv", lambda rows: rows[0].update(stopped="skipped", predicted="-1", radius="0.0"))


def image_left_out(run):
    change_rows(run / "certificates.csv", lambda rows: rows.pop(1))


def image_twice(run):
    change_rows(run / "certificates.csv", lambda rows: rows.append(dict(rows[-1])))


def label_changed(run):
    change_rows(run / "certificates.csv", lambda rows: rows[0].update(norm="linf"))


def votes_moved(run):
    """In the last block of a certified image: ten votes of its class to another."""
    with (run / "certificates.csv").open(newline="") as file:
        row = certified_row(list(csv.DictReader(file)))

    def move(rows: list[dict[str, str]]) -> None:
        block = [r for r in rows if r["index"] == row["index"] and r["purpose"] == "estimation"][-1]
        own, other = f"votes_{row['predicted']}", f"votes_{(int(row['predicted']) + 1) % 10}"
        block.update({own: str(int(block[own]) - 10), other: str(int(block[other]) + 10)})
    change_rows(run / "votes.csv", move)


def vote_added(run):
    change_rows(run / "votes.csv", lambda rows: rows[-1].update(votes_0=str(int(rows[-1]["votes_0"]) + 1)))


def block_twice(run):
    change_rows(run / "votes.csv", lambda rows: rows.append(dict(rows[-1])))


def block_lost(run):
    change_rows(run / "votes.csv", lambda rows: rows.pop(2))


def last_line_cut(run):
    text = (run / "votes.csv").read_text()
    (run / "votes.csv").write_text(text[:-8])


def smaller_failure_probability(run):
    change_json(run / "about.json", lambda about: about.update(failure_probability=0.0001))


def larger_failure_probability(run):
    change_json(run / "about.json", lambda about: about.update(failure_probability=0.01))


def larger_in_the_plan_alone(run):
    change_json(run / "plan.json", lambda plan: plan.update(failure_probability=0.01))


def noise_changed(run):
    change_json(run / "about.json", lambda about: about.update(noise_std=0.4))


def seed_changed(run):
    change_json(run / "about.json", lambda about: about.update(seed=5))


def boundaries_changed(run):
    change_json(run / "plan.json", lambda plan: plan.update(boundaries=[100, *plan["boundaries"][2:]]))


def largest_radius_changed(run):
    change_json(run / "about.json", lambda about: [own.update(largest_radius=9.0) for own in about["certificates"].values()])


def asymptotic_interval(run):
    change_json(run / "about.json", lambda about: [own.update(interval="sison_glaz") for own in about["certificates"].values()])


CHANGES = {
    radius_times_1_01: "radius", class_swapped: "class", bounds_raised: "bounds", abstention_with_a_radius: "radius",
    majority_changed: "majority", prediction_changed: "prediction", draws_hidden: "10 draws", called_skipped: "skipped",
    image_left_out: "each image", image_twice: "each image", label_changed: "norm", votes_moved: "the votes ",
    vote_added: "add up", block_twice: "second time", block_lost: "", last_line_cut: "",
    smaller_failure_probability: "about.json says 0.0001", larger_failure_probability: "about.json says 0.01",
    larger_in_the_plan_alone: "plan spends 0.01", noise_changed: "noise 0.5, but 0.4", seed_changed: "seed",
    boundaries_changed: "the plan looks at", largest_radius_changed: "largest_radius", asymptotic_interval: "guarantee"}


def level_bumped(run):
    """The radius and the level one further in the table."""
    plan = json.loads((run / "plan.json").read_text())
    levels = [level["probability"] for level in plan["levels"]]

    def bump(rows: list[dict[str, str]]) -> None:
        row = next(r for r in rows if 0 < float(r["p1_lower"]) < levels[-1])
        row.update(radius=repr(min(r for r in plan["radii"] if r > float(row["radius"]))),
                   p1_lower=repr(min(p for p in levels if p > float(row["p1_lower"]))))
    change_rows(run / "certificates.csv", bump)


def radius_between_the_levels(run):
    change_rows(run / "certificates.csv", lambda rows: certified_row(rows).update(
        radius=repr(float(certified_row(rows)["radius"]) + 0.2)))


def claimed_too_easily(run):
    def lower(plan: dict[str, Any]) -> None:
        claims = plan["levels"][1]["claim_hits"]
        claims[-1] -= 6  # of some 600: at p_A = level once in a few hundred runs more
    change_json(run / "plan.json", lower)


def claimed_at_a_look_of_luck(run):
    change_json(run / "plan.json", lambda plan: plan["levels"][2]["claim_hits"].__setitem__(0, 60))


def level_moved_down(run):
    """The same counts would prove less."""
    def move(plan: dict[str, Any]) -> None:
        plan["levels"][1]["probability"] += 0.01
    change_json(run / "plan.json", move)


def levels_out_of_order(run):
    change_json(run / "plan.json", lambda plan: plan["levels"].reverse())


def stopped_for_another_reason(run):
    change_rows(run / "certificates.csv", lambda rows: rows[0].update(
        stopped="cap" if rows[0]["stopped"] != "cap" else "complete"))


def given_up_earlier(run):
    change_json(run / "plan.json", lambda plan: [level["go_on_hits"].__setitem__(0, 65) for level in plan["levels"]])


def last_block_left_out(run):
    """Of an image with several: it should have gone on, or went on from where it had stopped."""
    def leave_out(rows: list[dict[str, str]]) -> None:
        block = next(r for r in reversed(rows) if r["purpose"] == "estimation" and int(r["block"]) > 0
                     and not any(s["index"] == r["index"] and int(s["block"]) > int(r["block"]) for s in rows))
        rows.remove(block)
    change_rows(run / "votes.csv", leave_out)


SEQUENTIAL = {
    level_bumped: "the votes prove", radius_between_the_levels: "the votes prove", claimed_too_easily: "would be claimed",
    claimed_at_a_look_of_luck: "would be claimed", level_moved_down: "", levels_out_of_order: "do not increase",
    stopped_for_another_reason: "stopped", given_up_earlier: "went on after it was futile", last_block_left_out: "the votes say"}
