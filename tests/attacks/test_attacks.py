"""Every row of the attack list, in every place that the service may run."""

import functools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

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
LIMITS = {"timeout_s": 0.7, "disk_bytes": 32 << 20, "disk_files": 2000, "memory_bytes": 512 << 20}
SETTLED_S = 1.5
WIPED_S = 10.0  # thousands of directories on a real, busy disk

# What the layers say about rows that differ: only with a mount namespace are names invisible.
WITH_NAMES_VISIBLE = {"F12": "value 0.25"}
FILES_READABLE = {"F01", "F02", "F03", "F06", "F07", "F13"}
CHILD_ROWS = [a for a in ATTACKS if a.processes or a.id in {"S01", "S03", "P02", "N01", "C01"}]
LAYER_ROWS = [a for a in ATTACKS if a.id[0] in "NFPSX" and a.id not in {"F09", "F12"}]


def _command(place: str, config: dict[str, Any], only: list[Attack]) -> list[str]:
    driver = [sys.executable, str(HERE / "driver.py"), "--config", json.dumps(config)]
    driver += ["--only", ",".join(row.id for row in only)]
    if image.is_full():
        driver.append("--full")
    if place == "plain":
        return driver
    keep = dict.fromkeys((str(ROOT), str(image.directory()), sys.base_prefix, sys.prefix))
    flags = [part for path in keep for part in ("--keep", path)]
    if place == "user":
        flags.append("--no-filter")
    return [sys.executable, str(HERE / "container.py"), *flags, "--", *driver]


@functools.cache
def ran(place: str, profile: str, disabled: tuple[str, ...]) -> dict[str, Any]:
    """Return what the driver says about each row, and about the sandbox."""
    if place != "plain" and os.geteuid() != 0:
        pytest.skip("only root can emulate a container")
    minimum = "seccomp" if "landlock" in disabled else "lsm"
    config = LIMITS | {
        "images": {"test": image.built()},
        "profile": profile,
        "disabled_layers": disabled,
        "minimum_level": minimum,
    }
    only = (
        CHILD_ROWS
        if profile == "processes"
        else LAYER_ROWS
        if "landlock" in disabled
        else list(ATTACKS)
    )
    environment = os.environ | {
        "SECRET_KEY": "SECRET in the environment",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        _command(place, config, only),
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        found |= {row["id"]: row} if "id" in row else row
    return found


def _assert_harmless(found: dict[str, Any]) -> None:
    assert found["clean"] == "0.5", "the next call must score"
    assert found["reached"] == [], "no listener may be reached"
    assert not found["files_changed"], "nothing outside the scratch may change"
    assert found["left_over"] == 0, "no process may survive"
    assert found["settled_s"] < (WIPED_S if found["id"].startswith("D") else SETTLED_S)
    assert found["scratch_left"] == [], "the scratch must be empty again"


def _result(found: dict[str, Any]) -> str:
    return f"value {found['value']}" if found["outcome"] == "value" else str(found["outcome"])


PLACES = [
    pytest.param("plain", (), id="plain"),
    pytest.param("plain", ("namespaces",), id="plain-lsm"),
    pytest.param("container", (), id="container"),
    pytest.param("user", (), id="unprivileged-user"),
]


@pytest.mark.parametrize(("place", "disabled"), PLACES)
@pytest.mark.parametrize("row", ATTACKS, ids=[row.id for row in ATTACKS])
def test_attack_gets_what_is_expected_and_nothing_else(
    row: Attack, place: str, disabled: tuple[str, ...]
) -> None:
    if row.full and not image.is_full():
        pytest.skip("needs the full image")
    everything = ran(place, "strict", disabled)
    found = everything[row.id]
    expected: tuple[str, ...] = row.expect
    if row.id in WITH_NAMES_VISIBLE and everything["report"]["level"] != "namespaces":
        expected = (WITH_NAMES_VISIBLE[row.id],)
    elif row.id in WITH_NAMES_VISIBLE:
        expected = ("value 1.0",)
    assert _result(found) in expected, found["details"]
    _assert_harmless(found)


@pytest.mark.parametrize("place", ["plain", "container"])
@pytest.mark.parametrize("row", CHILD_ROWS, ids=[row.id for row in CHILD_ROWS])
def test_with_children_allowed_an_attack_stays_within_its_own_family(
    row: Attack, place: str
) -> None:
    found = ran(place, "processes", ())[row.id]
    assert _result(found) in (row.processes or row.expect), found["details"]
    _assert_harmless(found)


@pytest.mark.parametrize("row", LAYER_ROWS, ids=[row.id for row in LAYER_ROWS])
def test_without_landlock_only_reading_files_gets_through(row: Attack) -> None:
    found = ran("container", "strict", ("namespaces", "landlock"))[row.id]
    if row.id not in FILES_READABLE:
        assert _result(found) in row.expect, found["details"]
    _assert_harmless(found)


def test_in_a_container_the_level_is_lsm_and_says_why_it_is_not_more() -> None:
    report = ran("container", "strict", ())["report"]
    assert report["level"] == "lsm"
    assert report["uid"] == 1000
    assert "no namespaces" in report["notes"][0]


def test_without_landlock_the_level_is_seccomp() -> None:
    report = ran("container", "strict", ("namespaces", "landlock"))["report"]
    assert report["level"] == "seccomp"
    assert not report["selftest"]["F01"]


def test_root_gives_its_uid_away_in_its_own_namespaces() -> None:
    if os.geteuid() != 0:
        pytest.skip("we are not root")
    report = ran("plain", "strict", ())["report"]
    assert report["uid"] == 65534


@pytest.mark.parametrize(("place", "disabled"), PLACES)
def test_after_close_no_process_is_left(place: str, disabled: tuple[str, ...]) -> None:
    assert ran(place, "strict", disabled)["after_close"] == 0
