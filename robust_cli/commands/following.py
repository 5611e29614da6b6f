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
from robust_cli.reporting.reading.about import noise_layer
from robust_cli.runs.folder import RunFolder, shown

_OTHER = {"certify": "attack", "attack": "certify"}
_SAME = ("model_fingerprint", "noise_std")  # of one smoothed classifier; the precision is in the fingerprint
_OUTPUTS = Path("outputs")
_PROVABLE = "robust_cli.regimes.lp_dual.LpDual"  # the regime that trains what the certificate lp_dual proves


def after_training(folder: RunFolder, noise_std: float | None) -> str:
    """Certify what was trained to be smoothed, or to be proven by its dual bounds; attack the rest."""
    regime = folder.read_config()["regime"]
    if regime["_target_"] == _PROVABLE:
        in_norm = [] if regime["norm"] == "l2" else [f"certificate.lp_dual.norm={regime['norm']}"]
        return _line("certify", f"run={folder}", "certificate=lp_dual", *in_norm)
    return _line("certify" if noise_std else "attack", f"run={folder}")


def after_evaluation(folder: RunFolder, config: DictConfig) -> str:
    """After certify the attack on the same classifier, after attack its certificates; once both are there, their report."""
    about = folder.read_about()
    other = _OTHER[about["command"]]
    if about.get("shard") is not None:
        return _merging(about, folder)
    partner = _latest(other, about, folder)
    if partner is not None:
        return shlex.join(["robust", "report", *(str(run) for run in sorted((folder, partner), key=lambda run: run is partner))])
    if about["noise_std"] is None and other == "certify":  # a base classifier may have layers that no verifier knows
        return shlex.join(["robust", "report", str(folder)])
    run = folder if config.run is None else shown(config.run)  # a model of one's own has no run but this
    return _line(other, f"run={run}", *_same_classifier(config, about), *_attack_of_the_norm(about))


def _merging(about: dict[str, Any], folder: RunFolder) -> str:
    """The parts of a shard's run that are complete, and which are missing."""
    _, parts = about["shard"].split("/")
    found = {part["shard"]: run for run, part in _of_classifier("certify", about, folder)
             if str(part.get("shard")).endswith(f"/{parts}") and part.get("subset") == about.get("subset")}
    found[about["shard"]] = folder
    wanted = [f"{k}/{parts}" for k in range(1, int(parts) + 1)]
    missing = [shard for shard in wanted if shard not in found]
    if missing:
        return f"the other shards ({', '.join(missing)} of {parts}), then robust merge with the folders of all"
    return shlex.join(["robust", "merge", *(str(found[shard]) for shard in wanted)])


def _attack_of_the_norm(about: dict[str, Any]) -> Iterator[str]:
    """An attack in the norm of the certificates, where that is not the usual l2 or a radius was asked of them, and of a cascade
    the one made for it; with sizes around what they prove, where that is known beforehand."""
    certificates = list((about.get("certificates") or {}).values())
    norms = {str(made.get("norm", "l2")) for made in certificates}
    asked = max((made["radius"] for made in certificates if made.get("radius")), default=None)
    cascade = any(made.get("cascade") for made in certificates)
    if len(norms) != 1 or (norms == {"l2"} and asked is None and not cascade):
        return
    norm = norms.pop()
    yield f"attack=[pgd_{norm},cascade_{norm}]" if cascade else f"attack=pgd_{norm}"
    largest = max(float(made["largest_radius"] or 0.0) for made in certificates)
    sizes = [f"{times * largest:.2g}" for times in (0.5, 1, 2, 4) if norm == "l1" or times * largest <= 1]
    if asked is not None:
        sizes = [f"{times * asked:g}" for times in (1, 2) if norm == "l2" or times * asked <= 1]
    if (asked or largest) > 0 and sizes:
        yield f"budgets.{norm}=[{','.join(sizes)}]"


def _same_classifier(config: DictConfig, about: dict[str, Any]) -> Iterator[str]:
    """What has to be said again, that the same classifier answers on the same images."""
    if about["noise_std"] is None:
        yield "classifier=base"
    elsewhere = about["noise_std"] is not None and noise_layer(about) != (about.get("training_layer") or "input")
    if elsewhere or about["noise_std"] not in (None, about["training_noise_std"]):
        yield f"noise_std={about['noise_std']}"
    if elsewhere:
        yield f"smoothing.layer={noise_layer(about)}"
    if (about.get("noise") or "gaussian") != "gaussian":
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
    """The last complete run of a command on the same smoothed classifier: the run that was named, beside this one, or under
    outputs/. Shards are no whole runs."""
    whole = [run for run, found in _of_classifier(command, about, folder) if found.get("shard") is None]
    named = [run for run in whole if run.path.resolve() == Path(str(RunFolder(folder.path).read_config().get("run"))).resolve()]
    return max(named or whole, key=lambda run: run.about.stat().st_mtime, default=None)


def _of_classifier(command: str, about: dict[str, Any], folder: RunFolder) -> Iterator[tuple[RunFolder, dict[str, Any]]]:
    """Complete runs of a command on the same smoothed classifier, oldest first, with what they say of themselves."""
    found: dict[Path, tuple[RunFolder, dict[str, Any]]] = {}
    for file in [*folder.path.parent.glob("*/about.json"), *_OUTPUTS.glob("**/about.json")]:
        run = RunFolder(shown(file.parent.resolve()))
        try:
            if run.command == command and run.state == "complete" and _matches(told := run.read_about(), about):
                found[run.path] = run, told
        except UserError:  # damaged: somebody else's matter
            continue
    yield from sorted(found.values(), key=lambda pair: pair[0].about.stat().st_mtime)


def _matches(one: dict[str, Any], other: dict[str, Any]) -> bool:
    kinds = {about.get("noise") or "gaussian" for about in (one, other)}
    return len(kinds) == 1 and noise_layer(one) == noise_layer(other) and all(one.get(key) == other[key] for key in _SAME)


def _line(command: str, *words: str) -> str:
    return shlex.join(["robust", command, *words, *_own_configs()])


def _own_configs() -> list[str]:
    """The -cd of this command, without which the user's own classes are not found."""
    sources = HydraConfig.get().runtime.config_sources
    own = [str(source.path) for source in sources if source.provider == "command-line"]
    return ["-cd", shown(own[0])] if own else []
