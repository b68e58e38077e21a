"""The map shows a sample of the collection, and what is computed in the background is computed once for each state."""

import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from simclr.errors import ConfigError
from simclr.serve.background import Once
from simclr.serve.limits import Refused
from simclr.serve.map import sample
from simclr.serve.models import Pending


@dataclass
class State:
    generation: int


def settled(once, state):
    deadline = time.monotonic() + 10
    while isinstance(found := once.ask(state), Pending):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found


def test_a_sample_is_the_same_each_time_rising_and_no_larger_than_asked():
    ids = np.arange(0, 10_000, 3)
    found = sample(ids, 100)
    assert len(found) == 100 and (np.diff(found) > 0).all() and np.isin(found, ids).all()
    np.testing.assert_array_equal(found, sample(ids, 100))
    np.testing.assert_array_equal(sample(ids, len(ids)), ids)


def test_it_is_computed_once_for_each_state():
    states = []
    once = Once(
        lambda state, progress: states.append(state.generation) or state.generation, turn=threading.Lock()
    )
    assert [settled(once, State(1)) for _ in range(3)] == [1, 1, 1]
    assert settled(once, State(2)) == 2 and states == [1, 2]


def test_a_state_that_changes_meanwhile_is_computed_afterwards():
    go = threading.Event()

    def compute(state, progress):
        go.wait(10)
        return state.generation

    once = Once(compute, turn=threading.Lock())
    assert isinstance(once.ask(State(1)), Pending)
    assert isinstance(once.ask(State(2)), Pending)
    go.set()
    assert settled(once, State(2)) == 2


def test_it_says_how_far_it_is():
    go = threading.Event()

    def compute(state, progress):
        progress("counting", 3, 10)
        go.wait(10)
        return "done"

    once = Once(compute, turn=threading.Lock())
    deadline = time.monotonic() + 10
    while (pending := once.ask(State(1))).doing != "counting":
        assert time.monotonic() < deadline
    assert (pending.done, pending.total) == (3, 10)
    go.set()
    assert settled(once, State(1)) == "done"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ConfigError("too few images."), 422, "too few images."),
        (RuntimeError("/secret"), 500, "something went wrong here (RuntimeError)."),
    ],
)
def test_what_goes_wrong_is_told_to_all_that_ask(error, status, words):
    def compute(state, progress):
        raise error

    once = Once(compute, turn=threading.Lock())
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            settled(once, State(1))
        assert (refused.value.status, refused.value.detail) == (status, words)


def test_two_that_share_a_turn_are_not_computed_at_once():
    turn, running, most = threading.Lock(), [], []

    def compute(state, progress):
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()
        return 1

    both = [Once(compute, turn=turn), Once(compute, turn=turn)]
    for once in both:
        once.ask(State(1))
    for once in both:
        settled(once, State(1))
    assert most == [1, 1]
