"""The cross-check on a half-space, whose true radius and votes are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from robust_cli.messages import UserError
from robust_cli.reporting.checked.crosscheck import beaten, check, distances, same_classifier
from robust_cli.reporting.reading.load import load

NOISE, BUDGETS, IMAGES = 0.5, (0.25, 0.5, 1.0, 1.5), 40


def half_space(build, *, times=1.0, strength=1.0, votes=1000, seed=0, name="a"):
    """A classifier that says 1 where the mean of the pixels is above 1/2, certified by its true distance ``times`` a factor.

    Under noise the true radius is the distance to the plane. The attack walks ``strength`` times its budget to the plane.
    """
    rng = np.random.default_rng(seed)
    pixels, direction = 16, np.full((1, 4, 4), 0.25, np.float32)
    side = rng.integers(0, 2, IMAGES)
    distance = rng.uniform(0.1, 1.4, IMAGES)
    signed = np.where(side == 1, distance, -distance)
    originals = (0.5 + signed[:, None, None, None] * direction).astype(np.float32)
    index = 10 * np.arange(IMAGES) + 3
    outcomes, adversarial = [], {}
    for budget in BUDGETS:
        moved = (
            originals
            - np.sign(signed)[:, None, None, None].astype(np.float32) * np.float32(strength * budget) * direction
        )
        adversarial["pgd_l2", budget] = moved
        right = rng.binomial(votes, norm.cdf((distance - strength * budget) / NOISE))
        for k in range(IMAGES):
            counts = [int(right[k]), int(votes - right[k])]
            outcomes.append(
                {
                    "attack": "pgd_l2",
                    "budget": budget,
                    "index": index[k],
                    "label": side[k],
                    "robust": int(right[k] * 2 > votes),
                    "votes": counts if side[k] == 0 else counts[::-1],
                }
            )
    rows = [(int(index[k]), int(side[k]), int(side[k]), float(times * distance[k])) for k in range(IMAGES)]
    assert pixels * 0.25**2 == 1
    certify = build.certify(f"certify_{name}", {"neyman_pearson": rows}, classes=2)
    attack = build.attack(
        f"attack_{name}", outcomes, originals=originals, adversarial=adversarial, classes=2, decision_votes=votes
    )
    runs = load([certify.path, attack.path])
    return check(runs.certified[0], "neyman_pearson", runs.attacked), distance


def test_true_radii_are_not_broken_and_the_attack_succeeds_beyond_them(build):
    found, distance = half_space(build)
    assert found.compared == int((distance > BUDGETS[0]).sum())
    assert found.broken == ()
    assert found.beyond == int((distance < BUDGETS[-1]).sum()) == IMAGES
    assert found.fooled_beyond > IMAGES / 2
    assert found.holds
    assert found.proves
    assert found.verdict.startswith("Holds: 0 of")


def test_radii_times_1_3_are_caught(build):
    found, distance = half_space(build, times=1.3)
    # Between the true radius and 1.3 times it the votes turn; a break is certain only where they turn by more than chance.
    clear = [d for d in distance if any(d + 0.12 < b < 1.3 * d for b in BUDGETS)]
    assert len(found.broken) >= len(clear) > found.allowed
    assert not found.holds
    assert found.verdict.startswith("BROKEN")


def test_an_attack_that_returns_its_input_proves_nothing(build):
    found, _ = half_space(build, times=1.3, strength=0.0)
    assert found.compared == IMAGES
    assert found.broken == ()
    assert found.holds
    assert not found.proves
    assert found.verdict.startswith("Proves nothing")


def test_an_attack_that_never_succeeds_proves_nothing_even_beyond_the_radius(build):
    found, _ = half_space(build, times=0.05, strength=0.05)
    assert found.beyond > 0
    assert found.fooled_beyond == 0
    assert "too weak" in found.verdict


def test_few_votes_are_not_compared_and_it_is_said(build):
    found, _ = half_space(build, times=1.3, votes=999)
    assert found.compared == 0
    assert found.few_votes == IMAGES * len(BUDGETS)
    assert "160 outcomes with fewer than 1000 votes" in found.verdict
    assert "Nothing could be compared" in found.verdict


def test_an_image_breaks_its_certificate_at_most_once_and_the_label_does_not_matter(build):
    originals = np.zeros((1, 1, 2, 2), np.float32)
    images = {(a, b): np.full_like(originals, b / 2) for a in ("one", "two") for b in (0.1, 0.2)}
    outcomes = [
        {"attack": a, "budget": b, "index": 7, "label": 2, "robust": 0, "votes": [100, 800, 100]} for a, b in images
    ]
    certify = build.certify("c", {"renyi": [(7, 2, 0, 1.0)]})  # certified as 0, labelled 2
    attack = build.attack("a", outcomes, originals=originals, adversarial=images)
    runs = load([certify.path, attack.path])
    found = check(runs.certified[0], "renyi", runs.attacked)
    assert found.broken == (7,)
    assert found.compared == 1


@pytest.mark.parametrize(("radius", "inside"), [(0.5, 0), (np.nextafter(0.5, 1), 1)])
def test_a_certificate_promises_nothing_at_the_radius_itself(build, radius, inside):
    originals = np.zeros((1, 1, 2, 2), np.float32)
    outcomes = [{"attack": "p", "budget": 0.5, "index": 7, "label": 0, "robust": 0, "votes": [100, 800, 100]}]
    certify = build.certify("c", {"renyi": [(7, 0, 0, radius)]})
    attack = build.attack("a", outcomes, originals=originals, adversarial={("p", 0.5): originals + np.float32(0.25)})
    runs = load([certify.path, attack.path])
    found = check(runs.certified[0], "renyi", runs.attacked)
    assert (found.compared, len(found.broken), found.beyond) == (inside, inside, 1 - inside)


@pytest.mark.parametrize(("norm", "distance"), [("l2", 0.5), ("linf", 0.25), ("l1", 1.0)])
def test_the_distance_is_in_the_norm_of_the_certificate_whatever_norm_the_attack_had_in_mind(build, norm, distance):
    originals = np.zeros((1, 1, 2, 2), np.float32)  # four pixels move by 1/4
    outcomes = [{"attack": "p", "budget": 0.3, "norm": "linf", "index": 7, "label": 0, "robust": 0, "votes": [100, 800, 100]}]
    attack = build.attack("a", outcomes, originals=originals, adversarial={("p", 0.3): originals + np.float32(0.25)})
    for k, (radius, inside) in enumerate(((distance, 0), (np.nextafter(distance, 2), 1))):
        certify = build.certify(f"c{k}", {"renyi": [(7, 0, 0, radius)]}, later={"norm": norm})
        runs = load([certify.path, attack.path])
        found = check(runs.certified[0], "renyi", runs.attacked)
        assert (found.compared, len(found.broken), found.beyond) == (inside, inside, 1 - inside)


def test_other_kinds_of_noise_are_other_classifiers_and_gaussian_is_the_usual_one(build):
    rows = [{"attack": "p", "budget": 0.5, "index": 1, "label": 0, "robust": 1, "votes": [1000, 0, 0]}]
    kinds = ({}, {"noise": "gaussian"}, {"noise": "laplace"})
    attacks = [build.attack(f"a{k}", rows, **said).path for k, said in enumerate(kinds)]
    for name, said, same in (("c0", {}, [True, True, False]), ("c1", {"noise": "laplace"}, [False, False, True])):
        runs = load([build.certify(name, {"renyi": [(1, 0, 0, 1.0)]}, **said).path, *attacks])
        assert [same_classifier(runs.certified[0], a) for a in runs.attacked] == same


def test_a_share_below_one_half_is_no_break_while_no_other_class_has_more():
    votes = np.array([[400, 350, 350], [400, 420, 280], [300, 600, 200]])
    assert beaten(votes, np.zeros(3, int)).tolist() == [False, False, True]


def test_the_test_of_two_counts_has_its_level():
    # P(X >= 575 of 1000 fair coins) = 1.2e-6, P(X >= 580) = 2.3e-7; the level is 1e-6 for two classes and 1e-6 / 9 for ten.
    counts = np.array([[1000 - b, b] for b in (575, 576, 580)])
    assert beaten(counts, np.zeros(3, int)).tolist() == [False, True, True]
    ten = np.pad(counts, ((0, 0), (0, 8)))
    assert beaten(ten, np.zeros(3, int)).tolist() == [False, False, False]


def test_distance_is_in_float64_from_bytes_as_the_classifier_saw_them(build):
    rng = np.random.default_rng(1)
    originals = rng.integers(0, 256, (3, 1, 5, 5), dtype=np.uint8)
    moved = rng.random(originals.shape, dtype=np.float32)
    outcomes = [
        {"attack": "p", "budget": 0.5, "index": i, "label": 0, "robust": 1, "votes": [1000, 0, 0]} for i in (2, 4, 9)
    ]
    folder = build.attack("a", outcomes, originals=originals, adversarial={("p", 0.5): moved})
    run = load([folder.path]).attacked[0]
    found = distances(run, "p", 0.5, np.array([9, 2]))
    exact = [
        np.sqrt(
            (
                (moved[k].astype(np.float64) - (originals[k].astype(np.float32) / np.float32(255)).astype(np.float64))
                ** 2
            ).sum()
        )
        for k in (2, 0)
    ]
    assert found.tolist() == pytest.approx(exact, rel=1e-15)
    with pytest.raises(UserError, match="image 3 is missing"):
        distances(run, "p", 0.5, np.array([3]))


def test_other_noise_weights_precision_or_the_base_classifier_are_not_compared(build):
    rows = [{"attack": "p", "budget": 0.5, "index": 1, "label": 0, "robust": 1, "votes": [1000, 0, 0]}]
    certify = build.certify("c", {"renyi": [(1, 0, 0, 1.0)]})
    others = [
        {},
        {"noise_std": 0.25},
        {"model_fingerprint": "f1"},
        {"precision": "bf16"},
        {"classifier": "base", "noise_std": None},
    ]
    folders = [build.attack(f"a{k}", rows, **other) for k, other in enumerate(others)]
    runs = load([certify.path, *(f.path for f in folders)])
    assert [same_classifier(runs.certified[0], a) for a in runs.attacked] == [True, False, False, False, False]
