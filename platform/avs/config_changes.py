"""How two configurations differ: why a folder that another one began is refused, in words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from avs.config import build
from avs.errors import ConfigError

__all__ = ["Change", "changes", "tell", "with_defaults"]

# Dotted key, the value now, the value there. A key that one of them lacks is None.
Change = tuple[str, Any, Any]
_NUM_TOLD = 3


def changes(
    mine: Any, theirs: Any, *, free: Collection[str] = (), prefix: str = ""
) -> list[Change]:
    """The keys of two plain configurations that differ, but for those below a ``free`` one."""
    if prefix in free:
        return []
    if isinstance(mine, dict) and isinstance(theirs, dict):
        dot = f"{prefix}." if prefix else ""
        found = [
            changes(mine.get(key), theirs.get(key), free=free, prefix=f"{dot}{key}")
            for key in sorted({*mine, *theirs})
        ]
        return [change for part in found for change in part]
    return [] if mine == theirs else [(prefix, mine, theirs)]


def tell(changed: Sequence[Change]) -> str:
    """The first of them with both values, and how many there are more."""
    told = [f"{key} is {now!r}, there {there!r}" for key, now, there in changed[:_NUM_TOLD]]
    more = len(changed) - len(told)
    return "; ".join(told) + (f"; and {more} more keys" if more else "")


def with_defaults(plain: Any, schema: type[Any], *, as_plain: Callable[[Any], Any]) -> Any:
    """A configuration as it was begun, with the keys that came later at what they mean by default.

    One that this code cannot read is returned as it is: it differs, and is told to.
    """
    try:
        return as_plain(build(schema, plain, path=""))
    except ConfigError:
        return plain
