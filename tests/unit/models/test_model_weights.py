"""Weights from files and buckets: strict, explicit, with the way out in the message."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from avs.errors import WeightsError
from avs.models import load_weights
from avs.models.backbones import build_backbone


def load(spec: Any) -> dict[str, torch.Tensor]:
    return load_weights(str(spec), wanted="the wanted file", where="their page")


def test_torch_and_safetensors_files_and_uris(tmp_path: Path) -> None:
    state = {"a": torch.ones(2, dtype=torch.float16), "n": torch.zeros((), dtype=torch.int64)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for spec in (
        tmp_path / "a.pth",
        tmp_path / "a.safetensors",
        f"file://{tmp_path}/a.safetensors",
    ):
        loaded = load(spec)
        assert sorted(loaded) == ["a", "n"]
        assert loaded["a"].dtype == torch.float32
        assert loaded["n"].dtype == torch.int64


def test_a_missing_file_names_what_is_wanted_and_the_alternative(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none.pth.*the wanted file.*their page.*'random'"):
        load(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="the wanted file"):
        load("http://example.org/a.pth")


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_is_refused_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Payload(), protocol=2))
    (tmp_path / "text.safetensors").write_text("not tensors")
    for name in ("evil.pth", "plain.pkl", "text.safetensors"):
        with pytest.raises(WeightsError, match="not a tensor file"):
            load(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["mobilenetv2_050", "pvt_v2_b0", "resnet10t"])
def test_backbone_weights_come_from_a_timm_checkpoint(name: str, tmp_path: Path) -> None:
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = build_backbone(name, weights=str(tmp_path / "whole.pth")).eval()
    reference = timm.create_model(name, features_only=True).eval()
    reference.load_state_dict(backbone.net.state_dict())
    x = torch.randn(1, 3, 64, 64)
    expected = whole.eval().forward_intermediates(x, intermediates_only=True)[-1]
    torch.testing.assert_close(backbone(x)[-1], expected)


def test_backbone_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    state = timm.create_model("resnet10t").state_dict()
    torch.save(state | {"extra.weight": torch.ones(1)}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match=r"unknown: extra\.weight \(1\)"):
        build_backbone("resnet10t", weights=str(tmp_path / "more.pth"))
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(WeightsError, match=r"lack: layer1\.0\.conv1\.weight \(1\)"):
        build_backbone("resnet10t", weights=str(tmp_path / "less.pth"))
    with pytest.raises(WeightsError, match=r"less\.pth.*pvt_v2_b0 lack"):
        build_backbone("pvt_v2_b0", weights=str(tmp_path / "less.pth"))


def test_timm_weights_without_network_name_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"pvt_v2_b5\.in1k.*no connection.*'random'"):
        build_backbone("pvt_v2_b5", weights="timm")
