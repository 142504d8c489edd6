"""What tests of the workshop share: folders of definitions, and ports without a sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from graders.building import Options
from graders.engine import compile_grader
from graders.ports import Ports
from service.workshop.check import Terms
from service.workshop.library import Subject
from service.workshop.results import Result
from tests.fakes import FakeSandbox, run_here

TEXT = "{{sample.output_text}}"
EXACT: dict[str, Any] = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": TEXT,
    "reference": "{{item.answer}}",
}
JUDGE: dict[str, Any] = {
    "type": "score_model",
    "name": "judge",
    "model": "gpt-4o-2024-08-06",
    "range": [1, 10],
    "input": [
        {"role": "system", "content": "Be strict."},
        {"role": "user", "content": f"Question {{{{item.question}}}}\nAnswer {TEXT}"},
    ],
}
LABEL: dict[str, Any] = {
    "type": "label_model",
    "name": "label",
    "model": "gpt-4o-2024-08-06",
    "input": [{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}],
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}
CODE: dict[str, Any] = {
    "type": "python",
    "name": "code",
    "source": "def grade(sample, item):\n"
    "    print('seen', sample['output_text'])\n"
    "    return 1.0 if len(sample['output_text']) < 5 else 0.5\n",
}
ENDPOINT: dict[str, Any] = {"type": "endpoint", "name": "e", "url": "https://example.com/score"}
COSINE: dict[str, Any] = {
    "type": "text_similarity",
    "name": "near",
    "evaluation_metric": "cosine",
    "input": TEXT,
    "reference": "{{item.answer}}",
}
OPTIONS = Options()


def multi(formula: str, **graders: dict[str, Any]) -> dict[str, Any]:
    """Return a multi grader."""
    return {"type": "multi", "name": "m", "graders": graders, "calculate_output": formula}


def row(text: str, reward: float, **fields: Any) -> dict[str, Any]:
    """Return an example about the answer "Paris"."""
    return {"item": {"answer": "Paris"}, "model_sample": text, "reward": reward, **fields}


def write(folder: Path, document: dict[str, Any], *examples: Any, **files: Any) -> Path:
    """Write version 1 of a definition; ``files`` are JSON files by stem."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "1.json").write_text(json.dumps(document))
    write_lines(folder / "examples.jsonl", *examples)
    for stem, value in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(value))
    return folder


def write_lines(path: Path, *values: Any) -> Path:
    """Write JSON Lines."""
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return path


def draft(folder: Path, document: Any, *examples: Any, **files: str) -> Path:
    """Write a draft; ``files`` are the sources beside ``grader.json``, ``_`` standing for a dot."""
    (folder / "src").mkdir(parents=True, exist_ok=True)
    (folder / "src" / "grader.json").write_text(json.dumps(document))
    write_lines(folder / "examples.jsonl", *examples)
    for name, text in files.items():
        (folder / "src" / name.replace("_", ".")).write_text(text)
    return folder


def subject(folder: Path, document: dict[str, Any], *examples: Any, **files: Any) -> Subject:
    """Return version 1 of a definition written to ``folder``."""
    write(folder, document, *examples, **files)
    return Subject(
        name=folder.name,
        version=1,
        folder=folder,
        document=document,
        grader=compile_grader(document, OPTIONS, purpose="store"),
    )


def terms(**fields: Any) -> Terms:
    """Return terms whose Python graders run in this process."""
    return Terms(**{"ports": Ports(sandbox=FakeSandbox(run_here)), **fields})


def shown(results: list[Result], status: str = "failed") -> str:
    """Return what results of a status say."""
    lines = [[each.name, *each.lines] for each in results if each.status == status]
    return "\n".join(line for group in lines for line in group)


def rewrite(path: Path, **fields: Any) -> None:
    """Change top-level fields of a JSON file."""
    path.write_bytes(msgspec.json.encode({**msgspec.json.decode(path.read_bytes()), **fields}))
