"""The zygotes: a base that imported nothing, and tiers with packages, waiting to fork.

A zygote never sees a grader's source or a sample: control messages are fixed-size integers, and
source, code and payload pass through it as descriptors that only the forked leaf reads. Messages,
one datagram each on a ``SOCK_SEQPACKET`` pair:

==========  =========  ====================================================================
to base     ``TIER``   fork a tier with the packages of a bit set; brings the tier's socket
to tier     ``CALL``   fork a leaf; brings program, payload and the result pipe
to tier     ``COMPILE``  the same, to compile; brings source and the result pipe
to tier     ``NICE``   lower the priority of a leaf
from base   ``SCRATCH``  brings the next scratch directories, where they are its own
from base   ``READY``  JSON facts about the isolation
from tier   ``READY``  JSON facts about the tier
from both   ``FAILED``  a sentence; the sender did not do what it was asked
from tier   ``STARTED``  a leaf runs; brings its pidfd
from tier   ``HOLDS``  bytes that a leaf keeps in files without names, when that has changed
from tier   ``EXCEEDED``  a leaf is killed: what it used more of than it may, and how much it may
from tier   ``ENDED``  a leaf is reaped: wait status, peak memory, CPU time
==========  =========  ====================================================================

End of file on the socket means the supervisor is gone: everything below is killed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time

from service.sandbox.guest import leaf, warmups, watch
from service.sandbox.guest.lockdown import CONTROL_FD, Lockdown, LockdownError

TIER, CALL, COMPILE, NICE, READY, FAILED, STARTED, HOLDS, EXCEEDED, ENDED, SCRATCH = range(1, 12)
# operation, id, slot, CPU seconds (or nice level), seed given?, seed
REQUEST = struct.Struct("=BQIIB16s")
# operation, id, wait status, peak memory in kB, CPU microseconds
REPLY = struct.Struct("=BQiQQ")
MAX_MESSAGE = 65536
MAX_FDS = 200  # of one message; the kernel takes 253
_FD = struct.Struct("=i")
_CONTROL_SPACE = socket.CMSG_SPACE(4 * _FD.size)
_TOO_LARGE = b"MemoryError: the item and the sample do not fit into the memory limit"
_WATCH_S = 0.03
_WATCH_FILES_S = 0.2
_LEFTOVERS_S = 30.0


class _Leaf:
    """A running leaf as its zygote knows it."""

    def __init__(self, call_id: int, pid: int, slot: int) -> None:
        self.call_id, self.pid, self.slot = call_id, pid, slot
        self.since = time.monotonic()
        self.files_seen = self.since
        self.held_bytes = 0
        self.exceeded = False


class Tier:
    """Forks leaves on request until its socket closes."""

    def __init__(
        self, control: socket.socket, lockdown: Lockdown, settings: dict[str, int | str]
    ) -> None:
        """Serve ``control``, locking leaves down with ``lockdown``."""
        self._control = control
        self._lockdown = lockdown
        self._runner = leaf.Runner(int(settings["max_output_bytes"]))
        self._max_processes = int(settings["max_processes"])
        self._max_threads = int(settings["max_threads"])
        self._max_memory_bytes = int(settings["memory_bytes"])
        self._max_disk_bytes = int(settings["disk_bytes"])
        self._families = settings["profile"] == "processes"
        self._own_disk = bool(settings["namespaces"])
        self._looked = 0.0
        self._pid = os.getpid()
        self._poll = select.poll()
        self._leaves: dict[int, _Leaf] = {}

    def serve(self) -> None:
        """Answer messages; return when the supervisor has gone."""
        control_fd = self._control.fileno()
        self._poll.register(control_fd, select.POLLIN)
        while True:
            timeout_ms = int(_WATCH_S * 1000) if self._leaves else None
            for fd, _ in self._poll.poll(timeout_ms):
                if fd != control_fd:
                    self._reap(fd)
                elif not self._receive():
                    return
            if self._leaves:
                self._look()

    def _receive(self) -> bool:
        # Not socket.recv_fds: what it touches, every leaf would have to copy.
        message, ancillary, _, _ = self._control.recvmsg(REQUEST.size, _CONTROL_SPACE)
        fds = [fd for _, _, data in ancillary for (fd,) in _FD.iter_unpack(data)]
        if not message:
            for pidfd in self._leaves:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return False
        operation, call_id, slot, number, seeded, seed = REQUEST.unpack(message)
        if operation == NICE:
            self._renice(call_id, number)
        else:
            self._fork(
                operation,
                call_id,
                slot,
                number,
                int.from_bytes(seed, "big") if seeded else None,
                fds,
            )
        return True

    def _fork(
        self, operation: int, call_id: int, slot: int, cpu_s: int, seed: int | None, fds: list[int]
    ) -> None:
        pid = 0
        try:
            self._lockdown.go_to(slot)
            pid = os.fork()
            if pid == 0:
                self._become_leaf(operation, call_id, slot, cpu_s, seed, fds)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            self._fail(call_id, f"fork: {error}")
            return
        finally:
            for fd in fds:
                os.close(fd)
        self._leaves[pidfd] = _Leaf(call_id, pid, slot)
        self._poll.register(pidfd, select.POLLIN)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.pack(pidfd))]
        self._control.sendmsg([REPLY.pack(STARTED, call_id, 0, 0, 0)], rights)

    def _become_leaf(
        self, operation: int, call_id: int, slot: int, cpu_s: int, seed: int | None, fds: list[int]
    ) -> None:
        """Run one call in this freshly forked process; does not return."""
        leave = os._exit
        try:
            program = payload = b""
            fits = True
            try:
                program = leaf.read_all(fds[0])
                payload = leaf.read_all(fds[1]) if operation == CALL else b""
            except MemoryError:
                fits = False
            self._lock_leaf(call_id, slot, cpu_s, fds[-1])
            if not fits:
                leaf.write_frame(leaf.pack(leaf.MEMORY, 0.0, _TOO_LARGE, b"", b""))
            elif operation == COMPILE:
                leaf.write_frame(leaf.compile_source(program))
            else:
                leaf.prepare_interpreter(seed)
                leaf.write_frame(self._runner.run(program, payload)())
        finally:
            leave(0)

    def _lock_leaf(self, call_id: int, slot: int, cpu_s: int, result_fd: int) -> None:
        try:
            self._lockdown.enter(parent=self._pid, slot=slot, cpu_s=cpu_s, result_fd=result_fd)
        except LockdownError as error:
            message = REPLY.pack(FAILED, call_id, 0, 0, 0) + str(error).encode()
            os.write(CONTROL_FD, message)
            raise

    def _reap(self, pidfd: int) -> None:
        ended = self._leaves.pop(pidfd)
        self._poll.unregister(pidfd)
        if self._families:
            self._end_family(ended.pid)
        _, status, usage = os.wait4(ended.pid, 0)
        os.close(pidfd)
        cpu_us = int((usage.ru_utime + usage.ru_stime) * 1e6)
        self._control.send(REPLY.pack(ENDED, ended.call_id, status, usage.ru_maxrss, cpu_us))

    @staticmethod
    def _end_family(leader: int) -> None:
        """Kill and collect the rest of a group, while its dead leader still keeps the number."""
        until = time.monotonic() + _LEFTOVERS_S
        while time.monotonic() < until:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, signal.SIGKILL)
            others = [member.pid for member in watch.family(leader) if member.pid != leader]
            if not others:
                return
            for pid in others:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.001)

    def _look(self) -> None:
        """Look at the leaves that have been running for a while, now and then."""
        now = time.monotonic()
        if now - self._looked < _WATCH_S:
            return
        self._looked = now
        for running in self._leaves.values():
            if now - running.since >= _WATCH_S and not running.exceeded:
                self._look_at(running, now)

    def _look_at(self, running: _Leaf, now: float) -> None:
        members = watch.family(running.pid) if self._families else watch.alone(running.pid)
        for what, used, limit in (
            ("processes", len(members), self._max_processes),
            ("threads", sum(member.threads for member in members), self._max_threads),
            ("memory", self._memory_bytes(members), self._max_memory_bytes),
        ):
            if used > limit:
                running.exceeded = True
                self._control.send(
                    REPLY.pack(EXCEEDED, running.call_id, 0, limit, 0) + what.encode()
                )
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                return
        if not self._own_disk and now - running.files_seen >= _WATCH_FILES_S:
            running.files_seen = now
            path = self._lockdown.scratch.format(slot=running.slot)
            held = watch.held_bytes(members, path, self._max_disk_bytes)
            if held != running.held_bytes:
                running.held_bytes = held
                self._control.send(REPLY.pack(HOLDS, running.call_id, 0, held, 0))

    def _memory_bytes(self, members: list[watch.Member]) -> int:
        # What one process may have, the kernel counts.
        return watch.memory_bytes(members, self._max_memory_bytes) if self._families else 0

    def _renice(self, call_id: int, level: int) -> None:
        for running in self._leaves.values():
            if running.call_id == call_id:
                with contextlib.suppress(OSError):  # its own group: all of its threads
                    os.setpriority(os.PRIO_PGRP, running.pid, level)

    def _fail(self, call_id: int, text: str) -> None:
        self._control.send(REPLY.pack(FAILED, call_id, 0, 0, 0) + text.encode()[:1000])


def serve_tier(
    control: socket.socket, bits: int, lockdown: Lockdown, settings: dict[str, int | str]
) -> None:
    """Import the packages of ``bits``, report, and fork leaves until the socket closes."""
    started = time.monotonic()
    for module in warmups.EVERYWHERE:
        importlib.import_module(module)
    names = [name for index, name in enumerate(warmups.PACKAGES) if bits >> index & 1]
    for name in names:
        try:
            warmups.load(name)
        except Exception as error:  # noqa: BLE001 - whatever a broken image raises, the supervisor must hear it
            text = f"cannot import {name}: {type(error).__name__}: {error}"
            control.send(REPLY.pack(FAILED, 0, 0, 0, 0) + text.encode()[:1000])
            return
    ours = __name__.partition(".")[0]
    for module in [known for known in sys.modules if known.partition(".")[0] == ours]:
        del sys.modules[module]
    lockdown.settle()
    lockdown.filter_zygote()
    facts = {
        "packages": names,
        "ready_s": time.monotonic() - started,
        "rss_bytes": _resident_bytes(),
    }
    tier = Tier(control, lockdown, settings)
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(REPLY.pack(READY, 0, 0, 0, 0) + json.dumps(facts).encode())
    tier.serve()


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            _, resident, shared = map(int, statm.read().split()[:3])
    except OSError:
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
