"""AVSC's objective: the objects of each frame, the categories of the sound, the sounding map.

Set loss per frame, with targets made of the masks. Semantic masks give an object for each class.
Binary masks of a clip with a single category give one object of it; a clip with several, or with
none although something sounds, does not say which pixels are which, so its frames teach the
objects nothing by themselves and reach them through the map alone (a mask over two objects would
teach queries to join what happens to sound together). Nor does a clip with a sound from elsewhere,
whose empty masks do not mean that nothing is there. Without category names all that sounds is
one object of the class "sounding object". Everything here is reconstructed but the cross entropy
of the map and the existence of a silent-object-aware objective.

Shapes: B clips, T frames, K categories, N real frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.models.avsc_silent import silent_weight
from avs.models.masked_decoder import SetPrediction
from avs.models.matching import Match, Targets, class_targets
from avs.models.pixel_losses import LossConfig, LossKind, compute_loss
from avs.models.set_losses import SetLossConfig, count_per_rank, set_losses
from avs.models.types import ModelOutput, Truth
from avs.schema import IGNORE_INDEX

__all__ = ["ObjectiveOptions", "avsc_objective", "frame_targets", "hearing_loss"]

_NOT_HEARD = -100.0  # a logit whose sigmoid is 0 in float32


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveOptions:
    """named: categories of the truth are used. sound_weight: of the loss of the sound's categories
    beside the losses of the map, which :class:`LossConfig` weighs."""

    set_losses: SetLossConfig
    sound_weight: float
    named: bool


def avsc_objective(
    output: ModelOutput, truth: Truth, *, config: LossConfig, options: ObjectiveOptions
) -> dict[str, Tensor]:
    """Total under "loss" (with gradient) and its unweighted parts (detached).

    A teacher in ``output.objects`` makes the set loss silent-object-aware. Every rank must call it.
    """
    objects = output.objects
    assert objects is not None, "the objective needs the objects of the forward pass"
    targets = frame_targets(truth, kind=config.kind, named=options.named)
    if objects.chosen is not None:
        chosen_N = objects.chosen.tolist()
        targets = [target for target, own in zip(targets, chosen_N, strict=True) if own]
    teacher = objects.teacher

    def unmatched_weight(prediction: SetPrediction, _: Sequence[Match]) -> Tensor:
        assert teacher is not None, "asked for without a teacher"
        return silent_weight(prediction, targets=targets, teacher=teacher)

    sets = set_losses(
        objects.predictions,
        targets,
        config=options.set_losses,
        generator=torch.Generator().manual_seed(truth.seed),
        unmatched_weight=None if teacher is None else unmatched_weight,
    )
    sounding = compute_loss(output, truth.masks, truth.mask_valid, config=config)
    heard = hearing_loss(objects.sound_logits, truth, named=options.named)
    loss = sounding.pop("loss") + sets.loss + options.sound_weight * heard
    return {"loss": loss, "sound": heard.detach()} | sets.parts | sounding


def frame_targets(truth: Truth, *, kind: LossKind, named: bool) -> list[Targets | None]:
    """The objects of each of the B * T frames; None = teaches the objects nothing.

    named: the clips' categories tell what a binary mask shows; False = one class for all.
    """
    valid_BT = truth.mask_valid
    if truth.off_screen is not None:
        valid_BT = valid_BT & ~truth.off_screen.unsqueeze(1)
    valid_N = valid_BT.flatten()
    if kind is LossKind.SEMANTIC:
        return class_targets(truth.masks.flatten(0, 1), valid_N)
    shown_BTHW = (truth.masks > 0).to(torch.uint8)  # as one class
    targets = class_targets(shown_BTHW.flatten(0, 1), valid_N)
    if not named:
        return targets
    assert truth.categories is not None, "a model with category names needs the clips' categories"
    classes = [own.nonzero().flatten() for own in truth.categories]
    num_frames = truth.masks.shape[1]
    return [_named(target, classes[n // num_frames]) for n, target in enumerate(targets)]


def _named(target: Targets | None, classes: Tensor) -> Targets | None:
    """The one object under the one category of its clip."""
    if target is None or not len(target.classes):
        return target
    if len(classes) != 1:
        return None
    return Targets(classes=classes, masks=target.masks, counted=target.counted)


def hearing_loss(sound_logits_BTK: Tensor, truth: Truth, *, named: bool) -> Tensor:
    """Binary cross entropy of what is heard in a clip, summed over categories, mean over clips.

    A clip's score is that of its surest real frame (multiple instances: labels are per clip). A
    clip that names nothing although something sounds says nothing about the categories.
    """
    shown_BT = ((truth.masks > 0) & (truth.masks != IGNORE_INDEX)).flatten(2).any(dim=2)
    shown_B, checked_B = (shown_BT & truth.mask_valid).any(dim=1), truth.mask_valid.any(dim=1)
    if named:
        assert truth.categories is not None, "a model with category names needs categories"
        heard_BK = truth.categories
        known_B = heard_BK.any(dim=1) | (checked_B & ~shown_B)
    else:
        heard_BK, known_B = shown_B.unsqueeze(1), checked_B
    logits_BTK = sound_logits_BTK.float()
    if truth.frame_valid is not None:
        logits_BTK = logits_BTK.masked_fill(~truth.frame_valid.unsqueeze(2), _NOT_HEARD)
    entropy_BK = F.binary_cross_entropy_with_logits(
        logits_BTK.amax(dim=1), heard_BK.float(), reduction="none"
    )
    known_B = known_B.float()
    return (entropy_BK.sum(dim=1) * known_B).sum() / count_per_rank(known_B.sum())
