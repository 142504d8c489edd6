"""What surrounds user code: what is checked before, what it gets, what counts as a number."""

import json
import math
from typing import Any

import pytest

from graders.building import Builder, Options
from graders.engine import CompiledGrader, compile_grader
from graders.errors import DefinitionError, SandboxUnavailableError
from graders.grade import Grade
from graders.lint import lint
from graders.ports import Ports, SandboxResult
from graders.python import check_source
from graders.sample import Sample
from tests.fakes import FakeSandbox

SOURCE = "def grade(sample, item):\n    return 1.0\n"
LIMIT = 256 * 1024


def definition(source: str = SOURCE, **fields: Any) -> dict[str, Any]:
    return {"type": "python", "name": "g", "source": source, **fields}


def compiled(**fields: Any) -> CompiledGrader:
    return compile_grader(definition(**fields), Options(), purpose="run")


def found(source: str) -> list[str]:
    builder = Builder(Options())
    check_source(source, builder, "")
    return [finding.code for finding in builder.all]


async def graded(result: SandboxResult) -> Grade:
    return await compiled().grade({}, Sample("x"), Ports(sandbox=FakeSandbox(lambda _: result)))


class TestRun:
    async def test_code_gets_sample_and_item_as_json(self) -> None:
        sandbox = FakeSandbox(lambda _run: SandboxResult(outcome="value", value=0.25))
        item = {"a": [1, None, "é"]}
        await compiled().grade(item, Sample('{"x": 1}'), Ports(sandbox=sandbox))
        run = sandbox.calls[0]
        assert run.source == SOURCE
        assert run.image_tag == "2025-05-08"
        payload = json.loads(run.payload)
        assert payload["item"] == item
        assert payload["sample"] == Sample('{"x": 1}').namespace

    async def test_lone_surrogates_reach_the_code(self) -> None:
        sandbox = FakeSandbox(lambda _run: SandboxResult(outcome="value", value=0.25))
        await compiled().grade({"a": "\ud800"}, Sample("\udfff"), Ports(sandbox=sandbox))
        payload = json.loads(sandbox.calls[0].payload)
        assert payload["item"] == {"a": "\ud800"}
        assert payload["sample"]["output_text"] == "\udfff"

    async def test_stated_image_is_used(self) -> None:
        options = Options(image_tags=("2025-05-08", "next"))
        sandbox = FakeSandbox(lambda _run: SandboxResult(outcome="value", value=0.25))
        grader = compile_grader(definition(image_tag="next"), options, purpose="run")
        await grader.grade({}, Sample("x"), Ports(sandbox=sandbox))
        assert sandbox.calls[0].image_tag == "next"

    async def test_process_without_sandbox_says_so_and_never_scores(self) -> None:
        grade = await compiled().grade({}, Sample("x"), Ports())
        assert grade.reward == 0.0
        failure = grade.upstream_failure
        assert failure is not None
        assert failure.flag == "python_grader_server_error"
        assert failure.kind == "not_available"
        assert not failure.retryable

    async def test_sandbox_failure_is_upstream(self) -> None:
        sandbox = FakeSandbox(lambda _run: SandboxUnavailableError("gone", kind="oom"))
        grade = await compiled().grade({}, Sample("x"), Ports(sandbox=sandbox))
        failure = grade.upstream_failure
        assert failure is not None
        assert failure.retryable
        assert failure.kind == "oom"


class TestValue:
    @pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 17.0, 1e300, 5e-324])
    async def test_finite_number_is_the_reward_unclamped(self, value: float) -> None:
        grade = await graded(SandboxResult(outcome="value", value=value))
        assert grade.ok
        assert grade.reward == value

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    async def test_number_that_is_not_finite_is_a_runtime_error(self, value: float) -> None:
        grade = await graded(SandboxResult(outcome="value", value=value))
        assert grade.reward == 0.0
        assert [failure.flag for failure in grade.failures] == ["python_grader_runtime_error"]
        assert str(value) in grade.failures[0].message

    @pytest.mark.parametrize(
        "result",
        [
            SandboxResult(outcome="bad_value", details="grade returned None"),
            SandboxResult(outcome="exception", details="ZeroDivisionError"),
            SandboxResult(outcome="timeout", details="over 120 s"),
            SandboxResult(outcome="memory", details="over 2 GB"),
            SandboxResult(outcome="output", details="too much output"),
            SandboxResult(outcome="no_result"),
            SandboxResult(outcome="exception", value=1.0, details="raised after all"),
            SandboxResult(outcome="value"),
        ],
        ids=lambda result: f"{result.outcome}-{result.details}",
    )
    async def test_everything_else_is_a_runtime_error_of_the_grader(
        self, result: SandboxResult
    ) -> None:
        grade = await graded(result)
        assert grade.reward == 0.0
        assert [failure.code for failure in grade.failures] == ["python_runtime"]
        assert grade.failures[0].message == (result.details or result.outcome)
        assert not grade.failures[0].upstream

    async def test_captured_output_is_kept_for_who_debugs(self) -> None:
        result = SandboxResult(
            outcome="exception",
            details="d",
            stdout="out",
            stderr="err",
            execution_time_s=0.5,
            diagnostics={"isolation": "namespaces"},
        )
        assert (await graded(result)).diagnostics == {
            "": {
                "isolation": "namespaces",
                "stdout": "out",
                "stderr": "err",
                "execution_time": 0.5,
            }
        }


class TestSource:
    @pytest.mark.parametrize(
        "source",
        [
            SOURCE,
            "async def grade(sample, item): ...",
            "class grade: ...",
            "grade = lambda sample, item: 1.0",
            "if True:\n    def grade(s, i): return 1",
            "try:\n    from a import grade\nexcept ImportError:\n    grade = None",
            "import scorers as grade",
            "for grade in []: pass",
            "(grade := len)",
            'import re\nPATTERN = re.compile("\\d")\ndef grade(s, i): return 1',
        ],
    )
    def test_source_that_binds_grade_is_fine(self, source: str) -> None:
        assert found(source) == []

    @pytest.mark.parametrize(
        "source",
        ["", "x = 1", "def score(s, i): return 1", "def f():\n    grade = 1", "print(grade)"],
    )
    def test_source_without_grade_is_warned_about(self, source: str) -> None:
        assert found(source) == ["missing_grade"]

    @pytest.mark.parametrize(
        "source",
        [
            "def grade(sample, item)\n    return 1",
            "    def grade(s, i): return 1",
            "x = '\0'",
            "x = '\ud800'",
            "nonlocal grade",
            "def f(a, a): pass",
            "(" * 300 + ")" * 300,
            "x = " + "1" * 5000,
        ],
        ids=range(8),
    )
    def test_source_that_does_not_compile_is_an_error(self, source: str) -> None:
        assert found(source) == ["invalid_source"]

    def test_source_that_does_not_compile_may_run_and_then_fails_there(self) -> None:
        broken = definition("def grade(")
        assert compile_grader(broken, Options(), purpose="run").type == "python"
        for purpose in ("validate", "store"):
            with pytest.raises(DefinitionError):
                compile_grader(broken, Options(), purpose=purpose)

    def test_source_up_to_the_limit_is_accepted(self) -> None:
        source = SOURCE + "#" * (LIMIT - len(SOURCE))
        assert lint(definition(source), Options()) == []

    @pytest.mark.parametrize("filler", ["#" * LIMIT, "#" + "é" * (LIMIT // 2)])
    def test_source_over_the_limit_is_refused_by_its_bytes(self, filler: str) -> None:
        findings = lint(definition(SOURCE + filler), Options())
        assert [finding.code for finding in findings] == ["source_too_long"]


# Sources on which CPython's parser needs over 3 GB or 5 s, overflows a stack, or is merely odd.
HOSTILE = {
    "dotted import": "import " + "a." * (LIMIT // 2 - 5) + "a",
    "dotted import over continued lines": "from " + "a.\\\n" * (LIMIT // 4 - 20) + "a import b",
    "dotted import over form feeds": "import " + "a.\f" * (LIMIT // 3 - 5) + "a",
    "dotted import over carriage returns": "import " + "a.\\\r" * (LIMIT // 4 - 5) + "a",
    "f-string of placeholders": 'f"' + "{1}" * (LIMIT // 3 - 2) + '"',
    "raw f-string of placeholders": 'Rf"' + "{1}" * (LIMIT // 3 - 2) + '"',
    "minus signs": "-" * (LIMIT - 1) + "1",
    "sum": "1" + "+1" * (LIMIT // 2 - 1),
    "attributes": "a" + ".a" * (LIMIT // 2 - 1),
    "lambdas": "lambda:" * (LIMIT // 8) + "1",
}


@pytest.mark.attack
class TestHostileSource:
    @pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
    @pytest.mark.timeout(10)
    def test_costly_source_is_left_to_the_sandbox(self, source: str) -> None:
        assert len(source) <= LIMIT
        assert found(source) == ["unchecked_source"]

    def test_ordinary_braces_are_not_costly(self) -> None:
        assert found("x = {1: {2: {}}}\n" * 12_000) == ["missing_grade"]

    def test_only_so_much_source_of_one_definition_is_checked(self) -> None:
        source = SOURCE + "#" * (LIMIT - len(SOURCE))
        graders = {f"g{number}": definition(source) for number in range(3)}
        raw = {"type": "multi", "name": "m", "graders": graders, "calculate_output": "g0+g1+g2"}
        findings = lint(raw, Options())
        assert [(finding.pointer, finding.code) for finding in findings] == [
            ("/graders/g2/source", "unchecked_source")
        ]
