"""An audio network and a segmenter as one module: frames and sound in, logits out.

What training, evaluation and serving share: pixel normalisation, running the audio network on
every frame's example, silencing padded frames (the official AVSS script does that outside its
model). One state dict holds everything, frozen weights included, so a checkpoint needs no second
file; it is larger for that.

Shapes: B clips, T frames, H x W pixels, F x M log-mel frames x bands, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avs.errors import ConfigError
from avs.models.audio import build_audio_network
from avs.models.config import ModelConfig
from avs.models.registry import build_model, option_names
from avs.models.types import AudioNetwork, AudioOutput, ModelInput, ModelOutput

__all__ = ["AvsSystem", "build_system"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class AvsSystem(nn.Module):
    """``audio`` is the audio network, ``segmenter`` the model; both are in the state dict."""

    mean_311: Tensor
    std_311: Tensor

    def __init__(self, *, audio: AudioNetwork, segmenter: nn.Module) -> None:
        super().__init__()
        self.audio = audio
        self.segmenter = segmenter
        self.register_buffer(
            "mean_311", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False
        )
        self.register_buffer("std_311", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(
        self, frames: Tensor, log_mel: Tensor, frame_valid: Tensor | None = None
    ) -> ModelOutput:
        """Segment clips.

        frames: [B, T, 3, H, W], uint8 RGB (normalised here) or float already ImageNet-normalised.
        log_mel: [B, T, 1, 96, 64] (for a waveform network [B, T, samples]), one example a frame.
        frame_valid: [B, T] bool, False = padding: its sound is zeroed and its logits are 0.
        """
        if not frames.is_floating_point():
            frames = (frames / 255.0 - self.mean_311) / self.std_311
        sound: AudioOutput = self.audio(log_mel.flatten(0, 1))
        batch = log_mel.shape[:2]
        embedding_BTD = sound.embedding.reshape(*batch, -1)
        if frame_valid is not None:
            embedding_BTD = embedding_BTD * frame_valid.unsqueeze(-1).to(embedding_BTD.dtype)
        logits = sound.logits
        output: ModelOutput = self.segmenter(
            ModelInput(
                frames=frames,
                audio_embedding=embedding_BTD,
                audio_logits=None if logits is None else logits.reshape(*batch, -1),
                frame_valid=frame_valid,
            )
        )
        return output


def build_system(config: ModelConfig) -> AvsSystem:
    """Build both networks; the model's ``audio_dim`` follows the audio network.

    Raises ConfigError for options that do not fit, WeightsError for weights.
    """
    audio = build_audio_network(config.audio_network, weights=config.audio_weights)
    options = dict(config.options)
    given = options.get("audio_dim", audio.embedding_dim)
    if given != audio.embedding_dim:
        raise ConfigError(
            f"model.options.audio_dim={given}: {config.audio_network} gives "
            f"{audio.embedding_dim}; leave the option out"
        )
    if "audio_dim" in option_names(config.name):
        options["audio_dim"] = given
    segmenter = build_model(
        config.name,
        backbone=config.backbone,
        backbone_weights=config.backbone_weights,
        num_classes=config.num_classes,
        **options,
    )
    return AvsSystem(audio=audio, segmenter=segmenter)
