"""A certify run of each plan and each kind of noise, on one small model, and copies of them to change something in."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from invoking import robust

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

PLANS = {
    "fixed": ("sampling=fixed", "samples=500", "selection_samples=50", "certificate=[neyman_pearson,renyi,pixeldp]"),
    "single": ("sampling=fixed", "samples=300", "selection_samples=0", "certificate=[renyi]"),
    "sequential": ("sampling=sequential", "samples=1000", "certificate=[neyman_pearson]", "sampling.radii=[0,0.25,0.5,1,1.25]"),
    "label_aware": ("sampling=sequential", "samples=600", "certificate=[neyman_pearson]", "sampling.label_aware=true"),
    "integer_grid": ("noise=integer_grid", "samples=200", "certificate=[neyman_pearson,neyman_pearson_linf]"),
    "laplace": ("noise=laplace", "samples=200", "certificate=[laplace_l1]", "certificate.laplace_l1.bounds=runner_up"),
    "uniform": ("noise=uniform", "samples=200", "certificate=[uniform_l1]"),
    "first_layer": ("smoothing.layer=first", "noise_std=1.5", "samples=500", "certificate=[neyman_pearson,neyman_pearson_linf]"),
    "softmax": ("samples=400", "failure_probability=0.05", "certificate=[pixeldp_softmax,pixeldp]"),
    "soft_layer": ("smoothing.layer=first", "noise_std=1.5", "samples=400", "failure_probability=0.05",
                   "certificate=[pixeldp_softmax,neyman_pearson]"),
    "anytime": ("sampling=anytime", "samples=3000", "certificate=[neyman_pearson,renyi]", "sampling.tolerance=0.3"),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certify run of each plan on one small model."""
    place, found = tmp_path_factory.mktemp("verified"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        train = robust("train", "training.epochs=3", "training.batch_size=64", "training.learning_rate=0.003").folder
        for name, words in PLANS.items():
            found[name] = robust("certify", f"run={train}", "subset=first:8", *words).folder.path
    return found


@pytest.fixture
def copied(runs: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a run to change something in."""
    return lambda name: Path(shutil.copytree(runs[name], tmp_path / name))
