"""Speed of certification: draws per second beside what public code does, and what certifying costs as it grows.

    python scripts/benchmarks/certification.py speed [--models cnn_small lenet cnn7] [--runs FOLDER...] [--peers-python PYTHON]
    python scripts/benchmarks/certification.py growth --run FOLDER

speed: processes that take turns, each warmed up, with the same threads (all cores), the same model, noise and number of draws:
`ours` (`NoisyVotes` as the command line runs it), `plain` (the loop of public smoothing code: one image at a time, batches of
1000 noisy copies by torch.randn_like, argmax, bincount) and `art` (the adversarial-robustness-toolbox's
PyTorchRandomizedSmoothing.certify, batches of 1000), each in fp32 and, for ours and plain, in bf16 (autocast). Medians over
rounds. With the training runs in --runs also the share of votes that bf16 gives to another class than fp32 on the same draws.
growth: wall-clock and peak memory of `robust certify` against draws, images and processes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it; the peers gain from it too

import torch

from robust_cli.models.classifier import classifier
from robust_cli.models.cnn7 import Cnn7
from robust_cli.models.cnn_small import CnnSmall
from robust_cli.models.lenet import LeNet
from robust_cli.runs.provenance import processor

MODELS: dict[str, tuple[Any, tuple[int, int, int], int]] = {  # class, shape, draws of a round
    "cnn_small": (CnnSmall, (1, 28, 28), 20_000), "lenet": (LeNet, (1, 28, 28), 4_000), "cnn7": (Cnn7, (3, 32, 32), 1_000)}
SIDES = ("ours fp32", "plain fp32", "art fp32", "ours bf16", "plain bf16")
NOISE_STD, IMAGES = 0.5, 2


def network(name: str) -> torch.nn.Module:
    kind, shape, _ = MODELS[name]
    torch.manual_seed(0)
    return classifier(kind(shape, 10), [0.5] * shape[0], [1.0] * shape[0]).eval()


def plain_loop(model: torch.nn.Module, draws: int, precision: str) -> Callable[[torch.Tensor], object]:
    @torch.inference_mode()
    def certify(image: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros(10, dtype=torch.int64)
        for start in range(0, draws, 1000):
            copies = image.repeat((min(1000, draws - start), 1, 1, 1))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = model(copies + torch.randn_like(copies) * NOISE_STD)
            counts += torch.bincount(logits.argmax(1), minlength=10)
        return counts
    return certify


def work_of(side: str, name: str, draws: int) -> Callable[[], object]:
    """One round of one side: ``draws`` draws on each image."""
    who, precision = side.split()
    model, images = network(name), torch.rand(IMAGES, *MODELS[name][1], generator=torch.Generator().manual_seed(0))
    if who == "plain":
        loop = plain_loop(model, draws, precision)
        return lambda: [loop(image) for image in images]
    if who == "art":
        from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

        peer = PyTorchRandomizedSmoothing(model, torch.nn.CrossEntropyLoss(), MODELS[name][1], 10, device_type="cpu",
                                          sample_size=1, scale=NOISE_STD, alpha=0.001)
        return lambda: peer.certify(images.numpy(), n=draws, batch_size=1000)
    from robust_cli.runs.allocator import keep_freed_memory
    from robust_cli.smoothing.noises import make_noise
    from robust_cli.smoothing.votes import NoisyVotes

    keep_freed_memory()
    counter = NoisyVotes(model, 10, make_noise("gaussian", NOISE_STD), 0, "cpu", precision)
    return lambda: counter.decide(images, range(IMAGES), "benchmark", draws)


def side_process(side: str, name: str, draws: int) -> None:
    """Answer each line on standard input by the seconds of one round."""
    work = work_of(side, name, draws)
    work()
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        print(time.perf_counter() - start, flush=True)


def started(side: str, name: str, draws: int, python: str) -> subprocess.Popen[str]:
    return subprocess.Popen([python, "-W", "ignore", __file__, "side", side, name, str(draws)], text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def speed(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name in asked.models:
        draws = asked.draws or MODELS[name][2]
        python = {side: asked.peers_python if side.startswith("art") else sys.executable for side in SIDES}
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(asked.rounds):
            for side in SIDES:
                process = started(side, name, draws, python[side])
                out, _ = process.communicate("go\n" * 2)
                seconds[side] += [float(line) for line in out.split()]
        for side, found in seconds.items():
            if found:
                each = statistics.median(found) / (IMAGES * draws)
                peers = [statistics.median(seconds[p]) / (IMAGES * draws) for p in ("plain fp32", "art fp32") if seconds[p]]
                yield {"model": name, "side": side, "us_a_draw": 1e6 * each, "draws_per_second": 1 / each,
                       "times_plain_fp32": peers[0] / each, "times_art_fp32": peers[1] / each if len(peers) > 1 else None,
                       "rounds": len(found), "draws": IMAGES * draws}


def disagreement(folder: Path, images: int = 20, draws: int = 1000) -> dict[str, Any]:
    """How often the model of a run answers another class in bf16 than in fp32 on the same noisy images."""
    from omegaconf import OmegaConf

    from robust_cli.composing.subject import load_subject
    from robust_cli.runs.folder import RunFolder
    from robust_cli.training.settings import Device, Precision

    run = RunFolder(folder)
    config = OmegaConf.create({**run.read_config(), "run": str(run), "subset": f"first:{images}", "seed": 0})
    config.device, config.precision = Device.cpu, Precision.fp32
    subject = load_subject(config, "certify")
    noise_std = run.read_about()["training_noise_std"] or NOISE_STD
    generator, different = torch.Generator().manual_seed(0), 0
    with torch.inference_mode():
        for image in subject.images.float():
            noisy = image + noise_std * torch.randn(draws, *image.shape, generator=generator)
            answers = subject.model(noisy).argmax(1)
            with torch.autocast("cpu", torch.bfloat16):
                different += int((subject.model(noisy).argmax(1) != answers).sum())
    total = images * draws
    return {"run": folder.name, "noise_std": noise_std, "draws": total, "different_percent": 100 * different / total}


def growth(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seconds of whole commands, start and results included; memory is that of one process."""
    cases = [(n, 20, 1, "fixed") for n in (1_000, 10_000, 100_000)] + [(n, 20, 1, "sequential") for n in (10_000, 100_000)]
    cases += [(10_000, images, 1, "fixed") for images in (5, 20, 80)] + [(10_000, 80, processes, "fixed") for processes in (1, 2)]
    for samples, images, processes, plan in cases:
        with tempfile.TemporaryDirectory() as place:
            words = ["certify", f"run={asked.run.resolve()}", f"samples={samples}", f"subset=first:{images}", f"sampling={plan}",
                     "certificate=[neyman_pearson]", f"hydra.run.dir={place}/run"]
            launcher = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            start = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-W", "ignore", *launcher, "-m", "robust_cli", *words],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            assert status == 0, words
            about = json.loads((Path(place) / "run" / "about.json").read_text(encoding="utf-8"))
        yield {"plan": plan, "samples": samples, "images": images, "processes": processes, "rows": about["evaluations"],
               "seconds": seconds, "peak_mb": used.ru_maxrss // 1024 if processes == 1 else None}


def show(rows: Iterator[dict[str, Any]], output: Path | None) -> None:
    """Print each row as it comes, and keep them all."""
    kept = []
    for row in rows:
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        kept.append(row)
        if output is not None:
            with output.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(kept[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(kept)


def main() -> None:
    if sys.argv[1:2] == ["side"]:
        side_process(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    fast = commands.add_parser("speed")
    fast.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    fast.add_argument("--draws", type=int, help="of an image and round (default: 20000, 4000, 1000)")
    fast.add_argument("--rounds", type=int, default=3)
    fast.add_argument("--runs", nargs="*", type=Path, default=[], help="training runs to compare the precisions' votes of")
    fast.add_argument("--peers-python", default=sys.executable, help="a Python that has adversarial-robustness-toolbox")
    grow = commands.add_parser("growth")
    grow.add_argument("--run", type=Path, required=True)
    for command in (fast, grow):
        command.add_argument("--output", type=Path, help="a CSV of the rows")
    asked = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}")
    show(speed(asked) if asked.what == "speed" else growth(asked), asked.output)
    for folder in getattr(asked, "runs", []):
        print("bf16 against fp32:", json.dumps(disagreement(folder)))


if __name__ == "__main__":
    main()
