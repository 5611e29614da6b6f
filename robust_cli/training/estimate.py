"""How long a training run will take, from a few steps on copies of its model and regime."""

from __future__ import annotations

import copy
import itertools
import statistics
import time

import torch

from robust_cli.datasets.images import Images
from robust_cli.regimes.batch import Progress, Regime
from robust_cli.training.feed import Feed, copies_of, layout
from robust_cli.training.hardware import arithmetic, chosen_precision
from robust_cli.training.schedules import optimizer_for
from robust_cli.training.settings import Precision, Training

_STEPS = 4  # the first warms up and is not counted


def estimated_seconds(model: torch.nn.Module, regime: Regime, train: Images, settings: Training, *, seed: int,
                      device: torch.device, precision: Precision, augment: str) -> float:
    """Seconds that `fit` will spend on its steps (early stopping, compilation and evaluation aside); nothing is changed.

    The median of three timed steps times the steps planned. Good to a factor, not to a percent.
    """
    model = copy.deepcopy(model).to(device).to(memory_format=layout(settings)).train()
    regime, feed = copy.deepcopy(regime), Feed(train, settings, seed, device, augment, copies_of(regime))
    optimizer, arithmetics, times = optimizer_for(model.parameters(), settings), chosen_precision(precision, device), []
    state = torch.random.get_rng_state()
    for step, batch in enumerate(itertools.islice(itertools.cycle(feed.batches(0)), _STEPS)):
        start = time.perf_counter()
        with arithmetic(arithmetics, device):
            loss = regime.loss(model, batch, Progress(step, 0, settings.epochs * feed.steps, seed)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.detach().cpu()  # waits for the device
        times.append(time.perf_counter() - start)
    torch.random.set_rng_state(state)
    return statistics.median(times[1:]) * settings.epochs * feed.steps
