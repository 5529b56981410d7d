"""VGGish (Hershey et al., CNN architectures for large-scale audio classification, ICASSP 2017),
plain as in AVSBench and with the AudioSet classifier of C3N.

Parameter names are those of the PyTorch port that AVSBench uses (vggish-10086976.pth), so its file
loads as it is. The embedding that segmenters get is the plain one in both, as published: PCA and
8-bit quantisation only lead to the classifier, the feature-level attention network of Kong et al.
(Weakly labelled AudioSet tagging with attention neural networks, TASLP 2019), which was trained on
such embeddings.

Shapes: N examples, F = 96 frames of 10 ms, M = 64 mel bands, C channels, D = 128.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from avs.models.audioset import NUM_AUDIOSET_CLASSES
from avs.models.frozen import FrozenAudioNetwork
from avs.models.types import AudioOutput
from avs.models.weights import rename_all

__all__ = [
    "VGGISH_FILES",
    "VGGISH_PARTS",
    "VGGISH_WHERE",
    "EmbeddingClassifier",
    "PcaQuantiser",
    "VGGish",
    "VGGishClassified",
]

VGGISH_FILES = ("vggish-10086976.pth", "vggish_pca_params-970ea276.pth", "md_50000_iters.pth")
# How the names begin that each of the files holds, as they are here.
VGGISH_PARTS = ("features.", "pproc.", "classifier.")
VGGISH_WHERE = "https://github.com/harritaylor/torchvggish/releases (vggish-10086976.pth)"
POOL = 0
LAYERS = (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL)
EMBEDDING_DIM = 128
QUANTISED_RANGE = (-2.0, 2.0)
# Names of C3N's audio extractor and of the separate files -> names here.
RENAMES = (
    (r"^audio_backbone\.", ""),
    (r"^pca_", "pproc.pca_"),
    (r"^classification_model\.", "classifier."),
    (r"^(emb|attention|bn_attention|fc_final)\.", r"classifier.\1."),
)


class VGGish(FrozenAudioNetwork):
    """Log-mel [N, 1, 96, 64] -> non-negative embedding [N, 128]."""

    input_kind = "log_mel"
    embedding_dim = EMBEDDING_DIM
    log_offset = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.features = _features()
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 6 * 4, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, EMBEDDING_DIM),
            nn.ReLU(inplace=True),
        )
        self.freeze()

    def describe(self, x_N1FM: Tensor) -> AudioOutput:
        """Embed log-mel examples [N, 1, 96, 64]."""
        return AudioOutput(embedding=self.embed(x_N1FM))

    def embed(self, x_N1FM: Tensor) -> Tensor:
        """Plain embedding [N, 128]."""
        maps_NCFM = self.features(x_N1FM)
        flat_ND = maps_NCFM.permute(0, 2, 3, 1).flatten(1)  # TensorFlow's order of axes
        embedding_ND: Tensor = self.embeddings(flat_ND)
        return embedding_ND

    @classmethod
    def own_names(cls, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors here; the PCA, off in AVSBench, is left out."""
        named = rename_all(super().own_names(checkpoint), _name_here)
        return {name: value for name, value in named.items() if not name.startswith("pproc.")}


class VGGishClassified(VGGish):
    """Log-mel [N, 1, 96, 64] -> plain embedding [N, 128] and AudioSet logits [N, 527] (C3N)."""

    def __init__(self) -> None:
        super().__init__()
        self.pproc = PcaQuantiser()
        self.classifier = EmbeddingClassifier()
        self.freeze()

    def describe(self, x_N1FM: Tensor) -> AudioOutput:
        """Embed and classify log-mel examples [N, 1, 96, 64]."""
        embedding_ND = self.embed(x_N1FM)
        bytes_ND = self.pproc(embedding_ND)
        return AudioOutput(embedding=embedding_ND, logits=self.classifier((bytes_ND - 128) / 128))

    @classmethod
    def own_names(cls, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of C3N's audio extractor, or of the three files it was put together from."""
        named = rename_all(FrozenAudioNetwork.own_names(checkpoint), _name_here)
        means = "pproc.pca_means"  # [128] in the published file
        return {n: v.reshape(-1, 1) if n == means else v for n, v in named.items()}


class PcaQuantiser(nn.Module):
    """Whitened and quantised embedding as in the AudioSet release: whole numbers 0..255."""

    def __init__(self) -> None:
        super().__init__()
        self.pca_eigen_vectors = nn.Parameter(torch.eye(EMBEDDING_DIM))
        self.pca_means = nn.Parameter(torch.zeros(EMBEDDING_DIM, 1))

    def forward(self, x_ND: Tensor) -> Tensor:
        """Quantise plain embeddings [N, 128]; rows of the matrix are eigenvectors."""
        low, high = QUANTISED_RANGE
        whitened_ND = (x_ND - self.pca_means.T) @ self.pca_eigen_vectors.T
        return torch.round((whitened_ND.clamp(low, high) - low) * (255.0 / (high - low)))


class EmbeddingClassifier(nn.Module):
    """Embedding [N, 128] in [-1, 1) -> AudioSet logits [N, 527], before the sigmoid.

    Named as the published file (FeatureLevelSingleAttention), whose dropout does nothing in a
    frozen network.
    """

    def __init__(self, width: int = 1024) -> None:
        super().__init__()
        self.emb = _EmbeddingLayers(width)
        self.attention = nn.ModuleDict(
            {name: nn.Conv2d(width, width, kernel_size=1) for name in ("att", "cla")}
        )
        self.bn_attention = nn.BatchNorm1d(width)
        self.fc_final = nn.Linear(width, NUM_AUDIOSET_CLASSES)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Classify each example by itself, as C3N does."""
        hidden_NC11 = self.emb(x_ND[..., None, None])
        # Attention normalises sigmoid(att) over the examples of a clip; over one it is exactly 1.
        pooled_NC = self.attention["cla"](hidden_NC11).flatten(1)
        logits: Tensor = self.fc_final(torch.relu(self.bn_attention(pooled_NC)))
        return logits


class _EmbeddingLayers(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(EMBEDDING_DIM)
        self.conv1 = nn.Conv2d(EMBEDDING_DIM, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    def forward(self, x_ND11: Tensor) -> Tensor:
        x = self.bn0(x_ND11)
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return torch.relu(self.bn3(self.conv3(x)))


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


def _name_here(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
