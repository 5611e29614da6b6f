"""Processes of one run: who leads, which device and how many cores each has."""

from __future__ import annotations

import os

import pytest
import torch

from robust_cli.messages import UserError
from robust_cli.runs.ranks import Ranks, own_cores, ranks
from robust_cli.training.hardware import chosen_device
from robust_cli.training.settings import Device

OF_TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


@pytest.fixture
def second_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OF_TORCHRUN.items():
        monkeypatch.setenv(name, value)


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "3")  # of something else
    assert ranks() == Ranks(0, 1, 0, 1)
    assert ranks().agreed("here") == "here"
    ranks().wait()


def test_what_torchrun_says(second_of_four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ranks() == Ranks(5, 8, 1, 4)
    assert not ranks().leads
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(UserError, match="torchrun: expected"):
        ranks()


@pytest.mark.parametrize(("cores", "own"), [(16, 4), (3, 1)])
def test_processes_of_one_machine_share_its_cores(second_of_four: None, monkeypatch: pytest.MonkeyPatch, cores: int,
                                                  own: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert own_cores() == own


def test_each_process_has_a_gpu_of_its_own(second_of_four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert chosen_device(Device.auto) == chosen_device(Device.cuda) == torch.device("cuda", 1)
    assert chosen_device(Device.cpu) == torch.device("cpu")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert chosen_device(Device.auto) == torch.device("cuda")
