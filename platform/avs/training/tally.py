"""What an epoch has added up so far: a run that is stopped in its middle goes on with the sums.

Each rank has losses of its own, clocks are the first one's. The sums of all ranks are saved, in
their order: added up again on as many ranks, they give the same floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["Tally"]


@dataclass(kw_only=True, slots=True)
class Tally:
    """Of epoch ``epoch`` (from 1): steps done and, on this rank, the sum of each loss over them.

    ``steps_s`` are the seconds that they took, ``stall_s`` those of them that waited for clips.
    """

    epoch: int
    step: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    steps_s: float = 0.0
    stall_s: float = 0.0

    def add(self, losses: Mapping[str, float], *, step_s: float, waited_s: float) -> None:
        """Take in a step."""
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value
        self.steps_s += step_s
        self.stall_s += waited_s
        self.step += 1

    def means(self, *, device: torch.device) -> dict[str, float]:
        """Each loss over the steps and the ranks; every rank must call it."""
        per_rank = self._per_rank(device)
        return {
            name: sum(sums[place] for sums in per_rank) / (len(per_rank) * self.step)
            for place, name in enumerate(sorted(self.losses))
        }

    def state(self, *, device: torch.device) -> dict[str, Any]:
        """For trainer_state.pt; every rank must call it."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "names": sorted(self.losses),
            "per_rank": self._per_rank(device),
            "steps_s": self.steps_s,
            "stall_s": self.stall_s,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, rank: int, world_size: int) -> Tally:
        """Go on from :meth:`state`, on this or on another number of ranks."""
        per_rank: list[list[float]] = state["per_rank"]
        if len(per_rank) != world_size:  # a rank's part of the mean over ranks, for others
            means = [sum(values) / len(per_rank) for values in zip(*per_rank, strict=True)]
            per_rank = [means] * world_size
        return cls(
            epoch=state["epoch"],
            step=state["step"],
            losses=dict(zip(state["names"], per_rank[rank], strict=True)),
            steps_s=state["steps_s"],
            stall_s=state["stall_s"],
        )

    def _per_rank(self, device: torch.device) -> list[list[float]]:
        own = [self.losses[name] for name in sorted(self.losses)]
        if not dist.is_initialized():
            return [own]
        mine = torch.tensor(own, dtype=torch.float64, device=device)
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine)
        return [part.tolist() for part in parts]
