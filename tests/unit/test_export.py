"""Exports are exactly what the official client's own types take, and say what they leave out.

The client's type of `multi.graders` is known to be wrong (one grader instead of a map, spec §1.3),
so there the parts are checked one by one.
"""

from collections.abc import Iterable
from typing import Any, get_type_hints

import pytest
from openai.types import eval_create_params, graders
from openai.types.fine_tuning import job_create_params
from openai.types.graders.multi_grader_param import Graders
from pydantic import TypeAdapter, ValidationError

from graders.building import Options
from graders.engine import CompiledGrader, compile_grader
from graders.errors import UncarriedError
from graders.export import (
    FORMS,
    TARGETS,
    Export,
    Form,
    Hyperparameters,
    Job,
    Target,
    export,
    left_out,
)

EXACT: dict[str, Any] = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
}
SIMILAR: dict[str, Any] = {
    "type": "text_similarity",
    "name": "similar",
    "evaluation_metric": "fuzzy_match",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
}
PARTS = [
    {"type": "input_text", "text": "{{sample.output_text}}"},
    {"type": "output_text", "text": "t"},
    {"type": "input_image", "image_url": "{{item.url}}", "detail": "low"},
    {"type": "input_audio", "input_audio": {"data": "{{item.audio}}", "format": "wav"}},
    "plain",
]
SCORE: dict[str, Any] = {
    "type": "score_model",
    "name": "score",
    "model": "gpt-4o-2024-08-06",
    "input": [{"type": "message", "role": "user", "content": PARTS}],
    "range": [0, 7],
    "sampling_params": {"seed": 1, "top_p": 0.5, "temperature": 0, "max_completions_tokens": 9},
}
LABEL: dict[str, Any] = {
    "type": "label_model",
    "name": "label",
    "model": "gpt-4o-2024-08-06",
    "input": [{"role": "user", "content": {"type": "input_text", "text": "x"}}],
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}
CODE: dict[str, Any] = {
    "type": "python",
    "name": "code",
    "source": "def grade(sample, item): return 1.0",
    "image_tag": "2025-05-08",
}
ENDPOINT: dict[str, Any] = {
    "type": "endpoint",
    "name": "endpoint",
    "url": "https://example.com/score",
    "headers": {"X-Key": "k"},
    "rate_limit": 5,
}
MULTI: dict[str, Any] = {
    "type": "multi",
    "name": "multi",
    "graders": {"a": EXACT, "b": SIMILAR, "c": SCORE, "d": LABEL, "e": CODE},
    "calculate_output": "(a + b + c + d + e) / 5",
}
PARAMS: dict[str, Any] = {
    "string_check": graders.StringCheckGraderParam,
    "text_similarity": graders.TextSimilarityGraderParam,
    "score_model": graders.ScoreModelGraderParam,
    "label_model": graders.LabelModelGraderParam,
    "python": graders.PythonGraderParam,
}
SINGLE = [EXACT, SIMILAR, SCORE, LABEL, CODE]
JOB = Job(model="o4-mini-2025-04-16", training_file="file-train", validation_file="file-valid")


def compiled(raw: dict[str, Any]) -> CompiledGrader:
    return compile_grader(raw, Options(), purpose="store")


def exported(raw: dict[str, Any], **how: Any) -> Export:
    return export(compiled(raw), **how)


def notes(result: Export) -> list[tuple[str, str]]:
    assert all(note.severity == "warning" for note in result.left_out)
    return [(note.pointer, note.code) for note in result.left_out]


def check(body: Any, kind: Any) -> None:
    """Validate strictly, the contents of the client's lazy ``Iterable`` fields included."""
    adapter = TypeAdapter(kind)  # must outlive the iterators it returns
    consume(adapter.validate_python(body, strict=True))


def consume(value: Any) -> None:
    if isinstance(value, dict):
        value = value.values()
    if not isinstance(value, str) and isinstance(value, Iterable):
        for part in value:
            consume(part)


def test_the_check_itself_looks_into_messages() -> None:
    message = {"role": "nobody", "content": 5}
    with pytest.raises(ValidationError):
        check({**SCORE, "input": [message]}, graders.ScoreModelGraderParam)


def by_type(raw: dict[str, Any]) -> str:
    return str(raw["type"])


class TestGrader:
    @pytest.mark.parametrize("target", TARGETS)
    @pytest.mark.parametrize("raw", SINGLE, ids=by_type)
    def test_single_grader_is_of_the_clients_type(
        self, raw: dict[str, Any], target: Target
    ) -> None:
        body = exported(raw, target=target).body
        kind = PARAMS[raw["type"]]
        check(body, kind)
        assert set(body) <= set(get_type_hints(kind))

    @pytest.mark.parametrize("raw", [*SINGLE, ENDPOINT, MULTI], ids=by_type)
    def test_strict_definition_comes_back_as_it_was(self, raw: dict[str, Any]) -> None:
        result = exported(raw)
        assert result.body == raw
        assert [code for _, code in notes(result) if code == "left_out"] == []

    def test_parts_of_a_multi_are_of_the_clients_type(self) -> None:
        body = exported(MULTI).body
        assert list(body) == ["type", "name", "graders", "calculate_output"]
        for part in body["graders"].values():
            check(part, Graders)

    def test_fields_come_in_the_published_order(self) -> None:
        shuffled = dict(sorted(SCORE.items(), reverse=True))
        assert list(exported(shuffled).body) == [
            *("type", "name", "model", "input", "range", "sampling_params")
        ]

    def test_tolerated_deviations_are_exported_as_they_should_be(self) -> None:
        raw = {
            **MULTI,
            "graders": [{**EXACT, "name": "a", "operation": "neq"}],
            "calculate_output": "a",
        }
        body = exported(raw).body
        assert body["graders"] == {"a": {**EXACT, "name": "a", "operation": "ne"}}
        renamed = {**SCORE, "sampling_params": {"max_tokens": 5, "seed": None}}
        assert exported(renamed).body["sampling_params"] == {"max_completions_tokens": 5}

    def test_nameless_parts_are_named_after_their_key(self) -> None:
        nameless = {key: value for key, value in EXACT.items() if key != "name"}
        raw = {**MULTI, "graders": {"a/b": nameless}, "calculate_output": "1"}
        assert exported(raw).body["graders"]["a/b"]["name"] == "a/b"
        alone = compile_grader(nameless, Options(), purpose="run")
        assert export(alone).body["name"] == "grader"

    def test_null_fields_are_not_exported_and_not_noted(self) -> None:
        result = exported({**SCORE, "range": None, "sampling_params": None, "note": None})
        assert set(result.body) == {"type", "name", "model", "input"}
        assert result.left_out == ()

    def test_unknown_keys_are_left_out_at_every_depth_with_their_place(self) -> None:
        part = {"type": "input_text", "text": "x", "lang": "en"}
        audio = {"type": "input_audio", "input_audio": {"data": "A", "format": "wav", "hz": 8000}}
        message = {"role": "user", "content": [part, audio], "id": 7}
        raw = {**SCORE, "note~1": 1, "input": [message], "sampling_params": {"top_k": 5, "seed": 1}}
        result = exported(raw)
        assert sorted(notes(result)) == [
            ("/input/0/content/0/lang", "left_out"),
            ("/input/0/content/1/input_audio/hz", "left_out"),
            ("/input/0/id", "left_out"),
            ("/note~01", "left_out"),
            ("/sampling_params/top_k", "left_out"),
        ]
        assert result.body["input"] == [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "x"},
                    {"type": "input_audio", "input_audio": {"data": "A", "format": "wav"}},
                ],
            }
        ]
        assert result.body["sampling_params"] == {"seed": 1}

    def test_notes_point_into_the_posted_list(self) -> None:
        raw = {**MULTI, "graders": [EXACT, {**SIMILAR, "note": 1}], "calculate_output": "exact"}
        assert notes(exported(raw)) == [("/graders/1/note", "left_out")]

    def test_thresholds_and_legacy_fields_are_left_out_of_jobs(self) -> None:
        raw = {
            **MULTI,
            "graders": {"a": {**EXACT, "pass_threshold": 0.5}},
            "calculate_output": "a",
            "pass_threshold": 0.65,
            "invalid_grade": 0.0,
        }
        result = exported(raw)
        assert sorted(notes(result)) == [
            ("/graders/a/pass_threshold", "left_out"),
            ("/invalid_grade", "left_out"),
            ("/pass_threshold", "left_out"),
        ]
        assert result.body == {**MULTI, "graders": {"a": EXACT}, "calculate_output": "a"}

    def test_export_leaves_the_definition_alone(self) -> None:
        grader = compiled({**SCORE, "note": 1})
        before = repr(grader.document)
        body = export(grader).body
        body["input"][0]["content"][0].clear()
        body["range"].clear()
        body["sampling_params"].clear()
        assert repr(grader.document) == before

    @pytest.mark.parametrize(
        ("raw", "noted"),
        [
            (LABEL, [("/type", "beyond_schema")]),
            (
                {**LABEL, "sampling_params": {"seed": 1}},
                [("/type", "beyond_schema"), ("/sampling_params", "beyond_schema")],
            ),
            (ENDPOINT, [("/type", "preview")]),
            ({**SCORE, "model": "o3-2025-04-16"}, []),
        ],
        ids=["label_model", "label_model with sampling", "endpoint", "score_model"],
    )
    def test_what_goes_beyond_the_schema_is_noted(
        self, raw: dict[str, Any], noted: list[tuple[str, str]]
    ) -> None:
        assert notes(exported(raw)) == noted

    def test_azure_documents_fewer_judges(self) -> None:
        raw = {**SCORE, "model": "o3-2025-04-16"}
        assert notes(exported(raw, target="azure")) == [("/model", "unknown_judge")]
        assert notes(exported(SCORE, target="azure")) == []

    def test_other_image_is_noted(self) -> None:
        options = Options(image_tags=("2025-05-08", "next"))
        raw = {**CODE, "image_tag": "next"}
        grader = compile_grader(raw, options, purpose="store")
        assert notes(export(grader)) == [("/image_tag", "beyond_schema")]

    @pytest.mark.parametrize("form", ["grader", "job"])
    def test_cosine_is_refused_outside_evals(self, form: Form) -> None:
        raw = {**SIMILAR, "evaluation_metric": "cosine"}
        with pytest.raises(UncarriedError, match="the grader uses cosine, which only Evals takes"):
            exported(raw, form=form, job=JOB)
        part = {**MULTI, "graders": {"a": raw}, "calculate_output": "a"}
        with pytest.raises(UncarriedError, match="'/graders/a' uses cosine"):
            exported(part, form=form, job=JOB)


class TestJob:
    @pytest.mark.parametrize("raw", [EXACT, SIMILAR, SCORE, CODE], ids=by_type)
    def test_body_is_what_the_client_sends_to_create_a_job(self, raw: dict[str, Any]) -> None:
        job = Job(
            model="o4-mini-2025-04-16",
            training_file="file-train",
            validation_file="file-valid",
            hyperparameters=Hyperparameters(
                batch_size=8,
                compute_multiplier=1.5,
                eval_interval="auto",
                eval_samples=4,
                learning_rate_multiplier=0.1,
                n_epochs=2,
                reasoning_effort="medium",
            ),
            suffix="try-1",
            seed=7,
        )
        body = exported(raw, form="job", job=job, metadata={"grader": "exact@1"}).body
        check(body, job_create_params.JobCreateParams)
        assert set(body) <= set(get_type_hints(job_create_params.JobCreateParams))
        assert body["method"]["reinforcement"]["grader"] == raw
        assert body["method"]["reinforcement"]["hyperparameters"]["n_epochs"] == 2
        assert body["metadata"] == {"grader": "exact@1"}
        assert (body["suffix"], body["seed"]) == ("try-1", 7)

    def test_body_holds_nothing_that_was_not_given(self) -> None:
        assert exported(EXACT, form="job", job=JOB).body == {
            "model": "o4-mini-2025-04-16",
            "training_file": "file-train",
            "validation_file": "file-valid",
            "method": {"type": "reinforcement", "reinforcement": {"grader": EXACT}},
        }

    def test_multi_stays_a_map(self) -> None:
        body = exported(MULTI, form="job", job=JOB).body
        assert body["method"]["reinforcement"]["grader"]["graders"] == MULTI["graders"]

    def test_form_needs_model_and_files(self) -> None:
        with pytest.raises(UncarriedError, match="needs model and files"):
            exported(EXACT, form="job")


class TestEvals:
    @pytest.mark.parametrize("raw", SINGLE, ids=by_type)
    def test_criterion_is_of_the_clients_type(self, raw: dict[str, Any]) -> None:
        body = exported(raw, form="evals").body
        (criterion,) = body["testing_criteria"]
        check(criterion, eval_create_params.TestingCriterion)

    @pytest.mark.parametrize("raw", [SIMILAR, SCORE, CODE, ENDPOINT], ids=by_type)
    def test_stated_threshold_is_carried(self, raw: dict[str, Any]) -> None:
        result = exported({**raw, "pass_threshold": 0.8}, form="evals")
        assert result.body["testing_criteria"][0]["pass_threshold"] == 0.8

    @pytest.mark.parametrize("raw", [EXACT, LABEL], ids=by_type)
    def test_threshold_is_left_out_where_evals_has_none(self, raw: dict[str, Any]) -> None:
        result = exported({**raw, "pass_threshold": 0.8}, form="evals")
        assert "pass_threshold" not in result.body["testing_criteria"][0]
        assert ("/pass_threshold", "left_out") in notes(result)

    def test_text_similarity_gets_the_threshold_that_evals_wants(self) -> None:
        result = exported(SIMILAR, form="evals")
        assert result.body["testing_criteria"][0]["pass_threshold"] == 0.5
        assert notes(result) == [("/pass_threshold", "default_threshold")]

    def test_cosine_is_carried(self) -> None:
        raw = {**SIMILAR, "evaluation_metric": "cosine", "pass_threshold": 0.5}
        assert exported(raw, form="evals").body == {"testing_criteria": [raw]}

    def test_multi_is_refused(self) -> None:
        with pytest.raises(UncarriedError, match="Evals takes no multi grader"):
            exported(MULTI, form="evals")


def test_left_out_lists_refusals_as_warnings() -> None:
    notes = left_out(compiled(MULTI), "openai", "evals")
    assert [note.message for note in notes if note.code == "not_exportable"] == [
        "Evals takes no multi grader; export its parts one by one."
    ]


def test_targets_and_forms_are_closed_lists() -> None:
    assert TARGETS == ("openai", "azure")
    assert FORMS == ("grader", "job", "evals")
