"""From queries and mask features to masks: the head of CCFormer (arXiv 2510.10051).

Reconstructed: products of queries and pixels, combined over the queries by a perceptron at each
pixel, then a convolution, four times the size, and two more convolutions. Ours: products are
divided by the root of the channels, as in attention, or their size would grow with the width; a
layer before the last is supervised at the size of the mask features by one 1x1 convolution, because
six times the large head would be most of a training step.

Shapes: N frames, Q queries, C channels, h x w pixels, K classes, H x W image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["QueryMaskHead"]

UPSAMPLING = 4
# Of a narrow network's few channels before the last ReLU, all may die early: nothing learns then.
MIN_INNER_WIDTH = 16


class QueryMaskHead(nn.Module):
    """num_queries: Q, which the perceptron takes in this order. with_aux: a head for the layers
    before the last; without such layers it must not exist."""

    def __init__(self, width: int, *, num_queries: int, num_classes: int, with_aux: bool) -> None:
        super().__init__()
        self.combine = nn.Sequential(
            nn.Conv2d(num_queries, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1)
        )
        self.narrow = nn.Conv2d(width, width // 2, 3, padding=1)
        inner_width = max(width // 8, MIN_INNER_WIDTH)
        self.head = nn.Sequential(
            nn.Conv2d(width // 2, inner_width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(inner_width, num_classes, 1),
        )
        self.aux = nn.Conv2d(width, num_classes, 1) if with_aux else None

    def forward(
        self, queries_NQC: Tensor, features_NChw: Tensor, *, size: tuple[int, int]
    ) -> Tensor:
        """Logits at the size of the image: [N, K, H, W]."""
        narrow_NChw = self.narrow(self._combined(queries_NQC, features_NChw))
        large = F.interpolate(
            narrow_NChw, scale_factor=UPSAMPLING, mode="bilinear", align_corners=False
        )
        logits_NKHW: Tensor = self.head(large)
        if logits_NKHW.shape[-2:] == size:
            return logits_NKHW
        return F.interpolate(logits_NKHW, size=size, mode="bilinear", align_corners=False)

    def aux_logits(self, queries_NQC: Tensor, features_NChw: Tensor) -> Tensor:
        """Logits of a layer before the last, at the size of the features: [N, K, h, w]."""
        assert self.aux is not None, "built without layers before the last"
        logits_NKhw: Tensor = self.aux(self._combined(queries_NQC, features_NChw))
        return logits_NKhw

    def _combined(self, queries_NQC: Tensor, features_NChw: Tensor) -> Tensor:
        """[N, C, h, w]."""
        scaled_NQC = queries_NQC * queries_NQC.shape[2] ** -0.5
        products_NQhw = torch.einsum("nqc,nchw->nqhw", scaled_NQC, features_NChw)
        combined_NChw: Tensor = self.combine(products_NQhw)
        return combined_NChw
