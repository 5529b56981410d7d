"""Which prepared folders belong together: in one training, or a training and its tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avs.datasets import dataset_spec
from avs.errors import DataError
from avs.prepare.manifest import Manifest

__all__ = ["check_alike"]


def check_alike(manifests: Mapping[str, Manifest], *, with_size: bool = False) -> None:
    """Refuse folders whose clips cannot be in one batch, or be scored by one model.

    manifests: by folder. with_size: frames must be of one size, too.

    Raises:
        DataError: names the folder, the key and both values.
    """
    (first, wanted), *others = ((folder, _kind(m, with_size)) for folder, m in manifests.items())
    for folder, mine in others:
        for key, value in mine.items():
            if value != wanted[key]:
                raise DataError(
                    f"{folder} has {key}={_shown(value)}, {first} has {key}={_shown(wanted[key])}: "
                    "prepare both alike, or leave one of them out."
                )


def _kind(manifest: Manifest, with_size: bool) -> dict[str, Any]:
    """What clips that belong together have in common, by the key that decides it."""
    form, data = manifest.format, manifest.config["data"]
    return {
        "data.num_frames": form.num_frames,
        "data.image_size_px": (form.height_px, form.width_px) if with_size else None,
        "data.audio.alignment": manifest.audio_alignment.value,
        "classes": form.class_names,
        "audio padding": dataset_spec(data["name"]).pad,
    }


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
