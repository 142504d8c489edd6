"""What the first process of a container owes the others: it passes signals on and reaps orphans.

Python does neither by itself. Signals without a handler do nothing to process 1, and a process
whose parent has died stays a zombie until process 1 waits for it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PASSED_ON = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
_FROM_TERMINAL = 0x80  # SI_KERNEL: the whole process group has got it already
_PR_SET_DUMPABLE = 4
_SIGNALLED = 128  # as shells report a process that died of a signal


def mind_child() -> None:
    """Fork; return in the child, and mind it in this process, which ends when and like it does."""
    awaited = _PASSED_ON | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    if sys.platform == "linux":
        # It has the child's environment. Not by `service.sandbox`, which would triple its size.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    while True:
        told = signal.sigwaitinfo(awaited)
        if told.si_signo == signal.SIGCHLD:
            _reap(child)
        elif told.si_code != _FROM_TERMINAL:
            os.kill(child, told.si_signo)


def _reap(child: int) -> None:
    """Reap whatever has ended; end like ``child`` if that is among it."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else _SIGNALLED - code)
