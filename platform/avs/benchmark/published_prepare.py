"""AVSBench's own preprocessing, written from its description, for comparison only.

    python -m avs.benchmark.published_prepare ROOT OUT

One process; every frame is decoded and resized to 224 px, sample 15 of the 16 of each second is
kept as PNG, the sound is written as wav and read back, and its log-mel is pickled with torch.
Source: AVSBench (Zhou et al., ECCV 2022), ``preprocess_scripts``.
"""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from avs.datasets import DataConfig, dataset_spec
from avs.media.audio import SAMPLE_RATE_HZ, clip_log_mel, from_int16, read_audio, to_int16
from avs.media.containers import open_container
from avs.media.frames import resize_frames

__all__ = ["published_prepare"]

_SAMPLES_PER_S = 16


def published_prepare(root: str, out: Path) -> None:
    """Preprocess all S4 clips below ``root`` into ``out``, one folder a clip."""
    config = DataConfig(name="s4", root=root, image_size_px=224, num_frames=5)
    for source in dataset_spec("s4").list_clips(config):
        assert source.video is not None
        folder = out / source.clip_id.rpartition("/")[2]
        folder.mkdir(parents=True)
        _write_frames(source.video, folder)
        _write_sound(source.video, folder)


def _write_frames(video: str, folder: Path) -> None:
    container, _ = open_container(video)
    with container:
        stream = container.streams.video[0]
        fps = round(float(stream.average_rate or 25))
        pixels = (
            np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in container.decode(stream)
        )
        frames = [resize_frames(frame[None], (224, 224))[0] for frame in pixels]
    for second in range(5):
        index = int(second * fps + (_SAMPLES_PER_S - 1) / _SAMPLES_PER_S * fps)
        frame = frames[min(index, len(frames) - 1)]
        Image.fromarray(frame).save(folder / f"{second + 1}.png")


def _write_sound(video: str, folder: Path) -> None:
    samples = read_audio(video)
    assert samples is not None
    path = folder / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(to_int16(samples).tobytes())
    with wave.open(str(path), "rb") as file:
        stored = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    log_mel = clip_log_mel(from_int16(stored), num_examples=5, pad="repeat")
    torch.save(torch.from_numpy(log_mel), folder / "log_mel.pkl")


if __name__ == "__main__":
    published_prepare(sys.argv[1], Path(sys.argv[2]))
