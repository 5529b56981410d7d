"""What a request carries from hop to hop, so that the empty graph carries as much."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from avs.inference.predictor import Predictor
from avs.media.resampling import SAMPLE_RATE_HZ

__all__ = ["Sizes", "empty_sizes"]

_LOG_MEL_VALUES = 96 * 64  # of a second


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """``num_windows`` of T = ``num_frames`` pictures of ``side_px`` and ``sound_values`` float32
    values of sound, with logits for ``num_maps`` classes, and ``answer_bytes`` back."""

    num_frames: int
    side_px: int
    sound_values: int
    num_maps: int
    num_windows: int
    answer_bytes: int

    def to_json(self) -> str:
        """As a command line takes it."""
        return json.dumps(asdict(self))


def empty_sizes(checkpoint: str, answers: Sequence[bytes]) -> Sizes:
    """Those of a checkpoint's windows and of the longest answer; all clips have as many masks."""
    predictor = Predictor.from_checkpoint(checkpoint)
    clip, num_classes = predictor.clip, predictor.checkpoint.model.num_classes
    hears_waveforms = predictor.input_kind == "waveform"
    return Sizes(
        num_frames=clip.num_frames,
        side_px=clip.image_size_px,
        sound_values=clip.num_frames * (SAMPLE_RATE_HZ if hears_waveforms else _LOG_MEL_VALUES),
        num_maps=num_classes,
        num_windows=math.ceil(len(json.loads(answers[0])["masks"]) / clip.num_frames),
        answer_bytes=max(len(answer) for answer in answers),
    )
