"""Speed of counting votes, as a ratio to the plain loop that public smoothing code runs, in the same process after warm-up.

    python scripts/benchmarks/votes.py [--models cnn_small lenet] [--draws 4096] [--rounds 5]

The peer: one image at a time, batches of 1000 noisy copies made by torch.randn_like, argmax, bincount; torch's own threads. Ours:
`NoisyVotes.run` over 2 images a worker. Medians over rounds that alternate between the two.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it; the peer gains from it too

import torch

from robust_cli.models.classifier import classifier
from robust_cli.models.cnn7 import Cnn7
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.models.lenet import LeNet
from robust_cli.runs.provenance import processor
from robust_cli.smoothing.votes import NoisyVotes, blocks

MODELS = {"cnn_small": (CnnSmall, (1, 28, 28)), "lenet": (LeNet, (1, 28, 28)), "cnn7": (Cnn7, (3, 32, 32))}


@torch.inference_mode()
def plain_loop(model: torch.nn.Module, image: torch.Tensor, draws: int, noise_std: float = 0.5) -> torch.Tensor:
    batch = 1000
    counts = torch.zeros(10, dtype=torch.int64)
    for start in range(0, draws, batch):
        copies = image.repeat((min(batch, draws - start), 1, 1, 1))
        counts += torch.bincount(model(copies + torch.randn_like(copies) * noise_std).argmax(1), minlength=10)
    return counts


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["cnn_small", "lenet"], choices=MODELS)
    parser.add_argument("--draws", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}")
    for name in asked.models:
        kind, shape = MODELS[name]
        torch.manual_seed(0)
        model = classifier(kind(shape, 10), [0.5] * shape[0], [1.0] * shape[0]).eval()
        counter = NoisyVotes(model, 10, 0.5, 0, "cpu")
        image, images = torch.rand(shape), 2 * counter.workers
        work = [(image, block) for index in range(images) for block in blocks(index, "benchmark", asked.draws)]
        ours, peer = [], []
        for _ in range(asked.rounds + 1):
            ours.append(seconds(lambda: list(counter.run(work))))  # noqa: B023
            peer.append(seconds(lambda: [plain_loop(model, image, asked.draws) for _ in range(images)]))  # noqa: B023
        total = images * asked.draws
        a, b = statistics.median(ours[1:]) / total, statistics.median(peer[1:]) / total
        print(f"{name}: ours {1e6 * a:.1f} us a draw, plain loop {1e6 * b:.1f} us a draw, ratio {b / a:.2f} "
              f"({asked.rounds} rounds of {total} draws)")


if __name__ == "__main__":
    main()
