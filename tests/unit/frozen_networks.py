"""Frozen audio networks that cost nothing, known by name like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from avs.models import AUDIO_NETWORKS, AudioOutput
from avs.models.audio import AudioEntry
from avs.models.audioset import NUM_AUDIOSET_CLASSES
from avs.models.frozen import FrozenAudioNetwork


class Tones(FrozenAudioNetwork):
    """Log-mel [N, 1, 96, 64] -> mixed means of the bands [N, 8], and class scores."""

    input_kind = "log_mel"
    embedding_dim = 8
    log_offset = 0.001

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(64, 8)
        self.classifier = torch.nn.Linear(8, NUM_AUDIOSET_CLASSES)
        self.freeze()

    def describe(self, x: torch.Tensor) -> AudioOutput:
        embedding = self.mix(x.mean(dim=(1, 2)))
        return AudioOutput(embedding=embedding, logits=self.classifier(embedding))


class Loudness(FrozenAudioNetwork):
    """Waveform [N, 16000] -> mixed loudness of eight parts [N, 8]; no class scores."""

    input_kind = "waveform"
    embedding_dim = 8
    log_offset = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Linear(8, 8)
        self.freeze()

    def describe(self, x: torch.Tensor) -> AudioOutput:
        loud = x.unflatten(1, (8, -1)).square().mean(dim=2).log1p()
        return AudioOutput(embedding=self.mix(loud))


def know_networks(patch: pytest.MonkeyPatch) -> None:
    """Put them into the table as ``tones`` and ``loudness``."""
    where = "https://example.org"
    tones = AudioEntry(build=Tones, files=("tones.pth",), where=where, gives_classes=True)
    patch.setitem(AUDIO_NETWORKS, "tones", tones)
    loudness = AudioEntry(build=Loudness, files=("loudness.pth",), where=where)
    patch.setitem(AUDIO_NETWORKS, "loudness", loudness)


def write_weights(folder: Path, network: str, *, seed: int = 3) -> Path:
    """Weights of a network, others for another seed."""
    path = folder / f"{network}-{seed}.pth"
    torch.manual_seed(seed)
    torch.save(AUDIO_NETWORKS[network].build().state_dict(), path)
    return path
