"""How the bucket job is dealt out: rounds of the listing, blocks of a round, pools of workers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from avs.errors import ConfigError
from avs.inference.bucket.job import Video
from avs.scale import ScaleConfig

__all__ = ["Pools", "blocks", "plan_pools", "rounds"]

# The work list of a round is in the memory of the driver; the model is loaded once a round.
ROUND_VIDEOS = 100_000
_BLOCK_VIDEOS = 32  # tiny files: Ray takes milliseconds for a block
_FEWEST_VIDEOS = 8  # where there are so many: they share batches
_BLOCK_BYTES = 64 << 20  # large ones: the next worker should not wait for them
_BLOCKS_PER_WORKER = 4  # at least, of what is left
# Of the CPUs of a worker that has no GPU. The system shares out the cores as they are needed; Ray
# starts no call that its own reserves for each stage do not cover, and those are smaller than this.
_SEGMENT_SHARE, _DECODE_SHARE = 0.6, 0.1
_PER_GPU = 6  # CPUs beside each GPU, where the cluster grows


@dataclass(frozen=True, kw_only=True, slots=True)
class Pools:
    """How many workers each stage has, and what one takes of the cluster. There are at least as
    many decoders and writers as segmenters where there are so many; the others come as needed.
    Without writers the segmenters write."""

    num_segmenters: int
    segmenter_cpus: float
    segmenter_gpus: float
    mask_threads: int
    num_decoders: int
    decoder_cpus: float
    num_writers: int
    writer_cpus: float


def rounds(videos: Iterable[Video], *, size: int = ROUND_VIDEOS) -> Iterator[list[Video]]:
    """The listing, ``size`` videos at a time; the next ones are listed when the last are done."""
    listing = iter(videos)
    while one_round := list(islice(listing, size)):
        yield one_round


def blocks(
    videos: Sequence[Video], *, num_workers: int, one_by_one: bool = False
) -> list[list[Video]]:
    """Videos that one call of each stage takes: several small ones, a large one alone; each alone
    where ``one_by_one``, as what is drawn on takes seconds to minutes. Towards the end blocks get
    smaller, so that all workers end at nearly the same time."""
    most = 1 if one_by_one else _BLOCK_VIDEOS
    least = min(_FEWEST_VIDEOS, math.ceil(len(videos) / (num_workers * _BLOCKS_PER_WORKER)))
    made: list[list[Video]] = []
    room = num_bytes = 0
    for index, video in enumerate(videos):
        num_bytes += video.source.size_bytes
        if not room or num_bytes > _BLOCK_BYTES:
            share = math.ceil((len(videos) - index) / (num_workers * _BLOCKS_PER_WORKER))
            made.append([])
            room, num_bytes = min(most, max(least, share)), video.source.size_bytes
        made[-1].append(video)
        room -= 1
    return made


def plan_pools(scale: ScaleConfig, *, cluster: Mapping[str, float], num_blocks: int) -> Pools:
    """Pools for the resources that ``cluster`` has.

    Without GPUs each of the workers of ``scale`` is a decoder and a segmenter that writes, too.
    With GPUs a segmenter takes one CPU beside each, and all other CPUs decode and write.

    Raises:
        ConfigError: the cluster has no room for one worker.
    """
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    count = scale.num_workers
    if not scale.autoscaling:
        for each, there in ((scale.cpus_per_worker, cpus), (scale.gpus_per_worker, gpus)):
            if each:
                count = min(count, int(there / each))
        if count < 1:
            raise ConfigError(
                f"scale asks for {scale.cpus_per_worker:g} CPUs and {scale.gpus_per_worker:g} "
                f"GPUs a worker; the cluster has {cpus:g} and {gpus:g}."
            )
    count = min(count, num_blocks)
    if scale.gpus_per_worker:
        return _beside_gpus(scale, count, spare_cpus=cpus - count)
    return Pools(
        num_segmenters=count,
        segmenter_cpus=scale.cpus_per_worker * _SEGMENT_SHARE,
        segmenter_gpus=0.0,
        mask_threads=0,
        num_decoders=count,
        decoder_cpus=scale.cpus_per_worker * _DECODE_SHARE,
        num_writers=0,
        writer_cpus=0.0,
    )


def _beside_gpus(scale: ScaleConfig, count: int, *, spare_cpus: float) -> Pools:
    # Of few CPUs, halves: decoding and writing must both find room, or neither ends.
    each = 1.0 if spare_cpus >= 2 or scale.autoscaling else max(spare_cpus, 0.5) / 2
    room = max(2, int(spare_cpus))
    if scale.autoscaling:  # what the cluster may grow to
        room = max(room, count * _PER_GPU)
    num_writers = max(1, room // 3)  # encoding takes less than decoding, unless all is drawn on
    return Pools(
        num_segmenters=count,
        segmenter_cpus=min(1.0, scale.cpus_per_worker),
        segmenter_gpus=scale.gpus_per_worker,
        mask_threads=max(1, int(scale.cpus_per_worker) - 1),
        num_decoders=room - num_writers,
        decoder_cpus=each,
        num_writers=num_writers,
        writer_cpus=each,
    )
