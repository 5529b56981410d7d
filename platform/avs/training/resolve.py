"""Which checkpoint a folder means: itself, the best one of a run, or the best of many runs.

Whatever holds runs will do: a run, a sweep, a study, a folder or an ``s3://`` prefix with any of
these below. The best one is the one with the highest validation J, as the runs wrote it down;
nothing is scored again. Trade-off: a folder that has no pointer itself is listed as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avs import storage
from avs.errors import CheckpointError

__all__ = ["LAST_WRITTEN", "Found", "find_checkpoint", "resolve_checkpoint"]

LAST_WRITTEN = "metrics.json"  # without it a folder is no checkpoint
_POINTER = "best.json"
_WHOLE = ("config.yaml", "weights.safetensors", LAST_WRITTEN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """uri: a complete checkpoint folder. why: how it was chosen, empty where it was named."""

    uri: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.uri} ({self.why})" if self.why else self.uri


def resolve_checkpoint(uri: str) -> str:
    """The checkpoint folder meant by ``uri``; see :func:`find_checkpoint`."""
    return find_checkpoint(uri).uri


def find_checkpoint(uri: str) -> Found:
    """The checkpoint folder meant by ``uri``: itself, or the best one of what lies there.

    Raises:
        CheckpointError: nothing there is a complete checkpoint, or no run there has a validation J.
    """
    uri = storage.absolute(uri)
    found = _pointed(uri) or _best_below(uri) or Found(uri=uri)
    if not storage.exists(found.uri):
        raise CheckpointError(f"checkpoint={found.uri} does not exist.")
    for name in _WHOLE:
        if not storage.exists(storage.join(found.uri, name)):
            raise CheckpointError(
                f"checkpoint={found.uri} has no {name}: it is not a checkpoint, a run, a sweep or "
                "a study, or what wrote it was killed; give another one, or run that job (train, "
                "tune, study, import_official) again."
            )
    return found


def _pointed(uri: str) -> Found | None:
    """What a run or a sweep says of itself; before its first epoch's end, a run has a last one."""
    if storage.exists(storage.join(uri, _POINTER)):
        pointer = storage.read_json(storage.join(uri, _POINTER))
        return Found(uri=_target(uri, pointer), why=f"the best of {uri}{_score(pointer)}")
    if storage.exists(storage.join(uri, "last.json")):
        last = _target(uri, storage.read_json(storage.join(uri, "last.json")))
        return Found(uri=last, why=f"the last of {uri}, where no epoch has ended yet")
    return None


def _best_below(uri: str) -> Found | None:
    """The best of all runs below a folder that is neither a run nor a checkpoint."""
    if not storage.is_folder(uri) or storage.exists(storage.join(uri, "weights.safetensors")):
        return None
    files = [info.path for info in storage.list_files(uri)]
    pointers = {
        path.rpartition("/")[0]: storage.read_json(storage.join(uri, path))
        for path in files
        if path.endswith(f"/{_POINTER}")
    }
    if not pointers:
        return None
    scored = {run: p for run, p in pointers.items() if p["val_j"] is not None}
    if not scored:
        raise CheckpointError(
            f"checkpoint={uri} holds {len(pointers)} runs without a validation J "
            f"({sorted(pointers)[0]}, ...), so none is the best: name one of them."
        )
    # Of equals the one nearest to the top: a sweep before its trials.
    best = min(scored, key=lambda run: (-scored[run]["val_j"], run.count("/"), run))
    return Found(
        uri=_target(storage.join(uri, best), scored[best]),
        why=f"the best of {len(pointers)} runs below {uri}{_score(scored[best])}",
    )


def _target(uri: str, pointer: dict[str, Any]) -> str:
    return storage.join(uri, pointer["checkpoint"])


def _score(pointer: dict[str, Any]) -> str:
    score = pointer.get("val_j")
    return "" if score is None else f", validation J {score:.3f}"
