"""The 1000 ImageNet-1k classes as timm carries them, in the order of every classifier's logits."""

from __future__ import annotations

import functools

__all__ = ["imagenet_classes"]


@functools.cache
def imagenet_classes(*, defined: bool = False) -> tuple[str, ...]:
    """Names of each class ("goldfish, Carassius auratus"), with its WordNet definition or not."""
    from timm.data.imagenet_info import ImageNetInfo  # seconds, as in avs.models.backbones

    described = ImageNetInfo().label_descriptions(detailed=defined, as_dict=True)
    assert isinstance(described, dict)
    return tuple(described.values())
