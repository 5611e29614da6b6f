"""resume=: the saved config counts, what was typed must agree with it."""

from __future__ import annotations

import pytest
import yaml


@pytest.fixture
def stopped(robust):
    """A training run that was interrupted."""
    def stop(config, folder):
        raise KeyboardInterrupt

    robust.fail = stop
    robust("train", "regime.noise_std=0.25", "training.epochs=7")
    robust.fail = lambda config, folder: None
    return robust.seen.pop()[1]


def test_the_saved_config_is_used_and_kept(robust, stopped):
    before = stopped.config.read_text()
    folder = robust.done("train", f"resume={stopped}")
    config, _ = robust.seen[-1]
    assert (config.regime.noise_std, config.training.epochs) == (0.25, 7)
    assert folder.path.resolve() == stopped.path.resolve()
    assert folder.state == "complete"
    assert stopped.config.read_text() == before
    assert len(list(robust.home.glob("outputs/*/*"))) == 1


def test_the_same_words_agree(robust, stopped):
    robust.done("train", "regime=stability", "regime.noise_std=0.25", "training.epochs=7", f"resume={stopped}")


@pytest.mark.parametrize(("words", "line"), [
    ("training.epochs=9", "training.epochs is 7 in that run, got 9"),
    ("regime=standard", "regime is stability in that run, got standard; leave it out"),
    ("regime=stability", "regime.noise_std is 0.25 in that run, got 0.5"),
    ("seed=1", "seed is 0 in that run, got 1"),
    ("experiment=mnist_stability", "training.epochs is 7 in that run, got 40"),
])
def test_other_words_are_refused(robust, stopped, words, line):
    ended = robust("train", words, f"resume={stopped}")
    assert ended.code == 2
    assert f"resume={stopped.path.resolve()}: {line}" in ended.err
    assert robust.seen == []
    assert stopped.state == "running"


def test_where_jobs_run_may_change(robust, stopped):
    robust.done("train", f"resume={stopped}", "trust=[some.Class]")
    assert robust.seen[-1][0].trust == ["some.Class"]


def test_a_complete_run_is_left_alone(robust):
    run = robust.done("train")
    ended = robust("train", f"resume={run}")
    assert ended.code == 0
    assert "is complete; there is nothing left to do" in ended.out
    assert len(robust.seen) == 1


def test_a_run_of_another_command_is_refused(robust):
    run = robust.done("train")
    assert f"resume={run.path.resolve()}: is a run of robust train" in robust("certify", f"resume={run}").err


def test_more_samples_on_a_finished_run_are_optional_stopping(robust):
    run = robust.done("train")
    certified = robust.done("certify", f"run={run}", "samples=100")
    ended = robust("certify", f"resume={certified}", "samples=200")
    assert ended.code == 2
    assert "adding votes after seeing the result is optional stopping" in ended.err
    assert len(robust.seen) == 2


def test_a_certify_run_of_an_earlier_version_is_not_gone_on_with(robust, good):
    old = pytest.write_run(robust.home / "old", {**good, "run": "x", "samples": 100}, "certify", "running")
    assert "was begun by an earlier version of robust" in robust("certify", f"resume={old}").err


def test_certify_goes_on_with_its_own_run(robust):
    run = robust.done("train", "regime.noise_std=0.25")

    def stop(config, folder):
        raise KeyboardInterrupt

    robust.fail = stop
    robust("certify", "run=latest", "samples=100", "certificate=[renyi]", "workers=2")
    folder = robust.seen[-1][1]
    robust.fail = lambda config, folder: None
    robust.done("certify", f"resume={folder}", "workers=3", "samples=100", "certificate=renyi", f"run={run}")
    config = robust.seen[-1][0]
    assert (config.workers, config.samples, config.noise_std, list(config.certificate)) == (3, 100, 0.25, ["renyi"])
    assert config.dataset["_target_"].endswith("Digits")
    assert "noise_std is 0.25 in that run, got 0.5" in robust("certify", f"resume={folder}", "noise_std=0.5").err


@pytest.fixture
def certifying(robust):
    """A certify run that was interrupted after it had begun on a cpu, which device=auto came to."""
    robust.done("train", "regime.noise_std=0.25")

    def stop(config, folder):
        folder.provenance.write_text('{"device": "cpu (4 threads)"}')
        raise KeyboardInterrupt

    robust.fail = stop
    robust("certify", "run=latest", "certificate=neyman_pearson")
    robust.fail = lambda config, folder: None
    return robust.seen[-1][1]


def test_another_choice_is_named_as_it_is_typed(robust, certifying):
    line = robust("certify", f"resume={certifying}", "sampling=sequential").err
    assert "sampling is fixed in that run, got sequential; leave it out" in line
    assert "_target_" not in line


def test_the_device_that_auto_came_to_may_be_named(robust, certifying):
    assert "device is cpu in that run, got cuda" in robust("certify", f"resume={certifying}", "device=cuda").err
    robust.done("certify", f"resume={certifying}", "device=cpu")
    assert robust.seen[-1][0].device.value == "cpu"


def test_a_device_that_was_typed_stays(robust):
    def stop(config, folder):
        raise KeyboardInterrupt

    robust.fail = stop
    robust("train", "device=cpu")
    assert "device is cpu in that run, got cuda" in robust("train", f"resume={robust.seen[-1][1]}", "device=cuda").err


def test_latest_is_the_unfinished_run_of_that_command(robust, certifying):
    robust.done("certify", "run=latest")  # later, but complete
    assert "resume=latest: no unfinished train run under outputs/" in robust("train", "resume=latest").err
    folder = robust.done("certify", "resume=latest", "certificate=neyman_pearson")
    assert folder.path.resolve() == certifying.path.resolve()
    assert folder.state == "complete"
    assert "no unfinished certify run" in robust("certify", "resume=latest").err


def test_a_folder_given_by_hydra_is_never_written_over(robust):
    robust.done("train", "hydra.run.dir=mine")
    ended = robust("train", "hydra.run.dir=mine")
    assert ended.code == 2
    assert "hydra.run.dir=mine: expected a new or empty folder" in ended.err
    assert yaml.safe_load((robust.home / "mine/config.yaml").read_text())["seed"] == 0


def test_a_hostile_config_is_not_resumed(robust, good):
    good["regime"]["_target_"] = "os.system"
    run = pytest.write_run(robust.home / "theirs", good, state="running")
    ended = robust("train", f"resume={run}")
    assert ended.code == 2
    assert "regime._target_: 'os.system' is none of the classes that robust ships" in ended.err
