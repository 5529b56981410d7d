"""TPAVI: temporal pixel-wise audio-visual interaction (Zhou et al., Audio-Visual Segmentation, ECCV
2022).

The paper's attention has no softmax, so it is linear in its keys and never needs the N x N matrix
(N = T*h*w) that the official code builds. With sound the keys do not depend on the pixel: N
queries meet T keys, and the mean of g over a frame is g of the mean. Without sound, phi and g
contract first to one small matrix. Both are exact up to float summation order. 1x1x1 convolutions
over [B, C, T, h, w] are 1x1 convolutions over [B*T, C, h, w] here: same parameters, no transposes.
Trade-off: the importer squeezes a dimension of the official weights.

Shapes: B clips, T frames, C channels, c inner channels, h x w pixels, P = h*w, D audio width; S =
T as keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TpaviBlock"]


class TpaviBlock(nn.Module):
    """One TPAVI block of a stage; starts as LayerNorm(x), since BN weight and bias start at 0."""

    def __init__(self, width: int, *, audio_dim: int, audio_bias: bool, use_audio: bool) -> None:
        super().__init__()
        inner = width // 2
        self.theta = nn.Conv2d(width, inner, 1)
        self.phi = nn.Conv2d(width, inner, 1)
        self.g = nn.Conv2d(width, inner, 1)
        self.w_z = nn.Conv2d(inner, width, 1)
        self.bn = nn.BatchNorm2d(width)
        nn.init.zeros_(self.bn.weight)
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
        Returns the fused map [B, T, C, h, w] (no ReLU yet) and the projected audio [B, T, C].
        """
        audio_BTC = None if audio_BTD is None else self.align(audio_BTD)
        x_NChw = x_BTChw.flatten(0, 1)
        theta_BTcP = _clips(self.theta(x_NChw), x_BTChw).flatten(3)
        if audio_BTC is None:
            y_BTcP = self._attend_to_pixels(theta_BTcP, x_BTChw)
        else:
            y_BTcP = self._attend_to_sound(theta_BTcP, x_BTChw, audio_BTC)
        y_Nchw = y_BTcP.flatten(0, 1).reshape(len(x_NChw), -1, *x_BTChw.shape[3:])
        z_NChw = x_NChw + self.bn(self.w_z(y_Nchw))
        z_NChw = self.norm(z_NChw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return _clips(z_NChw, x_BTChw), audio_BTC

    def _attend_to_sound(self, theta_BTcP: Tensor, x_BTChw: Tensor, audio_BTC: Tensor) -> Tensor:
        """y_p = 1/T sum_s (theta_p . phi_s) mean_hw(g_s)."""
        phi_BSc = _pointwise(self.phi, audio_BTC)
        g_BSc = _pointwise(self.g, x_BTChw.mean(dim=(3, 4)))
        scores_BTSP = phi_BSc.unsqueeze(1) @ theta_BTcP
        y_BTcP: Tensor = g_BSc.transpose(1, 2).unsqueeze(1) @ scores_BTSP / phi_BSc.shape[1]
        return y_BTcP

    def _attend_to_pixels(self, theta_BTcP: Tensor, x_BTChw: Tensor) -> Tensor:
        """y_p = theta_p . (1/N sum_q phi_q g_q^T)."""
        x_NChw = x_BTChw.flatten(0, 1)
        phi_BTcP = _clips(self.phi(x_NChw), x_BTChw).flatten(3)
        g_BTcP = _clips(self.g(x_NChw), x_BTChw).flatten(3)
        num_keys = phi_BTcP.shape[1] * phi_BTcP.shape[3]
        context_Bcc = torch.einsum("btip,btjp->bij", phi_BTcP, g_BTcP) / num_keys
        y_BTcP: Tensor = context_Bcc.transpose(1, 2).unsqueeze(1) @ theta_BTcP
        return y_BTcP


def _pointwise(conv: nn.Conv2d, x_BTC: Tensor) -> Tensor:
    """Apply a 1x1 convolution to vectors [B, T, C]."""
    return nn.functional.linear(x_BTC, conv.weight.flatten(1), conv.bias)


def _clips(x_NChw: Tensor, like_BTChw: Tensor) -> Tensor:
    """Split N = B*T again."""
    return x_NChw.reshape(*like_BTChw.shape[:2], *x_NChw.shape[1:])
