"""A small trainable audio network on log-mel examples. Source: ours, no published weights.

For training from scratch where AudioSet weights are absent: four conv-BN-ReLU stages that shrink
time sixteen times but frequency only four times, then time is averaged away and an MLP reads the
frequency axis position by position. The trade-off: most parameters sit in that MLP, because timbre
(which band carries the energy) is what tells sounding objects apart, and global pooling over
frequency would blur it.

Shapes: N examples, F frames of 10 ms, M mel bands, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avs.models.audioset import NUM_AUDIOSET_CLASSES
from avs.models.types import AudioNetwork, AudioOutput

__all__ = ["SmallAudioNet", "SmallClassifiedAudioNet"]

LOG_MEL_MEAN = -1.3  # of log(mel + 0.01) over 79 everyday recordings
LOG_MEL_STD = 2.0
NUM_MEL_BANDS = 64
# (channels, stride in time, stride in frequency)
STAGES = ((24, 2, 1), (48, 2, 2), (72, 2, 2), (96, 2, 1))
HIDDEN_WIDTH = 256


def _stage(in_channels: int, out_channels: int, stride: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class RunningNorm(nn.BatchNorm1d):
    """Batch norm [N, D] that uses its running statistics while it learns, too.

    Two clips hold two sounds or three: normalised over them, each comes out at the same places
    whatever it is. With statistics of the last ten batches or so an embedding depends on its own
    sound alone (batches of two clips, 8 epochs of the demo: J 0.69 against 0.52). Batch
    renormalisation (Ioffe 2017) without bounds, and without a gradient through the statistics.
    """

    num_batches_tracked: Tensor

    def forward(self, x_ND: Tensor) -> Tensor:
        if self.training:
            self._track(x_ND.detach().float())
        assert self.running_mean is not None
        assert self.running_var is not None
        scale_D = self.weight * torch.rsqrt(self.running_var + self.eps)
        return (x_ND - self.running_mean) * scale_D + self.bias

    @torch.no_grad()
    def _track(self, x_ND: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        # The first batches count in full: the statistics start with what is there, not with 0, 1.
        share = torch.clamp(1 / self.num_batches_tracked, min=self.momentum)
        self.running_mean.lerp_(x_ND.mean(dim=0), share)
        self.running_var.lerp_((x_ND - self.running_mean).square().mean(dim=0), share)


class SmallAudioNet(AudioNetwork):
    """Log-mel [N, 1, 96, 64] -> embedding [N, 128]; trained with the segmenter."""

    input_kind = "log_mel"
    embedding_dim = 128
    log_offset = 0.01
    trainable = True

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels, num_bands = 1, NUM_MEL_BANDS
        for out_channels, stride_time, stride_mel in STAGES:
            stages.append(_stage(channels, out_channels, (stride_time, stride_mel)))
            channels, num_bands = out_channels, num_bands // stride_mel
        self.stages = nn.Sequential(*stages)
        self.mlp = nn.Sequential(
            nn.Linear(channels * num_bands, HIDDEN_WIDTH, bias=False),
            RunningNorm(HIDDEN_WIDTH),  # without it all sounds start almost alike
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN_WIDTH, self.embedding_dim),
            # Over sounds, not over the embedding: what all sounds have in common would else
            # drown what tells them apart.
            RunningNorm(self.embedding_dim),
        )

    def forward(self, x_N1FM: Tensor) -> AudioOutput:
        """Embed log-mel examples [N, 1, 96, 64]."""
        standardised_N1FM = (x_N1FM - LOG_MEL_MEAN) / LOG_MEL_STD
        maps_NCfm = self.stages(standardised_N1FM)
        return AudioOutput(embedding=self.mlp(maps_NCfm.mean(dim=2).flatten(1)))


class SmallClassifiedAudioNet(SmallAudioNet):
    """The same with AudioSet class scores [N, 527] of a random classifier, which nothing trains.

    For models that cannot do without scores (C3N): they say which sounds are alike, but no class
    means what its name says.
    """

    classifier: Tensor

    def __init__(self) -> None:
        super().__init__()
        scale = self.embedding_dim**-0.5
        classifier = scale * torch.randn(NUM_AUDIOSET_CLASSES, self.embedding_dim)
        self.register_buffer("classifier", classifier)

    def forward(self, x_N1FM: Tensor) -> AudioOutput:
        """Embed and classify log-mel examples [N, 1, 96, 64]."""
        heard = super().forward(x_N1FM)
        logits_NK = heard.embedding.detach().float() @ self.classifier.T
        return AudioOutput(embedding=heard.embedding, logits=logits_NK)
