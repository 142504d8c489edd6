"""Keys and parameters in URLs, for callers that can set nothing else."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.dialects import DIALECTS
from service.urls import unpack
from tests.api.world import calling, key_entry, serving, settings
from tests.dialects.world import path

SECRET = "gk-only-for-scoring"
POWERFUL = "gk-for-everything"
RUNNER = "gk-only-for-running"
REST = "/graders/exact/versions/1/rewards/slime"
EXAMPLE = DIALECTS["slime"].example


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """A keys file with one key that may only score and one that may do more."""
    file = tmp_path / "keys.json"
    entries = [
        key_entry("trainer", SECRET, ["score"]),
        key_entry("admin", POWERFUL, ["score", "run", "metrics"]),
        key_entry("runner", RUNNER, ["run"]),
    ]
    file.write_text(json.dumps(entries))
    return str(file)


@pytest.mark.parametrize(
    ("raw", "query", "expected"),
    [
        (b"/v1/graders/a", b"", (b"/v1/graders/a", b"", None)),
        (b"/v1/k/s/graders/a", b"x=1", (b"/v1/graders/a", b"x=1", b"s")),
        (b"/v1/k/s%2Ft/graders/a", b"", (b"/v1/graders/a", b"", b"s/t")),
        (b"/v1/with/a=1&b=2/graders/a", b"c=3", (b"/v1/graders/a", b"a=1&b=2&c=3", None)),
        (b"/v1/k/s/with/a=%2F/graders/a", b"", (b"/v1/graders/a", b"a=%2F", b"s")),
        (b"/v1/with/a=1/k/s/graders/a", b"", (b"/v1/graders/a", b"a=1", b"s")),
        (b"/v1/with/key=s/graders/a", b"", (b"/v1/graders/a", b"", b"s")),
        (b"/v1/graders/a", b"key=s&reward_key=x", (b"/v1/graders/a", b"reward_key=x", b"s")),
        (b"/v1/k/s", b"", (b"/v1", b"", b"s")),
    ],
)  # fmt: skip
def test_unpacking(raw: bytes, query: bytes, expected: tuple[bytes, bytes, bytes | None]) -> None:
    url = unpack(raw, query)
    assert (url.raw_path, url.query, url.key) == expected


@pytest.mark.parametrize(
    ("url", "headers", "status"),
    [
        (f"/v1/k/{SECRET}{REST}?label=answer", {}, 200),
        (f"/v1{REST}?label=answer&key={SECRET}", {}, 200),
        (f"/v1{REST}?key={SECRET}&label=answer", {}, 200),
        (f"/v1/with/label=answer/k/{SECRET}{REST}", {}, 200),
        (f"/v1//k/{SECRET}{REST}?label=answer", {}, 200),
        (f"/v1/k/wrong{REST}?label=answer", {}, 401),
        (f"/v1{REST}?label=answer&key=wrong", {}, 401),
        (f"/v1/k/{POWERFUL}{REST}?label=answer", {}, 403),
        (f"/v1{REST}?label=answer&key={POWERFUL}", {}, 403),
        # A header counts first; the key of the URL is still taken out.
        (f"/v1{REST}?label=answer&key=wrong", {"authorization": f"Bearer {POWERFUL}"}, 200),
        # A proxy's token in the header (Cloud Run's) is no key of ours: the URL's counts.
        (f"/v1{REST}?label=answer&key={SECRET}", {"authorization": "Bearer ey.J.x"}, 200),
        (f"/v1/k/{SECRET}{REST}?label=answer", {"authorization": "Bearer ey.J.x"}, 200),
        (f"/v1/k/{SECRET}{REST}?label=answer", {"authorization": "Basic eDp5"}, 200),
        (f"/v1/k/{POWERFUL}{REST}?label=answer", {"authorization": "Bearer ey.J.x"}, 403),
        (f"/v1/k/wrong{REST}?label=answer", {"authorization": "Bearer ey.J.x"}, 401),
        (f"/v1/k/{SECRET}{REST}?label=answer", {"authorization": f"Bearer {RUNNER}"}, 403),
        (f"/v1{REST}?label=answer", {"xrl-authorization": f"Bearer {SECRET}"}, 200),
        # Only where scoring is the scope.
        (f"/v1/k/{SECRET}/fine_tuning/alpha/graders/run", {}, 401),
        (f"/v1/k/{SECRET}/fine_tuning/alpha/graders/run", {"authorization": "Bearer ey.J.x"}, 401),
        (f"/v1/k/{SECRET}/graders/exact/versions", {"authorization": "Bearer ey.J.x"}, 401),
        (f"/metrics?key={POWERFUL}", {}, 401),
        (f"/v1/k/{SECRET}", {}, 401),
    ],
)
async def test_keys_in_urls(
    url: str, headers: dict[str, str], status: int, graders: Path, keys: str
) -> None:
    async with calling(create_app(settings(graders, api_keys_file=keys))) as api:
        answer = await api.post(url, json=EXAMPLE, headers=headers)
    assert answer.status_code == status, answer.text
    assert SECRET not in answer.text
    assert POWERFUL not in answer.text


async def test_without_keys_a_key_in_the_url_is_ignored(graders: Path) -> None:
    async with calling(create_app(settings(graders))) as api:
        answer = await api.post(f"/v1/k/any{REST}?label=answer", json=EXAMPLE)
    assert answer.status_code == 200


async def test_parameters_in_the_path_serve_clients_that_append_their_own(graders: Path) -> None:
    base = "/v1/with/item.answer=label/graders/exact/versions/1/rewards/nemo-gym"
    example: Any = DIALECTS["nemo-gym"].example
    async with calling(create_app(settings(graders))) as api:
        assert (await api.post(f"{base}/seed_session", json=example)).json() == {}
        reply = (await api.post(f"{base}/verify", json=example)).json()
        assert reply["reward"] == 1.0
        metrics = await api.post(f"{base}/aggregate_metrics", json={"verify_responses": [reply]})
        assert metrics.json()["key_metrics"] == {"mean/reward": 1.0}
        large = b'{"verify_responses": [{"reward": 1e308, "label": 1%b}, {"reward": 1e308}]}'
        metrics = await api.post(f"{base}/aggregate_metrics", content=large % (b"0" * 400))
        assert metrics.json()["key_metrics"] == {"mean/reward": 1e308}
        evaluate = "/v1/with/label=answer/graders/exact/versions/1/rewards/eval-protocol/evaluate"
        answer = await api.post(evaluate, json=DIALECTS["eval-protocol"].example)
        assert answer.json()["score"] == 1.0


async def test_percent_encoded_parameters_in_the_path(graders: Path) -> None:
    base = "/v1/with/item.answer=a%2520b/graders/exact/versions/1/rewards/slime"
    async with calling(create_app(settings(graders))) as api:
        answer = await api.post(base, json={"response": "x", "a%20b": "x"})
    assert answer.json() == 1.0


def test_a_url_key_is_in_no_log_metric_or_error(
    graders: Path, keys: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    own = settings(graders, api_keys_file=keys, access_log=True, log_level="debug")
    with serving(own) as live:
        answers = [
            httpx.post(f"{live.url}/v1/k/{SECRET}{REST}?label=answer", json=EXAMPLE),
            httpx.post(f"{live.url}/v1{REST}?label=answer&key={SECRET}", json=EXAMPLE),
            httpx.post(f"{live.url}/v1{REST}?nonsense=1&key={SECRET}", json=EXAMPLE),
            httpx.post(f"{live.url}/v1/k/{SECRET}/nowhere", json=EXAMPLE),
            httpx.post(f"{live.url}/v1/k/{SECRET}{REST}?label=answer", content=b"{"),
            httpx.get(f"{live.url}/metrics", headers={"authorization": f"Bearer {POWERFUL}"}),
        ]
        live.app.flush()
        answers.append(
            httpx.get(f"{live.url}/metrics", headers={"authorization": f"Bearer {POWERFUL}"})
        )
    ours = [r for r in caplog.records if not r.name.startswith("http")]  # not our test client's
    written = "".join(capfd.readouterr()) + "".join(answer.text for answer in answers)
    written += "".join(f"{record.getMessage()} {record.__dict__}" for record in ours)
    assert [answer.status_code for answer in answers[:3]] == [200, 200, 400]
    assert "trainer" in written  # the key's name is logged
    assert "rewards/slime" in written
    assert SECRET not in written


async def test_every_dialect_takes_a_key_in_its_url(graders: Path, keys: str) -> None:
    async with calling(create_app(settings(graders, api_keys_file=keys))) as api:
        for name, dialect in DIALECTS.items():
            url = f"/v1/k/{SECRET}{path('exact', name).removeprefix('/v1')}"
            assert (await api.post(url, json=dialect.example)).status_code == 200
