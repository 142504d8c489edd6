import msgspec
import pytest

from graders import errors
from graders.errors import (
    GradingError,
    InvalidVariableError,
    SandboxUnavailableError,
    UpstreamError,
)
from graders.grade import ErrorFlags, Failure, Grade, SchemaErrorFlags, TokenUsage, error_flags


def all_of(kind: type[Exception]) -> list[type[Exception]]:
    """Return ``kind`` and its kinds in graders; adapters may add kinds with fields of their own."""
    children = [child for child in kind.__subclasses__() if child.__module__ == kind.__module__]
    return [kind, *(found for child in children for found in all_of(child))]


FAILURES = [
    *(Failure.of(kind("d")) for kind in all_of(GradingError) if issubclass(kind, GradingError)),
    *(Failure.of(kind("d")) for kind in all_of(UpstreamError) if issubclass(kind, UpstreamError)),
]


def test_a_grader_that_failed_gave_no_reward_of_its_own() -> None:
    assert Grade(reward=0.6).own_reward == 0.6
    failed = Grade(reward=0.6, failures=(Failure.of(InvalidVariableError("d")),))
    assert (failed.reward, failed.own_reward) == (0.6, 0.0)


def test_live_profile_has_the_24_keys_in_their_recorded_order() -> None:
    keys = list(msgspec.to_builtins(ErrorFlags()))
    assert len(keys) == 24
    assert keys[:3] == [
        "formula_parse_error",
        "sample_parse_error",
        "sample_parse_error_details",
    ]
    assert keys.index("model_grader_server_error_details") == 18
    assert keys[-1] == "endpoint_grader_safety_check_error"


def test_schema_profile_has_the_14_published_keys() -> None:
    keys = set(msgspec.to_builtins(SchemaErrorFlags()))
    assert len(keys) == 14
    assert keys < set(msgspec.to_builtins(ErrorFlags()))


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.code)
def test_every_failure_raises_exactly_its_flag(failure: Failure) -> None:
    flags = msgspec.to_builtins(error_flags((failure,), ErrorFlags))
    assert [name for name, value in flags.items() if value is True] == [failure.flag]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.code)
def test_schema_profile_says_other_error_where_it_lacks_the_flag(failure: Failure) -> None:
    flags = msgspec.to_builtins(error_flags((failure,), SchemaErrorFlags))
    expected = failure.flag if failure.flag in flags else "other_error"
    assert [name for name, value in flags.items() if value is True] == [expected]


def test_flags_carry_details_and_type_where_the_profile_has_them() -> None:
    failures = (
        Failure.of(InvalidVariableError("item.x cannot be found")),
        Failure.of(SandboxUnavailableError("no sandbox", kind="unauthorized_error")),
    )
    live = error_flags(failures, ErrorFlags)
    assert live.invalid_variable_error_details == "item.x cannot be found"
    assert live.python_grader_server_error_type == "unauthorized_error"
    schema = error_flags(failures, SchemaErrorFlags)
    assert schema.invalid_variable_error
    assert schema.python_grader_server_error_type == "unauthorized_error"


def test_first_of_several_equal_failures_gives_the_details() -> None:
    failures = tuple(Failure.of(InvalidVariableError(text)) for text in ("first", "second"))
    assert error_flags(failures, ErrorFlags).invalid_variable_error_details == "first"


def test_no_failure_raises_no_flag() -> None:
    assert error_flags((), ErrorFlags) == ErrorFlags()


def test_upstream_failure_says_whether_a_retry_helps() -> None:
    error = errors.OverloadedError("full", retry_after_s=2.0)
    failure = Failure.of(error, part="a")
    assert failure.upstream
    assert failure.retryable
    assert failure.retry_after_s == 2.0
    assert failure.part == "a"


def test_grade_is_ok_without_failures_only() -> None:
    own = Failure.of(InvalidVariableError("d"))
    upstream = Failure.of(SandboxUnavailableError("d"))
    assert Grade(reward=0.0).ok
    assert Grade(reward=0.0).upstream_failure is None
    grade = Grade(reward=0.0, failures=(own, upstream))
    assert not grade.ok
    assert grade.upstream_failure is upstream


def test_signature_names_the_judges_that_answered() -> None:
    grade = Grade(reward=1.0, judgements=("judge:a:k1", "judge:b:k2"))
    assert grade.signature("base") == "base|judge:a:k1|judge:b:k2"
    assert Grade(reward=1.0).signature("base") == "base"


def test_token_usage_adds_field_by_field() -> None:
    one = TokenUsage(prompt_tokens=1, total_tokens=3, completion_tokens=2, cached_tokens=4)
    assert one + one == TokenUsage(
        prompt_tokens=2, total_tokens=6, completion_tokens=4, cached_tokens=8
    )
