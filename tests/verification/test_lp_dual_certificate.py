"""The certificate lp_dual: a radius asked for or the largest, of a network, and of a cascade by either of its two counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy_cascades import answers, at, dense, pixels, random_cascade, thresholds

from robust_cli.composing.build import build
from robust_cli.messages import UserError, Wrong
from robust_cli.models.lenet import LeNet
from robust_cli.verification.certified import proof
from robust_cli.verification.lp_dual import LpDual

CONF = Path(__file__).resolve().parents[2] / "conf" / "certificate"
GATE = 36 / 255  # no float32
every_norm = pytest.mark.parametrize("norm", ["l2", "linf"])
every_count = pytest.mark.parametrize("cascade", ["sound", "published"])


# ---- A network ----------------------------------------------------------------------------------------------------------------

@every_norm
@pytest.mark.parametrize("relaxation", ["parallel", "adaptive"])
def test_a_radius_that_is_asked_for_agrees_with_the_largest(norm: str, relaxation: str) -> None:
    model, images = dense(4, classes=3), pixels(40)
    named, verifier = answers(model, images), LpDual(norm, relaxation=relaxation)
    largest = verifier(model, images, named, norm, None)
    assert (largest.dtype, largest.shape) == (torch.float64, (40,))
    torch.testing.assert_close(largest, proof(model, (1, 1, 2), relaxation).largest(images, named, norm, 1e-3), rtol=0, atol=0)
    for radius in (0.003, 0.01, 0.03, 0.1):
        proven = verifier(model, images, named, norm, radius)
        assert proven.dtype == torch.bool
        clear = (largest - radius).abs() > 4e-3 * radius
        assert torch.equal(proven[clear], (largest >= radius)[clear])
        assert clear.sum() > 35
    assert 0 < int(verifier(model, images, named, norm, 0.03).sum()) < 40


def test_a_class_that_is_not_the_network_s_own_has_no_radius() -> None:
    model, images = dense(4), pixels(20)
    other = 1 - answers(model, images)
    assert LpDual()(model, images, other, "l2", None).tolist() == [0.0] * 20
    assert not LpDual()(model, images, other, "l2", 1e-6).any()


def test_the_tolerance_is_that_of_the_search() -> None:
    model, images = dense(4), pixels(20)
    named = answers(model, images)
    rough, fine = (LpDual(tolerance=each)(model, images, named, "l2", None) for each in (0.3, 1e-5))
    assert (rough <= fine * (1 + 1e-5)).all()
    assert (rough >= fine * (1 - 2 * 0.31)).all()
    assert (rough < 0.99 * fine).any()


def test_a_network_with_a_layer_that_has_no_bounds_is_refused() -> None:
    images = torch.rand(2, 1, 28, 28)
    with pytest.raises(UserError, match="MaxPool2d"):
        LpDual()(LeNet((1, 28, 28), 10), images, torch.zeros(2, dtype=torch.long), "l2", None)


# ---- A cascade ----------------------------------------------------------------------------------------------------------------

@every_norm
def test_sound_radii_on_paper(norm: str) -> None:
    """Thresholds at 0.5 and 0.3: nothing between, where they disagree; else the distance from the last, up to the gate's 0.1."""
    cascade, images = thresholds(0.5, 0.3, norm=norm), at(0.05, 0.25, 0.39, 0.45, 0.55, 0.9)
    found = LpDual(norm)(cascade, images, answers(cascade, images), norm, None)
    assert found.tolist() == pytest.approx([0.1, 0.05, 0, 0, 0.1, 0.1], rel=2e-3)
    assert (found <= 0.1).all()


@every_norm
def test_sound_radii_that_are_asked_for(norm: str) -> None:
    cascade, images = thresholds(0.5, 0.3, norm=norm), at(0.05, 0.25, 0.39, 0.9)
    named = answers(cascade, images)
    expected = {0.01: [True, True, False, True], 0.06: [True, False, False, True], 0.1: [True, False, False, True]}
    for radius, proven in expected.items():
        found = LpDual(norm)(cascade, images, named, norm, radius)
        assert (found.dtype, found.tolist()) == (torch.bool, proven), radius


@every_count
@pytest.mark.parametrize("radius", [0.1 * (1 + 1e-12), 3.0])
def test_a_radius_above_the_gate_s_is_refused(cascade: str, radius: float) -> None:
    """Nothing is proven there, however large the last stage's own radius; zeros for all would look like a result."""
    model, images = thresholds(0.5, 0.3), at(0.05, 0.9)
    with pytest.raises(Wrong, match=r"radius: expected at most 0\.1, that of the cascade's stages"):
        LpDual(cascade=cascade)(model, images, answers(model, images), "l2", radius)


@every_norm
def test_the_published_count_is_the_gate_s_radius_where_the_stage_that_answers_certifies(norm: str) -> None:
    """Exactly that radius, not its float32: at the gate itself all are counted that are at smaller ones."""
    cascade, images = random_cascade(4, norm=norm, radius=GATE), pixels(60)
    named = answers(cascade, images)
    _, certified = cascade.answering(images)
    assert 0 < int(certified.sum()) < 60
    verifier = LpDual(norm, cascade="published")
    assert verifier(cascade, images, named, norm, None).tolist() == [GATE if sure else 0.0 for sure in certified.tolist()]
    for radius, expected in ((0.01, certified), (GATE, certified)):
        found = verifier(cascade, images, named, norm, radius)
        assert found.dtype == torch.bool
        assert torch.equal(found, expected), radius


@every_norm
def test_the_gate_s_own_radius_is_proven_where_the_largest_is(norm: str) -> None:
    cascade, images = random_cascade(4, norm=norm, radius=GATE / 4), pixels(60)
    named = answers(cascade, images)
    largest = LpDual(norm)(cascade, images, named, norm, None)
    assert (largest <= cascade.radius).all()
    proven = LpDual(norm)(cascade, images, named, norm, cascade.radius)
    assert proven.any()
    assert torch.equal(largest[proven], torch.full_like(largest[proven], cascade.radius))
    assert (largest[~proven] < cascade.radius).all()


@every_count
def test_another_class_than_the_cascade_s_has_no_radius(cascade: str) -> None:
    model, images = random_cascade(4), pixels(40)
    other = 1 - answers(model, images)
    assert LpDual(cascade=cascade)(model, images, other, "l2", None).tolist() == [0.0] * 40
    assert not LpDual(cascade=cascade)(model, images, other, "l2", 0.01).any()


def test_the_relaxation_is_that_of_the_last_stage_s_proof_only() -> None:
    """Who answers is decided by the cascade's own bounds, however they are certified afterwards."""
    model, images = random_cascade(4, radius=0.2, classes=3), pixels(60)
    named = answers(model, images)
    parallel, adaptive = (LpDual(relaxation=each)(model, images, named, "l2", None) for each in ("parallel", "adaptive"))
    assert (adaptive > parallel * 1.01).any()
    assert torch.equal((parallel > 0), (adaptive > 0))


def test_a_stage_alone_is_the_network_up_to_its_radius() -> None:
    cascade, images = random_cascade(4, stages=1, radius=0.02), pixels(40)
    named = answers(cascade, images)
    found = LpDual()(cascade, images, named, "l2", None)
    expected = LpDual()(cascade.stages[0], images, named, "l2", None).clamp(max=0.02)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@every_count
def test_another_norm_than_the_cascade_s_is_refused(cascade: str) -> None:
    with pytest.raises(Wrong, match="norm: expected l2, that of the cascade's stages, got 'linf'"):
        LpDual("linf", cascade=cascade)(thresholds(0.5), at(0.3), torch.zeros(1, dtype=torch.long), "linf", None)


# ---- Settings -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("settings", "said"), [
    ({"norm": "l1"}, "norm: expected l2 or linf"), ({"radius": 0.0}, "radius: expected a number > 0"),
    ({"radius": float("inf")}, "radius"), ({"relaxation": "tight"}, "relaxation: expected parallel or adaptive"),
    ({"tolerance": 0.0}, "tolerance"), ({"tolerance": 1.0}, "tolerance"),
    ({"cascade": "paper"}, "cascade: expected sound or published")])
def test_a_setting_out_of_its_range_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Wrong, match=said):
        LpDual(**settings)


@pytest.mark.parametrize(("name", "cascade"), [("lp_dual", "sound"), ("lp_dual_published", "published")])
def test_the_two_certificates_are_the_two_counts(name: str, cascade: str) -> None:
    built = build(yaml.safe_load((CONF / f"{name}.yaml").read_text()), f"certificate.{name}")
    assert built == LpDual(cascade=cascade)
    assert (built.verifies, built.bounds) == (True, "deterministic")
