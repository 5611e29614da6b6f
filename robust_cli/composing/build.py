"""From a config's node to an object: the constructor's typed arguments are the settings. Imports no torch of its own."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import OmegaConf

from robust_cli.composing.hints import Misfit, fitted
from robust_cli.composing.origin import origin
from robust_cli.composing.schema import SCHEMAS, settings_of
from robust_cli.messages import UserError, Wrong, suggestion


def build(node: Any, path: str, **given: Any) -> Any:
    """The object that a node describes: its ``_target_`` called with its keys and with ``given``.

    ``path`` is where the node stands in the config ("regime"), for the messages. ``given`` are arguments supplied by the
    program (a model's shape and classes); a config may not set them. A node inside a node is built first.

    Raises UserError, one line, for a target that cannot be imported, an unknown or missing key, a value of the wrong
    type, and a value that the constructor refuses with `Wrong`.
    """
    plain: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    target = target_of(plain, path)
    keys = {str(key): value for key, value in plain.items() if key != "_target_"}
    _check_keys(target, keys, given, path)
    hints = _hints(target)
    arguments = {key: _argument(value, hints.get(key, Any), f"{path}.{key}") for key, value in keys.items()}
    try:
        return target(**arguments, **given)
    except Wrong as wrong:
        place = _place(wrong.name, path) if wrong.name in given else f"{path}.{wrong.name}"
        raise UserError(f"{place}: expected {wrong.expected}, got {wrong.found!r}{origin(place)}") from wrong


def target_of(node: Any, path: str) -> Callable[..., Any]:
    """The class that a node names, imported and not built. Raises UserError for a node without one, or one that is not there."""
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise UserError(f"{path}: expected a node with _target_ (the class to build), got {node!r}")
    return _imported(node["_target_"], path)


def _place(given: str, path: str) -> str:
    """Where an argument that the program gives was set: a top key of a command, if one is called so."""
    return given if any(given in settings_of(command) for command in SCHEMAS) else f"{path} (its {given})"


def build_offering(node: Mapping[str, Any], path: str, **offered: Any) -> Any:
    """`build`, given those of the offered arguments that the target names and the node leaves open: for classes of others."""
    parameters, _ = _parameters(_imported(str(node["_target_"]), path))
    return build(node, path, **{key: value for key, value in offered.items() if key in parameters and key not in node})


def _imported(target: str, path: str) -> Callable[..., Any]:
    module, _, rest = target.rpartition(".")
    attributes = [rest]
    while module:
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
            module, _, rest = module.rpartition(".")
            attributes.insert(0, rest)
            continue
        for name in attributes:
            if not hasattr(found, name):
                raise UserError(f"{path}._target_: {target}: {module} has no {name}; {_nearest_class(name, found)}")
            found = getattr(found, name)
        if not callable(found):
            raise UserError(f"{path}._target_: expected a class, {target} is a {type(found).__name__}")
        return typing.cast(Callable[..., Any], found)
    raise UserError(f"{path}._target_: cannot import {target}; is the folder that holds it given with -cd, or installed?")


def _nearest_class(name: str, module: object) -> str:
    return suggestion(name, (key for key, value in vars(module).items() if isinstance(value, type)))


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    try:
        parameters = dict(inspect.signature(target).parameters)
    except ValueError:  # some built-in classes do not tell theirs
        return {}, True
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {k: p for k, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, open_ended


def _check_keys(target: Callable[..., Any], keys: Mapping[str, Any], given: Mapping[str, Any], path: str) -> None:
    name = getattr(target, "__name__", str(target))
    parameters, open_ended = _parameters(target)
    settable = [key for key in parameters if key not in given]
    for key in given:
        if key not in parameters and not open_ended:
            raise UserError(f"{path}: {name} must take {key!r} (the program supplies {', '.join(given)})")
    for key, value in keys.items():
        place = f"{path}.{key}"
        if key in given:
            raise UserError(f"{place}: comes from the data set and cannot be set{origin(place)}")
        if key not in settable and (not open_ended or key.startswith("_")):
            near = suggestion(key, settable) or "it has no settings"
            raise UserError(f"{place}: not a setting of {name}; {near}{origin(place)}")
        if value == "???":
            raise UserError(f"{place}: has no default; set {place}=...")
    for key in settable:
        if parameters[key].default is inspect.Parameter.empty and key not in keys:
            raise UserError(f"{path}: {name} needs {key!r}, which has no default; set +{path}.{key}=...")


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    source: Any = target
    if isinstance(target, type) and not dataclasses.is_dataclass(target):
        source = inspect.getattr_static(target, "__init__")
    try:
        return typing.get_type_hints(source)
    except (NameError, TypeError):  # annotations for a type checker only: nothing to compare with
        return {}


def _argument(value: Any, hint: Any, place: str) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return build(value, place)
    if isinstance(value, list) and any(isinstance(item, Mapping) and "_target_" in item for item in value):
        return [_argument(item, Any, f"{place}[{k}]") for k, item in enumerate(value)]
    if isinstance(value, Mapping) and any(isinstance(item, Mapping) and "_target_" in item for item in value.values()):
        return {key: _argument(item, Any, f"{place}.{key}") for key, item in value.items()}
    try:
        return fitted(value, hint)
    except Misfit as misfit:
        raise UserError(f"{place}: expected {misfit}, got {value!r}{origin(place)}") from None
