"""Self-contained HTML: one file, pictures inlined, every text escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

__all__ = ["page", "picture", "table"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; } th, td { padding: .3rem .9rem; border-bottom: 1px solid #ddd;
       text-align: right; } th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; } p.note { color: #666; }
"""


def page(
    title: str, sections: Sequence[tuple[str, str]], *, note: str = "", style: str = ""
) -> str:
    """An HTML document; ``sections`` are headings (plain text) and bodies (HTML); ``style`` is CSS
    beside that of all pages."""
    body = "".join(f"<h2>{html.escape(head)}</h2>\n{content}\n" for head, content in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style></head>\n"
        f'<body><h1>{html.escape(title)}</h1>\n<p class="note">{html.escape(note)}</p>\n'
        f"{body}</body></html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; floats with three digits."""
    head = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(c))}</td>" for c in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(png: bytes, description: str) -> str:
    """An inlined PNG."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
