"""Ensembles on the routes: which graders may be drawn from, and how the draws are shown."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar.exceptions import ClientException

from graders.engine import CompiledGrader
from graders.grade import Grade
from graders.ports import Ports
from graders.registry import Definition
from graders.sample import Sample
from service.counting import GradeCounter
from service.grading import RowGrader, error_of
from service.judge import JudgeContext, Sampling, draw
from service.judging import NO_JUDGE, ensemble_result, judge_models
from service.wire import EnsembleResult, RowResult


def refuse_unless_judged(grader: CompiledGrader) -> None:
    """Refuse draws from a grader that asks no judge model: they would all be equal, or all new.

    Raises:
        ClientException: It asks none.
    """
    if not judge_models(grader.grader, grader.pointers):
        raise ClientException(f"sampling {NO_JUDGE.format(grader.type)} - at `$.sampling`")


async def drawn(
    definition: Definition,
    row: tuple[dict[str, Any], Sample],
    ports: Ports,
    sampling: Sampling,
    terms: JudgeContext,
) -> tuple[Grade, EnsembleResult]:
    """Return the combined grade of ``row`` and the draws that it is made of."""
    item, sample = row
    found = await draw(lambda: definition.grader.grade(item, sample, ports), sampling, terms)
    return found.grade, ensemble_result(found, sampling, error_of)


class SampledRowGrader(RowGrader):
    """Grades every row by an ensemble."""

    def __init__(  # noqa: PLR0913 - as of `RowGrader`
        self,
        definition: Definition,
        ports: Ports,
        counter: GradeCounter,
        *,
        sampling: Sampling,
        terms: JudgeContext,
        debug: bool = False,
        concurrency: int = 64,
    ) -> None:
        """Keep about ``concurrency`` draws under way.

        Raises:
            ClientException: The definition asks no judge.
        """
        refuse_unless_judged(definition.grader)
        rows = max(1, concurrency // sampling.draws)
        super().__init__(definition, ports, counter, terms=terms, debug=debug, concurrency=rows)
        self._sampling = sampling

    async def asked(self, item: dict[str, Any], sample: Sample) -> RowResult:
        """Return the combined result of one row."""
        grade, ensemble = await drawn(
            self._definition, (item, sample), self._ports, self._sampling, self._terms
        )
        return msgspec.structs.replace(self.result(grade), ensemble=ensemble)
