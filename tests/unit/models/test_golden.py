"""The official code's numbers for weights and inputs made by formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from official_fill import filled_state, filled_tpavi, inp, load_json, load_npz
from torch import Tensor

from avs.losses import LossConfig, LossKind, compute_loss
from avs.models import ModelInput, ModelOutput, build_audio_network, import_official
from avs.models.official_names import name_here
from avs.models.tpavi import TpaviSegmenter


def clip(num_frames: int, *, flagged: int | None = None) -> ModelInput:
    return ModelInput(
        frames=inp("frames", (num_frames, 3, 224, 224))[None],
        audio_embedding=inp("audio", (num_frames, 128)).abs()[None],
        frame_valid=None if flagged is None else (torch.arange(num_frames) < flagged)[None],
    )


def assert_matches(output: ModelOutput, name: str, logits: Tensor, *, atol: float) -> None:
    golden = load_npz(name)
    np.testing.assert_allclose(logits.numpy(), golden["logits"], atol=atol, rtol=0)
    assert float(output.logits.mean()) == pytest.approx(float(golden["logits_mean"]), abs=1e-5)
    mean_abs = float(output.logits.abs().mean())
    assert mean_abs == pytest.approx(float(golden["logits_abs_mean"]), abs=1e-5)
    assert output.fused_maps is not None
    assert output.projected_audio is not None
    for stage in range(4):
        fused_mean = output.fused_maps[stage][0].mean(dim=(2, 3)).numpy()
        np.testing.assert_allclose(fused_mean, golden[f"stage{stage + 1}_mean"], atol=1e-4, rtol=0)
        audio = output.projected_audio[stage]
        assert audio is not None
        expected = golden[f"audio{stage + 1}"]
        np.testing.assert_allclose(audio.reshape(expected.shape), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_s4_pvt_equals_the_official_model(filled_pvt: TpaviSegmenter) -> None:
    output: ModelOutput = filled_pvt(clip(5))
    assert_matches(output, "avs_s4_pvt.npz", output.logits[0, :, :, ::4, ::4], atol=1e-4)


def test_pvt_model_has_the_published_number_of_parameters(filled_pvt: TpaviSegmenter) -> None:
    num_parameters = sum(p.numel() for p in filled_pvt.parameters())
    assert round(num_parameters / 1e6, 2) == 101.32


@torch.no_grad()
def test_s4_resnet_equals_the_official_model() -> None:
    output: ModelOutput = filled_tpavi("avs_s4_resnet")(clip(5))
    assert_matches(output, "avs_s4_resnet.npz", output.logits[0, :, :, ::4, ::4], atol=1e-4)


@pytest.mark.full
@torch.no_grad()
def test_avss_pvt_and_its_loss_equal_the_official_code() -> None:
    output: ModelOutput = filled_tpavi("avss_pvt")(clip(10, flagged=7))
    assert_matches(output, "avss_pvt.npz", output.logits[0, :, ::15, ::16, ::16], atol=5e-4)
    assert float(output.logits[0, 7:].abs().max()) == 0.0

    coarse = np.random.Generator(np.random.PCG64(11)).choice([0, 0, 0, 3, 17, 40, 70], (10, 7, 7))
    labels = torch.from_numpy(np.kron(coarse, np.ones((32, 32), np.int64)))[None].to(torch.uint8)
    config = LossConfig(kind=LossKind.SEMANTIC, mapping_weight=0.5)
    losses = compute_loss(output, labels, (torch.arange(10) < 6)[None], config=config)
    golden = load_json("avss_loss.json")
    assert float(losses["loss"].detach()) == pytest.approx(golden["total"], rel=1e-4)
    assert float(losses["cross_entropy"]) == pytest.approx(golden["cross_entropy"], rel=1e-4)
    assert float(losses["mapping"]) == pytest.approx(golden["kl"], rel=1e-4)


@pytest.mark.full
def test_ms3_losses_and_gradients_equal_the_official_code(filled_pvt: TpaviSegmenter) -> None:
    golden = load_json("avs_ms3_pvt_grad.json")
    output = filled_pvt(clip(5))
    coarse = inp("grad.mask", (5, 1, 28, 28)) > 0.5
    masks = coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)[:, 0][None]
    config = LossConfig(kind=LossKind.BINARY, mapping_weight=0.5)
    losses = compute_loss(output, masks.byte(), torch.ones(1, 5, dtype=torch.bool), config=config)
    parts = golden["ms3_parts_norm_fea_false"]
    assert float(losses["loss"].detach()) == pytest.approx(
        golden["ms3_loss_norm_fea_false"], rel=1e-4
    )
    assert float(losses["bce"]) == pytest.approx(parts["iou_loss"], rel=1e-4)
    assert float(losses["mapping"]) == pytest.approx(parts["sa_loss"], rel=1e-4)

    named = dict(filled_pvt.named_parameters())
    ours = {
        official: named[name_here(official, model=filled_pvt)]
        for official in golden["bce_grad_norm"]
    }
    only_bce = LossConfig(kind=LossKind.BINARY)
    bce = compute_loss(output, masks.byte(), torch.ones(1, 5, dtype=torch.bool), config=only_bce)
    gradients = torch.autograd.grad(bce["loss"], list(ours.values()))
    for official, gradient in zip(ours, gradients, strict=True):
        expected = golden["bce_grad_norm"][official]
        assert float(gradient.norm()) == pytest.approx(expected, rel=1e-3), official


def test_vggish_equals_the_official_network_stays_in_eval_mode_and_frozen() -> None:
    network = build_audio_network("vggish", weights="random")
    import_official(network, {f"module.{k}": v for k, v in filled_state("vggish").items()})
    golden = load_npz("vggish_embedding.npz")
    log_mel = torch.from_numpy(golden["logmel"]).requires_grad_()
    embedding = network.train()(log_mel).embedding
    np.testing.assert_allclose(embedding.numpy(), golden["embedding"], atol=1e-4, rtol=0)
    assert not any(module.training for module in network.modules())
    assert not embedding.requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
