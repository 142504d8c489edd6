"""Who runs and who waits."""

import asyncio

import pytest

from graders.errors import SandboxOverloadedError
from service.sandbox.slots import Slots, Turn

HANGING, QUICK, OTHER = 1, 2, 3


async def _held(slots: Slots, grader: int, count: int) -> list[int]:
    return [await slots.acquire(grader) for _ in range(count)]


async def _waiters(slots: Slots, *graders: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(slots.acquire(grader)) for grader in graders]
    await asyncio.sleep(0)
    return tasks


def _order(slots: Slots) -> list[int]:
    return list(slots.running.values())


async def test_a_slot_is_held_by_one_call_and_then_free_again() -> None:
    slots = Slots(2, 0, 4)
    held = await _held(slots, QUICK, 2)
    assert sorted(held) == [0, 1]
    (waiter,) = await _waiters(slots, QUICK)
    assert (slots.waiting, waiter.done()) == (1, False)
    slots.release(held[0], held_s=0.1)
    assert await waiter == held[0]
    assert slots.waiting == 0


async def test_graders_take_turns() -> None:
    slots = Slots(1, 0, 20)
    (slot,) = await _held(slots, OTHER, 1)
    await _waiters(slots, *[HANGING] * 5, *[QUICK] * 2)
    order = []
    for _ in range(7):
        slots.release(slot, held_s=None)
        order += _order(slots)
        await asyncio.sleep(0)
    assert order == [HANGING, QUICK, HANGING, QUICK, HANGING, HANGING, HANGING]


async def test_a_grader_with_slow_calls_waits_for_the_others_but_not_for_ever() -> None:
    slots = Slots(1, 2, 40)
    (slow,) = await _held(slots, HANGING, 1)
    slots.mark_slow(slow)
    (slot,) = await _held(slots, QUICK, 1)
    await _waiters(slots, *[HANGING] * 3, *[QUICK] * 20)
    order = []
    for _ in range(16):
        slots.release(slot, held_s=None)
        order.append(slots.running[slot])
        await asyncio.sleep(0)
    assert 1 <= order.count(HANGING) <= 2
    assert order[0] == QUICK


async def test_the_last_slots_are_not_for_a_grader_with_slow_calls() -> None:
    slots = Slots(2, 4, 40)
    waiters = await _waiters(slots, *[HANGING] * 10)
    for _ in range(10):
        for slot in list(slots.running):
            slots.mark_slow(slot)
        await asyncio.sleep(0)
    assert (len(slots.running), slots.waiting) == (5, 5)
    quick = await slots.acquire(QUICK)
    (waiter,) = await _waiters(slots, QUICK)
    assert not waiter.done()
    slots.release(quick, held_s=None)
    assert await waiter == quick
    for each in waiters:
        each.cancel()


async def test_slots_without_room_for_slow_calls_are_for_everybody() -> None:
    slots = Slots(2, 0, 4)
    held = await _held(slots, HANGING, 2)
    for slot in held:
        slots.mark_slow(slot)
    assert slots.slow == set()


async def test_full_queues_refuse_and_say_when_to_come_back() -> None:
    slots = Slots(1, 0, 2)
    await slots.acquire(QUICK)
    waiters = await _waiters(slots, QUICK, OTHER)
    with pytest.raises(SandboxOverloadedError) as refused:
        await slots.acquire(QUICK)
    assert refused.value.flag == "python_grader_server_error"
    waiters[0].cancel()
    await asyncio.sleep(0)
    (late,) = await _waiters(slots, QUICK)
    assert not late.done()


async def test_a_waiter_that_leaves_does_not_keep_its_slot() -> None:
    slots = Slots(1, 0, 4)
    slot = await slots.acquire(QUICK)
    gone, served, last = await _waiters(slots, QUICK, QUICK, QUICK)
    gone.cancel()
    await asyncio.sleep(0)
    slots.release(slot, held_s=None)
    served.cancel()  # it has been given the slot, and has not seen it yet
    assert await last == slot


async def test_a_turn_gives_way_before_and_after_its_call_begins() -> None:
    slots = Slots(1, 1, 4)
    slot = await slots.acquire(QUICK)
    reniced = []
    turn = Turn(slots, slot, give_way_after_s=0.01, slow_after_s=0.02)
    await asyncio.sleep(0.03)
    assert slots.slow == {slot}
    turn.begin(lambda: reniced.append(1))
    assert not reniced
    await asyncio.sleep(0.03)
    assert reniced == [1]
    turn.end()


async def test_a_turn_that_has_ended_does_nothing() -> None:
    slots = Slots(1, 1, 4)
    slot = await slots.acquire(QUICK)
    turn = Turn(slots, slot, give_way_after_s=0.01, slow_after_s=0.02)
    turn.end()
    await asyncio.sleep(0.03)
    assert slots.slow == set()
