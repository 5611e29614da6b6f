"""README's commands do what it says: as written, only smaller; and the quickstart in full."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from invoking import robust
from published_formats import write_mnist

from robust_cli.models.cnn_small import CnnSmall

ROOT = Path(__file__).resolve().parents[1]
SMALLER = {"train": ["training.epochs=1", "training.batch_size=2", "subset=first:4"],
           "certify": ["subset=first:2", "samples=40", "selection_samples=10"],
           "attack": ["subset=first:2", "decision_votes=20", "gradient_draws=2", "query_votes=5"]}
SHORTER = {"pgd_l2": ["attack.pgd_l2.steps=2"], "second_order": ["attack.second_order.steps=2"],
           "standard_linf": [f"attack.standard_linf.attacks.{part}=2" for part in (
               "auto_pgd_ce.steps", "auto_pgd_dlr.steps", "auto_pgd_targeted.steps", "square.queries")]}
MINE = "# my regime. Source: me\n_target_: my_regime.Mine\nnoise_std: 0.1\n"
CLASS = """from dataclasses import dataclass
from robust_cli.regimes.noise_augmentation import NoiseAugmentation

@dataclass(frozen=True)
class Mine(NoiseAugmentation):
    pass
"""


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("robust ")]
    assert len(lines) >= 8, "README shows how to use every command"
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_every_command_line_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "data", "MNIST")
    monkeypatch.setenv("ROBUST_DATA", str(tmp_path / "data"))
    (tmp_path / "my_configs" / "regime").mkdir(parents=True)
    (tmp_path / "my_configs" / "regime" / "mine.yaml").write_text(MINE)
    (tmp_path / "my_configs" / "my_regime.py").write_text(CLASS)
    torch.save(CnnSmall((1, 28, 28), 10).state_dict(), tmp_path / "theirs.pth")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for words in commands():
        named = [setting for name, settings in SHORTER.items() if words[0] == "attack" and any(name in word for word in words)
                 for setting in settings]
        smaller = ["subset=first:2"] if "certificate=lp_dual" in words else SMALLER.get(words[0], [])
        answer = robust(*words, *([] if "--help" in words else [*smaller, *named]))
        assert answer.code == 0, (words, answer.err)


def test_files_that_are_named_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text) + re.findall(r"bash (scripts/\S+)", text):
        assert (ROOT / target).exists(), target
    for folder in re.findall(r"^  (\w+)/  ", text, flags=re.MULTILINE):
        assert (ROOT / "robust_cli" / folder).is_dir(), folder


def test_the_quickstart_proves_what_it_should(tmp_path: Path) -> None:
    environment = {**os.environ, "ROBUST_VENV": sys.prefix}
    ended = subprocess.run(["bash", str(ROOT / "scripts" / "quickstart.sh")], cwd=tmp_path, env=environment, text=True,
                           capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout
    page = Path(ended.stdout.strip().splitlines()[-1].removeprefix("page: "))
    assert (tmp_path / page).stat().st_size > 50_000
    table = pd.read_csv((tmp_path / page).parent / "certified_accuracy.csv")
    certified = table[table["line"].str.startswith("neyman_pearson")].set_index("quantity")
    assert certified.loc["natural", "value"] >= 0.97
    assert certified.loc["certified at 1", "value"] >= 0.65
    assert (certified["images"] == 360).all()
    assert "Holds: 0 of" in ended.stdout
