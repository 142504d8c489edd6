"""Reading result frames that a grader may have composed."""

import math
import struct

import pytest

from service.sandbox.calls import FrameError, decode_frame, without_answer
from service.sandbox.guest.leaf import EXCEPTION, FRAME, MAGIC, VALUE, compile_source, pack
from service.sandbox.supervisor import seed_of


def test_a_frame_comes_back_as_it_went() -> None:
    found = decode_frame(pack(VALUE, 0.1, b"d", b"out", b"err"), 1000)
    assert found is not None
    assert (found.outcome, found.value, found.details, found.stdout, found.stderr) == (
        "value",
        0.1,
        "d",
        b"out",
        b"err",
    )


def test_not_a_number_survives() -> None:
    found = decode_frame(pack(VALUE, math.nan, b"", b"", b""), 1000)
    assert found is not None
    assert math.isnan(found.value)


@pytest.mark.parametrize("length", [0, 5, FRAME.size, FRAME.size + 3])
def test_an_incomplete_frame_is_none(length: int) -> None:
    assert decode_frame(pack(EXCEPTION, 0.0, b"text", b"", b"")[:length], 1000) is None


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"x" * FRAME.size, "no_result"),
        (FRAME.pack(MAGIC, 99, 0.0, 0, 0, 0), "no_result"),
        (FRAME.pack(MAGIC, VALUE, 0.0, 1 << 31, 0, 0), "no_result"),
        (FRAME.pack(MAGIC, VALUE, 0.0, 0, 1 << 31, 0), "output"),
    ],
    ids=["garbage", "unknown-kind", "endless-details", "endless-output"],
)
def test_what_is_no_result_is_refused_by_its_header(data: bytes, outcome: str) -> None:
    with pytest.raises(FrameError) as refused:
        decode_frame(data, 1000)
    assert refused.value.outcome == outcome


def test_invalid_text_is_replaced() -> None:
    found = decode_frame(pack(EXCEPTION, 0.0, b"\xff", b"", b""), 1000)
    assert found is not None
    assert found.details == "\ufffd"


def test_an_end_without_answer_names_status_or_signal() -> None:
    assert "status 3" in without_answer(3).details
    assert "SIGSEGV" in without_answer(-11).details
    assert without_answer(-24).outcome == "timeout"


def test_compiling_names_the_imports() -> None:
    frame = compile_source(
        b"import numpy.linalg as l\ndef grade(s, i):\n    from rapidfuzz import fuzz\n    import os"
    )
    _, kind, _, details, _, _ = FRAME.unpack_from(frame)
    assert kind == VALUE
    assert frame[FRAME.size : FRAME.size + details] == b"numpy,os,rapidfuzz"


def test_frame_layout_is_what_the_supervisor_expects() -> None:
    assert FRAME.size == struct.calcsize("=4sBdIII") == 25


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"a": 1, "b": {"c": 2, "d": []}}', b'{"b":{"d":[],"c":2},"a":1}', True),
        (b'{"a": [1, 2]}', b'{"a": [2, 1]}', False),
        (b'{"a": 1}', b'{"a": 1.0}', False),
        (b'{"a": "\xc3\xa9"}', b'{"a": "\\u00e9"}', True),
        (b"not JSON", b"not JSON", True),
        (b"[" * 50_000 + b"]" * 50_000, b"[]", False),
    ],
    ids=["keys", "items", "numbers", "escapes", "not-json", "deep"],
)
def test_a_seed_depends_on_what_the_payload_says(one: bytes, other: bytes, *, same: bool) -> None:
    assert (seed_of("fixed", b"", one) == seed_of("fixed", b"", other)) is same
    assert seed_of("fresh", b"", one) is None
