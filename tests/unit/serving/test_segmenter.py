"""Windows of any requests to logits: the same in any company, by the checkpoint a job names."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from avsc_files import save_avsc

from avs.errors import CheckpointError
from avs.inference.predictor import Predictor, checkpoint_hash
from avs.serving import segmenter as segmenter_module
from avs.serving.segmenter import WindowSegmenter, describe
from avs.serving.spec import UnknownCheckpoint, WindowAnswer, WindowJob

KEEP_S = 60.0
BATCH = 3
NAMES = ["bell", "car", "dog"]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """``tiny_checkpoint`` with three windows a forward."""
    folder = tmp_path_factory.mktemp("batched") / "c"
    shutil.copytree(tiny_checkpoint, folder)
    plain = yaml.safe_load((folder / "config.yaml").read_text())
    plain["inference"]["windows_per_forward"] = BATCH
    (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    return str(folder)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of another kind, which finds objects."""
    return save_avsc(tmp_path_factory.mktemp("avsc"), names=NAMES)


@pytest.fixture
def segmenter(checkpoint: str) -> WindowSegmenter:
    loaded = _segmenter()
    loaded.load(checkpoint)
    return loaded


def _segmenter() -> WindowSegmenter:
    return WindowSegmenter("default", share=0.75, device="cpu", keep_s=KEEP_S)


def _jobs(uri: str, count: int, *, objects: bool = False) -> list[WindowJob]:
    """Windows of noise; every second one is shorter than T."""
    predictor = Predictor.from_checkpoint(uri)
    t, side = predictor.clip.num_frames, predictor.clip.image_size_px
    rng = np.random.default_rng(3)
    return [
        WindowJob(
            checkpoint=checkpoint_hash(uri),
            frames=rng.integers(0, 256, (t, side, side, 3), np.uint8),
            sound=rng.normal(size=(t, 1, 96, 64)).astype(np.float32),
            frame_valid=np.arange(t) < (t if k % 2 else t - 1),
            objects=objects,
        )
        for k in range(count)
    ]


def _alone(uri: str, jobs: Sequence[WindowJob]) -> list[np.ndarray]:
    predictor = Predictor.from_checkpoint(uri)
    found = []
    for job in jobs:
        given = (job.frames[None], job.sound[None], job.frame_valid[None])
        [(logits, _)] = predictor.forward(*given, objects=job.objects)
        found.append(logits[0].numpy())
    return found


def _logits(answers: Sequence[WindowAnswer | UnknownCheckpoint]) -> list[np.ndarray]:
    assert all(isinstance(answer, WindowAnswer) for answer in answers)
    return [answer.logits for answer in answers]  # type: ignore[union-attr]


def _same(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_window_has_the_same_logits_in_any_company(
    segmenter: WindowSegmenter, checkpoint: str
) -> None:
    jobs = _jobs(checkpoint, 5)
    alone = _alone(checkpoint, jobs)
    assert not _same(alone[:1], alone[1:2])
    for order in ([0], [1, 0], [2, 1, 0], [0, 1, 2], [4, 0, 3, 1, 2], [0, 0, 0, 3]):
        answers = segmenter.forward([jobs[k] for k in order])
        assert _same(_logits(answers), [alone[k] for k in order]), order
    assert segmenter.forward([]) == []


def test_an_answer_brings_no_batch_along(segmenter: WindowSegmenter, checkpoint: str) -> None:
    for logits in _logits(segmenter.forward(_jobs(checkpoint, 2))):
        assert logits.base is None
        assert logits.dtype == np.float32
        assert logits.shape == (5, 1, 96, 96)


def test_arrays_of_an_object_store_can_be_used(segmenter: WindowSegmenter, checkpoint: str) -> None:
    [job] = _jobs(checkpoint, 1)
    for array in (job.frames, job.sound, job.frame_valid):
        array.flags.writeable = False  # torch warns of such, and a warning is an error here
    [answer] = segmenter.forward([job])
    assert isinstance(answer, WindowAnswer)
    answer.logits.flags.writeable = False
    assert np.array_equal(answer.logits_tensor().numpy(), answer.logits)


def test_objects_are_told_to_those_who_asked(other: str) -> None:
    segmenter = _segmenter()
    segmenter.load(other)
    jobs = _jobs(other, 4, objects=True)
    mixed = [replace(job, objects=bool(k % 2)) for k, job in enumerate(jobs)]
    answers = segmenter.forward(mixed)
    assert _same(_logits(answers), _alone(other, mixed))
    predictor = Predictor.from_checkpoint(other)
    for job, answer in zip(mixed, answers, strict=True):
        assert isinstance(answer, WindowAnswer)
        visible = answer.visible_objects()
        assert (visible is not None) is job.objects
        if visible is None:
            continue
        given = (job.frames[None], job.sound[None], job.frame_valid[None])
        [(_, wanted)] = predictor.forward(*given, objects=True)
        assert wanted is not None
        for name in ("score", "sounding", "masks"):
            got, want = getattr(visible, name), getattr(wanted, name)[0]
            assert np.array_equal(got.numpy(), want.float().numpy()), name


def test_a_job_of_an_unknown_checkpoint_is_told_the_newest(
    segmenter: WindowSegmenter, checkpoint: str
) -> None:
    jobs = _jobs(checkpoint, 3)
    mixed = [jobs[0], replace(jobs[1], checkpoint="of another time"), jobs[2]]
    first, unknown, last = segmenter.forward(mixed)
    assert unknown == UnknownCheckpoint(checkpoint_hash(checkpoint))
    assert _same(_logits([first, last]), _alone(checkpoint, [jobs[0], jobs[2]]))


def test_a_replaced_checkpoint_answers_until_its_requests_are_over(
    segmenter: WindowSegmenter, checkpoint: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(segmenter_module.time, "monotonic", lambda: now_s)
    old, new = checkpoint_hash(checkpoint), checkpoint_hash(other)
    old_job, new_job = _jobs(checkpoint, 1)[0], _jobs(other, 1)[0]
    assert segmenter.forward([new_job]) == [UnknownCheckpoint(old)]
    segmenter.load(other)
    assert segmenter.spec.info.checkpoint == new
    for _ in range(2):
        answers = segmenter.forward([old_job, new_job])
        assert _same(_logits(answers), [*_alone(checkpoint, [old_job]), *_alone(other, [new_job])])
        assert {answer.newest for answer in answers} == {new}
        now_s += KEEP_S / 2
    now_s += 0.1
    gone, there = segmenter.forward([old_job, new_job])
    assert gone == UnknownCheckpoint(new)
    assert isinstance(there, WindowAnswer)


def test_a_checkpoint_that_comes_back_stays(
    segmenter: WindowSegmenter, checkpoint: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(segmenter_module.time, "monotonic", lambda: now_s)
    segmenter.load(other)
    segmenter.load(checkpoint)
    segmenter.load(checkpoint)
    now_s += KEEP_S + 1
    here, gone = segmenter.forward([_jobs(checkpoint, 1)[0], _jobs(other, 1)[0]])
    assert isinstance(here, WindowAnswer)
    assert gone == UnknownCheckpoint(checkpoint_hash(checkpoint))


def _damaged(source: str, folder: Path, name: str, data: bytes | None) -> str:
    shutil.copytree(source, folder)
    if data is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("weights.safetensors", None),
        ("weights.safetensors", b"cut"),
        ("config.yaml", None),
        ("config.yaml", b"a: ["),
        ("config.yaml", b"checkpoint_version: 999\n"),
    ],
)
def test_a_bad_checkpoint_changes_nothing(
    segmenter: WindowSegmenter, checkpoint: str, tmp_path: Path, name: str, data: bytes | None
) -> None:
    jobs = _jobs(checkpoint, 1)
    before, spec = _logits(segmenter.forward(jobs)), segmenter.spec
    with pytest.raises(CheckpointError):
        segmenter.load(_damaged(checkpoint, tmp_path / "bad", name, data))
    with pytest.raises(CheckpointError):
        segmenter.load(str(tmp_path / "absent"))
    with pytest.raises(CheckpointError, match="was replaced since"):
        segmenter.load(checkpoint, digest="another")
    assert segmenter.spec is spec
    assert _same(_logits(segmenter.forward(jobs)), before)


def test_the_spec_says_what_a_decoder_must_know(checkpoint: str, other: str) -> None:
    plain = describe(Predictor.from_checkpoint(checkpoint), name="default", share=0.75)
    assert (plain.windows_per_forward, plain.input_kind) == (BATCH, "log_mel")
    assert plain.category_names == ()
    info: Any = plain.info.to_json()
    assert info.pop("card") == "Random weights for tests.\n"
    assert info == {
        "name": "default",
        "default": True,
        "share": 0.75,
        "checkpoint": checkpoint_hash(checkpoint),
        "network": "tpavi",
        "num_frames": 5,
        "image_size_px": 96,
        "classes": ["background", "sounding"],
        "finds_objects": False,
        "metrics": {},
    }
    found = describe(Predictor.from_checkpoint(other), name="canary", share=0.25)
    assert found.info.finds_objects
    assert not found.info.is_default
    assert found.category_names == tuple(NAMES)
    assert checkpoint not in str(info)
