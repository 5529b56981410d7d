"""What a child in the wrong hands may send, and what a process that gave up its rights can do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avs.media import sandbox_confine
from avs.media.audio import SoundTrack
from avs.media.probing import VideoInfo
from avs.media.sandbox_wire import WireError, pack, rebuild, receive_message, send_message
from avs.media.video import DecodedVideo, Sampling

INFO = VideoInfo(
    width_px=64,
    height_px=48,
    fps=29.97,
    duration_s=5.0,
    num_frames=None,
    has_audio=True,
    container="mp4",
    decoder="pyav",
)
CONFINED = """
import os, pathlib, runpy, socket, sys
confine = runpy.run_path(sys.argv[1])
if False in [confine[name]() for name in sys.argv[3:]]:
    sys.exit("refused by the kernel")
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=10).close()
except OSError as error:
    print(type(error).__name__)
else:
    print("connected")
try:
    pathlib.Path(f"/proc/{os.getppid()}/environ").read_bytes()
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def raw(header: Any, *arrays: Any) -> bytes:
    """A message whose arrays are described as given and whose bytes are missing."""
    text = json.dumps({"header": header, "arrays": list(arrays)}).encode()
    return len(text).to_bytes(4, "little") + text


def test_a_message_arrives_as_it_was_sent(ends: tuple[socket.socket, socket.socket]) -> None:
    arrays = [np.arange(6, dtype=np.uint8).reshape(1, 2, 3), np.zeros((0, 4), np.float64)]
    arrays.append(np.arange(8, dtype=np.float32)[::2])
    send_message(ends[0], {"text": "наука \udcff \0"}, arrays)
    header, got = receive_message(ends[1], max_bytes=22, deadline_s=time.monotonic() + 10)
    assert header == {"text": "наука \udcff \0"}
    for one, other in zip(got, arrays, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ((1 << 31).to_bytes(4, "little"), "a header of 2147483648 bytes"),
        (b"\x02\0\0\0[]", "cannot be read"),
        (b"\x04\0\0\0\xff\xfe{}", "cannot be read"),
        (len(b"[" * 99999).to_bytes(4, "little") + b"[" * 99999, "cannot be read"),
        (raw([]), "no object"),
        (raw({}, {"dtype": "|O", "shape": [1]}), "an array of type '|O'"),
        (raw({}, {"dtype": "|u1", "shape": [1] * 5}), "5 dimensions"),
        (raw({}, {"dtype": "|u1", "shape": [-1, 4]}), "impossible shape"),
        (raw({}, {"dtype": "|u1", "shape": [1.5]}), "impossible shape"),
        (raw({}, {"dtype": "<f4", "shape": [1000, 300]}), "arrays of 1200000 bytes"),
        (raw({}, *[{"dtype": "|u1", "shape": [600_000]}] * 2), "arrays of 1200000 bytes"),
    ],
    ids=range(11),
)
def test_what_is_no_message_is_refused_before_memory_is_taken(
    ends: tuple[socket.socket, socket.socket], data: bytes, reason: str
) -> None:
    ends[0].sendall(data)
    with pytest.raises(WireError) as caught:
        receive_message(ends[1], max_bytes=1_000_000, deadline_s=time.monotonic() + 10)
    assert reason in str(caught.value)


def test_a_message_that_breaks_off_or_drips_ends(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[0].sendall(raw({}, {"dtype": "|u1", "shape": [9]}) + b"some")
    with pytest.raises(TimeoutError):
        receive_message(ends[1], max_bytes=100, deadline_s=time.monotonic() + 0.05)
    ends[0].close()
    with pytest.raises(EOFError):
        receive_message(ends[1], max_bytes=100, deadline_s=time.monotonic() + 10)


def test_results_are_rebuilt_from_plain_values() -> None:
    video = DecodedVideo(
        frames=np.ones((2, 4, 6, 3), np.uint8),
        frame_time_s=np.array([0.5, 1.5]),
        samples=None,
        info=INFO,
        warnings=("one", "two"),
    )
    arrays: list[Any] = []
    plain = json.loads(json.dumps(pack(video, arrays)))
    again = rebuild(DecodedVideo, plain, arrays)
    assert (again.info, again.samples, again.warnings) == (INFO, None, ("one", "two"))
    assert again.frames is video.frames
    assert rebuild(tuple[int, int] | None, [3, 4], ()) == (3, 4)
    assert rebuild(Sampling, "time", ()) is Sampling.TIME


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("samples", None),
        ("samples", {"array": 1}),
        ("samples", {"array": -1}),
        ("samples", {"array": True}),
        ("samples", {"array": 2}),
        ("samples", {}),
        ("start_s", "0"),
        ("start_s", True),
        ("warnings", "text"),
        ("warnings", [1]),
        ("more", 1),
    ],
)
def test_a_value_of_another_kind_is_refused(name: str, value: Any) -> None:
    plain = {"samples": {"array": 0}, "start_s": 0.0, "warnings": []}
    arrays = [np.zeros(3, np.float32), np.zeros(3, np.int16)]
    assert rebuild(SoundTrack, plain, arrays).samples is arrays[0]
    with pytest.raises(WireError):
        rebuild(SoundTrack, {**plain, name: value}, arrays)


def run_confined(*measures: str) -> str:
    """What comes of connecting to a server after ``measures`` and of reading its environment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = [sandbox_confine.__file__, str(server.getsockname()[1]), *measures]
        command = [sys.executable, "-I", "-c", CONFINED, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        server.settimeout(0)
        if "connected" in done.stdout:
            server.accept()[0].close()
        else:
            with pytest.raises(BlockingIOError):
                server.accept()
        return " ".join((done.stdout + done.stderr).split())


def test_a_process_that_keeps_its_rights_reaches_a_server() -> None:
    assert run_confined() == "connected"


def test_a_system_call_filter_lets_no_socket_open() -> None:
    assert run_confined("drop_privileges", "filter_system_calls").startswith("PermissionError")


def test_a_network_namespace_has_no_way_out_nor_to_its_parent_or_is_not_claimed() -> None:
    outcomes = ("OSError PermissionError", "refused by the kernel")
    assert run_confined("leave_network", "drop_privileges") in outcomes


def test_processor_time_and_files_are_limited(tmp_path: Path) -> None:
    script = (
        "import runpy, sys\n"
        "confine = runpy.run_path(sys.argv[1])\n"
        "confine['limit_resources'](memory_bytes=1 << 30, open_files=16, file_bytes=0)\n"
        "try:\n"
        "    with open(sys.argv[2], 'w') as file: file.write('x')\n"
        "except OSError as error: print(error.strerror, flush=True)\n"
        "confine['allow_cpu_s'](0.1)\n"
        "while True: pass\n"
    )
    command = [sys.executable, "-I", "-c", script, sandbox_confine.__file__, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "File too large"
    assert done.returncode == -24  # SIGXCPU
