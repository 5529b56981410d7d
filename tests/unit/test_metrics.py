"""Metrics: the official numbers, the literal definition, the aggregation by batch."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avs import losses, metrics, schema
from avs.metrics import (
    BinaryMeter,
    SemanticMeter,
    clip_metrics,
    f_curve,
    f_score,
    frame_iou,
    make_meter,
    mask_iou,
    nonempty,
    semantic_sums,
)

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "golden" / "metrics.json").read_text()
)


def generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def inp(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(generator(name).standard_normal(shape, dtype=np.float32))


@pytest.fixture
def binary() -> tuple[Tensor, Tensor]:
    logits = 3 * inp("metric.logits", (10, 56, 56))
    target = (inp("metric.mask", (10, 56, 56)) + 0.3 * logits > 0.5).float()
    target[3] = target[7] = 0
    logits[7] = -9
    target[8] = 1
    return logits, target


@pytest.fixture
def semantic() -> tuple[Tensor, Tensor]:
    logits = inp("metric.semantic.logits", (10, 71, 56, 56))
    coarse = np.random.Generator(np.random.PCG64(5)).choice([0, 0, 0, 3, 17, 40, 70], (10, 7, 7))
    labels = torch.from_numpy(np.kron(coarse, np.ones((8, 8), np.int64)))
    boost = generator("metric.semantic.boost").random((10, 1, 56, 56), dtype=np.float32)
    logits.scatter_add_(1, labels[:, None], 5 * torch.from_numpy(boost))
    return logits, labels


def close(value: float) -> Any:
    return pytest.approx(value, abs=1e-5)


def literal_f_curve(logits: Tensor, target: Tensor) -> Tensor:
    """One frame, as published: 255 passes over the picture."""
    prob, values = logits.sigmoid(), []
    for threshold in torch.linspace(0, 1 - 1e-10, 255):
        passed = (prob >= threshold).float()
        true_positive = (passed * target).sum()
        precision = true_positive / (passed.sum() + 1e-20)
        recall = true_positive / (target.sum() + 1e-20)
        f = 1.3 * precision * recall / (0.3 * precision + recall)
        values.append(torch.zeros(()) if f.isnan() else f)
    return torch.stack(values)


def test_j_and_f_of_a_batch_equal_the_official_code(binary: tuple[Tensor, Tensor]) -> None:
    for name, part in (("", slice(0, 10)), ("_video0", slice(0, 5)), ("_video1", slice(5, 10))):
        logits, target = binary[0][part], binary[1][part]
        assert mask_iou(logits, target) == close(GOLDEN["miou" + name])
        assert f_score(logits, target) == close(GOLDEN["fscore" + name])


def test_the_histogram_curve_equals_the_literal_one(binary: tuple[Tensor, Tensor]) -> None:
    logits, target = binary
    logits[0, 0, :3] = torch.tensor([0.0, 60.0, -120.0])  # 0.5, exactly 1 and exactly 0
    curve = f_curve(logits, target)
    assert curve.dtype == torch.float32
    for frame in range(10):
        assert torch.equal(curve[frame], literal_f_curve(logits[frame], target[frame])), frame


def test_the_meter_reports_a_mean_over_batches_of_clips(binary: tuple[Tensor, Tensor]) -> None:
    logits, target = binary
    results = {}
    for batch_size in (1, 2, 4):
        meter = BinaryMeter(batch_size)
        for part in (slice(0, 5), slice(5, 10), slice(0, 5)):
            clip = clip_metrics(logits[part], target[part], torch.ones(5, dtype=torch.bool))
            assert clip is not None
            meter.add(clip.iou, clip.curve, clip.nonempty)
        results[batch_size] = meter.result()
    j_0, j_1 = GOLDEN["miou_video0"], GOLDEN["miou_video1"]
    assert results[1]["j"] == close((2 * j_0 + j_1) / 3)
    assert results[1]["f"] == close((2 * GOLDEN["fscore_video0"] + GOLDEN["fscore_video1"]) / 3)
    assert results[2]["j"] == close((GOLDEN["miou"] + j_0) / 2)
    assert results[2]["f"] == close((GOLDEN["fscore"] + GOLDEN["fscore_video0"]) / 2)
    assert results[4]["num_clips"] == 3
    assert results[4]["batch_size"] == 4
    assert results[4]["protocol"] == "avsbench"


def test_only_frames_with_ground_truth_are_scored(binary: tuple[Tensor, Tensor]) -> None:
    logits, target = binary
    valid = torch.zeros(10, dtype=torch.bool)
    assert clip_metrics(logits, target, valid) is None
    valid[[0, 3]] = True
    clip = clip_metrics(logits[:, None], target, valid)
    assert clip is not None
    assert torch.equal(clip.iou, frame_iou(logits, target)[[0, 3]])
    assert clip.nonempty.tolist() == [True, False]
    with pytest.raises(ValueError, match="without ground truth"):
        BinaryMeter(1).add(torch.zeros(0), torch.zeros(0, 255), torch.zeros(0, dtype=torch.bool))
    with pytest.raises(ValueError, match="nothing to report"):
        BinaryMeter(1).result()


def test_empty_frames() -> None:
    target = torch.zeros(2, 10, 10)
    logits = torch.full((2, 10, 10), -5.0)
    logits[1, 0, 0] = 5.0
    assert frame_iou(logits, target).tolist() == [pytest.approx(1.0), pytest.approx(0.99)]
    assert f_score(logits, target) == 0.0
    assert not nonempty(target).any()
    assert frame_iou(torch.zeros(1, 2, 2), torch.ones(1, 2, 2)).item() == 0.0  # 0.5 is background


def test_semantic_scores_equal_the_official_code(semantic: tuple[Tensor, Tensor]) -> None:
    logits, labels = semantic
    sums = semantic_sums(logits, labels, num_classes=71)
    np.testing.assert_allclose(sums.iou, GOLDEN["sem_iou_sum"], atol=1e-5)
    np.testing.assert_allclose(sums.f, GOLDEN["sem_f_sum"], atol=1e-5)
    assert sums.count.tolist() == GOLDEN["sem_count"]
    whole, parts = SemanticMeter(71), SemanticMeter(71)
    whole.add(logits, labels)
    parts.add(logits[:5], labels[:5])
    parts.add(logits[5:].argmax(dim=1), labels[5:])
    result = whole.result()
    assert result["miou"] == close(GOLDEN["sem_miou_all"])
    assert result["fscore"] == close(GOLDEN["sem_f_all"])
    assert parts.result()["miou"] == pytest.approx(result["miou"])


def test_the_official_no_background_mean_drops_the_last_class() -> None:
    meter = SemanticMeter(3)
    meter.add(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 1]]]))
    result = meter.result()
    assert result["per_class_iou"] == [1.0, 1.0, 0.0]
    assert result["per_class_count"] == [1.0, 1.0, 0.0]
    assert result["miou"] == pytest.approx(2 / 3)
    assert result["miou_official_no_bg"] == pytest.approx(1.0)
    assert result["miou_no_background"] == pytest.approx(0.5)


def test_a_spurious_class_costs_a_frame_and_ignored_pixels_cost_nothing() -> None:
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    target[:, :2] = 1
    pred = target.clone()
    pred[0, 3, 3] = 2
    target[:, 0, 0] = 255
    pred[:, 0, 0] = 2
    sums = semantic_sums(pred, target, num_classes=3)
    assert sums.count.tolist() == [2.0, 2.0, 1.0]
    assert sums.iou.tolist() == [pytest.approx(7 / 8 + 1), pytest.approx(2.0), 0.0]
    with pytest.raises(ValueError, match=r"target holds a class outside 0\.\.1"):
        semantic_sums(target.clamp(max=1), target + (target == 1), num_classes=2)
    with pytest.raises(ValueError, match="nothing to report"):
        SemanticMeter(2).result()


def test_one_ignore_index_everywhere() -> None:
    assert losses.IGNORE_INDEX == metrics.IGNORE_INDEX == schema.IGNORE_INDEX


def _literal_pooled(pred: Tensor, target: Tensor, kept: Tensor, classes: range) -> dict[str, float]:
    """Class by class as DDESeg writes it, over all pixels of all frames at once."""
    ious, fs, f1s = [], [], []
    for c in classes:
        p, t = (pred == c) & kept, (target == c) & kept
        inter, union = int((p & t).sum()), int((p | t).sum())
        if not union:
            continue
        precision, recall = (inter / max(int(v.sum()), 1) for v in (p, t))
        ious.append(inter / union)
        fs.append(1.3 * precision * recall / max(0.3 * precision + recall, 1e-30))
        f1s.append(2 * precision * recall / max(precision + recall, 1e-30))
    return {key: sum(v) / len(v) for key, v in (("j", ious), ("f", fs), ("f1", f1s))}


@pytest.mark.parametrize("num_classes", [1, 5])
def test_pooled_figures_count_the_pixels_of_the_split_together(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 4, num_classes, 9, 8, generator=generator)
    masks = torch.randint(0, 3, (6, 4, 9, 8), generator=generator)
    masks[0, 0, 0] = 255 if num_classes > 1 else 1
    valid = torch.rand(6, 4, generator=generator) > 0.3
    valid[2] = False
    if num_classes > 1:
        logits[:, :, 4] = -9.0  # class 4 is neither predicted nor true: it does not count
    meter = make_meter("pooled", num_classes=num_classes)
    for clip in zip(logits, masks, valid, strict=True):
        meter.add_clip(*clip)
    result = meter.result()

    pred = (logits[:, :, 0] > 0).long() if num_classes == 1 else logits.argmax(dim=2)
    target = (masks > 0).long() if num_classes == 1 else masks
    kept = valid[..., None, None] & (target != 255)
    classes = range(1, 2) if num_classes == 1 else range(5)
    wanted = _literal_pooled(pred, target, kept, classes)
    assert {key: result[key] for key in wanted} == pytest.approx(wanted, abs=1e-12)
    assert result["protocol"] == "pooled"
    assert result["num_clips"] == 5
    assert result["num_classes_seen"] == (1 if num_classes == 1 else 4)
    assert [v is None for v in result["per_class_iou"]] == [c == 4 for c in range(num_classes)]


def test_a_protocol_names_its_meter() -> None:
    logits, masks = torch.randn(5, 1, 8, 8), torch.randint(0, 2, (5, 8, 8))
    for batch_size in (1, 2):
        meter = make_meter("avsbench", num_classes=1, batch_size_clips=batch_size)
        meter.add_clip(logits, masks, torch.ones(5, dtype=torch.bool))
        assert meter.result()["batch_size"] == batch_size
    assert isinstance(make_meter("avsbench", num_classes=71), SemanticMeter)
    with pytest.raises(ValueError, match="nonsense"):
        make_meter("nonsense", num_classes=1)
    with pytest.raises(ValueError, match="no clip with ground truth"):
        make_meter("pooled", num_classes=1).result()
