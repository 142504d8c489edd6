"""Admission, retries, seeds, captured output: what the sandbox promises around a call."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from graders.errors import DefinitionError, OverloadedError, SandboxUnavailableError
from graders.ports import SandboxRun
from service.sandbox import IsolationTooWeakError, ProcessSandbox, SubprocessSandbox, start_sandbox
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
    assert sandbox.stats().slow == 32
    assert turns > 1000  # nothing on the loop waits for a grader
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


async def test_a_zygote_whose_end_nobody_has_noticed_costs_one_retry(started: Start) -> None:
    sandbox = await started()
    assert (await sandbox.run(call(HALF))).value == 0.5
    zygotes = await _settled(sandbox)
    os.kill(zygotes[-1], signal.SIGKILL)
    time.sleep(0.1)  # noqa: ASYNC251 - the event loop hears of it only after the next call
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


@pytest.mark.parametrize(
    "source", [RANDOM, NUMPY_RANDOM.format(name="numpy"), NUMPY_RANDOM.format(name="json")],
    ids=["random", "numpy", "numpy-imported-late"],
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


@pytest.mark.parametrize(
    "source", [RANDOM, NUMPY_RANDOM.format(name="numpy")], ids=["random", "numpy"]
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


async def test_a_large_payload_arrives_whole(started: Start) -> None:
    sandbox = await started()
    source = "def grade(s, i):\n    return len(s['output_text'])\n"
    result = await sandbox.run(call(source, sample={"output_text": "x" * 20_000_000}))
    assert result.value == 20_000_000


async def test_below_the_minimum_it_refuses_and_names_the_layer() -> None:
    with pytest.raises(IsolationTooWeakError, match="Landlock is not in use") as refused:
        await start_sandbox(config(disabled_layers=frozenset({"namespaces", "landlock"})))
    assert refused.value.level == "seccomp"
    assert "CONFIG_SECURITY_LANDLOCK" in str(refused.value)


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
