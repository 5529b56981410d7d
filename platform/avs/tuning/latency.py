"""How long a trial's best network takes for one clip: the second objective.

Measured in the trial's own process once its training is over, in the compute shape that the
checkpoint is used with but one clip at a time. Other trials run on the machine meanwhile, hence a
median; compare trials of one sweep only.
"""

from __future__ import annotations

import time
from statistics import median

from avs import storage
from avs.inference.predictor import Predictor
from avs.training.config import TrainConfig
from avs.training.feed import ClipReader

__all__ = ["measure_latency", "median_seconds"]

NUM_FORWARDS = 15
_NUM_WARM_UP = 2


def measure_latency(config: TrainConfig) -> float:
    """Measure the best checkpoint of the run ``config.out`` once; seconds, kept in latency.json."""
    uri = storage.join(config.out, "latency.json")
    if not storage.exists(uri):
        seconds = median_seconds(config)
        storage.write_json(uri, {"median_s": seconds, "num_forwards": NUM_FORWARDS})
    return float(storage.read_json(uri)["median_s"])


def median_seconds(config: TrainConfig) -> float:
    """Median of the forward of the first validation clip, from frames in memory to logits."""
    predictor = Predictor.from_checkpoint(
        config.out, device=config.scale.device, windows_per_forward=1
    )
    reader = ClipReader(
        config.data.folders[0],
        split="val",
        image_size_px=config.train.image_size_px,
        input_kind=predictor.input_kind,
    )
    clip = reader.read([0])
    frames = clip.frames.permute(0, 1, 3, 4, 2).numpy()
    seconds = []
    for _ in range(_NUM_WARM_UP + NUM_FORWARDS):
        start_s = time.perf_counter()
        predictor.logits(frames, clip.sound.numpy(), clip.frame_valid.numpy())
        seconds.append(time.perf_counter() - start_s)
    return median(seconds[_NUM_WARM_UP:])
