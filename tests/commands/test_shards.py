"""A run split over shards or processes ends as the run of one process, and parts of different runs are not joined."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from invoking import robust

from robust_cli.datasets.shards import positions
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder

WORDS = ("samples=500", "subset=every:30", "noise_std=0.5", "certificate=[neyman_pearson]")
RESULTS = ("votes.csv", "certificates.csv", "plan.json", "about.json", "certified_accuracy.csv")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, the whole certify run of it, and the same in three shards."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("shards")
        patch.chdir(root)
        trained = robust("train", "training.epochs=2", "subset=first:300").folder
        robust("certify", f"run={trained}", *WORDS, "hydra.run.dir=whole")
        for k in (1, 2, 3):
            robust("certify", f"run={trained}", *WORDS, f"shard={k}/3", f"hydra.run.dir=part{k}")
        return root


@pytest.fixture
def parts(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Copies of the three shards, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return [Path(shutil.copytree(place / f"part{k}", tmp_path / f"part{k}")) for k in (1, 2, 3)]


def trained(place: Path) -> Path:
    return next(place.glob("outputs/*/*_train_*"))


def same_results(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_every_image_is_in_exactly_one_shard() -> None:
    for images, parts in ((10, 3), (3, 3), (7, 1)):
        found = sorted(p for k in range(1, parts + 1) for p in positions(f"{k}/{parts}", images))
        assert found == list(range(images))
    assert list(positions(None, 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "5/9"])
def test_a_shard_that_is_none_is_refused(shard: str) -> None:
    with pytest.raises(UserError, match="shard: expected"):
        positions(shard, 4)


def test_shards_merge_into_the_very_run_of_one_process(place: Path, parts: list[Path]) -> None:
    found = pd.concat([pd.read_csv(part / "certificates.csv") for part in parts])
    assert sorted(found["index"]) == sorted(pd.read_csv(place / "whole" / "certificates.csv")["index"])
    answer = robust("merge", *(str(parts[k]) for k in (2, 0, 1)), "--output", "merged")
    assert answer.code == 0, answer.err
    same_results(Path("merged"), place / "whole")
    record = json.loads(Path("merged/provenance.json").read_text())
    assert [Path(folder).name for folder in record["merged_from"]] == ["part1", "part2", "part3"]
    assert RunFolder("merged").state == "complete"
    assert robust("report", "merged", str(place / "whole")).code == 0


def refused(*folders: Path) -> str:
    answer = robust("merge", *map(str, folders), "--output", "merged")
    assert answer.code == 2
    assert answer.err.count("\n") == 1, answer.err
    assert not Path("merged/certificates.csv").exists()
    return answer.err


def test_a_part_missing_or_given_twice_is_said(parts: list[Path], place: Path) -> None:
    assert "2/3 missing" in refused(parts[0], parts[2])
    assert "each once" in refused(*parts, parts[1])
    assert "found a whole run" in refused(place / "whole")


@pytest.mark.parametrize(("file", "key"), [
    ("config.yaml", "noise_std: 0.5"), ("config.yaml", "seed: 0"), ("config.yaml", "samples: 500"),
    ("about.json", '"model_fingerprint": "'), ("about.json", '"precision": "fp32"'), ("about.json", '"noise_std": 0.5'),
    ("provenance.json", '"model_fingerprint": "'), ("provenance.json", '"data_sha256": "'),
    ("provenance.json", '"device": "cpu'), ("plan.json", '"samples": 500')])
def test_parts_of_different_runs_are_refused(parts: list[Path], file: str, key: str) -> None:
    path = parts[1] / file
    before = path.read_text()
    assert key in before, before
    changed = key
    for old, new in (("fp32", "bf16"), ("cpu", "cuda"), ("0.5", "0.25"), ("500", "400"), ("seed: 0", "seed: 1")):
        changed = changed.replace(old, new)
    path.write_text(before.replace(key, changed if changed != key else f"{key}f", 1))
    assert re.search("differs from (that of )?.*part1", refused(*parts))


def test_a_part_that_is_not_complete_is_refused(parts: list[Path]) -> None:
    RunFolder(parts[2]).set_state("running", "certify")
    assert "resume=" in refused(*parts)


def torchrun(root: Path, processes: int, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m",
                           "robust_cli", *words], cwd=root, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_processes_of_torchrun_share_a_run(place: Path, tmp_path: Path) -> None:
    """The same files as of one process; it goes on where some of them were stopped, with another number of them."""
    done = torchrun(tmp_path, 2, "certify", f"run={trained(place)}", *WORDS, "hydra.run.dir=shared")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("robust certify:") == 1
    same_results(tmp_path / "shared", place / "whole")
    stopped = RunFolder(shutil.copytree(tmp_path / "shared", tmp_path / "stopped"))
    header, *rows = stopped.votes.read_text().splitlines(keepends=True)
    stopped.votes.write_text("".join([header, *rows[:20]]))
    later = [row for row in rows[20:] if int(row.split(",")[0]) != int(rows[19].split(",")[0])]
    for rank in (0, 1):  # as two of three processes leave it, torn at the end
        stopped.votes_of(rank).write_text("".join([header, *later[20 * rank : 20 * rank + 20]]) + "9,est")
    for path in (stopped.certificates, stopped.about):
        path.unlink()
    stopped.set_state("running", "certify")
    done = torchrun(tmp_path, 3, "certify", f"resume={stopped}")
    assert done.returncode == 0, done.stderr
    same_results(stopped.path, place / "whole")
    assert not stopped.votes_of_ranks


def test_other_commands_do_not_run_in_several_processes(tmp_path: Path) -> None:
    done = torchrun(tmp_path, 2, "train", "training.epochs=1")
    assert done.returncode != 0
    assert "only robust certify shares its images between processes" in done.stderr
