"""Which runs become one line, and what the line is called."""

from __future__ import annotations

import pytest

from robust_cli.reporting.lines.of_runs import attacked_lines, certified_lines
from robust_cli.reporting.lines.titles import in_common
from robust_cli.reporting.reading.load import load

ROWS = {"renyi": [(1, 0, 0, 0.4), (2, 0, 0, 0.8)]}


def titles(build, warnings=None):
    return [line.title for line in certified_lines(load([build.root]).certified, [] if warnings is None else warnings)]


def test_certificates_of_one_run_are_named_by_certificate_and_bounds(build):
    build.certify("a", {**ROWS, "neyman_pearson": ROWS["renyi"]})
    assert titles(build) == ["renyi, runner-up", "neyman_pearson, two-class"]


def test_a_single_line_has_a_name_too(build):
    build.certify("a", ROWS)
    assert titles(build) == ["stability, renyi"]


def test_only_what_differs_is_in_the_title(build):
    build.certify("a", ROWS, regime="standard", model_fingerprint="f1", noise_std=0.25, samples=500)
    build.certify("b", ROWS)
    lines = certified_lines(load([build.root]).certified, [])
    assert [line.title for line in lines] == ["standard, noise 0.25", "stability, noise 0.5"]
    assert in_common(lines) == "mnist, cnn_small, renyi, runner-up, failure probability 0.001"


def seeds(build, weights=(2.0, 2.0, 2.0)):
    for k, weight in enumerate(weights):
        build.train(f"t{k}", seed=k, fingerprint=f"f{k}", weight=weight)
        build.certify(f"c{k}", ROWS, train_seed=k, model_fingerprint=f"f{k}")


def test_runs_that_differ_in_nothing_but_the_seed_are_joined(build):
    seeds(build)
    lines = certified_lines(load([build.root]).certified, [])
    assert [line.title for line in lines] == ["stability, renyi (3 seeds)"]
    assert [run.about["model_fingerprint"] for run in lines[0].runs] == ["f0", "f1", "f2"]


def test_another_training_setting_is_another_line(build):
    seeds(build, weights=(2.0, 3.0, 2.0))
    assert titles(build) == ["weight 2.0 (2 seeds)", "weight 3.0"]


def test_models_whose_training_is_unknown_are_never_joined(build):
    for k in range(2):
        build.certify(f"c{k}", ROWS, train_seed=k, model_fingerprint=f"f{k}", train_run=f"gone{k}")
    assert titles(build) == ["stability, renyi, run 1 (training seed 0)", "stability, renyi, run 2 (training seed 1)"]


@pytest.mark.parametrize("key", ["noise_std", "samples", "failure_probability", "precision", "subset", "discount"])
def test_another_setting_of_the_certification_is_another_line(build, key):
    build.certify("a", ROWS)
    build.certify("b", ROWS, seed=1, **{key: {"precision": "bf16", "subset": "first:2"}.get(key, 0.25)})
    assert len(set(titles(build))) == 2


def test_a_repeat_is_left_out_and_said(build):
    build.certify("a", ROWS)
    build.certify("b", ROWS)
    warnings: list[str] = []
    assert titles(build, warnings) == ["stability, renyi"]
    assert warnings == ["b repeats a (same model, settings and seed): only the first is used."]


def test_the_worst_case_joins_attacks_of_one_target_across_folders_but_not_other_targets(build):
    def outcomes(attack, norm="l2"):
        return [
            {"attack": a, "budget": b, "index": 1, "label": 0, "robust": 1, "norm": norm}
            for a, b in (("none", 0), (attack, 0.5))
        ]

    build.attack("a", outcomes("pgd_l2"))
    build.attack("b", outcomes("second_order"))
    build.attack("c", outcomes("pgd_l2"), classifier="base", noise_std=None)
    build.attack("d", outcomes("fgsm", "linf"))
    found = [(line.title, line.norm) for line in attacked_lines(load([build.root]).attacked, [])]
    assert found == [
        ("smoothed classifier, noise 0.5, pgd_l2", "l2"),
        ("smoothed classifier, noise 0.5, second_order", "l2"),
        ("smoothed classifier, noise 0.5, fgsm", "linf"),
        ("smoothed classifier, noise 0.5, worst of pgd_l2, second_order", "l2"),
        ("base classifier, pgd_l2", "l2"),
    ]


def named(*folders):
    return certified_lines(load([folder.path for folder in folders]).certified, [])


def test_null_radii_are_the_usual_ones_and_a_long_list_is_shortened_but_still_tells_runs_apart(build):
    rows = {"renyi": [(0, 0, 0, 1.0)]}
    long = [[k / 8 for k in range(1, 9)], [k / 8 for k in range(2, 9)], [0.0, *(k / 8 for k in range(2, 9))]]
    folders = [build.certify(f"r{k}", rows, comparable=False, sampling={"name": "sequential", "radii": radii}, seed=k)
               for k, radii in enumerate([None, [0.7], *long])]
    titles = [line.title for line in named(*folders)]
    assert sorted(titles) == ["7 radii up to 1.0", "8 radii up to 1.0, run 1 (training seed 0)",
                              "8 radii up to 1.0, run 2 (training seed 0)", "radii [0.7]", "usual radii"]  # none joined as seeds


def test_a_number_of_draws_that_is_the_most_is_not_said_to_be_the_number(build):
    rows = {"renyi": [(0, 0, 0, 1.0)]}
    lines = named(build.certify("f", rows), build.certify("s", rows, sampling={"name": "sequential"}, comparable=False))
    assert "n = 1000" not in in_common(lines)
    assert "n at most 1000" in in_common(lines[1:])


def test_a_model_of_ones_own_is_named_and_entries_of_one_file_are_told_apart(build):
    rows = {"renyi": [(0, 0, 0, 1.0)]}
    own = {"regime": "own", "model": "MyNet", "model_file": "both.pt"}
    first = build.certify("a", rows, **own, model_entry="ema")
    assert [line.title for line in named(first)] == ["MyNet, renyi"]
    second = build.certify("b", rows, **own, model_entry="net", model_fingerprint="f1")
    assert [line.title for line in named(first, second)] == ["entry ema", "entry net"]
