"""The verifier on runs with noise after the first layer: radii divided by too little are refused, whatever the files agree on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import verify_certificates
import verify_layer
from scipy.sparse.linalg import ArpackNoConvergence
from tampering import change_json, change_rows
from verify_bounds import Bad

SHAPE = (2, 7, 6)
HOW: dict[str, Any] = {"stride": [2, 1], "dilation": [1, 2], "groups": [1], "padding": [1, 0, 2, 1]}


def scale_about(run: Path, factor: float) -> None:
    change_json(run / "about.json", lambda about: about["smoothing"].update(
        operator_norm=about["smoothing"]["operator_norm"] / factor))


def everywhere(run: Path, factor: float = 1.05) -> None:
    """Everything that follows from the norm changed with it, so that the files agree."""
    scale_about(run, factor)
    change_json(run / "about.json", lambda about: [own.update(largest_radius=own["largest_radius"] * factor)
                                                   for own in about["certificates"].values()])
    change_json(run / "plan.json", lambda plan: plan.update(noise_std=plan["noise_std"] * factor))
    change_rows(run / "certificates.csv", lambda rows: [row.update(radius=repr(float(row["radius"]) * factor)) for row in rows])


def radii_alone(run: Path) -> None:
    change_rows(run / "certificates.csv", lambda rows: [row.update(radius=repr(float(row["radius"]) * 1.05)) for row in rows])


def not_divided(run: Path) -> None:
    """As if the noise had been on the image."""
    norm = 1.0

    def read(about: dict[str, Any]) -> None:
        nonlocal norm
        norm = about["smoothing"]["operator_norm"]
    change_json(run / "about.json", read)
    everywhere(run, norm)
    change_json(run / "about.json", lambda about: about.update(smoothing={"layer": "input", "operator_norm": 1.0}))


def no_weights(run: Path) -> None:
    (run / "first_layer.npy").unlink()


def larger_weights(run: Path) -> None:
    np.save(run / "first_layer.npy", 1.01 * np.load(run / "first_layer.npy"))


def other_groups(run: Path) -> None:
    change_json(run / "about.json", lambda about: about["smoothing"]["convolution"].update(groups=[3]))


def other_noise(run: Path) -> None:
    change_json(run / "about.json", lambda about: about.update(noise="laplace"))


TAMPERED = {everywhere: "stretches some change of an image", radii_alone: "the votes prove", not_divided: "first_layer.npy",
            no_weights: "first_layer.npy", larger_weights: "stretches", other_groups: "not the weights of a convolution",
            other_noise: "operator norm in l2"}


@pytest.mark.parametrize("change", TAMPERED, ids=lambda change: change.__name__)
def test_what_was_changed_is_caught(copied: Callable[[str], Path], change: Callable[[Path], None],
                                    capsys: pytest.CaptureFixture[str]) -> None:
    run = copied("first_layer")
    change(run)
    assert verify_certificates.main([str(run)]) == 1
    assert TAMPERED[change] in capsys.readouterr().out


def test_a_needlessly_large_norm_is_no_failure_but_its_radii_are_refused(
        copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = copied("first_layer")
    everywhere(run, 0.9)
    assert verify_certificates.main([str(run)]) == 0, capsys.readouterr().out
    radii_alone(run)
    assert verify_certificates.main([str(run)]) == 1


def test_an_operator_norm_without_a_layer_is_refused(copied: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = copied("fixed")
    change_json(run / "about.json", lambda about: about.update(smoothing={"layer": "input", "operator_norm": 0.5}))
    assert verify_certificates.main([str(run)]) == 1
    assert "noise on the image, but an operator norm of 0.5" in capsys.readouterr().out


def test_older_runs_say_nothing_of_a_layer(copied: Callable[[str], Path]) -> None:
    run = copied("fixed")
    change_json(run / "about.json", lambda about: about.pop("smoothing"))
    assert verify_certificates.main([str(run)]) == 0


def test_its_convolution_is_the_definition_and_its_transpose() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 2, 3, 2))
    forward, back = verify_layer.convolution(weight, HOW, SHAPE)
    image = np.random.default_rng(1).standard_normal(SHAPE)
    found = forward(image)[0]
    for o, y, x in np.ndindex(found.shape):
        total = 0.0
        for c, i, j in np.ndindex(2, 3, 2):
            row, column = 2 * y + i - 2, x + 2 * j - 1
            inside = 0 <= row < 7 and 0 <= column < 6
            total += weight[o, c, i, j] * image[c, row, column] if inside else 0.0
        assert found[o, y, x] == pytest.approx(total, abs=1e-12)
    values = np.random.default_rng(2).standard_normal(found.shape)
    assert float((found * values).sum()) == pytest.approx(float((image * back(values[None])).sum()), rel=1e-12)


@pytest.mark.parametrize("std", [[1.0, 1.0], [0.25, 2.0]])
def test_its_norm_is_the_largest_singular_value(std: list[float]) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 2, 3, 2))
    forward, _ = verify_layer.convolution(weight, HOW, SHAPE)
    scale = np.array(std)[:, None, None]
    matrix = np.stack([forward(unit.reshape(SHAPE) / scale).ravel() for unit in np.eye(math.prod(SHAPE))])
    truth = float(np.linalg.norm(matrix, 2))
    assert verify_layer.stretch(weight, {"std": std, "convolution": HOW}, SHAPE) == pytest.approx(truth, rel=1e-9)
    dense = np.random.default_rng(3).standard_normal((5, math.prod(SHAPE)))
    truth = float(np.linalg.norm(dense / np.repeat(std, 42), 2))
    assert verify_layer.stretch(dense, {"std": std, "convolution": None}, SHAPE) == pytest.approx(truth, rel=1e-12)
    with pytest.raises(Bad, match="not those of these images"):
        verify_layer.stretch(np.full_like(weight, np.nan), {"std": std, "convolution": HOW}, SHAPE)


def test_where_the_iteration_does_not_converge_the_whole_matrix_is_taken_or_nothing_is_verified(
        monkeypatch: pytest.MonkeyPatch) -> None:
    weight, said = np.random.default_rng(0).standard_normal((3, 2, 3, 2)), {"std": [1.0], "convolution": HOW}
    iterated = verify_layer.stretch(weight, said, SHAPE)
    assert verify_layer.stretch(np.zeros_like(weight), said, SHAPE) == 0

    def never(*_: Any, **__: Any) -> None:
        raise ArpackNoConvergence("no convergence", np.empty(0), np.empty((0, 0)))
    monkeypatch.setattr(verify_layer, "eigsh", never)
    assert verify_layer.stretch(weight, said, SHAPE) == pytest.approx(iterated, rel=1e-9)
    monkeypatch.setattr(verify_layer, "DENSE", 3)
    with pytest.raises(Bad, match="cannot be verified"):
        verify_layer.stretch(weight, said, SHAPE)
