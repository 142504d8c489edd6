"""The dashboard: loads as it is provisioned, and asks for nothing that is not measured."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.prometheus import CATALOGUE, ROOT, RULES, problems, promtool, selectors

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "gradekeeper.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RECORDED = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    if "record" in rule
}
VARIABLES = {entry["name"]: entry for entry in DASHBOARD["templating"]["list"]}


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression by where it stands, with Grafana's intervals filled in."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", _filled(target["expr"])
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], _filled(annotation["expr"])


def _filled(expression: str) -> str:
    return expression.replace("$__rate_interval", "5m")


EXPRESSIONS = dict(expressions())
OURS = {place: text for place, text in EXPRESSIONS.items() if "ALERTS" not in text}


@pytest.mark.parametrize("place", OURS)
def test_an_expression_names_series_and_labels_that_exist(place: str) -> None:
    assert selectors(OURS[place])
    assert problems(OURS[place], RECORDED) == []


def test_every_expression_is_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"place:{number}", "expr": text}
        for number, text in enumerate(EXPRESSIONS.values())
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = [promtool(), "check", "rules", "--lint=none", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(EXPRESSIONS)} rules found" in done.stdout


def test_it_shows_the_whole_catalogue() -> None:
    shown = {name for text in OURS.values() for name, _ in selectors(text)}
    recorded = {name for text in RECORDED.values() for name, _ in selectors(text)}
    shown = {re.sub(r"_(bucket|count|sum)\Z", "", name) for name in shown | recorded}
    assert CATALOGUE.keys() <= shown


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_every_line_has_its_name(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        named = re.findall(r"{{(\w+)}}", target["legendFormat"])
        for label in named:
            assert re.search(rf"by \([^)]*\b{label}\b[^)]*\)", target["expr"]) or (
                target["expr"].startswith("grader_version:")
            )
        assert target["legendFormat"] or len(panel["targets"]) == 1


def test_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_variables_come_from_labels_that_exist() -> None:
    for name in ("grader", "version"):
        query = VARIABLES[name]["query"]["query"]
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found is not None
        series, label = found.groups()
        assert problems(f"sum by ({label}) ({series})", RECORDED) == []
    used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(PANELS)))
    assert used == VARIABLES.keys()


def test_grafana_is_told_where_everything_is() -> None:
    provisioning = GRAFANA / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "gradekeeper.yaml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == "/var/lib/gradekeeper/dashboards"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
