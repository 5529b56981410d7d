"""Log lines as JSON, one object a line, and the file beside a job's results that keeps them.

The lines of workers go to their standard error, which Ray keeps per worker and shows in its
dashboard; those of the job itself to ``out/logs``, so that they stay with what they tell about.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from avs import storage
from avs.errors import DataError

__all__ = ["LOGGER", "JsonLines", "LogFile"]

# Above all modules of the package: what they log by themselves has the same form.
LOGGER = "avs"

_PUT_EVERY_S = 30.0


class JsonLines(logging.Formatter):
    """A record as one line: time (UTC), level, run, job, stage, clip_id, message, node, pid.

    What a record does not have is null; ``seconds`` and ``error`` (a trace) are there only where
    there is something to tell.
    """

    def __init__(self, *, run: str, job: str) -> None:
        super().__init__()
        self._run, self._job, self._node = run, job, socket.gethostname()

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "run": self._run,
            "job": self._job,
            "stage": getattr(record, "stage", None) or None,
            "clip_id": getattr(record, "clip_id", None) or None,
            "message": record.getMessage(),
            "node": self._node,
            "pid": record.process,
        }
        seconds = getattr(record, "seconds", None)
        if seconds is not None:
            line["seconds"] = round(seconds, 4)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class LogFile(logging.Handler):
    """Keeps lines in the file ``uri`` below the folder ``out``, local or ``s3://``.

    Nothing is written before something else has made ``out``: a start that was refused leaves no
    folder. A local file grows line by line. An S3 object cannot grow, so all is put again at most
    every 30 s and at the end: killed, a job may lose that much. Storage that fails costs lines and
    never the job.
    """

    def __init__(self, uri: str, *, out: str) -> None:
        super().__init__()
        self.uri, self._out = uri, out
        self._lines: list[str] = []
        self._is_local = storage.is_local(uri)
        self._put_s = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        try:
            self._lines.append(self.format(record) + "\n")
            if self._is_local or time.monotonic() - self._put_s >= _PUT_EVERY_S:
                self._write()
        except Exception:  # as all handlers do: a line is not worth a job
            self.handleError(record)

    def close(self) -> None:
        """Write what has not been written."""
        self.acquire()
        try:
            self._write()
        finally:
            self.release()
        super().close()

    def _write(self) -> None:
        self._put_s = time.monotonic()
        with suppress(DataError, OSError):
            if not self._lines or not storage.exists(self._out):
                return
            data = "".join(self._lines).encode(errors="backslashreplace")
            if self._is_local:
                _append(storage.absolute(self.uri), data)
                self._lines.clear()
            else:
                storage.write_bytes(self.uri, data)


def _append(path: str, data: bytes) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    with Path(path).open("ab") as file:
        file.write(data)
