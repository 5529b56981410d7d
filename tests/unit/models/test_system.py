"""The audio network and the segmenter together: pixels in, logits out, and it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_cases import small_model
from small_configs import model_config

from avs.errors import ConfigError
from avs.losses import LossConfig, LossKind, compute_loss
from avs.media.audio import from_int16, log_mel, to_int16
from avs.models import (
    AUDIO_NETWORKS,
    MODELS,
    AudioNetwork,
    AudioOutput,
    AvsSystem,
    ModelInput,
    build_audio_network,
    build_system,
)
from avs.models.system import frame_waveforms, with_log_offset
from avs.windows import cut_sound, plan_windows


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


def test_a_clip_is_cut_into_one_second_a_frame_as_windows_cut_a_video() -> None:
    rng = np.random.default_rng(0)
    stored = to_int16(rng.uniform(-1, 1, 16000 * 5 + 240).astype(np.float32))
    samples = from_int16(stored)
    cut = frame_waveforms(torch.from_numpy(stored)[None], num_frames=3)
    assert cut.shape == (1, 3, 16000)
    assert torch.equal(cut, frame_waveforms(torch.from_numpy(samples)[None], num_frames=3))
    assert np.array_equal(cut[0, 2].numpy(), samples[32000:48000])
    (window,) = plan_windows(7, window_frames=7)
    part = cut_sound(samples, window, sample_rate_hz=16000, window_frames=7)
    longer = frame_waveforms(torch.from_numpy(stored)[None], num_frames=7)
    assert np.array_equal(longer.flatten().numpy(), part)
    assert not longer[0, 6].any()


@pytest.mark.parametrize("log_offset", [0.001, 0.01, 0.1])
def test_the_stored_log_mel_is_turned_into_a_networks_own(log_offset: float) -> None:
    t = np.arange(5 * 16000) / 16000
    loudness = np.clip(t - 1, 0, 1) ** 4  # a second of digital silence, then ever louder
    wave = (loudness * np.sin(2 * np.pi * (300 + 900 * t) * t)).astype(np.float32)
    stored, wanted = (torch.from_numpy(log_mel(wave, log_offset=o)) for o in (0.01, log_offset))
    assert float(stored.min()) == pytest.approx(np.log(0.01), abs=1e-6)
    assert float(stored.max()) > 1
    turned = with_log_offset(stored, log_offset)
    torch.testing.assert_close(turned, wanted, atol=1e-5, rtol=0)


class Notes(AudioNetwork):
    """Notes what it is given; the embedding is its mean."""

    embedding_dim = 4
    trainable = False

    def __init__(self, input_kind: str, log_offset: float) -> None:
        super().__init__()
        self.input_kind, self.log_offset = input_kind, log_offset

    def forward(self, x: torch.Tensor) -> AudioOutput:
        self.heard = x
        mean = x.flatten(1).mean(dim=1, keepdim=True)
        return AudioOutput(embedding=mean.expand(-1, 4), logits=mean.expand(-1, 527))


class Passes(torch.nn.Module):
    """Passes on what a segmenter is given."""

    def forward(self, given: Any) -> Any:
        return given


@torch.no_grad()
def test_a_network_is_given_the_form_of_sound_that_it_names() -> None:
    frames, stored = batch()
    waves = torch.linspace(-1, 1, 2 * 48000).view(2, 48000)
    by_wave = AvsSystem(audio=Notes("waveform", 0.5), segmenter=Passes())
    given: Any = by_wave(frames, waves)
    assert torch.equal(by_wave.audio.heard, waves.view(6, 16000))
    assert torch.equal(given.audio_embedding[1, 2], waves[1, 32000:].mean().expand(4))
    assert given.audio_logits.shape == (2, 3, 527)
    by_mel = AvsSystem(audio=Notes("log_mel", 0.001), segmenter=Passes())
    by_mel(frames, stored)
    assert torch.equal(by_mel.audio.heard, with_log_offset(stored.flatten(0, 1), 0.001))
    as_stored = AvsSystem(audio=Notes("log_mel", 0.01), segmenter=Passes())
    as_stored(frames, stored)
    assert torch.equal(as_stored.audio.heard, stored.flatten(0, 1))


@torch.no_grad()
def test_each_embedding_is_normalised_when_asked() -> None:
    frames, stored = batch()
    raw: Any = AvsSystem(audio=Notes("log_mel", 0.01), segmenter=Passes())(frames, stored)
    normed = AvsSystem(audio=Notes("log_mel", 0.01), segmenter=Passes(), audio_norm=True)
    valid = torch.tensor([[True, True, False]] * 2)
    given: Any = normed(frames, stored, valid)
    wanted = torch.nn.functional.layer_norm(raw.audio_embedding, (4,))
    assert torch.equal(given.audio_embedding[:, :2], wanted[:, :2])
    assert not given.audio_embedding[:, 2].any()
    config = model_config(backbone="resnet10t", audio_norm=True, options={"fusion_width": 16})
    assert build_system(config).audio_norm


@torch.no_grad()
def test_training_leaves_out_a_share_of_each_embedding_when_asked() -> None:
    frames, stored = batch()
    raw: Any = AvsSystem(audio=Notes("log_mel", 0.01), segmenter=Passes())(frames, stored)
    system = AvsSystem(audio=Notes("log_mel", 0.01), segmenter=Passes(), audio_dropout=0.5)
    assert torch.equal(system.eval()(frames, stored).audio_embedding, raw.audio_embedding)
    torch.manual_seed(0)
    given = system.train()(frames, stored).audio_embedding
    left_out = given == 0.0
    assert 0.2 < left_out.float().mean() < 0.8
    assert torch.equal(given[~left_out], 2.0 * raw.audio_embedding[~left_out])
    config = model_config(backbone="resnet10t", audio_dropout=0.3, options={"fusion_width": 16})
    assert build_system(config).audio_dropout.p == 0.3
    with pytest.raises(ConfigError, match=r"model\.audio_dropout=1\.0: between 0 and 1"):
        model_config(audio_dropout=1.0)


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


def test_a_network_changed_later_to_one_without_classes_is_refused_too() -> None:
    config = model_config(name="c3n", audio_network="yamnet")
    config.audio_network = "vggish"
    with pytest.raises(ConfigError, match=r"c3n needs .*vggish does not give: .*yamnet"):
        build_system(config)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_that_cannot_do_without_class_scores_is_refused_before_it_is_built(
    name: str,
) -> None:
    model = small_model(name).eval()
    x = ModelInput(frames=torch.zeros(1, 1, 3, 64, 64), audio_embedding=torch.zeros(1, 1, 128))
    try:
        config = model_config(name=name, audio_network="small")
    except ConfigError:
        with pytest.raises(ConfigError, match="class scores"):
            model(x)
    else:
        assert config.audio_network == "small"
        model(x)


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
    assert output.embedding.isfinite().all()
    assert (output.logits is not None) == AUDIO_NETWORKS[name].gives_classes
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
