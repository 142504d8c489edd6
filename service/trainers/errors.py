"""What a reward function raises instead of giving a number that nobody gave.

::

    RewardError
    ├── RefusedError        the set-up is wrong (URL, key, grader, columns): always raised
    ├── UnavailableError    nobody could grade before the deadline: an outage
    └── UngradedError       the grader could not grade this sample

All of them survive pickling, since trainers call rewards in worker processes.
"""

from __future__ import annotations


class RewardError(RuntimeError):
    """Base of everything that a reward function raises on purpose.

    Attributes:
        message: One sentence.
        code: Stable machine-readable name, such as ``invalid_variable`` or ``judge_unavailable``.
    """

    def __init__(self, message: str, code: str) -> None:
        """Keep both as ``args``, from which a pickled exception is made again."""
        super().__init__(message, code)
        self.message = message
        self.code = code

    def __str__(self) -> str:
        """Return the message with its code."""
        return f"{self.message} ({self.code})"


class RefusedError(RewardError):
    """The request cannot succeed as it is set up; retrying or masking would hide a mistake."""


class UnavailableError(RewardError):
    """No reward before the deadline, after retries."""


class UngradedError(RewardError):
    """The grader could not grade this sample, for example because a variable is missing."""
