"""Radii of noise after the first layer never pass the true distance to the smoothed classifier's boundary, and come near it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import nn

from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.commands.proving import Procedure
from robust_cli.messages import UserError
from robust_cli.models.classifier import classifier
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.models.operator_norm import norm_from_below
from robust_cli.models.pixel_map import PixelMap
from robust_cli.smoothing.batching import Block
from robust_cli.smoothing.noises import make_noise
from robust_cli.smoothing.place import at_input, in_pixels, norm_said, place_of
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import Votes
from robust_cli.smoothing.votes import NoisyVotes

SHAPE, STD, NOISE = (2, 6, 6), [0.25, 0.4], 0.8
SAMPLES, SELECTION, ALPHA = 20_000, 64, 0.001
CLOSE = 1e-9


class Layers(nn.Module):
    """A first layer and a linear classifier of two classes: logits (0, w.z + b)."""

    def __init__(self, first: list[nn.Module], weight: torch.Tensor, bias: float) -> None:
        super().__init__()
        last = nn.Linear(len(weight), 2)
        with torch.no_grad():
            last.weight.copy_(torch.stack([torch.zeros_like(weight), weight]))
            last.bias.copy_(torch.tensor([0.0, bias]))
        self.layers = nn.Sequential(*first, *([] if isinstance(first[0], nn.Flatten) else [nn.Flatten()]), nn.Identity(), last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


@dataclass(frozen=True)
class Known:
    """A model, an image, its matrix A in pixel units, and the distance of the smoothed classifier's boundary from the image."""

    model: nn.Module
    image: torch.Tensor
    matrix: np.ndarray
    distance: float
    p1: float


def first_layers() -> dict[str, list[nn.Module]]:
    torch.manual_seed(0)
    orthogonal = nn.Linear(72, 72)
    with torch.no_grad():
        orthogonal.weight.copy_(1.7 * torch.linalg.qr(torch.randn(72, 72)).Q)
    return {
        "padded": [nn.Conv2d(2, 6, 5, padding=2)], "strided": [nn.Conv2d(2, 8, 3, stride=2, padding=1)],
        "grouped": [nn.Conv2d(2, 4, 3, padding=1, groups=2)], "dilated": [nn.Conv2d(2, 5, 3, dilation=2, padding=2)],
        "dense": [nn.Flatten(), nn.Linear(72, 40)], "isometry": [nn.Flatten(), orthogonal]}


def known(kind: str, worst: bool, margin: float = 1.2, seed: int = 0) -> Known:
    """``worst``: the classifier looks along the output that the layer stretches most, so that no larger radius would be true.
    ``margin``: in units of the noise."""
    torch.manual_seed(seed)
    first = first_layers()[kind]
    shift = nn.Sequential(*first)
    normalise = torch.tensor(np.float32(STD)).double()[:, None, None]
    mean = torch.tensor(np.float32([0.5, 0.5])).double()[:, None, None]
    with torch.no_grad():
        exact = shift.double()
        basis = torch.eye(72, dtype=torch.float64).view(72, *SHAPE)
        zero = exact(torch.zeros(1, *SHAPE, dtype=torch.float64))
        matrix = (exact(basis / normalise) - zero).flatten(1).T.numpy()
        image = torch.rand(SHAPE)
        inner = exact((image.double() - mean)[None] / normalise).flatten().numpy()
        shift.float()
    weight = np.linalg.svd(matrix)[0][:, 0] if worst else np.random.default_rng(seed).standard_normal(len(matrix))
    weight = weight / np.linalg.norm(weight)
    bias = margin * NOISE - float(weight @ inner)
    model = classifier(Layers(first, torch.tensor(weight, dtype=torch.float32), bias), [0.5, 0.5], STD).eval()
    return Known(model, image, matrix, margin * NOISE / float(np.linalg.norm(matrix.T @ weight)), float(ndtr(margin)))


def certified(case: Known, operator_norm: float | None = None, seed: int = 0) -> float:
    """The whole procedure on one image: votes of the rest on noisy outputs, bounds, radius. ``operator_norm``: a mutant's."""
    place = place_of(case.model, "first", SHAPE)
    counter = NoisyVotes(place.after, 2, make_noise("gaussian", NOISE), seed, "cpu", workers=1)
    found: dict[str, list[int]] = {}
    output = place.each(case.image[None])[0]
    blocks = [Block(3, "selection", 0, 0, SELECTION), Block(3, "estimation", 0, 0, SAMPLES)]
    counter.serve(((output, block) for block in blocks), lambda block, counts: found.update({block.purpose: counts}))
    made = Procedure({"np": NeymanPearson("two_class")}, Fixed(SAMPLES, SELECTION), "fixed", make_noise("gaussian", NOISE), ALPHA)
    course = made.course(SHAPE, 2, place.operator_norm if operator_norm is None else operator_norm)
    bounds = course.bounds("np", Votes(np.array([found["estimation"]]), np.array([found["selection"]])))
    assert bounds.predicted.tolist() == [1]
    return float(course.radius("np", bounds)[0])


@pytest.mark.parametrize("worst", [True, False])
@pytest.mark.parametrize("kind", first_layers())
def test_no_radius_passes_the_true_distance(kind: str, worst: bool) -> None:
    case = known(kind, worst)
    radius = certified(case)
    assert 0 < radius <= case.distance
    if worst:
        assert radius > 0.94 * case.distance  # the bound is tight: what is missing is that of 20,000 votes


def test_behind_a_scaled_isometry_radii_are_as_large_as_the_noise_allows_in_every_direction(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "STD", [0.25, 0.25])
    for seed in range(3):
        case = known("isometry", worst=False, seed=seed)
        assert place_of(case.model, "first", SHAPE).operator_norm == pytest.approx(1.7 / 0.25, rel=2e-6)
        assert 0.94 * case.distance < certified(case) <= case.distance


def undivided(case: Known) -> float:
    return 1.0


def one_step_from_below(case: Known) -> float:
    return norm_from_below(place_map(case), 1)


def std_forgotten(case: Known) -> float:
    pixels = place_map(case)
    pixels.std.fill_(1.0)
    return norm_from_below(pixels, 500)


def padding_ignored(case: Known) -> float:
    pixels = place_map(case)
    assert pixels.convolution is not None
    pixels.convolution["padding"] = (0, 0, 0, 0)
    with torch.no_grad():
        pixels.outputs = tuple(pixels.linear(torch.zeros(1, *SHAPE).double()).shape[1:])
    return norm_from_below(pixels, 500)


def largest_kernel(case: Known) -> float:
    """The norm of the kernels as rows of a matrix, as for a dense layer: overlaps are not counted."""
    pixels = place_map(case)
    return float(torch.linalg.svdvals((pixels.weight / pixels.std[None]).flatten(1))[0])


def place_map(case: Known) -> PixelMap:
    before = place_of(case.model, "first", SHAPE).before
    assert isinstance(before, PixelMap)
    return before


MUTANTS = [undivided, one_step_from_below, std_forgotten, padding_ignored, largest_kernel]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_radii_divided_by_too_little_are_caught(mutant: Callable[[Known], float]) -> None:
    """By the very test above, where the classifier looks along what the layer stretches most."""
    case = known("padded", worst=True)
    assert certified(case, mutant(case)) > case.distance
    exact = NeymanPearson("two_class")(case.p1, 1 - case.p1, in_pixels(NOISE, mutant(case)))
    assert float(exact) > case.distance * (1 + 1e-3)


@pytest.mark.parametrize("kind", first_layers())
def test_with_exact_probabilities_the_radius_is_the_distance_but_for_the_rounding_of_the_norm(kind: str) -> None:
    for margin in (0.01, 1.0, 3.5):
        case = known(kind, worst=True, margin=margin)
        place = place_of(case.model, "first", SHAPE)
        radius = float(NeymanPearson("two_class")(case.p1, 1 - case.p1, in_pixels(NOISE, place.operator_norm)))
        assert (1 - 3e-6) * case.distance < radius <= case.distance * (1 + 1e-9)


@pytest.mark.parametrize("kind", first_layers())
def test_the_two_parts_are_the_model(kind: str) -> None:
    case = known(kind, worst=False)
    place, images = place_of(case.model, "first", SHAPE), torch.rand(5, *SHAPE)
    torch.testing.assert_close(place.after(place.each(images)), case.model(images), rtol=1e-4, atol=1e-4)
    assert not any(part.training for part in place.after.modules())
    assert torch.equal(place.each(images)[2:3], place.each(images[2:3]))  # bit for bit, whatever stands beside it
    assert place.each(images[:0]).shape[0] == 0


def test_the_noise_goes_to_the_output_at_its_full_size() -> None:
    """Votes of a rest that looks at one output alone: P = Phi(margin / noise_std), not of the noise in pixel units."""
    case = known("padded", worst=False, margin=0.5)
    place = place_of(case.model, "first", SHAPE)
    counter = NoisyVotes(place.after, 2, make_noise("gaussian", NOISE), 1, "cpu", workers=1)
    votes = counter.decide(place.each(case.image[None]), [0], "test", 20_000)
    assert votes[0, 1] / 20_000 == pytest.approx(ndtr(0.5), abs=4 * math.sqrt(0.25 / 20_000))


def test_noise_at_the_image_is_what_it_was() -> None:
    model = known("padded", worst=True).model
    for layer in (None, "input"):
        place, images = place_of(model, layer, SHAPE), torch.rand(2, *SHAPE)
        assert place.after is model
        assert place.operator_norm == 1
        assert torch.equal(place.each(images), images)
        assert place.describe() == {"layer": "input", "operator_norm": 1.0}
    assert at_input(model).words == ""
    assert in_pixels(0.3, 1.0) == 0.3
    assert norm_said({}) == norm_said({"smoothing": None}) == 1.0
    assert norm_said({"smoothing": {"operator_norm": 3.5}}) == 3.5


@pytest.mark.parametrize("norm", [1.000001, 3.7, 0.013, 1e5])
@pytest.mark.parametrize("noise_std", [0.1, 0.5, 3.3])
def test_the_noise_in_pixels_is_rounded_down(noise_std: float, norm: float) -> None:
    from fractions import Fraction

    assert Fraction(in_pixels(noise_std, norm)) * Fraction(norm) <= Fraction(noise_std)
    assert in_pixels(noise_std, norm) == pytest.approx(noise_std / norm, rel=1e-14)


def test_what_cannot_be_bounded_is_refused() -> None:
    model = classifier(CnnSmall(SHAPE, 3), [0.5, 0.5], STD).eval()
    with torch.no_grad():
        model.network.layers[0].weight.zero_()
    with pytest.raises(UserError, match=r"smoothing.layer=first.*operator norm is 0"):
        place_of(model, "first", SHAPE)
    with torch.no_grad():
        model.network.layers[0].weight.fill_(math.nan)
    with pytest.raises(UserError, match="numbers"):
        place_of(model, "first", SHAPE)
    with pytest.raises(UserError, match=r"smoothing\.layer=first"):
        place_of(nn.Sequential(nn.Flatten(), nn.Linear(72, 2)).eval(), "first", SHAPE)


def test_linf_radii_count_the_pixels_and_not_the_outputs() -> None:
    case = known("padded", worst=True)
    made = Procedure({"np": NeymanPearson("two_class", norm="linf"), "l2": NeymanPearson("two_class")}, Fixed(1000, 64), "fixed",
                     make_noise("gaussian", NOISE), ALPHA)
    course = made.course(SHAPE, 2, place_of(case.model, "first", SHAPE).operator_norm)
    assert course.largest_radius("np") == pytest.approx(course.largest_radius("l2") / math.sqrt(72), rel=1e-9)


class Scaling(Layers):
    """A forward of its own around the layers: fifty times steeper than they are."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(50 * (images - 0.5))


class Standardised(nn.Conv2d):
    """A convolution that makes its weights in its own forward."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(images, 20 * (self.weight - self.weight.mean((1, 2, 3), keepdim=True)), self.bias)


def hooked() -> nn.Module:
    convolution = nn.Conv2d(2, 3, 3)
    convolution.register_forward_hook(lambda layer, inputs, output: 9 * output)
    return convolution


@pytest.mark.parametrize("network", [
    lambda: Scaling([nn.Conv2d(2, 3, 3)], torch.randn(48), 0.1), lambda: Layers([Standardised(2, 3, 3)], torch.randn(48), 0.1),
    lambda: Layers([hooked()], torch.randn(48), 0.1)], ids=["its own forward", "weights made in the layer", "a hook"])
def test_a_model_that_is_more_than_its_parts_is_refused(network: Callable[[], nn.Module]) -> None:
    """Its radii would be those of another function, up to fifty times too large."""
    torch.manual_seed(0)
    with pytest.raises(UserError, match="expected a model that is its normalisation, its first layer and its other") as e:
        place_of(classifier(network(), [0.5] * 2, STD).eval(), "first", SHAPE)
    assert "\n" not in str(e.value)


def test_noise_that_float32_would_swallow_is_refused() -> None:
    """At outputs of 1e5 neighbours are 0.008 apart: draws of noise 0.001 are all alike and would certify anything."""
    torch.manual_seed(0)
    model = classifier(Layers([nn.Conv2d(2, 3, 3)], torch.randn(48), 0.1), [0.5] * 2, STD).eval()
    fine, image = place_of(model, "first", SHAPE), torch.rand(1, *SHAPE)
    fine.admit(fine.each(image), 0.001)
    with torch.no_grad():
        dict(model.named_parameters())["network.layers.0.bias"].fill_(1e5)
    far = place_of(model, "first", SHAPE)
    point = far.each(image)
    assert float(((point + 0.001 * torch.randn(1000, *point.shape[1:])) != point).double().mean()) < 0.01
    with pytest.raises(UserError, match="noise_std: expected noise that float32 can add to the first layer's output"):
        far.admit(point, 0.001)
    far.admit(point, 10.0)
