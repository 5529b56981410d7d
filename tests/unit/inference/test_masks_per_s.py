"""More than one mask a second: which, when, and that each phase is a video of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from avsc_files import save_avsc
from made_clips import write_video
from small_configs import ONE_WORKER

from avs.config import dump, parse
from avs.errors import ConfigError
from avs.inference.config import SegmentConfig
from avs.inference.network_input import window_arrays
from avs.inference.outputs import parse_masks_per_s
from avs.inference.predictor import Predictor
from avs.inference.track import MaskTrack
from avs.inference.window import window_masks
from avs.media import pieces
from avs.media.encoding import write_mp4
from avs.media.pieces import decode_pieces, media_rounds, part_of
from avs.media.video import Sampling, decode_video

NAMES = ["bell", "car", "dog"]
SIZE_PX = (48, 80)
SIDE = 64
THRESHOLD = 0.17  # the masks of random weights are then all different


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An AVSC of random weights, T = 3, two windows a forward."""
    return save_avsc(tmp_path_factory.mktemp("avsc"), names=NAMES)


@pytest.fixture(scope="module")
def predictor(checkpoint: str) -> Predictor:
    return Predictor.from_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """7.25 s, 8 frames a second."""
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_video(path, duration_s=7.25, size_px=SIZE_PX)
    return str(path)


def _times(track: MaskTrack) -> list[float]:
    return [mask.time_s for mask in track.masks]


def test_masks_come_in_the_order_of_time(predictor: Predictor, video: str) -> None:
    track = predictor.segment_video(video, threshold=THRESHOLD, masks_per_s=3)
    assert _times(track) == [(k + 15 / 16) / 3 for k in range(21)]
    assert track.masks_per_s == track.to_json()["masks_per_s"] == 3
    assert track.duration_s == pytest.approx(7.25, abs=0.01)
    assert len({str(mask.rles) for mask in track.masks}) > 10


def test_each_phase_is_what_the_predictor_makes_of_it_alone(
    predictor: Predictor, video: str
) -> None:
    track = predictor.segment_video(video, threshold=THRESHOLD, masks_per_s=3)
    decoded = decode_video(video, size_px=(SIDE, SIDE), sampling=Sampling.TIME, samples_per_s=3)
    for phase in range(3):
        frames = decoded.frames[phase::3]
        alone = list(
            predictor.segment(frames, decoded.samples, size_px=SIZE_PX, threshold=THRESHOLD)
        )
        assert len(alone) == 7
        for k, mask in enumerate(alone):
            assert np.array_equal(track.mask(3 * k + phase), mask)


def test_one_mask_a_second_is_what_there_is_unasked(predictor: Predictor, video: str) -> None:
    track = predictor.segment_video(video, threshold=THRESHOLD)
    assert predictor.segment_video(video, threshold=THRESHOLD, masks_per_s=1) == track
    assert _times(track) == [k + 15 / 16 for k in range(7)]
    assert track.to_json()["masks_per_s"] == 1


def test_native_is_a_mask_of_every_frame(predictor: Predictor, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (55, 32, 32, 3), np.uint8)
    write_mp4(tmp_path / "v.mp4", frames, fps=25, samples=None)
    track = predictor.segment_video(str(tmp_path / "v.mp4"), threshold=THRESHOLD, masks_per_s=None)
    assert track.masks_per_s == 25
    assert _times(track) == [(n + 15 / 16) / 25 for n in range(55)]
    assert track.warnings == ["no sound track: treated as silence"]


@pytest.mark.parametrize(("rate", "objects"), [(1, False), (2, True), (3, False)])
def test_a_long_video_has_the_masks_of_one_piece(
    predictor: Predictor, video: str, monkeypatch: pytest.MonkeyPatch, rate: int, objects: bool
) -> None:
    whole = predictor.segment_video(video, threshold=THRESHOLD, masks_per_s=rate, objects=objects)
    monkeypatch.setattr(pieces, "PIECE_S", 4)  # no whole number of windows
    assert (
        predictor.segment_video(video, threshold=THRESHOLD, masks_per_s=rate, objects=objects)
        == whole
    )


def test_a_video_shorter_than_its_phases(predictor: Predictor, tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", duration_s=0.25)
    track = predictor.segment_video(str(tmp_path / "v.mp4"), threshold=THRESHOLD, masks_per_s=12)
    assert _times(track) == [(k + 15 / 16) / 12 for k in range(3)]


@pytest.mark.parametrize("rate", [0, -1, 121])
def test_a_rate_out_of_range_is_refused(predictor: Predictor, video: str, rate: int) -> None:
    with pytest.raises(ConfigError, match=f"masks_per_s={rate} must be a whole number from 1 to"):
        predictor.segment_video(video, threshold=THRESHOLD, masks_per_s=rate)


@pytest.mark.parametrize("objects", [False, True])
def test_a_process_without_weights_cuts_windows_and_makes_masks(
    predictor: Predictor, video: str, objects: bool
) -> None:
    """What the network answers is all that it needs of it; windows may go one by one."""
    clip = predictor.clip
    wanted = predictor.segment_video(video, threshold=THRESHOLD, masks_per_s=2, objects=objects)
    decoded = decode_pieces(video, size_px=(SIDE, SIDE), samples_per_s=2, window_frames=3)
    made = MaskTrack.empty(clip.class_names, masks_per_s=2)
    made.size_px, made.duration_s = wanted.size_px, wanted.duration_s
    for windows in media_rounds(map(part_of, decoded), window_frames=3, samples_per_s=2):
        masks = []
        for seen in windows:
            given = window_arrays([seen], clip, input_kind=predictor.input_kind)
            assert [len(a) for a in given] == [1, 1, 1]
            ((logits, visible),) = predictor.forward(*given, objects=objects)
            masks += window_masks(
                logits[0],
                None if visible is None else visible.window(0),
                seen,
                size_px=SIZE_PX,
                threshold=THRESHOLD,
                names=NAMES,
            )
        for one in sorted(masks, key=lambda m: m.time_s):
            made.add(one.time_s, one.mask, one.objects)
    assert made == wanted


@pytest.mark.parametrize(
    ("text", "rate"), [("1", 1), ("25", 25), ("120", 120), ("007", 7), ("native", None)]
)
def test_rates_as_text(text: str, rate: int | None) -> None:
    assert parse_masks_per_s(text) == rate


@pytest.mark.parametrize(
    "text", ["0", "121", "-1", "+1", "2.5", "", " 2", "1_0", "\u0662", "all", "9" * 5000, "NATIVE"]
)
def test_what_is_no_rate_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match=r"masks_per_s=.*from 1 to 120, or native") as told:
        parse_masks_per_s(text)
    assert len(str(told.value)) < 200


def _segment_config(**changes: Any) -> SegmentConfig:
    plain = {"checkpoint": "c", "input": "i", "out": "o", "outputs": ["npz"], "threshold": 0.5}
    return parse({**plain, "scale": dump(ONE_WORKER), **changes}, SegmentConfig)


@pytest.mark.parametrize(("value", "rate"), [(1, 1), (25, 25), ("25", 25), ("native", None)])
def test_the_configuration_takes_a_number_or_native(value: object, rate: int | None) -> None:
    assert _segment_config().mask_rate == 1
    assert _segment_config(masks_per_s=value).mask_rate == rate


@pytest.mark.parametrize("value", [0, 121, 2.5, "every", True, None])
def test_the_configuration_refuses_the_rest_by_key_and_value(value: object) -> None:
    with pytest.raises(ConfigError, match=f"masks_per_s={value}"):
        _segment_config(masks_per_s=value)


def test_objects_need_an_output_that_tells_them() -> None:
    with pytest.raises(ConfigError, match=r"objects=true .*outputs=\[npz,matte,rle_json\]"):
        _segment_config(outputs=["npz", "matte"], objects=True)
    assert _segment_config(outputs=["matte", "overlay"], objects=True).objects
