"""A mistake as one line: what was expected, what was found, where it was set, the nearest valid names."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from robust_cli.composing.catalogue import choices, conf_folder
from robust_cli.messages import UserError, Wrong, suggestion

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
        return f"cannot read {error.override!r}: {_one_line(str(error.__cause__ or error))}"
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        return _setting(error.__cause__)
    if isinstance(error, OmegaConfBaseException):
        return _setting(error)
    if group := re.match(r"Could not override '([^']*)'.*No match in the defaults list", str(error), re.DOTALL):
        return f"{group[1]}: this command has no such group; its --help lists the groups and keys"
    if isinstance(error, HydraException):
        return _one_line(str(error))
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


def _setting(error: OmegaConfBaseException) -> str:
    key, parent = str(error.key), error.parent_node
    place = error.full_key or key
    valid = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
    if error.key is not None and valid and key not in valid:
        near = suggestion(key, [name for name in valid if name != "hydra"])
        group, _, rest = place.partition(".")
        hint = f" (to use it add it to {group}=[...])" if group in ("attack", "certificate") and rest == key else ""
        return f"{place}: no such setting; {near}{hint}"
    return f"{place}: {_one_line((error.msg or str(error)).splitlines()[0])}"
