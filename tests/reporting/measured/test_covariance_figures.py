"""Figures of covariances: what is drawn is what was measured, and files come out of them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from robust_cli.covariance import second_moment
from robust_cli.measures import covariances
from robust_cli.reporting.figures import save
from robust_cli.reporting.measured import covariances as covariance_figures
from robust_cli.reporting.measured.covariances import REFERENCES, functions_figure, matrices_figure


def table(channels: tuple[str, ...] = ("intra", "inter")) -> pd.DataFrame:
    lines = [("pgd_l2", 0.5, 1.2), ("pgd_l2", 2.0, 1.6), ("deepfool", math.inf, 2.5), ("data", 0.0, math.inf)]
    return pd.DataFrame([(name, budget, each, r, start * math.exp(-r / min(length, 30)), length, 10)
                         for name, budget, length in lines for each, start in (("intra", 1.0), ("inter", 0.5)) for r in range(12)
                         if each in channels], columns=list(covariances.COLUMNS))


def test_functions_and_references() -> None:
    rows = table()
    within, between = functions_figure(rows).axes
    for axes, name, start in ((within, "intra", 1.0), (between, "inter", 0.5)):
        dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
        for line, length in zip(dotted, REFERENCES, strict=True):
            r = np.asarray(line.get_xdata(), dtype=float)
            np.testing.assert_allclose(np.asarray(line.get_ydata(), dtype=float), start * np.exp(-r / length))
        drawn = [list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 12]  # type: ignore[arg-type]
        chosen = rows[rows["channels"] == name]
        assert drawn == [group["value"].tolist() for _, group in chosen.groupby(["attack", "budget"], sort=False)]
    legend = within.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "exp(-r / decay length)", "pgd_l2 at 0.5 to 2, decay length 1.2 to 1.6 pixels", "deepfool, decay length 2.5 pixels",
        "training images, no decay length"]


def test_one_attack_one_colour_and_the_data_black() -> None:
    lines = [line for line in functions_figure(table()).axes[0].lines if len(line.get_xdata()) == 12]  # type: ignore[arg-type]
    small, large, other, data = lines
    assert small.get_color() == large.get_color() != other.get_color()
    assert float(small.get_alpha() or 1) < float(large.get_alpha() or 1)
    assert data.get_color() == "#000000"


def test_matrices_of_the_middle() -> None:
    generator = np.random.default_rng(0)
    perturbations = {name: generator.normal(0.3, 1, (50, 2, 8, 12)).astype(np.float32) for name in ("a", "b", "c", "data")}
    perturbations["a"][10:] = 0
    figure = matrices_figure({**perturbations, "idle": np.zeros((5, 2, 8, 12))})
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == ["a", "b", "c", "training images"]
    for axes, (name, images) in zip(panels, perturbations.items(), strict=True):
        used = torch.tensor(images[:10] if name == "a" else images)[:, :, 2:6, 3:9]
        expected = second_moment(used, centred=name == "data")
        shown = np.asarray(axes.images[0].get_array())
        np.testing.assert_allclose(shown, (expected / expected.abs().max()).numpy(), rtol=0, atol=1e-12)
        assert axes.images[0].get_clim() == (-1, 1)


@pytest.mark.parametrize("channels", [("intra",), ("intra", "inter")])
def test_files(tmp_path: Path, channels: tuple[str, ...]) -> None:
    matrices = matrices_figure({"data": np.eye(16).reshape(16, 1, 4, 4)})
    for name, figure in (("f", functions_figure(table(channels))), ("m", matrices)):
        save(figure, tmp_path / f"{name}.png", tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
        assert "</svg>" in (tmp_path / f"{name}.svg").read_text()
    assert len(functions_figure(table(channels)).axes) == len(channels)


def test_the_data_has_one_name_and_reports_need_no_torch() -> None:
    assert covariance_figures.DATA == covariances.DATA
    code = "import sys, robust_cli.reporting.measured.covariances; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[3], check=False).returncode == 0
