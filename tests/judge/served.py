"""The service with its real judges: processes of their own over a scripted upstream."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.api import world
from tests.fakes_upstream import Asked, Says, Upstream, completion, embeddings, error

PRICE = {"input": 2.0, "cached_input": 0.5, "output": 8.0}
COST_USD = 0.00036  # 100 prompt and 20 completion tokens at that price
KEYS = {"trainer": "gk-trainer", "other": "gk-other"}
_numbers = itertools.count()


class Background:
    """An upstream in a thread of its own, for tests that block or share a service.

    Attributes:
        upstream: What answers; its counts may be read from any thread.
    """

    def __init__(self) -> None:
        self.upstream = Upstream(by_marker)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Upstream:
        self._thread.start()
        self.call(self.upstream.start())
        return self.upstream

    def call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine of the upstream where it lives, and wait for its end."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def __exit__(self, *_: object) -> None:
        self.call(self.upstream.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def by_marker(asked: Asked) -> Says:
    """Answer what ``[[judge:…]]`` in the prompt says; embeddings by their texts."""
    if asked.method == "GET":
        return error(404)
    if asked.path.endswith("/embeddings"):
        return embeddings(asked)
    marker = asked.marker
    return completion() if marker is None else completion(verdict(marker))


def verdict(result: str) -> str:
    """Return a reply that gives ``result``: a number, or a label."""
    try:
        return json.dumps({"steps": [], "result": float(result)})
    except ValueError:
        return json.dumps({"steps": [], "result": result})


def reset(upstream: Upstream) -> None:
    """Forget what was asked, and answer by markers."""
    upstream.script = by_marker
    upstream.asked.clear()
    upstream.count = upstream.most_in_flight = 0


def routes_file(directory: Path, url: str, *, successors: Any = None, **fields: Any) -> Path:
    """Write a routes file with one priced route."""
    route = {"name": "test", "base_url": url, "price": PRICE, **fields}
    path = directory / f"routes-{next(_numbers)}.json"
    path.write_text(json.dumps({"routes": [route], "successors": successors or {}}))
    return path


def budgets_file(directory: Path, *budgets: dict[str, Any]) -> Path:
    """Write a budgets file."""
    path = directory / f"budgets-{next(_numbers)}.json"
    path.write_text(json.dumps({"budgets": budgets}))
    return path


def keys_file(directory: Path) -> Path:
    """Write a keys file with `KEYS`."""
    path = directory / "keys.json"
    entries = [world.key_entry(name, secret, ["score", "run"]) for name, secret in KEYS.items()]
    path.write_text(json.dumps(entries))
    return path


@contextlib.contextmanager
def serving(directory: Path, routes: Path, **environment: str) -> Iterator[world.Child]:
    """Run one replica; ``environment`` is without the prefix."""
    log = directory / f"log-{next(_numbers)}"
    variables = {f"GRADEKEEPER_{name.upper()}": value for name, value in environment.items()}
    definitions = directory / "definitions"
    if not definitions.exists():
        world.write_definitions(definitions)
    with world.running(
        definitions,
        log,
        GRADEKEEPER_SANDBOX="off",
        GRADEKEEPER_JUDGE_ROUTES_FILE=str(routes),
        **variables,
    ) as child:
        yield child


@contextlib.asynccontextmanager
async def client_of(child: world.Child, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client with room for every call at once."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=child.url, limits=limits, timeout=60, headers=headers
    ) as client:
        yield client


def score_path(name: str, *, batch: bool = False) -> str:
    """Return the path that scores with version 1 of ``name``."""
    return f"/v1/graders/{name}/versions/1/score{'/batch' if batch else ''}"


def judged(text: str, question: str = "q") -> dict[str, Any]:
    """Return a row for ``judged``."""
    return {"item": {"question": question, "answer": "a"}, "model_sample": text}
