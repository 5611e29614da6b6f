"""A classifier seen from outside while it trains: accuracy, the objective on other images, and whether it has collapsed."""

from __future__ import annotations

import torch

from robust_cli.datasets.images import Images
from robust_cli.models.classifier import frozen
from robust_cli.regimes.batch import Batch, Progress, Regime
from robust_cli.runs.console import Track
from robust_cli.runs.streams import key64

_FEW = 100  # steps in which no model has learned much
_SHARE = 0.1  # a class is known when it is predicted for at least this share of its own number of images


def predictions(model: torch.nn.Module, images: Images, batch_size: int, device: torch.device,
                progress: Track | None = None) -> torch.Tensor:
    """The class of the largest logit of each image, int64 [N] on the CPU; evaluation mode, no gradients."""
    held, found = images.to(device), []
    with frozen(model), torch.no_grad():
        for positions in torch.arange(len(held), device=device).split(batch_size):
            found.append(model(held.float(positions)).argmax(1))
            if progress is not None:
                progress.advance(len(positions))
    return torch.cat(found).cpu()


def accuracy(model: torch.nn.Module, images: Images, batch_size: int, device: torch.device,
             progress: Track | None = None) -> float:
    """Share of the images whose largest logit is their label, in [0, 1]."""
    predicted = predictions(model, images, batch_size, device, progress)
    return float((predicted == images.labels.cpu()).double().mean())


def objective(model: torch.nn.Module, regime: Regime, images: Images, batch_size: int, seed: int, total: int) -> float:
    """A regime's loss on images that it is not trained on, mean over the images, in evaluation mode.

    The regime's noise has a key of its own, the same at every call: losses of different epochs differ by the weights alone.
    """
    own_seed, loss = key64(seed, "validation"), 0.0
    with frozen(model), torch.no_grad():
        for k, positions in enumerate(torch.arange(len(images), device=images.pixels.device).split(batch_size)):
            batch = Batch(images.float(positions), images.labels[positions], images.indices[positions])
            found = regime.loss(model, batch, Progress(k, 0, total, own_seed, validating=True))
            loss += len(positions) * float(found.total.detach())
    return loss / len(images)


def sample(images: Images, count: int = 1000) -> Images:
    """At most ``count`` of the images, evenly spaced: enough for an accuracy to watch while training."""
    positions = torch.arange(min(count, len(images))) * len(images) // min(count, len(images))
    return images.select(positions, images.subset)


def advice(regime: Regime) -> str:
    """What of a regime's settings may have led to a collapse."""
    ways = ["lower the regime's weight"] if getattr(regime, "weight", None) else []
    ways += ["let the budget grow (regime.budget_warmup=0.5)"] if getattr(regime, "budget", None) else []
    ways += ["let the noise grow (regime.noise_warmup=0.5)"] if hasattr(regime, "noise_warmup") else []
    return ", ".join([*ways, "lower training.learning_rate, or start from trained weights (training.init_from=<run>)"])


def collapse(predicted: torch.Tensor, labels: torch.Tensor, regime: Regime, steps: int) -> str | None:
    """What to say when the predictions for training images (int64 [N]) look collapsed after so many steps, else None.

    Collapsed is: fewer than half of the labels' classes are known (of two: one), or hardly more is right than by chance. After
    less than `_FEW` steps that is how training begins.
    """
    present, counts = labels.unique(return_counts=True)
    times = torch.bincount(predicted, minlength=int(labels.max()) + 1)[present]
    known, classes = int((times >= _SHARE * counts).sum()), len(present)
    right = float((predicted == labels).double().mean())
    if classes == 1 or not (2 * known < max(classes, 3) or right < min(1.5 / classes, 0.55)):
        return None
    seen = f"it knows {known} of {classes} classes ({right:.1%} of the training images right, chance is {1 / classes:.1%})"
    if steps < _FEW:
        return f"the model has hardly learned anything in {steps} step(s): {seen}; train for longer (training.epochs)"
    return f"the model has collapsed: {seen}; {advice(regime)}"
