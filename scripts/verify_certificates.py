#!/usr/bin/env python3
"""Re-derives every radius of certify runs from their stored votes. It shares no code with what made them.

    python scripts/verify_certificates.py RUN...      (of a folder of runs every complete certify run below it)

Reads about.json, plan.json, votes.csv and certificates.csv of each run, scores.csv where a certificate is of expected
softmax, and first_layer.npy where the noise came in after the first layer. A stored radius above the one that the votes prove
is a failure, and so are votes that are not whole or do not stop where the plan looks, an operator norm that the first layer
exceeds, and files that contradict one another: exit code 1, every such row named. Radii that are needlessly small are counted
and said. What it cannot see: whether votes, scores and first layer are the model's. Runs of verifiers (lp_dual) have no votes;
they are named, and left out.
Needs numpy and scipy (and mpmath for noise=integer_grid).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.stats import binom
from verify_bounds import NAMES, Bad, clopper_pearson, mixture, radius
from verify_files import Run, below, names
from verify_scores import softmax_answers, softmax_bounds, softmax_scores, unanimous

ABOVE, BELOW = 1e-9, 1e-6  # relative: a larger radius fails, a smaller one is counted
SHOWN = 8


def kind_of(name, own):
    found = [kind for kind in NAMES if str(own.get("kind") or name).lower().replace("_", "").startswith(kind.replace("_", ""))]
    if not found:
        raise Bad(f"{name}: no formula for this certificate (about.json names no known kind)")
    return found[0]


def is_soft(own):
    """Whether a certificate is of expected softmax instead of votes."""
    return own.get("scores") == "softmax"


def derive(run, name, own, indices):
    """What the votes of some images prove: class (-1: none), p1, p2 and radius of each, and the class chosen."""
    if is_soft(own):
        p1, p2, chosen = softmax_bounds(run, own, indices)
        return np.where(p1 > p2, chosen, -1), p1, p2, own_radius(run, name, own, p1, 1 - p1, p2), chosen
    selection = np.array([run.votes[i][0][-1] if run.selection else run.votes[i][1][-1] for i in indices])
    walks = [run.votes[i][1] for i in indices]
    chosen, rows = selection.argmax(axis=1), np.arange(len(indices))
    last = np.array([walk[-1] if len(walk) else np.zeros(run.classes, dtype=np.int64) for walk in walks])
    n = np.maximum(last.sum(axis=1), 1)
    if own["interval"] != "clopper_pearson" or (own["bounds"] == "two_class" and not run.selection):
        raise Bad(f"{name}: {own['bounds']}, {own['interval']} and {run.selection} selection votes make no guarantee to verify")
    if run.name == "sequential":
        return (*proven_levels(run, name, own, chosen, indices), chosen)
    share = run.alpha if own["bounds"] == "two_class" else run.alpha / (2 if own["multiplicity"] == "pair" else run.classes)
    lower = mixture(run.plan["bets_lost_at_a_miss"], run.plan["bets_weights"]) if run.name == "anytime" else clopper_pearson
    p1, q1 = lower(last[rows, chosen], n, share)
    p2 = q1
    if own["bounds"] == "runner_up":
        others = last.copy()
        others[rows, chosen] = -1
        p2 = np.minimum(lower(n - others.max(axis=1), n, share)[1], q1)
    found = own_radius(run, name, own, p1, q1, p2)
    return np.where(p1 > p2, chosen, -1), p1, p2, np.where(p1 > p2, found, 0.0), chosen


def own_radius(run, name, own, p1, q1, p2):
    """The radius in the certificate's norm."""
    norm, shape = own.get("norm", "l2"), run.about.get("shape")
    if norm == "linf" and not shape:
        raise Bad("about.json has no shape, on which linf radii depend")
    return radius(kind_of(name, own), norm, np.prod(shape or 1), p1, q1, p2, run.std)


def proven_levels(run, name, own, chosen, indices):
    """Of a sequential plan: the class is proven to have more than the probability of the last level in order; the radius is the
    largest of the table that this gives, 1e-9 noise_std standing for 0."""
    if own["bounds"] != "two_class":
        raise Bad("a sequential plan makes no upper bound of the runner-up")
    p1 = np.array([0.0, *(level["probability"] for level in run.plan["levels"])])[[run.level[i] for i in indices]]
    most = own_radius(run, name, own, p1, 1 - p1, 1 - p1)
    table = np.array([0.0, *(max(r, 1e-9 * run.plan["noise_std"]) for r in run.plan["radii"])])
    found = table[np.searchsorted(table, most * (1 + ABOVE), side="right") - 1]
    return np.where(found > 0, chosen, -1), p1, 1 - p1, found


def ceiling(run, name, own):
    """The radius of unanimous votes."""
    one = np.eye(1, run.classes, dtype=np.int64)
    kept = run.votes, run.level, run.scores
    run.votes, run.level = {0: (run.selection * one, run.samples * one)}, {0: len(run.plan.get("levels", []))}
    run.scores = unanimous(run.samples, run.selection, run.classes)
    try:
        return float(derive(run, name, own, [0])[3][0])
    finally:
        run.votes, run.level, run.scores = kept


def majority(votes):
    """The class with the most votes, -1 on a tie."""
    return int(votes.argmax()) if (votes == votes.max()).sum() == 1 else -1


def answers(run, index):
    """Majority of the estimation votes, and the class that the binomial test of the two top votes names (None: too close)."""
    selection, walk = run.votes[index]
    last = walk[-1] if len(walk) else np.zeros(run.classes, dtype=np.int64)
    ballots = last if run.name == "fixed" else selection[-1]
    second, first = (int(v) for v in np.sort(ballots)[-2:])
    p_value = 2 * binom.sf(first - 1, first + second, 0.5) if first > second else 1.0
    alpha = float(run.about["failure_probability"])
    close = abs(p_value / alpha - 1) < 1e-7
    return majority(last), None if close else int(ballots.argmax()) if p_value < alpha else -1


def judged(run, name):
    """(what is wrong with each row, [..], how many radii are too small) of one certificate."""
    own, rows = run.about["certificates"][name], [row for row in run.rows if row["certificate"] == name]
    indices = [int(row["index"]) for row in rows]
    predicted, p1, p2, proven, chosen = derive(run, name, own, indices)
    limit, said, small, wrong = ceiling(run, name, own), float(own["largest_radius"]), 0, []
    if said > limit * (1 + ABOVE):
        wrong.append(f"about.json: largest_radius {said}, unanimous votes prove {limit}")
    for k, row in enumerate(rows):
        stored, answer, faults = float(row["radius"]), int(row["predicted"]), []
        if answer != -1 and answer != predicted[k]:
            faults.append(f"class {answer}, the votes certify {'none' if predicted[k] == -1 else predicted[k]}")
        if not 0 <= stored <= (proven[k] if answer != -1 else 0) * (1 + ABOVE) or stored > max(said, 1e-9 * run.std):
            faults.append(f"radius {stored}, the votes prove {proven[k] if answer != -1 else 0.0:.12g}")
        if float(row["p1_lower"]) > p1[k] * (1 + ABOVE) or float(row["p2_upper"]) < p2[k] * (1 - ABOVE):
            faults.append(f"bounds {row['p1_lower']}, {row['p2_upper']}, the votes prove {p1[k]:.12g}, {p2[k]:.12g}")
        faults += around(run, row, own, int(chosen[k]))
        small += stored < proven[k] * (1 - BELOW)
        wrong += [f"image {row['index']}, {name}: {fault}" for fault in faults]
    return len(rows), wrong, small


def around(run, row, own, chosen):
    """What a row says besides its radius."""
    index = int(row["index"])
    walk = run.votes[index][1]
    drawn = int(walk[-1].sum()) if len(walk) else 0
    most, named = softmax_answers(run, own, index) if is_soft(own) else answers(run, index)
    skipped = row.get("stopped") == "skipped"
    if skipped and not (run.about.get("label_aware") and drawn == 0 and chosen != int(row["label"])):
        yield "skipped, but not label-aware, or not before its votes, or not for a wrong class"
    if not skipped and drawn == 0:
        yield "no estimation votes"
    if int(row["majority"]) != (-1 if skipped else most):
        yield f"majority {row['majority']}, the votes say {most}"
    if "prediction" in row and named is not None and int(row["prediction"]) != (-1 if skipped else named):
        yield f"prediction {row['prediction']}, the votes say {named}"
    if "draws" in row and int(row["draws"]) < drawn + run.selection:
        yield f"{row['draws']} draws, but {drawn + run.selection} votes"
    if row["bounds"] != own["bounds"] or row.get("norm", "l2") != own.get("norm", "l2"):
        yield "bounds or norm are not those of about.json"


def main(folders):
    if not folders:
        raise SystemExit(__doc__)
    runs, failed, passed = [], False, 0
    for path in map(Path, folders):
        found, left_out = below(path)
        runs += [run for run in found if run not in runs]
        for run, why in left_out:
            print(f"{run}: {why}")
            passed += run == path  # named itself, it does not go without saying
        if not found and not left_out:
            print(f"{path}: no complete certify run is in it")
            passed += 1
    shown = names(runs)
    wide = max((len(name) for name in shown), default=3)
    if runs:
        print(f"{'run':{wide}} {'certificate':20} {'plan':11} {'rows':>7} {'wrong':>6} {'too small':>10}")
    for folder, title in zip(runs, shown, strict=True):
        try:
            run = Run(folder)
            run.scores = softmax_scores(folder, run)
        except (Bad, KeyError, ValueError) as error:
            print(f"{title:{wide}} cannot be verified: {type(error).__name__ + ' ' if not isinstance(error, Bad) else ''}{error}")
            failed = True
            continue
        problems = list(run.problems)
        for name in run.about["certificates"] if not problems else []:
            try:
                count, wrong, small = judged(run, name)
            except (Bad, KeyError, ValueError) as error:
                count, wrong, small = 0, [f"{name} cannot be verified: {error!s}"], 0
            print(f"{title:{wide}} {name:20} {run.name:11} {count:7} {len(wrong):6} {small:10}")
            problems += wrong
        for problem in problems[:SHOWN]:
            print(f"  FAIL {title}: {problem}")
        if len(problems) > SHOWN:
            print(f"  ... and {len(problems) - SHOWN} more")
        failed |= bool(problems)
    proven = "all radii are proven by their votes" if runs else "nothing was verified"
    print("FAIL" if failed else f"{proven}{f', but {passed} of what was named could not be verified' * bool(passed and runs)}")
    return int(failed or passed > 0 or not runs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
