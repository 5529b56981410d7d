"""Which sound a clip gets: file, video, stored log-mel or silence, and what is told about it."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_clips import data_config, write_png, write_wav

from avs.datasets import DATASETS, AudioConfig, AudioSource, ClipSource, DataConfig, MissingSound
from avs.errors import ConfigError, MediaError
from avs.media.audio import (
    Alignment,
    clip_log_mel,
    from_int16,
    read_audio,
    silence_log_mel,
    to_int16,
)
from avs.media.logmel_pickle import read_log_mel_pickle
from avs.prepare.clip import prepare_rows
from avs.schema import Clip

WAV = "s4_data/audio_wav/val/dog/x.wav"
LOG_MEL = "s4_data/audio_log_mel/val/dog/x.pkl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A preprocessed clip of S4 with a wav of noise and its own log-mel."""
    (tmp_path / "s4_meta_data.csv").write_text("name,category,split\nx,dog,val\n")
    for k in range(1, 6):
        write_png(tmp_path / f"s4_data/visual_frames/val/dog/x/x_{k}.png", _black(3))
        write_png(tmp_path / f"s4_data/gt_masks/val/dog/x/x_{k}.png", _black())
    noise = np.random.default_rng(0).normal(size=(16000 * 5, 1)) * 2000
    write_wav(tmp_path / WAV, noise)
    _store(tmp_path, _recomputed(tmp_path))
    return tmp_path


def _black(*channels: int) -> np.ndarray:
    return np.zeros((16, 16, *channels), np.uint8)


def _store(root: Path, values: np.ndarray) -> None:
    path = root / LOG_MEL
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(torch.from_numpy(values).requires_grad_()))


def _recomputed(root: Path) -> np.ndarray:
    samples = read_audio(root / WAV)
    assert samples is not None
    return clip_log_mel(from_int16(to_int16(samples)), num_examples=5, pad="repeat")


def _config(
    root: Path, source: str = "auto", missing: str = "reject", alignment: str = "avsbench"
) -> DataConfig:
    audio = AudioConfig(
        source=AudioSource(source),
        missing=MissingSound(missing),
        alignment=Alignment(alignment),
    )
    return data_config("s4", root, audio=audio)


def _prepare(
    root: Path, source: str = "auto", missing: str = "reject", alignment: str = "avsbench"
) -> tuple[Clip, list[str]]:
    config = _config(root, source, missing, alignment)
    (clip_source,) = DATASETS["s4"].list_clips(config)
    warnings: list[str] = []
    (clip,) = prepare_rows(clip_source, config, warnings)
    return clip, warnings


def _listed(root: Path, **changes: str) -> ClipSource:
    (source,) = DATASETS["s4"].list_clips(_config(root, **changes))
    return source


def test_the_wav_is_preferred_and_an_equal_log_mel_is_not_mentioned(root: Path) -> None:
    clip, warnings = _prepare(root)
    assert np.array_equal(clip.log_mel, _recomputed(root))
    assert len(clip.waveform) == 80000
    assert warnings == []


def test_a_stored_log_mel_that_disagrees_is_told_and_not_used(root: Path) -> None:
    _store(root, _recomputed(root) + np.float32(0.2))
    clip, warnings = _prepare(root)
    assert np.array_equal(clip.log_mel, _recomputed(root))
    assert len(warnings) == 1
    assert "x.pkl differs from the log-mel of" in warnings[0]
    assert "by 0.20 on average" in warnings[0]


def test_a_log_mel_that_cannot_be_read_is_told_where_a_wav_stands_in(root: Path) -> None:
    (root / LOG_MEL).write_bytes(b"no pickle")
    clip, warnings = _prepare(root)
    assert np.array_equal(clip.log_mel, _recomputed(root))
    assert len(warnings) == 1
    assert "x.pkl" in warnings[0]
    with pytest.raises(MediaError, match=r"x\.pkl"):
        _prepare(root, "logmel")


def test_a_stored_log_mel_is_taken_where_it_is_asked_for_or_alone(root: Path) -> None:
    stored = _recomputed(root)[:3] + np.float32(1)
    _store(root, stored)
    wanted = np.concatenate([stored, stored[-1:], stored[-1:]])
    clip, _ = _prepare(root, "logmel")
    assert np.array_equal(clip.log_mel, wanted)
    assert clip.waveform.size == 0
    (root / WAV).unlink()
    clip, warnings = _prepare(root, "auto")
    assert np.array_equal(clip.log_mel, wanted)
    assert warnings == []


def test_the_wav_alone_is_taken_where_it_is_asked_for(root: Path) -> None:
    _store(root, _recomputed(root) + np.float32(9))
    assert _prepare(root, "wav")[1] == []


def test_a_clip_without_sound_is_a_reject_or_silent(root: Path) -> None:
    (root / WAV).unlink()
    assert "x.wav" in str(_listed(root, source="wav").problem)
    clip, _ = _prepare(root, "wav", "silence")
    assert np.array_equal(clip.log_mel, silence_log_mel(5))
    assert clip.waveform.shape == (80000,)
    assert not clip.waveform.any()


def test_exact_examples_are_made_of_the_sound_and_the_stored_ones_compared_as_they_are(
    root: Path,
) -> None:
    clip, warnings = _prepare(root, alignment="exact")
    sound = from_int16(clip.waveform)
    exact = clip_log_mel(sound, num_examples=5, pad="repeat", alignment=Alignment.EXACT)
    assert np.array_equal(clip.log_mel, exact)
    assert not np.array_equal(exact, _recomputed(root))
    assert warnings == []
    _store(root, _recomputed(root) + np.float32(0.2))
    _, warnings = _prepare(root, alignment="exact")
    assert len(warnings) == 1
    assert "by 0.20 on average" in warnings[0]


def test_a_stored_log_mel_alone_cannot_become_exact(root: Path) -> None:
    (root / WAV).unlink()
    for missing in ("reject", "silence"):
        with pytest.raises(MediaError, match=r"x\.pkl has alignment avsbench.*no sound"):
            _prepare(root, missing=missing, alignment="exact")
    with pytest.raises(ConfigError, match=r"source=logmel with data\.audio\.alignment=exact"):
        _config(root, "logmel", alignment="exact")


def test_real_log_mels_that_disagree_with_their_wav_are_told(root: Path, real_data: Path) -> None:
    pairs = sorted((real_data / "logmel-pairs").glob("*.wav"))
    assert len(pairs) == 8
    for wav in pairs:
        shutil.copyfile(wav, root / WAV)
        shutil.copyfile(wav.with_suffix(".pkl"), root / LOG_MEL)
        clip, warnings = _prepare(root)
        golden = np.load(wav.with_suffix(".recomputed.npy"))
        assert np.abs(clip.log_mel - golden).mean() < 0.01
        assert len(warnings) == 1
        assert "differs" in warnings[0]


def test_real_log_mels_that_agree_are_not_mentioned(real_data: Path) -> None:
    mini = real_data / "avsbench-mini"
    for name in ("s4", "ms3"):
        config = data_config(name, mini, audio=AudioConfig(source=AudioSource.LOGMEL))
        found = [s for s in DATASETS[name].list_clips(config) if not s.problem]
        assert len(found) == (33 if name == "s4" else 6)
        for source in found:
            assert source.log_mel is not None
            wav = source.log_mel.replace("audio_log_mel", "audio_wav").replace(".pkl", ".wav")
            samples = read_audio(wav)
            assert samples is not None
            ours = clip_log_mel(from_int16(to_int16(samples)), num_examples=5, pad="repeat")
            stored = read_log_mel_pickle(Path(source.log_mel).read_bytes())
            assert np.abs(ours - stored).mean() < 0.01
