"""The Lambda forwarder against the real service, and against servers that misbehave."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from graders.errors import JudgeUnavailableError
from graders.ports import Ports
from tests.api.world import EXACT, JUDGED, Live, key_entry, serving, settings, write_definitions
from tests.deploy.stack import DEPLOY
from tests.fakes import FakeJudge, verdict

pytestmark = pytest.mark.integration

NOVA = {
    "id": "s1",
    "messages": [
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris"},
    ],
    "reference_answer": "Paris",
}
WEIGHTS = {
    "id": "s2",
    "messages": NOVA["messages"],
    "metadata": {"reference_answer": "Lyon"},
}


class Context:
    """What Lambda tells a function about its invocation."""

    def __init__(self, left_s: float) -> None:
        self._ends_at = time.monotonic() + left_s

    def get_remaining_time_in_millis(self) -> int:
        return int((self._ends_at - time.monotonic()) * 1000)


@pytest.fixture
def forwarder(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The Lambda's module, with a short pause between tries."""
    file = DEPLOY / "lambda" / "forwarder.py"
    spec = importlib.util.spec_from_file_location("forwarder", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_PAUSE_S", 0.02)
    monkeypatch.setenv("GRADER_KEY", "gk-lambda")
    return module


@pytest.fixture
def judged() -> list[Any]:
    """What the judge says, in order; the last stays."""
    return [verdict(0.75)]


@pytest.fixture
def live(tmp_path: Path, judged: list[Any]) -> Iterator[Live]:
    """The service with a key for the Lambda."""

    def judge(_: object) -> Any:
        said = judged.pop(0) if len(judged) > 1 else judged[0]
        if isinstance(said, Exception):
            raise said
        return said

    graders: dict[str, list[dict[str, Any]]] = {
        "exact": [EXACT],
        "judged": [{**JUDGED, "input": [{"role": "user", "content": "{{sample.output_text}}"}]}],
        "missing": [{**EXACT, "reference": "{{item.nowhere}}"}],
    }
    definitions = write_definitions(tmp_path / "definitions", graders)
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps([key_entry("lambda", "gk-lambda", ["score"])]))
    with serving(
        settings(definitions, api_keys_file=str(keys)), Ports(judge=FakeJudge(judge))
    ) as found:
        yield found


@pytest.fixture
def aim(live: Live, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Point the Lambda at one grader of the service."""

    def at(grader: str, query: str = "") -> None:
        url = f"{live.url}/v1/graders/{grader}/versions/1/rewards/aws?label=answer{query}"
        monkeypatch.setenv("GRADER_URL", url)

    return at


Aim = Callable[..., None]


class TestAgainstTheService:
    def test_nova_gets_a_list(self, forwarder: ModuleType, aim: Aim) -> None:
        aim("exact")
        answer = forwarder.lambda_handler([NOVA, {**NOVA, "id": "s3"}], Context(20))
        assert [reward["id"] for reward in answer] == ["s1", "s3"]
        assert [reward["aggregate_reward_score"] for reward in answer] == [1.0, 1.0]

    @pytest.mark.parametrize(
        "event",
        [
            {"trajectories": [WEIGHTS]},
            {"batch": [WEIGHTS]},
            {"body": json.dumps({"batch": [WEIGHTS]})},
            [WEIGHTS],
        ],
        ids=["trajectories", "batch", "http", "bare"],
    )
    def test_open_weights_get_an_http_answer(
        self, forwarder: ModuleType, aim: Aim, event: Any
    ) -> None:
        aim("exact")
        answer = forwarder.lambda_handler(event, Context(20))
        assert answer["statusCode"] == 200
        (reward,) = json.loads(answer["body"])
        assert (reward["id"], reward["aggregate_reward_score"]) == ("s2", 0.0)

    def test_passing_trouble_is_waited_out(
        self, forwarder: ModuleType, aim: Aim, judged: list[Any]
    ) -> None:
        judged[:] = [JudgeUnavailableError("down"), verdict(0.75)]
        aim("judged")
        (reward,) = forwarder.lambda_handler([NOVA], Context(20))
        assert reward["aggregate_reward_score"] == 0.75

    def test_lasting_trouble_fails_the_invocation_in_time(
        self, forwarder: ModuleType, aim: Aim, judged: list[Any]
    ) -> None:
        judged[:] = [JudgeUnavailableError("down")]
        aim("judged")
        began = time.monotonic()
        with pytest.raises(forwarder.RewardError, match="no reward in time; last: 503"):
            forwarder.lambda_handler([NOVA], Context(4))
        assert time.monotonic() - began < 4

    def test_sample_that_cannot_be_graded_fails_at_once(
        self, forwarder: ModuleType, aim: Aim
    ) -> None:
        aim("missing")
        began = time.monotonic()
        with pytest.raises(forwarder.RewardError, match=r"^422 ") as failed:
            forwarder.lambda_handler([NOVA], Context(20))
        assert time.monotonic() - began < 5
        assert "Paris" not in str(failed.value)

    def test_zero_is_given_only_where_the_url_asks_for_it(
        self, forwarder: ModuleType, aim: Aim
    ) -> None:
        aim("missing", "&on_grader_failure=zero")
        (reward,) = forwarder.lambda_handler([NOVA], Context(20))
        assert reward["aggregate_reward_score"] == 0.0
        assert reward["metrics_list"] == [{"name": "grader_failed", "value": 1.0, "type": "Metric"}]

    def test_wrong_key_fails_at_once_and_is_not_told(
        self, forwarder: ModuleType, aim: Aim, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        aim("exact")
        monkeypatch.setenv("GRADER_KEY", "gk-wrong")
        with pytest.raises(forwarder.RewardError, match=r"^401 ") as failed:
            forwarder.lambda_handler([NOVA], Context(20))
        assert "gk-wrong" not in str(failed.value)


@pytest.fixture
def crooked(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A server that answers with ``status``, ``headers`` and ``body``, and counts."""
    says: dict[str, Any] = {"status": 200, "headers": {}, "body": "[]", "asked": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            says["asked"] += 1
            self.send_response(says["status"])
            for name, value in says["headers"].items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(says["body"].encode())

        do_GET = do_POST  # noqa: N815 - the server's names

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("GRADER_URL", f"http://127.0.0.1:{server.server_port}/")
    yield says
    server.shutdown()
    thread.join(10)
    server.server_close()


class TestAgainstOthers:
    def test_key_does_not_follow_a_redirect(
        self, forwarder: ModuleType, crooked: dict[str, Any]
    ) -> None:
        crooked |= {"status": 307, "headers": {"Location": "/elsewhere", "Content-Length": "0"}}
        with pytest.raises(forwarder.RewardError, match=r"^307 "):
            forwarder.lambda_handler([NOVA], Context(20))
        assert crooked["asked"] == 1

    def test_server_says_how_long_to_wait(
        self, forwarder: ModuleType, crooked: dict[str, Any]
    ) -> None:
        crooked |= {"status": 429, "headers": {"Retry-After": "60"}}
        began = time.monotonic()
        with pytest.raises(forwarder.RewardError, match="last: 429"):
            forwarder.lambda_handler([NOVA], Context(20))  # 60 s are more than there are
        assert time.monotonic() - began < 5
        assert crooked["asked"] == 1

    @pytest.mark.parametrize(
        "body",
        ['[{"id": "s1", "aggregate_reward_score": NaN}]', '[{"id": "s1"}]', '{"rewards": []}'],
        ids=["nan", "no_reward", "another_shape"],
    )
    def test_answer_without_a_reward_is_none(
        self, forwarder: ModuleType, crooked: dict[str, Any], body: str
    ) -> None:
        crooked["body"] = body
        with pytest.raises((forwarder.RewardError, KeyError)):
            forwarder.lambda_handler([NOVA], Context(4))

    def test_answer_that_breaks_off_is_asked_for_again(
        self, forwarder: ModuleType, crooked: dict[str, Any]
    ) -> None:
        crooked |= {"headers": {"Content-Length": "999"}}
        with pytest.raises(forwarder.RewardError, match="last: IncompleteRead"):
            forwarder.lambda_handler([NOVA], Context(3))
        assert crooked["asked"] > 1

    def test_nobody_there_fails_the_invocation(
        self, forwarder: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GRADER_URL", "http://127.0.0.1:9/")
        with pytest.raises(forwarder.RewardError, match="no reward in time"):
            forwarder.lambda_handler([NOVA], Context(3))


def test_it_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse((DEPLOY / "lambda" / "forwarder.py").read_text("utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else names_of(node))
    }
    assert imported <= sys.stdlib_module_names


def names_of(statement: ast.Import) -> list[str]:
    return [alias.name for alias in statement.names]
