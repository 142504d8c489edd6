"""What runs in the grader interpreter: zygotes and the leaf that executes one call.

The grader interpreter is not the service's: nothing here may import anything but the standard
library and its siblings. `boot_code` makes the siblings importable there under their usual names,
without the packages around them.
"""

from __future__ import annotations

import os

_BOOT = """
import sys, types
for name, path in (("service", {outer!r}), ("service.sandbox", {middle!r})):
    package = types.ModuleType(name)
    package.__path__ = [path]
    sys.modules[name] = package
from service.sandbox.guest import {module}
{module}.main({arguments})
"""


def boot_code(module: str, *arguments: int) -> str:
    """Return what ``python -c`` needs to run ``main(*arguments)`` of a guest module."""
    middle = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return _BOOT.format(
        outer=os.path.dirname(middle),
        middle=middle,
        module=module,
        arguments=", ".join(map(str, arguments)),
    )
