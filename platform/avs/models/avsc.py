"""AVSC: Audio-Visual Segmentation by Exploring Cross-Modal Mutual Semantics (ACM MM 2023).

What sounds is often also the most salient, so models learn to segment whatever is salient. AVSC
first finds all objects that could sound, from the picture alone, and lets the sound choose among
them by category. Published: a mask-classification network, an objective that does not punish
visible silent objects, an audio network with category scores, their correlation. Reconstructed from
the abstract and from a reader's notes, because the text could not be had: everything that these
leave open, so no published result is a result of this code. Trade-off: frames are segmented one by
one, as published, and padded ones are left out of training.

Shapes: B clips, T frames, K categories, D audio width, H x W image, h x w map, N = B*T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from avs.errors import ConfigError
from avs.models.avsc_correlation import Aggregate, sounding_classes, sounding_logits
from avs.models.avsc_objective import ObjectiveOptions, avsc_objective
from avs.models.avsc_silent import Teacher
from avs.models.backbones import build_backbone
from avs.models.matching import MatchingCosts
from avs.models.object_network import ObjectNetwork, ObjectNetworkOptions
from avs.models.origin import Origin
from avs.models.pixel_losses import LossConfig
from avs.models.real_frames import frames_to_train_on, only, put_back
from avs.models.set_losses import SetLossConfig
from avs.models.types import ModelInput, ModelOutput, ObjectSets, Truth

__all__ = [
    "AVSC_ORIGIN",
    "SOUNDING_OBJECT",
    "AvscOptions",
    "AvscSegmenter",
    "SoundHead",
    "build_avsc",
]

SOUNDING_OBJECT = "sounding object"

AVSC_ORIGIN = Origin(
    published=(
        "The method in outline (Audio-Visual Segmentation by Exploring Cross-Modal Mutual "
        "Semantics, ACM MM 2023): a mask-classification network finds all objects of the "
        "picture, its objective does not punish visible silent ones, an audio network gives "
        "category scores; as a reader's note gives it, the sounding map is the sum of the kept "
        "queries' masks times their category's score. Its published results belong to the "
        "authors' code alone."
    ),
    reconstructed=(
        "The network and every size (Mask2Former's decoders), the matching, the set loss of every "
        "layer (2 x class + 5 x cross entropy + 5 x Dice of the masks, beside what the card "
        "names), the teacher of the silent-object-aware objective, the audio head and its "
        "multiple-instance loss, what binary masks of several categories teach, the semantic "
        "output and the recipe: the paper's text could not be had."
    ),
    where="not known to be public",
)


@dataclass(kw_only=True, slots=True)
class AvscOptions(ObjectNetworkOptions):
    """Options of AVSC, beside those of its object network.

    audio_dim, sound_width: widths of the audio embedding and of the hidden layer behind it.
    categories: False = what sounds has one class, whatever the data names.
    aggregate: "sum" or "noisy_or".
    silent_object_aware: False = the plain set loss. teacher_decay: of its moving average.
    loss_points: points that mask losses and matching look at. sound_weight: see
    :class:`avs.models.avsc_objective.ObjectiveOptions`.
    drop_path, backbone_options: stochastic depth of the backbone; further keywords for timm.
    """

    audio_dim: int = 128
    sound_width: int = 256
    categories: bool = True
    aggregate: str = "sum"
    silent_object_aware: bool = True
    teacher_decay: float = 0.999
    loss_points: int = 12_544
    sound_weight: float = 1.0
    drop_path: float = 0.0
    backbone_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ObjectNetworkOptions.__post_init__(self)
        for key in ("audio_dim", "sound_width", "loss_points"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: at least 1")
        known = [kind.value for kind in Aggregate]
        if self.aggregate not in known:
            raise ConfigError(f"aggregate={self.aggregate!r}: one of {', '.join(known)}")
        for key in ("teacher_decay", "drop_path"):
            if not 0.0 <= getattr(self, key) < 1.0:
                raise ConfigError(f"{key}={getattr(self, key)}: between 0 and 1")
        if not self.sound_weight >= 0.0:
            raise ConfigError(f"sound_weight={self.sound_weight}: 0 or more")


class SoundHead(nn.Module):
    """Audio embeddings [..., D] -> category logits [..., K], float32.

    It begins with one category in K heard, so that the many absent ones need not be unlearnt.
    """

    def __init__(self, audio_dim: int, *, width: int, num_categories: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(audio_dim)
        self.rise, self.fall = nn.Linear(audio_dim, width), nn.Linear(width, num_categories)
        odds = torch.tensor(1.0 / max(num_categories - 1, 1))
        nn.init.constant_(self.fall.bias, float(odds.log()))

    def forward(self, embedding: Tensor) -> Tensor:
        """Embeddings of frames one by one."""
        logits: Tensor = self.fall(torch.relu(self.rise(self.norm(embedding))))
        return logits.float()


class AvscSegmenter(nn.Module):
    """``ModelInput -> ModelOutput``; T and the image size are free.

    ``category_names`` are the K categories of queries and sound; of a semantic model, class k + 1
    of its logits is category k.
    """

    def __init__(
        self,
        *,
        backbone: str,
        backbone_weights: str,
        num_classes: int,
        category_names: Sequence[str],
        options: AvscOptions,
    ) -> None:
        super().__init__()
        self.options, self.num_classes = options, num_classes
        names = tuple(category_names) if options.categories else ()
        self.category_names = names or _default_names(num_classes)
        _check_names(self.category_names, num_classes, options)
        self.backbone = build_backbone(
            backbone,
            weights=backbone_weights,
            drop_path=options.drop_path,
            options=options.backbone_options,
        )
        num_categories = len(self.category_names)
        self.objects = ObjectNetwork(
            self.backbone.channels, num_categories=num_categories, options=options
        )
        self.sound = SoundHead(
            options.audio_dim, width=options.sound_width, num_categories=num_categories
        )
        self.aggregate = Aggregate(options.aggregate)
        self.objective_options = ObjectiveOptions(
            set_losses=SetLossConfig(
                num_points=options.loss_points,
                matching=MatchingCosts(num_points=options.loss_points),
            ),
            sound_weight=options.sound_weight,
            named=bool(names) or num_classes > 1,
        )
        self.teacher: Teacher | None = None
        if options.silent_object_aware:
            self.teacher = Teacher(decay=options.teacher_decay)

    def forward(self, x: ModelInput) -> ModelOutput:
        """Segment every frame; logits at the size of the frames, 0 for padding.

        Training leaves padded frames out, so its predictions are those of the real ones.
        """
        x.check(audio_dim=self.options.audio_dim)
        chosen_N = frames_to_train_on(x, training=self.training)
        sound_logits_BTK = self.sound(x.audio_embedding)
        sound_NK = only(sound_logits_BTK.flatten(0, 1).sigmoid(), chosen_N)
        maps = self.backbone(only(x.frames.flatten(0, 1), chosen_N))
        predictions = self.objects(maps, every_layer=self.training)
        size = (int(x.frames.shape[-2]), int(x.frames.shape[-1]))
        logits_NKHW = sounding_logits(
            sounding_classes(predictions[-1], sound_NK, size=size),
            aggregate=self.aggregate,
            semantic=self.num_classes > 1,
        )
        teacher = None
        if self.training and self.teacher is not None:
            teacher = self.teacher.look(self.objects, maps)
        logits_NKHW = put_back(logits_NKHW, chosen_N)
        if x.frame_valid is not None:
            logits_NKHW = logits_NKHW * x.frame_valid.reshape(-1, 1, 1, 1).to(logits_NKHW.dtype)
        return ModelOutput(
            logits=logits_NKHW.reshape(*x.frames.shape[:2], *logits_NKHW.shape[1:]),
            objects=ObjectSets(
                predictions=tuple(predictions), sound_logits=sound_logits_BTK, teacher=teacher
            ),
        )

    def objective(
        self, output: ModelOutput, truth: Truth, *, config: LossConfig
    ) -> dict[str, Tensor]:
        """See :func:`avs.models.avsc_objective.avsc_objective`."""
        return avsc_objective(output, truth, config=config, options=self.objective_options)

    def after_step(self) -> None:
        """Let the teacher follow the weights that a step has changed."""
        if self.teacher is not None:
            self.teacher.follow(self.objects)

    def training_state(self) -> dict[str, Tensor]:
        """The teacher; empty without one."""
        return {} if self.teacher is None else self.teacher.state()

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Go on from :meth:`training_state`."""
        if self.teacher is not None:
            self.teacher.load_state(self.objects, state)


def build_avsc(
    *,
    backbone: str,
    backbone_weights: str,
    num_classes: int,
    category_names: Sequence[str],
    options: AvscOptions,
) -> AvscSegmenter:
    """Build the model; see :class:`AvscOptions`. Raises ConfigError and WeightsError."""
    return AvscSegmenter(
        backbone=backbone,
        backbone_weights=backbone_weights,
        num_classes=num_classes,
        category_names=category_names,
        options=options,
    )


def _default_names(num_classes: int) -> tuple[str, ...]:
    if num_classes == 1:
        return (SOUNDING_OBJECT,)
    return tuple(f"class {k}" for k in range(1, num_classes))


def _check_names(names: Sequence[str], num_classes: int, options: AvscOptions) -> None:
    if num_classes == 1:
        return
    if not options.categories:
        raise ConfigError("categories=false is for binary data; semantic classes are categories")
    if len(names) != num_classes - 1:
        raise ConfigError(
            f"model.category_names holds {len(names)} names, model.num_classes={num_classes} has "
            f"{num_classes - 1} classes beside the background: leave category_names out"
        )
