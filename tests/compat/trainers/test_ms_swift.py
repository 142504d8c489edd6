"""ms-swift's own reward loop calls our reward classes."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import logging
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from service.trainers.errors import UngradedError
from service.trainers.ms_swift import make_async_orm, make_orm
from tests.compat.trainers.published import loaded, stand_in
from tests.trainers.page import PAGE, snippet
from tests.trainers.servers import definition, flaky, good


class Sample:
    """An on-policy sample, with the row that ms-swift makes of it (swift/rl_core/data.py)."""

    def __init__(self, text: str, answer: str) -> None:
        user = {"role": "user", "content": "Capital of France?"}
        self.messages = [user, {"role": "assistant", "content": text}]
        self.answer = answer

    def to_reward_row(self) -> dict[str, Any]:
        columns = {"answer": self.answer, "solution": self.answer}
        ours: dict[str, Any] = {**columns, "images": [], "tools": None}
        theirs = {"prompt_id": "1", "request_id": "2", "finish_reason": "stop"}
        more = {"is_truncated": False, "rollout_infos": {}, "response_token_ids": [[1]]}
        return {"messages": self.messages, **theirs, **more, **ours}


def rows_to_batched(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


@pytest.fixture
def compute() -> Iterator[Any]:
    preprocessor = types.SimpleNamespace(rows_to_batched=rows_to_batched)
    stand_ins = (
        stand_in("swift.rl_core.data", GRPOSample=Sample),
        stand_in("swift.utils", get_logger=lambda: logging.getLogger("swift")),
        stand_in("swift.dataset", RowPreprocessor=preprocessor),
    )
    with loaded("swift.rl_core.grpo_algorithm", *stand_ins) as algorithm:

        def run(samples: list[Sample], *classes: Any) -> Any:
            functions = [kind(args=None) for kind in classes]  # as `_prepare_rewards` does
            return algorithm.compute_rewards_per_func(samples, functions, None, "cpu")

        yield run


def test_sync_and_async_classes_give_rewards(compute: Any) -> None:
    samples = [Sample("Paris", "Paris"), Sample("Rome", "Paris")]
    sync = make_orm(definition=definition("capital"))
    awaited = make_async_orm(definition=definition("parts"))
    assert compute(samples, sync, awaited).tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_our_classes_have_the_shape_of_theirs() -> None:
    infer = stand_in("swift.infer_engine", InferRequest=object)
    with loaded("swift.rewards.orm", infer) as orm:
        sync = make_orm(definition=definition("capital"))
        awaited = make_async_orm(definition=definition("capital"))
        assert sync(args="a").args == orm.ORM(args="a").args
        assert awaited(args="a").args == orm.AsyncORM(args="a").args
        orm.orms["capital"] = make_orm(definition=definition("capital"))
        assert orm.orms["capital"](args=None)(["x"], answer=["x"]) == [1.0]


def test_none_alone_would_count_as_zero_so_failures_raise(compute: Any) -> None:
    import torch

    samples = [Sample("no json", "Paris")]
    with pytest.raises(UngradedError):
        compute(samples, make_orm(definition=definition("needs-json")))
    abstaining = make_orm(definition=definition("needs-json"), on_ungraded=None)
    rewards = compute(samples, abstaining)
    assert torch.isnan(rewards).all()
    assert rewards.nansum(dim=1).tolist() == [0.0]  # as swift/rl_core/advantage.py adds up


def test_the_documented_plugin_registers_a_reward(
    compute: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = stand_in("swift.infer_engine", InferRequest=object)
    flag = re.findall(r"--reward_funcs (\w+)", PAGE)[0]
    with flaky(good) as server, loaded("swift.rewards.orm", infer) as orm:
        monkeypatch.setitem(sys.modules, "swift.rewards", stand_in("swift.rewards", orms=orm.orms))
        exec(snippet("ms_swift", server.url), {})  # noqa: S102 - our page
        assert compute([Sample("Paris", "Paris")], orm.orms[flag]).tolist() == [[5.0]]
    assert server.bodies[0]["rows"][0]["item"] == {"answer": "Paris"}
