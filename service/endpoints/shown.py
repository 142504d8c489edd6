"""How graders and versions are shown, whoever asks."""

from __future__ import annotations

import msgspec

from graders.registry import Definition
from service.endpoints.scores import reference
from service.masking import masked_text
from service.services import Services
from service.wire import DefinitionResponse, GraderSummary


def labels_of(services: Services, definition: Definition) -> list[str]:
    """Return the labels of a version."""
    labels = services.definitions.registry.labels(definition.name)
    return sorted(label for label, version in labels.items() if version == definition.version)


def summary(services: Services, name: str) -> GraderSummary:
    """Return one line about a grader."""
    latest = services.definitions.get(name, "latest")
    return GraderSummary(
        name=name,
        description=latest.description,
        type=latest.grader.type,
        latest=latest.version,
        labels=services.definitions.registry.labels(name),
    )


def shown(services: Services, definition: Definition) -> DefinitionResponse:
    """Return all that is to be known of a version."""
    grader = definition.grader
    return DefinitionResponse(
        **reference(definition),
        description=definition.description,
        labels=labels_of(services, definition),
        definition=msgspec.Raw(masked_text(definition.document)),
        lint=[*grader.warnings, *services.shutdowns.findings(grader.grader, grader.pointers)],
        examples=definition.examples(),
    )


def etag(definition: Definition) -> dict[str, str]:
    """Return the headers that say what the answer is about."""
    return {"etag": f'"{definition.digest}"'}
