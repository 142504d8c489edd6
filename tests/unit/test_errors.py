from graders.errors import (
    DefinitionError,
    Finding,
    TemplateSyntaxError,
    UncarriedError,
    UnknownGraderError,
    UnknownVersionError,
)


def test_definition_error_reads_as_one_line_a_finding() -> None:
    findings = [
        Finding(pointer="/input", message="Missing.", code="missing_required_parameter"),
        Finding(pointer="", message="Odd.", code="odd"),
    ]
    error = DefinitionError(findings)
    assert error.findings == tuple(findings)
    assert str(error) == "/input: Missing.; /: Odd."


def test_syntax_error_underlines_its_place() -> None:
    error = TemplateSyntaxError("bad", source="ab {{x}} cd", span=(3, 8))
    assert str(error) == "bad\n    ab {{x}} cd\n       ^^^^^"


def test_syntax_error_shows_the_line_of_its_place_only() -> None:
    error = TemplateSyntaxError("bad", source="one\ntwo\nthree", span=(4, 7))
    assert str(error) == "bad\n    two\n    ^^^"


def test_syntax_error_in_a_long_line_shows_its_surroundings() -> None:
    source = "a" * 1000 + "!" + "b" * 1000
    shown = str(TemplateSyntaxError("bad", source=source, span=(1000, 1001))).splitlines()
    assert shown[1] == "    " + "a" * 60 + "!" + "b" * 60
    assert shown[2] == "    " + " " * 60 + "^"


def test_syntax_error_at_the_end_still_has_a_mark() -> None:
    error = TemplateSyntaxError("bad", source="ab", span=(2, 2))
    assert str(error) == "bad\n    ab\n      ^"


def test_unknown_names_come_with_those_that_exist() -> None:
    assert str(UnknownGraderError("x", ["a", "b"])) == (
        "no grader is named 'x'; known graders: a, b"
    )
    assert str(UnknownGraderError("x", [])) == "no grader is named 'x'; known graders: none"
    assert str(UnknownVersionError("a", "7", ["1", "latest"])) == (
        "grader 'a' has no version '7'; known: 1, latest"
    )


def test_refused_export_gives_its_reasons() -> None:
    error = UncarriedError("azure", ["one", "two"])
    assert error.reasons == ("one", "two")
    assert str(error) == "target 'azure' cannot take this grader: one; two"
