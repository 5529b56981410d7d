"""Decoding in a child process, so that a hostile or broken file harms no one else.

The functions are those of :mod:`avs.media.video`, ``audio``, ``render``, ``matte`` and
``thumbnails``, with the same results and messages; a caller switches by its import. One child for
every calling process is started at the first call and kept, and another for drawing,
which may write files. It has no network, no credentials, little memory and a deadline. A file on
which it crashes or hangs becomes a MediaError, and the next call finds a fresh decoder. Calls from
several threads queue.
"""

from __future__ import annotations

import enum
import functools
import inspect
import os
import threading
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from avs.errors import MediaError
from avs.media import audio, matte, render, thumbnails, video
from avs.media.sandbox_child import CALLS
from avs.media.sandbox_limits import DecoderGoneError, SandboxLimits, SandboxState
from avs.media.sandbox_process import DecoderProcess
from avs.media.sandbox_wire import WireError, rebuild

__all__ = [
    "Sandbox",
    "SandboxLimits",
    "SandboxState",
    "decode_video",
    "decoder_busy_s",
    "draw_track",
    "matte_track",
    "probe",
    "read_audio",
    "read_sound_track",
    "sandbox_state",
    "thumbnail_track",
]

P = ParamSpec("P")
R = TypeVar("R")


class Sandbox:
    """A decoder child with its limits. May be shared by threads, pickled, and kept over a fork."""

    def __init__(self, limits: SandboxLimits | None = None) -> None:
        self.limits = limits or SandboxLimits()
        self._of_pid: dict[int, tuple[threading.Lock, DecoderProcess]] = {}

    def __reduce__(self) -> tuple[type[Sandbox], tuple[SandboxLimits]]:
        return Sandbox, (self.limits,)

    def call(self, function: Callable[P, R], /, *args: P.args, **options: P.kwargs) -> R:
        """``function(path, ...)`` in the child, for the functions of this module.

        Besides what the function raises: MediaError when the child dies of the file or takes too
        long, DecoderError when no child can be started.
        """
        if function not in CALLS.values():
            raise ValueError(f"{function} is none of {', '.join(CALLS)}")
        arguments = dict(inspect.signature(function).bind(*args, **options).arguments)
        path = os.fspath(arguments.pop("path"))
        request = {
            "call": function.__name__,
            "path": path,
            "folder": "" if Path(path).is_absolute() else str(Path.cwd()),
            "options": {name: _plain(value) for name, value in arguments.items()},
        }
        lock, process = self._mine()
        with lock:
            try:
                answer = self._ask(process, request, _result_kind(function))
            except DecoderGoneError as gone:
                raise MediaError(f"{path}: the decoder {gone}") from None
        result: R = answer
        return result

    def state(self) -> SandboxState:
        """The running child, started if need be: a first call then need not wait for it."""
        lock, process = self._mine()
        with lock:
            return process.state()

    def busy_s(self) -> float:
        """Seconds that the child of this process has worked, bringing its results included."""
        return self._mine()[1].busy_s

    def close(self) -> None:
        """End the child of this process; a later call starts another."""
        lock, process = self._mine()
        with lock:
            process.close()

    def _mine(self) -> tuple[threading.Lock, DecoderProcess]:
        """Lock and child of this process: a fork must share neither with its parent."""
        pid = os.getpid()
        if pid not in self._of_pid:
            self._of_pid.setdefault(pid, (threading.Lock(), DecoderProcess(self.limits)))
        return self._of_pid[pid]

    def _ask(self, process: DecoderProcess, request: dict[str, Any], kind: Any) -> Any:
        path = request["path"]
        deadline_s = self.limits.file_deadline_s(_size_bytes(path))
        timed = {**request, "cpu_s": deadline_s}
        try:
            answer, arrays = process.ask(timed, deadline_s=deadline_s)
        except DecoderGoneError as gone:
            if gone.was_fresh or gone.was_slow:
                raise
            # An earlier file may have damaged it or used its memory: this one gets a fair trial.
            answer, arrays = process.ask(timed, deadline_s=deadline_s)
        error, text = answer.get("error"), str(answer.get("text"))
        if error == "media":
            raise MediaError(text)
        if error == "value":
            raise ValueError(text)
        if error is not None:
            raise MediaError(f"{path}: the decoder failed ({text})")
        try:
            result = rebuild(kind, answer.get("result"), arrays)
            _check_shapes(result)
        except WireError as wrong:
            process.end_decoder()
            raise MediaError(
                f"{path}: the decoder gave an answer that cannot be used: {wrong}"
            ) from None
        return result


def _plain(value: Any) -> Any:
    """An argument as JSON values, from which the child rebuilds it by the parameter's type."""
    return value.value if isinstance(value, enum.Enum) else value


@functools.cache
def _result_kind(function: Callable[..., Any]) -> Any:
    return typing.get_type_hints(function)["return"]


def _check_shapes(result: Any) -> None:
    """Raise WireError for arrays that no decoder gives: what follows relies on their shapes."""
    samples = result if isinstance(result, np.ndarray) else getattr(result, "samples", None)
    if samples is not None and samples.ndim != 1:
        raise WireError(f"samples of shape {list(samples.shape)}")
    if isinstance(result, video.DecodedVideo):
        shape = result.frames.shape
        if len(shape) != 4 or shape[3] != 3 or result.frame_time_s.shape != shape[:1]:
            raise WireError(f"frames of shape {list(shape)}")


def _size_bytes(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0  # the decoder says what is wrong with it


# They start nothing yet. The second may write files, and drawing takes longer than reading.
_default = Sandbox()
_drawing = Sandbox(SandboxLimits(file_bytes=1 << 36, deadline_s=300.0, slowest_bytes_per_s=10_000))


def _in_child(function: Callable[P, R], sandbox: Sandbox = _default) -> Callable[P, R]:
    """``function`` in a child of this process; keeps this module's name, for pickle."""

    @functools.wraps(function, assigned=("__doc__", "__name__", "__qualname__"))
    def call(*args: P.args, **options: P.kwargs) -> R:
        return sandbox.call(function, *args, **options)

    return call


decode_video = _in_child(video.decode_video)
draw_track = _in_child(render.draw_track, _drawing)
matte_track = _in_child(matte.matte_track, _drawing)
probe = _in_child(video.probe)
read_audio = _in_child(audio.read_audio)
read_sound_track = _in_child(audio.read_sound_track)
decoder_busy_s = _default.busy_s
sandbox_state = _default.state
thumbnail_track = _in_child(thumbnails.thumbnail_track, _drawing)
