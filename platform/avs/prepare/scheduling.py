"""What the prepare job costs a clip besides decoding, for any number of clips.

    python -m avs.prepare.scheduling NUM_CLIPS OUT

Clips are made up and decoding them is replaced by nothing; listing, plan, Ray, shards, records,
manifest and report are those of the job. Prints seconds, milliseconds a clip and the driver's peak
memory, as one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from avs.datasets import DATASETS, ClipSource, DataConfig, DatasetSpec
from avs.prepare import shard
from avs.prepare.config import PrepareConfig
from avs.prepare.run import run_prepare
from avs.scale import ScaleConfig
from avs.schema import Clip, Source

__all__ = ["measure_scheduling"]

_NAME = "nothing"
_SIZE_PX = 8
_SHARD_CLIPS = 32


def measure_scheduling(num_clips: int, out: str, *, num_cores: int = 2) -> dict[str, float]:
    """Run the job over ``num_clips`` made-up clips; figures as in the module's first lines."""
    import ray

    from avs.prepare.pipeline import on_ray

    def execute(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        yield from on_ray(partial(_without_decoding, function=function), items, say=print)

    spec = DatasetSpec(
        list_clips=lambda _: [_source(k) for k in range(num_clips)],
        class_names=lambda _: ("background", "object"),
    )
    ray.init("local", num_cpus=num_cores, include_dashboard=False, log_to_driver=False)
    begun_s = time.perf_counter()
    with patch.dict(DATASETS, {_NAME: spec}):
        config = PrepareConfig(
            data=DataConfig(name=_NAME, root="/nothing", image_size_px=_SIZE_PX, num_frames=1),
            scale=ScaleConfig(num_workers=num_cores, cpus_per_worker=1, gpus_per_worker=0),
            out=out,
            shard_clips=_SHARD_CLIPS,
        )
        run_prepare(config, execute, num_cores=num_cores, say=lambda _: None)
    seconds = time.perf_counter() - begun_s
    ray.shutdown()
    return {
        "num_clips": num_clips,
        "seconds": round(seconds, 2),
        "ms_per_clip": round(1000 * seconds / num_clips, 3),
        "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _without_decoding(item: Any, *, function: Callable[[Any], Any]) -> Any:
    with patch.object(shard, "prepare_rows", _rows):
        return function(item)


def _source(number: int) -> ClipSource:
    uri = f"/nothing/{number:08d}.mp4"
    return ClipSource(
        clip_id=f"{_NAME}/all/{number:08d}",
        dataset=_NAME,
        subset="all",
        split="train",
        source=Source(uri=uri, size_bytes=1, version=str(number)),
        categories=("nothing",),
        video=uri,
    )


def _rows(source: ClipSource, config: DataConfig, warnings: list[str]) -> Iterator[Clip]:  # noqa: ARG001
    side = config.image_size_px
    frames = np.zeros((1, side, side, 3), np.uint8)
    frames.reshape(-1)[:8] = np.frombuffer(
        int(source.source.version).to_bytes(8, "little"), np.uint8
    )
    yield Clip(
        clip_id=source.clip_id,
        dataset=source.dataset,
        subset=source.subset,
        split=source.split,
        source=source.source,
        categories=list(source.categories),
        native_height_px=side,
        native_width_px=side,
        frame_time_s=np.zeros(1),
        frames=frames,
        log_mel=np.zeros((1, 1, 96, 64), np.float32),
        masks=np.zeros((1, side, side), np.uint8),
        mask_valid=np.ones(1, np.bool_),
        frame_valid=np.ones(1, np.bool_),
        waveform=np.zeros(0, np.int16),
    )


if __name__ == "__main__":
    from avs.prepare import scheduling  # workers find its functions under this name

    print(json.dumps(scheduling.measure_scheduling(int(sys.argv[1]), sys.argv[2])))
