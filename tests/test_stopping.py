import os
import signal
import threading

import pytest

from simclr.stopping import stop_requests


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_event_and_interrupts_nothing(number: int) -> None:
    with stop_requests() as stop:
        assert not stop.is_set()
        send(number)
        assert stop.is_set()


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_another_signal_a_moment_later_interrupts_at_once(monkeypatch, second: int) -> None:
    monkeypatch.setattr("simclr.stopping.SAME_PRESS", 0.0)
    with stop_requests():
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(second)


def test_one_press_that_arrives_twice_interrupts_nothing() -> None:
    """From the terminal and from a launcher."""
    with stop_requests() as stop:
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert stop.is_set()


def test_handlers_are_put_back_even_after_an_error() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError), stop_requests():
        assert signal.getsignal(signal.SIGTERM) != before[1]
        raise ValueError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_the_event_is_given_and_handlers_stay() -> None:
    before, found = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with stop_requests() as stop:
            found.append((stop.is_set(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]
