"""Lint about judge models that have an end, kept up to date by the upstreams themselves.

The dated table answers at once. Upstreams that list shutdown dates are asked in the background
when somebody lints a grader with a judge, at most once an hour; nobody waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, date, datetime
from time import monotonic

from graders.errors import Finding
from graders.schema import Grader
from service.judge import Routes, known_shutdowns, listed_shutdowns, shutdown_warning
from service.judge.client import ListedModel
from service.judging import judge_models

_LOOK_UP_S = 3600.0
_NO_ROUTES = Routes(routes=())

LookUp = Callable[[], Awaitable[dict[str, list[ListedModel] | str]]]


def today() -> date:
    """Return the day it is in UTC, by which vendors count."""
    return datetime.now(UTC).date()


class Shutdowns:
    """What is known about the end of judge models."""

    def __init__(
        self,
        routes: Routes = _NO_ROUTES,
        *,
        look_up: LookUp | None = None,
        day: Callable[[], date] = today,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Know the table.

        Args:
            routes: Where judge models lead, and their successors.
            look_up: Lists the models of every upstream; None leaves it at the table.
            day: The day to compare with.
            clock: Monotonic seconds.
        """
        self._routes = routes
        self._look_up = look_up
        self._day = day
        self._clock = clock
        self._table = known_shutdowns()
        self._listed: dict[str, dict[str, date]] = {}
        self._fresh_until = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def findings(self, grader: Grader, pointers: Mapping[str, str]) -> list[Finding]:
        """Return a warning about every judge model of ``grader`` with a known end.

        Args:
            grader: The typed definition.
            pointers: Where each part of a ``multi`` stands, by key.
        """
        models = judge_models(grader, pointers)
        if models and self._look_up is not None and self._clock() >= self._fresh_until:
            self._fresh_until = self._clock() + _LOOK_UP_S
            self._task = asyncio.ensure_future(self._refresh(self._look_up))
        found = ((pointer, self._warning(model)) for pointer, model in models.items())
        return [
            Finding(pointer=pointer, message=text, code="model_shutdown", severity="warning")
            for pointer, text in found
            if text is not None
        ]

    async def close(self) -> None:
        """Stop looking up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _warning(self, model: str) -> str | None:
        listed: dict[str, date] = {}
        target = self._routes.target(model)
        if target is not None:
            dates = self._listed.get(target.route.name, {})
            name = model if target.successor else target.model
            listed = {model: dates[name]} if name in dates else {}
        sentence = shutdown_warning(
            model, self._day(), self._table, listed=listed, successors=self._routes.successors
        )
        return None if sentence is None else f"{sentence[0].upper()}{sentence[1:]}."

    async def _refresh(self, look_up: LookUp) -> None:
        for route, models in (await look_up()).items():
            if not isinstance(models, str):
                self._listed[route] = listed_shutdowns(models)
