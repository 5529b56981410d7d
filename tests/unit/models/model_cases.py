"""The models of the table as their common tests want them, and clips in which the sound decides.

A model without a line in ``CASES`` is tested with its own defaults; a line makes it small and names
what is true of this model alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from small_configs import AVSC_OPTIONS
from torch import Tensor, nn

from avs.losses import LossConfig, LossKind, total_loss
from avs.models import AUDIO_NETWORKS, MODELS, ModelInput, Truth, build_model

BINARY = LossConfig(dice_weight=1.0)
SEMANTIC = LossConfig(kind=LossKind.SEMANTIC)
CATEGORIES = ("dog", "car", "bell")
CCFORMER_OPTIONS: dict[str, Any] = {
    "num_queries": 5,
    "num_eim_levels": 4,
    "num_extra_levels": 0,
    "num_encoder_layers": 1,
    "num_decoder_layers": 3,
    "fusion_width": 16,
    "ffn_width": 32,
    "num_heads": 2,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """options: make it small. able: options with which it learns a batch, beside those, at ``rate``
    in ``num_steps`` (binary, with classes).
    switches: options that leave a part out. binary_switches: the same, for binary masks alone.
    unpadded: options with which padding changes nothing, where that is not so by itself.
    maps_sound: it has what the audio-visual mapping term of the loss compares.
    frozen: a pattern of the beginning of names that are not trained. exports: False = it cannot."""

    options: dict[str, Any] = field(default_factory=dict)
    able: dict[str, Any] = field(default_factory=dict)
    rate: float = 3e-3
    num_steps: tuple[int, int] = (120, 120)
    switches: tuple[dict[str, Any], ...] = ()
    binary_switches: tuple[dict[str, Any], ...] = ()
    unpadded: dict[str, Any] = field(default_factory=dict)
    maps_sound: bool = False
    frozen: str = "$"
    exports: bool = True


CASES = {
    "tpavi": Case(
        options={"fusion_width": 16},
        able={"fusion_width": 32},
        rate=5e-3,
        num_steps=(70, 160),
        switches=({"use_audio": False}, {"fusion_stages": (3, 4)}, {"temporal_group": 1}),
        unpadded={"mask_padding": True},
        maps_sound=True,
        # both in the official model too, never run
        frozen=r"decoder\.steps\.3\.skip_unit\.|fusions\.\d\.align\.",
    ),
    "c3n": Case(
        options={"fusion_width": 16},
        able={"fusion_width": 32},
        rate=5e-3,
        num_steps=(70, 120),
        unpadded={"mask_padding": True},
        maps_sound=True,
        frozen=r"decoder\.steps\.3\.skip_unit\.|backbone\.net\.fc\.",
        exports=False,
    ),
    "avsc": Case(
        options=AVSC_OPTIONS,
        num_steps=(70, 70),
        switches=({"silent_object_aware": False}, {"aggregate": "noisy_or"}),
        binary_switches=({"categories": False},),
    ),
    "ccformer": Case(
        options=CCFORMER_OPTIONS,
        able={"fusion_width": 32, "num_heads": 4},
        num_steps=(70, 70),
        switches=(
            {"num_eim_levels": 0},
            {"num_eim_levels": 2},
            {"use_frame_level": False},
            {"use_video_level": False},
            {"bcl_weight": 0.0},
            {"aux_weight": 0.0},
            {"num_decoder_layers": 1},
            {"num_extra_levels": 1, "num_eim_levels": 5},
            {"num_eim_levels": 0, "use_frame_level": False, "bcl_weight": 0.0},
        ),
    ),
}


def case_of(name: str) -> Case:
    """What is known of a model of the table."""
    return CASES.get(name, Case())


def variants() -> list[tuple[str, int, dict[str, Any]]]:
    """Each model as it is and with each part left out, binary and with classes."""
    made: list[tuple[str, int, dict[str, Any]]] = []
    for name in sorted(MODELS):
        case = case_of(name)
        made += [(name, num, switch) for num in (1, 4) for switch in ({}, *case.switches)]
        made += [(name, 1, switch) for switch in case.binary_switches]
    return made


def small_model(
    name: str, *, num_classes: int = 1, backbone: str = "test_resnet", **options: Any
) -> nn.Module:
    """In training mode, from a fixed seed. num_classes: 1, or 4 = three categories."""
    torch.manual_seed(0)
    return build_model(
        name,
        backbone=backbone,
        num_classes=num_classes,
        category_names=CATEGORIES,
        **(case_of(name).options | options),
    ).train()


def awake(model: nn.Module) -> nn.Module:
    """With weights that start at 0, of residual branches, fusions and offsets, given values: a
    start at 0 hides what lies behind it."""
    for module in model.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if key.endswith("weight") and not parameter.any():
                is_norm = isinstance(module, nn.BatchNorm2d)
                nn.init.normal_(parameter, mean=float(is_norm), std=0.1)
    return model


def sound_of(name: str) -> str:
    """A small audio network that the model can be trained with."""
    able = [net for net, entry in AUDIO_NETWORKS.items() if entry.gives_classes]
    return "yamnet" if MODELS[name].hears_classes and "yamnet" in able else "small"


def clips(
    num_clips: int = 2, *, num_frames: int = 3, size: tuple[int, int] = (64, 96), seed: int = 1
) -> ModelInput:
    """Pictures and sound of noise."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(num_clips, num_frames, *shape, generator=generator)

    return ModelInput(
        frames=random(3, *size), audio_embedding=random(128), audio_logits=2.0 * random(527)
    )


def two_objects(num_frames: int = 3) -> tuple[ModelInput, Truth]:
    """Two clips with the same pictures of two objects: only the sound tells which is meant.

    In the first the red one is heard, in the second the green one; categories 0 and 1 of three.
    """
    generator = torch.Generator().manual_seed(3)
    frames = 0.3 * torch.rand(1, num_frames, 3, 64, 64, generator=generator).repeat(2, 1, 1, 1, 1)
    masks = torch.zeros(2, num_frames, 64, 64, dtype=torch.uint8)
    for t in range(num_frames):
        red = (t, slice(8 + 2 * t, 30 + 2 * t), slice(6, 26))
        green = (t, slice(28, 56), slice(34 + 2 * t, 58))
        for channel, area in enumerate((red, green)):
            frames[:, area[0], channel, area[1], area[2]] += 1.0
            masks[channel][area] = 1
    sound = torch.randn(2, 1, 128, generator=generator)
    noise = 0.1 * torch.randn(2, num_frames, 128, generator=generator)
    scores = 2.0 * torch.randn(2, 1, 527, generator=generator).repeat(1, num_frames, 1)
    x = ModelInput(frames=frames, audio_embedding=sound + noise, audio_logits=scores)
    return x, truth_of(masks, categories=[[1, 0, 0], [0, 1, 0]])


def truth_of(
    masks: Tensor,
    *,
    categories: list[list[int]] | None,
    mask_valid: Tensor | None = None,
    frame_valid: Tensor | None = None,
    seed: int = 0,
) -> Truth:
    """The truth of clips with these masks [B, T, H, W]."""
    everywhere = torch.ones(masks.shape[:2], dtype=torch.bool)
    return Truth(
        masks=masks,
        mask_valid=everywhere if mask_valid is None else mask_valid,
        frame_valid=frame_valid,
        categories=None if categories is None else torch.tensor(categories, dtype=torch.bool),
        videos=torch.arange(len(masks)),
        seed=seed,
    )


def known(x: ModelInput, *, num_classes: int) -> Truth:
    """A rectangle in each frame; each clip has a class, a category and a video of its own."""
    num_clips, num_frames, _, height, width = x.frames.shape
    masks = torch.zeros(num_clips, num_frames, height, width, dtype=torch.uint8)
    for clip in range(num_clips):
        top, left = 8 * (clip % 3), 12 * (clip % 4)
        masks[clip, :, top : top + 40, left : left + 36] = 1 + clip % max(num_classes - 1, 1)
    categories = [[int(k == clip % 3) for k in range(3)] for clip in range(num_clips)]
    return truth_of(
        masks, categories=categories, mask_valid=x.frame_valid, frame_valid=x.frame_valid
    )


def loss_of(num_classes: int, *, mapping: bool = False) -> LossConfig:
    """Cross entropy, Dice where masks are binary, and the audio-visual mapping if asked for."""
    config = BINARY if num_classes == 1 else SEMANTIC
    return replace(config, mapping_weight=0.5) if mapping else config


def learn(
    model: nn.Module,
    x: ModelInput,
    truth: Truth,
    *,
    config: LossConfig,
    rate: float,
    num_steps: int,
) -> None:
    """Train on this one batch; leaves the model as inference wants it."""
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(num_steps):
        # Inference takes the running statistics of batch norm: they catch up at a falling rate.
        optimizer.param_groups[0]["lr"] = rate * (1.0 - step / num_steps)
        losses = total_loss(model, model(x), replace(truth, seed=step), config=config)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    model.eval()


def overlap(logits_BTKHW: Tensor, masks_BTHW: Tensor) -> float:
    """Mean Jaccard index of the frames; a pixel of a wrong class is no hit."""
    if logits_BTKHW.shape[2] == 1:
        said = (logits_BTKHW[:, :, 0] > 0.0).to(masks_BTHW.dtype)
    else:
        said = logits_BTKHW.argmax(dim=2).to(masks_BTHW.dtype)
    hit = ((said == masks_BTHW) & (masks_BTHW > 0)).sum(dim=(2, 3))
    return float((hit / ((said > 0) | (masks_BTHW > 0)).sum(dim=(2, 3))).mean())
