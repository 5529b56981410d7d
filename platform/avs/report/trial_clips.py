"""Clips for the trial of C3N's consensus: what two small classifiers see and hear in each.

The classifiers are MobileNetV2 (ImageNet) and YAMNet (AudioSet) with their published weights, the
clips a folder in AVSBench's S4 layout with a table of their sources, prepared as training data is.
Of a clip only its class scores are kept, so that exchanging sounds runs no network again.

Shapes: T frames of a clip, 1000 ImageNet classes, 527 AudioSet classes.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from avs import storage
from avs.datasets import ClipSource, DataConfig, dataset_spec
from avs.media.audio import from_int16
from avs.media.logmel import clip_log_mel, silence_log_mel
from avs.models.audio import build_audio_network
from avs.models.classified_backbone import build_classified_backbone
from avs.models.system import IMAGENET_MEAN, IMAGENET_STD
from avs.prepare.clip import prepare_clip

__all__ = ["TrialClip", "TrialNetworks", "read_trial_clips"]

NUM_FRAMES, IMAGE_SIZE_PX = 5, 224
SPEECH = "person_speech"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialClip:
    """Class scores of a clip's frames and of its own sound, second by second."""

    name: str
    category: str
    picture: str
    is_speech: bool
    visual: Tensor  # [T, 1000]
    audio: Tensor  # [T, 527]


class TrialNetworks:
    """The two classifiers, from the folder of their weights."""

    def __init__(self, folder: str) -> None:
        self._picture = build_classified_backbone(
            "mobilenetv2_100",
            weights=storage.join(folder, "mobilenetv2_100.safetensors"),
            options={"pad_type": "same"},
        ).eval()
        self._sound = build_audio_network(
            "yamnet", weights=storage.join(folder, "yamnet.safetensors")
        )

    def see(self, frames: np.ndarray) -> Tensor:
        """Class scores [T, 1000] of frames uint8 [T, H, W, 3]."""
        x_T3HW = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255.0
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        logits: Tensor = self._picture((x_T3HW - mean) / std).logits.detach()
        return logits

    def hear(self, waveform: np.ndarray) -> Tensor:
        """Class scores [T, 527] of int16 samples at 16 kHz."""
        offset = self._sound.log_offset
        return self._classes(
            clip_log_mel(
                from_int16(waveform), num_examples=NUM_FRAMES, pad="repeat", log_offset=offset
            )
        )

    def silence(self) -> Tensor:
        """Class scores [T, 527] of digital silence."""
        return self._classes(silence_log_mel(NUM_FRAMES, self._sound.log_offset))

    def _classes(self, log_mel: np.ndarray) -> Tensor:
        logits: Tensor | None = self._sound(torch.from_numpy(log_mel)).logits
        assert logits is not None
        return logits


def read_trial_clips(data: str, networks: TrialNetworks) -> list[TrialClip]:
    """All clips of the folder ``data`` with their class scores, in the order of their names.

    data: local or s3://; holds ``Single-source`` and ``SOURCES.csv``. Raises DataError or OSError
    where one of them is missing.
    """
    text = storage.read_bytes(storage.join(data, "SOURCES.csv")).decode()
    rows = {r["name"]: r for r in csv.DictReader(text.splitlines()) if r["layout"] == "S4"}
    config = DataConfig(
        name="s4",
        root=storage.join(data, "Single-source"),
        image_size_px=IMAGE_SIZE_PX,
        num_frames=NUM_FRAMES,
    )
    sources = {s.clip_id.rpartition("/")[2]: s for s in dataset_spec("s4").list_clips(config)}
    return [
        _read_clip(sources[name], config, rows[name], networks) for name in sorted(set(sources))
    ]


def _read_clip(
    source: ClipSource, config: DataConfig, row: Mapping[str, str], networks: TrialNetworks
) -> TrialClip:
    clip = prepare_clip(source, config)[0]
    return TrialClip(
        name=row["name"],
        category=row["category"],
        picture=row["picture"],
        is_speech=all(name.startswith(SPEECH) for name in row["sound_files"].split(";")),
        visual=networks.see(clip.frames),
        audio=networks.hear(clip.waveform),
    )
