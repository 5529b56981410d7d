"""Uploads that lie somewhere for a while: in a folder or a bucket, and in the end nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from avs import storage
from avs.serving.scratch import Scratch, default_scratch


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    path = tmp_path / "received"
    path.write_bytes(b"video bytes")
    return path


def test_an_upload_is_moved_there_and_removed(place: str, upload: Path) -> None:
    scratch = Scratch(place)
    uri = scratch.put(upload)
    assert uri.startswith(f"{scratch.uri}/")
    assert storage.read_bytes(uri) == b"video bytes"
    with storage.local_copy(uri) as path:
        assert Path(path).read_bytes() == b"video bytes"
    scratch.remove(uri)
    assert not storage.exists(uri)
    scratch.remove(uri)  # it is gone already


def test_every_upload_has_a_name_of_its_own(place: str, upload: Path) -> None:
    scratch = Scratch(place)
    uris = []
    for data in (b"first", b"second"):
        upload.write_bytes(data)
        uris.append(scratch.put(upload))
    assert [storage.read_bytes(uri) for uri in uris] == [b"first", b"second"]
    scratch.remove(uris[0])
    assert storage.read_bytes(uris[1]) == b"second"


def test_clearing_removes_what_was_left_and_nothing_else(place: str, upload: Path) -> None:
    storage.write_bytes(storage.join(place, "mine.txt"), b"kept")
    scratch = Scratch(place)
    scratch.clear()  # there is nothing yet
    uris = []
    for _ in range(3):
        upload.write_bytes(b"left")
        uris.append(scratch.put(upload))
    Scratch(place).clear()
    assert not any(storage.exists(uri) for uri in uris)
    assert storage.read_bytes(storage.join(place, "mine.txt")) == b"kept"
    upload.write_bytes(b"next")
    assert storage.read_bytes(scratch.put(upload)) == b"next"


def test_a_folder_is_there_for_a_while(place: str) -> None:
    scratch = Scratch(place)
    with scratch.folder() as first, scratch.folder() as second:
        assert first != second
        assert list(first.iterdir()) == []
        (first / "download").write_bytes(b"x")
    assert not first.exists()
    assert not second.exists()
    with pytest.raises(IsADirectoryError), scratch.folder() as folder:
        folder.write_bytes(b"x")
    assert not folder.exists()


def test_a_download_is_moved_and_not_copied_where_scratch_is_local(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path))
    with scratch.folder() as folder:
        assert folder.is_relative_to(scratch.uri)
        (folder / "download").write_bytes(b"large")
        inode = (folder / "download").stat().st_ino
        uri = scratch.put(folder / "download")
        assert Path(uri).stat().st_ino == inode
        assert not (folder / "download").exists()
    assert Path(uri).read_bytes() == b"large"


def test_a_relative_folder_is_found_from_elsewhere(
    tmp_path: Path, upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = Scratch("here").put(upload)
    monkeypatch.chdir("/")
    assert storage.read_bytes(uri) == b"video bytes"


def test_uploads_lie_in_the_temporary_folder_unless_told() -> None:
    assert storage.is_local(default_scratch())
    assert Path(default_scratch()).is_dir()
