"""Which sound each example of a log-mel holds: the official drift, and none."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from avs.media import clip_log_mel, log_mel, silence_log_mel
from avs.media.audio import Alignment
from avs.media.pieces import MediaPart, media_windows

RATE_HZ = 16000


def _noise(length_s: float, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, round(length_s * RATE_HZ)).astype(np.float32)


def _exact(
    samples: NDArray[np.float32], *, num_examples: int, pad: str = "repeat"
) -> NDArray[np.float32]:
    return clip_log_mel(
        samples,
        num_examples=num_examples,
        pad=pad,  # type: ignore[arg-type]
        alignment=Alignment.EXACT,
    )


def _heard(at_s: float, alignment: Alignment) -> tuple[int, int] | None:
    """Example and column of ten seconds that an impulse is loudest in; None: it is not heard."""
    samples = np.zeros(10 * RATE_HZ, np.float32)
    samples[round(at_s * RATE_HZ)] = 1.0
    examples = clip_log_mel(samples, num_examples=10, pad="repeat", alignment=alignment)
    silent = silence_log_mel(1)
    found = [k for k, example in enumerate(examples) if not np.array_equal(example[None], silent)]
    assert len(found) <= 1
    return (found[0], int(examples[found[0], 0].sum(axis=1).argmax())) if found else None


@pytest.mark.parametrize(
    ("second", "within_s", "avsbench", "exact"),
    [
        (0, 0.325, (0, 31), (0, 30)),
        (1, 0.325, (1, 35), (1, 30)),
        (4, 0.325, (4, 47), (4, 30)),
        (9, 0.325, (9, 67), (9, 30)),
        (0, 0.905, (0, 89), (0, 88)),
        (2, 0.905, (3, 1), (2, 88)),
        (4, 0.905, (5, 9), (4, 88)),
        (9, 0.905, None, (9, 88)),
    ],
)
def test_an_impulse_is_in_the_column_of_its_time(
    second: int, within_s: float, avsbench: tuple[int, int] | None, exact: tuple[int, int]
) -> None:
    """Four columns of 10 ms later in each official example; in the exact ones at one place."""
    at_s = second + within_s
    assert _heard(at_s, Alignment.AVSBENCH) == avsbench
    assert _heard(at_s, Alignment.EXACT) == exact


def test_the_official_alignment_is_the_default() -> None:
    samples = _noise(5)
    plain = clip_log_mel(samples, num_examples=5, pad="zero")
    assert np.array_equal(plain, log_mel(samples))
    official = Alignment.AVSBENCH
    named = clip_log_mel(samples, num_examples=5, pad="zero", alignment=official)
    assert np.array_equal(plain, named)


def test_an_exact_example_is_the_middle_of_its_second_alone() -> None:
    samples = _noise(10)
    examples = _exact(samples, num_examples=10)
    for k in range(10):
        middle = samples[k * RATE_HZ + 200 : (k + 1) * RATE_HZ - 200]
        assert np.array_equal(examples[k : k + 1], log_mel(middle))
    samples[3 * RATE_HZ : 4 * RATE_HZ] = _noise(1, seed=1)
    changed = (_exact(samples, num_examples=10) != examples).any(axis=(1, 2, 3))
    assert np.flatnonzero(changed).tolist() == [3]


@pytest.mark.parametrize(
    ("length_s", "count"), [(7, 5), (5, 5), (4.98, 5), (4.5, 5), (4.49, 4), (3, 3), (0.5, 1)]
)
def test_a_last_second_counts_from_its_half_on(length_s: float, count: int) -> None:
    samples = _noise(length_s)
    silence = np.zeros(5 * RATE_HZ, np.float32)
    filled = _exact(np.concatenate([samples, silence]), num_examples=5)
    repeated = _exact(samples, num_examples=5)
    zeroed = _exact(samples, num_examples=5, pad="zero")
    for clip in (repeated, zeroed):
        assert clip.shape == (5, 1, 96, 64)
        assert np.array_equal(clip[:count], filled[:count])
    assert (repeated[count:] == filled[count - 1]).all()
    assert not zeroed[count:].any()


@pytest.mark.parametrize("pad", ["repeat", "zero"])
def test_less_than_half_a_second_is_silence(pad: str) -> None:
    assert np.array_equal(_exact(_noise(0.49), num_examples=5, pad=pad), silence_log_mel(5))


@pytest.mark.parametrize("piece_s", [13, 5, 10])
def test_each_window_begins_anew_and_exact_examples_are_those_of_the_whole(piece_s: int) -> None:
    samples = _noise(13)
    parts = [
        MediaPart(
            frames=np.zeros((min(piece_s, 13 - first), 1, 1, 3), np.uint8),
            frame_time_s=np.arange(first, min(first + piece_s, 13)) + 15 / 16,
            samples=samples[first * RATE_HZ : (first + piece_s) * RATE_HZ],
        )
        for first in range(0, 13, piece_s)
    ]
    windows = list(media_windows(parts, window_frames=5))
    assert [w.window.start for w in windows] == [0, 5, 8]
    whole = _exact(samples, num_examples=13)
    for seen in windows:
        assert seen.sound is not None
        exact = _exact(seen.sound, num_examples=5)
        assert np.array_equal(exact, whole[list(seen.window.indices)])
        official = clip_log_mel(seen.sound, num_examples=5, pad="repeat")
        wanted = log_mel(samples[seen.window.start * RATE_HZ :])[:5]
        assert np.array_equal(official, wanted)  # the drift does not go on from the one before


def test_samples_that_are_no_floats_are_refused() -> None:
    """int16 as it lies in files would give a log-mel that is off by log(32768) everywhere."""
    with pytest.raises(ValueError, match=r"int16: give floats in \[-1, 1\]"):
        log_mel(np.zeros(16_000, np.int16))  # type: ignore[arg-type]  # what is tested
