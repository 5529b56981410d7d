"""BEATs iter3+, fine-tuned on AudioSet (Chen et al., BEATs: audio pre-training with acoustic
tokenizers, ICML 2023), from the waveform to 527 AudioSet classes.

Named as the published checkpoint. Its classes are in an order of their own that only the
checkpoint's ``label_dict`` tells, so that is required and kept with the weights (the official C3N
code goes without and mixes the classes up). One architecture: that of the iter3+ checkpoints; a
file with another ``cfg`` is refused by its shapes.

Shapes: N examples, S samples at 16 kHz, F frames of 10 ms, M = 128 mel bands, L tokens (one a patch
of 16 x 16), D = 768.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from avs.errors import WeightsError
from avs.models.audioset import NUM_AUDIOSET_CLASSES, class_positions, spread_classes
from avs.models.beats_layers import WIDTH, Encoder
from avs.models.frozen import FrozenAudioNetwork
from avs.models.types import AudioOutput

__all__ = ["BEATS_FILES", "BEATS_WHERE", "Beats"]

BEATS_FILES = ("BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt",)
BEATS_WHERE = "https://github.com/microsoft/unilm/tree/master/beats"
SAMPLE_RATE_HZ = 16000
WINDOW, HOP = 400, 160  # 25 and 10 ms
NUM_MEL_BANDS, PATCH = 128, 16
PATCH_WIDTH = 512
NUM_LAYERS = 12
FBANK_MEAN, FBANK_STD = 15.41663, 6.55582
INT16_SCALE = 2.0**15
# The one table of relative biases is listed in every layer of the published file.
REPEATED = re.compile(r"^encoder\.layers\.[1-9]\d*\.self_attn\.relative_attention_bias\.weight$")


class Beats(FrozenAudioNetwork):
    """Waveform [N, S] (a second: S = 16000) -> mean token [N, 768], logits [N, 527]."""

    input_kind = "waveform"
    embedding_dim = WIDTH
    log_offset = torch.finfo(torch.float32).eps  # a floor, of kaldi's own front end
    least_samples = WINDOW + HOP * (PATCH - 1)  # one row of patches
    class_positions: Tensor

    def __init__(self, *, num_layers: int = NUM_LAYERS) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(1, PATCH_WIDTH, PATCH, stride=PATCH, bias=False)
        self.layer_norm = nn.LayerNorm(PATCH_WIDTH)
        self.post_extract_proj = nn.Linear(PATCH_WIDTH, WIDTH)
        self.encoder = Encoder(num_layers=num_layers)
        self.predictor = nn.Linear(WIDTH, NUM_AUDIOSET_CLASSES)
        # Column in csv order of each of the predictor's classes.
        self.register_buffer("class_positions", torch.arange(NUM_AUDIOSET_CLASSES))
        self.freeze()

    def describe(self, x_NS: Tensor) -> AudioOutput:
        """Embed and classify waveforms [N, S] in [-1, 1]; S as ``least_samples`` says."""
        fbank_NFM = torch.stack([_fbank(wave) for wave in x_NS])
        patches_NLD = self.patch_embedding(fbank_NFM[:, None]).flatten(2).transpose(1, 2)
        tokens_NLD = self.encoder(self.post_extract_proj(self.layer_norm(patches_NLD)))
        embedding_ND = tokens_NLD.mean(dim=1)
        # The mean of the tokens' logits: the predictor is linear.
        logits_NK = self.predictor(embedding_ND)
        return AudioOutput(
            embedding=embedding_ND, logits=spread_classes(logits_NK, self.class_positions)
        )

    @classmethod
    def own_names(cls, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of {"cfg", "model", "label_dict"}, the labels as csv columns.

        Raises WeightsError without ``label_dict``: the order of the classes would be a guess.
        """
        named = super().own_names(checkpoint)
        named = {name: value for name, value in named.items() if not REPEATED.match(name)}
        if "class_positions" in named:  # written by this package
            return named
        labels = checkpoint.get("label_dict")
        if not isinstance(labels, dict):
            raise WeightsError(
                "the BEATs checkpoint has no label_dict, which tells the order of its classes: "
                f"take the whole fine-tuned file ({BEATS_FILES[0]}), not its 'model' alone"
            )
        mids = [str(labels[place]) for place in sorted(labels)]
        return {**named, "class_positions": class_positions(mids)}


def _fbank(wave_S: Tensor) -> Tensor:
    """Kaldi's log filter bank [F, 128] of one waveform, normalised as BEATs was trained."""
    import torchaudio.compliance.kaldi as kaldi  # most trainings have another audio network

    fbank_FM: Tensor = kaldi.fbank(
        wave_S[None] * INT16_SCALE,
        num_mel_bins=NUM_MEL_BANDS,
        sample_frequency=SAMPLE_RATE_HZ,
        frame_length=25,
        frame_shift=10,
    )
    return (fbank_FM - FBANK_MEAN) / (2 * FBANK_STD)
