"""The typed words, put so that Hydra reads what was meant: flags last, paths quoted, `run=latest` named, -cd importable."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from robust_cli.composing.catalogue import choices, conf_folder, groups
from robust_cli.messages import UserError, suggestion
from robust_cli.runs.folder import latest

_SWITCHES = ("-h", "--help", "-m", "--multirun", "--run", "--resolve", "--hydra-help", "--version", "-s",
             "--shell-completion", "-sc")
_VALUED = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
_OPTIONAL = {"--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")}
_OPTIONAL["-i"] = _OPTIONAL["--info"]
_CFG, _SHOWN = ("--cfg", "-c"), ("job", "hydra", "all")
_PATHS = ("run", "resume", "training.init_from", "dataset.root", "model.weights", "model.file",
          "hydra.run.dir", "hydra.sweep.dir")
_LATEST = ("run", "training.init_from")
_PLAIN = re.compile(r"[\w./-]+")
_KIND = re.compile(r"\b[A-Z]\w*\.(?=[a-z])")  # Noise. of Noise.gaussian, as OmegaConf writes such words
_OUTPUTS = "outputs"


def arranged(words: Sequence[str]) -> list[str]:
    """Overrides first, then flags with their values. Raises UserError for a flag that is none, and for those refused."""
    overrides: list[str] = []
    flags: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(_override(word))
            continue
        flags.append(word)
        name, _, value = word.partition("=")
        _check_flag(name)
        if name in _VALUED and not value:
            if not rest:
                raise UserError(f"{name}: expected a value after it")
            value = rest.pop(0)
            flags.append(value)
        if name in _CFG and value not in _SHOWN:
            raise UserError(f"{name}: expected one of {', '.join(_SHOWN)}; got {value}")
        elif name in _OPTIONAL and rest and rest[0] in _OPTIONAL[name]:
            flags.append(rest.pop(0))
    return overrides + flags


def _check_flag(name: str) -> None:
    if name == "--experimental-rerun":
        raise UserError(f"{name}: refused, since it runs whatever a file holds; use resume=<folder>, or type the command again")
    known = (*_SWITCHES, *_VALUED, *_OPTIONAL)
    if name not in known:
        raise UserError(f"{name}: no such flag; {suggestion(name, known)}")


def _override(word: str) -> str:
    from robust_cli.composing.schema import SCHEMAS, words_of  # with Hydra, which `robust list` does without

    key, equals, value = word.partition("=")
    if equals and value in ("", "null") and key in groups([conf_folder()]):
        raise UserError(f"{key}: expected one of: {', '.join(choices(key, [conf_folder()]))}; got {value or 'nothing'}")
    if not equals or not value or value[0] in "'\"":
        return word
    if "." in value and any(key in words_of(command) for command in SCHEMAS):
        return f"{key}={_KIND.sub('', value)}"
    if key in _LATEST and "latest" in value.split(","):
        found = [_quoted(str(latest(_OUTPUTS).path)) if part == "latest" else part for part in value.split(",")]
        return f"{key}={','.join(found)}"
    if (path := _existing(value)) is not None and (key in _PATHS or not _PLAIN.fullmatch(value)):
        return f"{key}={_quoted(path)}"
    if key in _PATHS and value.startswith("~/") and "," not in value:
        return f"{key}={_quoted(os.path.expanduser(value))}"
    return word


def _existing(value: str) -> str | None:
    path = os.path.expanduser(value)
    return path if os.path.exists(path) else None


def _quoted(path: str) -> str:
    return "'" + path.replace("\\", "\\\\").replace("'", "\\'") + "'"


def as_typed(override: str) -> str:
    """An override without the quotes that `arranged` has put, and would put again, around a path."""
    key, _, value = override.partition("=")
    if len(value) < 2 or value[0] != "'" or value[-1] != "'":
        return override
    path = re.sub(r"\\(.)", r"\1", value[1:-1])
    return f"{key}={path}" if _quoted(path) == value and _override(f"{key}={path}") == override else override


def config_dirs(words: Sequence[str]) -> list[Path]:
    """The folder given with -cd, as a list of one or none. Raises UserError when it is no folder."""
    found: list[Path] = []
    for k, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("-cd", "--config-dir"):
            if not equals:
                value = words[k + 1] if k + 1 < len(words) else ""
            folder = Path(value).expanduser()
            if not value or not folder.is_dir():
                raise UserError(f"{name} {value}: no such folder")
            found = [folder.resolve()]
    return found


def make_importable(folders: Sequence[Path]) -> None:
    """Let the classes beside a user's configs be imported, here and in the processes that a launcher starts."""
    for folder in map(str, folders):
        sys.path.insert(0, folder)
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = folder + (os.pathsep + before if before else "")
