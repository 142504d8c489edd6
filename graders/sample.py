"""The ``sample`` namespace of a grader: what the graded model produced.

Built from a bare text (OpenAI's ``model_sample``) or from the object that trainers and endpoint
graders carry (spec §2.3). What most graders never look at is computed on first use.
"""

from __future__ import annotations

from typing import Any

import msgspec

from graders.errors import RowError

JsonValue = Any  # JSON from outside: None, bool, int, float, str, list or dict, nested

_ABSENT: Any = object()
_JSON_NAMES: tuple[tuple[type, str], ...] = (  # bool is an int
    (type(None), "null"),
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a number"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
)
_ANSWERS = ("choices", "output_json", "output_text", "output_tools")


def parse_json_text(text: str) -> JsonValue:
    """Return the JSON value written in ``text``, or None when it is not JSON."""
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def json_name(value: JsonValue) -> str:
    """Return what JSON calls the type of ``value``, with its article."""
    for kind, name in _JSON_NAMES:
        if isinstance(value, kind):
            return name
    return type(value).__name__  # a trainer's own type


class Sample:
    """One model output, addressed by templates as ``sample.…``.

    Attributes:
        output_text: The text of the answer.
    """

    __slots__ = ("_namespace", "_output_json", "output_text")

    def __init__(self, output_text: str) -> None:
        """Take a bare text, as ``model_sample`` of ``graders/run``."""
        self.output_text = output_text
        self._output_json: JsonValue = _ABSENT
        self._namespace: dict[str, JsonValue] | None = None

    @classmethod
    def from_object(cls, fields: dict[str, JsonValue]) -> Sample:
        """Return the sample that ``fields`` describes; keys not given derive from those that are.

        Args:
            fields: ``output_text``, ``output_json``, ``output_tools``, ``choices`` and any others.

        Raises:
            RowError: A known key has another type than the published one.
        """
        choices = _typed(fields, "choices", list)
        message = _first_message(choices)
        text = _typed(fields, "output_text", str)
        if text is None:
            content = message.get("content")
            text = content if isinstance(content, str) else ""
        tools = _typed(fields, "output_tools", list)
        if tools is None:
            calls = message.get("tool_calls")
            tools = calls if isinstance(calls, list) else []
        sample = cls(text)
        if "output_json" in fields:
            sample._output_json = fields["output_json"]
        if choices is None:
            choices = _choices(text, tools)
        derived = {
            "choices": choices,
            "output_text": text,
            "output_json": sample.output_json,
            "output_tools": tools,
        }
        sample._namespace = {**fields, **derived}
        return sample

    @classmethod
    def from_answer(cls, fields: dict[str, JsonValue]) -> Sample:
        """Return the sample that a caller's ``fields`` describe.

        Raises:
            RowError: As `from_object`; also when no key says what was answered, since a misspelt
                ``output_text`` would otherwise be graded as an empty answer.
        """
        if not any(key in fields for key in _ANSWERS):
            raise RowError(f"sample: expected at least one of {', '.join(_ANSWERS)}")
        return cls.from_object(fields)

    @property
    def output_json(self) -> JsonValue:
        """The answer parsed as JSON; None when it does not parse."""
        if self._output_json is _ABSENT:
            self._output_json = parse_json_text(self.output_text)
        return self._output_json

    @property
    def namespace(self) -> dict[str, JsonValue]:
        """The whole ``sample`` object in the live shape (spec §2.3); do not change it."""
        if self._namespace is None:
            text = self.output_text
            self._namespace = {
                "choices": _choices(text, []),
                "output_text": text,
                "output_json": self.output_json,
                "output_tools": [],
                "output_reasoning_summary": None,
            }
        return self._namespace


def _choices(text: str, tools: list[JsonValue]) -> list[JsonValue]:
    message = {"role": "assistant", "content": text, "tool_calls": tools}
    return [{"index": 0, "message": message, "finish_reason": "stop"}]


def _first_message(choices: list[JsonValue] | None) -> dict[str, JsonValue]:
    if choices and isinstance(choices[0], dict) and isinstance(choices[0].get("message"), dict):
        message: dict[str, JsonValue] = choices[0]["message"]
        return message
    return {}


def _typed(fields: dict[str, JsonValue], key: str, kind: type[Any]) -> Any:  # noqa: ANN401 - returns a ``kind``
    value = fields.get(key)
    if value is not None and not isinstance(value, kind):
        name = {"str": "a string", "list": "an array"}[kind.__name__]
        raise RowError(f"sample.{key}: expected {name}, got {json_name(value)}")
    return value
