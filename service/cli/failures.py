"""How a command ends: the exit codes, and the error that becomes a line instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

OK = 0
FAILED = 1
UNUSABLE = 2
UNREACHABLE = 3
INTERRUPTED = 130
TERMINATED = 143

EXIT_CODES: Mapping[int, str] = {
    OK: "done",
    FAILED: "finished, but rows failed or definitions have errors",
    UNUSABLE: "unusable arguments, settings, definitions or data",
    UNREACHABLE: "a server or something else outside could not be reached",
    INTERRUPTED: "interrupted by SIGINT; 143 by SIGTERM",
}


class CommandError(Exception):
    """A command cannot go on; each line tells the user what to do about it.

    Attributes:
        lines: What to show.
        code: Exit code.
    """

    def __init__(self, *lines: str, code: int = UNUSABLE) -> None:
        """Keep what to show."""
        self.lines = lines
        self.code = code
        super().__init__("\n".join(lines))


def epilog(codes: Mapping[int, str] | Iterable[tuple[int, str]]) -> str:
    """Return the part of a help text that documents the exit codes."""
    lines = [f"  {code:<5}{meaning}" for code, meaning in dict(codes).items()]
    return "\n".join(["exit codes:", *lines])
