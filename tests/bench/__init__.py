"""Measures speed and memory against the bars of the project, beside floors taken in the same run.

``make bench`` runs every suite and prints a table; ``python -m tests.bench --suite http`` runs one.

A suite is a module of this package with one function and a place in `SUITES`::

    def run(rounds: int) -> list[Row]:
        ...

It measures ``rounds`` times, own service and floor in turns, so that whatever else the machine does
hits both, and returns a `Row` for each figure; the table shows the medians. What suites share:

- `servers` starts a server as a process of its own, pinned to one core, and reads its CPU time and
  memory;
- `load` keeps connections busy from another core;
- `floors` holds the applications to compare with;
- `traffic` makes the graders, the rows and the requests;
- `upstreams` runs the judge model.

The main figure is the CPU time of the server's processes a request: unlike requests a second it
survives a busy machine.
"""

SUITES = (
    *("http", "batch", "stream", "similarity", "dialects", "health", "start"),
    *("judge", "sandbox"),
)
# Only when asked for by name: they take minutes.
LONG_SUITES = ("soak",)
