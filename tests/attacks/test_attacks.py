"""Every row of the attack list, in every place that the service may run."""

import fcntl
import functools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.attacks.rows import ATTACKS, Attack
from tests.sandbox import image

pytestmark = [
    pytest.mark.attack,
    pytest.mark.serial,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's"),
    pytest.mark.skipif(
        platform.machine() != "x86_64", reason="raw system-call numbers are x86-64's"
    ),
]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMITS = {"timeout_s": 0.4, "disk_bytes": 32 << 20, "disk_files": 4000, "memory_bytes": 512 << 20}
SETTLED_S = 3.0
FILES_READABLE = {"F01", "F02", "F03", "F07", "F13"}
CHILD_ROWS = [a for a in ATTACKS if a.processes or a.id in {"S01", "S03", "P02", "N01", "C01"}]
LAYER_ROWS = [a for a in ATTACKS if a.id[0] in "NFPSX" and a.id not in {"F09", "F12", "F15"}]


class Run(msgspec.Struct, frozen=True):
    """One start of the driver: where, and how the sandbox is configured."""

    place: str
    profile: str = "strict"
    disabled: tuple[str, ...] = ()

    @property
    def rows(self) -> list[Attack]:
        if self.profile == "processes":
            return CHILD_ROWS
        return LAYER_ROWS if "landlock" in self.disabled else list(ATTACKS)

    def command(self) -> list[str]:
        config = LIMITS | {
            "images": {"test": image.built()},
            "profile": self.profile,
            "disabled_layers": self.disabled,
            "minimum_level": "seccomp" if "landlock" in self.disabled else "lsm",
        }
        driver = [sys.executable, str(HERE / "driver.py"), "--config", json.dumps(config)]
        driver += ["--only", ",".join(row.id for row in self.rows)]
        if image.is_full():
            driver.append("--full")
        if self.place == "plain":
            return driver
        keep = dict.fromkeys((str(ROOT), str(image.directory()), sys.base_prefix, sys.prefix))
        flags = [part for path in keep for part in ("--keep", path)]
        if self.place == "user":
            flags.append("--no-filter")
        return [sys.executable, str(HERE / "container.py"), *flags, "--", *driver, "--alone"]


PLAIN = Run("plain")
PLAIN_LSM = Run("plain", disabled=("namespaces",))
CONTAINER = Run("container")
USER = Run("user")
PLAIN_PROCESSES = Run("plain", "processes")
CONTAINER_PROCESSES = Run("container", "processes")
WITHOUT_LANDLOCK = Run("container", disabled=("namespaces", "landlock"))
RUNS = (
    PLAIN,
    PLAIN_LSM,
    CONTAINER,
    USER,
    PLAIN_PROCESSES,
    CONTAINER_PROCESSES,
    WITHOUT_LANDLOCK,
)


@functools.cache
def ran(run: Run, shared: Path) -> dict[str, Any]:
    """Return what the driver says about each row, and about the sandbox.

    Every run is made once, by whichever test process is free: one that needs a run which is being
    made makes another one meanwhile.
    """
    if run.place != "plain" and os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root can emulate a container; run the attacks as root too")
    for other in (run, *(each for each in RUNS if os.geteuid() == 0 or each.place == "plain")):
        _make(other, shared, wait=False)
        if (shared / f"{RUNS.index(run)}.jsonl").exists():
            break
    _make(run, shared, wait=True)
    found: dict[str, Any] = {}
    for line in (shared / f"{RUNS.index(run)}.jsonl").read_text().splitlines():
        row = json.loads(line)
        found |= {row["id"]: row} if "id" in row else row
    return found


def _make(run: Run, shared: Path, *, wait: bool) -> None:
    target = shared / f"{RUNS.index(run)}.jsonl"
    with target.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if target.exists():
            return
        environment = os.environ | {
            "SECRET_KEY": "SECRET in the environment",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            run.command(), cwd="/", env=environment, capture_output=True, text=True, timeout=150,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        target.write_text(done.stdout)


def _assert_harmless(row: Attack, found: dict[str, Any]) -> None:
    assert found["clean"] == "0.5", "the next call must score"
    if row.afterwards:
        assert found["afterwards"] == "1.0", f"nothing may carry over: {found['traces']}"
    if row.differs:
        assert found["again"] != found["value"], "randomness may not repeat"
    assert found["reached"] == [], "no listener may be reached"
    assert not found["files_changed"], "nothing outside the scratch may change"
    assert found["left_over"] == 0, "no process may survive"
    assert found["settled_s"] < SETTLED_S
    assert found["scratch_left"] == [], "the scratch must be empty again"


def _assert_gave(found: dict[str, Any], expected: tuple[str, ...]) -> None:
    outcome = found["outcome"]
    result = f"value {found['value']}" if outcome == "value" else outcome
    assert expected == ("value",) == (outcome,) or result in expected, found["details"]


def _expected(row: Attack, level: str) -> tuple[str, ...]:
    if level == "namespaces":
        return row.expect
    return row.without_mounts or row.expect


PLACES = [
    pytest.param(PLAIN, id="plain"),
    pytest.param(PLAIN_LSM, id="plain-lsm"),
    pytest.param(CONTAINER, id="container"),
    pytest.param(USER, id="unprivileged-user"),
]


@pytest.mark.parametrize("run", PLACES)
@pytest.mark.parametrize("row", ATTACKS, ids=[row.id for row in ATTACKS])
def test_attack_gets_what_is_expected_and_nothing_else(row: Attack, run: Run, shared: Path) -> None:
    if row.full and not image.is_full():
        pytest.skip("needs the full image")
    everything = ran(run, shared)
    found = everything[row.id]
    _assert_gave(found, _expected(row, everything["report"]["level"]))
    _assert_harmless(row, found)


@pytest.mark.parametrize("run", [PLAIN_PROCESSES, CONTAINER_PROCESSES], ids=["plain", "container"])
@pytest.mark.parametrize("row", CHILD_ROWS, ids=[row.id for row in CHILD_ROWS])
def test_with_children_allowed_an_attack_stays_within_its_own_family(
    row: Attack, run: Run, shared: Path
) -> None:
    found = ran(run, shared)[row.id]
    _assert_gave(found, row.processes or row.expect)
    _assert_harmless(row, found)


@pytest.mark.parametrize("row", LAYER_ROWS, ids=[row.id for row in LAYER_ROWS])
def test_without_landlock_only_reading_files_gets_through(row: Attack, shared: Path) -> None:
    found = ran(WITHOUT_LANDLOCK, shared)[row.id]
    if row.id in FILES_READABLE:
        assert found["outcome"] in {"exception", "value"}
        assert found["value"] != "1.0", "then this row does not need Landlock"
    else:
        _assert_gave(found, row.expect)
    _assert_harmless(row, found)


def test_in_a_container_the_level_is_lsm_and_says_why_it_is_not_more(shared: Path) -> None:
    report = ran(CONTAINER, shared)["report"]
    assert report["level"] == "lsm"
    assert report["uid"] == 1000
    assert "no namespaces" in report["notes"][0]


@pytest.mark.parametrize("run", [PLAIN, USER], ids=["plain", "unprivileged-user"])
def test_where_namespaces_are_allowed_the_level_is_namespaces(run: Run, shared: Path) -> None:
    assert ran(run, shared)["report"]["level"] == "namespaces"


def test_without_landlock_the_level_is_seccomp(shared: Path) -> None:
    report = ran(WITHOUT_LANDLOCK, shared)["report"]
    assert report["level"] == "seccomp"
    assert not report["selftest"]["F01"]


def test_root_gives_its_uid_away_in_its_own_namespaces(shared: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("we are not root")
    assert ran(PLAIN, shared)["report"]["uid"] == 65534


@pytest.mark.parametrize("run", PLACES)
def test_after_close_no_process_is_left(run: Run, shared: Path) -> None:
    assert ran(run, shared)["after_close"] == 0
