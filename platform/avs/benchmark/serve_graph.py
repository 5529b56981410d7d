"""The empty graph of stage ``serve``: the hops of the service and what they carry, without work.

    python -m avs.benchmark.serve_graph '{"num_frames": 5, ...}' PORT

An ingress that parses the same form and puts the file into the object store, a decoder that streams
an answer of the same size, a segmenter that takes and gives arrays of the same shapes in batches
without a wait. Nothing is decoded, checked or computed: what a request takes here is the price of
Serve itself. Ray is started as by ``jobs/serve.py``, but without its limits, options and metrics.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import ray
from fastapi import FastAPI
from numpy.typing import NDArray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from avs.benchmark.serve_sizes import Sizes
from avs.serving.service import stop

__all__ = ["serve_empty"]

_LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)
_MANY = 64  # nothing is refused
_DECODERS = 2  # as configs/serving/usual.yaml has them


class EmptySegmenter:
    """Arrays in, arrays out."""

    def __init__(self, sizes: Sizes) -> None:
        side = sizes.side_px
        self._logits = np.zeros((sizes.num_frames, sizes.num_maps, side, side), np.float32)

    async def forward(
        self, frames: NDArray[np.uint8], sound: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Logits of a window."""
        logits: NDArray[np.float32] = await self._forward((frames, sound))
        return logits

    @serve.batch(max_batch_size=_MANY, batch_wait_timeout_s=0.0)
    async def _forward(self, windows: list[Any]) -> list[NDArray[np.float32]]:
        return [self._logits.copy() for _ in windows]


class EmptyDecoder:
    """A file in; windows to the segmenters; an answer out."""

    def __init__(self, segmenter: DeploymentHandle[Any], sizes: Sizes) -> None:
        self._segmenter, self._sizes = segmenter, sizes

    async def segment(self, data: bytes) -> AsyncGenerator[int | bytes, None]:
        """The length of the answer, then the answer."""
        sizes = self._sizes
        assert data, "the file came along"
        windows = []
        for _ in range(sizes.num_windows):
            frames = np.zeros((sizes.num_frames, sizes.side_px, sizes.side_px, 3), np.uint8)
            sound = np.zeros(sizes.sound_values, np.float32)
            windows.append(self._segmenter.forward.remote(frames, sound))
        await asyncio.gather(*windows)
        yield sizes.answer_bytes
        yield b" " * sizes.answer_bytes


class EmptyIngress:
    """Serve runs the app that ``__serve_build_asgi_app__`` returns, as of the real one."""

    def __init__(self, decoder: DeploymentHandle[Any]) -> None:
        self._decoder = decoder

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = FastAPI()

        @app.get("/readyz")
        async def readyz() -> dict[str, str]:
            return {"status": "ready"}

        app.add_route("/v1/segment", self._segment, methods=["POST"])
        return app

    async def _segment(self, request: Request) -> Response:
        async with request.form(max_files=1) as form:
            file: Any = form["file"]
            data = await asyncio.to_thread(ray.put, await file.read())
        parts: Any = self._decoder.options(stream=True).segment.remote(data)
        num_bytes = await anext(parts)
        headers = {"Content-Length": str(num_bytes)}
        return StreamingResponse(parts, media_type="application/json", headers=headers)


def serve_empty(sizes: Sizes, *, port: int) -> None:
    """Deploy on the connected Ray; returns when requests would be answered."""

    def deployment(of: Any, *, cpus: float, replicas: int = 1) -> Any:
        return serve.deployment(
            num_replicas=replicas,
            ray_actor_options={"num_cpus": cpus},
            max_ongoing_requests=_MANY,
        )(of)

    segmenter = deployment(EmptySegmenter, cpus=1).bind(sizes)
    decoder = deployment(EmptyDecoder, cpus=0.2, replicas=_DECODERS).bind(segmenter, sizes)
    ingress = deployment(serve.ingress()(EmptyIngress), cpus=0.1).bind(decoder)
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        logging_config=_LOGGING,
    )
    serve.run(ingress, name="empty", logging_config=_LOGGING)


def main(text: str, port: str) -> None:
    """Serve until SIGTERM."""
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve_empty(Sizes(**json.loads(text)), port=int(port))
        signal.pause()
    except KeyboardInterrupt:
        stop()
        ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
