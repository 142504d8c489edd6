"""Recording and replay: the same replies, offline, or a typed failure."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from pathlib import Path

import pytest

from graders.errors import JudgeUnavailableError
from graders.ports import EmbeddingCall
from service.judge import (
    JudgeConfig,
    JudgeContext,
    MissingRecordingError,
    OpenAIJudge,
    Recording,
    RecordingError,
    judging,
)
from service.judge.context import CacheControl
from service.judge.outcome import Answer, Failed
from service.stores import MemoryStore
from tests.fakes_upstream import Upstream, completion, embeddings, error
from tests.judge.calls import call
from tests.judge.conftest import MakeJudge


def live(file: Path) -> JudgeConfig:
    return JudgeConfig(mode="record", recording=str(file))


def replay(file: Path | None) -> JudgeConfig:
    return JudgeConfig(mode="replay", recording=None if file is None else str(file))


async def test_replay_gives_the_recorded_replies_without_an_upstream(
    upstream: Upstream, make_judge: MakeJudge, tmp_path: Path
) -> None:
    file = tmp_path / "recording.jsonl"
    upstream.script = lambda asked: (
        embeddings(asked)
        if asked.path.endswith("/embeddings")
        else completion(None, refusal="no")
        if "refuse" in asked.text
        else completion(f'{{"steps": [], "result": {asked.number}}}', finish_reason="stop")
    )
    recorder = make_judge(live(file))
    texts = ["a", "b", "refuse"]
    recorded = [await recorder.judge(call(text)) for text in texts]
    vectors = await recorder.embed(EmbeddingCall(model="e", texts=("x", "y")))
    await recorder.judge(call("a"))
    lines = file.read_text().splitlines()
    assert len(lines) == 6
    asked = upstream.count
    player = make_judge(replay(file))
    played = [await player.judge(call(text)) for text in texts]
    assert (
        await player.embed(EmbeddingCall(model="e", texts=("x", "y")))
    ).vectors == vectors.vectors
    for one, other in zip(recorded, played, strict=True):
        assert (one.content, one.refusal, one.finish_reason) == (
            other.content,
            other.refusal,
            other.finish_reason,
        )
        assert (one.model, one.usage, one.key) == (other.model, other.usage, other.key)
    assert upstream.count == asked


async def test_missing_recording_is_a_typed_failure(
    upstream: Upstream, make_judge: MakeJudge, tmp_path: Path
) -> None:
    file = tmp_path / "recording.jsonl"
    await make_judge(live(file)).judge(call("known"))
    with pytest.raises(MissingRecordingError) as caught:
        await make_judge(replay(file)).judge(call("unknown"))
    assert (caught.value.code, caught.value.retryable) == ("missing_recording", False)
    assert upstream.count == 1


async def test_replay_reads_the_cache_too(upstream: Upstream, make_judge: MakeJudge) -> None:
    store = MemoryStore()
    await make_judge(store=store).judge(call())
    assert (await make_judge(replay(None), store=store).judge(call())).cached
    assert upstream.count == 1


async def test_failures_are_not_recorded(
    upstream: Upstream, make_judge: MakeJudge, tmp_path: Path
) -> None:
    file = tmp_path / "recording.jsonl"
    upstream.script = lambda asked: error(404)
    with pytest.raises(JudgeUnavailableError):
        await make_judge(live(file)).judge(call())
    assert len(Recording(file, mode="replay")) == 0
    recording = Recording(file, mode="record")
    recording.record("k", Failed(details="d", kind="k"))
    recording.close()
    assert len(file.read_text().splitlines()) == 1


@pytest.mark.parametrize("cache", ["read-write", "refresh", "off"])
async def test_question_that_is_answered_differently_later_has_its_first_outcome(
    upstream: Upstream, make_judge: MakeJudge, tmp_path: Path, cache: CacheControl
) -> None:
    file = tmp_path / "recording.jsonl"
    upstream.script = lambda asked: (
        completion(None, refusal="no")
        if asked.number == 1
        else completion(f'{{"steps": [], "result": 0.{asked.number}}}')
    )

    async def thrice(judge: OpenAIJudge) -> list[tuple[str | None, str | None]]:
        with judging(JudgeContext(cache=cache)):
            replies = [await judge.judge(call()) for _ in range(3)]
        return [(reply.content, reply.refusal) for reply in replies]

    recorded = await thrice(make_judge(live(file)))
    assert recorded == [(None, "no")] * 3
    assert await thrice(make_judge(live(file))) == recorded  # continued
    assert await thrice(make_judge(replay(file))) == recorded
    assert upstream.count == 1
    assert len(file.read_text().splitlines()) == 2


async def test_question_asked_twice_at_once_has_one_outcome(
    upstream: Upstream, make_judge: MakeJudge, tmp_path: Path
) -> None:
    file = tmp_path / "recording.jsonl"
    upstream.script = lambda asked: completion(
        f'{{"steps": [], "result": {asked.number}}}', delay_s=0.1
    )
    recorder = make_judge(live(file))
    with judging(JudgeContext(cache="off")):
        replies = await asyncio.gather(*(recorder.judge(call()) for _ in range(5)))
    assert upstream.count == 5
    assert len({reply.content for reply in replies}) == 1
    assert (await make_judge(replay(file)).judge(call())).content == replies[0].content


@pytest.mark.parametrize("cut", [1, 8, 13, 14, 20, -1])
def test_recording_of_a_killed_process_is_replayed_and_continued(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "recording.jsonl"
    first = Answer(content="a", model="m")
    second = Answer(content="b", model="m")
    recording = Recording(file, mode="record")
    recording.record("first", first)
    recording.record("second", second)
    recording.close()
    whole = file.read_bytes()
    first_line_ends = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    torn = whole[:cut] if cut != -1 else whole[: first_line_ends + 9]
    file.write_bytes(torn)
    known = cut == -1
    assert len(Recording(file, mode="replay")) == known
    continued = Recording(file, mode="record")
    assert (continued.find("first") is not None) == known
    continued.record("first", first)
    continued.record("second", second)
    continued.close()
    assert file.read_bytes() == whole


def test_last_line_that_lacks_its_end_only_counts(tmp_path: Path) -> None:
    file = tmp_path / "recording.jsonl"
    recording = Recording(file, mode="record")
    recording.record("k", Answer(content="a", model="m"))
    recording.close()
    whole = file.read_bytes()
    file.write_bytes(whole.rstrip())
    assert len(Recording(file, mode="replay")) == 1
    Recording(file, mode="record").close()
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 99}\n', "has format 99"),
        ("nonsense\n", "line 1"),
        ('{"format": 1}\n{"key": "k"}\n', "line 2"),
        ('{"format": 1}\n\xff\n', "line 2"),
        ('{"format": 1}\n{"key": "k"}\n{"key"', "line 2"),
        ('{"format": 99}', "has format 99"),
    ],
)
def test_unreadable_recording_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recording.jsonl"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecordingError, match=message) as caught:
        Recording(file, mode="replay")
    assert str(file) in str(caught.value)


def answer(text: str) -> Answer:
    return Answer(content=text, model="m")


def test_two_processes_may_begin_one_file(tmp_path: Path) -> None:
    file = tmp_path / "recording.jsonl"
    file.write_text('{"format":1}\n' * 2)
    assert len(Recording(file, mode="replay")) == 0


def test_a_full_disk_costs_no_reply_and_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "recording.jsonl"
    recording = Recording(file, mode="record")
    write, room = os.write, 7

    def full(fd: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written, room = write(fd, data[:room]), 0
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        recording.record("one", answer("1"))
        recording.record("two", answer("2"))
    assert len(Recording(file, mode="replay")) == 0
    assert file.read_bytes().endswith(b"\n")  # no torn line is left to another process
    assert [record.message for record in caplog.records] == ["recording cannot be written"]
    recording.record("three", answer("3"))
    assert caplog.records[-1].message == "recording written again"
    recording.close()
    recording.close()
    found = Recording(file, mode="replay")
    assert [key for key in ("one", "two", "three") if found.find(key)] == ["one", "two", "three"]


def test_what_could_not_be_written_is_written_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "recording.jsonl"
    recording = Recording(file, mode="record")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        recording.record("one", answer("1"))
    recording.close()
    assert len(Recording(file, mode="replay")) == 1


def test_who_continues_cuts_off_nothing_that_another_writes(tmp_path: Path) -> None:
    file = tmp_path / "recording.jsonl"
    first = Recording(file, mode="record")
    first.record("one", answer("1"))
    second = Recording(file, mode="record")
    first.record("two", answer("2"))
    second.record("three", answer("3"))
    first.record("four", answer("4"))
    found = Recording(file, mode="replay")
    assert len(found) == 4


def test_recording_that_is_not_there_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be read"):
        Recording(tmp_path / "none", mode="replay")
    with pytest.raises(RecordingError, match="none/none cannot be written"):
        Recording(tmp_path / "none" / "none", mode="record")


def test_recording_needs_a_path(make_judge: MakeJudge) -> None:
    with pytest.raises(ValueError, match="needs the path"):
        make_judge(JudgeConfig(mode="record"))
