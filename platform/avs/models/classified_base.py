"""What a visual backbone that keeps its own ImageNet classifier promises (C3N, Shi et al., TMM
2024).

One pass gives the four maps for the decoder, the outputs of each stage's last block before the
stage norm, and the class logits, which hang on those outputs in one graph: the class attention
differentiates through it. Under no_grad or inference_mode that graph is recorded all the same,
from the first stage's output on; what comes before runs in the caller's mode. The classifier only
picks a class and gets no gradient from any loss, so it is frozen and stays in eval mode.

Shapes: N frames, C channels, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ClassifiedBackbone", "ClassifiedMaps"]


@dataclass(kw_only=True, slots=True)
class ClassifiedMaps:
    """maps: per stage [N, C, h, w] for the decoder. logits: [N, 1000] float32.

    blocks: per stage the output of its last block, [N, h, w, C] or [N, C, h, w].
    """

    maps: list[Tensor]
    blocks: list[Tensor]
    logits: Tensor


class ClassifiedBackbone(nn.Module):
    """[N, 3, H, W] -> :class:`ClassifiedMaps`; ``classifier`` names the frozen parts of ``net``.

    Subclasses divide their forward into ``first_block`` and ``classified``.
    """

    channels_last = True  # of the blocks' outputs

    def __init__(self, net: Any, *, channels: Sequence[int], classifier: Sequence[str]) -> None:
        super().__init__()
        self.net = net
        self.channels = tuple(channels)
        self.classifier = tuple(classifier)
        for name in self.classifier:
            net.get_submodule(name).requires_grad_(False)

    def forward(self, x_N3HW: Tensor) -> ClassifiedMaps:
        """The logits can be differentiated to the blocks whatever mode the caller is in."""
        caller_records = torch.is_grad_enabled()
        with torch.inference_mode(False):
            with torch.set_grad_enabled(caller_records):
                first = self.first_block(x_N3HW)
            with torch.enable_grad():
                if not first.requires_grad:
                    # an inference tensor cannot enter a graph, its copy can
                    first = first.clone() if first.is_inference() else first.detach()
                    first.requires_grad_()
                return self.classified(first)

    def first_block(self, x_N3HW: Tensor) -> Tensor:
        """What the graph starts from: the first stage, up to its norm."""
        raise NotImplementedError

    def classified(self, first: Tensor) -> ClassifiedMaps:
        """Everything from the result of ``first_block`` on."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> ClassifiedBackbone:
        """The frozen classifier keeps the statistics it was trained with."""
        super().train(mode)
        for name in self.classifier:
            self.net.get_submodule(name).eval()
        return self

    @staticmethod
    def named_as_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """An ImageNet checkpoint, timm's or the authors', with the names of ``net``."""
        return state

    @staticmethod
    def official_name(name: str) -> str:
        """Name of a parameter of the official C3N backbone -> its name here."""
        return f"net.{name}"

    def _logits(self, head: nn.Module, features: Tensor) -> Tensor:
        """Class logits in float32 also under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = head(features.float())
        return logits
