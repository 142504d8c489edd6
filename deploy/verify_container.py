"""Score and attack a running service, from inside its container: ``python - URL < this file``.

`deploy/verify-image` pipes it into the container that holds the key. Where user code runs (there,
or in a runner) the directory ``/targets`` is mounted: what the attacks are after. Prints a line a
check and the isolation level; exits with 1 if anything was not as it must be.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.error
import urllib.request
from typing import Any

from service.sandbox.canaries import HARMLESS, canaries

IMAGE_TAG = "2025-05-08"
CLEAN = "def grade(sample, item):\n    return 0.5\n"
_STOPPED = "\ndef grade(sample, item):\n    return float(attack())\n"
# Beyond the sandbox's own canaries: what ends with a limit, and what looks for anything at all.
ATTACKS = {
    "any process": (
        "import os\ndef attack():\n    for pid in range(1, 200):\n        if pid == os.getpid():\n"
        "            continue\n        try:\n            os.kill(pid, 0)\n            return 0\n"
        "        except OSError:\n            pass\n        try:\n"
        "            open(f'/proc/{pid}/environ').read()\n            return 0\n"
        "        except OSError:\n            pass\n    return 1\n" + _STOPPED
    ),
    "a key anywhere": (
        "import os\ndef attack():\n    found = ' '.join([*os.environ, *os.environ.values()])\n"
        "    return 'GRADEKEEPER' not in found and 'gk-' not in found\n" + _STOPPED
    ),
    "its own program": (
        "def attack():\n    try:\n        open('/opt/gradekeeper/bin/gradekeeper', 'a')\n"
        "        return 0\n    except OSError:\n        return 1\n" + _STOPPED
    ),
    "the machine's users": (
        "def attack():\n    try:\n        open('/etc/passwd').read()\n        return 0\n"
        "    except OSError:\n        return 1\n" + _STOPPED
    ),
}
ENDLESS = {
    "endless loop": "def grade(sample, item):\n    while True:\n        pass\n",
    "memory": (
        "def grade(sample, item):\n    kept = []\n    while True:\n        kept += [b'x' * 10**7]\n"
    ),
    "exit": "import os\ndef grade(sample, item):\n    os._exit(0)\n",
    "kill own group": "import os\ndef grade(sample, item):\n    os.killpg(0, 9)\n    return 'x'\n",
    "no number": "def grade(sample, item):\n    return 'x' * 10**8\n",
}


class Service:
    """The service under test."""

    def __init__(self, url: str, key: str) -> None:
        """Call ``url`` with ``key``."""
        self._url = url
        self._key = key

    def call(self, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and content."""
        request = urllib.request.Request(  # noqa: S310 - http to ourselves
            self._url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - as above
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def run(self, grader: dict[str, Any], sample: str = "x", **item: object) -> dict[str, Any]:
        """Return what ``graders/run`` answers."""
        body = {"grader": {"name": "g", **grader}, "item": item, "model_sample": sample}
        status, answer = self.call("/v1/fine_tuning/alpha/graders/run", body)
        if status != 200:  # noqa: PLR2004 - the one good status
            sys.exit(f"graders/run answered {status}: {answer}")
        found: dict[str, Any] = answer
        return found

    def python(self, source: str) -> tuple[float, bool, bool]:
        """Return the reward of a Python grader, and whether it or the sandbox failed."""
        grader = {"type": "python", "source": source, "image_tag": IMAGE_TAG}
        answer = self.run(grader)
        flags = answer["metadata"]["errors"]
        return (
            answer["reward"],
            flags["python_grader_runtime_error"],
            flags["python_grader_server_error"],
        )


class Checks:
    """What was checked, and what of it failed."""

    def __init__(self) -> None:
        """Start with nothing failed."""
        self.failed = 0

    def note(self, name: str, found: object, *, good: bool) -> None:
        """Print one line."""
        self.failed += not good
        print(f"  {'ok    ' if good else 'FAILED'} {name}: {found}")


def score(service: Service, checks: Checks) -> None:
    """Grade with every kind that needs nothing outside."""
    path = "/v1/graders/exact-answer/versions/latest/score"
    status, answer = service.call(path, {"item": {"answer": "Paris"}, "model_sample": "Paris"})
    found = (status, answer.get("reward"))
    checks.note("a bundled grader", found, good=found == (200, 1.0))
    similar = {"type": "text_similarity", "input": "{{sample.output_text}}"}
    meteor = {**similar, "evaluation_metric": "meteor", "reference": "the auto stopped"}
    reward = service.run(meteor, "the car stopped")["reward"]
    checks.note("METEOR with synonyms from WordNet", reward, good=reward > 0.9)  # noqa: PLR2004
    checks.note("a Python grader", service.python(CLEAN), good=service.python(CLEAN)[0] == 0.5)  # noqa: PLR2004


def targets() -> dict[str, Any]:
    """Return what canaries are after: listeners of ours, process 1, and files in ``/targets``."""
    abstract = f"\0gradekeeper-verify-{os.getpid()}"
    listeners: list[tuple[int, int, Any]] = [
        (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        (socket.AF_UNIX, socket.SOCK_STREAM, abstract),
    ]
    opened = []
    for family, kind, address in listeners:
        listener = socket.socket(family, kind)
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        opened.append(listener)
    return {
        "kept": opened,
        "pid": 1,
        "tcp": opened[0].getsockname()[1],
        "udp": opened[1].getsockname()[1],
        "abstract": abstract,
        "memory": 2 << 30,
        "harmless": HARMLESS,
        "folder": "/targets",
        "public": "/targets/public",
        "private": "/targets/private",
    }


def attack(service: Service, checks: Checks, *, hidden: bool) -> None:
    """Attack; after each attack a clean grader must score as ever.

    Args:
        service: What to attack.
        checks: Where the outcome goes.
        hidden: Whether file names are out of sight too (level ``namespaces``).
    """
    values = targets()
    sources = dict(ATTACKS)
    for name, template in canaries("strict").items():
        source = template
        for key, value in values.items():
            source = source.replace("{" + key + "!r}", repr(value)).replace(
                "{" + key + "}", str(value)
            )
        sources[name] = source
    if not hidden:
        del sources["F12"]
    killed = sources.pop("N09", None)
    for name, source in sources.items():
        found = service.python(source)
        checks.note(name, found, good=found == (1.0, False, False) and is_clean(service))
    for name, source in {**({"N09": killed} if killed else {}), **ENDLESS}.items():
        found = service.python(source)
        checks.note(name, found, good=found == (0.0, True, False) and is_clean(service))


def is_clean(service: Service) -> bool:
    """Return whether a clean grader scores and the service answers."""
    clean = (0.5, False, False)
    return service.python(CLEAN) == clean and service.call("/healthz")[0] == 200  # noqa: PLR2004


def main(url: str) -> int:
    """Check everything; return the exit status."""
    service, checks = Service(url, os.environ["GRADEKEEPER_API_KEY"]), Checks()
    sandbox = service.call("/readyz")[1]["dependencies"]["sandbox"]
    level = sandbox.get("isolation", {}).get("level")
    score(service, checks)
    attack(service, checks, hidden=level == "namespaces")
    where = f"in the runner at {sandbox['runner']}" if "runner" in sandbox else "in the service"
    print(f"  sandbox level reached {where}: {level}")
    for note in sandbox.get("isolation", {}).get("notes", ()):
        print(f"    note: {note}")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
