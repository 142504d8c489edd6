"""Slots, buckets and breakers, on a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest

from service.judge.breaker import Breaker
from service.judge.lane import Lane, RetryPolicy
from service.judge.limits import Bucket, QueueFullError, Slots
from service.judge.routes import Route
from service.judge.stats import JudgeStats


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestSlots:
    async def test_first_come_first_served_within_the_limit(self) -> None:
        slots = Slots(2, 10)
        order: list[int] = []

        async def work(number: int) -> None:
            await slots.acquire()
            order.append(number)
            assert slots.active <= 2
            await asyncio.sleep(0)
            slots.release()

        await asyncio.gather(*map(work, range(10)))
        assert order == list(range(10))
        assert (slots.active, slots.queued) == (0, 0)

    async def test_queue_is_bounded(self) -> None:
        slots = Slots(1, 1)
        await slots.acquire()
        waiting = asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await slots.acquire()
        slots.release()
        await waiting
        assert slots.active == 1

    async def test_cancelled_turns_are_not_lost(self) -> None:
        slots = Slots(1, 10)
        await slots.acquire()
        first, second = (asyncio.create_task(slots.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        slots.release()  # the turn is the first one's, who is gone before it takes it
        first.cancel()
        await second
        assert (slots.active, slots.queued) == (1, 0)
        third = asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        assert slots.queued == 0

    async def test_turn_cancelled_before_a_slot_is_free_stays_cancelled(self) -> None:
        slots = Slots(1, 10)
        await slots.acquire()
        gone, next_one = (asyncio.create_task(slots.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        slots.release()  # finds the cancelled turn before its owner runs
        with pytest.raises(asyncio.CancelledError):
            await gone
        await next_one
        assert (slots.active, slots.queued) == (1, 0)

    async def test_429s_halve_once_a_second_and_successes_give_back(self) -> None:
        clock = Clock()
        slots = Slots(16, 10, clock=clock)
        for _ in range(5):
            slots.slow_down()
        assert slots.limit == 8
        clock.now += 2
        slots.slow_down()
        assert slots.limit == 4
        for _ in range(200):
            slots.recover()
        assert slots.limit == 16
        for _ in range(20):
            clock.now += 2
            slots.slow_down()
        assert slots.limit == 1


class TestDividing:
    def test_a_limit_is_never_passed_by_all_processes_together(self) -> None:
        for concurrency in range(7, 40):
            route = Route(name="r", concurrency=concurrency, requests_per_minute=concurrency)
            lane = Lane(route, RetryPolicy(), JudgeStats(), share=7)
            assert 1 <= lane.state.limit * 7 <= concurrency

    @pytest.mark.parametrize("limit", ["concurrency", "requests_per_minute"])
    def test_a_limit_that_is_too_small_is_refused(self, limit: str) -> None:
        route = Route(name="r", **{limit: 3})  # type: ignore[arg-type] # either is a number
        with pytest.raises(ValueError, match=f"'r': {limit} 3 cannot be divided among 4"):
            Lane(route, RetryPolicy(), JudgeStats(), share=4)


class TestBucket:
    def test_no_minute_sees_more_than_its_amount(self) -> None:
        clock = Clock()
        bucket = Bucket(600, clock=clock)
        left: list[float] = []
        for _ in range(3000):
            left.append(clock.now + bucket.take(1))
            clock.now = max(clock.now, left[-1] - 5)
        assert all(sum(start <= t < start + 60 for t in left) <= 601 for start in left[::50])

    def test_unused_amounts_come_back(self) -> None:
        clock = Clock()
        bucket = Bucket(100, clock=clock)
        assert bucket.take(10) == 0
        assert bucket.take(10) > 0
        bucket.give_back(15)
        assert bucket.take(5) == 0

    def test_slower_after_429s_but_never_stopped(self) -> None:
        clock = Clock()
        bucket = Bucket(600, clock=clock)
        bucket.take(60)
        calm = Bucket(600, clock=clock)
        calm.take(60)
        for _ in range(50):
            bucket.slow_down()
        assert bucket.take(9) == pytest.approx(10 * calm.take(9))
        for _ in range(100):
            bucket.recover()
        clock.now += 100
        assert bucket.take(60) == 0


class TestBreaker:
    def state(self, breaker: Breaker) -> str:
        return breaker.state

    def make(self, clock: Clock, span_s: float = 0.0) -> Breaker:
        return Breaker(failures=3, span_s=span_s, pause_s=1.0, longest_s=3.0, clock=clock)

    def test_opens_after_failures_in_a_row_only(self) -> None:
        breaker = self.make(Clock())
        for _ in range(5):
            breaker.failed()
            breaker.failed()
            breaker.succeeded()
        assert self.state(breaker) == "closed"
        for _ in range(3):
            assert breaker.wait_s() == 0
            breaker.failed()
        assert self.state(breaker) == "open"
        assert breaker.wait_s() == 1.0

    def test_one_burst_of_timeouts_does_not_open(self) -> None:
        clock = Clock()
        breaker = self.make(clock, span_s=1.0)
        for _ in range(50):
            breaker.failed()
        assert self.state(breaker) == "closed"
        clock.now += 1
        breaker.failed()
        assert self.state(breaker) == "open"

    def test_half_open_lets_one_probe_through(self) -> None:
        clock = Clock()
        breaker = self.make(clock)
        for _ in range(3):
            breaker.failed()
        clock.now += 1
        assert self.state(breaker) == "half_open"
        assert breaker.wait_s() == 0
        assert breaker.wait_s() > 0
        breaker.succeeded()
        assert self.state(breaker) == "closed"

    def test_failed_probes_wait_twice_as_long_up_to_a_limit(self) -> None:
        clock = Clock()
        breaker = self.make(clock)
        for _ in range(3):
            breaker.failed()
        for pause in (1.0, 2.0, 3.0, 3.0):
            assert breaker.wait_s() == pytest.approx(pause)
            clock.now += pause
            assert breaker.wait_s() == 0
            breaker.failed()

    def test_undecided_probe_makes_room_for_the_next(self) -> None:
        clock = Clock()
        breaker = self.make(clock)
        for _ in range(3):
            breaker.failed()
        clock.now += 1
        assert breaker.wait_s() == 0
        breaker.undecided()
        assert breaker.wait_s() == 0
