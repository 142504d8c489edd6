"""Python graders through the whole service: HTTP routes, batches, and the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.world import Child, lines, metric, read_lines, running, wait_until, write_definitions
from tests.attacks.driver import children
from tests.sandbox import image

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

HALF = "def grade(sample, item):\n    return 0.5\n"
LENGTH = (
    "def grade(sample, item):\n    print('seen', sample['output_text'])\n"
    "    while item['hang']:\n        pass\n    return len(sample['output_text']) / 10\n"
)
FAILING = (
    "def helper(item):\n    return item['missing']\n\n"
    "def grade(sample, item):\n    print('before')\n    return helper(item)\n"
)
TIMEOUT_S = 3.0
HANGING = 32
# The others wait for at most one call to be found slow: half a second, where the tests are alone.
OTHERS_S = 2.0
HEALTHY_S = 0.05


def _python(name: str, source: str) -> dict[str, Any]:
    return {"type": "python", "name": name, "source": source, "image_tag": image.TAG}


DEFINITIONS = {
    "length": [_python("length", LENGTH)],
    "failing": [_python("failing", FAILING)],
    "both": [
        {
            "type": "multi",
            "name": "both",
            "graders": {"length": _python("length", LENGTH), "half": _python("half", HALF)},
            "calculate_output": "length + half",
        }
    ],
}


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    image.built()
    found = image.directory()
    if found.name != image.TAG:
        pytest.skip(f"the service looks for images by tag: {found} is not named {image.TAG}")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GRADEKEEPER_")]:
            patch.delenv(name)
        yield {
            "GRADEKEEPER_SANDBOX_IMAGES_DIR": str(found.parent),
            "GRADEKEEPER_SANDBOX_TIMEOUT_S": str(TIMEOUT_S),
            "GRADEKEEPER_SANDBOX_SLOTS": "2",
        }


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_definitions(tmp_path_factory.mktemp("definitions"), DEFINITIONS)


@pytest.fixture
def service(directory: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[Child]:
    with running(directory, tmp_path / "log", **environment) as child:
        wait_until(lambda: httpx.get(f"{child.url}/readyz").status_code == 200, 60)
        yield child


def _url(child: Child, name: str) -> str:
    return f"{child.url}/v1/graders/{name}/versions/latest/score"


def _row(text: str, *, hang: bool = False) -> dict[str, Any]:
    return {"item": {"hang": hang}, "model_sample": text}


def _metric(child: Child, name: str) -> float:
    return metric(httpx.get(f"{child.url}/metrics", timeout=30).text, f"gradekeeper_{name}")


def _run(child: Child, source: str, item: dict[str, Any] | None = None) -> dict[str, Any]:
    body = {"grader": _python("g", source), "item": item or {}, "model_sample": "four"}
    answer = httpx.post(f"{child.url}/v1/fine_tuning/alpha/graders/run", json=body, timeout=90)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_every_route_runs_it(service: Child) -> None:
    assert _run(service, HALF)["reward"] == 0.5
    one = httpx.post(_url(service, "both"), json=_row("four")).json()
    assert (one["reward"], one["sub_rewards"]) == (0.9, {"length": 0.4, "half": 0.5})
    assert _metric(service, 'sandbox_calls_total{outcome="value"}') >= 3


def test_one_hanging_row_of_a_batch_costs_nobody_else_anything(service: Child) -> None:
    rows = [_row("x" * n, hang=n == 5) for n in range(20)]
    url = _url(service, "length") + "/batch"
    answer = httpx.post(url, json={"rows": rows}, timeout=60).json()
    _assert_only_the_fifth_failed(answer["results"])

    headers = {"content-type": "application/x-ndjson"}
    streamed = httpx.post(url, content=lines(rows), headers=headers, timeout=60)
    *found, summary = read_lines(streamed.content)
    # The hanging row is the last to come back, the others do not wait for it.
    assert found[-1]["index"] == 5
    _assert_only_the_fifth_failed(sorted(found, key=lambda row: row["index"]))
    assert "index" not in summary


def _assert_only_the_fifth_failed(results: list[dict[str, Any]]) -> None:
    assert [row["ok"] for row in results] == [n != 5 for n in range(20)]
    good = {n: row["reward"] for n, row in enumerate(results) if n != 5}
    assert good == {n: n / 10 for n in range(20) if n != 5}
    assert f"timed out after {TIMEOUT_S:g} s" in json.dumps(results[5])


def test_debug_shows_output_and_the_graders_own_lines(service: Child) -> None:
    url = _url(service, "failing")
    plain = httpx.post(url, json=_row("x")).json()
    debugged = httpx.post(url, params={"debug": "true"}, json=_row("x")).json()
    assert "before" not in json.dumps(plain.get("diagnostics", ""))
    assert "before" in json.dumps(debugged["diagnostics"])
    assert "line 2, in helper" in json.dumps(debugged)
    assert "return item['missing']" in json.dumps(debugged)


@pytest.mark.serial
async def test_while_graders_hang_others_score_and_the_service_answers(
    directory: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    patient = environment | {"GRADEKEEPER_SANDBOX_TIMEOUT_S": "120"}
    with running(directory, tmp_path / "log", **patient) as service:
        wait_until(lambda: httpx.get(f"{service.url}/readyz").status_code == 200, 60)
        assert _run(service, HALF)["reward"] == 0.5
        hang = "def grade(sample, item):\n    while True:\n        pass\n"
        body = {"grader": _python("g", hang), "item": {}, "model_sample": "x"}
        url = f"{service.url}/v1/fine_tuning/alpha/graders/run"
        over = threading.Event()
        with ThreadPoolExecutor(2) as pool:
            async with httpx.AsyncClient(timeout=120, limits=httpx.Limits()) as client:
                hanging = [asyncio.create_task(client.post(url, json=body)) for _ in range(HANGING)]
                health = pool.submit(_health_s, service, over)
                others = pool.submit(_others_s, service, over)
                try:
                    async with asyncio.timeout(60):
                        while _metric(service, "sandbox_running") < HANGING:  # noqa: ASYNC110
                            await asyncio.sleep(0.5)  # looking takes the service time as well
                    await asyncio.sleep(2)
                finally:
                    over.set()
                assert not any(task.done() for task in hanging)
                for task in hanging:
                    task.cancel()
                await asyncio.gather(*hanging, return_exceptions=True)
            waits, took = sorted(health.result()), others.result()
    assert len(took) > 10
    assert max(took) < OTHERS_S
    assert waits[int(len(waits) * 0.99)] < HEALTHY_S, waits[-20:]


def _health_s(service: Child, over: threading.Event) -> list[float]:
    """Return how long the service took to say that it lives, each time."""
    took = []
    with httpx.Client(timeout=30) as client:
        while not over.wait(0.01):
            begun = time.perf_counter()
            assert client.get(f"{service.url}/healthz").status_code == 200
            took.append(time.perf_counter() - begun)
    return took


def _others_s(service: Child, over: threading.Event) -> list[float]:
    """Return how long other graders took, one after the other."""
    took = []
    while not over.wait(0.05):
        begun = time.perf_counter()
        assert _run(service, HALF)["reward"] == 0.5
        took.append(time.perf_counter() - begun)
    return took


def test_a_client_that_goes_away_frees_its_slots(service: Child) -> None:
    hang = "import time\ndef grade(sample, item):\n    time.sleep(60)\n    return 1.0\n"
    body = {"grader": _python("g", hang), "item": {}, "model_sample": "x"}
    before = children(service.process.pid)
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{service.url}/v1/fine_tuning/alpha/graders/run",
                json=body,
                timeout=httpx.Timeout(5, read=0.4),
            )
    wait_until(lambda: _metric(service, 'sandbox_kills_total{reason="cancelled"}') == 3)
    wait_until(lambda: _metric(service, "sandbox_running") == 0)
    assert _run(service, HALF)["reward"] == 0.5
    assert _metric(service, 'sandbox_kills_total{reason="timeout"}') == 0
    assert len(children(service.process.pid)) <= len(before) + 2  # tiers that were not there yet


@pytest.mark.parametrize("which", [0, 1, -1], ids=["outermost", "second", "tier"])
def test_a_killed_zygote_costs_at_most_one_retry(service: Child, which: int) -> None:
    assert _run(service, HALF)["reward"] == 0.5
    zygotes = _zygotes(service)
    slow = "import time\ndef grade(sample, item):\n    time.sleep(0.5)\n    return 0.25\n"
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(_run, service, slow) for _ in range(2)]
        wait_until(lambda: len(children(service.process.pid)) > len(zygotes))
        os.kill(zygotes[which], signal.SIGKILL)
        answers = [call.result() for call in calls]
        assert [answer["reward"] for answer in answers] == [0.25, 0.25], answers
    assert _run(service, HALF)["reward"] == 0.5
    assert _metric(service, "sandbox_zygote_restarts_total") >= 1


def _zygotes(child: Child) -> list[int]:
    found = children(child.process.pid)
    return [pid for pid in found if _group(pid) == found[0]]  # a leaf leads a group of its own


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def test_the_command_line_shows_output_and_traceback(
    directory: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    data, out = tmp_path / "rows.jsonl", tmp_path / "scores.jsonl"
    data.write_bytes(lines([_row("x")]))
    variables = {
        "GRADEKEEPER_DEFINITIONS": str(directory),
        "GRADEKEEPER_BUNDLED_DEFINITIONS": "false",
        **environment,
    }
    command = "from service.cli import main; raise SystemExit(main())"
    arguments = ["score", "failing", "--data", str(data), "--out", str(out), "--debug"]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        env=os.environ | variables,
        capture_output=True,
        check=False,
        timeout=90,
    )
    assert out.exists(), done.stderr
    text = out.read_text()
    assert "before" in text
    assert "line 2, in helper" in text
