"""What the bench computes and reads; what it measures is for `make bench` to say."""

from __future__ import annotations

import socket

import pytest

from tests.bench import rows, traffic
from tests.bench.load import Request, encoded, read_answer


@pytest.mark.parametrize(
    ("row", "missed"),
    [
        pytest.param(rows.at_least(2, "x", [1, 2, 9]), False, id="median-reaches-the-bar"),
        pytest.param(rows.at_least(2, "x", [1, 1.9, 9]), True, id="median-below-the-bar"),
        pytest.param(rows.at_most(2, "x", [1, 2, 9]), False, id="median-within-the-bar"),
        pytest.param(rows.at_most(2, "x", [1, 2.1, 2.2]), True, id="median-above-the-bar"),
        pytest.param(rows.figure("x", [1]), False, id="no-bar"),
    ],
)
def test_row_is_missed_when_its_median_is_on_the_wrong_side(row: rows.Row, missed: bool) -> None:
    assert row.missed is missed


def test_table_shows_median_range_bar_and_verdict() -> None:
    text = rows.table(
        [rows.at_most(0.5, "ready", [0.4, 0.6, 0.512], "s"), rows.figure("y", [1234])]
    )

    assert [line.split() for line in text.splitlines()] == [
        ["what", "measured", "range", "bar", "verdict"],
        ["ready", "0.512", "s", "0.4–0.6", "≤", "0.5", "s", "MISSED"],
        ["y", "1,234"],
    ]


def test_traffic_has_the_promised_sizes() -> None:
    assert len(traffic.single().body) == 1024
    assert {len(line) for line in traffic.lines(rows=20).body.splitlines()} == {411}


def test_answer_in_pieces_is_read_to_its_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for piece in (b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 5\r\n\r\nab", b"cde"):
            theirs.sendall(piece)
        answer = read_answer(ours)

    assert answer.endswith(b"\r\n\r\nabcde")


def test_answer_with_another_status_stops_the_measurement() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        with pytest.raises(RuntimeError, match="503"):
            read_answer(ours)


def test_request_carries_its_length_and_headers() -> None:
    message = encoded(Request(path="/x", body=b"{}", headers={"Authorization": "Bearer k"}))

    head, _, body = message.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x HTTP/1.1\r\n")
    assert {b"Content-Length: 2", b"Authorization: Bearer k"} <= set(head.split(b"\r\n"))
    assert body == b"{}"
