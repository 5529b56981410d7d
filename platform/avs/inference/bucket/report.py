"""What came out of the bucket job: index.parquet with every video, report.json and a gallery.

Rows come in any order and may be millions: they wait on this machine's disk, and only what is shown
is in memory.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from avs import storage
from avs.inference.bucket.gallery import MAX_CARDS, gallery

__all__ = ["GALLERY", "INDEX", "INDEX_SCHEMA", "MAX_REPORT_ROWS", "REPORT", "BucketReport"]

INDEX, REPORT, GALLERY = "index.parquet", "report.json", "index.html"
MAX_REPORT_ROWS = 10_000
_GROUP_ROWS = 1_000
_LONG = ("mask_time_s", "mask_area")  # a value a mask: in the index alone
# ``mask_area``: share of the picture that sounds, 0..1, at each of ``mask_time_s``. ``outputs``:
# key of each output below the output folder. ``timings``: seconds that each stage took.
INDEX_SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("stage", pa.string()),
        ("folder", pa.string()),
        ("duration_s", pa.float64()),
        ("num_masks", pa.int64()),
        ("categories", pa.list_(pa.string())),
        ("mask_time_s", pa.list_(pa.float64())),
        ("mask_area", pa.list_(pa.float32())),
        ("mean_area", pa.float32()),
        ("outputs", pa.map_(pa.string(), pa.string())),
        ("warnings", pa.list_(pa.string())),
        ("seconds", pa.float64()),
        ("timings", pa.map_(pa.string(), pa.float64())),
    ]
)


class BucketReport:
    """Collects rows while a job runs: ``with BucketReport(out) as report: report.add(row)``."""

    def __init__(self, out: str, *, may_repeat: bool = False) -> None:
        self.counts: Counter[str] = Counter()
        self._out = out
        self._statuses: dict[str, str] | None = {} if may_repeat else None
        self._again: set[str] = set()

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="avs-rows-")
        self._rows: IO[str] = (Path(self._folder.name) / "rows.jsonl").open("w+", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rows.close()
        self._folder.cleanup()

    def add(self, row: dict[str, Any]) -> None:
        """A row; with ``may_repeat`` it replaces an earlier one of the same video."""
        self.counts[row["status"]] += 1
        if self._statuses is not None:
            before = self._statuses.get(row["video"])
            if before is not None:
                self.counts[before] -= 1
                self._again.add(row["video"])
            self._statuses[row["video"]] = row["status"]
        self._rows.write(json.dumps(row) + "\n")

    def write(self) -> None:
        """Write the three files of all rows so far, each whole or not at all."""
        self._rows.flush()
        shown = self._shown()
        listed = sorted(shown["listed"], key=lambda r: (r["status"] == "ok", str(r["video"])))
        storage.write_json(storage.join(self._out, REPORT), listed)
        cards = sorted(shown["cards"], key=lambda row: str(row["video"]))
        page = gallery(cards, [r for r in listed if r["status"] != "ok"], counts=self.counts)
        storage.write_bytes(storage.join(self._out, GALLERY), page.encode(errors="replace"))

    def _shown(self) -> dict[str, list[dict[str, Any]]]:
        """Write the index on the way; returns what else is shown: failures before others."""
        failed: list[dict[str, Any]] = []
        done: list[dict[str, Any]] = []
        cards: list[dict[str, Any]] = []
        path = Path(self._folder.name) / INDEX
        with pq.ParquetWriter(path, INDEX_SCHEMA, compression="zstd") as index:
            for group in _groups(self._current()):
                index.write_table(pa.Table.from_pylist([_plain(r) for r in group], INDEX_SCHEMA))
                for row in group:
                    is_ok = row["status"] == "ok"
                    kept = done if is_ok else failed
                    if len(kept) < MAX_REPORT_ROWS:
                        kept.append({k: v for k, v in row.items() if k not in _LONG})
                    if is_ok and len(cards) < MAX_CARDS:
                        cards.append(row)
        storage.put_file(path, storage.join(self._out, INDEX))
        return {"listed": (failed + done)[:MAX_REPORT_ROWS], "cards": cards}

    def _current(self) -> Iterator[dict[str, Any]]:
        """All rows without those that a later one replaces."""
        newest: dict[str, int] = {}
        if self._again:
            for number, row in enumerate(self._read()):
                if row["video"] in self._again:
                    newest[row["video"]] = number
        for number, row in enumerate(self._read()):
            if newest.get(row["video"], number) == number:
                yield row

    def _read(self) -> Iterator[dict[str, Any]]:
        with Path(self._rows.name).open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == _GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """As Arrow takes it; a rejected video has few columns."""
    given = {name: row.get(name) for name in INDEX_SCHEMA.names}
    given["video"] = str(row["video"]).encode("utf-8", "replace").decode()  # odd bytes of a name
    for key in ("outputs", "timings"):
        value = row.get(key)
        given[key] = list(value.items()) if isinstance(value, dict) else None
    return given
