"""What is exported computes what the model computes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import awake, case_of, sound_of
from small_configs import model_config

from avs.errors import AvsError, ConfigError
from avs.models import MODELS, AvsSystem, build_system, export
from avs.models.export import export_onnx, export_program

EXPORTED = [name for name in sorted(MODELS) if case_of(name).exports]
SWIN = "swin_tiny_patch4_window7_224"
SHAPE = {"num_frames": 3, "size_px": (64, 96)}


def trained_like(name: str = "tpavi", **changes: object) -> AvsSystem:
    """A small system whose sound matters, as after training."""
    torch.manual_seed(0)
    given = {"audio_network": sound_of(name), "options": case_of(name).options} | changes
    return awake(build_system(model_config(name=name, **given))).eval()


def heard(name: str, **changes: object) -> AvsSystem:
    """The same with masks that are not empty: of AVSC's queries some see an object."""
    system = trained_like(name, **changes)
    for key, parameter in system.named_parameters():
        if key.endswith("heads.classes.bias"):
            torch.nn.init.constant_(parameter[-1:], -5.0)  # "no object"
    return system


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (1, 3, 3, 64, 96), generator=generator, dtype=torch.uint8)
    return frames, torch.randn(1, 3, 1, 96, 64, generator=generator) - 2.0


# torch.export.load reads weights from an immutable buffer that it copies afterwards (torch 2.11)
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in EXPORTED),
        ("tpavi", {"backbone": "pvt_v2_b0"}),
        *(pytest.param(name, {"num_classes": 4}, marks=pytest.mark.full) for name in EXPORTED),
        pytest.param("avsc", {"backbone": SWIN}, marks=pytest.mark.full),
    ],
    ids=str,
)
def test_an_exported_program_equals_the_model(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    system = heard(name, **changes)
    path = tmp_path / "model.pt2"
    export_program(system, str(path), **SHAPE)
    loaded = torch.export.load(path).module()
    for seed in (1, 2):  # values that the example at export did not have
        frames, sound = batch(seed)
        with torch.no_grad():
            expected = system(frames, sound).logits
            torch.testing.assert_close(loaded(frames, sound), expected, atol=1e-5, rtol=1e-5)
    louder = loaded(frames, sound + 3.0)
    assert not torch.allclose(louder, loaded(frames, sound))


def test_a_frozen_audio_network_and_classes_are_exported_too(tmp_path: Path) -> None:
    system = trained_like(audio_network="vggish", num_classes=4)
    program = export_program(system, str(tmp_path / "model.pt2"), **SHAPE)
    frames, sound = batch(3)
    with torch.no_grad():
        expected = system(frames, sound).logits
        torch.testing.assert_close(program.module()(frames, sound), expected, atol=1e-5, rtol=1e-5)


def test_export_leaves_the_model_in_its_mode(tmp_path: Path) -> None:
    system = trained_like().train()
    export_program(system, str(tmp_path / "model.pt2"), **SHAPE)
    assert system.training
    assert system.segmenter.training


@pytest.mark.parametrize("name", sorted(set(MODELS) - set(EXPORTED)))
def test_a_model_that_cannot_be_exported_says_why(name: str, tmp_path: Path) -> None:
    system = trained_like(name)
    with pytest.raises(ConfigError, match="gradient inside its forward"):
        export_program(system, str(tmp_path / "model.pt2"), **SHAPE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("write", "suffix"), [(export_program, "pt2"), (export_onnx, "onnx")])
def test_what_cannot_be_written_is_told_before_the_model_is_traced(
    write: Any, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: Any, **__: Any) -> None:
        raise AssertionError("traced")

    monkeypatch.setattr(torch.export, "export", too_late)
    with pytest.raises(ConfigError, match=rf"model\.pth' .*give it the suffix \.{suffix}"):
        write(trained_like(), str(tmp_path / "model.pth"), **SHAPE)
    with pytest.raises(ConfigError, match="TpaviSegmenter cannot be exported, only an AvsSystem"):
        write(trained_like().segmenter, str(tmp_path / f"model.{suffix}"), **SHAPE)


def test_missing_onnx_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        export, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name)
    )
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("onnxscript",))
    with pytest.raises(AvsError, match="pip install onnxscript"):
        export_onnx(trained_like(), str(tmp_path / "model.onnx"), **SHAPE)


@pytest.mark.full
# torch 2.11: its exporter still uses what it has deprecated
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:onnxscript")
@pytest.mark.parametrize(
    ("name", "backbone"), [*((name, "test_resnet") for name in EXPORTED), ("tpavi", "pvt_v2_b0")]
)
def test_an_onnx_model_equals_the_model(name: str, backbone: str, tmp_path: Path) -> None:
    import onnxruntime

    system = heard(name, backbone=backbone)
    path = tmp_path / "model.onnx"
    export_onnx(system, str(path), **SHAPE)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    frames, sound = batch(4)
    with torch.no_grad():
        expected = system(frames, sound).logits
    (logits,) = session.run(["logits"], {"frames": frames.numpy(), "sound": sound.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)
