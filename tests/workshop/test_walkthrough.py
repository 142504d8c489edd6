"""docs/workshop.md, executed: every command in order, with the output that is printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def pattern(text: str) -> str:
    """Return an expression for output in which ``…`` alone on a line stands for any lines."""
    lines = [
        "(?:.*\n)*?" if line == "…" else f"{re.escape(line).replace('…', '.*')}\n"
        for line in text.splitlines()
    ]
    return "".join(lines)


def test_walkthrough_does_what_it_says(tmp_path: Path, sandbox: None) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "workshop.md").read_text(encoding="utf-8"))
    commands = [text for kind, text in blocks if kind == "sh"]
    outputs = [text for kind, text in blocks if kind == "text"]
    assert len(commands) == len(outputs) > 7
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("GRADEKEEPER_")
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["PYTHONPATH"] = str(ROOT)
    environment["GRADEKEEPER_SANDBOX_MIN_ISOLATION"] = "process"
    for command, output in zip(commands, outputs, strict=True):
        done = subprocess.run(
            ["bash", "-c", f"set -e\n{command}"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        told = f"{command}\n{done.stdout}\n{done.stderr}"
        assert re.fullmatch(pattern(output), done.stdout), told
        assert done.returncode == 0, told
