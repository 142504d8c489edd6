"""Recording and replay: the same replies, offline, or a typed failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from graders.errors import JudgeUnavailableError
from graders.ports import EmbeddingCall
from service.judge import JudgeConfig, MissingRecordingError, Recording, RecordingError
from service.judge.outcome import Failed
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 99}\n', "has format 99"),
        ("nonsense\n", "line 1"),
        ('{"format": 1}\n{"key": "k"}\n', "line 2"),
        ('{"format": 1}\n\xff', "line 2"),
    ],
)
def test_unreadable_recording_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recording.jsonl"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecordingError, match=message):
        Recording(file, mode="replay")


def test_recording_that_is_not_there_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be read"):
        Recording(tmp_path / "none", mode="replay")
    with pytest.raises(RecordingError, match="cannot be written"):
        Recording(tmp_path / "none" / "none", mode="record")


def test_recording_needs_a_path(make_judge: MakeJudge) -> None:
    with pytest.raises(ValueError, match="needs the path"):
        make_judge(JudgeConfig(mode="record"))
