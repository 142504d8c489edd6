"""promptfoo from npm, as a command: the page's webhook assertion and its HTTP provider."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.api.world import Live
from tests.compat.environments import UnusableError, clean_environ, environment
from tests.dialects.pages import snippet

EVAL_S = 100


def evaluate(config: str, folder: Path) -> list[dict[str, Any]]:
    """Return the results of ``promptfoo eval``."""
    try:
        home = environment("promptfoo")
    except UnusableError as error:
        pytest.fail(str(error), pytrace=False)
    (folder / "promptfooconfig.yaml").write_text(config)
    program = home / "node_modules" / "promptfoo" / "dist" / "src" / "entrypoint.js"
    quiet = ("--no-cache", "--no-write", "--no-table", "--no-progress-bar")
    node = str(home / "bin" / "node")
    command = [node, str(program), "eval", "-c", "promptfooconfig.yaml", *quiet, "-o", "out.json"]
    environ = {
        **clean_environ(),
        "PROMPTFOO_CONFIG_DIR": str(folder / "home"),
        "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
        "PROMPTFOO_DISABLE_TELEMETRY": "1",
        "PROMPTFOO_DISABLE_UPDATE": "1",
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=EVAL_S,
        check=False,
    )
    out = folder / "out.json"
    assert out.exists(), (done.stdout + done.stderr)[-3000:]
    results: list[dict[str, Any]] = json.loads(out.read_text())["results"]["results"]
    return results


def test_the_webhook_passes_and_fails_and_never_passes_on_a_failure(
    live: Live, tmp_path: Path
) -> None:
    page = snippet("promptfoo", "promptfooconfig.yaml", url=live.url)
    url = next(line.split()[-1] for line in page.splitlines() if "value:" in line)
    strict = url.replace("capital", "strict")
    more = [
        f"  - {{vars: {{label: Lyon}}, assert: [{{type: webhook, value: '{url}'}}]}}",
        f"  - {{vars: {{label: x}}, assert: [{{type: webhook, value: '{strict}'}}]}}",
        f"  - {{vars: {{label: x}}, assert: [{{type: not-webhook, value: '{strict}'}}]}}",
    ]
    results = evaluate(page + "\n".join(more) + "\n", tmp_path)
    results.sort(key=lambda result: result["testIdx"])
    assert [result["success"] for result in results] == [True, False, False, False]
    assert results[0]["gradingResult"]["componentResults"][0]["reason"] == "capital@1: 1"
    assert "422" in results[2]["gradingResult"]["componentResults"][0]["reason"]


def test_the_http_provider(live: Live, tmp_path: Path) -> None:
    (result,) = evaluate(snippet("promptfoo", "http-provider.yaml", url=live.url), tmp_path)
    assert result["success"], result
    assert result["response"]["output"] == 1
