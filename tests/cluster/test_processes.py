"""Service processes and their zygotes end, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import psutil
import pytest

from tests.cluster.processes import Cluster, Service
from tests.cluster.story import HOLD_S, Report, blocking, eventually, story

_GRADES = 'grades_total{grader="exact",outcome="ok",version="1"}'
pytestmark = [pytest.mark.system, pytest.mark.serial]


async def test_one_service_is_killed(shared: Cluster, report: Report) -> None:
    victim = shared.services[0]
    family = victim.family()
    async with story(shared, report) as told:
        told.broken()
        await blocking(victim.kill)
        told.healed()  # nobody helps: the balancer and the other service are the recovery
        await asyncio.sleep(HOLD_S)
        await told.well_again()
        await eventually(lambda: not any(process.is_running() for process in family[1:]))
        victim.start()
        await blocking(victim.await_ready)
        before = await blocking(victim.metric, _GRADES)
        await eventually(lambda: victim.metric(_GRADES) > before)


@pytest.mark.faults
async def test_both_services_are_restarted_in_turn(shared: Cluster, report: Report) -> None:
    async with story(shared, report) as told:
        told.broken()
        for service in shared.services:
            assert await blocking(service.stop) == 0
            service.start()
            await blocking(service.await_ready)
            await asyncio.sleep(1)  # until the balancer has seen it
        told.healed()


async def test_the_zygotes_of_one_service_are_killed(shared: Cluster, report: Report) -> None:
    victim = shared.services[0]
    async with story(shared, report) as told:
        told.broken()
        kill_zygotes(victim)
        told.healed()
    assert await blocking(victim.metric, "sandbox_zygote_restarts_total") >= 1


def kill_zygotes(service: Service) -> None:
    """Kill everything that the workers of ``service`` have started."""
    for process in [child for w in service.workers() for child in w.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # a grader that has come to its end
            process.send_signal(signal.SIGKILL)
