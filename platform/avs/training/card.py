"""The model card that lies in every checkpoint folder."""

from __future__ import annotations

import sys

from avs.models.registry import MODELS
from avs.training.config import TrainConfig
from avs.training.run import EpochMetrics

__all__ = ["model_card"]


def model_card(config: TrainConfig, metrics: EpochMetrics, *, class_names: tuple[str, ...]) -> str:
    """Markdown: what the model is, on what it was trained, what it reached on validation."""
    model = config.model
    # The module of a model says which paper it follows and what is reconstructed.
    summary = (sys.modules[MODELS[model.name].build.__module__].__doc__ or "").strip()
    j, f = metrics["val_j"], metrics["val_f"]
    more = ", ..." if len(class_names) > 4 else ""
    score = "no validation split" if j is None else f"J {100 * j:.2f}, F {100 * f:.2f}"
    return f"""# {model.name} ({model.backbone}, {model.audio_network})

{summary}

| | |
|---|---|
| classes | {len(class_names)}: {", ".join(class_names[:4])}{more} |
| initial weights | backbone: {model.backbone_weights}; audio: {model.audio_weights} |
| trained on | {config.data.prepared} |
| epochs | {metrics["epoch"]} of {config.train.epochs}, seed {config.seed} |
| validation | {score} (AVSBench protocol, test batch of one clip) |

No figure of this card is a published one: it is what this run measured.
"""
