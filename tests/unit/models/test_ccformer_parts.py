"""CCFormer's modules by themselves: who sees whom, and what the losses are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ccformer_cases import tiny, truth
from model_cases import clips
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError
from avs.losses import total_loss
from avs.models.dense_objective import aux_losses, dense_losses, semantic_dice
from avs.models.early_integration import EarlyIntegration, clip_tokens, frame_maps
from avs.models.multi_query import MultiQueryTransformer
from avs.models.pixel_losses import LossConfig, LossKind, bce_masked, soft_dice
from avs.models.positional_encoding import sine_time
from avs.models.query_mask_head import QueryMaskHead
from avs.models.temporal_pixels import OverTimeBlock, TemporalPixelDecoder

WIDTH, NUM_FRAMES = 16, 3
BINARY = LossConfig()


def levels(num: int = 4) -> list[Tensor]:
    """Two clips of three frames."""
    return [torch.randn(2 * NUM_FRAMES, WIDTH, 16 >> i, 24 >> i) for i in range(num)]


def sound() -> Tensor:
    return torch.randn(2, NUM_FRAMES, WIDTH)


def changed_frame(maps: list[Tensor], frame: int, *, only: int | None = None) -> list[Tensor]:
    """The same maps with one frame of the first clip changed, on every level or on one."""
    others = [m.clone() for m in maps]
    for index, other in enumerate(others):
        if only in (None, index):
            other[frame] += 1.0
    return others


def moved(before: Tensor, after: Tensor) -> list[bool]:
    """Which of the first dimension's entries differ."""
    return [not torch.allclose(a, b, atol=1e-6) for a, b in zip(before, after, strict=True)]


def test_tokens_of_a_clip_and_back() -> None:
    maps = levels()[0]
    tokens = clip_tokens(maps, num_frames=NUM_FRAMES)
    assert torch.equal(tokens[1, 2 * 16 * 24 + 5 * 24 + 7], maps[5, :, 5, 7])
    assert torch.equal(frame_maps(tokens, like=maps), maps)


@torch.no_grad()
def test_early_integration_changes_the_picture_by_the_sound_and_the_sound_by_the_picture() -> None:
    module, maps, audio = EarlyIntegration(WIDTH, num_levels=4, num_heads=2), levels(), sound()
    seen, heard = module(maps, audio, frame_valid=None)
    louder = audio.clone()
    louder[0] += 1.0
    seen_louder, _ = module(maps, louder, frame_valid=None)
    for before, after in zip(seen, seen_louder, strict=True):
        assert moved(before, after) == [True] * NUM_FRAMES + [False] * NUM_FRAMES
    for level in range(4):  # every level reaches the sound
        _, heard_other = module(changed_frame(maps, 1, only=level), audio, frame_valid=None)
        assert moved(heard, heard_other) == [True, False]


@torch.no_grad()
def test_pictures_hear_the_sound_as_it_came_and_the_sound_carries_what_it_saw() -> None:
    module, maps, audio = EarlyIntegration(WIDTH, num_levels=4, num_heads=2), levels(), sound()
    seen, heard = module(maps, audio, frame_valid=None)
    other, heard_other = module(changed_frame(maps, 1, only=3), audio, frame_valid=None)
    same = [torch.equal(a, b) for a, b in zip(seen, other, strict=True)]
    assert same == [True, True, True, False]
    assert not torch.equal(heard, heard_other)


@torch.no_grad()
def test_both_directions_start_from_what_came_in() -> None:
    """Literally: v + attention(v <- a0) and a + attention(a <- v), side by side."""
    module, (map_NChw,), audio = (
        EarlyIntegration(WIDTH, num_levels=1, num_heads=2),
        levels(1),
        sound(),
    )
    (seen,), heard = module([map_NChw], audio, frame_valid=None)
    block: Any = module.blocks[0]
    tokens = clip_tokens(map_NChw, num_frames=NUM_FRAMES)
    time = sine_time(NUM_FRAMES, channels=WIDTH)
    each = torch.cat([time[t].expand(16 * 24, -1) for t in range(NUM_FRAMES)])
    hear, look = block.hear.block, block.look
    picture = hear.norm(tokens + hear.attention(tokens + each, audio + time, audio))
    torch.testing.assert_close(clip_tokens(seen, num_frames=NUM_FRAMES), picture)
    listened = look.norm(audio + look.attention(audio + time, tokens + each, tokens))
    torch.testing.assert_close(heard, listened)


@torch.no_grad()
@pytest.mark.parametrize("num_levels", [0, 2])
def test_levels_without_integration_pass_through(num_levels: int) -> None:
    maps, audio = levels(), sound()
    seen, heard = EarlyIntegration(WIDTH, num_levels=num_levels, num_heads=2)(
        maps, audio, frame_valid=None
    )
    same = [torch.equal(a, b) for a, b in zip(seen, maps, strict=True)]
    assert same == [True] * (4 - num_levels) + [False] * num_levels
    assert torch.equal(heard, audio) == (num_levels == 0)


@torch.no_grad()
def test_over_time_a_pixel_sees_its_own_place_in_its_own_clip() -> None:
    module, maps = OverTimeBlock(WIDTH, num_heads=2), levels(1)
    before = module(maps[0], num_frames=NUM_FRAMES, frame_valid=None)
    other = maps[0].clone()
    other[1, :, 4, 6] += 1.0
    after = module(other, num_frames=NUM_FRAMES, frame_valid=None)
    different = (before - after).abs().amax(dim=1) > 1e-6
    assert different[:NUM_FRAMES, 4, 6].all()
    different[:NUM_FRAMES, 4, 6] = False
    assert not different.any()


@torch.no_grad()
def test_mask_features_know_the_sound_and_all_frames() -> None:
    module = TemporalPixelDecoder(WIDTH, num_levels=4, num_layers=1, num_heads=2, ffn_width=32)
    maps, audio = levels(), sound()
    before = module(maps, audio, frame_valid=None)
    assert before.mask_features.shape == maps[0].shape
    assert [m.shape for m in before.levels] == [m.shape for m in maps[1:]]
    louder = audio.clone()
    louder[0] += 1.0
    after = module(maps, louder, frame_valid=None).mask_features
    assert moved(before.mask_features, after) == [True] * 3 + [False] * 3
    after = module(changed_frame(maps, 1), audio, frame_valid=None).mask_features
    assert moved(before.mask_features, after) == [True] * 3 + [False] * 3


def transformer(**options: Any) -> MultiQueryTransformer:
    torch.manual_seed(0)
    switches = {"use_frame_level": True, "use_video_level": True} | options
    return MultiQueryTransformer(
        WIDTH, num_queries=4, num_layers=3, num_levels=3, num_heads=2, ffn_width=32, **switches
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "by_picture", "by_sound"),
    [
        ({}, [True, True, True], [True, True, True]),
        ({"use_video_level": False}, [False, True, False], [False, True, False]),
        ({"use_frame_level": False}, [False] * 3, [True, True, True]),
    ],
    ids=str,
)
def test_what_a_frame_says_reaches_the_queries_of(
    options: dict[str, Any], by_picture: list[bool], by_sound: list[bool]
) -> None:
    module, maps, audio = transformer(**options), levels(3), sound()

    def last(maps: list[Tensor], audio: Tensor) -> Tensor:
        every = module(maps, audio, frame_valid=None, every_layer=True)
        (alone,) = module(maps, audio, frame_valid=None, every_layer=False)
        assert len(every) == 3
        assert torch.equal(every[-1], alone)
        return alone

    before = last(maps, audio)
    assert moved(before, last(changed_frame(maps, 1), audio)) == by_picture + [False] * 3
    louder = audio.clone()
    louder[0, 1] += 1.0
    assert moved(before, last(maps, louder)) == by_sound + [False] * 3


@torch.no_grad()
def test_queries_start_as_the_learned_ones_and_the_sound_of_their_frame() -> None:
    module, audio = transformer(use_video_level=False), sound()
    seen: list[Tensor] = []
    decoder: Any = module.frame_level
    decoder.layers[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    module(levels(3), audio, frame_valid=None, every_layer=False)
    expected = module.queries.content[2] + audio[1, 0]
    torch.testing.assert_close(seen[0][3, 2], expected)


def test_the_head_is_the_products_of_queries_and_pixels() -> None:
    head = QueryMaskHead(WIDTH, num_queries=4, num_classes=3, with_aux=True)
    queries, features = torch.randn(2, 4, WIDTH), torch.randn(2, WIDTH, 8, 12)
    products = torch.stack(
        [
            sum(queries[:, q, c, None, None] * features[:, c] for c in range(WIDTH))
            for q in range(4)
        ],
        dim=1,
    ) / (WIDTH**0.5)
    combined = head.combine(products)
    assert head.aux is not None
    aux = head.aux_logits(queries, features)
    torch.testing.assert_close(aux, head.aux(combined), atol=1e-5, rtol=1e-5)
    large = F.interpolate(head.narrow(combined), size=(32, 48), mode="bilinear")
    logits = head(queries, features, size=(32, 48))
    torch.testing.assert_close(logits, head.head(large), atol=1e-5, rtol=1e-5)


def test_semantic_dice_of_a_literal_loop() -> None:
    logits, masks = torch.randn(2, 2, 5, 6, 7), torch.randint(0, 4, (2, 2, 6, 7)).byte()
    masks[0, 0, :3] = 255
    valid = torch.tensor([[True, False], [True, True]])
    prob, terms = logits.softmax(dim=2), []
    for clip, frame in ((0, 0), (1, 0), (1, 1)):
        counted = masks[clip, frame] != 255
        scores = []
        for number in range(5):
            there = masks[clip, frame] == number
            if there.any():
                seen = prob[clip, frame, number]
                both, total = seen[there].sum(), seen[counted].sum() + there.sum()
                scores.append(1 - (2 * both + 1) / (total + 1))
        terms.append(torch.stack(scores).mean())
    torch.testing.assert_close(semantic_dice(logits, masks, valid), torch.stack(terms).mean())


@pytest.mark.parametrize("kind", list(LossKind))
def test_a_perfect_prediction_costs_nothing_and_no_truth_neither(kind: LossKind) -> None:
    num_classes = 1 if kind is LossKind.BINARY else 4
    masks = truth(clips(), num_classes=num_classes).masks
    one_hot = F.one_hot(masks.long(), max(num_classes, 2)).movedim(-1, 2)[:, :, -num_classes:]
    config = LossConfig(kind=kind)
    perfect = (40.0 * one_hot - 20.0).requires_grad_()
    valid = torch.ones(2, 3, dtype=torch.bool)
    for part in dense_losses(perfect, masks, valid, config=config):
        assert float(part.detach()) == pytest.approx(0.0, abs=1e-5)
    nothing = sum(dense_losses(perfect, masks, ~valid, config=config))
    assert isinstance(nothing, Tensor)
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    assert perfect.grad is not None
    assert not perfect.grad.any()


def test_auxiliary_losses_are_the_sum_over_the_layers_at_their_size() -> None:
    target = truth(clips())
    layers = [torch.randn(2, 3, 1, 16, 24) for _ in range(3)]
    target.mask_valid[0, 1:] = False
    small, valid = target.masks[:, :, 2::4, 2::4], target.mask_valid
    entropy, dice = aux_losses(layers, target.masks, valid, config=BINARY)
    torch.testing.assert_close(entropy, sum(bce_masked(x, small, valid) for x in layers))
    torch.testing.assert_close(dice, sum(soft_dice(x, small, valid) for x in layers))


@pytest.mark.parametrize("num_classes", [1, 71])
def test_the_objective_adds_its_parts_up(num_classes: int) -> None:
    model = tiny(num_classes=num_classes, aux_weight=0.25, bcl_weight=3.0, class_dice_weight=2.0)
    x = clips()
    if num_classes == 1:
        name, config = "bce", LossConfig(bce_weight=0.5, dice_weight=2.0)
    else:
        name, config = "cross_entropy", LossConfig(kind=LossKind.SEMANTIC, bce_weight=0.5)
    losses = total_loss(model, model(x), truth(x, num_classes=num_classes), config=config)
    assert set(losses) == {"loss", name, "dice", "auxiliary", "bcl"}
    assert not any(value.requires_grad for key, value in losses.items() if key != "loss")
    total = 0.5 * losses[name] + 2.0 * losses["dice"] + 0.25 * losses["auxiliary"]
    torch.testing.assert_close(losses["loss"].detach(), total + 3.0 * losses["bcl"])
    off = tiny(num_classes=num_classes, bcl_weight=0.0, aux_weight=0.0)
    losses = total_loss(off, off(x), truth(x, num_classes=num_classes), config=config)
    assert set(losses) == {"loss", name, "dice"}


def test_layers_before_the_last_count_as_the_last_does() -> None:
    model, x = tiny(), clips()
    output, target = model(x), truth(x)
    config = LossConfig(bce_weight=0.5, dice_weight=2.0)
    entropy, dice = aux_losses(output.aux_logits, target.masks, target.mask_valid, config=config)
    losses = total_loss(model, output, target, config=config)
    torch.testing.assert_close(losses["auxiliary"], (0.5 * entropy + 2.0 * dice).detach())


def test_a_mapping_term_is_refused() -> None:
    model, x = tiny(), clips()
    with pytest.raises(ConfigError, match=r"loss\.mapping_weight=0\.5.*bcl_weight"):
        total_loss(model, model(x), truth(x), config=LossConfig(mapping_weight=0.5))


@pytest.mark.parametrize(("width", "inner"), [(256, 32), (32, 16), (16, 16)])
def test_a_narrow_head_keeps_channels_enough_to_outlive_its_relu(width: int, inner: int) -> None:
    head = QueryMaskHead(width, num_queries=4, num_classes=1, with_aux=False)
    before_relu = head.head[0]
    assert isinstance(before_relu, torch.nn.Conv2d)
    assert before_relu.out_channels == inner
