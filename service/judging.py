"""What routes and commands have in common about judges: models, draws, costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from msgspec import UNSET

from graders.grade import Failure, Grade
from graders.schema import Grader, LabelModel, Multi, ScoreModel
from service.judge import Draw, Ensemble, Sampling
from service.wire import DrawResult, EnsembleResult, RowError

NO_JUDGE = "is for graders that ask a judge model; this {} asks none"

ErrorOf = Callable[[tuple[Failure, ...]], RowError | None]


def judge_models(grader: Grader, pointers: Mapping[str, str]) -> dict[str, str]:
    """Return the judge models that ``grader`` asks, by where the definition names them.

    Args:
        grader: The typed definition.
        pointers: Where each part of a ``multi`` stands, by key.
    """
    is_multi = isinstance(grader, Multi)
    parts = grader.graders if isinstance(grader, Multi) else {"": grader}
    return {
        f"{pointers.get(key, '') if is_multi else ''}/model": part.model
        for key, part in parts.items()
        if isinstance(part, ScoreModel | LabelModel)
    }


def ensemble_result(ensemble: Ensemble, sampling: Sampling, error_of: ErrorOf) -> EnsembleResult:
    """Return ``ensemble`` as it travels; ``error_of`` gives the failure to show of a draw."""

    def shown(one: Draw) -> DrawResult:
        return DrawResult(
            model=one.model,
            sample_index=one.sample_index,
            reward=one.grade.own_reward,
            ok=one.grade.ok,
            error=error_of(one.grade.failures) or UNSET,
        )

    return EnsembleResult(
        method=sampling.method,
        spread=ensemble.spread,
        minimum=ensemble.minimum,
        maximum=ensemble.maximum,
        draws=[shown(one) for one in ensemble.draws],
    )


def cost_of(grade: Grade) -> float | None:
    """Return the dollars paid for the judges of ``grade``; None when no judge was asked."""
    costs = [part["cost_usd"] for part in grade.diagnostics.values() if "cost_usd" in part]
    return math.fsum(costs) if costs else None
