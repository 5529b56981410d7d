"""Audio networks by name.

A literal table: a new network is one module and one line. Weights are named explicitly ("random"
or a file), so a frozen network never runs untrained by accident.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from avs.errors import ConfigError, WeightsError
from avs.models.official import import_official
from avs.models.small_audio import SmallAudioNet
from avs.models.types import AudioNetwork
from avs.models.vggish import VGGISH_WHERE, VGGish
from avs.models.weights import load_weights

__all__ = ["AUDIO_NETWORKS", "AudioEntry", "build_audio_network"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioEntry:
    """build: makes the network with random weights. where: where its weights are published."""

    build: Callable[[], AudioNetwork]
    where: str


AUDIO_NETWORKS: dict[str, AudioEntry] = {
    "small": AudioEntry(build=SmallAudioNet, where="nowhere: it is trained with the segmenter"),
    "vggish": AudioEntry(build=VGGish, where=VGGISH_WHERE),
}


def build_audio_network(name: str, *, weights: str) -> AudioNetwork:
    """Build an audio network.

    weights: "random", or a local path / s3:// URI of its weights.
    Raises ConfigError for an unknown name, WeightsError for weights that are missing or do not fit.
    """
    if name not in AUDIO_NETWORKS:
        raise ConfigError(
            f"model.audio_network={name!r} is unknown; known: {', '.join(AUDIO_NETWORKS)}"
        )
    entry = AUDIO_NETWORKS[name]
    network = entry.build()
    if weights != "random":
        state = load_weights(weights, wanted=f"weights of {name}", where=entry.where)
        try:
            import_official(network, state)
        except WeightsError as error:
            raise WeightsError(f"model.audio_weights={weights!r}: {error}") from error
    return network
