"""torch.export files (.pt2): a graph of torch's operations with its weights.

torch.export.load runs code that a hostile file brings (pickled constants, operators looked up by name, sizes evaluated as
expressions). So the archive is read first: only tensors as plain numbers, torch's own operations and symbolic sizes pass.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import torch

from robust_cli.messages import UserError
from robust_cli.models.foreign import Fixed, contents, one_line

_HOW = ("export it for any number of images: torch.export.export(model.eval(), (images,), "
        "dynamic_shapes=({0: torch.export.Dim('batch')},)) with two images or more")
_RECORDS = re.compile(r"data/weights/(weight_\d+|model_weights_config\.json)|"
                      r"data/constants/(tensor_\d+|model_constants_config\.json)|models/model\.json|data/sample_inputs/model\.pt|archive_(format|version)|"
                      r"byteorder|\.data/\w+|extra/.*")
_OPERATORS = re.compile(r"torch\.ops\.(aten|prims)\.(?!from_file)\w+(\.\w+)?|_operator\.[a-z]\w*|math\.\w+|torch\.sym_\w+|"
                        r"torch\._check\w*|torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)")
_REFUSED_OPERATORS = re.compile(r"_operator\.(call|methodcaller|attrgetter|itemgetter)")
_WORD = re.compile(r"[\w.]*")
_SPEC = re.compile(r'[\w\s\[\]{}":,.]*')  # a tree of the arguments, as JSON
_ARGUMENT = re.compile(r"[\w\s.,>-]*")  # of an operator, such as einsum's equation
_GUARD = re.compile(r"[\w\s.\[\]+\-*/%<>=!'\"]*")  # no calls
_SYMBOL = re.compile(r"[A-Z]\w*|[a-z]{1,2}\d+")
_FREE = ("metadata", "torch_version")  # of which nothing is evaluated
_SYMBOLIC = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add,
             ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.Compare, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq,
             ast.NotEq)


class Exported(Fixed):
    """An exported program (torch.export.save): images [n, C, H, W] to logits [n, K] for every n. Raises UserError."""

    def __init__(self, file: str, device: str = "cpu") -> None:
        from torch.export.passes import move_to_device_pass
        from torch.export.pt2_archive._package import load_pt2

        content = contents(file)
        log = logging.getLogger("torch.export")
        before = log.level
        log.setLevel(logging.CRITICAL)
        try:
            _check_archive(content, file)
            program = load_pt2(io.BytesIO(content)).exported_programs["model"]
            _check_batch(program, file)
            module = move_to_device_pass(program, device).module()
        except UserError:
            raise
        except Exception as error:  # of many kinds, and none of them documented
            raise UserError(f"model.file: {file}: expected a file as torch.export.save writes it, found a damaged or other one, "
                            f"or one of another version ({type(error).__name__}: {one_line(error)})") from error
        finally:
            log.setLevel(before)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        super().__init__(module)


def _check_batch(program: torch.export.ExportedProgram, file: str) -> None:
    """Raise UserError unless the program takes one batch of any number of images."""
    names = program.graph_signature.user_inputs
    sizes = [node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(sizes) != 1 or len(sizes[0]) != 4:
        found = [list(map(str, size)) for size in sizes]
        raise UserError(f"model.file: {file}: expected one input, images [n, C, H, W], found {found}")
    if isinstance(sizes[0][0], int):
        raise UserError(f"model.file: {file}: was exported for batches of exactly {sizes[0][0]}; {_HOW}")


def _check_archive(content: bytes, file: str) -> None:
    """Raise UserError for anything in the archive whose loading could run code of its author."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    names = reader.get_all_records()
    if "models/model.json" not in names:
        raise UserError(f"model.file: {file}: expected a file as torch.export.save writes it, found another; a state dict is "
                        f"model.weights={file}, a TorchScript file model=torchscript model.file={file}")
    for name in names:
        if not _RECORDS.fullmatch(name):
            raise _refused(file, f"the record {name}")
    for name in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
        for key, entry in json.loads(reader.get_record(name))["config"].items():
            if entry.get("use_pickle") is not False or not re.fullmatch(r"(weight|tensor)_\d+", str(entry.get("path_name"))):
                raise _refused(file, f"a pickled object ({key})")
    try:
        torch.load(io.BytesIO(reader.get_record("data/sample_inputs/model.pt")), weights_only=True)
    except Exception as error:
        raise _refused(file, "pickled sample inputs") from error
    for place, text in _texts(json.loads(reader.get_record("models/model.json")), ""):
        if not _harmless(place.rpartition("/")[2], text):
            raise _refused(file, f"{text[:80]!r} ({place.strip('/')[-60:]})")


def _refused(file: str, what: str) -> UserError:
    return UserError(f"model.file: {file}: holds {what}, and loading that could run its author's code; export a model that is "
                     "made of torch's own operations on one batch of images")


def _texts(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """All texts of a JSON document, keys as well, with the path of keys to them; what nothing evaluates is left out."""
    if isinstance(node, str):
        yield place, node
    elif isinstance(node, list):
        for item in node:
            yield from _texts(item, place)
    elif isinstance(node, dict):
        for key, value in node.items():
            yield f"{place}/", key
            if key not in _FREE:
                yield from _texts(value, f"{place}/{key}")


def _harmless(key: str, text: str) -> bool:
    if "__" in text and not re.fullmatch(r"\w+", text):
        return False
    if key == "target":
        return bool(_OPERATORS.fullmatch(text)) and not _REFUSED_OPERATORS.fullmatch(text)
    if key == "expr_str":
        return _is_symbolic(text)
    pattern = {"in_spec": _SPEC, "out_spec": _SPEC, "guards_code": _GUARD, "as_string": _ARGUMENT}.get(key, _WORD)
    return bool(pattern.fullmatch(text))


def _is_symbolic(text: str) -> bool:
    """Whether a text is an expression of sizes: sums, products and named functions of symbols and numbers."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False
    for node in nodes:
        name = node.id if isinstance(node, ast.Name) else node.value if isinstance(node, ast.Constant) else 0
        if not isinstance(node, _SYMBOLIC) or (isinstance(name, str) and not _SYMBOL.fullmatch(name)):
            return False
        if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name):
            return False
    return True
