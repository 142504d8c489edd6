"""The service as an attacker sees it: routes without a right, texts that mean to escape."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from litestar.routes import HTTPRoute

from service.app import create_app
from service.auth import Key, Keyring, Scope
from service.edge import Edge
from tests.api.world import (
    EXACT,
    Child,
    Live,
    calling,
    key_entry,
    running,
    serving,
    settings,
    write_definitions,
)

pytestmark = pytest.mark.attack

SCOPES: tuple[Scope, ...] = ("score", "run", "publish", "metrics")
OPEN = {"/healthz", "/readyz"}
CANARY = "canary-5c1f"
RUN = "/v1/fine_tuning/alpha/graders/run"
SCORE = "/v1/graders/exact/versions/1/score"
ROW = {"item": {"answer": "a"}, "model_sample": "a"}
_WITH_BODY = {"POST", "PUT", "PATCH"}
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


def key_of(scope: str) -> str:
    return f"gk-only-{scope}"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.json"
    entries = [key_entry(scope, key_of(scope), [scope]) for scope in SCOPES]
    entries.append(key_entry("everything", key_of("everything"), SCOPES))
    file.write_text(json.dumps(entries))
    return file


def revoke_all(keys_file: Path) -> None:
    keys_file.write_text(json.dumps([key_entry("new", "gk-new", ["score"])]))


@pytest.fixture
def edge(definitions: Path, keys_file: Path) -> Edge:
    return create_app(settings(definitions, api_keys_file=str(keys_file)))


def operations(edge: Edge) -> list[tuple[str, str]]:
    """Return method and path of everything that is routed, with parameters filled in."""
    values = {"name": "exact", "version": "1"}
    found = [
        (str(method), _PARAMETER.sub(lambda match: values.get(match[1], "x"), route.path))
        for route in edge._app.routes
        if isinstance(route, HTTPRoute)
        for method in sorted(route.methods)
    ]
    assert len(found) > 60
    assert ("POST", SCORE) in found
    return found


def scope_of(method: str, path: str) -> str:
    """Return the scope that a call ought to need."""
    publishing = path.endswith("/versions") or "/labels/" in path
    if publishing and method != "GET":
        return "publish"
    if path == "/metrics":
        return "metrics"
    return "run" if "/fine_tuning/" in path else "score"


def is_open(path: str) -> bool:
    return path in OPEN or path == "/schema" or path.startswith("/schema/")


class TestEveryRoute:
    async def test_refuses_whoever_has_no_key(self, edge: Edge) -> None:
        stored = hashlib.sha256(key_of("score").encode()).hexdigest()
        nobody: list[dict[str, str]] = [
            {},
            {"authorization": "Bearer gk-wrong"},
            {"authorization": f"Bearer {stored}"},
            {"api-key": key_of("score")[:-1]},
            {"x-api-key": key_of("score") + "x"},
            {"cookie": f"key={key_of('score')}"},
        ]
        async with calling(edge) as caller:
            for method, path in operations(edge):
                for headers in nobody:
                    response = await caller.request(method, path, headers=headers, content=b"{}")
                    assert (response.status_code == 401) is not is_open(path), (method, path)

    async def test_lets_in_one_scope_and_no_other(self, edge: Edge) -> None:
        async with calling(edge) as caller:
            for method, path in operations(edge):
                let_in = set()
                for scope in SCOPES:
                    headers = {"authorization": f"Bearer {key_of(scope)}"}
                    response = await caller.request(method, path, headers=headers, content=b"{}")
                    assert response.status_code != 401
                    if response.status_code != 403:
                        let_in.add(scope)
                expected = set(SCOPES) if is_open(path) else {scope_of(method, path)}
                assert let_in == expected, (method, path, let_in)

    async def test_refuses_a_key_that_was_revoked(self, edge: Edge, keys_file: Path) -> None:
        async with calling(edge) as caller:
            headers = {"authorization": f"Bearer {key_of('score')}"}
            assert (await caller.post(SCORE, json=ROW, headers=headers)).status_code == 200
            revoke_all(keys_file)
            edge._app.state.services.keys.refresh()
            for scope in SCOPES:
                headers = {"authorization": f"Bearer {key_of(scope)}"}
                for method, path in operations(edge):
                    response = await caller.request(method, path, headers=headers, content=b"{}")
                    assert (response.status_code == 401) is not is_open(path), (method, path)

    async def test_takes_keys_in_urls_for_scoring_only(self, edge: Edge) -> None:
        async with calling(edge) as caller:
            for method, path in operations(edge):
                for scope in SCOPES:
                    packed = f"/v1/k/{key_of(scope)}{path.removeprefix('/v1')}"
                    for url in (f"{path}?key={key_of(scope)}", packed):
                        response = await caller.request(method, url, content=b"{}")
                        scoring = scope == scope_of(method, path) == "score"
                        let_in = response.status_code not in {401, 403, 404, 405}
                        assert not let_in or scoring or is_open(path), (method, url)

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"[" * 20_000 + b"]" * 20_000, id="deep"),
            pytest.param(b'{"item":' * 20_000 + b"1" + b"}" * 20_000, id="deep objects"),
            pytest.param(b'{"item": "' + b"x" * 70_000 + b'"}', id="oversize"),
            pytest.param(b"\x00\xff\xfe" * 100, id="bytes"),
        ],
    )
    async def test_answers_hostile_bodies_with_a_typed_refusal(
        self, definitions: Path, body: bytes
    ) -> None:
        edge = create_app(settings(definitions, max_body_bytes=65_536))
        async with calling(edge) as caller:
            for method, path in operations(edge):
                if method not in _WITH_BODY:
                    continue
                if scope_of(method, path) == "publish":
                    path = path.replace("exact", "fresh")  # noqa: PLW2901 - nobody has it yet
                response = await caller.request(method, path, content=body)
                quiet = path.endswith("/seed_session")  # reads its body and wants nothing of it
                expected = {200, 413} if quiet else {400, 413}
                assert response.status_code in expected, (path, response.text[:300])
                if response.status_code != 200:
                    answer = response.json()
                    assert "error" in answer or answer["type"].startswith("urn:gradekeeper:problem")
                    assert len(response.content) < 2_000

    @pytest.mark.parametrize(
        "encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "x-gzip", "gzip, gzip", "nonsense"]
    )
    async def test_takes_no_compressed_body(self, edge: Edge, encoding: str) -> None:
        bomb = gzip.compress(b" " * 10_000_000)
        async with calling(edge) as caller:
            for method, path in operations(edge):
                if method not in _WITH_BODY:
                    continue
                headers = {
                    "authorization": f"Bearer {key_of('everything')}",
                    "content-encoding": encoding,
                }
                response = await caller.request(method, path, content=bomb, headers=headers)
                assert response.status_code == 415, path
                assert "content encoding" in response.text

    @pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
    async def test_takes_a_body_that_says_it_is_not_compressed(
        self, edge: Edge, encoding: str
    ) -> None:
        headers = {
            "authorization": f"Bearer {key_of('score')}",
            "content-encoding": encoding,
        }
        async with calling(edge) as caller:
            assert (await caller.post(SCORE, json=ROW, headers=headers)).status_code == 200


class TestSecrets:
    def test_are_never_compared_themselves(self) -> None:
        """How long a look-up takes cannot depend on a guess: only its hash is looked at."""

        class Guarded(bytes):
            def _compared(self, *_: object) -> Any:
                raise AssertionError("the secret itself was compared")

            __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _compared
            __hash__ = __getitem__ = __iter__ = _compared
            startswith = endswith = find = index = count = _compared

        digest = hashlib.sha256(b"gk-right").hexdigest()
        ring = Keyring((Key(name="k", sha256=digest),))
        found = ring.find(Guarded(b"gk-right"))
        assert found is not None
        assert found.name == "k"
        assert ring.find(Guarded(b"gk-wrong")) is None
        assert ring.find(Guarded(digest.encode())) is None
        with pytest.raises(AssertionError):
            assert Guarded(b"a") == b"a"


HOSTILE_NAMES = [
    "../secret",
    "..%2fsecret",
    "%2e%2e%2fsecret",
    "%2e%2e/secret",
    "..%5csecret",
    "....//secret",
    "..;/secret",
    "%252e%252e%252fsecret",
    "%c0%ae%c0%ae%c0%afsecret",
    "exact%00",
    "exact%2f..%2f..%2fsecret",
    "%2fetc%2fpasswd",
    "file:%2f%2f%2fetc%2fpasswd",
    "%0d%0aset-cookie:%20a=b",
    "~",
    ".",
    "..",
    "*",
    "%25s%25n",
    "__class__",
    "%F0%9F%92%A3",
    "%ff%fe",
]


class TestNames:
    @pytest.fixture(scope="class")
    @classmethod
    def service(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
        root = tmp_path_factory.mktemp("root")
        directory = write_definitions(root / "definitions")
        write_definitions(root, {"secret": [{**EXACT, "name": CANARY}]})
        (root / "secret" / "README.md").write_text(CANARY)
        with serving(settings(directory)) as live:
            yield live

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    @pytest.mark.parametrize(
        "target",
        [
            "/v1/graders/{}",
            "/v1/graders/{}/versions",
            "/v1/graders/{}/versions/1",
            "/v1/graders/exact/versions/{}",
            "/v1/graders/{}/versions/1/export",
            "/v1/graders/exact/versions/1/export?target={}",
            "/v1/graders/exact/versions/1/rewards/{}",
            "/v1/with/{}/graders/exact/versions/1",
            "/schema/{}",
        ],
    )
    def test_lead_nowhere(self, service: Live, target: str, name: str) -> None:
        answer = raw(service.port, f"GET {target.format(name)} HTTP/1.1\r\n{_CLOSE}\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        assert status < 500
        assert CANARY.encode() not in answer
        assert b"root:" not in answer
        assert b"set-cookie" not in head.lower()
        if b"text/html" in head:  # the description's own page, the same for every path
            assert b"<h1>Error 404</h1>" in body
            assert name.encode() not in body or len(name) < 3
        elif status >= 400:
            problem = json.loads(body)
            assert problem["status"] == status
            assert str(Path(__file__).parents[2]) not in body.decode()


_CLOSE = "host: x\r\nconnection: close\r\n"


def raw(port: int, request: bytes) -> bytes:
    """Send exactly ``request``; return everything until the service closes or goes quiet."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(2)
        connection.sendall(request)
        while True:
            try:
                part = connection.recv(65536)
            except (TimeoutError, ConnectionError):
                return answer
            if not part:
                return answer
            answer += part


class TestSmuggling:
    """Two parsers in a row must not differ about where a request ends."""

    BODY = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"

    @pytest.fixture(scope="class")
    @classmethod
    def port(cls, definitions: Path) -> Iterator[int]:
        with serving(settings(definitions)) as live:
            yield live.port

    @pytest.mark.parametrize(
        "fields",
        [
            b"content-length: 44\r\ntransfer-encoding: chunked\r\n",
            b"transfer-encoding: chunked\r\ncontent-length: 44\r\n",
            b"content-length: 44\r\ncontent-length: 5\r\n",
            b"content-length: 44, 5\r\n",
            b"content-length: +44\r\n",
            b"content-length: 0x2c\r\n",
            b"content-length: -1\r\n",
            b"transfer-encoding: xchunked\r\n",
            b"transfer-encoding: chunked, identity\r\n",
            b"transfer-encoding : chunked\r\n",
            b"transfer-encoding:\x0bchunked\r\n",
            b"x: a\nb: c\rtransfer-encoding: chunked\r\n",
            b"content-length: 4\r\n 4\r\n",
        ],
    )
    def test_ambiguous_lengths_are_refused(self, port: int, fields: bytes) -> None:
        start = f"POST {SCORE} HTTP/1.1\r\nhost: x\r\n".encode()
        answer = raw(port, start + fields + b"\r\n" + self.BODY)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"gradekeeper_" not in answer


class TestLogs:
    @pytest.fixture(scope="class")
    @classmethod
    def service(
        cls, definitions: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[tuple[Child, Path]]:
        log = tmp_path_factory.mktemp("log") / "log"
        with running(
            definitions, log, GRADEKEEPER_TRUST_PROXY_HEADERS="true", GRADEKEEPER_SANDBOX="off"
        ) as child:
            yield child, log

    FORGED = '{"event":"forged"}'
    TEXTS = (
        b"a\x1b[31mred",
        b"a\x9b31mred",
        b"a\x7fb",
        b"a\tb",
        "a\u2028b\u202eb".encode(),
        b'", "event": "forged',
        b"%0d%0a" + FORGED.encode(),
        b"\xff\xfe",
    )

    def test_hold_one_object_a_line_and_no_character_that_steers_a_terminal(
        self, service: tuple[Child, Path]
    ) -> None:
        child, log = service
        port = int(child.url.rpartition(":")[2])
        graders = [
            {"type": "endpoint", "name": "e", "url": "http://a\u009b31m\u001b.example/"},
            {**EXACT, "name": "\u001b[31m\u009b\r\n" + self.FORGED},
            {"type": "score_model", "name": "j", "model": "\u001b[2J\u009b\n", "input": []},
        ]
        for text in self.TEXTS:
            for name in (b"x-request-id", b"x-forwarded-for", b"authorization", b"user-agent"):
                head = b"POST " + SCORE.encode() + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
                body = json.dumps(ROW).encode()
                length = b"content-length: %d\r\n" % len(body)
                raw(port, head + name + b": " + text + b"\r\n" + length + b"\r\n" + body)
        raw(port, b"G\x1b[31mT / HTTP/1.1\r\n\r\n")
        raw(port, f"GET /%1b[31m%0d%0a{self.FORGED} HTTP/1.1\r\n{_CLOSE}\r\n".encode())
        for grader in graders:
            httpx.post(child.url + RUN, json={"grader": grader, "model_sample": "x"}, timeout=30)
        child.stop()
        written = log.read_bytes()
        lines = [json.loads(line) for line in written.splitlines()]
        assert sum(line["event"] == "request" for line in lines) > 20
        assert {type(line) for line in lines} == {dict}
        assert "forged" not in {line["event"] for line in lines}
        assert set(written) <= {*range(0x20, 0x7F), 0x0A}


class TestBombs:
    def test_cost_no_memory(self, definitions: Path, tmp_path: Path) -> None:
        """A gigabyte of zeros in a megabyte, with and without saying so."""
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        block = b"\0" * (1 << 20)
        bomb = b"".join(packer.compress(block) for _ in range(1024)) + packer.flush()
        assert len(bomb) < 2_000_000
        with running(definitions, tmp_path / "log", GRADEKEEPER_SANDBOX="off") as child:
            memory = psutil.Process(child.process.pid).memory_info
            before = memory().rss
            for headers in ({"content-encoding": "gzip"}, {}):
                response = httpx.post(child.url + SCORE, content=bomb, headers=headers)
                assert response.status_code in {400, 415}
            assert memory().rss - before < 16 * len(bomb)


class TestServerSideRequests:
    """Callers who may run graders must not reach what only the service can reach."""

    @pytest.fixture
    async def edge(self, definitions: Path) -> Edge:
        chosen = settings(definitions, endpoint_timeout_s=2.0)
        return create_app(chosen)  # with its real adapters

    async def test_an_endpoint_grader_tells_nothing_about_ports(self, edge: Edge) -> None:
        touched = 0

        async def touch(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal touched
            touched += 1
            writer.close()

        server = await asyncio.start_server(touch, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as probe:
            closed = probe.getsockname()[1]
        hosts = ("127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "localhost")
        async with server, calling(edge) as caller:
            for host in hosts:
                said = set()
                for target in (port, closed):
                    grader = {"type": "endpoint", "name": "e", "url": f"http://{host}:{target}/"}
                    body = {"grader": grader, "model_sample": "x", "item": {}}
                    answer = (await caller.post(RUN, json=body)).json()
                    assert answer["reward"] == 0.0
                    errors = json.dumps(answer["metadata"]["errors"])
                    assert "true" in errors
                    said.add(errors.replace(str(target), "PORT"))
                assert len(said) == 1
        assert touched == 0
