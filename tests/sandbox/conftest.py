"""One started sandbox for the tests that do not need their own."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from graders.ports import SandboxResult, SandboxRun
from service.sandbox import SandboxConfig, SubprocessSandbox, start_sandbox
from tests.sandbox import image

if sys.platform != "linux":
    collect_ignore_glob = ["*"]

Run = Callable[..., Awaitable[SandboxResult]]
Start = Callable[..., Awaitable[SubprocessSandbox]]


def config(**changes: Any) -> SandboxConfig:
    """Return a config for tests with the shared image."""
    defaults: dict[str, Any] = {
        "images": {image.TAG: image.built()},
        "timeout_s": 10.0,
        "memory_bytes": 1 << 30,
    }
    return SandboxConfig(**(defaults | changes))


def call(source: str, sample: object = None, item: object = None) -> SandboxRun:
    """Return a run of ``source``."""
    payload = msgspec.json.encode({"sample": sample or {}, "item": item or {}})
    return SandboxRun(source=source, image_tag=image.TAG, payload=payload)


async def until(holds: Callable[[], bool], patience_s: float = 30.0) -> None:
    """Return once ``holds()``; fail after ``patience_s``."""
    async with asyncio.timeout(patience_s):
        while not holds():  # noqa: ASYNC110 - what is looked at belongs to other processes
            await asyncio.sleep(0.001)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A directory that all test processes see, for what is to be done only once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
async def started() -> AsyncIterator[Callable[..., Awaitable[SubprocessSandbox]]]:
    """Start sandboxes that are closed after the test."""
    running = []

    async def start(**changes: Any) -> SubprocessSandbox:
        sandbox = await start_sandbox(config(**changes))
        assert isinstance(sandbox, SubprocessSandbox)
        running.append(sandbox)
        return sandbox

    yield start
    await asyncio.gather(*(sandbox.close() for sandbox in running))
