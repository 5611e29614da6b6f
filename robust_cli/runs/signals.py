"""Being asked to stop: SIGTERM and SIGUSR2, which schedulers send before they kill a job.

Where nobody else listens, the signal raises `Stopped` in the main thread: at once, or, while work is `deferred`, when that work
has come to a place where it is saved. Where somebody does (a launcher that puts the job back into its queue), the work is saved
in the same way and then theirs is called; if that returns, the work goes on.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

LISTENED = (signal.SIGTERM, signal.SIGUSR2)


class Stopped(BaseException):
    """The process was asked to stop. ``name`` of the signal, and the exit code that shells give to it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name, self.code = signal.Signals(number).name, 128 + number


@dataclass
class _Listening:
    before: dict[int, Any] = field(default_factory=dict)  # the handlers that were there
    deferred: bool = False
    pending: int | None = None

    def heard(self, number: int, frame: FrameType | None) -> None:
        if self.deferred and self.pending is None:
            self.pending = number
        elif self.deferred and callable(self.before[number]):
            self.before[number](number, frame)  # a launcher's business; what came first still waits for its good place
        else:  # a second signal does not wait
            self.obey(number, frame)

    def obey(self, number: int, frame: FrameType | None = None) -> None:
        self.pending = None
        theirs = self.before[number]
        if not callable(theirs):
            raise Stopped(number)
        theirs(number, frame)


_now: _Listening | None = None


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """While this lasts a signal stops the process as said above. In another thread than the main one, and for signals that are
    ignored, nothing changes."""
    global _now
    if threading.current_thread() is not threading.main_thread() or _now is not None:
        yield
        return
    mine = _Listening()
    for number in map(int, LISTENED):
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            mine.before[number] = signal.signal(number, mine.heard)
    _now = mine
    try:
        yield
    finally:
        _now = None
        for number, theirs in mine.before.items():
            signal.signal(number, theirs)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[Callable[[], object]], None]]:
    """While this lasts a signal waits until the work calls what it gets here with a function that saves it: where a signal has
    come, that function is called and then the signal obeyed; else nothing happens."""
    mine = _now

    def at_a_good_place(save: Callable[[], object]) -> None:
        if mine is not None and mine.pending is not None:
            number = mine.pending
            save()
            mine.obey(number)

    if mine is not None:
        mine.deferred = True
    try:
        yield at_a_good_place
    finally:
        if mine is not None:
            mine.deferred = False
    if mine is not None and mine.pending is not None:  # it came after the last good place
        mine.obey(mine.pending)
