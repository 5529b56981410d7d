"""What a client calls things, made safe to show in answers, logs and headers."""

from __future__ import annotations

import re

__all__ = ["client_name"]

_MAX_NAME_CHARS = 200


def client_name(filename: str | None) -> str:
    """What a client calls its file, safe to show: no folders, no control characters, not endless.

    >>> client_name("../../C:\\\\clips\\\\a\\r\\nb.mp4")
    'ab.mp4'
    """
    base = re.split(r"[/\\]", filename or "")[-1]
    shown = "".join(c for c in base.encode("utf-8", "ignore").decode() if c.isprintable())
    return shown.strip(" .")[:_MAX_NAME_CHARS] or "file"
