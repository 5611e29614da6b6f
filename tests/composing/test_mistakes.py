"""Every mistake on the command line: one line that says where and what, exit code 2, nothing left on the disk."""

from __future__ import annotations

import errno
import os

import pytest

MISTAKES = [
    # a group or choice that is none
    ("train dataset=mnst", "dataset=mnst: no such dataset; did you mean mnist?"),
    ("attack attack=[pgd_l2,pgdl2]", "attack=pgdl2: no such attack; did you mean pgd_l2 or"),
    ("train attack=fgsm", "attack: this command has no such group"),
    ("train regime=null", "regime: expected one of: "),
    ("train +dataset=mnist", "Multiple values for dataset"),
    ("train hydra/launcher=nope", "hydra/launcher=nope: no such hydra/launcher"),
    # a key that is none
    ("train datset=mnist", "datset: no such setting; did you mean dataset?"),
    ("train regime.noise_sdt=1", "regime.noise_sdt: no such setting; did you mean regime.noise_std?"),
    ("train training.epoch=3", "training.epoch: no such setting; did you mean training.epochs?"),
    ("train cluster.partition=gpu", "cluster.partition: belongs to cluster=slurm; add it"),
    ("certify sampling.radii=[1] run={run}", "sampling.radii: belongs to sampling=sequential; add it"),
    ("certify sampling.patience=9 run={run}", "sampling.patience: belongs to sampling=sequential; add it"),
    ("certify sampling.tolerance=1 run={run}", "sampling.tolerance: belongs to sampling=anytime; add it"),
    ("certify sampling.label_aware=true run={run}",
     "sampling.label_aware: belongs to sampling=anytime or sampling=sequential; add it"),
    ("certify sampling.radius=1 run={run}",
     "sampling.radius: no such setting; did you mean sampling.radii (of sampling=sequential)?"),
    ("certify sampling=sequential sampling.radius=1 run={run}",
     "sampling.radius: no such setting; did you mean sampling.radii?"),
    ("train regime=standard regime.noise_std=1",
     "regime.noise_std: belongs to regime="),
    ("attack attack=fgsm attack.pgd_linf.steps=3", "attack.pgd_linf: no such setting"),
    ("train +foo=1", "foo: no such setting of robust train"),
    ("train +training.foo=1", "training.foo: no such setting of robust train"),
    ("certify +dataset.foo=1 run={run}", "dataset.foo: only dataset.root of a run may be changed"),
    ("attack +budgets.l0=[1]", "budgets.l0: no such setting of robust attack; there are: l1, l2, linf, std"),
    ("certify dataset.rot=/data", "dataset.rot: no such setting; did you mean dataset.root?"),
    ("certify dataset=mnist run={run}", "dataset: comes from the run and cannot be chosen here"),
    ("certify regime.noise_std=1 run={run}", "regime: comes from the run and cannot be chosen here"),
    ("train model.breadth=3", "model.breadth: no such setting; there are none here"),
    # words that cannot be read
    ("train regime.noise_std=[1", "cannot read 'regime.noise_std=[1': expected KEY=VALUE"),
    ("train trainx", "cannot read 'trainx': expected KEY=VALUE"),
    ("train model=cnn_small'", "cannot read \"model=cnn_small'\": expected KEY=VALUE"),
    ("train seed=1,2", "seed=1,2: several values need -m (a sweep, a run each); one list is written seed=[1,2]"),
    ("certify shard=1/2,2/2 run={run}", "shard=1/2,2/2: several values need -m"),
    # values of a wrong type or out of range
    ("train training.epochs=many", "training.epochs: expected a whole number, got 'many'"),
    ("train training.epochs=1.5", "training.epochs: expected a whole number, got 1.5"),
    ("train training.epochs=null", "training.epochs: expected a value, got null"),
    ("train training.batch_size=1e3", "training.batch_size: expected a whole number, got 1000.0; write 1000"),
    ("train training.compile=maybe", "training.compile: expected true or false, got 'maybe'"),
    ("train training.betas=0.9", "training.betas: expected a list, [...], got a number"),
    ("train device=gpu", "device: expected one of auto, cpu, cuda; got 'gpu'"),
    ("train subset=[1,2]", "subset: expected a text, got [1, 2]"),
    ("attack budgets.linf=[8/255]", "budgets.linf[0]: expected a number (such as 0.25), got '8/255'"),
    ("attack budgets=[1]", "budgets: expected keys with values, got a list"),
    ("attack attack.pgd_l2.budget=3 run={run}", "attack.pgd_l2.budget: expected null, since the sizes of all attacks"),
    ("train training.epochs=0", "training.epochs: expected a whole number >= 1, got 0"),
    ("train seed=-1", "seed: expected a whole number in [0, 2^63), got -1"),
    ("certify failure_probability=2 run={run}", "failure_probability: expected a number in (0, 1), got 2.0"),
    ("certify discount=0 run={run}", "discount: expected a number in (0, 1], or null, got 0.0"),
    ("certify samples=0 run={run}", "samples: expected a whole number >= 1, got 0"),
    ("certify precision=fp23 run={run}", "precision: expected one of fp32, bf16; got 'fp23'"),
    ("certify shard=3/2 run={run}", "shard: expected k/n with 1 <= k <= n, such as 2/8, got '3/2' (set on the command line)"),
    ("certify shard=0 run={run}", "shard: expected k/n with 1 <= k <= n, such as 2/8, got '0' (set on the command line)"),
    ("certify noise_std=-1 run={run}", "noise_std: expected a number > 0, got -1.0"),
    ("certify precision=auto run={run}", "precision: expected one of fp32, bf16; got 'auto'"),
    ("attack budgets.linf=[0.1,1.5] run={run}", "budgets.linf: expected a list of numbers in (0, 1], got [0.1, 1.5]"),
    ("attack budgets.l2=[] run={run}", "budgets.l2: expected a list of numbers > 0, got []"),
    ("attack attack=[] run={run}", "attack: expected at least one, attack=[...]"),
    ("attack gradient_noise=0.2 run={run}", "gradient_noise: expected keys with values, got a number"),
    ("attack experiment=quickstart run={run}", "regime: comes from the run and cannot be chosen here"),
    ("attack classifier=base noise_std=0.5 run={run}", "noise_std: a base classifier has no noise, got 0.5; leave it out"),
    ("attack classifier=base noise=laplace run={run}", "noise: a base classifier has no noise, got laplace; leave it out"),
    ("train resume=latest", "resume=latest: no unfinished train run under outputs/"),
    # run folders
    ("certify", "run: expected the folder of a training run"),
    ("certify run=latest", "run=latest: no complete train run under outputs/"),
    ("attack run=nowhere", "run={home}/nowhere: no such folder"),
    ("attack run=lastest", "run={home}/lastest: no such folder; did you mean latest?"),
    ("attack run={run}/config.yaml", "run={home}/elsewhere/a_run/config.yaml: is a file; expected the folder of a run"),
    ("attack run={home}/elsewhere/a_rum", "run={home}/elsewhere/a_rum: no such folder; did you mean a_run?"),
    ("certify run=", "run: expected a folder, run=<folder>, got nothing"),
    ("train resume=", "resume: expected a folder, resume=<folder>, got nothing"),
    ("train dataset=mnist dataset.root=", "dataset.root: expected a folder, dataset.root=<folder>, got nothing"),
    ("certify run=~/nothing", "run={home}/nothing: no such folder"),
    ("train hydra.run.dir=a_file/run", "a_file/run: cannot be read or written (Not a directory)"),
    ("train -m seed=1 hydra.sweep.dir=a_file/run", "a_file/run: cannot be read or written (Not a directory)"),
    ("attack run=.", "run={home}: not a run folder"),
    ("train resume=nowhere", "resume={home}/nowhere: no such folder"),
    ("certify dataset.root=/data run={run}", "dataset.root: the run's data set digits has no root"),
    # flags
    ("train --foo", "--foo: no such flag"),
    ("train --multirum", "--multirum: no such flag; did you mean --multirun?"),
    ("train -cd nowhere", "-cd nowhere: no such folder"),
    ("train -cd", "-cd : no such folder"),
    ("train --cfg jb", "--cfg: expected one of job, hydra, all; got jb"),
    ("train --cfg=jb", "--cfg: expected one of job, hydra, all; got jb"),
    ("train -cp .", "no such config 'train'; did you mean -cd"),
    ("train --experimental-rerun x.pickle", "--experimental-rerun: refused"),
    ("train -m --cfg job", "Only one of --run, --multirun, --cfg"),
    # sweeps
    ("train -m cluster=slurm,local", "cluster: a sweep runs on one cluster"),
    ("train -m seed=1,2 resume={run}", "resume: names one run"),
    ("train -m seed=1,2 training.epochs=many", "training.epochs: expected a whole number, got 'many'"),
    ("train -m seed=-1,-2", "seed: expected a whole number in [0, 2^63), got -1"),
    ("certify -m samples=1,2", "run: expected the folder of a training run"),
    ("train hydra.job.name=x", "hydra.job.name: expected the command"),
]


@pytest.mark.parametrize(("words", "line"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(robust, good, words, line, monkeypatch):
    monkeypatch.setenv("HOME", str(robust.home))
    run = pytest.write_run(robust.home / "elsewhere" / "a_run", good)
    (robust.home / "a_file").touch()
    ended = robust(*words.format(run=run, home=robust.home).split(" "))
    said = [text for text in ended.err.splitlines() if not text.startswith("Error executing job")]
    assert (ended.code, len(said)) == (2, 1), ended.err
    assert said[0].startswith(f"robust {words.split()[0]}: {line.format(home=robust.home)}")
    assert not (robust.home / "outputs").exists()
    assert robust.seen == []


def test_a_command_that_is_none(robust):
    assert robust("trian").err == "robust: no such command 'trian'; did you mean train?\n"
    assert robust("report").err.startswith("robust report: the following arguments are required: FOLDER")
    assert robust("report", "nowhere").err.startswith("robust report: nowhere: no such folder")
    assert robust("list", "atack").err == "robust list: atack: no such group; did you mean attack?\n"


@pytest.mark.parametrize(("words", "line"), [("train seed=-1", "robust train: seed: expected"),
                                             ("train --foo", "robust train: --foo: no such flag"),
                                             ("report nowhere", "robust report: nowhere: no such folder")])
def test_full_error_gives_the_traceback_and_the_line(robust, monkeypatch, words, line):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    ended = robust(*words.split())
    assert ended.code == 2
    assert ended.err.startswith("Traceback")
    assert ended.err.splitlines()[-1].startswith(line)


@pytest.mark.parametrize(("text", "line"), [
    ("training: {epoch: 3}\n", "training.epoch: no such setting; did you mean training.epochs? (set in experiment/odd.yaml)"),
    ("training: {epochs: many}\n", "training.epochs: expected a whole number, got 'many' (set in experiment/odd.yaml)"),
    ("training: {epochs: 0}\n", "training.epochs: expected a whole number >= 1, got 0 (perhaps set by experiment=odd)"),
    ("training: [\n", "{home}/mine/experiment/odd.yaml, line 3: expected YAML"),
])
def test_a_mistake_in_a_file_of_the_user_names_the_file(robust, text, line):
    (robust.home / "mine" / "experiment").mkdir(parents=True)
    (robust.home / "mine" / "experiment" / "odd.yaml").write_text("# @package _global_\n" + text)
    ended = robust("train", "-cd", "mine", "experiment=odd")
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert ended.err.startswith(f"robust train: {line.replace('{home}', str(robust.home))}")


def test_an_experiment_without_its_first_line_is_told_it(robust):
    (robust.home / "mine" / "experiment").mkdir(parents=True)
    (robust.home / "mine" / "experiment" / "odd.yaml").write_text("training: {epochs: 3}\n")
    ended = robust("train", "-cd", "mine", "experiment=odd")
    assert (ended.code, ended.err) == (2, "robust train: experiment/odd.yaml: must begin with the line '# @package _global_'\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_is_a_line_too(robust, number):
    def full(config, folder):
        raise OSError(number, os.strerror(number), str(folder.metrics.absolute()))

    robust.fail = full
    ended = robust("train")
    folder = robust.seen[0][1]
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert ended.err.startswith(f"robust train: {folder.metrics}: cannot be read or written ({os.strerror(number)})")
    assert folder.state.startswith("failed: ")


def test_a_mistake_found_by_the_body_leaves_nothing_either(robust):
    robust.fail = pytest.refuse
    ended = robust("train")
    assert (ended.code, ended.err) == (2, "robust train: data: none here\n")
    assert not (robust.home / "outputs").exists()


def test_a_mistake_after_results_keeps_them(robust):
    def late(config, folder):
        folder.metrics.write_text("rows\n")
        pytest.refuse(config, folder)

    robust.fail = late
    assert robust("train").code == 2
    folder = robust.seen[0][1]
    assert folder.metrics.exists()
    assert folder.state == "failed: data: none here"
    assert "failed: data: none here" in folder.log.read_text()


def test_our_own_mistakes_show_their_traceback(robust):
    def broken(config, folder):
        raise ZeroDivisionError("a bug")

    robust.fail = broken
    ended = robust("train")
    assert ended.code == 1
    assert "ZeroDivisionError: a bug" in ended.err
    assert robust.seen[0][1].state == "failed: ZeroDivisionError: a bug"


def test_a_value_error_of_ours_is_not_taken_for_a_mistake_of_the_user(robust):
    def broken(config, folder):
        raise ValueError("a bug")

    robust.fail = broken
    assert "Traceback" in robust("train").err


def test_interrupted_says_how_to_go_on(robust):
    def stop(config, folder):
        raise KeyboardInterrupt

    robust.fail = stop
    ended = robust("train")
    folder = robust.seen[0][1]
    assert ended.code == 130
    assert ended.err == f"robust train: interrupted; to go on: robust train resume={folder}\n"
    assert folder.state == "running"


def test_a_missing_launcher_says_what_to_install(robust, monkeypatch):
    from hydra.errors import MissingConfigException

    from robust_cli.composing.explain import explain

    error = MissingConfigException("no", missing_cfg_file="hydra/launcher/submitit_slurm", options=["basic"])
    assert explain(error) == "cluster: needs a plugin that is not installed; pip install 'robust-cli[slurm]'"


def test_an_experiment_whose_defaults_hydra_cannot_compose(robust):
    folder = robust.home / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "odd.yaml").write_text("# @package _global_\ndefaults:\n  - override /attack: []\n  - /attack@attack.a: fgsm\n")
    ended = robust("attack", "-cd", "mine", "experiment=odd")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "must come last" in ended.err
