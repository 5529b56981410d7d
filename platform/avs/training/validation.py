"""J and F of the validation split during training, shared over the ranks without padding.

Each rank scores its own clips; sums are added over ranks, so no clip is counted twice and an
uneven share does no harm. The AVSBench protocol with a test batch of one clip is used because
only then the mean does not depend on how clips are dealt.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist

from avs.metrics import BinaryMeter, SemanticMeter, SemanticSums, clip_metrics, semantic_sums
from avs.models import AvsSystem
from avs.training.batch import Batch, padding_flags

__all__ = ["validate"]


def validate(
    system: AvsSystem, batches: Iterable[Batch], *, num_classes: int, device: torch.device
) -> tuple[float, float] | tuple[None, None]:
    """Mean J and F (0..1) over the clips of all ranks; binary if ``num_classes`` is 1.

    None where no clip has ground truth.
    """
    system.eval()
    with torch.no_grad():
        if num_classes == 1:
            return _binary_score(system, batches, device)
        return _semantic_score(system, batches, num_classes, device)


def _binary_score(
    system: AvsSystem, batches: Iterable[Batch], device: torch.device
) -> tuple[float, float] | tuple[None, None]:
    total = torch.zeros(3, dtype=torch.float64)  # sum of J, sum of F, clips
    for batch in batches:
        logits = system(batch.frames, batch.heard or batch.sound, padding_flags(batch)).logits
        for clip_logits, masks, valid in zip(logits, batch.masks, batch.mask_valid, strict=True):
            scored = clip_metrics(clip_logits, masks, valid)
            if scored is None:
                continue
            meter = BinaryMeter(batch_size_clips=1)
            meter.add(scored.iou, scored.curve, scored.nonempty)
            result = meter.result()
            total += torch.tensor([result["j"], result["f"], 1.0], dtype=torch.float64)
    j, f, count = _sum_over_ranks(total, device).tolist()
    return (j / count, f / count) if count else (None, None)


def _semantic_score(
    system: AvsSystem, batches: Iterable[Batch], num_classes: int, device: torch.device
) -> tuple[float, float]:
    total = torch.zeros(3, num_classes, dtype=torch.float64)
    num_frames = torch.zeros(1, dtype=torch.float64)
    for batch in batches:
        logits = system(batch.frames, batch.heard or batch.sound, padding_flags(batch)).logits
        sums = semantic_sums(
            logits.flatten(0, 1), batch.masks.flatten(0, 1), num_classes=num_classes
        )
        total += torch.stack([sums.iou, sums.f, sums.count])
        num_frames += sums.num_frames
    total = _sum_over_ranks(total, device)
    meter = SemanticMeter(num_classes)
    frames = int(_sum_over_ranks(num_frames, device))
    meter.add_sums(SemanticSums(iou=total[0], f=total[1], count=total[2], num_frames=frames))
    result = meter.result()
    return float(result["miou"]), float(result["fscore"])


def _sum_over_ranks(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    if not dist.is_initialized():
        return value
    shared = value.to(device)
    dist.all_reduce(shared)
    return shared.cpu()
