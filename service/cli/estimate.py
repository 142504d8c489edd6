"""``gradekeeper estimate``: what the judges of a data set will take, before it runs."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable
from pathlib import Path

import msgspec

from graders.engine import CompiledGrader
from graders.grade import Grade
from graders.ports import Ports
from service.cli import asking, failures
from service.cli.asking import Asking
from service.cli.output import note, show, show_json, table
from service.cli.rows import DEFAULT_SAMPLE_FIELD, DataFile, Row
from service.cli.runtime import compile_file, find, is_file_argument, read_routes, read_settings
from service.judge import (
    CallCollector,
    ModelEstimate,
    Prediction,
    Routes,
    draw,
    judging,
)

EXIT_CODES = {
    failures.OK: "estimated",
    failures.UNUSABLE: "unusable arguments, settings, grader or data",
}
_HEADINGS = ("judge model", "asked", "calls", "distinct", "prompt", "completion", "dollars")


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a data set will take if no reply is in the cache yet.

    Attributes:
        rows: Rows that can be read.
        unreadable: Rows that cannot, which nobody is asked about.
        failing: Rows that the grader cannot grade whatever judges say (a variable is missing).
        models: By judge model.
        dollars: Of all models that have a price; null when none has.
        unpriced: Judge models without a route or a price, which `dollars` leaves out.
    """

    rows: int
    unreadable: int
    failing: int
    models: list[ModelEstimate]
    dollars: float | None
    unpriced: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("grader", metavar="NAME[@VERSION]|FILE.json")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="ROWS", help="JSONL, .csv or .parquet"
    )
    parser.add_argument(
        "--sample-field",
        default=DEFAULT_SAMPLE_FIELD,
        metavar="FIELD",
        help="column of the model's output, as for `score`",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    parser.add_argument("--json", action="store_true", help="write JSON")
    asking.add_ensemble_arguments(parser.add_argument_group("judges, as for `score`"))


def run(arguments: argparse.Namespace) -> int:
    """Write the estimate."""
    settings = read_settings()
    terms = asking.asking_of(arguments)
    if is_file_argument(arguments.grader):
        grader = compile_file(Path(arguments.grader), settings)
    else:
        grader = find(arguments.grader, settings).grader
    if terms.sampling is not None:
        asking.asking_judges(grader.document)
    data = DataFile(
        arguments.data,
        sample_field=arguments.sample_field,
        limit=arguments.limit,
        max_bytes=settings.max_line_bytes,
    )
    estimate = asyncio.run(_estimate(grader, data, terms, read_routes(settings)))
    if arguments.json:
        show_json(estimate)
    else:
        show(*_lines(estimate))
    if estimate.unreadable and not estimate.rows:
        note(data.unusable())
    return failures.OK


async def _estimate(
    grader: CompiledGrader, data: DataFile, terms: Asking, routes: Routes
) -> Estimate:
    """Grade every row without anybody to ask, and add up what would have been asked."""
    prediction = Prediction(routes)
    collector = CallCollector(prediction.add)
    ports = Ports(judge=collector, embedder=collector)
    rows = unreadable = failing = 0
    for row in data.rows(lambda _: False):
        if not isinstance(row, Row):
            unreadable += 1
            continue
        rows += 1
        grade = await _graded(grader, row, ports, terms)
        failing += any(not failure.upstream for failure in grade.failures)
    models = prediction.models
    priced = [model.dollars for model in models if model.dollars is not None]
    return Estimate(
        rows=rows,
        unreadable=unreadable,
        failing=failing,
        models=models,
        dollars=sum(priced) if priced else None,
        unpriced=[model.model for model in models if model.dollars is None],
    )


async def _graded(grader: CompiledGrader, row: Row, ports: Ports, terms: Asking) -> Grade:
    def once() -> Awaitable[Grade]:
        return grader.grade(row.item, row.sample, ports)

    context = terms.terms("")
    if terms.sampling is not None:
        return (await draw(once, terms.sampling, context)).grade
    with judging(context):
        return await once()


def _lines(estimate: Estimate) -> list[str]:
    counts = [("rows", estimate.rows), ("unreadable", estimate.unreadable)]
    counts.append(("failing", estimate.failing))
    lines = [f"{name:<11}{count}" for name, count in counts if count or name == "rows"]
    if not estimate.models:
        return [*lines, "no judge is asked"]
    cells = [_HEADINGS, *(_cells(model) for model in estimate.models)]
    if estimate.dollars is not None and len(estimate.models) > 1:
        cells.append(("all", "", "", "", "", "", f"{estimate.dollars:.4f}"))
    lines += ["", *table(cells)]
    if estimate.unpriced:
        lines += ["", f"no price is known for {', '.join(estimate.unpriced)}"]
    return lines


def _cells(model: ModelEstimate) -> tuple[str, ...]:
    counts = (model.calls, model.distinct, model.prompt_tokens, model.completion_tokens)
    dollars = "?" if model.dollars is None else f"{model.dollars:.4f}"
    return (model.model, model.upstream_model or "no route", *map(str, counts), dollars)
