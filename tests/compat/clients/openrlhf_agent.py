"""Drives OpenRLHF's SingleTurnAgentExecutor; its package needs torch, its agent module does not."""

import asyncio
import importlib.util
import json
import logging
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

given = json.load(sys.stdin)
logs = SimpleNamespace(init_logger=logging.getLogger)
sys.modules["openrlhf.utils.logging_utils"] = logs  # type: ignore[assignment]
path = Path(sysconfig.get_path("purelib")) / "openrlhf" / "utils" / "agent.py"
spec = importlib.util.spec_from_file_location("agent", path)
assert spec is not None
assert spec.loader is not None
agent = importlib.util.module_from_spec(spec)
spec.loader.exec_module(agent)

TEXT = {1: "Capital of France? ", 2: given["response"]}


class Tokenizer:
    """One token for the prompt and one for the response."""

    def __call__(self, **_):  # type: ignore[no-untyped-def] # noqa: ANN003, ANN204
        return {"input_ids": [SimpleNamespace(tolist=lambda: [1])]}

    def decode(self, tokens, **_):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN003, ANN201
        return "<s>" + "".join(TEXT[token] for token in tokens)


class Engine:
    """Generates the response."""

    async def generate(self, *_, **__):  # type: ignore[no-untyped-def] # noqa: ANN002, ANN003, ANN201
        output = SimpleNamespace(token_ids=[2], finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output])


async def main() -> None:
    executor = agent.SingleTurnAgentExecutor(given["url"])
    params = SimpleNamespace(max_tokens=8, logprobs=None)
    rollout = await executor.execute(TEXT[1], "Paris", params, 100, Tokenizer(), Engine())
    print(  # noqa: T201
        json.dumps({key: rollout[key] for key in ("reward", "scores", "extra_logs")})
    )


asyncio.run(main())
