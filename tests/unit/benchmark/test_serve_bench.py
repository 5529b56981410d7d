"""Stage serve: clients send as they should, figures and verdicts are what the answers say."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hydra import initialize_config_dir
from stage_config import serve_stage_config

from avs.benchmark.serve_figures import latencies, loop_figures, turn_figures
from avs.benchmark.serve_load import Answer, HttpSender, closed_loop, take_turns
from avs.benchmark.serve_models import random_checkpoint
from avs.benchmark.serve_plain import plain_app
from avs.benchmark.serve_report import serve_report, wanted
from avs.benchmark.serve_services import Contenders, idle_cores
from avs.benchmark.serve_sizes import empty_sizes
from avs.datasets.synthetic import Layout, SyntheticConfig, clip_plan, write_clip
from avs.errors import AvsError, ConfigError
from avs.inference.predictor import Predictor

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


class _Server(ThreadingHTTPServer):
    """Refuses the first ``num_busy`` requests, answers the rest with the length of their body."""

    num_busy = 0
    status = 200
    seen: list[bytes]  # bodies of the rest


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_busy = self.server.num_busy > 0
        self.server.num_busy -= is_busy
        self.send_response(429 if is_busy else self.server.status)
        if is_busy:
            self.send_header("Retry-After", "0.05")
        else:
            self.server.seen.append(body)
        said = str(len(body)).encode()
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def sender(server: _Server, tmp_path: Path) -> HttpSender:
    clips = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for clip in clips:
        clip.write_bytes(clip.name.encode() * 1000)
    return HttpSender(f"http://127.0.0.1:{server.server_port}/v1/segment", clips)


def _answer(ms: float, *, ended_s: float = 0.0, status: int = 200) -> Answer:
    return Answer(seconds=ms / 1e3, ended_s=ended_s, status=status, num_refused=0, body=b"why")


def test_clips_are_sent_in_turn_as_a_form(server: _Server, sender: HttpSender) -> None:
    answers = [sender(index) for index in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [b'filename="a.mp4"' in body for body in server.seen] == [True, False, True]
    assert b"a.mp4" * 1000 in server.seen[0]
    assert answers[0].body == str(len(server.seen[0])).encode()


def test_the_plain_server_reads_that_form(server: _Server, sender: HttpSender) -> None:
    sender(1)
    [body] = server.seen
    boundary = body.partition(b"\r\n")[0][2:].decode()
    app = plain_app(lambda path: Path(path).read_bytes())
    with TestClient(app) as client:
        kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
        answer = client.post("/v1/segment", content=body, headers=kind)
    assert (answer.status_code, answer.content) == (200, b"b.mp4" * 1000)


def test_a_refused_client_waits_and_is_counted(server: _Server, sender: HttpSender) -> None:
    server.num_busy = 2
    answer = sender(0)
    assert (answer.status, answer.num_refused) == (200, 2)
    assert answer.seconds >= 0.1


def test_every_client_sends_again_when_it_was_answered(server: _Server, sender: HttpSender) -> None:
    answers = closed_loop(sender, num_clients=4, num_requests=9, round_s=60)
    assert len(answers) == len(server.seen) == 4 + 9
    ended_s = [answer.ended_s for answer in answers]
    assert ended_s == sorted(ended_s)


def test_a_round_ends_in_time_but_each_client_has_one_that_counts() -> None:
    def send(_: int) -> Answer:
        time.sleep(0.01)
        return _answer(10, ended_s=time.monotonic())

    assert len(closed_loop(send, num_clients=3, num_requests=99, round_s=1e-9)) == 6


def test_contenders_take_turns_and_who_begins_rotates() -> None:
    seen: list[tuple[str, int]] = []

    def sender(name: str) -> Any:
        def send(index: int) -> Answer:
            seen.append((name, index))
            return _answer(1)

        return send

    turns = take_turns({n: sender(n) for n in "ab"}, num_requests=3, round_s=60)
    assert seen == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert {name: len(answers) for name, answers in turns.items()} == {"a": 3, "b": 3}


def test_overhead_is_what_a_request_takes_longer_than_the_base_in_its_turn() -> None:
    turns = {
        "avs": [_answer(130), _answer(240), _answer(320)],
        "bare": [_answer(100), _answer(200), _answer(300)],
        "empty": [_answer(20), _answer(21), _answer(28)],
    }
    figures = turn_figures(turns, base="bare", without=("empty",))
    overheads = {name: found["overhead_ms"] for name, found in figures.items()}
    assert overheads == pytest.approx({"avs": 30, "bare": 0, "empty": 21})
    assert figures["avs"]["p50_ms"] == pytest.approx(240)


def test_the_rate_counts_behind_the_first_answers() -> None:
    answers = [_answer(500, ended_s=t) for t in (9.0, 10.0, 10.5, 11.0, 11.5)]
    answers.append(_answer(1, ended_s=12.0, status=500))
    figures = loop_figures(answers, num_clients=2, num_windows=3, name="avs")
    assert figures["windows_per_s"] == pytest.approx(3 * 3 / 2.0)
    assert figures["failed"] == 1.0
    assert figures["p99_ms"] == pytest.approx(500)  # of good ones


def test_a_contender_that_answers_nothing_is_told() -> None:
    with pytest.raises(AvsError, match="plain answered no request, the last with 500: why"):
        latencies([_answer(1, status=500)], name="plain")
    with pytest.raises(AvsError, match="no request counts"):
        loop_figures([_answer(1)], num_clients=1, num_windows=1, name="bare")


def _runs(**figures: Sequence[float]) -> dict[str, list[dict[str, float]]]:
    """p50 ms, p99 ms, windows/s and overhead ms of one repeat of each contender."""
    names = ("p50_ms", "p99_ms", "windows_per_s", "overhead_ms")
    return {
        who: [{**dict(zip(names, values, strict=True)), "mean_ms": 1, "refused": 0, "failed": 0}]
        for who, values in figures.items()
    }


ONE = _runs(
    avs=(130, 200, 0, 24), plain=(105, 110, 0, 5), bare=(100, 105, 0, 0), empty=(20, 25, 0, 20)
)
MANY = _runs(avs=(900, 2800, 19, 0), plain=(800, 2400, 18, 0), bare=(50, 60, 20, 0))


def test_each_bound_is_judged_by_the_figures_that_it_is_about() -> None:
    rows = {row.what: row for row in wanted(ONE, MANY, num_clients=16)}
    found = {what: (round(row.median, 3), row.is_met) for what, row in rows.items()}
    assert found == {
        "overhead, one client, avs : empty": (1.2, True),
        "p99, 16 clients, avs : plain": (1.167, False),
        "p99 : p50 of avs, one client": (1.538, True),
        "p99 : p50 of avs, 16 clients": (3.111, False),
        "failed requests of avs": (0.0, True),
        "windows/s, 16 clients, avs : bare": (0.95, True),
        "windows/s, 16 clients, avs : plain": (1.056, True),
    }


def _found() -> Mapping[str, Any]:
    return {"one": ONE, "many": MANY, "windows": 1, "idle_cores": 0.11}


def test_the_report_tells_verdicts_and_figures(tmp_path: Path) -> None:
    text, plain = serve_report(serve_stage_config(tmp_path), {"tiny": _found()})
    assert (
        "| overhead, one client, avs : empty | at most 1.25 | 1.200 | 1.200 to 1.200 | pass |"
        in text
    )
    assert "| p99, 3 clients, avs : plain | at most 1 | 1.167 | 1.167 to 1.167 | short |" in text
    assert "At rest the service uses 0.11 cores." in text
    assert "nan" not in text
    assert plain["models"]["tiny"]["wanted"][0]["is_met"] is True
    json.dumps(plain)


def test_a_smoke_run_gives_no_verdict(tmp_path: Path) -> None:
    config = serve_stage_config(tmp_path, quick=True, repeats=5)
    assert (config.serve.models, config.repeats) == (["tiny"], 1)
    text, _ = serve_report(config, {"tiny": _found()})
    assert "a smoke run, whose figures say nothing" in text
    assert "pass" not in text
    assert "short" not in text


@pytest.mark.parametrize(
    ("key", "value"),
    [("models", []), ("requests", 1), ("clients", 1), ("num_clips", 17), ("round_s", 0.0)],
)
def test_a_section_that_measures_nothing_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"serve.{key}="):
        serve_stage_config(tmp_path, **{key: value})


@contextmanager
def _hydra() -> Iterator[None]:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        yield


def test_a_model_gets_a_checkpoint_with_its_own_shape(tmp_path: Path) -> None:
    with _hydra():
        uri = random_checkpoint("tiny", tmp_path, num_threads=2)
        with pytest.raises(ConfigError, match=r"serve\.models: "):
            random_checkpoint("no_such_model", tmp_path, num_threads=2)
    predictor = Predictor.from_checkpoint(uri)
    assert (predictor.clip.image_size_px, predictor.num_threads) == (64, 2)
    answers = [json.dumps({"masks": [{}] * 7}).encode()]
    sizes = empty_sizes(uri, answers)
    assert (sizes.num_windows, sizes.side_px, sizes.num_maps) == (2, 64, 1)
    assert (sizes.sound_values, sizes.answer_bytes) == (5 * 96 * 64, len(answers[0]))


def test_the_bare_loop_gives_the_masks_of_the_clip(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = SyntheticConfig(layout=Layout.MS3, num_train=0, num_val=0, num_test=1, size_px=64)
    [spec] = clip_plan(config)
    write_clip(tmp_path, spec, config)
    [clip] = tmp_path.rglob("*.mp4")
    contenders = Contenders(
        jobs=tmp_path, checkpoint=str(tiny_checkpoint), clips=[clip], logs=tmp_path, max_clients=1
    )
    with contenders.bare() as send:
        body = send(0).body
    expected = Predictor.from_checkpoint(str(tiny_checkpoint)).segment_video(str(clip))
    assert json.loads(body)["masks"] == json.loads(json.dumps(expected.to_json()))["masks"]


def test_a_contender_that_ends_is_told_with_what_it_said(tmp_path: Path) -> None:
    contenders = Contenders(
        jobs=tmp_path, checkpoint="nowhere", clips=[], logs=tmp_path, max_clients=1
    )
    with pytest.raises(AvsError, match=r"(?s)plain ended with 1: .*nowhere"), contenders.plain():
        pass


def test_the_cores_of_a_busy_process_are_counted() -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert idle_cores(child.pid, seconds=0.5) > 0.02
    finally:
        child.kill()
        child.wait()
