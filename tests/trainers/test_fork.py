"""Rewards that were used before a fork work in the children, each with connections of its own."""

import asyncio
import multiprocessing
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from graders.ports import JudgeCall, JudgeReply, Ports
from service.trainers.reward import Reward, make
from tests.trainers.servers import definition, flaky, good


class FakeJudge:
    async def judge(self, call: JudgeCall) -> JudgeReply:
        del call
        await asyncio.sleep(0)
        return JudgeReply(content='{"result": 0.5}', model="m")


@pytest.fixture(autouse=True)
def forking() -> Iterator[None]:
    """Newer Pythons warn of forks with threads; that these work is what is tested."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def in_a_child(work: Any) -> Any:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(work()))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    return queue.get()


def once(reward: Reward) -> list[float | None]:
    """Grade directly, in the pool of threads, and from an event loop."""
    items: list[dict[str, Any]] = [{}] * 3
    texts = ["x", "xy", "xyz"]
    awaited = asyncio.run(reward.grade_async(items, texts))
    return [result.reward for result in [*reward.grade(items, texts), *awaited]]


@pytest.mark.serial
def test_a_client_used_before_the_fork_works_after_it() -> None:
    with flaky(good) as server:
        reward = make({"url": server.url, "grader": "a@1", "batch_rows": 2, "connections": 2})
        assert once(reward) == [1, 2, 3] * 2
        parents = server.connections
        for _ in range(2):
            assert in_a_child(lambda: once(reward)) == [1, 2, 3] * 2
        children = server.connections - parents
        assert children >= 2  # none of the parent's was used by a child
        asked = len(server.bodies)
        assert once(reward) == [1, 2, 3] * 2
        assert server.connections == parents + children  # the parent's are still good
        assert len(server.bodies) == asked + 4


def test_a_definition_graded_before_the_fork_is_graded_after_it() -> None:
    pure = make({"definition": definition("capital")})
    assert in_a_child(lambda: pure.grade([{"answer": "a"}], ["a"])[0].reward) == 1.0
    judged = make({"definition": definition("judged"), "ports": Ports(judge=FakeJudge())})
    assert once(judged) == [0.5] * 6
    assert in_a_child(lambda: once(judged)) == [0.5] * 6
