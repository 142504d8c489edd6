"""Shows why an example did not get its reward: expected, got, which part, what that part saw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graders import schema
from graders.engine import CompiledGrader
from graders.errors import GradingError
from graders.grade import Grade
from graders.ports import EmbeddingCall, EndpointCall, JudgeCall
from graders.sample import Sample
from graders.template import compile_template
from service.workshop.examples import Example, Recorded

_MAX_CHARS = 2_000  # of one text shown
_MAX_RENDERED = 1_000_000


def explanation(
    grader: CompiledGrader, example: Example, grade: Grade, problems: tuple[str, ...]
) -> tuple[str, ...]:
    """Return lines for an author: the differences first, then what every part saw and did."""
    lines = [*problems]
    for failure in grade.failures:
        where = f" in part '{failure.part}'" if failure.part else ""
        lines.append(f"failure   {failure.code}{where}: {shortened(failure.message)}")
    definition = grader.grader
    if isinstance(definition, schema.Multi):
        lines.append(f"formula   {definition.calculate_output}")
    lines += _row(example)
    sample = example.graded_sample()
    parts: dict[str, schema.SingleGrader] = (
        definition.graders if isinstance(definition, schema.Multi) else {"": definition}
    )
    for key, part in parts.items():
        reward = grade.sub_rewards.get(key, grade.reward)
        name = f"part '{key}' ({schema.type_of(part)})" if key else schema.type_of(part)
        lines.append(f"{name} gave {reward!r}")
        seen = _asked(grader, key, example, sample) or _compared(part, example.item, sample)
        lines += [f"  {line}" for line in seen]
        lines += [f"  {line}" for line in _captured(grade.diagnostics.get(key, {}))]
    return tuple(lines)


def shortened(text: str, chars: int = _MAX_CHARS) -> str:
    """Return ``text``, cut in the middle if it is long."""
    if len(text) <= chars:
        return text
    half = chars // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"


def indented(label: str, text: str) -> list[str]:
    """Return a text under its label, line by line."""
    lines = shortened(text).splitlines() or [""]
    if len(lines) == 1:
        return [f"{label}: {lines[0]}"]
    return [f"{label}:", *(f"  {line}" for line in lines)]


def _row(example: Example) -> Iterator[str]:
    row = example.as_row()
    yield from indented("sample", str(row.get("model_sample", row.get("sample"))))


def _asked(grader: CompiledGrader, key: str, recorded: Recorded, sample: Sample) -> list[str]:
    """Return the question of a part that asks something outside."""
    item = recorded.item if isinstance(recorded, Example) else {}
    call = grader.requests(item, sample).get(key)
    lines: list[str] = []
    if isinstance(call, JudgeCall):
        lines.append(f"asked {call.model}")
        for message in call.messages:
            lines += indented(message["role"], _content(message["content"]))
        lines += indented("recorded reply", str(recorded.judge.get(key, "none")))
    elif isinstance(call, EndpointCall):
        lines.append(f"asked {call.url}")
        lines += indented("recorded answer", str(recorded.endpoint.get(key, "none")))
    elif isinstance(call, EmbeddingCall):
        for text in call.texts:
            lines += indented("embedded", text)
    return lines


def _content(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", f"<{part['type']}>") for part in content)


def _compared(part: schema.SingleGrader, item: dict[str, Any], sample: Sample) -> list[str]:
    """Return the two texts that a part compares."""
    if not isinstance(part, schema.StringCheck | schema.TextSimilarity):
        return []
    how = part.operation if isinstance(part, schema.StringCheck) else part.evaluation_metric
    lines = [f"compared by {how}"]
    for label, source in (("input", part.input), ("reference", part.reference)):
        try:
            template = compile_template(source, max_output_chars=_MAX_RENDERED)
            text = repr(template.render(item, sample))
        except GradingError as error:
            text = f"not rendered: {error}"
        lines.append(f"{label}: {shortened(text)}")
    return lines


def _captured(diagnostics: dict[str, Any]) -> Iterator[str]:
    for stream in ("stdout", "stderr"):
        if diagnostics.get(stream):
            yield from indented(stream, diagnostics[stream])
