"""The optimiser of every published recipe: Adam.

On a CPU torch's fused form is taken: one pass over parameters, gradients and moments instead of
ten, the same numbers up to float32 rounding (PVT-v2-b5, two cores: a third of the time). It reads
memory as it lies, whatever the strides say, so it is given contiguous tensors only. On a GPU
torch's own choice stays: its fused form there refuses gradients whose strides differ from the
parameter's in a dimension of 1 (pytorch issue 106951), as those of PVT's depthwise convolutions do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from avs.models import AvsSystem
from avs.training.config import LoopConfig

__all__ = ["adam", "build_optimizer", "load_state", "set_learning_rate"]


def build_optimizer(system: AvsSystem, loop: LoopConfig) -> torch.optim.Optimizer:
    """Adam over the trained parameters of both networks; see :func:`set_learning_rate`.

    The backbone is a group of its own only where its factor says so: the state of a run that was
    begun without a factor keeps its form.
    """
    backbone = set()
    if loop.backbone_learning_rate_factor != 1.0:
        backbone = set(system.segmenter.get_submodule("backbone").parameters())
    parts = (
        ([p for p in system.segmenter.parameters() if p not in backbone], 1.0),
        (
            [p for p in system.segmenter.parameters() if p in backbone],
            loop.backbone_learning_rate_factor,
        ),
        (list(system.audio.parameters()), loop.audio_learning_rate_factor),
    )
    groups = [
        {"params": [p for p in part if p.requires_grad], "factor": factor} for part, factor in parts
    ]
    return adam(
        [group for group in groups if group["params"]],
        learning_rate=loop.learning_rate,
        weight_decay=loop.weight_decay,
    )


def adam(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (AdamW); at a decay of 0, Adam.

    parameters: the tensors to train, or groups of them as torch's optimisers take.
    """
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    if all(p.device.type == "cpu" and p.is_contiguous() for p in trained):
        for group in optimizer.param_groups:
            group["fused"] = True
        optimizer.register_step_pre_hook(_lay_out_gradients)
    return optimizer


def load_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Go on from the ``state_dict`` of an optimiser, in the form that this one was built with.

    torch keeps the form in the state; a run may go on elsewhere than where it began.
    """
    groups = [
        saved | {"fused": own["fused"]}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Let each group of :func:`build_optimizer` learn at its factor times ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def _lay_out_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Autograd lays gradients out as their parameters; what was assigned by hand may lie else."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and not parameter.grad.is_contiguous():
                parameter.grad = parameter.grad.contiguous()
