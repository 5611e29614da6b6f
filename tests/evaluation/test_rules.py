"""How an evaluation goes about its images: points that serve larger budgets, wrong images, labels, stored and rounded images."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from toy_victims import Halfspace, curved, draws, random_images

from robust_cli.attacks.classifiers import BaseClassifier, NoisyGradients, SmoothedClassifier
from robust_cli.attacks.deepfool import DeepFool
from robust_cli.attacks.ensemble import Ensemble
from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.losses import margin
from robust_cli.attacks.pgd import Pgd
from robust_cli.attacks.square import Square
from robust_cli.datasets.images import Images
from robust_cli.evaluation.outcomes import Rules, evaluate
from robust_cli.evaluation.plan import Planned, check_suited, kind
from robust_cli.evaluation.stored import Stored, transfers
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder
from robust_cli.smoothing.noise import ImageDraws

BUDGETS = [0.05, 0.1, 0.2, 0.4, 0.8]


def subset(n: int = 24, classes: int = 3) -> Images:
    return Images(random_images(n), torch.arange(n) % classes, 10 * torch.arange(n) + 3, tuple("abc"[:classes]), "first")


def rows_of(folder: Path, attacks: dict[str, Any], classifier: Any = None, images: Images | None = None,
            budgets: Sequence[float] = (), **more: Any) -> dict[tuple[str, float, int], dict[str, str]]:
    folder.mkdir(exist_ok=True)
    evaluate(attacks, classifier or BaseClassifier(curved()), images or subset(), {"l2": list(budgets or BUDGETS)},
             **{"seed": 5, "batch_size": 7, "device": "cpu", "folder": RunFolder(folder)} | more)
    with (folder / "outcomes.csv").open() as file:
        found = {(r["attack"], float(r["budget"]), int(r["index"])): r for r in csv.DictReader(file)}
    return found


def robust(rows: dict[tuple[str, float, int], dict[str, str]], name: str, budget: float) -> dict[int, bool]:
    return {i: r["robust"] == "1" for (n, b, i), r in rows.items() if (n, b) == (name, budget)}


@dataclass(frozen=True)
class Sometimes:
    """Fools images of some indices at some budgets alone, by walking across the plane; counts what it is given."""

    works: tuple[tuple[float, int], ...] = ()
    norm: str = "l2"
    budget: float | None = None
    seen: ClassVar[list[tuple[float, int]]] = []

    def __call__(self, classifier: Any, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        assert self.budget is not None
        self.seen.extend((self.budget, i) for i in draws.indices)
        moves = torch.tensor([(self.budget, i) in self.works for i in draws.indices])
        return torch.where(moves[:, None, None, None], images - 0.9 * self.budget / 4, images)  # 16 pixels: l2 0.9 budgets


def plane() -> tuple[BaseClassifier, Images]:
    """Class 1 above a mean of 0.5; images a little above it, so that a move of 0.0225 or more a pixel crosses."""
    images = torch.full((4, 1, 4, 4), 0.51)
    classifier = BaseClassifier(Halfspace(torch.ones(16), bias=-8.0))
    return classifier, Images(images, torch.ones(4).long(), torch.arange(4), ("a", "b"), "")


def test_a_point_found_at_a_small_budget_serves_every_larger_one(tmp_path: Path) -> None:
    """An attack that fools image 0 at 0.1 alone, image 1 at 0.1 and 0.4, image 2 at 0.4 and 0.8, image 3 never."""
    classifier, images = plane()
    attack = Sometimes(works=((0.1, 0), (0.1, 1), (0.4, 1), (0.4, 2), (0.8, 2)))
    for reuse in (True, False):
        attack.seen.clear()
        folder = tmp_path / str(reuse)
        rows = rows_of(folder, {"mine": attack}, classifier, images, (0.1, 0.4, 0.8), rules=Rules(reuse=reuse))
        found = [[robust(rows, "mine", b)[i] for i in range(4)] for b in (0.1, 0.4, 0.8)]
        kept = [[False, False, True, True], [False, False, False, True], [False, False, False, True]]
        assert found == (kept if reuse else [[False, False, True, True], [True, False, False, True], [True, True, False, True]])
        assert attack.seen == ([(0.1, 0), (0.1, 1), (0.1, 2), (0.1, 3), (0.4, 2), (0.4, 3), (0.8, 3)] if reuse
                               else [(b, i) for b in (0.1, 0.4, 0.8) for i in range(4)])
    stored = [np.load(tmp_path / "True" / "adversarial" / f"mine_{b}.npy") for b in (0.1, 0.4, 0.8)]
    assert np.array_equal(stored[0][0], stored[2][0])
    assert float(rows_of(tmp_path / "True", {"mine": attack}, classifier, images, (0.1, 0.4, 0.8))["mine", 0.8, 0]["l2"]) < 0.1


@pytest.mark.parametrize("batch_size", [1, 5, 24])
def test_the_active_set_is_the_plain_loop(tmp_path: Path, batch_size: int) -> None:
    """With points that serve larger budgets and images that leave, exactly those images stand that no budget up to here fools."""
    model, images = curved().eval(), subset()
    rows = rows_of(tmp_path, {"pgd": Pgd(steps=10)}, BaseClassifier(model), images, batch_size=batch_size)
    pixels, labels = images.float(), images.labels
    standing = model(pixels).argmax(1) == labels
    clean = standing.clone()
    for budget in BUDGETS:
        for k in standing.nonzero().flatten().tolist():  # the plain loop: image by image, every budget from the start
            stream = ImageDraws("cpu", 5, f"attack/pgd/{budget!r}", [int(images.indices[k])])
            found = Pgd(steps=10, budget=budget)(BaseClassifier(model), pixels[k : k + 1], labels[k : k + 1], stream)
            standing[k] = model(found).argmax(1).item() == labels[k]
        assert robust(rows, "pgd", budget) == dict(zip(images.indices.tolist(), standing.tolist(), strict=True))
    assert 0 < int(standing.sum()) < int(clean.sum())


def test_reuse_costs_less_and_finds_nearer_examples(tmp_path: Path) -> None:
    once = rows_of(tmp_path / "a", {"pgd": Pgd(steps=10)})
    each = rows_of(tmp_path / "b", {"pgd": Pgd(steps=10)}, rules=Rules(reuse=False))
    cost = [sum(float(r["forward"]) for r in rows.values()) for rows in (once, each)]
    plain = 10 * len(BUDGETS) * sum(robust(once, "none", 0.0).values())
    assert cost[0] < cost[1] < 0.9 * plain  # images leave an attack when fooled, and the larger budgets too
    both = [k for k in once if k[0] == "pgd" and once[k]["robust"] == each[k]["robust"] == "0"]
    gaps = np.array([float(each[k]["l2"]) - float(once[k]["l2"]) for k in both])
    assert gaps.mean() > 0
    assert all(once[k]["robust"] <= each[k]["robust"] for k in once)  # never fewer images fooled


class Ballots:
    """Votes by purpose: images listed are called wrong, the others right."""

    def __init__(self, wrong: dict[str, set[int]], labels: dict[int, int]) -> None:
        self.wrong, self.labels, self.asked = wrong, labels, []  # type: ignore[var-annotated]

    def __call__(self, images: torch.Tensor, indices: Sequence[int], purpose: str) -> torch.Tensor:
        self.asked.append((purpose, list(indices)))
        answers = [(self.labels[i] + (i in self.wrong.get(purpose, ()))) % 2 for i in indices]
        return 10 * torch.eye(2).long()[answers]


def test_a_point_that_serves_a_larger_budget_is_decided_by_votes_of_its_own(tmp_path: Path) -> None:
    """Image 0 is fooled at 0.1 by one set of votes; at 0.4 the next set calls it right: robust, and attacked again at 0.8."""
    _, images = plane()
    classifier = SmoothedClassifier(Halfspace(torch.ones(16), bias=-8.0), 0.1, draws=2)
    attack, voter = Sometimes(), Ballots({"decision/mine/0.1": {0, 1}, "decision/mine/0.4": {1}}, dict.fromkeys(range(4), 1))
    attack.seen.clear()
    rows = rows_of(tmp_path, {"mine": attack}, classifier, images, (0.1, 0.4, 0.8), decide=voter)
    assert [robust(rows, "mine", b)[0] for b in (0.1, 0.4, 0.8)] == [False, True, True]
    assert [robust(rows, "mine", b)[1] for b in (0.1, 0.4, 0.8)] == [False, False, True]
    assert sorted(i for b, i in attack.seen if b == 0.4) == [2, 3]
    assert sorted(i for b, i in attack.seen if b == 0.8) == [0, 2, 3]
    purposes = [purpose for purpose, _ in voter.asked]
    for purpose in purposes:
        assert sorted(i for asked, found in voter.asked for i in found if asked == purpose) == [0, 1, 2, 3]


def test_wrong_images_are_attacked_when_asked_and_never_count_as_robust(tmp_path: Path) -> None:
    model, images = curved().eval(), subset()
    right = {int(i) for i, ok in zip(images.indices, model(images.float()).argmax(1) == images.labels, strict=True) if ok}
    rules = {"off": Rules(), "dataset": Rules(also_wrong=True), "predicted": Rules(also_wrong=True, labels="predicted")}
    found = {name: rows_of(tmp_path / name, {"fgm": FastGradient(norm="l2")}, BaseClassifier(model), images, (0.4,), rules=rule)
             for name, rule in rules.items()}
    wrong = set(images.indices.tolist()) - right
    assert len(wrong) >= 4
    for name, rows in found.items():
        moved = {i for (n, _, i), r in rows.items() if n == "fgm" and float(r["l2"]) > 0}
        assert moved == (right if name == "off" else right | wrong)
        assert not any(robust(rows, "fgm", 0.4)[i] for i in wrong)
        assert robust(rows, "fgm", 0.4) == robust(found["off"], "fgm", 0.4)
    back = {name: sum(rows["fgm", 0.4, i]["predicted"] == rows["fgm", 0.4, i]["label"] for i in wrong)
            for name, rows in found.items()}
    assert back["predicted"] > 0  # led away from the wrong answer, some arrive at the right one
    assert back["dataset"] == 0


def test_rounded_images_are_decided_once_more(tmp_path: Path) -> None:
    """A plane crossed within the rounding of a 255th: the attack succeeds, and its image does not survive being saved."""
    model = Halfspace(torch.ones(16), bias=-16 * 127.7 / 255)
    values = torch.tensor([128 / 255, 129 / 255])
    images = Images(values[:, None, None, None].expand(2, 1, 4, 4).clone(), torch.ones(2).long(), torch.arange(2), ("a", "b"), "")
    rows = rows_of(tmp_path, {"pgd": Pgd(steps=1)}, BaseClassifier(model), images, (0.0055, 0.03), rounded=True)
    assert robust(rows, "pgd", 0.0055) == {0: False, 1: True}
    assert robust(rows, "pgd@8bit", 0.0055) == {0: True, 1: True}  # rounded back to 128 / 255
    saved = np.load(tmp_path / "adversarial" / "pgd@8bit_0.03.npy")
    assert np.array_equal(saved * 255, np.round(saved * 255))
    assert {n for n, _, _ in rows} == {"none", "pgd", "pgd@8bit"}
    plain = np.load(tmp_path / "adversarial" / "pgd_0.03.npy")
    assert float(np.abs(saved - plain).max()) <= 0.5 / 255 + 1e-7


def make_source(folder: Path, model: torch.nn.Module, images: Images, mark: str) -> None:
    attacks = {"pgd": Pgd(steps=5), "deepfool": DeepFool()}
    rows_of(folder, attacks, BaseClassifier(model), images, (0.2, 0.4))
    about = {"model_fingerprint": mark, "model": "m", "regime": "r", "dataset": "d", "train_seed": 3,
             "budgets": {"l2": [0.2, 0.4]},
             "attacks": {"pgd": {"norm": "l2", "closest": False}, "deepfool": {"norm": "l2", "closest": True}}}
    (folder / "about.json").write_text(json.dumps(about))
    (folder / "status.json").write_text(json.dumps({"state": "complete", "command": "attack"}))


def test_images_of_one_model_are_tried_on_another(tmp_path: Path) -> None:
    images, source, target = subset(), curved(0).eval(), curved(1).eval()
    make_source(tmp_path / "source", source, images, "abcdef0123456789")
    some = images.select(torch.tensor([9, 2, 17, 4]), "some")
    plan, told = transfers([str(tmp_path / "source")], some)
    assert [(p.name, p.budget) for p in plan] == [("pgd@abcdef01", 0.2), ("pgd@abcdef01", 0.4), ("deepfool@abcdef01", np.inf)]
    assert told["pgd@abcdef01"] == {"source": str(tmp_path / "source"), "attack": "pgd", "fingerprint": "abcdef0123456789",
                                    "norm": "l2", "title": "m trained with r on d, seed 3"}
    rows = rows_of(tmp_path / "target", {}, BaseClassifier(target), some, more=plan)
    stored = np.load(tmp_path / "source" / "adversarial" / "pgd_0.4.npy")
    for place in (9, 2, 17, 4):
        index, label = int(images.indices[place]), int(images.labels[place])
        with torch.no_grad():
            clean = int(target(images.float()[place : place + 1]).argmax())
            there = int(target(torch.from_numpy(stored[place : place + 1])).argmax())
        row = rows["pgd@abcdef01", 0.4, index]
        assert int(row["robust"]) == (clean == label and there == label)
        if clean == label:
            assert int(row["predicted"]) == there
            gap = (stored[place] - images.float()[place].numpy()).ravel()
            assert float(row["l2"]) == pytest.approx(float(np.linalg.norm(gap)), rel=1e-5, abs=1e-7)
        assert (float(row["forward"]), float(row["backward"])) == (0, 0)


def test_sources_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    images = subset()
    make_source(tmp_path / "a", curved(), images, "abcdef0123456789")
    make_source(tmp_path / "b", curved(), images, "abcdef0123456789")
    with pytest.raises(UserError, match="expected one run for each model and attack"):
        transfers([str(tmp_path / "a"), str(tmp_path / "b")], images)
    with pytest.raises(UserError, match=r"complete attack runs, got .*no run"):
        transfers([str(tmp_path)], images)
    with pytest.raises(UserError, match="image 999 is not there"):
        transfers([str(tmp_path / "a")], replace(images, indices=images.indices.clone().index_fill_(0, torch.tensor([0]), 999)))
    with pytest.raises(UserError, match="same images, found others"):
        transfers([str(tmp_path / "a")], replace(images, pixels=images.pixels * 0.5))
    (tmp_path / "b" / "status.json").write_text(json.dumps({"state": "running", "command": "attack"}))
    with pytest.raises(UserError, match=r"complete attack runs, got .*attack, running"):
        transfers([str(tmp_path / "b")], images)
    (tmp_path / "a" / "adversarial" / "pgd_0.2.npy").write_bytes(b"torn")
    plan, _ = transfers([str(tmp_path / "a")], images)
    with pytest.raises(UserError, match="expected stored images of an attack run"):
        rows_of(tmp_path / "c", {}, images=images, more=plan)


def test_both_objectives_are_climbed_and_the_worse_is_kept(tmp_path: Path) -> None:
    """A network whose mean loss points one way and whose mean probability the other: what only one of them finds is found."""
    @dataclass(frozen=True)
    class ByObjective:
        norm: str = "l2"
        budget: float | None = None
        used: ClassVar[list[tuple[str, int]]] = []

        def __call__(self, classifier: Any, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
            assert self.budget is not None
            self.used.append((classifier.objective, len(images)))
            lucky = torch.tensor([i % 2 == (classifier.objective == "mean_loss") for i in draws.indices])
            return torch.where(lucky[:, None, None, None], images - 0.9 * self.budget / 4, images)

    _, images = plane()
    classifier = SmoothedClassifier(Halfspace(100 * torch.ones(16), bias=-800.0), 0.01, draws=5, objective="both")
    labels = dict.fromkeys(range(4), 1)
    rows_of(tmp_path, {"mine": ByObjective()}, classifier, images, (0.4,), decide=Ballots({}, labels))
    moved = np.load(tmp_path / "adversarial" / "mine_0.4.npy").mean((1, 2, 3)) < 0.5
    assert moved.all()  # whichever objective finds it
    assert ByObjective.used == [("mean_loss", 4), ("log_mean_probability", 2)]  # the second on those still standing


def test_gradients_through_noise_against_a_deterministic_network() -> None:
    """By Stein's identity the gradient is E[z f(x + s z)] / s; the answers are the network's own."""
    model = curved().eval()
    images, labels = random_images(1), torch.zeros(1).long()
    classifier = NoisyGradients(model, 0.3, draws=20000)
    found = classifier.gradient(images, labels, margin, draws(1)).gradient.flatten()
    z = torch.randn(200_000, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        values = margin(model(images + 0.3 * z.view(-1, 1, 4, 4)), labels.expand(len(z)))
    samples = z * (values - values.mean())[:, None] / 0.3
    error = (samples.std(0) ** 2 / len(z) + (samples.std(0) ** 2 / 20000) * 0.1).sqrt()
    assert float(((found - samples.mean(0)).abs() / error).max()) < 5
    exact = BaseClassifier(model)
    assert torch.equal(classifier.lead(images, labels, draws(1)), exact.lead(images, labels, draws(1)))
    assert not classifier.gradient(images, labels, margin, draws(1)).fooled.any()
    assert (classifier.random, classifier.noisy_gradients, classifier.noise_std) == (False, True, 0.3)


def test_attacks_say_what_they_go_by_and_unsuited_ones_are_refused() -> None:
    smoothed, noisy = SmoothedClassifier(curved(), 0.1), NoisyGradients(curved(), 0.1)
    assert [kind(a) for a in (Pgd(), Square(), Stored(Path(), {}, "l2", 1.0))] == ["gradient", "scores", "stored"]
    both = Ensemble(norm="linf", attacks={"pgd": Pgd(norm="linf"), "square": Square()})
    assert kind(both) == "gradient"
    with pytest.raises(UserError, match=r"attack\.list: expected a base classifier, since it compares scores"):
        check_suited({"list": both}, smoothed)
    with pytest.raises(UserError, match=r"attack\.square: expected a base classifier, since it compares scores"):
        check_suited({"square": Square()}, smoothed)
    with pytest.raises(UserError, match=r"attack\.deepfool: expected exact gradients"):
        check_suited({"deepfool": DeepFool()}, noisy)
    check_suited({"pgd": Pgd()}, noisy)
    check_suited({"deepfool": DeepFool(), "square": Square()}, BaseClassifier(curved()))


def test_planned_attacks_beyond_the_sweep_run_after_it(tmp_path: Path) -> None:
    images = subset(4)
    np.save(tmp_path / "mine.npy", images.float().numpy())
    stored = Stored(tmp_path / "mine.npy", {int(i): k for k, i in enumerate(images.indices)}, "l2", 0.5)
    rows = rows_of(tmp_path / "run", {"fgm": FastGradient(norm="l2")}, images=images, budgets=(0.1,),
                   more=[Planned("other@abc", 0.5, stored)])
    assert list(dict.fromkeys(name for name, _, _ in rows)) == ["none", "fgm", "other@abc"]
