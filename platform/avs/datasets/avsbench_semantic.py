"""AVSBench-semantic (AVSS): v1s, v1m and v2 with class-index masks, padded to T frames.

Index masks (``labels_semantic``) are read where they are there, else the colour masks. Class names
come from the order of the keys in label2idx.json, because copies with 1-based values circulate.
"""

from __future__ import annotations

from avs import storage
from avs.datasets.avsbench_object import find_csv, mark_repeated, read_csv, split_problem
from avs.datasets.base import ClipSource, DataConfig, MaskKind
from avs.errors import DataError
from avs.schema import Source

__all__ = ["avss_class_names", "list_avss"]

_FRAMES = {"v1s": 5, "v1m": 5, "v2": 10}


def avss_class_names(config: DataConfig) -> tuple[str, ...]:
    """The 71 names in index order, background first."""
    root = find_csv(config.root, "metadata.csv")
    uri = storage.join(root, "label2idx.json")
    names = storage.read_json(uri)
    if not isinstance(names, dict) or not names or next(iter(names)) != "background":
        raise DataError(f"{uri} is not a mapping that begins with 'background'.")
    return tuple(names)


def list_avss(config: DataConfig) -> list[ClipSource]:
    """The clips of metadata.csv; v1s train clips have a mask for frame 0 only."""
    root = find_csv(config.root, "metadata.csv")
    files = {f.path: f for f in storage.list_files(root)}
    rows = read_csv(storage.join(root, "metadata.csv"), ("uid", "a_obj", "split", "label"))
    return list(mark_repeated([_clip(root, row, files, config) for row in rows]))


def _clip(
    root: str, row: dict[str, str], files: dict[str, storage.FileInfo], config: DataConfig
) -> ClipSource:
    label, uid = row["label"], row["uid"]
    base = f"{label}/{uid}"
    count = min(_FRAMES.get(label, 0), config.num_frames)
    frames = [f"{base}/frames/{k}.jpg" for k in range(count)]
    num_masks = 1 if (label, row["split"]) == ("v1s", "train") else count
    kind = MaskKind.INDEX if f"{base}/labels_semantic/0.png" in files else MaskKind.RGB
    folder = "labels_semantic" if kind is MaskKind.INDEX else "labels_rgb"
    masks = [f"{base}/{folder}/{k}.png" for k in range(num_masks)]
    audio = f"{base}/audio.wav"
    absent = [p for p in (*frames, audio, *masks) if p not in files]
    problem = split_problem(row["split"])
    if not count:
        problem = f"label {label!r} is not one of {', '.join(_FRAMES)}"
    elif absent and problem is None:
        problem = f"{absent[0]} is missing"
    main = files.get(audio)
    return ClipSource(
        clip_id=f"avss/{label}/{uid}",
        dataset="avss",
        subset=label,
        split=row["split"],
        source=Source(
            uri=storage.join(root, audio),
            size_bytes=main.size_bytes if main else 0,
            version=main.version if main else "",
        ),
        categories=tuple(c for c in row["a_obj"].split("_") if c),
        frames=tuple(storage.join(root, f) for f in frames),
        audio=storage.join(root, audio),
        masks=(*(storage.join(root, m) for m in masks), *[None] * (count - num_masks)),
        mask_kind=kind,
        problem=problem,
    )
