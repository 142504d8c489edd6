"""What the sandbox is told, and what it tells about itself."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["namespaces", "lsm", "seccomp", "process"]
Layer = Literal["namespaces", "landlock", "seccomp"]
Profile = Literal["strict", "processes"]
Seeds = Literal["fresh", "fixed"]

# Strongest first.
LEVELS: tuple[Level, ...] = ("namespaces", "lsm", "seccomp", "process")


class SandboxConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How Python graders are run.

    Attributes:
        images: Interpreter of the grader image's virtual environment, by ``image_tag``.
        profile: ``strict`` forbids fork and exec; ``processes`` allows both within the call.
        minimum_level: `start_sandbox` refuses anything weaker.
        disabled_layers: Layers not to use even where they work; for tests and for ruling out a
            suspect.
        timeout_s: Wall time of one call, queueing excluded.
        memory_bytes: Address space of one call beyond what the packages take.
        disk_bytes: Scratch space of one call.
        disk_files: Files and directories of one call (where the scratch is our own tmpfs).
        cores: CPUs one call may use.
        first_cpu: Where the CPUs of the first slot begin; should differ between workers.
        open_files: Descriptors of one call.
        max_source_bytes: Longest source.
        max_output_bytes: Kept of each of stdout and stderr.
        max_processes: Processes of one call under ``processes``.
        max_threads: Threads of one call, all its processes together.
        slots: Calls that run at once; 0 for one a CPU.
        slow_slots: Further calls that may run while that many others have been running for
            `slow_after_s`.
        give_way_after_s: When a call gets a lower priority; while there are fewer slow calls than
            slots, it counts as slow from then on.
        slow_after_s: When any call counts as slow and stops holding up others.
        queue_length: Calls that may wait; more are refused with `OverloadedError`.
        max_tiers: Warm package sets kept at once, least recently used out first.
        prewarm: Package sets to make ready at start.
        seeds: ``fixed`` seeds ``random`` and ``numpy.random`` from the source and the payload.
        uid: Whose rights graders have when the service is root.
        gid: Their group.
        scratch_dir: Where scratch lives without namespaces; None for a new directory in the
            default place.
        protect_service: Make this process unreadable to others of its uid (``PR_SET_DUMPABLE``).
        selftest_timeout_s: Wall time of one canary.
    """

    images: dict[str, str]
    profile: Profile = "strict"
    minimum_level: Level = "lsm"
    disabled_layers: frozenset[Layer] = frozenset()
    timeout_s: float = 120.0
    memory_bytes: int = 2 << 30
    disk_bytes: int = 1 << 30
    disk_files: int = 20_000
    cores: int = 2
    first_cpu: int = 0
    open_files: int = 64
    max_source_bytes: int = 256 * 1024
    max_output_bytes: int = 64 * 1024
    max_processes: int = 32
    max_threads: int = 256
    slots: int = 0
    slow_slots: int = 32
    give_way_after_s: float = 0.1
    slow_after_s: float = 0.5
    queue_length: int = 4096
    max_tiers: int = 8
    prewarm: tuple[tuple[str, ...], ...] = ((),)
    seeds: Seeds = "fresh"
    uid: int = 65534
    gid: int = 65534
    scratch_dir: str | None = None
    protect_service: bool = True
    selftest_timeout_s: float = 5.0


class RunTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What may differ from call to call.

    Attributes:
        timeout_s: As in `SandboxConfig`.
        seeds: As in `SandboxConfig`.
    """

    timeout_s: float
    seeds: Seeds = "fresh"

    def within(self, config: SandboxConfig) -> RunTerms:
        """Return the stricter of these terms and those of ``config``."""
        fixed = "fixed" in {self.seeds, config.seeds}
        return RunTerms(
            timeout_s=min(self.timeout_s, config.timeout_s), seeds="fixed" if fixed else "fresh"
        )


class IsolationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between a grader and everything else, as found by attacking it.

    Attributes:
        level: Strongest level whose canary attacks were all stopped.
        minimum_level: As configured.
        profile: As configured.
        landlock_abi: Version in use, 0 for none.
        seccomp: Whether a filter is in use.
        userns: Whether graders have their own user namespace.
        pidns: Whether graders have their own pid namespace.
        netns: Whether graders have their own network namespace.
        cgroup: Always False: limits are per process, not per control group.
        uid: Whose rights graders have; -1 if not known.
        selftest: Canary by id: whether it was stopped.
        notes: Sentences about layers that are missing and why.
        packages: Importable known packages by image tag.
        python: Grader interpreter version by image tag.
    """

    level: Level
    minimum_level: Level
    profile: Profile
    landlock_abi: int = 0
    seccomp: bool = False
    userns: bool = False
    pidns: bool = False
    netns: bool = False
    cgroup: bool = False
    uid: int = -1
    selftest: dict[str, bool] = {}
    notes: tuple[str, ...] = ()
    packages: dict[str, tuple[str, ...]] = {}
    python: dict[str, str] = {}


class TierStats(msgspec.Struct, frozen=True, kw_only=True):
    """One warm package set.

    Attributes:
        image_tag: Image it belongs to.
        packages: What it has imported.
        memory_bytes: Its own resident memory, shared files excluded.
        calls: Calls it has forked.
    """

    image_tag: str
    packages: tuple[str, ...]
    memory_bytes: int
    calls: int


class SandboxStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start and gauges of now.

    Attributes:
        calls: Finished calls by outcome; also ``unavailable``, ``overloaded`` and ``cancelled``.
        queue_s: Seconds spent waiting for a slot, summed.
        execution_s: Seconds spent in the sandbox, summed.
        kills: Processes killed before they ended by themselves, by reason.
        zygote_restarts: Zygotes that died and were replaced.
        running: Calls in a slot now.
        slow: Those of them that count as slow.
        waiting: Calls in the queue now.
        tiers: Warm package sets now.
        level: Isolation level.
    """

    calls: dict[str, int]
    queue_s: float
    execution_s: float
    kills: dict[str, int]
    zygote_restarts: int
    running: int
    slow: int
    waiting: int
    tiers: tuple[TierStats, ...]
    level: Level


class RemoteConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the runner is, and what is asked of it.

    Attributes:
        url: ``unix:///absolute/path`` or ``http://host:port``.
        minimum_level: Weakest isolation that a runner may have.
        timeout_s: Wall time of one call; the runner's own limit counts if shorter.
        seeds: ``fixed`` asks for fixed seeds.
        required: Whether the service starts only once the runner can be used.
        queue_length: Calls under way or waiting; more are refused.
        max_source_bytes: Longest source.
        max_answer_bytes: Largest answer read.
        connections: Connections open at once.
        connect_timeout_s: One connection.
        silence_s: How long a runner may be silent before it counts as gone; it says every second
            that it is alive.
        look_timeout_s: One look at the runner's readiness.
        patience_s: How long a service that requires the runner waits for it.
    """

    url: str
    minimum_level: Level = "lsm"
    timeout_s: float = 120.0
    seeds: Seeds = "fresh"
    required: bool = False
    queue_length: int = 4096
    max_source_bytes: int = 256 * 1024
    max_answer_bytes: int = 1 << 20
    connections: int = 256
    connect_timeout_s: float = 5.0
    silence_s: float = 10.0
    look_timeout_s: float = 2.0
    patience_s: float = 30.0


class RemoteStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start and gauges of now.

    Attributes:
        calls: Finished calls: ``answered``, ``refused``, ``overloaded``, ``unavailable`` or
            ``cancelled``.
        in_flight: Calls under way, those that wait here or there included.
        away: Whether the last exchange did not reach the runner.
    """

    calls: dict[str, int]
    in_flight: int
    away: bool
