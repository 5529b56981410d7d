"""The ``train`` section of ``jobs/train.py``: one optimisation, key by key.

Every default leaves out what it stands for, so a run that was begun before a key existed goes on as
it was begun.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from avs.errors import ConfigError

__all__ = ["JitterEach", "LoopConfig", "Precision", "Schedule"]


class Schedule(enum.Enum):
    """Learning rate over a run: cosine falls to 0 step by step, poly too with the power
    ``poly_power`` of what is left, linear changes epoch by epoch."""

    CONSTANT = "constant"
    COSINE = "cosine"
    LINEAR = "linear"
    POLY = "poly"


class Precision(enum.Enum):
    """Arithmetic of the forward pass; ``bf16`` and ``fp16`` are autocast, the latter with a scaled
    loss and on GPUs only."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class JitterEach(enum.Enum):
    """What gets colours of its own: every frame (C3N), or a clip, whose frames stay alike."""

    FRAME = "frame"
    CLIP = "clip"


@dataclass(kw_only=True, slots=True)
class LoopConfig:
    """The optimisation: Adam, with decoupled weight decay where that is above 0 (AdamW).

    ``batch_size`` counts clips of a forward pass on each worker; a step is ``accumulate_steps`` of
    them on each, with the loss of the whole. ``image_size_px`` resizes the prepared frames (null:
    as prepared). ``num_threads`` is what each worker computes with. The audio network, where it is
    trained, learns at ``audio_learning_rate_factor`` times the learning rate, the visual backbone
    at ``backbone_learning_rate_factor`` times. For the first ``frozen_backbone_epochs`` epochs the
    backbone stays as it was loaded, batch-norm statistics included; for all of a run, give as many
    as ``epochs``.

    ``schedule`` linear goes from ``learning_rate`` to ``final_learning_rate`` in
    ``schedule_epochs`` equal steps, one an epoch, and stays there; poly falls as (1 - done) to the
    power of ``poly_power``. Whatever the schedule says is multiplied in the first ``warmup_steps``
    optimiser steps by a factor that rises evenly from ``warmup_start_factor`` to 1.
    ``max_gradient_norm`` shortens longer gradients to this norm (over all parameters; null: none).
    ``ema_decay`` keeps a moving average of the weights over the steps, which is what is validated
    and saved (null: none); in the first n steps it is at most (1 + n) / (10 + n).

    ``crop_scale`` [smallest, largest] cuts a random part of this share of the picture, with a ratio
    of width to height in ``crop_ratio``, the same for all frames and masks of a clip, and resizes
    it back. ``flip`` mirrors half of the clips; ``color_jitter`` changes colours by up to
    [brightness, contrast, saturation, hue], of each ``color_jitter_each`` by itself.
    ``off_screen_ratio`` of the clips hear the sound of another clip of their forward pass, if the
    two share no category; their masks are then empty (ours: a model that only looks is punished).

    ``sync_batch_norm`` takes batch-norm statistics over all workers instead of each on its own.
    ``channels_last`` lays maps out with channels last in memory, ``compile`` compiles the segmenter
    with torch.compile: other speed and rounding. ``checkpoint_backbone`` computes the backbone
    again in the backward pass instead of keeping its activations: less memory, slower; its batch
    norms then move their statistics twice a step.
    ``init_from`` starts from the weights of a checkpoint (or of a run's best one); what does not
    fit, such as the head of other classes, starts anew.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    schedule: Schedule
    precision: Precision
    flip: bool
    image_size_px: int | None
    num_threads: int
    audio_learning_rate_factor: float = 1.0
    backbone_learning_rate_factor: float = 1.0
    frozen_backbone_epochs: int = 0
    final_learning_rate: float | None = None
    schedule_epochs: int | None = None
    color_jitter: tuple[float, ...] | None = None
    sync_batch_norm: bool = False
    accumulate_steps: int = 1
    max_gradient_norm: float | None = None
    poly_power: float = 0.9
    warmup_steps: int = 0
    warmup_start_factor: float = 0.1
    crop_scale: tuple[float, ...] | None = None
    crop_ratio: tuple[float, ...] = (0.75, 1.3333)
    color_jitter_each: JitterEach = JitterEach.FRAME
    off_screen_ratio: float = 0.0
    ema_decay: float | None = None
    channels_last: bool = False
    compile: bool = False
    checkpoint_backbone: bool = False
    init_from: str | None = None

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "num_threads", "accumulate_steps"):
            if getattr(self, key) < 1:
                raise ConfigError(f"train.{key}={getattr(self, key)} must be at least 1.")
        factors = ("audio_learning_rate_factor", "backbone_learning_rate_factor", "poly_power")
        for key in ("learning_rate", *factors, "max_gradient_norm"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise ConfigError(f"train.{key}={value} must be positive.")
        for key in ("weight_decay", "frozen_backbone_epochs", "warmup_steps"):
            if getattr(self, key) < 0:
                raise ConfigError(f"train.{key}={getattr(self, key)} must not be negative.")
        if not 0 <= self.warmup_start_factor <= 1:
            value = self.warmup_start_factor
            raise ConfigError(f"train.warmup_start_factor={value}: between 0 and 1.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"train.ema_decay={self.ema_decay}: between 0 and 1, or null.")
        if not 0 <= self.off_screen_ratio <= 1:
            raise ConfigError(f"train.off_screen_ratio={self.off_screen_ratio}: between 0 and 1.")
        if self.off_screen_ratio and self.batch_size == 1:
            raise ConfigError(
                f"train.off_screen_ratio={self.off_screen_ratio} with train.batch_size=1: the "
                "sound comes from another clip of the forward pass, so it takes two."
            )
        if self.image_size_px is not None and self.image_size_px < 32:
            raise ConfigError(f"train.image_size_px={self.image_size_px} must be at least 32.")
        if self.init_from == "":
            raise ConfigError("train.init_from is empty: give a checkpoint, a run, or null.")
        self._check_schedule()
        self._check_crop()
        self._check_color_jitter()

    def _check_schedule(self) -> None:
        keys = ("final_learning_rate", "schedule_epochs")
        for key in keys:
            value = getattr(self, key)
            if (self.schedule is Schedule.LINEAR) != (value is not None):
                raise ConfigError(
                    f"train.{key}={value} with train.schedule={self.schedule.value}: "
                    f"linear needs {' and '.join(keys)}, the others take neither."
                )
            if value is not None and value <= 0:
                raise ConfigError(f"train.{key}={value} must be above 0.")

    def _check_crop(self) -> None:
        for key, most in (("crop_scale", 1.0), ("crop_ratio", float("inf"))):
            value = getattr(self, key)
            if value is not None and not (len(value) == 2 and 0 < value[0] <= value[1] <= most):
                raise ConfigError(
                    f"train.{key}={list(value)}: [smallest, largest], both above 0"
                    f"{' and at most 1; null for no crop' if most == 1.0 else ''}."
                )

    def _check_color_jitter(self) -> None:
        strength = self.color_jitter
        if strength is None:
            return
        fits = len(strength) == 4 and all(0 <= s <= 1 for s in strength) and strength[3] <= 0.5
        if not fits:
            raise ConfigError(
                f"train.color_jitter={list(strength)}: [brightness, contrast, saturation, hue], "
                "each between 0 and 1, hue up to 0.5; null for none."
            )
