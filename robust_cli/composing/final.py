"""From what Hydra composed to what a command works with: checked, with the saved run merged in, or a resumed run's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from robust_cli.composing import given, resuming
from robust_cli.composing.catalogue import conf_folder, targets
from robust_cli.composing.explain import explain
from robust_cli.composing.names import PARTS, chosen
from robust_cli.composing.origin import origin
from robust_cli.composing.saved_run import SavedRun, load_run
from robust_cli.composing.schema import SCHEMAS, settings_of
from robust_cli.composing.verifiers import check_verifiers, verifiers
from robust_cli.messages import UserError, Wrong, suggestion

_PATHS = ("run", "resume", "transfer", "training.init_from", "dataset.root", "model.weights", "model.file")
_FILES = ("model.weights", "model.file")
_NO_RUN = ("run: expected the folder of a training run, run=<folder> or run=latest (`robust train` makes one); or a model of "
           "your own, dataset=NAME model=NAME model.weights=<file>")


def final(config: DictConfig, hydra: DictConfig) -> DictConfig:
    """The whole, typed, read-only config of a command, from its composed config and Hydra's own node.

    ``config.choices`` names its data set, model and regime; for certify and attack these, ``dataset``, ``model`` and
    ``regime`` are the run's. A model of one's own has no regime and no run, but the checksum of its file,
    ``config.model_sha256``. With ``resume`` it is the resumed run's own config. Raises UserError.
    """
    command = str(hydra.job.name)
    if command not in SCHEMAS:
        raise UserError(f"hydra.job.name: expected the command, {' or '.join(SCHEMAS)}, got {command!r}")
    plain = plain_of(config)
    _check_names(plain, command)
    absolute_paths(plain, Path(hydra.runtime.cwd))
    allowed, words = targets(config_folders(hydra)), typed_overrides(hydra)
    if plain["resume"] is not None:
        now = plain["model"]
        plain = resuming.resumed(plain, command, words, {*allowed, *given.trusted_now(plain)})
        if "model_sha256" in plain:
            given.check_unchanged(plain["model"], plain["model_sha256"], plain["resume"], now)
        elif command != "train":
            load_run(plain["run"], plain["trust"], allowed)
    else:
        _check_nodes(plain, command)
        typed(plain, command)
    if command == "certify":
        check_verifiers(plain, resuming.typed_paths(words))
    if plain["resume"] is not None:
        return typed(plain, command)
    if command == "train":
        return typed(plain | {"choices": chosen(hydra.runtime.choices, plain)}, command)
    return typed(_with_model(plain, command, allowed, hydra.runtime.choices), command)


def plain_of(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain data, resolved, enums by name."""
    plain = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def typed_overrides(hydra: DictConfig) -> list[str]:
    """What was typed, Hydra's own keys left out."""
    return [str(override) for override in hydra.overrides.task]


def config_folders(hydra: DictConfig) -> list[Path]:
    """The shipped conf, and the folders that the user gave with -cd."""
    given = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    return [conf_folder(), *(folder for folder in given if folder.is_dir())]


def absolute_paths(plain: dict[str, Any], base: Path) -> None:
    """Make the paths among the settings absolute, in place; ~ is the home folder."""
    for key in _PATHS:
        *parents, last = key.split(".")
        node: Any = plain
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(last), list):
            node[last] = [_absolute(value, key, base) for value in node[last]]
        elif isinstance(node, dict) and isinstance(node.get(last), str):
            node[last] = _absolute(node[last], key, base)


def _absolute(value: Any, key: str, base: Path) -> Any:
    what = "file" if key in _FILES else "folder"
    if value == "":
        raise UserError(f"{key}: expected a {what}, {key}=<{what}>, got nothing")
    if key in _FILES and value in ("???", given.INCLUDED):
        return value
    return str((base / Path(value).expanduser()).resolve()) if isinstance(value, str) else value


def typed(plain: Mapping[str, Any], command: str) -> DictConfig:
    """A plain config as a typed one, every range checked. Raises UserError with the key's path."""
    schema = SCHEMAS[command]
    known = settings_of(command)
    try:
        config = OmegaConf.merge(OmegaConf.structured(schema), {k: v for k, v in plain.items() if k in known})
        assert isinstance(config, DictConfig)
        _check_ranges(config, schema)
    except OmegaConfBaseException as error:
        raise UserError(str(explain(error))) from error
    with open_dict(config):
        for key in (*PARTS, "choices", "model_sha256"):
            if key in plain:
                config[key] = plain[key]
    OmegaConf.set_struct(config, True)
    OmegaConf.set_readonly(config, True)
    return config


def _check_ranges(config: DictConfig, schema: type) -> None:
    nested = [entry.name for entry in dataclasses.fields(schema) if OmegaConf.get_type(config, entry.name) not in (None, dict)
              and dataclasses.is_dataclass(OmegaConf.get_type(config, entry.name))]
    for path in [*nested, ""]:
        try:
            OmegaConf.to_object(config[path] if path else config)
        except Wrong as wrong:
            place = f"{path}.{wrong.name}" if path else wrong.name
            raise UserError(f"{place}: expected {wrong.expected}, got {wrong.found!r}{origin(place)}") from wrong


def _check_names(plain: Mapping[str, Any], command: str) -> None:
    """`+foo=1` passes a schema without a word; here it does not."""
    known = {command: (plain, settings_of(command))}
    for node in ("training", "budgets", "gradient_noise", "smoothing"):
        if isinstance(plain.get(node), dict):
            schema = type(SCHEMAS[command]().__dict__[node])
            known[node] = (plain[node], [entry.name for entry in dataclasses.fields(schema)])
    for node, (keys, names) in known.items():
        for key in keys:
            if key not in names:
                place = key if node == command else f"{node}.{key}"
                raise UserError(f"{place}: no such setting of robust {command}; {suggestion(key, names)}")


def _check_nodes(plain: Mapping[str, Any], command: str) -> None:
    for key, value in plain["model"].items() if isinstance(plain["model"], dict) else ():
        if value == "???":
            raise UserError(f"model.{key}: expected a value, which has no default; set model.{key}=...")
    if command == "train":
        for part in PARTS:
            if not isinstance(plain[part], dict) or "_target_" not in plain[part]:
                raise UserError(f"{part}: expected one of `robust list {part}` (a node with _target_), got {plain[part]!r}")
        return
    if command == "certify" and (not isinstance(plain["sampling"], dict) or "_target_" not in plain["sampling"]):
        raise UserError("sampling: expected one of `robust list sampling` (a node with _target_), got "
                        f"{plain['sampling']!r}")
    group = "certificate" if command == "certify" else "attack"
    enough = plain[group] or plain.get("transfer") or plain.get("measure")
    if not isinstance(plain[group], dict) or not enough:
        raise UserError(f"{group}: expected at least one, {group}=[...]; see `robust list {group}`")
    _check_group(group, plain[group])
    _check_group("measure", plain.get("measure"))


def _check_group(group: str, nodes: Any) -> None:
    for name, node in dict(nodes or {}).items():
        if not isinstance(node, dict) or "_target_" not in node:
            raise UserError(f"{group}.{name}: expected a node with _target_, got {node!r}; a file {group}/mine.yaml of yours "
                            f"must begin with the line '# @package {group}.mine'")
        if group == "attack" and node.get("budget") is not None:
            raise UserError(f"attack.{name}.budget: expected null, since the sizes of all attacks are budgets.l2=[...] and "
                            f"budgets.linf=[...], got {node['budget']!r}")


def _with_model(plain: dict[str, Any], command: str, allowed: set[str], choices: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what is certified or attacked: a run's model and data set, or the user's own."""
    if plain["run"] is not None:
        return _with_run(plain, command, allowed)
    check_some(plain)
    whole = plain | given.settled(plain, choices)
    return whole | _noise_settings(whole, command, None, f"{whole['choices']['model']} is a model of your own")


def check_some(plain: Mapping[str, Any]) -> None:
    """Raise UserError where there is neither a run nor a model of one's own."""
    if plain["run"] is None and not given.is_asked(plain):
        raise UserError(_NO_RUN)


def _with_run(plain: dict[str, Any], command: str, allowed: set[str]) -> dict[str, Any]:
    given.refuse_beside_run(plain, relocates=True)
    run = load_run(plain["run"], plain["trust"], allowed, own=True)
    given.refuse_beside_run(plain, relocates=run.is_own)
    root = plain["dataset"].get("root")
    if root is not None and not isinstance(root, str):
        raise UserError(f"dataset.root: expected a folder, got {root!r}")
    if root is not None and "root" not in run.dataset and not run.is_own:
        raise UserError(f"dataset.root: the run's data set {chosen(run.choices, {})['dataset']} has no root")
    dataset = run.dataset | ({"root": root} if root is not None else {})
    names = chosen(run.choices, {"dataset": dataset, "model": run.model, "regime": run.regime})
    merged = plain | {"dataset": dataset, "model": run.model, "regime": run.regime, "choices": names}
    if run.is_own:
        model = given.moved(run.model, plain)
        given.check_unchanged(model, run.config["model_sha256"], run.folder.path, plain["model"])
        return _with_own(merged | {"model": model}, command, run)
    return merged | _noise_settings(plain, command, run.training_noise_std, f"{run.folder} was trained without noise", run.layer)


def _with_own(merged: dict[str, Any], command: str, run: SavedRun) -> dict[str, Any]:
    """The model of a run of one's own, with that run's noise where none is typed."""
    noise, kind = run.config.get("noise_std"), run.config.get("noise", "gaussian")
    default = noise if kind == merged["noise"] else None
    whole = merged | {"run": None, "model_sha256": run.config["model_sha256"]}
    why = "had a base classifier" if noise is None else f"had the noise {kind}"
    del whole["regime"]
    return whole | _noise_settings(whole, command, default, f"{run.folder} {why}", run.layer)


def _noise_settings(plain: Mapping[str, Any], command: str, default: float | None, without: str,
                    layer: str = "input") -> dict[str, Any]:
    """noise_std and where it comes in, and for attack which classifier. ``default`` and ``layer``: where none is typed; the
    two go together. ``without``: why there is no default. Verifiers certify the network without noise, whatever its training."""
    if command == "certify" and verifiers(plain["certificate"]):
        return {"noise_std": None}
    asked = plain["smoothing"]["layer"]
    if default is not None and asked not in (None, layer):
        default, without = None, f"the run's noise is that of smoothing.layer={layer}, in other units than that of layer={asked}"
    noise = plain["noise_std"] if plain["noise_std"] is not None else default
    smoothing = {"smoothing": {"layer": asked or layer}}
    if command == "certify":
        if noise is None:
            raise UserError(f"noise_std: {without}; say which noise to smooth it with, noise_std=0.25, or prove the "
                            "network itself, without noise, certificate=lp_dual")
        return {"noise_std": noise} | smoothing | _checked_kind(plain, asked or layer)
    classifier = plain["classifier"] or ("base" if noise is None else "smoothed")
    if classifier == "smoothed" and noise is None:
        raise UserError(f"noise_std: {without}; say which noise the smoothed classifier has, "
                        "noise_std=0.25, or attack classifier=base")
    for key, value in (("noise_std", plain["noise_std"]), ("noise", plain["noise"]), ("smoothing.layer", asked)):
        if classifier == "base" and value not in (None, "gaussian"):
            raise UserError(f"{key}: a base classifier has no noise, got {value}; leave it out, or say classifier=smoothed"
                            + ("" if noise is not None else " noise_std=0.25"))
    if classifier == "base":
        return {"noise_std": None, "classifier": classifier}
    return {"noise_std": noise, "classifier": classifier} | smoothing | _checked_kind(plain, asked or layer)


def _checked_kind(plain: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """Nothing to add, but for a UserError where this kind of noise proves nothing there."""
    if layer == "first" and plain["noise"] != "gaussian":
        raise UserError("noise: expected gaussian with smoothing.layer=first, whose radii come from an operator norm in l2, got "
                        f"{plain['noise']}; say noise=gaussian, or smoothing.layer=input with a noise_std in pixel units")
    return {}
