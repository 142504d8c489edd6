"""Redis URLs of every kind, taken apart."""

from __future__ import annotations

import pytest

from service.stores import StoreConfig, open_store, parse_url
from service.stores.connect import connect


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "tls", "service", "db"),
    [
        ("redis://h", "single", (("h", 6379),), False, "", 0),
        ("rediss://h:7/3", "single", (("h", 7),), True, "", 3),
        ("redis://[::1]:7", "single", (("::1", 7),), False, "", 0),
        ("redis+sentinel://a,b:5/main/2", "sentinel", (("a", 26379), ("b", 5)), False, "main", 2),
        ("rediss+sentinel://a/main", "sentinel", (("a", 26379),), True, "main", 0),
        ("redis+cluster://a:1,b:2", "cluster", (("a", 1), ("b", 2)), False, "", 0),
        ("rediss+cluster://a/0", "cluster", (("a", 6379),), True, "", 0),
    ],
)
def test_url_is_taken_apart(  # noqa: PLR0917 - a table row
    url: str, kind: str, hosts: tuple[tuple[str, int], ...], tls: bool, service: str, db: int
) -> None:
    address = parse_url(url)
    assert (address.kind, address.hosts, address.tls) == (kind, hosts, tls)
    assert (address.service, address.db) == (service, db)


def test_secrets_are_not_shown() -> None:
    url = "redis://me:hunter2@h"
    assert "hunter2" not in f"{StoreConfig(url=url)!r} {parse_url(url)!r}"
    assert repr(StoreConfig()) == "StoreConfig(memory)"


def test_login_is_unquoted() -> None:
    address = parse_url("redis://me:p%40ss@h:1")
    assert (address.username, address.password) == ("me", "p@ss")
    assert parse_url("redis://:only@h").username is None
    assert parse_url("unix:///run/redis.sock").socket_path == "/run/redis.sock"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h", "scheme is 'http'"),
        ("redis://", "host or host:port"),
        ("redis://h:99999", "host or host:port"),
        ("redis://h/x", "number of the database"),
        ("redis://h/1/2", "number of the database"),
        ("redis+sentinel://h", "names the service"),
        ("redis+cluster://h/1", "database 0 only"),
    ],
)
def test_unusable_url_is_refused_without_repeating_it(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_url(url.replace("//", "//me:secret@"))
    assert "secret" not in str(caught.value)


def test_no_url_means_memory() -> None:
    assert type(open_store(StoreConfig())).__name__ == "MemoryStore"
    assert type(open_store(StoreConfig(url="redis://h"))).__name__ == "RedisStore"
    with pytest.raises(ValueError, match="needs a URL"):
        connect(StoreConfig())


def test_unix_socket_needs_no_host() -> None:
    client = connect(StoreConfig(url="unix:///run/redis.sock")).client
    assert client.get_connection_kwargs()["path"] == "/run/redis.sock"
