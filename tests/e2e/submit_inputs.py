"""What submit lines read and no line makes: videos, one more prepared folder, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import s3fs
import torch
from small_configs import TWO_WORKERS

from avs.datasets import DataConfig
from avs.datasets.synthetic import Layout, SyntheticConfig, write_synthetic
from avs.models import build_audio_network, build_model
from avs.models.official_names import official_name
from avs.prepare import PrepareConfig
from avs.prepare.run import run_prepare

__all__ = ["NUM_CLIPS", "make_inputs", "upload"]

NUM_CLIPS = 8  # of each data set
_SIZES: dict[str, Any] = {
    "num_train": 4,
    "num_val": 2,
    "num_test": 2,
    "size_px": 64,
    "silent_ratio": 0.0,
}


def make_inputs(folder: Path) -> Path:
    """What the lines read and none of them makes, under the names that they have for it."""
    s4 = SyntheticConfig(layout=Layout.S4, **_SIZES)
    write_synthetic(folder / "Single-source", s4)
    (folder / "videos").mkdir()
    for path in sorted((folder / "Single-source").rglob("*.mp4"))[:2]:
        (folder / "videos" / path.name).write_bytes(path.read_bytes())
    _prepare_ms3(folder)
    _write_weights(folder / "weights")
    return folder


def _prepare_ms3(folder: Path) -> None:
    raw = folder / "raw-ms3"
    write_synthetic(raw, SyntheticConfig(layout=Layout.MS3, **_SIZES))
    data = DataConfig(name="ms3", root=str(raw), image_size_px=64, num_frames=5)
    config = PrepareConfig(data=data, scale=TWO_WORKERS, out=str(folder / "ms3"), shard_clips=4)
    run_prepare(config, map, num_cores=1, say=lambda _: None)


def _write_weights(folder: Path) -> None:
    """A frozen audio network, and a segmenter as its authors save it; neither was ever trained."""
    folder.mkdir()
    torch.manual_seed(0)
    audio = build_audio_network("yamnet", weights="random")
    torch.save(audio.state_dict(), folder / "vggish-10086976.pth")
    model = build_model(
        "tpavi",
        backbone="test_resnet",
        num_classes=1,
        audio_dim=audio.embedding_dim,
        fusion_width=16,
    )
    state = model.state_dict().items()
    published = {f"module.{official_name(name, model=model)}": value for name, value in state}
    torch.save(published, folder / "S4_pvt.pth")


def upload(folder: Path, uri: str) -> None:
    """The inputs below ``uri``."""
    s3fs.S3FileSystem().put(f"{folder}/", uri, recursive=True)
