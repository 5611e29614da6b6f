from __future__ import annotations

import importlib
import inspect
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
import yaml

from robust_cli.datasets.cifar import Cifar10, Cifar100
from robust_cli.datasets.dataset import Dataset
from robust_cli.datasets.digits import Digits
from robust_cli.datasets.mnist import FashionMnist, Mnist
from robust_cli.messages import Wrong

CLASSES = [Digits, Mnist, FashionMnist, Cifar10, Cifar100]
CONF = Path(__file__).parents[2] / "conf" / "dataset"


class Norm(StrEnum):
    l2 = "l2"
    l1 = "l1"


@pytest.mark.parametrize(("settings", "text"), [
    ({"validation": 1.0}, "validation: .*got 1.0"),
    ({"validation": -0.1}, "validation: "),
    ({"validation": float("nan")}, "validation: "),
    ({"augment": "flip"}, "augment: expected none or crop_flip, got 'flip'"),
    ({"std": [0.0]}, "std: expected numbers > 0"),
    ({"std": [-1.0]}, "std: expected numbers > 0"),
    ({"std": [float("inf")]}, "std: "),
    ({"mean": [0.5, 0.5]}, r"mean: expected 1 number\(s\), one per channel, got \[0.5, 0.5\]"),
    ({"std": []}, "std: "),
    ({"mean": ["a"]}, "mean: "),
])
def test_settings_out_of_range_are_refused(settings: dict[str, Any], text: str) -> None:
    for kind in (Digits, Mnist):
        with pytest.raises(Wrong, match=text):
            kind(**settings)


def test_one_number_for_three_channels_is_refused() -> None:
    with pytest.raises(Wrong, match=r"mean: expected 3 number\(s\), one per channel, got \[0.5\]"):
        Cifar10(mean=[0.5])


@pytest.mark.parametrize("kind", CLASSES)
def test_the_config_states_the_class_and_its_defaults(kind: type[Dataset]) -> None:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
    text = (CONF / f"{name}.yaml").read_text()
    lines = text.splitlines()
    assert re.fullmatch(r"# .+ Source: .+", lines[0])
    assert all("  # " in line for line in lines[2:])
    config = yaml.safe_load(text)
    module, _, target = config.pop("_target_").rpartition(".")
    assert getattr(importlib.import_module(module), target) is kind
    assert set(config) == set(inspect.signature(kind).parameters)
    assert kind(**config) == kind()


def test_every_config_is_tested() -> None:
    assert len(list(CONF.glob("*.yaml"))) == len(CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_class_names_are_one_each(kind: type[Dataset]) -> None:
    assert len(set(kind.class_names)) == len(kind.class_names) == (100 if kind is Cifar100 else 10)
    assert kind is not Cifar100 or list(kind.class_names) == sorted(kind.class_names)


def test_default_budgets_are_the_published_attack_sizes() -> None:
    for kind in (Digits, Mnist, FashionMnist):
        assert kind().default_budgets("l2") == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
        assert kind().default_budgets("linf") == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]
    for colour in (Cifar10, Cifar100):
        assert colour().default_budgets("l2") == [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4]
        assert [round(255 * size, 9) for size in colour().default_budgets("linf")] == list(range(2, 21, 2))


def test_default_budgets_take_an_enum_and_refuse_other_norms() -> None:
    assert Digits().default_budgets(Norm.l2) == Digits().default_budgets("l2")
    with pytest.raises(Wrong, match=r"budgets.l1: expected a list, since only l2 and linf have default budgets"):
        Digits().default_budgets(Norm.l1)
    Digits().default_budgets("l2").append(9.0)
    assert 9.0 not in Digits().default_budgets("l2")
