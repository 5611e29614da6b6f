"""Being asked to stop: what a signal does, with nobody else listening and with a launcher that is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from robust_cli.runs.signals import LISTENED, Stopped, deferred, listening


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in LISTENED}
    for number in LISTENED:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, theirs in before.items():
        signal.signal(number, theirs)


def ask(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGUSR2, "SIGUSR2", 140)])
def test_a_signal_stops_at_once(number: int, name: str, code: int) -> None:
    with pytest.raises(Stopped) as caught, listening():
        ask(number)
    assert (caught.value.name, caught.value.code) == (name, code)
    assert not isinstance(caught.value, Exception)  # nothing that handles errors may swallow it


@pytest.mark.parametrize("number", LISTENED)
def test_deferred_work_is_saved_first_and_only_where_it_says(number: int) -> None:
    done: list[str] = []

    def work() -> None:
        with listening(), deferred() as here:
            here(lambda: done.append("saved without a signal"))
            ask(number)
            done.append("went on to the end of the step")
            here(lambda: done.append("saved"))
            done.append("went on after saving")

    with pytest.raises(Stopped):
        work()
    assert done == ["went on to the end of the step", "saved"]


def test_a_signal_after_the_last_good_place_is_not_lost() -> None:
    with pytest.raises(Stopped), listening(), deferred():
        ask(signal.SIGTERM)


def test_a_second_signal_does_not_wait() -> None:
    with listening(), deferred():
        ask(signal.SIGTERM)
        with pytest.raises(Stopped):
            ask(signal.SIGTERM)


def test_a_launchers_handler_is_called_after_the_work_is_saved_and_decides() -> None:
    heard: list[object] = []
    signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    with listening(), deferred() as here:
        ask(signal.SIGUSR2)
        assert heard == []
        here(lambda: heard.append("saved"))
        assert heard == ["saved", signal.SIGUSR2]
        here(lambda: heard.append("saved again"))
    with listening():
        ask(signal.SIGUSR2)
    assert heard == ["saved", signal.SIGUSR2, signal.SIGUSR2]


def test_a_launchers_signal_does_not_make_the_first_forgotten() -> None:
    heard: list[object] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))  # one that goes on
    with listening(), deferred() as here:
        ask(signal.SIGUSR2)
        ask(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        with pytest.raises(Stopped):
            here(lambda: heard.append("saved"))
    assert heard == [signal.SIGTERM, "saved"]


def test_what_was_there_is_put_back_and_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    with listening():
        ask(signal.SIGUSR2)
        with pytest.raises(Stopped):
            ask(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN


def test_another_thread_changes_nothing() -> None:
    found: list[object] = []

    def work() -> None:
        with listening(), deferred() as here:
            found.append(signal.getsignal(signal.SIGTERM))
            here(lambda: found.append("saved"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
