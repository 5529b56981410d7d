"""The plain server of stage ``serve``: FastAPI and uvicorn in one process with one Predictor.

    python -m avs.benchmark.serve_plain CHECKPOINT PORT

What a person writes in an afternoon: the video goes to a file, one thread works on one video after
the other, the masks come back as JSON. It has no limits, tokens, metrics, streams or batches, and a
file that kills it kills the service.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from fastapi import FastAPI, UploadFile
from starlette.responses import Response

from avs.benchmark.serve_bare import segmenter

__all__ = ["plain_app"]


def plain_app(segment: Callable[[str], bytes]) -> FastAPI:
    """The app; ``segment`` is called in one thread."""
    app, thread = FastAPI(), ThreadPoolExecutor(1)

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/v1/segment")
    async def segment_one(file: UploadFile) -> Response:
        with tempfile.NamedTemporaryFile(suffix=".mp4") as video:
            video.write(await file.read())
            video.flush()
            loop = asyncio.get_running_loop()
            masks = await loop.run_in_executor(thread, segment, video.name)
        return Response(masks, media_type="application/json")

    return app


def main(checkpoint: str, port: str) -> None:
    """Serve until SIGTERM."""
    app = plain_app(segmenter(checkpoint))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
