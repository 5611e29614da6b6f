"""`robust train`: from a config to a trained model in a run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from robust_cli.commands.following import after_training
from robust_cli.composing.task import command
from robust_cli.runs.console import duration, say, table, track
from robust_cli.runs.folder import RunFolder
from robust_cli.training.settings import Training

if TYPE_CHECKING:
    from torch import nn

    from robust_cli.training.loop import FitResult


@command("train")
def main(config: DictConfig, folder: RunFolder) -> None:
    """Train a model: writes model.safetensors, metrics.csv with its curves, and about.json."""
    from robust_cli.composing import subject
    from robust_cli.composing.build import build
    from robust_cli.datasets.splits import train_validation
    from robust_cli.datasets.subsets import choose
    from robust_cli.models.classifier import parameters_count
    from robust_cli.models.weights import save
    from robust_cli.regimes.adversary import told
    from robust_cli.regimes.batch import Phased
    from robust_cli.reporting import results
    from robust_cli.training.estimate import estimated_seconds
    from robust_cli.training.evaluation import accuracy
    from robust_cli.training.hardware import chosen_device
    from robust_cli.training.loop import check_validation, fit

    settings = OmegaConf.to_object(config.training)
    assert isinstance(settings, Training)
    device, regime, dataset = chosen_device(config.device), build(config.regime, "regime"), build(config.dataset, "dataset")
    chosen = choose(dataset.split("train"), config.subset, config.seed)
    train, validation = train_validation(chosen, dataset.validation, config.seed)
    test = dataset.split("test")
    check_validation(settings, validation is not None)
    model = _initial(config, settings.init_from, dataset, regime)

    names = {key: config.choices[key] for key in ("dataset", "model", "regime")}
    say(f"robust train: {names['model']} with {names['regime']} on {names['dataset']}")
    say(f"  images: {len(train)} to train (subset {config.subset}), {len(validation) if validation else 0} to validate, "
        f"{len(test)} to test; {settings.epochs} epochs of batches of {settings.batch_size}; "
        f"device: {subject.describe_device(device)}; seed {config.seed}")
    if attacked := told(regime):
        say(f"  {attacked}")
    if isinstance(regime, Phased):
        say(f"  {regime.plan(settings.epochs)}")
    subject.record(folder, config, device, train)
    how: dict[str, Any] = {"seed": config.seed, "device": device, "precision": config.precision, "augment": dataset.augment}
    say(f"  about {duration(estimated_seconds(model, regime, train, settings, **how))} for all epochs")
    result = fit(model, regime, train, validation, settings, folder=folder, **how)
    save(model, folder.model)
    with track(len(test), "test", "images") as progress:
        right = accuracy(model, test, settings.batch_size, device, progress)
    folder.write_about({
        "command": "train", **names, "seed": config.seed, "model_fingerprint": subject.mark(model, config, dataset, "fp32"),
        "training_noise_std": regime.noise_std,
        "training_layer": None if regime.noise_std is None else getattr(regime, "layer", "input"),
        "classes": len(dataset.class_names), "class_names": list(dataset.class_names),
        "shape": list(dataset.shape), "subset": config.subset, "images": len(train), "precision": result.precision.value,
        "device": device.type, "parameters": parameters_count(model), "test_images": len(test),
        "test_accuracy": right, "train_accuracy": result.train_accuracy, "validation_accuracy": result.validation_accuracy,
        "epochs": result.epochs, "seconds": round(result.seconds, 1), "warning": result.warning})
    results.trained(folder)
    _conclude(folder, result, right, len(test), regime.noise_std)


def _initial(config: DictConfig, init_from: str | None, dataset: Any, regime: Any) -> nn.Module:
    """Fresh weights, or those of another run."""
    from robust_cli.composing.saved_run import load_run
    from robust_cli.composing.subject import make_model
    from robust_cli.messages import UserError
    from robust_cli.models.weights import load
    from robust_cli.regimes.batch import Assembling

    model = make_model(config, dataset)
    if init_from:
        started = regime.started(model) if isinstance(regime, Assembling) else model
        load(started, load_run(init_from, config.trust, key="training.init_from").folder.model)
    elif getattr(regime, "given_stages", 0):
        raise UserError(f"regime.given_stages={regime.given_stages}: expected the run that trained them, "
                        "training.init_from=<run>, found none")
    return model


def _conclude(folder: RunFolder, result: FitResult, right: float, images: int, noise_std: float | None) -> None:
    error = (right * (1 - right) / images) ** 0.5
    table(["accuracy without noise", "value"], [
        [f"test ({images} images)", f"{100 * right:.1f} % +- {100 * error:.1f}"],
        ["training images (a sample)", f"{100 * result.train_accuracy:.1f} %"]])
    say(f"run: {folder}")
    following = after_training(folder, noise_std)
    if not noise_std and not following.startswith("robust certify"):
        say("trained without noise: to certify it smoothed all the same, say with which (robust certify noise_std=0.25)")
    say(f"next: {following}")
