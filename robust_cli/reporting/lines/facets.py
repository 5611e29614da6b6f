"""What is known of a run, in words by name: of its model and the training behind it, its noise, certificate or attack."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from robust_cli.reporting.reading.about import claimed, deterministic, noise_layer, of_softmax, preset
from robust_cli.reporting.reading.load import DERIVED, Attacked, Certified, Run

Facets = dict[str, str]
TRAINING = "training: "  # begins the names of what the training run's settings say
REGIME = f"{TRAINING}regime."  # of them, the regime's own
SMOOTHED, NETWORK, EXACT = "smoothed", "network itself", "exact, no sampling"
_SAID_ELSEWHERE = ("name", "samples", "selection_samples", "label_aware", "_target_")


def words(pairs: Iterable[tuple[str, object, str]]) -> Facets:
    """(name, value, form) each, without those that have no value."""
    return {key: form.format(value) for key, value, form in pairs if value is not None and value != ""}


def of_training(training: dict[str, Any] | None) -> Facets:
    """The settings of a training run, in words; those of the regime by their whole names ('attack steps 10')."""
    settings, found = training or {}, {}
    for key, value in settings.items():
        owner, _, last = key.rpartition(".")
        if last == "_target_" and owner.startswith("regime."):
            found[f"{TRAINING}{owner}"] = f"{_inside(owner)} {_class(str(value), settings.get(f'{owner}.norm'))}"
        elif last != "_target_" and key != "regime.noise_std" and not (last == "norm" and f"{owner}._target_" in settings):
            found[f"{TRAINING}{key}"] = _said(_inside(key) if key.startswith("regime.") else last, value)
    return found


def _inside(key: str) -> str:
    return key.removeprefix("regime.").replace(".", " ")


def _class(target: str, norm: object) -> str:
    """A plug-in by the name of its file, one of the user's own by that of its class."""
    package, _, name = target.rpartition(".")
    named = package.rsplit(".", 1)[-1] if package.startswith("robust_cli.") else name
    return f"{named} {norm}" if norm else named


def _said(name: str, value: object) -> str:
    if value is None or value is False:
        return f"no {name}"
    return name if value is True else f"{name} {value}"


def of_run(run: Run) -> Facets:
    """The model of a run, and how it was trained."""
    return of_model(run.about, run.training)


def of_model(about: dict[str, Any], training: dict[str, Any] | None) -> Facets:
    """The model that an about.json tells of: what it was trained on and how, and the noise it stands in."""
    layer = noise_layer(about)
    found = words((key, about.get(key), form) for key, form in (
        ("dataset", "{}"), ("model", "{}"), ("regime", "{}"), ("noise_std", "noise {}"), ("subset", "images {}"),
        ("precision", "{}"), ("training_noise_std", "trained with noise {}"), ("model_file", "file {}"),
        ("model_entry", "entry {}")))
    found |= {} if layer == "input" else {"noise_layer": f"noise in the {layer} layer"}
    return {**found, **of_training(training)}


def of_certificate(run: Certified, name: str) -> Facets:
    """One certificate of a run."""
    return _deterministic(run, name) if deterministic(run.about, name) else _sampled(run, name)


def _deterministic(run: Certified, name: str) -> Facets:
    """A certificate of the network itself, which draws nothing: without noise, votes and what may fail."""
    own, radius = run.about["certificates"][name], preset(run.about, name)
    return {**of_run(run), **words((
        ("classifier", NETWORK, "{}"), ("samples", EXACT, "{}"), ("shard", run.about.get("shard"), "shard {}"),
        ("norm", run.norm(name), "{}"),
        ("cascade", "cascade" if own.get("cascade") else None, "{}"),
        ("certificate", name, "claimed by {}" if claimed(run.about, name) else "certified by {}"),
        ("radius", None if radius is None else f"{radius:.6g}", "asked for {}"),
        ("relaxation", own.get("relaxation"), "{} relaxation"), ("tolerance", own.get("tolerance"), "tolerance {}")))}


def _sampled(run: Certified, name: str) -> Facets:
    """A certificate of a smoothed classifier, from votes or scores under noise."""
    about = run.about
    own = about.get("certificates", {}).get(name, {})
    bounds = own.get("bounds") or run.of(name)["bounds"].iloc[0]
    plan = about.get("sampling") or {}
    settings = {f"plan: {k}": _of_plan(k, v) for k, v in plan.items() if k not in _SAID_ELSEWHERE}
    return {**of_run(run), **settings, **words((
        ("classifier", SMOOTHED, "{}"),
        ("noise", about.get("noise", "gaussian"), "{} noise"), ("sampling", plan.get("name", "fixed"), "{} sampling"),
        ("label_aware", "label-aware" if about.get("label_aware") else None, "{}"),
        ("shard", about.get("shard"), "shard {}"), ("norm", run.norm(name), "{}"),
        ("scores", "expected softmax" if of_softmax(about, name) else None, "{}"),
        ("certificate", name, "{}"), ("bounds", str(bounds).replace("_", "-"), "{}"),
        ("interval", own.get("interval"), "{} interval"), ("multiplicity", own.get("multiplicity"), "multiplicity: {}"),
        ("samples", about.get("samples"), "n = {}" if plan.get("name", "fixed") == "fixed" else "n at most {}"),
        ("selection_samples", about.get("selection_samples"), "{} selection votes"),
        ("failure_probability", about.get("failure_probability"), "failure probability {}"),
        ("discount", about.get("discount"), "discount {}")))}


def _of_plan(name: str, value: object) -> str:
    """A plan's setting in words; null radii are the plan's usual ones."""
    if value is None:
        return "usual radii" if name == "radii" else f"no {name}"
    return f"{name} {value}"


def of_attack(run: Attacked, name: str) -> Facets:
    """One attack of a run."""
    about = run.about
    own = about.get("attacks", {}).get(name.removesuffix(f"{DERIVED}8bit"), {}).get("settings") or {}
    source = (about.get("transfer") or {}).get(name, {}).get("source")
    settings = {f"attack: {k}": f"{k} {v}" for k, v in own.items() if k not in ("budget", "_target_", "norm")}
    return {**of_run(run), **settings, **words((
        ("attack", name, "{}"), ("attack: source", source and Path(source).name, "images of {}"),
        ("classifier", about.get("classifier"), "{} classifier"),
        ("noise", None if about.get("noise") == "gaussian" else about.get("noise"), "{} noise"),
        ("decision_votes", about.get("decision_votes"), "{} votes"),
        ("gradient_draws", about.get("gradient_draws"), "{} gradient draws"),
        ("objective", about.get("objective"), "{}"), ("query_votes", about.get("query_votes"), "{} query votes"),
        ("gradient_noise", _noise(about.get("gradient_noise")), "gradients through noise {}"),
        ("early_stop", "all" if about.get("early_stop") is False else None, "{} steps"),
        ("also_wrong", about.get("labels") if about.get("also_wrong") else None, "wrong images too ({} labels)")))}


def _noise(of_gradients: dict[str, Any] | None) -> str | None:
    return f"{of_gradients['std']:g} x {of_gradients['draws']}" if of_gradients else None
