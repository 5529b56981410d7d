"""TPAVI: temporal pixel-wise audio-visual interaction (Zhou et al., Audio-Visual Segmentation, ECCV
2022).

The paper's attention has no softmax, so it is linear and never needs the N x N matrix (N = T*h*w)
that the official code builds, nor the maps theta, phi, g and W_z that lead to and from it:

    y_p = W_z sum_s v_s (k_s . theta(x_p)) = sum_s (W_z v_s) ((W_theta^T k_s) . x_p + k_s . b_theta)

With sound the sum has T terms: the keys phi do not depend on the pixel, and the mean of g over a
frame is g of the mean. Without sound it has c: phi and g contract first to one small matrix. Both
are exact up to float summation order; a pixel costs 2 C T (or 2 C c) products. Maps are channels
last, so a pixel's channels are a row of a matrix and LayerNorm needs no transposed copy. Trade-off:
the importer squeezes a dimension of the official weights.

Shapes: B clips, T frames, C channels, c inner channels, h x w pixels, N = T*h*w, D audio width,
S = terms of the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["TpaviBlock"]


class TpaviBlock(nn.Module):
    """One TPAVI block of a stage.

    start: the weight of the batch norm over y before training. 0, as published, starts the block
    as LayerNorm(x): what it has heard enters as slowly as that weight leaves zero.
    """

    def __init__(
        self,
        width: int,
        *,
        audio_dim: int,
        audio_bias: bool,
        use_audio: bool,
        start: float = 0.0,
    ) -> None:
        super().__init__()
        inner = width // 2
        self.theta = nn.Conv2d(width, inner, 1)
        self.phi = nn.Conv2d(width, inner, 1)
        self.g = nn.Conv2d(width, inner, 1)
        self.w_z = nn.Conv2d(inner, width, 1)
        self.bn = nn.BatchNorm2d(width)
        nn.init.constant_(self.bn.weight, start)
        nn.init.zeros_(self.bn.bias)
        self.norm = nn.LayerNorm(width)
        self.align = nn.Linear(audio_dim, width, bias=audio_bias)
        if (
            not use_audio
        ):  # kept for the official names, never run: DDP must not wait for its gradients
            self.align.requires_grad_(False)

    def forward(self, x_BTChw: Tensor, audio_BTD: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Fuse one stage.

        x_BTChw: [B, T, C, h, w]; audio_BTD: [B, T, D], or None for the plain visual ("vv") block.
        Returns the fused map [B, T, C, h, w] (no ReLU yet, channels last in memory) and the
        projected audio [B, T, C].
        """
        x_BThwC = x_BTChw.permute(0, 1, 3, 4, 2).contiguous()
        if audio_BTD is None:
            audio_BTC = None
            y_BNC = torch.stack([self._attend_to_pixels(x_NC) for x_NC in x_BThwC.flatten(1, 3)])
        else:
            audio_BTC = torch.stack([self.align(audio_TD) for audio_TD in audio_BTD])
            y_BNC = torch.stack(list(map(self._attend_to_sound, x_BThwC, audio_BTC)))
        y_BThwC = self._normalised(y_BNC.reshape(x_BThwC.shape))
        z_BThwC: Tensor = self.norm(x_BThwC + y_BThwC)
        return z_BThwC.permute(0, 1, 4, 2, 3), audio_BTC

    def _attend_to_sound(self, x_ThwC: Tensor, audio_TC: Tensor) -> Tensor:
        """y_p = W_z 1/T sum_s (theta_p . phi_s) mean_hw(g_s); S = T."""
        phi_Sc = _pointwise(self.phi, audio_TC)
        keys_SC = phi_Sc @ self.theta.weight.flatten(1)
        offsets_S = phi_Sc @ _bias(self.theta)
        g_Sc = _pointwise(self.g, x_ThwC.mean(dim=(1, 2)))
        values_SC = F.linear(g_Sc, self.w_z.weight.flatten(1)) / len(phi_Sc)
        scores_NS = torch.addmm(offsets_S, x_ThwC.flatten(0, 2), keys_SC.mT)
        return torch.addmm(_bias(self.w_z), scores_NS, values_SC)

    def _attend_to_pixels(self, x_NC: Tensor) -> Tensor:
        """y_p = W_z (1/N sum_q g_q phi_q^T) theta_p; S = c."""
        context_cc = _pointwise(self.phi, x_NC).mT @ _pointwise(self.g, x_NC) / len(x_NC)
        values_cC = F.linear(context_cc, self.w_z.weight.flatten(1))
        return torch.addmm(_bias(self.w_z), _pointwise(self.theta, x_NC), values_cC)

    def _normalised(self, y_BThwC: Tensor) -> Tensor:
        """Batch norm, which counts channels second."""
        y_NChw: Tensor = self.bn(y_BThwC.flatten(0, 1).permute(0, 3, 1, 2))
        return y_NChw.permute(0, 2, 3, 1).reshape(y_BThwC.shape)


def _pointwise(conv: nn.Conv2d, x_BNC: Tensor) -> Tensor:
    """Apply a 1x1 convolution to rows [B, N, C]."""
    return F.linear(x_BNC, conv.weight.flatten(1), conv.bias)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
