"""What the children of stage ``models`` run: a training step, a forward pass, the fusion blocks.

Each gives a function that does the work once and returns a number of the result, on random input
that is made before and stays the same, so that only the work is measured.

Shapes: B clips, T frames, D audio width, H x W pixels, h x w a map's, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from avs.benchmark.published_c3n import PublishedC3n
from avs.benchmark.published_tpavi import PublishedTpavi
from avs.benchmark.spec import Form, Spec, Work
from avs.config import build
from avs.losses import LossConfig, total_loss
from avs.models import ModelInput, ModelOutput, build_model
from avs.models.audioset import NUM_AUDIOSET_CLASSES
from avs.models.backbones import STRIDES
from avs.models.c3n import C3nSegmenter
from avs.models.fusion import TpaviBlock
from avs.models.tpavi import TpaviSegmenter
from avs.models.types import Truth
from avs.training.optimiser import adam

__all__ = ["WORKS", "network"]


def network(spec: Spec) -> nn.Module:
    """The network with random weights; TPAVI's fusion starts at 0 as published, here it counts."""
    ours = build_model(spec.model, backbone=spec.backbone, num_classes=1, **spec.options)
    if not isinstance(ours, TpaviSegmenter | C3nSegmenter):
        assert spec.form is Form.AVS, f"{spec.model} has no published form here"
        return ours
    for block in ours.fusions.values():
        assert isinstance(block, TpaviBlock)
        nn.init.normal_(block.bn.weight, std=0.5)
    if spec.form is Form.AVS:
        return ours
    return PublishedTpavi(ours) if isinstance(ours, TpaviSegmenter) else PublishedC3n(ours)


def _input(spec: Spec) -> ModelInput:
    clips, size = (spec.num_clips, spec.num_frames), (spec.size_px, spec.size_px)
    return ModelInput(
        frames=torch.randn(*clips, 3, *size),
        audio_embedding=torch.randn(*clips, spec.audio_dim).abs(),
        audio_logits=2.0 * torch.randn(*clips, NUM_AUDIOSET_CLASSES),
    )


def _training_step(model: nn.Module, spec: Spec) -> Callable[[], float]:
    """Every clip is a video of its own, and every frame has its truth."""
    model.train()
    optimiser = adam(model.parameters(), learning_rate=1e-4)
    x = _input(spec)
    clips = (spec.num_clips, spec.num_frames)
    truth = Truth(
        masks=(torch.rand(*clips, spec.size_px, spec.size_px) > 0.7).byte(),
        mask_valid=torch.ones(*clips, dtype=torch.bool),
        frame_valid=None,
        categories=None,
        videos=torch.arange(spec.num_clips),
        seed=0,
    )
    loss: LossConfig = build(LossConfig, spec.loss, path="loss")

    def run() -> float:
        output: ModelOutput = model(x)
        total = total_loss(model, output, truth, config=loss)["loss"]
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
    audio_BTD = torch.randn(1, spec.num_frames, spec.audio_dim).abs()
    width = spec.options["fusion_width"]

    def maps_of(sides: list[int]) -> list[Tensor]:
        maps = [torch.randn(1, spec.num_frames, s, s, width) for s in sides]
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


WORKS: dict[Work, Callable[[nn.Module, Spec], Callable[[], float]]] = {
    Work.STEP: _training_step,
    Work.FORWARD: _forward,
    Work.FUSION: _fusion,
    Work.COUNT: _forward,
}
