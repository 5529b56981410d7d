"""How the bucket job is dealt out: rounds, blocks, pools, and what a later look finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from avs.errors import ConfigError
from avs.inference.bucket.job import Video
from avs.inference.bucket.plan import blocks, plan_pools, rounds
from avs.inference.bucket.watch import looks, new_videos
from avs.scale import ScaleConfig
from avs.schema import Source

CPU = ScaleConfig(num_workers=2, cpus_per_worker=1, gpus_per_worker=0)
GPU = ScaleConfig(num_workers=8, cpus_per_worker=4, gpus_per_worker=1)


def _video(number: int, *, size_bytes: int = 1000, version: str = "1", at: str = "s3://b") -> Video:
    name = f"{number:03d}.mp4"
    source = Source(uri=f"{at}/{name}", size_bytes=size_bytes, version=version)
    return Video(name=name, source=source)


def test_the_listing_is_read_a_round_at_a_time() -> None:
    listed = []

    def listing() -> Iterator[Video]:
        for number in range(7):
            listed.append(number)
            yield _video(number)

    found = rounds(listing(), size=3)
    assert [video.name for video in next(found)] == ["000.mp4", "001.mp4", "002.mp4"]
    assert listed == [0, 1, 2]
    assert [len(one) for one in found] == [3, 1]


@pytest.mark.parametrize("count", [1, 2, 17, 400])
def test_small_videos_share_a_block_and_all_workers_get_some(count: int) -> None:
    dealt = blocks([_video(k) for k in range(count)], num_workers=2)
    assert [video.name for block in dealt for video in block] == [
        f"{k:03d}.mp4" for k in range(count)
    ]
    assert len(dealt) >= min(count, 4)  # two for each worker
    assert max(map(len, dealt)) <= 32
    assert len(dealt[-1]) <= min(8, len(dealt[0]))  # all workers end at nearly the same time


def test_videos_that_are_drawn_on_go_one_by_one() -> None:
    dealt = blocks([_video(k) for k in range(40)], num_workers=2, one_by_one=True)
    assert [len(block) for block in dealt] == [1] * 40


def test_a_large_video_is_a_block_of_its_own() -> None:
    sizes = [1, 1, 200 << 20, 1, 40 << 20, 40 << 20]
    dealt = blocks([_video(k, size_bytes=size) for k, size in enumerate(sizes * 8)], num_workers=1)
    for block in dealt:
        assert len(block) == 1 or sum(video.source.size_bytes for video in block) <= 64 << 20


@pytest.mark.parametrize("cpus", [1, 2, 4, 64])
def test_on_cpus_all_stages_of_all_workers_fit_at_once(cpus: int) -> None:
    pools = plan_pools(CPU, cluster={"CPU": cpus}, num_blocks=100)
    assert pools.num_segmenters == min(2, cpus)
    assert pools.num_writers == 0
    taken = pools.num_segmenters * pools.segmenter_cpus + pools.num_decoders * pools.decoder_cpus
    assert taken <= cpus


def test_beside_gpus_all_other_cpus_decode_and_write() -> None:
    pools = plan_pools(GPU, cluster={"CPU": 64, "GPU": 8}, num_blocks=100)
    assert (pools.num_segmenters, pools.segmenter_cpus, pools.segmenter_gpus) == (8, 1, 1)
    assert (pools.num_decoders + pools.num_writers, pools.decoder_cpus) == (56, 1)
    assert pools.mask_threads == 3
    alone = replace(GPU, num_workers=1, cpus_per_worker=2)
    few = plan_pools(alone, cluster={"CPU": 2, "GPU": 1}, num_blocks=100)
    assert few.segmenter_cpus + few.decoder_cpus + few.writer_cpus <= 2


def test_one_video_starts_one_segmenter() -> None:
    assert plan_pools(CPU, cluster={"CPU": 8}, num_blocks=1).num_segmenters == 1


def test_a_cluster_without_room_is_told() -> None:
    with pytest.raises(ConfigError, match="1 GPUs a worker; the cluster has 8 and 0"):
        plan_pools(GPU, cluster={"CPU": 8}, num_blocks=3)
    growing = replace(GPU, autoscaling=True)
    assert plan_pools(growing, cluster={"CPU": 2}, num_blocks=100).num_segmenters == 8


def test_one_look_without_watching() -> None:
    found = looks(lambda: [_video(1)], every_s=None)
    assert [[video.name for video in look] for look in found] == [["001.mp4"]]


def test_later_looks_give_what_is_new_or_changed() -> None:
    taken: dict[str, str] = {}
    growing: dict[str, str] = {}

    def look(*videos: Video) -> list[str]:
        return [video.name for video in new_videos(videos, taken, growing)]

    assert look(_video(1), _video(2)) == ["001.mp4", "002.mp4"]
    assert look(_video(1), _video(2)) == []
    assert look(_video(1, version="2"), _video(2), _video(3)) == ["001.mp4", "003.mp4"]


def test_a_local_file_that_still_grows_is_left_for_later() -> None:
    taken: dict[str, str] = {}
    growing: dict[str, str] = {}

    def look(size_bytes: int) -> list[str]:
        video = _video(1, size_bytes=size_bytes, at="/in")
        return [one.name for one in new_videos([video], taken, growing)]

    assert [look(10), look(20), look(20), look(20), look(30), look(30)] == [
        [],
        [],
        ["001.mp4"],
        [],
        [],
        ["001.mp4"],
    ]
