"""The mask of the newest picture of a camera: a window that ends with it, as a video's would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from avs.errors import MediaError
from avs.inference.network_input import window_arrays
from avs.inference.track import MaskTrack
from avs.inference.window import window_masks
from avs.media.frames import SmallPicture, read_small_picture
from avs.media.pieces import MediaWindow
from avs.media.resampling import SAMPLE_RATE_HZ
from avs.serving.messages import LiveAnswer, LiveRequest, Refusal
from avs.serving.opening import public_text
from avs.serving.pipeline import Forward, VideoPipeline
from avs.serving.spec import ModelSpec, WindowJob
from avs.windows import cut_sound, plan_windows

__all__ = ["live_answer"]


async def live_answer(
    request: LiveRequest,
    *,
    spec: ModelSpec,
    forward: Forward,
    folder: Path,
    pipeline: VideoPipeline,
) -> LiveAnswer | Refusal:
    """The mask of ``request.jpeg``; ``folder``: an empty one, for the decoder to read it from.

    A picture that cannot be read is a Refusal; what ``forward`` raises passes through.
    """
    path = folder / "picture"
    path.write_bytes(request.jpeg)
    side = spec.clip.image_size_px
    try:
        picture = await pipeline.run(
            pipeline.sandbox.call,
            read_small_picture,
            str(path),
            size_px=(side, side),
            max_pixels=pipeline.limits.max_pixels,
        )
    except MediaError as error:
        return Refusal(422, "unreadable", public_text(error, path, "the picture"))
    seen = _window(request, picture, num_frames=spec.clip.num_frames)
    frames, sound, valid = await pipeline.run(
        window_arrays, [seen], spec.clip, input_kind=spec.input_kind
    )
    job = WindowJob(
        checkpoint=spec.info.checkpoint,
        frames=frames[0],
        sound=sound[0],
        frame_valid=valid[0],
        objects=request.objects,
    )
    answer = await forward(job)
    track = MaskTrack.empty(spec.clip.class_names)
    track.size_px = (picture.height_px, picture.width_px)
    for made in window_masks(
        answer.logits_tensor(),
        answer.visible_objects(),
        seen,
        size_px=track.size_px,
        threshold=request.threshold,
        names=spec.category_names,
    ):
        track.add(made.time_s, made.mask, made.objects)
    [mask] = track.to_json()["masks"]
    mask.pop("time_s")
    return LiveAnswer(
        frame=picture.pixels,
        mask=mask,
        height_px=picture.height_px,
        width_px=picture.width_px,
    )


def _window(request: LiveRequest, picture: SmallPicture, *, num_frames: int) -> MediaWindow:
    """A video of as many seconds as there are pictures, of which only the last mask is wanted."""
    frames = np.concatenate([request.past, picture.pixels[None]])
    [window] = plan_windows(len(frames), window_frames=num_frames)
    return MediaWindow(
        window=replace(window, new=(len(frames) - 1,)),
        frames=frames[list(window.indices)],
        frame_time_s=np.zeros(num_frames),
        sound=cut_sound(
            request.samples, window, sample_rate_hz=SAMPLE_RATE_HZ, window_frames=num_frames
        ),
    )
