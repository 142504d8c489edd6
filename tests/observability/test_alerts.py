"""Alerts: each fires when it should and only then, names what there is, and says what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.prometheus import ROOT, RULES, problems, promtool
from tests.tools.alerts import RESOURCE, document

GUIDE = ROOT / "docs" / "alerts.md"
TESTS = RULES.with_suffix(".test.yaml")
CONFIG = RULES.with_name("prometheus.yaml")
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALL_RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL_RULES if "alert" in rule}
RECORDED = {rule["record"]: rule["expr"] for rule in ALL_RULES if "record" in rule}
CASES: dict[str, Any] = yaml.safe_load(TESTS.read_text())

# What must be told of, by the alerts that do.
DEMANDED = {
    "failure share": "FailureShare",
    "judge down": "JudgeDown",
    "cache unreachable": "CacheUnreachable",
    "sandbox below minimum": "SandboxBelowMinimum",
    "reward drift": "RewardDrift",
    "budget nearly spent": "BudgetNearlySpent",
    "saturation": "ProcessorSaturated",
}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([promtool(), *arguments], capture_output=True, text=True, check=False)


def cases_of(alert: str) -> list[dict[str, Any]]:
    return [
        case
        for case in CASES["tests"]
        if any(entry["alertname"] == alert for entry in case["alert_rule_test"])
    ]


def test_the_rules_hold_in_their_cases() -> None:
    done = run("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    key = tmp_path / "prometheus.key"
    key.touch()
    (tmp_path / RULES.name).write_text(RULES.read_text())
    config = tmp_path / CONFIG.name
    config.write_text(CONFIG.read_text().replace("/run/secrets/prometheus.key", str(key)))
    done = run("check", "config", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALL_RULES)} rules found" in done.stdout


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    cases = cases_of(alert)
    assert any(
        entry.get("exp_alerts")
        for case in cases
        for entry in case["alert_rule_test"]
        if entry["alertname"] == alert
    )
    # Not: at another time, or with other series beside those that fire.
    quiet_times = [
        entry
        for case in cases
        for entry in case["alert_rule_test"]
        if entry["alertname"] == alert and not entry.get("exp_alerts")
    ]
    assert quiet_times or any(
        len(entry["exp_alerts"]) < len(case["input_series"])
        for case in cases
        for entry in case["alert_rule_test"]
    )


MUTANTS = {
    "never": lambda rule: {**rule, "expr": f"({rule['expr']}) and vector(0) > 1"},
    "always": lambda rule: {
        **rule,
        "expr": re.sub(r"(?:==|<|>=|>) *[0-9.]+", ">= 0 or vector(1)", rule["expr"]),
    },
    "other severity": lambda rule: {**rule, "labels": {"severity": "page"}},
    "other runbook": lambda rule: {
        **rule,
        "annotations": {**rule["annotations"], "runbook": "docs/alerts.md"},
    },
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("alert", ALERTS)
def test_the_cases_notice_a_changed_rule(alert: str, mutant: str, tmp_path: Path) -> None:
    groups = [
        {
            **group,
            "rules": [
                MUTANTS[mutant](rule) if rule.get("alert") == alert else rule
                for rule in group["rules"]
            ],
        }
        for group in GROUPS
    ]
    (tmp_path / RULES.name).write_text(yaml.safe_dump({"groups": groups}))
    cases = tmp_path / TESTS.name
    # The first case is enough, and that of a day takes seconds.
    cases.write_text(yaml.safe_dump({**CASES, "tests": cases_of(alert)[:1]}))
    done = run("test", "rules", cases)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"alertname: {alert}" in done.stderr


def test_what_must_be_told_of_has_its_alert() -> None:
    assert set(DEMANDED.values()) <= ALERTS.keys()


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.get("alert", rule.get("record")))
def test_a_rule_names_series_and_labels_of_the_catalogue(rule: dict[str, Any]) -> None:
    assert problems(rule["expr"], RECORDED) == []


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("rate(gradekeeper_nothing_total[5m])", "gradekeeper_nothing_total is not in the"),
        ("gradekeeper_rewards", "gradekeeper_rewards is not in the"),
        ("gradekeeper_workers_bucket", "gradekeeper_workers_bucket is not in the"),
        ('gradekeeper_grades_total{colour="red"}', "gradekeeper_grades_total has no label colour"),
        ("sum by (le) (gradekeeper_grades_total)", "no series has the label le"),
        ("grader_version:nothing:1h > 0", "grader_version:nothing:1h is not in the"),
    ],
)
def test_other_names_would_be_noticed(expression: str, problem: str) -> None:
    (found,) = problems(expression, RECORDED)
    assert problem in found


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_explained_where_it_says(alert: str) -> None:
    rule = ALERTS[alert]
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", alert).lower()
    assert rule["annotations"]["runbook"] == f"docs/alerts.md#alert-{words.replace(' ', '-')}"
    assert f"## Alert: {words}\n" in GUIDE.read_text()
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["labels"]["severity"] in {"critical", "warning"}


def test_nothing_is_explained_that_does_not_exist() -> None:
    assert GUIDE.read_text().count("\n## Alert: ") == len(ALERTS)


def test_the_series_that_the_guide_names_exist() -> None:
    text = GUIDE.read_text()
    for expression in re.findall(r"`(gradekeeper_[a-z_]+)`", text):
        name = expression if "duration" not in expression else f"{expression}_count"
        name = name if "wait_seconds" not in name else f"{name}_count"
        assert problems(name, RECORDED) == []
    assert set(re.findall(r"`(grader_version:[a-z0-9_:]+)`", text)) <= RECORDED.keys()


def test_kubernetes_gets_the_same_rules() -> None:
    assert RESOURCE.read_text(encoding="utf-8") == document(), (
        "stale: run python -m tests.tools.alerts"
    )
    assert yaml.safe_load(document())["spec"] == {"groups": GROUPS}
