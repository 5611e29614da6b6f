"""Loading somebody else's run: nothing in its config may run code, and every damage is one line."""

from __future__ import annotations

import copy

import pytest
import yaml

from robust_cli.composing import saved_run
from robust_cli.composing.build import build
from robust_cli.messages import UserError

HOSTILE = {
    "a system call": {"model": {"_target_": "os.system", "command": "touch pwned"}},
    "nested": {"model": {"_target_": "robust_cli.models.cnn_small.CnnSmall", "width": {"_target_": "os.system"}}},
    "in a list": {"model": {"_target_": "robust_cli.models.cnn_small.CnnSmall", "x": [[{"_target_": "builtins.eval"}]]}},
    "in a group that is not built": {"cluster": {"_target_": "subprocess.run"}},
    "partial": {"model": {"_target_": "robust_cli.models.cnn_small.CnnSmall", "_partial_": True}},
    "arguments": {"dataset": {"_target_": "robust_cli.datasets.digits.Digits", "_args_": ["/etc/passwd"]}},
    "convert": {"dataset": {"_target_": "robust_cli.datasets.digits.Digits", "_convert_": "all"}},
    "get_method": {"model": {"_target_": "hydra.utils.get_method", "path": "os.system"}},
    "a re-export of ours": {"model": {"_target_": "robust_cli.composing.folders.Path.write_text"}},
    "a function of ours": {"model": {"_target_": "robust_cli.runs.folder.claim", "parent": ".", "name": "pwned"}},
    "our callback": {"model": {"_target_": "robust_cli.composing.folders.Folder"}},
    "a prefix of ours": {"model": {"_target_": "robust_cli.models.cnn_small.CnnSmall.__init__"}},
    "an interpolated target": {"model": {"_target_": "${oc.env:HOME}"}},
    "an interpolated value": {"model": {"_target_": "robust_cli.models.cnn_small.CnnSmall", "x": "a ${oc.env:HOME} b"}},
    "an interpolated key": {"model": {"_target_": "robust_cli.models.cnn_small.CnnSmall", "${oc.env:HOME}": 1}},
    "a resolver of ours": {"training": {"epochs": "${robust_job:1,2}"}},
    "no text as a target": {"model": {"_target_": ["os.system"]}},
    "hydra's own keys": {"hydra": {"callbacks": {"x": {"_target_": "os.system"}}}},
}


@pytest.mark.parametrize("attack", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_config_is_refused(tmp_path, good, attack, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = pytest.write_run(tmp_path / "theirs", good | attack)
    with pytest.raises(UserError, match=r"config.yaml"):
        saved_run.load_run(run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs"]


def test_our_own_run_is_loaded(tmp_path, good):
    run = saved_run.load_run(pytest.write_run(tmp_path / "ours", good))
    assert (run.dataset, run.model, run.regime) == (good["dataset"], good["model"], good["regime"])
    assert run.training_noise_std == 0.5
    assert run.choices == good["choices"]


def test_what_the_user_trusts_is_allowed_by_its_exact_name(tmp_path, good):
    good["model"]["_target_"] = "my_package.Net"
    run = pytest.write_run(tmp_path / "theirs", good)
    assert saved_run.load_run(run, trust=["my_package.Net"]).model == {"_target_": "my_package.Net"}
    for near in ("my_package", "my_package.Ne", "my_package.Net2"):
        with pytest.raises(UserError, match=r"trust=\[my_package.Net\]"):
            saved_run.load_run(run, trust=[near])


def test_yaml_cannot_make_objects(tmp_path):
    run = pytest.write_run(tmp_path / "theirs", "seed: 0\nmodel: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(UserError, match="damaged"):
        saved_run.load_run(run)


@pytest.mark.parametrize("text", [
    "a: [1, 2", "[1, 2]", "", "\t:", "a: &x [1]\nb: *x\n", "{" * 3000, "a: " + "[" * 200 + "]" * 200, "a: " + "x" * 1_100_000,
    "a: \x00",
], ids=["open", "list", "empty", "tab", "alias", "braces", "deep", "long", "null byte"])
def test_a_damaged_config_is_one_line(tmp_path, text):
    run = pytest.write_run(tmp_path / "theirs", text)
    with pytest.raises(UserError) as caught:
        saved_run.load_run(run)
    assert "\n" not in str(caught.value)


def test_repeated_aliases_cost_no_time(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    run = pytest.write_run(tmp_path / "theirs", "\n".join(lines))
    with pytest.raises(UserError, match="damaged"):
        saved_run.load_run(run)


@pytest.mark.parametrize("part", ["dataset", "model", "regime"])
def test_a_config_without_a_part_is_damaged(tmp_path, good, part):
    del good[part]
    with pytest.raises(UserError, match=f"it has no {part}"):
        saved_run.load_run(pytest.write_run(tmp_path / "theirs", good))


@pytest.mark.parametrize("noise", [-1, "x", True, float("inf")])
def test_a_damaged_noise_is_refused(tmp_path, good, noise):
    run = saved_run.load_run(pytest.write_run(tmp_path / "theirs", good, about={"training_noise_std": noise}))
    with pytest.raises(UserError, match="training_noise_std"):
        _ = run.training_noise_std


def test_other_commands_and_unfinished_runs_are_named(tmp_path, good):
    certified = pytest.write_run(tmp_path / "certified", good, "certify", about={"train_run": "outputs/x"})
    with pytest.raises(UserError, match=r"this is one of robust certify; its training run: run=outputs/x"):
        saved_run.load_run(certified)
    for state in ("running", "failed: no luck"):
        unfinished = pytest.write_run(tmp_path / state[:3], good, state=state)
        with pytest.raises(UserError, match=r"go on with it: robust train resume="):
            saved_run.load_run(unfinished)


def test_a_run_that_the_command_line_wrote_is_plain_data(robust):
    run = robust.done("train", "regime=noise_augmentation")
    text = run.config.read_text()
    assert "${" not in text
    assert saved_run.load_run(run.path).regime == yaml.safe_load(text)["regime"]


def test_certify_takes_data_model_and_noise_from_the_run(robust):
    run = robust.done("train", "model=lenet", "regime.noise_std=0.25", "dataset=mnist", "dataset.root=data")
    folder = robust.done("certify", "run=latest", "dataset.root=elsewhere")
    config = robust.seen[-1][0]
    trained = robust.seen[0][0]
    assert config.model == trained.model
    assert config.regime == trained.regime
    assert config.noise_std == 0.25
    assert config.run == str(run.path.resolve())
    assert trained.dataset.root == str(robust.home / "data")
    assert config.dataset == {**trained.dataset, "root": str(robust.home / "elsewhere")}
    assert folder.path.name.endswith("_certify_mnist_lenet_stability")
    assert folder.read_config()["model"] == trained.model


def test_a_run_without_noise_must_be_told(robust):
    robust.done("train", "regime=standard")
    assert "was trained without noise; say which noise to smooth it with" in robust("certify", "run=latest").err
    assert robust.done("certify", "run=latest", "noise_std=0.5")
    robust.done("attack", "run=latest")
    assert (robust.seen[-1][0].classifier.value, robust.seen[-1][0].noise_std) == ("base", None)
    robust.done("attack", "run=latest", "noise_std=0.5")
    assert (robust.seen[-1][0].classifier.value, robust.seen[-1][0].noise_std) == ("smoothed", 0.5)
    assert "noise_std=0.25, or attack classifier=base" in robust("attack", "run=latest", "classifier=smoothed").err


def test_a_regime_of_the_users_own(robust, monkeypatch):
    """-cd makes the YAML known and its class importable; a run of it is trusted only with -cd or by name."""
    monkeypatch.setattr("sys.path", copy.copy(__import__("sys").path))
    monkeypatch.setenv("PYTHONPATH", "")
    mine = robust.home / "my configs" / "regime"
    mine.mkdir(parents=True)
    (mine / "mine.yaml").write_text("# Mine. Source: myself\n_target_: my_code_for_robust.Mine\nstrength: 2.0  # how much\n")
    (mine.parent / "my_code_for_robust.py").write_text(
        "class Mine:\n    noise_std = None\n    def __init__(self, strength: float) -> None:\n        self.strength = strength\n")
    robust.fail = lambda config, folder: build(config.regime, "regime") and None
    folder = robust.done("train", "-cd", "my configs", "regime=mine", "regime.strength=3")
    assert folder.path.name.endswith("_train_digits_cnn_small_mine")
    robust.fail = lambda config, folder: None
    assert "trust=[my_code_for_robust.Mine]" in robust("certify", "run=latest", "noise_std=0.5").err
    robust.done("certify", "run=latest", "noise_std=0.5", "-cd", "my configs")
    robust.done("certify", "run=latest", "noise_std=0.5", "trust=[my_code_for_robust.Mine]")
    listed = robust("list", "regime", "-cd", "my configs").out.splitlines()
    assert ["mine", "Mine", "[myself]"] in [line.split() for line in listed]
    assert "mine" in robust("train", "--help", "-cd", "my configs").out
