"""CCFormer as a whole: any clip and picture, padding, order of queries, switches, learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ccformer_cases import TINY, clips, overlap, tiny, truth
from small_configs import model_config
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from avs.errors import ConfigError
from avs.losses import total_loss
from avs.models import ModelInput, ModelOutput, build_model, build_system
from avs.models.ccformer import CcformerOptions
from avs.models.export import export_program
from avs.models.pixel_losses import LossConfig, LossKind

BINARY, SEMANTIC = LossConfig(dice_weight=1.0), LossConfig(kind=LossKind.SEMANTIC)
SWITCHED_OFF: list[dict[str, Any]] = [
    {},
    {"num_eim_levels": 0},
    {"num_eim_levels": 2},
    {"use_frame_level": False},
    {"use_video_level": False},
    {"bcl_weight": 0.0},
    {"aux_weight": 0.0},
    {"num_decoder_layers": 1},
    {"num_extra_levels": 1, "num_eim_levels": 5},
    {"num_eim_levels": 0, "use_frame_level": False, "bcl_weight": 0.0},
]
# Zero at the start by design: all keys get the same amount, which a softmax does not see; the
# weights of deformable attention start at 0, so nothing depends on what a query is.
ZERO_AT_START = ("key.bias", "encoder.level_embedding")


@pytest.mark.parametrize("num_frames", [1, 5, 10])
@pytest.mark.parametrize("size", [(64, 64), (32, 96), (160, 64)])
@torch.no_grad()
def test_any_number_of_frames_and_any_picture(num_frames: int, size: tuple[int, int]) -> None:
    x = clips(num_frames=num_frames, size=size)
    for model in (tiny(), tiny(num_extra_levels=2, num_eim_levels=6)):
        output: ModelOutput = model.eval()(x)
        assert output.logits.shape == (2, num_frames, 1, *size)
        assert bool(output.logits.isfinite().all())
        assert float(output.logits.std()) > 0.0


@torch.no_grad()
def test_a_minute_of_frames() -> None:
    x = clips(1, num_frames=60, size=(32, 32))
    assert tiny().eval()(x).logits.shape == (1, 60, 1, 32, 32)


@torch.no_grad()
def test_sides_that_32_does_not_divide() -> None:
    assert tiny().eval()(clips(size=(70, 101))).logits.shape[-2:] == (70, 101)


@pytest.mark.parametrize("num_classes", [1, 71])
def test_layers_before_the_last_predict_at_a_quarter_of_the_size(num_classes: int) -> None:
    model, x = tiny(num_classes=num_classes), clips()
    output: ModelOutput = model(x)
    assert output.logits.shape == (2, 3, num_classes, 64, 96)
    assert output.aux_logits is not None
    assert [tuple(aux.shape) for aux in output.aux_logits] == [(2, 3, num_classes, 16, 24)] * 2
    assert model.eval()(x).aux_logits is None
    assert tiny(num_decoder_layers=1)(x).aux_logits is None
    assert tiny(aux_weight=0.0)(x).aux_logits is None


@torch.no_grad()
def test_embeddings_have_length_1_and_the_scale_starts_at_the_temperature() -> None:
    output: ModelOutput = tiny(temperature=0.1)(clips())
    assert output.embeddings is not None
    sound, picture, scale = output.embeddings
    assert sound.shape == picture.shape == (2, 3, 16)
    for embedding in (sound, picture):
        torch.testing.assert_close(embedding.norm(dim=2), torch.ones(2, 3))
    assert float(scale) == pytest.approx(10.0)
    assert tiny(bcl_weight=0.0)(clips()).embeddings is None


@pytest.mark.parametrize("options", SWITCHED_OFF, ids=str)
@torch.no_grad()
def test_padding_changes_nothing(options: dict[str, Any]) -> None:
    model, short = tiny(**options).eval(), clips()
    expected: ModelOutput = model(short)
    for num_padded, value in ((1, 0.0), (2, 5.0)):
        longer = _padded(short, num_padded, value=value)
        output: ModelOutput = model(longer)
        torch.testing.assert_close(output.logits[:, :3], expected.logits, atol=1e-5, rtol=1e-5)
        assert not output.logits[:, 3:].any()
        if output.embeddings is not None and expected.embeddings is not None:
            for ours, wanted in zip(output.embeddings[:2], expected.embeddings[:2], strict=True):
                torch.testing.assert_close(ours[:, :3], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_in_one_clip_of_two_leaves_both_as_they_are() -> None:
    model, both = tiny().eval(), clips(num_frames=4)
    both.frame_valid = torch.tensor([[True] * 4, [True, True, False, False]])
    output: ModelOutput = model(both)
    for clip, num_frames in ((0, 4), (1, 2)):
        alone = ModelInput(
            frames=both.frames[clip : clip + 1, :num_frames],
            audio_embedding=both.audio_embedding[clip : clip + 1, :num_frames],
        )
        expected = model(alone).logits[0]
        torch.testing.assert_close(output.logits[clip, :num_frames], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_clip_of_padding_alone_is_finite() -> None:
    x = clips()
    x.frame_valid = torch.tensor([[True] * 3, [False] * 3])
    assert bool(tiny().eval()(x).logits.isfinite().all())


@pytest.mark.parametrize("options", SWITCHED_OFF[:5], ids=str)
@torch.no_grad()
def test_the_order_of_queries_changes_nothing(options: dict[str, Any]) -> None:
    model, x = tiny(**options).eval(), clips()
    expected = model(x).logits
    order = torch.tensor([3, 0, 4, 1, 2])
    learned, combine = model.queries.queries, model.head.combine[0]
    for parameter in (learned.content, learned.positions):
        parameter.copy_(parameter[order])
    half_way = model(x).logits
    assert isinstance(combine, torch.nn.Conv2d)
    combine.weight.copy_(combine.weight[:, order])
    torch.testing.assert_close(model(x).logits, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(half_way, expected, atol=1e-5), "queries do not matter"


@pytest.mark.parametrize("options", SWITCHED_OFF, ids=str)
def test_every_parameter_is_trained(options: dict[str, Any]) -> None:
    """Also with a part switched off: a parameter that nothing uses would stop DDP."""
    model, x = tiny(**options), clips()
    total_loss(model, model(x), truth(x), config=BINARY)["loss"].backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    zero = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()]
    assert [n for n in zero if not n.endswith(ZERO_AT_START)] == []
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_what_is_switched_off_has_no_parameters() -> None:
    def names(**options: Any) -> set[str]:
        return {name.split(".")[0] for name, _ in tiny(**options).named_parameters()}

    assert names() - names(num_eim_levels=0) == {"early"}
    assert names() - names(bcl_weight=0.0) == {"contrast"}
    full, frames, video = (
        sum(p.numel() for p in tiny(**options).queries.parameters())
        for options in ({}, {"use_video_level": False}, {"use_frame_level": False})
    )
    queries = sum(p.numel() for p in tiny().queries.queries.parameters())
    assert full - queries == (frames - queries) + (video - queries)


@pytest.mark.parametrize("options", SWITCHED_OFF[:6], ids=str)
@torch.no_grad()
def test_the_sound_matters(options: dict[str, Any]) -> None:
    model, x = tiny(**options).eval(), clips()
    other = ModelInput(frames=x.frames, audio_embedding=x.audio_embedding.flip(0))
    assert not torch.allclose(model(x).logits, model(other).logits, atol=1e-5)


@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other() -> None:
    model, both = tiny().eval(), clips(num_clips=3)
    last = ModelInput(frames=both.frames[2:], audio_embedding=both.audio_embedding[2:])
    torch.testing.assert_close(model(both).logits[2:], model(last).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_slot_in_the_batch_changes_not_a_bit() -> None:
    model, x = tiny().eval(), clips(num_clips=3)
    turned = ModelInput(
        frames=x.frames.roll(1, 0).contiguous(), audio_embedding=x.audio_embedding.roll(1, 0)
    )
    assert torch.equal(model(turned).logits.roll(-1, 0), model(x).logits)


@pytest.mark.full
# torch 2.11: its compiler makes an instance of an autograd function, which it has deprecated
@pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning")
def test_it_compiles_to_one_graph() -> None:
    model, x = tiny().eval(), clips()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x).logits, model(x).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.full
# torch.export.load reads weights from an immutable buffer that it copies afterwards (torch 2.11)
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_it_can_be_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = build_system(model_config(name="ccformer", options=TINY)).eval()
    export_program(system, str(tmp_path / "model.pt2"), num_frames=2, size_px=(64, 96))
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    frames = torch.randint(0, 256, (1, 2, 3, 64, 96), dtype=torch.uint8)
    sound = torch.randn(1, 2, 1, 96, 64) - 2.0
    with torch.no_grad():
        expected = system(frames, sound).logits
        torch.testing.assert_close(loaded(frames, sound), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("num_classes", "num_steps"), [(1, 30), (5, 70)])
def test_a_batch_is_learnt_and_bfloat16_keeps_it(num_classes: int, num_steps: int) -> None:
    model = tiny(num_classes=num_classes, fusion_width=32, num_heads=4)
    x = clips(size=(64, 64))
    config, target = (BINARY if num_classes == 1 else SEMANTIC), truth(x, num_classes=num_classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(num_steps):
        losses = total_loss(model, model(x), target, config=config)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        exact = model(x).logits
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x).logits
    assert overlap(exact, target.masks) > 0.9, losses
    assert overlap(half.float(), target.masks) > 0.9, losses
    error = float((half - exact).norm() / exact.norm())
    assert 0.0 < error < 0.08, error


def test_bfloat16_is_finite_and_its_losses_are_near() -> None:
    model, x = tiny(), clips()
    with torch.autocast("cpu", torch.bfloat16):
        output: ModelOutput = model(x)
    losses = total_loss(model, output, truth(x), config=BINARY)
    losses["loss"].backward()
    assert losses["loss"].dtype == torch.float32
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert output.embeddings is not None
    assert all(part.dtype == torch.float32 for part in output.embeddings)
    exact = total_loss(model, model(x), truth(x), config=BINARY)
    for name, value in exact.items():
        torch.testing.assert_close(losses[name], value, atol=0.02, rtol=0.02)


def test_the_shapes_of_the_specification() -> None:
    """PVT-v2-b5 at 224 px, without computing: 4 levels of 256 channels and one more, Q queries."""
    with torch.device("meta"):
        model = build_model("ccformer", backbone="pvt_v2_b5", num_classes=71)
    seen: dict[str, Any] = {}
    _remember(model, seen, "projections", "early", "pixels", "queries")
    model.to_empty(device="cpu")
    with FakeTensorMode(allow_non_fake_inputs=True):
        output: ModelOutput = model(clips(1, num_frames=2, size=(224, 224)))
    assert model.backbone.channels == (64, 128, 320, 512)
    sides = (56, 28, 14, 7, 4)
    assert [tuple(m.shape) for m in seen["projections"]] == [(2, 256, s, s) for s in sides]
    levels, audio = seen["early"]
    assert [tuple(m.shape) for m in levels] == [(2, 256, s, s) for s in sides]
    assert audio.shape == (1, 2, 256)
    assert [tuple(m.shape) for m in seen["pixels"].levels] == [(2, 256, s, s) for s in sides[2:]]
    assert seen["pixels"].mask_features.shape == (2, 256, 56, 56)
    assert [tuple(q.shape) for q in seen["queries"]] == [(2, 100, 256)] * 6
    assert output.logits.shape == (1, 2, 71, 224, 224)
    assert len(output.aux_logits or ()) == 5


@pytest.mark.parametrize(
    "bad",
    [
        {"num_queries": 0},
        {"num_eim_levels": 6},
        {"num_eim_levels": -1},
        {"num_eim_levels": 5, "num_extra_levels": 0},
        {"num_decoder_layers": 0},
        {"num_encoder_layers": 0},
        {"fusion_width": 20},
        {"fusion_width": 24, "num_heads": 16},
        {"temperature": 0.001},
        {"bcl_weight": -0.1},
        {"drop_path": 1.0},
        {"class_dice_weight": -1.0},
        {"use_frame_level": False, "use_video_level": False},
    ],
    ids=str,
)
def test_options_out_of_range_are_named(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        CcformerOptions(**bad)


def _padded(x: ModelInput, num_padded: int, *, value: float) -> ModelInput:
    batch, num_frames = x.frames.shape[:2]

    def longer(tensor: Tensor) -> Tensor:
        return torch.cat((tensor, torch.full_like(tensor[:, :num_padded], value)), dim=1)

    valid = torch.arange(num_frames + num_padded) < num_frames
    return ModelInput(
        frames=longer(x.frames),
        audio_embedding=longer(x.audio_embedding),
        frame_valid=valid.expand(batch, -1),
    )


def _remember(model: Any, seen: dict[str, Any], *names: str) -> None:
    """Keep what these parts of the model return."""
    for name in names:
        getattr(model, name).register_forward_hook(
            lambda _module, _inputs, made, name=name: seen.__setitem__(name, made)
        )
