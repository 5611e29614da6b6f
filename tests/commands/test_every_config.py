"""Every config under conf/ is composed and run for a step on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from invoking import robust
from published_formats import write_cifar, write_mnist

from robust_cli.certificates.certificate import USUAL
from robust_cli.composing.build import build
from robust_cli.composing.schema import Noise
from robust_cli.composing.verifiers import verifiers
from robust_cli.datasets.cifar import Cifar10, Cifar100
from robust_cli.evaluation.plan import is_closest, kind
from robust_cli.runs.folder import RunFolder

CONF = Path(__file__).resolve().parents[2] / "conf"
STEP = ("training.epochs=1", "training.batch_size=2", "subset=first:4")
QUICK = ("steps", "queries", "samples", "iterations", "sizes", "tries", "bisections", "search_steps", "doublings",
         "initial_queries", "targets", "starts")
SPECIAL = {"steps": ["training.milestones=[1]"], "plateau": ["dataset.validation=0.25"]}


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All data sets that need files, in small."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    for name in ("MNIST", "FashionMNIST"):
        write_mnist(root, name)
    for cifar in (Cifar10, Cifar100):
        write_cifar(root, cifar, monkeypatch)
    monkeypatch.setenv("ROBUST_DATA", str(root))
    return root


@pytest.mark.parametrize("dataset", names("dataset"))
def test_every_data_set_goes_through_the_whole_job(dataset: str, data: Path) -> None:
    run = robust("train", f"dataset={dataset}", "dataset.augment=crop_flip", "regime=noise_augmentation", *STEP).folder
    few = ("subset=first:2", f"run={run}")
    certified = robust("certify", *few, "samples=40", "selection_samples=10").folder
    attacked = robust("attack", *few, "attack=[fgsm,pgd_l2]", "attack.pgd_l2.steps=2", "decision_votes=20").folder
    norms = attacked.read_about()["budgets"]
    assert norms["l2"][0] == (0.2 if dataset.startswith("cifar") else 0.5)  # the data set's own sizes
    assert robust("report", str(certified), str(attacked), str(run)).code == 0


NARROW = {name: ["model.width=1"] for name in ("wrn_28_10", "wrn_34_10", "wrn_madry")}  # 46 million weights take a minute
FINISHED = ("exported", "torchscript", "torchvision")  # models from files; test_own_models.py runs them


@pytest.mark.parametrize("model", [name for name in names("model") if name not in FINISHED])
@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_every_model_trains_on_both_shapes(model: str, dataset: str, data: Path) -> None:
    answer = robust("train", f"dataset={dataset}", f"model={model}", "regime=standard", *STEP, *NARROW.get(model, []))
    if (model, dataset) == ("alexnet", "digits"):
        assert "expected images of at least 29x29 pixels" in answer.err
        return
    run = answer.folder
    assert run.model.exists()
    assert run.read_about()["model"] == model


@pytest.mark.parametrize("regime", names("regime"))
def test_every_regime_takes_a_step(regime: str, data: Path) -> None:
    fewer = ["regime.step_size=null"] if regime.startswith("trades") else []  # its step belongs to its number of steps
    run = robust("train", f"regime={regime}", *STEP, *small(node("regime", regime), "regime"), *fewer).folder
    about, settings = run.read_about(), run.read_config()["regime"]
    # What certify smooths with where nothing is said: noise with correlations is none that a certificate is for.
    assert about["training_noise_std"] == (None if regime == "lrc_augmentation" else settings.get("noise_std"))
    terms = run.metrics.read_text().splitlines()[0].split(",")
    assert len(terms) > 8, "a regime names the terms of its loss"


@pytest.mark.parametrize("schedule", ["constant", "one_cycle", "cosine", "steps", "plateau"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_schedule_and_optimizer_takes_a_step(schedule: str, optimizer: str, data: Path) -> None:
    words = [f"training.schedule={schedule}", f"training.optimizer={optimizer}", *SPECIAL.get(schedule, [])]
    assert robust("train", *STEP, *words).code == 0


VERIFIERS = verifiers({file.stem: yaml.safe_load(file.read_text()) for file in sorted((CONF / "certificate").glob("*.yaml"))})


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("certificate", VERIFIERS)
def test_every_verifier_runs_in_both_norms(certificate: str, norm: str, trained: RunFolder, data: Path) -> None:
    run = robust("certify", f"run={trained}", f"certificate={certificate}", f"certificate.{certificate}.norm={norm}",
                 "subset=first:2").folder
    about = run.read_about()
    assert (about["certificates"][certificate]["norm"], about["noise_std"]) == (norm, None)
    assert robust("report", str(run)).code == 0


@pytest.mark.parametrize("certificate", [name for name in names("certificate") if name not in VERIFIERS])
def test_every_certificate_runs_alone_with_both_kinds_of_bounds(certificate: str, trained: RunFolder, data: Path) -> None:
    noise = certificate.removesuffix("_l1") if certificate.endswith("_l1") else "gaussian"
    for bounds in ("two_class", "runner_up"):
        run = robust("certify", f"run={trained}", f"certificate={certificate}", f"certificate.{certificate}.bounds={bounds}",
                     f"noise={noise}", "subset=first:2", "samples=40", "selection_samples=10").folder
        assert run.read_about()["certificates"][certificate]["bounds"] == bounds


@pytest.mark.parametrize("noise", [noise.name for noise in Noise])
@pytest.mark.parametrize("plan", names("sampling"))
def test_every_plan_runs_with_every_noise(plan: str, noise: str, trained: RunFolder, data: Path) -> None:
    certificate = USUAL[noise]
    run = robust("certify", f"run={trained}", f"sampling={plan}", f"certificate={certificate}", f"noise={noise}",
                 "subset=first:2", "samples=80").folder
    about = run.read_about()
    assert (about["noise"], about["sampling"]["name"]) == (noise, plan)
    assert robust("report", str(run)).code == 0


def node(group: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text())


def small(settings: dict[str, Any], place: str) -> list[str]:
    """Overrides that make an attack quick, those of its members included."""
    found = [f"{place}.{key}=2" for key in settings if key in QUICK]
    for key, value in settings.items():
        found += small(value, f"{place}.{key}") if isinstance(value, dict) else []
    return found


@pytest.mark.parametrize("classifier", ["base", "smoothed"])
@pytest.mark.parametrize("attack", names("attack"))
def test_every_attack_runs_on_both_kinds_of_classifier(attack: str, classifier: str, trained: RunFolder, data: Path) -> None:
    """Those that cannot take a smoothed one, or only a cascade, say so in one line, and leave no folder."""
    built = build(node("attack", attack), f"attack.{attack}")
    suited = classifier == "base" or kind(built) == "decisions" or not (is_closest(built) or getattr(built, "by_scores", False))
    own = hasattr(built, "check_victim")  # for a kind of model that test_cascade_runs.py trains
    words = ["attack", f"run={trained}", f"attack={attack}", f"classifier={classifier}", "subset=first:2",
             *small(node("attack", attack), f"attack.{attack}"), "budgets.l2=[1.0]", "budgets.linf=[0.1]", "budgets.l1=[5.0]",
             "budgets.std=[0.1]", "decision_votes=20", "gradient_draws=2", "query_votes=5"]
    if suited and not own:
        about = robust(*words).folder.read_about()
        assert about["classifier"] == classifier
        assert about["attacks"][attack]["kind"] == kind(built)
        return
    before = sorted(Path("outputs").glob("*/*")) if Path("outputs").exists() else []
    refused = robust(*words)
    assert refused.code != 0
    assert f"attack.{attack}: expected a {'cascade of networks' if own else 'base classifier'}" in refused.err
    assert refused.err.count("\n") == 1
    assert (sorted(Path("outputs").glob("*/*")) if Path("outputs").exists() else []) == before


@pytest.mark.parametrize("measure", names("measure"))
def test_every_measure_is_taken_and_shown(measure: str, trained: RunFolder, data: Path) -> None:
    run = robust("attack", f"run={trained}", "attack=[pgd_l2]", "attack.pgd_l2.steps=3", "budgets.l2=[8.0]", "classifier=base",
                 f"measure={measure}", "subset=first:6").folder
    assert len(run.table(measure).read_text().splitlines()) > 1
    assert list(run.path.glob(f"{measure}*.png"))
    assert robust("report", str(run)).code == 0


def test_a_measure_alone_needs_no_attack(trained: RunFolder, data: Path) -> None:
    answer = robust("attack", f"run={trained.path}", "classifier=base", "attack=[]", "measure=noise_robustness", "subset=first:6")
    assert answer.code == 0
    assert "accuracy on 6 clean images, none attacked: " in answer.out
    assert len(answer.folder.table("noise_robustness").read_text().splitlines()) > 1
    assert robust("report", str(answer.folder)).code == 0


@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_trains(experiment: str, data: Path) -> None:
    answer = robust("train", f"experiment={experiment}", *STEP[:2], "subset=first:12")
    assert answer.code == 0, answer.err
