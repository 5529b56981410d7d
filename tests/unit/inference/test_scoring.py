"""Scores of single clips and what they add up to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from avs.inference.conditions import Condition, choose_donors
from avs.inference.predictor import Predictor
from avs.inference.scoring import ClipScorer, _scores, as_numpy, combine, spread_out
from avs.metrics import BinaryMeter, Protocol, SemanticMeter, clip_metrics, make_meter
from avs.training.feed import ClipReader


def _clips(num_classes: int, count: int = 6) -> list[tuple[torch.Tensor, ...]]:
    """Logits [T, K, 16, 16], masks and flags; the third clip has no ground truth."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for k in range(count):
        logits = torch.randn(3, num_classes, 16, 16, generator=generator)
        masks = torch.randint(0, max(2, num_classes), (3, 16, 16), generator=generator)
        valid = torch.tensor([True, k % 2 == 0, True]) if k != 2 else torch.zeros(3).bool()
        found.append((logits, masks.to(torch.uint8), valid))
    return found


def _rows(clips: list[tuple[torch.Tensor, ...]]) -> list[dict[str, Any]]:
    rows = [
        {"index": k, "scores": {c.value: _scores(*clip) for c in Condition}}
        for k, clip in enumerate(clips)
    ]
    sent: list[dict[str, Any]] = json.loads(json.dumps(rows))
    return sent


@pytest.mark.parametrize("batch_size", [1, 4])
def test_workers_rows_add_up_to_the_official_figures_in_any_order(batch_size: int) -> None:
    clips = _clips(1)
    meter = BinaryMeter(batch_size_clips=batch_size)
    for clip in clips:
        scored = clip_metrics(*clip)
        if scored is not None:
            meter.add(scored.iou, scored.curve, scored.nonempty)
    rows = _rows(clips)
    for order in (rows, rows[::-1]):
        result = combine(order, num_classes=1, batch_size=batch_size)
        assert list(result) == ["true", "silent", "swapped"]
        assert result["true"] == meter.result() | {"pooled": result["true"]["pooled"]}
        assert result["true"]["num_clips"] == 5


def test_the_batch_size_is_heeded() -> None:
    rows = _rows(_clips(1))
    one, four = (combine(rows, num_classes=1, batch_size=b)["true"] for b in (1, 4))
    assert one["f"] != four["f"]


def test_semantic_rows_add_up_to_the_meter() -> None:
    clips = _clips(4)
    meter = SemanticMeter(4)
    for logits, masks, _ in clips:
        meter.add(logits, masks)
    wanted = meter.result()
    result = combine(_rows(clips), num_classes=4, batch_size=1)["true"]
    assert result["j"] == pytest.approx(wanted["miou"])
    assert result["f"] == pytest.approx(wanted["fscore"])
    assert result["num_frames"] == 18
    assert result["num_clips"] == 6


@pytest.mark.parametrize("num_classes", [1, 4])
def test_either_protocol_comes_first_and_the_other_lies_beside_it(num_classes: int) -> None:
    clips = _clips(num_classes)
    pooled = make_meter("pooled", num_classes=num_classes)
    for clip in clips:
        pooled.add_clip(*clip)
    first, beside = (
        combine(_rows(clips), num_classes=num_classes, batch_size=1, protocol=protocol)["true"]
        for protocol in (Protocol.POOLED, Protocol.AVSBENCH)
    )
    assert {k: first[k] for k in ("j", "f", "protocol")} == {
        k: pooled.result()[k] for k in ("j", "f", "protocol")
    }
    assert beside["pooled"]["j"] == first["j"]
    assert first["avsbench"]["j"] == beside["j"] != first["j"]


@pytest.mark.parametrize(
    ("num_wanted", "count", "places"),
    [(8, 2, {0, 1}), (3, 9, {0, 3, 6}), (0, 5, set()), (2, 0, set()), (8, 5, set(range(5)))],
)
def test_as_many_clips_are_shown_as_asked_for(
    num_wanted: int, count: int, places: set[int]
) -> None:
    assert spread_out(num_wanted, count) == places


def test_nothing_labelled_is_an_error() -> None:
    rows = _rows([_clips(1)[2]])
    with pytest.raises(ValueError, match="no clip with ground truth"):
        combine(rows, num_classes=1, batch_size=1)


def test_the_scorer_hears_the_sound_of_each_condition(run_folder: Path, prepared: Path) -> None:
    reader = ClipReader(str(prepared), split="test")
    donors = choose_donors(reader.categories(), reader.clip_ids())
    scorer = ClipScorer(str(run_folder), str(prepared), "test", "cpu")
    task = {"index": 1, "donor": donors[1], "picture": True}
    row = json.loads(json.dumps(scorer(task)))
    assert row["clip_id"] == reader.read([1]).clip_ids[0]
    both = reader.read([1, donors[1]])
    predictor = Predictor.from_checkpoint(str(run_folder))
    frames = both.frames[:1].permute(0, 1, 3, 4, 2).numpy()
    for condition, slot in (("true", 0), ("swapped", 1)):
        log_mel = both.log_mel[slot : slot + 1].numpy()
        logits = predictor.logits(frames, log_mel, both.frame_valid[:1].numpy())[0]
        wanted = clip_metrics(logits, both.masks[0], both.mask_valid[0])
        assert wanted is not None
        assert np.array_equal(as_numpy(row["scores"][condition]["iou"]), wanted.iou.numpy())
        predicted = (logits[2, 0] > 0).numpy()
        assert np.array_equal(as_numpy(row["picture"][condition]), predicted)
    assert np.array_equal(as_numpy(row["picture"]["frame"]), frames[0, 2])
    assert np.array_equal(as_numpy(row["picture"]["truth"]), both.masks[0, 2].numpy())
    assert "picture" not in scorer({**task, "picture": False})
