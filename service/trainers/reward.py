"""What all adapters share: columns to rows, results to rewards, and what a failure becomes.

Two failures, never mixed. *Ungraded*: the grader could not grade this sample, for example because
the answer is no JSON and the template reads ``sample.output_json``; the hosted service gives 0.0
then, and ``on_ungraded=0.0`` does the same on purpose. *Outage*: nobody graded before the deadline;
an outage never becomes a number. A wrong set-up always raises.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeAlias

from service.trainers.errors import RefusedError, UnavailableError, UngradedError
from service.trainers.messages import sample_fields
from service.trainers.rows import Result, Row, encode_row
from service.trainers.source import Source, Where

logger = logging.getLogger(__name__)

ItemFields: TypeAlias = Sequence[str] | Mapping[str, str] | None
OnUngraded: TypeAlias = Literal["raise"] | float | None
OnOutage: TypeAlias = Literal["raise"] | None


class Scorer(Protocol):
    """Grades encoded rows, from any thread, in any forked process."""

    def score(self, rows: Sequence[bytes]) -> list[Result]:
        """Return one result a row, in order; failures are results too.

        Raises:
            RefusedError: The request cannot succeed as it is set up.
        """
        ...

    async def score_async(self, rows: Sequence[bytes]) -> list[Result]:
        """Return the same without holding up the event loop; being cancelled frees the work."""
        ...


@lru_cache(maxsize=64)
def connect(source: Source) -> Scorer:
    """Return this process's scorer for ``source``: the same one every time, and after a fork too.

    Raises:
        RefusedError: The definition cannot be used.
    """
    if source.definition is None:
        from service.trainers.client import Client  # noqa: PLC0415 - brings http and ssl

        return Client(source)
    from service.trainers.in_process import InProcess  # noqa: PLC0415 - brings the grading engine

    return InProcess(source)


@dataclass(frozen=True, kw_only=True)
class Reward:
    """A grader as a trainer sees it; can be pickled, forked and shared between threads.

    Attributes:
        source: Where rewards come from.
        item_fields: Which columns become fields of the item: None for all that have a JSON form,
            names, or item field → column.
        on_ungraded: What a sample that could not be graded gets: ``raise``, None, or a number.
        on_outage: What a sample that nobody graded gets: ``raise`` or None.
    """

    source: Source
    item_fields: tuple[tuple[str, str], ...] | None = None
    on_ungraded: OnUngraded = "raise"
    on_outage: OnOutage = "raise"

    def items(self, columns: Mapping[str, Sequence[Any]], rows: int) -> list[dict[str, Any]]:
        """Return one item a row from ``columns``, each of them a value a row.

        Raises:
            RefusedError: A column that was asked for is not there, or has another length.
        """
        chosen = self._chosen(columns)
        for column in chosen.values():
            if len(columns[column]) != rows:
                message = f"column {column!r} has {len(columns[column])} values for {rows} rows"
                raise RefusedError(message, "invalid_row")
        return [{key: columns[name][i] for key, name in chosen.items()} for i in range(rows)]

    def item(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item of one row from ``values``.

        Raises:
            RefusedError: A column that was asked for is not there.
        """
        return {key: values[name] for key, name in self._chosen(values).items()}

    def _chosen(self, columns: Mapping[str, Any]) -> dict[str, str]:
        if self.item_fields is None:
            return {str(name): name for name in columns}
        for _, column in self.item_fields:
            if column not in columns:
                message = f"there is no column {column!r}; there are {', '.join(columns)}"
                raise RefusedError(message, "invalid_row")
        return dict(self.item_fields)

    def encode(self, items: Sequence[Mapping[str, Any]], completions: Sequence[Any]) -> list[bytes]:
        """Return one encoded row an output.

        Raises:
            RefusedError: A completion is neither a text nor messages.
        """
        named = frozenset(key for key, _ in self.item_fields or ())
        try:
            return [
                encode_row(Row(item=item, fields=sample_fields(completion)), named=named)
                for item, completion in zip(items, completions, strict=True)
            ]
        except TypeError as error:
            raise RefusedError(str(error), "invalid_row") from error

    def grade(self, items: Sequence[Mapping[str, Any]], completions: Sequence[Any]) -> list[Result]:
        """Return one result a completion, in order."""
        return self._noted(connect(self.source).score(self.encode(items, completions)))

    async def grade_async(
        self, items: Sequence[Mapping[str, Any]], completions: Sequence[Any]
    ) -> list[Result]:
        """Return the same without holding up the event loop."""
        return self._noted(await connect(self.source).score_async(self.encode(items, completions)))

    def _noted(self, results: list[Result]) -> list[Result]:
        failures = [result.failure for result in results if result.failure]
        if failures:
            codes = ", ".join(sorted({failure.code for failure in failures}))
            logger.warning(
                "%s: %d of %d rows: %s", self.source.name, len(failures), len(results), codes
            )
        return results

    def given(self, result: Result) -> float | None:
        """Return the reward that the trainer gets for ``result``.

        Raises:
            UnavailableError: Nobody graded it, and that is to raise.
            UngradedError: It could not be graded, and that is to raise.
        """
        failure = result.failure
        if failure is None:
            return result.reward
        if failure.outage:
            if self.on_outage == "raise":
                raise UnavailableError(failure.message, failure.code)
            return None
        if self.on_ungraded == "raise":
            raise UngradedError(failure.message, failure.code)
        return self.on_ungraded

    def number(self, result: Result) -> float:
        """Return the same for trainers that know only numbers."""
        given = self.given(result)
        assert given is not None  # noqa: S101 - `make` lets no such trainer abstain
        return given


def make(
    where: Where,
    *,
    item_fields: ItemFields = None,
    on_ungraded: OnUngraded = "raise",
    on_outage: OnOutage = "raise",
    abstains: bool = False,
) -> Reward:
    """Return the reward that ``where`` describes.

    Args:
        where: Where rewards come from.
        item_fields: See `Reward`.
        on_ungraded: See `Reward`.
        on_outage: See `Reward`.
        abstains: Whether the trainer takes None for "no reward".

    Raises:
        RefusedError: The settings cannot be used.
    """
    if isinstance(on_ungraded, str) and on_ungraded != "raise":
        raise _refused("on_ungraded is 'raise', None or a number")
    if on_outage not in {"raise", None}:
        raise _refused("on_outage is 'raise' or None: an outage never becomes a number")
    if not abstains and (on_ungraded is None or on_outage is None):
        raise _refused("this trainer knows only numbers: a failure raises or, ungraded, has one")
    source = Source.of(where)
    connect(source)  # a definition that cannot be used is refused here, not in the first step
    return Reward(
        source=source,
        item_fields=_pairs(item_fields),
        on_ungraded=on_ungraded,
        on_outage=on_outage,
    )


def _pairs(item_fields: ItemFields) -> tuple[tuple[str, str], ...] | None:
    if item_fields is None:
        return None
    if isinstance(item_fields, str):
        raise _refused("item_fields is a list of columns, or a mapping from item field to column")
    if isinstance(item_fields, Mapping):
        return tuple((str(key), str(column)) for key, column in item_fields.items())
    return tuple((str(column), str(column)) for column in item_fields)


def _refused(message: str) -> RefusedError:
    return RefusedError(message, "invalid_settings")
