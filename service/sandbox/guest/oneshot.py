"""One call in a fresh interpreter: request on stdin, frame on the old stdout."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct

from service.sandbox.guest import leaf

_LENGTH = struct.Struct("=I")


def main() -> None:
    """Read one request, run it, write one frame, end."""
    leave = os._exit
    try:
        settings_text, source, payload = _request()
        os.dup2(1, leaf.RESULT_FD)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        settings = json.loads(settings_text)
        _limit(settings)
        leaf.write_frame(_answer(source, payload, settings))
    finally:
        leave(0)


def _request() -> list[bytes]:
    with os.fdopen(os.dup(0), "rb") as stdin:
        return [stdin.read(_LENGTH.unpack(stdin.read(_LENGTH.size))[0]) for _ in range(3)]


def _answer(source: bytes, payload: bytes, settings: dict[str, int]) -> bytes:
    compiled = leaf.compile_source(source)
    _, kind, _, details, stdout, _ = leaf.FRAME.unpack_from(compiled)
    if kind != leaf.VALUE:
        return compiled
    start = leaf.FRAME.size + details
    leaf.prepare_interpreter(settings["seed"])
    return leaf.Runner(settings["max_output_bytes"]).run(
        compiled[start : start + stdout], payload
    )()


def _limit(settings: dict[str, int]) -> None:
    wanted = {
        resource.RLIMIT_CPU: settings["cpu_s"],
        resource.RLIMIT_FSIZE: settings["disk_bytes"],
        resource.RLIMIT_CORE: 0,
    }
    if settings["memory_bytes"]:
        wanted[resource.RLIMIT_AS] = settings["memory_bytes"]
    for which, value in wanted.items():
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(which, (value, value))
