"""The audio network and the segmenter together: pixels in, logits out, and it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_configs import model_config

from avs.errors import ConfigError
from avs.losses import LossConfig, LossKind, compute_loss
from avs.models import AUDIO_NETWORKS, AvsSystem, build_audio_network, build_system


def tiny_system(**options: Any) -> AvsSystem:
    torch.manual_seed(0)
    return build_system(model_config(backbone="resnet10t", options={"fusion_width": 16} | options))


def batch(*, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    frames = torch.randint(0, 256, (2, 3, 3, size, size), generator=generator, dtype=torch.uint8)
    return frames, torch.randn(2, 3, 1, 96, 64, generator=generator) - 2.0


@torch.no_grad()
def test_uint8_frames_are_normalised_as_imagenet() -> None:
    system = tiny_system().eval()
    frames, log_mel = batch()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    normalised = (frames.float() / 255 - mean) / std
    torch.testing.assert_close(
        system(frames, log_mel).logits, system(normalised, log_mel).logits, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_the_sound_of_padded_frames_is_not_heard() -> None:
    system = tiny_system().eval()
    for block in system.segmenter.fusions.values():
        torch.nn.init.ones_(block.bn.weight)
    frames, log_mel = batch()
    louder = log_mel.clone()
    louder[:, 2] += 5.0
    valid = torch.tensor([[True, True, False]] * 2)
    assert torch.equal(system(frames, log_mel, valid).logits, system(frames, louder, valid).logits)
    assert not torch.equal(system(frames, log_mel).logits, system(frames, louder).logits)


def test_a_state_dict_restores_the_system() -> None:
    system, other = tiny_system(), tiny_system()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    other.load_state_dict(system.state_dict())
    frames, log_mel = batch()
    with torch.no_grad():
        assert torch.equal(
            system.eval()(frames, log_mel).logits, other.eval()(frames, log_mel).logits
        )
    assert any(name.startswith("audio.") for name in system.state_dict())


def test_audio_dim_follows_the_audio_network() -> None:
    assert tiny_system().segmenter.options.audio_dim == 128
    with pytest.raises(ConfigError, match="audio_dim=64: small gives 128"):
        tiny_system(audio_dim=64)


def test_one_batch_is_learnt() -> None:
    system = tiny_system(fusion_width=32)
    frames, log_mel = batch()
    masks = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    masks[0, :, 8:40, 8:40] = 1
    masks[1, :, 30:60, 20:60] = 1
    valid = torch.ones(2, 3, dtype=torch.bool)
    config = LossConfig(kind=LossKind.BINARY, mapping_weight=0.01, dice_weight=1.0)
    optimiser = torch.optim.Adam(system.parameters(), lr=1e-3)
    history = []
    for _ in range(15):
        losses = compute_loss(system(frames, log_mel), masks, valid, config=config)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append(float(losses["loss"].detach()))
    assert history[-1] < 0.5 * history[0], history


@pytest.mark.parametrize("name", sorted(AUDIO_NETWORKS))
def test_audio_networks_keep_their_contract(name: str) -> None:
    network = build_audio_network(name, weights="random")
    assert network.input_kind in ("log_mel", "waveform")
    shape = (2, 1, 96, 64) if network.input_kind == "log_mel" else (2, 16000)
    output = network(torch.randn(shape))
    assert output.embedding.shape == (2, network.embedding_dim)
    assert output.logits is None or output.logits.shape == (2, 527)
    assert output.embedding.requires_grad == network.trainable
    assert network.log_offset > 0


def test_the_small_audio_network_is_small_and_tells_bands_apart() -> None:
    network = build_audio_network("small", weights="random")
    assert sum(p.numel() for p in network.parameters()) < 600_000
    network.requires_grad_(False)
    log_mel = torch.full((8, 1, 96, 64), -4.6)
    for example in range(8):
        log_mel[example, ..., 8 * example] = 1.0
    embedding = network(log_mel).embedding
    assert float(torch.pdist(embedding).min()) > 0.1 * float(embedding.norm(dim=1).mean())
