"""The model card that lies in every checkpoint folder.

It keeps three things apart that readers mix up: what the authors published, what had to be
reconstructed here, and what this one run did. The first two are the ``origin`` of the model's entry
in ``MODELS``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

from avs.media.logmel import Alignment
from avs.models.audio import AUDIO_NETWORKS
from avs.models.config import ModelConfig
from avs.models.registry import MODELS, model_options
from avs.prepare.manifest import Manifest
from avs.training.clip_spec import ClipSpec
from avs.training.config import LoopConfig, Schedule, TrainConfig
from avs.training.lineage import StartedFrom, content_hash
from avs.training.run import EpochMetrics

__all__ = ["imported_card", "model_card"]


def model_card(
    config: TrainConfig,
    metrics: EpochMetrics,
    *,
    manifests: Sequence[Manifest],
    audio_trained: bool,
    started_from: StartedFrom | None = None,
) -> str:
    """Markdown: what the model is, on what and how it was trained, what it reached.

    manifests: of the folders ``config.data`` names, in their order. started_from: whose weights
    ``train.init_from`` meant.
    """
    model, loop, form = config.model, config.train, manifests[0].format
    epochs, score = _reached(metrics)
    return f"""{_introduction(model)}
## This run

| | |
|---|---|
| classes | {_some(form.class_names)} |
| categories | {_categories(model)} |
| options | {_options(model)} |
| initial weights | {_initial(model, started_from)} |
| audio network | {"trained" if audio_trained else "frozen"} |
| trained on | {_mixture(config, manifests)} |
| epochs | {epochs.format(loop.epochs)}, seed {config.seed} |
| batch | {_batch(config)}, {form.num_frames} frames of {loop.image_size_px or form.height_px} px |
| sound | {_alignment(manifests[0].audio_alignment)} |
| optimiser | {_optimiser(loop)} |
| augmentation | {", ".join(_augmentation(loop)) or "none"} |
| loss | {" + ".join(_loss(config))} |
| computation | {", ".join(_computation(loop)) or "plain"} |
| validation | {score} (AVSBench protocol, test batch of one clip) |

No figure of this card is a published one: it is what this run measured.
"""


def imported_card(
    model: ModelConfig, *, clip: ClipSpec, data: str, official: str, sha256: str
) -> str:
    """Markdown: what the model is, and that its weights are those of the file ``official``."""
    return f"""{_introduction(model)}
## These weights

As published by the authors ({MODELS[model.name].origin.where}): imported as they are from the file
`{official}`, nothing was trained here.

| | |
|---|---|
| file | {official}, SHA-256 {sha256} |
| data set | {data} |
| classes | {_some(clip.class_names)} |
| options | {_options(model)} |
| audio network | from {model.audio_weights} |
| clip | {clip.num_frames} frames of {clip.image_size_px} px |
| sound | {_alignment(clip.audio_alignment)} |

No figure stands here, because nothing was measured.
"""


def _reached(metrics: EpochMetrics) -> tuple[str, str]:
    """How far the training is, with a place for the number of epochs, and the score there."""
    epoch, j, f = metrics["epoch"], metrics["val_j"], metrics["val_f"]
    if "step" in metrics:
        return f"{epoch - 1} of {{}} and {metrics['step']} steps", "not done at this step"
    score = "no validation split" if j is None else f"J {100 * j:.2f}, F {100 * f:.2f}"
    return f"{epoch} of {{}}", score


def _introduction(model: ModelConfig) -> str:
    """What every card begins with."""
    # The module of a model says which paper it follows.
    summary = (sys.modules[MODELS[model.name].build.__module__].__doc__ or "").strip()
    origin = MODELS[model.name].origin
    return f"""# {model.name} ({model.backbone}, {model.audio_network})

{summary}

## Published

{origin.published}

Audio network {model.audio_network}: {AUDIO_NETWORKS[model.audio_network].where}.

## Reconstructed

{origin.reconstructed}
"""


def _options(model: ModelConfig) -> str:
    options = asdict(model_options(model.name, model.options))
    return ", ".join(f"{name}: {value}" for name, value in options.items())


def _alignment(alignment: Alignment) -> str:
    return f"log-mel examples aligned as data.audio.alignment={alignment.value}"


def _categories(model: ModelConfig) -> str:
    if not MODELS[model.name].names_categories:
        return "not named"
    if model.category_names and model.options.get("categories", True):
        return _some(tuple(model.category_names))
    return "not named: one class for all that sounds, which the sound can only turn up and down"


def _some(class_names: tuple[str, ...]) -> str:
    more = ", ..." if len(class_names) > 4 else ""
    return f"{len(class_names)}: {', '.join(class_names[:4])}{more}"


def _initial(model: ModelConfig, started_from: StartedFrom | None) -> str:
    own = f"backbone: {model.backbone_weights}; audio: {model.audio_weights}"
    return own if started_from is None else f"{started_from}; before that, {own}"


def _mixture(config: TrainConfig, manifests: Sequence[Manifest]) -> str:
    folders = list(map(_data, manifests, config.data.folders))
    if config.data.weights is not None:
        folders = [f"{w:g} x {what}" for w, what in zip(config.data.weights, folders, strict=True)]
    return "; ".join(folders)


def _data(manifest: Manifest, folder: str) -> str:
    """Name of the data set, its clips that a training run sees, and where they lie."""
    sizes = {
        split: sum(s.num_rows for s in manifest.shards if s.split == split)
        for split in ("train", "val")
    }
    counts = ", ".join(f"{size} {split}" for split, size in sizes.items() if size)
    name = manifest.config["data"]["name"]
    hashes = f"configuration {manifest.config_hash[:12]}, shards {content_hash(manifest)[:12]}"
    return f"{name} ({counts} clips; {hashes}), prepared as {folder}"


def _batch(config: TrainConfig) -> str:
    loop, workers = config.train, config.scale.num_workers
    each, times = loop.batch_size, loop.accumulate_steps
    shared = ", batch norm over all workers" if loop.sync_batch_norm else ""
    again = f", {times} times a step" if times > 1 else ""
    return f"{each * workers * times} clips ({each} on each of {workers} workers{again}{shared})"


def _optimiser(loop: LoopConfig) -> str:
    name = f"AdamW, decay {loop.weight_decay:g}" if loop.weight_decay else "Adam"
    rate = f"{name}, learning rate {loop.learning_rate:g} {loop.schedule.value}"
    if loop.schedule is Schedule.LINEAR:
        rate += f" to {loop.final_learning_rate:g} over {loop.schedule_epochs} epochs"
    if loop.schedule is Schedule.POLY:
        rate += f" {loop.poly_power:g}"
    if loop.warmup_steps:
        rate += f", warm-up {loop.warmup_steps} steps from x {loop.warmup_start_factor:g}"
    if loop.backbone_learning_rate_factor != 1.0:
        rate += f" (backbone x {loop.backbone_learning_rate_factor:g})"
    if loop.frozen_backbone_epochs:
        rate += f", backbone frozen for {min(loop.frozen_backbone_epochs, loop.epochs)} epochs"
    if loop.max_gradient_norm is not None:
        rate += f", gradient norm up to {loop.max_gradient_norm:g}"
    rate += f", {loop.precision.value}"
    if loop.ema_decay is not None:
        rate += f"; these weights are a moving average, decay {loop.ema_decay:g}"
    return rate


def _computation(loop: LoopConfig) -> Iterator[str]:
    """What changes speed, memory and rounding."""
    if loop.channels_last:
        yield "channels last"
    if loop.compile:
        yield "compiled"
    if loop.checkpoint_backbone:
        yield "backbone computed again in the backward pass"


def _augmentation(loop: LoopConfig) -> Iterator[str]:
    if loop.crop_scale is not None:
        yield f"crops of {list(loop.crop_scale)} of the picture, ratio {list(loop.crop_ratio)}"
    if loop.flip:
        yield "half of the clips mirrored"
    if loop.color_jitter is not None:
        yield f"colours of each {loop.color_jitter_each.value} by up to {list(loop.color_jitter)}"
    if loop.off_screen_ratio:
        yield f"up to {loop.off_screen_ratio:g} of the clips with the sound of another category"


def _loss(config: TrainConfig) -> Iterator[str]:
    """The weights of the loss section, then those that the model has among its options."""
    loss, model = config.loss, config.model
    if loss.bce_weight:
        yield f"{loss.bce_weight:g} x cross entropy"
    if loss.dice_weight:
        yield f"{loss.dice_weight:g} x Dice ({loss.dice_form.value})"
    if loss.mapping_weight:
        yield f"{loss.mapping_weight:g} x audio-visual mapping"
    options = model_options(model.name, model.options)
    for field in fields(options):
        weight = getattr(options, field.name)
        unused = model.num_classes == 1 and field.name == "class_dice_weight"
        if field.name.endswith("_weight") and weight and not unused:
            yield f"{weight:g} x {field.name.removesuffix('_weight')}"
