"""Models and audio networks by name, their inputs and outputs, import of official weights."""

from __future__ import annotations

from avs.models.audio import AUDIO_NETWORKS, build_audio_network
from avs.models.config import ModelConfig
from avs.models.official import import_official
from avs.models.registry import MODELS, build_model
from avs.models.system import AvsSystem, build_system
from avs.models.types import AudioNetwork, AudioOutput, ModelInput, ModelOutput, Truth
from avs.models.weights import load_weights

__all__ = [
    "AUDIO_NETWORKS",
    "MODELS",
    "AudioNetwork",
    "AudioOutput",
    "AvsSystem",
    "ModelConfig",
    "ModelInput",
    "ModelOutput",
    "Truth",
    "build_audio_network",
    "build_model",
    "build_system",
    "import_official",
    "load_weights",
]
