"""The house's order: imports run one way, and nothing has outgrown its room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "robust_cli"

# Each room may import the rooms of later lines, and its own. The longest matching name counts.
ORDER = [
    ["robust_cli.__main__"],
    ["robust_cli.cli"],
    ["robust_cli.commands"],
    ["robust_cli.composing"],
    ["robust_cli.training", "robust_cli.reporting"],
    ["robust_cli.measures"],
    ["robust_cli.evaluation"],
    ["robust_cli.regimes"],
    ["robust_cli.attacks"],
    ["robust_cli.smoothing", "robust_cli.verification"],
    ["robust_cli.models", "robust_cli.datasets", "robust_cli.covariance", "robust_cli.moments"],
    ["robust_cli.certificates"],
    ["robust_cli.runs"],
    ["robust_cli.messages"],
]
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> tuple[int, str] | None:
    """Its line in ORDER and the name that matched."""
    found = [(len(name), line, name) for line, names in enumerate(ORDER) for name in names
             if module == name or module.startswith(name + ".")]
    return max(found)[1:] if found else None


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:
                inner = PACKAGE.parent / Path(*module.split("."), alias.name)
                found.add(f"{module}.{alias.name}" if inner.is_dir() or inner.with_suffix(".py").exists() else module)
    return {name for name in found if name.startswith("robust_cli")}


def violations(path: Path, module: str) -> list[str]:
    here = room(module)
    assert here is not None, f"{module} lives in no room: name it in ORDER"
    wrong = []
    for target in imports(path):
        there = room(target)
        if target == "robust_cli" or (there and (there[0] > here[0] or there[1] == here[1])):
            continue
        wrong.append(f"{module} imports {target}")
    return wrong


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py" and "conf" not in p.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda p: module_name(p))
def test_imports_run_one_way(path: Path) -> None:
    assert violations(path, module_name(path)) == []


def test_a_wrong_import_is_seen(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from robust_cli.smoothing import votes\n")
    name = "robust_cli.certificates.wrong"
    assert violations(wrong, name) == [f"{name} imports robust_cli.smoothing.votes"]


def test_certificates_need_numpy_and_scipy_only() -> None:
    allowed = {"numpy", "scipy", "robust_cli", "__future__", "math", "dataclasses", "typing", "collections", "functools"}
    for path in (PACKAGE / "certificates").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = ([a.name for a in node.names] if isinstance(node, ast.Import)
                     else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            assert {n.split(".")[0] for n in names} <= allowed, (path, names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: module_name(p))
def test_no_room_is_too_large(path: Path) -> None:
    text = path.read_text()
    assert path.stem not in FORBIDDEN_NAMES
    assert text.count("\n") <= 300, f"{path}: over 300 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name} is over 60 lines"
