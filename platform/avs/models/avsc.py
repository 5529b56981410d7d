"""AVSC: Audio-Visual Segmentation by Exploring Cross-Modal Mutual Semantics (ACM MM 2023).

What sounds is often also the most salient, so models learn to segment whatever is salient. AVSC
first finds all objects that could sound, from the picture alone, and lets the sound choose among
them by category. Published: a mask-classification network, an objective that does not punish
visible silent objects, an audio network with category scores, their correlation. Reconstructed from
the abstract and from a reader's notes, because the text could not be had: everything that these
leave open, so no published result is a result of this code. Trade-off: frames are segmented one by
one, as published, and in training padded ones and those without masks are left out.

Shapes: B clips, T frames, K categories, D audio width, H x W image, h x w map, N = B*T frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from avs.models.avsc_correlation import Aggregate, sounding_classes, sounding_logits
from avs.models.avsc_objective import ObjectiveOptions, avsc_objective
from avs.models.avsc_options import AvscOptions, check_names, default_names
from avs.models.avsc_silent import Teacher
from avs.models.backbones import build_backbone
from avs.models.matching import MatchingCosts
from avs.models.object_network import ObjectNetwork
from avs.models.origin import Origin
from avs.models.pixel_losses import LossConfig
from avs.models.real_frames import in_clips, only, put_back, taught_frames, without_padding
from avs.models.set_losses import SetLossConfig
from avs.models.types import ModelInput, ModelOutput, ObjectSets, Truth

__all__ = [
    "AVSC_ORIGIN",
    "AvscSegmenter",
    "SoundHead",
    "build_avsc",
]

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
        self.category_names = names or default_names(num_classes)
        check_names(self.category_names, num_classes, options)
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
                class_weight=options.class_weight,
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

        Training leaves out padding and what no loss looks at; the predictions are of the rest.
        """
        x.check(audio_dim=self.options.audio_dim)
        chosen_N = taught_frames(x, training=self.training)
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
        logits_NKHW = without_padding(put_back(logits_NKHW, chosen_N), x)
        return ModelOutput(
            logits=in_clips(logits_NKHW, x),
            objects=ObjectSets(
                predictions=tuple(predictions),
                sound_logits=sound_logits_BTK,
                chosen=chosen_N,
                teacher=teacher,
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
