"""Figures and tables of what attack runs measured besides outcomes: noise robustness, gradient norms, softmax paths.

Everything takes the frames read from the runs' CSV files, one a run, with a title each ('' where there is a single run).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_cli.reporting.estimates import Estimate
from robust_cli.reporting.figures import COLOURS, STROKES, UNITS, drawn_figure, legend_entry
from robust_cli.reporting.reading.load import CLEAN
from robust_cli.reporting.tables import Table, number, percent

Frames = Sequence[pd.DataFrame]
_WIDE = 30.0  # a ratio of largest to smallest norm from which an axis is logarithmic
_NOISE = (
    "Of the network without noise of its own. GNR: area under the share of images whose answer stays that of the clean image, "
    "over noise of fixed length from 0 to the largest size. All draws: an image counts only if every draw keeps its answer; "
    "within the threshold: unless more than that share of the draws flip it. ± one standard error over the images.")
_GRADIENTS = (
    "Mean l2 length of the gradient of the loss that the attack raises, pixel units, ± one standard error over the images: the "
    "first and the last that it takes, and the share of images whose last is exactly zero. First row: cross entropy at the clean "
    "images.")
_PATHS = (
    "Of images right when clean and fooled. Probabilities, in %, of the label and of the class the adversarial image was taken "
    "for, ± one standard error over the images; crossing: where along the line (1 is the adversarial image) their means cross.")


def _named(title: str, text: str) -> str:
    return f"{title}, {text}" if title else text


def _band(axes: Axes, x: pd.Series, y: pd.Series, error: pd.Series, colour: str) -> None:
    axes.fill_between(x, y - error, y + error, color=colour, alpha=0.15, linewidth=0)


def _strokes(axes: Axes, words: Sequence[str]) -> None:
    """What the strokes stand for, in grey below the colours' names."""
    for text, stroke in zip(words, STROKES, strict=False):
        legend_entry(axes, text, color="#666666", linestyle=stroke)


def noise_figure(frames: Frames, titles: Sequence[str]) -> Figure:
    """Answers kept under noise of growing size (with a band of one standard error), accuracy, and the form of all draws where
    there are several: a colour a run."""
    several = any(rows["draws"].iloc[0] > 1 for rows in frames)

    def draw(axes: Axes) -> None:
        for k, (rows, title) in enumerate(zip(frames, titles, strict=True)):
            colour, x = COLOURS[k % len(COLOURS)], rows["noise_std"]
            axes.plot(x, 100 * rows["agreement"], color=colour, linestyle=STROKES[0], label=title or "_kept")
            _band(axes, x, 100 * rows["agreement"], 100 * rows["agreement_error"], colour)
            axes.plot(x, 100 * rows["accuracy"], color=colour, linestyle=STROKES[1], label=f"_{title} right")
            if rows["draws"].iloc[0] > 1:
                axes.plot(x, 100 * rows["all_agree"], color=colour, linestyle=STROKES[2], label=f"_{title} all")
        _strokes(axes, ["answer kept", "answer right", *["answer kept in all draws"] * several])

    return drawn_figure(draw, f"standard deviation of the noise ({UNITS})", "images (%)")


def noise_table(frames: Frames, titles: Sequence[str]) -> Table:
    """GNR and its two other forms, a row a run."""
    rows, data = [], []
    for frame, title in zip(frames, titles, strict=True):
        one = frame.iloc[-1]
        forms = {name: Estimate(one[name] / 100, one[f"{name}_error"] / 100, int(one["images"]))
                 for name in ("gnr", "gnr_all", "gnr_threshold")}
        draws, threshold = int(one["draws"]), float(one["threshold"])
        rows.append([title, str(int(one["images"])), f"{one['noise_std']:g}", *map(percent, forms.values()), str(draws),
                     f"{threshold:g}"])
        data.append({"run": title, "images": int(one["images"]), "largest": one["noise_std"], "draws": draws,
                     "threshold": threshold, **{k: 100 * e.value for k, e in forms.items()},
                     **{f"{k}_error": 100 * e.error for k, e in forms.items()}})
    return Table("gnr", "Robustness to Gaussian noise", pd.DataFrame(data),
                 ["", "images", "largest", "GNR %", "all draws %", "within threshold %", "draws", "threshold"], rows, [_NOISE])


def _series(frame: pd.DataFrame, every_budget: bool) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """(attack, budget, rows), of each attack the largest budget alone unless ``every_budget``; a closest one has infinity."""
    for attack in frame["attack"].unique():
        rows = frame[frame["attack"] == attack]
        budgets = sorted(rows["budget"].unique())
        for budget in budgets if every_budget else budgets[-1:]:
            yield str(attack), float(budget), rows[rows["budget"] == budget]


def _at(attack: str, budget: float) -> str:
    if attack == CLEAN:
        return "clean images"
    return f"{attack}, closest" if math.isinf(budget) else f"{attack} at {budget:g}"


def gradient_figure(frames: Frames, titles: Sequence[str]) -> Figure:
    """Mean gradient norm by iteration, with a band of one standard error, of each attack at its largest budget; the axis is
    logarithmic where norms differ widely (zeros are then not drawn)."""
    lines = [(_named(title, _at(attack, budget)), rows.sort_values("iteration"))
             for frame, title in zip(frames, titles, strict=True)
             for attack, budget, rows in _series(frame[frame["attack"] != CLEAN], False)]
    norms = np.concatenate([rows["mean_norm"].to_numpy() for _, rows in lines]) if lines else np.zeros(0)
    positive = norms[norms > 0]
    wide = len(positive) > 0 and positive.max() > _WIDE * positive.min()

    def draw(axes: Axes) -> None:
        if wide:
            axes.set_yscale("log")
        for k, (title, rows) in enumerate(lines):
            shown = rows[rows["mean_norm"] > 0] if wide else rows
            colour, x, y = COLOURS[k % len(COLOURS)], shown["iteration"], shown["mean_norm"]
            axes.plot(x, y, color=colour, linestyle=STROKES[k % len(STROKES)], label=title,
                      marker="o" if len(rows) == 1 else "")
            low = np.minimum(shown["error"], 0.9 * y) if wide else shown["error"]
            axes.fill_between(x, np.maximum(y - low, 0), y + shown["error"], color=colour, alpha=0.15, linewidth=0)
        if wide:
            axes.set_ylim(0.5 * positive.min(), 2 * positive.max())
        else:
            axes.set_ylim(0, 1.1 * max(norms.max(initial=0.0), 1e-12))

    return drawn_figure(draw, "gradients taken before", "mean l2 norm of the gradient (pixel units)")


def gradient_table(frames: Frames, titles: Sequence[str]) -> Table:
    """First and last gradient of every attack and budget, and of cross entropy at the clean images."""
    rows, data = [], []
    for frame, title in zip(frames, titles, strict=True):
        for attack, budget, found in _series(frame, True):
            found = found.sort_values("iteration")
            first, last = found.iloc[0], found.iloc[-1]
            rows.append([_named(title, _at(attack, budget)), str(first["loss"]).replace("_", " "), str(int(first["images"])),
                         str(len(found)), _norm(first), _norm(last), number(100 * last["zeros"], 1)])
            data.append({"run": title, "attack": attack, "budget": budget, "loss": first["loss"], "images": int(first["images"]),
                         "gradients": len(found), "first": first["mean_norm"], "first_error": first["error"],
                         "last": last["mean_norm"], "last_error": last["error"], "zeros": last["zeros"]})
    return Table("gradients", "Gradients that attacks climb", pd.DataFrame(data),
                 ["", "loss", "images", "gradients", "first norm", "last norm", "zero %"], rows, [_GRADIENTS])


def _norm(row: pd.Series) -> str:
    return f"{row['mean_norm']:.3g} ± {row['error']:.1g}"


def softmax_figure(frames: Frames, titles: Sequence[str]) -> Figure:
    """Probability of the label (solid) and of the adversarial class (dashed) along the way, means over images with a band of one
    standard error, of each attack at its largest budget; single images as thin lines where there is one attack alone."""
    lines = [(_named(title, _at(attack, budget)), rows) for frame, title in zip(frames, titles, strict=True)
             for attack, budget, rows in _series(frame, False)]

    def draw(axes: Axes) -> None:
        for k, (title, rows) in enumerate(lines):
            colour, mean = COLOURS[k % len(COLOURS)], rows[rows["index"] < 0].sort_values("t")
            for column, stroke, words in (("probability_label", STROKES[0], title),
                                          ("probability_adversarial", STROKES[1], f"_{title} adversarial")):
                axes.plot(mean["t"], 100 * mean[column], color=colour, linestyle=stroke, label=words)
                _band(axes, mean["t"], 100 * mean[column], 100 * mean[f"{column}_error"], colour)
                for _, single in rows[rows["index"] >= 0].groupby("index") if len(lines) == 1 else ():
                    axes.plot(single["t"], 100 * single[column], color=colour, linestyle=stroke, linewidth=0.7, alpha=0.5)
        ends = [rows["t"].max() for _, rows in lines]
        if ends and max(ends) > 1:
            axes.axvline(1, color="#666666", linestyle=":", linewidth=1)
        _strokes(axes, ["label", "class of the adversarial image"])

    return drawn_figure(draw, "place on the line (0: image, 1: adversarial image)", "softmax probability (%)")


def softmax_table(frames: Frames, titles: Sequence[str]) -> Table:
    """Mean probabilities at the adversarial image, and where they cross, of every attack and budget."""
    rows, data = [], []
    for frame, title in zip(frames, titles, strict=True):
        for attack, budget, found in _series(frame[frame["index"] < 0], True):
            found = found.sort_values("t")
            end, images = found.iloc[(found["t"] - 1).abs().argmin()], int(found["images"].iloc[0])
            chances = [Estimate(row[f"probability_{kind}"], row[f"probability_{kind}_error"], images)
                       for row, kind in ((found.iloc[0], "label"), (end, "label"), (end, "adversarial"))]
            crossing = _crossing(found)
            rows.append([_named(title, _at(attack, budget)), str(images), *map(percent, chances), number(crossing, 2)])
            data.append({"run": title, "attack": attack, "budget": budget, "images": images, "label_clean": chances[0].value,
                         "label_adversarial": chances[1].value, "adversarial": chances[2].value, "crossing": crossing})
    return Table("softmax", "Softmax from image to adversarial image", pd.DataFrame(data),
                 ["", "images", "label, clean %", "label, adversarial %", "adversarial class %", "crossing"], rows, [_PATHS])


def _crossing(rows: pd.DataFrame) -> float:
    """The first t at which the adversarial class is no less probable than the label, linear between points; nan for none."""
    gap = (rows["probability_adversarial"] - rows["probability_label"]).to_numpy(dtype=np.float64)
    t, over = rows["t"].to_numpy(dtype=np.float64), np.flatnonzero(gap >= 0)
    if not len(over):
        return math.nan
    k = int(over[0])
    return float(t[0]) if k == 0 else float(t[k - 1] + (t[k] - t[k - 1]) * -gap[k - 1] / (gap[k] - gap[k - 1]))
