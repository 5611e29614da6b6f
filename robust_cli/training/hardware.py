"""What `auto` means here: the device, and the arithmetic of the forward pass."""

from __future__ import annotations

import torch

from robust_cli.messages import UserError
from robust_cli.runs.ranks import ranks
from robust_cli.training.settings import Device, Precision


def chosen_device(device: Device) -> torch.device:
    """The device to compute on. Raises UserError when cuda is asked for and there is none."""
    if device is Device.cuda and not torch.cuda.is_available():
        raise UserError("device=cuda: expected a CUDA device, found none that torch can use; set device=cpu or device=auto")
    if device is Device.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    process = ranks()  # of several processes each takes a GPU of its own, named, as threads do not inherit a current one
    return torch.device("cuda") if process.size == 1 else torch.device("cuda", process.local_rank % torch.cuda.device_count())


def chosen_precision(precision: Precision, device: torch.device) -> Precision:
    """fp32 or bf16: auto is bf16 on a GPU that computes it natively, else fp32."""
    if precision is not Precision.auto:
        return precision
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return Precision.bf16 if native else Precision.fp32


def arithmetic(precision: Precision, device: torch.device) -> torch.autocast:
    """The context to run forward passes in; weights, gradients and losses stay fp32."""
    assert precision is not Precision.auto
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision is Precision.bf16)


def seed_layers(device: torch.device, seed: int) -> None:
    """Seed the generator that dropout and its like draw from on ``device``; ``seed`` has 64 bits.

    torch.manual_seed would do, but without a GPU it notes a stack trace at every call: half a millisecond a step.
    """
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
