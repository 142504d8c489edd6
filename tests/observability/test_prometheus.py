"""A real Prometheus with our configuration, rules and dashboard over the real service."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.api.world import Child, key_entry, rows, running, wait_until, write_definitions
from tests.observability.prometheus import RULES
from tests.observability.test_alerts import ALERTS, CONFIG
from tests.observability.test_dashboard import OURS
from tests.stores.server import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

SCORE = "/v1/graders/exact/versions/1/score/batch"


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Run Prometheus over one replica, as deploy/ configures it but once a second; give its URL."""
    found = shutil.which("prometheus") or shutil.which(
        "prometheus", path=str(Path(sys.prefix) / "bin")
    )
    if found is None:
        pytest.skip("prometheus is not installed: make promtool")
    config = yaml.safe_load(CONFIG.read_text())
    (scrape,) = config["scrape_configs"]
    (dns,) = scrape.pop("dns_sd_configs")
    assert dns["port"] == 8080
    scrape["static_configs"] = [{"targets": [target]}]
    scrape["authorization"]["credentials_file"] = str(folder / "prometheus.key")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (folder / RULES.name).write_text(RULES.read_text().replace("interval: 1m", "interval: 1s"))
    port = free_port()
    command = [
        found,
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(url), 60)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").is_success
    except httpx.TransportError:
        return False


def query(url: str, expression: str) -> list[Any]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", answer
    found: list[Any] = answer["data"]["result"]
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    place = tmp_path_factory.mktemp("service")
    entries = [
        key_entry("trainer", "gk-trainer", ["score"]),
        key_entry("prometheus", "gk-prometheus", ["metrics"]),
    ]
    (place / "keys.json").write_text(json.dumps(entries))
    baselines = place / "baselines.json"
    baselines.write_text('{"exact@1": {"mean": 0.5, "std": 0.25}}')
    environment = {
        "GRADEKEEPER_API_KEYS_FILE": str(place / "keys.json"),
        "GRADEKEEPER_REWARD_BASELINES_FILE": str(baselines),
        "GRADEKEEPER_SANDBOX": "off",
    }
    definitions = write_definitions(place / "definitions")
    with running(definitions, place / "log", **environment) as child:
        yield child


@pytest.fixture(scope="module")
def url(service: Child, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has seen the service grade."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.key").write_text("gk-prometheus")
    with prometheus(folder, service.url.removeprefix("http://")) as url:
        wait_until(lambda: query(url, "gradekeeper_workers"), 60)
        headers = {"authorization": "Bearer gk-trainer"}
        for _ in range(5):
            body = {"rows": rows(300)}  # a third is right
            httpx.post(service.url + SCORE, json=body, headers=headers).raise_for_status()
            time.sleep(1)
        wait_until(lambda: query(url, "grader_version:gradekeeper_reward:drift"), 60)
        yield url


def test_the_replica_is_scraped_with_the_key(url: str) -> None:
    (target,) = httpx.get(f"{url}/api/v1/targets").json()["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_every_rule_is_evaluated(url: str) -> None:
    groups = httpx.get(f"{url}/api/v1/rules").json()["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert rules.keys() >= ALERTS.keys()
    assert {name: rule["lastError"] for name, rule in rules.items() if rule.get("lastError")} == {}
    assert {rule["health"] for rule in rules.values()} == {"ok"}


def test_drift_is_that_of_the_rewards(url: str) -> None:
    (mean,) = query(url, "grader_version:gradekeeper_reward:mean1h")
    assert mean["metric"]["grader"] == "exact"
    assert float(mean["value"][1]) == pytest.approx(1 / 3, abs=0.01)
    (drift,) = query(url, "grader_version:gradekeeper_reward:drift")
    assert float(drift["value"][1]) == pytest.approx((1 / 3 - 0.5) / 0.25, abs=0.05)


def test_the_dashboard_can_be_asked(url: str) -> None:
    answered = {
        place
        for place, text in OURS.items()
        if query(url, re.sub(r"\$(grader|version)", ".*", text))
    }
    assert len(answered) > len(OURS) / 3
    assert {"Rewards A", "Distribution A", "Drift A", "Waiting for the processor A"} <= answered
