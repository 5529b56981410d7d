"""What a client may read of a batch: its state, and of a failure the job's own line without the
places that are not the client's."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from avs.serving.batches_jobs import Job

__all__ = ["failure", "told"]

_MAX_CHARS = 500
_ERROR = "error: "
_HIDDEN = "..."
_PLACE = re.compile(r"\S*[/\\]\S*")


def told(job: Job) -> dict[str, Any]:
    """The state of a batch as JSON, without what its output tells."""
    return {
        "id": job.id,
        "status": job.status.lower(),
        **json.loads(job.request),
        "checkpoint": job.checkpoint,
        "created_at": _time_text(job.begun_s),
        "ended_at": None if job.ended_s is None else _time_text(job.ended_s),
        "message": failure(job),
    }


def failure(job: Job) -> str | None:
    """Why a batch failed, None where it did not.

    Of the job's log only its last line for people is told, and of that no place but what lies in
    the input and the output of this batch.
    """
    if job.status != "FAILED":
        return None
    lines = [line for line in job.message.splitlines() if line.startswith(_ERROR)]
    if lines:
        request = json.loads(job.request)
        return _without_places(lines[-1], own=(request["input"], request["output"]))
    if job.exit_code is None:
        return "the batch could not be started or was lost with its machine: send it again"
    return f"the batch ended with code {job.exit_code} and no words: its owner finds its log in Ray"


def _without_places(line: str, *, own: tuple[str, str]) -> str:
    """The text behind "error: ", printable and not endless."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return "\0"

    places = "|".join(re.escape(uri) for uri in own)
    text = line.removeprefix(_ERROR).replace("\0", "")
    text = re.sub(rf"(?<!\S)(?:\w+=)?(?:{places})(?:/\S*|(?=[\s.,:;)]|$))", keep, text)
    parts = _PLACE.sub(_HIDDEN, text).split("\0")
    whole = parts[0] + "".join(a + b for a, b in zip(kept, parts[1:], strict=True))
    return "".join(c for c in whole if c.isprintable())[:_MAX_CHARS]


def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
