"""Thin wrappers for the kernel calls that Python has no function for."""

from __future__ import annotations

import contextlib
import ctypes
import os

from service.sandbox.guest.tables import ARCHITECTURES, NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_SECCOMP_SET_MODE_FILTER = 1
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63
# SECBIT_NOROOT with its lock: uid 0 means nothing from here on.
_SECUREBITS_ROOT_IS_NOBODY = 0x03

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def number(name: str) -> int:
    """Return the number of system call ``name`` on this machine.

    Raises:
        OSError: The architecture is unknown here or does not have the call.
    """
    known = ARCHITECTURES.get(os.uname().machine)
    found = NUMBERS[name][known[1]] if known else None
    if found is None:
        raise OSError(38, f"no system call {name} on {os.uname().machine}")
    return found


def call(name: str, *args: object) -> int:
    """Return the result of a raw system call.

    Raises:
        OSError: The kernel refused.
    """
    return call_number(number(name), *args)


def call_number(number_: int, *args: object) -> int:
    """Return the result of the raw system call with this number.

    Raises:
        OSError: The kernel refused.
    """
    converted = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return checked(int(_libc.syscall(ctypes.c_long(number_), *converted)))


def checked(result: int) -> int:
    """Return ``result`` of a system call.

    Raises:
        OSError: The kernel refused.
    """
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _prototype() -> Callable[[int, int, int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    function.argtypes = [ctypes.c_long] * 5
    return function


# The same with four arguments that are numbers or addresses: converts nothing, checks nothing.
fast = _prototype()


def prctl(option: int, *args: int) -> int:
    """Return the result of ``prctl``.

    Raises:
        OSError: The kernel refused.
    """
    return call("prctl", option, *([*args, 0, 0, 0, 0][:4]))


class FilterProgram:
    """A BPF program in the shape the kernel takes, built once and installed in many children."""

    def __init__(self, instructions: bytes, pid_slots: Iterable[int] = ()) -> None:
        """Keep ``instructions``, 8 bytes each, alive beside the struct that points at them."""
        self._length = len(instructions) // 8
        self._buffer = ctypes.create_string_buffer(instructions, len(instructions))
        self._number = number("seccomp")
        self._constants = [
            ctypes.c_uint32.from_buffer(self._buffer, index * 8 + 4) for index in pid_slots
        ]

        class SockFprog(ctypes.Structure):
            """``struct sock_fprog``."""

            _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))

        self._struct = SockFprog(self._length, ctypes.addressof(self._buffer))
        self._address = ctypes.addressof(self._struct)

    def install(self, pid: int = 0) -> None:
        """Put the filter on this thread; there is no way back.

        Args:
            pid: Goes into the instructions that were named as ``pid_slots``.

        Raises:
            OSError: The kernel refused.
        """
        for constant in self._constants:
            constant.value = pid
        checked(fast(self._number, _SECCOMP_SET_MODE_FILTER, 0, self._address, 0))


def drop_bounding_set() -> None:
    """Let nothing executed from here on gain a capability; comes before the uid drops."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except (
            OSError
        ):  # EINVAL past the last one, EPERM without CAP_SETPCAP: then there is nothing to give up
            break
    with contextlib.suppress(PermissionError):
        prctl(PR_SET_SECUREBITS, _SECUREBITS_ROOT_IS_NOBODY)


def drop_capabilities() -> None:
    """Give up every capability this process has.

    Raises:
        OSError: The kernel refused.
    """
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
