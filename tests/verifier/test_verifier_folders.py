"""What the verifier is given: runs of other commands, unfinished ones, folders of runs, names that are alike."""

from __future__ import annotations

import json
import shutil

import verify_certificates
from tampering import radius_times_1_01
from verify_files import names


def said(capsys, *paths):
    return verify_certificates.main([str(path) for path in paths]), capsys.readouterr().out.splitlines()


def status(folder, **found):
    folder.mkdir(exist_ok=True)
    (folder / "status.json").write_text(json.dumps(found))
    return folder


def test_a_train_run_is_named_as_such_in_one_line_and_the_rest_is_verified(runs, tmp_path, capsys):
    train = status(tmp_path / "train_x", command="train", state="complete")
    code, lines = said(capsys, train, runs["fixed"])
    assert code == 1
    assert lines[0] == f"{train}: not a certify run, but one of train: it has no radii"
    assert lines[-1] == "all radii are proven by their votes, but 1 of what was named could not be verified"


def test_an_unfinished_run_says_how_to_go_on(tmp_path, capsys):
    run = status(tmp_path / "half", command="certify", state="running")
    code, lines = said(capsys, run)
    assert code == 1
    assert lines == [f"{run}: not complete (running): go on with it by robust certify resume={run}", "nothing was verified"]


def test_folders_of_runs_are_searched_and_other_commands_in_them_go_without_saying(runs, tmp_path, capsys):
    for place in ("sweep/a/fixed", "sweep/b/fixed"):
        shutil.copytree(runs["fixed"], tmp_path / place)
    status(tmp_path / "sweep" / "report", command="report", state="complete")
    code, lines = said(capsys, tmp_path)
    assert code == 0
    assert [line.split()[0] for line in lines[1:-1:3]] == ["a/fixed", "b/fixed"]
    assert "report" not in " ".join(lines)
    radius_times_1_01(tmp_path / "sweep" / "b" / "fixed")
    code, lines = said(capsys, tmp_path, tmp_path / "sweep")  # each run once
    assert code == 1
    assert [line.split(":")[0].strip() for line in lines if "FAIL" in line] == ["FAIL b/fixed", "FAIL"]


def test_nothing_to_verify_is_no_success(tmp_path, capsys):
    code, lines = said(capsys, tmp_path)
    assert code == 1
    assert lines == [f"{tmp_path}: no complete certify run is in it", "nothing was verified"]


def proofs(folder, **bounds):
    about = {"certificates": {name: {"bounds": kind} for name, kind in bounds.items()}}
    (status(folder, command="certify", state="complete") / "about.json").write_text(json.dumps(about))
    return folder


WHY = "proven of the network itself, so that there are no votes to derive these radii from; attacks of the base classifier"


def test_rows_without_votes_are_named_in_one_line_and_are_no_failure(runs, tmp_path, capsys):
    (tmp_path / "all").mkdir()
    run = proofs(tmp_path / "all" / "dual", lp_dual="deterministic", wide="deterministic")
    code, lines = said(capsys, run)
    assert code == 1, "named itself, it was not verified"
    assert len(lines) == 2
    assert lines[0].startswith(f"{run}: lp_dual, wide: {WHY}")
    assert lines[1] == "nothing was verified"
    shutil.copytree(runs["fixed"], tmp_path / "all" / "fixed")
    code, lines = said(capsys, tmp_path / "all")
    assert code == 0
    assert lines[0].startswith(f"{run}: lp_dual, wide: {WHY}")
    assert lines[-1] == "all radii are proven by their votes"
    (run / "status.json").unlink()
    assert said(capsys, run)[1][0].startswith(f"{run}: lp_dual, wide: {WHY}")


def test_a_run_that_only_says_so_of_one_of_its_certificates_is_verified_as_ever(tmp_path, capsys):
    run = proofs(tmp_path / "odd", lp_dual="deterministic", renyi="runner_up")
    code, lines = said(capsys, run)
    assert code == 1
    assert "cannot be verified" in lines[-2]


def test_names_are_as_long_as_it_takes_to_tell_runs_apart(tmp_path):
    alike = "181551_certify_mnist_cnn_small_stability"
    assert names([tmp_path / alike, tmp_path / f"{alike}_merged"]) == [alike, f"{alike}_merged"]
    assert names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]
