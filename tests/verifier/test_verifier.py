"""The verifier of stored certificates: what the package makes passes, and whatever is changed afterwards is caught."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import tampering
import verify_certificates
from tampering import CHANGES, SEQUENTIAL, certified_row, change_json, change_rows


def verdict(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = verify_certificates.main([str(run)])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("name", [
    "fixed", "single", "sequential", "label_aware", "integer_grid", "laplace", "uniform", "anytime", "first_layer", "softmax",
    "soft_layer"])
def test_what_the_package_makes_is_proven_by_its_votes(runs, name, capsys):
    code, out = verdict(runs[name], capsys)
    assert code == 0, out
    assert "all radii are proven" in out
    lines = [line.split() for line in out.splitlines()[1:-1]]
    assert [line[-3:] for line in lines] == [["8", "0", "0"]] * len(lines)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["fixed", "sequential", "anytime"])
def test_what_was_changed_afterwards_is_caught(copied, name, change, capsys):
    run = copied(name)
    change(run)
    code, out = verdict(run, capsys)
    assert code == 1, out
    assert CHANGES[change] in out
    assert out.splitlines()[-1] == "FAIL"


@pytest.mark.parametrize("change", [tampering.radius_times_1_01, tampering.bounds_raised, tampering.majority_changed,
                                    tampering.prediction_changed, tampering.largest_radius_changed, tampering.votes_moved,
                                    tampering.noise_changed], ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["softmax", "first_layer"])
def test_what_was_changed_in_runs_of_other_kinds_is_caught(copied, name, change, capsys):
    run = copied(name)
    change(run)
    assert verdict(run, capsys)[0] == 1


@pytest.mark.parametrize("change", SEQUENTIAL, ids=lambda change: change.__name__)
def test_what_was_changed_in_a_sequential_run_is_caught(copied, change, capsys):
    run = copied("sequential")
    change(run)
    code, out = verdict(run, capsys)
    assert code == 1, out
    assert SEQUENTIAL[change] in out


def test_what_integers_lack_to_the_ideal_noise_must_be_charged(copied, capsys):
    run = copied("integer_grid")
    about = json.loads((run / "about.json").read_text())
    change_json(run / "plan.json", lambda plan: plan.update(failure_probability=about["failure_probability"]))
    code, out = verdict(run, capsys)
    assert code == 1
    assert "of the noise" in out


def test_a_label_aware_run_may_skip_wrong_classes_alone(copied, capsys):
    run = copied("label_aware")
    change_json(run / "about.json", lambda about: about.update(label_aware=False))
    with (run / "certificates.csv").open(newline="") as file:
        skipped = any(row["stopped"] == "skipped" for row in csv.DictReader(file))
    code, out = verdict(run, capsys)
    assert (code, "not label-aware" in out) == ((1, True) if skipped else (0, False))


def test_the_failure_probability_is_checked_by_the_radii_themselves(copied, capsys):
    run = copied("fixed")
    for file in ("about.json", "plan.json"):
        change_json(run / file, lambda found: found.update(failure_probability=1e-5))
    code, out = verdict(run, capsys)
    assert code == 1
    assert "the votes prove" in out


def test_bets_that_are_no_test_martingale_are_refused(copied, capsys):
    run = copied("anytime")
    change_json(run / "plan.json", lambda plan: plan.update(bets_weights=[10 * w for w in plan["bets_weights"]]))
    code, out = verdict(run, capsys)
    assert code == 1
    assert "martingale" in out


def test_a_radius_that_is_needlessly_small_is_counted_and_no_failure(copied, capsys):
    run = copied("fixed")
    change_rows(run / "certificates.csv", lambda rows: certified_row(rows).update(radius="0.001"))
    code, out = verdict(run, capsys)
    assert code == 0, out
    assert [line.split()[-1] for line in out.splitlines()[1:-1]] == ["1", "0", "0"]


def test_one_bad_run_fails_them_all_and_a_folder_without_files_is_no_crash(runs, copied, tmp_path, capsys):
    run = copied("fixed")
    tampering.radius_times_1_01(run)
    assert verify_certificates.main([str(runs["fixed"]), str(run)]) == 1
    assert verify_certificates.main([str(tmp_path / "none")]) == 1
    assert "no complete certify run is in it" in capsys.readouterr().out
