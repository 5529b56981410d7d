"""Fine-tuning: begin with the weights of another checkpoint, as far as they fit.

A head of other classes, or a whole network that the checkpoint lacks, keeps the start that it has,
and is told by name: silence would hide a misspelt model. Nothing of the optimiser is taken over.
"""

from __future__ import annotations

from torch import Tensor

from avs.errors import CheckpointError, ConfigError
from avs.models import AvsSystem
from avs.training.checkpoint import Checkpoint, load_checkpoint
from avs.training.config import TrainConfig
from avs.training.lineage import StartedFrom

__all__ = ["start_from"]

_AUDIO, _SEGMENTER = "audio.", "segmenter."


def start_from(system: AvsSystem, config: TrainConfig) -> StartedFrom:
    """Load what fits of ``train.init_from``, a checkpoint or a run (then its best one).

    Left as the configuration says are the audio network, where the checkpoint has another or where
    ``checkpoint.self_contained=false`` ties a frozen one to its file, and what a model option names
    the file of (``similarity``).

    Raises:
        CheckpointError: there is no such checkpoint.
        ConfigError: nothing of the segmenter fits.
    """
    given = config.train.init_from
    assert given is not None, "asked for without a checkpoint"
    try:
        checkpoint = load_checkpoint(given)
    except CheckpointError as error:
        raise CheckpointError(f"train.init_from={given}: {error}") from error
    wanted = dict(system.state_dict())
    kept = _kept(wanted, system, checkpoint, config)
    fitting = {
        name: value
        for name, value in checkpoint.weights.items()
        if name in wanted and name not in kept and value.shape == wanted[name].shape
    }
    if not any(name.startswith(_SEGMENTER) for name in fitting):
        raise ConfigError(
            f"train.init_from={given} holds a {checkpoint.model.name} of "
            f"{checkpoint.model.backbone}, of which nothing fits model.name={config.model.name} "
            f"model.backbone={config.model.backbone}: take these, or leave train.init_from out."
        )
    system.load_state_dict(fitting, strict=False)
    anew = tuple(name for name in wanted if name not in fitting and name not in kept)
    return StartedFrom(checkpoint=checkpoint.uri, anew=anew)


def _kept(
    wanted: dict[str, Tensor], system: AvsSystem, checkpoint: Checkpoint, config: TrainConfig
) -> set[str]:
    """Names that the configuration decides, whatever the checkpoint holds."""
    tied = not (config.checkpoint.self_contained or system.audio.trainable)
    kept = {
        f"{_SEGMENTER}{key}" for key, value in config.model.options.items() if value is not None
    }
    if tied or checkpoint.model.audio_network != config.model.audio_network:
        kept |= {name for name in wanted if name.startswith(_AUDIO)}
    return kept & set(wanted)
