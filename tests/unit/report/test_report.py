"""report.html: one file that needs no other, with every text escaped."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from avs.inference.conditions import Condition
from avs.inference.scoring import _text
from avs.report.evaluation import write_report
from avs.report.figures import _write_names, contact_sheet, curves, sound_bars
from avs.report.page import page, picture, table

EVIL = "s4/x/<script>alert('$1')</script> & $x_1$ \"é\""
SCORE = {"j": 0.5, "f": 0.25, "pooled": {"j": 0.625, "f": 0.375}}
CONDITIONS = {c.value: SCORE for c in Condition}


class _Elements(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _pictures(count: int = 1, *, classes: int = 2) -> list[tuple[str, dict[str, np.ndarray]]]:
    rng = np.random.default_rng(0)
    names = ("truth", "true", "silent", "swapped")
    return [
        (
            EVIL,
            {
                "frame": rng.integers(0, 256, (24, 32, 3), np.uint8),
                **{name: rng.integers(0, classes, (24, 32), np.uint8) for name in names},
            },
        )
        for _ in range(count)
    ]


def _row(index: int, j: float | None, *, with_picture: bool) -> dict[str, Any]:
    score = None if j is None else {"j": j}
    row = {"index": index, "clip_id": f"{EVIL}{index}", "scores": {}}
    row["scores"] = {c.value: score for c in Condition}
    if with_picture:
        arrays = _pictures()[0][1]
        row["picture"] = {k: _text(torch.from_numpy(v)) for k, v in arrays.items()}
    return row


def _metrics(**changes: Any) -> dict[str, Any]:
    values = {"protocol": "avsbench", "num_clips": 2, "split": "test", "batch_size": 4}
    fixed = {"conditions": CONDITIONS, "checkpoint": "/runs/a", "data_warnings": []}
    return {**values, **fixed, **changes}


def _write(out: Path, rows: list[dict[str, Any]], **changes: Any) -> str:
    metrics = _metrics(
        num_clips=len(rows),
        split="<b>test",
        checkpoint="/runs/a & b",
        data_warnings=["content in several splits: 3"],
    )
    values = {"metrics": metrics, "run": None, "class_names": ("background", "sounding")}
    write_report(str(out), rows=rows, **{**values, **changes})
    return (out / "report.html").read_text(encoding="utf-8")


def _open(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


def test_a_report_needs_no_other_file_and_runs_nothing(run_folder: Path, tmp_path: Path) -> None:
    rows = [_row(k, 0.1 * k, with_picture=k < 2) for k in range(3)]
    elements = _Elements(_write(tmp_path, rows, run=str(run_folder)))
    tags = [tag for tag, _ in elements.found]
    assert not {"script", "link", "iframe", "object", "b"} & set(tags)
    for _, attributes in elements.found:
        assert "href" not in attributes
        assert str(attributes.get("src", "data:")).startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    images = [dict(a) for tag, a in elements.found if tag == "img"]
    assert len(images) == 3
    for attributes in images:
        assert attributes["alt"]
        _open(base64.b64decode(str(attributes["src"]).partition(",")[2]))


def test_texts_are_shown_as_they_are(tmp_path: Path) -> None:
    elements = _Elements(_write(tmp_path, [_row(0, 0.5, with_picture=False)]))
    assert f"{EVIL}0" in elements.text
    assert "split <b>test" in elements.text
    assert "AVSBench protocol, test batch of 4; checkpoint /runs/a & b" in elements.text
    assert "J, pooled over the split" in elements.text
    assert "0.625" in elements.text


OBJECTS: dict[str, Any] = {
    "num_frames": 10,
    "by_sound": {
        name: {"seen": 21, "seen_per_frame": 2.1, "sounding": n, "sounding_per_frame": n / 10}
        for name, n in (("true", 12), ("silent", 1), ("swapped", 7))
    },
    "by_category": {
        "<i>dog": {s: {"seen": 9, "sounding": n} for s, n in (("true", 8), ("swapped", 5))}
    },
}


def _with_objects(index: int) -> dict[str, Any]:
    row = _row(index, 0.5, with_picture=True)
    sounding = {"true": 0.75, "silent": None, "swapped": 0.125}
    row["shown_objects"] = [{"category": "<i>dog", "score": 0.875, "sounding": sounding}]
    row["shown_frame"] = 2
    row["picture"]["seen_outlines"] = _text(torch.ones(24, 32, dtype=torch.uint8))
    return row


def test_each_picture_stands_beside_the_table_of_its_objects(tmp_path: Path) -> None:
    rows = [_with_objects(0), {**_with_objects(1), "shown_objects": []}]
    elements = _Elements(_write(tmp_path, rows, metrics=_metrics(objects=OBJECTS)))
    tags = [tag for tag, _ in elements.found]
    assert "i" not in tags
    strips = [dict(a)["alt"] for tag, a in elements.found if tag == "img"][1:]
    assert strips == [f"frames, ground truth, predictions of {EVIL}{k}" for k in (0, 1)]
    told = elements.text.replace("\n", "")
    assert f"{EVIL}0, second 2objectscore" in told
    assert f"<i>dog0.8750.750-0.125{EVIL}1, second 2No object is seen." in told
    assert (tmp_path / "contact_sheet.png").is_file()


def test_the_sums_of_the_objects_are_told(tmp_path: Path) -> None:
    rows = [_row(0, 0.5, with_picture=False)]
    text = _Elements(_write(tmp_path, rows, metrics=_metrics(objects=OBJECTS))).text
    assert "10 frames; an object sounds from 0.5 on" in text
    assert "true212.100121.200" in text
    assert "silent212.10010.100" in text
    assert "<i>dog9805" in text
    assert "Objects" not in _Elements(_write(tmp_path, rows)).text


def test_silent_objects_are_outlined_in_the_column_of_their_sound() -> None:
    rng, empty = np.random.default_rng(0), np.zeros((40, 40), np.uint8)
    square = empty.copy()
    square[10:30, 10:30] = 1
    arrays = {"frame": rng.integers(0, 9, (40, 40, 3), np.uint8)}
    arrays |= dict.fromkeys(("truth", "true", "silent", "swapped"), empty)
    told = arrays | {"true_outlines": empty, "silent_outlines": square, "swapped_outlines": empty}
    before, after = (
        np.asarray(_open(contact_sheet([("x", a)], num_classes=2)).convert("RGB"), int)
        for a in (arrays, told)
    )
    changed = np.abs(after - before).sum(axis=2) > 90
    columns = np.flatnonzero(changed.any(axis=0)) / changed.shape[1]
    assert 0.6 < columns.min() < columns.max() < 0.8, "the fourth of five"
    assert changed.sum() > 100


def test_the_objects_that_are_seen_get_a_column_with_their_names() -> None:
    arrays = {name: np.zeros((40, 40), np.uint8) for name in ("truth", "true", "silent", "swapped")}
    arrays["frame"] = np.full((40, 40, 3), 128, np.uint8)
    arrays["seen_outlines"] = np.zeros((40, 40), np.uint8)
    arrays["seen_outlines"][4:18, 4:36] = 1
    sheets = [
        np.asarray(
            _open(contact_sheet([("x", arrays)], num_classes=2, names=[names])).convert("RGB"), int
        )
        for names in (["dog"], ["violin"], ["dog", "hidden $x$"])
    ]
    plain = _open(contact_sheet([("x", arrays)], num_classes=2))
    assert sheets[0].shape[1] > plain.width * 1.15
    changed = np.abs(sheets[0] - sheets[1]).sum(axis=2) > 90
    rows, columns = (np.flatnonzero(changed.any(axis=k)) / changed.shape[1 - k] for k in (1, 0))
    assert 5 / 6 < columns.min() < columns.max() < 1
    assert 0.1 < rows.min() < rows.max() < 0.55, "in the middle of the object"
    assert np.array_equal(sheets[0], sheets[2]), "nothing of an object, no name"


def test_names_of_objects_at_one_place_do_not_cover_each_other() -> None:
    axes = Figure().subplots()
    labels = np.zeros((40, 40), np.uint8)
    labels[10:20, 10:20], labels[12:18, 12:18], labels[14:16, 14:16] = 1, 2, 3
    _write_names(axes, labels, ["bird", "dog", "cat"])
    heights = [text.get_position()[1] for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == ["bird", "dog", "cat"]
    assert np.diff(heights).min() >= 0.09 * 40


def test_the_worst_clips_come_first_and_unlabelled_ones_not(tmp_path: Path) -> None:
    rows = [_row(k, j, with_picture=False) for k, j in enumerate((0.9, None, 0.2, 0.5))]
    text = _Elements(_write(tmp_path, rows)).text
    places = [text.index(f"{EVIL}{k}") for k in (2, 3, 0)]
    assert places == sorted(places)
    assert f"{EVIL}1" not in text


def test_a_semantic_report_has_no_table_of_single_clips(tmp_path: Path) -> None:
    rows = [{**_row(0, None, with_picture=True)}]
    text = _Elements(_write(tmp_path, rows, class_names=tuple("abcd"))).text
    assert "Lowest J" not in text
    assert "Contact sheet" in text


@pytest.mark.parametrize("names", [(EVIL,), ("$",), ("$$",), ("a$b$c",), ("x" * 400,)])
def test_clip_names_of_any_kind_are_drawn(names: tuple[str, ...]) -> None:
    arrays = _pictures()[0][1]
    _open(contact_sheet([(n, arrays) for n in names], num_classes=2))


def test_a_contact_sheet_grows_with_its_clips() -> None:
    one, three = (_open(contact_sheet(_pictures(n), num_classes=2)) for n in (1, 3))
    assert one.width == three.width
    assert three.height > 2 * one.height
    _open(contact_sheet(_pictures(classes=71), num_classes=71))


def test_curves_are_drawn_without_validation_too() -> None:
    scored = [{"epoch": k, "loss": 1 / k, "val_j": 0.1 * k, "val_f": 0.2} for k in (1, 2)]
    _open(curves(scored))
    _open(curves([{**m, "val_j": None, "val_f": None} for m in scored]))
    _open(curves([{**m, "val_j": float("nan"), "val_f": float("nan")} for m in scored]))
    _open(sound_bars(CONDITIONS))


def test_parts_of_a_page_escape_their_texts() -> None:
    text = page("<t>", [("<h>", table(("<c>",), [("<x>",), (0.12345,), (3,)]))], note="<n>")
    elements = _Elements(text)
    assert {"t", "h", "c", "x", "n"}.isdisjoint(tag for tag, _ in elements.found)
    for part in ("<t>", "<h>", "<c>", "<x>", "<n>", "0.123", "3"):
        assert part in elements.text
    (image,) = _Elements(picture(b"png", '"><script>')).found
    assert image == ("img", {"alt": '"><script>', "src": "data:image/png;base64,cG5n"})


def test_what_preparing_the_data_noticed_is_told(tmp_path: Path) -> None:
    assert "content in several splits: 3" in _write(tmp_path, [_row(0, 0.5, with_picture=False)])
