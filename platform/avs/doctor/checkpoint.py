"""A checkpoint: whether it can be read here, and runs."""

from __future__ import annotations

import time
from collections.abc import Sequence

from avs.doctor.finding import Finding, fail, ok, skip
from avs.errors import AvsError

__all__ = ["look_at_checkpoint"]


def look_at_checkpoint(uri: str | None) -> Sequence[Finding]:
    """Read it, build its networks and run one forward on the CPU."""
    if uri is None:
        return [skip("checkpoint", "none was given", "checkpoint=RUN looks at one")]
    import torch

    from avs.inference.predictor import Predictor
    from avs.training.resolve import find_checkpoint

    begun_s = time.perf_counter()
    try:
        found = find_checkpoint(uri)
        predictor = Predictor.from_checkpoint(found.uri)
        clip = predictor.clip
        predictor.warm_up()
    except AvsError as error:
        return [fail("checkpoint", str(error), "give another checkpoint=, or copy it again whole")]
    bad = [n for n, p in predictor.system.named_parameters() if not torch.isfinite(p).all()]
    if bad:
        told = f"{found.uri}: {len(bad)} weights are not finite, {bad[0]} first"
        return [fail("checkpoint", told, "take an earlier epoch; this training has diverged")]
    seconds = time.perf_counter() - begun_s
    told = (
        f"{found.uri}: {len(clip.class_names)} classes, {clip.num_frames} frames of "
        f"{clip.image_size_px} px, read and run in {seconds:.1f} s"
    )
    return [ok("checkpoint", told)]
