"""report.html of a training run: what it shows, what it says where there is nothing to show."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_clips import data_config, prepare, synthetic_config
from small_configs import train_config

from avs.datasets.synthetic import Layout, write_synthetic
from avs.inference.conditions import Condition
from avs.inference.scoring import _scores, combine
from avs.inference.split_scores import score_split
from avs.report import run_clips, run_log
from avs.report.run import best_and_worst, write_run_report
from avs.report.run_clips import _by_class, _clip_j, score_clips
from avs.report.run_figures import run_curves
from avs.report.run_log import RunReport, finish_report
from avs.training.checkpoint import resolve_checkpoint
from avs.training.config import LoggingConfig, MixtureConfig, TrainConfig
from avs.training.feed import ClipReader
from avs.training.loop import train
from avs.training.open_observers import open_observers
from avs.training.overlays import Overlays
from avs.training.state import Worker

PNG = b"\x89PNG"


class _Page(HTMLParser):
    """Headings, texts and pictures of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.heads: list[str] = []
        self.text = ""
        self.pictures: dict[str, bytes] = {}
        self._tag = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        found = dict(attrs)
        assert tag not in ("script", "link", "iframe")
        if tag == "img":
            data = str(found["src"]).partition(",")[2]
            self.pictures[str(found["alt"])] = base64.b64decode(data)

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"
        if self._tag == "h2" and data.strip():
            self.heads.append(data)


def _config(prepared: Path, out: Path, *, clips: int = 2, **changes: Any) -> TrainConfig:
    logging = LoggingConfig(report=True, report_clips=clips, num_pictures=1)
    return replace(train_config(prepared, out, **changes), logging=logging)


@pytest.fixture(scope="module")
def reported(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs with its report."""
    config = _config(prepared, tmp_path_factory.mktemp("reported"))
    train(config, Worker(observers=open_observers(config)))
    return Path(config.out)


def test_the_page_of_a_run_shows_all_of_it(reported: Path, prepared: Path) -> None:
    page = _Page(reported / "report.html")
    assert page.heads == [
        "Result",
        "Curves",
        "Listening test",
        "Validation J by category",
        "Best clips",
        "Worst clips",
        "Cost",
        "Data and weights",
        "Configuration",
    ]
    assert len(page.pictures) == 4
    assert all(png.startswith(PNG) for png in page.pictures.values())
    assert "tpavi on test_resnet and small, 2 of 2 epochs" in page.text
    assert str(prepared) in page.text
    assert "learning_rate: 0.003" in page.text
    assert "2 of 3 validation clips" in page.text
    told = re.sub(r"\s+", " ", page.text)
    for name in ("worker hours 0.0", "computed on CPU", "peak GPU memory of a worker -"):
        assert name in told
    assert re.search(r"peak host memory of a worker [\d.]+ GiB", told)
    assert "avs 0." in told


def test_the_listening_test_equals_the_evaluation_of_the_best_checkpoint(
    reported: Path, prepared: Path
) -> None:
    best = resolve_checkpoint(str(reported))
    scored = score_clips(best, [str(prepared)], num_clips=99, device="cpu")
    assert scored is not None
    wanted = score_split(best, str(prepared), split="val", device="cpu")
    assert scored.plain["conditions"] == wanted["conditions"]
    assert [clip["clip_id"] for clip in scored.plain["clips"]] == [
        clip["clip_id"] for clip in wanted["clips"]
    ]
    for clip, other in zip(scored.plain["clips"], wanted["clips"], strict=True):
        assert clip["swapped"] == pytest.approx(other["swapped"]["j"], abs=1e-6)
    assert scored.plain["num_clips"] == scored.plain["split_clips"] == 3
    categories = {own["name"]: own for own in scored.plain["categories"]}
    for name, own in categories.items():
        named = [c["true"] for c in scored.plain["clips"] if name in c["categories"]]
        assert own["true"] == pytest.approx(sum(named) / len(named))
        assert own["count"] == len(named)
    assert json.loads((reported / "validation.json").read_text())["num_clips"] == 2


def test_no_clip_is_among_the_best_and_the_worst() -> None:
    for count in range(12):
        clips = [{"clip_id": k, "true": (k * 7 % 12) / 12} for k in range(count)]
        best, worst = best_and_worst(clips)
        assert len(best) == min(4, (count + 1) // 2)
        assert len(worst) == min(4, count // 2)
        shown = [clip["true"] for clip in best + worst[::-1]]
        assert shown == sorted(set(shown), reverse=True)
        everything = sorted((clip["true"] for clip in clips), reverse=True)
        assert shown == everything[: len(best)] + everything[count - len(worst) :]


def test_each_picture_is_of_the_clip_that_it_names(
    reported: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, dict[str, Any]]] = []

    def draw(pictures: list[tuple[str, dict[str, Any]]], *, num_classes: int) -> bytes:
        assert num_classes == 2
        drawn.extend(pictures)
        return PNG

    monkeypatch.setattr(run_clips, "contact_sheet", draw)
    best = resolve_checkpoint(str(reported))
    scored = score_clips(best, [str(prepared)], num_clips=3, device="cpu")
    assert scored is not None
    scores = {clip["clip_id"]: clip["true"] for clip in scored.plain["clips"]}
    reader = ClipReader(str(prepared), split="val")
    clips = {clip_id: reader.read([k]) for k, clip_id in enumerate(reader.clip_ids())}
    named = {f"J {scores[i]:.2f} {i.rpartition('/')[2]}": clip for i, clip in clips.items()}
    assert sorted(name for name, _ in drawn) == sorted(named)
    for name, arrays in drawn:
        np.testing.assert_array_equal(
            arrays["frame"], named[name].frames[0, 2].permute(1, 2, 0).numpy(), err_msg=name
        )
        np.testing.assert_array_equal(arrays["truth"], named[name].masks[0, 2].numpy())


def test_clips_of_several_folders_are_scored_together(reported: Path, prepared: Path) -> None:
    best = resolve_checkpoint(str(reported))
    scored = score_clips(best, [str(prepared)] * 2, num_clips=4, device="cpu")
    assert scored is not None
    assert scored.plain["split_clips"] == 6
    ids = [clip["clip_id"] for clip in scored.plain["clips"]]
    assert (len(ids), len(set(ids))) == (4, 2)


def test_an_epoch_gets_its_page_with_what_is_known_by_then(prepared: Path, tmp_path: Path) -> None:
    config = _config(prepared, tmp_path / "run")
    pages: list[_Page] = []

    def look(_: dict[str, Any]) -> None:
        pages.append(_Page(tmp_path / "run/report.html"))

    report = RunReport(Overlays(1), num_clips=2, every_s=0)
    train(config, Worker(observers=[report], after_epoch=look))
    first, second = pages
    assert "1 of 2 epochs" in first.text
    assert "2 of 2 epochs" in second.text
    assert "Not measured" in first.text
    assert "frame, ground truth and prediction" in first.pictures
    assert "Validation clips" not in _Page(tmp_path / "run/report.html").heads


def test_young_pages_are_not_written_again(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[int] = []

    def count(out: str, **values: Any) -> None:
        times.append(len(values["history"]))

    monkeypatch.setattr(run_log, "write_run_report", count)
    config = _config(prepared, tmp_path / "run", clips=0)
    train(config, Worker(observers=[RunReport(Overlays(0), num_clips=0)]))
    assert times == [2]


def test_a_run_that_was_killed_in_its_last_scoring_gets_its_page_later(
    reported: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(reported, out)
    whole = _Page(out / "report.html")
    for name in ("report.html", "validation.json", "pictures/best.png"):
        (out / name).unlink()
    config = _config(prepared, out)
    finish_report(config, device="cpu")
    again = _Page(out / "report.html")
    assert again.heads == whole.heads

    def scored(*_: Any, **__: Any) -> None:
        pytest.fail("clips were scored again")

    monkeypatch.setattr(run_log, "score_clips", scored)
    finish_report(config, device="cpu")


def test_without_clips_to_score_the_page_shows_those_of_the_last_epoch(
    prepared: Path, tmp_path: Path
) -> None:
    config = _config(prepared, tmp_path / "run", clips=0, epochs=1)
    train(config, Worker(observers=open_observers(config)))
    page = _Page(tmp_path / "run/report.html")
    assert "Validation clips" in page.heads
    assert "logging.report_clips" in page.text
    assert not (tmp_path / "run/validation.json").exists()


def test_without_a_validation_split_the_page_says_so(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "data", synthetic_config(Layout.S4, num_val=0, num_train=2))
    prepare(data_config("s4", tmp_path / "data"), tmp_path / "prepared")
    config = _config(tmp_path / "prepared", tmp_path / "run", epochs=1)
    train(config, Worker(observers=open_observers(config)))
    page = _Page(tmp_path / "run/report.html")
    assert page.text.count("no validation split") >= 2
    assert "Best clips" not in page.heads
    assert not (tmp_path / "run/pictures").exists()


def test_texts_of_a_configuration_are_shown_as_they_are(reported: Path, tmp_path: Path) -> None:
    config = train_config(tmp_path / "<script>x", tmp_path)
    plain = {
        "model": {"name": "<b>", "backbone": "x", "audio_network": "y"},
        "train": {"epochs": 3},
        "scale": {"num_workers": 2, "cpus_per_worker": 1.0, "gpus_per_worker": 0.0},
        "data": config.data.prepared,
    }
    history = [
        {"epoch": 1, "loss": 1.0, "val_j": None, "val_f": None, "learning_rate": 0.1}
        | {"clips_per_s": 2.0, "seconds": 4.0}  # of before stall, cost and parts were kept
    ]
    write_run_report(str(tmp_path), history=history, config=plain, lineage=None, code="1")
    page = _Page(tmp_path / "report.html")
    assert "<b> on x and y, 1 of 3 epochs" in page.text
    assert "<script>x" in page.text
    assert "Not known." in page.text


def test_curves_are_drawn_for_one_epoch_and_for_odd_names() -> None:
    metrics = {"epoch": 1, "loss": 0.5, "val_j": 0.1, "val_f": 0.2, "learning_rate": 1e-4}
    metrics |= {"clips_per_s": 3.0, "stall": 0.5, "seconds": 1.0, "parts": {"a$b$_c": 0.1}}
    assert run_curves([metrics], best_epoch=1).startswith(PNG)
    later = {**metrics, "epoch": 2, "parts": {}, "val_j": None}
    assert run_curves([metrics, later], best_epoch=1).startswith(PNG)


def test_mixtures_are_reported(prepared: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(prepared, other)
    config = _config(prepared, tmp_path / "run", epochs=1, clips=6)
    config.data = MixtureConfig(prepared=[str(prepared), str(other)])
    train(config, Worker(observers=open_observers(config)))
    page = _Page(tmp_path / "run/report.html")
    assert "6 of 6 validation clips" in page.text
    assert str(other) in page.text


def test_a_semantic_model_is_scored_by_class_and_its_clips_without_the_background() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.uint8)
    masks[:, :2] = 2  # the upper half; class 1 never occurs
    found = masks.clone()
    found[0, 0] = 0  # half of it is missed in the first frame
    logits = torch.nn.functional.one_hot(found.long(), 4).permute(0, 3, 1, 2).float()
    score = _scores(logits, masks, torch.ones(2, dtype=torch.bool))
    assert score is not None
    row = {"index": 0, "scores": {c.value: score for c in Condition}}
    conditions = combine([row], num_classes=4, batch_size=1)
    (background, cat) = _by_class(conditions, ["background", "dog", "cat", "cow"])
    assert (background["name"], cat["name"], cat["count"]) == ("background", "cat", 2)
    assert cat["true"] == cat["swapped"] == pytest.approx((0.5 + 1) / 2)
    assert _clip_j(score) == pytest.approx(0.75)


def test_a_semantic_clip_of_nothing_but_background_is_scored_by_that() -> None:
    nothing = torch.zeros(1, 4, 4, dtype=torch.uint8)
    logits = torch.nn.functional.one_hot(nothing.long(), 4).permute(0, 3, 1, 2).float()
    score = _scores(logits, nothing, torch.ones(1, dtype=torch.bool))
    assert score is not None
    assert _clip_j(score) == pytest.approx(1.0)
