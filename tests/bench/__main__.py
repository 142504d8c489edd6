"""``python -m tests.bench``: run the suites and print the table."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from tests.bench import LONG_SUITES, SUITES
from tests.bench.load import generator
from tests.bench.rows import Row, table
from tests.bench.servers import cores


def main() -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--suite",
        action="append",
        choices=(*SUITES, *LONG_SUITES),
        help="only this; repeatable",
    )
    parser.add_argument("--rounds", type=int, default=3, help="the table shows medians (default 3)")
    parser.add_argument("--strict", action="store_true", help="fail when a bar is missed")
    arguments = parser.parse_args()

    server_core, load_core = cores()
    os.sched_setaffinity(0, {load_core})
    print(f"servers on core {server_core}, load by {generator()} on core {load_core}", flush=True)
    rows: list[Row] = []
    for name in arguments.suite or SUITES:
        print(f"{name} …", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"tests.bench.{name}").run(arguments.rounds)
    print(table(rows))
    missed = sum(row.missed for row in rows)
    print(f"\n{missed} of {sum(row.bar is not None for row in rows)} bars missed")
    return 1 if missed and arguments.strict else 0


if __name__ == "__main__":
    sys.exit(main())
