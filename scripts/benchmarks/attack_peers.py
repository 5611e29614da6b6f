"""Each benchmark task as every library runs it, ours among them: the same steps, everything else as the library ships it.

A task's runner takes a `Job` (a model in evaluation mode with frozen weights, images, labels, seed, budgets) and returns one
batch of adversarial images for each budget; a closest-example task has one budget, infinity. Peers are imported when they run.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn

import robust_cli
from robust_cli.attacks.classifiers import BaseClassifier
from robust_cli.attacks.closest import channels_last
from robust_cli.composing.build import build
from robust_cli.datasets.images import Images
from robust_cli.evaluation.outcomes import evaluate
from robust_cli.runs.folder import RunFolder
from robust_cli.smoothing.noise import ImageDraws

PGD_STEPS, PGD_STEP = 40, 2.5 / 40  # the step in budgets
SEARCHES, ADAM_STEPS = 9, 200  # of Carlini and Wagner's
BOUNDARY_STEPS, HOP_STEPS, HOP_QUERIES = 5000, 32, 1000  # queries for a gradient, at most
OURS = "ours"


@dataclass(frozen=True)
class Job:
    """What an attack is given."""

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    indices: list[int]
    seed: int
    budgets: list[float]
    batch_size: int
    class_names: tuple[str, ...]

    def batches(self) -> list[Job]:
        rows = torch.arange(len(self.images)).split(self.batch_size)
        return [replace(self, images=self.images[r], labels=self.labels[r], indices=[self.indices[k] for k in r]) for r in rows]


Runner = Callable[[Job], list[torch.Tensor]]


@dataclass(frozen=True)
class Task:
    """One comparison: its norm, its runners by library, and its budgets ('one', 'grid'; 'none' for closest examples)."""

    norm: str
    budgets: str
    runners: dict[str, Runner]
    quick: bool = True  # short enough to be warmed up by running it


def shipped(name: str, **settings: Any) -> Any:
    """Our attack as the configuration ships it, with some settings of its own."""
    folder = Path(robust_cli.__file__).parents[1] / "conf" / "attack"
    return build(OmegaConf.merge(OmegaConf.load(folder / f"{name}.yaml"), settings), f"attack.{name}")


def each_budget(attack: Callable[[Job, float], torch.Tensor]) -> Runner:
    """A runner that asks for one budget after the other, batch by batch."""
    return lambda job: [torch.cat([attack(batch, budget) for batch in job.batches()]) for budget in job.budgets]


def ours(name: str, **settings: Any) -> Runner:
    def attack(job: Job, budget: float) -> torch.Tensor:
        within = {} if math.isinf(budget) else {"budget": budget}
        built, draws = shipped(name, **settings, **within), ImageDraws("cpu", job.seed, "benchmark", job.indices)
        with channels_last(job.model):  # as `robust attack` loads it
            return built(BaseClassifier(job.model), job.images, job.labels, draws)

    return each_budget(attack)


def our_curve(name: str, **settings: Any) -> Runner:
    """All budgets at once, through the evaluation that the command line runs, files and all."""
    def run(job: Job) -> list[torch.Tensor]:
        attack = shipped(name, **settings)
        images = Images(job.images, job.labels, torch.tensor(job.indices), job.class_names)
        quiet = contextlib.redirect_stdout(io.StringIO())
        with tempfile.TemporaryDirectory() as place, quiet, channels_last(job.model):
            folder = RunFolder(Path(place))
            evaluate({name: attack}, BaseClassifier(job.model), images, {attack.norm: job.budgets}, seed=job.seed,
                     batch_size=job.batch_size, device="cpu", folder=folder)
            return [torch.from_numpy(np.load(folder.adversarial(name, budget))) for budget in job.budgets]

    return run


def foolbox(name: str, **settings: Any) -> Runner:
    def run(job: Job) -> list[torch.Tensor]:
        import foolbox as fb

        attack = getattr(fb.attacks, name)(**settings)
        model = fb.PyTorchModel(job.model, bounds=(0, 1), device="cpu")
        budgets = None if math.isinf(job.budgets[0]) else job.budgets  # its own list of budgets, one after the other inside
        parts = []
        for batch in job.batches():
            _, clipped, _ = attack(model, batch.images, batch.labels, epsilons=budgets)
            parts.append([clipped] if budgets is None else clipped)
        return [torch.cat(each) for each in zip(*parts, strict=True)]

    return run


def torchattacks(name: str, relative_step: float | None = None, **settings: Any) -> Runner:
    def attack(job: Job, budget: float) -> torch.Tensor:
        import torchattacks as ta

        within = {} if math.isinf(budget) else {"eps": budget}
        step = {} if relative_step is None else {"alpha": relative_step * budget}
        seed = {"seed": job.seed, "n_classes": len(job.class_names)} if name == "AutoAttack" else {}
        return getattr(ta, name)(job.model, **settings, **within, **step, **seed)(job.images, job.labels).detach()

    return each_budget(attack)


def adv_lib(name: str, **settings: Any) -> Runner:
    def attack(job: Job, budget: float) -> torch.Tensor:
        import adv_lib.attacks as attacks

        within = {} if math.isinf(budget) else {"ε": budget}
        return getattr(attacks, name)(job.model, job.images, job.labels, **settings, **within).detach()

    return each_budget(attack)


def cleverhans_pgd(norm: float) -> Runner:
    def attack(job: Job, budget: float) -> torch.Tensor:
        from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

        return projected_gradient_descent(job.model, job.images, budget, PGD_STEP * budget, PGD_STEPS, norm, 0, 1, job.labels,
                                          sanity_checks=False).detach()

    return each_budget(attack)


def cleverhans_cw(job: Job, _: float) -> torch.Tensor:
    from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2

    return carlini_wagner_l2(job.model, job.images, len(job.class_names), job.labels, binary_search_steps=SEARCHES,
                             max_iterations=ADAM_STEPS)


def cleverhans_hop(norm: float) -> Runner:
    def attack(job: Job, _: float) -> torch.Tensor:
        from cleverhans.torch.attacks.hop_skip_jump_attack import hop_skip_jump_attack

        return hop_skip_jump_attack(job.model, job.images, norm, num_iterations=HOP_STEPS, max_num_evals=HOP_QUERIES,
                                    constraint=norm, verbose=False).detach()

    return each_budget(attack)


def toolbox(name: str, **settings: Any) -> Runner:
    """adversarial-robustness-toolbox."""
    def attack(job: Job, _: float) -> torch.Tensor:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        victim = PyTorchClassifier(job.model, nn.CrossEntropyLoss(), tuple(job.images.shape[1:]), len(job.class_names),
                                   clip_values=(0, 1), device_type="cpu")
        made = getattr(evasion, name)(victim, verbose=False, **settings).generate(job.images.numpy(), job.labels.numpy())
        return torch.from_numpy(made)

    return each_budget(attack)


_LINF = {
    "foolbox": foolbox("LinfPGD", rel_stepsize=PGD_STEP, steps=PGD_STEPS),
    "torchattacks": torchattacks("PGD", relative_step=PGD_STEP, steps=PGD_STEPS),
    "adv_lib": adv_lib("pgd_linf", steps=PGD_STEPS, relative_step_size=PGD_STEP),
    "cleverhans": cleverhans_pgd(math.inf),
}
_L2 = {
    "foolbox": foolbox("L2PGD", rel_stepsize=PGD_STEP, steps=PGD_STEPS),
    "torchattacks": torchattacks("PGDL2", relative_step=PGD_STEP, steps=PGD_STEPS),
    "cleverhans": cleverhans_pgd(2),
}
TASKS: dict[str, Task] = {
    "pgd_linf": Task("linf", "one", {OURS: ours("pgd_linf"), **_LINF}),
    "pgd_l2": Task("l2", "one", {OURS: ours("pgd_l2"), **_L2}),
    "pgd_linf_curve": Task("linf", "grid", {OURS: our_curve("pgd_linf"), **_LINF}),
    "pgd_l2_curve": Task("l2", "grid", {OURS: our_curve("pgd_l2"), **_L2}),
    "deepfool": Task("l2", "none", {
        OURS: ours("deepfool"), "foolbox": foolbox("L2DeepFoolAttack", steps=50),
        "torchattacks": torchattacks("DeepFool", steps=50), "adv_lib": adv_lib("df", steps=50),
        "art": toolbox("DeepFool", max_iter=50, batch_size=100)}),
    "ddn": Task("l2", "none", {
        OURS: ours("ddn"), "foolbox": foolbox("DDNAttack", steps=100), "adv_lib": adv_lib("ddn", steps=100, levels=None)}),
    "fmn_l2": Task("l2", "none", {
        OURS: ours("fmn_l2"), "foolbox": foolbox("L2FMNAttack", steps=100), "adv_lib": adv_lib("fmn", norm=2, steps=100)}),
    "fmn_linf": Task("linf", "none", {
        OURS: ours("fmn_linf"), "foolbox": foolbox("LInfFMNAttack", steps=100),
        "adv_lib": adv_lib("fmn", norm=math.inf, steps=100)}),
    "carlini_wagner": Task("l2", "none", {
        OURS: ours("carlini_wagner"),
        "foolbox": foolbox("L2CarliniWagnerAttack", binary_search_steps=SEARCHES, steps=ADAM_STEPS),
        # The paper's step, 0.01, is made for thousands of steps: where these are few, peers run with a larger one besides.
        "foolbox (step 0.05)": foolbox("L2CarliniWagnerAttack", binary_search_steps=SEARCHES, steps=ADAM_STEPS, stepsize=0.05,
                                       initial_const=0.1),
        "adv_lib": adv_lib("carlini_wagner_l2", binary_search_steps=SEARCHES, max_iterations=ADAM_STEPS),
        "adv_lib (step 0.05)": adv_lib("carlini_wagner_l2", binary_search_steps=SEARCHES, max_iterations=ADAM_STEPS,
                                       learning_rate=0.05, initial_const=0.1),
        "cleverhans": each_budget(cleverhans_cw),
        "torchattacks": torchattacks("CW", steps=SEARCHES * ADAM_STEPS),  # it has no search: all steps at its constant 1
        "art": toolbox("CarliniL2Method", binary_search_steps=SEARCHES, max_iter=ADAM_STEPS, batch_size=100)}, quick=False),
    "lbfgs": Task("l2", "none", {OURS: ours("lbfgs")}, quick=False),  # no peer on PyTorch has it
    "boundary": Task("l2", "none", {
        OURS: ours("boundary", iterations=BOUNDARY_STEPS),
        "foolbox": foolbox("BoundaryAttack", steps=BOUNDARY_STEPS)}, quick=False),
    "hop_skip_jump_linf": Task("linf", "none", {
        OURS: ours("hop_skip_jump_linf", iterations=HOP_STEPS, max_queries=HOP_QUERIES), "cleverhans": cleverhans_hop(math.inf),
        "foolbox": foolbox("HopSkipJumpAttack", constraint="linf", steps=HOP_STEPS, max_gradient_eval_steps=HOP_QUERIES)},
        quick=False),
    "ensemble_linf": Task("linf", "middle", {
        OURS: ours("standard_linf"), "torchattacks": torchattacks("AutoAttack", norm="Linf")}, quick=False),
    "ensemble_l2": Task("l2", "middle", {
        OURS: ours("standard_l2"), "torchattacks": torchattacks("AutoAttack", norm="L2")}, quick=False),
}
