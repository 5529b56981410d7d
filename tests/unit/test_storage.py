"""Files by URI: the same behaviour on this disk and in a bucket."""

from __future__ import annotations

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
import s3fs

from avs import storage
from avs.errors import DataError

NASTY = [
    "a b.txt",
    'it\'s "quoted".txt',
    "k=v,w.txt",
    "a[1].txt",
    "a*?.txt",
    "x#1.txt",
    "café é.txt",
    "-rf.txt",
    "100%.txt",
    "deep/er/x.txt",
]


def _paths(uri: str) -> list[str]:
    return [info.path for info in storage.list_files(uri)]


@pytest.mark.parametrize("name", NASTY)
def test_any_name_is_written_listed_read_copied_and_removed(place: str, name: str) -> None:
    uri = storage.join(place, name)
    storage.write_bytes(storage.join(place, "a1.txt"), b"other")
    storage.write_bytes(uri, b"content")
    assert _paths(place) == sorted(["a1.txt", name])
    assert storage.read_bytes(uri) == b"content"
    assert storage.file_version(uri)[0] == 7
    with storage.local_copy(uri) as path:
        assert Path(path).read_bytes() == b"content"
    storage.remove(uri)
    assert not storage.exists(uri)
    assert _paths(place) == ["a1.txt"]


def test_a_file_is_read_in_parts(place: str) -> None:
    uri = storage.join(place, "x.bin")
    storage.write_bytes(uri, bytes(range(100)))
    with storage.open_file(uri) as file:
        assert file.seek(-3, os.SEEK_END) == 97
        assert file.read() == bytes((97, 98, 99))
        assert file.read() == b""
        assert file.seek(10) == 10
        assert file.read(2) == bytes((10, 11))
        assert file.seek(1, os.SEEK_CUR) == 13
        assert file.read(1) == bytes((13,))


def test_a_folder_with_brackets_is_removed_with_all_it_holds_and_nothing_else(place: str) -> None:
    for folder in ("run[1]", "run1"):
        storage.write_bytes(storage.join(place, folder, "a/b.txt"), b"x")
    storage.remove(storage.join(place, "run[1]"))
    assert _paths(place) == ["run1/a/b.txt"]


def test_removing_what_is_not_there_does_nothing(place: str) -> None:
    storage.remove(storage.join(place, "nothing"))


def test_a_write_replaces_the_old_content(place: str) -> None:
    uri = storage.join(place, "x.json")
    storage.write_json(uri, {"a": "é"})
    before = storage.file_version(uri)
    storage.write_json(uri, {"a": [1, 2]})
    assert storage.read_json(uri) == {"a": [1, 2]}
    assert storage.file_version(uri) != before


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    uri = str(tmp_path / "big.bin")
    contents = [bytes([k]) * 2_000_000 for k in (1, 2)]
    storage.write_bytes(uri, contents[0])
    stop = threading.Event()
    wrong = []

    def read() -> None:
        while not stop.is_set():
            data = Path(uri).read_bytes()
            if data not in contents:
                wrong.append(len(data))

    thread = threading.Thread(target=read)
    thread.start()
    for k in range(30):
        storage.write_bytes(uri, contents[k % 2])
    stop.set()
    thread.join()
    assert wrong == []


def test_a_write_that_fails_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "x")
    storage.write_bytes(uri, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert _paths(str(tmp_path)) == ["x"]


def test_what_a_killed_writer_left_is_hidden_and_removed(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "a/x.txt"), b"whole")
    left = storage.temporary_name(tmp_path / "a/x.txt")
    left.write_bytes(b"par")
    assert _paths(str(tmp_path)) == ["a/x.txt"]
    storage.remove_temporaries(str(tmp_path))
    assert not left.exists()
    assert (tmp_path / "a/x.txt").exists()


def test_the_temporary_of_a_long_name_fits_a_file_system(tmp_path: Path) -> None:
    name = "x" * 240
    storage.write_bytes(str(tmp_path / name), b"1")
    assert _paths(str(tmp_path)) == [name]


def test_one_of_many_creates(place: str) -> None:
    threads = 4
    barrier = threading.Barrier(threads)

    def create(uri: str, number: int) -> bool:
        barrier.wait()
        return storage.create_exclusive(uri, b"%d" % number)

    with ThreadPoolExecutor(threads) as pool:
        for turn in range(40 if storage.is_local(place) else 3):
            uri = storage.join(place, f"once-{turn}")
            made = list(pool.map(create, [uri] * threads, range(threads)))
            assert sum(made) == 1
            assert storage.read_bytes(uri) == b"%d" % made.index(True)
            assert not storage.create_exclusive(uri, b"late")
            assert _paths(place)[-1].startswith("once-")
            assert len(_paths(place)) == turn + 1


def test_a_finished_file_is_put_in_place(place: str, tmp_path: Path) -> None:
    local = tmp_path / "finished"
    local.write_bytes(b"data")
    storage.put_file(local, storage.join(place, "deep/x.bin"))
    assert storage.read_bytes(storage.join(place, "deep/x.bin")) == b"data"


def test_a_finished_file_on_another_disk_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "finished"
    local.write_bytes(b"data")
    rename = Path.replace

    def other_disk(self: Path, target: str) -> Path:
        if self == local:
            raise OSError(errno.EXDEV, "cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", other_disk)
    storage.put_file(local, str(tmp_path / "out/x.bin"))
    assert _paths(str(tmp_path)) == ["out/x.bin"]
    assert (tmp_path / "out/x.bin").read_bytes() == b"data"


def test_a_listing_is_sorted_below_the_folder_and_not_beside_it(place: str) -> None:
    for name in ("b/2", "b/10", "a", "c"):
        storage.write_bytes(storage.join(place, name), name.encode())
    storage.write_bytes(place + "-more/x", b"x")
    found = storage.list_files(place)
    assert [f.path for f in found] == ["a", "b/10", "b/2", "c"]
    assert [f.size_bytes for f in found] == [1, 4, 3, 1]
    versions = [storage.file_version(storage.join(place, f.path)) for f in found]
    assert versions == [(f.size_bytes, f.version) for f in found]


def test_a_bucket_is_listed_page_by_page(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(7):
        storage.write_bytes(f"{s3_folder}/{k}", b"x" * k)
    asked = []
    send = s3fs.S3FileSystem.call_s3

    def in_small_pages(self: object, method: str, **options: object) -> object:
        asked.append(options)
        return send(self, method, MaxKeys=3, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", in_small_pages)
    files = storage.iter_files(s3_folder)
    assert next(files).path == "0"
    assert len(asked) == 1  # what comes later has not been asked for
    assert [(info.path, info.size_bytes) for info in files] == [(str(k), k) for k in range(1, 7)]
    assert len(asked) == 3


def test_a_folder_is_told_from_a_file_and_from_nothing(place: str) -> None:
    storage.make_folder(place)
    storage.write_bytes(storage.join(place, "a/x"), b"1")
    assert storage.is_folder(storage.join(place, "a"))
    assert storage.exists(storage.join(place, "a"))
    assert not storage.is_folder(storage.join(place, "a/x"))
    assert not storage.exists(storage.join(place, "b"))
    assert not storage.is_folder(storage.join(place, "b"))


def test_what_another_process_writes_to_a_listed_bucket_is_seen(
    s3_folder: str, s3_address: str
) -> None:
    bucket, prefix = s3_folder.removeprefix("s3://").split("/")
    storage.write_bytes(storage.join(s3_folder, "a"), b"1")
    assert _paths(s3_folder) == ["a"]
    other = boto3.client("s3", endpoint_url=s3_address)
    other.put_object(Bucket=bucket, Key=f"{prefix}/b", Body=b"22")
    other.put_object(Bucket=bucket, Key=f"{prefix}/a", Body=b"333")
    for marker in (f"{prefix}/", f"{prefix}/folder/"):  # as S3 consoles make them
        other.put_object(Bucket=bucket, Key=marker, Body=b"")
    assert storage.exists(storage.join(s3_folder, "b"))
    assert storage.file_version(storage.join(s3_folder, "a"))[0] == 3
    assert _paths(s3_folder) == ["a", "b"]
    other.delete_object(Bucket=bucket, Key=f"{prefix}/a")
    assert not storage.exists(storage.join(s3_folder, "a"))
    other.close()


@pytest.mark.parametrize(
    "read", [storage.read_bytes, storage.read_json, storage.file_version, storage.open_file]
)
def test_a_missing_file_is_named(place: str, read: object) -> None:
    uri = storage.join(place, "nothing.json")
    with pytest.raises(DataError, match=r"nothing\.json does not exist"):
        read(uri)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"nothing\.json does not exist"), storage.local_copy(uri):
        pass


@pytest.mark.parametrize("data", [b"{", b"", b"\xff\xfe"])
def test_a_broken_json_is_named(place: str, data: bytes) -> None:
    uri = storage.join(place, "x.json")
    storage.write_bytes(uri, data)
    with pytest.raises(DataError, match=r"x\.json is not valid JSON"):
        storage.read_json(uri)


def test_a_download_is_removed_afterwards(s3_folder: str) -> None:
    uri = storage.join(s3_folder, "v.mp4")
    storage.write_bytes(uri, b"1")
    with storage.local_copy(uri) as path:
        assert path.endswith(".mp4")
    assert not Path(path).parent.exists()


def test_json_keeps_letters_as_they_are(tmp_path: Path) -> None:
    storage.write_json(str(tmp_path / "x.json"), {"name": "café"})
    assert "café" in (tmp_path / "x.json").read_text()
    assert json.loads((tmp_path / "x.json").read_text()) == {"name": "café"}


def test_json_keeps_odd_bytes_of_a_name(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    storage.write_json(str(tmp_path / "x.json"), {"name": name})
    assert storage.read_json(str(tmp_path / "x.json")) == {"name": name}


@pytest.mark.parametrize("uri", ["gs://b/x", "http://host/x", "memory://x"])
def test_an_unknown_scheme_names_the_known_ones(uri: str) -> None:
    with pytest.raises(DataError, match=r"is not known\. Known: a local path, s3://"):
        storage.read_bytes(uri)


def test_parts_are_joined_with_single_slashes() -> None:
    assert storage.join("s3://b/p/", "/a/", "c") == "s3://b/p/a/c"
    assert storage.join("/x", "a b") == "/x/a b"


def test_local_paths_become_absolute_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("-a/b") == str(tmp_path / "-a/b")
    assert storage.absolute(f"file://{tmp_path}/c") == str(tmp_path / "c")
    assert storage.absolute("s3://b/p/") == "s3://b/p"
    assert storage.is_local("x")
    assert not storage.is_local("s3://b/x")
