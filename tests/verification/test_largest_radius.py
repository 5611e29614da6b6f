"""The largest radius that is proven: in closed form where there is one, and at a border between held and refused elsewhere."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from toy_cascades import answers, at, broken, dense, pixels, threshold

from robust_cli.models.classifier import classifier
from robust_cli.verification import certified
from robust_cli.verification.certified import Proof, proof

SHAPE = (1, 1, 2)
TOLERANCE = 1e-3
NORMS = {"l2": 2.0, "linf": 1.0}  # the dual norm's order
every_norm = pytest.mark.parametrize("norm", NORMS)
every_relaxation = pytest.mark.parametrize("relaxation", ["parallel", "adaptive"])


@pytest.fixture(autouse=True)
def exact_borders(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Without the allowance for the float32 network's rounding, so that borders are those of the closed forms."""
    if "allowance" not in request.node.name:
        monkeypatch.setattr(certified, "_ROUNDINGS", 0)


def linear(classes: int = 4, seed: int = 0) -> nn.Module:
    """One layer after a normalisation with another mean and standard deviation for each of two channels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, classes)), [0.2, 0.6], [0.1, 0.4])


def closed_form(model: nn.Module, images: torch.Tensor, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Class, and the distance in pixel units of the nearest face, where another class leads, of an affine model."""
    exact, points = copy.deepcopy(model).double(), images.double()
    with torch.no_grad():
        units = torch.eye(points[0].numel(), dtype=torch.float64).view(-1, *images.shape[1:])
        rows = (exact(units) - exact(torch.zeros_like(units[:1]))).T
        logits = exact(points)
    own = logits.argmax(1)
    faces = (logits.gather(1, own[:, None]) - logits) / (rows[own][:, None] - rows).norm(NORMS[norm], dim=2)
    return own, faces.scatter(1, own[:, None], torch.inf).amin(1)


def pictures(n: int) -> torch.Tensor:
    return torch.rand(n, 2, 2, 3, generator=torch.Generator().manual_seed(3))


# ---- Closed forms -------------------------------------------------------------------------------------------------------------

@every_norm
@every_relaxation
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5])
def test_the_radius_of_a_linear_network_is_the_distance_to_its_nearest_face(norm: str, relaxation: str, tolerance: float) -> None:
    """Never above it, and below by at most the tolerance, which float64 may take once more than the search did, and what the
    search in float32 errs by."""
    model, images = linear(), pictures(80)
    own, exact = closed_form(model, images, norm)
    found = proof(model, (2, 2, 3), relaxation).largest(images, own, norm, tolerance)
    assert found.dtype == torch.float64
    assert (found <= exact).all()
    assert (found >= exact * (1 - 2.01 * tolerance) - 1e-6).all()
    assert exact.max() > 4 * exact.min()


@every_norm
def test_a_radius_for_each_image_is_held_or_refused_on_its_own(norm: str) -> None:
    model, images = linear(), pictures(80)
    own, exact = closed_form(model, images, norm)
    share = 1 + 1e-9 * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(40)
    made = proof(model, (2, 2, 3))
    assert torch.equal(made.holds(images, own, norm, exact * share), share < 1)
    assert torch.equal(made.holds(images, own, norm, float(exact.median())), exact > float(exact.median()))


@every_norm
def test_an_image_does_not_depend_on_those_beside_it(norm: str) -> None:
    """More images than are proven at once, and one alone."""
    model, images = linear(), pictures(80)
    own, _ = closed_form(model, images, norm)
    made = proof(model, (2, 2, 3))
    whole = made.largest(images, own, norm, TOLERANCE)
    alone = torch.cat([made.largest(images[k : k + 1], own[k : k + 1], norm, TOLERANCE) for k in (0, 63, 64, 79)])
    torch.testing.assert_close(whole[[0, 63, 64, 79]], alone, rtol=2 * TOLERANCE, atol=0)
    assert made.largest(images[:0], own[:0], norm, TOLERANCE).shape == (0,)


# ---- ReLU networks ------------------------------------------------------------------------------------------------------------

def borders(made: Proof, found: torch.Tensor, images: torch.Tensor, own: torch.Tensor, norm: str) -> None:
    """Proven at the radius, and no more a little above it."""
    assert made.holds(images, own, norm, found).all()
    assert not made.holds(images, own, norm, found * (1 + 4 * TOLERANCE)).any()


@every_norm
@every_relaxation
def test_a_radius_is_at_the_border_of_what_is_proven(norm: str, relaxation: str) -> None:
    model, images = dense(4, classes=3), pixels(40)
    made, own = proof(model, SHAPE, relaxation), answers(model, images)
    found = made.largest(images, own, norm, TOLERANCE)
    assert (found > 0).all()
    borders(made, found, images, own, norm)
    assert not broken(model, images, own, found, norm).any()


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_radius_off_by_a_tenth_is_caught(factor: float) -> None:
    model, images = dense(4, classes=3), pixels(40)
    made, own = proof(model, SHAPE), answers(model, images)
    with pytest.raises(AssertionError):
        borders(made, factor * made.largest(images, own, "l2", TOLERANCE), images, own, "l2")


def test_adaptive_lines_prove_other_radii_than_parallel_ones() -> None:
    model, images = dense(4, classes=3), pixels(40)
    own = answers(model, images)
    parallel, adaptive = (proof(model, SHAPE, each).largest(images, own, "l2", TOLERANCE) for each in ("parallel", "adaptive"))
    assert (adaptive > parallel * (1 + 4 * TOLERANCE)).any()


@every_norm
def test_nothing_is_proven_where_the_class_is_another_or_at_its_border(norm: str) -> None:
    model, images = dense(4, classes=3), pixels(40)
    made, own = proof(model, SHAPE), answers(model, images)
    for shift in (1, 2):
        assert made.largest(images, (own + shift) % 3, norm, TOLERANCE).tolist() == [0.0] * 40
        assert not made.holds(images, (own + shift) % 3, norm, 1e-9).any()
    half = threshold(0.5)
    assert proof(half, SHAPE).largest(at(0.5, 0.75), torch.tensor([0, 1]), norm, TOLERANCE)[0] == 0
    assert not proof(half, SHAPE).holds(at(0.5), torch.tensor([0]), norm, 0.0).any()


def test_a_network_that_always_answers_alike_has_an_end_too() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    found = proof(model, SHAPE).largest(pixels(3), torch.zeros(3, dtype=torch.long), "l2", TOLERANCE)
    assert found.tolist() == [2**0.5] * 3  # the ball holds all images


@every_norm
def test_the_allowance_for_float32_keeps_a_network_with_large_logits_from_being_broken(norm: str) -> None:
    """At the nearest face, by logits near 1e4: without the allowance some of these images are answered otherwise in float32."""
    model, images = linear(), pictures(200)
    with torch.no_grad():
        model.network[1].bias += 1e4
    own, exact = closed_form(model, images, norm)
    found = proof(model, (2, 2, 3)).largest(images, own, norm, TOLERANCE)
    logits = 32 * torch.finfo(torch.float32).eps * 1e4
    margins = exact - found  # in pixel units, times a row's norm, which is below 30
    assert (found <= exact).all()
    assert (margins[found > 0] > 0.5 * logits / 30).all()
    assert (found[exact > 0.05] > 0).all()
    assert torch.equal(model(images).argmax(1)[found > 0], own[found > 0])


# ---- How ----------------------------------------------------------------------------------------------------------------------

@every_norm
def test_what_is_returned_was_proven_in_float64(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search in float32 may err, here by a half: then the radius goes down by steps of the tolerance until it holds."""
    model, images = linear(), pictures(30)
    own, exact = closed_form(model, images, norm)
    monkeypatch.setattr(certified.Proof, "_search", lambda *_: exact * 1.0049)
    found = proof(model, (2, 2, 3)).largest(images, own, norm, TOLERANCE)
    assert (found <= exact).all()
    assert (found >= exact * (1 - 1.01 * TOLERANCE)).all()
    monkeypatch.setattr(certified.Proof, "_search", lambda *_: exact * 1.5)
    assert proof(model, (2, 2, 3)).largest(images, own, norm, TOLERANCE).tolist() == [0.0] * 30


def test_the_search_goes_up_and_closes_in() -> None:
    """The radii tried for one image: each between the largest that held and the least that was refused."""
    tried: list[tuple[float, bool]] = []

    class Watched(Proof):
        def _least(self, images: torch.Tensor, classes: torch.Tensor, norm: str, radius: float | torch.Tensor,
                   rough: bool = False) -> torch.Tensor:
            found = super()._least(images, classes, norm, radius, rough)
            tried.append((float(torch.as_tensor(radius).flatten()[0]), bool(found > 0)))
            return found

    model = dense(4)
    image = pixels(1)
    own, made = answers(model, image), proof(model, SHAPE)
    found = float(Watched(made.program, made.rough).largest(image, own, "l2", 1e-6))
    held = [radius for radius, good in tried if good]
    refused = [radius for radius, good in tried if not good]
    assert found in held
    assert max(held) < min(refused) * (1 + 1e-12)
    assert min(refused) - max(held) <= 1e-6 * min(refused)
    assert len(tried) < 40
    assert all(one < other for one, other in pairwise(held[:-1]))


def test_a_proof_is_of_the_model_as_it_is_now_and_leaves_it_alone() -> None:
    model = linear().train()
    before, images = copy.deepcopy(model.state_dict()), pictures(5)
    own, exact = closed_form(model, images, "l2")
    made = proof(model, (2, 2, 3))
    with torch.no_grad():
        model.network[1].weight.mul_(0.0)
    assert (made.largest(images, own, "l2", TOLERANCE) >= 0.99 * exact).all()
    assert model.training
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters())
    assert torch.equal(model.network[1].bias, before["network.1.bias"])
