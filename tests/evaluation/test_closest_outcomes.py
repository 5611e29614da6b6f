"""The evaluation of attacks without a budget: one row and one stored image each, resuming, what is refused."""

from __future__ import annotations

import csv
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from toy_victims import Halfspace, curved, random_images, uneven_weights

from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
from robust_cli.attacks.deepfool import DeepFool
from robust_cli.attacks.fast_gradient import FastGradient
from robust_cli.attacks.fmn import Fmn
from robust_cli.attacks.pgd import Pgd
from robust_cli.datasets.images import Images
from robust_cli.evaluation.estimate import estimated_seconds
from robust_cli.evaluation.outcomes import evaluate
from robust_cli.evaluation.plan import check_suited, is_closest, sweep
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder

ATTACKS: dict[str, Any] = {"deepfool": DeepFool(), "fmn_linf": Fmn(norm="linf", steps=20), "fgsm": FastGradient()}
BUDGETS = {"l2": [0.1, 0.4], "linf": [0.05]}


def subset(n: int = 8) -> Images:
    return Images(random_images(n), torch.arange(n) % 3, 10 * torch.arange(n) + 3, ("a", "b", "c"), "first")


def run(folder: Path, **changes: Any) -> list[dict[str, str]]:
    folder.mkdir(exist_ok=True)
    chosen = {"attacks": ATTACKS, "classifier": BaseClassifier(curved()), "images": subset(), "budgets": BUDGETS, "seed": 5,
              "batch_size": 3, "device": "cpu", "folder": RunFolder(folder), **changes}
    evaluate(chosen.pop("attacks"), chosen.pop("classifier"), chosen.pop("images"), chosen.pop("budgets"), **chosen)
    with (folder / "outcomes.csv").open() as file:
        found = list(csv.DictReader(file))
    groups = list(dict.fromkeys(row["attack"] for row in found))
    return sorted(found, key=lambda row: (groups.index(row["attack"]), int(row["index"])))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_one_row_and_one_image_each(tmp_path: Path) -> None:
    rows, model = run(tmp_path), curved().eval()
    assert [(r["attack"], r["norm"], float(r["budget"])) for r in rows[::8]] == [
        ("none", "", 0), ("deepfool", "l2", math.inf), ("fmn_linf", "linf", math.inf), ("fgsm", "linf", 0.05)]
    assert {path.name for path in (tmp_path / "adversarial").iterdir()} == {
        "deepfool_closest.npy", "fmn_linf_closest.npy", "fgsm_0.05.npy"}
    stored, originals = np.load(tmp_path / "adversarial" / "deepfool_closest.npy"), np.load(tmp_path / "originals.npy")
    with torch.no_grad():
        predicted = model(torch.from_numpy(stored)).argmax(1).tolist()
    clean = [r["robust"] == "1" for r in rows[:8]]
    assert 0 < sum(clean) < 8
    for k, row in enumerate(rows[8:16]):
        gap = stored[k].astype(np.float64) - originals[k].astype(np.float64)
        assert float(row["l2"]) == pytest.approx(float(np.sqrt((gap**2).sum())), rel=1e-12, abs=1e-15)
        assert int(row["predicted"]) == predicted[k]
        assert row["robust"] == "0"
        assert bool(gap.any()) == clean[k]  # an image that is wrong when clean is not attacked
        assert (float(row["backward"]) > 0) == clean[k]


def test_an_image_without_an_example_is_robust(tmp_path: Path) -> None:
    images = Images(random_images(3), torch.ones(3).long(), torch.arange(3), ("a", "b"))
    rows = run(tmp_path, classifier=BaseClassifier(Halfspace(0 * uneven_weights(), bias=1.0)), images=images)
    assert {(r["robust"], float(r["l2"])) for r in rows[3:6]} == {("1", 0.0)}


def test_cut_anywhere_and_run_again_the_files_are_the_same(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    whole = files(tmp_path / "whole")
    lines = whole["outcomes.csv"].splitlines(keepends=True)
    for count in (3, 9, 13, 17, 20, 33):
        shutil.copytree(tmp_path / "whole", tmp_path / "cut")
        (tmp_path / "cut" / "outcomes.csv").write_bytes(b"".join(lines[:count])[:-4 if count < 33 else None])
        run(tmp_path / "cut")
        assert files(tmp_path / "cut") == whole
        shutil.rmtree(tmp_path / "cut")


def test_the_sweep_names_it_once_and_still_wants_budgets() -> None:
    plan = sweep({"a": DeepFool(), "b": Pgd()}, {"l2": [0.5, 1.0]})
    assert [(name, budget) for name, budget, _ in plan] == [("a", math.inf), ("b", 0.5), ("b", 1.0)]
    assert is_closest(DeepFool())
    assert not is_closest(Pgd())
    with pytest.raises(UserError, match=r"budgets\.l2"):
        sweep({"a": DeepFool()}, {})


def test_a_random_classifier_is_refused_in_one_line(tmp_path: Path) -> None:
    smoothed = SmoothedClassifier(curved(), 0.1, 1)
    with pytest.raises(UserError, match=r"^attack\.deepfool: expected a base classifier.*classifier=base") as raised:
        run(tmp_path, classifier=smoothed, decide=lambda *_: np.zeros((3, 3)))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "outcomes.csv").exists()
    check_suited({"fgsm": FastGradient()}, smoothed)


def test_the_estimate_takes_it_once() -> None:
    @dataclass(frozen=True)
    class Counting:
        norm: str = "l2"
        closest: ClassVar[bool] = True
        seen: ClassVar[list[int]] = []

        def __call__(self, classifier: Any, images: torch.Tensor, labels: torch.Tensor, draws: Any) -> torch.Tensor:
            self.seen.append(len(images))
            return images

    assert estimated_seconds({"it": Counting()}, BaseClassifier(curved()), subset(), BUDGETS, 3, None) > 0
    assert Counting.seen == [3]


@pytest.mark.parametrize(("value", "said"), [(torch.nan, "distance nan"), (1.5, r"pixels .* to 1\.5")])
def test_a_broken_one_is_caught(tmp_path: Path, value: float, said: str) -> None:
    @dataclass(frozen=True)
    class Broken:
        norm: str = "l2"
        closest: ClassVar[bool] = True

        def __call__(self, classifier: Any, images: torch.Tensor, labels: torch.Tensor, draws: Any) -> torch.Tensor:
            found = images.clone()
            found[0, 0, 0, 0] = value
            return found

    with pytest.raises(UserError, match=rf"attack\.mine: expected images in \[0, 1\], got .*{said}"):
        run(tmp_path, attacks={"mine": Broken()})
