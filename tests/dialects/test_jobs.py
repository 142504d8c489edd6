"""Submitted work: bounded, kept for a while, stopped when its time is over."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from graders.errors import OverloadedError
from graders.ports import Ports
from service.app import create_app
from service.dialects import DIALECTS
from service.jobs import Endings, Jobs, MemoryResults
from tests.api.world import calling, settings
from tests.dialects.world import path
from tests.fakes import FakeJudge, verdict

ENDINGS = Endings(running=b"running", timed_out=b"timed out", broken=b"broken")


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def forever() -> bytes:
    await asyncio.Event().wait()
    return b""


async def never(_: Any) -> Any:
    await forever()


async def done() -> bytes:
    return b"done"


def jobs(clock: Clock | None = None, *, entries: int = 10, running: int = 2) -> Jobs:
    return Jobs(MemoryResults(clock or Clock(), entries=entries), max_running=running, ttl_s=60)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_result_is_there_once_the_work_is_done() -> None:
    own = jobs()
    name = await own.submit(done, ENDINGS, timeout_s=1)
    assert await own.poll(name) == b"running"
    await settle()
    assert await own.poll(name) == b"done"
    assert await own.poll("another") is None


async def test_work_over_its_time_is_stopped() -> None:
    own = jobs()
    name = await own.submit(forever, ENDINGS, timeout_s=0.01)
    await asyncio.sleep(0.05)
    assert await own.poll(name) == b"timed out"


async def test_work_that_raises_is_logged_and_broken(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> bytes:
        raise RuntimeError("bug")

    own = jobs()
    name = await own.submit(broken, ENDINGS, timeout_s=1)
    await settle()
    assert await own.poll(name) == b"broken"
    assert caplog.records[0].levelno == logging.ERROR


async def test_too_much_work_is_refused_and_closing_stops_the_rest() -> None:
    own = jobs()
    for _ in range(2):
        await own.submit(forever, ENDINGS, timeout_s=60)
    with pytest.raises(OverloadedError):
        await own.submit(done, ENDINGS, timeout_s=60)
    await own.close()
    await own.submit(done, ENDINGS, timeout_s=60)


async def test_results_expire_and_the_oldest_makes_room() -> None:
    clock = Clock()
    store = MemoryResults(clock, entries=2)
    await store.put("a", b"1", ttl_s=10)
    await store.put("b", b"2", ttl_s=10)
    await store.put("c", b"3", ttl_s=10)
    assert await store.get_many(["a", "b", "c"]) == [None, b"2", b"3"]
    clock.now = 11
    assert await store.get_many(["b", "c"]) == [None, None]
    await store.put("d", b"4", ttl_s=10)
    assert await store.get_many(["d"]) == [b"4"]


class TestOverHttp:
    EXAMPLE: Any = DIALECTS["roll"].example

    async def test_a_slow_reward_is_running_until_it_is_there(self, graders: Path) -> None:
        gate = asyncio.Event()

        async def wait(_: Any) -> Any:
            await gate.wait()
            return verdict(0.75)

        own = Ports(judge=FakeJudge(wait))
        async with calling(create_app(settings(graders), ports=own)) as api:
            url = path("judged", "roll")
            submitted = (await api.post(url, json=self.EXAMPLE)).json()
            question = {"reward_request_id": submitted["reward_request_id"]}
            assert submitted["errcode"] == 0
            poll = url.partition("?")[0]
            assert (await api.request("GET", poll, json=question)).json()["errcode"] == 1
            gate.set()
            await asyncio.sleep(0.02)
            answer = (await api.request("GET", poll, json=question)).json()
            assert (answer["errcode"], answer["reward_score"]) == (0, 0.75)

    async def test_an_unknown_request_makes_roll_submit_again(self, graders: Path) -> None:
        async with calling(create_app(settings(graders))) as api:
            url = path("exact", "roll").partition("?")[0]
            answer = await api.request("GET", url, json={"reward_request_id": "gone"})
            assert answer.json()["errcode"] == 0
            assert answer.json()["reward_score"] is None
            assert (await api.request("GET", url, content=b"")).status_code == 400

    async def test_too_many_submissions_are_429(self, graders: Path) -> None:
        own = Ports(judge=FakeJudge(never))
        app = create_app(settings(graders, max_submitted_rewards=1), ports=own)
        async with calling(app) as api:
            url = path("judged", "roll")
            statuses = [(await api.post(url, json=self.EXAMPLE)).status_code for _ in range(2)]
        assert statuses == [200, 429]

    async def test_the_time_of_the_request_is_kept(self, graders: Path) -> None:
        own = Ports(judge=FakeJudge(never))
        body = {**self.EXAMPLE, "timeout": 1}
        async with calling(create_app(settings(graders), ports=own)) as api:
            url = path("judged", "roll")
            name = (await api.post(url, json=body)).json()["reward_request_id"]
            await asyncio.sleep(1.1)
            answer = await api.request(
                "GET", url.partition("?")[0], content=json.dumps({"reward_request_id": name})
            )
        assert "time" in answer.json()["errmsg"]
