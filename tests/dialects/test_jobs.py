"""Submitted work: bounded, kept for a while, stopped when its time is over, known everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graders.errors import OverloadedError
from graders.ports import Ports
from service.app import create_app
from service.dialects import DIALECTS
from service.jobs import Endings, Jobs, JobsUnavailableError
from service.stores import MemoryStore, RedisStore, Store, StoreConfig
from tests.api.world import calling, settings
from tests.dialects.world import path
from tests.fakes import FakeJudge, verdict
from tests.stores.server import RedisServer

ENDINGS = Endings(running=b"running", timed_out=b"timed out", broken=b"broken")
LEASE_S = 0.6


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


def jobs(store: Store | None = None, *, shared: bool = False, running: int = 2) -> Jobs:
    return Jobs(
        store or MemoryStore(), shared=shared, max_running=running, ttl_s=60, lease_s=LEASE_S
    )


async def known(own: Jobs, name: str) -> bytes | None:
    """Return what is known of a job once it is more than that it runs."""
    for _ in range(200):
        answer = await own.poll(name, ENDINGS)
        if answer != ENDINGS.running:
            return answer
        await asyncio.sleep(0.01)
    return ENDINGS.running


async def test_a_result_is_there_once_the_work_is_done() -> None:
    own = jobs()
    name = await own.submit(done, ENDINGS, timeout_s=1)
    assert await own.poll(name, ENDINGS) == b"running"
    assert await known(own, name) == b"done"
    assert await own.poll("another", ENDINGS) is None
    assert await own.poll(name[:-1] + "~", ENDINGS) is None


async def test_work_over_its_time_is_stopped() -> None:
    own = jobs()
    name = await own.submit(forever, ENDINGS, timeout_s=0.01)
    assert await known(own, name) == b"timed out"


async def test_work_that_raises_is_logged_and_broken(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> bytes:
        raise RuntimeError("bug")

    own = jobs()
    name = await own.submit(broken, ENDINGS, timeout_s=1)
    assert await known(own, name) == b"broken"
    assert caplog.records[0].levelno == logging.ERROR


async def test_too_much_work_is_refused_and_closing_stops_the_rest() -> None:
    own = jobs()
    names = [await own.submit(forever, ENDINGS, timeout_s=60) for _ in range(2)]
    with pytest.raises(OverloadedError):
        await own.submit(done, ENDINGS, timeout_s=60)
    await own.close()
    assert [await own.poll(name, ENDINGS) for name in names] == [None, None]
    await own.submit(done, ENDINGS, timeout_s=60)


async def test_results_expire_and_the_oldest_makes_room() -> None:
    clock = Clock()
    own = jobs(MemoryStore(StoreConfig(memory_entries=2), clock=clock))
    names = []
    for _ in range(3):
        names.append(await own.submit(done, ENDINGS, timeout_s=1))
        assert await known(own, names[-1]) == b"done"
    assert [await own.poll(name, ENDINGS) for name in names] == [None, b"done", b"done"]
    clock.now = 61
    assert [await own.poll(name, ENDINGS) for name in names] == [None, None, None]


async def test_without_a_shared_store_only_the_process_that_took_it_knows_a_job() -> None:
    one, other = jobs(), jobs()
    name = await one.submit(done, ENDINGS, timeout_s=1)
    with pytest.raises(JobsUnavailableError, match="GRADEKEEPER_REDIS_URL") as error:
        await other.poll(name, ENDINGS)
    assert error.value.retryable


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.mark.integration
class TestOverRedis:
    """Two processes of the service are two stores on one Redis."""

    @pytest.fixture
    async def pair(self, redis_server: RedisServer) -> Any:
        config = StoreConfig(url=redis_server.url, probe_s=0.05, timeout_s=1.0)
        async with contextlib.AsyncExitStack() as stack:
            made = []
            for _ in range(2):
                store = RedisStore(config)
                stack.push_async_callback(store.close)
                made.append(jobs(store, shared=True, running=4))
                stack.push_async_callback(made[-1].close)
            yield made

    async def test_every_process_knows_every_job(self, pair: list[Jobs]) -> None:
        gate = asyncio.Event()

        async def gated() -> bytes:
            await gate.wait()
            return b"done"

        one, other = pair
        name = await one.submit(gated, ENDINGS, timeout_s=9)
        await asyncio.sleep(2 * LEASE_S)  # its lease is renewed
        assert await other.poll(name, ENDINGS) == b"running"
        gate.set()
        assert await known(other, name) == b"done"
        assert await known(one, name) == b"done"

    async def test_a_result_lives_as_long_as_it_says(
        self, pair: list[Jobs], redis_server: RedisServer
    ) -> None:
        name = await pair[0].submit(done, ENDINGS, timeout_s=1)
        assert await known(pair[1], name) == b"done"
        assert 0 < int(redis_server.cli("ttl", f"gradekeeper:{{job:{name}}}:v")) <= 60
        assert redis_server.cli("exists", f"gradekeeper:{{job:{name}}}:l") == "0"

    async def test_an_unknown_name_leaves_nothing_behind(
        self, pair: list[Jobs], redis_server: RedisServer
    ) -> None:
        redis_server.cli("flushall")
        name = f"{'a' * 8}.{'b' * 22}"
        assert await pair[0].poll(name, ENDINGS) is None
        assert redis_server.cli("dbsize") == "0"

    async def test_jobs_of_a_process_that_died_are_known_to_be_lost(self, pair: list[Jobs]) -> None:
        one, other = pair
        name = await one.submit(forever, ENDINGS, timeout_s=60)
        await one._leases.close()  # as when it is killed: nobody renews
        assert await other.poll(name, ENDINGS) == b"running"
        await asyncio.sleep(1.5 * LEASE_S)
        assert await other.poll(name, ENDINGS) is None

    async def test_closing_says_at_once_that_jobs_are_no_more(self, pair: list[Jobs]) -> None:
        one, other = pair
        name = await one.submit(forever, ENDINGS, timeout_s=60)
        await one.close()
        assert await other.poll(name, ENDINGS) is None

    async def test_without_redis_nothing_is_taken_and_no_result_is_lost(
        self, pair: list[Jobs], redis_server: RedisServer
    ) -> None:
        gate = asyncio.Event()

        async def gated() -> bytes:
            await gate.wait()
            return b"done"

        one, other = pair
        name = await one.submit(gated, ENDINGS, timeout_s=60)
        redis_server.kill()
        try:
            gate.set()
            for _ in range(4):
                with pytest.raises(JobsUnavailableError):
                    await other.poll(name, ENDINGS)
            with pytest.raises(JobsUnavailableError):
                await one.submit(done, ENDINGS, timeout_s=1)
        finally:
            redis_server.start()

        async def answered() -> bytes | None:
            with contextlib.suppress(JobsUnavailableError):
                return await other.poll(name, ENDINGS)
            return None

        for _ in range(500):  # Redis has forgotten everything; who ran it stores it again
            if await answered() == b"done":
                break
            await asyncio.sleep(0.01)
        assert await other.poll(name, ENDINGS) == b"done"
        assert one._running == 0

    async def test_a_full_redis_gets_the_result_once_it_has_room(
        self, pair: list[Jobs], redis_server: RedisServer
    ) -> None:
        gate = asyncio.Event()

        async def gated() -> bytes:
            await gate.wait()
            return b"done"

        one, other = pair
        name = await one.submit(gated, ENDINGS, timeout_s=60)
        redis_server.cli("config", "set", "maxmemory", "1")
        try:
            gate.set()
            await asyncio.sleep(0.2)
            assert one._running == 1
        finally:
            redis_server.cli("config", "set", "maxmemory", "0")
        for _ in range(100):
            if one._running == 0:
                break
            await asyncio.sleep(0.01)
        assert await other.poll(name, ENDINGS) == b"done"

    async def test_a_result_that_is_never_taken_is_given_up_and_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = MemoryStore(StoreConfig(memory_bytes=1))
        own = Jobs(store, shared=False, max_running=1, ttl_s=0.1, lease_s=LEASE_S)
        await own.submit(done, ENDINGS, timeout_s=1)
        for _ in range(100):
            if own._running == 0:
                break
            await asyncio.sleep(0.01)
        assert "could not be stored" in caplog.text


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
