"""``label_model``: a judge model picks a label; 1.0 when it is a passing one, else 0.0 (spec §3.4, §9.8)."""

from __future__ import annotations

from collections.abc import Callable

from graders import judging, schema
from graders.building import Builder, Item
from graders.errors import ModelGraderParseError
from graders.ports import JudgeCall, JudgeReply
from graders.sample import Sample


def build_request(
    grader: schema.LabelModel, builder: Builder, pointer: str
) -> Callable[[Item, Sample], JudgeCall]:
    """Return what builds the question to the judge; impossible labels are recorded in ``builder``."""
    if not grader.labels:
        builder.error(
            f"{pointer}/labels",
            "Invalid value for 'labels': expected at least one label.",
            "invalid_value",
        )
    if len(set(grader.labels)) != len(grader.labels):
        builder.error(
            f"{pointer}/labels",
            "Invalid value for 'labels': every label may stand once.",
            "invalid_value",
        )
    for index, label in enumerate(grader.passing_labels):
        if grader.labels and label not in grader.labels:
            message = f"Invalid value for 'passing_labels': '{label}' is not one of 'labels'."
            builder.error(f"{pointer}/passing_labels/{index}", message, "invalid_value")
    result = {"type": "string", "enum": list(grader.labels)}
    return judging.build_request(
        grader, builder, pointer, schema_name="label_classification", result=result
    )


def score(grader: schema.LabelModel, reply: JudgeReply) -> float:
    """Return 1.0 when the judge's label is a passing one, else 0.0.

    Raises:
        ModelGraderRefusalError, ModelGraderTokenLimitError: The judge did not answer.
        ModelGraderParseError: The reply is not in the asked form or names no label of the grader.
    """
    result = judging.result_of(reply)
    if result not in grader.labels:
        raise ModelGraderParseError("the judge's 'result' is not one of the labels")
    return 1.0 if result in grader.passing_labels else 0.0
