"""Audio networks by name.

A literal table: a new network is one module and one line. Weights are named explicitly ("random"
or a file), so a frozen network never runs untrained by accident. "vggish" is what AVSBench uses;
"vggish_classified" is the same network with the classifier that C3N needs, as a name of its own
because it takes two files more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avs.errors import ConfigError, WeightsError
from avs.models.beats import BEATS_FILES, BEATS_WHERE, Beats
from avs.models.frozen import FrozenAudioNetwork
from avs.models.official import import_official
from avs.models.panns import PANNS_FILES, PANNS_WHERE, Cnn14
from avs.models.small_audio import SmallAudioNet, SmallClassifiedAudioNet
from avs.models.types import AudioNetwork
from avs.models.vggish import VGGISH_FILES, VGGISH_PARTS, VGGISH_WHERE, VGGish, VGGishClassified
from avs.models.weights import name_some, read_weights_file, skip_random_init, tensors_of
from avs.models.yamnet import YAMNET_FILES, YAMNET_WHERE, Yamnet

__all__ = ["AUDIO_NETWORKS", "AudioEntry", "build_audio_network"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioEntry:
    """build: the class, made with random weights. files: what its authors call the files that its
    weights come from, all of them needed. parts: how the names in each of several files begin.
    where: where they are published. gives_classes: whether its output has AudioSet class scores,
    which some models cannot do without."""

    build: type[AudioNetwork]
    files: tuple[str, ...]
    where: str
    parts: tuple[str, ...] = ()
    gives_classes: bool = False


AUDIO_NETWORKS: dict[str, AudioEntry] = {
    "small": AudioEntry(
        build=SmallAudioNet, files=(), where="nowhere: it is trained with the segmenter"
    ),
    "small_classified": AudioEntry(
        build=SmallClassifiedAudioNet,
        files=(),
        where="nowhere: it is trained with the segmenter, but for its random classes",
        gives_classes=True,
    ),
    "vggish": AudioEntry(build=VGGish, files=VGGISH_FILES[:1], where=VGGISH_WHERE),
    "vggish_classified": AudioEntry(
        build=VGGishClassified,
        files=VGGISH_FILES,
        parts=VGGISH_PARTS,
        where=f"{VGGISH_WHERE} and https://github.com/qiuqiangkong/audioset_classification "
        "(feature-level attention, the last file)",
        gives_classes=True,
    ),
    "panns": AudioEntry(build=Cnn14, files=PANNS_FILES, where=PANNS_WHERE, gives_classes=True),
    "beats": AudioEntry(build=Beats, files=BEATS_FILES, where=BEATS_WHERE, gives_classes=True),
    "yamnet": AudioEntry(build=Yamnet, files=YAMNET_FILES, where=YAMNET_WHERE, gives_classes=True),
}


def build_audio_network(name: str, *, weights: str = "") -> AudioNetwork:
    """Build an audio network.

    weights: "random", or where its published checkpoint is: a local path, s3://BUCKET/KEY or
    hf-hub:OWNER/REPO/FILE. A network whose weights lie in several files takes them all, separated
    by commas, or one file with everything.
    Raises ConfigError for an unknown name, WeightsError for weights that are missing or do not fit.
    """
    if name not in AUDIO_NETWORKS:
        raise ConfigError(
            f"model.audio_network={name!r} is unknown; known: {', '.join(AUDIO_NETWORKS)}"
        )
    entry = AUDIO_NETWORKS[name]
    if weights == "random":
        return entry.build()
    content = _read(name, weights)
    with skip_random_init():
        network = entry.build()
    try:
        import_official(network, content)
    except WeightsError as error:
        raise WeightsError(
            f"model.audio_weights={weights!r}: {error}.{_absent_files(network, content, entry)} "
            f"Wanted: {_wanted(name)}, published at {entry.where}."
        ) from error
    return network


def _read(name: str, weights: str) -> dict[str, Any]:
    """The one file as it was saved, or the tensors of several together."""
    entry = AUDIO_NETWORKS[name]
    if len(entry.files) < 2:
        return _read_one(name, weights)
    together: dict[str, Any] = {}
    for spec in weights.split(","):
        tensors = tensors_of(_read_file(name, spec.strip()))
        again = [key for key in tensors if key in together]
        if again:
            raise WeightsError(
                f"model.audio_weights={weights!r}: {spec.strip()!r} holds what a file before it "
                f"holds: {name_some(again)}. Wanted, each once: {', '.join(entry.files)}, "
                f"published at {entry.where}."
            )
        together |= tensors
    return together


def _read_one(name: str, weights: str) -> dict[str, Any]:
    try:
        return _read_file(name, weights)
    except WeightsError as error:
        if "," not in weights:  # which may be part of a file's name
            raise
        raise WeightsError(
            f"model.audio_weights={weights!r}: {name} takes one file. Wanted: {_wanted(name)}, "
            f"published at {AUDIO_NETWORKS[name].where}."
        ) from error


def _read_file(name: str, spec: str) -> dict[str, Any]:
    return read_weights_file(spec, wanted=_wanted(name), where=AUDIO_NETWORKS[name].where)


def _wanted(name: str) -> str:
    files = AUDIO_NETWORKS[name].files
    return f"weights of {name} ({', '.join(files)})" if files else name


def _absent_files(network: AudioNetwork, content: dict[str, Any], entry: AudioEntry) -> str:
    """A sentence naming the files of several of which ``content`` holds nothing, or nothing."""
    if not entry.parts or not isinstance(network, FrozenAudioNetwork):
        return ""
    try:
        names = list(network.own_names(content))
    except WeightsError:  # told already
        return ""
    absent = [
        file
        for file, part in zip(entry.files, entry.parts, strict=True)
        if not any(name.startswith(part) for name in names)
    ]
    return f" No file given is {' or '.join(absent)}: give all, joined by commas." if absent else ""
