"""VPO (CAVP): still pictures of COCO joined with sounds of VGGSound, 21 classes.

Read as CAVP's loader does: ``vpo_{ss,ms,msmi}_data_stereo.csv`` with a row for each sounding
object (img_Id, ann_Ids, cateName, vgg_file, split), ``data/{img_Id:012}.jpg`` and
``mask/{img_Id:012}_{ann_Ids:012}.png`` of COCO category ids beside it, ``audios/{vgg_file}.wav``
anywhere below the root. Rows of one picture are one clip whose sounds are added; rows of VPO-MSMI
with multi_instance = 0 have their files in VPO-MS. How the published archives are packed is not
known here, so the folders are looked for by name, and where ``mask/`` is missing the masks are
drawn from COCO's ``instances*.json``. The platform's sound is mono: the left-right position, by
which VPO-MSMI tells two objects of a class apart, is not kept. CAVP calls the val rows test; here
they stay val. A clip is one frame (T = 1) with the middle T seconds of the sound.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Any

from avs import storage
from avs.datasets.base import (
    AudioSource,
    ClipSource,
    DataConfig,
    Instance,
    MaskKind,
    MissingSound,
    check_audio_source,
)
from avs.datasets.tree import Tree, mark_repeated, read_csv, split_problem

__all__ = ["COCO_TO_VPO", "VPO_CLASSES", "list_vpo", "vpo_class_names"]

VPO_CLASSES = (
    *("background", "airplane", "baby", "bird", "bus", "car", "cat", "cell phone", "cow", "dog"),
    *("elephant", "female", "horse", "keyboard", "male", "motorcycle", "mouse", "sheep"),
    *("skateboard", "sports ball", "tennis racket", "zebra"),
)
# By COCO category id. CAVP splits person into ids of its own: 92, 93 and 94.
_COCO_IDS = {
    3: "car",
    4: "motorcycle",
    5: "airplane",
    6: "bus",
    16: "bird",
    17: "cat",
    18: "dog",
    19: "horse",
    20: "sheep",
    21: "cow",
    22: "elephant",
    24: "zebra",
    37: "sports ball",
    41: "skateboard",
    43: "tennis racket",
    74: "mouse",
    76: "keyboard",
    77: "cell phone",
    92: "male",
    93: "female",
    94: "baby",
}
COCO_TO_VPO = {number: VPO_CLASSES.index(name) for number, name in _COCO_IDS.items()}
_CSV = tuple(f"vpo_{name}_data_stereo.csv" for name in ("ss", "ms", "msmi"))
_COLUMNS = ("img_Id", "ann_Ids", "cateName", "vgg_file", "split")


def vpo_class_names(_: DataConfig) -> tuple[str, ...]:
    """Background and the 21 classes in CAVP's order."""
    return VPO_CLASSES


def list_vpo(config: DataConfig) -> list[ClipSource]:
    """The pictures of the csv files that are there, each with its sounds and sounding objects."""
    check_audio_source(config, AudioSource.WAV)
    tree = Tree(config.root)
    paths = [path for name in _CSV if (path := tree.find(name))]
    if not paths:
        raise tree.not_here(*_CSV, data="vpo")
    files = _Files(tree)
    clips = []
    for path in paths:
        subset = PurePosixPath(path).name.split("_")[1]
        for rows in _samples(read_csv(tree.uri(path), _COLUMNS), is_single=subset == "ss"):
            clips.append(_clip(files, config, PurePosixPath(path).parent, subset, rows))
    return list(mark_repeated(clips))


class _Files:
    """Look-ups of pictures, masks, sounds and COCO annotations in one listing."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.sounds = {PurePosixPath(p).stem: p for p in tree.files if p.lower().endswith(".wav")}
        self._folders = {
            name: sorted(f for f in tree.folders if f.name == name) for name in ("data", "mask")
        }
        self.annotations = {} if self._folders["mask"] else self._read_annotations()

    def find(self, home: PurePosixPath, folder: str, name: str) -> str:
        """The file in ``folder`` beside the csv, else in a folder of that name of another set."""
        first = str(home / folder / name)
        places = [first, *(str(f / name) for f in self._folders[folder])]
        return next((p for p in places if self.tree.has(p)), first)

    def _read_annotations(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for path in self.tree.files:
            if re.fullmatch(r"instances.*\.json", PurePosixPath(path).name):
                plain = storage.read_json(self.tree.uri(path))
                found |= {str(a["id"]): a for a in plain.get("annotations", [])}
        return found


def _samples(rows: list[dict[str, str]], *, is_single: bool) -> list[list[dict[str, str]]]:
    """Rows by clip: each its own in VPO-SS, those of one picture and mask together elsewhere."""
    if is_single:
        return [[row] for row in rows]
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["img_Id"], row["ann_Ids"], row["split"]), []).append(row)
    return list(groups.values())


def _clip(
    files: _Files,
    config: DataConfig,
    home: PurePosixPath,
    subset: str,
    rows: list[dict[str, str]],
) -> ClipSource:
    first, tree = rows[0], files.tree
    picture_id = first["img_Id"].zfill(12)
    name = f"{picture_id}_{first['ann_Ids'].zfill(12)}"
    picture = files.find(home, "data", f"{picture_id}.jpg")
    mask = files.find(home, "mask", f"{name}.png")
    wavs = [files.sounds.get(row["vgg_file"].removesuffix(".wav"), "") for row in rows]
    audio = [tree.uri(w) for w in wavs if w]
    drawn = () if tree.has(mask) else _drawn(first["ann_Ids"], files.annotations)
    return ClipSource(
        clip_id=f"vpo/{subset}/{name}" + (f"_{first['vgg_file']}" if subset == "ss" else ""),
        dataset="vpo",
        subset=subset,
        split=first["split"],
        source=tree.source(picture),
        categories=tuple(sorted({row["cateName"] for row in rows})),
        frames=(tree.uri(picture),),
        audio=audio[0] if audio else None,
        audio_mix=tuple(audio[1:]),
        audio_from_middle=True,
        masks=() if drawn else (tree.uri(mask),),
        mask_kind=MaskKind.COCO,
        instances=drawn,
        num_classes=len(VPO_CLASSES),
        files_hash=tree.files_hash(mask, *wavs),
        video_id=picture_id,
        problem=_problem(tree, config, rows, picture, "" if drawn else mask, wavs),
    )


def _drawn(annotation_ids: str, annotations: dict[str, dict[str, Any]]) -> tuple[Instance, ...]:
    """The objects of a mask from COCO's annotations, large ones first so that small ones show."""
    found = [annotations[n] for n in re.findall(r"\d+", annotation_ids) if n in annotations]
    found.sort(key=lambda a: -float(a.get("area", 0)))
    return tuple(
        Instance(
            class_index=COCO_TO_VPO.get(int(a["category_id"]), 0),
            segmentation=json.dumps(a["segmentation"]),
        )
        for a in found
    )


def _problem(
    tree: Tree,
    config: DataConfig,
    rows: list[dict[str, str]],
    picture: str,
    mask: str,
    wavs: list[str],
) -> str | None:
    if wrong := split_problem(rows[0]["split"]):
        return wrong
    for row in rows:
        if row["cateName"] not in VPO_CLASSES:
            return f"cateName {row['cateName']!r} is none of the 21 classes"
    absent = [p for p in (picture, mask) if p and not tree.has(p)]
    if absent:
        return f"{absent[0]} is missing"
    for row, wav in zip(rows, wavs, strict=True):
        if not wav and config.audio.missing is MissingSound.REJECT:
            return f"{row['vgg_file']}.wav is missing"
    return None
