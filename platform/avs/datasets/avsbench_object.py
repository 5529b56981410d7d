"""AVSBench-object: S4 (Single-source) and MS3 (Multi-sources) in their official folders.

With ``media=auto`` the raw video is read where it is there (one form for all clips), else
``visual_frames`` with the sound that ``data.audio.source`` allows. Where only AVSBench-semantic is
there, its v1s and v1m folders are read as S4 and MS3, as Stepping-Stones does; a test list without
a header serves where there is no metadata csv.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from avs.datasets.avsbench_semantic import list_as_binary
from avs.datasets.avss_metadata import source_video_id
from avs.datasets.base import AudioSource, ClipSource, DataConfig, MediaSource, MissingSound
from avs.datasets.joined_categories import clip_categories
from avs.datasets.tree import (
    Tree,
    mark_repeated,
    numbered,
    read_csv,
    read_test_list,
    split_problem,
)
from avs.errors import ConfigError

__all__ = ["list_ms3", "list_s4"]

_MEDIA_FOLDERS = ("gt_masks", "visual_frames", "raw_videos")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """What differs between the two sets; ``folders`` are the names that tell its folders."""

    data: str
    subset: str
    columns: tuple[str, ...]
    folders: tuple[str, ...]
    semantic_label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Paths:
    """Where one clip's files are, relative to the root."""

    video: str
    frames: tuple[str, ...]
    audio: str
    log_mel: str
    masks: tuple[str, ...]


_S4 = _Layout(
    data="s4",
    subset="Single-source",
    columns=("name", "category", "split"),
    folders=("s4_data", "single-source", "s4"),
    semantic_label="v1s",
)
_MS3 = _Layout(
    data="ms3",
    subset="Multi-sources",
    columns=("name", "split"),
    folders=("ms3_data", "multi-sources", "ms3"),
    semantic_label="v1m",
)


def list_s4(config: DataConfig) -> list[ClipSource]:
    """The clips of Single-source: one category a clip; train has a mask for frame 1 only."""
    tree = Tree(config.root)
    rows = _rows(tree, _S4)
    if rows is None:
        return list_as_binary(tree, config, data="s4", label="v1s")
    base = _media_folder(tree, _S4)
    clips = []
    for row in rows:
        name, category, split = row["name"], row["category"], row["split"]
        where = f"{split}/{category}/{name}"
        numbers = range(1, config.num_frames + 1)
        paths = _Paths(
            video=f"{base}raw_videos/{where}.mp4",
            frames=numbered(f"{base}visual_frames/{where}/{name}_{{}}.png", numbers),
            audio=f"{base}audio_wav/{where}.wav",
            log_mel=f"{base}audio_log_mel/{where}.pkl",
            masks=numbered(f"{base}gt_masks/{where}/{name}_{{}}.png", numbers),
        )
        num_masks = 1 if split == "train" else config.num_frames
        plain = {"categories": (category,), "video_id": name, "notes": _notes(row)}
        clips.append(_clip(_S4, row, plain, paths, num_masks, tree, config))
    return list(mark_repeated(clips))


def list_ms3(config: DataConfig) -> list[ClipSource]:
    """The clips of Multi-sources: all frames have masks.

    Categories are those of ``config.categories``, else of an optional csv column ``category``.
    """
    tree = Tree(config.root)
    rows = _rows(tree, _MS3)
    if rows is None:
        if config.categories is not None:
            raise ConfigError(
                f"data.categories={config.categories}: data.root={config.root} is "
                "AVSBench-semantic, whose own metadata.csv names the categories: leave it out."
            )
        return list_as_binary(tree, config, data="ms3", label="v1m")
    base = _media_folder(tree, _MS3)
    known = clip_categories(rows, uri=config.categories)
    clips = []
    for row, (categories, notes) in zip(rows, known, strict=True):
        name, split = row["name"], row["split"]
        numbers = range(1, config.num_frames + 1)
        paths = _Paths(
            video=f"{base}raw_videos/{name}.mp4",
            frames=numbered(f"{base}visual_frames/{name}/{name}.mp4_{{}}.png", numbers),
            audio=f"{base}audio_wav/{split}/{name}.wav",
            log_mel=f"{base}audio_log_mel/{split}/{name}.pkl",
            masks=numbered(f"{base}gt_masks/{split}/{name}/{name}_{{}}.png", numbers),
        )
        plain = {
            "categories": categories,
            "video_id": source_video_id(name, "v1m"),
            "notes": (*_notes(row), *notes),
        }
        clips.append(_clip(_MS3, row, plain, paths, config.num_frames, tree, config))
    return list(mark_repeated(clips))


def _rows(tree: Tree, layout: _Layout) -> list[dict[str, str]] | None:
    """The rows of the metadata csv, else of the test list; None to read AVSBench-semantic."""
    names = _csv_names(layout)
    if path := tree.find(names[0]):
        return read_csv(tree.uri(path), layout.columns)
    if path := tree.find(names[1]):
        return read_test_list(tree.uri(path))
    if tree.find("metadata.csv") and any(f.name == layout.semantic_label for f in tree.folders):
        return None
    raise tree.not_here(*names, data=layout.data)


def _notes(row: dict[str, str]) -> tuple[str, ...]:
    return (row["note"],) if "note" in row else ()


def _media_folder(tree: Tree, layout: _Layout) -> str:
    """The folder that holds gt_masks and the like, with a slash at its end, by looking for it.

    Copies keep it beside the csv, doubled, or moved; the official place is the answer where there
    is none, so that the messages about missing files name it.
    """
    path = tree.find(*_csv_names(layout))
    assert path is not None
    home = PurePosixPath(path).parent
    others = {f for other in (_S4, _MS3) if other is not layout for f in other.folders}
    ranked = []
    for folder in {f.parent for f in tree.folders if f.name in _MEDIA_FOLDERS}:
        parts = {part.lower() for part in folder.parts}
        is_named, is_near = bool(parts & set(layout.folders)), folder.is_relative_to(home)
        if not parts & others and (is_named or is_near):
            ranked.append((not is_near, not is_named, len(folder.parts), str(folder)))
    chosen = min(ranked)[-1] if ranked else str(home / layout.folders[0])
    return "" if chosen == "." else f"{chosen}/"


def _csv_names(layout: _Layout) -> tuple[str, str]:
    return f"{layout.data}_meta_data.csv", f"{layout.data}_test_list.csv"


def _clip(
    layout: _Layout,
    row: dict[str, str],
    plain: dict[str, Any],
    paths: _Paths,
    num_masks: int,
    tree: Tree,
    config: DataConfig,
) -> ClipSource:
    use_raw = tree.has(paths.video) and config.media is not MediaSource.PREPROCESSED
    audio, log_mel = _sound(paths, tree, config, use_raw=use_raw)
    masks = [tree.uri(m) for m in paths.masks[:num_masks]]
    problem = split_problem(row["split"])
    if problem is None:
        problem = _missing(paths, num_masks, tree, config, has_sound=bool(audio or log_mel))
    return ClipSource(
        clip_id=f"{layout.data}/{layout.subset}/{row['name']}",
        dataset=layout.data,
        subset=layout.subset,
        split=row["split"],
        source=tree.source(paths.video if use_raw else paths.frames[0]),
        video=tree.uri(paths.video) if use_raw else None,
        frames=() if use_raw else tuple(tree.uri(f) for f in paths.frames),
        audio=tree.uri(audio) if audio else None,
        log_mel=tree.uri(log_mel) if log_mel else None,
        masks=(*masks, *[None] * (len(paths.masks) - num_masks)),
        files_hash=tree.files_hash(*paths.frames, audio, log_mel, *paths.masks),
        problem=problem,
        **plain,
    )


def _sound(
    paths: _Paths, tree: Tree, config: DataConfig, *, use_raw: bool
) -> tuple[str | None, str | None]:
    """The sound file beside the pictures and the stored log-mel, where allowed and there."""
    source = config.audio.source

    def there(path: str, kind: AudioSource) -> str | None:
        return path if source in (AudioSource.AUTO, kind) and tree.has(path) else None

    log_mel = there(paths.log_mel, AudioSource.LOGMEL)
    if use_raw:  # its own sound first: it is the one that was cut with the picture
        return paths.audio if source is AudioSource.WAV and tree.has(paths.audio) else None, log_mel
    wav = there(paths.audio, AudioSource.WAV)
    return wav or there(paths.video, AudioSource.VIDEO), log_mel


def _missing(
    paths: _Paths, num_masks: int, tree: Tree, config: DataConfig, *, has_sound: bool
) -> str | None:
    """What of the clip is not there, if anything."""
    raw = tree.has(paths.video)
    source = config.audio.source
    wanted = paths.log_mel if source is AudioSource.LOGMEL else paths.audio
    is_silent_fine = config.audio.missing is MissingSound.SILENCE
    preprocessed = tree.has(*paths.frames) and (has_sound or is_silent_fine)
    if config.media is MediaSource.RAW and not raw:
        return f"{paths.video} is missing"
    if config.media is MediaSource.PREPROCESSED and not preprocessed:
        return f"{paths.frames[0]} to _{config.num_frames}.png or {wanted} is missing"
    if not raw and not preprocessed:
        return f"neither {paths.video} nor {paths.frames[0]} with {wanted} is there"
    needs_file = source in (AudioSource.WAV, AudioSource.LOGMEL)
    if needs_file and not has_sound and not is_silent_fine:
        return f"{wanted} is missing"
    absent = [m for m in paths.masks[:num_masks] if not tree.has(m)]
    return f"mask {absent[0]} is missing" if absent else None
