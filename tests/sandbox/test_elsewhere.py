"""The service where the kernel is not Linux's: emulated by hiding what only Linux has."""

import json
import subprocess
import sys
from pathlib import Path

from tests.sandbox import image

# Without what macOS lacks, every import must work, and the `process` level run a grader. The names stay hidden
# from the standard library too, which does without them.
_ELSEWHERE = """
import asyncio, ctypes, json, os, resource, select, signal, socket, sys

for module, names in (
    (os, "sched_getaffinity sched_setaffinity pipe2 memfd_create pidfd_open setresuid setresgid O_PATH eventfd"
         " MFD_CLOEXEC MFD_ALLOW_SEALING O_TMPFILE getxattr setxattr posix_fallocate"),
    (resource, "RLIMIT_MSGQUEUE RLIMIT_RTPRIO RLIMIT_SIGPENDING prlimit"),
    (signal, "pidfd_send_signal sigtimedwait"),
    (socket, "AF_NETLINK AF_PACKET AF_VSOCK"),
    (select, "epoll"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
library = type(ctypes.CDLL(None))
original = library.__getattr__
def hidden(self, name):
    if name in ("prctl", "unshare", "mount", "umount2"):
        raise AttributeError(name)
    return original(self, name)
library.__getattr__ = hidden

import service.adapters
import service.app
from graders.ports import SandboxRun
from service.sandbox import SandboxConfig, start_sandbox

async def main():
    sys.platform = "darwin"
    config = SandboxConfig(images={"tag": sys.argv[1]}, minimum_level="process", timeout_s=30)
    sandbox = await start_sandbox(config)
    source = "def grade(sample, item):\\n    return 0.5\\n"
    run = SandboxRun(source=source, image_tag="tag", payload=b'{"sample": {}, "item": {}}')
    result = await sandbox.run(run)
    print(json.dumps([sandbox.report().level, result.value, result.details]))
    await sandbox.close()

asyncio.run(main())
"""


def test_without_linux_the_service_imports_and_runs_graders_as_processes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, image.built()],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["process", 0.5, ""]
