"""``endpoint``: an HTTP endpoint gives the score (spec §3.7; private beta at OpenAI and Azure).

The adapter behind the `EndpointCaller` port owns transport, retries and limits; here is what is
sent and what counts as an answer.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

from graders import schema
from graders.building import Builder, Item
from graders.errors import EndpointGraderReplyError, EndpointUnavailableError
from graders.ports import EndpointCall, EndpointReply
from graders.sample import Sample, parse_json_text
from graders.wording import escape, shortened

_MAX_SCORE = sys.float_info.max
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")  # RFC 9110, token
_HEADER_VALUE = re.compile(r"[\t -~]*\Z")  # visible ASCII
_URL = re.compile(r"[^\0-\x20\x7f]+\Z")  # urlsplit drops control characters instead of refusing


def build_request(
    grader: schema.Endpoint, builder: Builder, pointer: str
) -> Callable[[Item, Sample], EndpointCall]:
    """Return what builds the call; an unusable URL, header or rate is recorded."""
    builder.needs_whole_item()
    problem = _url_problem(grader.url)
    if problem:  # placeholders are published and must validate (spec §9.4)
        message = f"this URL cannot be called: {problem}."
        builder.warning(f"{pointer}/url", message, "unusable_url")
    for name, value in grader.headers.items():
        if not _HEADER_NAME.match(name) or not _HEADER_VALUE.match(value):
            place = f"{pointer}/headers/{escape(name)}"
            builder.invalid(place, "no HTTP header has this name or value.")  # it may be secret
    if grader.rate_limit is not None and grader.rate_limit <= 0:
        builder.invalid(f"{pointer}/rate_limit", "expected more than 0.")

    def request(item: Item, sample: Sample) -> EndpointCall:
        if problem:
            message = f"the endpoint's URL cannot be called: {problem}"
            raise EndpointUnavailableError(message, retryable=False)
        return EndpointCall(
            url=grader.url,
            headers=grader.headers,
            body={"sample": sample.namespace, "item": item},
            rate_limit=grader.rate_limit,
        )

    return request


def score(reply: EndpointReply) -> float:
    """Return ``score`` of the endpoint's JSON answer; not clamped.

    Raises:
        EndpointGraderReplyError: The answer is not ``{"score": finite number}``.
    """
    try:
        body = parse_json_text(reply.body.decode())
    except UnicodeDecodeError as error:
        raise EndpointGraderReplyError("the endpoint's answer is not UTF-8") from error
    value = body.get("score") if isinstance(body, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _MAX_SCORE:
        raise EndpointGraderReplyError("the endpoint's answer has no finite number 'score'")
    return float(value)


def _url_problem(url: str) -> str | None:
    if not _URL.match(url):
        return "expected a URL without spaces and control characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return shortened(str(error))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return "expected an absolute http or https URL"
    if parts.username is not None or parts.password is not None:
        return "credentials belong in 'headers'"
    return "port 0" if port == 0 else None
