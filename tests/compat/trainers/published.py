"""Single modules of other people's packages, run with stand-ins for what they import.

For packages whose import needs a GPU library or a dozen services; the module that calls rewards
itself runs as it was published.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any


def stand_in(name: str, **names: Any) -> ModuleType:
    """Return a module that holds ``names``."""
    module = ModuleType(name)
    module.__path__ = []
    module.__dict__.update(names)
    return module


@contextmanager
def loaded(name: str, *stand_ins: ModuleType) -> Iterator[Any]:
    """Give the published module ``name``, with ``stand_ins`` for other modules meanwhile."""
    top, *rest = name.split(".")
    found = PathFinder.find_spec(top)  # the installed one, even where a stand-in has its name
    assert found is not None
    assert found.origin is not None
    file = Path(found.origin).parent.joinpath(*rest).with_suffix(".py")
    parents = [stand_in(".".join([top, *rest[:n]])) for n in range(len(rest))]
    names = {module.__name__: module for module in (*parents, *stand_ins)}
    before = {key: sys.modules.get(key) for key in (*names, name)}
    sys.modules.update(names)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        for key, value in before.items():
            if value is None:
                sys.modules.pop(key, None)
            else:
                sys.modules[key] = value
