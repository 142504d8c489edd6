"""The upstream fetches images: it must not be sent to anybody's private network."""

from __future__ import annotations

from typing import Any

import pytest

from graders.errors import JudgeUnavailableError
from graders.ports import JudgeCall
from service.endpoint_caller import AddressRule
from service.judge.images import check_images
from tests.fakes_upstream import Upstream
from tests.judge.calls import call
from tests.judge.conftest import MakeJudge

PRIVATE = [
    "http://127.0.0.1/x.png",
    "http://127.0.0.1:6379/",
    "https://10.0.0.1/x.png",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://0.0.0.0/",
    "http://0/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://0x7f.1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fd00:ec2::254]/",
    "http://[64:ff9b::7f00:1]/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://a.localhost/",
    "http://public.example@127.0.0.1/",
    "http://public.example:80@127.0.0.1:80/",
    "http://127.0.0.1\\@public.example/",
    "http://127.0.0.1 /",
    "http://127.0.0.1\t/",
    "http://\n127.0.0.1/",
    "HTTP://127.0.0.1/",
    "http://[::1/",
    "http:///x.png",
    "http://",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "gopher://public.example/",
    "ftp://public.example/x.png",
    "//public.example/x.png",
    "/etc/passwd",
    "x.png",
    "",
]
PUBLIC = [
    "https://public.example/x.png",
    "http://public.example:8080/x.png?a=b#c",
    "https://8.8.8.8/x.png",
    "https://[2606:4700::1111]/x.png",
    "https://127.0.0.1.public.example/x.png",
    "https://localhost.public.example/x.png",
    "https://bücher.example/x.png",
    "data:image/png;base64,iVBORw0KGgo=",
    "DATA:image/png;base64,iVBORw0KGgo=",
]


def showing(url: str) -> JudgeCall:
    """Return a call with a text, then the image at ``url``."""
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    plain = call()
    messages = [*plain.messages, {"role": "user", "content": parts}]
    return call(messages=messages)


@pytest.mark.attack
@pytest.mark.parametrize("url", PRIVATE)
def test_private_places_are_refused_however_they_are_written(url: str) -> None:
    with pytest.raises(JudgeUnavailableError) as caught:
        check_images(showing(url), AddressRule())
    assert (caught.value.kind, caught.value.retryable) == ("image_refused", False)
    assert not url or url not in str(caught.value)


@pytest.mark.parametrize("url", PUBLIC)
def test_public_places_and_images_in_the_call_are_let_through(url: str) -> None:
    check_images(showing(url), AddressRule())


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://localhost/", "http://127.1/"])
def test_a_setting_allows_its_network(url: str) -> None:
    check_images(showing(url), AddressRule(["127.0.0.0/8"]))


@pytest.mark.attack
async def test_the_upstream_never_hears_of_it(upstream: Upstream, make_judge: MakeJudge) -> None:
    judge = make_judge()
    with pytest.raises(JudgeUnavailableError):
        await judge.judge(showing("http://169.254.169.254/latest/meta-data/"))
    assert upstream.count == 0
    await judge.judge(showing("https://public.example/x.png"))
    assert upstream.asked[0].body["messages"][-1]["content"][1]["image_url"] == {
        "url": "https://public.example/x.png"
    }
