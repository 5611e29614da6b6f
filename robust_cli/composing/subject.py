"""What a run is about: its data, its model and where they compute, built from a resolved config."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import nn

from robust_cli.composing.build import build
from robust_cli.composing.given import PROGRAMS
from robust_cli.composing.own_model import Own, clean_accuracy, identity, load_own
from robust_cli.composing.words import as_typed
from robust_cli.datasets.images import Images
from robust_cli.datasets.shards import positions
from robust_cli.datasets.subsets import choose
from robust_cli.messages import UserError
from robust_cli.models.classifier import classifier, memory_format
from robust_cli.models.weights import fingerprint, load
from robust_cli.regimes.batch import Assembling
from robust_cli.runs.console import say
from robust_cli.runs.folder import RunFolder, shown, write_json
from robust_cli.runs.provenance import gather
from robust_cli.runs.streams import key64
from robust_cli.training.hardware import chosen_device
from robust_cli.verification.cascade import Cascade


def describe_device(device: torch.device) -> str:
    """'cpu (2 threads)' or the GPU's name."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def make_model(config: DictConfig, dataset: Any) -> nn.Module:
    """A model with fresh weights from the seed, normalisation first, for a data set's images and classes."""
    torch.manual_seed(key64(config.seed, "weights"))
    if config.model._target_ in PROGRAMS:
        raise UserError(f"model: expected an architecture to train, got {config.choices.model}, a finished model; it is for "
                        "certify and attack")

    def make() -> nn.Module:
        architecture = build(config.model, "model", shape=dataset.shape, classes=len(dataset.class_names))
        return classifier(architecture, dataset.mean, dataset.std)

    regime = build(config.regime, "regime") if config.get("regime") else None
    return regime.network(make) if isinstance(regime, Assembling) else make()


def mark(model: nn.Module, config: DictConfig, dataset: Any, precision: str, own: Own | None = None) -> str:
    """The fingerprint of a model in a precision; of one's own the same as of the run that trained it here, if one did."""
    node, mean, std = OmegaConf.to_container(config.model, resolve=True), dataset.mean, dataset.std
    if own is not None:
        node, mean, std = identity(config), own.mean, own.std
    architecture = {"model": node, "shape": list(dataset.shape), "classes": len(dataset.class_names),
                    "mean": None if mean is None else list(mean), "std": None if std is None else list(std)}
    return fingerprint(model, architecture, precision)


def keep_fp32() -> None:
    """Make fp32 mean fp32: by default a GPU computes convolutions in TF32, 10 bits of mantissa, which is another classifier."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@dataclass(frozen=True)
class Subject:
    """A trained model in evaluation mode and the images to test it on, on their device."""

    model: nn.Module
    images: Images
    dataset: Any
    device: torch.device
    about: dict[str, Any]  # what certify's and attack's about.json share
    notes: tuple[str, ...] = ()  # lines on a model of one's own: what it was made from

    @property
    def classes(self) -> int:
        return len(self.dataset.class_names)


def load_subject(config: DictConfig, command: str) -> Subject:
    """The model of a run, or one's own, and the chosen test images. Raises UserError on damaged weights or missing data."""
    keep_fp32()
    device, precision = chosen_device(config.device), config.precision.value
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("precision: expected a GPU that computes bf16 natively for precision=bf16, "
                        f"found {torch.cuda.get_device_name()}; set precision=fp32")
    dataset = build(config.dataset, "dataset")
    if config.run is None:
        own = load_own(config, dataset, device)
        model, notes, from_where = own.model, own.notes, _of_own(config, own)
        from_where["model_fingerprint"] = mark(model, config, dataset, precision, own)
    else:
        (model, from_where), notes = _trained(config, dataset, precision), ()
    images = choose(dataset.split("test"), config.subset, config.seed).to(device)
    about = {
        "command": command, **from_where, "seed": config.seed, "subset": config.subset, "images": len(images),
        "precision": precision, "device": device.type, "classes": len(dataset.class_names),
        "class_names": list(dataset.class_names),
    }
    if isinstance(model, Cascade) and config.noise_std is not None:
        raise UserError(f"noise_std: expected a single network to smooth, got {config.noise_std:g} for a cascade, whose answers "
                        "are proofs of their own; certify it with certificate=lp_dual, attack it with classifier=base")
    model = model.to(device).to(memory_format=memory_format(model, device)).eval()
    if config.run is None:
        notes = (*notes, clean_accuracy(model, images, precision))
    return Subject(model, images, dataset, device, about, notes)


def _trained(config: DictConfig, dataset: Any, precision: str) -> tuple[nn.Module, dict[str, Any]]:
    """A run's model and what about.json says of it."""
    run = RunFolder(config.run)
    trained = _described(run)
    model = make_model(config, dataset)
    load(model, run.model)
    if (found := mark(model, config, dataset, "fp32")) != trained["model_fingerprint"]:
        raise UserError(f"{run.model}: expected the weights that about.json beside it describes (fingerprint "
                        f"{trained['model_fingerprint'][:8]}), found others ({found[:8]}); take them from a copy, or train again")
    return model, {**{key: trained[key] for key in ("dataset", "model", "regime", "training_noise_std")},
                   "training_layer": trained.get("training_layer"),
                   "train_run": str(config.run), "train_seed": trained["seed"],
                   "model_fingerprint": mark(model, config, dataset, precision)}


def _of_own(config: DictConfig, own: Own) -> dict[str, Any]:
    names = {key: config.choices[key] for key in ("dataset", "model", "regime")}
    return names | {"training_noise_std": None, "training_layer": None, "train_run": None, "train_seed": None,
                    "model_file": own.file or None,
                    "model_entry": config.model.get("entry"), "model_sha256": config.model_sha256, "mean": own.mean,
                    "std": own.std}


def _described(run: RunFolder) -> dict[str, Any]:
    """A training run's about.json. Raises UserError where something of it that is used is not there or is no text or number."""
    about = run.read_about()
    for kind, keys in ((str, ("dataset", "model", "regime", "model_fingerprint")), (int, ("seed",))):
        for key in keys:
            if not isinstance(about.get(key), kind) or isinstance(about[key], bool):
                raise UserError(f"{run.about}: damaged, expected {key} as robust train wrote it, found {about.get(key)!r}; "
                                "take the file from a copy, or train again")
    return about


def introduce(what: str, subject: Subject, config: DictConfig) -> None:
    """The first lines of certify and attack: what is done to which model on which images, where."""
    about = subject.about
    if about["train_run"] is None:
        say(f"robust {what}: {about['model']}, a model of your own, on {about['dataset']}")
    else:
        say(f"robust {what}: {about['model']} trained with {about['regime']} on {about['dataset']} ({shown(config.run)})")
    shard = config.get("shard")
    part = f"{len(positions(shard, about['images']))} of {about['images']} (shard {shard})" if shard else f"{about['images']}"
    say(f"  images: {part} of the test split (subset {about['subset']}); device: {describe_device(subject.device)}, "
        f"{about['precision']}; seed {about['seed']}")
    for note in subject.notes:
        say(f"  {note}")


def record(folder: RunFolder, config: DictConfig, device: torch.device, images: Images, fingerprint: str | None = None) -> None:
    """Write provenance.json; a run that is resumed has it, and what it began with has to be what is here now.

    ``fingerprint``: of the model certified or attacked. Raises UserError on another model, other images, another kind of
    device or of GPU, and another torch, whose logits differ in the last bits: votes of two classifiers added up would be the
    votes of none.
    """
    checksum, described = images.checksum(), describe_device(device)
    if not folder.provenance.exists():
        record_of_model = {} if fingerprint is None else {"model_fingerprint": fingerprint}
        # What this run was given, in a sweep too, whose process has another command line.
        words = ["robust", folder.command, *(as_typed(str(override)) for override in HydraConfig.get().overrides.task)]
        write_json(folder.provenance, gather(words, config.seed, checksum, described, torch.get_num_threads()) | record_of_model)
        return
    before = _begun(folder)
    versions = before.get("versions")
    for what, found, now in (("images", before.get("data_sha256"), checksum),
                             ("model", before.get("model_fingerprint"), fingerprint),
                             ("device", _computing(str(before.get("device") or "")) or None, _computing(described)),
                             ("torch", versions.get("torch") if isinstance(versions, dict) else None, version("torch"))):
        if found is not None and now is not None and found != now:
            raise UserError(f"{folder}: expected to go on with the {what} that it began with ({_short(found)}), "
                            f"found {_short(now)}; give that back, or start a new run")


def _computing(device: str) -> str:
    """What decides a device's logits and draws: 'cpu', whatever the threads, or the GPU by its name."""
    return device if device.startswith("cuda") else device.partition(" ")[0]


def _short(found: object) -> str:
    text = str(found)
    return text[:8] if len(text) == 64 else text  # of a checksum its beginning


def _begun(folder: RunFolder) -> dict[str, Any]:
    try:
        found = json.loads(folder.provenance.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{folder.provenance}: damaged, expected the record that robust wrote; start a new run")
    return found
