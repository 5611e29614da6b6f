"""Lists of attacks and certificates, and the traps in them."""

from __future__ import annotations

import pytest


@pytest.fixture
def attacked(robust):
    """Runs `robust attack` with more words; the attack node that its body was given, as plain names and steps."""
    robust.done("train")

    def attack(*words):
        robust.done("attack", "run=latest", *words)
        return {name: node.get("steps") for name, node in robust.seen[-1][0].attack.items()}

    return attack


def _own(robust, text, group="attack"):
    folder = robust.home / "mine" / group
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(text)


def test_lists(attacked):
    assert set(attacked()) == {"fgsm", "pgd_l2", "pgd_linf", "second_order"}
    assert attacked("attack=[pgd_l2,second_order]", "attack.pgd_l2.steps=41")["pgd_l2"] == 41
    assert set(attacked("attack=fgsm")) == {"fgsm"}


def test_one_attack_twice(attacked):
    found = attacked("attack=[pgd_l2]", "+attack@attack.strong=pgd_l2", "attack.strong.steps=100")
    assert (set(found), found["strong"]) == ({"pgd_l2", "strong"}, 100)
    assert attacked("attack=[]", "+attack@attack.strong=pgd_l2", "attack.strong.steps=100") == {"strong": 100}


def test_one_attack_twice_in_an_experiment(robust, attacked):
    _own(robust, "# @package _global_\n# Mine. Source: me\n"
                 "defaults:\n  - /attack@attack.pgd_100: pgd_l2\n  - override /attack: []\n"
                 "attack: {pgd_100: {steps: 100}}\n", "experiment")
    assert attacked("-cd", "mine", "experiment=mine") == {"pgd_100": 100}


def test_a_node_in_line(attacked):
    found = attacked("attack=fgsm", "+attack.x={_target_: robust_cli.attacks.pgd.Pgd, norm: l2, steps: 3}")
    assert found == {"fgsm": None, "x": 3}


def test_an_attack_of_the_users_own(robust, attacked):
    _own(robust, "# @package attack.mine\n# Mine. Source: me\n_target_: robust_cli.attacks.pgd.Pgd\nsteps: 9  # many\n")
    assert attacked("-cd", "mine", "attack=[fgsm,mine]") == {"fgsm": None, "mine": 9}


def test_an_attack_of_the_users_own_without_its_package_line(robust, attacked):
    _own(robust, "# Mine. Source: me\n_target_: robust_cli.attacks.pgd.Pgd\nsteps: 9  # many\n")
    ended = robust("attack", "run=latest", "-cd", "mine", "attack=[fgsm,mine]")
    assert ended.code == 2
    assert "must begin with the line '# @package attack.mine'" in ended.err


def test_settings_of_an_attack_that_was_not_chosen(robust, attacked):
    ended = robust("attack", "run=latest", "attack=[pgd_l2]", "attack.pgd_linf.steps=3")
    assert ended.code == 2
    assert "attack.pgd_linf: no such setting; did you mean attack.pgd_l2? (to use it add it to attack=[...])" in ended.err


def test_settings_left_over_from_an_experiment(robust):
    from robust_cli.composing.build import build

    robust.fail = lambda config, folder: build(config.regime, "regime") and None
    ended = robust("train", "experiment=mnist_stability", "regime=standard")
    assert ended.code == 2
    assert "regime.noise_std: not a setting of Standard" in ended.err
    assert "(perhaps set by experiment=mnist_stability)" in ended.err


def test_certificates(robust):
    robust.done("train")
    robust.done("certify", "run=latest", "certificate=[renyi]", "certificate.renyi.bounds=two_class")
    assert dict(robust.seen[-1][0].certificate.renyi)["bounds"] == "two_class"
    assert "there are: " in robust("certify", "run=latest", "certificate=[x]").err
