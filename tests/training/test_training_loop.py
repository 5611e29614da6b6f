"""What the loop does with a regime's loss: learns, counts, records, stops."""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import replace

import pytest
import torch
from small_problem import Averaging, Run, network, stripes
from torch import nn

from robust_cli.messages import UserError, Wrong
from robust_cli.regimes.batch import Batch, Losses, Progress
from robust_cli.regimes.noise_augmentation import NoiseAugmentation
from robust_cli.regimes.stability import Stability
from robust_cli.regimes.standard import Standard
from robust_cli.runs.folder import RunFolder
from robust_cli.training import evaluation, trainer
from robust_cli.training.estimate import estimated_seconds
from robust_cli.training.settings import Keep, Optimizer, Precision, Schedule, Training

Regimes = Standard | NoiseAugmentation | Stability
SHORT = Training(epochs=2, batch_size=16)


class Recording:
    """Cross entropy; keeps the batches and progress it was given in training."""

    noise_std = None

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.progress: list[Progress] = []
        self.losses: list[float] = []

    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        loss = nn.functional.cross_entropy(model(batch.images), batch.labels)
        if model.training:
            self.batches.append(batch)
            self.progress.append(progress)
            self.losses.append(float(loss.detach()))
        return Losses(loss, {"twice": 2 * loss, "one": torch.ones(())})


class Constant:
    """A loss of given values, step by step, with no gradient worth the name."""

    noise_std = None

    def __init__(self, training: list[float], validation: list[float] | None = None) -> None:
        self.training, self.validation, self.calls = training, validation or [], 0

    def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
        weights = sum((p.sum() for p in model.parameters()), torch.zeros(()))
        if model.training:
            return Losses(0 * weights + self.training[progress.step % len(self.training)])
        self.calls += 1
        return Losses(0 * weights + self.validation[self.calls - 1])


def rows(folder: RunFolder) -> list[dict[str, str]]:
    with folder.metrics.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("regime", [Standard(), NoiseAugmentation(noise_std=0.1), Stability(noise_std=0.1)])
@pytest.mark.parametrize("settings", [
    Training(epochs=15, batch_size=10, learning_rate=0.01),
    Training(epochs=15, batch_size=10, learning_rate=0.02, optimizer=Optimizer.sgd, schedule=Schedule.cosine)])
def test_a_separable_problem_is_learnt(run: Run, regime: Regimes, settings: Training) -> None:
    result, model, folder = run("a", settings, regime)
    assert result.train_accuracy == 1.0
    assert result.validation_accuracy == 1.0  # images that it has not seen
    assert result.warning is None
    assert not model.training
    losses = [float(row["loss"]) for row in rows(folder)]
    assert losses[-1] < 0.3 * losses[0]


def test_two_runs_are_the_same_to_the_last_bit_and_another_seed_is_another_run(run: Run) -> None:
    settings = Training(epochs=2, batch_size=16)
    models = [run(name, settings, Stability(), seed=seed)[1] for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_global_generator_plays_no_part(run: Run) -> None:
    torch.manual_seed(1)
    first = run("a", SHORT, Stability())[1]
    torch.rand(7)
    second = run("b", SHORT, Stability())[1]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_every_image_once_per_epoch_in_another_order(run: Run) -> None:
    regime, images = Recording(), stripes(50)
    run("a", SHORT, regime)
    epochs = [torch.cat([b.indices for b in regime.batches[k : k + 4]]) for k in (0, 4)]
    assert all(torch.equal(epoch.sort().values, images.indices) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert [len(b.labels) for b in regime.batches] == [16, 16, 16, 2] * 2
    assert [(p.step, p.epoch, p.total, p.seed) for p in regime.progress] == [(k, k // 4, 8, 3) for k in range(8)]


def test_batches_are_the_images_in_the_unit_interval(run: Run) -> None:
    regime, images = Recording(), stripes(50)
    run("a", SHORT, regime)
    for batch in regime.batches:
        positions = batch.indices - 1000
        assert torch.equal(batch.labels, images.labels[positions])
        torch.testing.assert_close(batch.images, images.pixels[positions].float() / 255)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_drop_last_leaves_out_the_small_batch(run: Run) -> None:
    regime = Recording()
    result, _, _ = run("a", replace(SHORT, drop_last=True), regime)
    assert [len(b.labels) for b in regime.batches] == [16] * 6
    assert result.steps == 6
    with pytest.raises(Wrong, match="batch_size"):
        run("b", Training(epochs=1, batch_size=51, drop_last=True))


def test_augmentation_is_fresh_per_step_and_off_when_not_asked_for(run: Run) -> None:
    """50 copies of one image: the k-th of a batch shows the k-th crop that was drawn."""
    regime, images = Recording(), stripes(50)
    copies = replace(images, pixels=images.pixels[:1].repeat(50, 1, 1, 1))
    run("a", replace(SHORT, batch_size=25), regime, augment="crop_flip", train=copies)
    same = [float((x.images == y.images).flatten(1).all(1).double().mean())
            for x, y in itertools.combinations(regime.batches, 2)]
    assert max(same) < 0.2
    assert len({tuple(image.flatten().tolist()) for image in regime.batches[0].images}) > 10
    with pytest.raises(Wrong, match="crop_flip"):
        run("b", SHORT, augment="crop")


def test_metrics_are_means_over_images_with_a_column_per_term(run: Run) -> None:
    regime = Recording()
    result, model, folder = run("a", SHORT, regime)
    found = rows(folder)
    assert list(found[0]) == ["epoch", "step", "seconds", "learning_rate", "loss", "twice", "one", "train_accuracy",
                              "validation_loss", "validation_accuracy"]
    assert [(row["epoch"], row["step"]) for row in found] == [("1", "4"), ("2", "8")]
    sizes = [16, 16, 16, 2]
    for k, row in enumerate(found):
        mean = sum(n * x for n, x in zip(sizes, regime.losses[4 * k : 4 * k + 4], strict=True)) / 50
        assert float(row["loss"]) == pytest.approx(mean, rel=1e-6)
        assert float(row["twice"]) == pytest.approx(2 * mean, rel=1e-6)
        assert row["one"] == "1"
    held = stripes(21, seed=1)
    with torch.no_grad():
        logits = model(held.float())
    assert float(found[-1]["validation_loss"]) == pytest.approx(float(nn.functional.cross_entropy(logits, held.labels)), rel=1e-5)
    assert float(found[-1]["validation_accuracy"]) == pytest.approx(float((logits.argmax(1) == held.labels).double().mean()))
    assert float(found[-1]["train_accuracy"]) == pytest.approx(result.train_accuracy)


def test_without_validation_its_columns_are_empty(run: Run) -> None:
    result, _, folder = run("a", SHORT, validation=None)
    assert {(row["validation_loss"], row["validation_accuracy"]) for row in rows(folder)} == {("", "")}
    assert (result.validation_loss, result.validation_accuracy) == (None, None)


@pytest.mark.parametrize("settings", [replace(SHORT, schedule=Schedule.plateau), replace(SHORT, early_stopping_patience=1),
                                      replace(SHORT, keep=Keep.best_validation)])
def test_what_needs_validation_says_so(run: Run, settings: Training) -> None:
    with pytest.raises(UserError, match=r"dataset\.validation"):
        run("a", settings, validation=None)


def test_validation_noise_is_the_same_in_every_epoch(run: Run) -> None:
    """A learning rate of (almost) nothing leaves the objective where it was, noise and all."""
    settings = Training(epochs=3, batch_size=16, learning_rate=1e-30, schedule=Schedule.constant)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    _, _, folder = run("a", settings, Stability(noise_std=0.5), model=model)
    assert len({row["validation_loss"] for row in rows(folder)}) == 1
    assert len({row["loss"] for row in rows(folder)}) == 3


def test_early_stopping_ends_the_run(run: Run) -> None:
    """The third epoch in a row above the best (that of epoch 2) is the last; a tie would start the count again."""
    validation = [2.0, 1.0, 1.5, 1.0, 1.1, 1.2, 1.3, 0.1, 0.1]
    settings = Training(epochs=9, batch_size=50, early_stopping_patience=3)
    result, _, folder = run("a", settings, Constant([1.0], validation), validation=stripes(3))
    assert result.epochs == 7
    assert result.stopped_early
    assert [float(row["validation_loss"]) for row in rows(folder)] == pytest.approx(validation[:7])


@pytest.mark.parametrize("keep", list(Keep))
def test_the_weights_that_are_kept(run: Run, keep: Keep) -> None:
    """The validation loss is least in epoch 2; training goes on to epoch 4 on a loss that always has a gradient."""

    class Drifting(Constant):
        def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
            if not model.training:
                return super().loss(model, batch, progress)
            return Losses(sum((p.sum() for p in model.parameters()), torch.zeros(())))

    layer = nn.Linear(64, 3)
    model, start = nn.Sequential(nn.Flatten(), layer), layer.weight.detach().clone()
    settings = Training(epochs=4, batch_size=50, optimizer=Optimizer.sgd, momentum=0.0, learning_rate=0.1, keep=keep,
                        schedule=Schedule.constant)
    result, _, _ = run("a", settings, Drifting([], [2.0, 1.0, 3.0, 1.0, 9.0]), model=model, validation=stripes(3))
    epochs = {Keep.last: 4, Keep.best_validation: 2}[keep]
    assert result.kept_epoch == epochs
    torch.testing.assert_close(layer.weight.detach(), start - 0.1 * epochs)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(run: Run, bad: float) -> None:
    settings = Training(epochs=5, batch_size=16, learning_rate=0.25, schedule=Schedule.constant)
    losses = [1.0] * 10 + [bad] + [1.0] * 9
    with pytest.raises(UserError, match=r"step 11 \(epoch 3\), learning rate 0\.25; the checkpoint after epoch 2") as caught:
        run("a", settings, Constant(losses, [1.0] * 10))
    assert "\n" not in str(caught.value)
    _, model, folder = run("b", replace(settings, epochs=2), Constant([1.0], [1.0] * 10))
    saved = torch.load(folder.path.parent / "a" / "checkpoint.pt", weights_only=True)
    assert saved["epoch"] == 2
    assert all(torch.equal(saved["weights"][name], value) for name, value in model.state_dict().items())
    assert len(rows(RunFolder(folder.path.parent / "a"))) == 2


def test_a_run_that_explodes_by_itself_is_stopped(run: Run) -> None:
    settings = Training(epochs=30, batch_size=16, learning_rate=1e30, optimizer=Optimizer.sgd, schedule=Schedule.constant)
    with pytest.raises(UserError, match=r"no checkpoint had been written yet"):
        run("a", settings)


def test_weights_that_are_not_finite_are_not_saved(run: Run) -> None:
    """A finite loss whose gradient is not: sqrt at 0."""

    class Root(Constant):
        def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
            found = super().loss(model, batch, progress)
            bad = model.training and progress.step == 3
            return Losses(found.total + sum(((0 * p).sum().abs().sqrt() for p in model.parameters()), torch.zeros(()))) \
                if bad else found

    with pytest.raises(UserError, match=r"weights are no longer finite after step 4 \(epoch 4\).*after epoch 3 is kept"):
        run("a", Training(epochs=5, batch_size=50), Root([1.0], [1.0] * 10))


def test_a_collapsed_model_is_noticed_early_and_at_the_end(run: Run, capsys: pytest.CaptureFixture[str],
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_FEW", 4)  # of this run's 16 steps
    settings = Training(epochs=4, batch_size=16, learning_rate=1e-30)
    model = network()
    with torch.no_grad():
        dict(model.named_parameters())["7.bias"].copy_(torch.tensor([50.0, 0.0, 0.0]))
    result, _, _ = run("a", settings, model=model)
    said = capsys.readouterr().out
    assert result.warning is not None
    assert "1 of 3 classes" in result.warning
    assert result.warning in said
    assert said.count("collapsed") == 2
    assert "epoch 2 of 4" in said


def test_bf16_computes_in_bf16_and_keeps_fp32_weights(run: Run) -> None:
    class Types(Recording):
        def loss(self, model: nn.Module, batch: Batch, progress: Progress) -> Losses:
            seen.append(model(batch.images).dtype)
            return super().loss(model, batch, progress)

    seen: list[torch.dtype] = []
    result, model, _ = run("a", SHORT, Types(), precision=Precision.bf16)
    assert set(seen) >= {torch.bfloat16}
    assert result.precision is Precision.bf16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert run("b", SHORT)[0].precision is Precision.fp32  # auto on a CPU


def test_the_model_ends_in_the_ordinary_layout(run: Run) -> None:
    assert all(p.is_contiguous() for p in run("a", SHORT)[1].parameters())


def test_progress_has_the_epoch_and_the_loss(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[tuple[int, str]] = []
    monkeypatch.setattr(trainer.Track, "advance", lambda self, n, note="": notes.append((n, note)))
    run("a", SHORT)
    assert sum(n for n, _ in notes) == 100
    assert notes[-1][1].startswith("epoch 2/2, loss ")


def test_an_estimate_changes_nothing() -> None:
    model, regime = network(), Averaging()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.random.get_rng_state()
    seconds = estimated_seconds(model, regime, stripes(50), SHORT, seed=0, device=torch.device("cpu"),
                                precision=Precision.auto, augment="crop_flip")
    assert 0 < seconds < math.inf
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert regime.mean == 1
    assert torch.equal(before, torch.random.get_rng_state())
