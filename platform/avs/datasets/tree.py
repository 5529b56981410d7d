"""One listing of a data set's folder, its csv files, and what can be told from looking at it.

A folder is listed once and every path is looked up in that listing, so a name in a csv cannot
reach outside the root, a missing file is known before anything is decoded, and copies in
circulation that moved or doubled folders are found by what they hold.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from avs import storage
from avs.datasets.base import ClipSource
from avs.datasets.folder import VIDEO_SUFFIXES
from avs.errors import DataError
from avs.schema import Source

__all__ = [
    "SPLITS",
    "Tree",
    "mark_repeated",
    "metadata_notes",
    "numbered",
    "read_csv",
    "read_test_list",
    "split_problem",
]

SPLITS = ("train", "val", "test")

# What tells a data set: its csv, within two levels. In the order in which they are named.
_TELLING_CSV = {
    "s4_meta_data.csv": "s4",
    "ms3_meta_data.csv": "ms3",
    "metadata.csv": "avss",
    "vpo_ss_data_stereo.csv": "vpo",
    "vpo_ms_data_stereo.csv": "vpo",
    "vpo_msmi_data_stereo.csv": "vpo",
}


class Tree:
    """The ``files`` and ``folders`` below ``root``, for look-ups by relative path.

    Raises:
        DataError: ``root`` is missing or empty.
    """

    def __init__(self, root: str) -> None:
        if not storage.exists(root):
            raise DataError(f"data.root={root} does not exist.")
        self.root = root
        self.files = {info.path: info for info in storage.list_files(root)}
        if not self.files:
            raise DataError(f"data.root={root} is an empty folder.")
        self.folders = {f for path in self.files for f in PurePosixPath(path).parents}

    def has(self, *paths: str) -> bool:
        """True when every one of ``paths`` is a file."""
        return all(p in self.files for p in paths)

    def has_folder(self, path: str) -> bool:
        """True when files lie below ``path``."""
        return PurePosixPath(path) in self.folders

    def uri(self, path: str) -> str:
        """The address of a file or folder of the tree."""
        return storage.join(self.root, path) if path else self.root

    def source(self, path: str) -> Source:
        """The source of a row; a file that is missing gives one of size 0."""
        info = self.files.get(path)
        if info is None:
            return Source(uri=self.uri(path), size_bytes=0, version="")
        return Source(uri=self.uri(path), size_bytes=info.size_bytes, version=info.version)

    def files_hash(self, *paths: str | None) -> str:
        """Hash of the sizes and versions of those of ``paths`` that are there."""
        digest = hashlib.sha256()
        for path in paths:
            if path is not None and (info := self.files.get(path)):
                digest.update(
                    f"{path}\0{info.size_bytes}\0{info.version}\n".encode(errors="replace")
                )
        return digest.hexdigest()[:16]

    def find(self, *names: str) -> str | None:
        """The path of the first of ``names`` within two levels, the nearest to the root."""
        for name in names:
            found = [p for p in self.files if PurePosixPath(p).name == name and p.count("/") <= 2]
            if found:
                return min(found, key=lambda p: (p.count("/"), p))
        return None

    def not_here(self, *names: str, data: str, looked: str = "looked two levels deep") -> DataError:
        """The error for none of ``names``; tells which data sets are there instead."""
        missing = f"data.root={self.root} has no {' or '.join(names)} ({looked})"
        return DataError(f"{missing}, so it is not data={data}.{self._others(data)}")

    def _others(self, data: str) -> str:
        found: dict[str, str] = {}
        for name, other in _TELLING_CSV.items():
            if other != data and other not in found and (path := self.find(name)):
                found[other] = path
        if not found:
            videos = sum(PurePosixPath(p).suffix.lower() in VIDEO_SUFFIXES for p in self.files)
            if videos and self.has_folder("videos") and self.has_folder("masks"):
                found["labelled"] = "videos/ and masks/"
            elif videos:
                found["folder"] = f"{videos} videos"
        told = ", ".join(f"data={other} ({what})" for other, what in found.items())
        return f" It looks like: {told}." if told else ""


def read_csv(uri: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a csv with a header; blanks around values are cut.

    Raises:
        DataError: not a csv, empty, or without a needed column; names the file, the column and
            the ones there are.
    """
    text = storage.read_bytes(uri).decode("utf-8-sig", errors="replace")
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    try:
        present = [name.strip() for name in reader.fieldnames or []]
        missing = [c for c in columns if c not in present]
        if missing:
            raise DataError(
                f"{uri} has no column {missing[0]!r}; it has: {', '.join(present) or 'nothing'}."
            )
        rows = [_stripped(row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{uri} is not a csv ({error}).") from None
    if not rows:
        raise DataError(f"{uri} lists no clips.")
    return rows


def read_test_list(uri: str) -> list[dict[str, str]]:
    """The clips of an official test list: no header, a row ``name_k,category`` for each frame.

    Raises DataError where the file is not such a list.
    """
    text = storage.read_bytes(uri).decode("utf-8-sig", errors="replace")
    try:
        lines = [line for line in csv.reader(io.StringIO(text), skipinitialspace=True) if line]
    except csv.Error as error:
        raise DataError(f"{uri} is not a csv ({error}).") from None
    rows: dict[str, dict[str, str]] = {}
    for line in lines:
        name, _, number = line[0].strip().rpartition("_")
        if not name or not number.isdigit() or len(line) < 2:
            raise DataError(f"{uri}: the line {','.join(line)!r} is not 'name_k,category'.")
        category = "_".join(part.strip() for part in line[1].split(","))
        rows.setdefault(name, {"name": name, "category": category, "split": "test"})
    if not rows:
        raise DataError(f"{uri} lists no clips.")
    note = "taken from a test list without a header as split test"
    return [row | {"note": note} for row in rows.values()]


def _stripped(row: Mapping[str | Any, str | Any]) -> dict[str, str]:
    """A row without values beyond the last column of the header (under None), "" for absent."""
    return {k.strip(): (v or "").strip() for k, v in row.items() if isinstance(k, str)}


def numbered(pattern: str, numbers: range) -> tuple[str, ...]:
    """``pattern`` with its last ``{}`` replaced; a clip's name may hold "{}" too."""
    head, _, tail = pattern.rpartition("{}")
    return tuple(f"{head}{k}{tail}" for k in numbers)


def split_problem(split: str) -> str | None:
    """What is wrong with the split of a csv row, if anything."""
    return None if split in SPLITS else f"split {split!r} is not one of {', '.join(SPLITS)}"


def mark_repeated(clips: Sequence[ClipSource]) -> Iterator[ClipSource]:
    """Let each clip id through once; later rows of the same name become rejects of their own."""
    seen: Counter[str] = Counter()
    for clip in clips:
        seen[clip.clip_id] += 1
        count = seen[clip.clip_id]
        if count == 1:
            yield clip
        else:
            twice = f"{clip.clip_id.rpartition('/')[2]} is listed more than once in the csv"
            yield replace(clip, clip_id=f"{clip.clip_id}#{count}", problem=twice)


def metadata_notes(clips: Sequence[ClipSource]) -> dict[str, int]:
    """What was repaired or left out in the metadata, by kind, with the number of clips."""
    counts = Counter(note for clip in clips for note in clip.notes)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
