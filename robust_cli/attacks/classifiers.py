"""What attacks see: a base classifier, or one smoothed by noise, with the gradient of a loss at images and its cost.

Legend (SO, STN): f -> model; N(0, sigma^2 I) -> noise_std; n_0 (samples of the expectation) -> draws.

Every call works in evaluation mode with frozen weights and restores both, so nothing reaches the weights' gradients. A loss
is taken image by image: what happens to one image touches no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from robust_cli.attacks.losses import Loss
from robust_cli.messages import check
from robust_cli.models.classifier import frozen
from robust_cli.smoothing.noise import ImageDraws

OBJECTIVES = ("mean_loss", "log_mean_probability")
LossAt = Callable[[torch.Tensor], torch.Tensor]  # images [n, C, H, W] -> loss [n], through the network


class Network:
    """A model, frozen and in evaluation mode while it is used, counting what passes through it."""

    def __init__(self, model: nn.Module, precision: str = "fp32") -> None:
        """``model``: images [n, C, H, W] -> logits [n, K]; precision 'fp32' or 'bf16' (autocast)."""
        check(precision in ("fp32", "bf16"), "precision", "fp32 or bf16", precision)
        self.model, self.precision = model, precision
        self.forward_passes = self.backward_passes = 0  # images x passes, every noisy copy an image

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n, K], float32. For use inside `gradient` and `losses`: here nothing is frozen yet."""
        self.forward_passes += len(images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.model(images).float()

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n, K] of the images, detached."""
        with frozen(self.model), torch.no_grad():
            return self(images)

    def gradient(self, images: torch.Tensor, loss_at: LossAt) -> tuple[torch.Tensor, torch.Tensor]:
        """Each image's gradient of its own loss [n, C, H, W], zero where it does not depend on the image, and its loss [n]."""
        with frozen(self.model), torch.enable_grad():
            inputs, before = images.detach().requires_grad_(), self.forward_passes
            loss = loss_at(inputs)
            if not loss.requires_grad:
                return torch.zeros_like(images), loss
            (gradient,) = torch.autograd.grad(loss.sum(), inputs, materialize_grads=True)
            self.backward_passes += self.forward_passes - before
        return gradient, loss.detach()

    def losses(self, candidates: torch.Tensor, loss_at: LossAt) -> torch.Tensor:
        """Losses [m, n] of candidates [m, n, C, H, W], detached; one that is not a number counts as -infinity."""
        with frozen(self.model), torch.no_grad():
            found = torch.stack([loss_at(images) for images in candidates])
        return torch.where(found.isnan(), -torch.inf, found)


class Classifier(Protocol):
    """What an attack may ask of its victim. A random classifier takes fresh draws in every call."""

    network: Network
    random: bool

    @property
    def noise_std(self) -> float | None:
        """Its noise in pixel units, None where it has none."""

    def gradient(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss,
                 draws: ImageDraws) -> tuple[torch.Tensor, torch.Tensor]:
        """(gradient [n, C, H, W], loss [n]) at images [n, C, H, W] in pixel units."""

    def losses(self, candidates: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws) -> torch.Tensor:
        """Losses [m, n] of m candidates for each image [m, n, C, H, W], an image's candidates all under the same draws."""


class BaseClassifier:
    """The network itself, deterministic."""

    random = False
    noise_std: float | None = None

    def __init__(self, model: nn.Module, precision: str = "fp32") -> None:
        self.network = Network(model, precision)

    def gradient(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss,
                 draws: ImageDraws) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Classifier`; ``draws`` are not used."""
        return self.network.gradient(images, lambda at: loss(self.network(at), labels))

    def losses(self, candidates: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws) -> torch.Tensor:
        """See `Classifier`; ``draws`` are not used."""
        return self.network.losses(candidates, lambda at: loss(self.network(at), labels))


class SmoothedClassifier:
    """The network under Gaussian noise, attacked through the expectation over it (EOT).

    mean_loss: (1/n) sum_i L(f(x + r_i), y), r_i ~ N(0, noise_std^2 I), not clipped: the papers' objective (SO, STN, with 10
    draws in STN's code). log_mean_probability: L of the classifier whose logits are log (1/n) sum_i softmax f(x + r_i); for
    cross entropy, minus the log of the mean probability. It is never above mean_loss then (Jensen), and with few draws it is
    biased. Draws are independent and fresh in each call; those of STN's code shared one seed, so that it averaged one draw.
    A call passes all noisy copies (images x draws) at once.
    """

    random = True

    def __init__(self, model: nn.Module | Network, noise_std: float, draws: int = 10, objective: str = "mean_loss",
                 precision: str = "fp32") -> None:
        """A `Network` given as the model keeps its own precision and goes on counting."""
        check(0 < noise_std < math.inf, "noise_std", "a number > 0", noise_std)
        check(draws >= 1, "draws", "a whole number >= 1", draws)
        check(objective in OBJECTIVES, "objective", " or ".join(OBJECTIVES), objective)
        self.network = model if isinstance(model, Network) else Network(model, precision)
        self.noise_std, self.draws, self.objective = noise_std, draws, objective

    def gradient(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss,
                 draws: ImageDraws) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Classifier`."""
        noise = self._noise(images, draws)
        return self.network.gradient(images, lambda at: self._loss(at, noise, labels, loss))

    def losses(self, candidates: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws) -> torch.Tensor:
        """See `Classifier`."""
        noise = self._noise(candidates[0], draws)
        return self.network.losses(candidates, lambda at: self._loss(at, noise, labels, loss))

    def _noise(self, images: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        return draws.normal(self.draws, *images.shape[1:]).mul_(self.noise_std)

    def _loss(self, images: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor, loss: Loss) -> torch.Tensor:
        """The objective [n] from noise [n, draws, C, H, W]."""
        logits = self.network((images[:, None] + noise).flatten(0, 1))
        if self.objective == "mean_loss":
            return loss(logits, labels.repeat_interleave(self.draws)).view(-1, self.draws).mean(1)
        log_probabilities = logits.log_softmax(1).view(len(images), self.draws, -1)
        return loss(log_probabilities.logsumexp(1) - math.log(self.draws), labels)


def strongest(classifier: Classifier, candidates: torch.Tensor, labels: torch.Tensor, loss: Loss,
              draws: ImageDraws) -> torch.Tensor:
    """For each image the candidate with the largest loss, [n, C, H, W] out of [m, n, C, H, W]; the first among equals."""
    best = classifier.losses(candidates, labels, loss, draws).argmax(0)
    return candidates[best, torch.arange(len(best), device=best.device)]
