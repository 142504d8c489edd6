"""Ask the public advisory services about every pinned dependency; say loudly when nobody answers.

pip-audit does the asking. It calls it success when a package index knows none of the packages, as
behind a mirror, so its report is read line by line here: what was not looked up was not audited.

What the service runs on must be clean. The packages of grader images are the versions that the
hosted image has, and run in the sandbox: what is known about them is shown and does not fail.

    python -m tests.tools.audit [--unreachable notice]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

ROOT: Final = Path(__file__).parents[2]
OURS: Final = ("build.txt", "runner.txt", "serve.txt")
IMAGES: Final = ROOT / "service" / "sandbox" / "images"

# Advisories that were read and do not concern us, each with the reason and a date to look again.
ACCEPTED: Final[dict[str, str]] = {}

# Status of the process.
CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 3
_OSV_URL: Final = "https://api.osv.dev/v1/query"
_TIMEOUT_S: Final = 10
_RULE: Final = "!" * 100


class Advisory(msgspec.Struct, frozen=True):
    """One known vulnerability of one version."""

    id: str
    fix_versions: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


class Looked(msgspec.Struct, frozen=True):
    """What an advisory service says about one package; ``skip_reason`` when it says nothing."""

    name: str
    version: str = ""
    vulns: tuple[Advisory, ...] = ()
    skip_reason: str = ""


class _Report(msgspec.Struct, frozen=True):
    dependencies: tuple[Looked, ...]


class Unreachable(msgspec.Struct, frozen=True):
    """No service looked up every package of a lock.

    Attributes:
        reasons: Service → what it said last.
    """

    reasons: dict[str, str]


def audit(lock: Path, osv_url: str) -> tuple[Looked, ...] | Unreachable:
    """Return what the first service that knows every package of ``lock`` says."""
    services = {"osv": ("--osv-url", osv_url), "pypi": ()}
    reasons: dict[str, str] = {}
    for service, options in services.items():
        found = _asked(lock, ("--vulnerability-service", service, *options))
        if isinstance(found, tuple):
            return found
        reasons[service] = found
    return Unreachable(reasons)


def _asked(lock: Path, options: Sequence[str]) -> tuple[Looked, ...] | str:
    """Return the report of one service, or why it is none."""
    with tempfile.TemporaryDirectory() as cache:
        command = [
            *(sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--format", "json"),
            *("--disable-pip", "--no-deps", "--progress-spinner", "off", "--cache-dir", cache),
            *("--timeout", str(_TIMEOUT_S), *options),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return reading(done.stdout, done.stderr)


def reading(report: str, errors: str) -> tuple[Looked, ...] | str:
    """Return what pip-audit found out about every package, or why it did not."""
    try:
        found = msgspec.json.decode(report, type=_Report).dependencies
    except msgspec.DecodeError:
        return errors.strip().rpartition("\n")[2][:300] or "it said nothing"
    skipped = [looked for looked in found if looked.skip_reason]
    if skipped:
        return f"{len(skipped)} of {len(found)} packages: {skipped[0].skip_reason}"
    return found or "it names no package"


def main(arguments: Sequence[str]) -> int:
    """Audit every lock; return `CLEAN`, `VULNERABLE` or `NOT_AUDITED`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--unreachable", choices=("fail", "notice"), default="fail")
    parser.add_argument("--osv-url", default=_OSV_URL)
    parser.add_argument("locks", nargs="*", type=Path, help="default: all of ours")
    given = parser.parse_args(arguments)
    ours = given.locks or [ROOT / "requirements" / name for name in OURS]
    images = [] if given.locks else sorted(IMAGES.glob("*/full.txt"))
    status = CLEAN
    for lock in [path for path in (*ours, *images) if path.exists()]:
        found = audit(lock, given.osv_url)
        if isinstance(found, Unreachable):
            _warn(found)
            return status or (NOT_AUDITED if given.unreachable == "fail" else CLEAN)
        if _show(lock, found, "shown" if lock in images else "refused") and lock not in images:
            status = VULNERABLE
    return status


def _show(lock: Path, found: Sequence[Looked], known: Literal["shown", "refused"]) -> int:
    """Print what is known about ``lock`` and return how many advisories count."""
    advisories = [(looked, advisory) for looked in found for advisory in looked.vulns]
    counted = [pair for pair in advisories if _accepted(pair[1]) is None]
    print(f"{lock.name}: {len(found)} packages looked up, {len(counted)} advisories {known}")
    for looked, advisory in advisories:
        names = " ".join((advisory.id, *advisory.aliases))
        mended = ", ".join(advisory.fix_versions) or "nowhere yet"
        reason = _accepted(advisory)
        note = f"accepted: {reason}" if reason else f"mended in {mended}"
        print(f"  {looked.name}=={looked.version}  {names}  {note}")
    return len(counted)


def _accepted(advisory: Advisory) -> str | None:
    names = (advisory.id, *advisory.aliases)
    return next((ACCEPTED[name] for name in names if name in ACCEPTED), None)


def _warn(found: Unreachable) -> None:
    """Say that nothing was audited so that nobody can miss it."""
    lines = [
        "DEPENDENCIES WERE NOT AUDITED: no advisory service could be asked about all of them.",
        *(f"  {service}: {reason}" for service, reason in found.reasons.items()),
        "Run `make audit` where api.osv.dev or pypi.org can be reached.",
    ]
    print(_RULE, *lines, _RULE, sep="\n", file=sys.stderr)
    if os.environ.get("GITHUB_ACTIONS"):  # shown on the page of the run
        print(f"::warning title=Dependencies were not audited::{' '.join(lines[1:])}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
