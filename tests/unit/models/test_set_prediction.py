"""Pixel decoder, masked decoder and set losses together: one batch of objects is learnt."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.models.masked_decoder import (
    LearnedQueries,
    MaskedDecoder,
    MaskedDecoderLayer,
    PredictionHeads,
    SetPrediction,
)
from avs.models.matching import MatchingCosts, class_targets
from avs.models.pixel_decoder import PixelDecoder
from avs.models.set_losses import SetLossConfig, set_losses

CONFIG = SetLossConfig(num_points=256, matching=MatchingCosts(num_points=256))


class Network(nn.Module):
    """Three bare convolutions as a backbone, and the shared parts."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 24, 32, 32)
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, stride, stride)
            for before, after, stride in zip((3, *widths), widths, (4, 2, 2, 2), strict=False)
        )
        self.pixels = PixelDecoder(
            widths, width=32, mask_width=32, num_layers=1, num_heads=4, num_points=2, ffn_width=64
        )
        self.decoder = MaskedDecoder(
            [MaskedDecoderLayer(32, num_heads=4, ffn_width=64) for _ in range(3)],
            width=32,
            num_levels=3,
            heads=PredictionHeads(32, num_classes=2, mask_width=32),
        )
        self.queries = LearnedQueries(6, 32)

    def forward(self, x: Tensor) -> list[SetPrediction]:
        maps = []
        for stage in self.stages:
            x = F.relu(stage(x))
            maps.append(x)
        seen = self.pixels(maps)
        predictions: list[SetPrediction] = self.decoder(
            self.queries(len(x)), seen.levels, seen.mask_features, positions=self.queries.positions
        )
        return predictions


def two_objects(num: int = 3) -> tuple[Tensor, Tensor]:
    """Pictures with a red and a green rectangle, and their class maps."""
    pictures, masks = torch.rand(num, 3, 64, 64) * 0.2, torch.zeros(num, 64, 64, dtype=torch.uint8)
    for place, (x, y) in enumerate(((2, 8), (12, 20), (24, 0))[:num]):
        for which, (left, size) in enumerate(((x, 20), (x + 22, 16))):
            area = (place, slice(y, y + 36), slice(left, left + size))
            masks[area] = which + 1
            pictures[area[0], which, area[1], area[2]] += 0.7
    return pictures, masks


def test_a_batch_is_learnt() -> None:
    pictures, masks = two_objects()
    targets = class_targets(masks, torch.ones(3, dtype=torch.bool))
    network, generator = Network(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(60):
        predictions = network(pictures)
        losses = set_losses(predictions, targets, config=CONFIG, generator=generator)
        optimizer.zero_grad()
        losses.loss.backward()
        optimizer.step()
    last = predictions[-1]
    assert last.masks is not None
    assert last.class_logits is not None
    for place, (target, found) in enumerate(zip(targets, losses.matches, strict=True)):
        assert target is not None
        logits = F.interpolate(last.masks[place : place + 1], size=64, mode="bilinear")[0]
        seen, truth = logits[found.queries] > 0, target.masks[found.objects]
        overlap = (seen & truth).sum(dim=(1, 2)) / (seen | truth).sum(dim=(1, 2))
        assert float(overlap.min()) > 0.9
        said = last.class_logits[place].argmax(dim=1)
        assert torch.equal(said[found.queries], target.classes[found.objects])
        assert int((said < 2).sum()) == 2, "every other query says that it sees nothing"
