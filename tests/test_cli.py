"""What is answered without torch, and the command line from an installed wheel in another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from robust_cli import __version__

ROOT = Path(__file__).resolve().parents[1]
LIGHT = [["--help"], ["--version"], ["list"], ["list", "attack"], ["train", "--help"], ["certify", "--help"], ["attack", "-h"],
         ["report", "--help"]]


def test_help_list_and_version_import_neither_torch_nor_hydra():
    code = f"""
import sys
from robust_cli import cli
for words in {LIGHT!r}:
    try:
        assert cli.main(words) == 0, words
    except SystemExit as ended:  # argparse's help
        assert ended.code in (0, None), words
for name in ('torch', 'hydra', 'omegaconf', 'numpy', 'pandas', 'matplotlib', 'rich'):
    assert name not in sys.modules, name
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment(ROOT), check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"robust {__version__}" in ended.stdout


@pytest.mark.parametrize("words", [
    "train --cfg job", "train seed=x", "train trainx", "certify run=nowhere", "train --info searchpath"])
def test_composing_and_refusing_import_no_torch(words, tmp_path):
    code = ("import sys\nfrom robust_cli import cli\nsys.argv[0] = 'robust'\ncode = cli.main(sys.argv[1:])\n"
            "assert 'torch' not in sys.modules\nsys.exit(code)")
    ended = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, cwd=tmp_path,
                           env=_environment(ROOT), check=False)
    assert ended.returncode in (0, 2), ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_module_is_the_command(tmp_path):
    ended = subprocess.run([sys.executable, "-m", "robust_cli.cli", "--version"], capture_output=True, text=True, cwd=tmp_path,
                           env=_environment(ROOT), check=True)
    assert ended.stdout == f"robust {__version__}\n"


def test_a_closed_pipe_is_no_error(tmp_path):
    ended = subprocess.run(f"{sys.executable} -m robust_cli.cli list | head -1", shell=True, capture_output=True, text=True,
                           cwd=tmp_path, env=_environment(ROOT), check=False)
    assert ended.stderr == ""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A new environment with the wheel in it, which sees the other packages of this one; the path of its `robust`."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("robust_cli", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "README.md").write_text("robust\n")
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], source)
    (wheel,) = folder.glob("*.whl")
    _run([sys.executable, "-m", "venv", "--without-pip", "env"], folder)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _run([folder / "env/bin/python", "-m", "pip", "install", "--no-deps", "--no-index", "--ignore-installed", wheel], folder)
    return folder / "env" / "bin" / "robust"


def _run(words: list, folder: Path) -> str:
    ended = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=_environment(), check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(("words", "expected"), [
    ("list dataset", "digits"),
    ("train --help", "training.learning_rate=0.001"),
    ("train --cfg job model=lenet", "_target_: robust_cli.models.lenet.LeNet"),
    ("certify --info searchpath", "robust_cli/conf"),
])
def test_the_wheel_works_from_another_folder(installed, tmp_path, words, expected):
    assert expected in _run([installed, *words.split()], tmp_path)
    where = _run([installed.parent / "python", "-c", "import robust_cli; print(robust_cli.__file__)"], tmp_path)
    assert str(installed.parents[1]) in where


def _environment(*folders: Path) -> dict[str, str]:
    """This process's environment with these folders to import from."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HYDRA_FULL_ERROR")}
    return kept | ({"PYTHONPATH": os.pathsep.join(map(str, folders))} if folders else {})
