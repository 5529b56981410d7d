"""What is CCFormer's alone; test_every_model.py has what it shares with the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ccformer_cases import tiny, truth
from model_cases import BINARY, case_of, clips
from torch._subclasses.fake_tensor import FakeTensorMode

from avs.errors import ConfigError
from avs.losses import total_loss
from avs.models import ModelInput, ModelOutput, build_model
from avs.models.ccformer import CcformerOptions

SWITCHED_OFF: list[dict[str, Any]] = [{}, *case_of("ccformer").switches]


@pytest.mark.parametrize("size", [(64, 64), (70, 101)])
@torch.no_grad()
def test_levels_may_get_as_small_as_a_pixel(size: tuple[int, int]) -> None:
    model = tiny(num_extra_levels=2, num_eim_levels=6).eval()
    logits = model(clips(size=size)).logits
    assert logits.shape == (2, 3, 1, *size)
    assert bool(logits.isfinite().all())
    assert float(logits.std()) > 0.0


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


def _remember(model: Any, seen: dict[str, Any], *names: str) -> None:
    """Keep what these parts of the model return."""
    for name in names:
        getattr(model, name).register_forward_hook(
            lambda _module, _inputs, made, name=name: seen.__setitem__(name, made)
        )
