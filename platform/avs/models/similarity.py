"""The similarity of the two label sets that C3N's consensus rests on: [1000, 527].

Row = ImageNet-1k class in torchvision's and timm's order, column = AudioSet class in the order of
AudioSet's csv. The authors never published their matrix; the shipped one is ours, a reconstruction
made by :mod:`avs.models.build_similarity` from a sentence encoder, whose choices were fixed before
any result was looked at. A user's own file takes its place.

Shapes: I = 1000 ImageNet classes, A = 527 AudioSet classes.
"""

from __future__ import annotations

import io
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avs import storage
from avs.errors import ConfigError, DataError, WeightsError

__all__ = ["SIMILARITY_KEY", "SIMILARITY_SHAPE", "checked_similarity", "load_similarity"]

SIMILARITY_SHAPE = (1000, 527)
SIMILARITY_KEY = "similarity_matrix"  # its name in an h5 or npz file
HDF5_SUFFIXES = (".h5", ".hdf5")
WAY_OUT = (
    f"Wanted: {SIMILARITY_SHAPE[0]} ImageNet-1k rows by {SIMILARITY_SHAPE[1]} AudioSet columns as "
    f".npy, or under the name {SIMILARITY_KEY} in .npz or .h5; null takes the shipped one."
)


def load_similarity(spec: str | None = None) -> Tensor:
    """Read a similarity matrix S_IA: float32 [1000, 527], cosines.

    spec: local path or s3:// URI of .npy, .npz or .h5 (dataset ``similarity_matrix``; needs h5py);
    None = the shipped matrix, whose entries lie between 0 and 1.
    Raises WeightsError when the file is missing or unreadable, or when the matrix has another
    shape, values that are not finite or not within -1 and 1, or none above 0.
    """
    if spec is None:
        data = (resources.files("avs.models") / "data" / "similarity.npz").read_bytes()
        return torch.from_numpy(_read_numpy(data).astype(np.float32))
    try:
        matrix_IA = _read(storage.read_bytes(spec), suffix=Path(spec).suffix.lower())
    except (OSError, ValueError, KeyError, EOFError, DataError, zipfile.BadZipFile) as error:
        text = str(error).rstrip(".").splitlines()[0]
        raise WeightsError(f"cannot read similarity={spec!r}: {text}. {WAY_OUT}") from error
    problem = _problem(matrix_IA) or _range_problem(matrix_IA)
    if problem:
        raise WeightsError(f"similarity={spec!r} {problem}. {WAY_OUT}")
    return torch.from_numpy(matrix_IA.astype(np.float32))


def checked_similarity(given: object) -> Tensor:
    """A copy in float32 of a matrix [1000, 527] given as a tensor or array.

    It may be of any scale, unlike a file, which holds cosines: only the order of its products with
    the class scores counts. Raises ConfigError for another shape or kind, for values that are not
    finite, or none above 0.
    """
    if isinstance(given, Tensor):
        matrix = given.detach().cpu()
        given = (matrix.float() if matrix.is_floating_point() else matrix).numpy()
    if not isinstance(given, np.ndarray):
        raise ConfigError(f"similarity is a {type(given).__name__}, no tensor or array. {WAY_OUT}")
    problem = _problem(given)
    if problem:
        raise ConfigError(f"similarity {problem}. {WAY_OUT}")
    return torch.from_numpy(given.astype(np.float32))


def _read(data: bytes, *, suffix: str) -> np.ndarray[Any, Any]:
    return _read_hdf5(data) if suffix in HDF5_SUFFIXES else _read_numpy(data)


def _read_numpy(data: bytes) -> np.ndarray[Any, Any]:
    """The array of a .npy file, or the one of the known name in an .npz file; never a pickle."""
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    if SIMILARITY_KEY not in loaded:
        raise ValueError(f"it holds {', '.join(loaded) or 'nothing'}, not {SIMILARITY_KEY}")
    found: np.ndarray[Any, Any] = loaded[SIMILARITY_KEY]
    return found


def _read_hdf5(data: bytes) -> np.ndarray[Any, Any]:
    try:
        import h5py  # type: ignore[import-not-found, unused-ignore]  # optional: only this format
    except ImportError:
        raise ValueError("h5py is not installed; install it, or save the matrix as .npy") from None
    with h5py.File(io.BytesIO(data), "r") as file:
        if SIMILARITY_KEY not in file:
            raise ValueError(f"it holds {', '.join(file) or 'nothing'}, not {SIMILARITY_KEY}")
        return np.asarray(file[SIMILARITY_KEY])


def _problem(matrix_IA: np.ndarray[Any, Any]) -> str | None:
    """What makes a matrix unusable, as the end of a sentence, or None."""
    if matrix_IA.shape != SIMILARITY_SHAPE:
        turned = " (transpose it)" if matrix_IA.shape == SIMILARITY_SHAPE[::-1] else ""
        return f"has the shape {list(matrix_IA.shape)}{turned}"
    if matrix_IA.dtype.kind not in "fiu":
        return f"holds {matrix_IA.dtype} values"
    if not np.isfinite(matrix_IA).all():
        return f"holds {int((~np.isfinite(matrix_IA)).sum())} values that are not finite"
    return None if (matrix_IA > 0).any() else "has no value above 0: nothing could agree"


def _range_problem(matrix_IA: np.ndarray[Any, Any]) -> str | None:
    low, high = float(matrix_IA.min()), float(matrix_IA.max())
    if low >= -1.001 and high <= 1.001:  # a rounded cosine may pass 1 by a hair
        return None
    return f"has values from {low:.3g} to {high:.3g}, where cosines lie between -1 and 1"
