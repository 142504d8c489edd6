"""Small attacks that the sandbox makes on itself at every start, the way graders come.

Each is a grader that returns 1.0 when it was stopped and 0.0 when it got through, named after its
row in the attack list (tests/attacks). ``{…}`` are the targets that `Targets` sets up in this
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import secrets
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from service.sandbox.environment import ENVIRONMENT

if TYPE_CHECKING:
    from types import TracebackType

_MARK = "canary"
_PUBLIC_MODE = 0o666

# All that a grader may find in its environment.
HARMLESS = set(ENVIRONMENT) | {"HOME", "TMPDIR", "PWD", "NLTK_DATA", "LC_CTYPE"}

_TRY = """
def grade(sample, item):
    try:
        attack()
    except (OSError, MemoryError):
        return 1.0
    return 0.0
"""

_LIBC = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
"""

# int 0x80 with getpid's 32-bit number, then ret: what a filter that forgets the architecture lets
# through.
_INT_80 = """
import ctypes, mmap
def grade(sample, item):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000cd80c3"))
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return 0.0
"""

NETWORK: dict[str, str] = {
    "N01": "import socket\ndef attack():\n    socket.create_connection(('127.0.0.1', {tcp}), 1)\n"
    + _TRY,
    "N02": (
        "import socket\ndef attack():\n"
        "    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp}))\n"
        + _TRY
    ),
    "N05": "import socket\ndef attack():\n    socket.socket(socket.AF_UNIX).connect({abstract!r})\n"
    + _TRY,
}

PROCESSES: dict[str, str] = {
    "P02": "def attack():\n    open('/proc/{pid}/environ', 'rb').read()\n" + _TRY,
    "P03": (
        "import os\ndef grade(sample, item):\n    names = set(os.environ)\n    try:\n"
        "        text = open('/proc/self/environ').read()\n"
        "        names |= {p.partition('=')[0] for p in text.split('\\0') if p}\n"
        "    except OSError:\n        pass\n    return float(names <= {harmless!r})\n"
    ),
    # PTRACE_SEIZE: attaches without stopping the target, should it be let through.
    "P06": _LIBC + "def attack():\n    checked(libc.ptrace(0x4206, {pid}, None, None))\n" + _TRY,
    "S01": "import os\ndef attack():\n    os.kill({pid}, 0)\n" + _TRY,
    "X01": "import os\ndef attack():\n    if os.fork() == 0:\n        os._exit(0)\n" + _TRY,
    "M02": "def attack():\n    bytearray({memory} + (64 << 20))\n" + _TRY,
}

FILES: dict[str, str] = {
    "F01": "def attack():\n    open({public!r}).read()\n" + _TRY,
    "F02": "def attack():\n    open({private!r}).read()\n" + _TRY,
    "F04": "def attack():\n    open({folder!r} + '/planted', 'w').write('x')\n" + _TRY,
    "F05": (
        "import os\ndef grade(sample, item):\n"
        "    for attack in (os.chmod, os.truncate):\n        try:\n"
        "            attack({public!r}, 0)\n        except OSError:\n            pass\n"
        "    return 1.0\n"
    ),
    "F07": "import os\ndef attack():\n    os.listdir({folder!r})\n" + _TRY,
}

STAT = {"F12": "import os\ndef attack():\n    os.stat({public!r})\n" + _TRY}

INT_80 = {"N09": _INT_80}


def canaries(profile: str) -> dict[str, str]:
    """Return the canaries that mean something under ``profile`` here, as templates by id."""
    found = NETWORK | PROCESSES | FILES | STAT
    if profile == "processes":
        del found["X01"]
    if platform.machine() == "x86_64":
        found |= INT_80
    return found


class Targets:
    """What the canaries attack: listeners, files and this process itself.

    Attributes:
        values: Fills the templates.
        hits: Listeners that were reached.
    """

    def __init__(self, memory_bytes: int, directory: str | None) -> None:
        """Prepare; ``directory`` is where temporary files go."""
        self.values: dict[str, object] = {"pid": os.getpid(), "memory": memory_bytes}
        self.hits: list[str] = []
        self._parent = directory
        self._stack = contextlib.ExitStack()
        self._public = Path()

    async def __aenter__(self) -> Self:
        """Open the listeners and write the files: a few small ones, once, at start."""
        folder = Path(
            self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix="gradekeeper-", dir=self._parent)
            )
        )
        os.chmod(folder, 0o777)  # noqa: PTH101, S103 - so that only the sandbox can be what stops a canary
        self._public = folder / "public"
        private = folder / "private"
        for path, mode in ((self._public, _PUBLIC_MODE), (private, 0o600)):
            path.write_text(_MARK)
            path.chmod(mode)
        abstract = "\0gradekeeper-" + secrets.token_hex(8)
        self.values |= {
            "folder": str(folder),
            "public": str(self._public),
            "private": str(private),
            "abstract": abstract,
            "harmless": HARMLESS,
            "tcp": self._listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": self._listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        }
        self._listen(socket.AF_UNIX, socket.SOCK_STREAM, abstract)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close and remove everything."""
        await asyncio.to_thread(self._stack.close)

    def files_unchanged(self) -> bool:
        """Return whether the public file still has its content and its mode."""
        return (
            self._public.read_text() == _MARK
            and self._public.stat().st_mode & 0o777 == _PUBLIC_MODE
        )

    def _listen(self, family: int, kind: int, address: tuple[str, int] | str) -> int:
        listener = self._stack.enter_context(socket.socket(family, kind))
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        name = listener.getsockname()
        return int(name[1]) if family == socket.AF_INET else 0
