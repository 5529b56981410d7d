"""Where a request goes when a decoder cannot take it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from avs.serving import ingress
from avs.serving.calling import TRIES
from avs.serving.ingress import Ingress
from avs.serving.messages import NO_ROOM, Options, Part, Refusal, Upload

FULL = Refusal(503, NO_ROOM, "the disk of the service is full; try again")


class _Decoders:
    """A handle; each call is answered by the next list of parts."""

    def __init__(self, answers: list[list[Part]]) -> None:
        self._answers = answers
        self.num_cancelled = 0

    def options(self, **_: Any) -> _Decoders:
        return self

    @property
    def segment(self) -> _Decoders:
        return self

    def remote(self, *_: Any) -> _Parts:
        return _Parts(self._answers.pop(0), self)


class _Parts:
    def __init__(self, parts: list[Part], decoders: _Decoders) -> None:
        self._parts, self._decoders = parts, decoders

    async def __aiter__(self) -> AsyncIterator[Part]:
        for part in self._parts:
            yield part

    def cancel(self) -> None:
        self._decoders.num_cancelled += 1


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_: int) -> None: ...

    monkeypatch.setattr(ingress, "pause", at_once)


def _answer(decoders: _Decoders) -> list[Part]:
    asked = Ingress.__new__(Ingress)
    asked._decoder, asked._timeout_s = decoders, 1.0  # type: ignore[assignment]
    upload = Upload(name="a.mp4", num_bytes=9, uri="s3://b/a.mp4")
    options = Options.__new__(Options)

    async def collected() -> list[Part]:
        return [part async for part in asked.segment(upload, options)]

    return asyncio.run(collected())


def test_a_decoder_whose_disk_is_full_is_passed_over() -> None:
    decoders = _Decoders([[FULL], [b"ma", FULL], [b"ma", b"sks"]])
    assert b"".join(p for p in _answer(decoders) if isinstance(p, bytes)) == b"masks"
    assert decoders.num_cancelled == 2


def test_where_all_disks_are_full_it_says_so() -> None:
    assert _answer(_Decoders([[FULL]] * TRIES)) == [FULL]


def test_other_refusals_are_final() -> None:
    refused = Refusal(422, "no_video", "a.mp4 has no video")
    assert _answer(_Decoders([[refused]])) == [refused]
