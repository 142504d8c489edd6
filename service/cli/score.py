"""``gradekeeper score``: scores a file of rows and survives whatever stops it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from service.cli import asking, failures
from service.cli.asking import Asking
from service.cli.failures import CommandError
from service.cli.journal import Fingerprint, Journal, read_scores, reopen
from service.cli.lines import INVALID_ROW, Scorer
from service.cli.output import note, show, show_json
from service.cli.rounds import Rounds
from service.cli.rows import DEFAULT_SAMPLE_FIELD, DataFile
from service.cli.runtime import compile_file, find, is_file_argument, open_ports, read_settings
from service.cli.summary import render, summarize
from service.settings import Settings, environment

EXIT_CODES = {
    failures.OK: "every row has a reward",
    failures.FAILED: "finished, but rows failed",
    failures.UNUSABLE: "unusable arguments, settings, grader or data, or --out holds another run",
    failures.UNREACHABLE: "the server could not be reached; run again to go on",
    failures.INTERRUPTED: "stopped by SIGINT; run again to go on",
    failures.TERMINATED: "stopped by SIGTERM; run again to go on",
}
_REMOTE_BATCHES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("grader", metavar="NAME[@VERSION]|FILE.json")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="ROWS", help="JSONL, .csv or .parquet"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="SCORES", help="JSONL, one line a row"
    )
    parser.add_argument(
        "--sample-field",
        default=DEFAULT_SAMPLE_FIELD,
        metavar="FIELD",
        help="column of the model's output (model_sample); in rows without `item`, all others are",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N rows")
    parser.add_argument(
        "--concurrency", type=_positive, metavar="N", help="rows (with --url: batches) under way"
    )
    parser.add_argument("--debug", action="store_true", help="keep what judges and code reported")
    parser.add_argument("--json", action="store_true", help="write the summary as JSON")
    parser.add_argument(
        "--overwrite", action="store_true", help="start again, whatever --out holds"
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="score the rows of a finished --out again for which something outside failed",
    )
    asking.add_arguments(parser)
    server = parser.add_argument_group("on a server")
    server.add_argument(
        "--url", help="root of the server (with or without /v1); without it, rows are scored here"
    )
    server.add_argument("--key-env", metavar="VAR", help="environment variable with the API key")


def run(arguments: argparse.Namespace) -> int:
    """Score, then write the summary."""
    settings = asking.recorded(arguments, read_settings())
    _check(arguments)
    data = DataFile(
        arguments.data,
        sample_field=arguments.sample_field,
        limit=arguments.limit,
        max_bytes=settings.max_line_bytes,
    )
    paid_usd = asyncio.run(_score(arguments, settings, data))
    summary = summarize(read_scores(arguments.out), paid_usd=paid_usd)
    if arguments.json:
        show_json(summary)
    else:
        show(*render(summary))
    if not summary.ok and list(summary.failed) == [INVALID_ROW]:
        note(data.unusable())
    return failures.FAILED if summary.failed else failures.OK


def partial_of(out: Path) -> Path:
    """Return where scores wait until all are there."""
    return out.with_name(f"{out.name}.partial")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse arguments that do not go together."""
    out: Path = arguments.out
    if arguments.url is None and arguments.key_env is not None:
        raise CommandError("--key-env is only for --url")
    if arguments.url is not None and not arguments.url.startswith(("http://", "https://")):
        raise CommandError(f"--url {arguments.url}: expected http://… or https://…")
    if arguments.url is not None and is_file_argument(arguments.grader):
        raise CommandError("a server only scores with graders of its own: give NAME[@VERSION]")
    if out.is_dir() or not out.parent.is_dir():
        raise CommandError(f"--out {out}: not a file in a directory that exists")
    if arguments.data.exists() and out.exists() and out.samefile(arguments.data):
        raise CommandError("--out would replace --data")


async def _score(arguments: argparse.Namespace, settings: Settings, data: DataFile) -> float | None:
    """Bring ``--out`` about; return the dollars that this run paid, None when it asked no judge."""
    terms = asking.asking_of(arguments)
    async with _scorer(arguments, settings, terms) as scorer:
        run = Fingerprint(
            signature=scorer.signature,
            data_sha256=data.sha256,
            data_bytes=data.size,
            sample_field=arguments.sample_field,
            limit=arguments.limit,
            debug=arguments.debug,
            sample_index=terms.sample_index,
            sampling=terms.sampling,
        )
        if _is_finished(arguments, run):
            return None
        journal = Journal(partial_of(arguments.out), run, overwrite=arguments.overwrite)
        with _kept(journal):
            if journal.done:
                note(f"going on after {journal.done} rows that have their scores")
            await Rounds(data, scorer, journal, run.id).run()
            if not journal.done:
                raise CommandError(f"{arguments.data}: no rows")
            journal.finish(arguments.out)
        return scorer.paid_usd


@contextlib.contextmanager
def _kept(journal: Journal) -> Iterator[None]:
    """Say how to go on when the run ends in here."""
    try:
        yield
    except (CommandError, KeyboardInterrupt):
        if journal.done:
            note(
                f"scores so far are kept in {journal.path}; the same command (without --overwrite) "
                "goes on with them"
            )
        raise
    finally:
        journal.close()


def _is_finished(arguments: argparse.Namespace, run: Fingerprint) -> bool:
    """Return whether ``--out`` holds all that this run would give.

    Raises:
        CommandError: It holds something else, which only ``--overwrite`` may replace.
    """
    out, partial = arguments.out, partial_of(arguments.out)
    if arguments.overwrite or partial.exists() or not out.exists() or not out.stat().st_size:
        return False
    found = next(read_scores(out))
    if found.run != run.id:
        is_same_grader = found.signature.startswith(run.signature)
        what = "other data or options" if is_same_grader else "another grader"
        raise CommandError(f"{out} holds scores of {what}; --overwrite replaces them")
    if arguments.retry_failed:
        again = reopen(out, partial, run)
        note(f"{again} rows failed because something outside could not be asked")
        return False
    note(f"{out} is complete already")
    return True


@contextlib.asynccontextmanager
async def _scorer(
    arguments: argparse.Namespace, settings: Settings, terms: Asking
) -> AsyncIterator[Scorer]:
    """Yield what scores: this process or a server."""
    if arguments.url is None:
        from service.cli.local import LocalScorer  # noqa: PLC0415 - only the one that is used

        if is_file_argument(arguments.grader):
            grader = compile_file(Path(arguments.grader), settings)
            signature, name = grader.signature, ""
        else:
            definition = find(arguments.grader, settings)
            grader, signature = definition.grader, definition.signature
            name = f"{definition.name}@{definition.version}"
        concurrency = arguments.concurrency or settings.max_concurrent_rows
        if terms.sampling is not None:
            asking.asking_judges(grader.document)
            concurrency = max(1, concurrency // terms.sampling.draws)
        async with open_ports(settings, grader) as ports:
            yield LocalScorer(
                grader,
                signature,
                ports,
                terms=terms.terms(name),
                sampling=terms.sampling,
                debug=arguments.debug,
                concurrency=concurrency,
            )
        return
    from service.cli.remote import RemoteScorer, Server  # noqa: PLC0415 - brings an HTTP client

    key = _key(arguments.key_env)
    server = Server(arguments.url, arguments.grader, key=key, asking=terms)
    async with contextlib.aclosing(server):
        yield RemoteScorer(
            server,
            await server.find(),
            debug=arguments.debug,
            concurrency=arguments.concurrency or _REMOTE_BATCHES,
        )


def _key(variable: str | None) -> str | None:
    """Return the API key; the caller names the variable, so it is no setting of ours."""
    if variable is None:
        return None
    key = environment().get(variable)
    if not key:
        raise CommandError(f"--key-env {variable}: the variable is not set")
    return key
