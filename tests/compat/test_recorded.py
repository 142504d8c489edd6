"""Request bodies of clients that no registry here has, as their sources write them.

Not run, because their packages are not on PyPI (miles, slime: the name is taken by a placeholder),
need Python 3.12 with Ray, MLflow and W&B (NeMo Gym 0.4.0), or are closed services. Each body names
the source and the commit in which it was read.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.dialects import DIALECTS
from tests.api.world import Live
from tests.dialects.pages import snippet

RECORDED: dict[str, tuple[str, str, Any, Any]] = {
    # slime/rollout/rm_hub/__init__.py, remote_rm,
    # THUDM/slime 0b420f1ef4161f02d2a00d47c1318eec955a4e2e
    "slime": (
        "slime", "",
        {"prompt": [{"role": "user", "content": "Capital of France?"}],
         "response": "Paris<|im_end|>", "label": "Paris"},
        1.0,
    ),
    # miles/rollout/rm_hub/__init__.py, radixark/miles 03f9cab162fafe8e71ee0a234b46344114d87e76
    "miles": (
        "slime", "",
        {"prompt": "Capital of France?", "response": "Lyon", "label": "Paris"},
        0.0,
    ),
    # externalCodeEvalDispatcher.ts, langfuse/langfuse 06f54bd80ba1f5fb9d1a5500e1ce9911cf98622c;
    # experiment keys of codeEvalDispatcherTypes.ts at 04728975856abbeaed651dcd6ad6fb800a0827a8
    "langfuse": (
        "langfuse", "label=label",
        {"scope": {"organizationId": "o", "projectId": "p", "evaluatorId": "e"},
         "runtime": {"language": "TYPESCRIPT"}, "execution": {"jobExecutionId": "j"},
         "code": {"source": "export default () => 1"},
         "payload": {"observation": {"input": None, "output": "Paris", "metadata": {}},
                     "experiment": {"expectedOutput": "Paris", "itemMetadata": {}}}},
        {"scores": [{"name": "capital", "value": 1.0, "dataType": "NUMERIC",
                     "comment": "capital@1"}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_body_is_answered(name: str, live: Live) -> None:
    dialect, query, body, expected = RECORDED[name]
    url = f"{live.url}/v1/graders/capital/versions/1/rewards/{dialect}?{query}"
    assert httpx.post(url, json=body).json() == expected


def test_roll_s_submit_and_poll(live: Live) -> None:
    """alibaba/ROLL, roll/pipeline/rlvr/rewards/remote_reward_system_worker.py (wire-protocols B.2).

    The loop is that of its ``get_task_result``: GET with a JSON body until ``errcode`` is not 1.
    """
    lines = snippet("roll", "config", url=live.url).splitlines()
    config = dict(line.split(": ", 1) for line in lines)
    key = config["xrl_authorization"].replace("…", "none")
    headers = {"XRL-Authorization": f"Bearer {key}", "BusinessType": "online"}
    example: Any = DIALECTS["roll"].example
    submitted = httpx.post(config["submit_url"], json=example, headers=headers).json()
    assert int(submitted["errcode"]) == 0
    question = {"reward_request_id": submitted["reward_request_id"]}
    answer: dict[str, Any] = {}
    for _ in range(100):
        url = config["get_result_url"]
        answer = httpx.request("GET", url, json=question, headers=headers).json()
        if int(answer["errcode"]) != 1:
            break
    assert answer["reward_score"] == 1.0


def test_nemo_gym_reply_has_what_its_models_demand(live: Live) -> None:
    """NVIDIA-NeMo/Gym 011c3386d691fd51a0ee388026c59660fcbffdac, ``BaseVerifyResponse``."""
    base = snippet("nemo-gym", "nemo-gym", url=live.url).strip().replace("capital", "strict")
    url = f"{base}/verify"
    example: Any = DIALECTS["nemo-gym"].example
    reply = httpx.post(url, json=example).json()
    assert {key: reply[key] for key in example} == example
    assert isinstance(reply["reward"], float)
    assert reply["mask_sample"] is True
    assert isinstance(reply["failure_kind"], str)
    assert isinstance(reply["failure_reason"], str)
