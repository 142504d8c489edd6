"""Gives a definition back as exactly the JSON to submit: canonical, strict, open about losses.

Forms: the bare ``grader``; a whole ``job`` (the body of ``fine_tuning.jobs.create``); Evals
``evals`` (``testing_criteria``). Field order and names are those of the published schema; what it
does not list is left out with a note, and what a target refuses altogether raises.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import msgspec

from graders.building import DEFAULT_IMAGE_TAG
from graders.engine import CompiledGrader
from graders.errors import Finding, UncarriedError
from graders.wording import escape, shortened

Target: TypeAlias = Literal["openai", "azure"]
Form: TypeAlias = Literal["grader", "job", "evals"]

TARGETS: tuple[Target, ...] = get_args(Target)
FORMS: tuple[Form, ...] = get_args(Form)

_AZURE_JUDGES = (  # spec §5.3
    "gpt-4o-2024-08-06",
    "o3-mini-2025-01-31",
    "gpt-4.1-2025-04-14",
    "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano-2025-04-14",
)
_PUBLISHED = {
    "string_check": ("type", "name", "operation", "input", "reference"),
    "text_similarity": ("type", "name", "evaluation_metric", "input", "reference"),
    "score_model": ("type", "name", "model", "input", "range", "sampling_params"),
    "label_model": (
        "type",
        "name",
        "model",
        "input",
        "labels",
        "passing_labels",
        "sampling_params",
    ),
    "python": ("type", "name", "source", "image_tag"),
    "endpoint": ("type", "name", "url", "headers", "rate_limit"),
    "multi": ("type", "name", "graders", "calculate_output"),
}
# Objects within a grader; a message part has its own ``type``.
_SAMPLING_PARAMS = ("seed", "top_p", "temperature", "max_completions_tokens", "reasoning_effort")
_MESSAGE = ("type", "role", "content")
_PARTS = {
    "input_text": ("type", "text"),
    "output_text": ("type", "text"),
    "input_image": ("type", "image_url", "detail", "file_id"),
    "input_audio": ("type", "input_audio"),
}
_AUDIO = ("data", "format")
_THRESHOLD_IN_EVALS = {"text_similarity", "score_model", "python", "endpoint"}

Auto: TypeAlias = Literal["auto"]


class Hyperparameters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``method.reinforcement.hyperparameters`` of a job; absent ones are left to the service."""

    batch_size: int | Auto | None = None
    compute_multiplier: float | Auto | None = None
    eval_interval: int | Auto | None = None
    eval_samples: int | Auto | None = None
    learning_rate_multiplier: float | Auto | None = None
    n_epochs: int | Auto | None = None
    reasoning_effort: Literal["default", "low", "medium", "high"] | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a fine-tuning job needs besides its grader."""

    model: str
    training_file: str
    validation_file: str
    hyperparameters: Hyperparameters = Hyperparameters()
    suffix: str | None = None
    seed: int | None = None


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """An exported definition.

    Attributes:
        body: Exactly what to submit.
        left_out: What the target cannot carry, or carries beyond its published schema only, as
            warnings.
    """

    body: dict[str, Any]
    left_out: tuple[Finding, ...]


def export(
    grader: CompiledGrader,
    *,
    target: Target = "openai",
    form: Form = "grader",
    job: Job | None = None,
    metadata: dict[str, str] | None = None,
) -> Export:
    """Return ``grader`` as the JSON that ``target`` takes in this ``form``.

    Args:
        grader: A compiled definition.
        target: Whose published shape is followed.
        form: What surrounds the grader.
        job: The rest of the job; needed for the form ``job``.
        metadata: The job's ``metadata``, so that it can name the definition it came from.

    Raises:
        UncarriedError: The target refuses this grader, or ``job`` is missing for its form.
    """
    writer = _Writer(grader, target, form)
    body = writer.grader(grader.document, "")
    refused = writer.refused + (
        ["the form 'job' needs model and files"] if form == "job" and job is None else []
    )
    if refused:
        raise UncarriedError(target, refused)
    if form == "evals":
        body = {"testing_criteria": [body]}
    elif job is not None and form == "job":
        body = _job(body, job, metadata or {})
    return Export(body=body, left_out=tuple(writer.notes))


def left_out(grader: CompiledGrader, target: Target, form: Form = "grader") -> tuple[Finding, ...]:
    """Return what an export loses, refusals included, all as warnings."""
    writer = _Writer(grader, target, form)
    writer.grader(grader.document, "")
    refused = [
        Finding(pointer="", message=f"{reason}.", code="not_exportable", severity="warning")
        for reason in writer.refused
    ]
    return (*writer.notes, *refused)


def _job(grader: dict[str, Any], job: Job, metadata: dict[str, str]) -> dict[str, Any]:
    reinforcement: dict[str, Any] = {"grader": grader}
    hyperparameters = msgspec.to_builtins(job.hyperparameters)
    if hyperparameters:
        reinforcement["hyperparameters"] = hyperparameters
    body: dict[str, Any] = {
        "model": job.model,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "method": {"type": "reinforcement", "reinforcement": reinforcement},
    }
    extras = {"suffix": job.suffix, "seed": job.seed, "metadata": metadata or None}
    return body | {key: value for key, value in extras.items() if value is not None}


class _Writer:
    """Writes one definition strictly and notes what it leaves out."""

    def __init__(self, grader: CompiledGrader, target: Target, form: Form) -> None:
        self.target = target
        self.form = form
        self.threshold = grader.threshold
        self.pointers = grader.pointers
        self.notes: list[Finding] = []
        self.refused: list[str] = []

    def _note(self, pointer: str, message: str, code: str = "left_out") -> None:
        self.notes.append(Finding(pointer=pointer, message=message, code=code, severity="warning"))

    def grader(
        self, document: dict[str, Any], pointer: str, name: str = "grader"
    ) -> dict[str, Any]:
        """Return the strict shape of the grader at ``pointer``, called ``name`` if nameless."""
        kind = document["type"]
        self._judge(kind, document, pointer)
        fields = {key: value for key, value in document.items() if key != "pass_threshold"}
        if fields.get("name") is None:
            fields["name"] = name
        written = self._published(fields, _PUBLISHED[kind], pointer)
        if "graders" in written:
            written["graders"] = {
                key: self.grader(child, self.pointers[key], key)
                for key, child in document["graders"].items()
            }
        if kind in {"score_model", "label_model"}:
            written["input"] = self._messages(document["input"], f"{pointer}/input")
        if "sampling_params" in written:
            place = f"{pointer}/sampling_params"
            params = self._published(document["sampling_params"], _SAMPLING_PARAMS, place)
            written["sampling_params"] = params
            if kind == "label_model":
                message = "the published schema does not list this; the live service took it."
                self._note(place, message, "beyond_schema")
        self._threshold(kind, document, pointer, written)
        return written

    def _published(
        self, document: dict[str, Any], keys: tuple[str, ...], pointer: str
    ) -> dict[str, Any]:
        """Return the fields of ``document`` that the published schema has, in its order."""
        for key, value in document.items():
            if key not in keys and value is not None:
                message = f"'{shortened(key)}' is not part of the published schema."
                self._note(f"{pointer}/{escape(key)}", message)
        return {key: document[key] for key in keys if document.get(key) is not None}

    def _messages(self, messages: list[dict[str, Any]], pointer: str) -> list[dict[str, Any]]:
        written = []
        for index, message in enumerate(messages):
            place = f"{pointer}/{index}"
            fields = self._published(message, _MESSAGE, place)
            content = fields["content"]
            place = f"{place}/content"
            if isinstance(content, list):
                parts = enumerate(content)
                fields["content"] = [
                    self._part(part, f"{place}/{number}") for number, part in parts
                ]
            else:
                fields["content"] = self._part(content, place)
            written.append(fields)
        return written

    def _part(self, part: str | dict[str, Any], pointer: str) -> str | dict[str, Any]:
        if isinstance(part, str):
            return part
        written = self._published(part, _PARTS[part["type"]], pointer)
        if "input_audio" in written:
            place = f"{pointer}/input_audio"
            written["input_audio"] = self._published(part["input_audio"], _AUDIO, place)
        return written

    def _threshold(
        self, kind: str, document: dict[str, Any], pointer: str, written: dict[str, Any]
    ) -> None:
        stated = document.get("pass_threshold")
        if self.form == "evals" and kind in _THRESHOLD_IN_EVALS:
            if stated is not None:
                written["pass_threshold"] = stated
            elif kind == "text_similarity":
                written["pass_threshold"] = self.threshold
                message = f"Evals wants a threshold; {self.threshold} is our default."
                self._note(f"{pointer}/pass_threshold", message, "default_threshold")
        elif stated is not None:
            message = "a grader in a job has no pass_threshold; keep it beside the job."
            if self.form == "evals":
                message = f"a {kind} criterion has no pass_threshold."
            self._note(f"{pointer}/pass_threshold", message)

    def _judge(self, kind: str, document: dict[str, Any], pointer: str) -> None:
        """Refuse or note what the target says about this type."""
        where = f"'{pointer}'" if pointer else "the grader"
        if kind == "multi" and self.form == "evals":
            self.refused.append("Evals takes no multi grader; export its parts one by one")
        if kind == "endpoint":
            self._note(f"{pointer}/type", "endpoint graders are a private preview.", "preview")
        if document.get("evaluation_metric") == "cosine" and self.form != "evals":
            self.refused.append(f"{where} uses cosine, which only Evals takes")
        if kind == "label_model" and self.form != "evals":
            message = "label_model is outside the published union of fine-tuning graders."
            self._note(f"{pointer}/type", message, "beyond_schema")
        if kind == "python" and document.get("image_tag") not in (None, DEFAULT_IMAGE_TAG):
            message = f"the only documented image is {DEFAULT_IMAGE_TAG}."
            self._note(f"{pointer}/image_tag", message, "beyond_schema")
        model = document.get("model")
        if self.target == "azure" and model is not None and model not in _AZURE_JUDGES:
            message = f"Azure documents these judge models only: {', '.join(_AZURE_JUDGES)}."
            self._note(f"{pointer}/model", message, "unknown_judge")
