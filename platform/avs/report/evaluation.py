"""report.html of an evaluation: table, bars, curves of the run, contact sheet, worst clips."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from avs import storage
from avs.inference.scoring import as_numpy, protocol_text
from avs.metrics import Protocol
from avs.report.figures import contact_sheet, curves, sound_bars
from avs.report.objects import object_legend, object_strip, object_sums
from avs.report.page import page, picture, table
from avs.training.run import Run

__all__ = ["write_report"]


def write_report(
    out: str,
    *,
    metrics: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    run: str | None,
    class_names: tuple[str, ...],
) -> None:
    """Write ``out/report.html`` and ``out/contact_sheet.png``.

    ``rows`` are those of the scorers; ``run`` is the run folder for the curves, or None.
    """
    conditions = metrics["conditions"]
    sections = [
        (
            "J and F by sound",
            _scores(metrics) + picture(sound_bars(conditions), "bars of J and F with each sound"),
        )
    ]
    history = Run(run).read_metrics() if run else []
    if history:
        sections.append(("Training", picture(curves(history), "loss and validation curves")))
    sections += _pictures(out, rows, num_classes=len(class_names))
    if "objects" in metrics:
        sections.append(("Objects", object_sums(metrics["objects"])))
    if len(class_names) == 2:
        sections.append(("Lowest J with the true sound", _worst(rows)))
    if metrics["data_warnings"]:
        lines = [(warning,) for warning in metrics["data_warnings"]]
        sections.append(("The data", table(("what preparing it noticed",), lines)))
    note = (
        f"{metrics['num_clips']} clips of split {metrics['split']}; {protocol_text(metrics)}; "
        f"checkpoint {metrics['checkpoint']}"
    )
    text = page("Audio-visual segmentation: evaluation", sections, note=note)
    storage.write_bytes(storage.join(out, "report.html"), text.encode())


def _pictures(
    out: str, rows: Sequence[dict[str, Any]], *, num_classes: int
) -> list[tuple[str, str]]:
    """The contact sheet; with objects, a strip and a table for each of its clips."""
    shown = [row for row in sorted(rows, key=lambda r: int(r["index"])) if "picture" in row]
    if not shown:
        return []
    pictures = [
        (row["clip_id"], {k: as_numpy(v) for k, v in row["picture"].items()}) for row in shown
    ]
    draw = partial(contact_sheet, num_classes=num_classes)
    told = "frames, ground truth, predictions"
    found = [row for row in shown if "shown_objects" in row]
    objects = [row["shown_objects"] for row in found]
    names = [[one["category"] for one in own] for own in objects] or None
    sheet = draw(pictures, names=names)
    storage.write_bytes(storage.join(out, "contact_sheet.png"), sheet)
    if names is None:
        return [("Contact sheet", picture(sheet, told))]
    body = object_legend()
    for one, row, own_names in zip(pictures, found, names, strict=True):
        strip = picture(draw([one], names=[own_names]), f"{told} of {one[0]}")
        body += object_strip(one[0], strip, row["shown_objects"], second=row["shown_frame"])
    return [("Contact sheet", body)]


def _scores(metrics: dict[str, Any]) -> str:
    """A row a sound, the figures of the other protocol in the last columns."""
    other = next(p.value for p in Protocol if p.value != metrics["protocol"])
    told = protocol_text({**metrics, "protocol": other})
    rows = [
        (name, score["j"], score["f"], score[other]["j"], score[other]["f"])
        for name, score in metrics["conditions"].items()
    ]
    return table(("sound", "J", "F", f"J, {told}", f"F, {told}"), rows)


def _worst(rows: Sequence[dict[str, Any]], count: int = 8) -> str:
    scored = [row for row in rows if row["scores"]["true"] is not None]
    ranked = sorted(scored, key=lambda row: float(row["scores"]["true"]["j"]))[:count]
    names = ("true", "silent", "swapped")
    return table(
        ("clip", *(f"J {n}" for n in names)),
        [(row["clip_id"], *(row["scores"][n]["j"] for n in names)) for row in ranked],
    )
