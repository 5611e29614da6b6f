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

_OTHERS = 3  # steps timed after the first, which warms up
_ENOUGH = 5.0  # seconds that timing may take before it makes do with what it has


def estimated_seconds(model: torch.nn.Module, regime: Regime, train: Images, settings: Training, *, seed: int,
                      device: torch.device, precision: Precision, augment: str) -> float:
    """Seconds that `fit` will spend on its steps (early stopping, compilation and evaluation aside); nothing is changed.

    From a few timed steps on batches of the largest size, those in which the regime renews something (its ``update_every``) and
    others, each as often as they come; expensive ones are timed once. Good to a factor, not to a percent.
    """
    model = copy.deepcopy(model).to(device).to(memory_format=layout(settings)).train()
    regime, feed = copy.deepcopy(regime), Feed(train, settings, seed, device, augment, copies_of(regime))
    optimizer, arithmetics = optimizer_for(model.parameters(), settings), chosen_precision(precision, device)
    total, every = settings.epochs * feed.steps, int(getattr(regime, "update_every", 1))
    state, times = torch.random.get_rng_state(), dict[int, float]()
    batches = itertools.cycle(itertools.islice(feed.batches(0), max(1, feed.count // settings.batch_size)))
    for step, batch in zip((0, every, *range(1, _OTHERS + 1)), batches, strict=False):
        start = time.perf_counter()
        with arithmetic(arithmetics, device):
            loss = regime.loss(model, batch, Progress(step, 0, total, seed)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.detach().cpu()  # waits for the device
        times[step] = time.perf_counter() - start  # step 0 warms up
        if sum(times.values()) > _ENOUGH:
            break
    torch.random.set_rng_state(state)
    due = statistics.median([seconds for step, seconds in times.items() if step > 0 and step % every == 0] or [times[0]])
    others = statistics.median([seconds for step, seconds in times.items() if step % every] or [due])
    return total * (due + (every - 1) * others) / every
