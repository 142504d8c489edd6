"""Admission, retries, seeds, captured output: what the sandbox promises around a call."""

import asyncio
import itertools
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from graders.errors import DefinitionError, OverloadedError, SandboxUnavailableError
from graders.ports import SandboxRun
from service.sandbox import (
    IsolationTooWeakError,
    ProcessSandbox,
    SubprocessSandbox,
    environment,
    programs,
    scratch,
    start_sandbox,
)
from service.sandbox.zygotes import BaseLink
from tests.attacks.driver import children, descendants, expected_processes
from tests.sandbox import image
from tests.sandbox.conftest import call, config, until

pytestmark = pytest.mark.integration

Start = Callable[..., Awaitable[SubprocessSandbox]]

HALF = "def grade(sample, item):\n    return 0.5\n"
SLEEP = "import time\ndef grade(sample, item):\n    time.sleep(item['s'])\n    return 0.5\n"
FOREVER = "def grade(sample, item):\n    while True:\n        pass\n"


async def test_a_print_is_captured_and_bounded(started: Start) -> None:
    sandbox = await started(max_output_bytes=100)
    source = "import sys\ndef grade(s, i):\n    print('x' * 1000)\n    print('é', file=sys.stderr)\n    return 1\n"
    result = await sandbox.run(call(source))
    assert (result.value, result.stdout, result.stderr) == (1.0, "x" * 100, "é\n")
    assert result.diagnostics["isolation"] in {"namespaces", "lsm"}


async def test_a_traceback_shows_the_graders_own_lines(started: Start) -> None:
    sandbox = await started()
    source = "import json\n\ndef helper(x):\n    return json.loads(x)\n\ndef grade(s, i):\n    return helper('{')\n"
    result = await sandbox.run(call(source))
    assert result.outcome == "exception"
    assert "File \"grader.py\", line 7, in grade\n    return helper('{')" in result.details
    assert 'File "grader.py", line 4, in helper' in result.details
    assert result.details.splitlines()[-1].startswith("JSONDecodeError: Expecting property name")
    assert "json/decoder.py" not in result.details


async def test_only_what_ends_a_line_of_python_ends_a_line_of_a_traceback(started: Start) -> None:
    source = 'x = "a\x0cb"\ny = "c\u2028d"\r\ndef grade(s, i):\r    return 1 / 0\n'
    result = await (await started()).run(call(source))
    assert 'File "grader.py", line 4, in grade\n    return 1 / 0\n' in result.details


async def test_a_traceback_shows_what_led_to_the_exception(started: Start) -> None:
    source = (
        "class Lying(Exception):\n    __cause__ = property(lambda self: 1 / 0)\n"
        "def grade(s, i):\n    try:\n        try:\n            int('x')\n"
        "        except ValueError as error:\n            raise KeyError('y') from error\n"
        "    except KeyError:\n        raise Lying('z')\n"
    )
    details = (await (await started()).run(call(source))).details
    first, second, third = details.split("\n\n")[::2]
    assert first.endswith(
        "line 6, in grade\n    int('x')\nValueError: invalid literal for int() with base 10: 'x'"
    )
    assert second.endswith("KeyError: 'y'")
    assert third.endswith("Lying: z")
    assert "direct cause" in details
    assert "During handling" in details


async def test_a_mark_before_the_source_is_read_as_in_a_file(started: Start) -> None:
    sandbox = await started()
    assert (await sandbox.run(call("\ufeff" + HALF))).value == 0.5
    failing = await sandbox.run(call("\ufeffdef grade(s, i):\n    return 1 / 0\n"))
    assert "line 2, in grade\n    return 1 / 0" in failing.details


async def test_a_sample_that_does_not_fit_into_memory_says_so(started: Start) -> None:
    sandbox = await started(memory_bytes=24 << 20)
    result = await sandbox.run(call(HALF, sample={"output_text": "x" * 30_000_000}))
    assert result.outcome == "memory"
    assert "memory limit" in result.details
    assert (await sandbox.run(call(""))).outcome == "exception"


async def test_output_before_an_exception_is_kept(started: Start) -> None:
    sandbox = await started()
    result = await sandbox.run(
        call("def grade(s, i):\n    print('seen')\n    raise ValueError('no')\n")
    )
    assert (result.outcome, result.stdout) == ("exception", "seen\n")


@pytest.mark.parametrize(
    ("source", "details"),
    [
        ("def grade(:\n", "SyntaxError: grader.py, line 1"),
        ("x = 1\n", "no callable named grade"),
        ("grade = 3\n", "no callable named grade"),
        ("def grade(sample):\n    return 1\n", "takes 1 positional argument but 2 were given"),
        ("import nothing_like_this\n", "No module named 'nothing_like_this'"),
    ],
)
async def test_a_source_that_cannot_grade_says_why(
    started: Start, source: str, details: str
) -> None:
    result = await (await started()).run(call(source))
    assert result.outcome == "exception"
    assert details in result.details


async def test_a_deadline_is_kept_within_a_tenth_of_a_second(started: Start) -> None:
    sandbox = await started(timeout_s=0.5)
    await sandbox.run(call(HALF))
    begun = time.monotonic()
    result = await sandbox.run(call(FOREVER))
    assert 0.5 <= time.monotonic() - begun < 0.65
    assert (result.outcome, result.details) == ("timeout", "timed out after 0.5 s")
    assert sandbox.stats().kills == {"timeout": 1}


async def test_waiting_does_not_count_against_the_time_limit(started: Start) -> None:
    sandbox = await started(slots=1, slow_slots=0, timeout_s=0.6)
    results = await asyncio.gather(*(sandbox.run(call(SLEEP, item={"s": 0.3})) for _ in range(4)))
    assert [result.value for result in results] == [0.5] * 4
    assert all(result.execution_time_s < 0.6 for result in results)
    assert sandbox.stats().queue_s > 0.5


async def test_a_full_queue_refuses_with_a_time_to_retry(started: Start) -> None:
    sandbox = await started(slots=1, slow_slots=0, queue_length=2)
    waiting = [asyncio.create_task(sandbox.run(call(SLEEP, item={"s": 0.3}))) for _ in range(3)]
    await asyncio.sleep(0.1)
    with pytest.raises(OverloadedError) as refused:
        await sandbox.run(call(HALF))
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s >= 1
    assert refused.value.flag == "python_grader_server_error"
    assert [result.value for result in await asyncio.gather(*waiting)] == [0.5] * 3
    assert sandbox.stats().calls == {"value": 3, "overloaded": 1}


async def test_a_cancelled_call_is_killed_and_frees_its_slot(started: Start) -> None:
    sandbox = await started(slots=1, slow_slots=0)
    running = asyncio.create_task(sandbox.run(call(FOREVER)))
    queued = asyncio.create_task(sandbox.run(call(FOREVER)))
    await asyncio.sleep(0.2)
    queued.cancel()
    running.cancel()
    result = await asyncio.wait_for(sandbox.run(call(HALF)), 1)
    assert result.value == 0.5
    await asyncio.gather(running, queued, return_exceptions=True)
    assert running.cancelled()
    assert queued.cancelled()
    assert sandbox.stats().calls["cancelled"] == 2
    assert sandbox.stats().kills == {"cancelled": 1}


async def test_hanging_graders_do_not_stop_the_others(started: Start) -> None:
    sandbox = await started(slots=2, slow_slots=32, slow_after_s=0.15, timeout_s=60.0)
    hanging = [asyncio.create_task(sandbox.run(call(FOREVER))) for _ in range(32)]
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    results = [await sandbox.run(call(HALF)) for _ in range(20)]
    assert [result.value for result in results] == [0.5] * 20
    await until(lambda: sandbox.stats().slow == 32)
    more = [asyncio.create_task(sandbox.run(call(FOREVER))) for _ in range(8)]
    results = [await sandbox.run(call(HALF)) for _ in range(20)]
    assert [result.value for result in results] == [0.5] * 20
    assert sandbox.stats().waiting >= 7  # the last slot is not for a grader that hangs
    assert turns > 1000  # nothing on the loop waits for a grader
    hanging += more
    for task in (turning, *hanging):
        task.cancel()
    await asyncio.gather(turning, *hanging, return_exceptions=True)
    await until(lambda: not sandbox.stats().running)


def _niceness(pid: int) -> int | None:
    try:
        return os.getpriority(os.PRIO_PROCESS, pid)
    except ProcessLookupError:
        return None


async def test_an_endless_row_takes_next_to_no_time_from_the_others(started: Start) -> None:
    sandbox = await started(slots=1, slow_slots=8, timeout_s=30.0)
    endless = asyncio.create_task(sandbox.run(call(FOREVER)))
    others = [asyncio.create_task(sandbox.run(call(HALF))) for _ in range(200)]
    await until(lambda: 15 in {_niceness(pid) for pid in children(os.getpid())})
    assert sandbox.stats().slow == 1
    results = await asyncio.gather(*others)
    assert [result.value for result in results] == [0.5] * 200
    assert not endless.done()
    endless.cancel()
    await asyncio.gather(endless, return_exceptions=True)


async def test_a_batch_of_long_calls_is_not_started_all_at_once(started: Start) -> None:
    sandbox = await started(slots=2, slow_slots=32, slow_after_s=30.0, give_way_after_s=0.05)
    tasks = [asyncio.create_task(sandbox.run(call(SLEEP, item={"s": 0.3}))) for _ in range(8)]
    most = 0
    while not all(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
        most = max(most, sandbox.stats().running)
    assert most == 4


async def _settled(sandbox: SubprocessSandbox) -> list[int]:
    """Return the zygotes: outermost first, tiers last."""
    await until(lambda: descendants() == expected_processes(sandbox))
    return children(os.getpid())


async def _new_process(before: list[int]) -> int:
    new: list[int] = []

    def looked() -> bool:
        new.extend(pid for pid in children(os.getpid()) if pid not in before)
        return bool(new)

    await until(looked)
    return new[-1]


@pytest.mark.parametrize("which", [0, 1, -1], ids=["outermost", "second", "the-tier"])
async def test_a_killed_zygote_costs_at_most_one_retry(started: Start, which: int) -> None:
    sandbox = await started()
    assert (await sandbox.run(call(HALF))).value == 0.5
    zygotes = await _settled(sandbox)
    calls = [asyncio.create_task(sandbox.run(call(SLEEP, item={"s": 0.3}))) for _ in range(2)]
    await _new_process(zygotes)
    os.kill(zygotes[which], signal.SIGKILL)
    results = await asyncio.gather(*calls)
    assert [result.value for result in results] == [0.5, 0.5]
    assert (await sandbox.run(call(HALF))).value == 0.5
    assert sandbox.stats().zygote_restarts >= 1


async def _lose_the_base(sandbox: SubprocessSandbox) -> None:
    (image_,) = sandbox.environments
    os.kill((await _settled(sandbox))[0], signal.SIGKILL)
    await until(lambda: image_._base is None or image_._base.closed)


async def test_a_zygote_that_cannot_be_replaced_by_its_equal_is_not_replaced_by_less(
    started: Start,
) -> None:
    sandbox = await started()
    (image_,) = sandbox.environments
    level, private = sandbox.report().level, image_.in_namespaces
    interpreter, image_._interpreter = image_._interpreter, "/bin/false"
    await _lose_the_base(sandbox)
    with pytest.raises(SandboxUnavailableError):
        await sandbox.run(call(HALF))
    image_._interpreter = interpreter
    again = await sandbox.run(call(HALF))
    assert (again.value, again.diagnostics["isolation"]) == (0.5, level)
    assert image_.in_namespaces == private
    assert image_.notes == []


async def test_a_new_zygote_behind_other_layers_runs_nothing(started: Start) -> None:
    sandbox = await started()
    (image_,) = sandbox.environments
    config = image_._config
    image_._config = msgspec.structs.replace(config, disabled_layers=frozenset({"landlock"}))
    await _lose_the_base(sandbox)
    with pytest.raises(SandboxUnavailableError, match=r"behind .*'landlock_abi': 0"):
        await sandbox.run(call(HALF))
    image_._config = config
    assert (await sandbox.run(call(HALF))).value == 0.5


async def test_a_killed_leaf_is_the_end_of_its_own_call_only(started: Start) -> None:
    sandbox = await started()
    assert (await sandbox.run(call(SLEEP, item={"s": 0}))).value == 0.5
    zygotes = await _settled(sandbox)
    running = asyncio.create_task(sandbox.run(call(SLEEP, item={"s": 30})))
    os.kill(await _new_process(zygotes), signal.SIGKILL)
    result = await running
    assert (result.outcome, result.details) == ("no_result", "the process was ended by SIGKILL")
    assert (await sandbox.run(call(HALF))).value == 0.5
    assert await _settled(sandbox) == zygotes


async def test_a_killed_compiler_is_not_held_against_the_source(started: Start) -> None:
    sandbox = await started()
    assert (await sandbox.run(call(HALF))).value == 0.5
    zygotes = await _settled(sandbox)
    source = f"x = [{'1, ' * 80_000}]\n{HALF}"  # long enough to be caught at it
    running = asyncio.create_task(sandbox.run(call(source)))
    os.kill(await _new_process(zygotes), signal.SIGKILL)
    assert (await running).outcome == "no_result"
    assert (await sandbox.run(call(source))).value == 0.5
    assert await _settled(sandbox) == zygotes


async def test_closing_ends_every_process_and_refuses_calls() -> None:
    before = descendants()
    sandbox = await start_sandbox(config())
    running = asyncio.create_task(sandbox.run(call(FOREVER)))
    await asyncio.sleep(0.2)
    await sandbox.close()
    with pytest.raises(SandboxUnavailableError):
        await running
    with pytest.raises(SandboxUnavailableError):
        await sandbox.run(call(HALF))
    assert descendants() == before


async def test_two_may_throw_the_zygotes_away_at_once(started: Start) -> None:
    sandbox = await started(disabled_layers=frozenset({"namespaces"}))
    (image_,) = sandbox.environments
    await asyncio.gather(image_.recycle(), image_.recycle())
    assert (await sandbox.run(call(HALF))).value == 0.5


async def test_an_unknown_image_names_the_known_ones(started: Start) -> None:
    sandbox = await started()
    run = SandboxRun(source=HALF, image_tag="alpha", payload=b"{}")
    with pytest.raises(DefinitionError, match=f"unknown image_tag 'alpha'; known: {image.TAG}"):
        await sandbox.run(run)


@pytest.mark.parametrize(
    "source", ["#" * 300_000, "x = '\ud800'"], ids=["too-long", "lone-surrogate"]
)
async def test_a_source_that_cannot_be_sent_is_a_definition_error(
    started: Start, source: str
) -> None:
    sandbox = await started()
    with pytest.raises(DefinitionError):
        await sandbox.run(call(source))


RANDOM = (
    "import random\nfirst = random.random()\ndef grade(s, i):\n"
    "    return first + random.random() + list({'a', 'b', 'c', str(i)}).index('a')\n"
)
NUMPY_RANDOM = (
    "import {name}\ndef grade(s, i):\n    import numpy as np\n"
    "    return np.random.rand() + np.random.default_rng().random()\n"
)


OWN_RANDOM = (
    "import random\nown = random.Random()\ndef grade(s, i):\n    random.seed()\n"
    "    return own.random() + random.Random().random() + random.random()\n"
)


@pytest.mark.parametrize(
    "source",
    [RANDOM, OWN_RANDOM, NUMPY_RANDOM.format(name="numpy"), NUMPY_RANDOM.format(name="json")],
    ids=["random", "own-random", "numpy", "numpy-imported-late"],
)  # fmt: skip
async def test_fixed_seeds_replay_a_call_and_differ_between_payloads(
    started: Start, source: str
) -> None:
    if "numpy" in source and not image.is_full():
        pytest.skip("needs the full image")
    source = source.replace(
        "import json\ndef grade(s, i):\n    import numpy",
        "def grade(s, i):\n    numpy = __import__('numpy')\n    import numpy",
    )
    values = []
    for _ in range(2):
        sandbox = await started(seeds="fixed")
        values += [[(await sandbox.run(call(source, item={"n": n}))).value for n in (1, 1, 2)]]
    assert values[0] == values[1]
    assert values[0][0] == values[0][1] != values[0][2]


async def test_the_order_of_keys_does_not_change_a_fixed_seed(started: Start) -> None:
    sandbox = await started(seeds="fixed")
    values = [
        (await sandbox.run(call(RANDOM, item=item))).value
        for item in ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}, {"a": 1})
    ]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    "source",
    [RANDOM, OWN_RANDOM, NUMPY_RANDOM.format(name="numpy")],
    ids=["random", "own-random", "numpy"],
)
async def test_fresh_seeds_differ_between_calls(started: Start, source: str) -> None:
    if "numpy" in source and not image.is_full():
        pytest.skip("needs the full image")
    sandbox = await started()
    assert len({(await sandbox.run(call(source))).value for _ in range(5)}) == 5


async def test_least_recently_used_tiers_are_let_go(started: Start) -> None:
    if not image.is_full():
        pytest.skip("needs the full image")
    sandbox = await started(max_tiers=2)
    for name in ("yaml", "sqlparse", "rapidfuzz"):
        assert (await sandbox.run(call(f"import {name}\n{HALF}"))).value == 0.5
    assert len(sandbox.stats().tiers) == 2
    assert sandbox.stats().tiers[-1].packages == ("rapidfuzz",)


async def test_a_tier_that_calls_wait_for_is_not_let_go(started: Start) -> None:
    if not image.is_full():
        pytest.skip("needs the full image")
    sandbox = await started(max_tiers=2, slots=8, timeout_s=60.0)
    names = ("yaml", "sqlparse", "rapidfuzz", "jsonschema", "pydantic", "base64")
    pairs = itertools.combinations(names, 2)
    sources = [f"import {one}, {other}\n{HALF}" for one, other in pairs]
    results = await asyncio.gather(*(sandbox.run(call(source)) for source in sources))
    assert [result.value for result in results] == [0.5] * len(sources)
    assert sandbox.stats().zygote_restarts == 0


# Takes the compiler several seconds, and no module of ours can do anything about it.
SLOW_TO_COMPILE = HALF + 'x = f"' + "{s}" * 80_000 + '"\n'


async def test_slow_compilations_do_not_stop_the_others(started: Start) -> None:
    sandbox = await started(slots=2, timeout_s=60.0)
    assert (await sandbox.run(call(HALF))).value == 0.5
    slow = [asyncio.create_task(sandbox.run(call(SLOW_TO_COMPILE + f"#{n}"))) for n in range(6)]
    await asyncio.sleep(0.05)
    await asyncio.wait_for(sandbox.run(call(HALF)), 2.5)
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_a_compilation_that_nobody_waits_for_is_killed(started: Start) -> None:
    sandbox = await started(slots=1)
    assert (await sandbox.run(call(HALF))).value == 0.5
    zygotes = await _settled(sandbox)
    waiting = [asyncio.create_task(sandbox.run(call(SLOW_TO_COMPILE))) for _ in range(2)]
    await _new_process(zygotes)
    waiting[1].cancel()
    await asyncio.sleep(0.2)
    assert await _new_process(zygotes), "one still waits for it"
    waiting[0].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await _settled(sandbox) == zygotes
    assert sandbox.stats().kills == {"cancelled": 1}


async def test_a_source_that_takes_too_long_to_compile_is_remembered(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_COMPILE_S", 0.3)
    sandbox = await started()
    for _ in range(2):
        result = await sandbox.run(call(SLOW_TO_COMPILE))
        assert (result.outcome, result.details) == ("timeout", "compiling timed out after 0.3 s")
    assert sandbox.stats().kills == {"timeout": 1}


async def test_closing_while_a_source_is_compiled_refuses_the_call() -> None:
    sandbox = await start_sandbox(config())
    running = asyncio.create_task(sandbox.run(call(SLOW_TO_COMPILE)))
    await asyncio.sleep(0.2)
    await sandbox.close()
    with pytest.raises(SandboxUnavailableError):
        await running


async def test_a_large_payload_arrives_whole(started: Start) -> None:
    sandbox = await started()
    source = "def grade(s, i):\n    return len(s['output_text'])\n"
    result = await sandbox.run(call(source, sample={"output_text": "x" * 20_000_000}))
    assert result.value == 20_000_000


OTHER = """
import os
def attempts(pid):
    for name in ('environ', 'mem', 'maps', 'smaps_rollup', 'cmdline', 'fd/0', 'fd/1', 'cwd/file'):
        yield lambda: open(f'/proc/{pid}/{name}', 'rb')
    for name in ('fd', 'cwd', 'root', 'task', 'map_files'):
        yield lambda: os.listdir(f'/proc/{pid}/{name}')
    for name in ('fd/0', 'cwd', 'exe'):
        yield lambda: os.readlink(f'/proc/{pid}/{name}')
    yield lambda: os.kill(pid, 0)
def grade(sample, item):
    through = []
    for n, attempt in enumerate(attempts(item['pid'])):
        try:
            attempt()
        except PermissionError:
            continue
        through.append(n)
    assert not through, through
    return 1.0
"""


@pytest.mark.parametrize("profile", ["strict", "processes"])
async def test_a_grader_sees_nothing_of_another_that_its_zygote_can_look_at(
    started: Start, profile: str
) -> None:
    sandbox = await started(profile=profile, disabled_layers=frozenset({"namespaces"}), slots=2)
    assert (await sandbox.run(call(SLEEP, item={"s": 0}))).value == 0.5
    zygotes = await _settled(sandbox)
    other = asyncio.create_task(sandbox.run(call(SLEEP, item={"s": 30})))
    pid = await _new_process(zygotes)
    await until(lambda: _niceness(pid) == 15)  # by then it has locked itself down
    result = await sandbox.run(call(OTHER, item={"pid": pid}))
    assert (result.value, result.details) == (1.0, "")
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)


CHILDREN_WITH_MEMORY = """
import os, time
def grade(sample, item):
    kept = bytearray(os.urandom(1 << 20) * item['shared'])
    for _ in range(20):
        if os.fork() == 0:
            own = os.urandom(1 << 20) * item['own']
            time.sleep(60)
            os._exit(0)
    time.sleep(item['s'])
    return 0.5
"""


async def test_a_family_shares_one_memory_limit_and_what_it_shares_counts_once(
    started: Start,
) -> None:
    sandbox = await started(profile="processes", memory_bytes=512 << 20, timeout_s=60.0)
    item = {"shared": 64, "own": 1, "s": 0.5}
    assert (await sandbox.run(call(CHILDREN_WITH_MEMORY, item=item))).value == 0.5
    item = {"shared": 1, "own": 64, "s": 60}
    result = await sandbox.run(call(CHILDREN_WITH_MEMORY, item=item))
    assert result.outcome == "memory"
    assert result.details == f"used more than {512 << 20} bytes of memory"
    assert sandbox.stats().kills == {"memory": 1}


async def test_too_many_processes_are_named_and_counted(started: Start) -> None:
    sandbox = await started(profile="processes", max_processes=8)
    result = await sandbox.run(call(CHILDREN_WITH_MEMORY, item={"shared": 0, "own": 0, "s": 60}))
    assert (result.outcome, result.details) == ("output", "used more than 8 processes")
    assert sandbox.stats().kills == {"processes": 1}


async def test_many_threads_do_not_keep_others_from_being_forked(started: Start) -> None:
    sandbox = await started(slots=2)
    assert (await sandbox.run(call(HALF))).value == 0.5
    source = (
        "import threading\ndef grade(s, i):\n    threading.stack_size(32768)\n"
        "    wait = threading.Event().wait\n    for _ in range(10 ** 6):\n"
        "        threading.Thread(target=wait, daemon=True).start()\n"
    )
    bomb = asyncio.create_task(sandbox.run(call(source)))
    others = [await sandbox.run(call(HALF)) for _ in range(20)]
    assert [result.value for result in others] == [0.5] * 20
    result = await bomb
    assert (result.outcome, result.details) == ("output", "used more than 256 threads")
    assert sandbox.stats().kills == {"threads": 1}


MANY_FILES = (
    "import time\ndef grade(s, i):\n    for n in range(60):\n"
    "        with open(f'{n}', 'wb') as file:\n            file.write(bytes(1 << 20))\n"
    "    time.sleep(60)\n"
)
NAMELESS_FILES = (
    "import os, time\nkept = []\ndef grade(s, i):\n    for n in range(40):\n"
    "        kept.append(open('f', 'wb', buffering=0))\n        os.unlink('f')\n"
    "        kept[-1].write(bytes(1 << 20))\n    time.sleep(60)\n"
)


@pytest.mark.parametrize("source", [MANY_FILES, NAMELESS_FILES], ids=["named", "nameless"])
async def test_without_a_file_system_of_its_own_a_grader_that_fills_it_is_killed(
    started: Start, source: str
) -> None:
    sandbox = await started(disabled_layers=frozenset({"namespaces"}), disk_bytes=32 << 20)
    result = await sandbox.run(call(source))
    assert result.outcome == "output"
    assert result.details == f"used more than {32 << 20} bytes or 20000 files of scratch"
    assert sandbox.stats().kills == {"disk": 1}
    await until(lambda: not sandbox.stats().running)
    (image_,) = sandbox.environments
    assert os.listdir(image_.scratch_fd(0)) == []


async def test_a_grader_whose_files_cannot_be_counted_is_killed(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await started(disabled_layers=frozenset({"namespaces"}))
    assert (await sandbox.run(call(HALF))).value == 0.5
    monkeypatch.setattr(scratch, "usage", lambda *_: (0, False))
    result = await sandbox.run(call(FOREVER))
    assert (result.outcome, sandbox.stats().kills) == ("output", {"disk": 1})


async def test_what_does_not_start_in_namespaces_starts_without_and_says_so(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BaseLink, "take_scratch", lambda _: [])
    sandbox = await started(minimum_level="lsm", slots=2, slow_slots=0)
    assert sandbox.report().level == "lsm"
    (note,) = sandbox.report().notes
    assert note.startswith("no namespaces: ")
    assert (await sandbox.run(call(HALF))).value == 0.5


async def test_a_leaf_that_could_not_be_killed_does_not_stay(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await started()
    assert (await sandbox.run(call(HALF))).value == 0.5
    receive = socket.recv_fds
    lost: list[int] = []

    def receive_without(*arguments: Any) -> Any:
        message, fds, flags, address = receive(*arguments)
        if fds and not lost:
            lost.extend(fds)
            os.close(fds.pop())
        return message, fds, flags, address

    monkeypatch.setattr(socket, "recv_fds", receive_without)
    result = await sandbox.run(call(SLEEP, item={"s": 0.2}))
    assert (result.value, len(lost)) == (0.5, 1)
    assert sandbox.stats().zygote_restarts == 1
    await _settled(sandbox)


async def test_below_the_minimum_it_refuses_and_names_the_layer() -> None:
    with pytest.raises(IsolationTooWeakError, match="Landlock is not in use") as refused:
        await start_sandbox(config(disabled_layers=frozenset({"namespaces", "landlock"})))
    assert refused.value.level == "seccomp"
    assert "CONFIG_SECURITY_LANDLOCK" in str(refused.value)


async def test_what_does_not_start_is_reported_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_TIER_READY_S", 0.0)
    with pytest.raises(IsolationTooWeakError, match="it does not start: packages") as refused:
        await start_sandbox(config())
    assert "canary" not in str(refused.value)


async def test_a_canary_that_gives_no_answer_is_named_with_what_came_instead() -> None:
    with pytest.raises(
        IsolationTooWeakError, match="canary N01 gave no answer: timeout, timed out"
    ):
        await start_sandbox(config(selftest_timeout_s=1e-6))


async def test_a_service_without_a_place_for_files_says_so() -> None:
    with pytest.raises(IsolationTooWeakError, match="No such file or directory: '/nowhere"):
        await start_sandbox(config(scratch_dir="/nowhere"))
    sandbox = await start_sandbox(config(scratch_dir="/nowhere", minimum_level="process"))
    with pytest.raises(SandboxUnavailableError, match="'/nowhere"):
        await sandbox.run(call(HALF))


@pytest.mark.parametrize("umask", [0o027, 0o077])
async def test_the_umask_of_the_service_does_not_matter(started: Start, umask: int) -> None:
    before = os.umask(umask)
    try:
        sandbox = await started()
        assert (await sandbox.run(call(HALF))).value == 0.5
    finally:
        os.umask(before)


async def test_children_need_a_kernel_that_keeps_them_from_killing_their_zygote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "_LANDLOCK_ABI", 5)
    with pytest.raises(IsolationTooWeakError, match="processes needs Landlock ABI 6"):
        await start_sandbox(config(profile="processes"))


async def test_many_slots_change_nothing_about_the_isolation(started: Start) -> None:
    few, many = await started(), await started(slots=230)
    assert many.report().notes == few.report().notes
    assert many.report().level == few.report().level
    tasks = [asyncio.create_task(many.run(call(SLEEP, item={"s": 0.5}))) for _ in range(230)]
    assert [result.value for result in await asyncio.gather(*tasks)] == [0.5] * 230


async def test_slots_begin_at_the_cpu_that_they_are_told(started: Start) -> None:
    available = sorted(os.sched_getaffinity(0))
    source = "import os\ndef grade(s, i):\n    return float(*os.sched_getaffinity(0))\n"
    for first in (0, 1):
        sandbox = await started(slots=1, cores=1, first_cpu=first)
        cpu = (await sandbox.run(call(source))).value
        assert cpu == available[first % len(available)]


async def test_without_descriptors_calls_are_unavailable_and_nothing_is_lost(
    started: Start,
) -> None:
    sandbox = await started(slots=1)
    assert (await sandbox.run(call(HALF))).value == 0.5
    await _settled(sandbox)
    await until(lambda: not sandbox.stats().running)  # a call has closed its descriptors by then
    usual = set(map(int, os.listdir("/proc/self/fd")))
    lowest_free = next(n for n in itertools.count() if n not in usual)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    answers: list[str] = []
    for more in range(10):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + more, limits[1]))
        try:
            answers.append((await sandbox.run(call(HALF))).outcome)
        except SandboxUnavailableError:
            answers.append("unavailable")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert answers[0] == "unavailable"
    assert set(answers) <= {"value", "unavailable"}
    assert (await sandbox.run(call(HALF))).value == 0.5
    await _settled(sandbox)
    await until(lambda: len(os.listdir("/proc/self/fd")) <= len(usual))


async def test_a_process_says_that_a_package_is_not_in_its_image() -> None:
    sandbox = await start_sandbox(
        config(
            images={image.TAG: f"{sys.base_prefix}/bin/python3"},
            minimum_level="process",
            disabled_layers=frozenset({"namespaces", "landlock", "seccomp"}),
        )
    )
    assert isinstance(sandbox, ProcessSandbox)
    result = await sandbox.run(call(f"import sklearn\n{HALF}"))
    assert "not in this installation's package set" in result.details


async def test_without_any_layer_it_is_a_process_and_says_so() -> None:
    nothing = frozenset({"namespaces", "landlock", "seccomp"})
    sandbox = await start_sandbox(
        config(disabled_layers=nothing, minimum_level="process", timeout_s=1.0)
    )
    assert isinstance(sandbox, ProcessSandbox)
    assert sandbox.report().level == "process"
    assert sandbox.report().notes
    good = await sandbox.run(
        call("def grade(s, i):\n    print(s)\n    return 0.5\n", sample={"a": 1})
    )
    assert (good.outcome, good.value, good.stdout) == ("value", 0.5, "{'a': 1}\n")
    assert good.diagnostics["isolation"] == "process"
    outcomes = [
        (await sandbox.run(call(source))).outcome
        for source in (
            FOREVER,
            "import os\nos._exit(3)\n",
            "def grade(:",
            "def grade(s, i):\n    return ''\n",
        )
    ]
    assert outcomes == ["timeout", "no_result", "exception", "bad_value"]
    await sandbox.close()
