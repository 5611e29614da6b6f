"""`robust attack`: from a trained run to robust accuracy under attacks, and the adversarial images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from robust_cli.commands.following import after_evaluation
from robust_cli.composing.task import command
from robust_cli.messages import UserError
from robust_cli.runs.console import duration, say
from robust_cli.runs.folder import RunFolder

if TYPE_CHECKING:
    from robust_cli.composing.subject import Subject

PAPERS_VOTES = 10


@command("attack")
def main(config: DictConfig, folder: RunFolder) -> None:
    """Attack a model: writes outcomes.csv, the adversarial images, and robust accuracy against budget."""
    from robust_cli.attacks.classifiers import BaseClassifier, SmoothedClassifier
    from robust_cli.attacks.estimate import estimated_seconds
    from robust_cli.attacks.evaluation import check_suited, evaluate, is_closest
    from robust_cli.composing import subject as subjects
    from robust_cli.composing.build import build
    from robust_cli.reporting import results
    from robust_cli.smoothing.votes import NoisyVotes

    attacks = {name: build(node, f"attack.{name}") for name, node in config.attack.items()}
    subject = subjects.load_subject(config, "attack")
    budgets = chosen_budgets(config, subject.dataset, {str(attack.norm) for attack in attacks.values()})
    noise_std = config.noise_std  # none where the base classifier is attacked
    check_suited(attacks, noise_std is not None)
    announce(config, subject, noise_std, attacks, budgets)
    subjects.record(folder, config, subject.device, subject.images, subject.about["model_fingerprint"])

    model, precision, decide = subject.model, subject.about["precision"], None
    if noise_std is not None:
        classifier: Any = SmoothedClassifier(model, noise_std, config.gradient_draws, config.objective.value, precision)
        counter = NoisyVotes(model, subject.classes, noise_std, config.seed, subject.device, precision)

        def decide(images: Any, indices: Any, purpose: str) -> Any:
            return counter.decide(images, indices, purpose, config.decision_votes)
    else:
        classifier = BaseClassifier(model, precision)
    seconds = estimated_seconds(attacks, classifier, subject.images, budgets, config.batch_size, decide)
    say(f"  about {duration(seconds)} for all images and budgets")
    evaluate(attacks, classifier, subject.images, budgets, seed=config.seed, batch_size=config.batch_size, device=subject.device,
             folder=folder, decide=decide)
    folder.write_about({
        **subject.about, "classifier": config.classifier.value, "noise_std": noise_std,
        **through_noise(config), "budgets": budgets,
        "attacks": {name: {"norm": str(a.norm), "closest": is_closest(a), "settings": settings(config.attack[name])}
                    for name, a in attacks.items()}})
    results.attacked(folder)
    say(f"run: {folder}")
    say(f"next: {after_evaluation(folder, config)}")


def through_noise(config: DictConfig) -> dict[str, Any]:
    """How a smoothed classifier is attacked and decided; nothing of it for a base classifier."""
    smoothed = config.noise_std is not None
    return {"gradient_draws": config.gradient_draws if smoothed else None,
            "objective": config.objective.value if smoothed else None,
            "decision_votes": config.decision_votes if smoothed else None}


def chosen_budgets(config: DictConfig, dataset: Any, norms: set[str]) -> dict[str, list[float]]:
    """Budgets by norm: those asked for, else the data set's own. Raises UserError for a norm that has neither."""
    found: dict[str, list[float]] = {}
    for norm in sorted(norms):
        asked = config.budgets.get(norm)
        if asked is None and not hasattr(dataset, "default_budgets"):
            raise UserError(f"budgets.{norm}: expected a list, since the data set has no defaults; set budgets.{norm}=[...]")
        found[norm] = list(asked) if asked is not None else dataset.default_budgets(norm)
    return found


def settings(node: Any) -> dict[str, Any]:
    """An attack's settings as plain values."""
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key not in ("_target_", "budget", "norm")}


def announce(config: DictConfig, subject: Subject, noise_std: float | None, attacks: dict[str, Any],
             budgets: dict[str, list[float]]) -> None:
    """What will be done."""
    from robust_cli.attacks.evaluation import is_closest
    from robust_cli.composing.subject import introduce

    introduce("attack", subject, config)
    if noise_std is None:
        say("  the base classifier, without noise")
    else:
        papers = " (the papers' choice)" if config.decision_votes == PAPERS_VOTES else ""
        say(f"  the smoothed classifier, noise_std {noise_std:g}: gradients through {config.gradient_draws} draws "
            f"({config.objective.value}), outcomes decided by {config.decision_votes} fresh votes{papers}")
    for name, attack in attacks.items():
        sizes = ", ".join(f"{b:g}" for b in budgets[str(attack.norm)])
        say(f"  {name}: closest in {attack.norm}, counted at {sizes}" if is_closest(attack) else
            f"  {name}: {attack.norm} budgets {sizes}")
    for norm, asked in config.budgets.items():
        if asked is not None and norm not in budgets:
            say(f"  budgets.{norm} is not used: none of these attacks is measured in {norm}")
