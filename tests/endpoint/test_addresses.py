"""Only public addresses may be called, unless a setting names the network."""

import socket
from typing import Any

import pytest

from graders.errors import EndpointUnavailableError
from graders.ports import EndpointCall
from service.endpoint_caller import AddressRefusedError, EndpointConfig, HttpEndpointCaller
from service.endpoint_caller.addresses import AddressRule
from tests.endpoint.servers import running, score

PRIVATE = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",  # noqa: S104 - connects to this machine on Linux
    "10.0.0.1",
    "172.16.5.5",
    "192.168.1.1",
    "169.254.169.254",  # cloud metadata
    "100.64.0.1",
    "100.100.100.200",  # cloud metadata elsewhere
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.1.2.3",
    "::ffff:a9fe:a9fe",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "fc00::1",
    "fd00:ec2::254",  # cloud metadata over IPv6
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
NO_ADDRESSES = ["2130706433", "0x7f.0.0.1", "127.1", "0177.0.0.1", "localhost", "", "1.2.3.4.5"]


@pytest.mark.attack
@pytest.mark.parametrize("address", PRIVATE)
def test_private_and_special_addresses_are_refused(address: str) -> None:
    with pytest.raises(AddressRefusedError):
        AddressRule().check(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_let_through(address: str) -> None:
    AddressRule().check(address)


@pytest.mark.attack
@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_canonical_address_is_refused(address: str) -> None:
    with pytest.raises(AddressRefusedError):
        AddressRule(["0.0.0.0/0", "::/0"]).check(address)


def test_a_setting_allows_its_network_and_no_other() -> None:
    rule = AddressRule(["10.1.0.0/16", "fd00::/8"])
    rule.check("10.1.2.3")
    rule.check("::ffff:10.1.2.3")
    rule.check("fd00::5")
    for address in ("10.2.0.1", "127.0.0.1", "fe80::1"):
        with pytest.raises(AddressRefusedError):
            rule.check(address)


def test_a_setting_that_is_no_network_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"10\.1\.0\.1/16"):
        AddressRule(["10.1.0.1/16"])


URLS = [
    "http://127.0.0.1:{port}/grade",
    "http://localhost:{port}/grade",
    "http://LOCALHOST.:{port}/grade",
    "http://2130706433:{port}/grade",
    "http://0x7f000001:{port}/grade",
    "http://0x7f.1:{port}/grade",
    "http://127.1:{port}/grade",
    "http://0177.0.0.1:{port}/grade",
    "http://0.0.0.0:{port}/grade",
    "http://[::1]:{port}/grade",
    "http://[::]:{port}/grade",
    "http://[::ffff:127.0.0.1]:{port}/grade",
    "http://[::ffff:7f00:1]:{port}/grade",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.255.255.1:{port}/grade",
    "http://①②⑦.0.0.1:{port}/grade",  # digits that become ASCII
]


@pytest.mark.attack
@pytest.mark.parametrize("url", URLS)
async def test_nothing_is_sent_to_this_machine_under_any_name(url: str) -> None:
    async with running(score(1.0)) as server:
        caller = HttpEndpointCaller(EndpointConfig(connect_timeout_s=2, retries=3))
        call = EndpointCall(url=url.format(port=server.port), headers={"X-Key": "s3cret"}, body={})
        with pytest.raises(EndpointUnavailableError) as caught:
            await caller.call(call)
        await caller.close()
    assert server.connections == 0
    unresolved = "LOCALHOST." in url and caught.value.kind == "connection"  # where no name is
    assert unresolved or caught.value.kind in {"address_refused", "invalid_url"}
    assert unresolved or not caught.value.retryable
    assert "s3cret" not in str(caught.value)


@pytest.mark.attack
async def test_a_name_that_changes_its_address_is_checked_where_it_connects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: public when asked about, private when connected to."""
    answers = ["93.184.215.14", "127.0.0.1"]
    real = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        return real(answers.pop(0) if host == "rebind.test" else host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    async with running(score(1.0)) as server:
        caller = HttpEndpointCaller(EndpointConfig(retries=0))
        answers.pop(0)
        url = f"http://rebind.test:{server.port}/"
        with pytest.raises(EndpointUnavailableError) as caught:
            await caller.call(EndpointCall(url=url, headers={}, body={}))
        await caller.close()
    assert caught.value.kind == "address_refused"
    assert server.connections == 0


@pytest.mark.attack
async def test_a_name_with_one_private_address_is_refused_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def two(host: Any, port: Any, *_: Any, **__: Any) -> Any:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("93.184.215.14", "10.0.0.1")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    caller = HttpEndpointCaller(EndpointConfig(retries=0))
    with pytest.raises(EndpointUnavailableError, match=r"both\.test is not at a public address"):
        await caller.call(EndpointCall(url="http://both.test/", headers={}, body={}))
    await caller.close()


async def test_an_allowed_name_is_called_with_its_own_host_header() -> None:
    async with running(score(0.5)) as server:
        caller = HttpEndpointCaller(EndpointConfig(allowed_networks=("127.0.0.0/8", "::1/128")))
        url = f"http://localhost:{server.port}/grade?a=1"
        reply = await caller.call(EndpointCall(url=url, headers={}, body={}))
        await caller.close()
    assert reply.body == b'{"score": 0.5}'
    assert server.requests[0].headers["host"] == f"localhost:{server.port}"
    assert server.requests[0].target == "/grade?a=1"
