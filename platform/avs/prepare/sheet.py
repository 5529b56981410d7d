"""The contact sheet: a few clips of each split with their masks, to see at a glance what is wrong.

Drawn with PIL alone. The clips are spread evenly over the sources of a split, so the same content
gives the same picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from avs.media.drawing import blend_mask, mask_palette
from avs.media.masks import voc_palette
from avs.prepare.manifest import ManifestShard
from avs.prepare.reading import read_rows
from avs.prepare.records import shard_uri

__all__ = ["SHEET", "contact_sheet"]

SHEET = "contact_sheet.png"
_COLUMNS = ("clip_id", "frames", "masks", "mask_valid", "frame_valid")
_CLIPS_PER_SPLIT = 6
_LOOKED_AT_PER_SPLIT = 24  # a film of many rows would else fill the sheet
_TILE_PX, _LINE_PX, _GAP_PX = 168, 18, 8
_MAX_CHARS = 27
_Place = tuple[ManifestShard, int]


def contact_sheet(out: str, shards: Sequence[ManifestShard], *, num_classes: int) -> bytes:
    """A PNG with one row a split: the first frame with ground truth, its mask outlined, its id.

    Clips without any ground truth show their first frame.
    """
    splits = list(dict.fromkeys(shard.split for shard in shards))
    width_px = _GAP_PX + _CLIPS_PER_SPLIT * (_TILE_PX + _GAP_PX)
    row_px = 2 * _LINE_PX + _TILE_PX + _GAP_PX
    sheet = Image.new("RGB", (width_px, max(1, len(splits)) * row_px + _GAP_PX), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    palette = mask_palette(num_classes)
    for number, split in enumerate(splits):
        own = [shard for shard in shards if shard.split == split]
        top_px = _GAP_PX + number * row_px
        num_rows = sum(shard.num_rows for shard in own)
        draw.text((_GAP_PX, top_px), f"{split}: {num_rows} rows", "black", font)
        for column, (shard, row) in enumerate(_spread(out, own, num_rows)):
            (clip,) = read_rows(shard_uri(out, shard.name), [row], _COLUMNS)
            left_px = _GAP_PX + column * (_TILE_PX + _GAP_PX)
            sheet.paste(_tile(clip, palette), (left_px, top_px + _LINE_PX))
            name = _short(clip["clip_id"])
            draw.text((left_px, top_px + _LINE_PX + _TILE_PX), name, "black", font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def _spread(out: str, shards: Sequence[ManifestShard], num_rows: int) -> list[_Place]:
    """Shard and row of clips evenly spread over one split, of different sources where there are."""
    places = _evenly(shards, num_rows, count=_LOOKED_AT_PER_SPLIT)
    of_source: dict[str, _Place] = {}
    for shard, row in places:
        (found,) = read_rows(shard_uri(out, shard.name), [row], ["source_uri"])
        of_source.setdefault(found["source_uri"], (shard, row))
    if len(of_source) < _CLIPS_PER_SPLIT:
        places = _evenly(shards, num_rows, count=_CLIPS_PER_SPLIT)
        chosen = [*of_source.values(), *(p for p in places if p not in of_source.values())]
    else:
        chosen = list(of_source.values())
        chosen = [chosen[k * len(chosen) // _CLIPS_PER_SPLIT] for k in range(_CLIPS_PER_SPLIT)]
    return chosen[:_CLIPS_PER_SPLIT]


def _evenly(shards: Sequence[ManifestShard], num_rows: int, *, count: int) -> list[_Place]:
    count = min(num_rows, count)
    wanted = [k * num_rows // count for k in range(count)]
    found, first = [], 0
    for shard in shards:
        found += [(shard, k - first) for k in wanted if first <= k < first + shard.num_rows]
        first += shard.num_rows
    return found


def _tile(clip: dict[str, Any], palette: np.ndarray) -> Image.Image:
    valid = clip["mask_valid"] & clip["frame_valid"]
    k = int(np.argmax(valid))
    picture = clip["frames"][k]
    if valid.any():
        mask = clip["masks"][k]
        known = palette if mask.max() < len(palette) else voc_palette(256)  # 255: not judged
        picture = blend_mask(picture, mask, opacity=0.3, palette=known)
    tile = Image.fromarray(picture)
    tile.thumbnail((_TILE_PX, _TILE_PX))
    return tile


def _short(clip_id: str) -> str:
    name = clip_id.split("/", 2)[-1]
    return name if len(name) <= _MAX_CHARS else "..." + name[3 - _MAX_CHARS :]
