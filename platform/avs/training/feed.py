"""Clips for training and evaluation: which rows, in which order, read from Parquet.

The order is a pure function of (seed, epoch, step, rank), so a resumed run sees the same clips as
an uninterrupted one, whoever is slow. Ray's ``streaming_split`` hands blocks to whichever rank
asks first and cannot promise that. Rows are read by a thread one step ahead; a row is a row group,
so any order costs the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from avs import storage
from avs.errors import DataError
from avs.media.frames import resize_frames
from avs.media.logmel import SAMPLE_RATE_HZ
from avs.media.masks import resize_mask
from avs.models.types import AudioOutput
from avs.prepare.manifest import Manifest, read_manifest, shard_uri
from avs.schema import check_schema, read_clips
from avs.training.folders import check_alike

__all__ = [
    "Batch",
    "ClipReader",
    "ReadFeatures",
    "epoch_order",
    "padding_flags",
    "prefetch",
    "step_rows",
    "steps_per_epoch",
]

_COLUMNS = ("clip_id", "categories", "frames", "log_mel", "masks", "mask_valid", "frame_valid")
_WAVEFORM = "waveform"

# (prepared folder, shard, row, clip id) -> what an audio network makes of the clip: fields of an
# AudioOutput for T examples.
ReadFeatures = Callable[[str, str, int, str], dict[str, np.ndarray]]


@dataclass(kw_only=True, slots=True)
class Batch:
    """B clips. frames uint8 [B, T, 3, H, W]; log_mel float32 [B, T, 1, 96, 64]; masks uint8
    [B, T, H, W]; mask_valid, frame_valid bool [B, T]; waveform int16 [B, 16000 T], None where the
    reader was not asked for it. audio_embedding float32 [B, T, D] and audio_logits float32
    [B, T, 527] are what the audio network makes of the sound, where that was computed before."""

    clip_ids: list[str]
    categories: list[tuple[str, ...]]
    frames: Tensor
    log_mel: Tensor
    masks: Tensor
    mask_valid: Tensor
    frame_valid: Tensor
    waveform: Tensor | None = None
    audio_embedding: Tensor | None = None
    audio_logits: Tensor | None = None

    @property
    def sound(self) -> Tensor:
        """What the audio network hears: the waveform where there is one, else the log-mel."""
        return self.log_mel if self.waveform is None else self.waveform

    @property
    def heard(self) -> AudioOutput | None:
        """What the audio network makes of the sound, B * T examples, where it need not run."""
        if self.audio_embedding is None:
            return None
        logits = self.audio_logits
        return AudioOutput(
            embedding=self.audio_embedding.flatten(0, 1),
            logits=None if logits is None else logits.flatten(0, 1),
        )

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return Batch(
            clip_ids=self.clip_ids,
            categories=self.categories,
            frames=self.frames.to(device, non_blocking=True),
            log_mel=self.log_mel.to(device, non_blocking=True),
            masks=self.masks.to(device, non_blocking=True),
            mask_valid=self.mask_valid.to(device, non_blocking=True),
            frame_valid=self.frame_valid.to(device, non_blocking=True),
            waveform=moved(self.waveform),
            audio_embedding=moved(self.audio_embedding),
            audio_logits=moved(self.audio_logits),
        )


def padding_flags(batch: Batch) -> Tensor | None:
    """``frame_valid`` where a batch holds padding, else None, as S4 and MS3 networks expect."""
    return None if bool(batch.frame_valid.all()) else batch.frame_valid


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
        self._rows: list[tuple[str, str, int]] = []
        check_alike(self.manifests, with_size=image_size_px is None)
        for folder, manifest in self.manifests.items():
            self._check_waveforms(folder, manifest)
            try:
                shards = manifest.split_shards(split)
            except DataError as error:
                raise DataError(f"{folder}: {error}") from None
            for shard in shards:
                self._rows += [(folder, shard.name, row) for row in range(shard.num_rows)]
        self._files: dict[tuple[str, str], pq.ParquetFile] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def use_features(self, read_features: ReadFeatures) -> None:
        """From now on, give what the audio network makes of the sound beside the sound."""
        self._read_features = read_features

    def read(self, indices: Sequence[int]) -> Batch:
        """The clips at ``indices`` of the split, in that order."""
        columns = (*_COLUMNS, _WAVEFORM) if self._with_waveform else _COLUMNS
        rows = []
        for index in indices:
            folder, name, row = self._rows[index]
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

    def clip_ids(self) -> list[str]:
        """The ids of all clips of the split, in order, without reading their arrays."""
        return [str(clip_id) for clip_id in self._column("clip_id")]

    def categories(self) -> list[tuple[str, ...]]:
        """The categories of all clips of the split, without reading their arrays."""
        return [tuple(names) for names in self._column("categories")]

    def _column(self, name: str) -> list[Any]:
        shards = dict.fromkeys((folder, name) for folder, name, _ in self._rows)
        tables = [self._file(*shard).read(columns=[name]) for shard in shards]
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
        return self._files[folder, name]


def _stacked(rows: list[dict[str, Any]], name: str) -> Tensor | None:
    """An array that all rows have or none."""
    return torch.from_numpy(np.stack([r[name] for r in rows])) if name in rows[0] else None


def epoch_order(num_clips: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of all clips in one epoch: a permutation of 0 .. num_clips - 1."""
    return np.random.default_rng([seed, epoch]).permutation(num_clips)


def steps_per_epoch(num_clips: int, *, world_size: int, batch_size: int) -> int:
    """Optimiser steps of one epoch, equal on every rank.

    A rest smaller than the global batch waits for another epoch (the permutation changes which
    clips it is); fewer clips than one global batch make one step with repeats.
    """
    return max(1, num_clips // (world_size * batch_size))


def step_rows(
    order: np.ndarray, *, step: int, rank: int, world_size: int, batch_size: int
) -> list[int]:
    """The rows that ``rank`` takes in ``step``: disjoint over ranks and steps of an epoch."""
    first = (step * world_size + rank) * batch_size
    return [int(order[i % len(order)]) for i in range(first, first + batch_size)]


def prefetch(reader: ClipReader, batches: Iterable[Sequence[int]]) -> Iterator[Batch]:
    """Read batches one ahead of the consumer, in order."""
    with ThreadPoolExecutor(1, thread_name_prefix="avs-feed") as pool:
        pending = None
        for rows in batches:
            following = pool.submit(reader.read, rows)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
