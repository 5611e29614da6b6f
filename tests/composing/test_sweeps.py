"""Sweeps: one folder a sweep, one name a job, one failing job, and the same sweep typed again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robust_cli.messages import UserError

SWEPT = ["training.epochs=2", "regime.noise_std=0.25,0.5", "seed=1,2"]


def test_jobs_are_named_by_what_is_swept(robust):
    robust.done("train", "-m", *SWEPT)
    assert robust.folders() == [f"noise_std_{noise}_seed_{seed}" for noise in ("0.25", "0.5") for seed in (1, 2)]
    (sweep,) = robust.home.glob("outputs/*/*")
    assert sweep.name.endswith("_train_digits_cnn_small_stability_sweep")
    assert {folder.state for _, folder in robust.seen} == {"complete"}
    assert [(config.regime.noise_std, config.seed, config.training.epochs) for config, _ in robust.seen] == [
        (0.25, 1, 2), (0.25, 2, 2), (0.5, 1, 2), (0.5, 2, 2)]


def test_a_swept_group_is_not_in_the_name_of_the_sweep(robust):
    robust.done("train", "-m", "regime=standard,stability")
    (sweep,) = robust.home.glob("outputs/*/*")
    assert sweep.name.endswith("_train_digits_cnn_small_sweep")
    assert robust.folders() == ["regime_standard", "regime_stability"][::-1]
    assert [config.choices.regime for config, _ in robust.seen] == ["standard", "stability"]


def test_commands_of_one_second_do_not_share_a_folder(robust):
    for _ in range(3):
        robust.done("train")
        robust.done("train", "-m", "seed=1")
    parents = {folder.path.absolute() for _, folder in robust.seen}
    assert len(parents) == 6
    assert len(list(robust.home.glob("outputs/*/*"))) == 6


def test_attacks_are_swept_by_lists(robust):
    run = robust.done("train")
    robust.done("attack", "-m", f"run={run}", "attack=[fgsm],[pgd_l2,second_order]")
    assert [sorted(config.attack) for config, _ in robust.seen[1:]] == [["fgsm"], ["pgd_l2", "second_order"]]
    assert {folder.path.name for _, folder in robust.seen[1:]} == {"attack_fgsm", "attack_pgd_l2+second_order"}
    assert "_attack_digits_cnn_small_stability_sweep" in str(robust.seen[-1][1])


def test_runs_are_swept(robust):
    runs = [str(robust.done("train", f"regime.noise_std={noise}")) for noise in (0.25, 0.5)]
    robust.done("certify", "-m", f"run={','.join(runs)}", "samples=10,20")
    found = [(config.noise_std, config.samples, folder.path.name.split("_")[0]) for config, folder in robust.seen[2:]]
    assert found == [(0.25, 10, "run"), (0.25, 20, "run"), (0.5, 10, "run"), (0.5, 20, "run")]
    assert len({folder.path for _, folder in robust.seen}) == 6


def test_shards_are_swept(robust):
    run = robust.done("train")
    robust.done("certify", "-m", f"run={run}", "shard=1/2,2/2")
    found = {config.shard: folder.path.name for config, folder in robust.seen[1:]}
    assert found == {"1/2": "shard_1of2", "2/2": "shard_2of2"}


def test_one_failing_job_lets_the_others_run_and_ends_with_2(robust):
    def second(config, folder):
        if config.seed == 2:
            raise UserError("no luck")

    robust.fail = second
    ended = robust("train", "-m", "seed=1,2,3")
    assert ended.code == 2
    assert "robust train: no luck (a job of the sweep outputs/" in ended.err
    assert [folder.state for _, folder in robust.seen] == ["complete", "failed: no luck", "complete"]


def test_the_same_sweep_again_does_only_what_is_left(robust):
    def second(config, folder):
        if config.seed == 2:
            raise UserError("no luck")

    robust.fail = second
    robust("train", "-m", "seed=1,2")
    sweep = robust.seen[0][1].path.parent
    robust.seen.clear()
    robust.fail = lambda config, folder: None
    ended = robust("train", "-m", "seed=1,2,3", f"hydra.sweep.dir={sweep}")
    assert ended.code == 0, ended.err
    assert [config.seed for config, _ in robust.seen] == [2, 3]
    assert "seed_1: complete, nothing left to do" in ended.out
    ended = robust("train", "-m", "seed=1,2", "training.epochs=7", f"hydra.sweep.dir={sweep}")
    assert ended.code == 2
    assert "holds another run: training.epochs is 20 there, 7 now" in ended.err


def test_a_cluster_choice_needs_no_flag(robust):
    """cluster=joblib sets Hydra's mode: one job in a sweep's folder. (Workers get the real bodies: composing only here.)"""
    ended = robust("train", "cluster=joblib", "cluster.jobs=1", "--cfg", "hydra", "--package", "hydra.mode")
    assert (ended.code, ended.out.strip()) == (0, "RunMode.MULTIRUN")


STUB = '''
from __future__ import annotations
from omegaconf import DictConfig
from robust_cli.composing.task import command
from robust_cli.runs.folder import RunFolder

@command("train")
def main(config: DictConfig, folder: RunFolder) -> None:
    if config.seed == 3:
        from robust_cli.messages import Wrong
        raise Wrong("seed", "no 3", 3)
    folder.write_about({"seed": config.seed})
'''


@pytest.mark.parametrize("cluster", ["cluster=joblib", "hydra/launcher=submitit_local"])
def test_workers_write_into_the_claimed_folders(tmp_path, cluster):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "stub_train.py").write_text(STUB)
    code = ("import sys, stub_train, robust_cli.cli as cli\nsys.modules['robust_cli.commands.train'] = stub_train\n"
            "sys.exit(cli.main(sys.argv[1:]))")
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root]), "HYDRA_FULL_ERROR": "0"}
    ended = subprocess.run([sys.executable, "-c", code, "train", "-m", "seed=1,2,3", cluster], cwd=tmp_path, env=environment,
                           capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2, ended.stderr
    assert "robust train: seed: expected no 3, got 3" in ended.stderr
    found = {file.parent.name: file.read_text() for file in tmp_path.glob("outputs/*/*_sweep/*/status.json")}
    assert sorted(found) == ["seed_1", "seed_2", "seed_3"]
    assert "complete" in found["seed_1"]
    assert "complete" in found["seed_2"]
    assert "failed: seed: expected no 3" in found["seed_3"]
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1
