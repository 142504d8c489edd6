"""Serve `graders` over HTTP: the shell and the adapters, the only place with I/O."""

from importlib.metadata import version

__version__ = version("gradekeeper")
