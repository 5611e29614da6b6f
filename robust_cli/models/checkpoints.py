"""Weights that others have saved: state dicts in the field's layouts, read without running pickled code and mapped by name.

Layouts: the state dict alone or inside a dictionary ({'state_dict': ...}, {'model': ...}, {'net': ...}); names with the prefixes
of wrappers (``module.`` of DataParallel, ``model.``, ``1.`` of Sequential(NormalizeLayer, network) as in Cohen et al. 2019 and
SmoothAdv 2019); a normalisation's mean and std beside the network (``mu`` and ``sigma`` in RobustBench). A network whose layers
are one sequence, as ours are, is also found by the names inside it: so others name residual networks.
"""

from __future__ import annotations

import argparse
import itertools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from robust_cli.messages import UserError

State = Mapping[str, torch.Tensor]

_AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|averaged?|teacher|shadow)([._]|$)", re.IGNORECASE)
_MEANS, _STDS = ("mean", "means", "_mean", "mu"), ("std", "stds", "_std", "sds", "sigma")
_COUNTS = ("num_batches_tracked", "n_averaged")  # counters: no answer depends on them
_SHOWN = 3
_SAVE = "save the state dict alone: torch.save(model.state_dict(), 'weights.pth')"
# What training scripts put beside the weights; making these objects runs nothing of the file's.
_SCALAR = (np._core if hasattr(np, "_core") else np.core).multiarray.scalar
_HARMLESS = [np.dtype, np.ndarray, _SCALAR, *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
             argparse.Namespace]


@dataclass(frozen=True)
class Found:
    """A state dict of a file that is this model's: where it was, and the normalisation that stood beside it."""

    entry: str  # '' where the file is the state dict
    prefix: str
    state: dict[str, torch.Tensor] = field(repr=False)
    mean: list[float] | None = None
    std: list[float] | None = None

    @property
    def hides_a_layer(self) -> bool:
        """The network was not the first part of what was saved, and the first part left no tensors: often a normalisation."""
        later = any(part.isdigit() and int(part) > 0 for part in self.prefix.split("."))
        return later and self.mean is None


class _Wanted:
    """Tensors to find in a file by name, and how names begin that public files hold and the architecture never uses."""

    def __init__(self, network: nn.Module, unused: tuple[str, ...]) -> None:
        self.network, self.unused, self.tensors = network, unused, network.state_dict()


def load_state(network: nn.Module, path: Path | str, channels: int, entry: str | None = None) -> Found:
    """Fill the network with a file's tensors, to the bit (half precision is widened, which is exact).

    ``entry`` names the state dict in a file that has several; running averages (``ema_...``) are taken only by name. Accepted
    is only a file in which, under one prefix, every tensor of the network is found and nothing is left over but one
    normalisation's mean and std (for images in [0, 1] with so many channels).

    Raises UserError, one line, and leaves the network as it was.
    """
    path = Path(path)
    entries = _chosen(dict(_state_dicts(read(path), "")), path, entry)
    plain = {place: state for place, state in entries.items() if entry is not None or not _AVERAGE.search(place)}
    wanted, fits = _first_fits(plain, _wanted(network), channels, path)
    if not fits:
        averages = {place: state for place, state in entries.items() if place not in plain}
        if others := _first_fits(averages, _wanted(network), channels, path)[1]:
            raise UserError(f"{path}: holds weights that are this model's only as running averages; to take those: "
                            f"model.entry={min(found.entry for found in others)}")
        raise UserError(f"{path}: {_nearest(plain or entries, _wanted(network))}")
    if len(fits) > 1:
        ways = " and ".join(f"entry {f.entry or 'none'}, names {f'after {f.prefix!r}' if f.prefix else 'as they are'}"
                            for f in fits[:_SHOWN])
        raise UserError(f"{path}: these tensors are this model's in more than one way ({ways}); say which: model.entry=NAME, or "
                        "save its state dict alone")
    wanted.network.load_state_dict(fits[0].state)
    return fits[0]


def read(path: Path) -> Mapping[str, Any]:
    """What a file of weights holds: a state dict, or a dictionary with some. Raises UserError."""
    if not path.is_file():
        raise UserError(f"{path}: expected a file of weights, {'found a folder' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start[:2] == b"PK":
            _refuse_programs(path)
        if start[:2] == b"PK" or start[:1] == b"\x80":
            with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
                content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            content = load_file(path)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{path}: {_unreadable(error)}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected a state dict (names with tensors), found {type(content).__name__}; {_SAVE}")
    return content


def _refuse_programs(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    for ending, what, choice in (("/constants.pkl", "TorchScript", "torchscript"),
                                 ("/models/model.json", "torch.export", "exported")):
        if any(name.endswith(ending) for name in names):
            raise UserError(f"{path}: is a {what} file, a model with its weights; model={choice} model.file={path}")


def _unreadable(error: Exception) -> str:
    text = " ".join(str(error).split())
    if found := re.search(r"GLOBAL (\S+)", text):
        return (f"holds a pickled object ({found[1]}), and loading it would run its code; where you trust it, load it in Python "
                f"and {_SAVE}")
    return (f"expected weights as safetensors or as torch.save writes a state dict, found a damaged or other file "
            f"({text[:160]}); {_SAVE}")


def _state_dicts(content: Any, place: str, depth: int = 0) -> Iterator[tuple[str, State]]:
    """The state dicts in a file's content with where they are: non-empty dictionaries of names with tensors only."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        return
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        yield place, content
    elif depth < 3:
        for key, value in content.items():
            yield from _state_dicts(value, f"{place}.{key}" if place else key, depth + 1)


def _chosen(entries: dict[str, State], path: Path, entry: str | None) -> dict[str, State]:
    if not entries:
        raise UserError(f"{path}: expected a state dict (names with tensors), found none; {_SAVE}")
    if entry is None:
        return entries
    if entry not in entries:
        there = ", ".join(sorted(place for place in entries if place))
        instead = f"there are: {there}" if there else "the file itself is the state dict; leave model.entry out"
        raise UserError(f"{path}: model.entry={entry}: no such state dict; {instead}")
    return {entry: entries[entry]}


def _wanted(network: nn.Module) -> list[_Wanted]:
    """A network by its own names; and, where it is one sequence of layers, as ours are, by the names inside that."""
    parts, layers = dict(network.named_children()), getattr(network, "layers", None)
    unused = getattr(network, "unused_in_checkpoints", ())
    inside = [_Wanted(layers, unused)] if isinstance(layers, nn.Sequential) and len(parts) == 1 else []
    return [_Wanted(network, unused), *inside]


def _first_fits(entries: Mapping[str, State], ways: list[_Wanted], channels: int, path: Path) -> tuple[_Wanted, list[Found]]:
    for wanted in ways:
        if fits := [found for place, state in entries.items() for found in _fits(place, state, wanted, channels, path)]:
            return wanted, fits
    return ways[0], []


def _fits(place: str, state: State, wanted: _Wanted, channels: int, path: Path) -> list[Found]:
    """The prefixes under which a state dict is the model's."""
    expected = wanted.tensors
    needed = [name for name in expected if name.rpartition(".")[2] not in _COUNTS]
    if not needed:
        return []
    prefixes = {name.removesuffix(needed[0]) for name in state if name == needed[0] or name.endswith(f".{needed[0]}")}
    found = []
    for prefix in sorted(prefix for prefix in prefixes if all(prefix + name in state for name in needed)):
        beside, differences = _compared(state, wanted, prefix)
        if not differences:
            mean, std = _normalisation(state, beside, channels, path)
            tensors = {name: state.get(prefix + name, own).to(own.dtype) for name, own in expected.items()}
            found.append(Found(place, prefix, tensors, mean, std))
    return found


def _compared(state: State, wanted: _Wanted, prefix: str) -> tuple[tuple[str, str] | None, list[str]]:
    """The names of a normalisation's mean and std beside the network, and all that differs otherwise."""
    expected, spare = wanted.tensors, tuple(prefix + name for name in wanted.unused)
    differences = [text for name, own in expected.items() if (text := _difference(name, own, state.get(prefix + name)))]
    left = [name for name in state if not (name.startswith(prefix) and name.removeprefix(prefix) in expected)]
    left = [name for name in left if name.rpartition(".")[2] not in _COUNTS and not name.startswith(spare)]
    pairs = [(mean, std) for mean in left for std in left if _is_pair(mean, std, prefix)]
    beside = pairs[0] if len(pairs) == 1 else None
    left = [name for name in left if name not in (beside or ())]
    return beside, differences + [f"the file has a tensor {name} that the model lacks" for name in left]


def _is_pair(mean: str, std: str, prefix: str) -> bool:
    """Mean and std of one layer that stands beside the network, around it or directly in it, but not deeper."""
    (parent, _, one), (other, _, two) = mean.rpartition("."), std.rpartition(".")
    above = parent.rpartition(".")[0]
    return parent == other and one in _MEANS and two in _STDS and prefix.startswith(f"{above}." if above else "")


def _normalisation(state: State, names: tuple[str, str] | None, channels: int, path: Path) -> tuple[list[float] | None, ...]:
    if names is None:
        return None, None
    values = [state[name].detach().double().flatten().tolist() for name in names]
    mean, std = (value * channels if len(value) == 1 else value for value in values)
    if not (len(mean) == len(std) == channels and all(0 <= m <= 1 for m in mean) and all(0 < s <= 1 for s in std)):
        raise UserError(f"{path}: its normalisation ({names[0]} {mean[:3]}, {names[1]} {std[:3]}) is not one of images in [0, 1] "
                        f"with {channels} channel(s); choose the data set that it is for, or wrap it in a class of your own")
    return mean, std


def _difference(name: str, expected: torch.Tensor, found: torch.Tensor | None) -> str:
    if found is None:
        return "" if name.rpartition(".")[2] in _COUNTS else f"tensor {name} is missing"
    if expected.shape != found.shape:
        return f"tensor {name}: expected shape {list(expected.shape)}, found {list(found.shape)}"
    widened = expected.dtype == torch.float32 and found.dtype in (torch.float16, torch.bfloat16)
    return "" if expected.dtype == found.dtype or widened else f"tensor {name}: expected {expected.dtype}, found {found.dtype}"


def _nearest(entries: Mapping[str, State], ways: list[_Wanted]) -> str:
    """How the state dict, the names and the prefix that come nearest differ from the model."""
    best: tuple[int, str, list[str]] | None = None
    for state, wanted in itertools.product(entries.values(), ways):
        parts = [name.split(".") for name in state]
        prefixes = {"".join(f"{part}." for part in names[:k]) for names in parts for k in range(min(len(names), 4))}
        prefix = max(sorted(prefixes), key=lambda prefix: sum(prefix + name in state for name in wanted.tensors))
        differences = _compared(state, wanted, prefix)[1]
        if best is None or len(differences) < best[0]:
            best = len(differences), prefix, differences
    assert best is not None
    more = f" (and {best[0] - _SHOWN} more such)" if best[0] > _SHOWN else ""
    after = f", names taken after the prefix {best[1]!r}" if best[1] else ""
    return (f"these are not the weights of this model{after}: {'; '.join(best[2][:_SHOWN])}{more}; give the class and the "
            "settings that they were trained with")
