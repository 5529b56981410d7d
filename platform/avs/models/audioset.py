"""The 527 AudioSet classes in the order of the official csv, and logits of networks in that order.

The order is that of ``class_labels_indices.csv`` (Gemmeke et al., Audio Set, ICASSP 2017), shipped
in ``data/``. Networks have their own orders and some lack classes: everything past an audio
network is in csv order, and a class that a network does not know has logit -inf, which a softmax
turns into probability 0. Trade-off: a consumer must not multiply logits by zero.

Shapes: N examples, K classes of a network.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from torch import Tensor

from avs.errors import WeightsError

__all__ = [
    "NUM_AUDIOSET_CLASSES",
    "AudioSetClass",
    "audioset_classes",
    "class_positions",
    "spread_classes",
]

NUM_AUDIOSET_CLASSES = 527


@dataclass(frozen=True, slots=True)
class AudioSetClass:
    """``mid`` is the identifier ("/m/09x0r"), ``name`` what people read ("Speech")."""

    mid: str
    name: str


@functools.cache
def audioset_classes() -> tuple[AudioSetClass, ...]:
    """All classes; the place of a class is its column in :class:`avs.models.AudioOutput`."""
    file = resources.files("avs.models") / "data" / "audioset_labels.csv"
    rows = csv.DictReader(file.read_text("utf-8").splitlines())
    classes = tuple(AudioSetClass(row["mid"], row["display_name"]) for row in rows)
    assert len(classes) == NUM_AUDIOSET_CLASSES, len(classes)
    return classes


def class_positions(mids: Sequence[str]) -> Tensor:
    """Columns int64 [K] of a network's classes, given by mid in the network's order.

    Raises WeightsError for a mid that is not of AudioSet or comes twice.
    """
    columns = {entry.mid: column for column, entry in enumerate(audioset_classes())}
    unknown = sorted(set(mids) - set(columns))
    if unknown:
        raise WeightsError(f"classes that are not of AudioSet: {', '.join(unknown[:5])}")
    if len(set(mids)) != len(mids):
        raise WeightsError(f"{len(mids)} classes, but only {len(set(mids))} different ones")
    return torch.tensor([columns[mid] for mid in mids])


def spread_classes(logits_NK: Tensor, positions_K: Tensor) -> Tensor:
    """Logits [N, K] in a network's order -> [N, 527] in csv order, -inf where it has no class."""
    spread = logits_NK.new_full((len(logits_NK), NUM_AUDIOSET_CLASSES), -torch.inf)
    return spread.index_copy(1, positions_K, logits_NK)
