"""Compiles grader definitions and grades samples with them: the only dispatch on ``type``.

A definition is compiled once and graded many times. Pure definitions (`CompiledGrader.is_pure`) are
graded by `CompiledGrader.grade_now`, a plain function; the others by `CompiledGrader.grade`, which
awaits the ports between a module's ``request`` and its ``score``. Neither raises for anything that
a sample, a judge or user code does: that ends as a `Failure` in the `Grade`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeAlias, assert_never

import msgspec

from graders import (
    asking,
    endpoint,
    importing,
    label_model,
    multi,
    python,
    schema,
    score_model,
    string_check,
    text_similarity,
)
from graders.building import Builder, Item, Options, Score
from graders.errors import (
    DefinitionError,
    Finding,
    FormulaEvaluationError,
    GradingError,
    UpstreamError,
)
from graders.grade import Failure, Grade, TokenUsage
from graders.metrics import PROFILE
from graders.ports import Ports
from graders.sample import JsonValue, Sample
from graders.template import Path

ENGINE_VERSION = "1"  # raised by every change that can alter a reward

Purpose: TypeAlias = Literal["run", "validate", "store"]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One executable grader: alone, or under its key in a ``multi``.

    Attributes:
        type: The JSON ``type``.
        score: Gives the reward of a pure grader; None where something outside is asked.
        ask: Gives the grade of a grader that asks something outside.
        request: Gives the question that ``ask`` puts.
    """

    type: str
    score: Score | None = None
    ask: asking.Ask | None = None
    request: asking.Request[asking.Call] | None = None


class CompiledGrader:
    """A definition, ready to grade.

    Attributes:
        grader: The typed definition.
        document: The definition as JSON with the tolerated deviations put right.
        digest: ``sha256:`` and the hash of the canonical JSON of the document as it was posted.
        warnings: What the author should know.
        signature: How grades are made, without the judges that answer (spec §9.12).
        threshold: Pass threshold, inclusive.
        threshold_source: ``definition`` or, where it states none, ``default``.
        paths: Template variables the definition reads; None when it needs the whole item.
        pointers: Where each part of a ``multi`` stands in the document as posted, by key.
    """

    __slots__ = (
        "_calculate",
        "_parts",
        "digest",
        "document",
        "grader",
        "is_pure",
        "paths",
        "pointers",
        "signature",
        "threshold",
        "threshold_source",
        "warnings",
    )

    def __init__(
        self,
        reading: importing.Reading,
        builder: Builder,
        *,
        digest: str,
        parts: dict[str, Part],
        calculate: Callable[[Mapping[str, float]], float] | None,
    ) -> None:
        """Keep the compiled pieces; use `compile_grader`."""
        grader = reading.grader
        assert grader is not None  # noqa: S101 - compile_grader has refused every other reading
        self.grader = grader
        self.document = reading.document
        self.pointers = reading.pointers
        self.digest = digest
        self.warnings = (*reading.findings, *builder.all)
        self.paths: tuple[Path, ...] | None = (
            None if builder.paths is None else tuple(builder.paths)
        )
        self.is_pure = all(part.score is not None for part in parts.values())
        stated = grader.pass_threshold
        self.threshold = schema.default_threshold(grader) if stated is None else stated
        self.threshold_source: Literal["definition", "default"] = (
            "default" if stated is None else "definition"
        )
        self.signature = _signature(grader, digest, builder.options)
        self._parts = parts
        self._calculate = calculate

    @property
    def type(self) -> str:
        """The JSON ``type`` of the definition."""
        return schema.type_of(self.grader)

    def grade_now(self, item: Item, sample: Sample) -> Grade:
        """Return the grade of one sample by a pure definition, without the event loop."""
        if self._calculate is None:
            return _score(self._parts[""], item, sample)
        return self._combined(
            {key: _score(part, item, sample, key) for key, part in self._parts.items()}
        )

    async def grade(self, item: Item, sample: Sample, ports: Ports) -> Grade:
        """Return the grade of one sample; parts that ask something outside run concurrently."""
        if self.is_pure:
            return self.grade_now(item, sample)
        grading = self._asked(item, sample, ports)
        return await (ports.watch.whole(self.type, grading) if ports.watch else grading)

    async def _asked(self, item: Item, sample: Sample, ports: Ports) -> Grade:
        if self._calculate is None:
            return await _grade(self._parts[""], item, sample, ports)
        grades = await asyncio.gather(
            *(_grade(part, item, sample, ports, key) for key, part in self._parts.items())
        )
        return self._combined(dict(zip(self._parts, grades, strict=True)))

    def requests(self, item: Item, sample: Sample) -> dict[str, asking.Call]:
        """Return what `grade` would ask about this sample, by part; ``""`` for a grader alone.

        Parts that ask nothing, or whose question cannot be built from this sample, are left out.
        """
        found: dict[str, asking.Call] = {}
        for key, part in self._parts.items():
            if part.request is not None:
                with contextlib.suppress(GradingError, UpstreamError):
                    found[key] = part.request(item, sample)
        return found

    def _combined(self, grades: dict[str, Grade]) -> Grade:
        """Return the formula's grade over those of the parts; failed parts count 0.0."""
        assert self._calculate is not None  # noqa: S101 - only called for a multi
        rewards = {key: grade.reward for key, grade in grades.items()}
        failures = tuple(failure for grade in grades.values() for failure in grade.failures)
        try:
            reward = self._calculate(rewards)
        except FormulaEvaluationError as error:
            reward, failures = 0.0, (*failures, Failure.of(error))
        usage: dict[str, TokenUsage] = {}
        for grade in grades.values():
            for model, tokens in grade.usage.items():
                usage[model] = usage.get(model, TokenUsage()) + tokens
        models = [grade.sampled_model_name for grade in grades.values() if grade.sampled_model_name]
        return Grade(
            reward=reward,
            failures=failures,
            sub_rewards=rewards,
            usage=usage,
            sampled_model_name=models[-1] if models else None,
            judgements=tuple(entry for grade in grades.values() for entry in grade.judgements),
            diagnostics={
                key: grade.diagnostics[""] for key, grade in grades.items() if grade.diagnostics
            },
        )


def compile_grader(raw: JsonValue, options: Options, *, purpose: Purpose) -> CompiledGrader:
    """Return ``raw`` compiled.

    Args:
        raw: Grader JSON as posted.
        options: How this process compiles.
        purpose: ``run`` and ``validate`` follow the hosted routes, which refuse ``cosine``;
            ``validate`` and ``store`` also check Python sources, which a run only finds out in the
            sandbox; ``store`` wants a name.

    Raises:
        DefinitionError: With every finding, warnings included.
    """
    reading = importing.read(raw)
    builder = Builder(options)
    parts: dict[str, Part] = {}
    calculate = None
    if reading.grader is not None:
        if isinstance(reading.grader, schema.Multi):
            calculate = multi.build(reading.grader, builder, "")
            graders: Mapping[str, schema.SingleGrader] = reading.grader.graders
        else:
            graders = {"": reading.grader}
        for key, grader in graders.items():
            pointer = reading.pointers.get(key, "") if calculate else ""
            parts[key] = _build(grader, builder, pointer)
            _check(grader, builder, pointer, purpose)
    if purpose == "store" and not isinstance(reading.document.get("name"), str):
        builder.error("/name", "A stored definition needs a name.", "missing_required_parameter")
    findings = _merged(reading.findings, builder.all)
    if any(finding.severity == "error" for finding in findings):
        raise DefinitionError(findings)
    return CompiledGrader(reading, builder, digest=digest_of(raw), parts=parts, calculate=calculate)


def digest_of(document: JsonValue) -> str:
    """Return the content address of a definition: ``sha256:`` of its canonical JSON.

    Canonical: keys sorted, no white space, UTF-8, numbers as Python's ``json`` writes them.

    Raises:
        DefinitionError: ``document`` is no JSON: NaN, an integer of over 4,300 digits, or nested
            deeper than this process can follow.
    """
    try:
        canonical = json.dumps(
            document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
        )
    except (RecursionError, TypeError, ValueError) as error:
        message = f"The grader cannot be written as JSON: {error}."
        raise DefinitionError(
            [Finding(pointer="", message=message, code="invalid_json")]
        ) from error
    return f"sha256:{hashlib.sha256(canonical.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _merged(read: tuple[Finding, ...], built: list[Finding]) -> list[Finding]:
    """Return all findings; what was built on a stand-in says nothing new and is left out."""
    faulty = [finding.pointer for finding in read if finding.severity == "error"]
    fresh = [
        finding
        for finding in built
        if not any(f"{finding.pointer}/".startswith(f"{pointer}/") for pointer in faulty)
    ]
    return [*read, *fresh]


def _check(grader: schema.SingleGrader, builder: Builder, pointer: str, purpose: Purpose) -> None:
    """Record what only some purposes refuse."""
    if isinstance(grader, schema.Python) and purpose != "run":
        python.check_source(grader.source, builder, pointer)
    if (
        isinstance(grader, schema.TextSimilarity)
        and grader.evaluation_metric == "cosine"
        and purpose != "store"
    ):
        problem = "'cosine' is for evals only (here: on native routes and in Evals exports)."
        builder.invalid(f"{pointer}/evaluation_metric", problem)


def _signature(grader: schema.Grader, digest: str, options: Options) -> str:
    parts = list(grader.graders.values()) if isinstance(grader, schema.Multi) else [grader]
    entries = [digest, f"engine:{ENGINE_VERSION}", f"render:{options.rendering}"]
    similarities = [part for part in parts if isinstance(part, schema.TextSimilarity)]
    if similarities:
        entries.append(f"metrics:{PROFILE}")
    return "|".join(entries)


def _build(grader: schema.SingleGrader, builder: Builder, pointer: str) -> Part:
    """Return the executable part: the dispatch on type."""
    kind = schema.type_of(grader)
    match grader:
        case schema.StringCheck():
            return Part(type=kind, score=string_check.build(grader, builder, pointer))
        case schema.TextSimilarity(evaluation_metric="cosine"):
            embedding = text_similarity.build_request(grader, builder, pointer)
            ask = asking.embedder(embedding, text_similarity.score)
            return Part(type=kind, ask=ask, request=embedding)
        case schema.TextSimilarity():
            return Part(type=kind, score=text_similarity.build(grader, builder, pointer))
        case schema.ScoreModel():
            question = score_model.build_request(grader, builder, pointer)
            ask = asking.judge(question, partial(score_model.score, grader))
            return Part(type=kind, ask=ask, request=question)
        case schema.LabelModel():
            question = label_model.build_request(grader, builder, pointer)
            ask = asking.judge(question, partial(label_model.score, grader))
            return Part(type=kind, ask=ask, request=question)
        case schema.Python():
            run = python.build_request(grader, builder, pointer)
            return Part(type=kind, ask=asking.sandbox(run, python.score), request=run)
        case schema.Endpoint():
            call = endpoint.build_request(grader, builder, pointer)
            return Part(type=kind, ask=asking.endpoint(call, endpoint.score), request=call)
        case _:
            assert_never(grader)


def _score(part: Part, item: Item, sample: Sample, key: str | None = None) -> Grade:
    assert part.score is not None  # noqa: S101 - only called for pure parts
    try:
        reward = part.score(item, sample)
    except GradingError as error:
        return Grade(reward=0.0, failures=(Failure.of(error, part=key),))
    return _SURE.get(reward) or Grade(reward=reward)


_SURE = {0.0: Grade(reward=0.0), 1.0: Grade(reward=1.0)}  # the commonest grades, made once


async def _grade(
    part: Part, item: Item, sample: Sample, ports: Ports, key: str | None = None
) -> Grade:
    grading = _asked(part, item, sample, ports, key)
    return await (ports.watch.part(part.type, key or "", grading) if ports.watch else grading)


async def _asked(part: Part, item: Item, sample: Sample, ports: Ports, key: str | None) -> Grade:
    if part.ask is None:
        return _score(part, item, sample, key)
    try:
        grade = await part.ask(item, sample, ports)
    except (GradingError, UpstreamError) as error:
        grade = Grade(reward=0.0, failures=(Failure.of(error),))
    if key is None or grade.ok:
        return grade
    named = tuple(msgspec.structs.replace(failure, part=key) for failure in grade.failures)
    return msgspec.structs.replace(grade, failures=named)
