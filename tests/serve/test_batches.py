"""Requests that wait are worked on together; what cannot wait is refused, and what hangs is left behind."""

import asyncio
import threading
import time

import pytest

from simclr.serve.batches import Batches
from simclr.serve.limits import Refused
from simclr.serve.pool import Pool


class Work:
    """Doubles numbers, a call at a time, when it is let."""

    def __init__(self):
        self.go = threading.Event()
        self.batches = []

    def __call__(self, items):
        self.batches.append(items)
        self.go.wait(10)
        return [2 * item if item >= 0 else ValueError(str(item)) for item in items]


@pytest.fixture
def work():
    return Work()


def batches(work, **options):
    return Batches(work, name="test", **{"most": 4, "waiting": 100} | options)


def test_what_waits_is_taken_together_up_to_a_number_and_answered_each_by_its_own(work):
    async def run():
        queue = batches(work)
        first = asyncio.create_task(queue.ask(0))
        while not work.batches:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(queue.ask(number)) for number in range(1, 8)]
        await asyncio.sleep(0.01)
        work.go.set()
        found = await asyncio.gather(first, *rest)
        queue.close()
        return found

    assert asyncio.run(run()) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_one_that_goes_wrong_spoils_no_other(work):
    async def run():
        queue = batches(work)
        work.go.set()
        found = await asyncio.gather(*(queue.ask(number) for number in (1, -1, 2)), return_exceptions=True)
        queue.close()
        return found

    one, wrong, two = asyncio.run(run())
    assert (one, two) == (2, 4) and isinstance(wrong, ValueError)


def test_a_call_that_raises_is_told_to_all_and_the_next_one_works():
    def work(items):
        if 1 in items:
            raise RuntimeError("broken")
        return items

    async def run():
        queue = batches(work)
        with pytest.raises(RuntimeError, match="broken"):
            await queue.ask(1)
        found = await queue.ask(2)
        queue.close()
        return found

    assert asyncio.run(run()) == 2


def test_more_than_can_wait_is_refused_at_once(work):
    async def run():
        queue = batches(work, waiting=3)
        tasks = [asyncio.create_task(queue.ask(0))]
        while not work.batches:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(queue.ask(number)) for number in (1, 2, 3)]
        await asyncio.sleep(0.01)
        with pytest.raises(Refused) as refused:
            await queue.ask(4)
        assert (refused.value.status, refused.value.retry_after, len(queue)) == (503, 1, 3)
        work.go.set()
        found = await asyncio.gather(*tasks)
        queue.close()
        return found

    assert asyncio.run(run()) == [0, 2, 4, 6]


def test_nothing_is_worked_out_for_clients_that_have_gone(work):
    async def run():
        queue = batches(work)
        first = asyncio.create_task(queue.ask(0))
        while not work.batches:
            await asyncio.sleep(0.001)
        gone, stays = asyncio.create_task(queue.ask(1)), asyncio.create_task(queue.ask(2))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        work.go.set()
        await asyncio.gather(first, stays)
        queue.close()

    asyncio.run(run())
    assert work.batches == [[0], [2]]


def test_closing_answers_what_waits_and_refuses_what_comes(work):
    async def run():
        queue = batches(work)
        tasks = [asyncio.create_task(queue.ask(number)) for number in range(6)]
        await asyncio.sleep(0.01)
        work.go.set()
        await asyncio.to_thread(queue.close)
        with pytest.raises(Refused):
            await queue.ask(9)
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [0, 2, 4, 6, 8, 10]


# ---- the pool


def test_a_pool_runs_a_few_calls_at_once_and_lets_others_wait():
    running, most = 0, 0
    lock = threading.Lock()

    def work():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return most

    async def run():
        pool = Pool(2, waiting=18, seconds=10)
        tasks = [asyncio.create_task(pool.run(work)) for _ in range(20)]
        await asyncio.sleep(0.001)
        with pytest.raises(Refused) as refused:
            await pool.run(work)
        assert refused.value.status == 503
        await asyncio.gather(*tasks)
        return pool.asked

    assert asyncio.run(run()) == 0 and most == 2


def test_what_a_call_raises_is_raised():
    def work():
        raise KeyError("x")

    with pytest.raises(KeyError):
        asyncio.run(Pool(1, waiting=1, seconds=10).run(work))


def test_a_call_that_hangs_is_left_behind_and_counted_until_it_ends():
    go = threading.Event()

    async def run():
        pool = Pool(1, waiting=5, seconds=0.05)
        with pytest.raises(Refused) as refused:
            await pool.run(go.wait)
        assert (refused.value.status, pool.hung) == (504, 1)
        assert await pool.run(lambda: "next") == "next"
        go.set()
        while pool.hung:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(run(), 10))


def test_where_many_calls_hang_no_more_are_begun(monkeypatch):
    monkeypatch.setattr("simclr.serve.pool._HUNG", 2)
    go = threading.Event()

    async def run():
        pool = Pool(2, waiting=5, seconds=0.02)
        for _ in range(2):
            with pytest.raises(Refused):
                await pool.run(go.wait)
        with pytest.raises(Refused) as refused:
            await pool.run(lambda: None)
        go.set()
        return refused.value.status

    assert asyncio.run(run()) == 503
