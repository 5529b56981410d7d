"""What models and audio networks take and give.

One input and one output type for every model keeps the training loop, the losses and the Predictor
free of model names; the price is fields that are None where a model has no such thing.

Shapes: B clips, T frames, H x W pixels, K classes or categories, C channels, D embedding width,
N examples, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from avs.models.audioset import NUM_AUDIOSET_CLASSES
from avs.models.masked_decoder import SetPrediction

__all__ = ["AudioNetwork", "AudioOutput", "ModelInput", "ModelOutput", "ObjectSets", "Truth"]


@dataclass(kw_only=True, slots=True)
class ModelInput:
    """One batch for a segmenter.

    frames: [B, T, 3, H, W] float, ImageNet-normalised. audio_embedding: [B, T, D].
    audio_logits: [B, T, 527] AudioSet class logits, or None.
    frame_valid: [B, T] bool, False = padding, or None when every frame is real.
    frame_taught: [B, T] bool, False = no loss looks at this frame's masks, so a model whose frames
    know nothing of each other leaves it out of training; None = every frame is looked at.
    """

    frames: Tensor
    audio_embedding: Tensor
    audio_logits: Tensor | None = None
    frame_valid: Tensor | None = None
    frame_taught: Tensor | None = None

    def check(self, *, audio_dim: int | None) -> None:
        """Raise ValueError naming the shapes unless they belong together.

        audio_dim: D that the model was built for, None where it does not listen. Only shapes are
        looked at, so nothing waits for a device and a traced graph is not broken.
        """
        shape = tuple(self.frames.shape)
        if len(shape) != 5 or shape[2] != 3:
            raise ValueError(f"frames have the shape {list(shape)}: [B, T, 3, H, W] is needed")
        wanted = {"audio_logits": (NUM_AUDIOSET_CLASSES,), "frame_valid": (), "frame_taught": ()}
        if audio_dim is not None:
            wanted["audio_embedding"] = (audio_dim,)
        for name, rest in wanted.items():
            value: Tensor | None = getattr(self, name)
            if value is not None and tuple(value.shape) != (*shape[:2], *rest):
                raise ValueError(
                    f"{name} has the shape {list(value.shape)}: {[*shape[:2], *rest]} is needed "
                    f"beside frames {list(shape)}"
                )


@dataclass(kw_only=True, slots=True)
class ObjectSets:
    """The objects that a model sees in each frame, whether they sound or not.

    predictions: after each layer, of N frames; without training the last one alone.
    chosen: which of the B * T frames these are, bool [B * T], None = all of them.
    sound_logits: [B, T, K] float32, how much the sound is one of the model's categories.
    teacher: what the teacher of the silent-object-aware objective sees, while training with it.
    """

    predictions: tuple[SetPrediction, ...]
    sound_logits: Tensor
    chosen: Tensor | None = None
    teacher: SetPrediction | None = None


@dataclass(kw_only=True, slots=True)
class ModelOutput:
    """What a segmenter returns; fields are None where a model has none.

    logits: [B, T, K, H, W] at the size of the frames, no sigmoid or softmax.
    fused_maps: per stage (strides 4, 8, 16, 32) [B, T, C, h, w], after ReLU.
    projected_audio: per stage [B, T, C], None for a stage without audio fusion.
    consensus: [B, T, 1000] float32, how far picture and sound agree on each ImageNet class; its
    argmax is the class that was attended to.
    aux_logits: deep supervision, [B, T, K, h, w] each. embeddings: (of the sound [B, T, D], of the
    picture [B, T, D], logit scale []), normalised. objects: of models that find objects.
    """

    logits: Tensor
    fused_maps: tuple[Tensor, ...] | None = None
    projected_audio: tuple[Tensor | None, ...] | None = None
    aux_logits: tuple[Tensor, ...] | None = None
    embeddings: tuple[Tensor, Tensor, Tensor] | None = None
    objects: ObjectSets | None = None
    consensus: Tensor | None = None


@dataclass(kw_only=True, slots=True)
class Truth:
    """What is known about the clips of a training step.

    masks: uint8 [B, T, H, W] class index, 0 = background, 255 = ignored. mask_valid: bool [B, T],
    False = no ground truth. frame_valid: bool [B, T], False = padding, or None when every frame is
    real. categories: bool [B, K], which of the model's category names the clip is said to hold, or
    None for a model without names.
    videos: int64 [B], equal for clips of one source video, on whichever rank they are.
    seed: of the sampled points; the same on all ranks in a step.
    off_screen: bool [B], True = the sound is not that of the picture, which shows other things
    than ``categories`` and says nothing of what it shows; None = every clip has its own sound.
    """

    masks: Tensor
    mask_valid: Tensor
    frame_valid: Tensor | None
    categories: Tensor | None
    videos: Tensor
    seed: int
    off_screen: Tensor | None = None


@dataclass(kw_only=True, slots=True)
class AudioOutput:
    """embedding: [N, D]. logits: [N, 527] AudioSet class logits, or None."""

    embedding: Tensor
    logits: Tensor | None = None


class AudioNetwork(nn.Module):
    """Base of the audio networks: ``forward(x) -> AudioOutput`` for N examples.

    ``input_kind`` is "log_mel" (x is [N, 1, 96, 64]) or "waveform" (x is [N, samples] at 16 kHz).
    ``log_offset`` is what the log-mel front end adds before the logarithm. ``trainable`` is False
    for networks that stay frozen and in eval mode.
    """

    input_kind: str
    embedding_dim: int
    log_offset: float
    trainable: bool

    def forward(self, x: Tensor) -> AudioOutput:
        """Embed N examples."""
        raise NotImplementedError
