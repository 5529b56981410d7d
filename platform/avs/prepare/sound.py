"""The sound of a clip: which file it comes from, as waveform and log-mel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from avs import storage
from avs.datasets import AudioSource, ClipSource, DataConfig, DatasetSpec, MissingSound
from avs.errors import MediaError
from avs.media.audio import SAMPLE_RATE_HZ, Alignment, clip_log_mel, from_int16, to_int16
from avs.media.containers import check_container
from avs.media.logmel_pickle import read_log_mel_pickle
from avs.media.sandbox import read_audio

__all__ = ["MAX_LOG_MEL_DIFFERENCE", "ClipSound", "clip_sound", "known_samples", "uses_video_sound"]

# Mean over all values, natural logarithm. Official files differ by 0.0003 (another resampler) to
# 0.006, log-mels that were normalised or cut by 0.9 and more.
MAX_LOG_MEL_DIFFERENCE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSound:
    """waveform int16 [n] 16 kHz (empty where only a log-mel is stored), log_mel [T, 1, 96, 64]."""

    waveform: NDArray[np.int16]
    log_mel: NDArray[np.float32]


def uses_video_sound(source: ClipSource, config: DataConfig) -> bool:
    """Whether the sound track of the clip's own video is needed."""
    allowed = config.audio.source in (AudioSource.AUTO, AudioSource.VIDEO)
    return source.audio is None and allowed


def clip_sound(
    source: ClipSource,
    config: DataConfig,
    spec: DatasetSpec,
    own: NDArray[np.float32] | None,
    warnings: list[str],
) -> ClipSound:
    """Sound of a clip of T seconds; ``own`` are the samples of its video, None without sound.

    A stored log-mel stands in where there is no sound; where there is a file of its own as well,
    the two are compared and a difference is added to ``warnings``. Raises MediaError.
    """
    samples = own if source.audio is None else _read_files(source, config)
    if samples is None and source.log_mel is not None:
        stored = _read_alone(source.log_mel, config)
        return ClipSound(
            waveform=np.zeros(0, np.int16), log_mel=_fitted(stored, config.num_frames, spec)
        )
    waveform = to_int16(known_samples(source, config, samples, warnings))
    examples = partial(
        clip_log_mel, from_int16(waveform), num_examples=config.num_frames, pad=spec.pad
    )
    alignment = config.audio.alignment
    log_mel = examples(alignment=alignment)
    if source.audio is not None and source.log_mel is not None:
        as_stored = log_mel if alignment is Alignment.AVSBENCH else examples()
        warnings += _differences(source, as_stored)
    return ClipSound(waveform=waveform, log_mel=log_mel)


def known_samples(
    source: ClipSource,
    config: DataConfig,
    samples: NDArray[np.float32] | None,
    warnings: list[str],
) -> NDArray[np.float32]:
    """``samples``, or what ``data.audio.missing`` says where there are none.

    Raises MediaError: none, and they are wanted; ``warnings`` of the decoder may tell why.
    """
    if samples is not None:
        return samples
    if config.audio.missing is MissingSound.REJECT:
        uri = source.audio or source.video or source.source.uri
        why = "".join(f"; {warning}" for warning in warnings)
        raise MediaError(f"{uri} has no sound (data.audio.missing=silence takes it as silent){why}")
    return np.zeros(config.num_frames * SAMPLE_RATE_HZ, np.float32)


def _read_files(source: ClipSource, config: DataConfig) -> NDArray[np.float32] | None:
    """The sum of the clip's sound files; None when none of them has a sound track."""
    assert source.audio is not None
    tracks = [_read_file(uri) for uri in (source.audio, *source.audio_mix)]
    present = [t for t in tracks if t is not None]
    if not present:
        return None
    if source.audio_from_middle:
        present = [_middle(t, config.num_frames * SAMPLE_RATE_HZ) for t in present]
    total = np.zeros(max(len(t) for t in present), np.float32)
    for track in present:
        total[: len(track)] += track
    return total


def _read_file(uri: str) -> NDArray[np.float32] | None:
    with storage.local_copy(uri) as path:
        check_container(path)
        return read_audio(path)


def _middle(samples: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """The middle ``length`` samples; a shorter sound is repeated, as CAVP does."""
    if 0 < len(samples) < length:
        return np.resize(samples, length)
    first = max(0, (len(samples) - length) // 2)
    return samples[first : first + length]


def _read_alone(uri: str, config: DataConfig) -> NDArray[np.float32]:
    """A stored log-mel that is all there is of the sound."""
    if config.audio.alignment is not Alignment.AVSBENCH:
        raise MediaError(
            f"{uri} has alignment avsbench and there is no sound to make another log-mel of "
            "(data.audio.alignment=avsbench takes it as it is)"
        )
    return _read_stored(uri)


def _read_stored(uri: str) -> NDArray[np.float32]:
    return read_log_mel_pickle(storage.read_bytes(uri), uri)


def _fitted(stored: NDArray[np.float32], count: int, spec: DatasetSpec) -> NDArray[np.float32]:
    """A stored log-mel with ``count`` examples, filled up by the rule of the data set."""
    missing = ((0, max(0, count - len(stored))), (0, 0), (0, 0), (0, 0))
    filled = np.pad(stored, missing, mode="edge" if spec.pad == "repeat" else "constant")
    return filled[:count]


def _differences(source: ClipSource, log_mel: NDArray[np.float32]) -> list[str]:
    assert source.log_mel is not None
    try:
        stored = _read_stored(source.log_mel)
    except MediaError as error:
        return [f"the stored log-mel is left aside for {source.audio}: {error}"]
    count = min(len(stored), len(log_mel))
    difference = float(np.abs(stored[:count] - log_mel[:count]).mean())
    if difference <= MAX_LOG_MEL_DIFFERENCE:
        return []
    return [
        f"{source.log_mel} differs from the log-mel of {source.audio} by {difference:.2f} on "
        f"average (at most {MAX_LOG_MEL_DIFFERENCE} is expected); the sound file is used"
    ]
