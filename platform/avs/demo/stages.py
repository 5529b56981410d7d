"""The whole platform once, on synthetic videos: what ``make demo`` runs.

All stages share one Ray instance and call the same library functions as the jobs; only their
configurations are put together here.
"""

from __future__ import annotations

import json
import socket
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from avs.datasets.synthetic import SyntheticConfig, clip_plan, write_clip
from avs.demo.config import DemoConfig
from avs.inference.bucket.run import segment_bucket
from avs.inference.config import EvaluateConfig, SegmentConfig
from avs.inference.evaluation import evaluate, table_lines
from avs.inference.outputs import OutputKind
from avs.prepare import PrepareConfig
from avs.prepare.pipeline import prepare
from avs.serving.config import ServeConfig
from avs.serving.service import start, stop
from avs.storage import write_json
from avs.training.checkpoint import copy_checkpoint, resolve_checkpoint
from avs.training.config import MixtureConfig, PreparedConfig, TrainConfig
from avs.training.distributed import train_distributed
from avs.tuning.config import TuneConfig
from avs.tuning.sweep import tune_sweep

__all__ = ["run_demo"]


def run_demo(config: DemoConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run all stages below ``config.out``; returns (and writes) summary.json."""
    return _Demo(config, say).run()


class _Demo:
    def __init__(self, config: DemoConfig, say: Callable[[str], None]) -> None:
        self._config, self._say = config, say
        self._out = Path(config.out).absolute()
        self._seconds: dict[str, float] = {}
        self._prepared = PreparedConfig(prepared=str(self._out / "prepared"))
        self._checkpoint = str(self._out / "checkpoint")

    def run(self) -> dict[str, Any]:
        with self._stage("prepare"):
            self._prepare()
        with self._stage("train"):
            self._train()
        with self._stage("evaluate"):
            metrics = self._evaluate()
        with self._stage("tune"):
            best = self._tune()
        with self._stage("segment"):
            video = self._segment()
        with self._stage("serve"):
            same = self._serve(video)
        summary = {
            **{k: metrics[k] for k in ("j_true", "j_silent", "j_swapped", "f_true")},
            "num_clips": metrics["num_clips"],
            "tune_best_j": best["val_j"],
            "serve_equals_segment": same,
            "seconds": {**self._seconds, "total": round(sum(self._seconds.values()), 1)},
        }
        write_json(str(self._out / "summary.json"), summary)
        self._tell(metrics, summary)
        return summary

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._say(f"== {name}")
        start_s = time.monotonic()
        yield
        self._seconds[name] = round(time.monotonic() - start_s, 1)

    def _prepare(self) -> None:
        config = self._config
        data = replace(config.data, root=str(self._out / "data"))
        prepare(
            PrepareConfig(
                data=data,
                scale=config.scale,
                out=self._prepared.prepared,
                shard_clips=config.shard_clips,
            ),
            say=self._say,
        )

    def _training(self, out: str) -> dict[str, Any]:
        """The keys of a :class:`TrainConfig` with their values."""
        config = self._config
        return {
            "data": MixtureConfig(prepared=self._prepared.prepared),
            "model": config.model,
            "loss": config.loss,
            "train": config.train,
            "inference": config.inference,
            "scale": config.scale,
            "seed": config.seed,
            "out": str(self._out / out),
        }

    def _train(self) -> None:
        config = TrainConfig(**self._training("run"))
        train_distributed(config, say=self._say)
        copy_checkpoint(resolve_checkpoint(config.out), self._checkpoint)

    def _evaluate(self) -> dict[str, Any]:
        return evaluate(
            EvaluateConfig(
                checkpoint=str(self._out / "run"),
                data=self._prepared,
                split="test",
                out=str(self._out),
                batch_size=1,
                num_pictures=6,
                scale=self._config.scale,
            ),
            say=self._say,
        )

    def _tune(self) -> dict[str, Any]:
        config = TuneConfig(**self._training("sweep"), search=self._config.search)
        config.train = replace(config.train, epochs=self._config.tune_epochs)
        return tune_sweep(config, say=self._say)

    def _segment(self) -> Path:
        """Segment a new video: its seed, size, frame rate and length are not those of training."""
        assert self._config.data.synthetic is not None
        new = SyntheticConfig(
            layout=self._config.data.synthetic.layout,
            num_train=0,
            num_val=0,
            num_test=1,
            size_px=144,
            width_px=192,
            fps=12,
            duration_s=8,
            seed=self._config.seed + 1,
            silent_ratio=0,
        )
        spec = clip_plan(new)[0]
        write_clip(self._out / "new", spec, new)
        video = next((self._out / "new").rglob("*.mp4"))
        segment_bucket(
            SegmentConfig(
                checkpoint=self._checkpoint,
                input=str(video),
                out=str(self._out / "segment"),
                outputs=list(OutputKind),
                threshold=0.5,
                scale=self._config.scale,
            ),
            say=self._say,
        )
        return video

    def _serve(self, video: Path) -> bool:
        """Serve the checkpoint, send the video once, compare the masks with the job's."""
        serving = self._config.serving
        config = ServeConfig(
            **{field.name: getattr(serving, field.name) for field in fields(serving)},
            checkpoint=self._checkpoint,
            host="127.0.0.1",
            port=_free_port(),
            scale=self._config.scale,
        )
        url, _ = start(config, environ={})
        try:
            answer = _post_file(f"{url}/v1/segment", video)
        finally:
            stop()
        written = next((self._out / "segment").rglob("masks.json"))
        same = bool(answer["masks"] == json.loads(written.read_text())["masks"])
        self._say(
            f"serve: {url}/v1/segment answered {len(answer['masks'])} masks, "
            f"{'equal to' if same else 'DIFFERENT from'} those of the segment job"
        )
        return same

    def _tell(self, metrics: dict[str, Any], summary: dict[str, Any]) -> None:
        overlay = next((self._out / "segment").rglob("overlay.mp4"))
        for line in (
            "",
            *table_lines(metrics),
            "",
            f"report      {self._out / 'report.html'}",
            f"overlay     {overlay}",
            f"checkpoint  {self._checkpoint}",
            f"summary     {self._out / 'summary.json'} ({summary['seconds']['total']:.0f} s)",
        ):
            self._say(line)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _post_file(url: str, path: Path) -> dict[str, Any]:
    """POST a file as multipart field ``file`` and read the JSON answer."""
    boundary = uuid.uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="new.mp4"\r\n\r\n'
    )
    body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(
        url, data=body, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        answer: dict[str, Any] = json.load(response)
    return answer
