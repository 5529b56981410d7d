"""Buckets on a bad day: what is tried again, what is said, and what is never said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs
from botocore.retries.standard import ExponentialBackoff
from flaky_s3 import Failure, FlakyS3, flaky_s3

from avs import storage, storage_remote
from avs.errors import DataError
from avs.storage_remote import ATTEMPTS, StorageError, cut_credentials

CONTENT = bytes(range(256)) * 4000
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts, taken down instead of waited for; botocore's as attempt numbers."""
    taken: list[float] = []
    monkeypatch.setattr(storage_remote.time, "sleep", taken.append)

    def number_of(_: ExponentialBackoff, context: object) -> float:
        taken.append(-context.attempt_number)  # type: ignore[attr-defined]
        return 0.0

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", number_of)
    return taken


@pytest.fixture
def new_clients() -> Iterator[None]:
    """Clients made before and during the test, with their endpoints, are not used elsewhere."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def proxy(s3_address: str) -> Iterator[FlakyS3]:
    """One server for the module, because a client takes a second to make."""
    with flaky_s3(s3_address) as server:
        yield server
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def flaky(
    proxy: FlakyS3, s3_folder: str, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> FlakyS3:
    """The endpoint of this process is a server that fails on demand."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    # With another time-out it is another client, so it gets this endpoint.
    monkeypatch.setattr(storage_remote, "READ_TIMEOUT_S", 0.75)
    proxy.fail("")
    return proxy


@pytest.fixture
def uri(s3_folder: str, flaky: FlakyS3) -> str:
    """An object that is there."""
    name = storage.join(s3_folder, "deep/x y.bin")
    storage.write_bytes(name, CONTENT)
    return name


def _copy(uri: str) -> bytes:
    with storage.local_copy(uri) as path:
        return Path(path).read_bytes()


def _parts(uri: str) -> bytes:
    with storage.open_file(uri) as file:
        middle = len(CONTENT) // 2
        file.seek(middle)
        end = file.read()
        file.seek(0)
        return file.read(middle) + end


@pytest.mark.parametrize("read", [storage.read_bytes, _copy, _parts])
@pytest.mark.parametrize(
    "failure",
    [
        Failure.SLOW_DOWN,
        Failure.INTERNAL,
        Failure.RESET,
        Failure.CUT_BODY,
        Failure.STALLED_BODY,
    ],
)
def test_a_read_outlives_two_failures(
    uri: str, flaky: FlakyS3, failure: Failure, read: Callable[[str], bytes], waits: list[float]
) -> None:
    flaky.fail("GET", failure, failure)
    assert read(uri) == CONTENT
    assert flaky.requests.count("GET") == (4 if read is _parts else 3)
    assert waits or failure is Failure.RESET  # which aiohttp tries again at once


@pytest.mark.parametrize(
    "failure", [Failure.SLOW_DOWN, Failure.INTERNAL, Failure.RESET, Failure.LOST_ANSWER]
)
def test_writes_outlive_two_failures(
    s3_folder: str, flaky: FlakyS3, failure: Failure, tmp_path: Path
) -> None:
    uri = storage.join(s3_folder, "x")
    flaky.fail("PUT", failure, failure)
    storage.write_bytes(uri, b"1")
    assert storage.read_bytes(uri) == b"1"
    assert flaky.requests.count("PUT") == 3
    (tmp_path / "finished").write_bytes(b"2")
    flaky.fail("PUT", failure, failure)
    storage.put_file(tmp_path / "finished", uri)
    assert storage.read_bytes(uri) == b"2"


def test_the_rest_outlives_failures_too(uri: str, flaky: FlakyS3) -> None:
    folder = uri.rpartition("/")[0]
    flaky.fail("GET", Failure.SLOW_DOWN, Failure.RESET)
    assert [info.path for info in storage.list_files(folder)] == ["x y.bin"]
    flaky.fail("HEAD", Failure.RESET, Failure.RESET)
    assert storage.file_version(uri)[0] == len(CONTENT)
    flaky.fail("HEAD", Failure.INTERNAL, Failure.RESET)
    assert storage.exists(uri)
    flaky.fail("DELETE", Failure.SLOW_DOWN, Failure.RESET)
    storage.remove(uri)
    assert not storage.exists(uri)


@pytest.mark.parametrize("failure", [Failure.SLOW_DOWN, Failure.RESET, Failure.LOST_ANSWER])
def test_one_of_two_creates_although_answers_are_lost(
    s3_folder: str, flaky: FlakyS3, failure: Failure
) -> None:
    """The second try of our own create finds the object that the first one made."""
    uri = storage.join(s3_folder, "lease")
    flaky.fail("PUT", failure)
    assert storage.create_exclusive(uri, b"mine")
    flaky.fail("PUT", failure)
    assert not storage.create_exclusive(uri, b"theirs")
    assert storage.read_bytes(uri) == b"mine"


@pytest.mark.parametrize("failure", [Failure.SLOW_DOWN, Failure.INTERNAL, Failure.RESET])
def test_requests_that_keep_failing_end_with_the_name_of_the_object(
    uri: str, flaky: FlakyS3, failure: Failure, waits: list[float]
) -> None:
    flaky.fail("PUT", *[failure] * 50)
    with pytest.raises(StorageError, match=r"deep/x y\.bin: the storage failed") as error:
        storage.write_bytes(uri, b"1")
    # aiohttp sends again once by itself when a kept connection breaks
    sent = flaky.requests.count("PUT")
    assert sent == ATTEMPTS or (failure is Failure.RESET and sent <= 2 * ATTEMPTS)
    assert waits == [-1, -2, -3, -4]  # botocore's exponential back-off was asked each time
    assert isinstance(error.value, OSError)  # for the heartbeat of the lease
    assert not isinstance(error.value, DataError)  # which means that nothing is there


def test_bodies_that_keep_failing_end_after_growing_waits(
    uri: str, flaky: FlakyS3, waits: list[float]
) -> None:
    flaky.fail("GET", *[Failure.CUT_BODY] * 50)
    with pytest.raises(StorageError, match=r"deep/x y\.bin"):
        _copy(uri)
    assert flaky.requests.count("GET") == ATTEMPTS
    assert len(waits) == ATTEMPTS - 1
    for attempt, wait_s in enumerate(waits):
        longest_s = storage_remote.FIRST_WAIT_S * 2**attempt
        assert longest_s / 2 <= wait_s <= longest_s


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_denied_object_is_named_at_once(uri: str, flaky: FlakyS3, method: str) -> None:
    flaky.fail(method, *[Failure.DENIED] * 9)
    with pytest.raises(DataError, match=r"deep/x y\.bin: access is denied"):
        storage.read_bytes(uri) if method == "GET" else storage.write_bytes(uri, b"")
    assert flaky.requests.count(method) == 1


def test_a_missing_bucket_is_named(s3_folder: str, tmp_path: Path) -> None:
    uri = "s3://no-such-bucket-here/x.bin"
    (tmp_path / "x").write_bytes(b"1")
    for write in (
        lambda: storage.write_bytes(uri, b"1"),
        lambda: storage.create_exclusive(uri, b"1"),
        lambda: storage.put_file(tmp_path / "x", uri),
    ):
        with pytest.raises(DataError, match="there is no bucket no-such-bucket-here"):
            write()
    for read in (storage.read_bytes, _copy):
        with pytest.raises(DataError, match=r"no-such-bucket-here"):
            read(uri)


def test_missing_credentials_are_said(
    s3_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_clients: None
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(DataError, match=r"x: no credentials .* Set AWS_ACCESS_KEY_ID"):
        storage.write_bytes(storage.join(s3_folder, "x"), b"1")


def test_the_endpoint_of_the_environment_is_used(uri: str, flaky: FlakyS3) -> None:
    storage.read_bytes(uri)
    storage.write_bytes(uri, b"1")
    assert {"GET", "PUT"} <= set(flaky.requests)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_password_in_the_endpoint_is_refused_and_not_told(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://someone:hunter22@127.0.0.1:9")
    with pytest.raises(DataError, match=rf"^{name}=http://\*\*\*@127\.0\.0\.1:9 has") as error:
        storage.read_bytes("s3://bucket/x")
    assert "hunter22" not in str(error.value)
    storage.is_local("here")  # nothing to do with S3


def test_an_endpoint_that_is_not_there_is_named(
    s3_folder: str, monkeypatch: pytest.MonkeyPatch, waits: list[float], new_clients: None
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"data/x: the storage failed .*127\.0\.0\.1:9"):
        storage.read_bytes(storage.join(s3_folder, "x"))


@pytest.mark.parametrize("key", ["AKIAIOSFODNN7EXAMPLE", "someone"])
def test_credentials_in_an_address_are_refused_and_not_told(key: str, tmp_path: Path) -> None:
    uri = f"s3://{key}:{SECRET}@bucket/x"
    for use in (
        storage.read_bytes,
        storage.exists,
        storage.list_files,
        storage.absolute,
        lambda u: storage.write_bytes(u, b""),
        lambda u: storage.put_file(tmp_path / "x", u),
    ):
        with pytest.raises(DataError, match=r"^s3://\*\*\*@bucket/x has credentials") as error:
            use(uri)  # type: ignore[operator]
        assert SECRET not in str(error.value)
        assert key not in str(error.value)


def test_an_address_with_odd_letters_is_no_credential(place: str) -> None:
    uri = storage.join(place, "a:b@c/d:e@f.txt")
    storage.write_bytes(uri, b"1")
    assert storage.read_bytes(uri) == b"1"
    assert cut_credentials(uri) == uri


def test_credentials_are_cut_from_texts_and_configurations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    saved = {
        "root": f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/x",
        "endpoint": "https://me:pass@minio:9000/a?X-Amz-Signature=abc123&x=1",
        "note": f"ran with {SECRET} and AKIAIOSFODNN7EXAMPLE",
        "nested": [{"secret_access_key": "abc", "password": None, "epochs": 3}],
        "plain": "s3://bucket/data/a:b@c.mp4",
    }
    cut = cut_credentials(saved)
    assert cut == {
        "root": "s3://***@bucket/x",
        "endpoint": "https://***@minio:9000/a?X-Amz-Signature=***&x=1",
        "note": "ran with *** and ***",
        "nested": [{"secret_access_key": "***", "password": None, "epochs": 3}],
        "plain": saved["plain"],
    }
