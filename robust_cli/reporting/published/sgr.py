"""What SGR prints beside ours: accuracy without attack, under white-box PGD, averaged over budgets, and DeepFool's rho.

Legend (SGR, Roth et al. 2018, and its later version) -> words: clean -> standard; wdecay -> weight_decay; pgd, fgsm ->
adversarial with that attack in linf; gn -> gradient_norm; sgr_grad, sgr_sign, fgsm_sgr, pgd_sgr -> sgr with covariances of
gradients, their signs, FGSM's and PGD's perturbations; rho_adv -> DeepFool's rho, mean |r| / |x| in l2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from robust_cli.reporting.attacked.closest import measures
from robust_cli.reporting.certified.tables import SPREAD
from robust_cli.reporting.estimates import Estimate, estimate, over_runs
from robust_cli.reporting.lines.facets import TRAINING, of_run
from robust_cli.reporting.lines.line import Line
from robust_cli.reporting.lines.titles import titles
from robust_cli.reporting.published.printed import OURS, published
from robust_cli.reporting.reading.load import Attacked, Runs
from robust_cli.reporting.tables import EMPTY, Table, number, percent

SGR = "SGR (Roth et al. 2018), appendix"
LATER = "SGR, later version, Table 1"
AVERAGED = {"mnist": 32, "cifar10": 8}  # the largest budget, of 255, of the later version's averages
NEAR = 0.005  # relative: a budget of ours that stands for one of theirs
_BY_NAME = {"standard": "clean", "weight_decay": "wdecay", "gradient_norm": "gn", "sgr": "sgr_grad", "sgr_sign": "sgr_sign",
            "sgr_fgsm": "fgsm_sgr", "sgr_pgd": "pgd_sgr"}
_BY_CLASS = {"Standard": "clean", "WeightDecay": "wdecay", "GradientNorm": "gn"}
_ATTACKS = {"Pgd": "pgd", "FastGradient": "fgsm"}
_NOTE = ("SGR's numbers are as printed, of the full test set, its own network, augmented images, trainings and attack settings "
         "(iterations not recovered); the budgets of its appendix's tables are inferred, MNIST's 64 / 255 a guess. White box: "
         "PGD in linf; averaged: area under accuracy from budget 0 to the largest, over that budget. Its later version does not "
         "say which perturbations SGR has. Rho: mean |r| / |x| of DeepFool, where ours counts images wrong when clean as 0.")


def name(about: Mapping[str, Any], training: Mapping[str, Any] | None) -> str | None:
    """What SGR's tables call this training, None where they have none of its kind."""
    settings = training or {}
    of = str(settings.get("regime._target_", "")).rsplit(".", 1)[-1]
    attack = _ATTACKS.get(str(settings.get("regime.attack._target_", "")).rsplit(".", 1)[-1])
    linf = settings.get("regime.attack.norm") == "linf"
    if of == "Adversarial":
        return attack if linf and settings.get("regime.noise_std") is None else None
    if of == "StructuredGradient":
        source = str(settings.get("regime.perturbations"))
        return {"gradient": "sgr_grad", "sign": "sgr_sign", "attack": f"{attack}_sgr" if attack and linf else None}.get(source)
    return _BY_CLASS.get(of) if of else _BY_NAME.get(str(about.get("regime")))


@dataclass
class _Ours:
    """One of our models (or several seeds of one) with what was found of it; white by budget of 255."""

    name: str
    dataset: str
    run: Attacked
    tests: Estimate
    white: dict[int, Estimate] = field(default_factory=dict)
    averaged: Estimate | None = None
    rho: Estimate | None = None


def beside_ours(runs: Runs, lines: Sequence[Line[Attacked]]) -> Table | None:
    """SGR's rows of the data sets and trainings of which we have attacked the base network by PGD or DeepFool, and ours beside
    them; None where there is none."""
    ours = list(_ours(runs, lines).values())
    called = titles([{k: v for k, v in of_run(one.run).items() if k in ("model", "regime") or k.startswith(TRAINING)}
                     for one in ours])
    rows: list[list[str]] = []
    data: list[dict[str, Any]] = []
    for dataset, kind in dict.fromkeys((one.dataset, one.name) for one in ours):
        attacked = {budget for one in ours if (one.dataset, one.name) == (dataset, kind) for budget in one.white}
        for row in _printed(dataset, kind, attacked):
            data.append({"dataset": dataset, "regime": kind, **row})
            rows.append([kind, row["source"], dataset, *_cells(row), row["remark"]])
        for one, title in zip(ours, called, strict=True):
            if (one.dataset, one.name) == (dataset, kind):
                for row in _measured(one):
                    data.append({"dataset": dataset, "regime": kind, "line": title, **row})
                    rows.append([title, OURS, dataset, *_cells(row), row["remark"]])
    if not rows:
        return None
    return Table("published_sgr", "SGR's numbers beside ours: white box and DeepFool", pd.DataFrame(data),
                 ["", "source", "data set", "budget / 255", "test %", "white box %", "averaged %", "rho", "remark"], rows,
                 [_NOTE, SPREAD])


def _cells(row: Mapping[str, Any]) -> list[str]:
    def share(column: str) -> str:
        if f"{column}_error" in row:
            return percent(Estimate(row[column] / 100, row[f"{column}_error"] / 100, 1))
        return number(row.get(column, np.nan), 1)

    rho = row.get("rho", np.nan)
    return [f"{row['budget']:g}" if row.get("budget") else EMPTY, share("test"), share("white_box"), share("averaged"),
            f"{rho:.3f}" + (f" ± {row['rho_error']:.3f}" if "rho_error" in row else "") if np.isfinite(rho) else EMPTY]


def _printed(dataset: str, kind: str, attacked: Collection[int]) -> list[dict[str, Any]]:
    """Of its budgets those at which we attacked, all where we did at none."""
    white = published("sgr_transfer")
    white = white[(white["dataset"] == dataset) & (white["evaluated"] == kind) & (white["perturbed_on"] == kind)]
    white = white[white["budget_linf_255"].isin(list(attacked))] if attacked else white
    later = published("sgr_table1_later_version")
    later = later[(later["dataset"] == dataset) & (later["regime"] == ("sgr" if "sgr" in kind else kind))]
    return [*({"source": SGR, "budget": int(row["budget_linf_255"]), "test": row["test_accuracy"], "white_box": row["accuracy"],
               "remark": "full test set"} for row in white.to_dict("records")),
            *({"source": LATER, "test": row["test"], "averaged": row["pgd"], "rho": row["deepfool_rho"],
               "remark": f"averaged over 0 to {AVERAGED[dataset]} / 255"} for row in later.to_dict("records"))]


def _measured(one: _Ours) -> list[dict[str, Any]]:
    """A row a budget, the first with what belongs to none."""
    of_all: dict[str, Any] = {}
    if np.isfinite(one.tests.value):
        of_all |= {"test": 100 * one.tests.value, "test_error": 100 * one.tests.error}
    if one.averaged is not None:
        of_all |= {"averaged": 100 * one.averaged.value, "averaged_error": 100 * one.averaged.error}
    if one.rho is not None:
        of_all |= {"rho": one.rho.value, "rho_error": one.rho.error}
    sizes = {"test": one.tests.images if "test" in of_all else 0, "DeepFool": one.rho.images if one.rho else 0}
    found = []
    for budget, white in one.white.items() or [(0, None)]:
        row: dict[str, Any] = {"source": OURS, **of_all}
        if white is not None:
            row |= {"budget": budget, "white_box": 100 * white.value, "white_box_error": 100 * white.error}
            sizes["white box"] = white.images
        row["remark"] = f"{one.run.about.get('model')}; images: " + ", ".join(f"{k} {n}" for k, n in sizes.items() if n)
        found.append(row)
        of_all = {key: value for key, value in of_all.items() if key.startswith("test")}
    return found


def _ours(runs: Runs, lines: Sequence[Line[Attacked]]) -> dict[tuple[str, ...], _Ours]:
    """By the models' fingerprints, in the order of the lines; models without any such number are left out."""
    trained = {str(run.about["model_fingerprint"]): run for run in runs.trained}
    found: dict[tuple[str, ...], _Ours] = {}
    for line in lines:
        kind, norm = name(line.about, line.runs[0].training), line.norm
        attack = target(line.about, line.part)
        if kind is None or line.about.get("classifier") != "base" or not line.is_own or attack not in ("Pgd", "DeepFool"):
            continue
        prints = tuple(str(run.about["model_fingerprint"]) for run in line.runs)
        tests = [_test(trained[p].about) for p in prints if p in trained and trained[p].about.get("test_accuracy") is not None]
        one = found.setdefault(prints, _Ours(kind, str(line.about["dataset"]), line.runs[0],
                                             over_runs(tests) if tests else Estimate(np.nan, np.nan, 0)))
        if attack == "DeepFool" and one.rho is None:
            one.rho = _rho(line)
        elif attack == "Pgd" and norm == "linf":
            _white(one, line)
    return {key: one for key, one in found.items() if one.white or one.averaged or one.rho}


def target(about: Mapping[str, Any], part: str) -> str:
    """The class of an attack of a run, '' where it is not said."""
    return str((about.get("attacks", {}).get(part) or {}).get("target", "")).rsplit(".", 1)[-1]


def _test(about: Mapping[str, Any]) -> Estimate:
    accuracy, images = float(about["test_accuracy"]), int(about.get("test_images") or 0)
    return Estimate(accuracy, float(np.sqrt(accuracy * (1 - accuracy) / images)) if images else np.nan, images)


def _rho(line: Line[Attacked]) -> Estimate:
    """Mean |r| / |x| over the images with an example, as in the table of closest examples."""
    found = []
    for run in line.runs:
        relative = measures(run, line.part)["relative"].to_numpy(np.float64)
        found.append(estimate(relative[np.isfinite(relative)]))
    return over_runs(found)


def _white(one: _Ours, line: Line[Attacked]) -> None:
    """Accuracy at SGR's budgets and, where there are budgets enough, its mean up to the largest."""
    for budget in sorted(set.intersection(*(set(table["budget"]) for table in line.tables))):
        for theirs in (int(b) for b in published("sgr_transfer").query("dataset == @one.dataset")["budget_linf_255"].unique()):
            if abs(255 * budget / theirs - 1) < NEAR:
                cells = [estimate(t.loc[t["budget"] == budget, "robust"].to_numpy()) for t in line.tables]
                one.white.setdefault(theirs, over_runs(cells))
    end = AVERAGED.get(one.dataset)
    if end is not None and one.averaged is None:
        areas = [_area(table, end / 255) for table in line.tables]
        one.averaged = over_runs(areas) if all(area is not None for area in areas) else None  # type: ignore[arg-type]


def _area(table: pd.DataFrame, end: float) -> Estimate | None:
    """Mean over images of the area under its outcome from budget 0 to ``end``, over ``end``; None with fewer than two budgets
    above 0, or none at the end."""
    wide = table.pivot(index="index", columns="budget", values="robust").sort_index(axis=1)
    wide = wide.loc[:, wide.columns.to_numpy(np.float64) <= end * (1 + NEAR)]
    budgets = wide.columns.to_numpy(np.float64)
    if len(budgets) < 3 or budgets[0] != 0 or abs(budgets[-1] / end - 1) >= NEAR or wide.isna().any(axis=None):
        return None
    return estimate(trapezoid(wide.to_numpy(np.float64), budgets, axis=1) / budgets[-1])
