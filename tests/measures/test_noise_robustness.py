"""Noise robustness: exact flip probabilities of half-spaces under noise of fixed length, and what each form counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from measured_models import labelled, material
from scipy.stats import beta, binom, kstest, norm
from torch import nn

from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
from robust_cli.measures.noise_robustness import NoiseRobustness
from robust_cli.messages import Wrong


class Halfspace(nn.Module):
    """Answers 1 where the first pixel is above 0.5 - margin: the clean grey image is ``margin`` inside."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = images.flatten(1)[:, 0] - 0.5 + self.margin
        return torch.stack([-score, score], 1)


class Constant(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, 1.0]).expand(len(images), 2)


class Watched(Constant):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return super().forward(images)


def flip(margin: float, length: float, pixels: int) -> float:
    """P(u . n < -margin) for n uniform on the sphere of that length."""
    return float(beta.cdf((1 - margin / length) / 2, (pixels - 1) / 2, (pixels - 1) / 2))


def grey(n: int, height: int, width: int) -> torch.Tensor:
    return torch.full((n, 1, height, width), 0.5)


def measured(model: nn.Module, pixels: torch.Tensor, batch_size: int = 1000, **settings):
    return NoiseRobustness(**settings)(material(BaseClassifier(model), labelled(pixels), batch_size=batch_size))


def test_a_constant_network_has_100() -> None:
    found = measured(Constant(), grey(20, 4, 4), draws=3)
    assert len(found) == 30
    assert found["noise_std"].iloc[[0, -1]].tolist() == [0, 0.5]
    assert (found["agreement"] == 1).all()
    assert (found["accuracy"] == 0).all()  # the answer is 1, every label 0: agreement is with the answer
    for form in ("gnr", "gnr_all", "gnr_threshold"):
        assert found[form].to_numpy() == pytest.approx(100)
        assert found[f"{form}_error"].to_numpy() == pytest.approx(0)


def test_flips_of_a_half_space_have_their_exact_probability() -> None:
    p, n = flip(0.5, 8.4, 784), 12_000
    assert p == pytest.approx(0.0478020, abs=5e-7)
    found = measured(Halfspace(0.5), grey(1, 28, 28).expand(n, -1, -1, -1), largest=0.3, sizes=2, jitter=False)
    assert found["agreement"].iloc[0] == 1
    assert abs(1 - found["agreement"].iloc[1] - p) < 5 * math.sqrt(p * (1 - p) / n)
    assert found["agreement_error"].iloc[1] == pytest.approx(math.sqrt(p * (1 - p) / n), rel=0.1)


def test_noise_has_one_length_and_not_a_gaussians() -> None:
    """In four pixels noise of std 0.5 has length 1: beyond a margin of 1.1 nothing flips; Gaussian noise would flip 1.4 %."""
    n = 6000
    for margin in (0.9, 1.1):
        p, gaussian = flip(margin, 1.0, 4), float(norm.cdf(-margin / 0.5))
        error = math.sqrt(max(p * (1 - p), gaussian * (1 - gaussian)) / n)
        found = 1 - measured(Halfspace(margin), grey(n, 2, 2), largest=0.5, sizes=2, jitter=False)["agreement"].iloc[1]
        assert abs(found - p) < 5 * error
        assert abs(gaussian - p) > 6 * error
        if margin > 1:
            assert found == 0


def test_lengths_are_spread_over_half_a_step_to_either_side_and_nothing_is_clipped() -> None:
    model, n, pixels = Watched(), 300, 48
    measured(model, torch.zeros(n, 3, 4, 4), largest=0.4, sizes=3)
    clean, *noisy = model.seen
    assert (clean == 0).all()
    for noise_std, images in zip((0.0, 0.2, 0.4), noisy, strict=True):
        assert (images < 0).any()
        sizes = images.double().flatten(1).norm(dim=1).numpy() / math.sqrt(pixels)
        low, width = (0.0, 0.1) if noise_std == 0 else (noise_std - 0.1, 0.2)  # a length has no sign
        assert kstest(sizes, "uniform", (low, width)).pvalue > 1e-4
        assert sizes.min() >= low - 1e-6
        assert sizes.max() <= low + width + 1e-6
    directions = torch.stack([images.flatten(1) / images.flatten(1).norm(dim=1, keepdim=True) for images in noisy])
    assert float((directions[0] * directions[1]).sum(1).abs().mean()) < 0.2  # fresh in every size; 1 if kept
    assert float((directions[0, 0] * directions[0, 1]).sum().abs()) < 0.7  # and of every image


def test_forms_of_several_draws() -> None:
    n, m, margin = 4000, 5, 0.5
    p = flip(margin, 1.0, 4)
    found = measured(Halfspace(margin), grey(n, 2, 2), largest=0.5, sizes=2, jitter=False, draws=m, threshold=0.2).iloc[1]
    expected = {"agreement": 1 - p, "all_agree": (1 - p) ** m, "within_threshold": float(binom.cdf(1, m, p))}
    for form, value in expected.items():
        assert abs(found[form] - value) < 5 * math.sqrt(value * (1 - value) / n), form
    for gnr, form in (("gnr", "agreement"), ("gnr_all", "all_agree"), ("gnr_threshold", "within_threshold")):
        assert found[gnr] == pytest.approx(50 * (1 + found[form]))  # one trapezoid from 1
    assert found["gnr_error"] == pytest.approx(50 * found["agreement_error"])


def test_the_first_draw_does_not_depend_on_how_many_follow() -> None:
    one, four = (measured(Halfspace(0.3), grey(200, 2, 2), draws=m) for m in (1, 4))
    for column in ("agreement", "accuracy", "gnr"):
        assert one[column].tolist() == four[column].tolist()
    assert one["gnr_all"].tolist() == one["gnr"].tolist() == one["gnr_threshold"].tolist()
    assert four["gnr_all"].iloc[0] < one["gnr"].iloc[0] - 5


def test_the_area_is_the_curves() -> None:
    found = measured(Halfspace(0.3), grey(300, 2, 2), sizes=11)
    y = found["agreement"].to_numpy()
    assert found["gnr"].iloc[0] == pytest.approx(100 * (y.sum() - (y[0] + y[-1]) / 2) / 10)
    assert 50 < found["gnr"].iloc[0] < 95
    assert found["gnr"].nunique() == 1


@pytest.mark.parametrize("batch_size", [1, 7])
def test_no_result_depends_on_the_batch(batch_size: int) -> None:
    pixels = torch.rand(30, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    whole, cut = (measured(Halfspace(0.1), pixels, batch_size=size, sizes=6, draws=2) for size in (30, batch_size))
    assert whole.equals(cut)
    assert 0 < whole["agreement"].iloc[-1] < 1


def test_images_have_noise_by_their_index_and_the_seed_is_heard() -> None:
    setting, model = NoiseRobustness(sizes=6), BaseClassifier(Halfspace(0.2))
    def kept(first: int, seed: int) -> list[float]:
        return setting(material(model, labelled(grey(400, 2, 2), first=first), seed=seed))["agreement"].tolist()
    assert kept(0, 0) == kept(0, 0)
    assert kept(0, 0) != kept(0, 1)
    assert kept(0, 0) != kept(1000, 0)


def test_agreement_of_wrong_answers_and_accuracy_against_the_label() -> None:
    """Half of the labels are wrong: accuracy is half of the agreement where nothing flips."""
    labels = torch.arange(100) % 2
    found = NoiseRobustness(largest=0.01, sizes=2)(material(BaseClassifier(Halfspace(0.4)), labelled(grey(100, 2, 2), labels)))
    assert found["agreement"].tolist() == [1, 1]
    assert found["accuracy"].tolist() == [0.5, 0.5]


def test_an_answer_that_is_no_number_never_agrees() -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 2), torch.nan)

    assert measured(Broken(), grey(5, 2, 2), sizes=2)["gnr"].tolist() == [0, 0]


def test_a_smoothed_classifier_is_measured_by_its_base_network() -> None:
    images = labelled(grey(50, 2, 2))
    base, smoothed = BaseClassifier(Halfspace(0.3)), SmoothedClassifier(Halfspace(0.3), 0.5)
    first, second = (NoiseRobustness(sizes=5)(material(c, images)) for c in (base, smoothed))
    assert first.equals(second)


@pytest.mark.parametrize(("settings", "name"), [
    ({"largest": 0.0}, "largest"), ({"largest": math.inf}, "largest"), ({"sizes": 1}, "sizes"), ({"draws": 0}, "draws"),
    ({"threshold": 1.0}, "threshold")])
def test_wrong_settings_are_named(settings, name) -> None:
    with pytest.raises(Wrong, match=name):
        NoiseRobustness(**settings)


def test_rows_are_plain_numbers() -> None:
    found = measured(Constant(), grey(3, 2, 2), sizes=3)
    assert not found.isna().any().any()
    assert all(np.issubdtype(kind, np.number) for kind in found.dtypes)
