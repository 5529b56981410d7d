"""Export of a trained system to torch.export (.pt2) and ONNX.

One graph holds the audio network and the segmenter: uint8 frames and the sound's examples in,
logits out, so that a server needs neither this package nor its normalisation. Trade-off: the shapes
are fixed at export (clips, frames, picture size), as the Predictor forwards one fixed shape anyway;
padding flags are left out, because a window of real frames has none. Not for models that take a
gradient inside their forward (C3N's attention): neither format can hold that step.

From a checkpoint (see :class:`avs.inference.predictor.Predictor`)::

    predictor = Predictor.from_checkpoint("runs/s4")
    export_program(predictor.system, "model.pt2", num_frames=5, size_px=(224, 224))

Shapes: B clips, T frames, H x W pixels, K classes.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from avs.errors import AvsError, ConfigError
from avs.models.c3n import C3nSegmenter
from avs.models.system import AvsSystem
from avs.storage import write_bytes

__all__ = ["export_onnx", "export_program"]

INPUT_NAMES = ("frames", "sound")
OUTPUT_NAMES = ("logits",)
ONNX_PACKAGES = ("onnx", "onnxscript")
LOG_MEL_SHAPE = (1, 96, 64)
WAVEFORM_SHAPE = (16000,)


def export_program(
    system: AvsSystem,
    path: str,
    *,
    num_frames: int,
    size_px: tuple[int, int],
    num_clips: int = 1,
) -> torch.export.ExportedProgram:
    """Write a .pt2 file for ``torch.export.load`` and return the program.

    path: local or s3://, ending in .pt2. num_frames: T. size_px: (H, W). num_clips: B. The program
    takes frames uint8 [B, T, 3, H, W] and sound (log-mel [B, T, 1, 96, 64], or waveform
    [B, T, 16000], by the audio network) and gives logits [B, T, K, H, W] float32.

    Raises:
        ConfigError: the path has another suffix, or the model cannot be exported.
    """
    _check(system, path, suffix=".pt2")
    program = _program(system, num_frames=num_frames, size_px=size_px, num_clips=num_clips)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_bytes(path, buffer.getvalue())
    return program


def export_onnx(
    system: AvsSystem,
    path: str,
    *,
    num_frames: int,
    size_px: tuple[int, int],
    num_clips: int = 1,
) -> None:
    """Write an ONNX model in one file; inputs "frames" and "sound", output "logits".

    Arguments and shapes as in :func:`export_program`; the path ends in .onnx.

    Raises:
        AvsError: the packages onnx and onnxscript are not installed.
        ConfigError: the path has another suffix, or the model cannot be exported.
    """
    _check(system, path, suffix=".onnx")
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise AvsError(
            f"export to ONNX needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        )
    program = _program(system, num_frames=num_frames, size_px=size_px, num_clips=num_clips)
    exported = torch.onnx.export(
        program,
        dynamo=True,
        input_names=list(INPUT_NAMES),
        output_names=list(OUTPUT_NAMES),
        verbose=False,
    )
    assert exported is not None
    write_bytes(path, exported.model_proto.SerializeToString())


def _check(system: object, path: str, *, suffix: str) -> None:
    """Raise ConfigError for what would fail only after the tracing, or unclearly."""
    if not path.endswith(suffix):
        raise ConfigError(f"path={path!r} of the exported model: give it the suffix {suffix}")
    if not isinstance(system, AvsSystem):
        raise ConfigError(
            f"a {type(system).__name__} cannot be exported, only an AvsSystem: build_system makes "
            "one, AvsSystem(audio=..., segmenter=...) joins two networks"
        )


class _Logits(nn.Module):
    """Tensors in, one tensor out: the formats know no dataclasses."""

    def __init__(self, system: AvsSystem) -> None:
        super().__init__()
        self.system = system

    def forward(self, frames: Tensor, sound: Tensor) -> Tensor:
        output = self.system(frames, sound)
        logits_BTKHW: Tensor = output.logits
        return logits_BTKHW


def _program(
    system: AvsSystem, *, num_frames: int, size_px: tuple[int, int], num_clips: int
) -> torch.export.ExportedProgram:
    if isinstance(system.segmenter, C3nSegmenter):
        raise ConfigError(
            f"{type(system.segmenter).__name__} takes a gradient inside its forward, which "
            "torch.export and ONNX cannot hold: use its checkpoint with the Predictor, or export "
            "another model"
        )
    was_training = system.training
    example = _example(system, num_frames=num_frames, size_px=size_px, num_clips=num_clips)
    try:
        with torch.no_grad():
            return torch.export.export(_Logits(system).eval(), example)
    finally:
        system.train(was_training)


def _example(
    system: AvsSystem, *, num_frames: int, size_px: tuple[int, int], num_clips: int
) -> tuple[Any, ...]:
    batch = (num_clips, num_frames)
    sound = LOG_MEL_SHAPE if system.audio.input_kind == "log_mel" else WAVEFORM_SHAPE
    device = system.mean_311.device
    frames_BT3HW = torch.zeros(*batch, 3, *size_px, dtype=torch.uint8, device=device)
    return frames_BT3HW, torch.zeros(*batch, *sound, device=device)
