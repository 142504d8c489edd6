"""Every setting of the service: read once from the environment into one frozen Struct.

The only module that reads the environment. A variable under our prefix that is none of ours is an
error, so that a misspelt limit can never be silently ignored. `configuration` explains them.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

PREFIX = "GRADEKEEPER_"
_BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_CLOSE = 0.7
_MAX_SHOWN_CHARS = 100
SECRETS = frozenset({"api_key", "redis_url"})  # shown masked wherever settings are shown

GROUPS = {  # sections of CONFIGURATION.md, by their first setting
    "host": "Network",
    "api_key": "Security",
    "definitions": "Definitions",
    "response_profile": "Grading",
    "sandbox": "Python graders",
    "runner_listen": "Runner",
    "judge_routes_file": "Judges",
    "endpoint_timeout_s": "Endpoint graders",
    "max_body_bytes": "Limits",
    "log_level": "Operations",
}


class SettingsError(ValueError):
    """Environment variables that cannot be used; one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        """Keep every problem found."""
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Effective settings; the environment variable is ``GRADEKEEPER_`` and the upper-case name."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    ] = 8080
    workers: Annotated[
        int, Meta(ge=1, le=256, description="Worker processes; one per core is right.")
    ] = 1
    backlog: Annotated[int, Meta(ge=1, description="Connections that may wait to be accepted.")] = (
        2048
    )
    keep_alive_s: Annotated[
        int, Meta(ge=1, description="Seconds an idle connection is kept open.")
    ] = 75
    receive_timeout_s: Annotated[
        float, Meta(gt=0, description="Seconds for a request's head and for each part of its body.")
    ] = 30.0
    shutdown_grace_s: Annotated[
        int, Meta(ge=1, description="Seconds a stopping worker gives accepted requests to finish.")
    ] = 30

    api_key: Annotated[
        str,
        Meta(
            description="One key with every scope; clients send it as `Authorization: Bearer …`. "
            "For several keys use the file."
        ),
    ] = ""
    api_keys_file: Annotated[
        str,
        Meta(
            description="JSON file of keys (`gradekeeper key` makes entries): name, sha256, "
            "scopes. Read again when it changes and on SIGHUP."
        ),
    ] = ""
    allow_unauthenticated: Annotated[
        bool,
        Meta(description="Serve on a non-loopback address without any key."),
    ] = False

    definitions: Annotated[
        str,
        Meta(
            description="Further directories of definitions, separated by `:`, besides the bundled "
            "ones."
        ),
    ] = ""
    bundled_definitions: Annotated[
        bool, Meta(description="Serve the definitions that ship with gradekeeper.")
    ] = True
    reload_definitions_s: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds between looks for changed definition files; 0 leaves it to "
            "SIGHUP.",
        ),
    ] = 0.0

    max_published: Annotated[
        int,
        Meta(
            ge=0,
            description="Most versions that may be published over HTTP, all together; 0 refuses "
            "publishing. They are kept in Redis, or without it in the memory of a single worker.",
        ),
    ] = 1_000

    response_profile: Annotated[
        Literal["live", "schema"],
        Meta(
            description="Shape of OpenAI-compatible answers: `live` has the 24 recorded error "
            "flags, `schema` the 14 published ones."
        ),
    ] = "live"
    rendering: Annotated[
        Literal["json", "python"],
        Meta(
            description="How templates render what is not a string: as JSON or as Python's `str`. "
            "Part of every signature."
        ),
    ] = "json"
    wordnet_dir: Annotated[
        str,
        Meta(
            description="Directory of WordNet 3.0 (`index.noun` …) for METEOR; empty looks in the "
            "usual places."
        ),
    ] = ""
    max_fuzzy_chars: Annotated[
        int,
        Meta(
            ge=1,
            description="Longest text for `fuzzy_match`, in characters; its time is quadratic.",
        ),
    ] = 20_000
    max_metric_chars: Annotated[
        int, Meta(ge=1, description="Longest text for every other text metric, in characters.")
    ] = 100_000
    max_rendered_chars: Annotated[
        int, Meta(ge=1, description="Longest text that one template may render to, in characters.")
    ] = 4_000_000
    run_cache_entries: Annotated[
        int,
        Meta(
            ge=0,
            description="Compiled graders of `graders/run` kept for the next call with the same "
            "grader.",
        ),
    ] = 256

    sandbox: Annotated[
        Literal["auto", "required", "off"],
        Meta(
            description="`auto` runs Python graders where the sandbox reaches the minimum "
            "isolation and says so where it does not; `required` then refuses to start; `off` "
            "runs none."
        ),
    ] = "auto"
    sandbox_min_isolation: Annotated[
        Literal["namespaces", "lsm", "seccomp", "process"],
        Meta(
            description="Weakest isolation that may run Python graders; `process` is none worth "
            "the name and needs to be asked for."
        ),
    ] = "lsm"
    sandbox_profile: Annotated[
        Literal["strict", "processes"],
        Meta(description="`strict` forbids fork and exec to graders, `processes` allows both."),
    ] = "strict"
    sandbox_packages: Annotated[
        Literal["full", "minimal"],
        Meta(
            description="Packages of the grader image that `make` builds: all of the hosted image "
            "(700 MB), or the standard library and rapidfuzz."
        ),
    ] = "full"
    sandbox_images_dir: Annotated[
        str,
        Meta(description="Directory of built grader images; empty is where `make` builds them."),
    ] = ""
    sandbox_timeout_s: Annotated[
        float, Meta(gt=0, description="Seconds one Python grader may run, queueing excluded.")
    ] = 120.0
    sandbox_memory_bytes: Annotated[
        int, Meta(ge=16 * 1024 * 1024, description="Memory of one Python grader.")
    ] = 2 * 1024**3
    sandbox_disk_bytes: Annotated[
        int, Meta(ge=0, description="Scratch space of one Python grader.")
    ] = 1024**3
    sandbox_cores: Annotated[int, Meta(ge=1, description="CPUs one Python grader may use.")] = 2
    sandbox_slots: Annotated[
        int, Meta(ge=0, description="Python graders at once in one worker; 0 shares out the CPUs.")
    ] = 0
    sandbox_queue: Annotated[
        int, Meta(ge=1, description="Python graders that may wait; more are refused with 429.")
    ] = 4096
    sandbox_seeds: Annotated[
        Literal["fresh", "fixed"],
        Meta(
            description="`fixed` gives `random`, `numpy.random` and hash order the same seeds for "
            "the same grader, item and sample."
        ),
    ] = "fresh"
    sandbox_url: Annotated[
        str,
        Meta(
            description="Runner that Python graders are sent to (`gradekeeper runner`): "
            "`unix:///absolute/path` or `http://host:port`; empty runs them in the service's own "
            "sandbox."
        ),
    ] = ""
    sandbox_token_file: Annotated[
        str,
        Meta(
            description="File with the token that service and runner share, read again when it "
            "changes; the service presents the first line, the runner accepts any."
        ),
    ] = ""

    runner_listen: Annotated[
        str,
        Meta(description="Where a runner listens: `unix:/absolute/path` or `host:port`."),
    ] = "127.0.0.1:8081"

    judge_routes_file: Annotated[
        str,
        Meta(
            description="JSON file of routes from judge model to upstream; empty takes one route "
            "from `OPENAI_BASE_URL` and `OPENAI_API_KEY`."
        ),
    ] = ""
    judge_mode: Annotated[
        Literal["live", "record", "replay"],
        Meta(
            description="`record` also writes every reply to the recording; `replay` answers from "
            "cache and recording only."
        ),
    ] = "live"
    judge_recording: Annotated[str, Meta(description="File of recorded judge replies.")] = ""
    judge_deadline_s: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds all judge calls of one grade may take, queue and retries "
            "included.",
        ),
    ] = 120.0
    judge_cache_ttl_s: Annotated[
        float, Meta(gt=0, description="Seconds a judge's reply is kept in the store.")
    ] = 30 * 86_400.0
    judge_near_entries: Annotated[
        int, Meta(ge=0, description="Replies kept in the process in front of the store.")
    ] = 20_000
    judge_budgets_file: Annotated[
        str,
        Meta(description="JSON file of daily budgets; empty means no limit on money."),
    ] = ""
    replicas: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Replicas of this service, at most. Each worker of each replica takes an "
            "equal part of a route's limits.",
        ),
    ] = 1
    redis_url: Annotated[
        str,
        Meta(
            description="`redis://`, `rediss://`, `redis+sentinel://` or `redis+cluster://`: "
            "memory shared by all replicas; empty keeps it in the process."
        ),
    ] = ""
    redis_ca_file: Annotated[
        str,
        Meta(
            description="Certificate authority of a `rediss` server; empty takes the system's.",
        ),
    ] = ""
    redis_prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.:-]{1,64}$",
            description="Start of every key in Redis (letters, digits, `_.:-`); installations that "
            "share a server need different ones.",
        ),
    ] = "gradekeeper"
    embedding_model: Annotated[str, Meta(description="Model behind the metric `cosine`.")] = (
        "text-embedding-3-large"
    )

    endpoint_timeout_s: Annotated[
        float, Meta(gt=0, description="Seconds one attempt to call an endpoint grader may take.")
    ] = 600.0
    endpoint_concurrency: Annotated[
        int, Meta(ge=1, description="Calls of endpoint graders under way at once.")
    ] = 64
    endpoint_allowed_networks: Annotated[
        str,
        Meta(
            description="Private networks that endpoint graders may call and images for judges "
            "may lie in, separated by `,` (`10.1.0.0/16`); public addresses are always allowed."
        ),
    ] = ""

    max_body_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            description="Largest request body; a streamed NDJSON body is bounded by line instead.",
        ),
    ] = 64 * 1024 * 1024
    max_batch_rows: Annotated[int, Meta(ge=1, description="Rows of one JSON batch.")] = 10_000
    max_concurrent_rows: Annotated[
        int,
        Meta(
            ge=1,
            description="Rows of one batch under way at once when judges or user code are asked.",
        ),
    ] = 64
    max_submitted_rewards: Annotated[
        int,
        Meta(
            ge=1,
            description="Samples that callers who submit and poll (ROLL) may have under way in one "
            "worker.",
        ),
    ] = 4096
    max_line_bytes: Annotated[
        int, Meta(ge=1024, description="Largest line of a streamed NDJSON batch.")
    ] = 8 * 1024 * 1024

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least severity that is logged; access lines are `info`."),
    ] = "info"
    access_log: Annotated[bool, Meta(description="Log one JSON line a request.")] = True
    reward_baselines_file: Annotated[
        str,
        Meta(
            description="JSON file of the mean and standard deviation expected of rewards, by "
            "`name@version`; `docs/alerts.md` says how to get them."
        ),
    ] = ""
    tracing: Annotated[
        bool,
        Meta(
            description="Send OpenTelemetry traces, as the standard `OTEL_` variables say; needs "
            "`gradekeeper[otel]`."
        ),
    ] = False
    trust_proxy_headers: Annotated[
        bool,
        Meta(
            description="Take client addresses from `X-Forwarded-For` (only behind a proxy of "
            "yours)."
        ),
    ] = False

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, *, runner: bool = False
    ) -> Settings:
        """Return the settings that ``environ`` (the process's own by default) asks for.

        Args:
            environ: Variables and their values.
            runner: Whether only a runner's settings may be among them: it holds no keys.

        Raises:
            SettingsError: With every variable that is unknown or has an unusable value.
        """
        environ = os.environ if environ is None else environ
        fields = {f"{PREFIX}{f.name.upper()}": f for f in msgspec.structs.fields(cls)}
        values: dict[str, Any] = {}
        problems: list[str] = []
        for variable, text in sorted(environ.items()):
            if not variable.startswith(PREFIX):
                continue
            field = fields.get(variable)
            if field is None:
                name = variable.removeprefix(PREFIX)  # alike by more than the prefix
                names = [known.removeprefix(PREFIX) for known in fields]
                near = difflib.get_close_matches(name, names, n=1, cutoff=_CLOSE)
                hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
                problems.append(f"{variable} is no setting of gradekeeper{hint}")
                continue
            if runner and field.name not in RUNNER_SETTINGS:
                problems.append(f"{variable} is no setting of a runner; do not give it to one")
                continue
            try:
                values[field.name] = _value(text, field.type)
            except msgspec.ValidationError as error:
                problems.append(f"{variable}: {_problem(field.name, text, error)}")
        if problems:
            raise SettingsError(problems)
        return cls(**values)

    def masked(self) -> dict[str, Any]:
        """Return the settings as a dict to show, secrets replaced by whether they are set."""
        shown = msgspec.structs.asdict(self)
        for name in SECRETS:
            shown[name] = "***" if shown[name] else ""
        return shown


RUNNER_SETTINGS = frozenset(
    {
        *("runner_listen", "backlog", "keep_alive_s", "shutdown_grace_s"),
        *("allow_unauthenticated", "max_body_bytes", "log_level"),
        *(
            name
            for name in Settings.__struct_fields__
            if name.startswith("sandbox_") and name != "sandbox_url"
        ),
    }
)


def environment() -> Mapping[str, str]:
    """Return the process's environment, for keys of judges."""
    return os.environ


def _value(text: str, annotation: Any) -> Any:  # noqa: ANN401 - a type form and its values
    """Return ``text`` as a value of ``annotation``.

    Raises:
        ValidationError: It is none. Secrets are texts, so no message shows one.
    """
    text = text.strip()
    if get_args(annotation)[0] is bool:
        text = _BOOLEANS.get(text.lower(), text)
    value = msgspec.convert(text, annotation, strict=False)
    if isinstance(value, float) and not math.isfinite(value):
        raise msgspec.ValidationError("Expected a finite number")
    return value


def _problem(name: str, text: str, error: msgspec.ValidationError) -> str:
    """Return what is wrong with ``text``, which is shown unless the setting is a secret."""
    problem = str(error)
    shown = repr(text[:_MAX_SHOWN_CHARS])
    if name in SECRETS or shown in problem:
        return problem
    return f"{problem.removesuffix(', got `str`')}, got {shown}"
