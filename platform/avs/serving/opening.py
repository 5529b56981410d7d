"""The first look at an uploaded file: what it is, and whether it is within the limits, before a
picture is decoded."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from avs.errors import MediaError
from avs.media.containers import check_container
from avs.media.probing import VideoInfo, VideoTrack
from avs.serving.config import LimitsConfig
from avs.serving.messages import Refusal

__all__ = ["check_file", "check_info", "public_text"]

# Names Python's exceptions, and files beside the client's own.
_DEFECT = re.compile(r"(the decoder failed) \(.*\)", re.DOTALL)
_logger = logging.getLogger(__name__)


def check_file(path: Path, *, name: str) -> Refusal | None:
    """Whether a decoder may see the file: 422 for an empty one, 415 for what is no video or sound
    by its first bytes, playlists among them."""
    if not path.stat().st_size:
        return Refusal(422, "unreadable", f"{name}: is empty (0 bytes)")
    try:
        check_container(path)
    except MediaError as error:
        return Refusal(415, "unsupported_media", public_text(error, path, name))
    return None


def check_info(
    info: VideoInfo | VideoTrack, *, name: str, limits: LimitsConfig, max_duration_s: float
) -> Refusal | None:
    """Whether the header, or later the decoder, tells of a video within the limits. Where a header
    tells no length, the decoder stops at the limit."""
    duration_s = info.duration_s or 0.0
    if duration_s > max_duration_s:
        text = f"lasts {duration_s:.1f} s, at most {max_duration_s:g} s are taken"
        return Refusal(422, "too_long", f"{name}: {text}")
    if info.width_px * info.height_px > limits.max_pixels:
        text = f"{info.width_px} x {info.height_px} px, at most {limits.max_pixels} are taken"
        return Refusal(422, "too_many_pixels", f"{name}: has pictures of {text}")
    num_frames = max(info.num_frames or 0, int(duration_s * info.fps))
    if num_frames > limits.max_frames:
        text = f"has {num_frames} frames, at most {limits.max_frames} are taken"
        return Refusal(422, "too_many_frames", f"{name}: {text}")
    return None


def public_text(text: MediaError | str, path: Path, name: str) -> str:
    """A message with the client's name of the file where ours stood, and without our defects."""
    if _DEFECT.search(str(text)):
        _logger.error("%s", text)
    return _DEFECT.sub(r"\1", str(text).replace(str(path), name))
