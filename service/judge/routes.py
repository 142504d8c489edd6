"""Which upstream answers for which judge model, and on what terms.

Routes come from a small JSON file::

    {"routes": [{"name": "openai", "models": ["gpt-4.1*", "o3*"],
                 "base_url": "https://api.openai.com/v1", "api_key_env": "OPENAI_API_KEY",
                 "concurrency": 64, "requests_per_minute": 5000,
                 "price": {"input": 2.0, "cached_input": 0.5, "output": 8.0}},
                {"name": "local", "models": ["*"], "base_url": "http://127.0.0.1:8000/v1",
                 "upstream_model": "judge", "structured_output": "json_object"}],
     "successors": {"gpt-4o-2024-08-06": "gpt-4.1-2025-04-14"}}

The first route with a matching pattern wins. Without a file there is one route from
``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``, as the official client reads them. Environment values
are arguments: nothing here looks at the process's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from graders.grade import TokenUsage

OPENAI_URL: Final = "https://api.openai.com/v1"
_UNUSABLE: Final = "holds no key: it is empty, or holds what no header can carry"
_HTTP: Final = ("http://", "https://")
StructuredOutput = Literal["json_schema", "json_object", "prompt"]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Dollars = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class RoutesError(ValueError):
    """A routes file that cannot be used; says where and why."""


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dollars per million tokens.

    Attributes:
        input: Prompt tokens.
        output: Completion tokens, reasoning included.
        cached_input: Prompt tokens that the upstream had cached; None: as ``input``.
    """

    input: Dollars
    output: Dollars = 0.0
    cached_input: Dollars | None = None

    def nanodollars(self, usage: TokenUsage) -> int:
        """Return the cost of ``usage``, rounded to whole nanodollars."""
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        cached_price = self.input if self.cached_input is None else self.cached_input
        # Dollars per million tokens times tokens, in billionths: the factor is 1,000.
        return round(
            1_000
            * (
                self.input * (usage.prompt_tokens - cached)
                + cached_price * cached
                + self.output * usage.completion_tokens
            )
        )


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One upstream for some judge models.

    Attributes:
        name: Shown in diagnostics and metrics.
        models: Patterns of judge models (``*``, ``?``, ``[…]``) that this route answers.
        base_url: Root of the API, up to and including ``/v1``.
        api_key_env: Name of the environment variable with the key.
        api_key_file: File with the key; read again when it changes.
        upstream_model: Model name sent upstream; None sends the judge model's own name.
        api: ``chat_completions`` or ``responses``.
        structured_output: ``json_schema``: strict schema. ``json_object``: JSON is forced and the
            schema stands in the prompt. ``prompt``: the schema stands in the prompt only.
        max_tokens_field: How chat completions of this upstream spell the token limit.
        developer_role: False where only ``system`` is known; developer messages become system.
        seed: False where ``seed`` is refused; it is then left out, and diagnostics say so.
        timeout_s: Longest wait for one attempt, in seconds.
        max_reply_bytes: Largest body of a reply, uncompressed; reading stops there.
        concurrency: Calls in flight at once.
        queue: Calls waiting for a slot; more are refused as overloaded.
        requests_per_minute: None for no limit.
        tokens_per_minute: Prompt and completion tokens together; None for no limit.
        price: Dollars per million tokens; None counts every call as free.
        assumed_completion_tokens: Completion tokens reserved and estimated for a call that states
            no limit.
    """

    name: str
    models: tuple[str, ...] = ("*",)
    base_url: str = OPENAI_URL
    api_key_env: str | None = None
    api_key_file: str | None = None
    upstream_model: str | None = None
    api: Literal["chat_completions", "responses"] = "chat_completions"
    structured_output: StructuredOutput = "json_schema"
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    developer_role: bool = True
    seed: bool = True
    timeout_s: Seconds = 60.0
    max_reply_bytes: Positive = 16 * 1024 * 1024
    concurrency: Positive = 128
    queue: Annotated[int, msgspec.Meta(ge=0)] = 4_000
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    price: Price | None = None
    assumed_completion_tokens: Positive = 500


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where one judge model leads.

    Attributes:
        route: The upstream.
        api_key: The secret itself, when it comes from the environment; None otherwise.
        model: Model name to send.
        asked_model: Judge model of the definition.
        successor: The model that answers in its place; None when it answers itself.
    """

    route: Route
    api_key: str | None
    model: str
    asked_model: str
    successor: str | None = None

    def __repr__(self) -> str:
        """Return the names only: the rest holds a secret."""
        return f"Target({self.route.name}, {self.model})"


class Routes(msgspec.Struct, frozen=True, kw_only=True):
    """All routes of a process.

    Attributes:
        routes: In order of precedence.
        successors: Retired judge model → the model that answers in its place.
        api_keys: Secret by route name.
    """

    routes: tuple[Route, ...]
    successors: dict[str, str] = {}
    api_keys: dict[str, str] = {}

    def target(self, model: str) -> Target | None:
        """Return where ``model`` leads; None when no route answers for it."""
        successor = self.successors.get(model)
        wanted = successor or model
        for route in self.routes:
            if any(fnmatchcase(wanted, pattern) for pattern in route.models):
                return Target(
                    route=route,
                    api_key=self.api_keys.get(route.name),
                    model=route.upstream_model or wanted,
                    asked_model=model,
                    successor=successor,
                )
        return None

    def __repr__(self) -> str:
        """Return the names only: the rest holds secrets."""
        return f"Routes({', '.join(route.name for route in self.routes)})"


def usable_key(text: str) -> str | None:
    """Return the key in ``text``, without space around it; None when no header can carry it."""
    key = text.strip()
    return key if key and key.isascii() and key.isprintable() else None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    routes: tuple[Route, ...]
    successors: dict[str, str] = {}


def load_routes(path: str | Path | None, environ: Mapping[str, str]) -> Routes:
    """Return the routes of the file at ``path``, or the default route without one.

    Args:
        path: JSON file as in the module's docstring; None for the default route.
        environ: Where ``api_key_env`` is looked up; the default route reads ``OPENAI_BASE_URL``
            and ``OPENAI_API_KEY``. Without either there is no route.

    Raises:
        RoutesError: The file cannot be read or used, or a key it names is not there.
    """
    if path is None:
        return _default(environ)
    try:
        file = msgspec.json.decode(Path(path).read_bytes(), type=_File)
    except OSError as error:
        raise RoutesError(f"the routes file cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RoutesError(f"the routes file is not valid: {error}") from error
    return _checked(file, environ)


def _default(environ: Mapping[str, str]) -> Routes:
    base_url = environ.get("OPENAI_BASE_URL", "")
    text = environ.get("OPENAI_API_KEY", "").strip()
    if not base_url and not text:
        return Routes(routes=())
    key = usable_key(text)
    if text and key is None:
        raise RoutesError(f"OPENAI_API_KEY {_UNUSABLE}")
    if base_url and not base_url.startswith(_HTTP):
        raise RoutesError("OPENAI_BASE_URL starts with http:// or https://")
    route = Route(name="default", base_url=base_url or OPENAI_URL, api_key_env="OPENAI_API_KEY")
    return Routes(routes=(route,), api_keys={"default": key} if key else {})


def _checked(file: _File, environ: Mapping[str, str]) -> Routes:
    names = [route.name for route in file.routes]
    if len(set(names)) != len(names):
        raise RoutesError("two routes of the routes file have the same name")
    keys = {}
    for route in file.routes:
        if not route.base_url.startswith(_HTTP):
            raise RoutesError(f"route {route.name!r}: base_url starts with http:// or https://")
        if route.api_key_env is not None and route.api_key_file is not None:
            raise RoutesError(f"route {route.name!r} has api_key_env and api_key_file; keep one")
        if route.api_key_file is not None:
            _check_key_file(route.name, Path(route.api_key_file))
        if route.api_key_env is not None:
            text = environ.get(route.api_key_env, "").strip()
            if not text:
                raise RoutesError(f"route {route.name!r}: {route.api_key_env} is not set")
            key = usable_key(text)
            if key is None:
                raise RoutesError(f"route {route.name!r}: {route.api_key_env} {_UNUSABLE}")
            keys[route.name] = key
    chained = sorted(set(file.successors) & set(file.successors.values()))
    if chained:
        raise RoutesError(f"successors of successors are not followed: {', '.join(chained)}")
    return Routes(routes=file.routes, successors=file.successors, api_keys=keys)


def _check_key_file(name: str, path: Path) -> None:
    if not path.is_file():
        raise RoutesError(f"route {name!r}: there is no file at its api_key_file")
    try:
        key = usable_key(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"its api_key_file cannot be read: {error.strerror}"
        raise RoutesError(f"route {name!r}: {problem}") from error
    except UnicodeDecodeError:
        key = None
    if key is None:
        raise RoutesError(f"route {name!r}: its api_key_file {_UNUSABLE}")
