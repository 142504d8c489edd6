"""Drives verifiers' NeMo Gym task: ``setup`` posts /seed_session, the reward posts /verify."""

import asyncio
import json
import sys
from types import SimpleNamespace
from typing import Any

from verifiers.v1.tasksets.nemo_gym import (  # type: ignore[import-not-found]
    NeMoGymTask,
    NeMoGymTaskConfig,
)
from verifiers.v1.tasksets.nemo_gym.taskset import NeMoGymData  # type: ignore[import-not-found]
from verifiers.v1.tasksets.nemo_gym.toolset import NeMoGymState  # type: ignore[import-not-found]
from verifiers.v1.types import (  # type: ignore[import-not-found]
    AssistantMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)

given = json.load(sys.stdin)


def node(message: Any, *, sampled: bool) -> SimpleNamespace:
    return SimpleNamespace(message=message, sampled=sampled, timestamp=1.0)


async def main() -> None:
    row = {
        "responses_create_params": {"input": [{"role": "user", "content": "Capital of France?"}]},
        "label": "Paris",
        "options": ["Paris", "Lyon"],
    }
    data = NeMoGymData(name="rows:0", prompt="Capital of France?", row=row)
    config = NeMoGymTaskConfig(resources_url=given["url"], headers=given.get("headers", {}))
    task = NeMoGymTask(data, config)
    call = ToolCall(id="c1", name="look_up", arguments="{}")
    nodes = [
        node(UserMessage(content="Capital of France?"), sampled=False),
        node(
            AssistantMessage(content="Let me see.", reasoning_content="hm", tool_calls=[call]),
            sampled=True,
        ),
        node(ToolMessage(tool_call_id="c1", content="Paris"), sampled=False),
        node(AssistantMessage(content=given["response"]), sampled=True),
    ]
    metrics: dict[str, float] = {}
    trace = SimpleNamespace(
        id="t1",
        state=NeMoGymState(),
        info={},
        branches=[SimpleNamespace(nodes=nodes)],
        record_metric=metrics.__setitem__,
    )
    await task.setup(trace, None)
    try:
        reward = await task.nemo_gym(trace)
    except Exception as error:  # noqa: BLE001 - whatever the client raises
        print(json.dumps({"raised": type(error).__name__, "text": str(error)}))  # noqa: T201
        return
    answer = {"reward": reward, "metrics": metrics, "info": trace.info["nemo_gym"]}
    print(json.dumps(answer))  # noqa: T201


asyncio.run(main())
