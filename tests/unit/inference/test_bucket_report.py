"""index.parquet, report.json and the gallery of the bucket job."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from avs.inference.bucket import report as module
from avs.inference.bucket.report import GALLERY, INDEX, REPORT, BucketReport

NASTY = "<img src=x onerror=alert(1)>\"' #?.mp4"


def _row(name: str, **changes: Any) -> dict[str, Any]:
    row = {
        "video": name,
        "status": "ok",
        "reason": "",
        "stage": "",
        "folder": "folder",
        "duration_s": 2.0,
        "num_masks": 2,
        "categories": ["dog"],
        "mask_time_s": [0.5, 1.5],
        "mask_area": [0.25, 0.5],
        "mean_area": 0.375,
        "outputs": {"thumbnails": "a b%25#/thumbnails.jpg", "rle_json": "a/masks.json"},
        "warnings": [],
        "seconds": 0.3,
        "timings": {"decode": 0.1, "segment": 0.2},
    }
    return row | changes


def _failed(name: str, reason: str = "is empty") -> dict[str, Any]:
    return {"video": name, "status": "rejected", "reason": reason, "stage": "decode"}


def test_the_index_has_a_row_for_each_video(tmp_path: Path) -> None:
    with BucketReport(str(tmp_path)) as report:
        report.add(_row("b.mp4"))
        report.add(_failed("a.mp4"))
        report.write()
    found = {row["video"]: row for row in pq.read_table(tmp_path / INDEX).to_pylist()}
    assert found["b.mp4"]["mask_area"] == [0.25, 0.5]
    assert dict(found["b.mp4"]["outputs"])["rle_json"] == "a/masks.json"
    assert dict(found["b.mp4"]["timings"]) == {"decode": 0.1, "segment": 0.2}
    assert (found["a.mp4"]["status"], found["a.mp4"]["reason"]) == ("rejected", "is empty")
    assert found["a.mp4"]["mask_area"] is None
    listed = json.loads((tmp_path / REPORT).read_text())
    assert [row["video"] for row in listed] == ["a.mp4", "b.mp4"]
    assert "mask_area" not in listed[1]


def test_of_many_videos_the_report_has_the_failures_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REPORT_ROWS", 3)
    with BucketReport(str(tmp_path)) as report:
        for k in range(4):
            report.add(_row(f"ok{k}.mp4"))
        report.add(_failed("z1.mp4"))
        report.add(_failed("z2.mp4"))
        report.write()
        assert report.counts == {"ok": 4, "rejected": 2}
    listed = json.loads((tmp_path / REPORT).read_text())
    assert [row["video"] for row in listed] == ["z1.mp4", "z2.mp4", "ok0.mp4"]
    assert pq.read_table(tmp_path / INDEX).num_rows == 6


def test_a_video_that_came_again_has_its_newest_row(tmp_path: Path) -> None:
    with BucketReport(str(tmp_path), may_repeat=True) as report:
        report.add(_failed("a.mp4"))
        report.add(_row("b.mp4"))
        report.write()
        report.add(_row("a.mp4"))
        report.write()
        assert report.counts == {"ok": 2, "rejected": 0}
    rows = pq.read_table(tmp_path / INDEX).to_pylist()
    assert sorted((row["video"], row["status"]) for row in rows) == [
        ("a.mp4", "ok"),
        ("b.mp4", "ok"),
    ]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_gallery_shows_names_as_text_and_links_below_itself(tmp_path: Path) -> None:
    with BucketReport(str(tmp_path)) as report:
        report.add(_row(NASTY, categories=[NASTY]))
        report.add(_row("odd\udcff.mp4"))
        report.add(_failed(NASTY + "2", reason=f"{NASTY}: no"))
        report.write()
    page = (tmp_path / GALLERY).read_text()
    tags = _Tags()
    tags.feed(page)
    assert tags.tags.count("img") == 2
    assert "onerror" not in {word for link in tags.links for word in link.split()}
    assert all(link.startswith("./") for link in tags.links)
    assert "./a%20b%2525%23/thumbnails.jpg" in tags.links
    assert "2 videos segmented, 1 rejected" in page
