"""Videos to frames and sound on one clock.

decord reads first because it seeks to the sampled frames; PyAV decodes the file in order where
decord cannot open it or is known to read wrongly. Both give native frames that are resized one by
one, so the result does not depend on the reader and an hour of 1080p never sits in memory. A
damaged picture is an error, never a silently repeated frame; damaged sound is silence with a
warning. Time zero is the first frame: with :attr:`Sampling.TIME` the sound is cut or padded to
start there and gaps in it are filled, with :attr:`Sampling.OFFICIAL` it is left as stored, as
AVSBench does. A window (``start_s``) of a long video costs a search and no more than its frames.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.media.audio import SAMPLE_RATE_HZ, SoundTrack, read_sound_track
from avs.media.decord_reader import DecordError, read_with_decord
from avs.media.probing import VideoInfo, VideoTrack, check_complete, probe, read_track
from avs.media.pyav_reader import read_with_pyav
from avs.media.sampling import (
    SAMPLE_OFFSET_S,
    SampledFrames,
    SamplePlan,
    Sampling,
    check_length,
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
_LONG_S = 60.0


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
    start_s: float = 0.0,
    times_s: tuple[float, ...] | None = None,
    samples_per_s: int = 1,
    max_duration_s: float | None = None,
    with_audio: bool = True,
) -> DecodedVideo:
    """Sampled frames and sound of a video file.

    ``size_px`` = (height, width) or None for the displayed size. OFFICIAL takes frame
    int(k fps + 15/16 fps), fps rounded, for k < ``num_frames``, the last frame where there is none
    (``num_frames`` None: as many as there are); frame_time_s is index / fps. TIME takes the frame
    shown at start_s + (k + 15/16) / m s, at most ``num_frames``, with m = ``samples_per_s``; N =
    max(1, floor((duration_s - start_s) m + 1/16)) and frame_time_s is that time, or the time of the
    last frame if a clip is shorter; with m = 1 ``times_s`` gives other times of the video, one
    within each second from ``start_s`` on.
    ``samples`` begin at ``start_s`` and are at most one second longer than the frames asked for,
    None without a sound track or with ``with_audio=False``. Raises MediaError: no video, damaged,
    longer than ``max_duration_s``, or over before ``start_s``.
    """
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, not {num_frames}")
    if start_s < 0 or (start_s > 0 and sampling is Sampling.OFFICIAL):
        raise ValueError(f"start_s={start_s} must be 0 by the official rule, else at least 0")
    track = read_track(path)
    limit_s = MAX_DURATION_S if max_duration_s is None else max_duration_s
    check_length(path, track.duration_s or 0.0, limit_s)
    plan = SamplePlan(
        sampling=sampling,
        num_frames=num_frames,
        size_px=size_px,
        max_duration_s=limit_s,
        fps=track.fps,
        start_s=start_s,
        times_s=times_s,
        samples_per_s=samples_per_s,
    )
    sampled, decoder = _read_frames(path, plan, track)
    if sampled.end_s is not None:
        check_complete(path, track, sampled.end_s)
        if sampled.end_s <= start_s:
            raise MediaError(f"{path}: ends at {sampled.end_s:.2f} s, before start_s={start_s:g}")
    info = _info(sampled, track, decoder)
    samples: NDArray[np.float32] | None = None
    warnings: tuple[str, ...] = ()
    if with_audio and track.has_audio:
        rest_s = max(0.0, info.duration_s - start_s)
        sound_s = rest_s if num_frames is None else min(rest_s, num_frames / samples_per_s)
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
    if track.suits_decord and _is_worth_an_index(plan, track):
        try:
            return read_with_decord(path, plan), "decord"
        except DecordError:
            pass  # PyAV reads more, and says in words what is wrong when it cannot either
    return read_with_pyav(path, plan, track), "pyav"


def _is_worth_an_index(plan: SamplePlan, track: VideoTrack) -> bool:
    """Whether to let decord read all packets of the file first, which PyAV does not need."""
    wanted_s = (plan.num_frames or math.inf) / plan.samples_per_s
    is_part = (track.duration_s or 0.0) > max(_LONG_S, wanted_s)
    return not is_part and plan.start_s == 0


def _info(sampled: SampledFrames, track: VideoTrack, decoder: str) -> VideoInfo:
    seen_s = float(sampled.frame_time_s[-1])
    duration_s = sampled.end_s or track.duration_s or float(math.ceil(seen_s))
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
    from_s = video_start_s + plan.start_s
    try:
        sound = read_sound_track(
            path,
            start_s=from_s if is_aligned and from_s > 0 else None,
            max_duration_s=length_s,
            fill_gaps=is_aligned,
        )
    except MediaError as error:
        return None, (f"the sound is left out: {error}",)
    if sound is None:
        return None, ()
    samples = _aligned(sound, from_s, length_s) if is_aligned else sound.samples
    return samples[: round(length_s * SAMPLE_RATE_HZ)], sound.warnings


def _aligned(sound: SoundTrack, from_s: float, length_s: float) -> NDArray[np.float32]:
    """Sound whose first sample belongs to ``from_s`` of the file's clock."""
    offset = round((sound.start_s - from_s) * SAMPLE_RATE_HZ)
    if offset < 0:
        return sound.samples[-offset:]
    num_zeros = min(offset, round(length_s * SAMPLE_RATE_HZ))
    return np.concatenate([np.zeros(num_zeros, np.float32), sound.samples])
