"""Base of the pre-trained audio networks: frozen, in eval mode, in float32.

Frozen as in every reference, so sound features cannot adapt to the data. They compute in float32
under autocast too: their front ends work on power spectra over many decades, and class scores
choose a class by their maximum. The price is what bfloat16 would save on a network that needs no
backward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from avs.models.types import AudioNetwork, AudioOutput
from avs.models.weights import tensors_of

__all__ = ["FrozenAudioNetwork"]


class FrozenAudioNetwork(AudioNetwork):
    """Subclasses build their layers, call :meth:`freeze` and implement :meth:`describe`.

    ``least_samples``: the shortest waveform that a network of that input kind can hear.
    """

    trainable = False
    least_samples = 0

    def freeze(self) -> None:
        """No gradients, eval mode; called at the end of a subclass's ``__init__``."""
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002  (frozen whatever the caller asks)
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, x: Tensor) -> AudioOutput:
        """Embed N examples (see ``input_kind``), without gradients.

        Raises ValueError for waveforms shorter than ``least_samples``.
        """
        if x.shape[-1] < self.least_samples:
            raise ValueError(
                f"waveforms of {x.shape[-1]} samples (shape {list(x.shape)}): "
                f"{type(self).__name__} needs at least {self.least_samples}; add silence (zeros)"
            )
        autocast = (
            torch.autocast(x.device.type, enabled=False)
            if torch.is_autocast_enabled(x.device.type)
            else contextlib.nullcontext()
        )
        with torch.no_grad(), autocast:
            return self.describe(x.float())

    def describe(self, x: Tensor) -> AudioOutput:
        """The network itself, on float32 [N, ...]."""
        raise NotImplementedError

    @classmethod
    def own_names(cls, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of a published checkpoint under the names of this module."""
        return tensors_of(checkpoint)
