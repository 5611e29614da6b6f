"""What a run says while it works: lines, tables, and progress with the time left; all of it goes to the run's log too."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

_LINE_EVERY = 30.0  # seconds between two lines of progress off a terminal
_log: TextIO | None = None
_quiet = False


def be_quiet() -> None:
    """Say nothing from here on: one of several processes of a run speaks for all."""
    global _quiet
    _quiet = True


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Copy all that is said into a file while the context lasts."""
    global _log
    before = _log
    with path.open("a", encoding="utf-8", buffering=1) as file:
        _log = file
        try:
            yield
        finally:
            _log = before


def _write_log(text: str) -> None:
    if _log is not None:
        _log.write(time.strftime("%H:%M:%S ") + text + "\n")


def say(text: str) -> None:
    """One line to standard output and to the log. No control characters. A reader who has gone (`| head`) stops no run."""
    if _quiet:
        return
    try:
        print(text, flush=True)
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # later lines, and what is left in the buffer, go nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _write_log(text)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A small table in plain text, first column left, the others right."""
    widths = [max(len(str(row[k])) for row in [columns, *rows]) for k in range(len(columns))]
    if title:
        say(title)
    for row in [columns, *rows]:
        cells = [str(v).ljust(w) if k == 0 else str(v).rjust(w) for k, (v, w) in enumerate(zip(row, widths, strict=True))]
        say("  " + "  ".join(cells).rstrip())


def duration(seconds: float) -> str:
    """'42 s', '3 min 10 s' or '2 h 05 min'."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Track:
    """Progress over a known amount of work: a bar on a terminal, else a line now and then, with rate and time left."""

    def __init__(self, total: int, what: str, unit: str) -> None:
        self.total, self.what, self.unit, self.done = total, what, unit, 0
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Track:
        if sys.stdout.isatty() and not _quiet:
            from rich import progress as bars

            self._bar = bars.Progress(
                bars.TextColumn("{task.description}"), bars.BarColumn(), bars.TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                bars.TextColumn(self.unit), bars.TimeRemainingColumn(), bars.TextColumn("{task.fields[note]}"), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, note="")
        return self

    def advance(self, amount: int, note: str = "") -> None:
        """So much more is done; ``note`` is a short figure to show beside it."""
        self.done += amount
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, note=note)
        if now - self._last >= _LINE_EVERY and self.done < self.total:
            self._last = now
            line = self._line(now, note)
            _write_log(line) if self._bar is not None else say(line)

    def _line(self, now: float, note: str) -> str:
        rate = self.done / max(now - self._start, 1e-9)
        left = duration((self.total - self.done) / rate) if rate else "unknown"
        each = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        return f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, {each}/s, {left} left" + (f", {note}" if note else "")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None:
            seconds = time.monotonic() - self._start
            say(f"{self.what}: {self.done:,} {self.unit} in {duration(seconds)}")


def track(total: int, what: str, unit: str) -> Track:
    """Progress to use in a ``with`` statement."""
    return Track(total, what, unit)
