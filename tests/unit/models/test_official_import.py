"""Official checkpoints are imported whole or refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_fill import filled_state, inp, load_npz, params
from small_configs import model_config
from torch import Tensor, nn

from avs.datasets import DataConfig
from avs.errors import WeightsError
from avs.inference.predictor import Predictor
from avs.models import ModelInput, build_audio_network, build_model, import_official
from avs.models.official_names import name_here, official_name
from avs.models.weights import skip_random_init
from avs.training.config import InferenceConfig
from avs.training.official_checkpoint import ImportConfig, import_checkpoint


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_model("tpavi", backbone="resnet50", num_classes=1)


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {name: torch.zeros(()).expand(shape) for name, shape in params("avs_s4_resnet").items()}


def test_prefix_index_buffers_and_known_extras_are_accepted(
    model: nn.Module, state: dict[str, Tensor]
) -> None:
    state = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    state["resnet.fc.weight"] = torch.zeros(1000, 2048)
    import_official(model, {f"module.{name}": value for name, value in state.items()})
    assert all(float(p.detach().abs().max()) == 0.0 for p in model.parameters())


def test_leftover_missing_and_misshapen_names_are_told(
    model: nn.Module, state: dict[str, Tensor]
) -> None:
    with pytest.raises(WeightsError, match=r"cannot place: surprise\.weight \(1\)"):
        import_official(model, state | {"surprise.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"another shape for: output_conv\.4\.weight"):
        import_official(model, state | {"output_conv.4.weight": torch.zeros(71, 32, 1, 1)})
    del state["tpavi_b2.theta.weight"]
    with pytest.raises(WeightsError, match=r"lacks: tpavi_b2\.theta\.weight \(1\)"):
        import_official(model, state)


def test_a_checkpoint_of_another_backbone_is_refused(model: nn.Module) -> None:
    pvt = {name: torch.zeros(()).expand(shape) for name, shape in params("avs_s4_pvt").items()}
    with pytest.raises(WeightsError, match=r"cannot place: .*in all\).*lacks"):
        import_official(model, pvt)


def test_the_official_pvt_classifier_head_is_dropped() -> None:
    pvt = {name: torch.zeros(()).expand(shape) for name, shape in params("avs_s4_pvt").items()}
    pvt["encoder_backbone.head.weight"] = torch.zeros(1000, 512)
    import_official(build_model("tpavi", backbone="pvt_v2_b5", num_classes=1), pvt)


def test_models_without_official_names_say_so() -> None:
    with pytest.raises(WeightsError, match="Linear"):
        import_official(nn.Linear(1, 1), {})


@pytest.mark.parametrize("given", [None, [], nn.Linear(1, 1)])
def test_what_is_no_checkpoint_is_told(model: nn.Module, given: Any) -> None:
    with pytest.raises(WeightsError, match=rf"is a {type(given).__name__}: give a dict"):
        import_official(model, given)


@pytest.mark.parametrize(
    ("official", "other"),
    [
        ("resnet.layer3_1.0.conv1.weight", "resnet.layer3.0.conv1.weight"),
        ("tpavi_b1.theta.bias", "tpavi_1.theta.bias"),
        ("output_conv.4.bias", "decoder.head.4.bias"),
        ("output_conv.4.bias", "module.output_conv.4.bias"),
    ],
)
def test_two_names_of_one_tensor_are_refused_by_name(
    model: nn.Module, state: dict[str, Tensor], official: str, other: str
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state[other] = torch.ones(()).expand(state[official].shape)
    with pytest.raises(WeightsError, match=re.escape(f"twice: {official} beside {other} (1)")):
        import_official(model, state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_our_own_names_are_not_official_ones(model: nn.Module, state: dict[str, Tensor]) -> None:
    state["decoder.head.4.bias"] = state.pop("output_conv.4.bias")
    with pytest.raises(WeightsError, match=r"cannot place: decoder\.head\.4\.bias \(1\)"):
        import_official(model, state)
    with pytest.raises(WeightsError, match=r"one of this package, which needs no import"):
        import_official(model, model.state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(
    model: nn.Module, state: dict[str, Tensor], value: float
) -> None:
    state["output_conv.4.bias"] = torch.full((1,), value)
    with pytest.raises(WeightsError, match=r"not finite in: output_conv\.4\.bias \(1\)"):
        import_official(model, state)


@pytest.mark.parametrize(
    ("case", "name", "backbone"),
    [
        ("avs_s4_pvt", "tpavi", "pvt_v2_b5"),
        ("avs_s4_resnet", "tpavi", "resnet50"),
        ("c3n_pvt", "c3n", "pvt_v2_b5"),
        ("c3n_swin", "c3n", "swin_base_patch4_window7_224"),
    ],
)
def test_every_name_is_translated_back_to_the_official_one(
    case: str, name: str, backbone: str
) -> None:
    with skip_random_init():
        built = build_model(name, backbone=backbone, num_classes=1)
    unused = re.compile(r"resnet\.layer[34]_2\.|.*relative_position_index$")
    official = {n for n in params(case) if not unused.match(n)}
    here = {n for n in built.state_dict() if n != "similarity"}  # which was never published
    assert {name_here(n, model=built) for n in official} == here
    assert {official_name(n, model=built) for n in here} == official


def test_audio_weights_are_read_from_a_file_or_refused_by_name(tmp_path: Path) -> None:
    network = build_audio_network("small", weights="random")
    torch.save(network.state_dict(), tmp_path / "small.pth")
    restored = build_audio_network("small", weights=str(tmp_path / "small.pth"))
    for name, value in network.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name])
    with pytest.raises(WeightsError, match=r"small\.pth.*VGGish.*lacks: features\.0\.weight"):
        build_audio_network("vggish", weights=str(tmp_path / "small.pth"))


def test_a_checkpoint_that_does_not_fit_is_named_for_what_it_seems_to_be(model: nn.Module) -> None:
    cases = {
        "avs_s4_pvt": "TPAVI with PVT-v2 and 1 class, for sound features of 128",
        "avss_pvt": "TPAVI with PVT-v2 and 71 classes, for sound features of 128 without bias "
        "(AVSS)",
        "c3n_pvt": "C3N with PVT-v2 and 1 class, for sound features of 128",
        "c3n_swin": "C3N with Swin and 1 class, for sound features of 128",
    }
    for case, words in cases.items():
        shapes = {f"module.{n}": torch.zeros(()).expand(s) for n, s in params(case).items()}
        with pytest.raises(WeightsError, match=re.escape(f"checkpoint ({words}) does not fit")):
            import_official(model, shapes)
    own = {f"segmenter.{name}": value for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"one of this package, which needs no import"):
        import_official(model, own)


@torch.no_grad()
def test_an_imported_file_gives_the_official_logits_as_a_checkpoint(tmp_path: Path) -> None:
    audio = build_audio_network("small", weights="random")
    torch.save(audio.state_dict(), tmp_path / "audio.pth")
    published = {f"module.{n}": value for n, value in filled_state("avs_s4_resnet").items()}
    torch.save(published, tmp_path / "S4_resnet.pth")
    data = DataConfig(name="s4", root="", image_size_px=224, num_frames=5)
    config = ImportConfig(
        official=str(tmp_path / "S4_resnet.pth"),
        data=data,
        model=model_config(
            backbone="resnet50.tv_in1k",
            backbone_weights="timm",  # never asked for
            audio_weights=str(tmp_path / "audio.pth"),
            options={"drop_path": 0.0},
        ),
        inference=InferenceConfig(windows_per_forward=1, num_threads=1),
        out=str(tmp_path / "out"),
    )
    import_checkpoint(config, say=lambda _: None)
    segmenter = Predictor.from_checkpoint(config.out).system.segmenter
    x = ModelInput(
        frames=inp("frames", (5, 3, 224, 224))[None],
        audio_embedding=inp("audio", (5, 128)).abs()[None],
    )
    logits = segmenter(x).logits[0, :, :, ::4, ::4]
    golden = load_npz("avs_s4_resnet.npz")["logits"]
    np.testing.assert_allclose(logits.numpy(), golden, atol=1e-4, rtol=0)
