"""One source to clip rows: decode, sample, log-mel, masks. Plain functions, no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from avs import storage
from avs.datasets import ClipSource, DataConfig, DatasetSpec, dataset_spec
from avs.errors import MediaError
from avs.media.audio import SAMPLE_RATE_HZ, clip_log_mel, from_int16, to_int16
from avs.media.frames import read_image
from avs.media.sandbox import decode_video
from avs.media.video import Sampling
from avs.prepare.fitting import fit_of
from avs.prepare.labels import ClipMasks, read_masks
from avs.prepare.sound import clip_sound, known_samples, uses_video_sound
from avs.schema import Clip
from avs.windows import Window, cut_sound, plan_windows

__all__ = ["prepare_clip", "prepare_clip_with_warnings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Media:
    """Decoded frames uint8 [N, S, S, 3] at network size, their times, and sound float32 16 kHz."""

    frames: np.ndarray
    frame_time_s: np.ndarray
    samples: np.ndarray | None
    native_px: tuple[int, int]


def prepare_clip(source: ClipSource, config: DataConfig) -> list[Clip]:
    """The rows of one source; see :func:`prepare_clip_with_warnings`."""
    return prepare_clip_with_warnings(source, config)[0]


def prepare_clip_with_warnings(
    source: ClipSource, config: DataConfig
) -> tuple[list[Clip], list[str]]:
    """The rows of one source, and what was odd about it though it could be used.

    One row, or for whole videos one for every T seconds: of a labelled video those windows that
    hold a mask. Each mask is in one row only, also where windows overlap.

    Raises:
        MediaError: the media cannot be used; the message is the reason for the rejects table.
        DataError: a file has gone since the listing.
    """
    if source.problem:
        raise MediaError(source.problem)
    spec = dataset_spec(config.name)
    warnings: list[str] = []
    if source.video is None:
        media = _read_pictures(source, config, spec)
    else:
        media = _decode(source, config, spec.sampling, warnings)
    masks = read_masks(
        source,
        fit_of(spec, source.split, config.image_size_px),
        frame_time_s=media.frame_time_s,
        native_px=media.native_px,
        warnings=warnings,
    )
    if spec.sampling is Sampling.TIME:
        return _windows(source, config, media, masks, warnings), warnings
    return [_clip(source, config, spec, media, masks, warnings)], warnings


def _decode(
    source: ClipSource, config: DataConfig, sampling: Sampling, warnings: list[str]
) -> _Media:
    assert source.video is not None
    size_px = (config.image_size_px, config.image_size_px)
    with storage.local_copy(source.video) as path:
        video = decode_video(
            path,
            size_px=size_px,
            sampling=sampling,
            num_frames=config.num_frames if sampling is Sampling.OFFICIAL else None,
            with_audio=uses_video_sound(source, config),
        )
    warnings += video.warnings
    return _Media(
        frames=video.frames,
        frame_time_s=video.frame_time_s,
        samples=video.samples,
        native_px=(video.info.height_px, video.info.width_px),
    )


def _read_pictures(source: ClipSource, config: DataConfig, spec: DatasetSpec) -> _Media:
    images = [_read_frame(uri) for uri in source.frames]
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        raise MediaError(f"the frames beside {source.frames[0]} differ in size: {sorted(sizes)}")
    fit = fit_of(spec, source.split, config.image_size_px)
    return _Media(
        frames=fit.frames(np.stack(images)),
        frame_time_s=np.arange(len(images)) + 15 / 16,
        samples=None,
        native_px=(int(images[0].shape[0]), int(images[0].shape[1])),
    )


def _read_frame(uri: str) -> np.ndarray:
    try:
        return read_image(storage.read_bytes(uri))
    except MediaError as error:
        raise MediaError(f"frame {uri}: {error}") from None


def _clip(
    source: ClipSource,
    config: DataConfig,
    spec: DatasetSpec,
    media: _Media,
    masks: ClipMasks,
    warnings: list[str],
) -> Clip:
    """The one row of a clip of at most T frames, padded to T."""
    sound = clip_sound(source, config, spec, media.samples, warnings)
    pad = config.num_frames - len(media.frames)
    return Clip(
        clip_id=source.clip_id,
        frame_time_s=np.pad(media.frame_time_s, (0, pad), mode="edge").astype(np.float64),
        frames=np.pad(media.frames, ((0, pad), (0, 0), (0, 0), (0, 0))),
        log_mel=sound.log_mel,
        masks=np.pad(masks.masks, ((0, pad), (0, 0), (0, 0))),
        mask_valid=np.pad(masks.valid, (0, pad)),
        frame_valid=np.arange(config.num_frames) < len(media.frames),
        waveform=sound.waveform if config.with_waveform else np.zeros(0, np.int16),
        **_shared(source, media),
    )


def _windows(
    source: ClipSource, config: DataConfig, media: _Media, masks: ClipMasks, warnings: list[str]
) -> list[Clip]:
    samples = known_samples(source, config, media.samples, warnings)
    is_labelled = bool(source.masks or source.mask_track)
    clips = []
    for window in plan_windows(len(media.frames), window_frames=config.num_frames):
        # Frames that an earlier window shows too have their mask there.
        is_new = np.isin(np.arange(config.num_frames), window.new)
        valid = masks.valid[list(window.indices)] & is_new
        if valid.any() or not is_labelled:
            clips.append(_window_clip(source, config, media, masks, samples, window, valid))
    if not clips:
        raise MediaError(f"{source.source.uri} has no mask within half a second of a sampled frame")
    return clips


def _window_clip(
    source: ClipSource,
    config: DataConfig,
    media: _Media,
    masks: ClipMasks,
    samples: np.ndarray,
    window: Window,
    valid: np.ndarray,
) -> Clip:
    count = config.num_frames
    indices = list(window.indices)
    sound = cut_sound(samples, window, sample_rate_hz=SAMPLE_RATE_HZ, window_frames=count)
    waveform = to_int16(sound)
    return Clip(
        clip_id=f"{source.clip_id}@{window.start * 1000}",
        frame_time_s=media.frame_time_s[indices],
        frames=media.frames[indices],
        log_mel=clip_log_mel(from_int16(waveform), num_examples=count, pad="repeat"),
        masks=masks.masks[indices] * valid[:, None, None],
        mask_valid=valid,
        frame_valid=np.arange(count) < window.num_valid,
        waveform=waveform if config.with_waveform else np.zeros(0, np.int16),
        **_shared(source, media),
    )


def _shared(source: ClipSource, media: _Media) -> dict[str, Any]:
    """The columns that are the same whatever the row shows of its source."""
    return {
        "dataset": source.dataset,
        "subset": source.subset,
        "split": source.split,
        "source": source.source,
        "categories": list(source.categories),
        "native_height_px": media.native_px[0],
        "native_width_px": media.native_px[1],
    }
