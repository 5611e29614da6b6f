"""Training on dual bounds: the loss and its gradient in closed form, the radius's growth, and who is left to which stage."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional
from toy_cascades import answers, at, dense, pixels, random_cascade, threshold, thresholds

from robust_cli.composing.build import build
from robust_cli.messages import UserError, Wrong
from robust_cli.models.classifier import classifier, frozen
from robust_cli.models.lenet import LeNet
from robust_cli.regimes import lp_dual
from robust_cli.regimes.batch import Assembling, Batch, Phased, Progress, Stateful
from robust_cli.regimes.lp_dual import LpDual
from robust_cli.verification.cascade import Cascade, certifies

CONF = Path(__file__).resolve().parents[2] / "conf" / "regime"
ORDER = {"l2": 2.0, "linf": 1.0}  # of the dual norm
WHOLE = Progress(step=0, epoch=0, total=10, seed=11, validating=True)  # has the whole radius
every_norm = pytest.mark.parametrize("norm", ORDER)


def batch(images: torch.Tensor, labels: torch.Tensor, first: int = 0) -> Batch:
    return Batch(images, labels, torch.arange(len(images)) + first)


def affine() -> nn.Module:
    """Two channels, normalised, and one layer to 4 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), [0.2, 0.6], [0.5, 2.0])


def pictures(n: int = 7) -> Batch:
    images = torch.rand(n, 2, 2, 3, generator=torch.Generator().manual_seed(1))
    return batch(images, torch.arange(n) % 4)


def by_hand(model: nn.Module, images: Batch, norm: str, radius: float) -> torch.Tensor:
    """m_k = f_y - f_k - radius |w_y - w_k|, w the rows of the layer over each channel's standard deviation: pixel units."""
    logits, std = model(images.images), torch.tensor([0.5, 2.0]).repeat_interleave(6)
    rows = model.network[1].weight / std
    own = rows[images.labels][:, None] - rows
    length = own.abs().sum(2) if norm == "linf" else (own.square().sum(2) + 1e-30).sqrt()
    return logits.gather(1, images.labels[:, None]) - logits - radius * length


# ---- The loss -----------------------------------------------------------------------------------------------------------------

@every_norm
@pytest.mark.parametrize("radius", [0.02, 0.5])
def test_of_a_linear_model_in_closed_form_and_its_gradient(norm: str, radius: float) -> None:
    model, images = affine(), pictures()
    regime = LpDual(norm, radius, start_radius=0.0)
    found = regime.loss(model, images, WHOLE)
    margins = by_hand(model, images, norm, radius)
    expected = (-margins).exp().sum(1).log().mean()  # the sum has e^0 of the label itself
    torch.testing.assert_close(found.total, expected)
    weights = list(model.parameters())
    for one, other in zip(torch.autograd.grad(found.total, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    below = margins.masked_fill(functional.one_hot(images.labels, 4).bool(), torch.inf).amin(1) <= 0
    assert found.terms["uncertified"] == below.float().mean()
    clean = functional.cross_entropy(model(images.images), images.labels).detach()
    torch.testing.assert_close(found.terms["cross_entropy"], clean)
    assert torch.equal(found.terms["robust_cross_entropy"], found.total)
    assert list(found.terms) == ["robust_cross_entropy", "cross_entropy", "uncertified"]


def test_the_gradient_of_the_addends_on_paper() -> None:
    """Of -m with softmax p: p_k - 1[k = y], as for the cross entropy, at the worst image instead of the given one."""
    model, images = affine(), pictures(1)
    found = LpDual("l2", 0.3).loss(model, images, WHOLE)
    (gradient,) = torch.autograd.grad(found.total, model.network[1].bias)
    shares = (-by_hand(model, images, "l2", 0.3)).softmax(1)[0]
    torch.testing.assert_close(gradient, shares - functional.one_hot(images.labels[0], 4), rtol=1e-4, atol=1e-6)


@every_norm
def test_with_almost_no_radius_it_is_the_cross_entropy(norm: str) -> None:
    model, images = dense(4, classes=3), batch(pixels(20), torch.arange(20) % 3)
    clean = functional.cross_entropy(model(images.images), images.labels).detach()
    regime = LpDual(norm, 1.0, start_radius=0.0, radius_warmup=1.0)
    step = Progress(step=0, epoch=0, total=10**9, seed=0)
    torch.testing.assert_close(regime.loss(model, images, step).total.detach(), clean, rtol=1e-5, atol=1e-6)
    assert float(LpDual(norm, 0.1).loss(model, images, WHOLE).total.detach()) > float(clean) + 0.1


@every_norm
def test_it_is_above_the_cross_entropy_of_every_image_of_the_ball(norm: str) -> None:
    model, images = dense(4, classes=3), batch(pixels(1, seed=5), torch.tensor([1]))
    found = LpDual(norm, 0.1).loss(model, images, WHOLE).total.detach()
    shifts = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    shifts = 0.1 * shifts / torch.linalg.vector_norm(shifts, 2 if norm == "l2" else torch.inf, dim=1, keepdim=True)
    with torch.no_grad():
        there = functional.cross_entropy(model(images.images + shifts.view(-1, 1, 1, 2)), torch.ones(2000, dtype=torch.long),
                                         reduction="none")
    assert (there <= found).all()
    assert there.max() > functional.cross_entropy(model(images.images), images.labels).detach()


def test_random_projections_estimate_it_and_are_drawn_anew_at_each_step() -> None:
    """In training alone: on validation images the bounds are exact."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))
    images, steps = pictures(), [Progress(step, 0, 100, 11) for step in range(30)]
    exact = LpDual("l2", 0.3).loss(model, images, WHOLE).total.detach()

    def projected(progress: Progress, projections: int = 8) -> torch.Tensor:
        return LpDual("l2", 0.3, start_radius=0.3, projections=projections).loss(model, images, progress).total.detach()

    found = torch.stack([projected(step) for step in steps])
    assert len(found.unique()) == 30
    assert torch.equal(projected(steps[3]), found[3])
    assert found.mean() == pytest.approx(float(exact), rel=0.2)
    torch.testing.assert_close(projected(steps[0], 2000), exact, rtol=1e-5, atol=0)
    assert torch.equal(projected(WHOLE), exact)


def test_batch_norm_enters_as_in_evaluation_and_is_renewed_by_the_clean_pass_once() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).train()
    images, renewed = pictures(), None
    renewed = copy.deepcopy(model)
    renewed(images.images)
    with torch.no_grad():
        expected = LpDual("l2", 0.1).loss(copy.deepcopy(renewed).eval(), images, WHOLE).total
    found = LpDual("l2", 0.1, start_radius=0.1).loss(model, images, Progress(0, 0, 10, 0))
    torch.testing.assert_close(found.total.detach(), expected)
    assert torch.equal(model[2].running_mean, renewed[2].running_mean)
    assert model[2].num_batches_tracked == 1
    assert model.training


def test_bf16_autocast_and_validation() -> None:
    model, images = dense(4, classes=3), batch(pixels(20), torch.arange(20) % 3)
    regime = LpDual("l2", 0.1)
    expected = regime.loss(model, images, WHOLE).total
    with torch.autocast("cpu", torch.bfloat16):
        found = regime.loss(model, images, WHOLE).total
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0)
    with frozen(model), torch.no_grad():
        torch.testing.assert_close(regime.loss(model, images, WHOLE).total, expected.detach())


# ---- The radius ---------------------------------------------------------------------------------------------------------------

def radii(monkeypatch: pytest.MonkeyPatch, regime: LpDual, total: int) -> list[float]:
    """The radius of the ball at each step."""
    seen: list[float] = []
    original = lp_dual.Ball
    monkeypatch.setattr(lp_dual, "Ball", lambda norm, radius: (seen.append(radius), original(norm, radius))[1])
    model = regime.network(lambda: threshold(0.5))
    for step in range(total):  # an image that nothing certifies is left to every stage
        regime.loss(model, batch(at(0.5), torch.tensor([0])), Progress(step, 0, total, 0))
    regime.loss(model, batch(at(0.5), torch.tensor([0])), replace(WHOLE, step=0))
    return seen


def test_the_radius_grows_in_each_stage_anew_and_is_whole_on_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 0.1 by a quarter of the way to 0.5 in each of the first 4 of a stage's 8 steps."""
    regime = LpDual("l2", 0.5, start_radius=0.1, radius_warmup=0.5, stages=3)
    a_stage = [0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert radii(monkeypatch, regime, 24) == pytest.approx([*a_stage * 3, 0.5])


@pytest.mark.parametrize(("warmup", "expected"), [(0.0, [1.0] * 4), (1.0, [0.25, 0.5, 0.75, 1.0]), (0.3, [1 / 1.2, 1, 1, 1])])
def test_the_share_of_the_steps(warmup: float, expected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    regime = LpDual("linf", 1.0, start_radius=0.0, radius_warmup=warmup)
    assert radii(monkeypatch, regime, 4) == pytest.approx([*expected, 1.0])


def test_given_stages_take_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    regime = LpDual("l2", 0.5, start_radius=0.1, radius_warmup=0.5, stages=3, given_stages=2)
    assert (regime.phases, radii(monkeypatch, regime, 4)) == (1, pytest.approx([0.3, 0.5, 0.5, 0.5, 0.5]))


# ---- Who is left to which stage -----------------------------------------------------------------------------------------------

def test_only_what_the_stages_before_do_not_certify_is_trained_on() -> None:
    """The loss of the second stage is that of a network on the rest, and its gradient goes to that stage alone."""
    cascade, regime = random_cascade(4, stages=2), LpDual("l2", 0.05, start_radius=0.05, stages=2)
    images = batch(pixels(60), torch.arange(60) % 2)
    sure = certifies(cascade.stages[0], images.images, "l2", 0.05)
    assert 0 < int(sure.sum()) < 60
    found = regime.loss(cascade, images, Progress(5, 1, 10, 0))
    rest = batch(images.images[~sure], images.labels[~sure])
    expected = LpDual("l2", 0.05, start_radius=0.05).loss(cascade.stages[1], rest, Progress(5, 1, 10, 0))
    torch.testing.assert_close(found.total, expected.total)
    for name, term in expected.terms.items():
        torch.testing.assert_close(found.terms[name], term)
    assert found.terms["left"] == (~sure).float().mean()
    assert list(found.terms) == ["robust_cross_entropy", "cross_entropy", "uncertified", "left"]
    found.total.backward()
    assert all(weight.grad is None for weight in cascade.stages[0].parameters())
    assert all(weight.grad is not None for weight in cascade.stages[1].parameters())


def test_certified_is_the_class_that_the_stage_names_be_it_the_label_or_not() -> None:
    """As the cascade itself: what a stage certifies never comes to the next one."""
    cascade, regime = thresholds(0.5, 0.3), LpDual("l2", 0.1, stages=2)
    images = batch(at(0.1, 0.2, 0.55, 0.9), torch.tensor([0, 1, 1, 0]))
    assert float(regime.loss(cascade, images, Progress(5, 1, 10, 0)).terms["left"]) == 0.25


@pytest.mark.parametrize("optimiser", [lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.1),
                                       lambda weights: torch.optim.Adam(weights, lr=0.1, weight_decay=0.1, fused=True)])
def test_where_nobody_is_left_no_weight_moves_not_even_by_momentum(optimiser: Any) -> None:
    cascade, regime = thresholds(0.5, 0.3), LpDual("l2", 0.1, stages=2)
    steps = optimiser(cascade.parameters())
    regime.loss(cascade, batch(at(0.5, 0.52), torch.tensor([0, 1])), Progress(5, 1, 10, 0)).total.backward()
    steps.step()
    before, state = copy.deepcopy(cascade.state_dict()), copy.deepcopy(steps.state_dict())
    steps.zero_grad(set_to_none=True)
    found = regime.loss(cascade, batch(at(0.1, 0.9), torch.tensor([0, 1]), first=2), Progress(6, 1, 10, 0))
    found.total.backward()
    steps.step()
    assert {name: float(term.detach()) for name, term in found.terms.items()} == {
        "robust_cross_entropy": 0, "cross_entropy": 0, "uncertified": 0, "left": 0}
    assert float(found.total.detach()) == 0
    for name, value in cascade.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert str(steps.state_dict()) == str(state)


def questions(monkeypatch: pytest.MonkeyPatch, cascade: Cascade) -> list[tuple[int, int]]:
    """(stage, images) of every question whether a stage certifies some images."""
    asked: list[tuple[int, int]] = []

    def noted(network: nn.Module, images: torch.Tensor, norm: str, radius: float, rough: bool) -> torch.Tensor:
        asked.append(([*cascade.stages].index(network), len(images)))
        return certifies(network, images, norm, radius, rough)

    monkeypatch.setattr(lp_dual, "certifies", noted)
    return asked


def test_a_stage_is_asked_once_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four stages, two steps an epoch, two epochs a stage: the second epoch asks nobody, and nobody asks of what is settled."""
    cascade, regime = random_cascade(4, stages=4, radius=0.1), LpDual("l2", 0.1, stages=4)
    batches = [batch(pixels(30, seed), torch.arange(30) % 2, 30 * seed) for seed in range(2)]
    settled = [torch.stack([certifies(stage, one.images, "l2", 0.1) for stage in cascade.stages]) for one in batches]
    asked, steps, left = questions(monkeypatch, cascade), [], []
    for step in range(16):
        before = len(asked)
        found = regime.loss(cascade, batches[step % 2], Progress(step, step // 2, 16, 0))
        steps.append([(stage, n) for stage, n in asked[before:] if n])
        left.append(float(found.terms["left"]))
    for step in range(16):
        stage, sure = step // 4, settled[step % 2]
        rest = ~sure[:stage].any(0)
        assert left[step] == pytest.approx(float(rest.float().mean())), step
        fresh = step % 4 < 2 and stage > 0
        assert steps[step] == ([(stage - 1, int((~sure[: stage - 1].any(0)).sum()))] if fresh else []), step


def test_given_stages_are_all_asked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cascade, regime = random_cascade(4, stages=3), LpDual("l2", 0.05, stages=3, given_stages=2)
    asked, images = questions(monkeypatch, cascade), batch(pixels(30), torch.arange(30) % 2)
    first = certifies(cascade.stages[0], images.images, "l2", 0.05)
    for step in range(3):
        regime.loss(cascade, images, Progress(step, 0, 3, 0))
    assert [question for question in asked if question[1]] == [(0, 30), (1, int((~first).sum()))]
    assert cascade.in_use == 3


def test_validation_asks_anew_and_remembers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its indices are those of other images."""
    cascade, regime = random_cascade(4, stages=2), LpDual("l2", 0.05, stages=2)
    regime.loss(cascade, batch(pixels(30), torch.arange(30) % 2), Progress(5, 1, 10, 0))
    before, asked = regime.state_dict(), questions(monkeypatch, cascade)
    with frozen(cascade), torch.no_grad():
        found = [regime.loss(cascade, batch(pixels(30, seed=7), torch.arange(30) % 2), WHOLE) for _ in range(2)]
    assert asked == [(0, 30), (0, 30)]
    assert found[0].total == found[1].total
    sure = certifies(cascade.stages[0], pixels(30, seed=7), "l2", 0.05)
    assert float(found[0].terms["left"]) == pytest.approx(float((~sure).float().mean()))
    for one, other in zip(before.values(), regime.state_dict().values(), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_what_is_remembered_goes_through_a_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cascade, regime = random_cascade(4, stages=2), LpDual("l2", 0.05, stages=2)
    images = batch(pixels(30), torch.arange(30) % 2, first=1000)
    expected = regime.loss(cascade, images, Progress(5, 1, 10, 0))
    torch.save(regime.state_dict(), tmp_path / "state.pt")
    again, asked = LpDual("l2", 0.05, stages=2), questions(monkeypatch, cascade)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    found = again.loss(cascade, images, Progress(5, 1, 10, 0))
    assert [n for _, n in asked if n] == []
    assert torch.equal(found.total, expected.total)


def test_a_state_that_was_given_away_does_not_change() -> None:
    cascade, regime = random_cascade(4, stages=2), LpDual("l2", 0.05, stages=2)
    regime.loss(cascade, batch(pixels(30), torch.arange(30) % 2), Progress(5, 1, 10, 0))
    state = regime.state_dict()
    before = copy.deepcopy(state)
    regime.loss(random_cascade(5, stages=2), batch(pixels(30, 1), torch.arange(30) % 2, first=30), Progress(6, 1, 10, 0))
    assert all(torch.equal(torch.as_tensor(state[key]), torch.as_tensor(before[key])) for key in state)


def test_earlier_stages_answer_as_in_evaluation_and_stay_as_they_are_to_the_last_bit() -> None:
    """Batch norm of a stage that is asked is not renewed, nor is its dropout drawn, though the model is in training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = [nn.Sequential(nn.Flatten(), nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
                  for _ in range(2)]
    cascade, regime = Cascade(stages, "l2", 0.01).train(), LpDual("l2", 0.01, stages=2)
    before = copy.deepcopy(stages[0].state_dict())
    steps = torch.optim.Adam(cascade.parameters(), lr=0.1, weight_decay=0.1)
    for step in range(4, 8):
        steps.zero_grad(set_to_none=True)
        regime.loss(cascade, batch(pixels(30), torch.arange(30) % 2), Progress(step, 1, 8, 0)).total.backward()
        steps.step()
    assert all(torch.equal(value, before[name]) for name, value in stages[0].state_dict().items())
    assert cascade.stages[0].training


# ---- The model and its stages -------------------------------------------------------------------------------------------------

def test_the_model_is_a_network_or_a_cascade_of_fresh_ones() -> None:
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(dense(len(made)))
        return made[-1]

    assert LpDual().network(make) is made[0]
    model = LpDual("linf", 0.1, stages=3).network(make)
    assert isinstance(model, Cascade)
    assert (list(model.stages), model.norm, model.radius) == (made[1:], "linf", 0.1)


def test_what_weights_to_start_from_fill() -> None:
    """The network; of a cascade the first stage, as a network, or as many as are given, as a cascade that shares them."""
    network, cascade = dense(0), random_cascade(4, stages=3)
    assert LpDual().started(network) is network
    assert LpDual(stages=3).started(cascade) is cascade.stages[0]
    assert LpDual(stages=3, given_stages=1).started(cascade) is cascade.stages[0]
    two = LpDual(stages=3, given_stages=2).started(cascade)
    assert isinstance(two, Cascade)
    assert list(two.stages) == list(cascade.stages)[:2]
    assert isinstance(LpDual(), Assembling)
    assert isinstance(LpDual(), Phased)
    assert isinstance(LpDual(), Stateful)


@pytest.mark.parametrize(("stages", "given", "phases", "in_use"), [
    (1, 0, 1, None), (3, 0, 3, [1, 1, 2, 2, 3, 3]), (3, 1, 2, [2, 2, 2, 3, 3, 3]), (3, 2, 1, [3] * 6)])
def test_stages_come_into_use_one_after_the_other(stages: int, given: int, phases: int, in_use: list[int] | None) -> None:
    regime = LpDual("l2", 0.05, stages=stages, given_stages=given)
    assert regime.phases == phases
    model = regime.network(lambda: dense(4))
    found = []
    for step in range(6):
        regime.loss(model, batch(pixels(8), torch.arange(8) % 2), Progress(step, 0, 6, 0))
        found.append(getattr(model, "in_use", None))
    assert found == (in_use or [None] * 6)


def test_steps_beyond_the_plan_are_of_the_last_stage() -> None:
    """A run of two steps is timed on more."""
    regime = LpDual("l2", 0.05, stages=2)
    model = regime.network(lambda: dense(4))
    regime.loss(model, batch(pixels(8), torch.arange(8) % 2), Progress(3, 0, 2, 0))
    assert isinstance(model, Cascade)
    assert model.in_use == 2


# ---- Mistakes -----------------------------------------------------------------------------------------------------------------

def test_a_network_that_cannot_be_bounded_is_one_line() -> None:
    images = batch(torch.rand(2, 1, 28, 28), torch.tensor([0, 1]))
    with pytest.raises(UserError, match=r"MaxPool2d \(.*model=cnn_small") as refused:
        LpDual().loss(LeNet((1, 28, 28), 10), images, WHOLE)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("stages", [1, 2])
def test_a_compiled_model_is_one_line(stages: int) -> None:
    regime = LpDual(stages=stages)
    model = torch.compile(regime.network(lambda: dense(4)))
    with pytest.raises(UserError, match=r"^training\.compile=true: expected .* set training\.compile=false$"):
        regime.loss(model, batch(pixels(4), torch.arange(4) % 2), Progress(0, 0, 4, 0))


@pytest.mark.parametrize(("settings", "said"), [
    ({"norm": "l1"}, "norm: expected l2 or linf"), ({"radius": 0.0}, "radius: expected a number > 0"),
    ({"radius": math.inf}, "radius"), ({"start_radius": -0.1}, "start_radius"),
    ({"start_radius": 2.0}, r"start_radius: expected a number in \[0, radius=1.58\]"),
    ({"radius_warmup": 1.5}, "radius_warmup"), ({"projections": 0}, "projections"), ({"stages": 0}, "stages"),
    ({"given_stages": 1}, "given_stages: expected a whole number >= 0 and below stages=1"),
    ({"stages": 2, "given_stages": 2}, "given_stages")])
def test_a_setting_out_of_its_range_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Wrong, match=said):
        LpDual(**settings)


@pytest.mark.parametrize(("name", "norm", "radius"), [
    ("lp_dual", "l2", 1.58), ("lp_dual_linf", "linf", 0.1), ("lp_dual_cifar", "l2", 36 / 255),
    ("lp_dual_cifar_linf", "linf", 2 / 255)])
def test_the_papers_settings(name: str, norm: str, radius: float) -> None:
    built = build(yaml.safe_load((CONF / f"{name}.yaml").read_text()), "regime")
    assert (built.norm, built.stages, built.projections, built.noise_std) == (norm, 1, 50, None)
    assert built.radius == pytest.approx(radius, rel=1e-5)
    assert built.radius_warmup == pytest.approx(1 / 3, rel=1e-5)


def test_training_on_it_certifies_what_plain_training_does_not() -> None:
    """Two classes that lie 0.24 apart, and a radius of 0.1: the cross entropy alone leaves the border where it is right."""
    images = pixels(200)
    kept = (images[:, 0, 0, 0] - 0.5).abs() > 0.12
    images, labels = images[kept], (images[kept][:, 0, 0, 0] > 0.5).long()
    shares = []
    for radius in (0.1, 1e-9):
        model, regime = dense(4), LpDual("l2", radius, start_radius=0.0)
        steps = torch.optim.Adam(model.parameters(), lr=0.03)
        for step in range(100):
            steps.zero_grad()
            regime.loss(model, batch(images, labels), Progress(step, 0, 100, 0)).total.backward()
            steps.step()
        right = answers(model, images) == labels
        shares.append(float((certifies(model, images, "l2", 0.1) & right).double().mean()))
    assert shares[0] > 0.99
    assert shares[1] < 0.96
