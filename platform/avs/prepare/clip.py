"""One source to clip rows: decode, sample, log-mel, masks. Plain functions, no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from avs import storage
from avs.datasets import ClipSource, DataConfig, DatasetSpec, dataset_spec
from avs.errors import MediaError
from avs.media.audio import SAMPLE_RATE_HZ, clip_log_mel, from_int16, to_int16
from avs.media.frames import read_image
from avs.media.pieces import MediaPart, MediaWindow, decode_pieces, media_windows, part_of
from avs.media.sandbox import decode_video
from avs.media.video import DecodedVideo, Sampling
from avs.prepare.fitting import fit_of
from avs.prepare.labels import ClipMasks, TimedMasks, read_masks
from avs.prepare.sound import clip_sound, known_samples, uses_video_sound
from avs.schema import Clip

__all__ = ["prepare_clip", "prepare_rows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Media:
    """Decoded frames uint8 [N, S, S, 3] at network size, their times, and sound float32 16 kHz."""

    frames: np.ndarray
    frame_time_s: np.ndarray
    samples: np.ndarray | None
    native_px: tuple[int, int]


def prepare_clip(source: ClipSource, config: DataConfig) -> list[Clip]:
    """The rows of one source; see :func:`prepare_rows`."""
    return list(prepare_rows(source, config, []))


def prepare_rows(source: ClipSource, config: DataConfig, warnings: list[str]) -> Iterator[Clip]:
    """The rows of one source; what is odd about it though it can be used goes into ``warnings``.

    One row, or for whole videos one for every T seconds, as they are decoded: of a labelled video
    those windows that hold a mask. Each mask is in one row only, also where windows overlap.

    Raises:
        MediaError: the media cannot be used, which may show after some rows; the message is the
            reason for the rejects table.
        DataError: a file has gone since the listing.
    """
    if source.problem:
        raise MediaError(source.problem)
    spec = dataset_spec(config.name)
    if spec.sampling is Sampling.TIME:
        yield from _windows(source, config, spec, warnings)
    elif source.video is None:
        yield _clip(source, config, spec, _read_pictures(source, config, spec), warnings)
    else:
        yield _clip(source, config, spec, _decode(source, config, warnings), warnings)


def _decode(source: ClipSource, config: DataConfig, warnings: list[str]) -> _Media:
    assert source.video is not None
    with storage.local_copy(source.video) as path:
        video = decode_video(
            path,
            size_px=(config.image_size_px, config.image_size_px),
            sampling=Sampling.OFFICIAL,
            num_frames=config.num_frames,
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
    warnings: list[str],
) -> Clip:
    """The one row of a clip of at most T frames, padded to T."""
    masks = read_masks(
        source,
        fit_of(spec, source.split, config.image_size_px),
        seconds=range(len(media.frames)),
        native_px=media.native_px,
    )
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
        **_shared(source, media.native_px),
    )


def _windows(
    source: ClipSource, config: DataConfig, spec: DatasetSpec, warnings: list[str]
) -> Iterator[Clip]:
    assert source.video is not None
    fit = fit_of(spec, source.split, config.image_size_px)
    timed = TimedMasks(source)
    native_px = (0, 0)
    num_rows = 0

    def part(video: DecodedVideo) -> MediaPart:
        nonlocal native_px
        if native_px == (0, 0):  # the first: is there sound?
            warnings.extend(video.warnings)
            known_samples(source, config, video.samples, warnings)
        warnings.extend(w for w in video.warnings if w not in warnings)
        native_px = (video.info.height_px, video.info.width_px)
        return part_of(video)

    with storage.local_copy(source.video) as path:
        pieces = decode_pieces(
            path,
            size_px=fit.size_px,
            with_audio=uses_video_sound(source, config),
            window_frames=config.num_frames,
            at_s=timed.at_s if len(timed) else None,
        )
        for seen in media_windows(map(part, pieces), window_frames=config.num_frames):
            # Frames that an earlier window shows too have their mask there.
            seconds = [seen.window.indices[position] for position in seen.window.new]
            masks = read_masks(source, fit, seconds=seconds, native_px=native_px, timed=timed)
            if masks.valid.any() or not len(timed):
                num_rows += 1
                yield _window_clip(source, config, seen, masks, native_px)
    warnings += timed.warnings(source.clip_id)
    if not num_rows:
        raise MediaError(f"{source.source.uri} has no mask within its whole seconds")


def _window_clip(
    source: ClipSource,
    config: DataConfig,
    seen: MediaWindow,
    masks: ClipMasks,
    native_px: tuple[int, int],
) -> Clip:
    count, window = config.num_frames, seen.window
    silence = np.zeros(count * SAMPLE_RATE_HZ, np.float32)
    waveform = to_int16(silence if seen.sound is None else seen.sound)
    all_masks = np.zeros(seen.frames.shape[:3], np.uint8)
    valid = np.zeros(count, np.bool_)
    all_masks[list(window.new)], valid[list(window.new)] = masks.masks, masks.valid
    return Clip(
        clip_id=f"{source.clip_id}@{window.start * 1000}",
        frame_time_s=seen.frame_time_s,
        frames=seen.frames,
        log_mel=clip_log_mel(
            from_int16(waveform),
            num_examples=count,
            pad="repeat",
            alignment=config.audio.alignment,
        ),
        masks=all_masks,
        mask_valid=valid,
        frame_valid=np.arange(count) < window.num_valid,
        waveform=waveform if config.with_waveform else np.zeros(0, np.int16),
        **_shared(source, native_px),
    )


def _shared(source: ClipSource, native_px: tuple[int, int]) -> dict[str, Any]:
    """The columns that are the same whatever the row shows of its source."""
    return {
        "dataset": source.dataset,
        "subset": source.subset,
        "split": source.split,
        "source": source.source,
        "categories": list(source.categories),
        "native_height_px": native_px[0],
        "native_width_px": native_px[1],
    }
