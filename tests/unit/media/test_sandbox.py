"""Decoding in a child: the results of direct calls, and what is left of a child that goes wrong."""

from __future__ import annotations

import fcntl
import inspect
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from media_clips import numbered_frames

from avs.errors import DecoderError, MediaError
from avs.media import audio, matte, probing, render, sandbox, video
from avs.media.encoding import write_mp4
from avs.media.sandbox import Sandbox, SandboxLimits, SandboxState
from avs.media.video import DecodedVideo, Sampling

DEADLINE_S = 3.0
MAX_CALLS = 4
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AVS_API_TOKENS", "RAY_ADDRESS", "HOME")
PARENT = """
import os, psutil, signal, sys
from avs.media import sandbox

def pids():
    state = sandbox.sandbox_state()
    return f"{state.supervisor_pid} {state.decoder_pid}"

num_before = len(psutil.Process().children())
sandbox.probe(sys.argv[1])
reader, writer = os.pipe()
forked = os.fork()
if forked == 0:
    os.write(writer, pids().encode())
    signal.pause()
print(num_before, pids(), forked, os.read(reader, 100).decode(), flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """One child for all tests, started where the environment holds secrets."""
    limits = SandboxLimits(memory_bytes=256 << 20, deadline_s=DEADLINE_S, max_calls=MAX_CALLS)
    box = Sandbox(limits)
    with pytest.MonkeyPatch.context() as patch:
        for name in SECRETS:
            patch.setenv(name, "secret")
        box.state()
    yield box
    box.close()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A video that only this test has open."""
    path = tmp_path / "clip.mp4"
    write_mp4(path, numbered_frames(16), fps=8, samples=np.zeros(32000, np.float32))
    return path


@contextmanager
def when_opened(path: Path, action: Callable[[], object]) -> Iterator[None]:
    """Run ``action`` when a process opens ``path``; that process is stuck until the block ends."""
    fd = os.open(path, os.O_RDWR)
    previous = signal.signal(signal.SIGIO, lambda *_: action())
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    try:
        yield
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, previous)


def wait_until_gone(pidfds: list[int]) -> None:
    """Fail unless the processes end within 30 s."""
    for fd in pidfds:
        assert select.select([fd], [], [], 30)[0], "a process is still there"
        os.close(fd)


def fresh_decoder(box: Sandbox) -> int:
    """Kill the decoder, which has no call; the process id of the one that takes its place."""
    pid = box.state().decoder_pid
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until_gone([pidfd])
    return box.state().decoder_pid


def assert_same_video(got: DecodedVideo, wanted: DecodedVideo) -> None:
    np.testing.assert_array_equal(got.frames, wanted.frames, strict=True)
    np.testing.assert_array_equal(got.frame_time_s, wanted.frame_time_s, strict=True)
    assert (got.samples is None) == (wanted.samples is None)
    if got.samples is not None and wanted.samples is not None:
        np.testing.assert_array_equal(got.samples, wanted.samples, strict=True)
    assert (got.info, got.warnings) == (wanted.info, wanted.warnings)


def error_of(call: Callable[[], object]) -> tuple[type[Exception], str]:
    with pytest.raises((MediaError, ValueError)) as caught:
        call()
    return type(caught.value), str(caught.value)


def video_or_error(decode: Callable[[], DecodedVideo]) -> DecodedVideo | str:
    try:
        return decode()
    except MediaError as error:
        return str(error)


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("size_px", [None, (32, 40)])
@pytest.mark.parametrize("with_audio", [True, False])
def test_a_video_is_the_same_as_decoded_here(
    box: Sandbox,
    numbered_mp4: Path,
    sampling: Sampling,
    size_px: tuple[int, int] | None,
    with_audio: bool,
) -> None:
    options = {"size_px": size_px, "num_frames": 3, "with_audio": with_audio}
    got = box.call(video.decode_video, numbered_mp4, sampling=sampling, **options)
    assert_same_video(got, video.decode_video(numbered_mp4, sampling=sampling, **options))
    assert got.frames.flags.writeable


def test_real_videos_are_the_same_as_decoded_here(box: Sandbox, clips: Path) -> None:
    options = {"size_px": (224, 224), "sampling": Sampling.OFFICIAL, "num_frames": 5}
    for path in sorted(p for p in clips.iterdir() if p.stat().st_size < 400_000):
        wanted = video_or_error(partial(video.decode_video, path, **options))
        got = video_or_error(partial(box.call, video.decode_video, path, **options))
        if isinstance(got, DecodedVideo) and isinstance(wanted, DecodedVideo):
            assert_same_video(got, wanted)
        else:
            assert got == wanted


def test_sound_and_facts_are_the_same_as_read_here(box: Sandbox, numbered_mp4: Path) -> None:
    got = box.call(audio.read_audio, numbered_mp4, max_duration_s=1.5)
    wanted = audio.read_audio(numbered_mp4, max_duration_s=1.5)
    assert got is not None
    assert len(got) == 24000
    np.testing.assert_array_equal(got, wanted, strict=True)
    track, wanted_track = (
        box.call(audio.read_sound_track, numbered_mp4),
        audio.read_sound_track(numbered_mp4),
    )
    assert track is not None
    assert wanted_track is not None
    np.testing.assert_array_equal(track.samples, wanted_track.samples, strict=True)
    assert (track.start_s, track.warnings) == (wanted_track.start_s, wanted_track.warnings)
    assert box.call(probing.probe, numbered_mp4) == probing.probe(numbered_mp4)


def test_a_video_without_sound_has_none(box: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    write_mp4(path, numbered_frames(8), fps=8, samples=None)
    assert box.call(audio.read_audio, path) is None
    assert box.call(video.decode_video, path, size_px=None, sampling=Sampling.TIME).samples is None


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (video, "decode_video"),
        (video, "probe"),
        (audio, "read_audio"),
        (audio, "read_sound_track"),
        (render, "draw_track"),
        (matte, "matte_track"),
    ],
)
def test_functions_stand_in_for_the_direct_ones(module: object, name: str) -> None:
    direct, ours = getattr(module, name), getattr(sandbox, name)
    assert inspect.signature(ours) == inspect.signature(direct)
    assert pickle.loads(pickle.dumps(ours)) is ours
    assert ours is not direct


def test_only_the_drawing_child_may_write_files(clip: Path, tmp_path: Path, box: Sandbox) -> None:
    track = tmp_path / "masks.json"
    track.write_text('{"height": 48, "width": 64, "classes": ["background", "x"], "masks": []}')
    target = tmp_path / "overlay.mp4"
    with pytest.raises(MediaError):
        box.call(render.draw_track, clip, track=str(track), target=str(target))
    assert not target.exists()
    assert sandbox.draw_track(clip, track=str(track), target=str(target)) == 0
    assert video.probe(target).duration_s == pytest.approx(video.probe(clip).duration_s, abs=0.1)


def test_wrong_arguments_are_told_before_any_decoder(box: Sandbox, clip: Path) -> None:
    with pytest.raises(TypeError, match="size"):
        box.call(video.decode_video, clip, size=3)
    with pytest.raises(ValueError, match="is none of decode_video, draw_track"):
        box.call(probing.has_known_codec, clip)  # type: ignore[arg-type]


def test_error_messages_are_those_of_direct_calls(
    box: Sandbox, numbered_mp4: Path, tmp_path: Path
) -> None:
    whole = numbered_mp4.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "list.mp4").write_text("#EXTM3U\nhttp://127.0.0.1/x.ts\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("cut.mp4", "empty.mp4", "list.mp4", "pipe.mp4", "missing.mp4", "nul\0.mp4", ""):
        path = tmp_path / name
        wanted = error_of(partial(audio.read_audio, path))
        assert error_of(partial(box.call, audio.read_audio, path)) == wanted
        decode = partial(box.call, video.decode_video, path)
        assert error_of(partial(decode, size_px=None, sampling=Sampling.TIME)) == wanted
    for change in ({"num_frames": 0}, {"max_duration_s": 2.0}):
        options = {"size_px": None, "sampling": Sampling.TIME, **change}
        wanted = error_of(partial(video.decode_video, numbered_mp4, **options))
        assert error_of(partial(box.call, video.decode_video, numbered_mp4, **options)) == wanted


@pytest.mark.parametrize("name", ["a b.mp4", "наука.mp4", "new\nline.mp4", "bad\udcff.mp4"])
def test_relative_paths_and_odd_names(
    box: Sandbox, clip: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip.rename(clip.with_name(name))
    monkeypatch.chdir(clip.parent)
    assert box.call(probing.probe, name) == probing.probe(name)


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (signal.SIGSEGV, "crashed (signal SIGSEGV)"),
        (signal.SIGABRT, "crashed (signal SIGABRT)"),
        (signal.SIGKILL, "was killed (signal SIGKILL)"),
    ],
)
def test_a_crash_names_the_file_and_the_next_call_works(
    clip: Path, box: Sandbox, number: signal.Signals, what: str
) -> None:
    pid = fresh_decoder(box)
    with when_opened(clip, lambda: os.kill(pid, number)):
        kind, text = error_of(lambda: box.call(probing.probe, clip))
    assert kind is MediaError
    assert text.startswith(f"{clip}: the decoder {what}")
    assert box.call(probing.probe, clip) == probing.probe(clip)
    assert box.state().decoder_pid != pid


def test_a_file_is_not_blamed_for_a_decoder_that_others_used(clip: Path, box: Sandbox) -> None:
    box.call(probing.probe, clip)
    pid = box.state().decoder_pid
    with ExitStack() as stack:

        def crash_once() -> None:
            os.kill(pid, signal.SIGSEGV)
            stack.close()

        stack.enter_context(when_opened(clip, crash_once))
        assert box.call(probing.probe, clip).num_frames == 16
    assert box.state().decoder_pid != pid


def test_a_decoder_that_hangs_is_stopped(clip: Path, box: Sandbox) -> None:
    pidfd = os.pidfd_open(box.state().decoder_pid)
    with when_opened(clip, lambda: None):
        _, text = error_of(lambda: box.call(probing.probe, clip))
    assert text == f"{clip}: the decoder took over {DEADLINE_S:g} s and was stopped"
    wait_until_gone([pidfd])
    assert box.call(probing.probe, clip) == probing.probe(clip)


def test_a_decoder_that_died_between_calls_is_replaced(clip: Path, box: Sandbox) -> None:
    pid = box.state().decoder_pid
    assert fresh_decoder(box) != pid
    assert box.call(probing.probe, clip) == probing.probe(clip)


def test_memory_is_limited(clip: Path, box: Sandbox) -> None:
    large = {"size_px": (4096, 4096), "sampling": Sampling.OFFICIAL, "num_frames": 40}
    _, text = error_of(lambda: box.call(video.decode_video, clip, **large))
    assert text == f"{clip}: the decoder needs more than 0.25 GB of memory"
    assert box.call(probing.probe, clip) == probing.probe(clip)


def test_a_decoder_serves_a_number_of_calls(clip: Path, box: Sandbox) -> None:
    pids = []
    for _ in range(2 * MAX_CALLS):
        box.call(probing.probe, clip)
        pids.append(box.state().decoder_pid)
    assert 2 <= len(set(pids)) <= 3
    assert max(pids.count(pid) for pid in pids) <= MAX_CALLS


def test_hours_of_video_have_more_time() -> None:
    limits = SandboxLimits(deadline_s=10, slowest_bytes_per_s=1000)
    assert limits.file_deadline_s(50_000) == 60
    with pytest.raises(ValueError, match="deadline_s must be positive, not 0"):
        SandboxLimits(deadline_s=0)


def test_threads_get_their_own_results(box: Sandbox, tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.mp4" for k in range(1, 5)]
    for k, path in enumerate(paths, start=1):
        write_mp4(path, numbered_frames(8 * k), fps=8, samples=None)
    with ThreadPoolExecutor(4) as pool:
        infos = list(pool.map(partial(box.call, probing.probe), paths * 3))
    assert [info.num_frames for info in infos] == [8, 16, 24, 32] * 3


def test_a_copy_has_the_limits_and_no_child(box: Sandbox) -> None:
    copy = pickle.loads(pickle.dumps(box))
    assert copy.limits == box.limits
    copy.close()  # would end the child of the original


def test_the_child_holds_no_secrets(box: Sandbox) -> None:
    state = box.state()
    for pid in (state.supervisor_pid, state.decoder_pid):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        names = {variable.partition(b"=")[0].decode() for variable in variables}
        assert "PATH" in names
        assert names.isdisjoint(SECRETS)
        assert not [name for name in names if name.startswith(("AWS_", "RAY_", "AVS_"))]


def test_the_child_has_no_network(box: Sandbox) -> None:
    state = box.state()
    assert state.warning == ""
    assert state.is_filtered
    for pid in (state.supervisor_pid, state.decoder_pid):
        status = Path(f"/proc/{pid}/status").read_text().split("\n")
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status
        if state.has_left_network:
            interfaces = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
            assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


@pytest.mark.parametrize(
    ("has_left_network", "is_filtered", "is_warned"),
    [(True, False, False), (False, True, False), (False, False, True)],
)
def test_network_access_is_told(has_left_network: bool, is_filtered: bool, is_warned: bool) -> None:
    state = SandboxState(
        supervisor_pid=1,
        decoder_pid=2,
        has_left_network=has_left_network,
        is_filtered=is_filtered,
    )
    assert ("network access" in state.warning) == is_warned


def test_a_child_that_cannot_start_is_no_fault_of_the_file(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(DecoderError, match="the decoder process cannot be started") as caught:
        Sandbox().call(probing.probe, clip)
    assert not isinstance(caught.value, MediaError)


def test_a_lost_supervisor_takes_its_decoder_along_and_is_replaced(
    clip: Path, box: Sandbox
) -> None:
    state = box.state()
    pidfds = [os.pidfd_open(state.supervisor_pid), os.pidfd_open(state.decoder_pid)]
    os.kill(state.supervisor_pid, signal.SIGKILL)
    wait_until_gone(pidfds)
    assert box.call(probing.probe, clip) == probing.probe(clip)


def test_nothing_is_left_of_a_killed_process_and_its_fork(clip: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(clip)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        num_before, *pids = (int(number) for number in parent.stdout.readline().split())
        pidfds = [os.pidfd_open(pid) for pid in pids]
        parent.kill()
    try:
        assert num_before == 0, "the import started a process"
        assert len(set(pids)) == 5, "a fork shares the child of its parent"
        wait_until_gone(pidfds[:2])
    finally:
        signal.pidfd_send_signal(pidfds[2], signal.SIGKILL)
    wait_until_gone(pidfds[2:])
