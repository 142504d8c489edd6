"""What a check found, and how people and build servers read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias
from xml.etree import ElementTree as ET  # only written, never parsed

import msgspec

Kind: TypeAlias = Literal["files", "example", "lint", "probe", "mutants"]
Status: TypeAlias = Literal["passed", "noted", "skipped", "failed"]
_SHOWN_NAMES = 3  # of skipped checks


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was checked.

    Attributes:
        grader: ``name@version``, or the name of a draft.
        kind: What was checked.
        name: Which one of that kind.
        status: ``noted`` is worth reading and no fault.
        lines: What to show.
        seconds: Time it took.
    """

    grader: str
    kind: Kind
    name: str
    status: Status = "passed"
    lines: tuple[str, ...] = ()
    seconds: float = 0.0


def has_failed(results: Iterable[Result]) -> bool:
    """Return whether anything failed."""
    return any(result.status == "failed" for result in results)


def report(results: Sequence[Result]) -> list[str]:
    """Return a line a grader, and below it everything that did not simply pass."""
    lines: list[str] = []
    graders = dict.fromkeys(result.grader for result in results)
    for grader in graders:
        own = [result for result in results if result.grader == grader]
        counts = Counter((result.kind, result.status) for result in own)
        mark = "FAIL" if has_failed(own) else "ok  "
        lines.append(f"{mark}  {grader}: {_counted(counts)}")
        lines += _details(own)
    statuses = Counter(result.status for result in results)
    shown = ", ".join(f"{statuses[s]} {s}" for s in ("passed", "failed", "skipped", "noted"))
    return [*lines, f"{len(graders)} graders: {shown}"]


def _counted(counts: Counter[tuple[Kind, Status]]) -> str:
    kinds = list(dict.fromkeys(kind for kind, _ in counts))
    shown = []
    for kind in kinds:
        total = sum(count for (each, _), count in counts.items() if each == kind)
        failed, skipped = counts[kind, "failed"], counts[kind, "skipped"]
        odd = [f"{failed} failed"] * bool(failed) + [f"{skipped} skipped"] * bool(skipped)
        shown.append(f"{total} {kind}" + (f" ({', '.join(odd)})" if odd else ""))
    return ", ".join(shown)


def _details(results: Iterable[Result]) -> list[str]:
    lines: list[str] = []
    skipped: dict[tuple[str, ...], list[str]] = {}
    for result in results:
        if result.status == "skipped":
            skipped.setdefault(result.lines, []).append(result.name)
        elif result.status != "passed":
            lines.append(f"      {result.status}: {result.kind} {result.name}")
            lines += [f"        {line}".rstrip() for line in result.lines]
    for why, names in skipped.items():
        shown = ", ".join(names[:_SHOWN_NAMES]) + (" …" if len(names) > _SHOWN_NAMES else "")
        lines.append(f"      SKIPPED: {len(names)} ({shown})")
        lines += [f"        {line}".rstrip() for line in why]
    return lines


def junit(results: Sequence[Result]) -> bytes:
    """Return the results as JUnit XML: a suite a grader, a case a result."""
    suites = ET.Element("testsuites", name="gradekeeper check")
    by_grader: dict[str, list[Result]] = {}
    for result in results:
        by_grader.setdefault(result.grader, []).append(result)
    for grader, own in by_grader.items():
        suite = ET.SubElement(
            suites,
            "testsuite",
            name=_xml(grader),
            tests=str(len(own)),
            failures=str(sum(result.status == "failed" for result in own)),
            errors="0",
            skipped=str(sum(result.status == "skipped" for result in own)),
            time=f"{sum(result.seconds for result in own):.3f}",
        )
        for result in own:
            _case(suite, result)
    ET.indent(suites)
    document: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _case(suite: ET.Element, result: Result) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_xml(f"{result.grader}.{result.kind}"),
        name=_xml(result.name),
        time=f"{result.seconds:.3f}",
    )
    text = _xml("\n".join(result.lines))
    first = _xml(result.lines[0]) if result.lines else ""
    if result.status == "failed":
        ET.SubElement(case, "failure", message=first).text = text
    elif result.status == "skipped":
        ET.SubElement(case, "skipped", message=first)
    elif result.status == "noted":
        ET.SubElement(case, "system-out").text = text


def _xml(text: str) -> str:
    """Return ``text`` with what XML cannot hold written as escapes."""
    return "".join(
        char if char in "\t\n" or (char.isprintable() or char == " ") else f"\\u{ord(char):04x}"
        for char in text
    )
