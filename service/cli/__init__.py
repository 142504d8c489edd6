"""The command ``gradekeeper``.

Every sub-command is a module of this package, imported only when it is asked for: what one of them
needs (an HTTP server, a client, pyarrow) must not slow down the others. Such a module has
``EXIT_CODES``, ``add_arguments`` and ``run``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from service import __version__
from service.cli import failures
from service.cli.output import complain

__all__ = ["main"]

_COMMANDS = {
    "serve": "serve the graders over HTTP",
    "runner": "run Python graders for a service elsewhere",
    "score": "score a file of rows, in this process or on a server",
    "estimate": "predict what judges will take for a file of rows",
    "validate": "list everything wrong or doubtful about grader files",
    "new": "start a definition of your own",
    "check": "run all examples, lint and probes of definitions",
    "probe": "attack a grader as a policy in training will",
    "release": "write a draft as the next version of its grader",
    "export": "write a grader as the JSON to submit",
    "list": "list the graders there are",
    "key": "make an API key",
    "settings": "show the effective settings",
    "health": "ask the server of this container whether it lives",
}


class _Module(Protocol):
    EXIT_CODES: Mapping[int, str]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int: ...


class _CommandParser(argparse.ArgumentParser):
    """Parser of one sub-command, which imports its module once it is used."""

    def parse_known_args(  # type: ignore[override] # the overloads differ in the namespace only
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Let the sub-command's module declare its arguments, then parse."""
        name = self.prog.rpartition(" ")[2]
        module = cast("_Module", importlib.import_module(f"{__name__}.{name}"))
        module.add_arguments(self)
        self.set_defaults(run=module.run)
        self.epilog = failures.epilog(module.EXIT_CODES)
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradekeeper",
        description="Self-hosted, versioned graders: OpenAI grader JSON in, rewards out.",
        epilog=failures.epilog(failures.EXIT_CODES)
        + "\n\nSettings come from GRADEKEEPER_ variables; `gradekeeper settings` shows them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gradekeeper {__version__}")
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, title="commands", parser_class=_CommandParser
    )
    for name, purpose in _COMMANDS.items():
        commands.add_parser(
            name,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    if (
        os.getpid() == 1
    ):  # in a container; before anything is imported that process 1 can do without
        from service.cli import pid1  # noqa: PLC0415 - see above

        pid1.mind_child()
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except failures.CommandError as error:
        complain(error.lines)
        return error.code
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.OK
    except KeyboardInterrupt:
        return failures.INTERRUPTED
    return code
