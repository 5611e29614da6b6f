"""Processes that share one run, as torchrun starts them. Without it there is one, and nothing here imports torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from robust_cli.messages import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that makes the folder, speaks and writes the results."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            _group().barrier()

    def agreed(self, text: str) -> str:
        """What the first process says."""
        if self.size == 1:
            return text
        said = [text]
        _group().broadcast_object_list(said, src=0)
        return said[0]


def ranks() -> Ranks:
    """From what torchrun puts into the environment. Raises UserError where that is no number."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Ranks()
    try:
        return Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    except (KeyError, ValueError) as error:
        raise UserError("torchrun: expected its RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE in the environment "
                        f"({error})") from error


def own_cores() -> int:
    """The cores that this process may use, shared with the other processes of its run on this machine; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // ranks().local_size)


def _group():  # type: ignore[no-untyped-def]
    """torch.distributed with its group made: gloo, since nothing but a name and barriers goes between the processes."""
    from datetime import timedelta

    import torch.distributed as group

    if not group.is_initialized():
        group.init_process_group("gloo", timeout=timedelta(days=30))  # a barrier waits for the slowest process's images
    return group
