"""A user's own labelled videos: ``videos/`` with ``masks/`` beside it.

    videos/a/x.mp4              any video; folders are kept in the name
    masks/a/x/3.5.png           the mask at 3.5 s (a number in the name), at the displayed size
    masks/a/x.json              or all masks of the video: COCO-video, or masks.json of the platform
    masks/a/x.mp4/masks.json    or the folder that the platform wrote, with png/ where it is there
    labels.csv                  optional: video, split, categories (joined by ";"), source
    label2idx.json              optional: class names in order, background first; else two classes

One frame a second is sampled: the one shown at the time of the mask in that second, so a mask and
its picture belong together; of several masks in a second one is used. Of a video with several kinds
of masks, pictures are taken before JSON: they are what people correct. A video without a split gets
one from the hash of its source (the ``source`` column, else its name) and ``data.split_seed``,
80 / 10 / 10: adding videos moves no other. Videos without masks and masks without a video are left
out, with a note.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from urllib.parse import unquote

from avs import storage
from avs.datasets.base import AudioSource, ClipSource, DataConfig, MaskKind, check_audio_source
from avs.datasets.folder import VIDEO_SUFFIXES
from avs.datasets.tree import Tree, mark_repeated, read_csv, split_problem
from avs.errors import DataError
from avs.media.coco import SECOND_OFFSET_S

__all__ = ["labelled_class_names", "list_labelled", "seeded_split"]

_SHARES = (("train", 0.8), ("val", 0.9), ("test", 1.0))
_BINARY = ("background", "sounding")
_OF_PLATFORM = ("report.json", "commit.json")  # which it writes beside masks


@dataclass(slots=True)
class _Masks:
    """What ``masks/`` holds for one video: pictures by time, pictures by number, JSON."""

    by_time: dict[float, str] = field(default_factory=dict)
    by_number: dict[int, str] = field(default_factory=dict)
    track: str | None = None
    odd: list[str] = field(default_factory=list)


def labelled_class_names(config: DataConfig) -> tuple[str, ...]:
    """The keys of ``label2idx.json`` in order, or background and sounding."""
    uri = storage.join(config.root, "label2idx.json")
    if not storage.exists(uri):
        return _BINARY
    names = storage.read_json(uri)
    if not isinstance(names, dict) or len(names) < 2 or next(iter(names)) != "background":
        raise DataError(f"{uri} is not a mapping of two names or more, 'background' first.")
    return tuple(names)


def seeded_split(source: str, seed: int) -> str:
    """train, val or test (80 / 10 / 10) as a function of the source's name and the seed alone."""
    digest = hashlib.sha256(f"{seed}/{source}".encode("utf-8", "surrogateescape")).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return next(split for split, limit in _SHARES if share < limit)


def list_labelled(config: DataConfig) -> list[ClipSource]:
    """Each labelled video as one source; preparing gives a row for each T seconds with a mask.

    Raises:
        DataError: no ``videos/`` or ``masks/``, or no mask belongs to a video.
    """
    check_audio_source(config, AudioSource.VIDEO)
    tree = Tree(config.root)
    if not tree.has_folder("videos") or not tree.has_folder("masks"):
        raise tree.not_here("videos/ and masks/", data="labelled", looked="right below it")
    videos = _videos(tree)
    masks, orphans = _masks_by_video(tree, videos)
    labels = _labels(tree, videos)
    names = labelled_class_names(config)
    clips = [
        _clip(tree, config, video, masks[video], labels.get(video, {}), names)
        for video in videos
        if video in masks
    ]
    if not clips:
        raise DataError(f"{tree.uri('masks')} has no mask for any of the {len(videos)} videos.")
    clips += [_absent(tree, video, row) for video, row in labels.items() if video not in videos]
    notes = [*_left_out(videos, masks, orphans), *_empty_splits(clips, labels)]
    clips[0] = replace(clips[0], notes=(*clips[0].notes, *notes))
    return list(mark_repeated(clips))


def _empty_splits(clips: list[ClipSource], labels: dict[str, dict[str, str]]) -> list[str]:
    """A hash deals a handful of videos unevenly: say which split got none."""
    if len(clips) < len(_SHARES) or (labels and all(r.get("split") for r in labels.values())):
        return []
    empty = [split for split, _ in _SHARES if split not in {clip.split for clip in clips}]
    cure = "give a split in labels.csv, or another data.split_seed"
    return [f"no video fell to {' and '.join(empty)}: {cure}"] if empty else []


def _videos(tree: Tree) -> list[str]:
    """Paths below ``videos/``."""
    below = (p.removeprefix("videos/") for p in tree.files if p.startswith("videos/"))
    return [p for p in below if PurePosixPath(p).suffix.lower() in VIDEO_SUFFIXES]


def _masks_by_video(tree: Tree, videos: list[str]) -> tuple[dict[str, _Masks], set[str]]:
    """The masks of each video, and mask files or folders that belong to none."""
    by_name = {name: v for v in videos for name in (v, str(PurePosixPath(v).with_suffix("")))}
    found: dict[str, _Masks] = {}
    orphans: set[str] = set()
    for path in tree.files:
        if not path.startswith("masks/") or not path.lower().endswith((".png", ".json")):
            continue
        below = PurePosixPath(path).relative_to("masks")
        if below.name in _OF_PLATFORM:
            continue
        video = next((by_name[n] for n in _possible_names(below) if n in by_name), None)
        if video is None:
            orphans.add(str(below if len(below.parts) == 1 else below.parent))
        else:
            _sort_in(found.setdefault(video, _Masks()), path)
    return found, orphans


def _possible_names(path: PurePosixPath) -> Iterator[str]:
    """The names of the video that a mask file may belong to, most specific first.

    The platform escapes names of folders by %, so both spellings are tried.
    """
    named = [path.with_suffix("")] if path.suffix.lower() == ".json" else []
    folder = path.parent
    named += [folder, *([folder.parent] if folder.name == "png" else [])]
    for name in named:
        yield str(name)
        yield "/".join(unquote(part, errors="surrogateescape") for part in name.parts)


def _sort_in(masks: _Masks, path: str) -> None:
    file = PurePosixPath(path)
    if file.suffix.lower() == ".json":
        masks.track = path
    elif file.parent.name == "png" and re.fullmatch(r"\d{6,}", file.stem):
        masks.by_number[int(file.stem)] = path
    elif re.fullmatch(r"\d+(\.\d+)?", file.stem):
        masks.by_time[float(file.stem)] = path
    else:
        masks.odd.append(path)


def _labels(tree: Tree, videos: list[str]) -> dict[str, dict[str, str]]:
    """The rows of labels.csv by path of the video; the suffix may be left out there."""
    if not tree.has("labels.csv"):
        return {}
    by_name = {name: v for v in videos for name in (v, str(PurePosixPath(v).with_suffix("")))}
    rows: dict[str, dict[str, str]] = {}
    for row in read_csv(tree.uri("labels.csv"), ("video",)):
        name = row["video"].removeprefix("videos/")
        video = by_name.get(name, name)
        if video in rows:
            raise DataError(f"{tree.uri('labels.csv')} lists {row['video']} more than once.")
        rows[video] = row
    return rows


def _clip(
    tree: Tree,
    config: DataConfig,
    video: str,
    masks: _Masks,
    row: dict[str, str],
    names: tuple[str, ...],
) -> ClipSource:
    path = f"videos/{video}"
    source = row.get("source") or str(PurePosixPath(video).with_suffix(""))
    split = row.get("split") or seeded_split(source, config.split_seed)
    problem = split_problem(split)
    if masks.odd and problem is None:
        problem = f"{masks.odd[0]}: the name of a mask must be its time in seconds, as 3.5.png"
    times, pictures, track = _chosen(masks)
    return ClipSource(
        clip_id=f"labelled/videos/{video}",
        dataset="labelled",
        subset="videos",
        split=split,
        source=tree.source(path),
        categories=tuple(c.strip() for c in row.get("categories", "").split(";") if c.strip()),
        video=tree.uri(path),
        masks=tuple(tree.uri(p) for p in pictures),
        mask_time_s=times,
        mask_track=tree.uri(track) if track else None,
        mask_kind=MaskKind.BINARY if names == _BINARY else MaskKind.INDEX,
        num_classes=len(names),
        class_names=names,
        files_hash=tree.files_hash(*pictures, track),
        video_id=source,
        problem=problem,
    )


def _chosen(masks: _Masks) -> tuple[tuple[float, ...], list[str], str | None]:
    """Times and pictures, or a track: pictures by time, then by number, then JSON alone."""
    if masks.by_time:
        times = tuple(sorted(masks.by_time))
        return times, [masks.by_time[t] for t in times], None
    numbers = sorted(masks.by_number)
    pictures = [masks.by_number[n] for n in numbers]
    if masks.track is None:
        return tuple(n + SECOND_OFFSET_S for n in numbers), pictures, None
    return (), pictures, masks.track


def _absent(tree: Tree, video: str, row: dict[str, str]) -> ClipSource:
    return ClipSource(
        clip_id=f"labelled/videos/{video}",
        dataset="labelled",
        subset="videos",
        split=row.get("split") or "train",
        source=tree.source(f"videos/{video}"),
        problem=f"labels.csv lists {video}, but videos/{video} is not there",
    )


def _left_out(videos: list[str], masks: dict[str, _Masks], orphans: set[str]) -> list[str]:
    bare = [v for v in videos if v not in masks]
    notes = []
    if bare:
        notes.append(f"{len(bare)} videos have no masks and are left out, first {bare[0]}")
    if orphans:
        first = min(orphans)
        notes.append(f"{len(orphans)} places in masks/ belong to no video, first masks/{first}")
    return notes
