"""The part of verify_certificates.py for certificates of expected softmax: scores.csv, and the bounds of expectations.

No code is shared with what made the certificates.
"""

from __future__ import annotations

import numpy as np
from verify_bounds import Bad
from verify_files import read_table

OFF = 1e-6  # relative: by how much rounding may move what softmax adds up to
SAID = {"hoeffding", "empirical_bernstein"}


def read_scores(path, classes, votes):
    """By image: sums over the selection draws [K], over the estimation draws [K], and of their squares [K].

    Each block of votes must have its scores, once; ``votes`` as `verify_files.read_votes` gives them.
    """
    rows, found = read_table(path), {}
    names = [f"{what}_{k}" for what in ("sum", "square") for k in range(classes)]
    if next(rows) != ["index", "purpose", "block", "draws", *names]:
        raise Bad(f"scores.csv: not the columns of {classes} classes")
    for number, (index, purpose, block, draws, *cells) in enumerate(rows, 2):
        sums, n = np.array(cells, dtype=float), int(draws)
        total, squares = sums[:classes], sums[classes:]
        if not (np.isfinite(sums).all() and n > 0 and abs(total.sum() - n) <= OFF * n and (squares >= 0).all()
                and (squares <= total + OFF * n).all() and (squares >= total**2 / n - OFF * n).all()):
            raise Bad(f"scores.csv, line {number}: no sums of softmax over {n} draws")
        blocks = found.setdefault((int(index), purpose), {})
        if blocks.setdefault(int(block), (n, sums))[1] is not sums:
            raise Bad(f"scores.csv, line {number}: image {index}, {purpose} block {block} a second time")
    scores = {}
    for index, (selection, walk) in votes.items():
        sums = []
        for purpose, walked in (("selection", selection), ("estimation", walk)):
            blocks = found.pop((index, purpose), {})
            drawn = np.diff(walked.sum(axis=1), prepend=0).tolist() if len(walked) else []
            if [blocks[k][0] for k in sorted(blocks)] != drawn or sorted(blocks) != list(range(len(drawn))):
                raise Bad(f"scores.csv: image {index}: {purpose} blocks are not those of votes.csv")
            sums.append(np.sum([blocks[k][1] for k in blocks], axis=0) if blocks else np.zeros(2 * classes))
        scores[index] = (sums[0][:classes], sums[1][:classes], sums[1][classes:])
    if found:
        raise Bad(f"scores.csv: scores of image {next(iter(found))[0]}, which has no votes")
    return scores


def softmax_scores(folder, run):
    """What scores.csv of a run holds, {} where none of its certificates is of expected softmax."""
    soft = any(own.get("scores") == "softmax" for own in run.about["certificates"].values())
    return read_scores(folder / "scores.csv", run.classes, run.votes) if soft else {}


def unanimous(samples, selection, classes):
    """Of one image whose every softmax is 1 for the first class."""
    one = np.eye(1, classes)[0]
    return {0: (selection * one, samples * one, samples * one)}


def widths(own, total, squares, n, alpha):
    """What is taken off the mean, or added: Hoeffding 1963, Theorem 1; Maurer and Pontil 2009, Theorem 4."""
    if own["interval"] == "hoeffding":
        return np.full(np.shape(total), np.sqrt(np.log(1 / alpha) / 2 / n))
    if n < 2:
        return np.full(np.shape(total), np.inf)
    mean = total / n
    variance = np.maximum(squares / n - mean**2, 0) * (n / (n - 1))
    return np.sqrt(2 * variance * np.log(2 / alpha) / n) + 7 * np.log(2 / alpha) / 3 / (n - 1)


def softmax_bounds(run, own, indices):
    """(p1, p2, class) of each image: p1 of its own expected softmax, p2 the largest upper bound among all other classes."""
    if own["interval"] not in SAID or run.name != "fixed" or own["multiplicity"] != "pair" or (
            own["bounds"] == "two_class" and not run.selection):
        raise Bad(f"{own['bounds']}, {own['interval']} and {run.selection} selection draws under plan {run.name} make no "
                  "guarantee for expected softmax")
    selection, total, squares = (np.array(part) for part in zip(*(run.scores[i] for i in indices), strict=True))
    chosen, rows = (selection if run.selection else total).argmax(axis=1), np.arange(len(indices))
    n, alpha = run.samples, run.alpha
    below, above = (alpha, alpha) if own["bounds"] == "two_class" else (alpha / 2, alpha / 2) if run.selection else (
        alpha / 2 / run.classes, alpha / 4)
    p1 = np.clip((total - n * widths(own, total, squares, n, below))[rows, chosen] / n, 0, None)
    if own["bounds"] == "two_class":
        return p1, 1 - p1, chosen
    each = total / n + widths(own, total, squares, n, above)
    each[rows, chosen] = -1
    return p1, np.minimum(each.max(axis=1), 1 - p1), chosen


def softmax_answers(run, own, index):
    """The class of the largest mean, -1 on a tie; and the class that the bounds prove."""
    total = run.scores[index][1]
    p1, p2, chosen = softmax_bounds(run, own, [index])
    return int(total.argmax()) if (total == total.max()).sum() == 1 else -1, int(chosen[0]) if p1[0] > p2[0] else -1
