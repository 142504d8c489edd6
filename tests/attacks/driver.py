"""Run every attack against a sandbox and write what came of each, one JSON object a line.

A program of its own, because it is what gets attacked: it holds the secrets, the listeners and the files, and
it is started in the environments that the tests compare (plain machine, emulated container).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import msgspec

from service.sandbox import RunTerms, SandboxConfig, SubprocessSandbox, start_sandbox
from service.sandbox.scratch import is_empty
from tests.attacks.rows import ATTACKS, Attack, prelude

CLEAN = "def grade(sample, item):\n    return 0.5\n"
MARKED = "note = 'MARKER-OF-ANOTHER-CALL'\n" + CLEAN
_GONE_S = 15.0
_PATIENCE_S = 20.0


class Targets:
    """Listeners and files that no attack may reach."""

    def __init__(self, *, alone: bool) -> None:
        """Set everything up and remember how it looks."""
        self.folder = Path(tempfile.mkdtemp(prefix="attack-targets-"))
        self.folder.chmod(0o777)
        self.sockets = [
            self._listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            self._listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            self._listen(socket.AF_UNIX, socket.SOCK_STREAM, str(self.folder / "socket")),
            self._listen(socket.AF_UNIX, socket.SOCK_STREAM, f"\0attack-{os.getpid()}"),
        ]
        for name, mode in (("public", 0o666), ("private", 0o600)):
            (self.folder / name).write_text("SECRET in a file")
            (self.folder / name).chmod(mode)
        numbers = json.loads((Path(__file__).parent / "syscalls_x86_64.json").read_text())
        self.item = {
            "pid": os.getpid(),
            "tcp": self.sockets[0].getsockname()[1],
            "udp": self.sockets[1].getsockname()[1],
            "unix": str(self.folder / "socket"),
            "abstract": f"\0attack-{os.getpid()}",
            "folder": str(self.folder),
            "public": str(self.folder / "public"),
            "private": str(self.folder / "private"),
            "nr": numbers,
        }
        # On a shared machine others write there too.
        self.alone = alone
        self.before = self.look()

    @staticmethod
    def _listen(family: int, kind: int, address: Any) -> socket.socket:
        listener = socket.socket(family, kind)
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        listener.setblocking(False)
        return listener

    def look_around(self) -> list[str]:
        """Return the names in every place where anybody may write."""
        places = ("/", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", str(self.folder))
        return sorted(f"{p}/{name}" for p in places if os.path.isdir(p) for name in os.listdir(p))

    def look(self) -> list[tuple[str, int, int, int, str]]:
        """Return everything about the files that an attack could have changed."""
        found = []
        for path in sorted(self.folder.iterdir()):
            status = path.stat()
            text = path.read_text() if path.is_file() else ""
            found.append((path.name, status.st_mode, status.st_uid, int(status.st_mtime), text))
        if self.alone:
            found += [(name, 0, 0, 0, "") for name in self.look_around()]
        return found

    def reached(self) -> list[str]:
        """Return the listeners that something has come in on."""
        hits = []
        for listener in self.sockets:
            try:
                if listener.type == socket.SOCK_STREAM:
                    listener.accept()[0].close()
                else:
                    listener.recv(1)
            except BlockingIOError:
                continue
            hits.append(str(listener.getsockname()))
        return hits


def children(pid: int) -> list[int]:
    """Return the live processes that come from ``pid``: parents first, then the older first."""
    front, found = [pid], []
    while front:
        current = front.pop(0)
        found.append(current)
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{current}/task"):
                listed = Path(f"/proc/{current}/task/{task}/children").read_text()
                front += map(int, listed.split())
    return found[1:]


def descendants() -> int:
    """Return how many live processes come from this one."""
    return len(children(os.getpid()))


def expected_processes(sandbox: SubprocessSandbox) -> int:
    """Return how many processes the sandbox has when nothing runs."""
    return sum(
        len(environment.tiers) + (2 if environment.in_namespaces else 1)
        for environment in sandbox.environments
    )


async def settle(sandbox: SubprocessSandbox) -> float:
    """Wait until nothing runs; return the seconds that took."""
    started = time.monotonic()
    while time.monotonic() - started < _GONE_S:
        if not sandbox.stats().running and descendants() <= expected_processes(sandbox):
            break
        await asyncio.sleep(0.002)
    return time.monotonic() - started


async def run_attack(
    sandbox: SubprocessSandbox, targets: Targets, attack: Attack
) -> dict[str, Any]:
    """Return what an attack gave and what is left of it afterwards."""
    # Short only where the deadline is what is tested: the rest must not depend on a busy machine.
    timeout_s = sandbox._config.timeout_s if attack.expect == ("timeout",) else _PATIENCE_S
    terms = RunTerms(timeout_s=timeout_s)
    (environment,) = sandbox.environments
    start = prelude(names_hidden=environment.in_namespaces)

    async def run(source: str, sample: object = None) -> Any:
        payload = json.dumps({"sample": sample, "item": targets.item}).encode()
        try:
            return await sandbox._admit(environment, source.encode(), payload, terms)
        except Exception as error:  # noqa: BLE001 - reported as the row's result
            return error

    if attack.id == "P09":
        for _ in range(3):
            await run(
                MARKED.replace("note", "import ctypes, errno, os, sys, re\nnote"),
                "MARKER-OF-ANOTHER-CALL",
            )
    result = await run(start + attack.source)
    settled_s = await settle(sandbox)
    clean = await run(CLEAN)
    afterwards = await run(start + attack.afterwards) if attack.afterwards else None
    again = await run(start + attack.source) if attack.differs else None
    await settle(sandbox)
    return {
        "id": attack.id,
        "outcome": getattr(result, "outcome", type(result).__name__),
        "value": repr(getattr(result, "value", None)),
        "details": getattr(result, "details", str(result))[-600:],
        "seconds": getattr(result, "execution_time_s", 0.0),
        "settled_s": settled_s,
        "clean": repr(getattr(clean, "value", clean)),
        "afterwards": repr(getattr(afterwards, "value", afterwards)),
        "traces": getattr(afterwards, "details", "")[-300:],
        "again": repr(getattr(again, "value", again)),
        "reached": targets.reached(),
        "files_changed": targets.look() != targets.before,
        "left_over": descendants() - expected_processes(sandbox),
        "scratch_left": [
            n for n in range(1) for e in sandbox.environments if not is_empty(e.scratch_fd(n))
        ],
        "limit_nofile": os.sysconf("SC_OPEN_MAX"),
    }


async def main() -> None:
    """Run the rows named on the command line, or all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--alone", action="store_true", help="nobody else writes in this place")
    options = parser.parse_args()
    config = msgspec.json.decode(options.config, type=SandboxConfig)
    sandbox = await start_sandbox(config)
    report = sandbox.report()
    print(msgspec.json.encode({"report": report, "uid": os.getuid()}).decode(), flush=True)
    if not isinstance(sandbox, SubprocessSandbox):
        return
    targets = Targets(alone=options.alone)
    only = set(filter(None, options.only.split(",")))
    try:
        for attack in ATTACKS:
            if (only and attack.id not in only) or (attack.full and not options.full):
                continue
            print(json.dumps(await run_attack(sandbox, targets, attack)), flush=True)
    finally:
        await sandbox.close()
        shutil.rmtree(targets.folder)
        print(json.dumps({"after_close": descendants()}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
