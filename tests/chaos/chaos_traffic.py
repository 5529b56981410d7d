"""A client that asks a service for masks all the time, and notes what it gets."""

from __future__ import annotations

import itertools
import threading
import time
from types import TracebackType
from typing import Self

import httpx
from chaos_cluster import wait_for

__all__ = ["TOKEN", "Traffic"]

TOKEN = "s3cret"
_PAUSE_S = 0.2


class Traffic:
    """Requests one after the other from the start to the end of the block.

    ``answers``: when it was sent, seconds it took, status (0: no answer), and the body of a 200.
    """

    def __init__(self, address: str, video: bytes) -> None:
        self._url, self._video = f"http://{address}:8000/v1/segment", video
        self.answers: list[tuple[float, float, int, bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for_answers(self, count: int, *, deadline_s: float = 600) -> None:
        """Until so many more have been given, one after the other without a failure."""
        begun = len(self.answers)

        def are_good() -> bool:
            new = self.answers[begun:]
            return len(new) >= count and all(status == 200 for _, _, status, _ in new[-count:])

        wait_for(are_good, deadline_s=deadline_s, told=lambda: str(self.statuses))

    def wait_for_requests(self, count: int) -> None:
        """Until so many more have ended, one way or another."""
        begun = len(self.answers)
        wait_for(lambda: len(self.answers) >= begun + count, deadline_s=300)

    @property
    def statuses(self) -> dict[int, int]:
        """How many requests ended how."""
        found = [status for _, _, status, _ in self.answers]
        return {status: found.count(status) for status in sorted(set(found))}

    @property
    def bodies(self) -> set[bytes]:
        return {body for _, _, status, body in self.answers if status == 200}

    @property
    def longest_gap_s(self) -> float:
        """Between the ends of two good answers."""
        ends = [sent + took for sent, took, status, _ in self.answers if status == 200]
        return max((b - a for a, b in itertools.pairwise(ends)), default=0.0)

    def _ask(self) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        while not self._stop.wait(_PAUSE_S):
            begun_s = time.monotonic()
            try:
                with httpx.Client(trust_env=False, timeout=30, headers=headers) as client:
                    answer = client.post(self._url, files={"file": ("a.mp4", self._video)})
                status, body = answer.status_code, answer.content
            except httpx.HTTPError:
                status, body = 0, b""
            took_s = time.monotonic() - begun_s
            self.answers.append((begun_s, took_s, status, body if status == 200 else b""))
