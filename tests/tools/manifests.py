"""Write deploy/kubernetes/rendered: what `kubectl apply -k` would send, for each overlay.

Rendering needs kubectl; everything else (the tests, reviewers, clusters without kustomize) reads
the written files. Their first line has the digest of all sources, so that a change that nobody
rendered is noticed on machines without kubectl too.

    python -m tests.tools.manifests
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
SOURCES = ("base", "components", "overlays")
RENDERED = KUBERNETES / "rendered"
OVERLAYS = tuple(sorted(path.name for path in (KUBERNETES / "overlays").iterdir()))
_KUSTOMIZE = 5  # first major version with everything the sources use


def sources_digest() -> str:
    """Return the digest of every file that rendering reads."""
    digest = sha256()
    for folder in SOURCES:
        for path in sorted(path for path in (KUBERNETES / folder).rglob("*") if path.is_file()):
            name = path.relative_to(KUBERNETES).as_posix().encode()
            content = path.read_bytes()
            digest.update(b"%d %s %d\n%s" % (len(name), name, len(content), content))
    return f"sha256:{digest.hexdigest()}"


def header() -> str:
    """Return the first line of every rendered file."""
    return f"# Written by `make manifests` from {sources_digest()}; do not edit.\n"


def why_not() -> str:
    """Return why this machine cannot render; empty where it can."""
    if shutil.which("kubectl") is None:
        return "there is no kubectl"
    command = ["kubectl", "version", "--client"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"Kustomize Version: v([0-9]+)", said)
    if found is None or int(found[1]) < _KUSTOMIZE:
        return f"kubectl has kustomize {found[1] if found else 'of before 5'}; 5 is needed"
    return ""


def render(overlay: str) -> str:
    """Return the documents of ``overlay``.

    Raises:
        CalledProcessError: It cannot be rendered.
    """
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Write every overlay; return 1 where this machine cannot."""
    reason = why_not()
    if reason:
        print(f"manifests cannot be rendered here: {reason}", file=sys.stderr)
        return 1
    RENDERED.mkdir(exist_ok=True)
    for overlay in OVERLAYS:
        (RENDERED / f"{overlay}.yaml").write_text(header() + render(overlay), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
