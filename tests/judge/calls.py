"""Questions as the score_model and label_model graders ask them."""

from __future__ import annotations

from typing import Any

from graders.ports import JudgeCall

STEP = {
    "type": "object",
    "additionalProperties": False,
    "required": ["description", "conclusion"],
    "properties": {"description": {"type": "string"}, "conclusion": {"type": "string"}},
}


def schema(result: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the response schema with ``result`` of the given kind, a number by default."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["steps", "result"],
        "properties": {
            "steps": {"type": "array", "items": STEP},
            "result": result or {"type": "number"},
        },
    }


def call(text: str = "Grade this.", **fields: Any) -> JudgeCall:
    """Return a question whose last message is ``text``."""
    plain: dict[str, Any] = {
        "model": "gpt-4.1-2025-04-14",
        "messages": [
            {"role": "developer", "content": "You grade."},
            {"role": "user", "content": text},
        ],
        "sampling_params": {},
        "schema_name": "float_score_classification",
        "schema": schema(),
    }
    return JudgeCall(**(plain | fields))
