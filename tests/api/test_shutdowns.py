"""Lint about judge models that have an end."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any

import httpx
import pytest

from graders import importing
from graders.errors import Finding
from service.judge import Route, Routes
from service.judge.client import ListedModel
from service.shutdowns import Shutdowns, today
from tests.api.world import EXACT, JUDGED, LABELLED, MIXED

ROUTES = Routes(routes=(Route(name="a"),), successors={"gpt-4o-2024-08-06": "gpt-9"})
DAY = date(2026, 11, 20)


def findings(shutdowns: Shutdowns, document: Any) -> list[Finding]:
    reading = importing.read(document)
    assert reading.grader is not None
    return shutdowns.findings(reading.grader, reading.pointers)


def test_table_and_routes_are_named() -> None:
    (finding,) = findings(Shutdowns(day=lambda: DAY), JUDGED)
    assert (finding.pointer, finding.severity, finding.code) == (
        "/model",
        "warning",
        "model_shutdown",
    )
    assert finding.message == (
        "Judge model 'gpt-4o-2024-08-06' shuts down on 2027-01-14; its vendor names 'gpt-6-luna'."
    )
    (finding,) = findings(Shutdowns(ROUTES, day=lambda: date(2027, 2, 1)), LABELLED)
    assert finding.message == (
        "Judge model 'gpt-4o-2024-08-06' shut down on 2027-01-14; routes send it to 'gpt-9'."
    )


def test_parts_are_pointed_at_and_graders_without_a_judge_are_silent() -> None:
    shutdowns = Shutdowns()
    assert [f.pointer for f in findings(shutdowns, MIXED)] == ["/graders/judged/model"]
    assert findings(shutdowns, EXACT) == []
    assert findings(shutdowns, {**JUDGED, "model": "own-judge"}) == []
    assert today() >= DAY


class Upstreams:
    """Lists models; counts."""

    def __init__(self, listed: dict[str, list[ListedModel] | str]) -> None:
        self.listed = listed
        self.asked = 0
        self.gate = asyncio.Event()

    async def models(self) -> dict[str, list[ListedModel] | str]:
        self.asked += 1
        await self.gate.wait()
        return self.listed


async def test_upstreams_are_asked_in_the_background_once_an_hour() -> None:
    upstreams = Upstreams(
        {"a": [ListedModel("up", "2028-01-01"), ListedModel("x")], "b": "HTTP 401"}
    )
    routes = Routes(routes=(Route(name="a", upstream_model="up"),))
    now = 0.0
    shutdowns = Shutdowns(routes, look_up=upstreams.models, clock=lambda: now)
    own = {**JUDGED, "model": "own-judge"}
    assert findings(shutdowns, own) == []  # at once: nobody waits
    upstreams.gate.set()
    await asyncio.sleep(0.01)
    (finding,) = findings(shutdowns, own)
    assert finding.message == "Judge model 'own-judge' shuts down on 2028-01-01."
    assert upstreams.asked == 1
    now = 3601.0
    findings(shutdowns, own)
    await asyncio.sleep(0)
    assert upstreams.asked == 2
    await shutdowns.close()


async def test_closing_ends_a_look_up() -> None:
    upstreams = Upstreams({})
    shutdowns = Shutdowns(ROUTES, look_up=upstreams.models)
    findings(shutdowns, JUDGED)
    await asyncio.sleep(0)
    await shutdowns.close()
    await Shutdowns().close()
    assert upstreams.asked == 1


@pytest.mark.parametrize(
    ("name", "pointers"), [("judged", ["/model"]), ("mixed", ["/graders/judged/model"])]
)
async def test_versions_show_it(api: httpx.AsyncClient, name: str, pointers: list[str]) -> None:
    found = (await api.get(f"/v1/graders/{name}/versions/latest")).json()["lint"]
    assert [f["pointer"] for f in found if f["code"] == "model_shutdown"] == pointers
