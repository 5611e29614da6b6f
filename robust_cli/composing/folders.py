"""Where a command writes: outputs/<date>/<time>_<command>_<dataset>_<model>_<regime>, claimed before Hydra makes any folder.

Hydra makes folders with exist_ok=True, so that two runs of one second would share one; and it makes them before the
settings are checked. Both are done here instead, in the callback that Hydra calls first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from robust_cli.composing.catalogue import targets
from robust_cli.composing.explain import Stop, explain
from robust_cli.composing.final import absolute_paths, check_some, config_folders, final, plain_of, typed_overrides
from robust_cli.composing.given import REGIME
from robust_cli.composing.names import PARTS, chosen, safe
from robust_cli.composing.resuming import latest_unfinished
from robust_cli.composing.saved_run import load_run
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder, claim, shown
from robust_cli.runs.ranks import ranks

OUTPUTS, LATEST = "outputs", "latest"
BOOKKEEPING = ("config.yaml", "provenance.json", "status.json", "about.json", "log.txt")
# Folders that this process has claimed: what is left empty after a mistake is taken away again.
_claimed: list[Path] = []


class Folder(Callback):
    """Checks a command's settings and names its folder."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """One run: its folder, or the one that is resumed. Raises Stop for a mistake; then no folder has been made."""
        with _stopping():
            _set(config, "run", _shared_folder(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A sweep's folder. Every job is composed anew from ``overrides.hydra``, so that all workers get the same one."""
        with _stopping():
            overrides = _parsed(config)
            folder = _sweep_folder(config, overrides)
            swept = _swept(overrides)
            fixed = sorted({o.key_or_group for o in overrides} - swept)
            _set(config, "sweep", str(folder))
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")
                excluded = ",".join(f"'{key}'" for key in fixed)
                config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{excluded}]")


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    # Hydra makes a warning of an Exception in a callback and goes on; Stop is none.
    try:
        yield
    except Exception as error:
        line = explain(error)
        raise Stop(line or "", 2 if line else 1) from error


def _set(config: DictConfig, mode: str, folder: str) -> None:
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra[mode].dir = folder


def _composed(config: DictConfig) -> DictConfig:
    HydraConfig.instance().set_config(config)  # for interpolations of hydra:...; it locks the node, which is not yet due
    OmegaConf.set_readonly(config.hydra, None)
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _named(command: str, names: dict[str, str], ending: str = "") -> RunFolder:
    now = datetime.now()
    name = "_".join([now.strftime("%H%M%S"), command, *names.values()]) + ending
    folder = claim(Path(OUTPUTS) / now.strftime("%Y-%m-%d"), name)
    _claimed.append(folder.path.absolute())
    return folder


def _run_folder(config: DictConfig) -> str:
    whole = final(_composed(config), config.hydra)
    command = str(config.hydra.job.name)
    if whole.resume is not None:
        if RunFolder(whole.resume).state == "complete":
            raise Stop(f"{whole.resume} is complete; there is nothing left to do", 0)
        return str(whole.resume)
    typed = str(config.hydra.run.dir)
    if typed != OUTPUTS:
        if Path(typed).exists() and not (Path(typed).is_dir() and not any(Path(typed).iterdir())):
            raise UserError(f"hydra.run.dir={typed}: expected a new or empty folder; to go on with the run in it: resume={typed}")
        Path(typed).mkdir(parents=True, exist_ok=True)
        return typed
    return str(_named(command, dict(whole.choices) | _attacked(config, whole)))


def _attacked(config: DictConfig, whole: DictConfig) -> dict[str, str]:
    """The regime with the attack that was typed for it (attack@regime.attack=pgd_l2), to tell runs apart that differ in it."""
    if not any(override.lstrip("+").startswith("attack@regime.attack=") for override in typed_overrides(config.hydra)):
        return {}
    return {"regime": f"{whole.choices.regime}_{safe(str(config.hydra.runtime.choices['attack@regime.attack']))}"}


def _shared_folder(config: DictConfig) -> str:
    """The run's folder; of several processes the first names it, and says so too when it stops."""
    process = ranks()
    try:
        if process.leads and config.resume == LATEST:
            _go_on_with(config, str(latest_unfinished(OUTPUTS, str(config.hydra.job.name))))
        named = _run_folder(config) if process.leads else ""
    except BaseException:
        process.agreed("")
        raise
    if not (named := process.agreed(named)):
        raise Stop("the first process stopped before it began", 0)
    if config.resume == LATEST:
        _go_on_with(config, named)
    return named


def _go_on_with(config: DictConfig, folder: str) -> None:
    with read_write(config), open_dict(config):
        config.resume = folder


def _parsed(config: DictConfig) -> list[Override]:
    return OverridesParser.create().parse_overrides(typed_overrides(config.hydra))


def _swept(overrides: list[Override]) -> set[str]:
    return {override.key_or_group for override in overrides if override.is_sweep_override()}


def _sweep_folder(config: DictConfig, overrides: list[Override]) -> Path:
    swept = _swept(overrides)
    command = str(config.hydra.job.name)
    if "cluster" in swept:
        raise UserError("cluster: a sweep runs on one cluster; choose one, cluster=slurm")
    if any(override.key_or_group == "resume" for override in overrides):
        raise UserError("resume: names one run; to go on with a sweep type it again with hydra.sweep.dir=<its folder>")
    names = _sweep_names(config, command, swept)
    typed = str(config.hydra.sweep.dir)
    if typed == OUTPUTS:
        return _named(command, names, "_sweep").path
    Path(typed).mkdir(parents=True, exist_ok=True)
    return Path(typed)


def _sweep_names(config: DictConfig, command: str, swept: set[str]) -> dict[str, str]:
    """What is the same for all jobs. With nothing swept (one job on a cluster) all of its settings are checked as well."""
    if not swept:
        return dict(final(_composed(config), config.hydra).choices)
    plain = plain_of(_composed(config))
    absolute_paths(plain, Path(config.hydra.runtime.cwd))
    if command == "train":
        names = chosen(config.hydra.runtime.choices, plain)
        return {part: names[part] for part in PARTS if part not in swept}
    if "run" in swept:
        return {}
    check_some(plain)
    if plain["run"] is None:
        names = chosen(config.hydra.runtime.choices, plain) | {"regime": REGIME}
        return {part: names[part] for part in PARTS if not any(key.partition(".")[0] == part for key in swept)}
    run = load_run(plain["run"], plain["trust"], targets(config_folders(config.hydra)), own=True)
    return chosen(run.choices, {"dataset": run.dataset, "model": run.model, "regime": run.regime})


def forget() -> None:
    """A new command begins in this process: it has claimed nothing yet."""
    _claimed.clear()


def discard(folder: Path) -> None:
    """Take away a run's new folder in which nothing but our own bookkeeping stands, and what this empties above it."""
    folder = folder.absolute()
    if not folder.is_dir() or any(file.name not in (*BOOKKEEPING, "multirun.yaml") for file in folder.iterdir()):
        return
    with contextlib.suppress(OSError):  # rmdir stops at the first folder that holds anything else
        for file in folder.iterdir():
            file.unlink()
        for path in (folder, folder.parent, folder.parent.parent)[: 3 if folder in _claimed else 1]:
            path.rmdir()


def discard_claimed() -> None:
    """After a mistake: what this process claimed and nothing was written into."""
    for folder in _claimed:
        if all(file.name == "multirun.yaml" for file in folder.glob("*")):
            discard(folder)


def claimed_sweep() -> str | None:
    """The folder of the sweep that this process began, if any."""
    found = next((folder for folder in _claimed if (folder / "multirun.yaml").exists()), None)
    return shown(found) if found else None
