"""Published definitions in stores of both kinds, over a real Redis."""

from __future__ import annotations

import asyncio

import pytest

from service.stores import Appended, Document, RedisStore, Store, StoreConfig
from tests.stores.server import RedisServer

ONE, TWO = b'{"a": 1}', b'{"a": 2}'


async def append(store: Store, text: bytes, *, name: str = "g", above: int = 0) -> Appended:
    digest = f"sha256:{text.hex()}"
    return await store.documents.append(name, digest, text, above=above, most=3)


async def test_versions_count_from_1_and_equal_documents_are_one(store: Store) -> None:
    assert await append(store, ONE) == Appended("new", 1)
    assert await append(store, TWO) == Appended("new", 2)
    assert await append(store, ONE) == Appended("known", 1)
    assert await append(store, ONE, name="h") == Appended("new", 1)
    assert await append(store, b"{}", name="h") == Appended("full")
    assert await append(store, TWO) == Appended("known", 2)


async def test_a_new_version_is_above_what_the_caller_knows(store: Store) -> None:
    assert await append(store, ONE, above=4) == Appended("new", 5)
    assert await append(store, ONE, above=9) == Appended("known", 5)


async def test_contents_are_of_one_moment_and_every_change_raises_the_revision(
    store: Store,
) -> None:
    documents = store.documents
    empty = await documents.contents()
    assert empty is not None
    assert (empty.revision, empty.digests, empty.labels) == (0, {}, {})
    seen = {await documents.revision()}
    await append(store, ONE)
    seen.add(await documents.revision())
    assert await documents.label("g", "stable", 1)
    assert await documents.label("g", "next", 1)
    seen.add(await documents.revision())
    assert await documents.label("g", "next", None)
    contents = await documents.contents()
    assert contents is not None
    assert contents.digests == {("g", 1): f"sha256:{ONE.hex()}"}
    assert contents.labels == {"g": {"stable": 1}}
    assert contents.revision not in seen
    assert len(seen) == 3
    await append(store, ONE)
    assert await documents.revision() == contents.revision


async def test_documents_are_fetched_byte_for_byte(store: Store) -> None:
    texts = [b'{"n": "\xc3\xa9 %d"}' % number for number in range(3)]
    for text in texts:
        await append(store, text)
    wanted = [("g", 3), ("g", 1), ("g", 9), ("nobody", 1)]
    found = await store.documents.fetch(wanted)
    assert found is not None
    assert [(d.name, d.version, d.text) for d in found] == [("g", 3, texts[2]), ("g", 1, texts[0])]
    assert found[0].digest == f"sha256:{texts[2].hex()}"


async def test_many_documents_are_fetched_in_order(store: Store) -> None:
    for number in range(150):
        await store.documents.append("g", f"d{number}", b"%d" % number, above=0, most=999)
    found = await store.documents.fetch([("g", number) for number in range(1, 151)])
    assert found is not None
    assert [document.text for document in found] == [b"%d" % number for number in range(150)]


async def test_what_was_lost_is_restored_and_what_is_there_stays(store: Store) -> None:
    await append(store, ONE)
    lost, other = Document("g", 2, "two", TWO), Document("g", 1, "other", b"{}")
    assert await store.documents.restore([lost, other])
    found = await store.documents.fetch([("g", 1), ("g", 2)])
    assert found is not None
    assert [document.text for document in found] == [ONE, TWO]
    assert await append(store, b"[]") == Appended("new", 3)


@pytest.mark.parametrize("twice", [False, True], ids=["other documents", "one document"])
async def test_replicas_that_publish_at_once_agree(redis_server: RedisServer, twice: bool) -> None:
    redis_server.cli("flushall")
    config = StoreConfig(url=redis_server.url, timeout_s=2.0)
    stores = [RedisStore(config) for _ in range(3)]
    texts = [ONE, ONE, ONE] if twice else [ONE, TWO, b"{}"]
    answers = await asyncio.gather(
        *(append(store, text) for store, text in zip(stores, texts, strict=True))
    )
    assert sorted(answer.version for answer in answers) == ([1, 1, 1] if twice else [1, 2, 3])
    assert sorted(answer.state for answer in answers) == (
        ["known", "known", "new"] if twice else ["new", "new", "new"]
    )
    for store in stores:
        await store.close()


async def test_a_redis_that_is_away_or_holds_garbage_says_nothing(
    redis_server: RedisServer,
) -> None:
    redis_server.cli("flushall")
    redis_server.cli("set", "gk:{definitions}:revision", "many")
    config = StoreConfig(url=redis_server.url, prefix="gk", timeout_s=2.0)
    store = RedisStore(config)
    assert await store.documents.revision() is None
    assert await store.documents.contents() is None
    redis_server.cli("hset", "gk:{definitions}:labels", "g@x", "soon")
    assert await store.documents.contents() is None
    await store.close()
    closed = store.documents
    assert await closed.revision() is None
    assert await closed.contents() is None
    assert await closed.fetch([("g", 1)]) is None
    assert not await closed.label("g", "a", 1)
    assert not await closed.restore([Document("g", 1, "d", ONE)])
    assert await closed.append("g", "d", ONE, above=0, most=3) == Appended("away")
