"""What can be composed, read from the text of the configs: choices, their lines and sources, keys and their comments.

Imports neither torch nor Hydra, so that `robust list` and `robust train --help` answer at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

import robust_cli
from robust_cli.messages import UserError, suggestion

COMMANDS = ("train", "certify", "attack")
LISTS = ("attack", "certificate", "measure")  # groups of which several are chosen, each a node of its own
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z_][\w.]*):(?P<value>(?:\s+[^#\s][^#]*?)?)\s*(?:#\s*(?P<comment>.*))?$")
_TARGET = re.compile(r"""^\s*_target_:\s*["']?([\w.]+)["']?\s*(?:#.*)?$""", re.MULTILINE)
_WIDTH = 34
_FLAGS = """Flags
  -m                  sweep: KEY=a,b,c runs every combination
  --cfg job           show the config and stop
  --info defaults     how it was composed
  -cd DIR             your own configs (and classes) beside ours
  HYDRA_FULL_ERROR=1  in the environment: a mistake shows its traceback"""


def conf_folder() -> Path:
    """The shipped conf: inside the package when it was installed from a wheel, beside it in an editable install."""
    package = Path(robust_cli.__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def groups(folders: Iterable[Path]) -> list[str]:
    """Names of the groups of some conf folders; 'hydra' is none of ours."""
    found = {child.name for folder in folders for child in folder.iterdir() if child.is_dir() and any(child.glob("*.yaml"))}
    return sorted(found - {"hydra"})


def choices(group: str, folders: Iterable[Path]) -> dict[str, Path]:
    """The choices of a group by name; of two files of one name the first folder's counts, as Hydra has it."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in sorted((folder / group).glob("*.yaml")):
            found.setdefault(file.stem, file)
    return dict(sorted(found.items()))


def summary(file: Path) -> tuple[str, str]:
    """A config's line and its source: its first comment that is no Hydra directive, '# <line>. Source: <source>'."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):
            text, _, source = line.lstrip("# ").partition("Source:")
            return text.strip().rstrip("."), source.strip()
    return "", ""


def targets(folders: Iterable[Path]) -> set[str]:
    """Every ``_target_`` that the groups of some conf folders name."""
    return {target for folder in folders for file in folder.glob("*/**/*.yaml") for target in
            _TARGET.findall(file.read_text(encoding="utf-8", errors="replace"))}


def choice_of(group: str, target: str) -> str:
    """The choice of a group that builds a class, by our own configs; the class's name where that is none or several."""
    found = [name for name, file in choices(group, [conf_folder()]).items()
             if target in _TARGET.findall(file.read_text(encoding="utf-8"))]
    return found[0] if len(found) == 1 else target.rpartition(".")[2]


def owners(group: str) -> dict[str, list[str]]:
    """The settings of a group by their names, each with the choices that have it; by our own configs."""
    found: dict[str, list[str]] = {}
    for name, file in choices(group, [conf_folder()]).items():
        for key, _, _ in keys(file):
            found.setdefault(key.removeprefix(f"{group}."), []).append(name)
    return found


def keys(file: Path) -> list[tuple[str, str, str]]:
    """(dotted key, default, comment) of each setting of a config file, in its order; ``hydra`` and ``defaults`` left out."""
    found: list[tuple[str, str, str]] = []
    parents: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        match = _KEY.match(line)
        if match is None:
            continue
        indent, key, value = len(match["indent"]), match["key"], match["value"].strip()
        parents = [parent for parent in parents if parent[0] < indent]
        path = ".".join([name for _, name in parents] + [key])
        parents.append((indent, key))
        if path.split(".")[0] not in ("hydra", "defaults") and key != "_target_" and (value or match["comment"]):
            found += [(place, text, match["comment"] or "") for place, text in _leaves(path, value)]
    return found


def _leaves(path: str, value: str) -> list[tuple[str, str]]:
    """A key with its value, or with the keys of a value that is a map in one line, {a: 1, b: 2}."""
    node = yaml.safe_load(value) if value.startswith("{") else None
    if not isinstance(node, dict):
        return [(path, value)]
    return [leaf for key, child in node.items()
            for leaf in _leaves(f"{path}.{key}", yaml.safe_dump(child, default_flow_style=True).removesuffix("\n...\n").strip())]


def _defaults(file: Path) -> dict[str, list[str]]:
    """The groups that a command's config chooses from, with the choices it makes itself."""
    entries = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", [])
    chosen = {}
    for entry in entries:
        if isinstance(entry, dict):
            (group, choice), = entry.items()
            chosen[group] = [] if choice is None else [choice] if isinstance(choice, str) else list(choice)
    return chosen


def _wrapped(name: str, words: Sequence[str]) -> list[str]:
    lines, line = [], f"  {name:<14}"
    for word in words:
        if len(line) + len(word) > 100:
            lines.append(line.rstrip())
            line = " " * 16
        line += word + "  "
    return [*lines, line.rstrip()]


def help_of(command: str, folders: Sequence[Path]) -> str:
    """`robust COMMAND --help`: the command's groups with their choices and its keys with their comments."""
    file = next(folder / f"{command}.yaml" for folder in reversed(folders) if (folder / f"{command}.yaml").exists())
    chosen = _defaults(file)
    lines = [f"robust {command}: {summary(file)[0]}.", "", f"  robust {command} [GROUP=CHOICE ...] [KEY=VALUE ...] [flags]",
             "", "Groups (* is the default; `robust list GROUP` says what each choice is, `robust list GROUP/CHOICE` its keys)"]
    for group, default in chosen.items():
        names = [f"{name}*" if name in default else name for name in choices(group, folders)]
        lines += _wrapped(group, names)
    lines += ["", "Keys"]
    lines += _key_lines(keys(file))
    return "\n".join([*lines, "", _FLAGS])


def _key_lines(found: Iterable[tuple[str, str, str]]) -> list[str]:
    return [f"  {f'{key}={value}':<{_WIDTH}}  {comment}".rstrip() for key, value, comment in found]


def listing(names: Sequence[str], folders: Sequence[Path]) -> str:
    """`robust list [GROUP | GROUP/CHOICE]...`: choices with a line and a source each, or one choice's keys.

    Raises UserError for a name that is none.
    """
    known = groups(folders)
    lines: list[str] = []
    for name in names or known:
        group, _, choice = name.replace(".", "/").partition("/")
        if group not in known:
            raise UserError(f"{name}: no such group; {suggestion(group, known)}")
        found = choices(group, folders)
        if choice and choice not in found:
            raise UserError(f"{name}: no such {group}; {suggestion(choice, found)}")
        lines += _choice_lines(group, choice, found[choice]) if choice else _group_lines(group, found)
    return "\n".join(lines).rstrip()


def _group_lines(group: str, found: dict[str, Path]) -> list[str]:
    lines, width = [group], max(20, *map(len, found))
    for name, file in found.items():
        text, source = summary(file)
        lines.append(f"  {name:<{width}} {text}" + (f"  [{source}]" if source else ""))
    return [*lines, ""]


def _choice_lines(group: str, choice: str, file: Path) -> list[str]:
    text, source = summary(file)
    prefix = f"{group}.{choice}" if group in LISTS else group
    found = [(key if key == group or key.startswith(f"{group}.") else f"{prefix}.{key}", value, comment)
             for key, value, comment in keys(file)]
    if group == "experiment":
        found = keys(file)
    return [f"{group}={choice}: {text}" + (f"  [{source}]" if source else ""), *_key_lines(found), ""]
