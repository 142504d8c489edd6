"""``gradekeeper score --url``: a real server, and one that misbehaves as scripted."""

from __future__ import annotations

import datetime as dt
import email.utils
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.cli import remote
from tests.cli.conftest import Ran, Run
from tests.cli.world import many_rows, read_lines, rewards, row, serving, write_json, write_rows

SIGNATURE = "exact@3|sha256:0|engine:1|render:json"
REFERENCE = {
    "grader": "exact",
    "version": 3,
    "digest": "sha256:0",
    "signature": SIGNATURE,
    "pass_threshold": 1.0,
    "threshold_source": "default",
}
Handler = Callable[[httpx.Request], httpx.Response]
Score = Callable[..., Ran]


@pytest.mark.integration
class TestARealServer:
    def test_scores_as_this_process_does(self, run: Run, tmp_path: Path) -> None:
        rows = [*many_rows(5000), {"item": {}, "model_sample": "t"}, {"item": 1}]
        data = write_rows(tmp_path / "r.jsonl", rows)
        here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
        key = run("key", "trainer").out.splitlines()
        os.environ["TRAINER_KEY"] = key[0]
        keys = write_json(tmp_path / "keys.json", [json.loads(key[1])])
        with serving(GRADEKEEPER_API_KEYS_FILE=str(keys)) as (_, url):
            command = ("score", "parts", "--data", data, "--url", url, "--out", there)
            code, _, err = run(*command)
            assert code == 2
            assert "HTTP 401: a valid API key is needed" in err
            code, summary, err = run(*command, "--key-env", "TRAINER_KEY")
            assert (code, err) == (1, "")
        assert (1, summary) == run("score", "parts", "--data", data, "--out", here)[:2]
        assert there.read_bytes() == here.read_bytes()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing."""
    monkeypatch.setattr(remote, "PAUSES_S", (0.0,) * 7)


@pytest.fixture
def scoring(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Handler], Score]:
    """Score rows with a server that answers as a handler says."""

    def against(handler: Handler) -> Score:
        client = partial(httpx.AsyncClient, transport=httpx.MockTransport(handler))
        monkeypatch.setattr(remote.httpx, "AsyncClient", client)  # type: ignore[attr-defined]

        def score(rows: list[Any], *more: str, grader: str = "exact") -> Ran:
            data = write_rows(tmp_path / "r.jsonl", rows)
            out = tmp_path / "scores.jsonl"
            return run(
                *("score", grader, "--data", data, "--out", out, "--url", "http://host/x/", *more)
            )

        return score

    return against


def answers(request: httpx.Request, **more: Any) -> httpx.Response:
    """Answer as a server does whose grader gives the length of the text."""
    if request.method == "GET":
        return httpx.Response(200, json=REFERENCE)
    results = [
        {"reward": float(len(given["model_sample"])), "ok": True, "passed": True}
        for given in json.loads(request.content)["rows"]
    ]
    summary = {"rows": 0, "ok": 0, "failed": 0, "passed": 0, "mean_reward": None}
    return httpx.Response(200, json={**REFERENCE, "results": results, "summary": summary, **more})


@pytest.mark.parametrize("base", ["http://host", "http://host/v1", "http://host/v1/"])
def test_the_url_may_be_the_base_that_clients_take(
    base: str, scoring: Callable[[Handler], Score]
) -> None:
    paths = set()

    def handler(request: httpx.Request) -> httpx.Response:
        paths.add(request.url.path)
        return answers(request)

    assert scoring(handler)([row("a", "a")], "--url", base).code == 0
    assert {path.partition("/versions")[0] for path in paths} == {"/v1/graders/exact"}


def troubled(*troubles: httpx.Response | Exception) -> Handler:
    """Return a server that has these troubles before it answers."""
    script: Iterator[httpx.Response | Exception] = iter(troubles)

    def handler(request: httpx.Request) -> httpx.Response:
        trouble = next(script, None)
        if isinstance(trouble, Exception):
            raise trouble
        return trouble or answers(request)

    return handler


def problem(status: int, detail: str, **headers: str) -> httpx.Response:
    """Return an answer in the form of the service's problems."""
    body = {"type": "t", "title": "t", "status": status, "detail": detail}
    return httpx.Response(status, json=body, headers=headers)


def test_the_version_found_first_is_the_one_that_scores(
    scoring: Callable[[Handler], Score], tmp_path: Path
) -> None:
    seen: list[tuple[str, str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.raw_path.decode()))
        return answers(request)

    assert scoring(handler)([row("a", "aa")], "--debug", grader="my grader@a b").code == 0
    root = "/x/v1/graders/my%20grader/versions"
    assert seen == [("GET", f"{root}/a%20b"), ("POST", f"{root}/3/score/batch?debug=true")]
    (line,) = read_lines(tmp_path / "scores.jsonl")
    assert (line["reward"], line["signature"]) == (2.0, SIGNATURE)


def test_troubles_that_pass_are_waited_for(
    scoring: Callable[[Handler], Score], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(remote, "asyncio", type("Clock", (), {"sleep": staticmethod(sleep)}))
    soon = email.utils.format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=50))
    handler = troubled(
        httpx.ConnectError("refused"),
        problem(503, "starting"),
        answers(httpx.Request("GET", "http://host")),
        problem(429, "busy", **{"retry-after": "7"}),
        problem(503, "busy", **{"retry-after": soon}),
        problem(503, "busy", **{"retry-after": "soon"}),
        problem(503, "busy", **{"retry-after": "600"}),
        httpx.Response(502, text="<html>"),
        httpx.ReadTimeout(""),
    )
    code, _, err = scoring(handler)([row("a", "aa")], "--concurrency", "1")
    assert code == 0
    assert rewards(tmp_path / "scores.jsonl") == [2.0]
    told = err.splitlines()
    assert len(told) == 3  # of the three that last
    assert told[0].endswith("score/batch: HTTP 429: busy; trying again in 7 s")
    assert pauses[:3] == [0.0, 0.0, 7.0]
    assert 40 < pauses[3] <= 50
    assert pauses[4:] == [0.0, 600.0, 0.0, 0.0]


def test_a_pause_beyond_the_longest_is_not_waited_out(scoring: Callable[[Handler], Score]) -> None:
    closed = problem(429, "too much", **{"retry-after": "3600"})
    code, _, err = scoring(troubled(closed))([row("a", "aa")])
    assert code == 3
    assert "HTTP 429: too much; it asks for a pause of 3600 s" in err


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (httpx.ConnectError("refused"), "versions/latest: ConnectError: refused"),
        (httpx.ReadTimeout(""), "versions/latest: ReadTimeout"),
        (problem(503, "starting"), "versions/latest: HTTP 503: starting"),
        (httpx.Response(500, text="oops"), "versions/latest: HTTP 500"),
        (httpx.Response(200, text="hello"), "not the answer of a gradekeeper server: "),
    ],
)
def test_a_server_out_of_reach_is_exit_code_3(
    trouble: httpx.Response | Exception, message: str, scoring: Callable[[Handler], Score]
) -> None:
    code, out, err = scoring(troubled(*[trouble] * 9))([row("a", "a")])
    assert (code, out) == (3, "")
    assert message in err


def test_a_server_lost_on_the_way_keeps_the_scores_so_far(
    scoring: Callable[[Handler], Score], tmp_path: Path
) -> None:
    rows = [row("a", "a" * (number % 5)) for number in range(100)]
    posted = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal posted
        posted += request.method == "POST"
        return answers(request) if posted < 3 else problem(503, "gone")

    code, _, err = scoring(handler)(rows, "--concurrency", "1")
    assert code == 3
    assert err.startswith("scores so far are kept")
    code, _, err = scoring(answers)(rows)
    assert (code, err) == (0, "going on after 48 rows that have their scores\n")
    assert rewards(tmp_path / "scores.jsonl") == [float(number % 5) for number in range(100)]


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_refusal_is_exit_code_2(status: int, scoring: Callable[[Handler], Score]) -> None:
    code, _, err = scoring(lambda _: problem(status, "no"))([row("a", "a")])
    assert code == 2
    assert f"HTTP {status}: no" in err
    assert ("--key-env" in err) == (status == 401)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_rows_that_the_server_refuses_fail_alone(
    status: int, scoring: Callable[[Handler], Score], tmp_path: Path
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return problem(status, "bad") if b"bad" in request.content else answers(request)

    texts = ["a", "bad", "ccc", "dd", "bad", "e"]
    code, _, _ = scoring(handler)([row("a", text) for text in texts])
    assert code == 1
    lines = read_lines(tmp_path / "scores.jsonl")
    assert [line["reward"] for line in lines] == [1.0, 0.0, 3.0, 2.0, 0.0, 1.0]
    assert lines[1]["error"] == {"code": "invalid_row", "message": f"HTTP {status}: bad"}


def test_a_server_that_changes_its_mind_is_noticed(scoring: Callable[[Handler], Score]) -> None:
    code, _, err = scoring(lambda request: answers(request, signature="other"))([row("a", "a")])
    assert code == 3
    assert f"the server changed: it now grades as other, not {SIGNATURE}" in err


def test_batches_grow_while_they_are_quick_and_shrink_when_slow(
    scoring: Callable[[Handler], Score], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    clock = [0.0]
    seconds = iter([0.1, 0.1, 1.0, 5.0, 5.0])

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            sizes.append(len(json.loads(request.content)["rows"]))
            clock[0] += next(seconds, 1.0)
        return answers(request)

    now = type("Clock", (), {"perf_counter": staticmethod(lambda: clock[0])})
    monkeypatch.setattr(remote, "time", now)
    assert scoring(handler)([row("a", "a")] * 300, "--concurrency", "1").code == 0
    assert sizes == [16, 32, 64, 64, 32, 16, 16, 16, 16, 16, 12]


def test_batches_stay_below_a_size(
    scoring: Callable[[Handler], Score], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(remote, "_MAX_BATCH_BYTES", 1000)

    def handler(request: httpx.Request) -> httpx.Response:
        sizes.append(len(request.content))
        return answers(request)

    assert scoring(handler)([row("a", "x" * 400)] * 20).code == 0
    assert len(sizes) == 1 + 7
    assert max(sizes) < 2000


def test_judges_of_a_row_extend_its_signature(
    scoring: Callable[[Handler], Score], tmp_path: Path
) -> None:
    result = {"reward": 1.0, "ok": True, "passed": True, "judgements": ["judge:m:k"]}
    result |= {"usage": {"m": {"total_tokens": 120}}, "cost_usd": 0.0123}
    done = scoring(lambda request: answers(request, results=[result]))([row("a", "a")])
    assert "judges   1 replies, 120 tokens, $0.0123 paid by this run" in done.out
    assert read_lines(tmp_path / "scores.jsonl")[0]["signature"] == f"{SIGNATURE}|judge:m:k"
