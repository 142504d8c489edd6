"""``label_model``: a judge picks a label; 1.0 for a passing one, else 0.0 (spec §3.4, §9.8)."""

from __future__ import annotations

from collections.abc import Callable

from graders import judging, schema
from graders.building import Builder, Item
from graders.errors import ModelGraderParseError
from graders.ports import JudgeCall, JudgeReply
from graders.sample import Sample
from graders.wording import shortened


def build_request(
    grader: schema.LabelModel, builder: Builder, pointer: str
) -> Callable[[Item, Sample], JudgeCall]:
    """Return what builds the question to the judge; impossible labels are recorded."""
    labels = set(grader.labels)
    if not labels:
        builder.invalid(f"{pointer}/labels", "expected at least one label.")
    if len(labels) != len(grader.labels):
        builder.invalid(f"{pointer}/labels", "every label may stand once.")
    for index, label in enumerate(grader.passing_labels):
        if labels and label not in labels:
            place = f"{pointer}/passing_labels/{index}"
            builder.invalid(place, f"'{shortened(label)}' is not one of 'labels'.")
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
