"""Clips for training and evaluation, read from Parquet by their row numbers.

A row is a row group, so single rows in any order cost the same; which ones are wanted says
:mod:`avs.training.plan`. Here a thread of the process reads one batch ahead, which needs no
further CPU; :mod:`avs.training.ray_feed` reads the same rows elsewhere, where there are some.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from avs import storage
from avs.errors import DataError
from avs.media.frames import resize_frames
from avs.media.logmel import SAMPLE_RATE_HZ
from avs.media.masks import resize_mask
from avs.prepare.manifest import Manifest, read_manifest, shard_uri
from avs.schema import LOG_MEL_SHAPE, check_schema, read_clips
from avs.training.batch import Batch
from avs.training.folders import check_alike

__all__ = ["ClipReader", "ReadFeatures", "Stream", "prefetch"]

_COLUMNS = ("clip_id", "categories", "frames", "log_mel", "masks", "mask_valid", "frame_valid")
_WAVEFORM = "waveform"
# Whose footers are kept: those that a plan has open at a time, and some between two windows. Each
# may hold a file descriptor, of which a process commonly has 1,024.
_MAX_OPEN_FILES = 192

# (prepared folder, shard, row, clip id) -> what an audio network makes of the clip: fields of an
# AudioOutput for T examples.
ReadFeatures = Callable[[str, str, int, str], dict[str, np.ndarray]]


class ClipReader:
    """Random access to the clips of one split of a prepared folder, or of several as one.

    Args:
        prepared: folder with a manifest, or several of one kind; their clips follow each other.
        split: ``train``, ``val``, ``test`` or ``all``.
        image_size_px: resize frames (bilinear) and masks (nearest); None keeps the prepared size.
        input_kind: of the audio network; "waveform" reads that column as well.

    Raises:
        DataError: a folder is not complete, of another version, has no such split, no waveforms
            where they are wanted, or is of another kind than the first one.

    ``manifest`` is the first folder's: what it says of frames, classes and sound holds for all.
    ``shard_sizes`` are the rows of each shard of each folder, in the order of the clips.
    """

    def __init__(
        self,
        prepared: str | Sequence[str],
        *,
        split: str,
        image_size_px: int | None = None,
        input_kind: str = "log_mel",
    ) -> None:
        folders = [prepared] if isinstance(prepared, str) else list(prepared)
        self.manifests = {folder: read_manifest(folder) for folder in folders}
        self.manifest = self.manifests[folders[0]]
        self._size_px = image_size_px
        self._with_waveform = input_kind == _WAVEFORM
        self._read_features: ReadFeatures | None = None
        self.shard_sizes: list[list[int]] = []
        self._shards: list[tuple[str, str]] = []
        check_alike(self.manifests, with_size=image_size_px is None)
        for folder, manifest in self.manifests.items():
            self._check_waveforms(folder, manifest)
            try:
                shards = manifest.split_shards(split)
            except DataError as error:
                raise DataError(f"{folder}: {error}") from None
            self.shard_sizes.append([shard.num_rows for shard in shards])
            self._shards += [(folder, shard.name) for shard in shards]
        self._ends = list(accumulate(size for own in self.shard_sizes for size in own))
        self._files: OrderedDict[tuple[str, str], pq.ParquetFile] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}  # another process opens its own

    def __len__(self) -> int:
        return self._ends[-1]

    def use_features(self, read_features: ReadFeatures) -> None:
        """From now on, give what the audio network makes of the sound beside the sound."""
        self._read_features = read_features

    def read(self, indices: Sequence[int]) -> Batch:
        """The clips at ``indices`` of the split, in that order."""
        columns = (*_COLUMNS, _WAVEFORM) if self._with_waveform else _COLUMNS
        rows = []
        for index in indices:
            place = bisect_right(self._ends, index)
            row = index - (self._ends[place - 1] if place else 0)
            folder, name = self._shards[place]
            rows += read_clips(self._file(folder, name), [row], columns)
            if self._read_features is not None:
                rows[-1] |= self._read_features(folder, name, row, rows[-1]["clip_id"])
        frames = np.stack([self._frames(r["frames"]) for r in rows])
        return Batch(
            clip_ids=[r["clip_id"] for r in rows],
            categories=[tuple(r["categories"]) for r in rows],
            frames=torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3))),
            log_mel=torch.from_numpy(np.stack([r["log_mel"] for r in rows])),
            masks=torch.from_numpy(np.stack([self._masks(r["masks"]) for r in rows])),
            mask_valid=torch.from_numpy(np.stack([r["mask_valid"] for r in rows])),
            frame_valid=torch.from_numpy(np.stack([r["frame_valid"] for r in rows])),
            waveform=self._waveforms(rows) if self._with_waveform else None,
            audio_embedding=_stacked(rows, "embedding"),
            audio_logits=_stacked(rows, "logits"),
        )

    @property
    def clip_bytes(self) -> int:
        """Bytes of a clip in a batch."""
        form, size = self.manifest.format, self._size_px
        pixels = size**2 if size is not None else form.height_px * form.width_px
        sound = 2 * SAMPLE_RATE_HZ if self._with_waveform else 0  # int16
        flags = 2  # whether it has a mask, whether it is padding
        return form.num_frames * (4 * pixels + 4 * math.prod(LOG_MEL_SHAPE) + sound + flags)

    def clip_ids(self) -> list[str]:
        """The ids of all clips of the split, in order, without reading their arrays."""
        return [str(clip_id) for clip_id in self._column("clip_id")]

    def categories(self) -> list[tuple[str, ...]]:
        """The categories of all clips of the split, without reading their arrays."""
        return [tuple(names) for names in self._column("categories")]

    def _column(self, name: str) -> list[Any]:
        tables = [self._file(*shard).read(columns=[name]) for shard in self._shards]
        return [value for table in tables for value in table[name].to_pylist()]

    def _frames(self, frames: np.ndarray) -> np.ndarray:
        if self._size_px is None or frames.shape[1:3] == (self._size_px, self._size_px):
            return frames
        return resize_frames(frames, (self._size_px, self._size_px))

    def _masks(self, masks: np.ndarray) -> np.ndarray:
        if self._size_px is None or masks.shape[1:3] == (self._size_px, self._size_px):
            return masks
        return np.stack([resize_mask(m, (self._size_px, self._size_px)) for m in masks])

    def _waveforms(self, rows: list[dict[str, Any]]) -> Tensor:
        """Sound of the T seconds: cut, or silence where the recording has ended."""
        size = self.manifest.format.num_frames * SAMPLE_RATE_HZ
        out = np.zeros((len(rows), size), np.int16)
        for slot, row in enumerate(rows):
            part = row[_WAVEFORM][:size]
            if not len(part):
                raise DataError(
                    f"{row['clip_id']} of {', '.join(self.manifests)} has a log-mel but no "
                    "waveform, which the audio network needs: prepare it from sound files, or "
                    "take a log-mel network."
                )
            out[slot, : len(part)] = part
        return torch.from_numpy(out)

    def _check_waveforms(self, folder: str, manifest: Manifest) -> None:
        if self._with_waveform and not manifest.format.with_waveform:
            raise DataError(
                f"{folder} was prepared with data.with_waveform=false, but the audio network "
                "needs waveforms: prepare it again with true, or take a log-mel network."
            )

    def _file(self, folder: str, name: str) -> pq.ParquetFile:
        if (folder, name) not in self._files:
            uri = shard_uri(folder, name)
            file = pq.ParquetFile(uri if storage.is_local(uri) else storage.open_file(uri))
            check_schema(file.schema_arrow, uri)
            self._files[folder, name] = file
            if len(self._files) > _MAX_OPEN_FILES:
                self._files.popitem(last=False)[1].close(force=True)
        self._files.move_to_end((folder, name))
        return self._files[folder, name]


def _stacked(rows: list[dict[str, Any]], name: str) -> Tensor | None:
    """An array that all rows have or none."""
    return torch.from_numpy(np.stack([r[name] for r in rows])) if name in rows[0] else None


class Stream(Protocol):
    """Reads the batches that are asked for, in order, ``ahead`` of them before they are taken.

    All batches but the last have the same number of clips.
    """

    def __call__(
        self, reader: ClipReader, batches: Iterable[Sequence[int]], *, ahead: int = 1
    ) -> Generator[Batch]:
        """Close the generator where not all of it is taken."""


def prefetch(
    reader: ClipReader, batches: Iterable[Sequence[int]], *, ahead: int = 1
) -> Generator[Batch]:
    """A :class:`Stream` by one thread of this process."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="avs-feed")
    pending: deque[Future[Batch]] = deque()
    try:
        for rows in batches:
            pending.append(pool.submit(reader.read, rows))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
