"""smoothing.layer: where the noise comes in is the run's own matter, and noise of one place is none of another."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from robust_cli.composing.resuming import same
from robust_cli.composing.saved_run import load_run
from robust_cli.messages import UserError


@pytest.fixture
def run(tmp_path, good) -> Any:
    """Makes a training run whose about.json says of its noise what is given."""
    def make(name: str = "run", **about: Any) -> Any:
        return pytest.write_run(tmp_path / name, good, about={"training_noise_std": 0.5} | about)
    return make


def settled(robust, *words: str) -> Any:
    robust.done(*words)
    return robust.seen[-1][0]


@pytest.mark.parametrize("about", [{}, {"training_layer": "input"}, {"training_layer": None}])
@pytest.mark.parametrize("command", ["certify", "attack"])
def test_the_image_where_the_run_does_not_say_otherwise(robust, run, about, command):
    config = settled(robust, command, f"run={run(**about)}")
    assert (config.smoothing.layer.value, config.noise_std) == ("input", 0.5)


@pytest.mark.parametrize("command", ["certify", "attack"])
def test_the_run_s_own_place_and_noise(robust, run, command):
    path = run(training_layer="first")
    config = settled(robust, command, f"run={path}")
    assert (config.smoothing.layer.value, config.noise_std) == ("first", 0.5)
    config = settled(robust, command, f"run={path}", "noise_std=0.3")
    assert (config.smoothing.layer.value, config.noise_std) == ("first", 0.3)
    config = settled(robust, command, f"run={path}", "smoothing.layer=first")
    assert (config.smoothing.layer.value, config.noise_std) == ("first", 0.5)
    config = settled(robust, command, f"run={path}", "smoothing.layer=input", "noise_std=0.3")
    assert (config.smoothing.layer.value, config.noise_std) == ("input", 0.3)


@pytest.mark.parametrize(("trained", "asked"), [("first", "input"), ("input", "first")])
def test_the_noise_of_another_place_is_not_taken_over(robust, run, trained, asked):
    ended = robust("certify", f"run={run(training_layer=trained)}", f"smoothing.layer={asked}")
    assert ended.code == 2
    assert f"noise_std: the run's noise is that of smoothing.layer={trained}, in other units" in ended.err
    assert robust.folders() == []


@pytest.mark.parametrize("noise", ["integer_grid", "laplace", "uniform"])
@pytest.mark.parametrize("command", ["certify", "attack"])
def test_other_noise_than_gaussian_is_refused_after_the_first_layer(robust, run, command, noise):
    ended = robust(command, f"run={run(training_layer='first')}", f"noise={noise}")
    assert ended.code == 2
    assert "noise: expected gaussian with smoothing.layer=first" in ended.err
    assert ended.err.count("\n") == 1
    assert robust.done(command, f"run={run('other', training_layer='first')}", f"noise={noise}", "smoothing.layer=input",
                       "noise_std=0.3")


def test_a_base_classifier_has_no_place_for_noise(robust, run):
    path = run(training_layer="first")
    config = settled(robust, "attack", f"run={path}", "classifier=base")
    assert (config.smoothing.layer, config.noise_std) == (None, None)
    ended = robust("attack", f"run={path}", "classifier=base", "smoothing.layer=first")
    assert "smoothing.layer: a base classifier has no noise, got first" in ended.err


@pytest.mark.parametrize(("words", "line"), [
    ("smoothing.layer=second", "smoothing.layer: expected one of input, first; got 'second'"),
    ("smoothing.lair=first", "smoothing.lair: no such setting; did you mean smoothing.layer"),
    ("+smoothing.x=1", "smoothing.x: no such setting of robust certify"), ("smoothing=first", "smoothing")])
def test_a_mistake_is_one_line(robust, run, words, line):
    ended = robust("certify", f"run={run()}", words)
    assert ended.code == 2
    assert line in ended.err
    assert ended.err.count("\n") == 1


def test_a_damaged_place_is_refused(tmp_path, run):
    with pytest.raises(UserError, match="expected its noise at the input or after the first layer, got 'last'"):
        _ = load_run(run(training_layer="last")).layer


def test_resuming_compares_the_place(robust, run):
    def stop(config, folder):
        raise KeyboardInterrupt

    path, robust.fail = run(training_layer="first"), stop
    robust("certify", f"run={path}")
    folder, robust.fail = robust.seen.pop()[1], lambda config, folder: None
    ended = robust("certify", f"resume={folder}", "smoothing.layer=input")
    assert "smoothing.layer is first in that run, got input" in ended.err
    robust.done("certify", f"resume={folder}", "smoothing.layer=first")
    assert robust.seen[-1][0].smoothing.layer.value == "first"


def test_an_older_run_goes_on_at_the_image(robust, run):
    """Its config says nothing of a place."""
    def stop(config, folder):
        raise KeyboardInterrupt

    path, robust.fail = run(), stop
    robust("certify", f"run={path}")
    folder, robust.fail = robust.seen.pop()[1], lambda config, folder: None
    config = yaml.safe_load(folder.config.read_text())
    del config["smoothing"]
    folder.config.write_text(yaml.safe_dump(config))
    ended = robust("certify", f"resume={folder}", "smoothing.layer=first")
    assert "smoothing.layer is input in that run, got first" in ended.err
    robust.done("certify", f"resume={folder}", "smoothing.layer=input")
    assert robust.seen[-1][0].smoothing.layer in (None, "input")


def test_an_older_config_is_the_same_as_one_that_says_input():
    assert same({"seed": 1}, {"seed": 1, "smoothing": {"layer": "input"}}) is None
    assert same({"seed": 1, "smoothing": {"layer": None}}, {"seed": 1}) is None
    assert same({"seed": 1}, {"seed": 1, "smoothing": {"layer": "first"}}) == "smoothing.layer is input there, first now"
