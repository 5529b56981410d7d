"""How a video's work flows: bounded, a few windows ahead, and over as soon as nobody wants it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bare_asgi import in_loop
from made_up_pipeline import (
    Alive,
    Network,
    all_parts,
    body_of,
    made_up_spec,
    options,
    running_pipeline,
)
from made_up_service import HASH

from avs.media.encoding import write_mp4
from avs.serving import pipeline as pipeline_module
from avs.serving.messages import ApiError, Head, Refusal
from avs.serving.pipeline import VideoPipeline

NUM_S = 150
PIECE_S = 15


@pytest.fixture(scope="module")
def pipeline() -> Iterator[VideoPipeline]:
    with running_pipeline() as started:
        yield started


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 s of two frames a second."""
    path = tmp_path_factory.mktemp("long") / "v.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (2 * NUM_S, 32, 32, 3), np.uint8)
    write_mp4(path, frames, fps=2, samples=None)
    return path


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> Alive:
    """Pieces are short; counts the windows that there are."""
    alive, rounds = Alive(), pipeline_module.media_rounds

    def counted(parts: Iterable[Any], **known: Any) -> Iterator[Any]:
        for windows in rounds(parts, **known):
            for window in windows:
                alive.add(window.frames)
            yield windows

    monkeypatch.setattr(pipeline_module, "media_rounds", counted)
    monkeypatch.setattr(pipeline_module, "PIECE_S", PIECE_S)
    monkeypatch.setattr(pipeline_module, "_STREAM_PIECE_S", PIECE_S)
    return alive


async def _until(holds: Callable[[], Any]) -> None:
    while not holds():
        await asyncio.sleep(0.005)


async def _settled(count: Callable[[], int]) -> int:
    """A count that does not change any more."""
    before = -1
    while before != count():
        before = count()
        await asyncio.sleep(0.3)
    return before


@pytest.mark.parametrize(("masks_per_s", "ahead"), [(1, 1), (1, 4), (2, 1), (2, 3)])
def test_no_more_than_a_few_windows_wait_for_the_network(
    pipeline: VideoPipeline, video: Path, masks_per_s: int, ahead: int
) -> None:
    async def scenario() -> None:
        network = Network(num_permits=0)
        spec = made_up_spec(windows_per_forward=ahead)
        work = asyncio.create_task(
            all_parts(pipeline, video, spec=spec, forward=network, masks_per_s=masks_per_s)
        )
        most = 2 * ahead - 1 + masks_per_s
        await _until(lambda: network.num_waiting >= 2 * ahead)
        assert await _settled(lambda: network.num_waiting) <= most
        while network.num_asked < 30:  # as windows are answered, others follow
            network.permits.release()
            await asyncio.sleep(0.002)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert network.most_waiting <= most

    in_loop(scenario())


@pytest.mark.parametrize("kind", ["npz", "stream"])
def test_a_long_video_takes_the_memory_of_a_piece(
    pipeline: VideoPipeline, video: Path, in_pieces: Alive, kind: str
) -> None:
    async def scenario() -> None:
        network = Network()
        decoded = Alive()
        pipeline.sandbox.alive = decoded  # type: ignore[attr-defined]
        parts = await all_parts(pipeline, video, spec=made_up_spec(2), forward=network, format=kind)
        assert body_of(parts, checkpoint=HASH)
        assert network.num_asked == in_pieces.ever == NUM_S // 3
        assert decoded.ever == NUM_S // PIECE_S
        assert decoded.most <= 2
        assert network.alive.most <= 2 * 2 + 1
        assert in_pieces.most <= 2 * 2 + 2
        # A thread may hold what it was given last for a moment longer.
        gc.collect()
        await _until(lambda: network.alive.now == in_pieces.now == 0)

    in_loop(scenario())


@pytest.mark.parametrize("kind", ["npz", "stream"])
def test_cancelling_stops_forwards_and_decoding(
    pipeline: VideoPipeline, video: Path, in_pieces: Alive, kind: str
) -> None:
    calls = pipeline.sandbox.calls  # type: ignore[attr-defined]

    async def scenario() -> None:
        network = Network(num_permits=8)
        work = asyncio.create_task(
            all_parts(pipeline, video, spec=made_up_spec(2), forward=network, format=kind)
        )
        await _until(lambda: network.num_waiting)
        assert await _settled(lambda: network.num_asked) >= 8  # windows are asked in any order
        num_waiting = network.num_waiting
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert network.num_waiting == 0
        assert network.num_cancelled == num_waiting > 0
        await _settled(lambda: len(calls))
        assert calls.count("decode_video") < NUM_S // PIECE_S
        assert sorted(p.name for p in video.parent.iterdir()) == ["v.mp4"]

    calls.clear()
    in_loop(scenario())


def test_closing_a_stream_in_the_middle_stops_it(
    pipeline: VideoPipeline, video: Path, in_pieces: Alive
) -> None:
    calls = pipeline.sandbox.calls  # type: ignore[attr-defined]

    async def scenario() -> None:
        network = Network(num_permits=12)
        before_tasks = asyncio.all_tasks()
        parts = pipeline.parts(
            video,
            name="v.mp4",
            options=options(format="stream"),
            spec=made_up_spec(2),
            forward=network,
        )
        got = [await anext(parts) for _ in range(4)]  # head, start, two rounds
        assert got[0] == Head(HASH, None)
        await parts.aclose()
        assert network.num_waiting == 0
        await _settled(lambda: len(calls))
        assert calls.count("decode_video") < NUM_S // PIECE_S
        assert asyncio.all_tasks() == before_tasks

    calls.clear()
    in_loop(scenario())


def test_closing_a_file_that_is_being_sent_removes_it(
    pipeline: VideoPipeline, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "_CHUNK_BYTES", 100)

    async def scenario() -> None:
        parts = pipeline.parts(
            video,
            name="v.mp4",
            options=options(format="png"),
            spec=made_up_spec(2),
            forward=Network(),
        )
        head, first = await anext(parts), await anext(parts)
        assert isinstance(head, Head)
        assert head.num_bytes is not None
        assert head.num_bytes > len(first) == 100  # type: ignore[arg-type]
        assert len(list(video.parent.iterdir())) == 2
        await parts.aclose()
        assert sorted(p.name for p in video.parent.iterdir()) == ["v.mp4"]

    in_loop(scenario())


def test_what_a_forward_raises_ends_the_answer_and_the_others(
    pipeline: VideoPipeline, video: Path
) -> None:
    async def scenario() -> None:
        network = Network(num_permits=0)
        network.error = ApiError(503, "unavailable", "gone")
        before_tasks = asyncio.all_tasks()
        work = asyncio.create_task(
            all_parts(pipeline, video, spec=made_up_spec(3), forward=network)
        )
        while not work.done():
            network.permits.release()
            await asyncio.sleep(0.002)
        with pytest.raises(ApiError, match="gone"):
            await work
        assert network.num_waiting == 0
        assert asyncio.all_tasks() == before_tasks

    in_loop(scenario())


def test_a_video_that_breaks_off_late_ends_its_stream_with_a_refusal(
    pipeline: VideoPipeline, video: Path, tmp_path: Path, in_pieces: Alive
) -> None:
    data = bytearray(video.read_bytes())
    half = len(data) // 2
    data[half : half + half // 4] = bytes(half // 4)
    path = tmp_path / "upload"
    path.write_bytes(data)

    async def scenario() -> None:
        parts = await all_parts(
            pipeline, path, spec=made_up_spec(1), forward=Network(), format="stream"
        )
        head, start, *masks, refusal = parts
        assert isinstance(head, Head)
        assert isinstance(start, bytes)
        assert masks
        assert all(isinstance(line, bytes) for line in masks)
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.code) == (422, "unreadable")
        assert refusal.message.startswith("mine.mp4: ")
        assert str(tmp_path) not in refusal.message

    in_loop(scenario())
