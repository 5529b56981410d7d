"""A real service under files and requests that mean it ill: it says no and goes on as before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import requests
import schemathesis
from hostile_bombs import bombs, changing_size
from hostile_checks import Listener, check_answer, memory_bytes, peak_bytes, tells_of_us
from hostile_media import good_files, hostile_file
from hostile_requests import bytes_in_headers_of_ray, hostile_requests, statuses, talk
from hypothesis import strategies
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving_service import running, serve_config

from avs.serving.config import FetchConfig
from avs.serving.messages import ANSWERS

pytestmark = pytest.mark.timeout(600)

DECODE_TIMEOUT_S = 4.0
NUM_FILES, NUM_REQUESTS = 300, 260
ALL = pytest.mark.full
MAX_GROWTH_BYTES = 100 << 20
MAX_DECODER_BYTES = 1 << 30
CHECKS = [
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
    content_type_conformance,
]


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Iterator[str]:
    request.getfixturevalue("ray_cluster")
    config = serve_config(
        tiny_checkpoint,
        decode_timeout_s=DECODE_TIMEOUT_S,
        upload_timeout_s=2.0,
        fetch=FetchConfig(https=False, s3_prefixes=[], timeout_s=5),
    )
    with running(config) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return good_files(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def clip(good: dict[str, bytes]) -> bytes:
    return good["clip.mp4"]


@pytest.fixture(scope="module")
def masks(client: httpx.Client, clip: bytes) -> bytes:
    """What the service says of the good clip before anything else."""
    return _masks(client, clip)


def _post(client: httpx.Client, name: str, data: bytes, **options: Any) -> httpx.Response:
    return client.post("/v1/segment", files={"file": (name, data)}, params=options)


def _masks(client: httpx.Client, clip: bytes) -> bytes:
    response = _post(client, "good.mp4", clip)
    assert response.status_code == 200, response.text
    assert any(mask["objects"] for mask in response.json()["masks"])
    return response.content


@pytest.mark.parametrize("count", [50, pytest.param(NUM_FILES, marks=ALL)])
def test_hostile_files_are_refused_and_good_ones_still_segmented(
    client: httpx.Client, good: dict[str, bytes], clip: bytes, masks: bytes, count: int
) -> None:
    listener = Listener()
    formats, rates = list(ANSWERS), ("1", "4", "native")

    def send(number: int) -> tuple[str, httpx.Response]:
        name, data = hostile_file(number, good, listener.port)
        rate = rates[number % len(rates)]
        wanted = formats[number % len(formats)]
        return name, _post(client, name, data, format=wanted, masks_per_s=rate)

    seen: set[int] = set()
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, count, 50):
            for name, response in pool.map(send, range(start, start + 50)):
                check_answer(name, response)
                seen.add(response.status_code)
            assert _masks(client, clip) == masks
    assert {200, 415, 422} <= seen
    listener.close()
    assert listener.num_calls == 0


@pytest.mark.parametrize("count", [60, pytest.param(NUM_REQUESTS, marks=ALL)])
def test_malformed_requests_are_refused_and_leave_no_memory_behind(
    url: str, client: httpx.Client, clip: bytes, masks: bytes, count: int
) -> None:
    port = int(url.rpartition(":")[2])
    sent = list(hostile_requests(NUM_REQUESTS, clip))[:: NUM_REQUESTS // count]
    assert len(sent) >= count
    before = memory_bytes("Ingress"), memory_bytes("ProxyActor")
    assert all(before)

    def send(request: tuple[str, bytes]) -> tuple[str, bytes]:
        return request[0], talk(port, request[1])

    with ThreadPoolExecutor(4) as pool:
        for name, answer in pool.map(send, sent):
            assert all(s < 500 or s in (503, 504) for s in statuses(answer)), (name, answer[:500])
            assert b'"internal"' not in answer, (name, answer[:500])  # in a socket
            assert not tells_of_us(answer), (name, answer[:500])
    assert _masks(client, clip) == masks
    after = memory_bytes("Ingress"), memory_bytes("ProxyActor")
    assert max(a - b for a, b in zip(after, before, strict=True)) < MAX_GROWTH_BYTES, (
        before,
        after,
    )


def test_ray_answers_bytes_in_its_own_headers_with_nothing_but_500(url: str) -> None:
    """Its proxy reads them before any code of this service runs: nothing is told, nothing ends."""
    for name, data in bytes_in_headers_of_ray():
        answer = talk(int(url.rpartition(":")[2]), data)
        assert statuses(answer) == [500], (name, answer)
        assert answer.endswith(b"\r\n\r\nInternal Server Error")


def test_what_the_documentation_says_is_what_is_answered(
    url: str, clip: bytes, tmp_path: Path
) -> None:
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path)  # else a folder in the working one
    schema = schemathesis.openapi.from_dict(
        httpx.get(f"{url}/openapi.json", trust_env=False).json()
    )
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 9
    seen: dict[str, set[int]] = {operation.label: set() for operation in operations}
    with requests.Session() as session:
        session.trust_env = False
        for operation in operations:
            # Of a GET without parameters nothing can be wrong.
            modes = (
                list(GenerationMode) if operation.method == "post" else [GenerationMode.POSITIVE]
            )
            for mode in modes:
                _examine(operation, mode, session, url, clip, seen[operation.label])
    assert seen["POST /v1/segment"] >= {200, 415, 422}
    for label, codes in seen.items():
        # This service takes no batches, and says so.
        assert (404 if "/v1/batches" in label else 200) in codes, (label, codes)


def _examine(
    operation: Any,
    mode: GenerationMode,
    session: requests.Session,
    url: str,
    clip: bytes,
    seen: set[int],
) -> None:
    @hypothesis.settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(
        case=operation.as_strategy(generation_mode=mode), is_clip=strategies.booleans()
    )
    def examine(case: Any, is_clip: bool) -> None:
        if is_clip and isinstance(case.body, dict) and "file" in case.body:
            # Made-up bytes are no video, and made-up names no model.
            asked = {k: case.body[k] for k in ("format", "threshold") if k in case.body}
            case.body, case.query = {**asked, "file": clip}, {}
        response = case.call(base_url=url, session=session, timeout=120)
        seen.add(response.status_code)
        if response.status_code not in (503, 504):
            case.validate_response(response, checks=CHECKS)

    examine()


def test_bombs_are_refused_in_time_and_within_memory(
    client: httpx.Client, clip: bytes, masks: bytes
) -> None:
    before = memory_bytes("Decoder")
    others = memory_bytes("sandbox_child")  # of workers that earlier tests have left idle, too
    assert before
    with peak_bytes("sandbox_child") as peak:
        for name, data, code in bombs(clip):
            begun_s = time.monotonic()
            response = _post(client, name, data)
            check_answer(name, response)
            if code:
                assert response.status_code == 422, (name, response.text[:500])
                assert response.json()["error"]["code"] == code, response.text[:500]
            assert time.monotonic() - begun_s < 2 * DECODE_TIMEOUT_S, name
    assert 0 < peak[0] < others + MAX_DECODER_BYTES
    assert memory_bytes("Decoder") - before < 2 * MAX_GROWTH_BYTES
    assert _masks(client, clip) == masks


@pytest.mark.parametrize("wanted", ["npz", "overlay", "png"])
def test_pictures_may_change_their_size(client: httpx.Client, wanted: str) -> None:
    """Also between two pieces that are decoded one by one, here of five seconds."""
    video = changing_size(96, count=23)
    response = _post(client, "a.mov", video, format=wanted, masks_per_s="31")
    assert response.status_code == 200, response.text[:500]
