"""C3N: the official code's numbers; any size, mode and wrapper gives the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from c3n_cases import BACKBONES, filled_c3n, official_clip, small_c3n, small_clip
from official_fill import load_npz
from torch.nn.parallel import DistributedDataParallel

from avs.errors import ConfigError
from avs.models import ModelOutput, c3n


@pytest.fixture(scope="module")
def official_pvt() -> Any:
    """The official PVT model. Tests must leave it as it is."""
    return filled_c3n("c3n_pvt")


@torch.no_grad()
def test_pvt_equals_the_official_model(official_pvt: Any) -> None:
    golden, x = load_npz("c3n_pvt.npz"), official_clip()
    output: ModelOutput = official_pvt(x)
    np.testing.assert_allclose(
        output.logits[0, :, :, ::4, ::4], golden["logits"], atol=1e-4, rtol=0
    )
    assert output.consensus is not None
    assert output.consensus[0].argmax(dim=1).tolist() == golden["target_category"].tolist()
    seen = official_pvt.backbone(x.frames[0])
    np.testing.assert_allclose(seen.logits.detach(), golden["visual_logits"], atol=1e-4, rtol=0)


def test_pvt_model_has_the_published_number_of_parameters(official_pvt: Any) -> None:
    assert round(sum(p.numel() for p in official_pvt.parameters()) / 1e6, 1) == 101.3


def test_swin_equals_the_official_model() -> None:
    golden, model = load_npz("c3n_swin.npz"), filled_c3n("c3n_swin")
    with torch.inference_mode():
        output: ModelOutput = model(official_clip())
    np.testing.assert_allclose(
        output.logits[0, :, :, ::4, ::4], golden["logits"], atol=1e-4, rtol=0
    )
    assert output.consensus is not None
    assert output.consensus[0].argmax(dim=1).tolist() == golden["target_category"].tolist()


@pytest.mark.full
@torch.no_grad()
def test_bfloat16_stays_close_and_keeps_scores_in_float32(official_pvt: Any) -> None:
    x = official_clip()
    exact: ModelOutput = official_pvt(x)
    with torch.autocast("cpu", torch.bfloat16):
        output: ModelOutput = official_pvt(x)
    assert output.consensus is not None
    assert output.consensus.dtype == torch.float32
    error = (output.logits.float() - exact.logits).norm() / exact.logits.norm()
    assert float(error) <= 0.08
    changed = (output.logits > 0) != (exact.logits > 0)
    assert float(changed.float().mean()) <= 0.02


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("num_frames", "size"), [(1, (96, 64)), (7, (32, 64))])
@torch.no_grad()
def test_any_number_of_frames_and_any_size(
    backbone: str, num_frames: int, size: tuple[int, int]
) -> None:
    x = small_clip(num_clips=1, num_frames=num_frames, size=size)
    output: ModelOutput = small_c3n(backbone)(x)
    assert output.logits.shape == (1, num_frames, 2, *size)
    assert output.logits.isfinite().all()
    assert output.consensus is not None
    assert output.consensus.shape == (1, num_frames, 1000)


@torch.no_grad()
def test_sixty_frames() -> None:
    output: ModelOutput = small_c3n()(small_clip(num_clips=1, num_frames=60, size=(32, 32)))
    assert output.logits.shape == (1, 60, 2, 32, 32)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_callers_mode_changes_no_number_and_leaves_no_gradient(backbone: str) -> None:
    model = small_c3n(backbone)
    recorded: ModelOutput = model(small_clip())
    with torch.no_grad():
        plain: ModelOutput = model(small_clip())
    with torch.inference_mode():
        inferred: ModelOutput = model(small_clip())
        assert torch.is_inference_mode_enabled()
    for other in (plain, inferred):
        assert not other.logits.requires_grad
        torch.testing.assert_close(other.logits, recorded.logits, atol=1e-6, rtol=0)
        assert torch.equal(other.consensus, recorded.consensus)  # type: ignore[arg-type]
    assert recorded.logits.requires_grad
    assert all(p.grad is None for p in model.parameters())


@torch.no_grad()
def test_frames_go_through_in_even_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small_c3n("pvt_v2_b0"), small_clip(num_frames=3)
    whole: ModelOutput = model(x)
    sizes: list[int] = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr(c3n, "PIXELS_PER_GRAPH", 4 * 64 * 96)
    grouped: ModelOutput = model(x)
    assert sizes == [3, 3]  # six frames, at most four at once
    torch.testing.assert_close(grouped.logits, whole.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_trainable_parameter_gets_a_gradient_once(backbone: str) -> None:
    model = small_c3n(backbone, drop_path=0.1 if "pvt" in backbone else 0.0).train()
    seen: list[str] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(name))
    output: ModelOutput = model(small_clip())
    assert seen == []  # the class attention's own gradient reaches no parameter
    output.logits.square().mean().backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(seen) == sorted(trainable)
    assert all(float(p.grad.abs().max()) > 0.0 for p in trainable.values())  # type: ignore[union-attr]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    skip = "decoder.steps.3.skip_unit."  # in the official model too, never run
    assert {name.split(".")[2] for name in frozen if not name.startswith(skip)} <= {
        *("head", "fc", "classifier", "conv_head", "bn2")
    }


def test_the_attention_is_data_for_the_training_gradient() -> None:
    """As published: dL/dx takes the channel weights as constants."""
    model, x = small_c3n("pvt_v2_b0"), small_clip(num_clips=1)
    parameter = model.backbone.net.stages[0].norm.weight
    probe = torch.randn(1, 2, 2, 64, 96, generator=torch.Generator().manual_seed(3))
    (ours,) = torch.autograd.grad((model(x).logits * probe).sum(), parameter)

    seen = model.backbone(x.frames[0])
    scores = c3n.consensus_scores(seen.logits, x.audio_logits[0], model.similarity, alpha=0.1)
    target = seen.logits[torch.arange(2), scores.argmax(dim=1)].sum()
    weights = torch.autograd.grad(target, seen.blocks, retain_graph=True)
    necks = []
    for neck, map_NChw, gradient in zip(model.necks, seen.maps, weights, strict=True):
        w_NC = gradient.mean(dim=(1, 2))
        gate = torch.sigmoid(w_NC / w_NC.norm(dim=1, keepdim=True))[:, :, None, None]
        gated = map_NChw * gate
        necks.append(neck(gated * torch.sigmoid(gated.mean(dim=1, keepdim=True))))
    expected = c3n.fuse_and_decode(
        necks, x, fusions=model.fusions, decoder=model.decoder, options=model.options
    )
    (literal,) = torch.autograd.grad((expected.logits * probe).sum(), parameter)
    torch.testing.assert_close(ours, literal, atol=1e-5, rtol=1e-4)


def test_a_frozen_backbone_keeps_no_graph() -> None:
    model = small_c3n("pvt_v2_b0")
    model.backbone.requires_grad_(False)
    maps, _ = model._look(small_clip().frames.flatten(0, 1), torch.zeros(4, 527))
    assert not any(map_NChw.requires_grad for map_NChw in maps)
    model(small_clip()).logits.mean().backward()
    assert model.necks[0].point.weight.grad is not None


@pytest.mark.parametrize("backbone", ["pvt_v2_b0", "mobilenetv2_050"])
def test_the_classifier_keeps_its_statistics_in_training(backbone: str) -> None:
    model = small_c3n(backbone).train()
    before = {k: v.clone() for k, v in model.state_dict().items() if "num_batches" not in k}
    model(small_clip())
    moved = {k for k, v in before.items() if not torch.equal(v, model.state_dict()[k])}
    assert not any(name.startswith("backbone.net.bn2") for name in moved)
    assert not model.backbone.net.get_submodule(model.backbone.classifier[0]).training
    if "mobilenet" in backbone:
        assert any(name.startswith("backbone.net.bn1") for name in moved)


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


# PVT's depthwise convolutions see channels-last tokens, so their gradients are laid out so too
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")
@pytest.mark.usefixtures("one_process")
def test_distributed_training_misses_no_parameter() -> None:
    model = small_c3n("pvt_v2_b0", drop_path=0.1).train()
    parallel = DistributedDataParallel(model)
    for _ in range(2):  # the second forward fails when a parameter was left out of the first
        parallel.zero_grad()
        torch.manual_seed(0)
        parallel(small_clip()).logits.square().mean().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    torch.manual_seed(0)
    model(small_clip()).logits.square().mean().backward()
    alone = [p.grad for p in model.parameters() if p.grad is not None]
    for one, other in zip(gradients, alone, strict=True):
        torch.testing.assert_close(one, other)


# Dynamo asks a tensor that it was handed for its gradient; the inductor's imports are older.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
@pytest.mark.parametrize(
    ("backbone", "backend"),
    [
        pytest.param("pvt_v2_b0", "aot_eager", marks=pytest.mark.full),
        ("test_resnet", "aot_eager"),
        pytest.param("test_resnet", "inductor", marks=pytest.mark.full),
    ],
)
def test_compiled_equals_eager(
    backbone: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, x = small_c3n(backbone), small_clip()
    torch.compiler.reset()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x).logits, model(x).logits, atol=1e-4, rtol=0)
    wanted = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(compiled(x).logits.square().mean(), wanted)
    eager = torch.autograd.grad(model(x).logits.square().mean(), wanted)
    for one, other in zip(ours, eager, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_the_sound_chooses_what_is_attended_to() -> None:
    model, x = small_c3n("pvt_v2_b0"), small_clip(num_clips=1, num_frames=1)
    matrix = torch.zeros(1000, 527)
    matrix[17, 70], matrix[400, 300] = 1.0, 1.0
    model.similarity.copy_(matrix)
    logits = []
    for sound, row in ((70, 17), (300, 400)):
        heard = torch.zeros(1, 1, 527)
        heard[..., sound] = 30.0
        output: ModelOutput = model(replace(x, audio_logits=heard))
        assert output.consensus is not None
        assert int(output.consensus.argmax()) == row
        logits.append(output.logits)
    assert not torch.allclose(*logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"similarity": torch.zeros(527, 1000)}, r"has the shape \[527, 1000\] \(transpose it\)"),
        ({"similarity": torch.ones(1000, 521).numpy()}, r"has the shape \[1000, 521\]"),
        ({"similarity": torch.zeros(1000, 527)}, "no value above 0"),
        ({"similarity": torch.ones(1000, 527) > 0}, "holds bool values"),
        ({"similarity": [[1.0]]}, r"similarity=\[\[1\.0\]\] is a list"),
        ({"similarity": torch.full((1000, 527), torch.nan)}, "not finite"),
        ({"fusion_stages": (3, 4)}, r"fusion_stages=\[3, 4\]: c3n fuses all four"),
        ({"backbone_options": {"num_classes": 10}}, "test_resnet.* has 10 classes"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_c3n(**options)


def test_a_sound_without_class_scores_is_refused() -> None:
    x = small_clip()
    x.audio_logits = None
    with pytest.raises(ConfigError, match="audio_network"):
        small_c3n()(x)


def test_the_similarity_may_be_an_array() -> None:
    array = np.random.default_rng(0).random((1000, 527))
    kept = small_c3n(similarity=array).similarity
    assert kept.dtype == torch.float32
    np.testing.assert_allclose(kept, array, rtol=1e-6)
    given = torch.ones(1000, 527)
    small_c3n(similarity=given).similarity.zero_()
    assert given.all()  # the caller's own is left alone


def test_the_similarity_is_part_of_the_checkpoint() -> None:
    state = small_c3n().state_dict()
    other = small_c3n(similarity=torch.ones(1000, 527))
    other.load_state_dict(state)
    assert torch.equal(other.similarity, state["similarity"])
