"""The options that say how judges are asked: cache, draws, ensembles, recordings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import msgspec

from graders import importing
from graders.sample import JsonValue
from service.cli.failures import CommandError
from service.judge import JudgeContext, Sampling
from service.judge.context import CacheControl
from service.judge.ensemble import Method
from service.judging import NO_JUDGE, judge_models
from service.settings import Settings
from service.wire import CACHE_HEADER, SAMPLE_INDEX_HEADER

_INDEX_DIGITS = 6


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """How judges are asked.

    Attributes:
        cache: What the cache of replies does.
        sample_index: Number of the first draw.
        sampling: The ensemble; None asks once.
    """

    cache: CacheControl = "read-write"
    sample_index: int = 0
    sampling: Sampling | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What says the same to a server."""
        plain = PLAIN
        pairs = (
            (CACHE_HEADER, self.cache, plain.cache),
            (SAMPLE_INDEX_HEADER, str(self.sample_index), str(plain.sample_index)),
        )
        return {name: value for name, value, usual in pairs if value != usual}

    def terms(self, grader: str) -> JudgeContext:
        """Return the terms of a run in this process for ``grader`` (``name@version``)."""
        return JudgeContext(grader=grader, cache=self.cache, sample_index=self.sample_index)


PLAIN = Asking()


def add_ensemble_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare which draws are made."""
    group.add_argument(
        "--draws", type=int, metavar="N", help="ask N times a judge model and combine the rewards"
    )
    group.add_argument(
        "--combine", choices=get_args(Method), help="how the draws' rewards become one (mean)"
    )
    group.add_argument(
        "--judge-model",
        nargs="+",
        action="extend",
        metavar="M",
        help="ask these judge models in the place of the definition's",
    )
    group.add_argument(
        "--sample-index",
        type=_index,
        default=0,
        metavar="N",
        help="number of a deliberately independent draw; 0 shares the usual one",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare all of them."""
    group = parser.add_argument_group("judges")
    group.add_argument(
        "--cache",
        choices=get_args(CacheControl),
        default="read-write",
        help="refresh: ask again and keep the replies; off: neither look nor keep",
    )
    add_ensemble_arguments(group)
    files = group.add_mutually_exclusive_group()
    files.add_argument("--record", type=Path, metavar="FILE", help="also write every reply there")
    files.add_argument(
        "--replay", type=Path, metavar="FILE", help="ask nobody: answer from this recording"
    )


def asking_of(arguments: argparse.Namespace) -> Asking:
    """Return what the arguments ask for.

    Raises:
        CommandError: They do not go together.
    """
    draws, models = arguments.draws, arguments.judge_model
    sampling = None
    if draws is not None or models:
        fields = {"n": draws, "method": arguments.combine, "models": models}
        given = {name: value for name, value in fields.items() if value is not None}
        try:
            sampling = msgspec.convert(given, Sampling)
        except msgspec.ValidationError as error:
            raise CommandError(f"--draws, --judge-model: {error}") from error
    elif arguments.combine is not None:
        raise CommandError("--combine is only for --draws or --judge-model")
    return Asking(
        cache=getattr(arguments, "cache", "read-write"),
        sample_index=arguments.sample_index,
        sampling=sampling,
    )


def recorded(arguments: argparse.Namespace, settings: Settings) -> Settings:
    """Return ``settings`` with the recording that the arguments name.

    Raises:
        CommandError: The judges are a server's.
    """
    mode = "record" if arguments.record else "replay" if arguments.replay else None
    if mode is None:
        return settings
    if arguments.url is not None:
        raise CommandError("--record and --replay are about judges of this process, not of --url")
    file = arguments.record or arguments.replay
    return msgspec.structs.replace(settings, judge_mode=mode, judge_recording=str(file))


def asking_judges(document: JsonValue) -> None:
    """Refuse an ensemble over a grader without a judge.

    Raises:
        CommandError: ``document``, grader JSON, names no judge model.
    """
    reading = importing.read(document)
    grader = reading.grader
    if grader is None or not judge_models(grader, reading.pointers):
        kind = document.get("type") if isinstance(document, dict) else "value"
        raise CommandError(f"an ensemble {NO_JUDGE.format(kind)}")


def _index(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _INDEX_DIGITS):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 999999, got {text!r}")
    return int(text)
