"""One contender of stage ``models``, in a process of its own: build, warm up, measure, report.

    python -m avs.benchmark.models_child '{"form": "avs", "work": "forward", ...}'

The last line of its output is a JSON object of figures. A child's memory is its own, so the peak of
one contender is not hidden by another's; the kernel is told to end the child first, should the
machine run out of memory.
"""

from __future__ import annotations

import contextlib
import enum
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avs.benchmark.published_c3n import PublishedC3n
from avs.benchmark.published_tpavi import PublishedTpavi
from avs.losses import LossConfig, compute_loss
from avs.models import ModelInput, ModelOutput, build_model
from avs.models.backbones import STRIDES
from avs.models.c3n import C3nSegmenter
from avs.models.fusion import TpaviBlock
from avs.models.similarity import SIMILARITY_SHAPE
from avs.models.tpavi import TpaviSegmenter
from avs.training.optimiser import adam

__all__ = ["Form", "Spec", "Work", "measure"]

AUDIO_DIM = 128


class Form(enum.Enum):
    """Whose implementation."""

    AVS = "avs"
    PUBLISHED = "published"


class Work(enum.Enum):
    """step: forward, loss, backward, Adam. fusion: forward and backward of the TPAVI blocks."""

    STEP = "step"
    FORWARD = "forward"
    FUSION = "fusion"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """What one child does; ``to_json`` and ``from_json`` carry it through the command line."""

    form: Form
    model: str
    work: Work
    backbone: str
    fusion_width: int
    num_frames: int
    size_px: int
    num_threads: int
    warm_ups: int = 1
    runs: int = 1

    def to_json(self) -> str:
        """As a command-line argument."""
        return json.dumps(asdict(self) | {"form": self.form.value, "work": self.work.value})

    @staticmethod
    def from_json(text: str) -> Spec:
        """The reverse of ``to_json``."""
        plain = json.loads(text)
        return Spec(**plain | {"form": Form(plain["form"]), "work": Work(plain["work"])})


def measure(spec: Spec) -> dict[str, float]:
    """Figures of one contender.

    seconds: least of ``runs``, after ``warm_ups``. cpu_seconds: processor time of all threads in
    them, which other work on the machine disturbs less. peak_mb: greatest resident memory since
    the network stands; extra_mb: that, less what was resident then. value: a number of the result
    that every form must agree on (loss of the first step, or mean |output|).
    """
    torch.set_num_threads(spec.num_threads)
    torch.manual_seed(0)
    model = _model(spec)
    torch.manual_seed(1)  # the same input whatever building drew
    run = _WORK[spec.work](model, spec)
    before_mb = _reset_peak_mb()
    value = run()
    for _ in range(spec.warm_ups - 1):
        run()
    times_s, cpu_times_s = [], []
    for _ in range(spec.runs):
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        run()
        times_s.append(time.perf_counter() - began_s)
        cpu_times_s.append(time.process_time() - cpu_began_s)
    peak_mb = _status_mb("VmHWM")
    return {
        "seconds": min(times_s),
        "cpu_seconds": min(cpu_times_s),
        "peak_mb": peak_mb,
        "extra_mb": peak_mb - before_mb,
        "value": value,
    }


def _model(spec: Spec) -> nn.Module:
    """The network with random weights; the fusion starts at 0 as published, here it counts."""
    options: dict[str, Any] = (
        {"similarity": torch.rand(SIMILARITY_SHAPE)} if spec.model == "c3n" else {}
    )
    ours = build_model(
        spec.model,
        backbone=spec.backbone,
        num_classes=1,
        fusion_width=spec.fusion_width,
        **options,
    )
    assert isinstance(ours, TpaviSegmenter | C3nSegmenter)
    for block in ours.fusions.values():
        assert isinstance(block, TpaviBlock)
        nn.init.normal_(block.bn.weight, std=0.5)
    if spec.form is Form.AVS:
        return ours
    return PublishedTpavi(ours) if isinstance(ours, TpaviSegmenter) else PublishedC3n(ours)


def _input(spec: Spec) -> ModelInput:
    size = (spec.size_px, spec.size_px)
    return ModelInput(
        frames=torch.randn(1, spec.num_frames, 3, *size),
        audio_embedding=torch.randn(1, spec.num_frames, AUDIO_DIM).abs(),
        audio_logits=2.0 * torch.randn(1, spec.num_frames, SIMILARITY_SHAPE[1]),
    )


def _training_step(model: nn.Module, spec: Spec) -> Callable[[], float]:
    model.train()
    optimiser = adam(model.parameters(), learning_rate=1e-4)
    x = _input(spec)
    masks_BTHW = (torch.rand(1, spec.num_frames, spec.size_px, spec.size_px) > 0.7).byte()
    valid_BT = torch.ones(1, spec.num_frames, dtype=torch.bool)
    loss = LossConfig(mapping_weight=0.5)

    def run() -> float:
        output: ModelOutput = model(x)
        total = compute_loss(output, masks_BTHW, valid_BT, config=loss)["loss"]
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        return float(total.detach())

    return run


def _forward(model: nn.Module, spec: Spec) -> Callable[[], float]:
    model.eval()
    x = _input(spec)

    def run() -> float:
        with torch.no_grad():
            output: ModelOutput = model(x)
        return float(output.logits.abs().mean())

    return run


def _fusion(model: nn.Module, spec: Spec) -> Callable[[], float]:
    """All four blocks one after the other, the gradient of each map included.

    Each form gets its maps in the order in memory that its necks leave them in. They have met tiny
    ones before: the code that torch then loads is not memory that the blocks need.
    """
    model.train()
    published = spec.form is Form.PUBLISHED
    order = (0, 4, 1, 2, 3) if published else (0, 1, 4, 2, 3)
    blocks: dict[str, nn.Module] = dict(model.fusions.items())  # type: ignore[operator, union-attr]
    audio_BTD = torch.randn(1, spec.num_frames, AUDIO_DIM).abs()

    def maps_of(sides: list[int]) -> list[Tensor]:
        maps = [torch.randn(1, spec.num_frames, s, s, spec.fusion_width) for s in sides]
        maps = [x_BThwC.permute(order) for x_BThwC in maps]
        return [(x.contiguous() if published else x).requires_grad_() for x in maps]

    def run(maps: list[Tensor]) -> float:
        total = torch.zeros(())
        for block, x in zip(blocks.values(), maps, strict=True):
            fused: Tensor = block(x, audio_BTD)[0]
            x.grad = None
            probe = fused.detach()  # a gradient that needs no map of its own
            fused.backward(probe)  # type: ignore[no-untyped-call]
            total += torch.linalg.vector_norm(probe, ord=1) / probe.numel()
        return float(total)

    run(maps_of([2] * len(blocks)))
    return partial(run, maps_of([spec.size_px // stride for stride in STRIDES]))


_WORK: dict[Work, Callable[[nn.Module, Spec], Callable[[], float]]] = {
    Work.STEP: _training_step,
    Work.FORWARD: _forward,
    Work.FUSION: _fusion,
}


def _reset_peak_mb() -> float:
    """Forget the peak of building; resident memory now, 10^6 bytes."""
    with contextlib.suppress(OSError):  # not all containers allow it: then the peak includes it
        Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = [line for line in lines if line.startswith(f"{key}:")]
    return int(found[0].split()[1]) * 1024 / 1e6


def main(text: str) -> dict[str, Any]:
    """Measure what ``text`` says; figures as plain values."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    return dict(measure(Spec.from_json(text)))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
