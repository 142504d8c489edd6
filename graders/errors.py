"""Every error of the grading engine, grouped by who must act.

::

    GraderError
    ├── DefinitionError     the definition's author must change the grader
    ├── RegistryError       the caller asked for something that is not there
    ├── GradingError        this grader cannot grade this sample: recorded as a flag
    └── UpstreamError       something outside failed: the operator acts, the caller may retry

`GradingError` and `UpstreamError` name the flag of OpenAI's ``metadata.errors`` that they set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["error", "warning"]


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing wrong (or doubtful) in a definition.

    Attributes:
        pointer: RFC 6901 JSON pointer into the definition; ``""`` is the whole document.
        message: One sentence (formula and template errors add two lines that underline the place).
        code: Stable machine-readable name in OpenAI's style, such as ``invalid_type``.
        severity: ``error`` refuses the definition; ``warning`` lets it through.
    """

    pointer: str
    message: str
    code: str
    severity: Severity = "error"


class GraderError(Exception):
    """Base of every error that `graders` raises on purpose."""


class DefinitionError(GraderError, ValueError):
    """A grader definition that cannot be used; carries every finding.

    Attributes:
        findings: At least one of severity ``error``; those of reading the document first.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        """Keep ``findings`` and join their messages into one text."""
        self.findings = tuple(findings)
        super().__init__("; ".join(f"{f.pointer or '/'}: {f.message}" for f in self.findings))


class SourceSyntaxError(GraderError, ValueError):
    """A syntax error in a small language, underlined in its source.

    Attributes:
        problem: One sentence without the source.
        source: The whole text that was parsed.
        span: Start and end offset of the faulty part, in characters.
    """

    _CONTEXT_CHARS: ClassVar[int] = 60

    def __init__(self, problem: str, *, source: str, span: tuple[int, int]) -> None:
        """Record the place; the message shows the line of the source with the place underlined."""
        self.problem = problem
        self.source = source
        self.span = span
        super().__init__(f"{problem}\n{self._underlined()}")

    def _underlined(self) -> str:
        start, end = self.span
        line_start = self.source.rfind("\n", 0, start) + 1
        line_end = self.source.find("\n", start)
        line_end = len(self.source) if line_end < 0 else line_end
        first = max(line_start, start - self._CONTEXT_CHARS)
        last = min(line_end, max(end, start + 1) + self._CONTEXT_CHARS)
        width = max(1, min(end, last) - start)
        return f"    {self.source[first:last]}\n    {' ' * (start - first)}{'^' * width}"


class TemplateSyntaxError(SourceSyntaxError):
    """A ``{{ … }}`` that is not ``item.…`` or ``sample.…``."""


class FormulaSyntaxError(SourceSyntaxError):
    """A ``calculate_output`` that does not parse or names an unknown grader."""


class RegistryError(GraderError, LookupError):
    """The caller asked for a definition that is not there."""


class UnknownGraderError(RegistryError):
    """No definition has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        """Name the grader asked for and those that exist."""
        self.name = name
        self.known = tuple(known)
        super().__init__(
            f"no grader is named {name!r}; known graders: {', '.join(self.known) or 'none'}"
        )


class UnknownVersionError(RegistryError):
    """The definition exists, this version or label does not."""

    def __init__(self, name: str, version: str, known: Iterable[str]) -> None:
        """Name the version asked for and those that exist."""
        self.name = name
        self.version = version
        self.known = tuple(known)
        super().__init__(
            f"grader {name!r} has no version {version!r}; known: {', '.join(self.known)}"
        )


class UncarriedError(GraderError, ValueError):
    """An export that the target cannot take at all.

    Attributes:
        reasons: What the target refuses, one sentence each.
    """

    def __init__(self, target: str, reasons: Iterable[str]) -> None:
        """Name the export target and why it refuses."""
        self.target = target
        self.reasons = tuple(reasons)
        super().__init__(f"target {target!r} cannot take this grader: {'; '.join(self.reasons)}")


class RowError(GraderError, ValueError):
    """An item or sample whose shape cannot be graded by any grader."""


class GradingError(GraderError):
    """This grader could not grade this sample; the hosted service answers reward 0.0 and a flag.

    Attributes:
        code: Stable machine-readable name on native routes.
        flag: The boolean of ``metadata.errors`` that becomes true.
        details: Sentence for the flag's ``…_details`` and the native ``error.message``.
    """

    code: ClassVar[str] = "other_error"
    flag: ClassVar[str] = "other_error"
    retryable: ClassVar[bool] = False

    def __init__(self, details: str) -> None:
        """Keep the sentence that says what went wrong."""
        self.details = details
        super().__init__(details)


class InvalidVariableError(GradingError):
    """A template names a variable that this item or sample does not have."""

    code = "invalid_variable"
    flag = "invalid_variable_error"


class SampleParseError(GradingError):
    """The sample cannot be read as what the grader declares."""

    code = "sample_parse"
    flag = "sample_parse_error"


class FormulaEvaluationError(GradingError):
    """``calculate_output`` is undefined or not finite for these sub-rewards (spec §9.10)."""

    code = "formula_evaluation"


class InputTooLongError(GradingError):
    """A rendered text is longer than the configured limit."""

    code = "input_too_long"


class PythonGraderRuntimeError(GradingError):
    """User code raised, returned no usable number, or hit a limit (spec §9.9)."""

    code = "python_runtime"
    flag = "python_grader_runtime_error"


class ModelGraderRefusalError(GradingError):
    """The judge refused."""

    code = "model_refusal"
    flag = "model_grader_refusal_error"


class ModelGraderParseError(GradingError):
    """The judge's reply is not what the response schema asks for."""

    code = "model_parse"
    flag = "model_grader_parse_error"


class ModelGraderTokenLimitError(GradingError):
    """The judge ran into its token limit before it finished."""

    code = "model_exceeded_max_tokens"
    flag = "model_grader_exceeded_max_tokens_error"


class EndpointGraderReplyError(GradingError):
    """The endpoint answered, but not with ``{"score": number}``."""

    code = "endpoint_reply"
    flag = "endpoint_grader_internal_error"


class UpstreamError(GraderError):
    """Something outside failed; nobody gave a reward.

    Attributes:
        code: Stable machine-readable name on native routes.
        flag: The boolean of ``metadata.errors`` that becomes true.
        details: Sentence for the flag's details.
        retryable: Whether asking again later could help.
        retry_after_s: Seconds to wait before a retry, when known.
        kind: OpenAI's ``python_grader_server_error_type`` or an equivalent short name.
    """

    code: ClassVar[str] = "upstream"
    flag: ClassVar[str] = "other_error"

    def __init__(
        self,
        details: str,
        *,
        retryable: bool = True,
        retry_after_s: float | None = None,
        kind: str | None = None,
    ) -> None:
        """Keep what failed and whether a retry could help."""
        self.details = details
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.kind = kind
        super().__init__(details)


class JudgeUnavailableError(UpstreamError):
    """The judge model could not be asked."""

    code = "judge_unavailable"
    flag = "model_grader_server_error"


class BudgetExceededError(JudgeUnavailableError):
    """The budget for judge calls is spent; the native route answers 429."""

    code = "budget_exceeded"


class OverloadedError(UpstreamError):
    """A bounded queue is full; the native route answers 429 with ``Retry-After``."""

    code = "overloaded"


class SandboxOverloadedError(OverloadedError):
    """Too many Python graders wait for a slot."""

    flag = "python_grader_server_error"


class JudgeOverloadedError(OverloadedError):
    """Too many calls wait for a judge or for embeddings."""

    flag = "model_grader_server_error"


class EndpointOverloadedError(OverloadedError):
    """Too many calls wait for an endpoint grader's rate limit."""

    flag = "endpoint_grader_server_error"


class SandboxUnavailableError(UpstreamError):
    """The sandbox could not run user code."""

    code = "sandbox_unavailable"
    flag = "python_grader_server_error"


class EmbedderUnavailableError(UpstreamError):
    """The embeddings endpoint could not be asked."""

    code = "embedder_unavailable"
    flag = "model_grader_server_error"


class EndpointUnavailableError(UpstreamError):
    """The endpoint grader's URL could not be asked."""

    code = "endpoint_unavailable"
    flag = "endpoint_grader_server_error"
