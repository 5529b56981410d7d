"""Training losses of the AVSBench baseline and soft Dice, as plain functions of a model's output.

One masked mean serves every data set: S4 trains on the first frame because only that frame has
ground truth, MS3 on all frames, AVSS on the flagged ones. The published mapping term sums over
frames and channels without normalisation, so it grows with the batch; kept so that published
weights stay comparable. A batch without any ground truth gives 0 with a graph, so that a
distributed step still has gradients to reduce. Means are over the frames of all ranks, so it does
not matter on which of them the labelled frames are; every rank must call these in every step.

Shapes: B clips, T frames, H x W pixels, K classes, C channels, N = B*T, V valid frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError
from avs.models.set_losses import count_per_rank
from avs.models.types import ModelOutput

__all__ = [
    "IGNORE_INDEX",
    "DiceForm",
    "LossConfig",
    "LossKind",
    "bce_first_frame",
    "bce_masked",
    "compute_loss",
    "cross_entropy_masked",
    "mapping_loss_binary",
    "mapping_loss_semantic",
    "soft_dice",
]

IGNORE_INDEX = 255


class LossKind(Enum):
    """binary: sounding or not (K = 1). semantic: a class per pixel, 0 = background."""

    BINARY = "binary"
    SEMANTIC = "semantic"


class DiceForm(Enum):
    """standard: 1 - (2I + 1) / (P + G + 1). c3n, as coded there: 1 - 2 (I + 1) / (P + G + 1)."""

    STANDARD = "standard"
    C3N = "c3n"


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """Weights of the parts; a weight of 0 leaves the part out.

    bce_weight: binary or class cross entropy. dice_weight: soft Dice, binary only.
    mapping_weight: audio-visual mapping term (0.5 in MS3 and AVSS, 0 in S4).
    """

    kind: LossKind = LossKind.BINARY
    mapping_weight: float = 0.0
    dice_weight: float = 0.0
    bce_weight: float = 1.0
    dice_form: DiceForm = DiceForm.STANDARD

    def __post_init__(self) -> None:
        for key in ("mapping_weight", "dice_weight", "bce_weight"):
            if not getattr(self, key) >= 0.0:
                raise ConfigError(f"loss.{key}={getattr(self, key)}: 0 or more")
        if self.bce_weight == self.dice_weight == 0.0:
            raise ConfigError(
                "loss.bce_weight and loss.dice_weight are both 0: nothing to train on"
            )
        if self.kind is LossKind.SEMANTIC and self.dice_weight:
            raise ConfigError(
                f"loss.dice_weight={self.dice_weight}: only for binary masks; give "
                "loss.dice_weight=0 for semantic classes"
            )


def compute_loss(
    output: ModelOutput, masks: Tensor, mask_valid: Tensor, *, config: LossConfig
) -> dict[str, Tensor]:
    """Total under "loss" (with gradient) and its unweighted parts (detached).

    masks: [B, T, H, W] uint8 class index, 0 = background; 255 = ignored, if semantic.
    mask_valid: [B, T] bool, False = no ground truth.
    Logits of half precision (autocast) are taken as float32: sums over pixels need it.
    """
    if masks.shape[-2:] != output.logits.shape[-2:]:
        raise ValueError(f"masks {tuple(masks.shape)} do not fit {tuple(output.logits.shape)}")
    if output.logits.dtype in (torch.bfloat16, torch.float16):
        output = replace(output, logits=output.logits.float())
    if config.kind is LossKind.BINARY:
        parts = _binary_parts(output, masks, mask_valid, config=config)
    else:
        parts = _semantic_parts(output, masks, mask_valid, config=config)
    total = torch.stack([weight * value for weight, value in parts.values()]).sum()
    return {"loss": total} | {name: value.detach() for name, (_, value) in parts.items()}


def bce_first_frame(logits: Tensor, masks: Tensor) -> Tensor:
    """S4: mean binary cross entropy on frame 0. logits: [B, T, 1, H, W]; masks: [B, T, H, W]."""
    target_BHW = (masks[:, 0] > 0).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits[:, 0, 0], target_BHW)


def bce_masked(logits: Tensor, masks: Tensor, mask_valid: Tensor) -> Tensor:
    """Mean binary cross entropy over frames with ground truth; 0 when there are none.

    logits: [B, T, 1, H, W]; masks: [B, T, H, W], > 0 is sounding; mask_valid: [B, T] bool.
    """
    target_BTHW = (masks > 0).to(logits.dtype)
    loss_BTHW = F.binary_cross_entropy_with_logits(logits[:, :, 0], target_BTHW, reduction="none")
    return _mean_over_valid(loss_BTHW.mean(dim=(2, 3)), mask_valid)


def soft_dice(
    logits: Tensor, masks: Tensor, mask_valid: Tensor, *, form: DiceForm = DiceForm.STANDARD
) -> Tensor:
    """Soft Dice per frame, mean over frames with ground truth; shapes as in :func:`bce_masked`."""
    prob_BTHW = logits[:, :, 0].sigmoid()
    target_BTHW = (masks > 0).to(prob_BTHW.dtype)
    overlap_BT = (prob_BTHW * target_BTHW).sum(dim=(2, 3))
    total_BT = prob_BTHW.sum(dim=(2, 3)) + target_BTHW.sum(dim=(2, 3))
    smooth = 2.0 if form is DiceForm.C3N else 1.0
    return _mean_over_valid(1.0 - (2.0 * overlap_BT + smooth) / (total_BT + 1.0), mask_valid)


def cross_entropy_masked(logits: Tensor, masks: Tensor, mask_valid: Tensor) -> Tensor:
    """AVSS: cross entropy, mean per frame, mean over frames with ground truth.

    logits: [B, T, K, H, W]; masks: [B, T, H, W] class index, 255 = ignored; mask_valid: [B, T].
    """
    target_NHW = masks.flatten(0, 1).long()
    loss_NHW = F.cross_entropy(
        logits.flatten(0, 1), target_NHW, ignore_index=IGNORE_INDEX, reduction="none"
    )
    num_pixels_N = (target_NHW != IGNORE_INDEX).sum(dim=(1, 2)).clamp(min=1)
    return _mean_over_valid(loss_NHW.sum(dim=(1, 2)) / num_pixels_N, mask_valid.flatten())


def mapping_loss_binary(output: ModelOutput, mask_valid: Tensor) -> Tensor:
    """MS3: KL(softmax(a) || softmax(v)), summed over frames and channels, mean over stages.

    a: projected audio of a stage; v: mean of its fused map weighted by the predicted mask.
    """
    terms = []
    for fused_BTChw, audio_BTC in _fused_stages(output):
        pooled_N1hw = _pool_to(fused_BTChw, output.logits.flatten(0, 1))
        kl_N = _mapping_kl(fused_BTChw, audio_BTC, pooled_N1hw.sigmoid())
        terms.append((kl_N * mask_valid.flatten()).sum())
    return torch.stack(terms).mean() * _num_ranks()  # DDP takes the mean: the sum over all ranks


def mapping_loss_semantic(output: ModelOutput, mask_valid: Tensor) -> Tensor:
    """AVSS: as :func:`mapping_loss_binary` with the hard foreground as mask, mean over frames."""
    foreground_N1HW = (output.logits.flatten(0, 1).argmax(dim=1, keepdim=True) != 0).float()
    terms = []
    for fused_BTChw, audio_BTC in _fused_stages(output):
        kl_N = _mapping_kl(fused_BTChw, audio_BTC, _pool_to(fused_BTChw, foreground_N1HW))
        terms.append(_mean_over_valid(kl_N, mask_valid.flatten()))
    return torch.stack(terms).mean()


def _binary_parts(
    output: ModelOutput, masks: Tensor, mask_valid: Tensor, *, config: LossConfig
) -> dict[str, tuple[float, Tensor]]:
    logits = output.logits
    parts: dict[str, tuple[float, Tensor]] = {}
    if config.bce_weight:
        parts["bce"] = (config.bce_weight, bce_masked(logits, masks, mask_valid))
    if config.dice_weight:
        dice = soft_dice(logits, masks, mask_valid, form=config.dice_form)
        parts["dice"] = (config.dice_weight, dice)
    if config.mapping_weight:
        parts["mapping"] = (config.mapping_weight, mapping_loss_binary(output, mask_valid))
    return parts


def _semantic_parts(
    output: ModelOutput, masks: Tensor, mask_valid: Tensor, *, config: LossConfig
) -> dict[str, tuple[float, Tensor]]:
    entropy = cross_entropy_masked(output.logits, masks, mask_valid)
    parts = {"cross_entropy": (config.bce_weight, entropy)}
    if config.mapping_weight:
        parts["mapping"] = (config.mapping_weight, mapping_loss_semantic(output, mask_valid))
    return parts


def _pool_to(map_BTChw: Tensor, x_NKHW: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x_NKHW, (map_BTChw.shape[-2], map_BTChw.shape[-1]))


def _mapping_kl(fused_BTChw: Tensor, audio_BTC: Tensor, mask_N1hw: Tensor) -> Tensor:
    """KL per frame [N], summed over channels, in float32 also under autocast.

    Of two logarithms: where softmax(a) is 0 in float32, its own gradient would not be a number.
    """
    visual_NC = (fused_BTChw.flatten(0, 1) * mask_N1hw).mean(dim=(2, 3)).float()
    log_audio_NC = audio_BTC.flatten(0, 1).float().log_softmax(dim=1)
    kl_NC = F.kl_div(visual_NC.log_softmax(dim=1), log_audio_NC, reduction="none", log_target=True)
    return kl_NC.sum(dim=1)


def _fused_stages(output: ModelOutput) -> list[tuple[Tensor, Tensor]]:
    stages = [
        (fused, audio)
        for fused, audio in zip(output.fused_maps or (), output.projected_audio or (), strict=True)
        if audio is not None
    ]
    if not stages:
        raise ConfigError(
            "loss.mapping_weight is above 0, and this model has no maps that sound was fused into "
            "(tpavi has): give loss.mapping_weight=0"
        )
    return stages


def _mean_over_valid(value: Tensor, valid: Tensor) -> Tensor:
    """Mean of the valid entries of all ranks, 0 with a graph when there are none."""
    flag = valid.to(value.dtype)
    return (value * flag).sum() / count_per_rank(flag.sum())


def _num_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
