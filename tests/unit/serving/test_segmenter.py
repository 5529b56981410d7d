"""An upload's masks and objects are those of the segment job; what a model lacks is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from avsc_files import save_avsc
from made_clips import write_video

from avs.inference.outputs import OutputKind, write_outputs
from avs.inference.predictor import Predictor
from avs.serving.messages import Answer, Refusal
from avs.serving.segmenter import VideoSegmenter


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_avsc(tmp_path_factory.mktemp("avsc"), names=["bell", "car", "dog"])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds: its second window is a short one."""
    path = tmp_path_factory.mktemp("videos") / "v.mp4"
    write_video(path, duration_s=4.0)
    return path


@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("kind", [OutputKind.RLE_JSON, OutputKind.OVERLAY])
def test_an_answer_is_what_the_job_writes(
    checkpoint: str, video: Path, tmp_path: Path, kind: OutputKind, objects: bool
) -> None:
    segment = VideoSegmenter(checkpoint, device="cpu", max_duration_s=10.0)
    answer = segment(video.read_bytes(), name="mine.mp4", kind=kind, objects=objects)
    assert isinstance(answer, Answer)
    track = Predictor.from_checkpoint(checkpoint).segment_video(str(video), objects=objects)
    (written,) = write_outputs(track, tmp_path, [kind], video_path=str(video))
    wanted = (tmp_path / written).read_bytes()
    if kind is OutputKind.OVERLAY:
        assert answer.body == wanted
        return
    served = json.loads(answer.body)
    assert served.pop("video") == "mine.mp4"
    assert served == json.loads(wanted)
    assert [("visible" in mask) for mask in served["masks"]] == [objects] * 4


def test_objects_show_in_the_overlay(checkpoint: str, video: Path) -> None:
    segment = VideoSegmenter(checkpoint, device="cpu", max_duration_s=10.0)
    plain, told = (
        segment(video.read_bytes(), name="v", kind=OutputKind.OVERLAY, objects=wanted)
        for wanted in (False, True)
    )
    assert plain != told


def test_a_model_without_objects_refuses_them_and_names_no_file(
    tiny_checkpoint: Path, video: Path
) -> None:
    segment = VideoSegmenter(str(tiny_checkpoint), device="cpu", max_duration_s=10.0)
    for kind in (OutputKind.RLE_JSON, OutputKind.OVERLAY):
        refusal = segment(video.read_bytes(), name="v.mp4", kind=kind, objects=True)
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.code) == (422, "no_objects")
        assert "the model is tpavi, which finds no objects: leave it out" in refusal.message
        assert str(tiny_checkpoint) not in refusal.message
