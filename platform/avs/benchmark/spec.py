"""What one child process of stage ``models`` does, as it travels through the command line.

Everything that decides a contender is in here, its options and losses included, so that the child
reads no file and a run can be repeated by hand from its command.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Form", "Spec", "Work"]


class Form(enum.Enum):
    """Whose implementation."""

    AVS = "avs"
    PUBLISHED = "published"


class Work(enum.Enum):
    """step: forward, the model's own objective, backward, Adam. forward: without gradients.
    fusion: forward and backward of the TPAVI blocks. count: parameters and operations, no time."""

    STEP = "step"
    FORWARD = "forward"
    FUSION = "fusion"
    COUNT = "count"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """``to_json`` and ``from_json`` carry it through the command line.

    options: of the model, as :func:`avs.models.build_model` takes them. loss: fields of
    :class:`avs.losses.LossConfig`, plain. warm_ups, runs: runs before those measured, and measured
    ones.
    """

    form: Form
    model: str
    work: Work
    backbone: str
    options: Mapping[str, Any]
    loss: Mapping[str, Any] = field(default_factory=dict)
    audio_dim: int = 128
    num_clips: int = 1
    num_frames: int
    size_px: int
    num_threads: int
    warm_ups: int = 1
    runs: int = 1

    def to_json(self) -> str:
        """As a command-line argument."""
        return json.dumps(asdict(self) | {"form": self.form.value, "work": self.work.value})

    def command(self) -> list[str]:
        """What starts the child."""
        return [sys.executable, "-m", "avs.benchmark.models_child", self.to_json()]

    @staticmethod
    def from_json(text: str) -> Spec:
        """The reverse of ``to_json``."""
        plain = json.loads(text)
        return Spec(**plain | {"form": Form(plain["form"]), "work": Work(plain["work"])})
