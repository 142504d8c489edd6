"""Being told by Redis that another replica has an answer: one subscriber connection a process.

A message that gets lost is no harm: whoever waits looks again when the lease it saw has run out.
"""

from __future__ import annotations

import asyncio
from typing import Any

from service.stores.connect import Connected


class Channels:
    """Subscriptions of this process.

    Args:
        connected: The client; the subscriber takes one connection of it.
        timeout_s: Longest wait for a subscription, in seconds.
    """

    def __init__(self, connected: Connected, *, timeout_s: float) -> None:
        """Start without a connection."""
        self._client: Any = connected.client
        self._timeout_s = timeout_s
        self._pubsub: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._inboxes: dict[str, set[asyncio.Future[bytes]]] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._lock = asyncio.Lock()
        self._leaving: set[asyncio.Task[None]] = set()

    async def join(self, channel: str) -> asyncio.Future[bytes] | None:
        """Return the next message of ``channel`` to come; None when Redis gives no subscription."""
        inbox: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._inboxes.setdefault(channel, set()).add(inbox)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._subscribe(channel)
        except (TimeoutError, OSError):
            self.leave(channel, inbox)
            return None
        except BaseException:
            self.leave(channel, inbox)
            raise
        return inbox

    def leave(self, channel: str, inbox: asyncio.Future[bytes]) -> None:
        """Stop waiting; the last one out unsubscribes."""
        inboxes = self._inboxes.get(channel)
        if inboxes is None:
            return
        inboxes.discard(inbox)
        inbox.cancel()
        if not inboxes:
            del self._inboxes[channel]
            self._confirmed.pop(channel, None)
            task = asyncio.create_task(self._unsubscribe(channel))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Stop reading and let go of the connection."""
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=self._timeout_s)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._drop()

    async def _subscribe(self, channel: str) -> None:
        from redis.exceptions import RedisError  # noqa: PLC0415

        confirmed = self._confirmed.get(channel)
        if confirmed is None:
            confirmed = self._confirmed[channel] = asyncio.Event()
            try:
                async with self._lock:
                    if self._pubsub is None:
                        self._pubsub = self._client.pubsub()
                    await self._pubsub.subscribe(channel)
                    if self._reader is None or self._reader.done():
                        self._reader = asyncio.create_task(self._read(self._pubsub))
            except RedisError as error:
                await self._drop()
                raise ConnectionError from error
        await confirmed.wait()

    async def _unsubscribe(self, channel: str) -> None:
        from redis.exceptions import RedisError  # noqa: PLC0415

        try:
            async with asyncio.timeout(self._timeout_s), self._lock:
                if self._pubsub is not None and channel not in self._inboxes:
                    await self._pubsub.unsubscribe(channel)
        except (RedisError, TimeoutError, OSError):
            await self._drop()

    async def _read(self, pubsub: Any) -> None:  # noqa: ANN401 - redis-py's PubSub
        from redis.exceptions import RedisError  # noqa: PLC0415

        try:
            while pubsub.subscribed or self._inboxes:
                message = await pubsub.get_message(timeout=None)
                if isinstance(message, dict):
                    self._deliver(message)
        except (RedisError, OSError, ValueError, RuntimeError):
            # Who waits looks again when its lease has run out; the next `join` connects anew.
            if pubsub is self._pubsub:
                await self._drop()

    def _deliver(self, message: dict[str, Any]) -> None:
        raw = message.get("channel")
        channel = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
        if message.get("type") == "subscribe":
            if channel in self._confirmed:
                self._confirmed[channel].set()
            return
        data = message.get("data")
        if message.get("type") != "message" or not isinstance(data, bytes):
            return
        for inbox in self._inboxes.get(channel, ()):
            if not inbox.done():
                inbox.set_result(data)

    async def _drop(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        self._confirmed.clear()
        if pubsub is not None:
            await pubsub.aclose()
