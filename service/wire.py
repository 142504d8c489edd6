"""Requests and responses as they travel: the JSON of every route that is no trainer's dialect."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from graders.errors import Finding
from graders.grade import ErrorFlags, TokenUsage
from service.judge import Method, Sampling

# Request headers that say on what terms judges are asked; see `service.terms`.
CACHE_HEADER = "x-gradekeeper-cache"
SAMPLE_INDEX_HEADER = "x-gradekeeper-sample-index"


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``graders/run``; further fields (``trace_id`` …) are taken and unused, as hosted."""

    grader: msgspec.Raw
    model_sample: str
    item: dict[str, Any] | None = None


class ValidateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``graders/validate``."""

    grader: msgspec.Raw


class RunMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """``metadata`` of a run, in the recorded order; profile ``schema`` has 14 of the flags."""

    name: str
    type: str
    errors: ErrorFlags
    execution_time: float
    scores: dict[str, float] = {}
    token_usage: TokenUsage | int | None = None
    sampled_model_name: str | None = None


class RunResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``graders/run`` (spec §1.4)."""

    reward: float
    metadata: RunMetadata
    sub_rewards: dict[str, float]
    model_grader_token_usage_per_model: dict[str, TokenUsage]


class ValidateResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``graders/validate``: the accepted grader, its name filled in."""

    grader: dict[str, Any]


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True):
    """What the official clients parse into their exceptions."""

    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None


class OpenAIErrorResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Error body of the OpenAI-compatible routes."""

    error: OpenAIError


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row: an item, and the model's output as a text or a ``sample`` object (exactly one).

    Attributes:
        group: Rows of one JSON batch that answer the same prompt share a group; the answer then has
            the group's statistics.
    """

    item: dict[str, Any] = {}
    model_sample: str | None = None
    sample: dict[str, Any] | None = None
    group: str | None = None


class SampledRequest(ScoreRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row, and how often which judges are asked about it.

    Attributes:
        sampling: Draws of an ensemble; without it, the grader is asked once.
    """

    sampling: Sampling | None = None


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many rows for one grader.

    Attributes:
        sampling: Draws of an ensemble for every row.
    """

    rows: list[ScoreRequest]
    sampling: Sampling | None = None


class RowError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a row has no reward of its own.

    Attributes:
        code: Stable machine-readable name.
        message: One sentence.
        flag: OpenAI's flag for it, where there is one.
        part: Key in ``multi.graders`` where it arose.
        upstream: True when something outside failed, so nobody gave a reward.
        retryable: Whether asking again later could help; absent means false.
        retry_after_s: Seconds to wait before a retry, when known.
    """

    code: str
    message: str
    flag: str | None = None
    part: str | None = None
    upstream: bool = False
    retryable: bool = False
    retry_after_s: float | None = None


class DrawResult(msgspec.Struct, frozen=True, kw_only=True):
    """One draw of an ensemble.

    Attributes:
        model: Judge model asked in the definition's place; null for its own.
        sample_index: Number of the draw.
        reward: 0.0 unless ``ok``; such a draw counts nowhere.
        ok: Whether the grader gave the reward itself.
        error: The first failure; absent when ``ok``.
    """

    model: str | None
    sample_index: int
    reward: float
    ok: bool
    error: RowError | msgspec.UnsetType = msgspec.UNSET


class EnsembleResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the draws of one row gave; the row's reward is theirs by ``method``.

    Attributes:
        method: How the rewards of the draws were combined.
        spread: Sample standard deviation of the rewards that are ``ok``; 0.0 for one.
        minimum: Lowest of them; null without any.
        maximum: Highest of them; null without any.
        draws: By model, then by number.
    """

    method: Method
    spread: float
    minimum: float | None
    maximum: float | None
    draws: list[DrawResult]


class RowResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Result of one row of a batch.

    Attributes:
        reward: Always a finite number; 0.0 and nobody's judgement unless ``ok``.
        ok: True when the grader gave the reward itself.
        passed: ``ok`` and the reward reaches the pass threshold.
        index: Zero-based position in the request; only in streams, where order is not kept.
        error: The first failure; absent when ``ok``.
        sub_rewards: By key of a ``multi``; absent for other types.
        judgements: The judges that answered, which extend the batch's signature for this row.
        usage: Judge tokens by model; absent without a judge.
        cost_usd: Dollars paid for judges now, cached replies excluded; absent without a judge.
        diagnostics: Captured output and the like, with ``?debug=true``.
        group: As the request named it.
        rank: Place in the group, 1 for the highest reward, equal rewards sharing a place; absent
            for a row that is not ``ok``.
        advantage: (reward - mean) / (std + 1e-6) over the rows of the group that are ``ok``.
        ensemble: The draws, where ``sampling`` asked for some.
    """

    reward: float
    ok: bool
    passed: bool
    index: int | None = None
    error: RowError | None = None
    sub_rewards: dict[str, float] | None = None
    judgements: tuple[str, ...] = ()
    usage: dict[str, TokenUsage] | None = None
    cost_usd: float | None = None
    diagnostics: dict[str, Any] | None = None
    group: str | None = None
    rank: int | None = None
    advantage: float | None = None
    ensemble: EnsembleResult | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Counts and mean of a batch; the mean is over the rows that are ``ok``, null without any."""

    rows: int
    ok: int
    failed: int
    passed: int
    mean_reward: float | None


class GroupStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One group of a batch.

    Attributes:
        rows: All rows that name the group.
        ok: Those with a reward of their own, which alone count below.
        mean: Mean reward, null without any.
        std: Standard deviation of a sample (n - 1); 0.0 for one reward, null without any.
    """

    rows: int
    ok: int
    mean: float | None
    std: float | None


class GraderReference(msgspec.Struct, frozen=True, kw_only=True):
    """The concrete version that graded, and how it makes grades."""

    grader: str
    version: int
    digest: str
    signature: str
    pass_threshold: float
    threshold_source: Literal["definition", "default"]


class ScoreResponse(GraderReference, frozen=True, kw_only=True):
    """Answer of ``…/score``."""

    reward: float
    ok: bool
    passed: bool
    error: RowError | None
    errors: ErrorFlags | None  # null when ok: 24 times false is half of an answer
    sub_rewards: dict[str, float]
    execution_time: float
    token_usage: dict[str, TokenUsage]
    sampled_model_name: str | None
    cost_usd: float | None
    diagnostics: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    ensemble: EnsembleResult | msgspec.UnsetType = msgspec.UNSET


class BatchResponse(GraderReference, frozen=True, kw_only=True):
    """Answer of ``…/score/batch``: one result a row, in the order of the rows.

    Attributes:
        groups: Group → statistics; absent when no row names a group.
    """

    results: list[RowResult]
    summary: Summary
    groups: dict[str, GroupStatistics] | msgspec.UnsetType = msgspec.UNSET


class StreamEnd(GraderReference, frozen=True, kw_only=True):
    """Last line of a streamed batch; without it the stream was cut off."""

    summary: Summary


class VersionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list of versions."""

    version: int
    digest: str
    type: str
    labels: list[str]


class GraderSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the list of graders."""

    name: str
    description: str
    type: str
    latest: int
    labels: dict[str, int]


class GraderList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``GET /v1/graders``."""

    graders: list[GraderSummary]


class VersionList(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``GET …/versions``, oldest first."""

    grader: str
    versions: list[VersionSummary]


class DefinitionResponse(GraderReference, frozen=True, kw_only=True):
    """Answer of ``GET …/versions/{version}``."""

    description: str
    labels: list[str]
    definition: msgspec.Raw
    lint: list[Finding]
    examples: list[dict[str, Any]]


class LabelRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``PUT …/labels/{label}``."""

    version: int


class ExportResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``…/export``: ``body`` is what to submit, but for secrets: ``left_out`` says so."""

    grader: str
    version: int
    digest: str
    target: str
    form: str
    body: dict[str, Any]
    left_out: list[Finding]


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``application/problem+json`` (RFC 9457).

    Attributes:
        type: URI reference that names the kind of problem.
        title: The same in words.
        status: The HTTP status.
        detail: What went wrong this time.
        request_id: To find the request in the log.
        errors: Every finding, with JSON pointers.
        retryable: Whether asking again later could help.
    """

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None
    errors: list[Finding] | None = None
    retryable: bool = False


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``/healthz``."""

    status: Literal["ok"] = "ok"


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``/readyz``: ``ready`` and every dependency by name."""

    ready: bool
    dependencies: dict[str, dict[str, Any]]
