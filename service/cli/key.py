"""``gradekeeper key``: makes an API key. The secret is shown once; only its hash is ever stored."""

from __future__ import annotations

import argparse

import msgspec

from service.auth import SCOPES, Key, hash_of, new_secret
from service.cli import failures
from service.cli.output import note, show

EXIT_CODES = {failures.OK: "made", failures.UNUSABLE: "unusable arguments"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the key in logs and metrics")
    parser.add_argument(
        "--scope",
        action="append",
        choices=sorted(SCOPES),
        help="what the key may do; may be repeated; `score` when absent",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the secret, then the entry for the keys file, one line each."""
    if not arguments.name.strip():
        raise failures.CommandError("a key needs a name")
    secret = new_secret()
    scopes = frozenset(arguments.scope or ["score"])
    key = Key(name=arguments.name, sha256=hash_of(secret), scopes=scopes)
    note("The secret, which is shown only now, then the entry for GRADEKEEPER_API_KEYS_FILE:")
    show(secret, msgspec.json.encode(key, order="deterministic").decode())
    return failures.OK
