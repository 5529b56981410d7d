"""The part of the client that starts, follows and stops batches: whole prefixes of S3."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal
from urllib.parse import quote

from avs.client_http import Sender, not_understood, parsed

__all__ = ["Batch", "BatchCalls"]

# As the service tells it: id, status, input, output, counts, committed, message, ...
Batch = dict[str, Any]
_PATH = "v1/batches"
_OVER = ("succeeded", "failed", "stopped")


class BatchCalls:
    """Of :class:`avs.Client`. All methods raise ServiceError."""

    _sender: Sender
    _sleep: Callable[[float], None]

    def start_batch(
        self,
        input: str,  # noqa: A002 (what the service calls it)
        output: str,
        *,
        key: str | None = None,
        model: str | None = None,
        outputs: Sequence[str] | None = None,
        threshold: float | None = None,
        masks_per_s: int | Literal["native"] | None = None,
        objects: bool | None = None,
        max_failed_ratio: float | None = None,
    ) -> Batch:
        """Segment all videos below an ``s3://`` prefix into another one; returns at once.

        ``key``: the same key begins the same batch once, from whatever process (a random one
        unless given). What is not given is the service's to choose.
        """
        wanted = {
            "input": input,
            "output": output,
            "model": model,
            "outputs": None if outputs is None else list(outputs),
            "threshold": threshold,
            "masks_per_s": masks_per_s,
            "objects": objects,
            "max_failed_ratio": max_failed_ratio,
        }
        body = {name: value for name, value in wanted.items() if value is not None}
        headers = {"Idempotency-Key": uuid.uuid4().hex if key is None else key}
        return self._told("POST", _PATH, json=body, headers=headers)

    def batch(self, id: str) -> Batch:  # noqa: A002
        """The state of a batch, and what is done."""
        return self._told("GET", _one(id))

    def stop_batch(self, id: str) -> Batch:  # noqa: A002
        """End a batch; what is done stays."""
        return self._told("DELETE", _one(id))

    def wait_batch(
        self,
        id: str,  # noqa: A002
        *,
        every_s: float = 5.0,
        timeout_s: float | None = None,
        progress: Callable[[Batch], None] | None = None,
    ) -> Batch:
        """The state of a batch once it is over, whichever way; ``progress`` is told each one.

        Raises:
            TimeoutError: it was not over after ``timeout_s``.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            state = self.batch(id)
            if progress is not None:
                progress(state)
            if state["status"] in _OVER:
                return state
            if deadline_s is not None and time.monotonic() + every_s > deadline_s:
                raise TimeoutError(f"batch {id} is {state['status']} after {timeout_s:g} s")
            self._sleep(every_s)

    def _told(self, method: str, path: str, **content: Any) -> Batch:
        def body() -> AbstractContextManager[dict[str, Any]]:
            return nullcontext(content)

        with self._sender.answer(method, path, body=body, params={}) as response:
            plain = parsed(response.read())
        if not isinstance(plain, dict) or not {"id", "status"} <= set(plain):
            raise not_understood()
        return plain


def _one(id_: str) -> str:
    return f"{_PATH}/{quote(id_, safe='')}"
