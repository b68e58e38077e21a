"""Results in order, each within its time; a thread that hangs is replaced, and its turn passes on."""

import threading
import time

import pytest

from simclr.embed.threads import Threads
from simclr.errors import ImageError


def test_results_are_what_the_work_gives_or_raises_in_order():
    def work(n: int) -> int:
        time.sleep(0.01 * (n % 3))
        if n == 4:
            raise ImageError("four")
        return n * n

    threads = Threads(work, count=3, seconds=5)
    jobs = [threads.submit(n) for n in range(9)]
    for n, job in enumerate(jobs):
        if n == 4:
            with pytest.raises(ImageError, match="four"):
                threads.result(job)
        else:
            assert threads.result(job) == n * n
    threads.close()


def test_so_many_threads_work_at_once_and_no_more():
    busy, most, lock = 0, 0, threading.Lock()

    def work(n: int) -> int:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.02)
        with lock:
            busy -= 1
        return n

    threads = Threads(work, count=3, seconds=5)
    for job in [threads.submit(n) for n in range(12)]:
        threads.result(job)
    assert most == 3


def test_a_hung_thread_is_replaced_and_the_rest_goes_on():
    end = threading.Event()

    def work(n: int) -> int:
        if n == 1:
            end.wait()
        return n

    threads = Threads(work, count=1, seconds=0.2)
    jobs = [threads.submit(n) for n in range(4)]
    assert threads.result(jobs[0]) == 0
    with pytest.raises(ImageError, match=r"^takes longer than 0\.2 s to read and decode$"):
        threads.result(jobs[1])
    assert [threads.result(job) for job in jobs[2:]] == [2, 3]
    assert threads.left_behind == 1
    end.set()


def test_waiting_for_a_thread_is_not_a_files_own_time():
    threads = Threads(lambda n: time.sleep(0.1) or n + 1, count=1, seconds=0.3)
    jobs = [threads.submit(n) for n in range(8)]  # the last one waits for 0.7 s
    assert [threads.result(job) for job in jobs] == list(range(1, 9))


def test_waiting_for_a_turn_is_not_a_files_own_time():
    def work(n: int) -> int:
        with threads.turn:
            time.sleep(0.1)
        return n + 1

    threads = Threads(work, count=8, seconds=0.3)
    jobs = [threads.submit(n) for n in range(8)]
    assert [threads.result(job) for job in jobs] == list(range(1, 9))


def test_turns_are_taken_one_at_a_time():
    inside = []

    def work(n: int) -> int:
        with threads.turn:
            inside.append(n)
            assert len(inside) == 1
            time.sleep(0.01)
            inside.remove(n)
        return n + 1

    threads = Threads(work, count=4, seconds=5)
    assert [threads.result(job) for job in [threads.submit(n) for n in range(12)]] == list(range(1, 13))


def test_the_turn_of_a_thread_that_hangs_passes_on():
    end = threading.Event()

    def work(n: int) -> int:
        with threads.turn:
            if n == 0:
                end.wait()
            time.sleep(0.01)
        return n + 1

    threads = Threads(work, count=3, seconds=0.3)
    jobs = [threads.submit(n) for n in range(6)]
    with pytest.raises(ImageError, match="takes longer"):
        threads.result(jobs[0])
    assert [threads.result(job) for job in jobs[1:]] == [2, 3, 4, 5, 6]
    end.set()  # the late one gives back a lock that nobody waits for
    time.sleep(0.05)
    assert threads.result(threads.submit(9)) == 10


def test_a_turn_passes_on_though_an_earlier_file_waits_for_it():
    """Results are asked for in order: the one that hangs is not asked while the one before it waits."""
    end = threading.Event()

    def work(n: int) -> int:
        if n == 0:
            time.sleep(0.2)  # reads longer, so the other is first in the turn
        with threads.turn:
            if n == 1:
                end.wait()
        return n + 1

    threads = Threads(work, count=2, seconds=0.5)
    jobs = [threads.submit(n) for n in range(3)]
    assert threads.result(jobs[0]) == 1
    with pytest.raises(ImageError, match="takes longer"):
        threads.result(jobs[1])
    assert threads.result(jobs[2]) == 3
    end.set()


def test_time_before_and_after_a_pause_counts_together():
    def work(n: int) -> int:
        time.sleep(0.25)
        with threads.own_time_stands_still():
            time.sleep(0.3)
        time.sleep(0.25)
        return n

    threads = Threads(work, count=1, seconds=0.4)
    with pytest.raises(ImageError, match="takes longer"):
        threads.result(threads.submit(1))
    threads = Threads(work, count=1, seconds=0.7)
    assert threads.result(threads.submit(1)) == 1
