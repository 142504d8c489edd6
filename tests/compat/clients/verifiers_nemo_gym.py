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


def node(message: Any, *, sampled: bool) -> SimpleNamespace:
    return SimpleNamespace(message=message, sampled=sampled, timestamp=1.0)


async def run(given: dict[str, Any]) -> dict[str, Any]:
    """Return reward, metrics and info of one case, or what was raised."""
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
        return {"raised": type(error).__name__, "text": str(error)}
    return {"reward": reward, "metrics": metrics, "info": trace.info["nemo_gym"]}


async def main() -> None:
    """Run every case; importing takes far longer than all of them."""
    cases = json.load(sys.stdin)
    print(json.dumps({name: await run(case) for name, case in cases.items()}))  # noqa: T201


asyncio.run(main())
