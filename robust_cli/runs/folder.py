"""The run folder: every file name of a run is a property of one class; state, and how a folder is claimed and found."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from robust_cli.messages import UserError


class RunFolder:
    """A run's folder and the names of its files. Making the object touches nothing on the disk."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def __str__(self) -> str:
        return str(self.path)

    # What every run has.
    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def provenance(self) -> Path:
        """Command line, commit, versions, hardware, data checksum, seed."""
        return self.path / "provenance.json"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def about(self) -> Path:
        """What a reader of the rows has to know: sizes, noise, fingerprint of the model."""
        return self.path / "about.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    # train
    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    # certify
    @property
    def votes(self) -> Path:
        return self.path / "votes.csv"

    @property
    def scores(self) -> Path:
        """Sums of softmax of the blocks of `votes`, where a certificate wants them."""
        return self.path / "scores.csv"

    def votes_of(self, rank: int) -> Path:
        """What one of several processes has counted, until the first takes it into `votes`."""
        return self.path / f"votes.{rank}.csv"

    @property
    def votes_of_ranks(self) -> list[Path]:
        """Such files, where there are any."""
        return sorted(self.path.glob("votes.[0-9]*.csv"))

    @property
    def plan(self) -> Path:
        """All of the sampling plan that is fixed before the first draw."""
        return self.path / "plan.json"

    @property
    def first_layer(self) -> Path:
        """The weights before the noise, where it comes in after the first layer: what its operator norm is of."""
        return self.path / "first_layer.npy"

    @property
    def certificates(self) -> Path:
        return self.path / "certificates.csv"

    def tsv(self, certificate: str) -> Path:
        """A certificate's radii in the format of the field's scripts."""
        return self.path / f"certificates_{certificate}.tsv"

    # attack
    @property
    def outcomes(self) -> Path:
        return self.path / "outcomes.csv"

    @property
    def originals(self) -> Path:
        return self.path / "originals.npy"

    @property
    def indices(self) -> Path:
        return self.path / "indices.npy"

    def adversarial(self, attack: str, budget: float) -> Path:
        """Final images of one attack at one budget, infinity for the closest found, in the order of `indices`."""
        size = "closest" if math.isinf(budget) else f"{budget:g}"
        return self.path / "adversarial" / f"{attack}_{size}.npy"

    # results to look at
    def figure(self, name: str, suffix: str) -> Path:
        return self.path / f"{name}.{suffix}"

    def table(self, name: str) -> Path:
        return self.path / f"{name}.csv"

    # state
    def _read_json(self, file: Path) -> dict[str, Any]:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict):
            raise UserError(f"{self.path}: expected a run folder with a readable {file.name}; "
                            "name a folder that robust train, certify or attack has written")
        return found

    def read_about(self) -> dict[str, Any]:
        """Raises UserError when the folder is no run or its about.json is damaged."""
        return self._read_json(self.about)

    def write_about(self, about: Mapping[str, Any]) -> None:
        write_json(self.about, about)

    def read_record(self) -> dict[str, Any]:
        """provenance.json. Raises UserError when it cannot be read."""
        return self._read_json(self.provenance)

    def read_plan(self) -> dict[str, Any]:
        """Raises UserError when it cannot be read."""
        return self._read_json(self.plan)

    def read_config(self) -> dict[str, Any]:
        """The run's config as plain data; nothing in it is resolved or built. Raises UserError when it cannot be read."""
        try:
            found = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            found = None
        if not isinstance(found, dict):
            raise UserError(f"{self.path}: expected a run folder with a readable config.yaml; "
                            "name a folder that robust train, certify or attack has written")
        return found

    @property
    def state(self) -> str:
        """'running', 'complete' or 'failed: why'; 'none' where no run has started."""
        return str(self._read_json(self.status).get("state", "none")) if self.status.exists() else "none"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While this lasts no other process may write into the folder. Raises UserError where one does.

        The lock is the system's and goes with the process, however that ends. Some network file systems have none.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        held = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(held)
            raise UserError(f"{self.path}: another process is writing into this run; wait for it, or stop it first") from error
        except OSError:  # no locks here
            pass
        try:
            yield
        finally:
            os.close(held)

    @property
    def command(self) -> str:
        """The command that wrote the folder, '' where none did."""
        return str(self._read_json(self.status).get("command", "")) if self.status.exists() else ""

    def set_state(self, state: str, command: str) -> None:
        write_json(self.status, {"state": state, "command": command, "time": time.strftime("%Y-%m-%d %H:%M:%S%z")})


def shown(path: Path | str) -> str:
    """A path as a person would type it here: relative where it lies below the current folder."""
    path, here = Path(path), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def refused_by_system(error: OSError) -> str | None:
    """The line for a file that the system will not read or write (full disk, no permission); None for any other OSError."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR,
                           errno.EEXIST):
        return None
    place = shown(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else "a file of the run"
    return f"{place}: cannot be read or written ({error.strerror}); make room, change its permissions, or name another folder"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all: a kill leaves the old one."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def claim(parent: Path | str, name: str) -> RunFolder:
    """Make a new folder of that name, or of the name with -2, -3, ... : two runs never share one."""
    for k in range(1, 10_000):
        path = Path(parent) / (name if k == 1 else f"{name}-{k}")
        try:
            path.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{path}: cannot make the run's folder ({error.strerror})") from error
        return RunFolder(path)
    raise UserError(f"{parent}/{name}: ten thousand folders of that name exist already")


def latest(outputs: Path | str, command: str = "train") -> RunFolder:
    """The complete run of a command that began last, jobs of sweeps included. Raises UserError when there is none."""
    runs = [RunFolder(status.parent) for status in Path(outputs).glob("**/status.json")]
    complete = [run for run in runs if run.command == command and run.state == "complete"]
    if not complete:
        raise UserError(f"run=latest: no complete {command} run under {outputs}/; run `robust {command}` first, "
                        "or name a folder with run=<folder>")
    return max(complete, key=lambda run: run.config.stat().st_mtime)
