"""A network and a cascade trained on their dual bounds, certified by both counts, attacked and reported: whole runs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from invoking import Answer, robust
from safetensors.torch import load_file

from robust_cli.runs.folder import RunFolder

OWN = ("-cd", "my")
TRUSTED = "trust=[dense_network.Dense]"  # of the run to start from
SOME = "subset=first:400"
RADIUS = 1.0
LP = ("regime=lp_dual", f"regime.radius={RADIUS}", "training.learning_rate=0.005", "training.batch_size=64")
DENSE = ("model=dense", *LP)
FEW = "subset=first:60"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's model, a network of it, a cascade of two that goes on from that network, and what is proven and done to it."""
    root = tmp_path_factory.mktemp("cascade")
    (root / "my" / "model").mkdir(parents=True)
    (root / "my" / "model" / "dense.yaml").write_text(
        "# Two layers. Source: none\n_target_: dense_network.Dense\nwidth: 16  # units\n")
    shutil.copy(Path(__file__).parent / "dense_network.py", root / "my")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.path", list(sys.path))
        for words in (("train", *DENSE, "training.epochs=8", SOME, "hydra.run.dir=single"),
                      ("train", *DENSE, "training.epochs=8", SOME, "regime.stages=2", "regime.given_stages=1",
                       "training.init_from=single", TRUSTED, "hydra.run.dir=cascade"),
                      ("certify", "run=cascade", "certificate=[lp_dual,lp_dual_published]", FEW, "hydra.run.dir=proven"),
                      ("attack", "run=cascade", "attack=[pgd_l2,cascade_l2]", f"budgets.l2=[{RADIUS}]", FEW,
                       "attack.pgd_l2.steps=10", "hydra.run.dir=attacked")):
            answer = robust(*words, *OWN)
            assert answer.code == 0, answer.err
        yield root


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with the user's configs."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "my", tmp_path / "my")
    return tmp_path


def rows(folder: Path, file: str) -> pd.DataFrame:
    return pd.read_csv(folder / file).set_index("index", drop=False)


def radii(place: Path, certificate: str) -> pd.Series:
    table = rows(place / "proven", "certificates.csv")
    return table[table["certificate"] == certificate]["radius"]


def refused(answer: Answer) -> str:
    """The one line of a mistake that left no folder."""
    assert (answer.code, answer.err.count("\n"), answer.folders) == (2, 1, []), answer.err + answer.out
    return answer.err


# ---- The cascade --------------------------------------------------------------------------------------------------------------

def test_a_given_stage_is_the_network_it_was_to_the_last_bit(place: Path) -> None:
    single, cascade = (load_file(place / name / "model.safetensors") for name in ("single", "cascade"))
    for name, tensor in single.items():
        assert torch.equal(cascade[f"stages.0.{name}"], tensor), name
        assert not torch.equal(cascade[f"stages.1.{name}"], tensor) or "normalisation" in name
    assert (float(cascade["gate_radius"]), int(cascade["used"])) == (RADIUS, 2)
    abouts = [RunFolder(place / name).read_about() for name in ("single", "cascade")]
    assert abouts[1]["parameters"] == 2 * abouts[0]["parameters"]
    assert abouts[0]["model_fingerprint"] != abouts[1]["model_fingerprint"]
    assert [about["training_noise_std"] for about in abouts] == [None, None]


def test_its_metrics_tell_what_was_left_to_it(place: Path) -> None:
    table = pd.read_csv(place / "cascade" / "metrics.csv")
    assert (table["left"] == table["left"][0]).all(), "images do not change, nor does the given stage"
    assert 0.02 < table["left"][0] < 0.9
    assert table["uncertified"].between(0, 1).all()
    single = pd.read_csv(place / "single" / "metrics.csv")
    assert single["uncertified"].iloc[-1] < 0.7 * single["uncertified"].iloc[0]
    assert (single["robust_cross_entropy"] > single["cross_entropy"]).all()


def test_the_two_counts(place: Path) -> None:
    sound, published = (radii(place, name) for name in ("lp_dual", "lp_dual_published"))
    assert set(published) == {0.0, RADIUS}
    assert sound.max() <= RADIUS
    assert (sound > 0).sum() >= 5
    assert (published > 0).sum() > (sound >= RADIUS).sum()
    about = RunFolder(place / "proven").read_about()
    assert [made["cascade"] for made in about["certificates"].values()] == ["sound", "published"]


def test_attacks_break_claims_and_no_proof(place: Path) -> None:
    """Of the images that are right: at a budget of the radius, plain gradient ascent and the attack that knows of the stages."""
    outcomes = rows(place / "attacked", "outcomes.csv")
    clean = outcomes[outcomes["attack"] == "none"]["robust"] == 1
    sound, published = (radii(place, name) for name in ("lp_dual", "lp_dual_published"))
    fooled = {name: clean & (outcomes[outcomes["attack"] == name]["robust"] == 0) for name in ("pgd_l2", "cascade_l2")}
    for name, mine in fooled.items():
        assert not (mine & (sound >= RADIUS)).any(), f"{name} breaks what is proven"
    assert (fooled["cascade_l2"] & (published >= RADIUS)).sum() >= 2, "claims that hold after all"
    assert fooled["cascade_l2"].sum() >= fooled["pgd_l2"].sum()
    assert (outcomes["l2"] <= RADIUS * (1 + 1e-6)).all()
    costs = outcomes[outcomes["attack"] == "cascade_l2"]
    assert (costs["backward"].max() > 0) & (costs["forward"] >= costs["backward"]).all()


def test_a_smaller_distance_is_not_within_a_sound_radius(place: Path) -> None:
    """No adversarial image lies nearer than what is proven of the image, at any radius."""
    outcomes = rows(place / "attacked", "outcomes.csv")
    sound = radii(place, "lp_dual")
    for name in ("pgd_l2", "cascade_l2"):
        mine = outcomes[outcomes["attack"] == name]
        clean = outcomes[outcomes["attack"] == "none"]["robust"] == 1
        hit = clean & (mine["robust"] == 0)
        assert (mine["l2"][hit] > sound[hit]).all()


def test_the_report_joins_them(place: Path, here: Path) -> None:
    answer = robust("report", *(str(place / name) for name in ("cascade", "proven", "attacked")))
    assert answer.code == 0, answer.err
    assert "lp_dual" in answer.out


def test_one_stage_after_the_other_from_nothing(here: Path) -> None:
    """Both are trained here, each with half of the epochs; the run is certified and attacked as it stands."""
    run = robust("train", *DENSE, "training.epochs=2", "regime.stages=2", "subset=first:100", *OWN).folder
    table = pd.read_csv(run.metrics)
    assert table["left"][0] == 1
    assert table["learning_rate"][0] == pytest.approx(table["learning_rate"][1]), "the schedule begins anew"
    assert robust("certify", f"run={run}", "certificate=lp_dual", "certificate.lp_dual.radius=0.1", "subset=first:4",
                  *OWN).code == 0


def test_a_longer_cascade_goes_on_from_a_shorter_one(place: Path, here: Path) -> None:
    """With another radius: the gate is that of the run at hand, the given stages stay."""
    run = robust("train", *DENSE, "regime.radius=0.5", "regime.stages=3", "regime.given_stages=2", "training.epochs=1",
                 f"training.init_from={place / 'cascade'}", TRUSTED, "subset=first:100", *OWN).folder
    before, after = load_file(place / "cascade" / "model.safetensors"), load_file(run.model)
    for name, tensor in before.items():
        if name.startswith("stages."):
            assert torch.equal(after[name], tensor), name
    assert (float(after["gate_radius"]), int(after["used"])) == (0.5, 3)


def test_weights_to_start_from_fill_the_first_stage(place: Path, here: Path) -> None:
    """With no stage given they are trained on: more than one step of so small a rate does not move them far."""
    run = robust("train", *DENSE, "training.learning_rate=1e-6", "regime.stages=2", "training.epochs=2",
                 f"training.init_from={place / 'single'}", TRUSTED, "subset=first:64", *OWN).folder
    single, cascade = load_file(place / "single" / "model.safetensors"), load_file(run.model)
    name = "network.layers.1.weight"
    torch.testing.assert_close(cascade[f"stages.0.{name}"], single[name], rtol=0, atol=1e-5)
    assert not torch.equal(cascade[f"stages.0.{name}"], single[name])
    assert (cascade[f"stages.1.{name}"] - single[name]).abs().max() > 1e-3


# ---- Mistakes -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("words", "said"), [
    (("regime.stages=2", "regime.given_stages=1", "training.epochs=1"),
     "regime.given_stages=1: expected the run that trained them, training.init_from=<run>, found none"),
    (("regime.stages=3", "training.epochs=4"), "training.epochs: expected a multiple of 3"),
    (("regime.stages=2", "training.epochs=2", "training.keep=best_validation", "dataset.validation=0.1"),
     "training.keep: expected"),
    (("training.compile=true", "training.epochs=1"), "training.compile=true: expected a model whose layers can be listed"),
    (("regime.stages=2", "training.compile=true", "training.epochs=2"), "training.compile=true: expected a model"),
    (("model=lenet", "training.epochs=1"), "MaxPool2d"),
    (("model=lenet", "regime.stages=2", "training.epochs=2"), "MaxPool2d"),
    (("regime.norm=l1", "training.epochs=1"), "regime.norm: expected l2 or linf, got 'l1'"),
    (("regime.given_stages=1", "training.epochs=1"), "regime.given_stages: expected a whole number >= 0 and below stages=1")])
def test_a_mistake_is_one_line_and_leaves_no_folder(here: Path, words: tuple[str, ...], said: str) -> None:
    model = [] if any(word.startswith("model=") for word in words) else ["model=dense"]
    assert said in refused(robust("train", *LP, *model, *words, "subset=first:8", *OWN))


@pytest.mark.parametrize(("given", "words"), [("single", ("model.width=8", "regime.given_stages=1")),
                                              ("cascade", ("regime.given_stages=1",)), ("single", ("regime.given_stages=2",))])
def test_given_stages_of_another_model_are_one_line(place: Path, here: Path, given: str, words: tuple[str, ...]) -> None:
    """Another width; a cascade for one network; a network for a cascade."""
    line = refused(robust("train", *DENSE, "regime.stages=3", "training.epochs=2", f"training.init_from={place / given}", TRUSTED,
                          *words, "subset=first:8", *OWN))
    assert "these are not the weights of this model" in line


@pytest.mark.parametrize("words", [("certify", "samples=40"), ("attack", "classifier=smoothed", "attack=pgd_l2")])
def test_a_cascade_is_not_smoothed(place: Path, here: Path, words: tuple[str, ...]) -> None:
    """Its proofs would be made in every thread that counts votes."""
    line = refused(robust(words[0], f"run={place / 'cascade'}", "noise_std=0.1", "subset=first:2", *words[1:], *OWN))
    assert "noise_std: expected a single network to smooth, got 0.1 for a cascade" in line
    assert "certificate=lp_dual" in line


@pytest.mark.parametrize(("run", "words"), [("single", ()), ("cascade", ("gradient_noise.std=0.1",))])
def test_the_attack_on_cascades_refuses_other_victims(place: Path, here: Path, run: str, words: tuple[str, ...]) -> None:
    line = refused(robust("attack", f"run={place / run}", "attack=cascade_l2", "budgets.l2=[1.0]", "subset=first:4", *words,
                          *OWN))
    assert "attack.cascade_l2: expected a cascade of networks" in line


def test_a_cascade_is_certified_in_its_own_norm(place: Path, here: Path) -> None:
    line = refused(robust("certify", f"run={place / 'cascade'}", "certificate=lp_dual", "certificate.lp_dual.norm=linf", FEW,
                          *OWN))
    assert "certificate.lp_dual.norm: expected l2, that of the cascade's stages, got 'linf'" in line
