"""What tests of the runner share with those of the sandbox."""

import sys

from tests.sandbox.conftest import started

__all__ = ["started"]

if sys.platform != "linux":
    collect_ignore_glob = ["*"]
