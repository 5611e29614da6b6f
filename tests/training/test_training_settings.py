"""The settings of training as a structured config."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from robust_cli.messages import Wrong
from robust_cli.training.settings import Keep, Optimizer, Schedule, Training


def test_defaults_go_through_omegaconf_and_back() -> None:
    assert OmegaConf.to_object(OmegaConf.structured(Training)) == Training()


def test_typed_overrides() -> None:
    config = OmegaConf.structured(Training)
    config.merge_with_dotlist(["optimizer=sgd", "schedule=steps", "milestones=[2,4]", "keep=best_validation", "threads=2",
                               "betas=[0.8,0.99]", "learning_rate=1", "init_from=outputs/a"])
    assert OmegaConf.to_object(config) == Training(optimizer=Optimizer.sgd, schedule=Schedule.steps, milestones=[2, 4],
                                                   keep=Keep.best_validation, threads=2, betas=[0.8, 0.99],
                                                   learning_rate=1.0, init_from="outputs/a")


@pytest.mark.parametrize("override", ["epochs=many", "schedule=cyclic", "betas=[a,b]", "threads=all", "keep=first"])
def test_a_wrong_type_is_refused_when_it_is_set(override: str) -> None:
    with pytest.raises(ValidationError):
        OmegaConf.structured(Training).merge_with_dotlist([override])


@pytest.mark.parametrize(("name", "value"), [
    ("epochs", 0), ("batch_size", 0), ("checkpoint_every", 0), ("schedule_patience", -1), ("early_stopping_patience", -1),
    ("learning_rate", 0.0), ("learning_rate", float("nan")), ("learning_rate", float("inf")), ("momentum", 1.0),
    ("weight_decay", -1e-4), ("betas", [0.9]), ("betas", [0.9, 1.0]), ("warmup_fraction", 0.0), ("schedule_factor", 1.0),
    ("milestones", [4, 2]), ("milestones", [0, 2]), ("threads", 0)])
def test_a_value_out_of_range_names_its_setting(name: str, value: Any) -> None:
    with pytest.raises(Wrong) as caught:
        Training(**{name: value})
    assert caught.value.name == name


def test_settings_that_need_each_other() -> None:
    with pytest.raises(Wrong, match="milestones"):
        Training(schedule=Schedule.steps)
    with pytest.raises(Wrong, match="nesterov"):
        Training(optimizer=Optimizer.sgd, momentum=0.0, nesterov=True)


@pytest.mark.parametrize(("settings", "setting"), [
    (Training(), None), (Training(schedule=Schedule.plateau), "training.schedule=plateau"),
    (Training(early_stopping_patience=3), "training.early_stopping_patience=3"),
    (Training(keep=Keep.best_validation), "training.keep=best_validation")])
def test_what_needs_a_validation_split_is_named(settings: Training, setting: str | None) -> None:
    assert settings.needs_validation == setting


def test_settings_import_no_torch() -> None:
    code = "import sys, robust_cli.training.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
