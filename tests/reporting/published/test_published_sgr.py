"""SGR's printed rows stand beside ours where data set and training are the same; white box, averages and rho by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robust_cli.reporting.lines.of_runs import attacked_lines
from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.published import sgr
from robust_cli.reporting.published.sgr_transfer import transfer_beside_ours
from robust_cli.reporting.reading.load import load

PGD = {"norm": "linf", "target": "robust_cli.attacks.pgd.Pgd", "settings": {"steps": 40}}
DEEPFOOL = {"norm": "l2", "target": "robust_cli.attacks.deepfool.DeepFool", "settings": {"steps": 50}}
INNER = {name: {"_target_": f"robust_cli.attacks.{path}", "norm": "linf"}
         for name, path in (("pgd", "pgd.Pgd"), ("fgsm", "fast_gradient.FastGradient"), ("deepfool", "deepfool.DeepFool"))}
SGR = "robust_cli.regimes.sgr.StructuredGradient"
ADVERSARIAL = "robust_cli.regimes.adversarial.Adversarial"
CLASSES = {"standard": "robust_cli.regimes.standard.Standard", "weight_decay": "robust_cli.regimes.weight_decay.WeightDecay",
           "stability": "robust_cli.regimes.stability.Stability"}
EDGE = 32 / 255


def of(target, **settings):
    return {"regime._target_": target} | {f"regime.{k}": v for k, v in settings.items()}


def flat(target, inner, norm="linf", **settings):
    return of(target, **settings) | {"regime.attack._target_": INNER[inner]["_target_"], "regime.attack.norm": norm}


@pytest.mark.parametrize(("regime", "settings", "name"), [
    ("standard", None, "clean"), ("weight_decay", None, "wdecay"), ("gradient_norm", None, "gn"), ("sgr", None, "sgr_grad"),
    ("stability", None, None), ("adversarial", None, None),
    ("mine", of("robust_cli.regimes.standard.Standard"), "clean"),
    ("a", flat(ADVERSARIAL, "pgd"), "pgd"), ("a", flat(ADVERSARIAL, "fgsm"), "fgsm"),
    ("a", flat(ADVERSARIAL, "pgd", norm="l2"), None), ("a", flat(ADVERSARIAL, "pgd", noise_std=0.25), None),
    ("a", flat(ADVERSARIAL, "deepfool"), None),
    ("s", of(SGR, perturbations="gradient"), "sgr_grad"), ("s", of(SGR, perturbations="sign"), "sgr_sign"),
    ("s", flat(SGR, "fgsm", perturbations="attack"), "fgsm_sgr"), ("s", flat(SGR, "pgd", perturbations="attack"), "pgd_sgr"),
    ("s", flat(SGR, "deepfool", perturbations="attack"), None), ("standard", of("mine.Other"), None),
])
def test_what_its_tables_call_a_training(regime, settings, name):
    assert sgr.name({"regime": regime}, settings) == name


def clean(images):
    return [{"attack": "none", "norm": "", "budget": 0, "index": i, "label": 0, "robust": 1} for i in range(images)]


def hit(attack, budget, robust, norm="linf", l2=0.0):
    return [{"attack": attack, "norm": norm, "budget": budget, "index": i, "label": 0, "robust": r, "l2": l2, "linf": 0.1}
            for i, r in enumerate(robust)]


def model(build, regime="standard", fingerprint="f0", **about):
    about = {"regime": regime, "model": "cnn_carlini", "training_noise_std": None, **about}
    build.train(f"t{fingerprint}", fingerprint=fingerprint, settings={"_target_": CLASSES[regime]}, test_accuracy=0.96,
                test_images=400, **about)
    return {"classifier": "base", "noise_std": None, "model_fingerprint": fingerprint, **about}


def beside(build):
    runs = load([build.root])
    return sgr.beside_ours(runs, attacked_lines(runs.attacked, []))


def ours(table):
    return [row for row in table.data.to_dict("records") if row["source"] == sgr.OURS]


def test_white_box_test_accuracy_and_rho_by_hand(build):
    about = model(build)
    build.attack("p", [*clean(4), *hit("pgd_linf", EDGE, [1, 0, 0, 0])], attacks={"pgd_linf": PGD}, **about)
    originals = np.stack([np.full((1, 2, 2), x, np.float32) for x in (0.5, 1.0, 0.5, 1.0)])  # of l2 length 1, 2, 1, 2
    build.attack("d", [*clean(4), *hit("deepfool", math.inf, [0] * 4, "l2", l2=0.5)], originals=originals, budgets={"l2": [1.0]},
                 attacks={"deepfool": DEEPFOOL}, **about)
    table = beside(build)
    (row,) = ours(table)
    assert (row["white_box"], row["budget"], row["test"]) == (25.0, 32, 96.0)
    assert row["rho"] == pytest.approx((0.5 + 0.25) / 2)
    printed = [r for r in table.data.to_dict("records") if r["source"] == sgr.SGR]
    assert [(r["budget"], r["white_box"], r["test"]) for r in printed] == [(32, 24.7, 99.4)]  # not the one at 64 / 255
    (later,) = [r for r in table.data.to_dict("records") if r["source"] == sgr.LATER]
    assert (later["test"], later["averaged"], later["rho"]) == (99.4, 78.3, 0.144)
    assert "test 400, DeepFool 4, white box 4" in table.rows[-1][-1]


def test_the_average_over_budgets_is_the_area_under_the_curve(build):
    outcomes = [*clean(4), *hit("pgd_linf", EDGE / 4, [1, 1, 1, 0]), *hit("pgd_linf", EDGE, [1, 0, 0, 0])]
    build.attack("p", outcomes, attacks={"pgd_linf": PGD}, **model(build))
    (row,) = ours(beside(build))
    assert row["averaged"] == pytest.approx(100 * (0.25 * (1 + 0.75) / 2 + 0.75 * (0.75 + 0.25) / 2))


@pytest.mark.parametrize("budgets", [[EDGE], [EDGE / 4, EDGE / 2], [EDGE / 2, 1.2 * EDGE]])
def test_no_average_without_a_curve_up_to_the_same_end(build, budgets):
    outcomes = [*clean(4), *(row for b in budgets for row in hit("pgd_linf", b, [1, 0, 0, 0]))]
    build.attack("p", outcomes, attacks={"pgd_linf": PGD}, **model(build))
    table = beside(build)
    assert table is None or all("averaged" not in row or math.isnan(row["averaged"]) for row in ours(table))


@pytest.mark.parametrize("other", [{"dataset": "digits"}, {"regime": "stability"}, {"classifier": "smoothed", "noise_std": 0.5}])
def test_nothing_beside_another_data_set_another_training_or_a_smoothed_classifier(build, other):
    about = {**model(build, other.get("regime", "standard")), **other}
    build.attack("p", [*clean(4), *hit("pgd_linf", EDGE, [1, 0, 0, 0])], attacks={"pgd_linf": PGD}, **about)
    table = beside(build)
    assert table is None or all(row["source"] == sgr.OURS for row in table.data.to_dict("records"))
    assert table is None or other == {"dataset": "digits"}


@pytest.mark.parametrize(("budget", "attack"), [(0.1, PGD), (EDGE, {**PGD, "target": "robust_cli.attacks.square.Square"}),
                                                (EDGE, {**PGD, "norm": "l2"})])
def test_another_budget_attack_or_norm_is_no_white_box_of_its(build, budget, attack):
    outcomes = [*clean(4), *hit("a", budget, [1, 0, 0, 0], norm=attack["norm"])]
    build.attack("p", outcomes, attacks={"a": attack}, **model(build))
    assert beside(build) is None


def test_transfers_between_its_trainings_beside_its_own(build):
    names = {"standard": "a" * 16, "weight_decay": "b" * 16, "stability": "c" * 16}
    for regime, own in names.items():
        about = model(build, regime, own)
        others = {f"pgd_linf@{f[:8]}": {"source": "gone", "attack": "pgd_linf", "fingerprint": f, "title": r}
                  for r, f in names.items() if r != regime}
        outcomes = [*clean(4), *hit("pgd_linf", EDGE, [0, 0, 0, 1])]
        outcomes += [row for name in others for row in hit(name, EDGE, [1, 1, 1, 0])]
        build.attack(f"a_{regime}", outcomes, attacks={"pgd_linf": PGD}, transfer=others, **about)
    (table,) = transfer_beside_ours(load([build.root]).attacked)
    assert table.name == "published_transfer_mnist_32"
    found = {(r["evaluated"], r["perturbed_on"]): (r["accuracy"], r["sgr_accuracy"]) for r in table.data.to_dict("records")}
    assert found == {("clean", "clean"): (0.25, 24.7), ("wdecay", "wdecay"): (0.25, 48.3), ("clean", "wdecay"): (0.75, 94.2),
                     ("wdecay", "clean"): (0.75, 97.7)}  # stability is none of its trainings
    assert table.rows[0][1:] == ["75.0 ± 21.7 (94.2)", "25.0 ± 21.7 (24.7)"] or \
        table.rows[0][1:] == ["25.0 ± 21.7 (24.7)", "75.0 ± 21.7 (94.2)"]


def test_the_report_holds_it(build, tmp_path):
    build.attack("p", [*clean(4), *hit("pgd_linf", EDGE, [1, 0, 0, 0])], attacks={"pgd_linf": PGD}, **model(build))
    report = write_report([build.root], tmp_path)
    assert "published_sgr" in report.tables
    assert "Its later version does not" in report.page.read_text()
