"""Certificates of the network itself held against attacks on it, and never against those on a smoothed classifier of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from certified_networks import attack_on_network, network

from robust_cli.reporting.checked.crosscheck import check, same_classifier
from robust_cli.reporting.page.content import gather
from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.reading.load import load

# By image: its label, what the network answers on the attacked image, and how far that is away.
MOVED = {0: (0, 1, 0.75), 1: (1, 1, 0.75), 2: (2, 0, 0.5), 3: (0, 0, 0.75), 4: (1, 2, 0.5)}
ROWS = [(0, 0, 0, 0.7), (1, 1, 1, 0.8), (2, 2, 2, 0.4), (3, 0, 0, 0.75), (4, 1, 2, 0.6)]  # all true; image 4 is certified as 2


def check_of(build, rows, certificate="lp_dual", **said):
    network(build, "n", rows, certificate=certificate, **said)
    attack_on_network(build, "a", MOVED)
    runs = load([build.root])
    return check(runs.certified[0], certificate, runs.attacked)


def test_true_certificates_hold_and_answers_take_the_place_of_votes(build):
    found = check_of(build, ROWS)
    assert (found.compared, found.broken, found.allowed) == (3, (), 0)
    assert (found.beyond, found.fooled_beyond, found.few_votes) == (2, 2, 0)
    assert found.verdict == ("Holds: 0 of 3 compared images break their certificate, none allowed: nothing is drawn; beyond the "
                             "radius the attacks succeeded on 2 of 2 images.")


def test_a_single_broken_one_is_too_many(build):
    found = check_of(build, [(0, 0, 0, 0.8), *ROWS[1:]])
    assert found.broken == (0,)
    assert not found.holds
    assert found.verdict.startswith("BROKEN: 1 of 4")
    assert "none allowed" in found.verdict


@pytest.mark.parametrize(("radius", "broken"), [(0.75, (0,)), (np.nextafter(0.75, 0), ())])
def test_the_ball_is_closed(build, radius, broken):
    assert check_of(build, [(0, 0, 0, float(radius))]).broken == broken


def test_an_attack_too_weak_to_fool_anything_proves_nothing(build):
    network(build, "n", [(1, 1, 1, 0.8), (3, 0, 0, 0.1)])
    attack_on_network(build, "a", MOVED)
    runs = load([build.root])
    found = check(runs.certified[0], "lp_dual", runs.attacked)
    assert (found.compared, found.beyond, found.fooled_beyond) == (1, 1, 0)
    assert found.verdict.startswith("Proves nothing")


@pytest.mark.parametrize(("said", "same"), [({}, True), ({"model_fingerprint": "g1"}, False), ({"precision": "bf16"}, False),
                                            ({"classifier": "smoothed", "noise_std": 0.5}, False),
                                            ({"classifier": "smoothed"}, False)])
def test_the_network_is_compared_with_attacks_on_the_network_alone(build, said, same):
    network(build, "n", ROWS)
    attack_on_network(build, "a", MOVED, **said)
    runs = load([build.root])
    assert same_classifier(runs.certified[0], runs.attacked[0]) == same
    assert len(gather(runs).checks) == int(same)


def test_one_model_certified_and_attacked_both_ways_is_never_compared_across(build):
    """Held against the attack on the smoothed classifier, the network's certificate of image 1 would break."""
    of = {"model_fingerprint": "g0", "regime": "lp_dual", "training_noise_std": None, "images": 5}
    votes = {1: [800, 100, 100], 2: [800, 100, 100]}
    network(build, "n", [(1, 1, 1, 0.8), (2, 2, 2, 0.4)])
    build.certify("s", {"renyi": [(1, 1, 1, 0.4), (2, 2, 2, 0.6)]}, **of)
    attack_on_network(build, "a", MOVED)
    originals = np.zeros((2, 1, 2, 2), np.float32)
    outcomes = [{"attack": a, "budget": b, "index": i, "label": i, "robust": int(not b), "predicted": 0 if b else i,
                 "votes": counts}
                for a, b in (("none", 0), ("pgd_l2", 1.0)) for i, counts in votes.items()]
    build.attack("b", outcomes, originals=originals, adversarial={("pgd_l2", 1.0): originals + np.float32(0.25)}, **of)
    runs = load([build.root])
    checks = dict(gather(runs).checks)
    assert len(checks) == 2
    (exact,) = (c for c in checks.values() if c.exact)
    (voted,) = (c for c in checks.values() if not c.exact)
    assert (exact.compared, exact.broken) == (1, ())  # the network still says 1 of image 1, whatever votes say
    assert (voted.compared, voted.few_votes) == (1, 0)
    assert voted.broken == (2,)  # image 2 at 1/2: by the votes, not by the network's answer at the same distance
    (smoothed,) = (run for run in runs.certified if run.names == ["renyi"])
    (on_network,) = (run for run in runs.attacked if run.about["classifier"] == "base")
    with pytest.raises(AssertionError, match="another classifier"):
        check(smoothed, "renyi", [on_network])


def test_claims_broken_by_an_attack_are_counted_and_are_no_broken_certificate(build, tmp_path):
    rows = [(i, label, label, 0.8) for i, (label, _, _) in MOVED.items()]
    network(build, "claim", rows, certificate="lp_dual_published", radius=0.8, cascade="published")
    network(build, "sound", [(i, y, p, 0.8 * (i in (1, 3))) for i, y, p, _ in rows], radius=0.8, cascade="sound")
    attack_on_network(build, "a", MOVED)
    report = write_report([build.root], tmp_path)
    assert not report.broken
    claims, sound = (next(v for v in report.verdicts if word in v) for word in ("claimed by", "certified by"))
    assert "Claims broken by an attack: 3 of 5 compared images (images 0, 2, 4)" in claims
    assert 'docs/messages.md, "The published count of a cascade is a claim"' in claims
    assert "BROKEN" not in claims
    assert "Proves nothing: 0 of 2 compared images" in sound
    table = pd.read_csv(report.tables["crosscheck"]).set_index("line")
    assert table["claims_broken"].tolist() == pytest.approx([3, np.nan], nan_ok=True)
    assert table["broken"].tolist() == pytest.approx([np.nan, 0], nan_ok=True)
    assert "Claims, which are no certificates: 3 of 5 compared were broken by an attack." in report.page.read_text()
    assert "1 certificates checked against attacks: 1 that prove nothing" in report.page.read_text()
    assert "claims broken by an attack" in report.markdown.read_text()


def test_a_claim_that_no_attack_broke_is_not_proven_by_that(build):
    found = check_of(build, [(1, 1, 1, 0.8), (0, 0, 0, 0.7)], certificate="lp_dual_published", cascade="published")
    assert found.holds
    assert found.verdict.startswith("No claim was broken: 0 of 1 compared images; that proves none of them")
