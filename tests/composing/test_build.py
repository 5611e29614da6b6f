"""build(): constructor arguments are the settings, and each mistake in them names its key."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from robust_cli.composing.build import build
from robust_cli.composing.hints import Misfit, fitted
from robust_cli.messages import UserError, check


class Shape(Enum):
    round = "o"
    square = "#"


@dataclass(frozen=True)
class Inner:
    size: int = 1

    def __post_init__(self) -> None:
        check(self.size > 0, "size", "a whole number > 0", self.size)


@dataclass(frozen=True)
class Thing:
    weight: float
    kind: Literal["soft", "hard"] = "soft"
    shape: Shape = Shape.round
    betas: tuple[float, float] = (0.9, 0.99)
    steps: int | None = None
    inner: Any = None
    several: Sequence[Any] = ()

    def __post_init__(self) -> None:
        check(self.weight >= 0, "weight", "a number >= 0", self.weight)


class Net:
    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 8) -> None:
        check(shape[0] == 1, "shape", "one channel", shape)
        self.shape, self.classes, self.width = shape, classes, width


class Open:
    def __init__(self, **settings: object) -> None:
        self.settings = settings


class Buggy:
    def __init__(self) -> None:
        raise TypeError("a bug")


def node(name: str, **keys: Any) -> Any:
    return OmegaConf.create({"_target_": f"{__name__}.{name}", **keys})


def test_values_arrive_as_their_hints_say():
    made = build(node("Thing", weight=2, kind="hard", shape="#", betas=[0, 1], steps=1e4), "regime")
    assert build(node("Thing", weight=2, shape="Shape.square"), "regime").shape is Shape.square
    assert made == Thing(2.0, "hard", Shape.square, (0.0, 1.0), 10000)
    assert (type(made.weight), type(made.betas), type(made.steps)) == (float, tuple, int)
    assert build(node("Thing", weight=math.inf, shape="round"), "x").shape is Shape.round


def test_given_arguments_are_passed_as_they_are():
    net = build(node("Net", width=3), "model", shape=(1, 28, 28), classes=10)
    assert (net.shape, net.classes, net.width) == ((1, 28, 28), 10, 3)


def test_nodes_inside_are_built_first():
    made = build(node("Thing", weight=1, inner=node("Inner", size=3), several=[node("Inner"), 5]), "regime")
    assert made.inner == Inner(3)
    assert made.several == [Inner(1), 5]
    assert build(node("Open", x={"a": node("Inner")}), "x").settings == {"x": {"a": Inner(1)}}


def test_interpolations_are_resolved():
    whole = OmegaConf.create({"noise": 0.5, "regime": {"_target_": f"{__name__}.Thing", "weight": "${noise}"}})
    assert build(whole.regime, "regime").weight == 0.5


@pytest.mark.parametrize(("keys", "line"), [
    ({"weight": -1}, "regime.weight: expected a number >= 0, got -1.0"),
    ({"weight": "abc"}, "regime.weight: expected a number, got 'abc'"),
    ({"weight": True}, "regime.weight: expected a number, got True"),
    ({"weight": None}, "regime.weight: expected a number, got None"),
    ({"weight": 1, "steps": 1.5}, "regime.steps: expected a whole number or null, got 1.5"),
    ({"weight": 1, "kind": "sotf"}, "regime.kind: expected soft or hard, got 'sotf'"),
    ({"weight": 1, "shape": "oval"}, "regime.shape: expected o or #, got 'oval'"),
    ({"weight": 1, "betas": [1]}, "regime.betas: expected a list of 2 values, got [1]"),
    ({"weight": 1, "betas": 1}, "regime.betas: expected a list, got 1"),
    ({"weight": 1, "betas": [1, "x"]}, "regime.betas: expected a list, each of it a number, got [1, 'x']"),
    ({"weihgt": 1}, "regime.weihgt: not a setting of Thing; did you mean weight?"),
    ({}, "regime: Thing needs 'weight', which has no default"),
    ({"weight": "???"}, "regime.weight: has no default; set regime.weight=..."),
    ({"weight": 1, "_partial_": True}, "regime._partial_: not a setting of Thing"),
    ({"weight": 1, "inner": {"_target_": f"{__name__}.Inner", "size": 0}},
     "regime.inner.size: expected a whole number > 0, got 0"),
])
def test_a_mistake_names_its_key(keys, line):
    with pytest.raises(UserError) as caught:
        build(node("Thing", **keys), "regime")
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("target", "line"), [
    ("no_such_package_at_all.Net", "model._target_: cannot import no_such_package_at_all.Net"),
    (f"{__name__}.Nett", f"model._target_: {__name__}.Nett: {__name__} has no Nett; did you mean Net?"),
    (f"{__name__}.annotations.x", "model._target_: "),
    ("math.pi", "model._target_: expected a class, math.pi is a float"),
])
def test_a_target_that_cannot_be_had(target, line):
    with pytest.raises(UserError) as caught:
        build({"_target_": target}, "model")
    assert str(caught.value).startswith(line)


def test_what_the_program_gives_cannot_be_set():
    with pytest.raises(UserError, match=r"model.classes: comes from the data set and cannot be set"):
        build(node("Net", classes=3), "model", shape=(1, 2, 2), classes=10)
    with pytest.raises(UserError, match=r"model: Inner must take 'shape'"):
        build(node("Inner"), "model", shape=(1, 2, 2), classes=10)
    with pytest.raises(UserError, match=r"model \(its shape\): expected one channel, got \(3, 2, 2\)"):
        build(node("Net"), "model", shape=(3, 2, 2), classes=10)


@dataclass(frozen=True)
class Plan:
    samples: int = 1

    def __post_init__(self) -> None:
        check(self.samples > 1, "samples", "a whole number > 1", self.samples)


def test_a_given_argument_that_is_a_key_of_the_command_is_called_so():
    with pytest.raises(UserError, match=r"^samples: expected a whole number > 1, got 1"):
        build(node("Plan"), "sampling", samples=1)


def test_a_node_that_is_none():
    for value in (None, {}, {"steps": 1}, "fgsm"):
        with pytest.raises(UserError, match=r"attack.x: expected a node with _target_"):
            build(value, "attack.x")


def test_a_bug_in_a_constructor_is_not_taken_for_a_mistake():
    with pytest.raises(TypeError, match="a bug"):
        build(node("Buggy"), "x")


def test_an_import_error_inside_a_users_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "needs_something.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        build({"_target_": "needs_something.Net"}, "model")


def test_hints_that_a_config_cannot_check_let_values_pass():
    assert fitted("x", Any) == "x"
    assert fitted([1], Shape | list[int]) == [1]
    with pytest.raises(Misfit):
        fitted("x", dict[str, int])


def test_building_imports_no_torch():
    code = "import sys, robust_cli.composing.build, robust_cli.composing.task; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
