"""What ships in graders/definitions: documented, pinned, exportable, and graded as documented."""

from typing import Any

import msgspec
import pytest

from graders import registry, schema
from graders.building import Options
from graders.export import TARGETS, Target
from graders.lint import lint
from graders.ports import Ports
from graders.registry import Definition
from graders.sample import Sample

BUNDLED = registry.load([registry.BUNDLED], Options())
DEFINITIONS = [version for name in BUNDLED.names() for version in BUNDLED.versions(name)]
IDS = [f"{definition.name}@{definition.version}" for definition in DEFINITIONS]
EXAMPLES = [
    pytest.param(definition, example, id=f"{definition.name}@{definition.version}-{number}")
    for definition in DEFINITIONS
    if definition.grader.is_pure  # the others in tests/workshop, with the sandbox and recordings
    for number, example in enumerate(definition.examples(), start=1)
]


def test_four_graders_ship() -> None:
    assert {"clause-matching", "exact-answer", "name-email-extraction", "tool-call-check"} <= set(
        BUNDLED.names()
    )


def test_lock_pins_every_version_in_order() -> None:
    lock = (registry.BUNDLED / registry.LOCK).read_text(encoding="utf-8")
    assert lock == registry.lock_lines(DEFINITIONS)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=IDS)
def test_definition_is_documented_and_has_examples(definition: Definition) -> None:
    assert definition.folder is not None
    readme = (definition.folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {definition.name}\n")
    assert definition.description.endswith(".")
    assert "Sources:" in readme
    examples = definition.examples()
    assert len(examples) >= 12
    assert len({example["note"] for example in examples}) == len(examples)
    rewards = {example["reward"] for example in examples}
    assert {0.0, 1.0} <= rewards
    # Our Python graders never fail by design; whatever renders a template can lack a variable.
    grader = definition.grader.grader
    parts = grader.graders.values() if isinstance(grader, schema.Multi) else [grader]
    if not all(isinstance(part, schema.Python) for part in parts):
        assert any("failure" in example for example in examples)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("definition", DEFINITIONS, ids=IDS)
def test_lint_has_nothing_to_say(definition: Definition, target: Target) -> None:
    raw = msgspec.json.decode(definition.document)
    findings = lint(raw, Options(), target=target)
    if isinstance(definition.grader.grader, schema.LabelModel):
        # No published union of fine-tuning graders lists the type, whatever the definition says.
        findings = [found for found in findings if found.code != "beyond_schema"]
    assert findings == []


@pytest.mark.parametrize(("definition", "example"), EXAMPLES)
async def test_example_gets_its_reward(definition: Definition, example: dict[str, Any]) -> None:
    sample = (
        Sample.from_object(example["sample"])
        if "sample" in example
        else Sample(example["model_sample"])
    )
    grade = await definition.grader.grade(example["item"], sample, Ports())
    assert grade.reward == pytest.approx(example["reward"], abs=1e-12)
    failure = {example["failure"]} if "failure" in example else set()
    assert {each.code for each in grade.failures} == failure


def test_readme_snippet_runs() -> None:
    readme = (registry.BUNDLED.parent / "README.md").read_text(encoding="utf-8")
    snippet = readme.partition("```python\n")[2].partition("```")[0]
    assert "assert grade.reward" in snippet
    exec(snippet, {})  # noqa: S102 - our own README
