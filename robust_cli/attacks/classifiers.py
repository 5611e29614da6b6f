"""What attacks see: a base classifier, or one smoothed by noise, with the gradient of a loss at images and its cost.

Legend (SO, STN): f -> model; N(0, sigma^2 I) -> noise, of noise_std; n_0 (samples of the expectation) -> draws. The noise may
come in after the first layer (`smoothing.place`): x + r_i below is then g(x) + r_i, f the rest of the model, and gradients go
through g.

Every call works in evaluation mode with frozen weights and restores both, so nothing reaches the weights' gradients. A loss
is taken image by image: what happens to one image touches no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import nn

from robust_cli.attacks.losses import Loss, certain_lead, fooled, lead
from robust_cli.messages import check
from robust_cli.models.classifier import frozen
from robust_cli.smoothing.noise import ImageDraws
from robust_cli.smoothing.noises import make_noise
from robust_cli.smoothing.place import Place, at_input

OBJECTIVES = ("mean_loss", "log_mean_probability")
BOTH = "both"
VOTES = 100  # that answer a question of an attack to a smoothed classifier; outcomes are decided by others
LossAt = Callable[[torch.Tensor], torch.Tensor]  # logits [m, K] -> loss [n]
Copies = Callable[[torch.Tensor], torch.Tensor]  # images [n, C, H, W] -> noisy copies [n, draws, *shape of what noise goes to]


class Slope(NamedTuple):
    """What a classifier says of a loss at images."""

    gradient: torch.Tensor  # [n, C, H, W] of each image's own loss
    loss: torch.Tensor  # [n]
    lead: torch.Tensor  # [n], how far another class leads over the label in logits, mean over the draws where there are some
    fooled: torch.Tensor  # bool [n], whether another class is answered for certain: never true where noise has a say


class Network:
    """A model, frozen and in evaluation mode while it is used, counting what passes through it."""

    def __init__(self, model: nn.Module, precision: str = "fp32", place: Place | None = None) -> None:
        """``model``: images [n, C, H, W] -> logits [n, K]; precision 'fp32' or 'bf16' (autocast); ``place``: where in it noise
        comes in, at the image by default."""
        check(precision in ("fp32", "bf16"), "precision", "fp32 or bf16", precision)
        self.model, self.precision, self.place = model, precision, place or at_input(model)
        self.forward_passes = self.backward_passes = 0  # images x passes, every noisy copy an image

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n, K], float32. For use inside the methods below: here nothing is frozen yet."""
        return self._through(self.model, images)

    def _through(self, part: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        self.forward_passes += len(inputs)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return part(inputs).float()

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n, K] of the images, detached."""
        with frozen(self.model), torch.no_grad():
            return self(images)

    def of_copies(self, copies: torch.Tensor) -> torch.Tensor:
        """Logits [n * draws, K] of noisy copies [n, draws, *shape], an image's together, detached."""
        with frozen(self.model), torch.no_grad():
            return self._through(self.place.after, copies.flatten(0, 1))

    def gradient(self, images: torch.Tensor, loss_at: LossAt,
                 copies_of: Copies | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each image's gradient of its own loss [n, C, H, W], zero where it does not depend on the image; its loss [n]; logits.

        With ``copies_of`` the logits are those of the noisy copies, [n * draws, K], an image's together.
        """
        with frozen(self.model), torch.enable_grad():
            inputs, before = images.detach().requires_grad_(), self.forward_passes
            logits = self(inputs) if copies_of is None else self._through(self.place.after, copies_of(inputs).flatten(0, 1))
            loss = loss_at(logits)
            if not loss.requires_grad:
                return torch.zeros_like(images), loss, logits.detach()
            (gradient,) = torch.autograd.grad(loss.sum(), inputs, materialize_grads=True)
            self.backward_passes += self.forward_passes - before
        return gradient, loss.detach(), logits.detach()


class Classifier(Protocol):
    """What an attack may ask of its victim. A random classifier takes fresh draws in every call."""

    network: Network
    random: bool  # its answer to an image is not always the same
    noisy_gradients: bool  # nor are its gradients: losses of two calls do not compare
    stops: bool  # whether an image that is fooled may leave an attack

    @property
    def noise_std(self) -> float | None:
        """The noise in its gradients in pixel units, None where there is none."""

    @property
    def doubt(self) -> float:
        """A `lead` above which chance does not explain it: 0 where there is no chance."""

    def gradient(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws) -> Slope:
        """Gradient, loss and lead at images [n, C, H, W] in pixel units."""

    def losses(self, candidates: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws) -> torch.Tensor:
        """Losses [m, n] of m candidates for each image [m, n, C, H, W], detached, an image's candidates all under the same draws;
        one that is not a number counts as -infinity."""

    def lead(self, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """How far another class leads over the label in the classifier's own answer, [n]: above 0 where that class is answered.

        A base classifier: in logits, less what rounding could turn. A smoothed one: in shares of fresh votes.
        """

    def views(self) -> list[Classifier]:
        """The classifiers whose gradients an attack should try one after the other; itself alone but where there are two
        objectives."""


class BaseClassifier:
    """The network itself, deterministic."""

    random = noisy_gradients = False
    noise_std: float | None = None
    doubt = 0.0

    def __init__(self, model: nn.Module | Network, precision: str = "fp32", stops: bool = True) -> None:
        """stops: false says of no image that it is fooled, so that attacks take all their steps, for images that are to transfer.
        A `Network` given as the model keeps its own precision and goes on counting."""
        self.network = model if isinstance(model, Network) else Network(model, precision)
        self.stops = stops

    def gradient(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws) -> Slope:
        """See `Classifier`; ``draws`` are not used."""
        gradient, value, logits = self.network.gradient(images, lambda logits: loss(logits, labels))
        beaten = fooled(logits, labels)
        return Slope(gradient, value, lead(logits, labels), beaten if self.stops else torch.zeros_like(beaten))

    def losses(self, candidates: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws) -> torch.Tensor:
        """See `Classifier`; ``draws`` are not used."""
        return _numbers([loss(self.network.logits(images), labels) for images in candidates])

    def lead(self, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """See `Classifier`; ``draws`` are not used."""
        return certain_lead(self.network.logits(images), labels)

    def views(self) -> list[Classifier]:
        return [self]


class SmoothedClassifier:
    """The network under noise, attacked through the expectation over it (EOT).

    mean_loss: (1/n) sum_i L(f(x + r_i), y), r_i ~ N(0, noise_std^2 I) or another kind of `smoothing.noises`, not clipped: the
    papers' objective (SO, STN, with 10 draws in STN's code). log_mean_probability: L of the classifier whose logits are log
    (1/n) sum_i softmax f(x + r_i); for cross entropy, minus the log of the mean probability. It is never above mean_loss then
    (Jensen), and with few draws it is biased. both: as two `views`, one after the other. Draws are independent and fresh in
    each call; those of STN's code shared one seed, so that it averaged one draw. A call passes all noisy copies (images x
    draws) at once.
    """

    random = noisy_gradients = True
    stops = False

    def __init__(self, model: nn.Module | Network, noise_std: float, draws: int = 10, objective: str = "mean_loss",
                 precision: str = "fp32", votes: int = VOTES, noise: str = "gaussian") -> None:
        """draws: of a gradient; votes: of an answer; noise: its kind, noise_std being the standard deviation of any. A `Network`
        as the model keeps its own precision and goes on counting."""
        self.noise = make_noise(noise, noise_std).anywhere()
        check(draws >= 1, "draws", "a whole number >= 1", draws)
        check(votes >= 1, "votes", "a whole number >= 1", votes)
        check(objective in (*OBJECTIVES, BOTH), "objective", " or ".join((*OBJECTIVES, BOTH)), objective)
        self.network = model if isinstance(model, Network) else Network(model, precision)
        self.noise_std, self.draws, self.objective, self.votes = noise_std, draws, objective, votes

    @property
    def doubt(self) -> float:
        """Three standard errors of a difference of two shares of votes, which are at most 1 / sqrt(votes) each."""
        return 3 / math.sqrt(self.votes)

    def gradient(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws) -> Slope:
        """See `Classifier`."""
        copies_of = self.copies(images, draws, self.draws)
        gradient, value, logits = self.network.gradient(images, lambda logits: self._objective(logits, labels, loss), copies_of)
        leads = lead(logits, labels.repeat_interleave(self.draws)).view(-1, self.draws).mean(1)
        return Slope(gradient, value, leads, torch.zeros_like(leads, dtype=torch.bool))

    def losses(self, candidates: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws) -> torch.Tensor:
        """See `Classifier`."""
        copies_of = self.copies(candidates[0], draws, self.draws)
        return _numbers([self._objective(self.network.of_copies(copies_of(images)), labels, loss) for images in candidates])

    def lead(self, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """See `Classifier`: the share of the votes for the foremost other class less the label's."""
        counts: torch.Tensor | int = 0
        points = self.network.place.each(images)
        for start in range(0, self.votes, self.draws):
            copies = min(self.draws, self.votes - start)
            logits = self.network.of_copies(self.noise.around(points, draws, copies))
            ballots = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1])
            counts = counts + ballots.view(len(images), copies, -1).sum(1)
        assert isinstance(counts, torch.Tensor)
        return lead(counts / self.votes, labels)

    def views(self) -> list[Classifier]:
        if self.objective != BOTH:
            return [self]
        return [self.like(each) for each in OBJECTIVES]

    def like(self, objective: str, network: Network | None = None, noise_std: float | None = None) -> SmoothedClassifier:
        """The same but for some of its settings: by default around the same network, which goes on counting."""
        check(noise_std is None or self.network.place.layer == "input", "add_noise", "false where the classifier's noise comes "
              "in after its first layer, in other units than an image's", True)
        return SmoothedClassifier(network or self.network, noise_std or self.noise_std, self.draws, objective, votes=self.votes,
                                  noise=self.noise.name)

    def copies(self, images: torch.Tensor, draws: ImageDraws, copies: int) -> Copies:
        """Noisy copies of points near the images, all under one set of fresh draws."""
        before = self.network.place.before
        perturbations = self.noise.perturbations(draws, copies, tuple(before(images[:1].detach()).shape[1:]))
        return lambda points: self.noise.at(before(points), perturbations)

    def _objective(self, logits: torch.Tensor, labels: torch.Tensor, loss: Loss) -> torch.Tensor:
        """The objective [n] from the logits of noisy copies [n * draws, K]."""
        assert self.objective != BOTH, "an attack climbs one of the views"
        if self.objective == "mean_loss":
            return loss(logits, labels.repeat_interleave(self.draws)).view(-1, self.draws).mean(1)
        log_probabilities = logits.log_softmax(1).view(len(labels), self.draws, -1)
        return loss(log_probabilities.logsumexp(1) - math.log(self.draws), labels)


class NoisyGradients:
    """A deterministic network whose gradients are taken as the mean over Gaussian noise around the image.

    Source: STN (Li et al. 2019), section 6.2, which attacks TRADES with the gradients that attack a smoothed classifier.
    """

    random, noisy_gradients, stops = False, True, False
    doubt = 0.0

    def __init__(self, model: nn.Module | Network, std: float, draws: int = 10, precision: str = "fp32") -> None:
        self._through = SmoothedClassifier(model, std, draws, precision=precision)
        self._plain = BaseClassifier(self._through.network)
        self.network, self.noise_std, self.draws = self._through.network, std, draws

    def gradient(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws) -> Slope:
        """See `Classifier`: all of it means over the noise."""
        return self._through.gradient(images, labels, loss, draws)

    def losses(self, candidates: torch.Tensor, labels: torch.Tensor, loss: Loss, draws: ImageDraws) -> torch.Tensor:
        """See `Classifier`: without noise."""
        return self._plain.losses(candidates, labels, loss, draws)

    def lead(self, images: torch.Tensor, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
        """See `Classifier`: without noise."""
        return self._plain.lead(images, labels, draws)

    def views(self) -> list[Classifier]:
        return [self]


def _numbers(losses: list[torch.Tensor]) -> torch.Tensor:
    found = torch.stack(losses)
    return torch.where(found.isnan(), -torch.inf, found)


Try = Callable[[int, torch.Tensor, ImageDraws], torch.Tensor]  # (which, rows int64 [k], their draws) -> images [k, C, H, W]


def in_turn(attempt: Try, tries: int, judge: Classifier, labels: torch.Tensor, draws: ImageDraws) -> torch.Tensor:
    """For each image the worst of several tries, [n, C, H, W]: where another class leads most in the judge's own answer.

    A try goes over the images on which none before it leads beyond the judge's doubt. One try alone is not judged.
    """
    best = attempt(0, torch.arange(len(labels), device=labels.device), draws)
    if tries == 1:
        return best
    best, leads = best.clone(), judge.lead(best, labels, draws)
    for which in range(1, tries):
        rows = (leads <= judge.doubt).nonzero().flatten()
        if not len(rows):
            break
        mine = draws.select(rows.tolist())
        tried = attempt(which, rows, mine)
        found = judge.lead(tried, labels[rows], mine)
        worse = found > leads[rows]
        best[rows[worse]], leads[rows[worse]] = tried[worse], found[worse]
    return best


def strongest(classifier: Classifier, candidates: torch.Tensor, labels: torch.Tensor, loss: Loss,
              draws: ImageDraws) -> torch.Tensor:
    """For each image the candidate with the largest loss, [n, C, H, W] out of [m, n, C, H, W]; the first among equals."""
    best = classifier.losses(candidates, labels, loss, draws).argmax(0)
    return candidates[best, torch.arange(len(best), device=best.device)]
