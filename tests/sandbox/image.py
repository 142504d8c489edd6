"""The grader image that sandbox tests share: the one that ``make`` builds."""

import json
import os
import sys
from pathlib import Path

import pytest

from service.sandbox.build_image import interpreter

ROOT = Path(__file__).parents[2]
TAG = "2025-05-08"


def directory() -> Path:
    """Return where the image for tests is."""
    chosen = os.environ.get("GRADEKEEPER_TEST_IMAGE")
    return Path(chosen) if chosen else Path(sys.prefix) / "share" / "grader-images" / TAG


def is_full() -> bool:
    """Return whether tests may expect every package."""
    return os.environ.get("GRADEKEEPER_SANDBOX_PACKAGES", "full") == "full"


def built() -> str:
    """Return the interpreter of the image; without one the test fails and says how to get it."""
    into = directory()
    stamp = into / ".gradekeeper-image.json"
    if not stamp.exists():
        pytest.fail(f"no grader image in {into}; `make sandbox` builds it")
    if is_full() and json.loads(stamp.read_text())["packages"] != "full":
        pytest.skip(f"{into} holds the minimal packages")
    return str(interpreter(into))
