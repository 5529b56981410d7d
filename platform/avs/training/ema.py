"""A moving average of the weights over the steps, which is validated and saved in their place.

It holds what training changes: trained parameters, and buffers such as batch-norm statistics. The
weights themselves go into trainer_state.pt, so that a resumed run goes on exactly. Trade-off: one
more copy of the trained weights in memory, on the device that computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from avs.models import AvsSystem

__all__ = ["WeightAverage"]

_WARM_UP = 10  # the first steps leave the random start behind soon


class WeightAverage:
    """Begins as a copy of ``system``; ``decay`` between 0 and 1.

    ``values`` holds the average by name in the state dict of the system, ``buffers`` the names
    among them that are not parameters.
    """

    def __init__(self, system: AvsSystem, *, decay: float) -> None:
        self.decay = decay
        trained = {name for name, p in system.named_parameters() if p.requires_grad}
        parameters = {name for name, _ in system.named_parameters()}
        # A frozen audio network keeps its buffers too.
        left_out: tuple[str, ...] = () if system.audio.trainable else ("audio.",)
        self.buffers = [
            name
            for name in system.state_dict()
            if name not in parameters and not name.startswith(left_out)
        ]
        self._names = [n for n in system.state_dict() if n in trained or n in self.buffers]
        self.values = {name: value.clone() for name, value in self.raw(system).items()}

    def raw(self, system: AvsSystem) -> dict[str, Tensor]:
        """The system's own values of what is averaged; they share its memory."""
        state = system.state_dict()
        return {name: state[name] for name in self._names}

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Take the average from a state dict."""
        for name, value in self.values.items():
            value.copy_(values[name])

    @torch.no_grad()
    def update(self, system: AvsSystem, *, num_steps: int) -> None:
        """Move towards the system after a step; ``num_steps`` are behind it in the run."""
        decay = min(self.decay, (1 + num_steps) / (_WARM_UP + num_steps))
        for name, new in self.raw(system).items():
            if new.is_floating_point():
                self.values[name].lerp_(new, 1.0 - decay)
            else:
                self.values[name].copy_(new)

    def state_dict(self, system: AvsSystem) -> dict[str, Tensor]:
        """The system's state dict with the averages in it."""
        return {**system.state_dict(), **self.values}

    @contextmanager
    def in_place(self, system: AvsSystem) -> Iterator[None]:
        """Let the system have the averages inside, its own weights after."""
        raw = {name: value.clone() for name, value in self.raw(system).items()}
        system.load_state_dict(self.values, strict=False)
        try:
            yield
        finally:
            system.load_state_dict(raw, strict=False)
