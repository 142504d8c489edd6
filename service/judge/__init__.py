"""Judge models and embeddings through any OpenAI-compatible endpoint, asked once and paid once.

`OpenAIJudge` implements the ports `graders.ports.Judge` and `graders.ports.Embedder`. It imports
the client library with the first call, reads no environment, and never turns a failure into a
reward.
"""

from service.judge.adapter import OpenAIJudge
from service.judge.budget import Budget, BudgetConfig
from service.judge.config import JudgeConfig
from service.judge.context import JudgeContext, current_context, judging
from service.judge.ensemble import Draw, Ensemble, Method, Sampling, combine, draw
from service.judge.estimate import CallCollector, ModelEstimate, Prediction
from service.judge.lane import RetryPolicy
from service.judge.outcome import MissingRecordingError
from service.judge.recording import Recording, RecordingError
from service.judge.routes import Price, Route, Routes, RoutesError, load_routes
from service.judge.shutdown import (
    ShutdownTable,
    known_shutdowns,
    listed_shutdowns,
    shutdown_warning,
)
from service.judge.stats import SECONDS_BUCKETS, JudgeStats, Latency, RouteState

__all__ = [
    "SECONDS_BUCKETS",
    "Budget",
    "BudgetConfig",
    "CallCollector",
    "Draw",
    "Ensemble",
    "JudgeConfig",
    "JudgeContext",
    "JudgeStats",
    "Latency",
    "Method",
    "MissingRecordingError",
    "ModelEstimate",
    "OpenAIJudge",
    "Prediction",
    "Price",
    "Recording",
    "RecordingError",
    "RetryPolicy",
    "Route",
    "RouteState",
    "Routes",
    "RoutesError",
    "Sampling",
    "ShutdownTable",
    "combine",
    "current_context",
    "draw",
    "judging",
    "known_shutdowns",
    "listed_shutdowns",
    "load_routes",
    "shutdown_warning",
]
