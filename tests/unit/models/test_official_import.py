"""Official checkpoints are imported whole or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from official_fill import params
from torch import Tensor, nn

from avs.errors import WeightsError
from avs.models import build_audio_network, build_model, import_official


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
    with pytest.raises(WeightsError, match=r"lacks: fusions\.2\.theta\.weight \(1\)"):
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


def test_audio_weights_are_read_from_a_file_or_refused_by_name(tmp_path: Path) -> None:
    network = build_audio_network("small", weights="random")
    torch.save(network.state_dict(), tmp_path / "small.pth")
    restored = build_audio_network("small", weights=str(tmp_path / "small.pth"))
    for name, value in network.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name])
    with pytest.raises(WeightsError, match=r"small\.pth.*VGGish.*lacks: features\.0\.weight"):
        build_audio_network("vggish", weights=str(tmp_path / "small.pth"))
