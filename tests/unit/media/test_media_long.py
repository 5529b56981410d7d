"""Long videos cost the memory of what is asked for, not of their length."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from media_clips import add_sound, add_video, encode_sound, encode_video, mux_in_order

# Peak resident memory in MB after the short and the long file of each format, in one process: a
# peak never falls, so what the long file needs more than the short one shows as growth.
_MEASURE = """
import json, resource, sys
from avs.media.video import Sampling, decode_video, probe

for line in sys.stdin:
    path, start_s = json.loads(line)
    probe(path)
    parts = [
        decode_video(path, size_px=(32, 32), sampling=Sampling.TIME, start_s=at_s, num_frames=10)
        for at_s in (0.0, start_s)
    ]
    print(json.dumps({
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "means": [round(float(part.frames.mean())) for part in parts],
        "samples": [len(part.samples) for part in parts],
    }))
"""


# The same for all windows of a file, as prepare and the Predictor take them.
_MEASURE_WINDOWS = """
import json, resource, sys
from avs.media.pieces import decode_pieces, media_windows, part_of

for line in sys.stdin:
    path = json.loads(line)
    parts = map(part_of, decode_pieces(path, size_px=(112, 112)))
    count = sum(len(w.window.new) for w in media_windows(parts, window_frames=5))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"mb": own / 1024, "count": count}))
"""


def _write(path: Path, form: str, length_s: int) -> Path:
    """One grey picture a second, brighter in the second half; a tone throughout."""
    frames = np.broadcast_to(np.uint8(60), (length_s, 48, 64, 3)).copy()
    frames[length_s // 2 :] = 180
    t = np.arange(length_s * 8000, dtype=np.float32) / 8000
    with av.open(str(path), mode="w", format=form) as container:
        video = add_video(container, fps=1)
        sound = add_sound(container, "pcm_s16le", 8000)
        mux_in_order(
            container,
            encode_video(video, frames),
            encode_sound(sound, (0.0, 0.5 * np.sin(2 * np.pi * 440 * t))),
        )
    return path


def _measure(program: str, inputs: Sequence[object]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="".join(json.dumps(value) + "\n" for value in inputs),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_hour_needs_the_memory_of_five_minutes(tmp_path: Path) -> None:
    clips = []
    for form in ("mov", "matroska"):
        for length_s in (300, 3600):
            path = _write(tmp_path / f"{length_s}.{form}", form, length_s)
            clips.append((str(path), length_s - 20.0))
    found = _measure(_MEASURE, clips)
    for one in found:
        np.testing.assert_allclose(one["means"], [60, 180], atol=4)
        assert one["samples"] == [11 * 16000, 11 * 16000]
    for short, long in (found[:2], found[2:]):
        assert long["mb"] < short["mb"] + 15


def test_all_windows_of_an_hour_need_the_memory_of_ten_minutes(tmp_path: Path) -> None:
    lengths_s = (600, 3600)
    paths = [str(_write(tmp_path / f"{n}.mov", "mov", n)) for n in lengths_s]
    short, long = _measure(_MEASURE_WINDOWS, paths)
    assert (short["count"], long["count"]) == lengths_s
    assert long["mb"] < short["mb"] + 15
