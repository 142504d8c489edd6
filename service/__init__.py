"""Serve `graders` over HTTP: the shell and the adapters, the only place with I/O."""


def __getattr__(name: str) -> str:
    """Return ``__version__``, read on first use: `service.trainers` is imported without it."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - costs more than all of `trainers`

        return version("gradekeeper")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
