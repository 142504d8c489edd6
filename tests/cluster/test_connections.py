"""Crowds of connections, and descriptors that run out."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.crowd import Crowd, crowd
from tests.cluster.processes import Cluster, Service
from tests.cluster.story import HOLD_S, Report, blocking, eventually, story

pytestmark = [pytest.mark.system, pytest.mark.serial, pytest.mark.faults]

_IDLE = 20_000
_SLOW = 4_000
_KEPT = 600  # descriptors of a process for everything but the crowd
_BALANCERS = 30  # connections that the balancer may have opened meanwhile


def size_of(most: int) -> int:
    """Return how many connections each of two services gets, as many as descriptors allow."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(most // 2, hard - _KEPT)
    assert number >= _KEPT, f"{hard} descriptors are too few for a crowd"
    return number


@contextlib.contextmanager
def crowds(cluster: Cluster, number: int, way: str) -> Iterator[list[Crowd]]:
    """Have a crowd at each service, past the balancer, which would keep it away."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(crowd(s.port, number, way)) for s in cluster.services]


def lowest_free(process: psutil.Process) -> int:
    """Return the limit that leaves ``process`` no new descriptor."""
    taken = {int(link.name) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def descriptors(service: Service) -> int:
    return psutil.Process(service.pid).num_fds()


async def test_twenty_thousand_connections_are_idle(shared: Cluster, report: Report) -> None:
    number = size_of(_IDLE)
    async with story(shared, report) as told:
        told.broken()
        gathering = crowds(shared, number, "idle")
        found = await blocking(gathering.__enter__)
        assert [each.size for each in found] == [number, number]
        assert all(descriptors(service) > number for service in shared.services)
        await asyncio.sleep(HOLD_S)
        told.healed()  # right and quick again while they are there
        await told.well_again()
        report.name += f" ({2 * number:,})"
        assert [await blocking(each.leave) for each in found] == [0, 0]
        await blocking(gathering.__exit__, None, None, None)
        await eventually(lambda: all(descriptors(s) < _KEPT for s in shared.services))
    assert set(report.calls) == {"right"}


@pytest.mark.parametrize("way", ["head", "body"])
async def test_clients_send_a_byte_a_second(shared: Cluster, report: Report, way: str) -> None:
    number, before = size_of(_SLOW), [descriptors(service) for service in shared.services]
    async with story(shared, report) as told:
        told.broken()
        gathering = crowds(shared, number, way)
        found = await blocking(gathering.__enter__)
        assert [each.size for each in found] == [number, number]
        told.healed()
        await told.well_again()
        # They are sent away, so that no number of them can take every descriptor.
        await eventually(
            lambda: all(
                descriptors(service) < usual + _BALANCERS
                for service, usual in zip(shared.services, before, strict=True)
            )
        )
        await asyncio.sleep(1)  # the last of the crowd are among the balancer's
        assert [await blocking(each.leave) for each in found] == [number, number]
        await blocking(gathering.__exit__, None, None, None)
    assert set(report.calls) == {"right"}


@pytest.mark.parametrize("how_many", [1, 2])
async def test_descriptors_run_out(shared: Cluster, report: Report, how_many: int) -> None:
    victims = shared.services[:how_many]
    async with story(shared, report) as told:
        told.broken()
        processes = [psutil.Process(service.pid) for service in victims]
        before = [process.rlimit(psutil.RLIMIT_NOFILE) for process in processes]
        for process, (_, hard) in zip(processes, before, strict=True):
            process.rlimit(psutil.RLIMIT_NOFILE, (lowest_free(process), hard))
        await asyncio.sleep(max(3, HOLD_S))
        for process, limit in zip(processes, before, strict=True):
            process.rlimit(psutil.RLIMIT_NOFILE, limit)
        told.healed()
