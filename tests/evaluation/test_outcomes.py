"""What the evaluation promises whatever the attack: outcomes, rows, images on the disk, resuming, broken attacks."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_victims import Halfspace, Identity, curved, random_images, uneven_weights

from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.pgd import Pgd
from robust_cli.attacks.second_order import SecondOrder
from robust_cli.datasets.images import Images
from robust_cli.evaluation.outcomes import evaluate
from robust_cli.evaluation.plan import sweep
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder
from robust_cli.smoothing.noise import ImageDraws

BUDGETS = {"l2": [0.4, 0.1], "linf": [0.05]}
ATTACKS: dict[str, Any] = {"pgd_l2": Pgd(norm="l2", steps=4, random_start=True), "fgsm": FastGradient()}


def subset(n: int = 8, classes: int = 3) -> Images:
    labels = torch.arange(n) % classes
    return Images(random_images(n), labels, 10 * torch.arange(n) + 3, tuple(f"class {k}" for k in range(classes)), "first")


def run(folder: Path, *, classifier: Any = None, images: Images | None = None, attacks: dict[str, Any] | None = None,
        budgets: dict[str, list[float]] | None = None, decide: Any = None, batch_size: int = 3) -> list[dict[str, str]]:
    folder.mkdir(exist_ok=True)
    evaluate(attacks or ATTACKS, classifier or BaseClassifier(curved()), images or subset(), budgets or BUDGETS, seed=5,
             batch_size=batch_size, device="cpu", folder=RunFolder(folder), decide=decide)
    return read(folder)


def read(folder: Path) -> list[dict[str, str]]:
    """Rows, those of one attack and budget by image."""
    with (folder / "outcomes.csv").open() as file:
        found = list(csv.DictReader(file))
    groups = list(dict.fromkeys((row["attack"], row["budget"]) for row in found))
    return sorted(found, key=lambda row: (groups.index((row["attack"], row["budget"])), int(row["index"])))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@dataclass
class Voter:
    """Votes that lean on the network's own answer, remembering what it was asked."""

    model: torch.nn.Module
    asked: list[tuple[str, list[int]]]

    def __call__(self, images: torch.Tensor, indices: Sequence[int], purpose: str) -> torch.Tensor:
        self.asked.append((purpose, list(indices)))
        with torch.no_grad():
            return (100 * self.model(images).softmax(1)).round().long()


def test_rows_say_what_is_on_the_disk(tmp_path: Path) -> None:
    model, images = curved().eval(), subset()
    rows = run(tmp_path)
    originals, indices = np.load(tmp_path / "originals.npy"), np.load(tmp_path / "indices.npy")
    assert np.array_equal(originals, images.pixels.numpy())
    assert np.array_equal(indices, images.indices.numpy())
    assert [(r["attack"], r["norm"], float(r["budget"])) for r in rows[::8]] == [
        ("none", "", 0), ("pgd_l2", "l2", 0.1), ("pgd_l2", "l2", 0.4), ("fgsm", "linf", 0.05)]
    clean = {int(r["index"]): int(r["predicted"]) for r in rows[:8]}
    assert 0 < sum(int(r["robust"]) for r in rows[:8]) < 8  # both kinds of clean outcome are in play
    moved = 0
    for start in (8, 16, 24):
        group = rows[start : start + 8]
        assert [int(r["index"]) for r in group] == indices.tolist()
        stored = np.load(tmp_path / "adversarial" / f"{group[0]['attack']}_{float(group[0]['budget']):g}.npy")
        assert stored.dtype == np.float32
        with torch.no_grad():
            predicted = model(torch.from_numpy(stored)).argmax(1).tolist()
        for k, r in enumerate(group):
            gap = stored[k].astype(np.float64) - originals[k].astype(np.float64)
            assert float(r["l2"]) == pytest.approx(float(np.sqrt((gap**2).sum())), rel=1e-12, abs=1e-15)
            assert float(r["linf"]) == float(np.abs(gap).max())
            assert int(r["predicted"]) == predicted[k]
            assert r["votes_0"] == ""
            right = clean[int(r["index"])] == int(r["label"])
            assert int(r["robust"]) == (right and predicted[k] == int(r["label"]))
            if not right:
                assert np.array_equal(stored[k], originals[k])
            most = {"pgd_l2": 4, "fgsm": 1}[r["attack"]] if right else 0
            assert float(r["forward"]) == float(r["backward"]) <= most
            if right and predicted[k] == int(r["label"]):
                assert float(r["forward"]) > 0
            moved += bool(gap.any())
    assert moved == 3 * sum(int(r["robust"]) for r in rows[:8])


def test_known_outcomes_on_a_halfspace(tmp_path: Path) -> None:
    """An image falls exactly when the budget passes its distance to the plane; clean mistakes count as not robust."""
    weight = uneven_weights()
    model = Halfspace(weight, bias=0.2)
    pixels = 0.2 + 0.6 * random_images(30)
    with torch.no_grad():
        score = model(pixels)[:, 1]
    labels = (score > 0).long()
    labels[:5] = 1 - labels[:5]
    distance = score.abs() / weight.norm()
    budget = float(distance.sort().values[12:14].mean())
    images = Images(pixels, labels, torch.arange(30), ("a", "b"))
    rows = run(tmp_path, classifier=BaseClassifier(model), images=images, attacks={"pgd": Pgd()}, budgets={"l2": [budget]})
    expected = (distance > budget) & (torch.arange(30) >= 5)
    assert [r["robust"] == "1" for r in rows[30:]] == expected.tolist()
    assert 0 < int(expected.sum()) < 25
    lazy = run(tmp_path / "lazy", classifier=BaseClassifier(model), images=images, attacks={"identity": Identity()},
               budgets={"l2": [budget]})
    assert [r["robust"] == "1" for r in lazy[30:]] != expected.tolist()


@pytest.mark.parametrize("smoothed", [False, True])
def test_cut_anywhere_and_run_again_the_files_are_the_same(tmp_path: Path, smoothed: bool) -> None:
    model = curved().eval()
    settings: dict[str, Any] = {"classifier": BaseClassifier(model)}
    if smoothed:
        settings = {"classifier": SmoothedClassifier(model, 0.1, draws=2), "decide": Voter(model, [])}
    run(tmp_path / "whole", **settings)
    whole = files(tmp_path / "whole")
    text = whole["outcomes.csv"]
    lines = text.splitlines(keepends=True)
    assert len(lines) == 1 + 4 * 8
    ends = [len(b"".join(lines[:k])) for k in range(len(lines) + 1)]
    for cut in (ends[2], ends[14] + 5) if smoothed else (0, 10, ends[1], ends[11] + 5, ends[14], ends[21] - 1, ends[-1]):
        shutil.copytree(tmp_path / "whole", tmp_path / "cut")
        (tmp_path / "cut" / "outcomes.csv").write_bytes(text[:cut])
        if cut < ends[9]:  # the kill came before these files were begun, or while they were made
            shutil.rmtree(tmp_path / "cut" / "adversarial")
            (tmp_path / "cut" / "adversarial").mkdir()
            (tmp_path / "cut" / "adversarial" / "pgd_l2_0.1.npy").write_bytes(b"\x93NUMPY torn")
        run(tmp_path / "cut", **settings)
        assert files(tmp_path / "cut") == whole
        shutil.rmtree(tmp_path / "cut")


def test_batch_size_does_not_matter(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a", batch_size=3), run(tmp_path / "b", batch_size=8)
    for one, other in zip(first, second, strict=True):
        for column in one:
            if column in ("forward", "backward"):
                continue  # means over the images of a batch
            if column in ("l2", "linf"):
                assert float(one[column]) == pytest.approx(float(other[column]), abs=1e-5)
            else:
                assert one[column] == other[column]


def test_a_smoothed_classifier_is_decided_by_fresh_votes(tmp_path: Path) -> None:
    model = curved().eval()
    voter = Voter(model, [])
    rows = run(tmp_path, classifier=SmoothedClassifier(model, 0.05, draws=2), decide=voter)
    purposes = {purpose for purpose, _ in voter.asked}
    assert len(purposes) == 4  # the clean images and each attack at each budget have their own votes
    assert {p for p in purposes if "pgd_l2" in p and "0.4" in p}
    right = {int(r["index"]) for r in rows[:8] if r["robust"] == "1"}
    for purpose in purposes:
        asked = [i for p, indices in voter.asked if p == purpose for i in indices]
        assert sorted(asked) == sorted(right if "none" not in purpose else {int(r["index"]) for r in rows})
    for r in rows:
        votes = [int(r[f"votes_{k}"]) for k in range(3)]
        assert int(r["predicted"]) == int(np.argmax(votes))
        assert 98 <= sum(votes) <= 102
    assert {float(r["forward"]) for r in rows[8:24]} == {0.0, 8.0}  # votes are no cost of the attack


@pytest.mark.parametrize(("counts", "clean", "attacked"), [([5, 5, 0], 0, 0), ([6, 4, 0], 1, 1), ([4, 6, 0], 0, 0)])
def test_a_tie_counts_as_fooled(tmp_path: Path, counts: list[int], clean: int, attacked: int) -> None:
    images = subset(1)  # label 0, which a plain argmax would give on a tie
    rows = run(tmp_path, images=images, classifier=SmoothedClassifier(curved(), 0.1, 1), attacks={"fgsm": FastGradient()},
               decide=lambda images, indices, purpose: np.array([counts]))
    assert [int(r["robust"]) for r in rows] == [clean, attacked]
    assert rows[0]["predicted"] == {5: "-1", 6: "0", 4: "1"}[counts[0]]


def test_fooled_clean_stays_fooled_whatever_the_attack_does(tmp_path: Path) -> None:
    """Votes that call the clean image wrong and every other right."""
    def decide(images: torch.Tensor, indices: Sequence[int], purpose: str) -> torch.Tensor:
        labels = {3: 0, 13: 2 if "none" in purpose else 1, 23: 2}
        return 10 * torch.eye(3).long()[[labels[int(i)] for i in indices]]

    classifier = SmoothedClassifier(curved(), 0.1, 1)
    rows = run(tmp_path, images=subset(3), classifier=classifier, attacks={"fgsm": FastGradient()}, decide=decide)
    assert [int(r["robust"]) for r in rows] == [1, 0, 1, 1, 0, 1]
    assert rows[4]["votes_2"] == "10"
    assert float(rows[4]["l2"]) == 0


@dataclass(frozen=True)
class Broken:
    """An attack that goes wrong on its second image."""

    what: str
    norm: str = "l2"
    budget: float | None = None

    def __call__(self, classifier: Any, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        found = images.clone()
        if self.what == "shape":
            return found[:-1]
        if self.what == "float64":
            return found.double()
        pixel = {"beyond": found[1, 0, 0, 0] + (0.11 if found[1, 0, 0, 0] < 0.5 else -0.11), "nan": torch.nan, "outside": -1e-3}
        found[1, 0, 0, 0] = pixel[self.what]
        return found


@pytest.mark.parametrize(("what", "said"), [("beyond", "distance 0.11"), ("nan", "distance nan"), ("outside", "-0.001"),
                                          ("shape", "expected float32"), ("float64", "float64")])
def test_a_broken_attack_is_caught_and_named(tmp_path: Path, what: str, said: str) -> None:
    model = Halfspace(torch.zeros(16), bias=1.0)
    pixels = random_images(4)
    pixels[1, 0, 0, 0] = 1e-4
    images = Images(pixels, torch.ones(4).long(), torch.arange(4), ("a", "b"))
    with pytest.raises(UserError, match=f"attack.mine: .*{said}"):
        run(tmp_path, classifier=BaseClassifier(model), images=images, attacks={"mine": Broken(what)}, budgets={"l2": [0.1]})
    assert len(read(tmp_path)) == 4  # the clean rows: nothing of the broken attack is on record


def test_a_networks_nan_is_no_right_answer(tmp_path: Path) -> None:
    class Nan(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :3] * torch.nan

    rows = run(tmp_path, classifier=BaseClassifier(Nan()))
    assert {r["predicted"] for r in rows} == {"-1"}
    assert {r["robust"] for r in rows} == {"0"}


def test_a_setting_that_the_classifier_rules_out_is_named_with_its_place(tmp_path: Path) -> None:
    model = curved().eval()
    with pytest.raises(UserError, match=r"^attack\.mine\.noise_std: expected null on a smoothed classifier"):
        run(tmp_path, classifier=SmoothedClassifier(model, 0.1, 1), decide=Voter(model, []),
            attacks={"mine": SecondOrder(form="averaged", noise_std=0.2)})


@pytest.mark.parametrize(("attacks", "budgets", "said"), [
    ({"none": FastGradient()}, {"linf": [0.1]}, "attack.none"),
    ({"fgsm@8bit": FastGradient()}, {"linf": [0.1]}, "attack.fgsm@8bit"),
    ({"fgsm": FastGradient()}, {"l2": [0.1]}, "budgets.linf: expected at least one"),
    ({"fgsm": FastGradient()}, {"linf": [0.0, 0.1]}, "> 0"), ({"fgsm": FastGradient()}, {"linf": [float("nan")]}, "> 0"),
    ({"fgsm": FastGradient()}, {"linf": [0.1, 0.1 + 1e-9]}, "six digits"),
])
def test_wrong_budgets(attacks: dict[str, Any], budgets: dict[str, list[float]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        sweep(attacks, budgets)


def test_the_sweep_sets_budgets_in_ascending_order() -> None:
    plan = sweep({"a": Pgd(), "b": FastGradient()}, {"l2": [1, 0.5, 0.5], "linf": [0.1]})
    assert [(name, budget, attack.budget) for name, budget, attack in plan] == [("a", 0.5, 0.5), ("a", 1.0, 1.0), ("b", 0.1, 0.1)]


def test_a_folder_of_other_images_or_damaged_ones_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    other = subset()
    other.pixels[0] = 0.5
    with pytest.raises(UserError, match="originals"):
        run(tmp_path, images=other)
    (tmp_path / "adversarial" / "fgsm_0.05.npy").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"fgsm_0\.05"):
        run(tmp_path)
    (tmp_path / "originals.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"originals\.npy: expected the images of this run, found a damaged file"):
        run(tmp_path)
