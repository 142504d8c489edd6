"""One redis-py client for each kind of URL, with bounded waits and no retries of its own.

The client library is imported here, when a client is built, and nowhere at module level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from service.stores.config import RedisAddress, StoreConfig, parse_url

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    """A client and how to talk to it.

    Attributes:
        client: Not connected yet; it connects with the first command.
        cluster: Whether keys live in different places, so that MGET must be split.
        also_close: Further clients that this one stands on (the sentinels).
    """

    client: Redis | RedisCluster
    cluster: bool = False
    also_close: tuple[Any, ...] = ()


def connect(config: StoreConfig) -> Connected:
    """Return the client for ``config.url``.

    Raises:
        ValueError: There is no URL, or it cannot be read.
    """
    if config.url is None:
        raise ValueError("a Redis store needs a URL")
    address = parse_url(config.url)
    match address.kind:
        case "single":
            return _single(address, config)
        case "sentinel":
            return _sentinel(address, config)
        case "cluster":
            return _cluster(address, config)


def _options(address: RedisAddress, config: StoreConfig) -> dict[str, Any]:
    from redis.asyncio.retry import Retry  # noqa: PLC0415 - lazy: costs 0.1 s
    from redis.backoff import NoBackoff  # noqa: PLC0415

    options: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        # Only a backstop: `Batcher` bounds every wait, and knows a late answer from a busy process.
        "socket_timeout": 4 * config.timeout_s,
        "socket_connect_timeout": config.timeout_s,
        # One retry: a connection from before a restart fails once, the next one works.
        "retry": Retry(NoBackoff(), 1),
        "protocol": 2,
        # None: no CLIENT SETINFO on every new connection.
        "driver_info": None,
    }
    if address.tls:
        options |= {"ssl": True, "ssl_ca_certs": config.tls_ca_file}
    return options


def _single(address: RedisAddress, config: StoreConfig) -> Connected:
    from redis.asyncio import Redis  # noqa: PLC0415

    options = _options(address, config) | {"db": address.db}
    if address.socket_path is not None:
        return Connected(client=Redis(unix_socket_path=address.socket_path, **options))
    host, port = address.hosts[0]
    return Connected(client=Redis(host=host, port=port, **options))


def _sentinel(address: RedisAddress, config: StoreConfig) -> Connected:
    from redis.asyncio.sentinel import Sentinel  # noqa: PLC0415

    options = _options(address, config)
    # Sentinels are usually without the password of the servers they watch.
    plain = {name: value for name, value in options.items() if name not in {"username", "password"}}
    sentinel = Sentinel(address.hosts, sentinel_kwargs=plain)  # type: ignore[no-untyped-call]
    client = sentinel.master_for(address.service, db=address.db, **options)
    return Connected(client=client, also_close=tuple(sentinel.sentinels))


def _cluster(address: RedisAddress, config: StoreConfig) -> Connected:
    from redis.asyncio.cluster import ClusterNode, RedisCluster  # noqa: PLC0415

    nodes = [ClusterNode(host, port) for host, port in address.hosts]
    client = RedisCluster(
        startup_nodes=nodes, require_full_coverage=False, **_options(address, config)
    )
    return Connected(client=client, cluster=True)
