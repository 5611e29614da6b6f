"""A model's weights on disk (safetensors: numbers only, loading them can run no code), and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from robust_cli.messages import UserError


def save(model: nn.Module, path: str | Path) -> None:
    """Write all parameters and saved buffers to ``path``, whole or not at all."""
    path = Path(path)
    tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
               for name, tensor in model.state_dict().items()}
    unfinished = path.with_name(path.name + ".unfinished")
    save_file(tensors, unfinished)
    os.replace(unfinished, path)


def load(model: nn.Module, path: str | Path) -> None:
    """Fill the model with the file's tensors, on the devices where the model's are.

    Raises UserError, and leaves the model as it was, when the file cannot be read or its tensors' names, shapes or types
    are not the model's.
    """
    path = Path(path)
    tensors = _read(path)
    expected = model.state_dict()
    differences = [text for name in sorted(expected.keys() | tensors.keys())
                   if (text := _difference(name, expected.get(name), tensors.get(name)))]
    if differences:
        more = f" (and {len(differences) - 1} more such)" if len(differences) > 1 else ""
        raise UserError(f"{path}: these are not the weights of this model: {differences[0]}{more}; give the run, or the "
                        "model's settings and the data set, that they were trained with")
    model.load_state_dict(tensors)


def fingerprint(model: nn.Module, architecture: Mapping[str, Any], precision: str) -> str:
    """SHA-256 (hex) of what decides the classifier's outputs: every parameter and buffer to the last bit, the architecture's
    settings (plain values, in any order) and the precision. It does not depend on the device or the memory layout.
    """
    digest = hashlib.sha256()
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps({"architecture": dict(architecture), "precision": precision}, sort_keys=True).encode())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: expected a file of weights, found none; was the run finished? Give another run, or train again")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: expected weights in the safetensors format, found a damaged or other file ({reason}); take "
                        "it from a copy of the run, or train again") from error


def _difference(name: str, expected: torch.Tensor | None, found: torch.Tensor | None) -> str:
    if expected is None:
        return f"the file has a tensor {name} that the model lacks"
    if found is None:
        return f"tensor {name} is missing"
    if expected.shape != found.shape:
        return f"tensor {name}: expected shape {list(expected.shape)}, found {list(found.shape)}"
    return "" if expected.dtype == found.dtype else f"tensor {name}: expected {expected.dtype}, found {found.dtype}"
