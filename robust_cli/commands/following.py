"""The command that a user would run next: whole, so that it can be typed as it stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from robust_cli.composing.catalogue import targets
from robust_cli.composing.final import config_folders
from robust_cli.messages import UserError
from robust_cli.runs.folder import RunFolder, shown

_OTHER = {"certify": "attack", "attack": "certify"}
_SAME = ("model_fingerprint", "noise_std")  # of one smoothed classifier; the precision is in the fingerprint
_OUTPUTS = Path("outputs")


def after_training(folder: RunFolder, noise_std: float | None) -> str:
    """Certify it."""
    return _line("certify", f"run={folder}", *([] if noise_std else ["noise_std=0.25"]))


def after_evaluation(folder: RunFolder, config: DictConfig) -> str:
    """After certify the attack on the same classifier, after attack its certificates; once both are there, their report."""
    about = folder.read_about()
    other = _OTHER[about["command"]]
    if about["noise_std"] is None:
        return shlex.join(["robust", "report", str(folder)])
    partner = _latest(other, about, folder)
    if partner is not None:
        return shlex.join(["robust", "report", *(str(run) for run in sorted((folder, partner), key=lambda run: run is partner))])
    run = folder if config.run is None else shown(config.run)  # a model of one's own has no run but this
    return _line(other, f"run={run}", *_same_classifier(config, about))


def _same_classifier(config: DictConfig, about: dict[str, Any]) -> Iterator[str]:
    """What has to be said again, that the same classifier answers on the same images."""
    if about["noise_std"] != about["training_noise_std"]:
        yield f"noise_std={about['noise_std']}"
    if about.get("noise", "gaussian") != "gaussian":
        yield f"noise={about['noise']}"
    if about["precision"] != "fp32":
        yield f"precision={about['precision']}"
    if about["subset"] != "all":
        yield f"subset={about['subset']}"
    if about["subset"].startswith("random") and about["seed"]:
        yield f"seed={about['seed']}"
    root = config.dataset.get("root")
    if root is not None and config.run is not None and root != RunFolder(config.run).read_config()["dataset"].get("root"):
        yield f"dataset.root={root}"
    trusted = [*config.trust, *_own_class(config)]
    if trusted:
        yield f"trust=[{','.join(dict.fromkeys(trusted))}]"


def _own_class(config: DictConfig) -> list[str]:
    """The class typed for a model of one's own, which no config names: the next command has to be told that it is trusted."""
    known = targets(config_folders(cast(DictConfig, HydraConfig.get())))
    return [config.model._target_] if config.run is None and config.model._target_ not in known else []


def _latest(command: str, about: dict[str, Any], folder: RunFolder) -> RunFolder | None:
    """The last complete run of a command on the same smoothed classifier: beside this one, or under outputs/."""
    found: dict[Path, RunFolder] = {}
    for file in [*folder.path.parent.glob("*/about.json"), *_OUTPUTS.glob("**/about.json")]:
        run = RunFolder(shown(file.parent.resolve()))
        try:
            if run.command == command and run.state == "complete" and _matches(run.read_about(), about):
                found[run.path] = run
        except UserError:  # damaged: somebody else's matter
            continue
    return max(found.values(), key=lambda run: run.about.stat().st_mtime, default=None)


def _matches(one: dict[str, Any], other: dict[str, Any]) -> bool:
    kinds = {about.get("noise") or "gaussian" for about in (one, other)}
    return len(kinds) == 1 and all(one.get(key) == other[key] for key in _SAME)


def _line(command: str, *words: str) -> str:
    return shlex.join(["robust", command, *words, *_own_configs()])


def _own_configs() -> list[str]:
    """The -cd of this command, without which the user's own classes are not found."""
    sources = HydraConfig.get().runtime.config_sources
    own = [str(source.path) for source in sources if source.provider == "command-line"]
    return ["-cd", shown(own[0])] if own else []
