"""Attacks in turn: an image stands only if all of them fail, and each sees what those before it left."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from toy_victims import SHAPE, Halfspace, Identity, Raw, curved, draws, random_images

from robust_cli.attacks.auto_pgd import AutoPgd
from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
from robust_cli.attacks.ddn import Ddn
from robust_cli.attacks.ensemble import Ensemble, relay
from robust_cli.attacks.geometry import distances
from robust_cli.attacks.losses import fooled
from robust_cli.attacks.lrc import LongRangeCorrelated
from robust_cli.attacks.pgd import Pgd
from robust_cli.attacks.square import Square
from robust_cli.attacks.targeted import TargetedPgd
from robust_cli.composing.build import build
from robust_cli.datasets.images import Images
from robust_cli.messages import UserError, Wrong
from robust_cli.smoothing.noise import ImageDraws

CONF = Path(__file__).resolve().parents[2] / "conf" / "attack"


class Second(nn.Module):
    """Logits (0, 1/2 - the second pixel)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = 0.5 - images.flatten(1)[:, 1]
        return torch.stack([torch.zeros_like(score), score], 1)


def keyed(n: int) -> torch.Tensor:
    """Images whose first pixel tells which they are, black else."""
    images = torch.zeros(n, *SHAPE)
    images[:, 0, 0, 0] = torch.arange(n) / 100
    return images


def keys(images: torch.Tensor) -> list[int]:
    return (images[:, 0, 0, 0] * 100).round().long().tolist()


@dataclass(frozen=True)
class Raises:
    """Raises the second pixel, by image; remembers what it was asked for."""

    to: dict[int, float]
    seen: list[Any] = field(default_factory=list)
    norm: str = "linf"
    budget: float | None = None

    def __call__(self, classifier: object, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        self.seen.append((keys(images), self.budget))
        assert len(images) == len(labels) == len(draws)
        found = images.clone()
        found[:, 0, 0, 1] = torch.tensor([self.to.get(key, 0.0) for key in keys(images)])
        return found


def test_only_those_stand_whom_every_attack_failed_and_each_sees_what_is_left() -> None:
    seen: list[Any] = []
    members = {"a": Raises({0: 0.9, 1: 0.9, 4: 0.3, 5: 0.1}, seen), "b": Raises({2: 0.8, 4: 0.4}, seen),
               "c": Raises({3: 0.7, 4: 0.35, 0: 0.2}, seen)}
    classifier, labels = BaseClassifier(Second()), torch.ones(6).long()
    found = Ensemble("linf", members, budget=0.95)(classifier, keyed(6), labels, draws(6))
    torch.testing.assert_close(found[:, 0, 0, 1], torch.tensor([0.9, 0.9, 0.8, 0.7, 0.4, 0.1]))  # of 4 and 5 the worst
    assert keys(found) == [0, 1, 2, 3, 4, 5]
    assert seen == [([0, 1, 2, 3, 4, 5], 0.95), ([2, 3, 4, 5], 0.95), ([3, 4, 5], 0.95)]
    assert classifier.network.forward_passes == 6 + 4 + 3


def test_nothing_is_run_once_all_are_beaten() -> None:
    seen: list[Any] = []
    members = {"a": Raises({0: 0.9, 1: 0.9}, seen), "b": Raises({}, seen)}
    Ensemble("linf", members, budget=1.0)(BaseClassifier(Second()), keyed(2), torch.ones(2).long(), draws(2))
    assert [images for images, _ in seen] == [[0, 1]]


class Scripted(SmoothedClassifier):
    """A smoothed classifier whose lead is the second pixel less 1/2."""

    def lead(self, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        return images[:, 0, 0, 1] - 0.5


def test_a_smoothed_image_leaves_only_beyond_doubt() -> None:
    """Three standard errors of 100 votes: a lead of 0.3."""
    seen: list[Any] = []
    judge = Scripted(Second(), 0.1, votes=100)
    assert judge.doubt == pytest.approx(0.3)
    first, second = Raises({0: 0.85, 1: 0.75, 2: 0.6, 3: 0.2}, seen), Raises({1: 0.7, 2: 0.7, 3: 0.1}, seen)
    found = relay([(first, judge), (second, judge)], keyed(4), torch.ones(4).long(), draws(4))
    assert [images for images, _ in seen] == [[0, 1, 2, 3], [1, 2, 3]]
    torch.testing.assert_close(found[:, 0, 0, 1], torch.tensor([0.85, 0.75, 0.7, 0.2]))


def test_one_judge_for_all_candidates() -> None:
    """The classifier whose gradients a later attack follows has no say in what is kept."""
    judge, other = Scripted(Second(), 0.1), BaseClassifier(Second())
    other.lead = lambda images, labels, draws: 5 - images[:, 0, 0, 1]  # type: ignore[method-assign]
    first, second = Raises({0: 0.6, 1: 0.6}), Raises({0: 0.7, 1: 0.5})
    found = relay([(first, judge), (second, other)], keyed(2), torch.ones(2).long(), draws(2))
    torch.testing.assert_close(found[:, 0, 0, 1], torch.tensor([0.7, 0.6]))


@dataclass(frozen=True)
class Draws:
    """Returns its input, and remembers the noise it drew."""

    drawn: list[torch.Tensor]
    norm: str = "linf"
    budget: float | None = None

    def __call__(self, classifier: object, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        self.drawn.append(draws.normal(20, *images.shape[1:]).flatten())
        return images


def test_a_smoothed_classifier_judges_by_votes_that_no_attack_has_seen() -> None:
    """Image by image, no number is drawn twice; so answers to an image on the boundary differ."""
    answers: list[torch.Tensor] = []

    class Judge(SmoothedClassifier):
        def lead(self, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
            answers.append(super().lead(images, labels, draws))
            return answers[-1]

    used: list[torch.Tensor] = []

    class Remembering(Halfspace):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            used.append(images.flatten() - 0.5)
            return super().forward(images)

    weight = torch.ones(16)
    judge, member = Judge(Remembering(weight, bias=-8.0), 1.0, draws=10, votes=50), Draws([])
    images = torch.full((1, *SHAPE), 0.5)
    relay([(member, judge)] * 3, images, torch.ones(1).long(), draws(1))
    assert len(answers) == len(member.drawn) == 3
    assert len({float(answer) for answer in answers}) > 1
    numbers = torch.cat([*member.drawn, *used]).sort().values
    assert len(numbers) == 16 * (3 * 20 + 3 * 50)
    assert int((numbers.diff() < 1e-9).sum()) < 20  # the same noise again would be whole images


def members(norm: str) -> dict[str, Any]:
    """Without chance but for the first, so that each does in an ensemble what it does alone."""
    return {"square": Square(norm, queries=60), "ce": AutoPgd(norm, steps=10),
            "dlr": AutoPgd(norm, steps=10, loss="difference_of_logits_ratio"),
            "targeted": TargetedPgd(norm, "likeliest", 3, automatic=True, steps=10, loss="difference_of_logits_ratio")}


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network that tells in which quarter of an image the brightest patch lies."""
    model = curved(5, 4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(150):
        images = random_images(128, seed=step)
        loss = nn.functional.cross_entropy(model(images), quarter(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def quarter(images: torch.Tensor) -> torch.Tensor:
    return nn.functional.avg_pool2d(images, 2).flatten(1).argmax(1)


def standing(attack: Any, model: nn.Module, budget: float, n: int = 100) -> torch.Tensor:
    images = random_images(400, seed=999)
    chosen = (model(images).argmax(1) == quarter(images)).nonzero().flatten()[:n]
    images, labels = images[chosen], quarter(images)[chosen]
    found = replace(attack, budget=budget)(BaseClassifier(model), images, labels, draws(n))
    assert (distances(found, images, attack.norm) <= budget * (1 + 1e-9)).all()
    return ~fooled(model(found).detach(), labels)


def no_weaker_than_any_member(ensemble: Ensemble, model: nn.Module, budget: float, attacks: dict[str, Any]) -> None:
    """Those stand who stand against each of the attacks alone."""
    alone = {name: standing(attack, model, budget) for name, attack in attacks.items()}
    left = standing(ensemble, model, budget)
    assert torch.equal(left, torch.stack(list(alone.values())).all(0))
    assert 10 <= int(left.sum()) <= 90


@pytest.mark.parametrize(("norm", "budget"), [("linf", 0.04), ("l2", 0.13)])
def test_never_weaker_than_its_strongest_member(norm: str, budget: float, trained: nn.Module) -> None:
    no_weaker_than_any_member(Ensemble(norm, members(norm)), trained, budget, members(norm))
    with pytest.raises(AssertionError):
        no_weaker_than_any_member(Ensemble(norm, {"a": Identity(norm), "b": Identity(norm)}), trained, budget, members(norm))


@pytest.mark.parametrize("smoothed", [False, True])
def test_results_do_not_depend_on_batch_or_order(smoothed: bool) -> None:
    model, images = curved(5, 4).eval(), random_images(8)
    labels = model(images).argmax(1)
    classifier = SmoothedClassifier(model, 0.1, draws=4, votes=20) if smoothed else BaseClassifier(model)
    several = {name: replace(attack, random_start=True) for name, attack in members("linf").items() if name != "square"}
    attack = Ensemble("linf", several if smoothed else {**several, "square": Square(queries=200)}, budget=0.04)
    together = attack(classifier, images, labels, draws(8))
    alone = torch.cat([attack(classifier, images[k : k + 1], labels[k : k + 1], draws(1, first=k)) for k in range(8)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)


def test_what_it_tells_of_its_members() -> None:
    assert Ensemble("linf", {"a": Pgd("linf"), "b": Square("linf")}).by_scores
    inner = Ensemble("linf", {"b": Square("linf")})
    assert Ensemble("linf", {"a": Pgd("linf"), "b": inner}).by_scores
    assert not Ensemble("linf", {"a": Pgd("linf")}).by_scores
    with pytest.raises(UserError, match="expected a base classifier"):
        replace(inner, budget=0.1)(SmoothedClassifier(Raw(), 0.1), random_images(1), torch.zeros(1).long(), draws(1))


@pytest.mark.parametrize(("settings", "name"), [
    ({"attacks": {}}, "attacks"), ({"norm": "l7", "attacks": {"a": Pgd("linf")}}, "norm"),
    ({"attacks": {"a": Pgd("linf"), "b": Pgd("l2")}}, r"attacks\.b\.norm"), ({"attacks": {"a": 3}}, r"attacks\.a"),
    ({"norm": "l2", "attacks": {"a": Ddn()}}, r"attacks\.a"),
    ({"attacks": {"a": Pgd("linf")}, "budget": -1.0}, "budget"),
])
def test_wrong_settings_are_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(Wrong, match=f"^{name}: expected"):
        Ensemble(**settings)


def load(norm: str) -> Any:
    return yaml.safe_load((CONF / f"standard_{norm}.yaml").read_text())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_standard_lists_are_built_from_their_configs(norm: str) -> None:
    lines = (CONF / f"standard_{norm}.yaml").read_text().splitlines()
    assert lines[0] == f"# @package attack.standard_{norm}"
    assert " Source: " in lines[1]
    assert all("#" in line or "_target_" in line for line in lines)
    start, ratio = norm == "linf", "difference_of_logits_ratio"
    made = build(load(norm), f"attack.standard_{norm}")
    assert list(made.attacks.items()) == [
        ("auto_pgd_ce", AutoPgd(norm, random_start=start)),
        ("auto_pgd_dlr", AutoPgd(norm, random_start=start, loss=ratio)),
        ("auto_pgd_targeted", TargetedPgd(norm, "likeliest", 9, True, 100, random_start=start, loss=ratio)),
        ("square", Square(norm))]
    assert made.budget is None


def test_a_mistake_inside_names_its_place() -> None:
    node = load("l2")
    node["attacks"]["square"]["queries"] = 0
    with pytest.raises(UserError, match=r"^attack\.standard_l2\.attacks\.square\.queries: expected[^\n]*$"):
        build(node, "attack.standard_l2")
    two_classes, images = Halfspace(torch.ones(16), bias=60.0), random_images(2)
    with pytest.raises(Wrong, match=r"^attacks\.auto_pgd_dlr\.loss: expected [^\n]*3 classes[^\n]*$"):
        replace(build(load("l2"), "x"), budget=0.1)(BaseClassifier(two_classes), images, torch.ones(2).long(), draws(2))


def test_the_training_images_reach_the_attack_that_wants_them() -> None:
    """Noise with the data's own covariance cannot run without them."""
    pixels = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    training = Images(pixels, torch.zeros(50).long(), torch.arange(50), ("a", "b"), "all")
    members = {"lrc": LongRangeCorrelated(covariance="data", samples=2), "plain": LongRangeCorrelated(samples=2)}
    told = replace(Ensemble(norm="std", attacks=members).with_data(training), budget=0.3)
    classifier, images = BaseClassifier(curved().eval()), random_images(3)
    found = told(classifier, images, torch.zeros(3).long(), draws(3))
    assert (found != images).flatten(1).any(1).all()
    assert told.attacks["plain"] == members["plain"]
