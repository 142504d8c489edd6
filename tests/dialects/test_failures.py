"""The failure table, walked over HTTP for every dialect: what is documented is what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from graders.errors import (
    BudgetExceededError,
    JudgeUnavailableError,
    OverloadedError,
    SandboxUnavailableError,
)
from graders.ports import Ports, SandboxResult
from service.app import create_app
from service.dialects import DIALECTS
from service.dialects.contract import Dialect
from service.dialects.failure_table import (
    GOOD,
    NO_LABEL,
    OUTSIDE,
    UNGRADED,
    cases,
    cell,
    document,
    failed,
    policies,
)
from tests.api.world import calling, key_entry, serving, settings, wait_until
from tests.dialects.world import ask, path, ports, takes_label, unlabelled, unmapped
from tests.fakes import FakeJudge
from tests.tools.dialects import PAGE

EVERY = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
WALK = [
    pytest.param(dialect, when, query, id=f"{dialect.name}-{when}-{query or 'default'}")
    for dialect in DIALECTS.values()
    for when, _, query in cases(dialect)
]
RAISES = {
    "the judge is down or too slow": JudgeUnavailableError("no reply in 60 s", retry_after_s=7.0),
    "too much waits, or the budget is spent": OverloadedError("64 calls wait"),
}
PROBLEM = "application/problem+json"


@pytest.fixture
def serve(graders: Path) -> Callable[..., contextlib.AbstractAsyncContextManager[Any]]:
    """Give a client of an application with these ports and settings."""

    @contextlib.asynccontextmanager
    async def make(own: Ports | None = None, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with calling(create_app(settings(graders, **changes), ports=own)) as api:
            yield api

    return make


def comparable(answer: Any, sent: Any) -> Any:
    """Return an answer with sentences and names replaced as in the table, the echo left out."""
    if not isinstance(answer, dict):
        return answer
    if isinstance(sent, dict) and sent.keys() <= answer.keys():
        answer = {key: value for key, value in answer.items() if key not in sent}
    return {key: _blank(value) for key, value in answer.items()}


def _shape(answer: Any) -> Any:
    """Return the keys of an answer, of a list's elements."""
    if isinstance(answer, list):
        return [_shape(part) for part in answer]
    return sorted(answer) if isinstance(answer, dict) else answer


def _blank(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _blank(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_blank(part) for part in value]
    return type(value).__name__ if isinstance(value, str) else value


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(DIALECTS), (
        "stale: run python -m tests.tools.dialects"
    )


@EVERY
async def test_a_good_answer_is_the_documented_one(dialect: Dialect, serve: Any) -> None:
    async with serve() as api:
        status, answer, response = await ask(api, dialect.name, path("exact", dialect.name))
    expected = cell(dialect, GOOD, "")
    assert status == expected.status == 200
    assert response.headers["content-type"] == "application/json"
    assert comparable(answer, dialect.example) == comparable(expected.body, None)


@EVERY
async def test_a_wrong_answer_is_a_plain_zero(dialect: Dialect, serve: Any) -> None:
    async with serve() as api:
        status, answer, _ = await ask(api, dialect.name, path("lyon", dialect.name))
    assert status == 200
    shown = json.dumps(comparable(answer, dialect.example))
    assert "0.0" in shown
    assert "fail" not in shown


@pytest.mark.parametrize(("dialect", "when", "query"), WALK)
async def test_a_failure_reaches_the_caller_as_documented(
    dialect: Dialect, when: str, query: str, serve: Any
) -> None:
    result = next(r for w, r, q in cases(dialect) if (w, q) == (when, query))
    own, grader = Ports(), "missing" if when not in OUTSIDE else "coded"
    if when in RAISES:
        own, grader = ports(judge=lambda _: RAISES[when]), "judged"
    url, body = path(grader, dialect.name, query), dialect.example
    if when == NO_LABEL:
        url, body = unmapped("label", dialect.name), unlabelled(dialect.name)
    async with serve(own) as api:
        status, answer, response = await ask(api, dialect.name, url, body)
    expected = cell(dialect, result, query)
    assert status == expected.status
    if expected.body is None:
        assert response.headers["content-type"] == PROBLEM
        assert ("retry-after" in response.headers) == (status in {429, 503})
    else:
        shown = comparable(answer, body)
        assert _shape(shown) == _shape(comparable(expected.body, None))
        if query != "on_grader_failure=zero":
            assert_no_plain_number(dialect, answer)


@pytest.mark.parametrize(("dialect", "when", "query"), WALK)
async def test_a_failed_part_leaves_nothing_of_the_others_reward(
    dialect: Dialect, when: str, query: str, serve: Any
) -> None:
    """The formula alone would give 0.6."""
    result = next(r for w, r, q in cases(dialect) if (w, q) == (when, query))
    own, grader = Ports(), "half-missing" if when not in OUTSIDE else "half-coded"
    if when in RAISES:
        own, grader = ports(judge=lambda _: RAISES[when]), "half-judged"
    async with serve(own) as api:
        status, answer, _ = await ask(api, dialect.name, path(grader, dialect.name, query))
    assert status == cell(dialect, result, query).status
    if status == 200:
        assert reward_in(dialect, answer) in {0.0, None}


def reward_in(dialect: Dialect, answer: Any) -> Any:
    """Return the number that the caller takes; None without one."""
    taken: dict[str, Callable[[], Any]] = {
        "openrlhf": lambda: answer["rewards"][0],
        "slime": lambda: answer,
        "nemo-gym": lambda: answer["reward"],
        "azure-endpoint": lambda: answer["score"],
        "aws": lambda: answer[0]["aggregate_reward_score"],
        "google": lambda: answer["reward"],
        "promptfoo": lambda: answer["score"],
        "langfuse": lambda: answer["scores"][0] if "scores" in answer else None,
        "eval-protocol": lambda: answer["score"],
        "roll": lambda: answer["reward_score"],
    }
    return taken[dialect.name]()


@EVERY
async def test_only_a_label_that_is_sent_is_compared_with(dialect: Dialect, serve: Any) -> None:
    """An absent label once became ``null``: 0.0 for every answer, and 1.0 for the answer "null"."""
    name = dialect.name
    bodies = [unlabelled(name)] + ([unlabelled(name, None)] if takes_label(name) else [])
    async with serve() as api:
        for body in bodies:
            status, answer, _ = await ask(api, name, unmapped("label", name), body)
            if status == 200:
                assert_no_plain_number(dialect, answer)
            else:
                assert (status, answer["errors"][0]["code"]) == (422, "invalid_variable")
        status, answer, _ = await ask(api, name, unmapped("label", name))
    assert (status, "1.0" in json.dumps(answer)) == (200, True)


def assert_no_plain_number(dialect: Dialect, answer: Any) -> None:
    """Fail when a failure reads like a reward."""
    marks = {
        "nemo-gym": lambda: answer["mask_sample"] is True,
        "promptfoo": lambda: answer["pass"] is False and "could not grade" in answer["reason"],
        "langfuse": lambda: "scores" not in answer,
        "eval-protocol": lambda: answer["is_score_valid"] is False,
        "roll": lambda: answer["reward_score"] is None,
    }
    assert marks[dialect.name]()


@EVERY
@pytest.mark.parametrize(
    "outcome",
    [
        SandboxResult(outcome="value", value=float("nan")),
        SandboxResult(outcome="value", value=float("inf")),
        SandboxResult(outcome="exception", details="ZeroDivisionError: division by zero"),
        SandboxResult(outcome="timeout", details="over 120 s"),
        SandboxResult(outcome="memory", details="over 2 GB"),
        SandboxResult(outcome="bad_value", details="grade returned str"),
    ],
    ids=["nan", "inf", "exception", "timeout", "memory", "bad_value"],
)
async def test_what_user_code_does_wrong_is_never_a_plain_number(
    dialect: Dialect, outcome: SandboxResult, serve: Any
) -> None:
    async with serve(ports(sandbox=lambda _: outcome)) as api:
        status, answer, _ = await ask(api, dialect.name, path("coded", dialect.name))
    assert "NaN" not in json.dumps(answer)
    if status == 200:
        assert_no_plain_number(dialect, answer)
    else:
        assert status == 422
        assert answer["errors"][0]["code"] == "python_runtime"


TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "grader.py", line 7, in grade\n    secret_rule(item)\n  ... 40 more\n'
    '  File "grader.py", line 9, in secret_rule\n    \n'
    "ValueError: no unit\n  in the hidden answer 42\nand more"
)


@pytest.mark.parametrize(
    ("dialect", "query"),
    [
        pytest.param(dialect, query, id=f"{dialect.name}-{query or 'default'}")
        for dialect in DIALECTS.values()
        for query in policies(dialect, "on_grader_failure")
    ],
)
async def test_of_a_traceback_only_the_exception_reaches_a_caller(
    dialect: Dialect, query: str, serve: Any
) -> None:
    raised = SandboxResult(outcome="exception", details=TRACEBACK)
    async with serve(ports(sandbox=lambda _: raised)) as api:
        url = path("coded", dialect.name, query)
        status, _, response = await ask(api, dialect.name, url)
    for inside in ("Traceback", "grader.py", "secret_rule", "hidden answer", "and more"):
        assert inside not in response.text
    documented = cell(dialect, failed(UNGRADED), query)
    tells = status == 422 or "\u2026" in json.dumps(documented.body, ensure_ascii=False)
    assert ("ValueError: no unit" in response.text) is tells


@EVERY
def test_no_number_stands_for_a_failure_unless_the_url_says_so(dialect: Dialect) -> None:
    """Marks too are opt-in: a caller of the same format that does not read them takes the 0.0."""
    for _, result, query in cases(dialect):
        if not query:
            body = cell(dialect, result, query).body
            assert body is None or reward_in(dialect, body) is None


@EVERY
async def test_a_spent_budget_asks_to_come_back_later(dialect: Dialect, serve: Any) -> None:
    spent = BudgetExceededError("the budget of this hour is spent", retry_after_s=90.0)
    async with serve(ports(judge=lambda _: spent)) as api:
        status, answer, response = await ask(api, dialect.name, path("judged", dialect.name))
    if dialect.name == "roll":
        assert (status, answer["reward_score"]) == (200, None)
    else:
        assert (status, response.headers["retry-after"]) == (429, "90")


@EVERY
async def test_an_unavailable_sandbox_is_infrastructure(dialect: Dialect, serve: Any) -> None:
    down = SandboxUnavailableError("the supervisor is gone")
    async with serve(ports(sandbox=lambda _: down)) as api:
        status, answer, _ = await ask(api, dialect.name, path("coded", dialect.name))
    # Langfuse retries 429 and never 503; ROLL is told nothing but that there is no score.
    assert status == {"langfuse": 429, "roll": 200}.get(dialect.name, 503)
    if dialect.name == "roll":
        assert (answer["errcode"], answer["reward_score"]) == (0, None)
        assert answer["errmsg"].startswith("sandbox_unavailable")


@EVERY
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1,2", b'"text"', b"\xff", b"[" * 5000, b'{"sample": 1, "query": 1}'],
    ids=["empty", "open", "cut", "text", "not-utf8", "deep", "other-shape"],
)
async def test_a_malformed_body_is_400(dialect: Dialect, body: bytes, serve: Any) -> None:
    async with serve() as api:
        answer = await api.post(path("exact", dialect.name), content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == PROBLEM


@EVERY
async def test_a_body_that_only_a_path_reads_to_its_end_is_400_too(
    dialect: Dialect, serve: Any
) -> None:
    if isinstance(dialect.example, list):
        return
    body = json.dumps({**dialect.example, "unread": "X"}).encode().replace(b"X", b"\xff")
    async with serve() as api:
        answer = await api.post(path("exact", dialect.name, "item.more=unread"), content=body)
    assert answer.status_code == 400


@EVERY
@pytest.mark.parametrize("declared", [True, False])
async def test_an_oversize_body_is_413(dialect: Dialect, declared: bool, serve: Any) -> None:
    body = b'{"x": "' + b"x" * 2000 + b'"}'

    async def parts() -> AsyncIterator[bytes]:
        yield body[:1000]
        yield body[1000:]

    async with serve(max_body_bytes=1024) as api:
        content = body if declared else parts()
        answer = await api.post(path("exact", dialect.name), content=content)
    assert answer.status_code == 413


@EVERY
async def test_an_unknown_grader_or_version_is_404(dialect: Dialect, serve: Any) -> None:
    async with serve() as api:
        for url in (path("nobody", dialect.name), path("exact", dialect.name, version="9")):
            answer = await api.post(url, json=dialect.example)
            assert answer.status_code == 404


@EVERY
async def test_an_unknown_parameter_is_named(dialect: Dialect, serve: Any) -> None:
    async with serve() as api:
        answer = await api.post(path("exact", dialect.name, "lable=x"), json=dialect.example)
    assert answer.status_code == 400
    assert "lable" in answer.json()["detail"]


@EVERY
async def test_a_wrong_key_is_401_and_a_missing_scope_403(
    dialect: Dialect, graders: Path, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    entries = [key_entry("scorer", "gk-s", ["score"]), key_entry("runner", "gk-r", ["run"])]
    file.write_text(json.dumps(entries))
    url = path("exact", dialect.name)
    async with calling(create_app(settings(graders, api_keys_file=str(file)))) as api:
        statuses = [
            (await api.post(url, json=dialect.example, headers=headers)).status_code
            for headers in (
                {},
                {"authorization": "Bearer gk-x"},
                {"authorization": "Bearer gk-r"},
                {"authorization": "Bearer gk-s"},
            )
        ]
    assert statuses == [401, 401, 403, 200]


@EVERY
async def test_a_fault_of_ours_says_nothing_of_the_inside(dialect: Dialect, serve: Any) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("the inside")

    own = ports(judge=broken)
    async with serve(own) as api:
        status, answer, response = await ask(api, dialect.name, path("judged", dialect.name))
    assert "inside" not in response.text
    assert (status, answer.get("reward_score")) == ((200 if dialect.name == "roll" else 500), None)


def health_s(url: str) -> float:
    """Return how long ``/healthz`` takes, in seconds: the shortest of a few times."""
    taken = []
    with httpx.Client() as client:
        for _ in range(5):
            began = time.perf_counter()
            assert client.get(f"{url}/healthz").status_code == 200
            taken.append(time.perf_counter() - began)
    return min(taken)


@pytest.mark.integration
@pytest.mark.parametrize("name", [name for name in DIALECTS if name != "roll"])
def test_a_caller_that_goes_away_frees_its_work(name: str, graders: Path) -> None:
    async def slow(_: Any) -> Any:
        await asyncio.sleep(8)

    judge = FakeJudge(slow)
    body = json.dumps(DIALECTS[name].example).encode()
    with serving(settings(graders), Ports(judge=judge)) as live:
        head = f"POST {path('judged', name)} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        with socket.create_connection(("127.0.0.1", live.port)) as caller:
            caller.sendall(head.encode() + b"\r\n" + body)
            wait_until(lambda: judge.under_way == 1)
            began = time.perf_counter()
            assert health_s(live.url) < 0.05
            quick = httpx.post(
                f"{live.url}{path('exact', name)}", content=body, timeout=5
            ).status_code
            assert quick == 200
            assert time.perf_counter() - began < 2.0
        wait_until(lambda: judge.cancelled == 1, 5)
    assert judge.under_way == 0


def test_every_choice_of_a_url_is_in_the_walk() -> None:
    for dialect in DIALECTS.values():
        for name in ("on_grader_failure", "on_infrastructure_failure"):
            walked = {query for _, _, query in cases(dialect)}
            assert set(policies(dialect, name)) <= walked
