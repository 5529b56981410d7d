"""What stands in AVSBench-semantic's metadata.csv, and the repair of what is wrong in it.

The real file has object names that are no class (``off-the-screen``, ``background``) or misspelt
(``h orse``), names in any order, seconds of 60 and ids that hold ``_``. Rows stay usable: each is
read as well as it can be, and a note says what was done.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["AVSS_CLASSES", "clean_objects", "row_notes", "source_video_id"]

# In label order, for downloads without label2idx.json.
AVSS_CLASSES = (
    *("background", "accordion", "airplane", "axe", "baby", "bassoon", "bell", "bird", "boat"),
    *("boy", "bus", "car", "cat", "cello", "clarinet", "clipper", "clock", "dog", "donkey", "drum"),
    *("duck", "elephant", "emergency-car", "erhu", "flute", "frying-food", "girl", "goose"),
    *("guitar", "gun", "guzheng", "hair-dryer", "handpan", "harmonica", "harp", "helicopter"),
    *("hen", "horse", "keyboard", "leopard", "lion", "man", "marimba", "missile-rocket"),
    *("motorcycle", "mower", "parrot", "piano", "pig", "pipa", "saw", "saxophone", "sheep"),
    *("sitar", "sorna", "squirrel", "tabla", "tank", "tiger", "tractor", "train", "trombone"),
    *("truck", "trumpet", "tuba", "ukulele", "utv", "vacuum-cleaner", "violin", "wolf", "woman"),
)

_YOUTUBE_ID_CHARS = 11
# Names that say what sounds without saying a class; the masks of such clips may be all black.
_NO_CLASS = ("background", "off-the-screen")


def clean_objects(
    a_obj: str, class_names: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes that ``a_obj`` (names joined by "_") means, in class order, and notes.

    A name that is no class after repair is kept at the end: it may be a class of another copy.
    """
    order = {name: k for k, name in enumerate(class_names)}
    names: list[str] = []
    notes: list[str] = []
    for raw in filter(None, (part.strip() for part in a_obj.split("_"))):
        name = "".join(raw.split())
        if raw not in order and name != raw and name in order:
            notes.append(f"object name {raw!r} is read as {name!r}")
        elif raw in _NO_CLASS:
            notes.append(f"object name {raw!r} is no sounding class and is left out")
            continue
        elif raw not in order:
            name = raw
            notes.append(f"object name {raw!r} is not in label2idx.json")
        names.append(name)
    known = sorted(set(names), key=lambda n: (order.get(n, len(order)), n))
    if len(known) < len(names):
        notes.append("an object is named twice in a row")
    elif known != names:
        notes.append("object names are put into class order")
    return tuple(known), tuple(notes)


def source_video_id(uid: str, label: str) -> str:
    """The id of the video that a clip was cut from; ids hold ``_``, so cut from the right.

    v1s and v2: ``id_startms_endms``. v1m: ``id_k``, where some have no ``_k``; ids of YouTube have
    11 characters, so only longer names lose their end.
    """
    if label == "v1m":
        head, _, tail = uid.rpartition("_")
        return head if head and tail.isdigit() and len(uid) > _YOUTUBE_ID_CHARS else uid
    parts = uid.rsplit("_", 2)
    return parts[0] if len(parts) == 3 and all(p.isdigit() for p in parts[1:]) else uid


def row_notes(row: dict[str, str]) -> tuple[str, ...]:
    """What is odd in the numbers and ids of a row; the columns used are optional."""
    uid, label = row["uid"], row["label"]
    notes = []
    seconds, minutes = row.get("s_sec", ""), row.get("s_min", "")
    if seconds.isdigit() and int(seconds) >= 60:
        notes.append("s_sec is 60 or more")
    if label == "v1m" and source_video_id(uid, label) == uid:
        notes.append("uid of a v1m clip has no _<k> at its end")
    parts = uid.rsplit("_", 2)
    if label != "v1m" and seconds.isdigit() and minutes.isdigit() and len(parts) == 3:
        start_ms = 1000 * (60 * int(minutes) + int(seconds))
        if parts[1] != str(start_ms) or row.get("vid", parts[0]) != parts[0]:
            notes.append("uid does not agree with vid, s_min and s_sec")
    return tuple(notes)
