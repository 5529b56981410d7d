"""TPAVI as published, written straightforwardly: what our form is measured against.

The same network with the same parameters (ours load into it), but every TPAVI block builds its
N x N matrix over the pixels of all frames, maps are plain NCHW and every resized map is made
(Zhou et al., Audio-Visual Segmentation, ECCV 2022). The backbone is the very module of our model,
so what is compared is everything behind it. Not for use: memory grows with the square of frames
and pixels.

Shapes: B clips, T frames, M = B*T, C channels, c inner channels, h x w pixels, N = T*h*w, D audio
width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.models.c3n import C3nSegmenter
from avs.models.onednn_linear import use_torch
from avs.models.tpavi import TpaviSegmenter
from avs.models.types import ModelInput, ModelOutput

__all__ = [
    "PublishedBlock",
    "PublishedDecoder",
    "PublishedFusion",
    "PublishedNeck",
    "PublishedTpavi",
    "load_ours",
    "pairwise_bytes",
]

_DILATIONS = (3, 6, 12, 18)


class PublishedNeck(nn.Module):
    """Four parallel dilated 3x3 convolutions, summed."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, width, 3, padding=d, dilation=d) for d in _DILATIONS
        )

    def forward(self, x_MChw: Tensor) -> Tensor:
        """[M, C_in, h, w] -> [M, width, h, w]."""
        out_MChw: Tensor = self.branches[0](x_MChw)
        for branch in self.branches[1:]:
            out_MChw = out_MChw + branch(x_MChw)
        return out_MChw


class PublishedBlock(nn.Module):
    """A TPAVI block: every pixel of every frame attends to every other one."""

    def __init__(self, width: int, *, audio_dim: int, audio_bias: bool) -> None:
        super().__init__()
        inner = width // 2
        self.theta = nn.Conv3d(width, inner, 1)
        self.phi = nn.Conv3d(width, inner, 1)
        self.g = nn.Conv3d(width, inner, 1)
        self.w_z = nn.Conv3d(inner, width, 1)
        self.bn = nn.BatchNorm3d(width)
        self.norm = nn.LayerNorm(width)
        self.align = nn.Linear(audio_dim, width, bias=audio_bias)

    def forward(self, x_BCThw: Tensor, audio_BTD: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Fused map [B, C, T, h, w] and projected audio [B, T, C]."""
        audio_BTC, keys_BCThw = None, x_BCThw
        if audio_BTD is not None:
            audio_BTC = self.align(audio_BTD)
            keys_BCThw = audio_BTC.transpose(1, 2)[..., None, None].expand_as(x_BCThw).contiguous()
        theta_BNc = self.theta(x_BCThw).flatten(2).transpose(1, 2)
        g_BNc = self.g(x_BCThw).flatten(2).transpose(1, 2)
        attention_BNN = theta_BNc @ self.phi(keys_BCThw).flatten(2)
        attention_BNN = attention_BNN / attention_BNN.shape[-1]
        y_BcN = (attention_BNN @ g_BNc).transpose(1, 2).contiguous()
        y_BcThw = y_BcN.reshape(len(x_BCThw), -1, *x_BCThw.shape[2:])
        z_BCThw = x_BCThw + self.bn(self.w_z(y_BcThw))
        return self.norm(z_BCThw.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3), audio_BTC


class _ResidualUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_MChw: Tensor) -> Tensor:
        active_MChw = x_MChw.relu()
        residual_MChw: Tensor = self.conv2(self.conv1(active_MChw).relu())
        return residual_MChw + active_MChw


class _FusionStep(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.skip_unit = _ResidualUnit(width)
        self.out_unit = _ResidualUnit(width)

    def forward(self, top_MChw: Tensor, skip_MChw: Tensor | None) -> Tensor:
        if skip_MChw is not None:
            top_MChw = top_MChw + self.skip_unit(skip_MChw)
        out_MChw = self.out_unit(top_MChw)
        return F.interpolate(out_MChw, scale_factor=2, mode="bilinear", align_corners=True)


class PublishedDecoder(nn.Module):
    """Maps at strides 4, 8, 16, 32 of an image whose sides 32 divides -> logits at its size."""

    def __init__(self, width: int, *, num_classes: int) -> None:
        super().__init__()
        narrow = max(width // 8, 8)
        self.steps = nn.ModuleList(_FusionStep(width) for _ in range(4))
        self.head = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(width // 2, narrow, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, num_classes, 1),
        )

    def forward(self, maps: Sequence[Tensor], flag_M111: Tensor | None) -> Tensor:
        """maps: four [M, C, h, w], finest first; flag: 1 for real frames, 0 for padding."""
        out_MChw = _flagged(self.steps[3](maps[3], None), flag_M111)
        for stage in (2, 1, 0):
            out_MChw = _flagged(self.steps[stage](out_MChw, maps[stage]), flag_M111)
        return _flagged(self.head(out_MChw), flag_M111)


class PublishedFusion(nn.Module):
    """Behind the necks: a TPAVI block per stage, the decoder. Shared by TPAVI and C3N."""

    def __init__(self, ours: TpaviSegmenter | C3nSegmenter, *, use_audio: bool) -> None:
        super().__init__()
        options = ours.options
        self.temporal_group, self.use_audio = options.temporal_group, use_audio
        self.fusions = nn.ModuleDict(
            {
                stage: PublishedBlock(
                    options.fusion_width,
                    audio_dim=options.audio_dim,
                    audio_bias=options.audio_bias,
                )
                for stage in ours.fusions
            }
        )
        num_classes = ours.state_dict()["decoder.head.4.bias"].numel()
        self.decoder = PublishedDecoder(options.fusion_width, num_classes=num_classes)

    def segment(self, necks: Iterable[Tensor], x: ModelInput) -> ModelOutput:
        """necks: four [M, C, h, w], finest first."""
        batch = x.frames.shape[:2]
        flag_M111 = None
        if x.frame_valid is not None:
            flag_M111 = x.frame_valid.flatten().to(x.frames.dtype).view(-1, 1, 1, 1)
        maps: list[Tensor] = []
        projected: list[Tensor | None] = []
        for stage, neck_MChw in enumerate(necks, start=1):
            fused_MChw = _flagged(neck_MChw, flag_M111)
            audio_BTC = None
            if str(stage) in self.fusions:
                fused_MChw, audio_BTC = self._fuse(stage, fused_MChw, x.audio_embedding)
                fused_MChw = _flagged(fused_MChw, flag_M111)
            maps.append(fused_MChw.relu())
            projected.append(audio_BTC)
        logits_MKHW = self.decoder(maps, flag_M111)
        return ModelOutput(
            logits=logits_MKHW.reshape(*batch, *logits_MKHW.shape[1:]),
            fused_maps=tuple(x_MChw.reshape(*batch, *x_MChw.shape[1:]) for x_MChw in maps),
            projected_audio=tuple(projected),
        )

    def _fuse(self, stage: int, x_MChw: Tensor, audio_BTD: Tensor) -> tuple[Tensor, Tensor | None]:
        group = self.temporal_group or audio_BTD.shape[1]
        x_GCghw = x_MChw.reshape(-1, group, *x_MChw.shape[1:]).transpose(1, 2).contiguous()
        audio_GgD = audio_BTD.reshape(-1, group, audio_BTD.shape[-1]) if self.use_audio else None
        fused_GCghw, audio_GgC = self.fusions[str(stage)](x_GCghw, audio_GgD)
        audio_BTC = None if audio_GgC is None else audio_GgC.reshape(*audio_BTD.shape[:2], -1)
        return fused_GCghw.transpose(1, 2).flatten(0, 1), audio_BTC


class PublishedTpavi(PublishedFusion):
    """The published form of ``ours``: takes over its backbone, copies its other parameters."""

    def __init__(self, ours: TpaviSegmenter) -> None:
        super().__init__(ours, use_audio=ours.options.use_audio)
        width = ours.options.fusion_width
        self.backbone = ours.backbone
        use_torch(self.backbone)
        self.necks = nn.ModuleList(PublishedNeck(c, width) for c in ours.backbone.channels)
        load_ours(self, ours.state_dict())
        self.train(ours.training)

    def forward(self, x: ModelInput) -> ModelOutput:
        """As :class:`avs.models.tpavi.TpaviSegmenter`, for sides that 32 divides."""
        maps = self.backbone(x.frames.flatten(0, 1))
        return self.segment((neck(m) for neck, m in zip(self.necks, maps, strict=True)), x)


def _flagged(x_MChw: Tensor, flag_M111: Tensor | None) -> Tensor:
    return x_MChw if flag_M111 is None else x_MChw * flag_M111


def load_ours(published: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load parameters of our form, strictly; a 1x1 kernel becomes 1x1x1."""
    shapes = {name: value.shape for name, value in published.state_dict().items()}
    published.load_state_dict(
        {name: value.reshape(shapes.get(name, value.shape)) for name, value in state.items()}
    )


def pairwise_bytes(*, num_frames: int, height_px: int, width_px: int, training: bool) -> int:
    """What the N x N matrices of stride 4 need at their peak for one clip in float32.

    Forward holds the scores before and after the division by N; a training step a gradient too.
    """
    num_pixels = num_frames * (height_px // 4) * (width_px // 4)
    return (3 if training else 2) * 4 * num_pixels**2
