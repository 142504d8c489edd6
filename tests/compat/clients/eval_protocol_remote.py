"""Runs the snippet of the page, and two calls that must raise, with eval-protocol's own client."""

import json
import logging
import sys
from typing import Any

given = json.load(sys.stdin)
logging.disable()
names: dict[str, Any] = {}
exec(given["snippet"], names)  # noqa: S102 - the page's own snippet
result = names["result"]

from eval_protocol.reward_function import (  # type: ignore[import-not-found] # noqa: E402
    RewardFunction,
)

raised = []
for url in given["failing"]:
    call = RewardFunction(mode="remote", endpoint=url)
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "x"}]
    try:
        raised.append(call(messages=messages, ground_truth="x").score)
    except Exception as error:  # noqa: BLE001 - whatever the client raises
        raised.append(str(error).partition(" for url")[0])
print(json.dumps({"score": result.score, "reason": result.reason, "raised": raised}))  # noqa: T201
