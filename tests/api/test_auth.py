"""Keys and scopes: who gets in, who does not, and that there is no way around."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import auth
from service.app import StartError, _refresh_keys, create_app
from service.auth import Keyring, KeysError, KeySource, read_keys
from service.edge import Edge
from tests.api.world import EXACT, calling, key_entry, serving, settings

SECRETS = {
    "scorer": "gk-scorer-5f0c",
    "runner": "gk-runner-90aa",
    "watcher": "gk-watcher-11d3",
    "publisher": "gk-publisher-7b7e",
    "everything": "gk-everything-c001",
}
ENTRIES = [
    key_entry("scorer", SECRETS["scorer"], ["score"]),
    key_entry("runner", SECRETS["runner"], ["run"]),
    key_entry("watcher", SECRETS["watcher"], ["metrics"]),
    key_entry("publisher", SECRETS["publisher"], ["publish"]),
    key_entry("everything", SECRETS["everything"], ["score", "run", "publish", "metrics"]),
]
SCORE = "/v1/graders/exact/versions/1/score"
RUN = "/v1/fine_tuning/alpha/graders/run"
AZURE_RUN = "/openai/v1/fine_tuning/alpha/graders/run"
ROW = {"item": {"answer": "a"}, "model_sample": "a"}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(ENTRIES))
    return file


@pytest.fixture
def guarded(definitions: Path, keys_file: Path) -> Edge:
    return create_app(settings(definitions, api_keys_file=str(keys_file)))


@pytest.fixture
async def client(guarded: Edge) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(guarded) as caller:
        yield caller


@pytest.fixture(scope="module")
def guarded_port(definitions: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_text(json.dumps(ENTRIES))
    with serving(settings(definitions, api_keys_file=str(file))) as live:
        yield live.port


def write(file: Path, text: str) -> None:
    file.write_text(text)


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[name]}"}


class TestOpen:
    @pytest.mark.parametrize(
        "headers",
        [{}, {"authorization": "Bearer anything"}, {"api-key": "anything"}],
        ids=["no key", "any key", "any azure key"],
    )
    async def test_without_keys_loopback_takes_everybody(
        self, api: httpx.AsyncClient, headers: dict[str, str]
    ) -> None:
        assert (await api.post(SCORE, json=ROW, headers=headers)).status_code == 200
        assert (await api.get("/metrics", headers=headers)).status_code == 200

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
    def test_without_keys_loopback_starts(self, definitions: Path, host: str) -> None:
        create_app(settings(definitions, host=host))

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])  # noqa: S104
    def test_without_keys_nothing_else_starts(self, definitions: Path, host: str) -> None:
        with pytest.raises(StartError, match=f"listen on {host} without any API key"):
            create_app(settings(definitions, host=host))

    @pytest.mark.parametrize(
        "changes", [{"api_key": "gk-x"}, {"allow_unauthenticated": True}], ids=["key", "insists"]
    )
    def test_a_key_or_insisting_lets_it_start(
        self, definitions: Path, changes: dict[str, Any]
    ) -> None:
        create_app(settings(definitions, host="0.0.0.0", **changes))  # noqa: S104

    async def test_a_keys_file_without_keys_lets_nobody_in(
        self, definitions: Path, keys_file: Path
    ) -> None:
        write(keys_file, "[]")
        app = create_app(settings(definitions, host="0.0.0.0", api_keys_file=str(keys_file)))  # noqa: S104
        async with calling(app) as caller:
            assert (await caller.post(SCORE, json=ROW)).status_code == 401
            assert (await caller.get("/healthz")).status_code == 200


class TestScopes:
    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("POST", SCORE, {"scorer"}),
            ("POST", SCORE + "/batch", {"scorer"}),
            ("GET", "/v1/graders", {"scorer"}),
            ("GET", "/v1/graders/exact/versions/1/export", {"scorer"}),
            ("POST", RUN, {"runner"}),
            ("POST", RUN.replace("run", "validate"), {"runner"}),
            ("POST", AZURE_RUN, {"runner"}),
            ("GET", "/metrics", {"watcher"}),
            ("GET", "/no/such/path", {"scorer", "runner", "watcher", "publisher"}),
        ],
    )
    @pytest.mark.parametrize("name", SECRETS)
    async def test_decide_what_a_key_may_do(
        self, client: httpx.AsyncClient, method: str, path: str, allowed: set[str], name: str
    ) -> None:
        response = await client.request(method, path, headers=bearer(name), json={})
        permitted = name in allowed or name == "everything"
        assert (response.status_code == 403) is not permitted
        assert response.status_code != 401

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/schema", "/schema/openapi.json"])
    async def test_some_paths_are_open(self, client: httpx.AsyncClient, path: str) -> None:
        assert (await client.get(path)).status_code == 200

    async def test_the_key_of_the_settings_may_do_everything(
        self, definitions: Path, keys_file: Path
    ) -> None:
        app = create_app(settings(definitions, api_key="gk-own", api_keys_file=str(keys_file)))
        async with calling(app, headers={"authorization": "Bearer gk-own"}) as caller:
            assert (await caller.post(SCORE, json=ROW)).status_code == 200
            assert (await caller.get("/metrics")).status_code == 200
        async with calling(app, headers=bearer("scorer")) as caller:
            assert (await caller.post(SCORE, json=ROW)).status_code == 200


class TestRefusals:
    @pytest.mark.parametrize(
        "headers",
        [
            pytest.param({}, id="missing"),
            pytest.param({"authorization": ""}, id="empty"),
            pytest.param({"authorization": "Bearer"}, id="no key"),
            pytest.param({"authorization": "Bearer "}, id="empty key"),
            pytest.param({"authorization": "Bearer gk-wrong"}, id="wrong"),
            pytest.param({"authorization": f"Basic {SECRETS['scorer']}"}, id="another scheme"),
            pytest.param({"authorization": f"Bearer {SECRETS['scorer']} "[:-2]}, id="cut off"),
            pytest.param({"authorization": f"Bearer  {SECRETS['scorer']}"}, id="two spaces"),
            pytest.param({"authorization": b"Bearer \xff\xfe\x80"}, id="bytes"),
            pytest.param({"authorization": "Bearer " + "x" * 10_000}, id="huge"),
            pytest.param({"api-key": "gk-wrong"}, id="wrong azure key"),
            pytest.param({"api-key": ENTRIES[0]["sha256"]}, id="the stored hash"),
        ],
    )
    async def test_of_unknown_keys_are_401_in_both_shapes(
        self, client: httpx.AsyncClient, headers: dict[str, Any]
    ) -> None:
        native = await client.post(SCORE, json=ROW, headers=headers)
        hosted = await client.post(RUN, json=ROW, headers=headers)
        assert native.status_code == hosted.status_code == 401
        assert native.headers["www-authenticate"] == hosted.headers["www-authenticate"] == "Bearer"
        assert native.headers["content-type"] == "application/problem+json"
        assert native.json()["type"] == "urn:gradekeeper:problem:unauthenticated"
        assert native.json()["request_id"] == native.headers["x-request-id"]
        error = hosted.json()["error"]
        assert error["type"] == "authentication_error"
        assert "API key" in error["message"]

    async def test_of_scopes_are_403_in_both_shapes(self, client: httpx.AsyncClient) -> None:
        native = await client.post(SCORE, json=ROW, headers=bearer("runner"))
        hosted = await client.post(RUN, json=ROW, headers=bearer("scorer"))
        assert native.status_code == hosted.status_code == 403
        assert native.json()["detail"] == "this key lacks the scope 'score'"
        assert hosted.json()["error"]["type"] == "permission_error"

    async def test_tell_nothing_about_what_exists(self, client: httpx.AsyncClient) -> None:
        known = await client.post(SCORE, json=ROW)
        unknown = await client.post(SCORE.replace("exact", "nobody"), json=ROW)
        assert known.status_code == unknown.status_code == 401
        assert known.json()["detail"] == unknown.json()["detail"]

    @pytest.mark.parametrize(
        "header",
        [
            ("authorization", "Bearer {}"),
            ("authorization", "bearer {}"),
            ("authorization", "BEARER {}"),
            ("Authorization", "{}"),
            ("api-key", "{}"),
            ("x-api-key", "{}"),
        ],
        ids=" ".join,
    )
    async def test_a_right_key_gets_in_however_it_is_sent(
        self, client: httpx.AsyncClient, header: tuple[str, str]
    ) -> None:
        name, form = header
        headers = {name: form.format(SECRETS["scorer"])}
        assert (await client.post(SCORE, json=ROW, headers=headers)).status_code == 200


class TestPathTricks:
    """What the router takes for a path must be what the keys were checked for."""

    @pytest.mark.parametrize(
        ("target", "needed"),
        [
            ("/v1/graders", "scorer"),
            ("//v1/graders", "scorer"),
            ("/v1//graders", "scorer"),
            ("/v1/graders/", "scorer"),
            ("/v1/graders//", "scorer"),
            ("///v1///graders///exact", "scorer"),
            ("/%76%31/graders", "scorer"),
            ("/v1%2fgraders", "scorer"),
            ("/v1/graders%2f", "scorer"),
            ("/%2fv1/graders", "scorer"),
            ("/schema//../v1/graders", None),
            ("/schema/../v1/graders", None),
            ("/schema/%2e%2e/v1/graders", None),
            ("/healthz/../v1/graders", None),
            ("/healthz/v1/graders", None),
            ("/V1/graders", None),
            ("/v1/Graders", None),
            ("/v1/graders;/exact", None),
            ("/v1/graders%00", None),
            ("/./v1/graders", None),
            ("//metrics", "watcher"),
            ("/metrics/", "watcher"),
            ("/METRICS", None),
            ("http://localhost/v1/graders", "scorer"),
            ("http://localhost//v1/graders", "scorer"),
        ],
    )
    def test_open_nothing(self, guarded_port: int, target: str, needed: str | None) -> None:
        found = {name: ask(guarded_port, target, secret) for name, secret in SECRETS.items()}
        found["nobody"] = ask(guarded_port, target, "")
        let_in = {name for name, status in found.items() if 200 <= status < 300}
        assert let_in == ({needed, "everything"} if needed else set())
        assert all(status < 500 for status in found.values())

    async def test_long_paths_are_refused_before_anything_remembers_them(
        self, client: httpx.AsyncClient
    ) -> None:
        url = f"/v1/graders/{'x' * 3_000}"
        response = await client.get(url, headers=bearer("scorer"))
        assert response.status_code == 414
        assert "xxx" not in response.text


def ask(port: int, target: str, secret: str) -> int:
    """Return the status for a request target that is sent exactly as it stands."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(10)
        head = f"GET {target} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {secret}\r\n"
        connection.sendall(f"{head}connection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").readline()
    return int(answer.split()[1])


class TestKeysFile:
    def test_changes_are_taken_up(self, keys_file: Path) -> None:
        source = KeySource("", str(keys_file))
        assert source.refresh() is False
        keys_file.write_text(json.dumps([key_entry("other", "gk-new", ["run"])]))
        assert source.refresh() is True
        assert source.ring.find(SECRETS["scorer"].encode()) is None
        found = source.ring.find(b"gk-new")
        assert found is not None
        assert found.name == "other"
        assert set(found.scopes) == {"run"}

    def test_a_replaced_file_of_equal_size_and_time_is_taken_up(self, keys_file: Path) -> None:
        source = KeySource("", str(keys_file))
        status = keys_file.stat()
        changed = keys_file.with_name("new.json")
        changed.write_text(json.dumps(ENTRIES).replace("scorer", "SCORER"))
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
        changed.replace(keys_file)
        assert source.refresh() is True

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            pytest.param("", "unusable", id="empty"),
            pytest.param("{}", "unusable: Expected `array`", id="object"),
            pytest.param('[{"name": "a"}]', "missing required field `sha256`", id="no hash"),
            pytest.param(
                json.dumps([{**ENTRIES[0], "scope": ["run"]}]),
                "unknown field `scope`",
                id="unknown",
            ),
            pytest.param('[{"name": "a", "sha256": "abc"}]', "64 hexadecimal", id="short hash"),
            pytest.param(json.dumps([{"name": "a", "sha256": "g" * 64}]), "64 hexa", id="no hex"),
            pytest.param(json.dumps([ENTRIES[0], ENTRIES[0]]), "name of its own", id="twice"),
            pytest.param(json.dumps(ENTRIES).replace('"run"', '"walk"'), "'walk'", id="scope"),
        ],
    )
    def test_a_broken_one_is_refused_and_the_old_keys_stay(
        self, keys_file: Path, text: str, problem: str
    ) -> None:
        source = KeySource("", str(keys_file))
        keys_file.write_text(text)
        with pytest.raises(KeysError, match=problem):
            source.refresh()
        assert source.ring.find(SECRETS["scorer"].encode()) is not None

    def test_bytes_that_are_no_text_are_refused(self) -> None:
        with pytest.raises(KeysError, match="unusable"):
            read_keys(b'[{"name": "\xff"}]')

    def test_a_missing_one_stops_the_start(self, definitions: Path, tmp_path: Path) -> None:
        with pytest.raises(KeysError, match="No such file"):
            create_app(settings(definitions, api_keys_file=str(tmp_path / "none.json")))

    def test_a_vanished_one_keeps_the_old_keys(self, keys_file: Path) -> None:
        source = KeySource("", str(keys_file))
        keys_file.unlink()
        with pytest.raises(KeysError, match="No such file"):
            source.refresh()
        assert len(source.ring) == len(ENTRIES)

    async def test_a_running_service_takes_new_keys_and_says_so(
        self, guarded: Edge, keys_file: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        services = guarded._app.state.services
        async with calling(guarded) as caller:
            write(keys_file, json.dumps([key_entry("fresh", "gk-fresh", ["score"])]))
            _refresh_keys(services)
            fresh = {"authorization": "Bearer gk-fresh"}
            assert (await caller.post(SCORE, json=ROW, headers=fresh)).status_code == 200
            assert (await caller.post(SCORE, json=ROW, headers=bearer("scorer"))).status_code == 401
            write(keys_file, "nonsense")
            _refresh_keys(services)
            assert (await caller.post(SCORE, json=ROW, headers=fresh)).status_code == 200
        events = [record.getMessage() for record in caplog.records if record.name == "service.app"]
        assert events == ["keys loaded", "keys kept: the new ones are unusable"]


class TestSecrets:
    def test_new_ones_are_long_and_never_alike(self) -> None:
        made = {auth.new_secret() for _ in range(100)}
        assert len(made) == 100
        assert all(secret.startswith("gk-") and len(secret) >= 40 for secret in made)

    def test_a_ring_keeps_hashes_only(self, keys_file: Path) -> None:
        ring = KeySource("gk-own", str(keys_file)).ring
        assert "gk-own" not in repr(vars(ring))
        assert isinstance(ring, Keyring)

    def test_never_reach_the_log_or_the_metrics(
        self,
        definitions: Path,
        keys_file: Path,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        app_settings = settings(
            definitions,
            api_key="gk-own-3b1d",
            api_keys_file=str(keys_file),
            access_log=True,
            log_level="debug",
        )
        sent = [*SECRETS.values(), "gk-own-3b1d", "gk-never-known"]
        with serving(app_settings) as live:
            for secret in sent:
                headers = {"authorization": f"Bearer {secret}"}
                httpx.post(live.url + SCORE, json=ROW, headers=headers)
                httpx.post(live.url + RUN, json={"grader": EXACT, **ROW}, headers=headers)
                httpx.get(f"{live.url}/{secret}", headers={"api-key": secret})
            own = {"api-key": "gk-own-3b1d"}
            text = httpx.get(f"{live.url}/metrics", headers=own).text
        logged = capfd.readouterr()
        assert '"key":"scorer"' in logged.err
        for secret in sent:
            assert secret not in logged.err + logged.out + text
