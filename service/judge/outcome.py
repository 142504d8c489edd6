"""How one question to an upstream can end: an answer, vectors, or a failure that nobody may grade.

Outcomes travel between replicas and through the cache, so they are plain data with a tag.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from graders.errors import (
    BudgetExceededError,
    JudgeOverloadedError,
    JudgeUnavailableError,
    UpstreamError,
)
from graders.grade import TokenUsage

_UNFINISHED: Final = frozenset({"length", "content_filter"})
FailureCode = Literal["unavailable", "budget_exceeded", "overloaded", "missing_recording"]


class MissingRecordingError(JudgeUnavailableError):
    """Replay was asked for, and neither the cache nor the recording has this question."""

    code = "missing_recording"


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag="a", omit_defaults=True):
    """What a judge model wrote.

    Attributes:
        content: Text of the answer; None when there is none.
        refusal: The refusal, if it refused.
        finish_reason: As Chat Completions spells it.
        model: The model that really answered.
        usage: Tokens spent.
        settles: Whether ``content`` holds a verdict of the kind that was asked for.
        digest: Digest of what a reward can depend on, for signatures.
    """

    content: str | None
    refusal: str | None = None
    finish_reason: str = "stop"
    model: str
    usage: TokenUsage = TokenUsage()
    settles: bool = False
    digest: str = ""

    @property
    def cacheable(self) -> bool:
        """True for what a score is read from; refusals and cut-off answers are asked again."""
        return self.settles and self.refusal is None and self.finish_reason not in _UNFINISHED


class Vectors(msgspec.Struct, frozen=True, kw_only=True, tag="v"):
    """One vector a text, and their digest for signatures."""

    vectors: tuple[tuple[float, ...], ...]
    model: str
    usage: TokenUsage = TokenUsage()
    digest: str = ""

    @property
    def cacheable(self) -> bool:
        """True: vectors are complete or were refused while parsing."""
        return True


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="f", omit_defaults=True):
    """Nobody answered.

    Attributes:
        code: Which error of `graders.errors` this is.
        details: One sentence without prompt text and secrets.
        kind: Short name of the cause: ``http_500``, ``timeout``, ``circuit_open`` …
        retryable: Whether asking again later could help.
        retry_after_s: Seconds to wait before that, when known.
        personal: True when the cause lies with who asked (its budget), so others ask themselves.
    """

    code: FailureCode = "unavailable"
    details: str
    kind: str
    retryable: bool = True
    retry_after_s: float | None = None
    personal: bool = False

    @property
    def cacheable(self) -> bool:
        """False: a failure is never kept."""
        return False

    def error(self, unavailable: type[UpstreamError] = JudgeUnavailableError) -> UpstreamError:
        """Return the exception that stands for this failure.

        Args:
            unavailable: Type for ``code`` ``unavailable``: judge or embedder.
        """
        kinds: dict[FailureCode, type[UpstreamError]] = {
            "unavailable": unavailable,
            "budget_exceeded": BudgetExceededError,
            "overloaded": JudgeOverloadedError,
            "missing_recording": MissingRecordingError,
        }
        return kinds[self.code](
            self.details,
            retryable=self.retryable,
            retry_after_s=self.retry_after_s,
            kind=self.kind,
        )


Outcome: TypeAlias = Answer | Vectors | Failed
JsonObject: TypeAlias = dict[str, Any]
Part = Literal["hit_process", "hit_store", "leader", "joined", "followed", "alone"]


class Landed(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome and where it came from.

    Attributes:
        outcome: Answer, vectors or failure.
        part: The part this question played; only ``leader`` and ``alone`` paid.
        attempts: Upstream attempts that were made for it here.
        nanodollars: What they cost.
        seconds: How long they took.
    """

    outcome: Outcome
    part: Part
    attempts: int = 0
    nanodollars: int = 0
    seconds: float = 0.0

    @property
    def paid(self) -> bool:
        """True when this question itself was sent upstream."""
        return self.part in {"leader", "alone"}
