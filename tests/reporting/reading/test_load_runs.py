"""Reading run folders: what is read, what is left out with a word, what is refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from robust_cli.messages import UserError
from robust_cli.reporting.reading.load import load

ROW = {"attack": "p", "budget": 0.5, "index": 1, "label": 0, "robust": 1}


def test_reads_every_kind_below_a_folder_and_passes_over_reports(build):
    build.train("2026/train")
    build.certify("2026/certify", {"renyi": [(1, 0, 0, 0.1)]})
    build.attack("2026/attack", [ROW])
    build._begin("2026/report", "report", {"seed": 0}, "running")
    runs = load([build.root])
    assert [len(group) for group in (runs.trained, runs.certified, runs.attacked)] == [1, 1, 1]
    assert runs.warnings == []


def test_the_same_folder_named_twice_is_read_once(build):
    folder = build.certify("c", {"renyi": [(1, 0, 0, 0.1)]}).path
    assert len(load([folder, folder, build.root]).certified) == 1


def test_floats_are_read_to_the_last_bit(build):
    radii = np.random.default_rng(0).uniform(0, 3, 500)
    folder = build.certify("c", {"renyi": [(k, 0, 0, float(r)) for k, r in enumerate(radii)]})
    assert load([folder.path]).certified[0].of("renyi")["radius"].to_numpy().tobytes() == radii.tobytes()


def test_incomplete_runs_are_left_out_with_a_warning(build):
    build.certify("good", {"renyi": [(1, 0, 0, 0.1)]})
    build.certify("bad", {"renyi": [(1, 0, 0, 0.1)]}, state="failed: out\nof memory")
    runs = load([build.root])
    assert len(runs.certified) == 1
    assert runs.warnings == ["bad is left out: this certify run is not complete (failed: out of memory)."]
    with pytest.raises(UserError, match=r"expected a complete train.*not complete"):
        load([build.root / "bad"])


@pytest.mark.parametrize(
    ("make", "words"), [(lambda root: root.mkdir(), "it holds no run"), (lambda root: None, "there is no such folder")]
)
def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path, make, words):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=words) as refused:
        load([tmp_path / "x"])
    assert "\n" not in str(refused.value)


def test_an_image_twice_is_refused(build):
    twice = build.certify("c", {"renyi": [(1, 0, 0, 0.1), (2, 0, 0, 0.1), (1, 0, 0, 0.2)]})
    with pytest.raises(UserError, match="certificate renyi, index 1 more than once"):
        load([twice.path])
    again = build.attack("a", [ROW, ROW])
    with pytest.raises(UserError, match="index 1 more than once"):
        load([again.path])


def test_damaged_files_are_refused_in_one_line(build):
    folder = build.certify("c", {"renyi": [(1, 0, 0, 0.1)]})
    folder.certificates.write_text("index,label\n1,2\n")
    with pytest.raises(UserError, match="radius missing"):
        load([folder.path])
    folder.certificates.write_text(
        "certificate,bounds,index,label,predicted,majority,p1_lower,p2_upper,radius\nr,b,1,0,0,0,1,0,x\n"
    )
    with pytest.raises(UserError, match="expected a table") as refused:
        load([folder.path])
    assert "\n" not in str(refused.value)
    folder.about.write_text("[]")
    with pytest.raises(UserError, match=r"readable about\.json"):
        load([folder.path])


def test_stored_arrays_cannot_run_code(build):
    folder = build.attack("a", [ROW])
    np.save(folder.originals, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"originals\.npy"):
        load([folder.path]).attacked[0].originals()


@pytest.mark.parametrize("named", [True, False])
def test_the_settings_of_the_training_are_found_by_fingerprint_or_by_the_run_named(build, named):
    train = build.train("train", seed=7, fingerprint="f7")
    said = {"model_fingerprint": "f7", "train_seed": 7, "train_run": str(train.path)}
    certify = build.certify("certify", {"renyi": [(1, 0, 0, 0.1)]}, **said)
    run = load([certify.path, train.path] if named else [certify.path]).certified[0]
    assert run.training == {
        "dataset._target_": "x.Mnist",
        "regime._target_": "x.Stability",
        "regime.noise_std": 0.5,
        "regime.weight": 2.0,
        "training.epochs": 2,
    }


def test_settings_of_another_model_in_the_run_named_are_not_taken(build):
    train = build.train("train", fingerprint="other")
    certify = build.certify("certify", {"renyi": [(1, 0, 0, 0.1)]}, train_run=str(train.path))
    assert load([certify.path]).certified[0].training is None


def test_a_run_without_provenance_is_read(build):
    folder = build.certify("c", {"renyi": [(1, 0, 0, 0.1)]})
    folder.provenance.write_text(json.dumps([1]))
    assert load([folder.path]).certified[0].provenance == {}


def test_in_another_precision_the_training_is_found_by_its_seed_and_names(build):
    train = build.train("train", seed=3, fingerprint="fp32 mark")
    said = {"model_fingerprint": "bf16 mark", "precision": "bf16", "train_run": str(train.path)}
    rows = {"renyi": [(1, 0, 0, 0.1)]}
    right, wrong = (build.certify(f"c{seed}", rows, train_seed=seed, **said) for seed in (3, 4))
    found = load([right.path, wrong.path]).certified
    assert [run.training is not None for run in found] == [True, False]


@pytest.mark.parametrize("key", ["failure_probability", "certificates", "model_fingerprint"])
def test_a_run_that_does_not_say_what_it_is_about_is_refused_in_one_line(build, key):
    folder = build.certify("c", {"renyi": [(1, 0, 0, 0.1)]})
    about = folder.read_about()
    del about[key]
    folder.write_about(about)
    with pytest.raises(UserError, match=f"about.json: damaged, it has no {key};") as refused:
        load([folder.path])
    assert "\n" not in str(refused.value)
