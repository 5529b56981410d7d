"""report.html of a training run, made of what lies in its folder: whoever has that can make it.

``metrics.jsonl`` gives the curves and the cost, ``validation.json`` the listening test, the table
of categories and the best and worst clips, ``pictures/`` the pictures. What is not there yet is
said in its place.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from avs import storage
from avs.inference.conditions import Condition
from avs.progress import duration_text
from avs.report.figures import sound_bars
from avs.report.page import page, picture, table
from avs.report.run_figures import run_curves
from avs.training.lineage import Lineage
from avs.training.run import EpochMetrics, best_epoch

__all__ = ["BEST", "LATEST", "SCORES", "WORST", "best_and_worst", "write_run_report"]

SCORES = "validation.json"
LATEST, BEST, WORST = "pictures/latest.png", "pictures/best.png", "pictures/worst.png"
_GIB = 2**30
_NUM_SHOWN = 4


def write_run_report(
    out: str,
    *,
    history: Sequence[EpochMetrics],
    config: Mapping[str, Any],
    lineage: Lineage | None,
    code: str,
) -> None:
    """Write ``out/report.html``.

    Args:
        history: the epochs so far, at least one.
        config: of the run, in plain values.
        lineage: what the weights have seen; None where nobody knows.
        code: the version of the code.
    """
    uri = storage.join(out, SCORES)
    scores: dict[str, Any] | None = storage.read_json(uri) if storage.exists(uri) else None
    validated = any(metrics["val_j"] is not None for metrics in history)
    best = best_epoch(list(history)) if validated else None
    sections = [
        ("Result", _result(history, best)),
        ("Curves", picture(run_curves(history, best_epoch=best), "curves over the epochs")),
        *_scored(out, scores, validated=validated),
        ("Cost", _cost(history, config)),
        ("Data and weights", _lineage(lineage, config)),
        ("Configuration", _configuration(config, code)),
    ]
    model, last = config["model"], history[-1]["epoch"]
    note = (
        f"{model['name']} on {model['backbone']} and {model['audio_network']}, "
        f"{last} of {config['train']['epochs']} epochs; {out}"
    )
    text = page("Audio-visual segmentation: training run", sections, note=note)
    storage.write_bytes(storage.join(out, "report.html"), text.encode())


def best_and_worst(
    clips: Sequence[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The clips that are shown: those of the highest and of the lowest J, none among both."""
    ranked = sorted(clips, key=lambda clip: -float(clip[Condition.TRUE.value]))
    half = min(_NUM_SHOWN, (len(ranked) + 1) // 2)
    return ranked[:half], ranked[half:][-_NUM_SHOWN:][::-1]


def _result(history: Sequence[EpochMetrics], best: int | None) -> str:
    rows = [("last", history[-1])]
    if best is not None:
        rows.insert(0, ("best J", next(m for m in history if m["epoch"] == best)))
    body = table(
        ("", "epoch", "loss", "validation J", "validation F"),
        [(name, m["epoch"], m["loss"], _shown(m["val_j"]), _shown(m["val_f"])) for name, m in rows],
    )
    if best is None:
        return body + _note("The data has no validation split: the last checkpoint is used.")
    protocol = "J and F: AVSBench protocol, test batch of one clip."
    return body + _note(f"{protocol} The checkpoint of the best J is used.")


def _scored(
    out: str, scores: dict[str, Any] | None, *, validated: bool
) -> Iterator[tuple[str, str]]:
    """What needs clips: sounds, categories, the best and the worst, or why it is not there."""
    latest = storage.join(out, LATEST)
    if scores is None:
        if storage.exists(latest):
            yield "Validation clips", _picture(latest, "frame, ground truth and prediction")
        later = "Not measured: done once, at the end of the run (logging.report_clips)."
        why = later if validated else "The data has no validation split."
        yield "Listening test", _note(why)
        return
    measured = (
        f"{scores['num_clips']} of {scores['split_clips']} validation clips, checkpoint of epoch "
        f"{scores['epoch']}, scored in {duration_text(scores['seconds'])}."
    )
    yield "Listening test", _listening(scores["conditions"]) + _note(measured)
    yield "Validation J by category", _categories(scores)
    best, worst = best_and_worst(scores["clips"])
    for name, title, shown in ((BEST, "Best clips", best), (WORST, "Worst clips", worst)):
        if shown:
            told = f"frame, ground truth and prediction with each sound: {title.lower()}"
            yield title, _picture(storage.join(out, name), told) + _clips(shown)


def _listening(conditions: Mapping[str, Mapping[str, float]]) -> str:
    rows = [(name, both["j"], both["f"]) for name, both in conditions.items()]
    told = (
        "A model that listens loses J without its sound (silent) and with another clip's "
        "(swapped); one that marks whatever stands out does not."
    )
    figure = sound_bars({name: dict(both) for name, both in conditions.items()})
    bars = picture(figure, "bars of J and F with each sound")
    return table(("sound", "J", "F"), rows) + bars + _note(told)


def _categories(scores: Mapping[str, Any]) -> str:
    rows = [
        (own["name"], own["count"], *(own[c.value] for c in Condition))
        for own in sorted(scores["categories"], key=lambda own: -float(own[Condition.TRUE.value]))
    ]
    header = ("category", scores["counted"], *(f"J {c.value}" for c in Condition))
    return table(header, rows)


def _clips(clips: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (clip["clip_id"], ", ".join(clip["categories"]), *(clip[c.value] for c in Condition))
        for clip in clips
    ]
    return table(("clip", "categories", *(f"J {c.value}" for c in Condition)), rows)


def _cost(history: Sequence[EpochMetrics], config: Mapping[str, Any]) -> str:
    total_s = sum(float(m["seconds"]) for m in history)
    validation_s = sum(float(m.get("validation_s", 0.0)) for m in history)
    num_clips = sum(m["clips_per_s"] * _trained_s(m) for m in history)
    trained_s = sum(_trained_s(m) for m in history)
    stall_s = sum(m.get("stall", 0.0) * _trained_s(m) for m in history)
    workers = sorted({int(m.get("workers", config["scale"]["num_workers"])) for m in history})
    devices = sorted({str(m["device"]) for m in history if "device" in m})
    each = config["scale"]["gpus_per_worker"]  # else a worker is what is counted
    hours = sum(m["seconds"] * m.get("workers", workers[-1]) for m in history) / 3600 * (each or 1)
    rows = [
        ("time of all epochs", duration_text(total_s)),
        ("of it validation", duration_text(validation_s)),
        ("workers", " or ".join(map(str, workers))),
        ("CPUs of a worker", f"{config['scale']['cpus_per_worker']:g}"),
        ("GPUs of a worker", f"{config['scale']['gpus_per_worker']:g}"),
        ("computed on", ", ".join(devices) or "-"),
        ("GPU hours" if each else "worker hours", f"{hours:.2f}"),
        ("clips/s, all workers", f"{num_clips / max(trained_s, 1e-9):.1f}"),
        ("share of training spent waiting for clips", f"{stall_s / max(trained_s, 1e-9):.1%}"),
        ("peak host memory of a worker", _gib(history, "peak_memory_bytes")),
        ("peak GPU memory of a worker", _gib(history, "peak_gpu_memory_bytes")),
    ]
    told = "Starting, checkpoints and this report are not in the times."
    return table(("", ""), rows) + _note(told)


def _trained_s(metrics: EpochMetrics) -> float:
    return float(metrics["seconds"]) - float(metrics.get("validation_s", 0.0))


def _gib(history: Sequence[EpochMetrics], key: str) -> str:
    found = [m[key] for m in history if m.get(key) is not None]
    return f"{max(found) / _GIB:.2f} GiB" if found else "-"


def _lineage(lineage: Lineage | None, config: Mapping[str, Any]) -> str:
    if lineage is None:
        return _note("Not known.")
    rows = [(own.prepared, own.dataset, own.num_clips, own.sha256[:12]) for own in lineage.folders]
    start = lineage.started_from
    model = config["model"]
    files = f"backbone: {model['backbone_weights']}; audio: {model['audio_weights']}"
    begun = f"started from {start or files}"
    body = table(("trained on", "data set", "clips", "SHA-256 of the shards"), rows)
    return body + _note(f"{begun}; seed {config['seed']}")


def _configuration(config: Mapping[str, Any], code: str) -> str:
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    shown = f'<pre style="overflow-x: auto">{html.escape(text)}</pre>'
    return _note(f"avs {code}") + shown


def _picture(uri: str, description: str) -> str:
    return picture(storage.read_bytes(uri), description)


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _shown(value: float | None) -> object:
    return "-" if value is None else value
