"""The Predictor: bit-equal masks however windows are spread, for a video of any length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from made_clips import write_video

from avs import Predictor as PublicPredictor
from avs.errors import CheckpointError, ConfigError, MediaError
from avs.inference.predictor import Predictor, checkpoint_hash
from avs.media import pieces
from avs.media.audio import Alignment, clip_log_mel, from_int16, to_int16
from avs.training.checkpoint import load_checkpoint, resolve_checkpoint

SIDE = 64


@pytest.fixture(scope="module")
def predictor(run_folder: Path) -> Predictor:
    """Three windows a forward."""
    return Predictor.from_checkpoint(str(run_folder))


@pytest.fixture(scope="module")
def windows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seven windows of noise, the fifth with two frames of padding."""
    rng = np.random.default_rng(0)
    valid = np.ones((7, 5), np.bool_)
    valid[4, 3:] = False
    frames = rng.integers(0, 256, (7, 5, SIDE, SIDE, 3), np.uint8)
    return frames, rng.normal(size=(7, 5, 1, 96, 64)).astype(np.float32), valid


def _sound(seconds: float) -> np.ndarray:
    t = np.arange(round(seconds * 16000)) / 16000
    return (0.3 * np.sin(2 * np.pi * 400 * t * (1 + t / 9))).astype(np.float32)


def test_the_public_name_is_this_class() -> None:
    assert PublicPredictor is Predictor


@pytest.mark.parametrize("windows_per_forward", [1, 3])
def test_the_logits_of_a_window_do_not_depend_on_slot_or_neighbours(
    run_folder: Path, windows: tuple[np.ndarray, ...], windows_per_forward: int
) -> None:
    predictor = Predictor.from_checkpoint(str(run_folder), windows_per_forward=windows_per_forward)
    together = predictor.logits(*windows)
    assert together.shape == (7, 5, 1, SIDE, SIDE)
    order = [4, 6, 0, 5, 2, 1, 3]
    shuffled = predictor.logits(*(a[order] for a in windows))
    for slot, index in enumerate(order):
        assert torch.equal(shuffled[slot], together[index])
        alone = predictor.logits(*(a[[index]] for a in windows))
        assert torch.equal(alone[0], together[index])


def test_every_forward_has_the_same_shape_and_number_of_threads(
    run_folder: Path, windows: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.from_checkpoint(str(run_folder), num_threads=1)
    forward, seen = predictor.system.forward, set()

    def note(frames: torch.Tensor, *rest: torch.Tensor) -> object:
        seen.add((tuple(frames.shape), torch.get_num_threads()))
        return forward(frames, *rest)

    monkeypatch.setattr(predictor.system, "forward", note)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for count in (1, 2, 3, 7):
        predictor.logits(*(a[:count] for a in windows))
    torch.set_num_threads(before)
    assert seen == {((3, 5, 3, SIDE, SIDE), 1)}


def test_the_sound_changes_the_logits(
    predictor: Predictor, windows: tuple[np.ndarray, ...]
) -> None:
    frames, log_mel, valid = windows
    assert not torch.equal(
        predictor.logits(frames, log_mel, valid), predictor.logits(frames, log_mel[::-1], valid)
    )


@pytest.mark.parametrize("num_frames", [1, 4, 5, 7, 12, 33])
def test_each_frame_gets_one_mask_of_the_wanted_size(predictor: Predictor, num_frames: int) -> None:
    frames = np.zeros((num_frames, SIDE, SIDE, 3), np.uint8)
    masks = list(predictor.segment(frames, _sound(num_frames), size_px=(40, 91)))
    assert len(masks) == num_frames
    assert {(m.shape, m.dtype.name) for m in masks} == {((40, 91), "uint8")}
    assert {int(v) for m in masks for v in np.unique(m)} <= {0, 1}


def test_masks_follow_from_the_logits_of_their_window(predictor: Predictor) -> None:
    """Resized bilinearly, then cut at the threshold; late frames come from the moved window."""
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (7, SIDE, SIDE, 3), np.uint8)
    heard: list[torch.Tensor] = []
    forward = predictor.forward

    def note(*arrays: np.ndarray, **asked: bool) -> Iterator[tuple[torch.Tensor, Any]]:
        for logits, visible in forward(*arrays, **asked):
            heard.append(logits)
            yield logits, visible

    predictor.forward = note  # type: ignore[method-assign, assignment]
    try:
        masks = list(predictor.segment(frames, _sound(7), size_px=(30, 50), threshold=0.3))
    finally:
        del predictor.forward  # type: ignore[method-assign]
    (logits,) = heard
    wanted = [logits[0, k] for k in range(5)] + [logits[1, k] for k in (3, 4)]
    for mask, logits_khw in zip(masks, wanted, strict=True):
        large = F.interpolate(logits_khw[None], (30, 50), mode="bilinear", align_corners=False)
        assert np.array_equal(mask, (large[0, 0].sigmoid() > 0.3).numpy())


def test_a_higher_threshold_keeps_fewer_pixels(predictor: Predictor) -> None:
    frames = np.random.default_rng(2).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
    areas = [
        sum(int(m.sum()) for m in predictor.segment(frames, None, size_px=(64, 64), threshold=t))
        for t in (0.02, 0.1, 0.3, 0.5, 0.9)
    ]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > areas[-1]


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, 2.0, math.nan])
def test_a_threshold_that_is_no_probability_is_refused(
    predictor: Predictor, threshold: float
) -> None:
    frames = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    with pytest.raises(ConfigError, match="threshold="):
        list(predictor.segment(frames, None, size_px=(8, 8), threshold=threshold))


def test_no_sound_is_digital_silence(predictor: Predictor) -> None:
    frames = np.random.default_rng(3).integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
    none = list(predictor.segment(frames, None, size_px=(64, 64)))
    zeros = list(predictor.segment(frames, np.zeros(16000 * 6, np.float32), size_px=(64, 64)))
    assert np.array_equal(none, zeros)


@pytest.mark.parametrize("seconds", [1, 4, 5, 7, 12])
def test_a_video_gets_a_mask_a_second_at_its_own_size(
    predictor: Predictor, tmp_path: Path, seconds: int
) -> None:
    write_video(tmp_path / "v.mp4", duration_s=seconds, size_px=(50, 82))
    track = predictor.segment_video(str(tmp_path / "v.mp4"))
    assert len(track) == seconds
    assert track.size_px == (50, 82)
    assert track.mask(seconds - 1).shape == (50, 82)
    assert [int(m.time_s) for m in track.masks] == list(range(seconds))
    assert track.duration_s == pytest.approx(seconds, abs=0.01)
    assert track.class_names == ("background", "sounding")
    assert track.warnings == []


def test_a_video_in_pieces_gets_the_masks_of_the_whole(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "v.mp4", duration_s=13)
    whole = predictor.segment_video(str(tmp_path / "v.mp4"))
    monkeypatch.setattr(pieces, "PIECE_S", 5)
    assert predictor.segment_video(str(tmp_path / "v.mp4")) == whole


@pytest.mark.parametrize("alignment", Alignment)
def test_every_window_is_heard_in_the_alignment_of_the_checkpoint(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alignment: Alignment
) -> None:
    found = load_checkpoint(str(run_folder))
    found.clip = replace(found.clip, audio_alignment=alignment)
    predictor = Predictor(found)
    forward, heard = predictor.forward, []

    def note(frames: np.ndarray, sound: np.ndarray, *rest: np.ndarray, **asked: bool) -> Any:
        heard.append(sound)
        return forward(frames, sound, *rest, **asked)

    monkeypatch.setattr(predictor, "forward", note)
    samples = from_int16(to_int16(_sound(7)))
    list(predictor.segment(np.zeros((7, SIDE, SIDE, 3), np.uint8), samples, size_px=(8, 8)))
    wanted = [
        clip_log_mel(samples[first:], num_examples=5, pad="repeat", alignment=alignment)
        for first in (0, 2 * 16000)
    ]
    assert np.array_equal(heard[0], wanted)
    write_video(tmp_path / "v.mp4", duration_s=13)
    whole = predictor.segment_video(str(tmp_path / "v.mp4"))
    monkeypatch.setattr(pieces, "PIECE_S", 5)
    assert predictor.segment_video(str(tmp_path / "v.mp4")) == whole


def test_a_video_without_sound_is_segmented_with_a_warning(
    predictor: Predictor, tmp_path: Path
) -> None:
    write_video(tmp_path / "v.mp4", duration_s=2, sound=False)
    track = predictor.segment_video(str(tmp_path / "v.mp4"))
    assert len(track) == 2
    assert track.warnings == ["no sound track: treated as silence"]


def test_a_file_that_is_no_video_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_text("#EXTM3U\nhttp://example.invalid/x.ts\n")
    with pytest.raises(MediaError, match=r"v\.mp4"):
        predictor.segment_video(str(tmp_path / "v.mp4"))


@pytest.mark.parametrize("damage", ["shape", "missing", "unknown"])
def test_weights_that_do_not_fit_are_refused_by_name(run_folder: Path, damage: str) -> None:
    found = load_checkpoint(str(run_folder))
    name = next(k for k, v in found.weights.items() if v.dim() == 4)
    value = found.weights.pop(name)
    if damage == "shape":
        found.weights[name] = value[:1]
    elif damage == "unknown":
        found.weights |= {name: value, "other.weight": value}
    with pytest.raises(CheckpointError, match=r"does not fit its model: \S+"):
        Predictor(found)


def test_no_pretrained_file_is_asked_for(run_folder: Path) -> None:
    found = load_checkpoint(str(run_folder))
    found.model = replace(found.model, backbone_weights="/gone/a.pth", audio_weights="/gone/b")
    Predictor(found)


def test_a_warm_up_runs_the_compute_shape(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    forward = predictor.system.forward

    def note(frames: torch.Tensor, *rest: torch.Tensor) -> object:
        shapes.append(tuple(frames.shape))
        return forward(frames, *rest)

    monkeypatch.setattr(predictor.system, "forward", note)
    predictor.warm_up()
    assert shapes == [(3, 5, 3, SIDE, SIDE)]


def test_the_hash_of_a_checkpoint_follows_its_weights_and_configuration(
    run_folder: Path, tmp_path: Path
) -> None:
    source = Path(resolve_checkpoint(str(run_folder)))
    before = checkpoint_hash(str(source))
    for changed in ("weights.safetensors", "config.yaml", "model_card.md"):
        folder = tmp_path / changed
        folder.mkdir()
        for path in source.iterdir():
            (folder / path.name).write_bytes(path.read_bytes() + b" " * (path.name == changed))
        assert (checkpoint_hash(str(folder)) == before) == (changed == "model_card.md")
