"""The stages of the bucket job, called as Ray might: in any order, twice, or not to the end."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from avsc_files import save_avsc
from made_clips import write_video
from small_configs import ONE_WORKER

from avs import storage
from avs.errors import LeaseError
from avs.inference.bucket import decode, job, write
from avs.inference.bucket.decode import cut_video
from avs.inference.bucket.job import BucketJob, Cut, Masks, Outcome, Video, committed, job_key
from avs.inference.bucket.segment import WindowsSegmenter
from avs.inference.bucket.write import PARTS, write_masks
from avs.inference.config import SegmentConfig
from avs.inference.outputs import OutputKind
from avs.inference.predictor import Predictor
from avs.lease import Lease
from avs.models.audio import AUDIO_NETWORKS
from avs.schema import Source
from avs.storage_remote import StorageError
from avs.training.checkpoint import load_checkpoint

THRESHOLD = 0.17  # the masks of random weights are then all different


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An AVSC of random weights, T = 3, two windows a forward."""
    return save_avsc(tmp_path_factory.mktemp("avsc"), names=["bell", "car", "dog"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 7.25 s (three windows), 2 s and one that is cut off."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "long.mp4", duration_s=7.25, size_px=(48, 80))
    write_video(folder / "short.mp4", duration_s=2, size_px=(40, 64))
    (folder / "cut.mp4").write_bytes((folder / "long.mp4").read_bytes()[:300])
    return folder


@pytest.fixture
def bucket(checkpoint: str, tmp_path: Path) -> Iterator[BucketJob]:
    """A job that holds its lease."""
    with Lease(str(tmp_path / "out"), job="segment") as lease:
        yield _job(checkpoint, tmp_path / "out", lease.owner)


def _job(checkpoint: str, out: Path, owner: str, **changes: object) -> BucketJob:
    loaded = load_checkpoint(checkpoint)
    made = BucketJob(
        checkpoint=checkpoint,
        key="0123",
        out=str(out),
        owner=owner,
        outputs=(OutputKind.RLE_JSON, OutputKind.PNG),
        threshold=THRESHOLD,
        masks_per_s=1,
        objects=False,
        device="cpu",
        clip=loaded.clip,
        input_kind=AUDIO_NETWORKS[loaded.model.audio_network].build.input_kind,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def _video(path: Path) -> Video:
    size_bytes, version = storage.file_version(str(path))
    return Video(
        name=path.name, source=Source(uri=str(path), size_bytes=size_bytes, version=version)
    )


def _cuts(path: Path, bucket: BucketJob) -> list[Cut]:
    made = list(cut_video(_video(path), bucket))
    assert all(isinstance(cut, Cut) for cut in made)
    return made  # type: ignore[return-value]


def _written(out: str, name: str) -> object:
    return json.loads((Path(out) / name / "masks.json").read_text())


def _expected(checkpoint: str, path: Path) -> object:
    track = Predictor.from_checkpoint(checkpoint).segment_video(str(path), threshold=THRESHOLD)
    return json.loads(json.dumps(track.to_json()))


ORDERS: dict[str, Callable[[list[Masks]], object]] = {
    "as they come": list.copy,
    "last first": lambda parts: parts.reverse(),
    "any": lambda parts: random.Random(3).shuffle(parts),
}


@pytest.mark.parametrize("order", ORDERS)
def test_parts_of_a_long_video_join_without_a_seam(
    bucket: BucketJob,
    checkpoint: str,
    folder: Path,
    order: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode, "WINDOWS_PER_PART", 1)
    path = folder / "long.mp4"
    cuts = _cuts(path, bucket)
    assert [(cut.part, cut.is_last) for cut in cuts] == [(0, False), (1, False), (2, True)]
    workers = [WindowsSegmenter(bucket, mask_threads=threads) for threads in (0, 1)]
    parts = [part for cut in cuts for part in workers[cut.part % 2]([cut])]
    ORDERS[order](parts)

    rows = [write_masks(part, bucket) for part in parts]

    assert rows[:2] == [None, None]
    assert rows[2] is not None
    assert rows[2].row["num_masks"] == 7
    assert _written(bucket.out, "long.mp4") == _expected(checkpoint, path)
    assert not (Path(bucket.out) / PARTS).exists() or not list((Path(bucket.out) / PARTS).iterdir())


def test_windows_of_several_videos_in_one_batch_give_each_its_own_masks(
    bucket: BucketJob, checkpoint: str, folder: Path
) -> None:
    cuts = _cuts(folder / "short.mp4", bucket) + _cuts(folder / "long.mp4", bucket)
    for part in WindowsSegmenter(bucket)(cuts):
        write_masks(part, bucket)
    for name in ("short.mp4", "long.mp4"):
        assert _written(bucket.out, name) == _expected(checkpoint, folder / name)


def test_a_call_that_is_repeated_gives_the_same_row_and_writes_nothing(
    bucket: BucketJob, folder: Path
) -> None:
    [part] = WindowsSegmenter(bucket)(_cuts(folder / "short.mp4", bucket))
    first = write_masks(part, bucket)
    record = Path(bucket.out) / "short.mp4" / job.COMMIT
    before = record.stat().st_mtime_ns
    assert write_masks(part, bucket) == first
    assert record.stat().st_mtime_ns == before
    assert first is not None
    assert committed(bucket, _video(folder / "short.mp4")) == first.row


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"key": "0123"}', "\x00"])
def test_a_video_with_a_damaged_record_is_not_done(
    bucket: BucketJob, folder: Path, text: str
) -> None:
    [part] = WindowsSegmenter(bucket)(_cuts(folder / "short.mp4", bucket))
    first = write_masks(part, bucket)
    record = Path(bucket.out) / "short.mp4" / job.COMMIT
    record.write_text(text)
    assert committed(bucket, _video(folder / "short.mp4")) is None
    again = write_masks(part, bucket)
    assert again is not None
    assert first is not None
    assert again.row["outputs"] == first.row["outputs"]
    assert committed(bucket, _video(folder / "short.mp4")) == again.row


def test_two_that_join_at_once_leave_one_whole_video(
    bucket: BucketJob, checkpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "WINDOWS_PER_PART", 1)
    path = folder / "long.mp4"
    parts = list(WindowsSegmenter(bucket)(_cuts(path, bucket)))
    for part in parts[:2]:
        assert write_masks(part, bucket) is None
    with monkeypatch.context() as both:
        # The second has looked for the record before the first wrote it, and joins as well.
        kept = storage.remove
        both.setattr(write, "committed", lambda *_: None)
        both.setattr(write.storage, "remove", lambda uri: None if PARTS in str(uri) else kept(uri))
        rows = [write_masks(part, bucket) for part in (parts[2], parts[1])]
    assert [row.row["num_masks"] for row in rows if row] == [7, 7]
    assert _written(bucket.out, "long.mp4") == _expected(checkpoint, path)
    # One more comes when all parts are gone.
    assert write_masks(parts[0], bucket) is not None


def test_what_is_left_of_another_version_neither_counts_nor_stays(
    bucket: BucketJob, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(bucket.out) / "short.mp4"
    (place / "png").mkdir(parents=True)
    (place / "png" / "000099.png").write_bytes(b"of a longer version")
    (place / "overlay.mp4").write_bytes(b"of other outputs")
    inner = [place / "1.mp4", place / "png" / "000000.png.mp4"]  # videos below one of that name
    for video in inner:
        video.mkdir()
        (video / "masks.json").write_text("theirs")
    (place / job.COMMIT).write_text('{"key": "other", "source": {}, "row": {}, "files": []}')
    [part] = WindowsSegmenter(bucket)(_cuts(folder / "short.mp4", bucket))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(write.storage, "put_file", full)
        with pytest.raises(StorageError, match=r"short\.mp4: .*No space left .*: it goes on"):
            write_masks(part, bucket)
    assert not (place / job.COMMIT).exists()
    assert committed(bucket, _video(folder / "short.mp4")) is None

    write_masks(part, bucket)
    for video in inner:
        assert (video / "masks.json").read_text() == "theirs"
        shutil.rmtree(video)
    left = sorted(p.name for p in place.rglob("*") if p.is_file())
    assert left == ["000000.png", "000001.png", job.COMMIT, "masks.json"]


def test_what_says_nothing_about_the_video_ends_the_job(bucket: BucketJob, folder: Path) -> None:
    [part] = WindowsSegmenter(bucket)(_cuts(folder / "short.mp4", bucket))
    (Path(bucket.out) / "_lease.json").unlink()
    with pytest.raises(LeaseError, match="was removed"):
        write_masks(part, bucket)
    assert not (Path(bucket.out) / "short.mp4" / job.COMMIT).exists()


def test_a_video_that_cannot_be_used_is_a_row(bucket: BucketJob, folder: Path) -> None:
    [made] = cut_video(_video(folder / "cut.mp4"), bucket)
    assert isinstance(made, Outcome)
    assert (made.row["video"], made.row["status"], made.row["stage"]) == (
        "cut.mp4",
        "rejected",
        "decode",
    )
    assert made.row["reason"].startswith("cut.mp4: ")  # and not a path of this machine


def test_a_video_that_changed_since_it_was_listed_is_not_committed_for_the_old_version(
    bucket: BucketJob, folder: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(folder / "short.mp4", tmp_path / "v.mp4"))
    listed = _video(path)
    write_video(path, duration_s=3, size_px=(40, 64))
    [made] = cut_video(listed, bucket)
    assert isinstance(made, Outcome)
    assert "changed since it was listed: run the job again" in made.row["reason"]


def test_processes_that_decode_or_write_load_no_torch() -> None:
    code = "import sys, avs.inference.bucket.pipeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_the_key_is_another_for_all_that_outputs_depend_on(checkpoint: str) -> None:
    config = SegmentConfig(
        checkpoint=checkpoint,
        input="in",
        out="out",
        outputs=[OutputKind.RLE_JSON, OutputKind.PNG],
        threshold=0.5,
        scale=ONE_WORKER,
    )
    keys = {
        job_key(config, "weights"),
        job_key(config, "others"),
        job_key(replace(config, threshold=0.4), "weights"),
        job_key(replace(config, masks_per_s=2), "weights"),
        job_key(replace(config, masks_per_s="native"), "weights"),
        job_key(replace(config, objects=True), "weights"),
        job_key(replace(config, outputs=[OutputKind.PNG]), "weights"),
    }
    assert len(keys) == 7
    turned = replace(config, outputs=[OutputKind.PNG, OutputKind.RLE_JSON])
    assert job_key(turned, "weights") == job_key(config, "weights")
