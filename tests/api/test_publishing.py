"""Publishing: over HTTP in one process, and by real processes that share a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from graders.building import Options
from service import publishing
from service.app import create_app
from service.counting import Counts
from service.definitions import Definitions
from service.metrics import Metrics
from service.problems import ConflictError
from service.publishing import Publications, PublishingUnavailableError
from service.settings import Settings
from service.stores import Document, MemoryStore, RedisStore, StoreConfig
from tests.api.world import calling, key_entry, running, settings, wait_until
from tests.stores.server import RedisServer

URL = "/v1/graders/capital/versions"


def grader(reference: str = "{{item.answer}}", **more: Any) -> dict[str, Any]:
    return {
        "type": "string_check",
        "name": "capital",
        "operation": "eq",
        "input": "{{sample.output_text}}",
        "reference": reference,
        **more,
    }


ROW = {"item": {"answer": "Paris"}, "model_sample": "Paris"}


class TestPublish:
    async def test_a_version_can_be_scored_with_once_it_is_published(
        self, api: httpx.AsyncClient
    ) -> None:
        text = (
            b'{"name": "capital", "type":"string_check", "operation": "eq",\n'
            b'"input": "{{sample.output_text}}", "reference": "{{item.answer}}"}'
        )
        published = await api.post(URL, content=text)
        assert published.status_code == 201
        assert published.headers["location"] == f"{URL}/1"
        answer = published.json()
        assert (answer["grader"], answer["version"]) == ("capital", 1)
        assert published.headers["etag"] == f'"{answer["digest"]}"'
        scored = (await api.post(f"{URL}/1/score", json=ROW)).json()
        assert (scored["reward"], scored["digest"]) == (1.0, answer["digest"])
        shown = await api.get(f"{URL}/latest")
        assert text in shown.content  # byte for byte

    async def test_the_same_document_is_the_same_version(self, api: httpx.AsyncClient) -> None:
        first = await api.post(URL, json=grader())
        assert (await api.post(URL, json=grader("Rome"))).json()["version"] == 2
        again = await api.post(URL, content=json.dumps(grader(), indent=2))
        assert (again.status_code, again.json()) == (200, first.json())
        versions = (await api.get(URL)).json()["versions"]
        assert [version["version"] for version in versions] == [1, 2]

    @pytest.mark.parametrize(
        ("body", "status", "words"),
        [
            (b"", 400, "not JSON"),
            (b'{"type": "string_check"', 400, "not JSON"),
            (b'{"a": "\xff"}', 400, "not JSON"),
            (b"[" * 5_000, 400, "not JSON"),
            (b'{"type": "nothing", "name": "x"}', 400, "nothing"),
            (json.dumps(grader("{{item.")).encode(), 400, "/reference"),
            (b'{"type": "string_check", "type": "python"}', 400, "finding"),
        ],
        ids=range(7),
    )
    async def test_what_is_no_definition_is_refused_with_the_place(
        self, api: httpx.AsyncClient, body: bytes, status: int, words: str
    ) -> None:
        answer = await api.post(URL, content=body)
        assert answer.status_code == status
        assert words in answer.text
        assert (await api.get(URL)).status_code == 404

    async def test_a_key_that_stands_twice_is_refused(self, api: httpx.AsyncClient) -> None:
        text = json.dumps(grader()).replace('"operation"', '"reference": "Rome", "operation"')
        answer = (await api.post(URL, content=text)).json()
        assert answer["errors"][0]["code"] == "repeated_key"

    async def test_files_cannot_be_published_over(self, api: httpx.AsyncClient) -> None:
        answer = await api.post("/v1/graders/exact/versions", json=grader())
        assert answer.status_code == 409
        assert "files" in answer.json()["detail"]
        label = await api.put("/v1/graders/exact/labels/x", json={"version": 1})
        assert label.status_code == 409

    @pytest.mark.parametrize("name", ["Capital", "a%20b", "-x", "x" * 101, "..", "a@1"])
    async def test_a_name_must_be_one(self, api: httpx.AsyncClient, name: str) -> None:
        answer = await api.post(f"/v1/graders/{name}/versions", json=grader())
        assert answer.status_code in {400, 404, 405}

    async def test_there_is_a_limit(self, definitions: Path) -> None:
        app = create_app(settings(definitions, max_published=1))
        async with calling(app) as api:
            assert (await api.post(URL, json=grader())).status_code == 201
            answer = await api.post(URL, json=grader("Rome"))
            assert answer.status_code == 409
            assert "1 versions" in answer.json()["detail"]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [({"max_published": 0}, "GRADEKEEPER_MAX_PUBLISHED"), ({"workers": 2}, "REDIS_URL")],
    )
    async def test_where_it_cannot_be_it_says_why(
        self, definitions: Path, changes: dict[str, Any], words: str
    ) -> None:
        async with calling(create_app(settings(definitions, **changes))) as api:
            answer = await api.post(URL, json=grader())
        assert answer.status_code == 501
        assert words in answer.json()["detail"]

    async def test_only_the_scope_publish_allows_it(
        self, definitions: Path, tmp_path: Path
    ) -> None:
        keys = tmp_path / "keys.json"
        entries = [key_entry(scope, f"gk-{scope}", [scope]) for scope in ("score", "publish")]
        keys.write_text(json.dumps(entries))
        app = create_app(settings(definitions, api_keys_file=str(keys)))
        label = "/v1/graders/capital/labels/a"
        async with calling(app) as api:
            for method, url in (
                ("POST", URL),
                ("POST", URL + "/"),
                ("PUT", label),
                ("DELETE", label),
            ):
                for scope, refused in (("score", True), ("publish", False)):
                    headers = {"authorization": f"Bearer gk-{scope}"}
                    answer = await api.request(method, url, headers=headers, json=grader())
                    assert (answer.status_code == 403) is refused, (method, url, scope)
            headers = {"authorization": "Bearer gk-publish"}
            assert (await api.get(URL, headers=headers)).status_code == 403
            assert (await api.post(f"{URL}?key=gk-score", json=grader())).status_code in {401, 403}


class TestLabels:
    async def test_a_label_is_a_version_until_it_moves_or_goes(
        self, api: httpx.AsyncClient
    ) -> None:
        for reference in ("{{item.answer}}", "Rome"):
            await api.post(URL, json=grader(reference))
        labels = "/v1/graders/capital/labels"
        put = await api.put(f"{labels}/stable", json={"version": 1})
        assert put.status_code == 200
        assert put.json()["labels"] == {"stable": 1}
        assert (await api.post(f"{URL}/stable/score", json=ROW)).json()["version"] == 1
        await api.put(f"{labels}/stable", json={"version": 2})
        assert (await api.post(f"{URL}/stable/score", json=ROW)).json()["version"] == 2
        assert (await api.get(URL)).json()["versions"][1]["labels"] == ["stable"]
        assert (await api.delete(f"{labels}/stable")).status_code == 204
        assert (await api.post(f"{URL}/stable/score", json=ROW)).status_code == 404

    @pytest.mark.parametrize(
        ("label", "body", "status"),
        [
            ("stable", {"version": 2}, 404),
            ("stable", {"version": "1"}, 400),
            ("stable", {}, 400),
            ("latest", {"version": 1}, 400),
            ("1", {"version": 1}, 400),
            ("Stable", {"version": 1}, 400),
        ],
    )
    async def test_what_is_no_label_of_a_version_is_refused(
        self, api: httpx.AsyncClient, label: str, body: Any, status: int
    ) -> None:
        await api.post(URL, json=grader())
        answer = await api.put(f"/v1/graders/capital/labels/{label}", json=body)
        assert answer.status_code == status

    async def test_there_is_a_limit(
        self, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(publishing, "_MAX_LABELS", 1)
        await api.post(URL, json=grader())
        for label, status in (("a", 200), ("a", 200), ("b", 409)):
            url = f"/v1/graders/capital/labels/{label}"
            assert (await api.put(url, json={"version": 1})).status_code == status

    async def test_a_grader_that_nobody_published_has_none(self, api: httpx.AsyncClient) -> None:
        assert (await api.delete("/v1/graders/nobody/labels/x")).status_code == 404


class World:
    """Replicas in one process, over one store or one Redis."""

    def __init__(self, redis: RedisServer | None = None) -> None:
        self.redis = redis
        self.memory = MemoryStore()
        self.stores: list[RedisStore] = []

    def replica(self, directory: Path | None = None, **more: Any) -> Publications:
        directories = [] if directory is None else [directory]
        definitions = Definitions(directories, Options(), Counts(Metrics()))
        documents = self.memory.documents
        if self.redis is not None:
            config = StoreConfig(url=self.redis.url, timeout_s=2.0, probe_s=0.05)
            self.stores.append(RedisStore(config))
            documents = self.stores[-1].documents
        return Publications(documents, definitions, Options(), most=9, **more)


@pytest.fixture(params=["memory", "redis"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(RedisServer()) if request.param == "redis" else None
        found = World(shared)
        yield found
        for store in found.stores:
            await store.close()


def text(reference: str = "{{item.answer}}") -> bytes:
    return json.dumps(grader(reference)).encode()


class TestReplicas:
    async def test_another_one_finds_a_new_version_at_once(self, world: World) -> None:
        one, other = world.replica(), world.replica()
        await one.publish("capital", text())
        assert (await other.find("capital", "1")).document == text()
        await one.publish("capital", text("Rome"))
        await one.label("capital", "stable", 1)
        await other.refresh()
        assert (await other.find("capital", "latest")).version == 2
        assert (await other.find("capital", "stable")).version == 1

    async def test_misses_at_once_share_looks(self, world: World) -> None:
        one, other = world.replica(), world.replica()
        await one.publish("capital", text())
        looks: list[str] = []
        look = other._documents.revision

        async def counted() -> int | None:
            looks.append("")
            await asyncio.sleep(0.01)
            return await look()

        other._documents.revision = counted  # type: ignore[method-assign]
        found = await asyncio.gather(*(other.find("capital", "1") for _ in range(50)))
        assert {definition.version for definition in found} == {1}
        assert len(looks) == 2  # the first one's, and one that began after all others asked

    async def test_a_store_that_lost_everything_gets_it_back(
        self, redis_server: RedisServer
    ) -> None:
        redis_server.cli("flushall")
        world = World(redis_server)
        one, other = world.replica(), world.replica()
        await one.publish("capital", text())
        await one.publish("capital", text("Rome"))
        await one.label("capital", "stable", 1)
        redis_server.cli("flushall")
        found, is_new = await one.publish("capital", text("Oslo"))
        assert (found.version, is_new) == (3, True)
        await other.refresh()
        assert [(await other.find("capital", str(n))).document for n in (1, 2, 3)] == [
            text(),
            text("Rome"),
            text("Oslo"),
        ]
        assert (await other.find("capital", "stable")).version == 1
        for store in world.stores:
            await store.close()

    async def test_a_version_never_changes_whatever_the_store_says(
        self, redis_server: RedisServer
    ) -> None:
        redis_server.cli("flushall")
        world = World(redis_server)
        one, other = world.replica(), world.replica()
        await one.publish("capital", text())
        redis_server.cli("flushall")
        await other.publish("capital", text("Rome"))
        await one.refresh()
        assert (await one.find("capital", "1")).document == text()
        assert "capital@1" in one.state["unusable"]
        for store in world.stores:
            await store.close()

    async def test_what_cannot_be_compiled_here_is_named_and_the_rest_is_served(
        self, world: World
    ) -> None:
        one = world.replica()
        await one.publish("capital", text())
        other = world.replica()
        bad = Document("broken", 1, "sha256:0", b'{"type": "later", "name": "x"}')
        assert await other._documents.restore([bad])
        assert (await other.find("capital", "1")).version == 1
        assert list(other.state["unusable"]) == ["broken@1"]
        assert other.state["published"] == 1

    async def test_files_win_over_what_was_published_before_them(
        self, world: World, tmp_path: Path
    ) -> None:
        one = world.replica()
        await one.publish("capital", text("Rome"))
        (tmp_path / "capital").mkdir()
        (tmp_path / "capital/1.json").write_bytes(text())
        other = world.replica(tmp_path)
        await other.refresh()
        assert (await other.find("capital", "1")).document == text()
        with pytest.raises(ConflictError):
            await other.publish("capital", text("Oslo"))

    async def test_without_its_store_it_serves_and_refuses_to_publish(
        self, redis_server: RedisServer
    ) -> None:
        redis_server.cli("flushall")
        world = World(redis_server)
        one = world.replica()
        await one.publish("capital", text())
        await world.stores[0].close()
        assert (await one.find("capital", "1")).version == 1
        with pytest.raises(PublishingUnavailableError) as raised:
            await one.publish("capital", text("Rome"))
        assert raised.value.retryable
        with pytest.raises(PublishingUnavailableError):
            await one.label("capital", "stable", 1)
        with pytest.raises(PublishingUnavailableError):
            await one.find("capital", "2")


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.mark.integration
def test_processes_share_what_is_published(definitions: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        environment = {"GRADEKEEPER_REDIS_URL": redis.url, "GRADEKEEPER_SANDBOX": "off"}
        one, other = (
            stack.enter_context(running(definitions, tmp_path / f"{n}.log", **environment)).url
            for n in range(2)
        )
        published = httpx.post(f"{one}{URL}", json=grader())
        assert published.status_code == 201, published.text
        scored = httpx.post(f"{other}{URL}/1/score", json=ROW)
        assert scored.json()["digest"] == published.json()["digest"]
        httpx.post(f"{other}{URL}", json=grader("Rome"))
        wait_until(lambda: httpx.get(f"{one}{URL}/latest").json()["version"] == 2)
        ready = httpx.get(f"{one}/readyz").json()
        assert ready["dependencies"]["definitions"]["published"] == 2


def test_the_limit_is_a_setting() -> None:
    assert Settings().max_published == 1_000
