"""AVSBench-object: S4 (Single-source) and MS3 (Multi-sources) in their official folders.

The tree is listed once and every path is looked up in that listing, so a name in a csv cannot
reach outside the root and a missing file is known before anything is decoded. With
``media=auto`` the raw video is read where it is there (one form for all clips), else
``visual_frames`` with ``audio_wav``; log-mel pickles are never opened.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace

from avs import storage
from avs.datasets.base import ClipSource, DataConfig, MediaSource
from avs.errors import DataError
from avs.schema import Source

__all__ = ["find_csv", "list_ms3", "list_s4", "mark_repeated", "read_csv", "split_problem"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Paths:
    """Where one clip's files are, relative to the folder of the csv."""

    video: str
    frames: tuple[str, ...]
    audio: str
    masks: tuple[str, ...]


class _Tree:
    """One listing of a folder, for look-ups by relative path."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._files = {info.path: info for info in storage.list_files(root)}

    def has(self, *paths: str) -> bool:
        return all(p in self._files for p in paths)

    def uri(self, path: str) -> str:
        return storage.join(self.root, path)

    def source(self, path: str) -> Source:
        info = self._files[path]
        return Source(uri=self.uri(path), size_bytes=info.size_bytes, version=info.version)


def list_s4(config: DataConfig) -> list[ClipSource]:
    """The clips of Single-source: one category a clip; train has a mask for frame 1 only."""
    root = find_csv(config.root, "s4_meta_data.csv")
    tree = _Tree(root)
    clips = []
    for row in read_csv(storage.join(root, "s4_meta_data.csv"), ("name", "category", "split")):
        name, category, split = row["name"], row["category"], row["split"]
        where = f"{split}/{category}/{name}"
        paths = _Paths(
            video=f"s4_data/raw_videos/{where}.mp4",
            frames=_numbered(f"s4_data/visual_frames/{where}/{name}_{{}}.png", config.num_frames),
            audio=f"s4_data/audio_wav/{where}.wav",
            masks=_numbered(f"s4_data/gt_masks/{where}/{name}_{{}}.png", config.num_frames),
        )
        num_masks = 1 if split == "train" else config.num_frames
        clips.append(_clip("s4", "Single-source", row, (category,), paths, num_masks, tree, config))
    return list(mark_repeated(clips))


def list_ms3(config: DataConfig) -> list[ClipSource]:
    """The clips of Multi-sources: all frames have masks; an optional csv column ``category``."""
    root = find_csv(config.root, "ms3_meta_data.csv")
    tree = _Tree(root)
    clips = []
    for row in read_csv(storage.join(root, "ms3_meta_data.csv"), ("name", "split")):
        name, split = row["name"], row["split"]
        frames = f"ms3_data/visual_frames/{name}/{name}.mp4_{{}}.png"
        paths = _Paths(
            video=f"ms3_data/raw_videos/{name}.mp4",
            frames=_numbered(frames, config.num_frames),
            audio=f"ms3_data/audio_wav/{split}/{name}.wav",
            masks=_numbered(f"ms3_data/gt_masks/{split}/{name}/{name}_{{}}.png", config.num_frames),
        )
        named = tuple(c for c in (row.get("category") or "").split("_") if c)
        clip = _clip("ms3", "Multi-sources", row, named, paths, config.num_frames, tree, config)
        clips.append(clip)
    return list(mark_repeated(clips))


def find_csv(root: str, name: str) -> str:
    """The folder that holds the csv ``name``: ``root`` or one at most two levels below it.

    Raises:
        DataError: ``root`` is missing or empty, or has no such csv; names what was looked for.
    """
    if storage.exists(storage.join(root, name)):
        return root
    if not storage.exists(root):
        raise DataError(f"data.root={root} does not exist.")
    files = storage.list_files(root)
    if not files:
        raise DataError(f"data.root={root} is an empty folder.")
    found = [f.path for f in files if f.path.endswith(f"/{name}") and f.path.count("/") <= 2]
    if not found:
        raise DataError(f"data.root={root} has no {name} (looked two levels deep).")
    return storage.join(root, found[0].rpartition("/")[0])


def read_csv(uri: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a csv with a header.

    Raises:
        DataError: not a csv, empty, or without a needed column; names the file, the column and
            the ones there are.
    """
    text = storage.read_bytes(uri).decode("utf-8-sig", errors="replace")
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    present = reader.fieldnames or []
    missing = [c for c in columns if c not in present]
    if missing:
        raise DataError(
            f"{uri} has no column {missing[0]!r}; it has: {', '.join(present) or 'nothing'}."
        )
    try:
        rows = [{k: (v or "") for k, v in row.items() if isinstance(k, str)} for row in reader]
    except csv.Error as error:
        raise DataError(f"{uri} is not a csv ({error}).") from None
    if not rows:
        raise DataError(f"{uri} lists no clips.")
    return rows


def _numbered(pattern: str, count: int) -> tuple[str, ...]:
    head, _, tail = pattern.rpartition("{}")  # a clip's name may hold "{}" too
    return tuple(f"{head}{k}{tail}" for k in range(1, count + 1))


def _clip(
    dataset: str,
    subset: str,
    row: dict[str, str],
    categories: tuple[str, ...],
    paths: _Paths,
    num_masks: int,
    tree: _Tree,
    config: DataConfig,
) -> ClipSource:
    name, split = row["name"], row["split"]
    raw = tree.has(paths.video)
    preprocessed = tree.has(*paths.frames, paths.audio)
    use_raw = raw and config.media is not MediaSource.PREPROCESSED
    problem = _problem(split, raw, preprocessed, paths, num_masks, tree, config)
    main = paths.video if use_raw else paths.frames[0]
    source = tree.source(main) if tree.has(main) else Source(uri=main, size_bytes=0, version="")
    masks = [tree.uri(m) for m in paths.masks[:num_masks]]
    return ClipSource(
        clip_id=f"{dataset}/{subset}/{name}",
        dataset=dataset,
        subset=subset,
        split=split,
        source=source,
        categories=categories,
        video=tree.uri(paths.video) if use_raw else None,
        frames=() if use_raw else tuple(tree.uri(f) for f in paths.frames),
        audio=None if use_raw else tree.uri(paths.audio),
        masks=(*masks, *[None] * (len(paths.masks) - num_masks)),
        problem=problem,
    )


def _problem(
    split: str,
    raw: bool,
    preprocessed: bool,
    paths: _Paths,
    num_masks: int,
    tree: _Tree,
    config: DataConfig,
) -> str | None:
    if wrong := split_problem(split):
        return wrong
    if config.media is MediaSource.RAW and not raw:
        return f"{paths.video} is missing"
    if config.media is MediaSource.PREPROCESSED and not preprocessed:
        return f"{paths.frames[0]} to _{config.num_frames}.png or {paths.audio} is missing"
    if not raw and not preprocessed:
        return f"neither {paths.video} nor {paths.frames[0]} with {paths.audio} is there"
    absent = [m for m in paths.masks[:num_masks] if not tree.has(m)]
    return f"mask {absent[0]} is missing" if absent else None


def split_problem(split: str) -> str | None:
    """What is wrong with the split of a csv row, if anything."""
    return None if split in SPLITS else f"split {split!r} is not one of {', '.join(SPLITS)}"


def mark_repeated(clips: list[ClipSource]) -> Iterator[ClipSource]:
    """Let each clip id through once; later rows of the same name become rejects of their own."""
    seen: dict[str, int] = {}
    for clip in clips:
        count = seen[clip.clip_id] = seen.get(clip.clip_id, 0) + 1
        if count == 1:
            yield clip
        else:
            twice = f"{clip.clip_id.rpartition('/')[2]} is listed more than once in the csv"
            yield replace(clip, clip_id=f"{clip.clip_id}#{count}", problem=twice)
