"""The decoder child of :mod:`avs.media.sandbox`: a supervisor that forks the process that decodes.

Importing the decoders takes half a second, without torch; forking takes milliseconds. So the
supervisor imports once, never looks at a file, and forks a fresh decoder whenever the last one
crashed, hung or has served its number of calls. It has one thread, which is what makes forking
safe, and ends when its parent does. Run with the parent's process id as the only argument and a
socket as standard input.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.media.audio import read_audio, read_sound_track
from avs.media.decord_reader import import_decord
from avs.media.frames import read_small_picture
from avs.media.matte import matte_track
from avs.media.probing import read_track
from avs.media.render import draw_track
from avs.media.resampling import resample
from avs.media.sandbox_confine import (
    allow_cpu_s,
    die_with_parent,
    drop_privileges,
    filter_system_calls,
    leave_network,
    limit_resources,
)
from avs.media.sandbox_limits import OUT_OF_MEMORY
from avs.media.sandbox_wire import pack, rebuild, receive_message, send_message
from avs.media.thumbnails import thumbnail_track
from avs.media.video import decode_video, probe

__all__ = ["CALLS", "main"]

CALLS: dict[str, Callable[..., Any]] = {
    "decode_video": decode_video,
    "draw_track": draw_track,
    "matte_track": matte_track,
    "probe": probe,
    "read_audio": read_audio,
    "read_small_picture": read_small_picture,
    "read_sound_track": read_sound_track,
    "read_track": read_track,
    "thumbnail_track": thumbnail_track,
}
_PARENT_CHECK_S = 1.0
_COMMON_RATES_HZ = (44100, 48000)
_MAX_REASON_LENGTH = 10_000


def main() -> None:
    """Answer commands on standard input until it closes or the parent is gone."""
    parent = int(sys.argv[1])
    control = socket.socket(fileno=0)
    _warm_up()
    has_left_network = leave_network()
    drop_privileges()
    is_filtered = filter_system_calls()
    gc.collect()
    gc.freeze()  # or the collector would write to, and so copy, every page shared with a decoder
    control.send(
        json.dumps({"has_left_network": has_left_network, "is_filtered": is_filtered}).encode()
    )
    _supervise(control, parent)
    os._exit(0)  # there is nothing to save


def _warm_up() -> None:
    """What would else be imported and computed again in every decoder."""
    for rate_hz in _COMMON_RATES_HZ:
        resample(np.zeros(rate_hz, np.float32), rate_hz)
    with contextlib.suppress(ImportError):  # not made for every machine type
        import_decord(with_torch=False)


def _supervise(control: socket.socket, parent: int) -> None:
    """Fork a decoder for a message with a connection, end it for an empty one."""
    pid = 0
    while True:
        if not select.select([control], [], [], _PARENT_CHECK_S)[0]:
            if os.getppid() != parent:  # a forked copy of the parent may keep the socket open
                break
            continue
        message, connections, _, _ = socket.recv_fds(control, 4096, 1)
        if not message:
            break
        if connections:
            pid = _fork(control, socket.socket(fileno=connections[0]), json.loads(message))
            control.send(json.dumps({"pid": pid}).encode())
        else:
            control.send(json.dumps({"status": _end(pid)}).encode())
            pid = 0
    if pid:
        _end(pid)


def _end(pid: int) -> int:
    """Kill a decoder with its group; its wait status, which is an earlier cause if there is one."""
    os.killpg(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _fork(control: socket.socket, connection: socket.socket, limits: dict[str, int]) -> int:
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become_decoder(control, supervisor, limits)
            _serve(connection)
        finally:
            os._exit(1)
    connection.close()
    os.setpgid(pid, pid)
    return pid


def _become_decoder(control: socket.socket, supervisor: int, limits: dict[str, int]) -> None:
    os.setpgid(0, 0)
    die_with_parent()
    if os.getppid() != supervisor:
        os._exit(1)
    control.detach()
    with Path(os.devnull).open("r+b", buffering=0) as nowhere:
        for fd in (0, 1, 2):
            os.dup2(nowhere.fileno(), fd)
    limit_resources(**limits)


def _serve(connection: socket.socket) -> NoReturn:
    while True:
        try:
            request, _ = receive_message(connection, max_bytes=0, deadline_s=None)
        except (EOFError, ConnectionError):
            os._exit(0)
        allow_cpu_s(request["cpu_s"])
        try:
            _respond(connection, request)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        gc.collect()  # readers and encoders lie in cycles, with all their pictures


def _respond(connection: socket.socket, request: dict[str, Any]) -> None:
    """Decode and answer; the arrays end with this call and not with the next request."""
    arrays: list[NDArray[Any]] = []
    send_message(connection, _answer(request, arrays), arrays)


def _answer(request: dict[str, Any], arrays: list[NDArray[Any]]) -> dict[str, Any]:
    """The result of a call, or the kind and the text of its error."""
    try:
        if request["folder"]:
            os.chdir(request["folder"])
        function = CALLS[request["call"]]
        kinds = typing.get_type_hints(function)
        options = {k: rebuild(kinds[k], v, ()) for k, v in request["options"].items()}
        result = function(request["path"], **options)
        return {"result": pack(result, arrays)}
    except MediaError as error:
        return _error("media", str(error))
    except MemoryError:
        raise
    except ValueError as error:
        return _error("value", str(error))
    except Exception as error:  # the parent must get an answer whatever a file brings about
        return _error("other", f"{type(error).__name__}: {error}")


def _error(kind: str, text: str) -> dict[str, Any]:
    return {"error": kind, "text": text[:_MAX_REASON_LENGTH]}


if __name__ == "__main__":
    main()
