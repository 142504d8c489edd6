"""Reports: for people, and as JUnit XML."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from service.workshop.results import Result, has_failed, junit, report

RESULTS = [
    Result(grader="a@1", kind="example", name="line 1", seconds=0.25),
    Result(grader="a@1", kind="example", name="line 2", status="failed", lines=("no", "\x00<é>")),
    Result(grader="a@1", kind="lint", name="openai", status="noted", lines=("a warning",)),
    *(
        Result(grader="b@1", kind="probe", name=f"p{n}", status="skipped", lines=("not asked",))
        for n in range(4)
    ),
]


def test_report_has_a_line_a_grader_and_what_is_worth_reading() -> None:
    assert report(RESULTS) == [
        "FAIL  a@1: 2 example (1 failed), 1 lint",
        "      failed: example line 2",
        "        no",
        "        \x00<é>",
        "      noted: lint openai",
        "        a warning",
        "ok    b@1: 4 probe (4 skipped)",
        "      SKIPPED: 4 (p0, p1, p2 …)",
        "        not asked",
        "2 graders: 1 passed, 1 failed, 4 skipped, 1 noted",
    ]
    assert has_failed(RESULTS)
    assert not has_failed(RESULTS[2:])


def test_junit_has_a_suite_a_grader() -> None:
    root = ET.fromstring(junit(RESULTS))  # noqa: S314 - our own
    first, second = root
    assert (first.get("name"), first.get("tests"), first.get("failures")) == ("a@1", "3", "1")
    assert (second.get("skipped"), second.get("failures")) == ("4", "0")
    failure = first.find("testcase/failure")
    assert failure is not None
    assert (failure.get("message"), failure.text) == ("no", "no\n\\u0000<é>")
    assert first.findtext("testcase/system-out") == "a warning"
    assert first.find("testcase").get("time") == "0.250"  # type: ignore[union-attr] # it is there


def test_nothing_checked_is_no_failure() -> None:
    assert report([])[-1] == "0 graders: 0 passed, 0 failed, 0 skipped, 0 noted"
    assert ET.fromstring(junit([])).tag == "testsuites"  # noqa: S314 - our own
