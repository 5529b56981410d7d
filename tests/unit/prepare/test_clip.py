"""One source to rows: frames, masks and sound as the files have them, or a reason why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_clips import SIZE_PX, data_config, write_png, write_video, write_wav
from PIL import Image

from avs.datasets import (
    DATASETS,
    AudioConfig,
    ClipSource,
    MissingSound,
)
from avs.errors import AvsError, DataError, MediaError
from avs.media import pieces
from avs.media.audio import (
    Alignment,
    clip_log_mel,
    from_int16,
    read_audio,
    silence_log_mel,
    to_int16,
)
from avs.media.encoding import write_mp4
from avs.media.frames import read_image, resize_frames
from avs.media.masks import read_mask, voc_palette
from avs.media.video import Sampling, decode_video
from avs.prepare.clip import prepare_clip
from avs.schema import Clip


def _sources(name: str, root: Path, split: str) -> list[ClipSource]:
    sources = DATASETS[name].list_clips(data_config(name, root))
    return [s for s in sources if s.split == split]


def _prepare(name: str, root: Path, source: ClipSource, **changes: object) -> Clip:
    (clip,) = prepare_clip(source, data_config(name, root, **changes))
    return clip


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unlabelled videos of 3 and 12 s with sound, and one of 5 s without."""
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "short.mp4", duration_s=3)
    write_video(root / "long.mp4", duration_s=12)
    write_video(root / "silent.mp4", duration_s=5, sound=False)
    return root


def _video_rows(root: Path, name: str, **changes: object) -> list[Clip]:
    config = data_config("folder", root / name, **changes)
    (source,) = DATASETS["folder"].list_clips(config)
    return prepare_clip(source, config)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_s4_clip_is_what_its_files_hold(s4_root: Path, split: str) -> None:
    source = _sources("s4", s4_root, split)[0]
    clip = _prepare("s4", s4_root, source)
    assert source.video is not None
    video = decode_video(
        source.video, size_px=(SIZE_PX, SIZE_PX), sampling=Sampling.OFFICIAL, num_frames=5
    )
    assert np.array_equal(clip.frames, video.frames)
    assert clip.frame_time_s.tolist() == [0.875, 1.875, 2.875, 3.875, 4.875]
    assert video.samples is not None
    sound = from_int16(to_int16(video.samples))
    assert np.array_equal(clip.log_mel, clip_log_mel(sound, num_examples=5, pad="repeat"))
    assert np.array_equal(clip.waveform, to_int16(sound))
    wanted = [True, *[False] * 4] if split == "train" else [True] * 5
    assert clip.mask_valid.tolist() == wanted
    for k, uri in enumerate(source.masks):
        expected = np.zeros((SIZE_PX, SIZE_PX)) if uri is None else read_mask(uri)
        assert np.array_equal(clip.masks[k], expected)
    assert clip.masks[0].any()
    assert clip.frame_valid.all()
    assert clip.categories == list(source.categories)
    assert (clip.native_height_px, clip.native_width_px) == (SIZE_PX, SIZE_PX)
    assert (clip.clip_id, clip.source) == (source.clip_id, source.source)


def test_every_frame_of_an_ms3_train_clip_has_its_mask(ms3_root: Path) -> None:
    for source in _sources("ms3", ms3_root, "train")[:3]:
        clip = _prepare("ms3", ms3_root, source)
        assert clip.mask_valid.all()
        for k, uri in enumerate(source.masks):
            assert uri is not None
            assert np.array_equal(clip.masks[k], read_mask(uri))


def test_frames_and_masks_are_resized_together(ms3_root: Path) -> None:
    source = _sources("ms3", ms3_root, "val")[0]
    clip = _prepare("ms3", ms3_root, source, image_size_px=32)
    assert clip.frames.shape == (5, 32, 32, 3)
    assert clip.masks.shape == (5, 32, 32)
    assert (clip.native_height_px, clip.native_width_px) == (SIZE_PX, SIZE_PX)
    full = _prepare("ms3", ms3_root, source)
    assert np.array_equal(clip.masks, full.masks[:, 1::2, 1::2])


def test_the_waveform_is_left_out_where_it_is_not_wanted(s4_root: Path) -> None:
    source = _sources("s4", s4_root, "val")[0]
    assert len(_prepare("s4", s4_root, source, with_waveform=False).waveform) == 0


@pytest.fixture
def preprocessed(tmp_path: Path) -> tuple[Path, ClipSource]:
    """A val clip of S4 as visual_frames (40 x 56 px) and audio_wav (44.1 kHz stereo)."""
    (tmp_path / "s4_meta_data.csv").write_text("name,category,split\nx,dog,val\n")
    rng = np.random.default_rng(0)
    for k in range(1, 6):
        frame = rng.integers(0, 256, (40, 56, 3), np.uint8)
        write_png(tmp_path / f"s4_data/visual_frames/val/dog/x/x_{k}.png", frame)
        mask = np.zeros((224, 224), np.uint8)
        mask[: 40 * k] = 255
        write_png(tmp_path / f"s4_data/gt_masks/val/dog/x/x_{k}.png", mask)
    audio = tmp_path / "s4_data/audio_wav/val/dog/x.wav"
    write_wav(audio, rng.normal(size=(44100 * 4, 2)) * 3000, rate_hz=44100)
    return tmp_path, _sources("s4", tmp_path, "val")[0]


def test_a_preprocessed_clip_is_what_its_files_hold(preprocessed: tuple[Path, ClipSource]) -> None:
    root, source = preprocessed
    clip = _prepare("s4", root, source)
    images = np.stack([read_image(f) for f in source.frames])
    assert np.array_equal(clip.frames, resize_frames(images, (SIZE_PX, SIZE_PX)))
    assert source.audio is not None
    samples = read_audio(source.audio)
    assert samples is not None
    assert len(samples) == 16000 * 4
    expected = clip_log_mel(from_int16(to_int16(samples)), num_examples=5, pad="repeat")
    assert np.array_equal(clip.log_mel, expected)
    assert np.array_equal(clip.log_mel[3], clip.log_mel[4])
    assert clip.masks.mean((1, 2)) == pytest.approx([k * 40 / 224 for k in range(1, 6)], abs=0.02)
    assert (clip.native_height_px, clip.native_width_px) == (40, 56)
    assert clip.frame_time_s.tolist() == [k + 15 / 16 for k in range(5)]


def test_a_mask_at_the_size_of_the_picture_is_taken(preprocessed: tuple[Path, ClipSource]) -> None:
    root, source = preprocessed
    assert source.masks[2] is not None
    write_png(Path(source.masks[2]), np.full((40, 56), 255, np.uint8))
    assert _prepare("s4", root, source).masks[2].all()


def test_a_mask_of_another_size_is_named_with_the_sizes(
    preprocessed: tuple[Path, ClipSource],
) -> None:
    root, source = preprocessed
    assert source.masks[2] is not None
    write_png(Path(source.masks[2]), np.zeros((100, 50), np.uint8))
    reason = r"x_3\.png is 50x100 px; wanted 224x224 or the picture's 56x40"
    with pytest.raises(MediaError, match=reason):
        _prepare("s4", root, source)


@pytest.mark.parametrize("which", ["mask", "frame", "audio"])
def test_a_file_that_is_no_picture_or_sound_is_named(
    preprocessed: tuple[Path, ClipSource], which: str
) -> None:
    root, source = preprocessed
    broken = {"mask": source.masks[1], "frame": source.frames[1], "audio": source.audio}[which]
    assert broken is not None
    Path(broken).write_bytes(b"this is no media file")
    with pytest.raises(MediaError, match=Path(broken).name):
        _prepare("s4", root, source)


def test_frames_of_two_sizes_are_refused(preprocessed: tuple[Path, ClipSource]) -> None:
    root, source = preprocessed
    write_png(Path(source.frames[3]), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(MediaError, match=r"x_1\.png differ in size"):
        _prepare("s4", root, source)


def test_a_file_gone_since_the_listing_is_named(preprocessed: tuple[Path, ClipSource]) -> None:
    root, source = preprocessed
    Path(source.frames[4]).unlink()
    with pytest.raises(DataError, match=r"x_5\.png does not exist"):
        _prepare("s4", root, source)


def test_a_labelled_clip_without_sound_is_refused(s4_root: Path, tmp_path: Path) -> None:
    source = _sources("s4", s4_root, "val")[0]
    write_video(tmp_path / "mute.mp4", duration_s=5, size_px=(SIZE_PX, SIZE_PX), sound=False)
    mute = str(tmp_path / "mute.mp4")
    silent = replace(source, video=mute, source=replace(source.source, uri=mute))
    with pytest.raises(MediaError, match=r"mute\.mp4 has no sound"):
        _prepare("s4", s4_root, silent)


@pytest.mark.parametrize("cut", [0.6, 0.0])
def test_a_cut_off_or_empty_video_is_refused(s4_root: Path, tmp_path: Path, cut: float) -> None:
    source = _sources("s4", s4_root, "val")[0]
    assert source.video is not None
    data = Path(source.video).read_bytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(AvsError, match=r"broken\.mp4"):
        _prepare("s4", s4_root, replace(source, video=str(broken)))


def test_a_problem_of_the_listing_is_the_reason(s4_root: Path) -> None:
    source = replace(_sources("s4", s4_root, "val")[0], problem="it is not there")
    with pytest.raises(MediaError, match=r"^it is not there$"):
        _prepare("s4", s4_root, source)


@pytest.mark.parametrize("form", ["semantic", "rgb"])
def test_an_avss_clip_is_padded_to_t_with_flags(tmp_path: Path, form: str) -> None:
    (tmp_path / "metadata.csv").write_text("uid,a_obj,split,label\nu,dog,val,v1m\n")
    for k in range(5):
        write_png(tmp_path / f"v1m/u/frames/{k}.jpg", np.full((224, 224, 3), 40 * k, np.uint8))
        index = np.zeros((224, 224), np.uint8)
        index[:112] = k
        image = index if form == "semantic" else _voc(index)
        write_png(tmp_path / f"v1m/u/labels_{form}/{k}.png", image)
    write_wav(tmp_path / "v1m/u/audio.wav", np.full((80000, 1), 900.0), rate_hz=16000)
    (source,) = DATASETS["avss"].list_clips(data_config("avss", tmp_path, num_frames=10))
    clip = _prepare("avss", tmp_path, source, num_frames=10)
    assert clip.frame_valid.tolist() == [True] * 5 + [False] * 5
    assert clip.mask_valid.tolist() == [True] * 5 + [False] * 5
    assert [int(m.max()) for m in clip.masks] == [0, 1, 2, 3, 4, 0, 0, 0, 0, 0]
    assert not clip.frames[5:].any()
    assert not clip.log_mel[5:].any()
    assert clip.log_mel[4].any()


def _voc(index: np.ndarray) -> np.ndarray:
    return np.asarray(voc_palette(71)[index])


def test_a_long_video_becomes_windows_that_tell_their_start(videos: Path) -> None:
    rows = _video_rows(videos, "long.mp4")
    assert [r.clip_id for r in rows] == [f"folder/videos/long.mp4@{ms}" for ms in (0, 5000, 7000)]
    assert [r.frame_time_s.astype(int).tolist() for r in rows] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [7, 8, 9, 10, 11],
    ]
    assert all(r.frame_valid.all() and not r.mask_valid.any() for r in rows)
    assert np.array_equal(rows[1].frames[2:], rows[2].frames[:3])
    assert np.array_equal(rows[1].waveform[32000:], rows[2].waveform[:48000])
    assert (rows[0].native_height_px, rows[0].native_width_px) == (48, 80)
    whole = decode_video(videos / "long.mp4", size_px=(64, 64), sampling=Sampling.TIME)
    assert whole.samples is not None
    assert np.array_equal(rows[2].waveform, to_int16(whole.samples[112000:192000]))
    assert np.array_equal(rows[2].frames, whole.frames[7:])


def test_a_video_in_pieces_becomes_the_rows_of_the_whole(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _video_rows(videos, "long.mp4")
    monkeypatch.setattr(pieces, "PIECE_S", 5)
    rows = _video_rows(videos, "long.mp4")
    assert [r.clip_id for r in rows] == [r.clip_id for r in whole]
    for row, wanted in zip(rows, whole, strict=True):
        assert np.array_equal(row.frames, wanted.frames)
        assert np.array_equal(row.frame_time_s, wanted.frame_time_s)
        assert np.abs(row.waveform.astype(int) - wanted.waveform).max() <= 2


def test_windows_of_a_video_have_the_alignment_that_is_asked_for(videos: Path) -> None:
    official = _video_rows(videos, "long.mp4")
    exact = _video_rows(videos, "long.mp4", audio=AudioConfig(alignment=Alignment.EXACT))
    for rows, alignment in ((official, Alignment.AVSBENCH), (exact, Alignment.EXACT)):
        for row in rows:
            sound = from_int16(row.waveform)
            wanted = clip_log_mel(sound, num_examples=5, pad="repeat", alignment=alignment)
            assert np.array_equal(row.log_mel, wanted)
    assert np.array_equal(exact[1].log_mel[2:], exact[2].log_mel[:3])  # the same seconds
    assert not np.array_equal(official[1].log_mel[2:], official[2].log_mel[:3])


def test_a_short_video_is_padded_with_its_last_frame(videos: Path) -> None:
    (row,) = _video_rows(videos, "short.mp4")
    assert row.clip_id == "folder/videos/short.mp4@0"
    assert row.frame_valid.tolist() == [True, True, True, False, False]
    assert np.array_equal(row.frames[2], row.frames[4])
    assert not row.waveform[16000 * 4 :].any()


def test_an_unlabelled_video_without_sound_is_silent_where_that_is_wanted(videos: Path) -> None:
    with pytest.raises(MediaError, match=r"silent\.mp4 has no sound"):
        _video_rows(videos, "silent.mp4")
    (row,) = _video_rows(videos, "silent.mp4", audio=AudioConfig(missing=MissingSound.SILENCE))
    assert np.array_equal(row.log_mel, silence_log_mel(5))
    assert row.waveform.shape == (80000,)
    assert not row.waveform.any()


def test_a_picture_is_no_video(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.mp4", format="PNG")
    with pytest.raises(MediaError, match=r"x\.mp4"):
        _video_rows(tmp_path, "x.mp4")


def test_a_sound_track_without_samples_is_silent(tmp_path: Path) -> None:
    frames = np.zeros((40, 48, 80, 3), np.uint8)
    write_mp4(tmp_path / "x.mp4", frames, fps=8, samples=np.zeros(0, np.float32))
    (row,) = _video_rows(tmp_path, "x.mp4", audio=AudioConfig(missing=MissingSound.SILENCE))
    assert np.array_equal(row.log_mel, silence_log_mel(5))
