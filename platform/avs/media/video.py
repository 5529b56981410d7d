"""Videos to frames and sound on one clock.

decord reads first because it seeks to the sampled frames; PyAV decodes the file in order where
decord cannot open it or is known to read wrongly. Both give native frames that are resized one by
one, so the result does not depend on the reader and an hour of 1080p never sits in memory. A
damaged picture is an error, never a silently repeated frame; damaged sound is silence with a
warning. Time zero is the first frame: with :attr:`Sampling.TIME` the sound is cut or padded to
start there, with :attr:`Sampling.OFFICIAL` it is left as stored, as AVSBench does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.media.audio import SAMPLE_RATE_HZ, SoundTrack, read_sound_track
from avs.media.probing import VideoInfo, VideoTrack, check_complete, probe, read_track
from avs.media.readers import (
    SAMPLE_OFFSET_S,
    DecordError,
    SampledFrames,
    SamplePlan,
    Sampling,
    check_length,
    read_with_decord,
    read_with_pyav,
)

__all__ = [
    "MAX_DURATION_S",
    "SAMPLE_OFFSET_S",
    "DecodedVideo",
    "Sampling",
    "VideoInfo",
    "decode_video",
    "probe",
]

# Guards memory against files whose time stamps jump: the sampled frames of 12 h are 6.5 GB.
MAX_DURATION_S = 12 * 3600.0
_SOUND_MARGIN_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedVideo:
    """frames uint8 [N, H, W, 3] RGB; frame_time_s [N]; samples float32 [n] 16 kHz mono or None."""

    frames: NDArray[np.uint8]
    frame_time_s: NDArray[np.float64]
    samples: NDArray[np.float32] | None
    info: VideoInfo
    warnings: tuple[str, ...]


def decode_video(
    path: str | os.PathLike[str],
    *,
    size_px: tuple[int, int] | None,
    sampling: Sampling,
    num_frames: int | None = None,
    max_duration_s: float | None = None,
    with_audio: bool = True,
) -> DecodedVideo:
    """Sampled frames and sound of a video file.

    ``size_px`` = (height, width) or None for the displayed size. OFFICIAL takes frame
    int(k fps + 15/16 fps), fps rounded, for k < ``num_frames``, the last frame where there is none
    (``num_frames`` None: as many as there are); frame_time_s is index / fps. TIME takes the frame
    shown at k + 15/16 s, at most ``num_frames``; N = max(1, floor(duration_s + 1/16)) and
    frame_time_s is that time, or the time of the last frame if a clip is shorter. ``samples`` are
    at most one second longer than the frames asked for, None without a sound track or with
    ``with_audio=False``. Raises MediaError: no video, damaged, or longer than ``max_duration_s``.
    """
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, not {num_frames}")
    track = read_track(path)
    limit_s = MAX_DURATION_S if max_duration_s is None else max_duration_s
    check_length(path, track.duration_s or 0.0, limit_s)
    plan = SamplePlan(
        sampling=sampling,
        num_frames=num_frames,
        size_px=size_px,
        max_duration_s=limit_s,
        fps=track.fps,
    )
    sampled, decoder = _read_frames(path, plan, track)
    if sampled.end_s is not None:
        check_complete(path, track, sampled.end_s)
    info = _info(sampled, track, decoder)
    samples: NDArray[np.float32] | None = None
    warnings: tuple[str, ...] = ()
    if with_audio and track.has_audio:
        sound_s = info.duration_s if num_frames is None else min(info.duration_s, num_frames)
        samples, warnings = _read_sound(path, plan, track.start_s, sound_s + _SOUND_MARGIN_S)
    return DecodedVideo(
        frames=sampled.frames,
        frame_time_s=sampled.frame_time_s,
        samples=samples,
        info=info,
        warnings=warnings,
    )


def _read_frames(
    path: str | os.PathLike[str], plan: SamplePlan, track: VideoTrack
) -> tuple[SampledFrames, str]:
    if track.suits_decord:
        try:
            return read_with_decord(path, plan), "decord"
        except DecordError:
            pass  # PyAV reads more, and says in words what is wrong when it cannot either
    return read_with_pyav(path, plan, track), "pyav"


def _info(sampled: SampledFrames, track: VideoTrack, decoder: str) -> VideoInfo:
    duration_s = sampled.end_s or track.duration_s or float(len(sampled.frames))
    return VideoInfo(
        width_px=sampled.display_px[1],
        height_px=sampled.display_px[0],
        fps=track.fps,
        duration_s=duration_s,
        num_frames=sampled.num_decoded or track.num_frames,
        has_audio=track.has_audio,
        container=track.container,
        decoder=decoder,
    )


def _read_sound(
    path: str | os.PathLike[str], plan: SamplePlan, video_start_s: float, length_s: float
) -> tuple[NDArray[np.float32] | None, tuple[str, ...]]:
    """Samples of at most ``length_s`` on the clock of the sampling rule, and warnings."""
    is_aligned = plan.sampling is Sampling.TIME
    early_s = max(0.0, video_start_s) if is_aligned else 0.0
    try:
        sound = read_sound_track(path, max_duration_s=length_s + min(early_s, length_s))
    except MediaError as error:
        return None, (f"the sound is left out: {error}",)
    if sound is None:
        return None, ()
    samples = _aligned(sound, video_start_s, length_s) if is_aligned else sound.samples
    return samples[: round(length_s * SAMPLE_RATE_HZ)], sound.warnings


def _aligned(sound: SoundTrack, video_start_s: float, length_s: float) -> NDArray[np.float32]:
    """Sound whose first sample belongs to the first frame."""
    offset = round((sound.start_s - video_start_s) * SAMPLE_RATE_HZ)
    if offset < 0:
        return sound.samples[-offset:]
    num_zeros = min(offset, round(length_s * SAMPLE_RATE_HZ))
    return np.concatenate([np.zeros(num_zeros, np.float32), sound.samples])
