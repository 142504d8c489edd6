"""Collects what is wrong or doubtful in one definition, so that its author sees all at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from graders.errors import Finding, Severity
from graders.sample import JsonValue
from graders.wording import choice_message, dotted, type_message

MAX_FINDINGS = 100  # of one severity; a hostile document could cause one per few bytes


class Findings:
    """The findings of one reading or compilation, in the order they were made.

    Attributes:
        all: At most `MAX_FINDINGS` of each severity, and a last one that says when there are more.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.all: list[Finding] = []
        self._counts: Counter[Severity] = Counter()

    @property
    def errors(self) -> int:
        """How many errors were found, listed or not."""
        return self._counts["error"]

    def add(self, finding: Finding) -> None:
        """Record ``finding``."""
        severity = finding.severity
        self._counts[severity] += 1
        if self._counts[severity] <= MAX_FINDINGS:
            self.all.append(finding)
        elif self._counts[severity] == MAX_FINDINGS + 1:
            message = f"There are more than {MAX_FINDINGS} {severity}s; the rest is not listed."
            self.all.append(
                Finding(pointer="", message=message, code="too_many_findings", severity=severity)
            )

    def error(self, pointer: str, message: str, code: str) -> None:
        """Record what makes the definition unusable."""
        self.add(Finding(pointer=pointer, message=message, code=code))

    def warning(self, pointer: str, message: str, code: str) -> None:
        """Record what the author should know."""
        self.add(Finding(pointer=pointer, message=message, code=code, severity="warning"))

    def invalid(self, pointer: str, problem: str) -> None:
        """Record a value of the right type that cannot be used."""
        self.error(pointer, f"Invalid value for '{dotted(pointer)}': {problem}", "invalid_value")

    def choice(self, pointer: str, got: str, allowed: Sequence[str]) -> None:
        """Record a value that is none of ``allowed``."""
        self.error(pointer, choice_message(pointer, got, allowed), "invalid_value")

    def missing(self, pointer: str) -> None:
        """Record a required field that is not there."""
        message = f"Missing required parameter: '{dotted(pointer)}'."
        self.error(pointer, message, "missing_required_parameter")

    def wrong_type(self, pointer: str, expected: str, got: JsonValue, *, hint: str = "") -> None:
        """Record a value of the wrong JSON type."""
        message = type_message(pointer, expected, got)
        self.error(pointer, f"{message} {hint}".rstrip(), "invalid_type")
