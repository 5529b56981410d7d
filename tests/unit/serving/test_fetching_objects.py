"""What is fetched from S3: objects below the allowed prefixes, and nothing is asked of others."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from made_up_internet import VIDEO, refusal

from avs import storage, storage_remote
from avs.errors import ConfigError
from avs.serving.fetching import FetchLimits, fetch_url
from avs.serving.messages import ApiError

OUTSIDE, NOT_ONE = (403, "forbidden_url"), (422, "bad_url")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


def s3(uri: str, target: Path, **changes: Any) -> str:
    values: dict[str, Any] = {"max_bytes": 1 << 22, "timeout_s": 20.0, **changes}
    return asyncio.run(fetch_url(uri, target, limits=FetchLimits(**values)))


def test_an_object_is_fetched(s3_folder: str, target: Path) -> None:
    storage.write_bytes(f"{s3_folder}/a/b%20c ü.mp4", VIDEO)
    uri = f"S3{s3_folder[2:]}/a/b%20c ü.mp4"
    assert s3(uri, target, s3_prefixes=(f"{s3_folder}/",)) == "b%20c ü.mp4"
    assert target.read_bytes() == VIDEO


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/database/a.mp4", OUTSIDE),
        ("s3://bucket/other/a.mp4", OUTSIDE),
        ("s3://bucket/a.mp4", OUTSIDE),
        ("s3://bucket/DATA/a.mp4", OUTSIDE),
        ("s3://other/data/a.mp4", OUTSIDE),
        ("s3://key:secret@bucket/data/a.mp4", OUTSIDE),
        ("s3://bucket/data/../other/a.mp4", NOT_ONE),
        ("s3://bucket/data/./a.mp4", NOT_ONE),
        ("s3://bucket/data//a.mp4", NOT_ONE),
        ("s3://bucket/data/", NOT_ONE),
        ("s3:///data/a.mp4", NOT_ONE),
        ("s3://bucket/data/*.mp4", NOT_ONE),
        ("s3://bucket/data/[a].mp4", NOT_ONE),
        ("s3://bucket/data/a.mp4?versionId=1", NOT_ONE),
        ("s3://bucket/data/a.mp4#t", NOT_ONE),
        ("s3://bucket/data\\..\\a.mp4", NOT_ONE),
        ("s3://bucket/data/a\n.mp4", NOT_ONE),
        ("s3://bucket/data/" + "a" * 2048, NOT_ONE),
        ("s3:/bucket/data/a.mp4", NOT_ONE),
        ("s3a://bucket/data/a.mp4", NOT_ONE),
    ],
)
def test_objects_elsewhere_are_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, target: Path, uri: str, expected: tuple[int, str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(storage, "file_version", asked.append)
    monkeypatch.setattr(storage, "open_file", asked.append)
    with pytest.raises(ApiError) as caught:
        s3(uri, target, s3_prefixes=("s3://bucket/data/",))
    assert refusal(caught) == expected
    assert asked == []
    assert not target.exists()


def test_without_prefixes_s3_is_closed(target: Path) -> None:
    with pytest.raises(ApiError) as caught:
        s3("s3://bucket/data/a.mp4", target)
    assert refusal(caught) == OUTSIDE


@pytest.mark.parametrize("prefix", ["", "s3://", "s3:///", "s3://bucket", "s3://b/data", "/b/"])
def test_a_prefix_that_would_open_too_much_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="s3_prefixes"):
        FetchLimits(max_bytes=1, timeout_s=1, s3_prefixes=(prefix,))


def test_a_large_object_is_not_read(
    s3_folder: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{s3_folder}/a.mp4", b"x" * 1001)
    opened: list[str] = []
    monkeypatch.setattr(storage, "open_file", opened.append)
    with pytest.raises(ApiError) as caught:
        s3(f"{s3_folder}/a.mp4", target, s3_prefixes=(f"{s3_folder}/",), max_bytes=1000)
    assert refusal(caught) == (413, "too_large")
    assert opened == []


def test_an_object_that_grew_meanwhile_is_counted(
    s3_folder: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{s3_folder}/a.mp4", b"x" * 1001)
    monkeypatch.setattr(storage, "file_version", lambda _: (1, "before"))
    with pytest.raises(ApiError) as caught:
        s3(f"{s3_folder}/a.mp4", target, s3_prefixes=(f"{s3_folder}/",), max_bytes=1000)
    assert refusal(caught) == (413, "too_large")
    assert not target.exists()


def test_an_object_that_is_not_there_is_told(s3_folder: str, target: Path) -> None:
    for uri in (f"{s3_folder}/a.mp4", "s3://no-such-bucket/a.mp4"):
        with pytest.raises(ApiError) as caught:
            s3(uri, target, s3_prefixes=(f"{s3_folder}/", "s3://no-such-bucket/"))
        assert refusal(caught) == (422, "unreachable")
        assert not target.exists()


def test_why_the_storage_fails_stays_inside(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise storage_remote.StorageError("could not connect to http://10.0.0.9:9000")

    monkeypatch.setattr(storage, "file_version", fail)
    with pytest.raises(ApiError) as caught:
        s3("s3://bucket/a.mp4", target, s3_prefixes=("s3://bucket/",))
    assert refusal(caught) == (422, "unreachable")
    assert "10.0.0.9" not in caught.value.message


def test_a_storage_that_hangs_ends_and_blocks_nobody(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(storage, "file_version", lambda _: goes_on.wait(20))
    limits = FetchLimits(max_bytes=1, timeout_s=0.3, s3_prefixes=("s3://bucket/",))

    async def race() -> int:
        fetch = asyncio.ensure_future(fetch_url("s3://bucket/a.mp4", target, limits=limits))
        num_ticks = 0
        while not fetch.done():
            await asyncio.sleep(0.01)
            num_ticks += 1
        goes_on.set()
        with pytest.raises(ApiError) as caught:
            await fetch
        assert refusal(caught) == (504, "fetch_timeout")
        return num_ticks

    assert asyncio.run(race()) > 5
    assert not target.exists()
