"""Audio networks as published: names and shapes of their checkpoints, and literal forwards.

The forwards are written from the authors' code for one example after another, without the fusions
and shortcuts of the platform, on tensors named as in the files.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
import torchaudio
from torch import Tensor

State = dict[str, Tensor]
BN = ("weight", "bias", "running_mean", "running_var")


def fill(shapes: dict[str, tuple[int, ...]], seed: int) -> State:
    """Weights that keep activations in range; batch norm statistics are positive."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        x = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            x = x.abs() + 0.5
        elif len(shape) > 1:
            x = x / math.sqrt(math.prod(shape[1:]))
        elif name.endswith("weight"):
            x = 1 + 0.1 * x
        else:
            x = 0.1 * x
        state[name] = x
    return state


def panns_shapes(
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048),
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"bn0.{part}": (64,) for part in BN}
    channels = 1
    for place, width in enumerate(widths, start=1):
        for half, inputs in ((1, channels), (2, width)):
            shapes[f"conv_block{place}.conv{half}.weight"] = (width, inputs, 3, 3)
            shapes |= {f"conv_block{place}.bn{half}.{part}": (width,) for part in BN}
        channels = width
    return shapes | {
        "fc1.weight": (2048, widths[-1]),
        "fc1.bias": (2048,),
        "fc_audioset.weight": (527, 2048),
        "fc_audioset.bias": (527,),
        "spectrogram_extractor.stft.conv_real.weight": (257, 1, 512),
        "spectrogram_extractor.stft.conv_imag.weight": (257, 1, 512),
        "logmel_extractor.melW": (257, 64),
    }


def panns_log_mel(wave: Tensor) -> Tensor:
    """Log-mel [F, 64] of the published front end by torch's own STFT."""
    window = torch.hann_window(512, periodic=True)
    spectrum = torch.stft(wave, 512, 160, window=window, center=True, return_complex=True)
    mel = torchaudio.functional.melscale_fbanks(
        257, 50.0, 8000.0, 64, 16000, norm="slaney", mel_scale="slaney"
    )
    return 10 * torch.log10((spectrum.abs().square().T @ mel).clamp(min=1e-10))


def panns_forward(state: State, wave: Tensor) -> tuple[Tensor, Tensor]:
    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias, mean, var = (state[f"{name}.{part}"][:, None, None] for part in BN)
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    x = norm(panns_log_mel(wave).T[:, :, None], "bn0").permute(2, 1, 0)  # [1, F, 64]
    for place in range(1, 7):
        for half in (1, 2):
            weight = state[f"conv_block{place}.conv{half}.weight"]
            x = norm(F.conv2d(x[None], weight, padding=1)[0], f"conv_block{place}.bn{half}").relu()
        x = F.avg_pool2d(x, 2) if place < 6 else x
    x = x.mean(dim=2)
    x = x.max(dim=1).values + x.mean(dim=1)
    embedding = (state["fc1.weight"] @ x + state["fc1.bias"]).relu()
    return embedding, (
        state["fc_audioset.weight"] @ embedding + state["fc_audioset.bias"]
    ).sigmoid()


def beats_shapes(num_layers: int = 12) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (512, 1, 16, 16),
        "layer_norm.weight": (512,),
        "layer_norm.bias": (512,),
        "post_extract_proj.weight": (768, 512),
        "post_extract_proj.bias": (768,),
        "encoder.pos_conv.0.bias": (768,),
        "encoder.pos_conv.0.weight_g": (1, 1, 128),
        "encoder.pos_conv.0.weight_v": (768, 48, 128),
        "encoder.layer_norm.weight": (768,),
        "encoder.layer_norm.bias": (768,),
        "predictor.weight": (527, 768),
        "predictor.bias": (527,),
    }
    for place in range(num_layers):
        layer = f"encoder.layers.{place}"
        shapes[f"{layer}.self_attn.grep_a"] = (1, 12, 1, 1)
        shapes[f"{layer}.self_attn.relative_attention_bias.weight"] = (320, 12)
        linears = {f"self_attn.{p}_proj": (768, 768) for p in "kvq"} | {
            "self_attn.out_proj": (768, 768),
            "self_attn.grep_linear": (8, 64),
            "fc1": (3072, 768),
            "fc2": (768, 3072),
        }
        for name, shape in linears.items():
            shapes[f"{layer}.{name}.weight"] = shape
            shapes[f"{layer}.{name}.bias"] = shape[:1]
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{layer}.{name}.{part}": (768,) for part in ("weight", "bias")}
    return shapes


def beats_state(seed: int, num_layers: int) -> State:
    """Filled as the authors' module holds it: one table of relative biases for all layers."""
    state = fill(beats_shapes(num_layers), seed)
    table = "encoder.layers.{}.self_attn.relative_attention_bias.weight"
    large = 12 * state[table.format(0)]  # to matter
    for place in range(num_layers):
        state[table.format(place)] = large
    return state


def beats_bucket(distance: int) -> int:
    """One key's bucket: 320 in all, half for keys after the query, 80 of each exact."""
    far = min(80 + int(math.log(max(abs(distance), 1) / 80) / math.log(10) * 80), 159)
    return (160 if distance > 0 else 0) + (abs(distance) if abs(distance) < 80 else far)


def beats_forward(state: State, wave: Tensor, *, num_layers: int) -> tuple[Tensor, Tensor]:
    """Mean token [768] and mean logits [527] in the predictor's own order."""
    fbank = torchaudio.compliance.kaldi.fbank(
        wave[None] * 2**15,
        num_mel_bins=128,
        sample_frequency=16000,
        frame_length=25,
        frame_shift=10,
    )
    x = ((fbank - 15.41663) / (2 * 6.55582))[None, None]
    x = F.conv2d(x, state["patch_embedding.weight"], stride=16).flatten(2)[0].T

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    x = linear(norm(x, "layer_norm"), "post_extract_proj")
    v, g = (state[f"encoder.pos_conv.0.weight_{part}"] for part in "vg")
    taps = torch.stack([g[0, 0, k] * v[:, :, k] / v[:, :, k].norm() for k in range(128)], dim=2)
    moved = F.conv1d(x.T[None], taps, state["encoder.pos_conv.0.bias"], padding=64, groups=16)
    x = norm(x + F.gelu(moved[0, :, : len(x)]).T, "encoder.layer_norm")
    places = range(len(x))
    buckets = torch.tensor([[beats_bucket(key - query) for key in places] for query in places])
    bias = state["encoder.layers.0.self_attn.relative_attention_bias.weight"][buckets]
    alpha = (2 * num_layers) ** 0.25
    for place in range(num_layers):
        x = _beats_layer(state, f"encoder.layers.{place}", x, bias, alpha, linear, norm)
    return x.mean(dim=0), linear(x, "predictor").mean(dim=0)


def _beats_layer(
    state: State,
    layer: str,
    x: Tensor,
    bias: Tensor,
    alpha: float,
    linear: Callable[[Tensor, str], Tensor],
    norm: Callable[[Tensor, str], Tensor],
) -> Tensor:
    query, key, value = (linear(x, f"{layer}.self_attn.{part}_proj") for part in "qkv")
    heads = []
    for head in range(12):
        part = slice(64 * head, 64 * head + 64)
        gates = linear(query[:, part], f"{layer}.self_attn.grep_linear").view(-1, 2, 4).sum(-1)
        a, b = gates.sigmoid().unbind(1)
        gate = a * (b * state[f"{layer}.self_attn.grep_a"][0, head] - 1) + 2
        scores = query[:, part] * 64**-0.5 / 32 @ key[:, part].T
        scores = (scores - scores.max(dim=-1, keepdim=True).values) * 32
        weights = (scores + gate[0][:, None] * bias[:, :, head]).softmax(dim=-1)
        heads.append(weights @ value[:, part])
    attended = linear(torch.cat(heads, dim=1), f"{layer}.self_attn.out_proj")
    x = norm(x * alpha + attended, f"{layer}.self_attn_layer_norm")
    hidden = linear(F.gelu(linear(x, f"{layer}.fc1")), f"{layer}.fc2")
    return norm(x * alpha + hidden, f"{layer}.final_layer_norm")


def head_shapes() -> dict[str, tuple[int, ...]]:
    """C3N's classifier on the quantised VGGish embedding (md_50000_iters.pth)."""
    shapes: dict[str, tuple[int, ...]] = {f"emb.bn0.{part}": (128,) for part in BN}
    for place, inputs in ((1, 128), (2, 1024), (3, 1024)):
        shapes[f"emb.conv{place}.weight"] = (1024, inputs, 1, 1)
        shapes |= {f"emb.bn{place}.{part}": (1024,) for part in BN}
    for name in ("att", "cla"):
        shapes[f"attention.{name}.weight"] = (1024, 1024, 1, 1)
        shapes[f"attention.{name}.bias"] = (1024,)
    shapes |= {f"bn_attention.{part}": (1024,) for part in BN}
    return shapes | {"fc_final.weight": (527, 1024), "fc_final.bias": (527,)}


def head_forward(state: State, pca: State, embedding: Tensor) -> Tensor:
    """Logits [N, 527] of plain embeddings [N, 128], with attention over clips of one second."""

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias, mean, var = (state[f"{name}.{part}"] for part in BN)
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    whitened = (pca["pca_eigen_vectors"] @ (embedding.T - pca["pca_means"].reshape(-1, 1))).T
    x = (torch.round((whitened.clamp(-2, 2) + 2) * 255 / 4) - 128) / 128
    x = norm(x, "emb.bn0")
    for place in (1, 2, 3):
        x = norm(x @ state[f"emb.conv{place}.weight"][:, :, 0, 0].T, f"emb.bn{place}").relu()
    att, cla = (
        x @ state[f"attention.{name}.weight"][:, :, 0, 0].T + state[f"attention.{name}.bias"]
        for name in ("att", "cla")
    )
    att = att.sigmoid().clamp(1e-7, 1 - 1e-7)[:, None]  # [N, one second, 1024]
    x = (att / att.sum(dim=1, keepdim=True) * cla[:, None]).sum(dim=1)
    return norm(x, "bn_attention").relu() @ state["fc_final.weight"].T + state["fc_final.bias"]
