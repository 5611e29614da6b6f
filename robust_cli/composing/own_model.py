"""A model of the user's own, built and filled from a config that has no run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parameter import is_lazy

from robust_cli.composing.build import build_offering
from robust_cli.composing.catalogue import conf_folder, targets
from robust_cli.composing.given import INCLUDED, PROGRAMS, RESERVED, file_of
from robust_cli.datasets.images import Images
from robust_cli.messages import UserError, Wrong
from robust_cli.models.checkpoints import Found, load_state
from robust_cli.models.classifier import classifier
from robust_cli.models.foreign import check_answers, check_bf16
from robust_cli.runs.folder import shown
from robust_cli.runs.streams import key64

_TRIED = 100  # images whose accuracy is told, so that wrong weights or a wrong normalisation are seen at once
_FOREIGN = (*PROGRAMS, "robust_cli.models.foreign.torchvision_model")
Numbers = list[float] | None


@dataclass(frozen=True)
class Own:
    """The model on its device, in evaluation mode, and what is to be known of it."""

    model: nn.Module
    mean: Numbers
    std: Numbers
    file: str  # '' where its class brings its weights
    notes: tuple[str, ...]


def load_own(config: DictConfig, dataset: Any, device: torch.device) -> Own:
    """Build the model that a config names and fill it. Raises UserError where file, class and data set do not go together."""
    node = {str(key): value for key, value in _plain(config.model).items() if key not in RESERVED}
    architecture = _built(node, config.seed, dataset, device)
    if config.model.weights == INCLUDED:
        _check_same(architecture, _built(node, config.seed + 1, dataset, device))
    found = None
    if node["_target_"] not in PROGRAMS and config.model.weights != INCLUDED:
        found = load_state(architecture, config.model.weights, dataset.shape[0], config.model.get("entry"))
    mean, std, whose = _normalisation(config, dataset, found)
    model = _whole(architecture, mean, std).to(device).to(memory_format=torch.channels_last).eval()
    place = file_of(_plain(config.model))
    _try(config, model, dataset, device)
    return Own(model, mean, std, place[1] if place else "", (_where_from(found, place), whose))


def _built(node: dict[str, Any], seed: int, dataset: Any, device: torch.device) -> nn.Module:
    torch.manual_seed(key64(seed, "weights"))
    made = build_offering(node, "model", shape=dataset.shape, classes=len(dataset.class_names), device=str(device))
    if not isinstance(made, nn.Module):
        raise UserError(f"model: expected a torch.nn.Module from {node['_target_']}, got {type(made).__name__}")
    return made


def _check_same(one: nn.Module, other: nn.Module) -> None:
    """Raise UserError unless two builds under different seeds hold the same tensors: then no chance is in them."""
    again = dict(_tensors(other))
    for name, tensor in _tensors(one):
        if is_lazy(tensor) or name not in again or not torch.equal(tensor, again[name]):
            raise UserError(f"model.weights={INCLUDED}: expected a class that brings its weights, its {name} starts at random: "
                            "give model.weights=<file>")


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def identity(config: DictConfig) -> dict[str, Any]:
    """A model's node for its fingerprint: what decides its answers, not where its file lies."""
    node = {key: value for key, value in _plain(config.model).items() if key not in RESERVED}
    return node | ({"file": config.model_sha256} if node["_target_"] in PROGRAMS else {})


def clean_accuracy(model: nn.Module, images: Images, precision: str) -> str:
    """A line with the accuracy on the first images without noise."""
    few = images.select(torch.arange(min(_TRIED, len(images))), images.subset)
    with torch.no_grad(), torch.autocast(few.labels.device.type, torch.bfloat16, enabled=precision == "bf16"):
        answers = torch.cat([model(few.float(slice(k, k + 20))).argmax(1) for k in range(0, len(few), 20)])
    right = int((answers == few.labels).sum())
    return (f"accuracy without noise on the first {len(few)} of them: {100 * right / len(few):.1f} % (where that is too low: "
            "other weights, another order of the classes, or another normalisation, model.mean and model.std)")


def _plain(node: Any) -> dict[str, Any]:
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _whole(architecture: nn.Module, mean: Numbers, std: Numbers) -> nn.Module:
    if mean is None or std is None:
        return nn.Sequential(OrderedDict(network=architecture))
    try:
        return classifier(architecture, mean, std)
    except Wrong as wrong:
        raise UserError(f"model.{wrong.name}: expected {wrong.expected}, got {wrong.found!r}") from wrong


def _normalisation(config: DictConfig, dataset: Any, found: Found | None) -> tuple[Numbers, Numbers, str]:
    """Mean, std and whose they are: typed, or the file's own, or the data set's for our architectures, or none."""
    typed = None if config.model.mean is None else ([float(m) for m in config.model.mean], [float(s) for s in config.model.std])
    filed = (found.mean, found.std) if found is not None and found.mean is not None and found.std is not None else None
    ours = config.model._target_ in targets([conf_folder()]) and config.model._target_ not in _FOREIGN
    usual = (list(dataset.mean), list(dataset.std))
    if typed is not None:
        if filed is not None and not _same(typed, filed):
            raise UserError(f"model.mean, model.std: expected those of the weights' own normalisation, {_shown(filed)}, got "
                            f"{_shown(typed)}; leave them out")
        if len(typed[0]) != dataset.shape[0]:
            raise UserError(f"model.mean: expected {dataset.shape[0]} number(s), one a channel, got {typed[0]}")
        return *typed, f"images are normalised first by {_shown(typed)}, as said"
    if filed is not None:
        mean, std = usual if _same(usual, filed) else filed
        return mean, std, f"images are normalised first by {_shown((mean, std))}, which stood beside the weights"
    if found is not None and found.hides_a_layer:
        raise UserError(f"{config.model.weights}: its names begin with {found.prefix!r}, so that another layer came before the "
                        "network, often a normalisation, and left nothing in the file; say model.mean=[...] model.std=[...], one "
                        "number a channel (for none: zeros and ones)")
    if ours:
        return *usual, f"images are normalised first by {_shown(usual)}, the data set's (others: model.mean, model.std)"
    return None, None, "images are not normalised before it (else: model.mean, model.std)"


def _same(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Whether two normalisations are the same in float32."""
    return all(len(a) == len(b) and torch.equal(torch.tensor(a), torch.tensor(b)) for a, b in zip(one, other, strict=True))


def _shown(numbers: tuple[Any, Any]) -> str:
    mean, std = ("[" + ", ".join(f"{number:.6g}" for number in part) + "]" for part in numbers)
    return f"mean {mean}, std {std}"


def _where_from(found: Found | None, place: tuple[str, str] | None) -> str:
    if place is None:
        return "weights: brought by its class"
    where = "" if found is None else "".join([f", entry {found.entry}" * bool(found.entry),
                                              f", names after {found.prefix!r}" * bool(found.prefix)])
    return f"file: {shown(place[1])}{where}"


def _try(config: DictConfig, model: nn.Module, dataset: Any, device: torch.device) -> None:
    precision, classes, name = config.precision.value, len(dataset.class_names), config.choices.dataset
    check_answers(model, dataset.shape, classes, name, device, precision)
    if precision == "bf16" and config.model._target_ in PROGRAMS:
        check_bf16(model, dataset.shape, classes, name, device)
