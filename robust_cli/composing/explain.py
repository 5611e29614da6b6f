"""A mistake as one line: what was expected, what was found, where it was set, the nearest valid names."""

from __future__ import annotations

import re
import traceback
from difflib import get_close_matches
from pathlib import Path

import yaml
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from robust_cli.composing.catalogue import LISTS, choices, conf_folder, owners
from robust_cli.composing.names import PARTS
from robust_cli.messages import UserError, Wrong, suggestion
from robust_cli.runs.folder import refused_by_system

_INSTALL = {"submitit_slurm": "slurm", "submitit_local": "slurm", "joblib": "joblib"}


class Stop(BaseException):
    """Ends a command from inside Hydra with a line and an exit code. Not an Exception: Hydra would swallow or reword it."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.line, self.code = line, code


def explain(error: BaseException) -> str | None:
    """The line for a user's mistake; None for what is not known as one, whose traceback must be seen."""
    if isinstance(error, UserError | Wrong):
        return _one_line(str(error))
    if isinstance(error, MissingConfigException):
        return _missing(error)
    if isinstance(error, OverrideParseException):
        return (f"cannot read {error.override!r}: expected KEY=VALUE with all brackets and quotes closed; "
                "a value with other signs goes in quotes, \"KEY='VALUE'\"")
    if isinstance(error, yaml.MarkedYAMLError):
        place = error.problem_mark or error.context_mark
        where = f"{place.name}, line {place.line + 1}" if place else "a config"
        return f"{where}: expected YAML, {_one_line(str(error.problem or error.context))}"
    if isinstance(error, ConfigCompositionException | OmegaConfBaseException):
        return _composition(error)
    if isinstance(error, HydraException):
        return _one_line(str(error))
    if isinstance(error, OSError) and (refusal := refused_by_system(error)):
        return refusal
    if _of_submitit(error):
        return f"cluster: {_last_line(str(error))}"
    return None


def _of_submitit(error: BaseException) -> bool:
    """Raised by the launcher itself (no srun here, sbatch refused); submitit is an optional dependency."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error).__module__.startswith("submitit") or bool(frames and "submitit" in Path(frames[-1].filename).parts)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def _missing(error: MissingConfigException) -> str:
    wanted = (error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, name = wanted.rpartition("/")
    if not group:
        return f"no such config {wanted!r}; did you mean -cd (your configs beside ours) where -cp or -cn was typed?"
    if group == "hydra/launcher" and name in _INSTALL:
        return f"cluster: needs a plugin that is not installed; pip install 'robust-cli[{_INSTALL[name]}]'"
    names = error.options or list(choices(group, [conf_folder()]))
    return f"{group}={name}: no such {group}; {suggestion(name, names)}"


def _composition(error: ConfigCompositionException | OmegaConfBaseException) -> str:
    """A key or value that the composed config cannot have; Hydra names the file when it stands in one."""
    file = re.match(r"In '([^']*)'", str(error))
    setting = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    if isinstance(setting, OmegaConfBaseException):
        if file and setting.full_key == "experiment":
            return f"{file[1]}.yaml: must begin with the line '# @package _global_'"
        return _setting(setting) + (f" (set in {file[1]}.yaml)" if file else "")
    if found := re.search(r"Could not override '([^']*)'.*No match in the defaults list", str(error), re.DOTALL):
        return f"{found[1]}: {_no_group(found[1])}" + (f" (set in {file[1]}.yaml)" if file else "")
    if found := re.match(r"Ambiguous value for argument '(([^'=]*)=(.*))'$", str(error).partition("\n")[0]):
        return f"{found[1]}: several values need -m (a sweep, a run each); one list is written {found[2]}=[{found[3]}]"
    return _one_line(str(error))


def _no_group(group: str) -> str:
    if group in PARTS:
        return "comes from the run and cannot be chosen here; another one is another run, `robust train`"
    return "this command has no such group; its --help lists the groups and keys"


def _setting(error: OmegaConfBaseException) -> str:
    key, parent = str(error.key), error.parent_node
    place = error.full_key or key
    valid = [str(name) for name in parent if name not in ("hydra", "_target_")] if isinstance(parent, DictConfig) else []
    if error.key is None or not isinstance(parent, DictConfig) or key in parent:
        return f"{place}: {_value(_one_line((error.msg or str(error)).splitlines()[0]))}"
    if place in PARTS:
        return f"{place}: {_no_group(place)}"
    group, _, rest = place.partition(".")
    hint = f" (to use it add it to {group}=[...])" if group in LISTS and rest == key else ""
    if group == "model" and "weights" in valid:
        hint = f"; a setting of your own class needs a plus, +{place}=..."
    others = owners(group) if group not in LISTS and rest == key and _is_chosen(group, parent) else {}
    if key in others:
        return f"{place}: belongs to {' or '.join(f'{group}={name}' for name in others[key])}; add it{hint}"
    return f"{place}: no such setting; {_near(place, valid, others) or 'there are none here'}{hint}"


def _is_chosen(group: str, node: DictConfig) -> bool:
    """Whether the command line chooses a group's node; certify's and attack's data set may be the run's."""
    return group not in PARTS or node.get("_target_") is not None


def _near(place: str, valid: list[str], others: dict[str, list[str]]) -> str:
    """The nearest settings, those of other choices as well, as they are typed."""
    path, dot, key = place.rpartition(".")
    if not (near := get_close_matches(key, valid, n=3) or get_close_matches(key, others, n=3)):
        return suggestion(key, valid)
    names = [path + dot + name + (f" (of {path}={' or '.join(others[name])})" if name not in valid else "") for name in near]
    return f"did you mean {' or '.join(names)}?"


_TYPES = {"Integer": "a whole number", "Float": "a number (such as 0.25)"}


def _value(text: str) -> str:
    """What OmegaConf says of a value that does not fit, in our words."""
    if found := re.fullmatch(r"Value (.*) of type '(\w+)' could not be converted to (\w+)", text):
        value = found[1] if found[2] == "str" else found[1].strip("'")
        whole = re.fullmatch(r"(-?\d+)\.0", value) if found[3] == "Integer" else None
        return f"expected {_TYPES.get(found[3], found[3])}, got {value}" + (f"; write {whole[1]}" if whole else "")
    if found := re.fullmatch(r"Invalid value ('.*'), expected one of \[(.*)\]", text):
        return f"expected one of {found[2]}; got {found[1]}"
    if found := re.fullmatch(r"Value ('.*') is not a valid bool.*", text):
        return f"expected true or false, got {found[1]}"
    if re.fullmatch(r"field '.*' is not Optional", text):
        return "expected a value, got null"
    if found := re.match(r"Invalid value assigned: (\w+) is not a ListConfig", text):
        return f"expected a list, [...], got {_kind(found[1])}"
    if found := re.match(r"Invalid type assigned: (\w+) is not a subclass of", text):
        return f"expected keys with values, got {_kind(found[1])}"
    if found := re.fullmatch(r"Cannot convert '\w+' to string: '(.*)'", text):
        return f"expected a text, got {found[1]}"
    if text == "Cannot merge DictConfig with ListConfig":
        return "expected keys with values, got a list"
    return text


def _kind(name: str) -> str:
    return {"int": "a number", "float": "a number", "str": "a text", "bool": "true or false"}.get(name, name)
