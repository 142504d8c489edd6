"""Other people's packages, each in a throw-away environment of its own, made all at once.

``python -m tests.compat.environments`` makes them under ``.venv-compat``; what exists is kept. One
that cannot be made says why in a file, and the tests that need it fail with that reason: a client
that did not run has not been found compatible.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(__file__).parents[2] / ".venv-compat"
READY, REASON = "READY", "REASON"
INSTALL_S = 200

PROMPTFOO = "0.121.20"  # the last that runs on Node.js 20, which Debian has
LIBSQL = "0.5.29"

# name → what pip installs with dependencies, and what without: those drag in torch, transformers,
# cloud clients and the like, several hundred megabytes that the calls under test never import
PYTHON: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "eval-protocol": (
        (
            *("aiohttp", "click", "dataclasses-json", "fastuuid", "httpx-aiohttp", "httpx-sse"),
            *("httpx[http2]", "importlib-metadata", "jinja2", "jsonschema", "mcp", "openai"),
            *("pydantic", "pydantic-settings", "python-dotenv", "pyyaml", "requests", "rich"),
            *("tiktoken", "tokenizers", "uvicorn"),
        ),
        ("eval-protocol==0.3.33", "litellm"),
    ),
    "verifiers": (
        (
            *("aiohttp", "anthropic", "h11", "httpx", "httpx2", "loguru", "math-verify"),
            *("mcp==2.0.0", "msgpack", "numpy", "openai<3", "prime-pydantic-config[toml]"),
            *("prime-runs", "prime-sandboxes", "prime-tunnel", "pydantic", "pyzmq", "rich"),
            *("tenacity", "tomli-w", "uvicorn"),
        ),
        ("gepa", "renderers", "verifiers==0.4.0"),
    ),
    "openrlhf": (("aiohttp",), ("openrlhf==0.11.2",)),
    "verl": ((), ("verl==0.9.1",)),
    "sagemaker": (("boto3", "pydantic~=2.0"), ("sagemaker-train==1.27.0",)),
}


class UnusableError(RuntimeError):
    """An environment that could not be made; the message says why."""


def environment(name: str) -> Path:
    """Return the folder of a ready environment.

    Raises:
        UnusableError: It could not be made.
    """
    folder = HOME / name
    if not (folder / READY).exists():
        reason = folder / REASON
        raise UnusableError(
            reason.read_text(encoding="utf-8")
            if reason.exists()
            else f"{name} is not installed: run make compat"
        )
    return folder


def clean_environ() -> dict[str, str]:
    """Return an environment for foreign code: no keys, no proxies, only what programs need."""
    kept = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ}


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_S, check=False
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise UnusableError(f"{' '.join(command[:6])} … ended with {done.returncode}:\n{tail}")


def _python(name: str) -> None:
    folder = HOME / name
    whole, bare = PYTHON[name]
    _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    ours = (sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"))
    pip = (*ours, "install", "--quiet", "--no-compile", "--disable-pip-version-check")
    if whole:
        _run(*pip, *whole)
    if bare:
        _run(*pip, "--no-deps", *bare)


def _promptfoo(name: str) -> None:
    folder = HOME / name
    folder.mkdir(parents=True)
    if shutil.which("npm") is None:
        raise UnusableError("there is no npm here: promptfoo was not run")
    (folder / "package.json").write_text(json.dumps({"private": True}))
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x64")
    system = "darwin-" + machine if sys.platform == "darwin" else f"linux-{machine}-gnu"
    # Optional dependencies are 600 MB of providers; the one that the evaluator needs is named.
    packages = (f"promptfoo@{PROMPTFOO}", f"@libsql/{system}@{LIBSQL}")
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--omit=dev")
    _run("npm", "install", *quiet, *packages, cwd=folder)


MAKERS = {**dict.fromkeys(PYTHON, _python), "promptfoo": _promptfoo}


def make(name: str) -> str:
    """Make an environment unless it is there; return one line about it."""
    folder = HOME / name
    if (folder / READY).exists():
        return f"{name}: there"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    try:
        MAKERS[name](name)
    except (OSError, subprocess.TimeoutExpired, UnusableError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / REASON).write_text(f"{name} cannot be installed: {error}", encoding="utf-8")
        return f"{name}: CANNOT BE INSTALLED: {error}"
    (folder / READY).touch()
    return f"{name}: installed in {time.monotonic() - began:.0f} s"


def main() -> None:
    """Make every environment."""
    with concurrent.futures.ThreadPoolExecutor(len(MAKERS)) as pool:
        for line in pool.map(make, MAKERS):
            sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
