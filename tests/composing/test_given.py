"""A model of one's own on the command line: its words, its folder, its trust; without building it."""

from __future__ import annotations

import os

import pytest
import yaml

OWN = ("model=cnn_small", "model.weights=w.pth", "dataset=digits")


@pytest.fixture
def files(robust):
    """Two files of weights."""
    (robust.home / "w.pth").write_bytes(b"one")
    (robust.home / "v.pth").write_bytes(b"two")
    return robust


def test_it_needs_no_run(files):
    folder = files.done("certify", *OWN, "noise_std=0.25")
    config = files.seen[-1][0]
    assert (config.run, config.noise_std, config.choices.regime) == (None, 0.25, "own")
    assert config.model.weights == str(files.home / "w.pth")
    assert config.model_sha256.startswith("7692c3ad3540bb803c020b3aee66cd88")  # of b"one"
    assert folder.path.name.endswith("_certify_digits_cnn_small-w_own")
    assert "root" not in config.dataset
    assert "regime" not in folder.read_config()


def test_the_data_sets_place_is_told_as_ever(files):
    files.done("certify", "model=lenet", "model.weights=w.pth", "dataset=mnist", "dataset.root=here", "noise_std=1")
    assert files.seen[-1][0].dataset.root == str(files.home / "here")


def test_attack_is_on_the_base_classifier_unless_there_is_noise(files):
    files.done("attack", *OWN)
    assert (files.seen[-1][0].classifier.value, files.seen[-1][0].noise_std) == ("base", None)
    files.done("attack", *OWN, "noise_std=0.5", "noise=laplace")
    config = files.seen[-1][0]
    assert (config.classifier.value, config.noise_std, config.noise.value) == ("smoothed", 0.5, "laplace")


@pytest.mark.parametrize(("words", "name"), [
    (("model._target_=my_package.nets.MyNet", "model.weights=w.pth"), "MyNet-w"),
    (("model=torchscript", "model.file=w.pth"), "torchscript-w"),
    (("model=exported", "model.file=./v.pth"), "exported-v"),
    (("model=torchvision", "model.name=resnet18", "model.weights=w.pth"), "resnet18-w"),
])
def test_folders_are_named_by_the_model(files, words, name):
    folder = files.done("certify", *words, "dataset=cifar10", "noise_std=1")
    assert folder.path.name.endswith(f"_certify_cifar10_{name}_own")
    assert files.seen[-1][0].choices.model == name


MISTAKES = [
    ("certify model=cnn_small dataset=digits noise_std=1", "model.weights: expected the file of the model's weights"),
    ("certify model=cnn_small model.weights=w.pth noise_std=1", "dataset: expected the data set that the model is for"),
    ("certify dataset=digits noise_std=1", "model: expected the class of your model, model=NAME"),
    ("certify model.weights=w.pth dataset=digits noise_std=1", "model: expected the class of your model"),
    ("certify model.weights=w.pth", "model: expected the class of your model"),
    ("certify OWN", "noise_std: cnn_small-w is a model of your own; say which noise to smooth it with, noise_std=0.25"),
    ("attack OWN classifier=smoothed", "noise_std: cnn_small-w is a model of your own; say which noise the smoothed"),
    ("attack OWN classifier=base noise_std=1", "noise_std: a base classifier has no noise"),
    ("attack OWN noise=laplace", "noise: a base classifier has no noise, got laplace; leave it out, or say classifier=smoothed "
                                 "noise_std=0.25"),
    ("certify OWN noise_std=1 model.weights=u.pth", "model.weights={home}/u.pth: expected a file, no such file"),
    ("certify OWN noise_std=1 model.weights=.", "model.weights={home}: expected a file, found a folder"),
    ("certify OWN noise_std=1 model.weights=", "model.weights: expected a file, model.weights=<file>, got nothing"),
    ("certify OWN noise_std=1 model.mean=[0.5]", "model.std: expected numbers, as model.mean has them; both, or neither"),
    ("certify OWN noise_std=1 model.std=[0.5]", "model.mean: expected numbers, as model.std has them; both, or neither"),
    ("certify OWN noise_std=1 model.mean=[0.5] model.std=[0]", "model.std: expected a list of numbers > 0, one a channel"),
    ("certify OWN noise_std=1 model.mean=0.5 model.std=[1]", "model.mean: expected a list of numbers, one a channel, got 0.5"),
    ("certify OWN noise_std=1 model.mean=[x] model.std=[1]", "model.mean: expected a list of numbers, one a channel, got ['x']"),
    ("certify OWN noise_std=1 model.entry=[1]", "model.entry: expected the name of a state dict in the file, got [1]"),
    ("certify OWN noise_std=1 model.breadth=3", "model.breadth: no such setting; there are: entry, mean, std, weights; a setting "
                                                "of your own class needs a plus, +model.breadth=..."),
    ("certify model=torchscript dataset=digits noise_std=1", "model.file: expected a value, which has no default; set"),
    ("certify model=torchscript model.file=w.pth model.weights=w.pth dataset=digits noise_std=1", "model.weights: expected null"),
    ("train model=torchvision", "model.name: expected a value, which has no default; set model.name=..."),
    ("certify OWN noise_std=1 noise=gauss", "noise: expected one of gaussian, integer_grid, laplace, uniform; got 'gauss'"),
    ("certify sampling=fixd run={run}", "sampling=fixd: no such sampling; did you mean fixed?"),
    ("certify sampling=null run={run}", "sampling: expected one of: "),
    ("certify run={run} model=cnn_small", "model: comes from the run and cannot be chosen here; for a model of your own leave"),
    ("certify run={run} model.weights=w.pth", "model: comes from the run and cannot be chosen here"),
    ("certify run={run} model._target_=my.Net", "model: comes from the run and cannot be chosen here"),
    ("attack run={run} dataset=cifar10", "dataset: comes from the run and cannot be chosen here"),
    ("certify run={own} dataset=cifar10", "dataset: comes from the run and cannot be chosen here"),
    ("certify run={own} model=lenet", "model: comes from the run and cannot be chosen here"),
    ("certify run={own} model.weights=v.pth", "model.weights={home}/v.pth: changed since {own} (SHA-256 7692c3ad then"),
    ("certify -m model=cnn_small,lenet dataset=digits noise_std=1", "model.weights: expected the file of the model's weights"),
    ("train training.init_from={own}", "training.init_from={own}: expected the folder of a training run"),
]


@pytest.mark.parametrize(("words", "line"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(files, good, words, line):
    own = files.done("attack", *OWN, "hydra.run.dir=own").path.resolve()
    files.seen.clear()
    if "init_from" in words:
        from robust_cli.composing.saved_run import load_run

        files.fail = lambda config, folder: load_run(config.training.init_from, key="training.init_from") and None
    run = pytest.write_run(files.home / "a_run", good)
    ended = files(*words.format(run=run, own=own).replace("OWN", " ".join(OWN)).split(" "))
    said = [text for text in ended.err.splitlines() if not text.startswith("Error executing job")]
    assert (ended.code, len(said)) == (2, 1), ended.err
    assert said[0].startswith(f"robust {words.split()[0]}: {line.format(home=files.home, own=own)}")
    assert not (files.home / "outputs").exists() or "-m" in words


def test_its_folder_is_a_run_for_the_other_commands(files):
    certified = files.done("certify", *OWN, "noise_std=0.25", "noise=uniform", "model.mean=[0]", "model.std=[1]")
    before = files.seen[-1][0]
    attacked = files.done("attack", f"run={certified}", "noise=uniform")
    config = files.seen[-1][0]
    assert (config.model, config.dataset, config.choices) == (before.model, before.dataset, before.choices)
    assert (config.run, config.model_sha256, config.classifier.value, config.noise_std) == (
        None, before.model_sha256, "smoothed", 0.25)
    files.done("certify", f"run={attacked}", "noise_std=0.5")
    assert files.seen[-1][0].noise_std == 0.5
    assert "had the noise uniform; say which noise to smooth it with" in files("certify", f"run={attacked}").err
    base = files.done("attack", f"run={attacked}", "classifier=base")
    assert "had a base classifier; say which noise to smooth it with" in files("certify", f"run={base}").err
    assert attacked.path.name.endswith("_attack_digits_cnn_small-w_own")


def test_a_run_that_is_not_complete_is_no_run_for_others(files):
    files.fail = lambda config, folder: (folder.metrics.write_text("x"), pytest.refuse(config, folder))
    files("certify", *OWN, "noise_std=0.25")
    folder = files.seen[-1][1]
    assert f"go on with it: robust certify resume={folder.path.resolve()}" in files("attack", f"run={folder}").err


def test_a_file_that_moved_is_known_by_its_checksum(files):
    folder = files.done("certify", *OWN, "noise_std=0.25")
    os.rename("w.pth", "moved.pth")
    line = files("attack", f"run={folder}").err
    assert (f"model.weights={files.home}/w.pth: expected a file, no such file; that is where the config of {folder} has it, "
            "model.weights=<file> says where it lies now\n") in line
    typed = files("attack", f"run={folder}", "model.weights=u.pth").err
    assert "u.pth: expected a file, no such file\n" in typed
    files.done("attack", f"run={folder}", "model.weights=moved.pth", "noise_std=0.25")
    assert files.seen[-1][0].model.weights == str(files.home / "moved.pth")
    (files.home / "w.pth").write_bytes(b"other")
    assert "w.pth: changed since" in files("attack", f"run={folder}").err


@pytest.fixture
def stopped(files):
    """A certify run of a class of one's own that was interrupted."""
    def stop(config, folder):
        raise KeyboardInterrupt

    files.fail = stop
    files("certify", "model._target_=my.Net", "model.weights=w.pth", "dataset=digits", "noise_std=0.25", "+model.width=3")
    files.fail = lambda config, folder: None
    return files.seen.pop()[1]


def test_resuming_trusts_what_is_typed_or_named(files, stopped):
    assert "model._target_: 'my.Net' is none of the classes that robust ships" in files("certify", f"resume={stopped}").err
    files.done("certify", f"resume={stopped}", "trust=[my.Net]")
    assert files.seen[-1][0].model.width == 3


@pytest.mark.parametrize(("words", "line"), [
    (("model._target_=my.Other",), "is none of the classes that robust ships"),
    (("model._target_=my.Net", "+model.width=4"), "model.width is 3 in that run, got 4"),
    (("model._target_=my.Net", "noise_std=0.5"), "noise_std is 0.25 in that run, got 0.5"),
    (("model._target_=my.Net", "noise=laplace"), "noise is gaussian in that run, got laplace"),
    (("model._target_=my.Net", "shard=1/2"), "shard is null in that run, got 1/2"),
    (("model._target_=my.Net", "model.weights=v.pth"), "model.weights={home}/v.pth: changed since"),
    (("model._target_=my.Net", "model.mean=[0]", "model.std=[1]"), "model.mean is null in that run"),
])
def test_resuming_compares_what_is_typed(files, stopped, words, line):
    ended = files("certify", f"resume={stopped}", *words)
    assert ended.code == 2
    assert line.format(home=files.home) in ended.err
    assert files.seen == []


def test_resuming_with_the_same_words_and_a_moved_file(files, stopped):
    os.rename("w.pth", "moved.pth")
    words = ("model._target_=my.Net", "model.weights=moved.pth", "dataset=digits", "noise_std=0.25", "+model.width=3")
    files.done("certify", *words, "workers=2", f"resume={stopped}")
    assert files.seen[-1][0].model.weights == str(files.home / "moved.pth")


def test_sweeps_over_own_models(files):
    files.done("certify", "-m", "model=cnn_small,lenet", "model.weights=w.pth", "dataset=digits", "noise_std=0.25,0.5")
    expected = [(model, noise) for model in ("cnn_small", "lenet") for noise in (0.25, 0.5)]
    assert [(config.choices.model.partition("-")[0], config.noise_std) for config, _ in files.seen] == expected
    (sweep,) = files.home.glob("outputs/*/*")
    assert sweep.name.endswith("_certify_digits_own_sweep")
    files.done("certify", "-m", "model=cnn_small", "model.weights=w.pth,v.pth", "dataset=digits", "noise_std=0.25")
    assert [c.model.weights for c, _ in files.seen[4:]] == [str(files.home / name) for name in ("w.pth", "v.pth")]
    files.done("certify", "-m", "model=cnn_small", "model.weights=w.pth", "dataset=digits", "noise_std=0.25,0.5",
               f"hydra.sweep.dir={files.seen[-1][1].path.parent}")


def test_a_model_in_a_config_of_the_users(files, monkeypatch):
    """-cd with a YAML: its settings need no plus, and its class is trusted with -cd."""
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.setenv("PYTHONPATH", "")
    (files.home / "my" / "model").mkdir(parents=True)
    (files.home / "my" / "model" / "mine.yaml").write_text(
        "# Mine. Source: me\n_target_: my_nets_of_the_tests.Net\nwidth: 8  # channels\nweights: w.pth\n")
    folder = files.done("certify", "-cd", "my", "model=mine", "model.width=16", "dataset=digits", "noise_std=0.5")
    config = files.seen[-1][0]
    assert (config.choices.model, config.model.width, config.model.weights) == ("mine-w", 16, str(files.home / "w.pth"))
    assert "is none of the classes" in files("attack", f"run={folder}").err
    files.done("attack", f"run={folder}", "-cd", "my")


def test_a_saved_own_model_is_plain_data(files):
    folder = files.done("certify", *OWN, "noise_std=0.25")
    saved = yaml.safe_load(folder.config.read_text())
    assert saved["model"]["weights"] == str(files.home / "w.pth")
    for hostile in ({"_target_": "os.system"}, {"weights": "${oc.env:HOME}"}, {"_partial_": True}):
        folder.config.write_text(yaml.safe_dump(saved | {"model": saved["model"] | hostile}))
        ended = files("attack", f"run={folder}")
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert "config.yaml: model." in ended.err
