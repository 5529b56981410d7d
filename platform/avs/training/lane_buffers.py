"""Running statistics by lane: a worker that takes several lanes keeps those of each apart.

Batch norm moves its statistics with every forward pass, and some layers use them while they learn.
Kept by lane they do not depend on how many workers live; the first lane's are what is averaged,
validated and saved, as with a worker for each. Trade-off: two copies of the buffers at each change
of lane, which a worker with one lane does not make.

Shapes: L lanes of a step, R of the busiest worker, N values of all buffers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from avs.models import AvsSystem

__all__ = ["NOWHERE", "LaneBuffers"]

NOWHERE = -1  # for a forward pass of which nothing is kept


class LaneBuffers:
    """The buffers of ``system`` that training changes, for the ``lanes`` of a rank.

    num_rounds: lanes of the rank that has the most. several: whether any rank has not just one.
    """

    def __init__(self, system: AvsSystem, *, lanes: range, num_rounds: int, several: bool) -> None:
        parameters = {name for name, _ in system.named_parameters()}
        # A frozen audio network keeps its buffers.
        left_out: tuple[str, ...] = () if system.audio.trainable else ("audio.",)
        self._buffers = {
            name: value
            for name, value in system.state_dict().items()
            if name not in parameters and not name.startswith(left_out)
        }
        self._lanes, self._num_rounds, self._several = lanes, num_rounds, several
        self._values: dict[int, dict[str, Tensor]] = {}
        self._lane: int | None = None

    def begin(self) -> None:
        """Let every lane start with what the networks hold now."""
        self._values = {lane: self._copy() for lane in self._lanes} if self._several else {}
        self._lane = None

    def enter(self, lane: int) -> None:
        """Let the networks have the buffers of a lane of this rank."""
        if lane == self._lane:
            return
        if self._lane is not None and self._lane != NOWHERE:
            self._values[self._lane] = self._copy()
        for name, value in self._values.get(lane, {}).items():
            self._buffers[name].copy_(value)
        self._lane = lane

    def enter_first(self) -> None:
        """Let the networks have what is averaged, validated and saved."""
        self.enter(self._lanes[0])

    def state(self) -> dict[str, Tensor]:
        """Each buffer of all lanes, [L, ...] on the CPU; every rank must call it."""
        if not self._buffers:
            return {}
        values = {**self._values, **({} if self._lane is None else {self._lane: self._copy()})}
        rows = [_flat(values[lane]) for lane in self._lanes]
        rows_RN = torch.stack(rows + [torch.zeros_like(rows[0])] * (self._num_rounds - len(rows)))
        parts = [rows_RN]
        if dist.is_initialized():
            parts = [torch.empty_like(rows_RN) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, rows_RN)
        all_LN = torch.stack(parts, dim=1).flatten(0, 1).cpu()  # lane = round x ranks + rank
        sizes = [value.numel() for value in self._buffers.values()]
        return {
            name: part_LM.reshape(len(part_LM), *value.shape).to(value.dtype)
            for (name, value), part_LM in zip(
                self._buffers.items(), torch.split(all_LN, sizes, dim=1), strict=True
            )
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`, on any number of ranks."""
        self._values = {
            lane: {name: value[lane] for name, value in state.items()} for lane in self._lanes
        }
        self._lane = None

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self._buffers.items()}


def _flat(values: Mapping[str, Tensor]) -> Tensor:
    """All values [N] in float64, which holds float32 and counts of batches exactly."""
    return torch.cat([value.flatten().double() for value in values.values()])
