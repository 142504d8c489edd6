"""Grader JSON as frozen Structs, one a ``type``, with the fields and spellings OpenAI publishes.

The Structs describe the *canonical* shape (spec §1.2). What real files deviate in is put right
before they are built, in `graders.importing`; every quirk of the published shapes ends there.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

Operation: TypeAlias = Literal["eq", "ne", "like", "ilike"]
EvaluationMetric: TypeAlias = Literal[
    "cosine",
    "fuzzy_match",
    "bleu",
    "gleu",
    "meteor",
    "rouge_1",
    "rouge_2",
    "rouge_3",
    "rouge_4",
    "rouge_5",
    "rouge_l",
]
ReasoningEffort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# What a judge's API can carry: JSON itself would allow integers of any size.
Seed: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
TokenLimit: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]

DEFAULT_RANGE = (0.0, 1.0)


class InputText(msgspec.Struct, frozen=True, kw_only=True, tag="input_text"):
    """A text part of a message."""

    text: str


class OutputText(msgspec.Struct, frozen=True, kw_only=True, tag="output_text"):
    """A text part of an assistant's message."""

    text: str


class InputImage(msgspec.Struct, frozen=True, kw_only=True, tag="input_image"):
    """An image part; ``image_url`` takes templates."""

    image_url: str
    detail: Literal["low", "high", "auto", "original"] | None = None
    file_id: str | None = None


class AudioData(msgspec.Struct, frozen=True, kw_only=True):
    """Base64 audio; ``data`` takes templates."""

    data: str
    format: Literal["mp3", "wav"]


class InputAudio(msgspec.Struct, frozen=True, kw_only=True, tag="input_audio"):
    """An audio part."""

    input_audio: AudioData


ContentObject: TypeAlias = InputText | OutputText | InputImage | InputAudio


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a model grader's ``input``."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | ContentObject | tuple[str | ContentObject, ...]
    type: Literal["message"] | None = None


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the judge samples; absent and null fields leave the choice to the upstream."""

    seed: Seed | None = None
    top_p: float | None = None
    temperature: float | None = None
    max_completions_tokens: TokenLimit | None = None
    reasoning_effort: ReasoningEffort | None = None


class StringCheck(msgspec.Struct, frozen=True, kw_only=True, tag="string_check"):
    """Compare two rendered strings (spec §3.1)."""

    name: str | None = None
    operation: Operation
    input: str
    reference: str
    pass_threshold: float | None = None


class TextSimilarity(msgspec.Struct, frozen=True, kw_only=True, tag="text_similarity"):
    """Similarity of two rendered strings by a text metric (spec §3.2)."""

    name: str | None = None
    evaluation_metric: EvaluationMetric
    input: str
    reference: str
    pass_threshold: float | None = None


class ScoreModel(msgspec.Struct, frozen=True, kw_only=True, tag="score_model"):
    """A judge model gives a number (spec §3.3)."""

    name: str | None = None
    model: str
    input: tuple[Message, ...]
    range: tuple[float, float] = DEFAULT_RANGE
    sampling_params: SamplingParams | None = None
    pass_threshold: float | None = None


class LabelModel(msgspec.Struct, frozen=True, kw_only=True, tag="label_model"):
    """A judge model gives one of the labels (spec §3.4)."""

    name: str | None = None
    model: str
    input: tuple[Message, ...]
    labels: tuple[str, ...]
    passing_labels: tuple[str, ...]
    sampling_params: SamplingParams | None = None
    pass_threshold: float | None = None


class Python(msgspec.Struct, frozen=True, kw_only=True, tag="python"):
    """User code ``grade(sample, item) -> float`` (spec §3.5)."""

    name: str | None = None
    source: str
    image_tag: str | None = None
    pass_threshold: float | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, tag="endpoint"):
    """An HTTP endpoint gives the score (spec §3.7, private beta)."""

    name: str | None = None
    url: str
    headers: dict[str, str] = {}
    rate_limit: float | None = None
    pass_threshold: float | None = None


SingleGrader: TypeAlias = StringCheck | TextSimilarity | ScoreModel | LabelModel | Python | Endpoint


class Multi(msgspec.Struct, frozen=True, kw_only=True, tag="multi"):
    """A formula over named graders (spec §3.6), whose keys are the formula's variables."""

    name: str | None = None
    graders: dict[str, SingleGrader]
    calculate_output: str
    pass_threshold: float | None = None
    invalid_grade: float | None = None


Grader: TypeAlias = SingleGrader | Multi

TYPES: dict[str, type[Grader]] = {
    "string_check": StringCheck,
    "text_similarity": TextSimilarity,
    "score_model": ScoreModel,
    "label_model": LabelModel,
    "python": Python,
    "endpoint": Endpoint,
    "multi": Multi,
}


def type_of(grader: Grader) -> str:
    """Return the JSON ``type`` of ``grader``."""
    return str(grader.__struct_config__.tag)


def default_threshold(grader: Grader) -> float:
    """Return the pass threshold where the definition states none (our decision, spec §9.11).

    Graders that answer 0 or 1 pass at 1.0, a score model at the middle of its range, everything
    else at 0.5.
    """
    if isinstance(grader, StringCheck | LabelModel):
        return 1.0
    if isinstance(grader, ScoreModel):
        return grader.range[0] / 2 + grader.range[1] / 2  # the sum itself could overflow
    return 0.5
