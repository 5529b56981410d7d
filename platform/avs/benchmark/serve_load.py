"""The clients of stage ``serve``: one that takes turns with all contenders, and many at once.

They run as threads of one process, which on two cores shares these with what it measures, with
every contender alike. Each request opens its own connection, as curl does.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["Answer", "HttpSender", "Send", "closed_loop", "take_turns"]

_BOUNDARY = "avs-benchmark-7d1c6f"
_TIMEOUT_S = 300.0
_BUSY = 429
_MAX_RETRIES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a client got: ``seconds`` from its first byte sent to the last one received, waiting
    after refusals included. ended_s: on the clock of time.monotonic. body: of good ones."""

    seconds: float
    ended_s: float
    status: int
    num_refused: int
    body: bytes


Send = Callable[[int], Answer]  # of the number of a request


class HttpSender:
    """Uploads clips in turn to ``url``, an address as http://127.0.0.1:8000/v1/segment."""

    def __init__(self, url: str, clips: Sequence[Path]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path
        self._bodies = [_form(clip) for clip in clips]

    def __call__(self, index: int) -> Answer:
        """Send a clip until it is taken. Raises OSError where nobody answers."""
        began_s, num_refused = time.monotonic(), 0
        while True:
            status, body, retry_s = self._post(self._bodies[index % len(self._bodies)])
            if status != _BUSY or num_refused == _MAX_RETRIES:
                break
            num_refused += 1
            time.sleep(retry_s)
        ended_s = time.monotonic()
        return Answer(
            seconds=ended_s - began_s,
            ended_s=ended_s,
            status=status,
            num_refused=num_refused,
            body=body,
        )

    def _post(self, body: bytes) -> tuple[int, bytes, float]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            kind = f"multipart/form-data; boundary={_BOUNDARY}"
            connection.request("POST", self._path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            retry_s = float(answer.headers.get("Retry-After", "1"))
            return answer.status, answer.read(), retry_s
        finally:
            connection.close()


def _form(clip: Path) -> bytes:
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{clip.name}"\r\n'
        "Content-Type: video/mp4\r\n\r\n"
    )
    return head.encode() + clip.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode()


def take_turns(
    senders: Mapping[str, Send], *, num_requests: int, round_s: float
) -> dict[str, list[Answer]]:
    """One client: request by request all contenders get the same one, who begins rotates.

    So the requests of one number lie within seconds, and a slow minute of the machine hits all.
    """
    names = list(senders)
    answers: dict[str, list[Answer]] = {name: [] for name in names}
    until_s = time.monotonic() + round_s
    for turn in range(num_requests):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            answers[name].append(senders[name](turn))
        if time.monotonic() > until_s:
            break
    return answers


def closed_loop(send: Send, *, num_clients: int, num_requests: int, round_s: float) -> list[Answer]:
    """Many clients, each of which sends again when it was answered; in the order of answers.

    The first of each is beside ``num_requests``; each sends another, whatever ``round_s``.
    """
    numbers, lock = count(), threading.Lock()
    until_s = time.monotonic() + round_s

    def client(_: int) -> list[Answer]:
        own: list[Answer] = []
        while len(own) < 2 or time.monotonic() < until_s:
            with lock:
                number = next(numbers)
            if number >= num_clients + num_requests:
                break
            own.append(send(number))
        return own

    with ThreadPoolExecutor(num_clients) as clients:
        found = [one for own in clients.map(client, range(num_clients)) for one in own]
    return sorted(found, key=lambda answer: answer.ended_s)
