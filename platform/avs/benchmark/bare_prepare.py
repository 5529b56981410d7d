"""The bare loop of ``prepare``: the same decoding and writing in a process pool, without Ray.

    python -m avs.benchmark.bare_prepare ROOT OUT PROCESSES SHARD_CLIPS

It has no lease, records, resume, rejects or sandbox: what it is faster by is their price.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

from avs.datasets import ClipSource, DataConfig, dataset_spec
from avs.media import video
from avs.media.decord_reader import import_decord
from avs.prepare import clip as clip_module
from avs.prepare.clip import prepare_clip
from avs.schema import ClipFormat, write_clips

__all__ = ["bare_prepare"]


def bare_prepare(config: DataConfig, out: Path, *, processes: int, shard_clips: int) -> None:
    """Decode all clips of ``config`` and write them as ``out/shards/<number>.parquet``."""
    sources = dataset_spec(config.name).list_clips(config)
    shards = [sources[i : i + shard_clips] for i in range(0, len(sources), shard_clips)]
    (out / "shards").mkdir(parents=True)
    with contextlib.suppress(ImportError):
        import_decord(with_torch=False)  # once, before the pool forks
    direct = patch.object(clip_module, "decode_video", video.decode_video)  # no sandbox
    with direct, multiprocessing.get_context("fork").Pool(processes) as pool:
        write = partial(_write, config=config, out=out)
        for _ in pool.imap_unordered(write, list(enumerate(shards))):
            pass


def _write(numbered: tuple[int, list[ClipSource]], *, config: DataConfig, out: Path) -> None:
    number, sources = numbered
    clips = [clip for source in sources for clip in prepare_clip(source, config)]
    form = ClipFormat(
        num_frames=config.num_frames,
        height_px=config.image_size_px,
        width_px=config.image_size_px,
        class_names=dataset_spec(config.name).class_names(config),
        with_waveform=config.with_waveform,
    )
    write_clips(clips, str(out / "shards" / f"{number:05d}.parquet"), form)


if __name__ == "__main__":
    _root, _out, _processes, _shard_clips = sys.argv[1:]
    bare_prepare(
        DataConfig(name="s4", root=_root, image_size_px=224, num_frames=5),
        Path(_out),
        processes=int(_processes),
        shard_clips=int(_shard_clips),
    )
