"""An AWS Lambda that lets gradekeeper answer for reward functions of SageMaker and Bedrock.

Hands the event to ``…/rewards/aws`` as it came, whatever envelope the job uses, and gives back what
the service answers. What is not a reward for every sample raises, so that the invocation fails and
the job retries or drops it: nothing here makes up a number. Standard library only.

Environment: ``GRADER_URL``, the whole URL of the reward endpoint; ``GRADER_KEY``, a key that may
only score.
"""

import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from typing import Any

_RETRIED = {429, 502, 503, 504}  # too much at once, or a replica that goes away
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_MARGIN_S = 2.0  # to raise before Lambda cuts us off
_LOCAL_S = 5.0  # where SageMaker's SDK tries this file without a Lambda around it
_DETAIL_CHARS = 300  # the problem document names places, never samples


class RewardError(Exception):
    """There is no reward for this event."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key goes where the operator sent it, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: the redirect is the answer."""


_open = urllib.request.build_opener(_NoRedirect).open


def lambda_handler(event: Any, context: Any) -> Any:
    """Return the rewards for ``event``.

    Raises:
        RewardError: The service refused, did not answer in time, or answered something else.
    """
    request = urllib.request.Request(  # noqa: S310 - the operator's URL
        os.environ["GRADER_URL"],
        data=json.dumps(event).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Bearer " + os.environ.get("GRADER_KEY", ""),
        },
    )
    left = getattr(context, "get_remaining_time_in_millis", None)
    ends_at = time.monotonic() + (left() / 1000 - _MARGIN_S if left else _LOCAL_S)
    pause_s = _PAUSE_S
    while True:
        try:
            with _open(request, timeout=max(1.0, ends_at - time.monotonic())) as answer:
                return _checked(json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                problem = f"{error.code} {error.read(_DETAIL_CHARS).decode(errors='replace')}"
            if error.code not in _RETRIED:
                raise RewardError(problem) from None
            pause_s = max(pause_s, _retry_after(error))
        except (OSError, ValueError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        if time.monotonic() + pause_s >= ends_at:
            raise RewardError(f"no reward in time; last: {problem}")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _retry_after(error: urllib.error.HTTPError) -> float:
    value = error.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def _checked(answer: Any) -> Any:
    """Return ``answer`` if it has a finite reward for every sample it names."""
    rewards = json.loads(answer["body"]) if isinstance(answer, dict) else answer
    for reward in rewards:
        if not math.isfinite(reward["aggregate_reward_score"]):
            raise RewardError("the service answered a reward that is no finite number")
    return answer
