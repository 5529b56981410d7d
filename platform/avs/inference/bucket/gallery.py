"""index.html of the bucket job: a card a video with its pictures and how much of it sounds when.

Plain HTML with links below its own folder: it works from a disk and from a bucket that is served.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from avs.report.page import page, table

__all__ = ["MAX_CARDS", "gallery"]

MAX_CARDS = 500
_MAX_FAILURES = 500
_CURVE_PX = (240, 36)
_MAX_POINTS = 120
_STYLE = """
body { max-width: 1400px; } .cards { display: grid; gap: 1.2rem;
       grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); }
.card { border: 1px solid #ddd; border-radius: 8px; padding: .7rem; overflow-wrap: anywhere; }
.card img, .card video { width: 100%; border-radius: 4px; background: #eee; }
.card h3 { margin: .4rem 0 .2rem; font-size: .95rem; } .card p { margin: .2rem 0; color: #555; }
.card svg { width: 100%; height: 36px; display: block; } td { vertical-align: top; }
.failed td, .failed th { text-align: left; }
"""


def gallery(
    cards: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
    *,
    counts: Mapping[str, int],
) -> str:
    """The page; ``cards`` and ``failures`` are rows of the index, ``counts`` those of all."""
    num_ok, num_failed = counts.get("ok", 0), counts.get("rejected", 0)
    note = f"{num_ok} videos segmented, {num_failed} rejected; all of them are in index.parquet."
    sections = []
    if failures:
        shown = failures[:_MAX_FAILURES]
        rows = [(row["video"], row.get("stage", ""), row["reason"]) for row in shown]
        head = f"Rejected{_of(len(shown), num_failed)}"
        listing = table(("video", "stage", "reason"), rows)
        sections.append((head, f'<div class="failed">{listing}</div>'))
    body = "".join(_card(row) for row in cards)
    sections.append((f"Videos{_of(len(cards), num_ok)}", f'<div class="cards">{body}</div>'))
    return page("Segmented videos", sections, note=note, style=_STYLE)


def _of(shown: int, total: int) -> str:
    return f": {shown} of {total}" if shown < total else ""


def _card(row: Mapping[str, Any]) -> str:
    name = html.escape(str(row["video"]))
    outputs: Mapping[str, str] = row["outputs"]
    links = " · ".join(
        f'<a href="{_address(key)}">{html.escape(kind)}</a>' for kind, key in outputs.items()
    )
    share = 100 * float(row["mean_area"])
    what = ", ".join(map(str, row["categories"])) or "nothing sounds"
    return (
        f'<article class="card">{_picture(outputs, name)}<h3>{name}</h3>'
        f"<p>{float(row['duration_s']):.1f} s · {share:.1f} % of the picture · "
        f"{html.escape(what)}</p>{_curve(row['mask_area'])}<p>{links}</p></article>"
    )


def _picture(outputs: Mapping[str, str], name: str) -> str:
    if "thumbnails" in outputs:
        return f'<img loading="lazy" alt="{name}" src="{_address(outputs["thumbnails"])}">'
    if "overlay" in outputs:
        return f'<video controls preload="none" src="{_address(outputs["overlay"])}"></video>'
    if "png" in outputs:
        return f'<img loading="lazy" alt="{name}" src="{_address(outputs["png"])}000000.png">'
    return ""


def _address(key: str) -> str:
    """A link below the page's own folder, whatever the video is called."""
    return "./" + quote(key, errors="surrogateescape")


def _curve(area: Sequence[float]) -> str:
    """How much of the picture sounds over time, as a small curve."""
    if not area:
        return ""
    step = max(1, -(-len(area) // _MAX_POINTS))
    points = [max(area[k : k + step]) for k in range(0, len(area), step)]
    width, height = _CURVE_PX
    highest = max(*points, 1e-6) if len(points) > 1 else max(points[0], 1e-6)
    across = width / max(1, len(points) - 1)
    line = " ".join(
        f"{k * across:.1f},{height - 2 - (height - 4) * value / highest:.1f}"
        for k, value in enumerate(points * 2 if len(points) == 1 else points)
    )
    text = f"at most {100 * highest:.1f} % of the picture at a time"
    return (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{text}"><title>{text}</title><polyline points="{line}" fill="none" '
        f'stroke="#d1495b" stroke-width="2" vector-effect="non-scaling-stroke"/></svg>'
    )
