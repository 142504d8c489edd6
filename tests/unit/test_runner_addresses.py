"""Addresses of runners, and the token that service and runner share."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.sandbox.addresses import TcpAddress, UnixAddress, check_url, parse_listen
from service.tokens import TokenError, TokenFile


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/r.sock", UnixAddress("/run/r.sock")),
        ("unix:///run/r.sock", UnixAddress("/run/r.sock")),
        ("127.0.0.1:8081", TcpAddress("127.0.0.1", 8081)),
        ("[::1]:0", TcpAddress("::1", 0)),
    ],
)
def test_listen_address(text: str, address: UnixAddress | TcpAddress) -> None:
    assert parse_listen(text) == address
    assert parse_listen(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "8081", ":8081", "host:", "host:x", "host:65536", "host:٣", "unix:relative"]
)
def test_what_is_no_listen_address_says_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="expected unix:/absolute/path"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("url", "unix"),
    [
        ("unix:///run/r.sock", UnixAddress("/run/r.sock")),
        ("http://runner:8081", None),
        ("https://runner/", None),
        ("http://[::1]:8081", None),
    ],
)
def test_url(url: str, unix: UnixAddress | None) -> None:
    assert check_url(url) == unix


@pytest.mark.parametrize(
    "url",
    [
        *("", "runner:8081", "ftp://runner", "http://", "http://runner:0", "http://runner:x"),
        *("http://runner/v1", "http://user:secret@runner", "http://runner?a=b", "http://runner#a"),
        *("unix://relative/path", "unix:", "http://[runner"),
    ],
)
def test_what_is_no_url_of_a_runner(url: str) -> None:
    with pytest.raises(ValueError, match="expected unix:"):
        check_url(url)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_file_everybody_is_let_in() -> None:
    tokens = TokenFile("")
    assert (tokens.is_open, tokens.first, tokens.accepts(b"x")) == (True, None, True)


def test_the_first_line_is_presented_and_any_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n\n two \n")
    tokens = TokenFile(str(file))
    assert tokens.first == b"one"
    assert [tokens.accepts(t) for t in (b"one", b"two", b"", b"on", b"one\n")] == [
        *(True, True),
        *(False, False, False),
    ]
    assert not tokens.is_open


def test_a_changed_file_is_read_and_an_unusable_one_leaves_the_old(tmp_path: Path) -> None:
    file, clock = tmp_path / "token", Clock()
    file.write_text("one")
    tokens = TokenFile(str(file), clock=clock)
    file.write_text("two")
    assert tokens.first == b"one"
    clock.now = 2.0
    assert tokens.first == b"two"
    file.write_text("\n")
    clock.now = 4.0
    assert tokens.first == b"two"
    file.unlink()
    clock.now = 6.0
    assert tokens.accepts(b"two")


@pytest.mark.parametrize(
    ("content", "problem"),
    [("", "holds no token"), ("a b", "one ASCII token"), ("ö", "one ASCII token")],
)
def test_an_unusable_file_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(TokenError, match=problem):
        TokenFile(str(file))
    with pytest.raises(TokenError, match="cannot be read: No such file"):
        TokenFile(str(tmp_path / "none"))
