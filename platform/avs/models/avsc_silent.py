"""The silent-object-aware part of AVSC's objective: who is let off the "no object" loss.

Only sounding objects are annotated, so a plain set loss teaches that a visible silent object is no
object; published is that the objective does not. Reconstructed, all of how: a query that found no
object in the ground truth, is confident, lies apart from what sounds, and agrees with a confident
mask of a teacher may stand for a silent object, and its "no object" loss is switched off. The
teacher is a moving average of the object network over the steps; it looks at the student's maps of
the backbone, so it costs one forward of the decoders and no second backbone. It is no submodule:
never trained, never in the weights, kept in the state that training goes on from. Its weights
follow from the student's, so every rank has the same.

Shapes: N frames, Q queries, R masks, h x w pixels, S = h*w.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.models.masked_decoder import SetPrediction
from avs.models.matching import Targets
from avs.models.object_network import ObjectNetwork

__all__ = ["Teacher", "mask_overlap", "silent_weight"]

# A query is confident where it is likelier an object than not; two masks are one object, and a mask
# lies apart from the ground truth, on either side of this overlap.
CONFIDENT = 0.5
SAME_OBJECT = 0.5
_COUNT = "num_steps"
_WARM_UP = 10


class Teacher:
    """A moving average of an object network, made when it is first asked."""

    def __init__(self, *, decay: float) -> None:
        self.decay = decay
        self.network: ObjectNetwork | None = None
        self.num_steps = 0

    @torch.no_grad()
    def look(self, student: ObjectNetwork, maps: Sequence[Tensor]) -> SetPrediction:
        """What the teacher sees in the student's backbone maps, after its last layer."""
        network = self._network(student)
        predictions: list[SetPrediction] = network(maps, every_layer=False)
        return predictions[-1]

    @torch.no_grad()
    def follow(self, student: ObjectNetwork) -> None:
        """Move towards the student: by 1 - decay, and faster in the first steps."""
        network = self._network(student)
        decay = min(self.decay, (1 + self.num_steps) / (_WARM_UP + self.num_steps))
        for own, new in zip(network.parameters(), student.parameters(), strict=True):
            own.lerp_(new, 1.0 - decay)
        self.num_steps += 1

    def state(self) -> dict[str, Tensor]:
        """Copies on the CPU; empty where it was never asked."""
        if self.network is None:
            return {}
        weights = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
        return weights | {_COUNT: torch.tensor(self.num_steps)}

    def load_state(self, student: ObjectNetwork, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`, on the student's device."""
        if state:
            self.num_steps = int(state[_COUNT])
            weights = {name: value for name, value in state.items() if name != _COUNT}
            self._network(student).load_state_dict(weights)

    def _network(self, student: ObjectNetwork) -> ObjectNetwork:
        if self.network is None:
            self.network = copy.deepcopy(student).requires_grad_(False)
        return self.network


@torch.no_grad()
def silent_weight(
    prediction: SetPrediction, *, targets: Sequence[Targets | None], teacher: SetPrediction
) -> Tensor:
    """Factor of the "no object" loss [N, Q]: 0 for a query that may stand for a silent object.

    Set losses use it for unmatched queries only, so it does not matter what matched ones get.
    """
    assert prediction.class_logits is not None, "silent objects need classes"
    assert prediction.masks is not None, "silent objects need masks"
    assert teacher.class_logits is not None, "a teacher has classes"
    assert teacher.masks is not None, "a teacher has masks"
    inside_NQhw = prediction.masks > 0.0
    size = (int(inside_NQhw.shape[-2]), int(inside_NQhw.shape[-1]))
    sounding_N1hw = torch.stack([_union(target, size, inside_NQhw) for target in targets])
    apart_NQ = mask_overlap(inside_NQhw, sounding_N1hw)[..., 0] < SAME_OBJECT
    agreement_NQR = mask_overlap(inside_NQhw, teacher.masks > 0.0)
    agreed_NQR = (agreement_NQR > SAME_OBJECT) & _confident(teacher.class_logits).unsqueeze(1)
    silent_NQ = _confident(prediction.class_logits) & apart_NQ & agreed_NQR.any(dim=2)
    return (~silent_NQ).float()


def mask_overlap(masks_NQhw: Tensor, others_NRhw: Tensor) -> Tensor:
    """Intersection over union of bool masks [N, Q, h, w] with [N, R, h, w]: [N, Q, R]."""
    masks_NQS, others_NRS = masks_NQhw.flatten(2).float(), others_NRhw.flatten(2).float()
    common_NQR = masks_NQS @ others_NRS.transpose(1, 2)
    sizes_NQR = masks_NQS.sum(dim=2).unsqueeze(2) + others_NRS.sum(dim=2).unsqueeze(1)
    return common_NQR / (sizes_NQR - common_NQR).clamp(min=1.0)


def _confident(class_logits_NQK: Tensor) -> Tensor:
    return class_logits_NQK.float().softmax(dim=2)[..., -1] < 1.0 - CONFIDENT


def _union(target: Targets | None, size: tuple[int, int], like: Tensor) -> Tensor:
    """What sounds in a frame, at the size of the masks: bool [1, h, w]."""
    if target is None or not len(target.classes):
        return torch.zeros(1, *size, dtype=torch.bool, device=like.device)
    any_1HW = target.masks.any(dim=0, keepdim=True).float()
    return F.adaptive_avg_pool2d(any_1HW, size) > 0.5
