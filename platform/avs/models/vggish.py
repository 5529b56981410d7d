"""VGGish (Hershey et al., CNN architectures for large-scale audio classification, ICASSP 2017),
frozen.

Parameter names are those of the PyTorch port that AVSBench uses (vggish-10086976.pth), so its file
loads as it is. Always in eval mode and without gradients, as in every reference: the trade-off is
that the sound features cannot adapt to the data. PCA and 8-bit quantisation are off, as in
AVSBench.

Shapes: N examples, F = 96 frames of 10 ms, M = 64 mel bands, C channels, D = 128.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avs.models.types import AudioNetwork, AudioOutput

__all__ = ["VGGISH_WHERE", "VGGish"]

VGGISH_WHERE = "https://github.com/harritaylor/torchvggish/releases (vggish-10086976.pth)"
POOL = 0
LAYERS = (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL)


class VGGish(AudioNetwork):
    """Log-mel [N, 1, 96, 64] -> non-negative embedding [N, 128]."""

    input_kind = "log_mel"
    embedding_dim = 128
    log_offset = 0.01
    trainable = False

    def __init__(self) -> None:
        super().__init__()
        self.features = _features()
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 6 * 4, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, self.embedding_dim),
            nn.ReLU(inplace=True),
        )
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> VGGish:  # noqa: ARG002  (frozen whatever the caller asks)
        """Stays in eval mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, x_N1FM: Tensor) -> AudioOutput:
        """Embed log-mel examples [N, 1, 96, 64]."""
        maps_NCFM = self.features(x_N1FM)
        flat_ND = maps_NCFM.permute(0, 2, 3, 1).flatten(1)  # TensorFlow's order of axes
        return AudioOutput(embedding=self.embeddings(flat_ND))


def _features() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 1
    for width in LAYERS:
        if width == POOL:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*layers)
