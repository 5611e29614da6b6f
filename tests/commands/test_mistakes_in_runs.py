"""Run folders that are damaged, and what a run tells its user to do next: typed as it stands, it works."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from invoking import Answer, robust

from robust_cli.runs.folder import RunFolder

SMALL = ("subset=first:4", "samples=50", "selection_samples=10")
SHORT = ("attack=fgsm", "budgets.linf=[0.1]", "gradient_draws=1", "decision_votes=10")

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, shape: tuple[int, int, int], classes: int, width: int = 4) -> None:
        pixels = shape[0] * shape[1] * shape[2]
        super().__init__(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes))

"""

IMAGES = """
from robust_cli.datasets.digits import Digits
from robust_cli.datasets.images import Images

class Bytes(Digits):
    def split(self, name):
        found = super().split(name)
        return Images(found.pixels.float(), found.labels, found.indices, found.class_names)

class Pairs(Digits):
    def split(self, name):
        return [(image, label) for image, label in zip("ab", "cd")]
"""


def following(answer: Answer) -> str:
    """The command on the last line."""
    assert answer.code == 0, answer.err
    name, _, line = answer.out.splitlines()[-1].partition(": ")
    assert name == "next"
    return line


def refused(answer: Answer) -> str:
    """The one line of a mistake that left no folder."""
    assert (answer.code, answer.err.count("\n"), answer.folders) == (2, 1, []), answer.err
    return answer.err


@pytest.mark.parametrize(("key", "value"), [("model_fingerprint", None), ("model_fingerprint", 5), ("seed", None), ("seed", "0"),
                                            ("regime", None), ("training_noise_std", None), ("training_noise_std", "x")])
@pytest.mark.parametrize("command", ["certify", "attack"])
def test_a_damaged_about_is_one_line(workplace: Path, trained: RunFolder, command: str, key: str, value: object) -> None:
    run = RunFolder(shutil.copytree(trained.path, workplace / "run"))
    about = {name: entry for name, entry in run.read_about().items() if name != key}
    run.about.write_text(json.dumps(about if value is None else about | {key: value}))
    line = refused(robust(command, "run=run", "subset=first:4"))
    assert line.startswith(f"robust {command}: {run.about}: ")
    assert key in line


@pytest.mark.parametrize(("dataset", "line"), [
    ("Bytes", "images: expected values in [0, 1], found 0 to 255"),
    ("Pairs", "dataset: expected its split() to return robust_cli.datasets.images.Images, got list"),
])
def test_images_of_a_users_own_class_are_checked(workplace: Path, dataset: str, line: str) -> None:
    (workplace / "own" / "dataset").mkdir(parents=True)
    (workplace / "own" / f"own_images_{dataset}.py").write_text(IMAGES)
    (workplace / "own" / "dataset" / "own.yaml").write_text(f"_target_: own_images_{dataset}.{dataset}\n")
    assert refused(robust("train", "-cd", "own", "dataset=own", "training.epochs=1")).startswith(f"robust train: {line}")


def test_each_command_names_the_next_and_it_works_as_it_stands(workplace: Path, trained: RunFolder) -> None:
    shutil.copytree(trained.path, workplace / "run")
    certified = robust("certify", "run=run", "noise_std=0.25", "precision=bf16", *SMALL)
    line = following(certified)
    assert line == "robust attack run=run noise_std=0.25 precision=bf16 subset=first:4"
    attacked = robust(*shlex.split(line)[1:], *SHORT)
    line = following(attacked)
    here = [str(folder.path.relative_to(workplace)) for folder in (attacked.folder, certified.folder)]
    assert shlex.split(line) == ["robust", "report", *here]
    assert robust(*shlex.split(line)[1:]).code == 0


def test_after_an_attack_comes_the_certificate_and_after_a_base_attack_the_report(workplace: Path, trained: RunFolder) -> None:
    shutil.copytree(trained.path, workplace / "run")
    robust("certify", "run=run", "noise_std=0.25", *SMALL)  # another classifier, which is not to be compared
    line = following(robust("attack", "run=run", "subset=random:4", "seed=3", *SHORT))
    assert line == "robust certify run=run subset=random:4 seed=3"
    base = robust("attack", "run=run", "classifier=base", "subset=first:4", *SHORT)
    assert following(base) == f"robust report {base.folder.path.relative_to(workplace)}"


def test_own_configs_are_named_again_and_what_has_no_noise_is_attacked(workplace: Path) -> None:
    (workplace / "own configs" / "model").mkdir(parents=True)
    (workplace / "own configs" / "own_net.py").write_text(NET)
    (workplace / "own configs" / "model" / "own.yaml").write_text("_target_: own_net.Net\n")
    trained = robust("train", "-cd", "own configs", "model=own", "regime=standard", "training.epochs=1", "subset=first:100")
    run = trained.folder.path.relative_to(workplace)
    assert following(trained) == f"robust attack run={run} -cd 'own configs'"
    assert robust(*shlex.split(following(trained))[1:], *SHORT, "subset=first:2").code == 0


def test_budgets_that_no_attack_uses_are_said(workplace: Path, trained: RunFolder) -> None:
    answer = robust("attack", f"run={trained}", "subset=first:4", "budgets.l2=[1]", *SHORT)
    assert "  budgets.l2 is not used: none of these attacks is measured in l2\n" in answer.out
    assert answer.code == 0


def test_a_run_that_cannot_be_written_is_one_line(workplace: Path, trained: RunFolder) -> None:
    run = RunFolder(shutil.copytree(trained.path, workplace / "run"))
    run.set_state("running", "train")
    run.log.unlink()
    run.log.mkdir()  # nobody, not even root, can write to a folder as to a file
    answer = robust("train", "resume=run")
    assert (answer.code, answer.err.count("\n")) == (2, 1), answer.err
    assert answer.err.startswith("robust train: run/log.txt: cannot be read or written (Is a directory)")
