"""AVSBench-semantic (AVSS): v1s, v1m and v2 with class-index masks, padded to T frames.

Index masks (``labels_semantic``) are read where they are there, else the colour masks. Class names
come from the order of the keys in label2idx.json, because copies with 1-based values circulate, and
from the published list where a copy lacks the file. The three folders are found by what they hold:
copies double them (``v1s/v1s``) or keep the csv in a folder of its own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from avs import storage
from avs.datasets.avss_metadata import AVSS_CLASSES, clean_objects, row_notes, source_video_id
from avs.datasets.base import AudioSource, ClipSource, DataConfig, MaskKind, check_audio_source
from avs.datasets.base import MissingSound as Missing
from avs.datasets.tree import Tree, mark_repeated, numbered, read_csv, split_problem
from avs.errors import DataError, MediaError
from avs.media.masks import read_index_mask

__all__ = ["avss_class_names", "list_as_binary", "list_avss"]

_FRAMES = {"v1s": 5, "v1m": 5, "v2": 10}
_COLUMNS = ("uid", "a_obj", "split", "label")


def avss_class_names(config: DataConfig) -> tuple[str, ...]:
    """The 71 names in index order, background first."""
    return _class_names(Tree(config.root))


def list_avss(config: DataConfig) -> list[ClipSource]:
    """The clips of metadata.csv; v1s train clips have a mask for frame 0 only."""
    tree = Tree(config.root)
    path = tree.find("metadata.csv")
    if path is None:
        raise tree.not_here("metadata.csv", data="avss")
    clips = _list(tree, config, path, data="avss")
    return _compare_masks(tree, clips)


def list_as_binary(tree: Tree, config: DataConfig, *, data: str, label: str) -> list[ClipSource]:
    """The clips of one label as a binary data set: any class is foreground."""
    path = tree.find("metadata.csv")
    assert path is not None
    note = "masks are those of AVSBench-semantic, which differ from those of AVSBench-object"
    return [
        replace(clip, mask_kind=MaskKind.FOREGROUND, num_classes=2, notes=(*clip.notes, note))
        for clip in _list(tree, config, path, data=data)
        if clip.subset == label
    ]


def _class_names(tree: Tree) -> tuple[str, ...]:
    path = tree.find("label2idx.json")
    if path is None:
        return AVSS_CLASSES
    names = storage.read_json(tree.uri(path))
    if not isinstance(names, dict) or not names or next(iter(names)) != "background":
        raise DataError(f"{tree.uri(path)} is not a mapping that begins with 'background'.")
    return tuple(names)


def _list(tree: Tree, config: DataConfig, path: str, *, data: str) -> list[ClipSource]:
    check_audio_source(config, AudioSource.WAV)
    rows = read_csv(tree.uri(path), _COLUMNS)
    class_names = _class_names(tree)
    homes = {label: _home(tree, path, label) for label in _FRAMES}
    clips = []
    for row in rows:
        base = f"{homes.get(row['label'], row['label'])}/{row['uid']}"
        clips.append(_clip(tree, config, row, base, class_names, data=data))
    return list(mark_repeated(clips))


def _home(tree: Tree, csv_path: str, label: str) -> str:
    """The folder whose sub-folders are the clips of ``label``."""
    found = {f.parent.parent for f in tree.folders if f.name == "frames" and len(f.parts) > 2}
    named = sorted((len(f.parts), str(f)) for f in found if f.name == label)
    return named[0][1] if named else str(PurePosixPath(csv_path).parent / label)


def _clip(
    tree: Tree,
    config: DataConfig,
    row: dict[str, str],
    base: str,
    class_names: tuple[str, ...],
    *,
    data: str,
) -> ClipSource:
    label, uid = row["label"], row["uid"]
    count = min(_FRAMES.get(label, 0), config.num_frames)
    frames = numbered(f"{base}/frames/{{}}.jpg", range(count))
    num_masks = 1 if (label, row["split"]) == ("v1s", "train") else count
    kind = MaskKind.INDEX if tree.has(f"{base}/labels_semantic/0.png") else MaskKind.RGB
    folder = "labels_semantic" if kind is MaskKind.INDEX else "labels_rgb"
    masks = numbered(f"{base}/{folder}/{{}}.png", range(num_masks))
    audio = f"{base}/audio.wav"
    is_silent = not tree.has(audio) and config.audio.missing is Missing.SILENCE
    absent = [p for p in (*frames, *([] if is_silent else [audio]), *masks) if not tree.has(p)]
    problem = split_problem(row["split"])
    if not count:
        problem = f"label {label!r} is not one of {', '.join(_FRAMES)}"
    elif absent and problem is None:
        problem = f"{absent[0]} is missing"
    categories, notes = clean_objects(row["a_obj"], class_names)
    return ClipSource(
        clip_id=f"{data}/{label}/{uid}",
        dataset=data,
        subset=label,
        split=row["split"],
        source=tree.source(frames[0] if is_silent and frames else audio),
        categories=categories,
        frames=tuple(tree.uri(f) for f in frames),
        audio=None if is_silent else tree.uri(audio),
        masks=(*(tree.uri(m) for m in masks), *[None] * (count - num_masks)),
        mask_kind=kind,
        num_classes=len(class_names),
        files_hash=tree.files_hash(*frames, *masks),
        video_id=source_video_id(uid, label),
        problem=problem,
        notes=(*notes, *row_notes(row)),
    )


def _compare_masks(tree: Tree, clips: list[ClipSource]) -> list[ClipSource]:
    """A note on the first clip with index and colour masks, where the two disagree."""
    for k, clip in enumerate(clips):
        index = clip.masks[0] if clip.masks and clip.mask_kind is MaskKind.INDEX else None
        if index is None or clip.problem:
            continue
        colour = index.replace("/labels_semantic/", "/labels_rgb/")
        if not tree.has(colour.removeprefix(tree.root.rstrip("/") + "/")):
            continue
        try:
            first, second = (read_index_mask(storage.read_bytes(u)) for u in (index, colour))
        except MediaError:
            return clips  # told when the clip is prepared
        if first.shape == second.shape and (first == second).all():
            return clips
        note = "labels_semantic and labels_rgb disagree (one mask compared); labels_semantic used"
        return [*clips[:k], replace(clip, notes=(*clip.notes, note)), *clips[k + 1 :]]
    return clips
