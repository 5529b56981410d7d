"""An audio network and a segmenter as one module: frames and sound in, logits out.

What training, evaluation and serving share: pixel normalisation, cutting the sound into one example
a frame in the form that the audio network wants, running it, silencing padded frames (the official
AVSS script does that outside its model). One state dict holds everything, frozen weights included,
so a checkpoint needs no second file; it is larger for that.

Shapes: B clips, T frames, H x W pixels, S samples at 16 kHz, F x M log-mel frames x bands,
D embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from avs.errors import ConfigError
from avs.media.logmel import SAMPLE_RATE_HZ
from avs.models.audio import build_audio_network
from avs.models.config import ModelConfig
from avs.models.registry import build_model, option_names
from avs.models.types import AudioNetwork, AudioOutput, ModelInput, ModelOutput

__all__ = [
    "STORED_LOG_OFFSET",
    "AvsSystem",
    "build_system",
    "frame_waveforms",
    "hear",
    "with_log_offset",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STORED_LOG_OFFSET = 0.01  # of the log-mel in clip rows and of the official files


class AvsSystem(nn.Module):
    """``audio`` is the audio network, ``segmenter`` the model; both are in the state dict.

    audio_norm: each embedding is brought to mean 0 and variance 1 over its D values before the
    segmenter gets it, as LayerNorm does (ours; no weights). audio_dropout: share of its values that
    training leaves out after that (ours).
    """

    mean_311: Tensor
    std_311: Tensor

    def __init__(
        self,
        *,
        audio: AudioNetwork,
        segmenter: nn.Module,
        audio_norm: bool = False,
        audio_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.audio = audio
        self.segmenter = segmenter
        self.audio_norm = audio_norm
        self.audio_dropout = nn.Dropout(audio_dropout)
        self.register_buffer(
            "mean_311", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False
        )
        self.register_buffer("std_311", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(
        self,
        frames: Tensor,
        sound: Tensor | AudioOutput,
        frame_valid: Tensor | None = None,
        frame_taught: Tensor | None = None,
    ) -> ModelOutput:
        """Segment clips.

        frames: [B, T, 3, H, W], uint8 RGB (normalised here) or float already ImageNet-normalised.
        sound: what ``audio.input_kind`` says. "log_mel": [B, T, 1, 96, 64] with the stored offset
        0.01 (turned into the network's own here). "waveform": [B, S] of the clip, float in [-1, 1]
        or int16 (see :func:`frame_waveforms`). Or what :func:`hear` made of it earlier, with the
        same weights: then the audio network does not run.
        frame_valid: [B, T] bool, False = padding: its sound is zeroed and its logits are 0.
        frame_taught: see :class:`avs.models.types.ModelInput`.
        """
        if not frames.is_floating_point():
            frames = (frames / 255.0 - self.mean_311) / self.std_311
        batch = frames.shape[:2]
        heard = sound
        if isinstance(heard, Tensor):
            heard = hear(self.audio, heard, num_frames=frames.shape[1])
        embedding_BTD = heard.embedding.reshape(*batch, -1)
        if self.audio_norm:
            embedding_BTD = F.layer_norm(embedding_BTD, embedding_BTD.shape[-1:])
        embedding_BTD = self.audio_dropout(embedding_BTD)
        if frame_valid is not None:
            embedding_BTD = embedding_BTD * frame_valid.unsqueeze(-1).to(embedding_BTD.dtype)
        logits = heard.logits
        output: ModelOutput = self.segmenter(
            ModelInput(
                frames=frames,
                audio_embedding=embedding_BTD,
                audio_logits=None if logits is None else logits.reshape(*batch, -1),
                frame_valid=frame_valid,
                frame_taught=frame_taught,
            )
        )
        return output


def hear(audio: AudioNetwork, sound: Tensor, *, num_frames: int) -> AudioOutput:
    """What an audio network makes of clips, one example a frame: N = B * T.

    sound: [B, T, 1, 96, 64] or [B, S], as :meth:`AvsSystem.forward` takes it; num_frames: T.
    """
    if audio.input_kind == "waveform":
        examples = frame_waveforms(sound, num_frames=num_frames).flatten(0, 1)
    else:
        examples = with_log_offset(sound.flatten(0, 1), audio.log_offset)
    heard: AudioOutput = audio(examples)
    return heard


def frame_waveforms(waveform_BS: Tensor, *, num_frames: int) -> Tensor:
    """Cut clips into one second a frame: float32 [B, T, 16000].

    waveform_BS: float in [-1, 1], or int16 (divided by 32768). Frame k gets second k, as in
    :mod:`avs.windows`; silence where the recording has ended, what is longer is cut. No drift as in
    the 0.96 s steps of the log-mel examples.
    """
    size = num_frames * SAMPLE_RATE_HZ
    cut_BS = waveform_BS[:, :size]
    if not cut_BS.is_floating_point():
        cut_BS = cut_BS.float() / 32768.0
    padded_BS = F.pad(cut_BS.float(), (0, size - cut_BS.shape[1]))
    return padded_BS.view(-1, num_frames, SAMPLE_RATE_HZ)


def with_log_offset(log_mel: Tensor, log_offset: float) -> Tensor:
    """log(mel + 0.01) as stored -> log(mel + ``log_offset``), any shape.

    Taken back and made anew, so rows without a waveform serve every network. Float32 keeps enough:
    the rounding of log(0.01 + mel) near silence becomes at most 1e-5 of log(0.001 + mel).
    """
    if log_offset == STORED_LOG_OFFSET:
        return log_mel
    mel = (log_mel.float().exp() - STORED_LOG_OFFSET).clamp(min=0.0)
    return torch.log(mel + log_offset)


def build_system(config: ModelConfig) -> AvsSystem:
    """Build both networks; the model's ``audio_dim`` follows the audio network.

    Raises ConfigError for networks or options that do not fit together, WeightsError for weights.
    """
    config.check_classes()  # before the weights of the audio network, which are large
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
    if not options.get("use_audio", True):  # nothing listens: DDP must not wait for its gradients
        audio.requires_grad_(False)
    segmenter = build_model(
        config.name,
        backbone=config.backbone,
        backbone_weights=config.backbone_weights,
        num_classes=config.num_classes,
        category_names=config.category_names,
        **options,
    )
    return AvsSystem(
        audio=audio,
        segmenter=segmenter,
        audio_norm=config.audio_norm,
        audio_dropout=config.audio_dropout,
    )
