"""What the settings ask for, built: how definitions are compiled, and what graders ask outside.

The half of the composition root that service and command line share; `service.app` adds HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from graders import registry
from graders.building import Options
from graders.errors import SandboxUnavailableError
from graders.metrics import WordNet, WordNetNotFoundError
from graders.ports import Ports, SandboxResult, SandboxRun
from service.endpoint_caller import AddressRule, EndpointConfig, HttpEndpointCaller
from service.judge import BudgetConfig, JudgeConfig, OpenAIJudge, Routes, load_routes
from service.logs import event
from service.sandbox import (
    IsolationReport,
    IsolationTooWeakError,
    ProcessSandbox,
    RemoteConfig,
    RemoteSandbox,
    SandboxConfig,
    ShortageError,
    SubprocessSandbox,
    ZygoteLostError,
    start_sandbox,
)
from service.sandbox.build_image import interpreter, is_complete, known_tags
from service.settings import Settings, environment
from service.shutdowns import Shutdowns
from service.stores import Store, StoreConfig, open_store
from service.tokens import TokenError, TokenFile

_AGAIN_S = 1.0

logger = logging.getLogger(__name__)

Check: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
RunningSandbox: TypeAlias = SubprocessSandbox | ProcessSandbox


class AdapterError(RuntimeError):
    """Settings that no adapter can be built from; one sentence says what to change."""


class Adapters(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that grading asks outside of this process.

    Attributes:
        ports: For the engine.
        checks: Dependency → what ``/readyz`` shows of it, with ``ok`` among the fields.
        judge: Also under ``ports``; with its statistics.
        store: What the replicas share.
        sandbox: Also under ``ports``; with its statistics.
        endpoint: Also under ``ports``.
        shutdowns: What is known about the end of judge models.
    """

    ports: Ports
    checks: dict[str, Check]
    judge: OpenAIJudge
    store: Store
    sandbox: LateSandbox | RemoteSandbox
    endpoint: HttpEndpointCaller
    shutdowns: Shutdowns


def definition_directories(settings: Settings) -> list[Path]:
    """Return where definitions come from: those that ship, then the operator's."""
    bundled = [registry.BUNDLED] if settings.bundled_definitions else []
    return [*bundled, *(Path(part) for part in settings.definitions.split(":") if part)]


def engine_options(settings: Settings) -> Options:
    """Return how this process compiles definitions."""
    wordnet, hint = find_wordnet(settings.wordnet_dir)
    return Options(
        rendering=settings.rendering,
        max_rendered_chars=settings.max_rendered_chars,
        max_fuzzy_chars=settings.max_fuzzy_chars,
        max_metric_chars=settings.max_metric_chars,
        synonyms=wordnet.synonyms if wordnet else None,
        synonyms_hint=hint,
        image_tags=known_tags(),
        embedding_model=settings.embedding_model,
    )


def find_wordnet(directory: str) -> tuple[WordNet | None, str]:
    """Return WordNet from ``directory`` or the usual places, else how to get it."""
    usual = (Path(sys.prefix) / "share" / "wordnet", Path("/usr/share/wordnet"))
    hint = ""
    for place in (Path(directory),) if directory else usual:
        wordnet = WordNet(place)
        try:
            wordnet.verify()
        except WordNetNotFoundError as error:
            hint = f"{error} with GRADEKEEPER_WORDNET_DIR"
        else:
            return wordnet, ""
    return None, hint


def build_adapters(settings: Settings) -> Adapters:
    """Return the adapters; nothing connects or starts before it is needed.

    Raises:
        AdapterError: The settings name something that cannot be used.
    """
    store = _store(settings)
    judge, routes = _judge(settings, store)
    sandbox = _sandbox(settings)
    endpoint = _endpoint_caller(settings)
    return Adapters(
        ports=Ports(
            judge=judge,
            embedder=judge,
            endpoint=endpoint,
            sandbox=None if settings.sandbox == "off" else sandbox,
        ),
        checks={
            "sandbox": sandbox.check,
            "judge": _judge_check(judge),
            "store": _store_check(store),
        },
        judge=judge,
        store=store,
        sandbox=sandbox,
        endpoint=endpoint,
        # Who replays wants no upstream asked.
        shutdowns=Shutdowns(
            routes, look_up=None if settings.judge_mode == "replay" else judge.models
        ),
    )


@contextlib.asynccontextmanager
async def running(adapters: Adapters) -> AsyncIterator[Adapters]:
    """Start what starts in the background, and close everything in the end.

    Raises:
        SandboxUnavailableError, AdapterError: The sandbox is ``required`` and cannot run here.
    """
    try:
        adapters.sandbox.start()
        if adapters.sandbox.required:
            await adapters.sandbox.started()
        yield adapters
    finally:
        await adapters.sandbox.close()
        await adapters.shutdowns.close()
        await adapters.judge.close()
        await adapters.endpoint.close()
        await adapters.store.close()


def _store(settings: Settings) -> Store:
    authority = settings.redis_ca_file
    if authority and not Path(authority).is_file():
        raise AdapterError("there is no file at GRADEKEEPER_REDIS_CA_FILE")
    try:
        return open_store(
            StoreConfig(
                url=settings.redis_url or None,
                prefix=settings.redis_prefix,
                tls_ca_file=authority or None,
            )
        )
    except ValueError as error:
        raise AdapterError(str(error)) from error


def _judge(settings: Settings, store: Store) -> tuple[OpenAIJudge, Routes]:
    if settings.judge_mode == "record" and settings.workers > 1:
        raise AdapterError(
            "one process writes a recording: GRADEKEEPER_JUDGE_MODE=record needs "
            "GRADEKEEPER_WORKERS=1"
        )
    try:
        routes = load_routes(settings.judge_routes_file or None, environment())
        config = JudgeConfig(
            mode=settings.judge_mode,
            recording=settings.judge_recording or None,
            deadline_s=settings.judge_deadline_s,
            cache_ttl_s=settings.judge_cache_ttl_s,
            near_entries=settings.judge_near_entries,
            # Who replays sends nothing that would have to be divided.
            share=1 if settings.judge_mode == "replay" else settings.workers * settings.replicas,
            budget=_budgets(settings.judge_budgets_file),
        )
        return OpenAIJudge(config, routes, store, image_rule=_address_rule(settings)), routes
    except ValueError as error:  # RoutesError and RecordingError are kinds of it
        raise AdapterError(str(error)) from error


def _endpoint_caller(settings: Settings) -> HttpEndpointCaller:
    return HttpEndpointCaller(
        EndpointConfig(
            timeout_s=settings.endpoint_timeout_s,
            concurrency=settings.endpoint_concurrency,
            allowed_networks=_allowed_networks(settings),
        )
    )


def _allowed_networks(settings: Settings) -> tuple[str, ...]:
    networks = [part.strip() for part in settings.endpoint_allowed_networks.split(",")]
    return tuple(part for part in networks if part)


def _address_rule(settings: Settings) -> AddressRule:
    try:
        return AddressRule(_allowed_networks(settings))
    except ValueError as error:
        raise AdapterError(f"GRADEKEEPER_ENDPOINT_ALLOWED_NETWORKS: {error}") from error


def _budgets(file: str) -> BudgetConfig:
    if not file:
        return BudgetConfig()
    try:
        return msgspec.json.decode(Path(file).read_bytes(), type=BudgetConfig)
    except OSError as error:
        raise AdapterError(f"the budgets file cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AdapterError(f"the budgets file is not valid: {error}") from error


def _judge_check(judge: OpenAIJudge) -> Check:
    async def check() -> dict[str, Any]:
        return {"ok": True, "routes": [msgspec.to_builtins(state) for state in judge.route_states]}

    return check


def _store_check(store: Store) -> Check:
    """Losing the store costs cache hits, never a score: it is shown, and we stay ready."""

    async def check() -> dict[str, Any]:
        problem = await store.check()
        return {"ok": True, "problem": problem}

    return check


def _sandbox(settings: Settings) -> LateSandbox | RemoteSandbox:
    """Return the sandbox: here, or in the runner that the settings name."""
    if not settings.sandbox_url or settings.sandbox == "off":
        return LateSandbox(settings)
    config = RemoteConfig(
        url=settings.sandbox_url,
        minimum_level=settings.sandbox_min_isolation,
        timeout_s=settings.sandbox_timeout_s,
        seeds=settings.sandbox_seeds,
        required=settings.sandbox == "required",
        queue_length=settings.sandbox_queue,
    )
    try:
        return RemoteSandbox(config, TokenFile(settings.sandbox_token_file))
    except TokenError as error:
        raise AdapterError(f"GRADEKEEPER_SANDBOX_TOKEN_FILE: {error}") from error
    except ValueError as error:
        raise AdapterError(f"GRADEKEEPER_SANDBOX_URL: {error}") from error


def sandbox_config(settings: Settings) -> SandboxConfig:
    """Return how Python graders are run.

    Raises:
        AdapterError: No grader image is built.
    """
    root = Path(settings.sandbox_images_dir or Path(sys.prefix) / "share" / "grader-images")
    images = {tag: str(interpreter(root / tag)) for tag in known_tags() if is_complete(root / tag)}
    if not images:
        raise AdapterError(
            f"no grader image is built in {root}; `make sandbox` builds it "
            "(GRADEKEEPER_SANDBOX_PACKAGES=minimal for a small one)"
        )
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return SandboxConfig(
        images=images,
        profile=settings.sandbox_profile,
        minimum_level=settings.sandbox_min_isolation,
        timeout_s=settings.sandbox_timeout_s,
        memory_bytes=settings.sandbox_memory_bytes,
        disk_bytes=settings.sandbox_disk_bytes,
        cores=settings.sandbox_cores,
        first_cpu=os.getpid() * settings.sandbox_cores,  # numbers of workers follow one another
        slots=settings.sandbox_slots or max(1, cpus // settings.workers),
        queue_length=settings.sandbox_queue,
        seeds=settings.sandbox_seeds,
    )


class LateSandbox:
    """The sandbox, started in the background so that the service is ready before it.

    The first run waits for the start; a sandbox that is too weak or missing refuses every run with
    what is missing, and nothing else of the service suffers.
    """

    def __init__(self, settings: Settings) -> None:
        """Remember the settings; `start` or the first run starts it."""
        self._settings = settings
        self.required = settings.sandbox == "required"
        self._task: asyncio.Task[RunningSandbox] | None = None
        self.running: RunningSandbox | None = None
        self._shortage: OSError | None = None
        self._closing = asyncio.Event()

    def start(self) -> None:
        """Begin to start in the background; does nothing when switched off."""
        if self._task is None and self._settings.sandbox != "off":
            self._task = asyncio.ensure_future(self._start())
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _start(self) -> RunningSandbox:
        try:
            self.running = await self._once_there_is_room()
        except (AdapterError, IsolationTooWeakError, ZygoteLostError) as error:
            event(logger, logging.WARNING, "no Python graders here", {"reason": str(error)})
            raise
        report = self.running.report()
        fields = {"isolation": report.level, "profile": report.profile, "notes": report.notes}
        if report.level == "process":
            event(logger, logging.WARNING, "Python graders are not isolated", fields)
        else:
            event(logger, logging.INFO, "sandbox ready", fields)
        return self.running

    async def _once_there_is_room(self) -> RunningSandbox:
        """Return the sandbox; a full disk or the like is waited out, not taken as a refusal."""
        while True:
            try:
                running = await start_sandbox(sandbox_config(self._settings))
            except OSError as error:
                if self._closing.is_set():
                    raise AdapterError("the sandbox is closed") from error
                if self._shortage is None:
                    fields = {"reason": error.strerror or str(error)}
                    event(logger, logging.WARNING, "the sandbox waits for resources", fields)
                self._shortage = error
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), _AGAIN_S)
            else:
                self._shortage = None
                return running

    async def started(self) -> RunningSandbox:
        """Return the sandbox once it runs.

        Raises:
            AdapterError, IsolationTooWeakError, ZygoteLostError: It cannot run here.
        """
        self.start()
        if self._task is None:
            raise AdapterError("the sandbox is switched off")
        return await asyncio.shield(self._task)

    async def run(self, run: SandboxRun) -> SandboxResult:
        """Return what the grader did.

        Raises:
            SandboxUnavailableError, OverloadedError: As the port says.
        """
        running = self.running
        if running is None:
            if self._shortage is not None:
                raise ShortageError(self._shortage)
            try:
                running = await self.started()
            except (AdapterError, IsolationTooWeakError, ZygoteLostError) as error:
                raise SandboxUnavailableError(
                    str(error), retryable=False, kind="isolation_unavailable"
                ) from error
        return await running.run(run)

    @property
    def report(self) -> IsolationReport | None:
        """What stands between graders and everything else; None before it runs."""
        return self.running.report() if self.running else None

    @property
    def state(self) -> Literal["off", "starting", "running", "refused"]:
        """How far it has come; ``refused`` is too weak for the minimum, or without an image."""
        if self._settings.sandbox == "off":
            return "off"
        if self.running is not None:
            return "running"
        return "refused" if self._task is not None and self._task.done() else "starting"

    async def check(self) -> dict[str, Any]:
        """Return what ``/readyz`` shows; only while it starts are we not ready."""
        found: dict[str, Any] = {"ok": self.state != "starting", "state": self.state}
        if self.running is not None:
            report = self.running.report()
            found["isolation"] = msgspec.to_builtins(report)
            if report.level == "process":
                found["state"] = "degraded"
        elif self.state == "refused" and self._task is not None:
            found["reason"] = str(self._task.exception())
        elif self._shortage is not None:
            found["reason"] = self._shortage.strerror
        return found

    async def close(self) -> None:
        """Stop it; a start under way ends first, since what it started must be stopped as well."""
        self._closing.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        if self.running is not None:
            await self.running.close()
