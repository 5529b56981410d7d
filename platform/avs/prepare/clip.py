"""One source to clip rows: decode, sample, log-mel, masks. Plain functions, no Ray."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avs import storage
from avs.datasets import ClipSource, DataConfig, DatasetSpec, MaskKind, dataset_spec
from avs.errors import MediaError
from avs.media.audio import SAMPLE_RATE_HZ, clip_log_mel, from_int16, read_audio, to_int16
from avs.media.containers import check_container
from avs.media.frames import read_image, resize_frames
from avs.media.masks import read_index_mask, read_mask, resize_mask, rgb_to_index
from avs.media.video import Sampling, decode_video
from avs.schema import Clip
from avs.windows import cut_sound, plan_windows

__all__ = ["prepare_clip"]

OFFICIAL_MASK_PX = (224, 224)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Media:
    """Decoded frames uint8 [N, S, S, 3] at network size, their times, and sound float32 16 kHz."""

    frames: np.ndarray
    frame_time_s: np.ndarray
    samples: np.ndarray | None
    native_px: tuple[int, int]


def prepare_clip(source: ClipSource, config: DataConfig) -> list[Clip]:
    """The rows of one source: one, or for an unlabelled video one for every T seconds.

    Raises:
        MediaError: the media cannot be used; the message is the reason for the rejects table.
        DataError: a file has gone since the listing.
    """
    if source.problem:
        raise MediaError(source.problem)
    spec = dataset_spec(config.name)
    if source.video is not None and spec.sampling is Sampling.TIME:
        return _video_windows(source, config, _decode(source.video, config, Sampling.TIME, None))
    if source.video is not None:
        media = _decode(source.video, config, spec.sampling, config.num_frames)
    else:
        media = _read_preprocessed(source, config)
    if media.samples is None:
        raise MediaError(f"{source.source.uri} has no sound")
    return [_labelled_clip(source, config, spec, media)]


def _decode(uri: str, config: DataConfig, sampling: Sampling, num_frames: int | None) -> _Media:
    size_px = (config.image_size_px, config.image_size_px)
    with storage.local_copy(uri) as path:
        video = decode_video(path, size_px=size_px, sampling=sampling, num_frames=num_frames)
    return _Media(
        frames=video.frames,
        frame_time_s=video.frame_time_s,
        samples=video.samples,
        native_px=(video.info.height_px, video.info.width_px),
    )


def _read_preprocessed(source: ClipSource, config: DataConfig) -> _Media:
    images = [_read_frame(uri) for uri in source.frames]
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        raise MediaError(f"the frames beside {source.frames[0]} differ in size: {sorted(sizes)}")
    size_px = (config.image_size_px, config.image_size_px)
    assert source.audio is not None
    with storage.local_copy(source.audio) as path:
        check_container(path)
        samples = read_audio(path)
    return _Media(
        frames=resize_frames(np.stack(images), size_px),
        frame_time_s=np.arange(len(images)) + 15 / 16,
        samples=samples,
        native_px=(int(images[0].shape[0]), int(images[0].shape[1])),
    )


def _read_frame(uri: str) -> np.ndarray:
    try:
        return read_image(storage.read_bytes(uri))
    except MediaError as error:
        raise MediaError(f"frame {uri}: {error}") from None


def _labelled_clip(
    source: ClipSource, config: DataConfig, spec: DatasetSpec, media: _Media
) -> Clip:
    assert media.samples is not None
    waveform = to_int16(media.samples)
    masks, mask_valid = _read_masks(source, config, media.native_px)
    pad = config.num_frames - len(media.frames)
    frame_valid = np.arange(config.num_frames) < len(media.frames)
    return Clip(
        clip_id=source.clip_id,
        dataset=source.dataset,
        subset=source.subset,
        split=source.split,
        source=source.source,
        categories=list(source.categories),
        native_height_px=media.native_px[0],
        native_width_px=media.native_px[1],
        frame_time_s=np.pad(media.frame_time_s, (0, pad), mode="edge").astype(np.float64),
        frames=np.pad(media.frames, ((0, pad), (0, 0), (0, 0), (0, 0))),
        log_mel=clip_log_mel(from_int16(waveform), num_examples=config.num_frames, pad=spec.pad),
        masks=masks,
        mask_valid=mask_valid,
        frame_valid=frame_valid,
        waveform=waveform if config.with_waveform else np.zeros(0, np.int16),
    )


def _video_windows(source: ClipSource, config: DataConfig, media: _Media) -> list[Clip]:
    count = config.num_frames
    samples = np.zeros(0, np.float32) if media.samples is None else media.samples
    clips = []
    for window in plan_windows(len(media.frames), window_frames=count):
        sound = cut_sound(samples, window, sample_rate_hz=SAMPLE_RATE_HZ, window_frames=count)
        waveform = to_int16(sound)
        indices = list(window.indices)
        clips.append(
            Clip(
                clip_id=f"{source.clip_id}@{window.start * 1000}",
                dataset=source.dataset,
                subset=source.subset,
                split=source.split,
                source=source.source,
                categories=[],
                native_height_px=media.native_px[0],
                native_width_px=media.native_px[1],
                frame_time_s=media.frame_time_s[indices],
                frames=media.frames[indices],
                log_mel=clip_log_mel(from_int16(waveform), num_examples=count, pad="repeat"),
                masks=np.zeros((count, config.image_size_px, config.image_size_px), np.uint8),
                mask_valid=np.zeros(count, np.bool_),
                frame_valid=np.arange(count) < window.num_valid,
                waveform=waveform if config.with_waveform else np.zeros(0, np.int16),
            )
        )
    return clips


def _read_masks(
    source: ClipSource, config: DataConfig, native_px: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    size_px = (config.image_size_px, config.image_size_px)
    masks = np.zeros((config.num_frames, *size_px), np.uint8)
    valid = np.zeros(config.num_frames, np.bool_)
    for k, uri in enumerate(source.masks):
        if uri is None:
            continue
        mask = _read_mask(storage.read_bytes(uri), source.mask_kind, uri)
        if mask.shape not in (native_px, OFFICIAL_MASK_PX):
            h, w = mask.shape
            raise MediaError(
                f"mask {uri} is {w}x{h} px; wanted 224x224 or the picture's "
                f"{native_px[1]}x{native_px[0]}"
            )
        masks[k], valid[k] = resize_mask(mask, size_px), True
    return masks, valid


def _read_mask(data: bytes, kind: MaskKind, uri: str) -> np.ndarray:
    try:
        if kind is MaskKind.BINARY:
            return read_mask(data)
        if kind is MaskKind.INDEX:
            return read_index_mask(data)
        return rgb_to_index(read_image(data))
    except MediaError as error:
        raise MediaError(f"mask {uri}: {error}") from None
