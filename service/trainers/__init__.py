"""Rewards for trainers that take Python callables: one module a trainer, standard library only.

Importing this package imports nothing of litestar, msgspec or the trainer, so that it fits into any
training environment. Rewards come from a gradekeeper server (``url=``) or are computed in process
(``definition=``, which needs msgspec and rapidfuzz). ``docs/trainers.md`` has the lines to write
for each trainer, and what each makes of a failure.
"""

from service.trainers.errors import (
    RefusedError,
    RewardError,
    UnavailableError,
    UngradedError,
)
from service.trainers.reward import Reward, connect
from service.trainers.rows import Failure, Result, Row
from service.trainers.source import Source

__all__ = [
    "Failure",
    "RefusedError",
    "Result",
    "Reward",
    "RewardError",
    "Row",
    "Source",
    "UnavailableError",
    "UngradedError",
    "connect",
]
