"""File, TCP and signal rules of the kernel's Landlock, for a process without privileges.

A ruleset is built in each leaf from descriptors that the zygote opened: the leaf adds its own
scratch and its own ``/proc/self`` and then shuts the door.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat

from service.sandbox.guest import syscalls

_CREATE_VERSION = 1
_RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_ALL_OF_ABI_1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_MAKE_DEVICES = 1 << 6 | 1 << 11  # MAKE_CHAR, MAKE_BLOCK
_FILE_ONLY = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 3  # bind and connect
_SCOPES = 3  # abstract unix sockets and signals

READ = READ_FILE | READ_DIR
ABI_TRUNCATE = 3
ABI_TCP = 4
ABI_SCOPES = 6


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("access", ctypes.c_uint64), ("fd", ctypes.c_int32))


def abi() -> int:
    """Return the Landlock version of this kernel, 0 when there is none."""
    try:
        return syscalls.call("landlock_create_ruleset", 0, 0, _CREATE_VERSION)
    except OSError:
        return 0


def handled(version: int) -> int:
    """Return the file rights that a ruleset of ABI ``version`` decides about."""
    rights = _ALL_OF_ABI_1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        if version >= since:
            rights |= right
    return rights


class Ruleset:
    """What a leaf may reach; made once in the zygote, enforced in every leaf.

    Attributes:
        version: Landlock ABI that is used.
    """

    _addresses: tuple[int, ...]
    _own: _PathBeneathAttr
    _own_address: int
    _attr_address: int
    _own_read: int

    def __init__(self, version: int, *, may_execute: bool) -> None:
        """Prepare an empty ruleset of ABI ``version``."""
        self.version = version
        self._rights = handled(version)
        self._read = (READ | (EXECUTE if may_execute else 0)) & self._rights
        self._scratch = self._rights & ~(
            _MAKE_DEVICES | _IOCTL_DEV | (0 if may_execute else EXECUTE)
        )
        self._rules: list[_PathBeneathAttr] = []
        attr = _RulesetAttr(
            self._rights, _TCP if version >= ABI_TCP else 0, _SCOPES if version >= ABI_SCOPES else 0
        )
        size = 8 if version < ABI_TCP else 16 if version < ABI_SCOPES else 24
        self._attr, self._size = attr, size
        self._numbers = tuple(
            syscalls.number(f"landlock_{name}")
            for name in ("create_ruleset", "add_rule", "restrict_self")
        )

    def seal(self) -> None:
        """Work out what `enforce` will need; no rule may be added after this."""
        self._addresses = tuple(ctypes.addressof(rule) for rule in self._rules)
        self._own = _PathBeneathAttr(0, -1)
        self._own_address = ctypes.addressof(self._own)
        self._attr_address = ctypes.addressof(self._attr)
        self._own_read = READ & self._rights

    def allow_reading(self, paths: list[str]) -> None:
        """Allow reading ``paths`` and what is beneath; those that do not exist are left out."""
        for path in dict.fromkeys(map(os.path.realpath, paths)):
            with contextlib.suppress(OSError):
                self._rules.append(self._rule(path, self._read))

    def allow_device(self, path: str, rights: int) -> None:
        """Allow ``rights`` on the file ``path`` if it exists."""
        with contextlib.suppress(OSError):
            self._rules.append(self._rule(path, rights & self._rights))

    def _rule(self, path: str, rights: int) -> _PathBeneathAttr:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FILE_ONLY
        return _PathBeneathAttr(rights, fd)

    def enforce(self, scratch: int) -> None:
        """Restrict this process to the prepared rules, its own ``/proc/self`` and a directory.

        Args:
            scratch: Descriptor of the directory.

        Raises:
            OSError: The kernel refused.
        """
        create, add, restrict = self._numbers
        fast, checked = syscalls.fast, syscalls.checked
        ruleset = checked(fast(create, self._attr_address, self._size, 0, 0))
        for rule in self._addresses:
            checked(fast(add, ruleset, _RULE_PATH_BENEATH, rule, 0))
        own = self._own
        own.access, own.fd = self._scratch, scratch
        checked(fast(add, ruleset, _RULE_PATH_BENEATH, self._own_address, 0))
        with contextlib.suppress(FileNotFoundError):
            own.fd = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
            own.access = self._own_read
            checked(fast(add, ruleset, _RULE_PATH_BENEATH, self._own_address, 0))
        checked(fast(restrict, ruleset, 0, 0, 0))
