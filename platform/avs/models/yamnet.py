"""YAMNet: MobileNet-V1 on log-mel patches (Plakal and Ellis, TensorFlow Models, research/audioset).

Small enough (3.7 M parameters) for a CPU and for online use, behind the same protocol as the large
networks; no seed paper uses it. Batch norm is folded into the convolutions, so it could not be
trained on from here as it once was. 521 of the 527 AudioSet classes, in their order.

Shapes: N examples, F = 96 frames of 10 ms, M = 64 mel bands, C channels, D = 1024, K = 521.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from avs.models.audioset import audioset_classes, class_positions, spread_classes
from avs.models.frozen import FrozenAudioNetwork
from avs.models.types import AudioOutput

__all__ = ["YAMNET_FILES", "YAMNET_WHERE", "Yamnet"]

YAMNET_FILES = ("yamnet.safetensors",)
YAMNET_WHERE = (
    "https://github.com/tensorflow/models/tree/master/research/audioset/yamnet as TensorFlow's "
    "yamnet.h5, of which yamnet.safetensors is a conversion that you make (batch norm folded into "
    "the convolutions, tensors named layer1.conv, layerN.depthwise, layerN.pointwise and dense)"
)
# (channels, stride) of layers 2-14, each a depthwise and a pointwise convolution.
SEPARABLE = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
STEM_WIDTH = 32
# Male and female speech and singing, battle cry, funny music: YAMNet was trained without them.
LACKING = ("/m/05zppz", "/m/02zsn", "/m/04gy_2", "/t/dd00003", "/t/dd00004", "/t/dd00032")


class Yamnet(FrozenAudioNetwork):
    """Log-mel [N, 1, 96, 64] -> embedding [N, 1024], logits [N, 527] (-inf for six classes)."""

    input_kind = "log_mel"
    embedding_dim = 1024
    log_offset = 0.001
    class_positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        mids = [entry.mid for entry in audioset_classes() if entry.mid not in LACKING]
        self.layer1 = nn.ModuleDict({"conv": nn.Conv2d(1, STEM_WIDTH, 3, stride=2)})
        channels = STEM_WIDTH
        for place, (width, stride) in enumerate(SEPARABLE, start=2):
            self.add_module(f"layer{place}", _separable(channels, width, stride))
            channels = width
        self.dense = nn.Linear(channels, len(mids))
        self.register_buffer("class_positions", class_positions(mids), persistent=False)
        self.freeze()

    def describe(self, x_N1FM: Tensor) -> AudioOutput:
        """Embed and classify log-mel examples of log(mel + 0.001)."""
        maps_NCFM = _same(self.layer1["conv"], x_N1FM)
        for place in range(2, 2 + len(SEPARABLE)):
            for conv in self.get_submodule(f"layer{place}").children():
                maps_NCFM = _same(conv, maps_NCFM)
        embedding_ND = maps_NCFM.mean(dim=(2, 3))
        logits_NK = self.dense(embedding_ND)
        return AudioOutput(
            embedding=embedding_ND, logits=spread_classes(logits_NK, self.class_positions)
        )


def _separable(in_channels: int, out_channels: int, stride: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "depthwise": nn.Conv2d(in_channels, in_channels, 3, stride=stride, groups=in_channels),
            "pointwise": nn.Conv2d(in_channels, out_channels, 1),
        }
    )


def _same(conv: nn.Module, x_NCFM: Tensor) -> Tensor:
    """Convolution and ReLU with TensorFlow's SAME padding (sizes here are even at stride 2)."""
    assert isinstance(conv, nn.Conv2d)
    if conv.kernel_size[0] == 3:
        before = 1 if conv.stride[0] == 1 else 0
        x_NCFM = F.pad(x_NCFM, (before, 1, before, 1))
    return torch.relu(conv(x_NCFM))
