"""The judge models that definitions name, and what is known about their end."""

from __future__ import annotations

from collections.abc import Mapping

from graders.schema import Grader, LabelModel, Multi, ScoreModel


def judge_models(grader: Grader, pointers: Mapping[str, str]) -> dict[str, str]:
    """Return the judge models that ``grader`` asks, by where the definition names them.

    Args:
        grader: The typed definition.
        pointers: Where each part of a ``multi`` stands, by key.
    """
    parts = grader.graders if isinstance(grader, Multi) else {"": grader}
    return {
        f"{pointers.get(key, '') if isinstance(grader, Multi) else ''}/model": part.model
        for key, part in parts.items()
        if isinstance(part, ScoreModel | LabelModel)
    }
