"""A scrape of the real thing: two workers, Redis, judges, Python graders, and hostile callers."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from service import __version__
from service.metrics import Metrics
from tests.api.world import (
    CODED,
    COSINE,
    EXACT,
    JUDGED,
    LABELLED,
    MIXED,
    REMOTE,
    ROUGE,
    lines,
    rows,
    write_definitions,
)
from tests.cli.world import serving, until
from tests.fakes_upstream import Asked, Says, Upstream, completion, embeddings, error
from tests.judge.served import Background, budgets_file, judged, routes_file, score_path, verdict
from tests.sandbox import image
from tests.stores.server import RedisServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MARKER = "confidential-77ad"
GRADERS = ("exact", "overlap", "judged", "labelled", "meaning", "coded", "hanging", "mixed")
RUN = "/v1/fine_tuning/alpha/graders/run"
MODELS = 250  # more than both workers together count by name
LEFT = "gradekeeper_judge_budget_left_dollars"
HANGING = "def grade(sample, item):\n    while True:\n        pass\n"
CATALOGUE = {series.name: series for series in Metrics().catalogue}
# What this traffic has no reason to show.
QUIET = {
    "gradekeeper_sandbox_zygote_restarts_total",
    "gradekeeper_definitions_reloads_total",
    # of a service with a separate runner: tests/runner/test_command.py
    "gradekeeper_runner_calls_total",
}


def answer(asked: Asked) -> Says:
    """Answer under the name of whatever model was asked for; fail once."""
    if asked.number == 1:
        return error(500)
    if asked.path.endswith("/embeddings"):
        return embeddings(asked)
    prompt = json.dumps(asked.body)
    result = "good" if "label_classification" in prompt else "0.5"
    return completion(verdict(result), model=str(asked.body.get("model")))


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Background() as upstream:
        upstream.script = answer
        yield upstream


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[dict[str, str]]:
    image.built()
    place = tmp_path_factory.mktemp("live")
    definitions: dict[str, list[dict[str, Any]]] = {
        "exact": [EXACT],
        "overlap": [ROUGE],
        "judged": [JUDGED],
        "labelled": [LABELLED],
        "meaning": [COSINE],
        "coded": [CODED],
        "mixed": [MIXED],
        "hanging": [{**CODED, "source": HANGING}],
        "remote": [{**REMOTE, "url": f"{upstream.url}/{MARKER}"}],
    }
    baselines = place / "baselines.json"
    baselines.write_text('{"exact@1": {"mean": 0.5, "std": 0.25}}')
    with RedisServer() as redis, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GRADEKEEPER_")]:
            patch.delenv(name)
        variables = {
            "definitions": str(write_definitions(place / "definitions", definitions)),
            "bundled_definitions": "false",
            "redis_url": redis.url,
            "judge_routes_file": str(routes_file(place, upstream.url)),
            "judge_budgets_file": str(
                budgets_file(
                    place,
                    {"per": "total", "dollars_per_day": 5.0},
                    {"per": "grader", "name": "labelled", "dollars_per_day": 0},
                )
            ),
            "reward_baselines_file": str(baselines),
            "sandbox_images_dir": str(image.directory().parent),
            "sandbox_timeout_s": "1",
            "endpoint_allowed_networks": "127.0.0.0/8",
            "access_log": "false",
        }
        yield {f"GRADEKEEPER_{name.upper()}": value for name, value in variables.items()}


@pytest.fixture(scope="module")
def url(environment: dict[str, str]) -> Iterator[str]:
    with serving("--workers", "2", **environment) as (_, url):
        until(lambda: httpx.get(f"{url}/readyz", timeout=20).is_success, timeout_s=120)
        yield url


def traffic(url: str) -> None:
    """Do everything once, a connection a request, so that both workers have some."""
    no_keeping = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=url, limits=no_keeping, timeout=60) as client:
        for name in (*GRADERS, "remote"):
            client.post(score_path(name), json=judged(f"{MARKER} {name}"))
        batch = {"rows": rows(30)}
        for _ in range(10):
            assert client.post(score_path("exact", batch=True), json=batch).is_success
        ndjson = {"content-type": "application/x-ndjson"}
        stream = lines([*rows(9), {"item": 3}])
        client.post(score_path("exact", batch=True), content=stream, headers=ndjson)
        for _ in range(3):  # from the cache
            client.post(score_path("judged"), json=judged("again"))
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: _hostile(client, number), range(MODELS)))


def _hostile(client: httpx.Client, number: int) -> None:
    """Call with names of the caller's choice wherever there is room for one."""
    grader = {**JUDGED, "name": f"{MARKER}-{number}", "model": f"{MARKER}-{number}"}
    grader = {**grader, "input": [{"role": "user", "content": f"{number}"}]}
    client.post(RUN, json={"grader": grader, "model_sample": MARKER})
    if number % 5 == 0:
        client.get(f"/v1/graders/{MARKER}/versions/{number}")
        client.get(f"/{MARKER}/{number}", params={MARKER: number})
        client.request("PROPFIND", "/healthz")
        client.post(f"/v1/graders/exact/versions/1/rewards/{MARKER}", json={MARKER: number})


@pytest.fixture(scope="module")
def scraped(url: str) -> list[Metric]:
    """The series after all of that, once both workers have looked at their adapters."""
    traffic(url)
    until(lambda: value(scrape(url), "gradekeeper_grades_total", grader="exact") >= 300 + 9 + 2)
    until(
        lambda: value(scrape(url), "gradekeeper_judge_tokens_total", kind="prompt") >= 100 * MODELS
    )
    until(lambda: 0 < value(scrape(url), LEFT, per="total") < 5.0 - 0.00036 * MODELS)
    return scrape(url)


def scrape(url: str) -> list[Metric]:
    return list(text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=20).text))


def samples(found: list[Metric], name: str, **labels: str) -> list[Any]:
    return [
        sample
        for family in found
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def value(found: list[Metric], name: str, **labels: str) -> float:
    return sum(float(sample.value) for sample in samples(found, name, **labels))


def test_every_series_is_in_the_catalogue_with_its_type_help_and_labels(
    scraped: list[Metric],
) -> None:
    for family in scraped:
        name = family.name + ("_total" if family.type == "counter" else "")
        declared = CATALOGUE[name]
        assert (family.type, family.documentation) == (declared.type, declared.help)
        for sample in family.samples:
            suffix = sample.name.removeprefix(name)
            if declared.type == "histogram":
                assert suffix in {"_bucket", "_count", "_sum"}
            else:
                assert suffix == ""
            extra = {"le"} if suffix == "_bucket" else set()
            assert sample.labels.keys() == {*declared.labels, *extra}, sample.name


def test_the_traffic_shows_the_whole_catalogue(scraped: list[Metric]) -> None:
    shown = {family.name for family in scraped if family.samples}
    shown |= {f"{name}_total" for name in shown}
    assert CATALOGUE.keys() - shown <= QUIET


ROUTE = re.compile(r"\(none\)|/[a-z./_{}0-9-]*\Z")
COMMON_OUTCOMES = {"ok", "failed", "upstream"}
PLAIN = re.compile(r"[a-z0-9_]{1,40}\Z")
ALLOWED: dict[str, Callable[[str], object]] = {
    "code": PLAIN.match,
    "grader": lambda v: v.partition("@")[0] in {*GRADERS, "remote", "(ad hoc)", ""},
    "key": {""}.__contains__,
    "kind": {"prompt", "completion", "cached"}.__contains__,
    "level": {"namespaces", "lsm", "seccomp", "process"}.__contains__,
    "method": {"DELETE", "GET", "POST", "PUT", "(other)"}.__contains__,
    "name": {"", "labelled"}.__contains__,
    "operation": PLAIN.match,
    "outcome": PLAIN.match,
    "part": {"leader", "joined", "followed", "alone", "taken_over", "abandoned"}.__contains__,
    "per": {"key", "grader", "total"}.__contains__,
    "phase": {"whole", "part", "queue"}.__contains__,
    "reason": PLAIN.match,
    "result": PLAIN.match,
    "route": lambda v: v == "test" or ROUTE.match(v),
    "sign": {"positive", "negative"}.__contains__,
    "state": {"off", "starting", "running", "refused"}.__contains__,
    "status": re.compile(r"[1-5][0-9]{2}\Z").match,
    "type": {
        *("string_check", "text_similarity", "score_model", "label_model", "python"),
        *("endpoint", "multi"),
    }.__contains__,
    "version": {"1", "", __version__}.__contains__,
}


def test_labels_are_bounded_whatever_callers_send(scraped: list[Metric]) -> None:
    values: dict[str, set[str]] = defaultdict(set)
    for family in scraped:
        for sample in family.samples:
            for label, text in sample.labels.items():
                values[label].add(text)
    models = values.pop("model")
    assert "(other)" in models
    assert len(models) <= 2 * 100 + 1  # by two workers
    values.pop("le")
    assert values.keys() <= ALLOWED.keys()
    for label, found in values.items():
        assert len(found) <= 40
        for text in found:
            assert ALLOWED[label](text), (label, text)
            assert MARKER not in text


def test_counts_of_both_workers_are_one(scraped: list[Metric]) -> None:
    graded = {"grader": "exact", "version": "1"}
    name = "gradekeeper_grades_total"
    assert value(scraped, name, **graded, outcome="ok") == 1 + 300 + 9
    assert value(scraped, name, **graded, outcome="failed") == 1
    assert value(scraped, "gradekeeper_rewards_count", **graded) == 1 + 300 + 9
    assert value(scraped, "gradekeeper_reward_sum_total", **graded, sign="positive") == 103
    assert value(scraped, "gradekeeper_reward_squares_total", **graded) == 103
    whole = {"phase": "whole", "type": "string_check"}
    assert value(scraped, "gradekeeper_grade_duration_seconds_count", **whole) == 310
    assert value(scraped, "gradekeeper_workers") == 2
    assert value(scraped, "gradekeeper_build_info", version=__version__) == 1


def test_what_hung_was_killed_and_what_was_asked_was_paid(scraped: list[Metric]) -> None:
    assert value(scraped, "gradekeeper_sandbox_kills_total", reason="timeout") == 1
    assert value(scraped, "gradekeeper_sandbox_state", state="running") == 2
    for phase in ("whole", "part", "queue"):
        python = {"phase": phase, "type": "python"}
        assert value(scraped, "gradekeeper_grade_duration_seconds_count", **python) == 2
    spent = value(scraped, "gradekeeper_judge_cost_dollars_total")
    left = value(scraped, LEFT, per="total")
    assert value(scraped, "gradekeeper_judge_budget_limit_dollars", per="total") == 5.0
    assert 0.00036 * MODELS < spent < 0.00036 * (MODELS + 10)
    assert left == pytest.approx(5.0 - spent, abs=0.01)
    assert value(scraped, "gradekeeper_reward_baseline_mean", grader="exact") == 0.5
    assert value(scraped, "gradekeeper_grades_in_flight") == 0
    assert value(scraped, "gradekeeper_batch_rows_pending") == 0
