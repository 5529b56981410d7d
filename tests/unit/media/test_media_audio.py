"""Log-mel against the golden values, resampling, and sound files of all kinds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from avs.media import clip_log_mel, log_mel, logmel, resampling, silence_log_mel
from avs.media.audio import (
    SAMPLE_RATE_HZ,
    from_int16,
    read_audio,
    read_sound_track,
    resample,
    to_int16,
)
from avs.media.resampling import StreamResampler

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "vggish_logmel.npz"


def golden_waveform(length_s: float) -> NDArray[np.float32]:
    """The waveform that the golden log-mel values were computed from."""
    t = np.arange(int(16000 * length_s)) / 16000
    noise = np.random.Generator(np.random.PCG64(7)).standard_normal(len(t))
    wave = 0.4 * np.sin(2 * np.pi * (200 * t + 300 * t**2))
    wave += 0.2 * np.sin(2 * np.pi * 1000 * t) * (t > 1) + 0.05 * noise
    return from_int16(np.round(32767 * np.clip(wave, -1, 1)).astype(np.int16))


@pytest.mark.parametrize("length_s", [5.0, 10.0, 4.3])
def test_log_mel_equals_the_official_one(length_s: float) -> None:
    with np.load(GOLDEN) as golden:
        expected = golden[f"logmel_{length_s}"]
    actual = log_mel(golden_waveform(length_s))
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("num_samples", "count"), [(0, 0), (399, 0), (15599, 0), (15600, 1), (80000, 5), (160000, 10)]
)
def test_a_rest_shorter_than_an_example_is_dropped(num_samples: int, count: int) -> None:
    assert log_mel(np.zeros(num_samples, np.float32)).shape == (count, 1, 96, 64)


def test_long_sound_is_computed_in_blocks_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = log_mel(golden_waveform(10.0))
    monkeypatch.setattr(logmel, "_EXAMPLES_PER_BLOCK", 3)
    np.testing.assert_array_equal(log_mel(golden_waveform(10.0)), whole)


def test_silence_is_the_logarithm_of_the_offset() -> None:
    np.testing.assert_array_equal(log_mel(np.zeros(80000, np.float32)), silence_log_mel(5))
    assert silence_log_mel(1, 0.1)[0, 0, 0, 0] == pytest.approx(np.log(0.1))


def test_clips_have_a_fixed_number_of_examples() -> None:
    wave = golden_waveform(4.3)
    examples = log_mel(wave)
    repeated = clip_log_mel(wave, num_examples=6, pad="repeat")
    zeroed = clip_log_mel(wave, num_examples=6, pad="zero")
    for clip in (repeated, zeroed):
        np.testing.assert_array_equal(clip[:4], examples)
    assert (repeated[4:] == examples[-1]).all()
    assert not zeroed[4:].any()
    cut = clip_log_mel(wave, num_examples=2, pad="zero")
    np.testing.assert_array_equal(cut, examples[:2])
    for nothing in (None, np.zeros(100, np.float32)):
        for pad in ("repeat", "zero"):
            clip = clip_log_mel(nothing, num_examples=5, pad=pad)  # type: ignore[arg-type]
            np.testing.assert_array_equal(clip, silence_log_mel(5))
    with pytest.raises(ValueError, match="pad must be"):
        clip_log_mel(wave, num_examples=5, pad="wrap")  # type: ignore[arg-type]


def test_16_bit_samples_survive_a_round_trip() -> None:
    every = np.arange(-32768, 32768).astype(np.int16)
    np.testing.assert_array_equal(to_int16(from_int16(every)), every)
    odd = np.array([1.5, -1.5, np.nan, np.inf], np.float32)
    assert to_int16(odd).tolist() == [32767, -32768, 0, 32767]


@pytest.mark.parametrize("rate_hz", [8000, 11024, 22050, 44100, 44099, 48000, 96000])
def test_resampling_does_not_depend_on_the_pieces(
    rate_hz: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(3 * rate_hz + 77).astype(np.float32)
    whole = resample(samples, rate_hz)
    assert len(whole) == pytest.approx(len(samples) * 16000 / rate_hz, abs=1)
    monkeypatch.setattr(resampling, "_BLOCK_S", 1)
    stream = StreamResampler(rate_hz)
    cuts = np.sort(rng.integers(0, len(samples), 40))
    pieces = [stream.push(piece) for piece in np.split(samples, cuts)]
    joined = np.concatenate([*pieces, stream.finish()])
    np.testing.assert_allclose(joined, whole, atol=2e-5)


@pytest.mark.parametrize("rate_hz", [8000, 44100, 48000])
def test_resampling_keeps_a_tone(rate_hz: int) -> None:
    t = np.arange(2 * rate_hz) / rate_hz
    tone = resample(np.sin(2 * np.pi * 1000 * t).astype(np.float32), rate_hz)
    expected = np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000)
    np.testing.assert_allclose(tone[2000:-2000], expected[2000:-2000], atol=1e-3)


def _write_wav(path: Path, samples: NDArray[np.int16], rate_hz: int) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())


def test_wav_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "two.wav"
    left = np.random.default_rng(0).integers(-20000, 20000, 5000).astype(np.int16)
    _write_wav(path, np.stack([left, np.zeros_like(left)], axis=1), SAMPLE_RATE_HZ)
    samples = read_audio(path)
    assert samples is not None
    np.testing.assert_array_equal(samples, from_int16(left) / 2)


def test_at_most_the_wanted_length_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    _write_wav(path, np.ones((441000, 1), np.int16), 44100)
    samples = read_audio(path, max_duration_s=2.5)
    assert samples is not None
    assert len(samples) == 40000


def test_a_video_without_sound_gives_none(tmp_path: Path) -> None:
    from avs.media.encoding import write_mp4

    path = tmp_path / "mute.mp4"
    write_mp4(path, np.zeros((8, 32, 32, 3), np.uint8), fps=8, samples=None)
    assert read_audio(path) is None


@pytest.mark.real_data
def test_odd_sound_files_are_read(clips: Path) -> None:
    folder = clips.parent / "audio"
    with (folder / "INDEX.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        track = read_sound_track(folder / row["file"])
        assert track is not None
        decoded_s = int(row["samples_decoded"]) / int(row["sample_rate"])
        # Opus may lose its pre-skip; broken sound is filled up with silence.
        assert len(track.samples) / SAMPLE_RATE_HZ > decoded_s - 0.01, row["file"]
        assert bool(track.warnings) == bool(row["decode_error"]), row["file"]
        assert np.isfinite(track.samples).all()


@pytest.mark.real_data
def test_sound_that_breaks_off_is_followed_by_silence(clips: Path) -> None:
    track = read_sound_track(clips.parent / "audio" / "malformed-join.mp3")
    assert track is not None
    assert "breaks off after 6.53 s" in track.warnings[0]
    assert len(track.samples) == pytest.approx(8.563 * 16000, abs=16)
    assert not track.samples[int(6.6 * 16000) :].any()


@pytest.mark.real_data
def test_log_mel_of_resampled_recordings_is_close_to_the_official(clips: Path) -> None:
    """Official: resampy. Ours: the same filter in float64; largest difference seen 0.024."""
    folder = clips.parent / "logmel-pairs"
    for path in sorted(folder.glob("*.wav")):
        samples = read_audio(path)
        assert samples is not None
        difference = np.abs(log_mel(samples) - np.load(path.with_suffix(".recomputed.npy")))
        assert difference.max() < 0.03, path.name
        assert difference.mean() < 0.0006, path.name
