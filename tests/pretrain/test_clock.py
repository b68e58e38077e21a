"""What a step costs, and when it is said that images are waited for."""

import time

import pytest
import torch

from simclr.pretrain.clock import Clock, InputWatch, StepTime, input_bound, peak_memory

CPU = torch.device("cpu")


class Device:
    """A stream: work queued on it ends after what was queued before, and not before the host queued it. Seconds."""

    def __init__(self) -> None:
        self.host = self.busy_until = 0.0

    def queue(self, seconds: float) -> None:
        self.busy_until = max(self.busy_until, self.host) + seconds

    def event(self) -> "FakeEvent":
        return FakeEvent(max(self.busy_until, self.host))


class FakeEvent:
    def __init__(self, at: float) -> None:
        self.at = at

    def elapsed_time(self, later: "FakeEvent") -> float:
        return (later.at - self.at) * 1000


def a_step(device: Device, clock: Clock, *, loading: float, work: float, queueing: float = 0.01) -> None:
    with clock.waiting():
        device.host += loading
    device.host += queueing
    device.queue(work)
    clock.done()


def test_on_a_device_that_is_always_behind_nothing_is_waited_for():
    """Loading takes 0.3 s a step on the host, while the device works for 1 s: hidden, but for the first."""
    device = Device()
    clock = Clock(CPU, moment=device.event)
    for _ in range(3):
        a_step(device, clock, loading=0.3, work=1.0)
    times = [clock.pop() for _ in range(3)]
    assert [time.waited for time in times] == pytest.approx([0.3, 0, 0])
    assert [time.seconds for time in times] == pytest.approx([1.31, 1, 1])


def test_what_the_device_waits_is_what_loading_takes_longer_than_its_work():
    """Loading 1.5 s, work 1 s, queueing 0.01 s: from the second step on 0.5 s less the queueing are lost."""
    device = Device()
    clock = Clock(CPU, moment=device.event)
    for _ in range(3):
        a_step(device, clock, loading=1.5, work=1.0)
    times = [clock.pop() for _ in range(3)]
    assert [time.waited for time in times] == pytest.approx([1.5, 0.5, 0.5])
    assert [time.seconds for time in times] == pytest.approx([2.51, 1.51, 1.51])


def test_saving_between_two_steps_is_neither_waiting_nor_work():
    device = Device()
    clock = Clock(CPU, moment=device.event)
    a_step(device, clock, loading=0.0, work=1.0)
    device.host = device.busy_until + 20
    a_step(device, clock, loading=0.5, work=1.0, queueing=0)
    clock.pop()
    assert clock.pop() == pytest.approx((1.5, 0.5))


def test_a_step_that_got_no_images_is_not_counted():
    device = Device()
    clock = Clock(CPU, moment=device.event)
    with pytest.raises(OSError), clock.waiting():
        raise OSError("disk gone")
    a_step(device, clock, loading=0.25, work=1.0, queueing=0)
    assert clock.pop() == pytest.approx((1.25, 0.25))
    with pytest.raises(IndexError):
        clock.pop()


def test_on_the_cpu_the_hosts_clock_counts():
    clock = Clock(CPU)
    with clock.waiting():
        time.sleep(0.05)
    time.sleep(0.1)
    clock.done()
    seconds, waited = clock.pop()
    assert 0.05 <= waited < seconds - 0.1 + 1e-3


def watched(watch: InputWatch, steps: int, seconds: float, waited: float) -> list[str]:
    return [words for _ in range(steps) if (words := watch.look(StepTime(seconds, waited)))]


def test_an_input_bound_run_is_told_once():
    watch = InputWatch(workers=4, cpus=16, in_ram=False)
    said = watched(watch, 200, 2.0, 1.22)
    assert said == [
        "input-bound: 61% of the time is spent waiting for images; "
        "try --cache ram, --set workers=16 (now 4) or smaller files"
    ]


def test_a_run_that_waits_a_little_is_not_told():
    assert watched(InputWatch(workers=4, cpus=16, in_ram=False), 500, 2.0, 0.59) == []


def test_the_first_step_starts_the_workers_and_does_not_count():
    watch = InputWatch(workers=4, cpus=16, in_ram=False)
    assert watched(watch, 1, 1000.0, 999.0) == []
    assert watched(watch, 200, 2.0, 0.1) == []


@pytest.mark.parametrize(("seconds", "step"), [(0.1, 600), (10.0, 50)])
def test_it_takes_fifty_steps_and_a_minute_to_be_sure(seconds, step):
    watch = InputWatch(workers=0, cpus=1, in_ram=False)
    looks = [watch.look(StepTime(seconds, seconds)) is not None for _ in range(step + 2)]
    assert abs(looks.index(True) - step) <= 1  # sums of 0.1 are no exact 60


def test_waiting_that_begins_late_is_told_at_the_end_of_its_window():
    watch = InputWatch(workers=4, cpus=16, in_ram=False)
    assert watched(watch, 1001, 2.0, 0.0) == []
    assert len(watched(watch, 50, 2.0, 1.0)) == 1


@pytest.mark.parametrize(
    ("left", "advice"),
    [
        ({"workers": 16, "cpus": 16, "in_ram": True}, "try smaller files"),
        ({"workers": 16, "cpus": 16, "in_ram": False}, "try --cache ram or smaller files"),
        ({"workers": 0, "cpus": 2, "in_ram": True}, "try --set workers=2 (now 0) or smaller files"),
    ],
)
def test_the_advice_names_only_what_can_still_be_turned(left, advice):
    assert input_bound(0.4, **left).endswith(f"; {advice}")


def test_the_peak_memory_of_this_process_grows_with_what_it_holds():
    before = peak_memory(CPU)
    held = torch.ones(64 * 2**20 + before, dtype=torch.uint8)  # more than the peak so far
    assert peak_memory(CPU) - before > 60 * 2**20
    assert len(held)
    del held


def test_without_proc_the_peak_is_what_the_system_counts(monkeypatch):
    """In KiB on Linux; the two agree within what is paged in between."""
    expected = peak_memory(CPU)
    monkeypatch.setattr("simclr.free_memory._lines", lambda path: [])
    assert peak_memory(CPU) == pytest.approx(expected, rel=0.2)
