"""What grading one sample gives: a finite reward, whether it may be trusted, and how it was made.

A failure is never a plain number: `Grade.reward` is then the number the hosted service would have
returned, ``ok`` is false and `Grade.failures` says what happened.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from graders.errors import GradingError, UpstreamError


class TokenUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of judge calls, spelled as OpenAI spells them."""

    prompt_tokens: int = 0
    total_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        """Return the sum, field by field."""
        return TokenUsage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a grader, or one part of a ``multi``, gave no reward of its own.

    Attributes:
        code: Stable machine-readable name, such as ``invalid_variable`` or ``judge_unavailable``.
        flag: The boolean of ``metadata.errors`` that is true.
        message: One sentence; free of sample text beyond names and short excerpts of user
            tracebacks and judge replies.
        part: Key in ``multi.graders`` where the failure arose; absent for a grader on its own.
        upstream: True when something outside failed, so nobody gave a reward.
        retryable: True when asking again later could help.
        retry_after_s: Seconds to wait before a retry, when known.
        kind: ``python_grader_server_error_type`` or an equivalent short name.
    """

    code: str
    flag: str
    message: str
    part: str | None = None
    upstream: bool = False
    retryable: bool = False
    retry_after_s: float | None = None
    kind: str | None = None

    @classmethod
    def of(cls, error: GradingError | UpstreamError, *, part: str | None = None) -> Failure:
        """Return the failure that ``error`` stands for."""
        if isinstance(error, UpstreamError):
            return cls(
                code=error.code,
                flag=error.flag,
                message=error.details,
                part=part,
                upstream=True,
                retryable=error.retryable,
                retry_after_s=error.retry_after_s,
                kind=error.kind,
            )
        return cls(code=error.code, flag=error.flag, message=error.details, part=part)


class SchemaErrorFlags(msgspec.Struct, kw_only=True):
    """The 14 error flags of the published schema (spec §4.2), all false or null by default."""

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    other_error: bool = False
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_server_error_details: str | None = None


class ErrorFlags(msgspec.Struct, kw_only=True):
    """The 24 error flags of live answers, in their recorded order (spec §4.2)."""

    formula_parse_error: bool = False
    sample_parse_error: bool = False
    sample_parse_error_details: str | None = None
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    invalid_variable_error_details: str | None = None
    other_error: bool = False
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_refusal_error_details: str | None = None
    model_grader_parse_error: bool = False
    model_grader_parse_error_details: str | None = None
    model_grader_exceeded_max_tokens_error: bool = False
    model_grader_server_error_details: str | None = None
    endpoint_grader_internal_error: bool = False
    endpoint_grader_internal_error_details: str | None = None
    endpoint_grader_server_error: bool = False
    endpoint_grader_server_error_details: str | None = None
    endpoint_grader_safety_check_error: bool = False


FlagsT = TypeVar("FlagsT", ErrorFlags, SchemaErrorFlags)


def error_flags(failures: tuple[Failure, ...], kind: type[FlagsT]) -> FlagsT:
    """Return the flags that ``failures`` raise.

    Where ``kind`` lacks a flag, ``other_error`` is raised instead; details it lacks are left out.
    """
    flags = kind()
    for failure in failures:
        known = failure.flag in kind.__struct_fields__
        setattr(flags, failure.flag if known else "other_error", True)
        for name, text in (("details", failure.message), ("type", failure.kind)):
            field = f"{failure.flag}_{name}"
            if field in kind.__struct_fields__ and getattr(flags, field) is None:
                setattr(flags, field, text)
    return flags


class Grade(msgspec.Struct, frozen=True, kw_only=True):
    """The result of grading one sample.

    Attributes:
        reward: Always finite; 0.0 where the hosted service answers 0.0 for a failure. Not
            clamped.
        failures: Empty when the reward can be trusted.
        sub_rewards: Raw reward by key of ``multi.graders``; empty for every other type.
        usage: Judge tokens by the model that answered.
        sampled_model_name: The judge model that answered, of several the last; None without one.
        judgements: How the judges were asked, one entry a call: part of the signature.
        diagnostics: What the ports reported for debugging (captured output, isolation level), by
            part; ``""`` stands for a grader on its own.
    """

    reward: float
    failures: tuple[Failure, ...] = ()
    sub_rewards: dict[str, float] = {}
    usage: dict[str, TokenUsage] = {}
    sampled_model_name: str | None = None
    judgements: tuple[str, ...] = ()
    diagnostics: dict[str, dict[str, Any]] = {}

    @property
    def ok(self) -> bool:
        """True when this grader gave the reward itself."""
        return not self.failures

    @property
    def own_reward(self) -> float:
        """The reward that this grader gave itself; 0.0 unless ``ok``.

        `reward` of a ``multi`` with a failed part is what the formula makes of 0.0 for that part,
        as the hosted service has it. Only the OpenAI-compatible route answers that number.
        """
        return 0.0 if self.failures else self.reward

    @property
    def upstream_failure(self) -> Failure | None:
        """The first failure of something outside: with one, nobody gave this reward."""
        return next((failure for failure in self.failures if failure.upstream), None)

    def signature(self, base: str) -> str:
        """Return ``base``, the compiled grader's signature, with the judges that answered."""
        return "|".join((base, *self.judgements))
