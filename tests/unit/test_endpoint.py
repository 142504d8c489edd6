from typing import Any

import pytest

from graders.building import Options
from graders.engine import CompiledGrader, compile_grader
from graders.errors import EndpointUnavailableError
from graders.lint import lint
from graders.ports import EndpointReply, Ports
from graders.sample import Sample
from tests.fakes import FakeEndpoint

URL = "https://grader.example.com/score"


def definition(**fields: Any) -> dict[str, Any]:
    return {"type": "endpoint", "name": "g", "url": URL, **fields}


def compiled(**fields: Any) -> CompiledGrader:
    return compile_grader(definition(**fields), Options(), purpose="run")


async def test_call_carries_sample_item_headers_and_rate() -> None:
    endpoint = FakeEndpoint(lambda _call: EndpointReply(body=b'{"score": 0.5}'))
    grader = compiled(headers={"X-Key": "secret"}, rate_limit=50)
    grade = await grader.grade({"a": 1}, Sample("x"), Ports(endpoint=endpoint))
    call = endpoint.calls[0]
    assert grade.reward == 0.5
    assert call.url == URL
    assert call.headers == {"X-Key": "secret"}
    assert call.rate_limit == 50.0
    assert call.body == {"sample": Sample("x").namespace, "item": {"a": 1}}


@pytest.mark.parametrize(
    ("body", "reward"),
    [(b'{"score": 1}', 1.0), (b'{"score": -2.5, "why": "x"}', -2.5), (b' {"score":5e3} ', 5000.0)],
    ids=range(3),
)
async def test_number_is_the_reward_unclamped(body: bytes, reward: float) -> None:
    ports = Ports(endpoint=FakeEndpoint(lambda _call: EndpointReply(body=body)))
    grade = await compiled().grade({}, Sample("x"), ports)
    assert grade.ok
    assert grade.reward == reward


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"0.5",
        b"{}",
        b'{"Score": 1}',
        b'{"score": "1"}',
        b'{"score": true}',
        b'{"score": null}',
        b'{"score": [1]}',
        b'{"score": NaN}',
        b'{"score": 1e999}',
        b'{"score": 1' + b"0" * 400 + b"}",
        b'{"score": -1' + b"0" * 400 + b"}",
        b'{"score": 1',
        b'\xff{"score": 1}',
        b'{"a":' * 100_000,
    ],
    ids=range(15),
)
async def test_any_other_answer_is_an_internal_error_of_the_endpoint(body: bytes) -> None:
    ports = Ports(endpoint=FakeEndpoint(lambda _call: EndpointReply(body=body)))
    grade = await compiled().grade({}, Sample("x"), ports)
    assert grade.reward == 0.0
    assert [failure.flag for failure in grade.failures] == ["endpoint_grader_internal_error"]
    assert grade.upstream_failure is None


async def test_unreachable_endpoint_is_upstream() -> None:
    ports = Ports(endpoint=FakeEndpoint(lambda _call: EndpointUnavailableError("503")))
    grade = await compiled().grade({}, Sample("x"), ports)
    failure = grade.upstream_failure
    assert failure is not None
    assert failure.flag == "endpoint_grader_server_error"
    assert failure.retryable


async def test_process_without_endpoints_says_so() -> None:
    grade = await compiled().grade({}, Sample("x"), Ports())
    assert grade.upstream_failure is not None
    assert grade.upstream_failure.kind == "not_available"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("your_url_here", "expected an absolute http or https URL"),
        ("//host/path", "expected an absolute http or https URL"),
        ("https://", "expected an absolute http or https URL"),
        ("ftp://example.com/", "expected an absolute http or https URL"),
        ("file:///etc/passwd", "expected an absolute http or https URL"),
        ("https://user:secret@example.com/", "credentials belong in 'headers'"),
        ("https://user@example.com/", "credentials belong in 'headers'"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:99999/", "Port out of range 0-65535"),
        ("https://[::1/", "Invalid IPv6 URL"),
        ("https://exa mple.com/", "expected a URL without spaces and control characters"),
        ("ht\ntps://example.com/", "expected a URL without spaces and control characters"),
        ("", "expected a URL without spaces and control characters"),
    ],
)
async def test_url_that_cannot_be_called_is_warned_about_and_never_called(
    url: str, problem: str
) -> None:
    findings = lint(definition(url=url), Options())
    assert [(finding.pointer, finding.code) for finding in findings] == [("/url", "unusable_url")]
    assert findings[0].message == f"this URL cannot be called: {problem}."
    endpoint = FakeEndpoint(lambda _call: EndpointReply(body=b'{"score": 1}'))
    grade = await compiled(url=url).grade({}, Sample("x"), Ports(endpoint=endpoint))
    assert endpoint.asked == 0
    assert grade.upstream_failure is not None
    assert not grade.upstream_failure.retryable


def test_good_urls_and_headers_are_accepted() -> None:
    for url in ("http://127.0.0.1:9/x?y=1", "https://[::1]:8443/", "https://bücher.example/ü"):
        assert (
            lint(definition(url=url, headers={"Authorization": "Bearer a b\tc"}), Options()) == []
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [("X", "a\nb"), ("X", "\0"), ("X", "é"), ("", "a"), ("a b", "x"), ("a:", "x"), ("é", "x")],
)
def test_header_that_http_cannot_carry_is_refused_without_showing_it(name: str, value: str) -> None:
    findings = lint(definition(headers={name: value}), Options())
    assert [finding.pointer for finding in findings] == [f"/headers/{name}"]
    assert findings[0].code == "invalid_value"


def test_secret_header_values_stay_out_of_findings() -> None:
    findings = lint(definition(headers={"Authorization": "Bearer s3cret\n"}), Options())
    assert findings
    assert "s3cret" not in str(findings)
