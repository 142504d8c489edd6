"""Everything that is wrong or doubtful about a definition, at once, as JSON pointers."""

from __future__ import annotations

from graders.building import Options
from graders.engine import Purpose, compile_grader
from graders.errors import DefinitionError, Finding
from graders.export import Target, left_out
from graders.sample import JsonValue


def lint(
    raw: JsonValue, options: Options, *, purpose: Purpose = "store", target: Target | None = None
) -> list[Finding]:
    """Return every finding about a definition; an empty list means nothing to say.

    Args:
        raw: Grader JSON as posted.
        options: How this process compiles.
        purpose: What the definition is for; see `graders.engine.compile_grader`.
        target: Also warn about what this export target cannot carry.
    """
    try:
        grader = compile_grader(raw, options, purpose=purpose)
    except DefinitionError as error:
        return list(error.findings)
    findings = list(grader.warnings)
    if target is not None:
        findings += [note for note in left_out(grader, target) if note not in findings]
    return findings
