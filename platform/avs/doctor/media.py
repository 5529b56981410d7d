"""The decoders, on a made-up video with sound, inside the child process that jobs use."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from avs.doctor.finding import Finding, fail, ok, warn
from avs.errors import DecoderError, MediaError

__all__ = ["look_at_decoders"]

_FRAMES, _SIDE_PX, _FPS, _RATE_HZ = 24, 64, 12, 16000


def look_at_decoders() -> Sequence[Finding]:
    """Both readers, the sound, and how well the child is confined."""
    return [*_decode(), _readers(), _confinement()]


def _decode() -> list[Finding]:
    from avs.media.encoding import write_mp4
    from avs.media.sandbox import decode_video
    from avs.media.video import Sampling

    grey = np.arange(_FRAMES, dtype=np.uint8) * 10
    frames = np.broadcast_to(grey[:, None, None, None], (_FRAMES, _SIDE_PX, _SIDE_PX, 3))
    tone = np.sin(np.arange(_RATE_HZ * _FRAMES // _FPS) * 0.1).astype(np.float32) * 0.5
    with tempfile.TemporaryDirectory(prefix="avs-") as folder:
        path = Path(folder) / "made-up.mp4"
        try:
            write_mp4(path, np.ascontiguousarray(frames), fps=_FPS, samples=tone)
            video = decode_video(path, size_px=None, sampling=Sampling.TIME)
        except DecoderError as error:
            cure = "see whether this user may start processes here (limits, seccomp profile)"
            return [fail("decoders", str(error), cure)]
        except (MediaError, OSError) as error:
            return [fail("decoders", f"a made-up mp4 cannot be read: {error}", "make setup")]
    seen = video.frames.mean(axis=(1, 2, 3))
    if len(seen) != 2 or not seen[0] < seen[1]:
        told = f"a made-up mp4 came back with {len(seen)} frames of other colours"
        return [fail("decoders", told, "make setup")]
    if video.samples is None or abs(video.samples).max() < 0.1:
        return [fail("decoders", "the sound of a made-up mp4 came back silent", "make setup")]
    return [ok("decoders", "a made-up mp4 with sound is written and read back")]


def _readers() -> Finding:
    if importlib.util.find_spec("decord") is None:
        cure = "pip install decord==0.6.0 (there is none for aarch64: PyAV reads all, slower)"
        return warn("decord", "not installed, PyAV reads every video", cure)
    return ok("decord", "installed, PyAV reads what it does not suit")


def _confinement() -> Finding:
    from avs.media.sandbox import sandbox_state

    state = sandbox_state()
    if state.warning:
        cure = "allow unprivileged user namespaces, or a seccomp profile that lets filters be set"
        return warn("decoder sandbox", state.warning, cure)
    means = [
        text
        for text, has in (
            ("has left the network", state.has_left_network),
            ("system calls are filtered", state.is_filtered),
        )
        if has
    ]
    return ok("decoder sandbox", ", ".join(means))
