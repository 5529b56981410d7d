"""Sound of any file as 16 kHz mono.

PyAV decodes every format, so wav, m4a and video files take one path. The order is the reference's:
16-bit samples, mean of the channels, then resampling (see :mod:`avs.media.logmel`). Sound that
breaks off is kept up to the break with a warning, because a picture without its last second of
sound is still usable.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avs.media.containers import open_container
from avs.media.logmel import EXAMPLE_S, Alignment, clip_log_mel, log_mel, silence_log_mel
from avs.media.probing import find_sound_stream
from avs.media.resampling import SAMPLE_RATE_HZ, StreamResampler, resample
from avs.media.sound_stream import SoundFrames, from_int16, mono_pieces, to_int16

__all__ = [
    "EXAMPLE_S",
    "SAMPLE_RATE_HZ",
    "Alignment",
    "SoundTrack",
    "clip_log_mel",
    "from_int16",
    "log_mel",
    "read_audio",
    "read_sound_track",
    "resample",
    "silence_log_mel",
    "to_int16",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundTrack:
    """Decoded sound: float32 mono 16 kHz samples, the time of the first on the file's clock."""

    samples: NDArray[np.float32]
    start_s: float
    warnings: tuple[str, ...]


def read_audio(
    path: str | os.PathLike[str], *, max_duration_s: float | None = None
) -> NDArray[np.float32] | None:
    """Sound of any file, float32 [n] in [-1, 1], mono (mean of channels), 16 kHz.

    At most ``max_duration_s`` of it are decoded. None when the file has no sound track. Sound that
    cannot be decoded to its end is padded with zeros to the length that the file states. Raises
    MediaError when the file cannot be opened.
    """
    track = read_sound_track(path, max_duration_s=max_duration_s)
    return None if track is None else track.samples


def read_sound_track(
    path: str | os.PathLike[str],
    *,
    start_s: float | None = None,
    max_duration_s: float | None = None,
    fill_gaps: bool = False,
) -> SoundTrack | None:
    """Like :func:`read_audio`, with the start time and the warnings of the decoder.

    ``start_s`` on the file's clock: what lies more than two seconds before it is skipped, and
    ``max_duration_s`` counts from there. ``fill_gaps``: where time stamps leave a gap there is
    silence, and what overlaps is dropped, so that a sample's place tells its time.
    """
    container, _ = open_container(path)
    with container:
        stream = find_sound_stream(container)
        if stream is None:
            return None
        frames = SoundFrames(container, stream, start_s)
        return _decode_track(str(path), frames, max_duration_s, fill_gaps=fill_gaps)


def _decode_track(
    path: str, frames: SoundFrames, max_duration_s: float | None, *, fill_gaps: bool
) -> SoundTrack:
    blocks = [np.zeros(0, np.float32)]
    num_samples = 0
    wanted_s = math.inf if max_duration_s is None else max_duration_s
    for block in _resampled(mono_pieces(frames, fill_gaps=fill_gaps)):
        blocks.append(block)
        num_samples += len(block)
        if num_samples >= (wanted_s + frames.lead_s) * SAMPLE_RATE_HZ:
            break
    samples = np.concatenate(blocks)
    if max_duration_s is not None:
        samples = samples[: round((max_duration_s + frames.lead_s) * SAMPLE_RATE_HZ)]
    if not frames.error:
        return SoundTrack(samples=samples, start_s=frames.start_s, warnings=())
    warning = (
        f"{path}: the sound breaks off after {len(samples) / SAMPLE_RATE_HZ:.2f} s "
        f"({frames.error}); the rest is taken as silence"
    )
    if frames.stated_s is not None:
        rest_s = max(0.0, frames.stated_s - max(0.0, frames.start_s))
        silent_to_s = min(rest_s, max_duration_s or 3600.0)
        num_missing = max(0, round(silent_to_s * SAMPLE_RATE_HZ) - len(samples))
        samples = np.concatenate([samples, np.zeros(num_missing, np.float32)])
    return SoundTrack(samples=samples, start_s=frames.start_s, warnings=(warning,))


def _resampled(
    pieces: Iterator[tuple[int, NDArray[np.float32]]],
) -> Iterator[NDArray[np.float32]]:
    """Mono 16 kHz pieces; a rate that changes within the stream starts a new resampler."""
    resampler: StreamResampler | None = None
    last_hz = 0
    for rate_hz, mono in pieces:
        if resampler is None or rate_hz != last_hz:
            if resampler is not None:
                yield resampler.finish()
            last_hz, resampler = rate_hz, StreamResampler(rate_hz)
        yield resampler.push(mono)
    if resampler is not None:
        yield resampler.finish()
