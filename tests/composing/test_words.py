"""Typed words: order of flags, paths, latest; completion; names of folders."""

from __future__ import annotations

import os
import re

import pytest

from robust_cli.composing.completion import FLAGS, candidates, cleaned
from robust_cli.composing.names import chosen, job_name, safe
from robust_cli.composing.schema import SCHEMAS, words_of
from robust_cli.composing.words import arranged, as_typed, config_dirs
from robust_cli.messages import UserError

COMMANDS = ("train", "certify", "attack", "report", "list")


@pytest.mark.parametrize(("typed", "read"), [
    (["seed=1", "-m", "model=x"], ["seed=1", "model=x", "-m"]),
    (["--cfg", "job", "seed=1"], ["seed=1", "--cfg", "job"]),
    (["--cfg=job", "seed=1"], ["seed=1", "--cfg=job"]),
    (["--info", "seed=1"], ["seed=1", "--info"]),
    (["--info", "searchpath", "seed=1"], ["seed=1", "--info", "searchpath"]),
    (["-cd", "here", "regime=mine", "-m", "~cluster"], ["regime=mine", "~cluster", "-cd", "here", "-m"]),
])
def test_flags_may_stand_anywhere(typed, read):
    assert arranged(typed) == read


def test_flags_anywhere_on_a_real_command_line(robust):
    assert robust("train", "-m", "seed=1,2", "--cfg", "job").code == 2
    assert "seed: 4" in robust("train", "--cfg", "job", "seed=4").out
    robust.done("train", "-m", "seed=1,2", "training.epochs=2")
    assert [config.seed for config, _ in robust.seen] == [1, 2]


def test_existing_paths_are_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a=b,c (1)", "it's", "20261120", "plain", "digits"):
        (tmp_path / name).mkdir()
    assert arranged(["run=a=b,c (1)", "run=it's"]) == ["run='a=b,c (1)'", "run='it\\'s'"]
    assert arranged(["run=20261120", "dataset=digits", "model.weights=plain"]) == ["run='20261120'", "dataset=digits",
                                                                                    "model.weights='plain'"]
    assert arranged(["run=~/plain"]) == [f"run='{tmp_path}/plain'"]
    assert arranged(["run=nowhere=x"]) == ["run=nowhere=x"]


def test_odd_paths_reach_the_command(robust, good):
    for name in ("a=b,c (1)", "it's", "20261120", "[x]"):
        run = pytest.write_run(robust.home / name, good)
        robust.done("certify", f"run={name}")
        assert robust.seen[-1][0].run == str(run)


def test_latest_is_the_latest_complete_training_run(robust):
    first = robust.done("train")
    robust.done("train", "-m", "seed=5")
    second = robust.seen[-1][1]
    certified = robust.done("certify", "run=latest")
    assert robust.seen[-1][0].run == str(second.path.resolve())
    assert certified.path.name.endswith("_certify_digits_cnn_small_stability")
    robust.done("attack", "run=latest")
    assert robust.seen[-1][0].run == str(second.path.resolve())
    robust.done("train", "training.init_from=latest")
    assert robust.seen[-1][0].training.init_from == str(second.path.resolve())
    robust.done("certify", "-m", f"run={first},latest")
    assert robust.seen[-2][0].run == str(first.path.resolve())


def test_config_dirs():
    assert config_dirs(["seed=1", "-cd", "/tmp"]) == [os_path("/tmp")]
    assert config_dirs(["--config-dir=/tmp"]) == [os_path("/tmp")]
    with pytest.raises(UserError, match="no such folder"):
        config_dirs(["-cd", "/nowhere/at/all"])


def os_path(text: str):
    from pathlib import Path

    return Path(os.path.realpath(text))


def test_completion_of_commands_and_folders(robust):
    assert candidates("robust ", COMMANDS) == list(COMMANDS)
    assert candidates("robust ce", COMMANDS) == ["certify"]
    assert candidates("robust train dataset=m", COMMANDS) is None
    run = robust.done("train")
    date = str(run.path.parent)
    assert candidates("robust report ", COMMANDS) == [f"{date}/"]
    assert candidates(f"robust report {date}/", COMMANDS) == [str(run)]
    assert candidates("robust certify run=", COMMANDS) == ["run=latest", f"run={date}/"]
    assert candidates("robust certify run=l", COMMANDS) == ["run=latest"]
    assert candidates(f"robust train resume={date}/", COMMANDS) == [f"resume={run}"]
    assert candidates("robust list at", COMMANDS) == []
    assert candidates("robust merge ", COMMANDS) == [f"{date}/"]
    assert candidates("robust certify resume=l", COMMANDS) == ["resume=latest"]


def test_completion_of_flags_is_what_help_says(robust, capsys):
    for command in ("report", "merge", "list"):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            robust(command, "--help")
        assert tuple(sorted(set(re.findall(r"--[a-z-]+", capsys.readouterr().out)))) == FLAGS[command]
    assert candidates("robust report --o", COMMANDS) == ["--output"]
    assert candidates("robust report outputs --tsv-n", COMMANDS) == ["--tsv-noise-std"]
    for flag in FLAGS["train"]:
        assert arranged([flag, "job"] if flag in ("--cfg", "--config-dir") else [flag])


@pytest.mark.parametrize(("line", "words"), [
    ("certify noise=", "noise=gaussian noise=integer_grid noise=laplace noise=uniform"),
    ("certify noise=int", "noise=integer_grid"),
    ("certify precision=", "precision=fp32 precision=bf16"),
    ("train precision=", "precision=auto precision=fp32 precision=bf16"),
    ("attack classifier=", "classifier=base classifier=smoothed"),
    ("train training.optimizer=", "training.optimizer=adam training.optimizer=sgd"),
])
def test_completion_of_a_settings_words(line, words):
    assert candidates(f"robust {line}", COMMANDS) == words.split()


def test_completion_names_no_classes():
    assert cleaned("sampling._target_= sampling.radii=", "certify") == "sampling.radii="
    assert cleaned("regime._target_= model._target_=", "train") == ""
    assert cleaned("model._target_= model.weights=", "attack") == "model._target_= model.weights="


@pytest.mark.parametrize("key", sorted({(c, key) for c in SCHEMAS for key in words_of(c)}))
def test_words_are_read_with_their_kind_before_them(key):
    """`Noise.gaussian`, as OmegaConf shows it, is `gaussian`, whatever the setting; in sweeps as well."""
    word = words_of(key[0])[key[1]][0]
    assert arranged([f"{key[1]}=Kind.{word}"]) == [f"{key[1]}={word}"]
    assert arranged([f"{key[1]}=Kind.{word},{word}"]) == [f"{key[1]}={word},{word}"]
    assert arranged([f"dataset.root=Kind.{word}"]) == [f"dataset.root=Kind.{word}"]


def test_overrides_are_recorded_as_they_were_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "it's"):
        (tmp_path / name).mkdir()
    typed = ["run=plain", "run=it's", "run='nowhere'", "x='plain'", "seed=1", "attack=[fgsm]", "+x='1,2'"]
    assert [as_typed(word) for word in arranged(typed)] == typed


@pytest.mark.parametrize(("line", "expected"), [
    ("robust certify run=l", "run=latest"),
    ("robust train dataset=mn", "dataset=mnist"),
    ("robust train training.ep", "training.epochs="),
    ("robust trai", "train"),
    ("robust certify noise=u", "noise=uniform"),
    ("robust certify sampling=sequential sampling.p", "sampling.patience="),
    ("robust attack model._t", "model._target_="),
])
def test_completion_as_bash_asks_for_it(robust, monkeypatch, line, expected):
    monkeypatch.setenv("COMP_LINE", line)
    ended = robust("-sc", "query=bash")
    assert (ended.code, ended.out.split()) == (0, [expected])


def test_completion_is_switched_on_by_the_line_in_help(robust, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/robust"])
    assert "robust -sc install=bash" in robust("--help").out
    assert "hydra_bash_completion robust" in robust("-sc", "install=bash").out


@pytest.mark.parametrize(("overrides", "name"), [
    ("", "7"),
    ("seed=1", "seed_1"),
    ("regime=stability;;seed=1", "regime_stability_seed_1"),
    ("regime.noise_std=0.25", "noise_std_0.25"),
    ("attack=[pgd_l2,second_order]", "attack_pgd_l2+second_order"),
    ("attack.a.steps=1;;attack.b.steps=2", "attack.a.steps_1_attack.b.steps_2"),
    ("+x.y='a b'", "y_ab"),
    ("learning_rate=1e-3", "learning_rate_1e-3"),
    ("shard=1/3", "shard_1of3"),
    ("shard='12/16'", "shard_12of16"),
])
def test_names_of_jobs(overrides, name):
    assert job_name(7, overrides) == name


def test_names_of_jobs_differ_for_paths_and_stay_short():
    one, other = job_name(0, "run=a/seed_1"), job_name(1, "run=b/seed_1")
    assert one != other
    assert one.startswith("run_seed_1_")
    long = job_name(3, "subset=" + "x" * 200)
    assert len(long) < 100
    assert long == job_name(4, "subset=" + "x" * 200)


def test_names_are_safe_to_type():
    for text in ("../../etc", "a=b", "~", "(x)", "a/b", "\n", "$(x)", "a,b"):
        assert set(safe(text)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
        assert not safe(text).startswith(".")
    assert chosen({"dataset": None, "model": "mine/net", "regime": "../x"}, {"dataset": {"_target_": "my.Data"}}) == {
        "dataset": "Data", "model": "net", "regime": "x"}
