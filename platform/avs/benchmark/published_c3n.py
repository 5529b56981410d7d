"""C3N as published, written straightforwardly: what our form is measured against.

The consensus builds a [frames, 1000, 527] array; the attention runs a full backward to every
parameter of the backbone inside forward, collects gradients with hooks, copies every map to numpy
and back, and draws CAM pictures that nobody looks at (Shi et al., TMM 2024); ASPP makes and
concatenates its five maps. Parameters and backbone are those of our model. Not for use.

Shapes: M = clips x frames, C channels, h x w map; 1000 ImageNet classes, 527 AudioSet classes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.benchmark.published_tpavi import PublishedFusion, load_ours
from avs.models.c3n import C3nSegmenter
from avs.models.onednn_linear import use_torch
from avs.models.types import ModelInput, ModelOutput

__all__ = ["PublishedAspp", "PublishedC3n"]

Array = np.ndarray[Any, Any]

_DILATIONS = (6, 12, 18)


class PublishedAspp(nn.Module):
    """Image pooling, 1x1 and three dilated 3x3 branches; concatenated, then 1x1."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.pooled = nn.Conv2d(in_channels, width, 1)
        self.point = nn.Conv2d(in_channels, width, 1)
        self.dilated = nn.ModuleList(
            nn.Conv2d(in_channels, width, 3, padding=d, dilation=d) for d in _DILATIONS
        )
        self.out = nn.Conv2d((2 + len(_DILATIONS)) * width, width, 1)

    def forward(self, x_MChw: Tensor) -> Tensor:
        """[M, C_in, h, w] -> [M, width, h, w]."""
        pooled_MC11 = self.pooled(x_MChw.mean(dim=(2, 3), keepdim=True))
        size = (int(x_MChw.shape[-2]), int(x_MChw.shape[-1]))
        pooled_MChw = F.interpolate(pooled_MC11, size=size, mode="bilinear", align_corners=True)
        branches = [branch(x_MChw) for branch in self.dilated]
        out_MChw: Tensor = self.out(torch.cat([pooled_MChw, self.point(x_MChw), *branches], dim=1))
        return out_MChw


class PublishedC3n(PublishedFusion):
    """The published form of ``ours``: takes over its backbone, copies its other parameters."""

    similarity: Tensor

    def __init__(self, ours: C3nSegmenter) -> None:
        super().__init__(ours, use_audio=True)
        width = ours.options.fusion_width
        self.alpha = ours.options.alpha
        self.backbone = ours.backbone
        use_torch(self.backbone)
        self.register_buffer("similarity", ours.similarity)
        self.necks = nn.ModuleList(PublishedAspp(c, width) for c in ours.backbone.channels)
        load_ours(self, ours.state_dict())
        self.train(ours.training)

    def forward(self, x: ModelInput) -> ModelOutput:
        """As :class:`avs.models.c3n.C3nSegmenter`; leaves gradients in the backbone."""
        assert x.audio_logits is not None
        maps = self._look(x.frames.flatten(0, 1), x.audio_logits.flatten(0, 1))
        return self.segment((neck(m) for neck, m in zip(self.necks, maps, strict=True)), x)

    def _look(self, x_M3HW: Tensor, audio_logits: Tensor) -> list[Tensor]:
        """The four maps after the class attention."""
        gradients: dict[int, Tensor] = {}
        with torch.enable_grad():
            seen = self.backbone(x_M3HW)
            for stage, block in enumerate(seen.blocks):
                block.register_hook(partial(gradients.__setitem__, stage))
            targets = self._targets(seen.logits.detach(), audio_logits)
            loss = torch.zeros(())
            for frame, target in enumerate(targets.tolist()):
                loss = loss + seen.logits[frame, target]
            self.backbone.zero_grad()
            loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        attended = []
        for stage, (map_MChw, block) in enumerate(zip(seen.maps, seen.blocks, strict=True)):
            weight_MC = self._weight(_numpy(block), _numpy(gradients[stage]), x_M3HW)
            attended.append(_attend(map_MChw, torch.from_numpy(weight_MC)))
        return attended

    def _targets(self, visual_logits: Tensor, audio_logits: Tensor) -> Tensor:
        """The row of the greatest p_i S_ij q_j of each frame."""
        p_M1000 = visual_logits.softmax(dim=1) ** self.alpha
        q_M527 = audio_logits.softmax(dim=1) ** self.alpha
        consensus = p_M1000[:, :, None] * self.similarity[None] * q_M527[:, None, :]
        return consensus.flatten(1).argmax(dim=1) // self.similarity.shape[1]

    def _weight(self, block: Array, gradient: Array, x_M3HW: Tensor) -> Array:
        """Mean gradient per channel [M, C]; on the way, the CAM picture of each frame."""
        if self.backbone.channels_last:
            block, gradient = block.transpose(0, 3, 1, 2), gradient.transpose(0, 3, 1, 2)
        weight_MC: Array = gradient.mean(axis=(2, 3))
        cam_Mhw = np.maximum((weight_MC[:, :, None, None] * block).sum(axis=1), 0.0)
        for cam_hw in cam_Mhw:
            cam_hw = (cam_hw - cam_hw.min()) / (cam_hw.max() - cam_hw.min() + 1e-7)
            picture = Image.fromarray(cam_hw.astype(np.float32))
            np.asarray(picture.resize((x_M3HW.shape[-1], x_M3HW.shape[-2])))
        return weight_MC


def _numpy(x: Tensor) -> Array:
    return x.detach().cpu().numpy().copy()


def _attend(map_MChw: Tensor, weight_MC: Tensor) -> Tensor:
    weight_MC = weight_MC / weight_MC.norm(dim=1, keepdim=True)
    map_MChw = map_MChw * weight_MC.sigmoid()[:, :, None, None]
    return map_MChw * map_MChw.mean(dim=1, keepdim=True).sigmoid()
