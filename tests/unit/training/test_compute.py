"""Other ways to compute the same: names, numbers and refusals."""

from __future__ import annotations

from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from small_configs import model_config, train_config
from torch import Tensor, nn

from avs.errors import ConfigError
from avs.training.checkpoint import load_checkpoint
from avs.training.config import TrainConfig
from avs.training.loop import _steps, train
from avs.training.run import Run
from avs.training.state import TrainingState, Worker
from avs.training.step import take_step


def gradients(config: TrainConfig) -> dict[str, Tensor]:
    state = TrainingState(config, Worker())
    state.start_epoch(1)
    batches, _ = next(iter(_steps(state, 1)))
    take_step(state, batches, 0.0, seed=0, num_steps=0)
    return {n: p.grad for n, p in state.system.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("backbone", ["test_resnet", "pvt_v2_b0"])
def test_a_backbone_that_is_computed_again_has_the_same_gradients(
    backbone: str, prepared: Path, tmp_path: Path
) -> None:
    config = replace(
        train_config(prepared, tmp_path / "run"), model=model_config(backbone=backbone)
    )
    saved: dict[bool, int] = {False: 0, True: 0}
    found = {}
    for again in (False, True):
        own = replace(config, train=replace(config.train, checkpoint_backbone=again))
        note = partial(_count, saved, again)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            found[again] = gradients(own)
    assert saved[True] < saved[False]
    assert found[True].keys() == found[False].keys()
    for name, value in found[False].items():
        torch.testing.assert_close(found[True][name], value, atol=1e-6, rtol=1e-5, msg=name)


def _count(saved: dict[bool, int], again: bool, value: Tensor) -> Tensor:
    saved[again] += value.numel()
    return value


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"name": "c3n", "audio_network": "small_classified"},
            "model.name=c3n: its attention takes a gradient inside the forward pass",
        ),
        ({"backbone": "swin_tiny_patch4_window7_224"}, "it has no checkpointing; .*pvt_v2_b5"),
    ],
)
def test_a_backbone_that_cannot_be_computed_again_is_refused(
    changes: dict[str, Any], why: str, prepared: Path, tmp_path: Path
) -> None:
    config = train_config(prepared, tmp_path / "run", checkpoint_backbone=True)
    with pytest.raises(ConfigError, match=rf"train\.checkpoint_backbone=true.*{why}"):
        TrainingState(replace(config, model=model_config(**changes)), Worker())


def test_channels_last_changes_the_layout_and_hardly_the_numbers(
    prepared: Path, tmp_path: Path
) -> None:
    def run(name: str, **changes: Any) -> float:
        config = train_config(prepared, tmp_path / name, epochs=1, **changes)
        return float(train(config, Worker())[0]["loss"])

    assert run("last", channels_last=True) == pytest.approx(run("first"), rel=1e-3)
    state = TrainingState(train_config(prepared, tmp_path / "state", channels_last=True), Worker())
    kernels = [p for p in state.system.segmenter.parameters() if p.dim() == 4 and p.shape[-1] == 3]
    assert kernels
    for kernel in kernels:
        assert kernel.is_contiguous(memory_format=torch.channels_last)


# Dynamo asks every tensor for its gradient and hides the warning, which is an error here before.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_run_leaves_a_checkpoint_like_any_other_and_goes_on(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The graph is captured as ever; only the generation of machine code is left out for its time.
    eager = partialmethod(nn.Module.compile, backend="eager")
    monkeypatch.setattr(nn.Module, "compile", eager)
    plain = train_config(prepared, tmp_path / "plain", epochs=1)
    compiled = train_config(prepared, tmp_path / "compiled", epochs=1, compile=True)
    losses = [train(config, Worker())[0]["loss"] for config in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    wanted = load_checkpoint(plain.out).weights
    assert load_checkpoint(compiled.out).weights.keys() == wanted.keys()
    more = replace(compiled, train=replace(compiled.train, epochs=2))
    assert len(train(more, Worker())) == 2
    assert "compiled" in Path(Run(more.out).epoch_uri(2), "model_card.md").read_text()
