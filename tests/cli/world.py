"""What tests of the command have in common: graders, rows, judges, processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import httpx

from graders.ports import JudgeCall, JudgeReply

COMMAND = str(Path(sys.executable).with_name("gradekeeper"))
TEXT = "{{sample.output_text}}"
EXACT = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": TEXT,
    "reference": "{{item.answer}}",
}
NEAR = {
    "type": "text_similarity",
    "name": "near",
    "evaluation_metric": "fuzzy_match",
    "input": TEXT,
    "reference": "{{item.answer}}",
    "pass_threshold": 0.5,
}
PARTS = {
    "type": "multi",
    "name": "parts",
    "graders": {"same": EXACT, "near": NEAR},
    "calculate_output": "(same + near) / 2",
}
JUDGED = {
    "type": "score_model",
    "name": "judged",
    "model": "gpt-4o-2024-08-06",
    "input": [{"role": "user", "content": "Grade {{sample.output_text}}"}],
}
CODED = {"type": "python", "name": "coded", "source": "def grade(sample, item):\n    return 1.0"}
GRADERS: dict[str, list[dict[str, Any]]] = {
    "exact": [EXACT, {**EXACT, "operation": "ilike"}],
    "near": [NEAR],
    "parts": [PARTS],
    "judged": [JUDGED],
    "coded": [CODED],
}


def write_definitions(directory: Path) -> Path:
    """Write all graders as a directory of definitions."""
    for name, versions in GRADERS.items():
        folder = directory / name
        folder.mkdir(parents=True)
        for number, document in enumerate(versions, start=1):
            write_json(folder / f"{number}.json", document)
    write_json(directory / "exact" / "labels.json", {"prod": 1, "beta": 2})
    (directory / "exact" / "README.md").write_text("# Exact\n\nThe very\nsame text.\n")
    return directory


def write_json(path: Path, value: Any) -> Path:
    """Write ``value`` as JSON."""
    path.write_text(json.dumps(value))
    return path


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Write JSON Lines."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def row(answer: str, text: str, **item: Any) -> dict[str, Any]:
    """Return a row in the usual form."""
    return {"item": {"answer": answer, **item}, "model_sample": text}


def many_rows(number: int) -> Iterator[dict[str, Any]]:
    """Yield rows whose rewards vary."""
    for index in range(number):
        yield row(f"answer {index % 7}", f"answer {index % 5}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewards(path: Path) -> list[float]:
    """Return the rewards of a file of scores, whose rows must be in order."""
    lines = read_lines(path)
    assert [line["row"] for line in lines] == list(range(len(lines)))
    return [line["reward"] for line in lines]


class Judge:
    """Answers through ``reply``, which may raise; counts."""

    def __init__(self, reply: Callable[[JudgeCall], float]) -> None:
        self.reply = reply
        self.asked = 0

    async def judge(self, call: JudgeCall) -> JudgeReply:
        self.asked += 1
        content = json.dumps({"steps": [], "result": self.reply(call)})
        return JudgeReply(content=content, model=call.model, key=f"k{self.asked}")


@contextlib.contextmanager
def running(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command as a process and end it at last; `log_of` has its standard error."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **environment},
        )
        process.stderr = log  # a pipe would fill up unread
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            readable(process.stdout).close()


def log_of(process: subprocess.Popen[str]) -> str:
    """Return what a process has written to standard error."""
    stream = readable(process.stderr)
    stream.seek(0)
    return stream.read()


def stop(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> int:
    """Send a signal and return how the process ended."""
    process.send_signal(number)
    return process.wait(40)


@contextlib.contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve on a port of the system's choice; yield the process and the URL it printed."""
    with running("serve", "--port", "0", *arguments, **environment) as process:
        line = readable(process.stdout).readline()
        url = line.partition(" listens on ")[2].split(" ")[0]
        assert url.startswith("http://"), line + log_of(process)
        until(lambda: httpx.get(f"{url}/healthz", timeout=20).is_success)
        yield process, url


def readable(stream: IO[str] | None) -> IO[str]:
    """Return a stream of a process started here."""
    assert stream is not None
    return stream


def until(holds: Callable[[], bool], *, timeout_s: float = 30.0) -> None:
    """Return once ``holds``."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
