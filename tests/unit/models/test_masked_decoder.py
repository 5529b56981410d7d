"""Masked decoder: the published computation, unordered queries, padding without influence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.models.masked_decoder import (
    LearnedQueries,
    MaskedDecoder,
    MaskedDecoderLayer,
    PredictionHeads,
    SetPrediction,
)
from avs.models.positional_encoding import sine_image

WIDTH, MASK_WIDTH = 16, 12


def decoder(num_layers: int = 4, *, num_levels: int = 3, **heads: Any) -> MaskedDecoder:
    options = {"num_classes": 5, "mask_width": MASK_WIDTH} | heads
    return MaskedDecoder(
        [MaskedDecoderLayer(WIDTH, num_heads=2, ffn_width=24) for _ in range(num_layers)],
        width=WIDTH,
        num_levels=num_levels,
        heads=PredictionHeads(WIDTH, **options),
    )


def frames(num: int = 2) -> tuple[list[Tensor], Tensor]:
    levels = [torch.randn(num, WIDTH, *size) for size in ((8, 12), (4, 6), (2, 3))]
    return levels, torch.randn(num, MASK_WIDTH, 16, 24)


def clips(num_frames: int) -> tuple[list[Tensor], Tensor]:
    levels = [torch.randn(2, WIDTH, num_frames, *size) for size in ((4, 6), (2, 3), (1, 2))]
    return levels, torch.randn(2, MASK_WIDTH, num_frames, 8, 12)


def literal(
    model: MaskedDecoder, queries: Tensor, levels: list[Tensor], features: Tensor, places: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """As published: masks at stride 4, resized, sigmoid, blocked below 0.5."""
    assert model.heads is not None
    classes, masks = [], []
    for number in range(len(model.layers) + 1):
        if number:
            index = (2, 1, 0)[(number - 1) % 3]
            level, size = levels[index], levels[index].shape[-2:]
            small = F.interpolate(masks[-1], size=size, mode="bilinear", align_corners=False)
            blocked = small.flatten(2).sigmoid() < 0.5
            blocked[blocked.all(dim=-1)] = False
            layer: Any = model.layers[number - 1]
            memory = level.flatten(2).transpose(1, 2) + model.level_embedding[index]
            key = memory + sine_image(*size, channels=WIDTH).flatten(1).T
            block = layer.to_picture
            seen = block.attention(queries + places, key, memory, allowed=~blocked)
            queries = block.norm(queries + seen)
            block = layer.to_queries
            said = block.attention(queries + places, queries + places, queries)
            queries = layer.feed_forward(block.norm(queries + said))
        normed = model.heads.norm(queries)
        assert model.heads.classes is not None
        classes.append(model.heads.classes(normed))
        masks.append(torch.einsum("nqd,ndhw->nqhw", model.heads.masks(normed), features))
    return classes, masks


def values(prediction: SetPrediction) -> tuple[Tensor, Tensor]:
    assert prediction.class_logits is not None
    assert prediction.masks is not None
    return prediction.class_logits, prediction.masks


def test_equals_the_published_computation_after_every_layer() -> None:
    model, (levels, features) = decoder(), frames()
    queries, places = torch.randn(2, 7, WIDTH), torch.randn(7, WIDTH)
    ours = model(queries, levels, features, positions=places)
    classes, masks = literal(model, queries, levels, features, places)
    assert len(ours) == 5
    for prediction, class_logits, mask in zip(ours, classes, masks, strict=True):
        torch.testing.assert_close(values(prediction)[0], class_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(values(prediction)[1], mask, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_permuting_queries_permutes_the_output() -> None:
    model, (levels, features) = decoder(), frames()
    queries, places = torch.randn(2, 7, WIDTH), torch.randn(7, WIDTH)
    order = torch.randperm(7)
    straight = model(queries, levels, features, positions=places)
    permuted = model(queries[:, order], levels, features, positions=places[order])
    for one, other in zip(straight, permuted, strict=True):
        for a, b in zip(values(one), values(other), strict=True):
            torch.testing.assert_close(a[:, order], b, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_query_looks_only_where_its_mask_lies() -> None:
    model = decoder(1, num_levels=1)
    level, features = torch.randn(1, WIDTH, 4, 6), torch.randn(1, MASK_WIDTH, 4, 6)
    queries = torch.randn(1, 5, WIDTH)
    first, last = model(queries, [level], features)
    inside = values(first)[1][0] >= 0  # [Q, h, w]
    for query in range(5):
        assert inside[query].any()
        changed = torch.where(inside[query], level, torch.randn_like(level))
        layer: Any = model.layers[0]
        # queries talk to each other afterwards: compare what this one saw
        seen = [
            layer.to_picture(queries, x.flatten(2).transpose(1, 2), allowed=inside[None].flatten(2))
            for x in (level, changed)
        ]
        torch.testing.assert_close(seen[0][:, query], seen[1][:, query])
    assert not torch.equal(values(first)[1], values(last)[1])


def test_empty_masks_are_finite_with_their_gradients() -> None:
    model, (levels, features) = decoder(), frames()
    assert model.heads is not None
    last = model.heads.masks[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():  # every mask logit is -1: nobody may look anywhere
        last.weight.zero_()
        last.bias.zero_()[0] = -1.0
        features[:, 0] = 1.0
    predictions = model(torch.randn(2, 7, WIDTH), levels, features)
    assert all(bool((values(p)[1] < 0).all()) for p in predictions)
    sum(values(p)[0].sum() + values(p)[1].sum() for p in predictions).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_padded_frames_of_a_clip_change_nothing() -> None:
    model, (levels, features) = decoder(), clips(num_frames=5)
    queries = torch.randn(2, 7, WIDTH)
    valid = torch.tensor([[True] * 3 + [False] * 2] * 2)
    padded = model(queries, levels, features, frame_valid=valid)
    short = model(queries, [x[:, :, :3] for x in levels], features[:, :, :3])
    for one, other in zip(padded, short, strict=True):
        torch.testing.assert_close(values(one)[0], values(other)[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(values(one)[1][:, :, :3], values(other)[1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_clip_without_a_real_frame_is_finite() -> None:
    levels, features = clips(num_frames=3)
    valid = torch.tensor([[False] * 3, [True] * 3])
    last = decoder()(torch.randn(2, 7, WIDTH), levels, features, frame_valid=valid)[-1]
    assert all(value.isfinite().all() for value in values(last))


@torch.no_grad()
def test_the_last_prediction_alone_is_the_last_of_all() -> None:
    model, (levels, features) = decoder(), frames()
    queries = torch.randn(2, 7, WIDTH)
    everything = model(queries, levels, features)
    (alone,) = model(queries, levels, features, every_layer=False)
    for one, other in zip(values(everything[-1]), values(alone), strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_what_comes_after_a_layer_changes_its_queries() -> None:
    model, (levels, features) = decoder(), frames()
    queries, calls = torch.randn(2, 7, WIDTH), []

    def double(place: int, changed: Tensor) -> Tensor:
        calls.append(place)
        return 2.0 * changed if place == 1 else changed

    plain = model(queries, levels, features)
    hooked = model(queries, levels, features, after_layer=double)
    assert calls == [0, 1, 2, 3]
    assert torch.equal(hooked[1].queries, plain[1].queries)
    assert torch.equal(hooked[2].queries, 2.0 * plain[2].queries)
    assert not torch.allclose(hooked[3].queries, plain[3].queries)


@torch.no_grad()
def test_without_heads_queries_look_everywhere_but_at_padding() -> None:
    layers = [MaskedDecoderLayer(WIDTH, num_heads=2, ffn_width=24) for _ in range(3)]
    model = MaskedDecoder(layers, width=WIDTH, num_levels=3, heads=None)
    queries, (levels, _) = torch.randn(2, 7, WIDTH), clips(num_frames=3)
    last = model(queries, levels)[-1]
    assert last.class_logits is None
    assert last.masks is None
    valid = torch.tensor([[True, True, False]] * 2)
    padded = model(queries, levels, frame_valid=valid)[-1].queries
    short = model(queries, [x[:, :, :2] for x in levels])[-1].queries
    torch.testing.assert_close(padded, short, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(padded, last.queries)


def test_heads_without_classes_give_masks_alone() -> None:
    model, (levels, features) = decoder(num_classes=None), frames()
    last = model(torch.randn(2, 7, WIDTH), levels, features)[-1]
    assert last.class_logits is None
    assert last.masks is not None
    assert last.masks.shape == (2, 7, 16, 24)


def test_every_parameter_has_a_gradient_and_bfloat16_is_finite() -> None:
    model, (levels, features) = decoder(), frames()
    queries = LearnedQueries(7, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        predictions = model(queries(2), levels, features, positions=queries.positions)
    sum((v.float() ** 2).mean() for p in predictions for v in values(p)).backward()
    parameters = [*model.named_parameters(), *queries.named_parameters()]
    # the same amount for every key: a softmax does not see it
    silent = [n for n, p in parameters if p.grad is None or not p.grad.any()]
    assert [n for n in silent if not n.endswith("key.bias")] == []
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in parameters)


@torch.no_grad()
def test_result_does_not_depend_on_the_slot_in_the_batch() -> None:
    model, (levels, features) = decoder(), frames(num=5)
    queries = torch.randn(1, 7, WIDTH).expand(5, -1, -1)
    straight = model(queries, levels, features)[-1]
    turned = model(queries, [x.roll(2, 0) for x in levels], features.roll(2, 0))[-1]
    for one, other in zip(values(straight), values(turned), strict=True):
        assert torch.equal(other.roll(-2, 0), one)


@pytest.mark.parametrize("num_levels", [1, 2, 4])
def test_any_number_of_levels_and_layers(num_levels: int) -> None:
    model = decoder(3, num_levels=num_levels)
    levels = [torch.randn(1, WIDTH, 7 - i, 5) for i in range(num_levels)]
    predictions = model(torch.randn(1, 2, WIDTH), levels, torch.randn(1, MASK_WIDTH, 9, 11))
    assert len(predictions) == 4
    assert all(values(p)[1].shape == (1, 2, 9, 11) for p in predictions)


def test_compiles_to_one_graph() -> None:
    model, (levels, features) = decoder(2), frames()
    queries = torch.randn(2, 7, WIDTH)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    ours, theirs = compiled(queries, levels, features)[-1], model(queries, levels, features)[-1]
    for one, other in zip(values(ours), values(theirs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
