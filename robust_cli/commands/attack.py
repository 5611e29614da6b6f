"""`robust attack`: from a trained run, or a model of one's own, to robust accuracy under attacks, and the adversarial images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from robust_cli.commands.following import after_evaluation
from robust_cli.composing.task import command
from robust_cli.messages import UserError
from robust_cli.runs.console import duration, say
from robust_cli.runs.folder import RunFolder

if TYPE_CHECKING:
    from robust_cli.attacks.classifiers import Classifier
    from robust_cli.composing.subject import Subject
    from robust_cli.evaluation.outcomes import Decide
    from robust_cli.smoothing.place import Place


@command("attack")
def main(config: DictConfig, folder: RunFolder) -> None:
    """Attack a model: writes outcomes.csv, the adversarial images, and robust accuracy against budget."""
    import torch

    from robust_cli.commands.measuring import measure
    from robust_cli.composing import subject as subjects
    from robust_cli.composing.build import build
    from robust_cli.evaluation import plan, stored
    from robust_cli.evaluation.doubts import IMAGES, look, of_attacks
    from robust_cli.evaluation.estimate import estimated_seconds
    from robust_cli.evaluation.outcomes import Rules, evaluate
    from robust_cli.reporting import results
    from robust_cli.smoothing.noise import ImageDraws
    from robust_cli.smoothing.place import place_of

    attacks = {name: build(node, f"attack.{name}") for name, node in config.attack.items()}
    measures = {name: build(node, f"measure.{name}") for name, node in config.measure.items()}
    subject = subjects.load_subject(config, "attack")
    budgets = chosen_budgets(config, subject.dataset, {str(attack.norm) for attack in attacks.values()})
    place = place_of(subject.model, config.smoothing.layer, subject.images.shape)
    classifier = victim(config, subject, place)
    plan.check_suited(attacks, classifier)
    others, told = stored.transfers(config.transfer, subject.images)
    announce(config, subject, attacks, budgets, told, place.words)
    subjects.record(folder, config, subject.device, subject.images, subject.about["model_fingerprint"])
    if any(hasattr(attack, "with_data") for attack in attacks.values()):
        training = subject.dataset.split("train")
        attacks = {name: a.with_data(training) if hasattr(a, "with_data") else a for name, a in attacks.items()}

    decide = voting(config, subject, place) if classifier.random else None
    few = subject.images.select(torch.arange(min(IMAGES, len(subject.images))), subject.images.subset)
    doubts = look(classifier, few.float(), few.labels, ImageDraws(subject.device, config.seed, "look", few.indices.tolist()))
    doubts += of_attacks(attacks, classifier)
    for doubt in doubts:
        say(f"warning: {doubt.sentence}")
    left = to_do(attacks, budgets, folder, len(subject.images))
    if left:
        say("  timing each attack on a few images")
        seconds = estimated_seconds(left, classifier, subject.images, budgets, config.batch_size, decide)
        say(f"  at most about {duration(seconds)} for all images and budgets")
    evaluate(attacks, classifier, subject.images, budgets, seed=config.seed, batch_size=config.batch_size, device=subject.device,
             folder=folder, decide=decide, more=others, rounded=config.eight_bit,
             rules=Rules(config.labels.value, config.also_wrong, config.early_stop))
    folder.write_about({
        **subject.about, "classifier": config.classifier.value, "noise_std": config.noise_std,
        **through_noise(config, place), "budgets": budgets, "early_stop": config.early_stop, "labels": config.labels.value,
        "also_wrong": config.also_wrong, "transfer": told, "doubts": [doubt.sentence for doubt in doubts],
        "attacks": {name: {"norm": str(a.norm), "closest": plan.is_closest(a), "kind": plan.kind(a),
                           "target": config.attack[name]._target_, "settings": settings(config.attack[name])}
                    for name, a in attacks.items()},
        "measures": {name: config.measure[name]._target_ for name in measures}})
    measure(measures, classifier, attacks, budgets, subject, config, folder)
    results.attacked(folder)
    say(f"run: {folder}")
    say(f"next: {after_evaluation(folder, config)}")


def to_do(attacks: dict[str, Any], budgets: dict[str, list[float]], folder: RunFolder, images: int) -> dict[str, Any]:
    """The attacks that do not have all their outcomes yet; says how much a run that is resumed has."""
    from collections import Counter

    from robust_cli.evaluation.plan import sweep
    from robust_cli.evaluation.storage import rows_there

    planned = Counter(name for name, _, _ in sweep(attacks, budgets))
    there = Counter(rows_there(folder.outcomes))
    if there:
        say(f"  going on: {sum(there[name] for name in planned)} of {images * planned.total()} outcomes are there")
    return {name: attack for name, attack in attacks.items() if there[name] < images * planned[name]}


def voting(config: DictConfig, subject: Subject, place: Place) -> Decide:
    """How the smoothed classifier decides images: by fresh votes under its own noise."""
    from robust_cli.smoothing.noises import make_noise
    from robust_cli.smoothing.votes import NoisyVotes

    noise = make_noise(config.noise.value, config.noise_std).anywhere()
    counter = NoisyVotes(place.after, subject.classes, noise, config.seed, subject.device, config.precision.value)

    def decide(images: Any, indices: Any, purpose: str) -> Any:
        points = place.each(images)
        place.admit(points, config.noise_std)
        return counter.decide(points, indices, purpose, config.decision_votes)

    return decide


def victim(config: DictConfig, subject: Subject, place: Place) -> Classifier:
    """The classifier that the settings name, as attacks see it."""
    from robust_cli.attacks.classifiers import BaseClassifier, Network, NoisyGradients, SmoothedClassifier

    model, precision, noise = subject.model, config.precision.value, config.gradient_noise
    if config.noise_std is not None:
        if noise.std is not None:
            raise UserError("gradient_noise.std: expected null on a smoothed classifier, whose own noise "
                            f"(noise_std={config.noise_std:g}) its gradients go through; leave it out, or attack classifier=base")
        return SmoothedClassifier(Network(model, precision, place), config.noise_std, config.gradient_draws,
                                  config.objective.value, votes=config.query_votes, noise=config.noise.value)
    if noise.std is not None:
        return NoisyGradients(model, noise.std, noise.draws, precision)
    return BaseClassifier(model, precision, stops=config.early_stop)


def through_noise(config: DictConfig, place: Place) -> dict[str, Any]:
    """How a smoothed classifier is attacked and decided; nothing of it for a base classifier, but the noise of its gradients."""
    smoothed, noise = config.noise_std is not None, config.gradient_noise
    return {"noise": config.noise.value if smoothed else None, "smoothing": place.describe() if smoothed else None,
            "gradient_draws": config.gradient_draws if smoothed else None,
            "objective": config.objective.value if smoothed else None,
            "query_votes": config.query_votes if smoothed else None,
            "decision_votes": config.decision_votes if smoothed else None,
            "gradient_noise": {"std": noise.std, "draws": noise.draws} if noise.std is not None else None}


def chosen_budgets(config: DictConfig, dataset: Any, norms: set[str]) -> dict[str, list[float]]:
    """Budgets by norm: those asked for, else the data set's own. Raises UserError for a norm that has neither."""
    found: dict[str, list[float]] = {}
    for norm in sorted(norms):
        asked = config.budgets.get(norm)
        if asked is None and (norm not in ("l2", "linf") or not hasattr(dataset, "default_budgets")):
            raise UserError(f"budgets.{norm}: expected a list, since there are no defaults for it; set budgets.{norm}=[...]")
        found[norm] = list(asked) if asked is not None else dataset.default_budgets(norm)
    return found


def settings(node: Any) -> dict[str, Any]:
    """An attack's settings as plain values by their names, those of an ensemble's attacks dotted."""
    plain: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    found: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            found |= {f"{key}.{inner}": own for inner, own in settings(value).items()}
        elif key not in ("_target_", "budget", "norm"):
            found[str(key)] = value
    return found


def announce(config: DictConfig, subject: Subject, attacks: dict[str, Any], budgets: dict[str, list[float]],
             transfers: dict[str, Any], where: str = "") -> None:
    """What will be done."""
    from robust_cli.composing.subject import introduce
    from robust_cli.evaluation.plan import is_closest, kind
    from robust_cli.reporting.attacked import accuracy as attacked

    introduce("attack", subject, config)
    noise = config.gradient_noise
    if config.noise_std is not None:
        climbed = "mean_loss, then log_mean_probability" if config.objective.value == "both" else config.objective.value
        target = attacked.target({"classifier": "smoothed", "decision_votes": config.decision_votes})
        kinds = {kind(attack) for attack in attacks.values()}
        how = [f"gradients through {config.gradient_draws} draws ({climbed})"] * ("gradient" in kinds)
        how += [f"questions answered by {config.query_votes} votes"] * ("decisions" in kinds)
        sort = "" if config.noise.value == "gaussian" else f" of {config.noise.value} noise"
        say("; ".join([f"  {target} (fresh ones), noise_std {config.noise_std:g}{sort}{where}", *how]))
    elif noise.std is not None:
        say(f"  the base classifier, its gradients averaged over {noise.draws} draws of noise {noise.std:g}")
    else:
        say("  the base classifier, without noise")
    for name, attack in attacks.items():
        sizes = ", ".join(f"{b:g}" for b in budgets[str(attack.norm)])
        say(f"  {name}: closest in {attack.norm}, counted at {sizes}" if is_closest(attack) else
            f"  {name}: {attack.norm} budgets {sizes}")
    for name, told in transfers.items():
        say(f"  {name}: the images that {told['attack']} made on {told['title']}")
    for norm, asked in config.budgets.items():
        if asked is not None and norm not in budgets:
            say(f"  budgets.{norm} is not used: none of these attacks is measured in {norm}")
